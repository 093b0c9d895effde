// Theme, keyboard, printing, and the order in which the parts of the page are started.
const isDark = () => document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
const setTheme = (name) => { document.documentElement.dataset.theme = name; figures.again(); };
const theme = () => setTheme(isDark() ? "light" : "dark");

// A printed page has all sentences, tables and figures in light colours, not only the selected ones.
let beforePrint = null, unfolded = [], drawings = {};
// The drawing is part of the page if its file was there when the page was written; a print begins before an image is loaded.
const drawingOf = (item) => drawings[item.id] ? new DOMParser().parseFromString(drawings[item.id], "image/svg+xml").documentElement : make("img", { src: `exhibits/${item.id}.svg`, alt: item.title });
addEventListener("beforeprint", () => {
  beforePrint = isDark() ? "dark" : "light";
  if (beforePrint === "dark") setTheme("light");
  const place = byId("print");
  place.replaceChildren();
  unfolded = [...document.querySelectorAll("#verdict details:not([open])")];
  for (const one of unfolded) one.open = true;
  for (const item of exhibits.filter((one) => one.kind === "table")) place.append(make("section", {}, caption(item), ...sheetsOf(item)));
  for (const item of exhibits.filter((one) => one.kind === "figure")) place.append(make("section", {}, caption(item), drawingOf(item)));
});
addEventListener("afterprint", () => { byId("print").replaceChildren(); for (const one of unfolded) one.open = false; if (beforePrint === "dark") setTheme("dark"); });

const tables = tabs(byId("table-tabs"), byId("table"), "table", exhibits.filter((item) => item.kind === "table"), showTable);
redraw.push(tables.again);
drawSwitches();
drawDots();
drawAbsent();
if (!exhibits.some((item) => item.kind === "figure")) byId("figures").hidden = true;
if (data.empty) byId("episodes").hidden = true;
const linkTo = (id) => document.querySelector(`nav a[href="#${id}"]`);
if (exhibits[0]?.kind === "figure") for (const of of [byId, linkTo]) of("tables").before(of("figures"));  // if the first exhibit is a figure, the figures come before the tables
for (const one of document.querySelectorAll("main > section")) linkTo(one.id).hidden = one.hidden;

const goTo = (id) => byId(id)?.scrollIntoView();
for (const one of document.querySelectorAll("nav a")) one.addEventListener("click", (event) => { event.preventDefault(); goTo(one.hash.slice(1)); });
byId("copy-link").addEventListener("click", (event) => copy(link.address(), event.target));
byId("theme").addEventListener("click", theme);
byId("keys").addEventListener("click", () => byId("help").showModal());
byId("list").addEventListener("scroll", drawList);
addEventListener("resize", delayed(() => { if (state.index) drawList(); drawDots(); }, 100));
addEventListener("hashchange", () => {
  link.read();
  redraw.forEach((one) => one());
  if (state.index) { readFilters(); refilter().then(openLinked); }
  goTo(link.get("at"));
});

const nextView = () => { if (views.length > 1) show("view", views[(views.indexOf(shown.view) + 1) % views.length]); };
addEventListener("keydown", (event) => {
  const at = document.activeElement, typing = (at.tagName === "INPUT" && at.type !== "radio" && at.type !== "checkbox") || at.tagName === "SELECT" || at.tagName === "TEXTAREA";
  if (event.key === "Escape") { at.blur(); return; }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  const next = () => open(state.selected + 1), last = () => open(state.selected - 1);
  const act = { j: next, k: last, "/": () => { byId("filters").elements.text?.focus(); goTo("episodes"); }, "[": () => figures.move(-1), "]": () => figures.move(1), "{": () => tables.move(-1), "}": () => tables.move(1),
    g: nextView, v: () => show("all", shown.minor ? "" : "1"), c: () => copy(link.address(), byId("copy-link")), t: theme, "?": () => byId("help").showModal(),
    ...(at === byId("list") ? { ArrowDown: next, ArrowUp: last } : {}) }[event.key];
  if (act) { event.preventDefault(); act(); }
});

const readEpisodes = async () => {
  state.index = JSON.parse(await unpack(byId("index").textContent));
  state.n = state.index.columns.arm.length;
  buildFilters();
  const episode = link.get("episode");
  const found = refilter().then(() => { if (episode) { link.set("episode", episode); openLinked(); } });
  if (!link.get("text")) await found; // the figures do not wait for a text search, which reads every shard
};
const painted = new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
// The list of episodes comes first: starting plotly takes longer than reading the index of 50,000 episodes.
(data.empty ? painted : painted.then(readEpisodes).catch((error) => { byId("found").textContent = `The episodes could not be read (${error.message}); the raw files are beside this page.`; })
).then(() => byId("drawings").textContent && unpack(byId("drawings").textContent)).then((text) => { if (text) drawings = JSON.parse(text); }).then(() => unpack(byId("plotly").textContent)).then(startFigures).catch((error) => { byId("figure").textContent = `The figures could not be drawn (${error.message}); their files are in exhibits/.`;
}).then(() => { goTo(link.get("at")); document.body.dataset.ready = "true"; });
