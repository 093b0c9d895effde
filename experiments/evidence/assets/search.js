// Filters and search of episodes: the page holds the columns to filter by; the texts are loaded in shards when they are needed.
const state = { index: null, n: 0, found: [], selected: -1, shards: new Map(), run: 0 };
const FILTERS = ["arm", "seed", "mode", "transition", "verdict", "text", "tokens", "reward", "sort"];
const SORTS = { "longest first": ["tokens", -1], "shortest first": ["tokens", 1], "highest reward first": ["reward", -1], "lowest reward first": ["reward", 1] };

const waiting = new Map();
function shard(number, text) { waiting.get(number)?.(text); }  // called by the scripts beside the page
const loadShard = (number) => {
  if (!state.shards.has(number)) {
    const held = byId(`shard-${number}`);
    const text = held ? Promise.resolve(held.textContent) : new Promise((resolve, reject) => {
      waiting.set(number, resolve);
      const beside = decodeURI(location.pathname.split("/").pop() || "report.html").replace(/\.html$/, "_episodes");
      document.head.append(make("script", { src: `${beside}/${number}.js`, onerror: () => reject(new Error(`${beside}/${number}.js is not beside the page`)) }));
    });
    state.shards.set(number, text.then(unpack).then(JSON.parse));
    state.shards.get(number).catch(() => state.shards.delete(number));
  }
  return state.shards.get(number);
};
const shardOf = (i) => {
  const starts = state.index.starts;
  let low = 0, high = starts.length - 1;
  while (low < high) { const middle = (low + high + 1) >> 1; if (starts[middle] <= i) low = middle; else high = middle - 1; }
  return low;
};
const bodyOf = async (i) => { const k = shardOf(i); return (await loadShard(k))[i - state.index.starts[k]]; };

const PATHS = { "01": "i->c", "10": "c->i", "11": "c->c", "00": "i->i", "1": "right", "0": "wrong" };
const transition = (i) => PATHS[state.index.columns.path[i]];
const placeOf = (i) => {
  const { columns, places, modes } = state.index, file = modes[columns.mode[i]] === "training" ? "episodes" : "rows";
  return `${places[`${columns.arm[i]}/${columns.seed[i]}`]}/${file}.jsonl:${columns.line[i]}`;
};

const buildFilters = () => {
  const p = state.index, c = p.columns, kinds = [...new Set(c.path)].map((path) => PATHS[path]);
  // A changed filter may hide the selected episode, so the link no longer names one.
  const changed = () => { link.set("episode", ""); return refilter(); };
  const choice = (name, label, options, any = "any") => make("label", {}, label, make("select", { name, onchange: changed }, make("option", { value: "" }, any), ...options.map((text) => make("option", { value: text }, text))));
  const range = (name, label, hint) => make("label", {}, label, make("input", { name, size: 8, placeholder: hint, title: "such as >50, <=3, 10-20 or 1", oninput: delayed(changed, 150) }));
  byId("filters").append(
    choice("arm", "arm", p.arms), choice("seed", "seed", [...new Set(c.seed)].sort((a, b) => a - b)), choice("mode", "episodes", p.modes),
    choice("transition", kinds.some((one) => one.includes("->")) ? "transition" : "answer", ["i->c", "c->i", "c->c", "i->i", "right", "wrong"].filter((one) => kinds.includes(one))),
    choice("verdict", "last verdict", p.verdicts), range("tokens", "length", "tokens, >50"), range("reward", "reward", "last, >=1"), choice("sort", "order", Object.keys(SORTS), "as in the files"),
    make("label", {}, "text", make("input", { type: "search", name: "text", placeholder: "in task or attempts", oninput: delayed(changed, 150) })),
    make("button", { type: "button", onclick: () => { byId("filters").reset(); changed(); } }, "show all"));
  readFilters();
};
const readFilters = () => { for (const name of FILTERS) byId("filters").elements[name].value = link.get(name) ?? ""; };

// Parses a condition such as ">50", "<=3", "10-20" or "1"; an invalid one matches every value, and the field is marked as invalid.
const within = (field) => {
  const text = field.value.trim(), one = /^(>=|<=|>|<|=)?\s*(-?[\d.]+)$/.exec(text), two = /^(-?[\d.]+)\s*-\s*(-?[\d.]+)$/.exec(text);
  field.setCustomValidity(text && !one && !two ? "such as >50, <=3, 10-20 or 1" : "");
  field.setAttribute("aria-invalid", String(!field.validity.valid));
  if (two) return (value) => value >= Number(two[1]) && value <= Number(two[2]);
  const limit = one ? Number(one[2]) : 0;
  return one ? { ">": (v) => v > limit, "<": (v) => v < limit, ">=": (v) => v >= limit, "<=": (v) => v <= limit }[one[1]] ?? ((v) => v === limit) : () => true;
};

const filtered = () => {
  const fields = byId("filters").elements, p = state.index, c = p.columns, get = (name) => fields[name].value;
  const tests = [], same = (column, value) => { if (value !== undefined) tests.push((i) => column[i] === value); };
  for (const [name, names] of [["arm", p.arms], ["mode", p.modes], ["verdict", p.verdicts]]) same(c[name], get(name) === "" ? undefined : names.indexOf(get(name)));
  same(c.seed, get("seed") === "" ? undefined : Number(get("seed")));
  same(c.path, Object.keys(PATHS).find((path) => PATHS[path] === get("transition")));
  for (const name of ["tokens", "reward"]) {
    const fits = within(fields[name]);
    if (get(name)) tests.push((i) => fits(c[name][i]));
  }
  const found = [];
  for (let i = 0; i < state.n; i++) if (tests.every((test) => test(i))) found.push(i);
  if (SORTS[get("sort")]) { const [name, sign] = SORTS[get("sort")]; found.sort((a, b) => sign * (c[name][a] - c[name][b]) || a - b); }
  return found;
};
// Searches episodes whose task or attempts contain a text. Shards are read one after the other; results so far are shown in between.
const holding = async (text, among, run) => {
  const p = state.index, needle = text.toLowerCase(), tasks = p.tasks.map((task) => task.join("\n").toLowerCase().includes(needle));
  const wanted = [...new Set(among.map(shardOf))].sort((a, b) => a - b), hit = new Set(among.filter((i) => tasks[p.columns.task[i]]));
  const kept = () => among.filter((i) => hit.has(i));
  let done = 0;
  for (const k of wanted) {
    const bodies = await loadShard(k);
    if (run !== state.run) return;
    const start = p.starts[k];
    bodies.forEach((body, j) => { if (body[1].some((one) => one.toLowerCase().includes(needle))) hit.add(start + j); });
    if (++done % 8 === 0) showFound(kept(), `searched ${done} of ${counted(wanted.length, "part")}; `);
  }
  showFound(kept());
};
const showFound = (found, more = "") => {
  state.found = found;
  byId("spacer").style.height = `${found.length * ITEM}px`;
  byId("found").textContent = `${found.length.toLocaleString("en")} of ${counted(state.n, "episode")} on this page; ${more}${state.index.note}`;
  drawList();
};
function refilter() {
  const run = ++state.run, fields = byId("filters").elements, text = fields.text.value, found = filtered();
  for (const name of FILTERS) link.set(name, fields[name].value);
  state.selected = -1;
  byId("list").scrollTop = 0;
  byId("detail").replaceChildren(make("p", { class: "caption" }, "Select an episode: click on it, or press j or k."));
  if (!text) { showFound(found); return Promise.resolve(); }
  return holding(text, found, run).catch((error) => { byId("found").textContent = `The texts cannot be searched: ${error.message}.`; });
}
