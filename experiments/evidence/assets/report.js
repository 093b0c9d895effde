"use strict";
const byId = (id) => document.getElementById(id);
const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
};
const exhibits = JSON.parse(byId("exhibits").textContent);

// ---------------------------------------------------------------- tables

const tabs = (place, items, show) => {
  const buttons = items.map((item, i) => make("button", {
    type: "button", role: "tab", "aria-selected": "false", class: item.kind === "absent" ? "absent" : null,
    title: item.title, onclick: () => select(i),
  }, `${item.title} (${item.id})`));
  let current = 0;
  const select = (i) => {
    current = (i + items.length) % items.length;
    buttons.forEach((button, k) => button.setAttribute("aria-selected", String(k === current)));
    show(items[current]);
  };
  place.append(...buttons);
  if (items.length) select(0);
  return { move: (by) => select(current + by) };
};

const caption = (item) => make("p", { class: "caption" }, make("b", {}, `${item.title} (${item.id}). `), item.caption || "");
const absent = (item) => make("p", { class: "caption" }, `${item.title} (${item.id}) is not here: ${item.reason}`);

const showTable = (item) => {
  const place = byId("table");
  place.replaceChildren();
  if (item.kind === "absent") { place.append(absent(item)); return; }
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...item.header.map((name) => make("th", {}, name)))));
  const body = make("tbody");
  for (const row of item.rows) {
    body.append(make("tr", {}, ...row.map((text) => {
      const [first, ...rest] = text.split("\n");
      const cell = make("td", { class: text.length > 60 ? "words" : null }, first);
      if (rest.length) cell.append("\n", make("small", {}, rest.join("\n")));
      return cell;
    })));
  }
  table.append(body);
  place.append(caption(item), make("div", { class: "scroll" }, table),
    make("p", { class: "caption" }, "Files: ", make("a", { href: `exhibits/${item.id}.csv` }, "CSV"), ", ",
      make("a", { href: `exhibits/${item.id}.md` }, "Markdown")));
};

// ---------------------------------------------------------------- figures

const hidden = new Set();
const number = (x) => Math.abs(x) >= 1000 ? Math.round(x).toLocaleString("en") : String(+x.toPrecision(4));
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const DASH_TO_BORDER = { solid: "solid", dot: "dotted" };

const themed = (layout) => {
  const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--soft"), linecolor: colour("--line"), automargin: true, title: { standoff: 12 } };
  return { ...layout, showlegend: false, hovermode: "closest", margin: { l: 60, r: 15, t: layout.title.text ? 40 : 15, b: 50 },
    template: { layout: { paper_bgcolor: colour("--bg"), plot_bgcolor: colour("--bg"), font: { color: colour("--fg"), size: 12 }, xaxis: axis, yaxis: axis,
      hoverlabel: { bgcolor: colour("--panel"), font: { color: colour("--fg") } } } } };
};

const showFigure = (item) => {
  const place = byId("figure"), legend = byId("legend");
  for (const old of place.querySelectorAll(".panel")) Plotly.purge(old);
  place.replaceChildren(); legend.replaceChildren();
  if (item.kind === "absent") { place.append(absent(item)); return; }
  for (const [name, [ink, dash]] of Object.entries(item.looks)) legend.append(make("button", {
    type: "button", "aria-pressed": String(!hidden.has(name)), title: "show or hide", onclick: () => { hidden.has(name) ? hidden.delete(name) : hidden.add(name); showFigure(item); },
  }, make("i", { class: "key", style: `border-top: 3px ${DASH_TO_BORDER[dash] ?? "dashed"} ${ink}` }), name));
  const panels = make("div", { class: "panels" });
  place.append(caption(item), panels, make("p", { class: "caption" }, "Files: ", make("a", { href: `exhibits/${item.id}.svg` }, "SVG"), ", ",
    make("a", { href: `exhibits/${item.id}.png` }, "PNG")));
  const nodes = item.panels.map(({ layout: { title, xaxis, yaxis } }) => make("div", { class: "panel", role: "img", "aria-label": `${title.text} ${yaxis.title.text} over ${xaxis.title.text}` }));
  panels.append(...nodes);  // all of them, so that each knows its width before it is drawn
  item.panels.forEach(({ data, layout }, i) => Plotly.newPlot(nodes[i], data.filter((one) => !hidden.has(one.name)), themed(layout), { displayModeBar: false, responsive: true }));
};

// ---------------------------------------------------------------- episodes

const ITEM = 28, TRANSITIONS = ["i->c", "c->i", "c->c", "i->i"];
const state = { all: [], found: [], selected: -1, packed: null, wanted: {} };
const unpack = async (id) => {
  const bytes = Uint8Array.from(atob(byId(id).textContent.trim()), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};
// One episode: [arm, seed, mode, task, line, verdicts, texts, answers, rewards, n_tokens, extra]
const FIELD = { arm: 0, seed: 1, mode: 2, task: 3, line: 4, verdicts: 5, texts: 6, answers: 7, rewards: 8, tokens: 9, extra: 10 };
const right = (episode, k) => state.packed.verdicts[episode[FIELD.verdicts].at(k)] === "correct";
const transition = (episode) => `${right(episode, 0) ? "c" : "i"}->${right(episode, -1) ? "c" : "i"}`;

const choice = (name, label, options) => make("label", {}, label, make("select", { name, onchange: refilter },
  make("option", { value: "" }, "any"), ...options.map(([value, text]) => make("option", { value }, text))));

const buildFilters = () => {
  const p = state.packed, seeds = [...new Set(state.all.map((e) => e[FIELD.seed]))].sort((a, b) => a - b);
  byId("filters").append(
    choice("arm", "arm", p.arms.map((name, i) => [i, name])), choice("seed", "seed", seeds.map((s) => [s, s])),
    choice("mode", "episodes", p.modes.map((name, i) => [i, name])), choice("transition", "transition", TRANSITIONS.map((t) => [t, t])),
    choice("verdict", "last verdict", p.verdicts.map((name, i) => [i, name])),
    make("label", {}, "text", make("input", { type: "search", name: "text", placeholder: "in task or attempts", oninput: delayed(refilter, 150) })));
};
const delayed = (run, ms) => { let timer; return () => { clearTimeout(timer); timer = setTimeout(run, ms); }; };

function refilter() {
  const get = (name) => byId("filters").elements[name].value, text = get("text").toLowerCase();
  const [arm, seed, mode, verdict] = ["arm", "seed", "mode", "verdict"].map((name) => get(name) === "" ? null : Number(get(name)));
  const wanted = get("transition"), p = state.packed;
  state.found = state.all.filter((e) => (arm === null || e[0] === arm) && (seed === null || e[1] === seed) && (mode === null || e[2] === mode)
    && (verdict === null || e[FIELD.verdicts].at(-1) === verdict) && (!wanted || transition(e) === wanted)
    && (!text || e[FIELD.texts].some((t) => t.toLowerCase().includes(text)) || p.tasks[e[3]].join("\n").toLowerCase().includes(text)));
  state.selected = -1;
  byId("spacer").style.height = `${state.found.length * ITEM}px`;
  byId("list").scrollTop = 0;
  byId("found").textContent = `${state.found.length.toLocaleString("en")} of ${state.all.length.toLocaleString("en")} episodes on this page; ${p.note}`;
  drawList();
  byId("detail").replaceChildren(make("p", { class: "caption" }, state.found.length ? "Choose an episode: click, or j and k." : "No episode fits these filters."));
}

const drawList = () => {
  const list = byId("list"), first = Math.max(0, Math.floor(list.scrollTop / ITEM) - 5);
  const last = Math.min(state.found.length, first + Math.ceil(list.clientHeight / ITEM) + 10);
  const items = [];
  for (let i = first; i < last; i++) {
    const e = state.found[i], p = state.packed;
    items.push(make("div", { class: "item", role: "option", id: `item-${i}`, style: `top:${i * ITEM}px`, "aria-selected": String(i === state.selected), onclick: () => open(i) },
      make("b", {}, transition(e)), `${p.arms[e[0]]} `, make("i", {}, `${e[1]} ${p.modes[e[2]]} · `), p.tasks[e[3]][1].slice(0, 90)));
  }
  byId("spacer").replaceChildren(...items);
};

const open = (i) => {
  if (!state.found.length) return;
  state.selected = Math.max(0, Math.min(state.found.length - 1, i));
  const list = byId("list"), top = state.selected * ITEM;
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + ITEM > list.scrollTop + list.clientHeight) list.scrollTop = top + ITEM - list.clientHeight;
  drawList();
  list.setAttribute("aria-activedescendant", `item-${state.selected}`);
  byId("detail").replaceChildren(...detail(state.found[state.selected]));
  byId("detail").scrollTop = 0;
};

// Longest common subsequence of words; long texts lose their common ends first, and beyond the limit are shown as replaced.
const words = (text) => text.match(/\s+|\w+|[^\s\w]/g) || [];
const wordDiff = (before, after) => {
  let a = words(before), b = words(after), head = 0, tail = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head++;
  while (tail < a.length - head && tail < b.length - head && a.at(-1 - tail) === b.at(-1 - tail)) tail++;
  const start = a.slice(0, head), end = a.slice(a.length - tail);
  a = a.slice(head, a.length - tail); b = b.slice(head, b.length - tail);
  const out = [[" ", start.join("")]];
  if (a.length * b.length > 4e6) out.push(["-", a.join("")], ["+", b.join("")]);
  else {
    const w = b.length + 1, length = new Uint16Array((a.length + 1) * w);
    for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--)
      length[i * w + j] = a[i] === b[j] ? length[(i + 1) * w + j + 1] + 1 : Math.max(length[(i + 1) * w + j], length[i * w + j + 1]);
    let i = 0, j = 0;
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && a[i] === b[j]) { out.push([" ", a[i]]); i++; j++; }
      else if (i < a.length && (j === b.length || length[(i + 1) * w + j] >= length[i * w + j + 1])) out.push(["-", a[i++]]);
      else out.push(["+", b[j++]]);
    }
  }
  out.push([" ", end.join("")]);
  return out.filter(([, text]) => text);
};
const marked = (diff, drop, tag) => {
  const pre = make("pre");
  for (const [kind, text] of diff) if (kind !== drop) pre.append(kind === " " ? text : make(tag, {}, text));
  return pre;
};

const attemptBox = (e, k) => {
  const p = state.packed, verdict = p.verdicts[e[FIELD.verdicts][k]], texts = e[FIELD.texts];
  const body = texts.length < 2 ? make("pre", {}, texts[k])
    : k === 0 ? marked(wordDiff(texts[0], texts[1]), "+", "del") : marked(wordDiff(texts[k - 1], texts[k]), "-", "ins");
  return make("div", { class: `attempt ${verdict === "correct" ? "right" : "wrong"}` },
    make("header", {}, make("b", {}, `attempt ${k + 1}: ${verdict}`), ` · reward ${number(e[FIELD.rewards][k])} · answer ${e[FIELD.answers][k] ?? "none"} · ${e[FIELD.tokens][k]} tokens`), body);
};

const tokenView = (e) => {
  const p = state.packed, extra = e[FIELD.extra], box = make("div", { class: "tokens" });
  const largest = Math.max(1e-9, ...extra.advantages.flat().map(Math.abs));
  let shown = 0;
  extra.turns.forEach(([prompt, action, logprobs], k) => {
    for (const id of prompt.slice(shown)) box.append(make("span", { class: "context", title: `token ${id}: read, not trained` }, p.tokens[id] ?? `#${id}`));
    action.forEach((id, i) => {
      const value = extra.advantages[k]?.[i];
      const colour = value === undefined ? null : `background: rgba(var(--${value >= 0 ? "plus" : "minus"}), ${(0.65 * Math.abs(value) / largest).toFixed(3)})`;
      box.append(make("span", { style: colour, title: `token ${id}: attempt ${k + 1}, log-prob ${number(logprobs[i])}, ` + (value === undefined ? "left out of training" : `advantage ${number(value)}`) }, p.tokens[id] ?? `#${id}`));
    });
    shown = prompt.length + action.length;
  });
  return [make("h3", {}, `Tokens of training step ${extra.step}`), make("p", { class: "caption" },
    "Dotted: read, masked out of the loss. Solid: sampled; green for a positive advantage, red for a negative one, none for 0."), box];
};

const detail = (e) => {
  const p = state.packed, [id, question, gold] = p.tasks[e[3]], file = p.modes[e[2]] === "training" ? "episodes" : "rows";
  const where = `${p.places[`${e[0]}/${e[1]}`]}/${file}.jsonl`;
  return [make("h3", {}, `${transition(e)} · ${p.arms[e[0]]}, seed ${e[1]}, ${p.modes[e[2]]}`),
    make("p", { class: "question" }, question), make("p", { class: "caption" }, gold === null ? "" : `gold ${gold} · `, `task ${id} · `, make("a", { href: where }, `${where}, line ${e[FIELD.line]}`)),
    make("div", { class: "attempts" }, ...e[FIELD.texts].map((_, k) => attemptBox(e, k))), ...(e[FIELD.extra] ? tokenView(e) : [])];
};

// ---------------------------------------------------------------- start

const theme = () => {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  figures.move(0);
};
tabs(byId("table-tabs"), exhibits.filter((item) => !item.id.startsWith("F")), showTable);
let figures = { move: () => {} };
const startFigures = (code) => {
  document.head.append(make("script", {}, code));
  figures = tabs(byId("figure-tabs"), exhibits.filter((item) => item.id.startsWith("F")), showFigure);
};
byId("theme").addEventListener("click", theme);
byId("keys").addEventListener("click", () => byId("help").showModal());
byId("list").addEventListener("scroll", drawList);
addEventListener("resize", drawList);
addEventListener("keydown", (event) => {
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(document.activeElement.tagName);
  if (event.key === "Escape") { document.activeElement.blur(); return; }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  const arrows = document.activeElement === byId("list");
  const act = { j: () => open(state.selected + 1), k: () => open(state.selected - 1), "/": () => byId("filters").elements.text?.focus(), "[": () => figures.move(-1),
    "]": () => figures.move(1), t: theme, "?": () => byId("help").showModal(), ...(arrows ? { ArrowDown: () => open(state.selected + 1), ArrowUp: () => open(state.selected - 1) } : {}) }[event.key];
  if (act) { event.preventDefault(); act(); }
});
Promise.all([
  unpack("plotly").then(startFigures).catch((error) => { byId("figure").textContent = `The figures could not be drawn (${error.message}); their files are in exhibits/.`; }),
  unpack("packed").then(JSON.parse).then((packed) => { state.packed = packed; state.all = packed.episodes; buildFilters(); refilter(); })
    .catch((error) => { byId("found").textContent = `The episodes could not be read (${error.message}); the raw files are beside this page.`; }),
]).then(() => { document.body.dataset.ready = "true"; });
