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
const svg = (tag, attributes = {}, text = null) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
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

const COLOURS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf",
  "#5b9bd5", "#c98a3c", "#6cbf6c", "#e07b7b", "#b195d1", "#b08a80"];
const DASHES = ["", "7 3", "9 3 2 3", "2 3", "12 3", "7 3 2 3 2 3", "1 2", "5 5"];
const WIDTH = 470, HEIGHT = 330, LEFT = 62, RIGHT = 14, TOP = 26, BOTTOM = 58;
const hidden = new Set();
const number = (x) => Math.abs(x) >= 1000 ? Math.round(x).toLocaleString("en") : String(+x.toPrecision(4));

const niceTicks = (low, high, n = 5) => {
  const raw = (high - low) / n || 1, magnitude = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * magnitude).find((s) => s >= raw);
  const ticks = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-9; t += step) ticks.push(Math.abs(t) < step * 1e-9 ? 0 : t);
  return ticks;
};
const logTicks = (low, high, base) => {
  const ticks = [];
  for (let e = Math.floor(Math.log(low) / Math.log(base)); base ** e <= high * 1.0001; e++) if (base ** e >= low * 0.9999) ticks.push(base ** e);
  return ticks.length > 1 ? ticks : [low, high];
};

const scales = (panel, series) => {
  const xs = [], ys = [];
  for (const one of series) {
    one.x.forEach((x, i) => { xs.push(x); ys.push(one.y[i]); if (one.low.length) ys.push(one.low[i], one.high[i]); });
    if (one.mark === "steps") { xs.push(2 * one.x.at(-1) - one.x.at(-2)); ys.push(0); }
    for (const [rx, ry] of one.runs) { xs.push(...rx); ys.push(...ry); }
  }
  const known = xs.filter((x) => !panel.log_x || x > 0), bounds = (v) => v.length ? [Math.min(...v), Math.max(...v)] : [0, 1];
  let [x0, x1] = bounds(known), [y0, y1] = bounds(ys);
  if (panel.zero) { y0 = Math.min(y0, 0); y1 = Math.max(y1, 0); }
  if (panel.ticks.length) { x0 = -0.4; x1 = panel.ticks.length - 0.6; }
  const pad = (y1 - y0) * 0.05 || 1; y0 -= pad; y1 += pad;
  if (x0 === x1) { x0 -= 1; x1 += 1; }
  const u = panel.log_x ? Math.log : (x) => x;
  return {
    x: (x) => LEFT + (u(x) - u(x0)) / (u(x1) - u(x0)) * (WIDTH - LEFT - RIGHT),
    y: (y) => HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM),
    xTicks: panel.ticks.length ? panel.ticks.map((_, i) => i) : panel.log_x ? logTicks(x0, x1, panel.log_x) : niceTicks(x0, x1), yTicks: niceTicks(y0, y1),
    ends: [x0, x1, y0, y1],
  };
};

const tip = byId("tip");
const explain = (node, text) => {
  node.addEventListener("pointermove", (event) => {
    tip.hidden = false; tip.textContent = text;
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${event.clientY + 14}px`;
  });
  node.addEventListener("pointerleave", () => { tip.hidden = true; });
};

const axes = (root, panel, s) => {
  const bottom = HEIGHT - BOTTOM;
  for (const t of s.yTicks) {
    root.append(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: s.y(t), y2: s.y(t) }),
      svg("text", { x: LEFT - 6, y: s.y(t) + 4, "text-anchor": "end" }, number(t)));
  }
  s.xTicks.forEach((t, i) => {
    root.append(svg("line", { class: "grid", x1: s.x(t), x2: s.x(t), y1: TOP, y2: bottom }));
    const name = panel.ticks.length ? panel.ticks[i] : number(t);
    root.append(panel.ticks.length > 6
      ? svg("text", { transform: `translate(${s.x(t) + 3} ${bottom + 12}) rotate(-38)`, "text-anchor": "end", style: "font-size:8.5px" }, name)
      : svg("text", { x: s.x(t), y: bottom + 15, "text-anchor": "middle" }, name));
  });
  const below = panel.ticks.length > 6 ? "" : panel.x_label;
  root.append(svg("rect", { class: "axis", x: LEFT, y: TOP, width: WIDTH - LEFT - RIGHT, height: bottom - TOP, fill: "none" }),
    svg("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, below),
    svg("text", { transform: `translate(13 ${(TOP + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, panel.y_label),
    svg("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: 16, "text-anchor": "middle", "font-weight": 600 }, panel.title));
  const [x0, x1, y0, y1] = s.ends;
  if (panel.zero) root.append(svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: s.y(0), y2: s.y(0), stroke: "currentColor" }));
  if (panel.diagonal) {
    const low = Math.max(x0, y0), high = Math.min(x1, y1);
    root.append(svg("line", { x1: s.x(low), y1: s.y(low), x2: s.x(high), y2: s.y(high), stroke: "currentColor", "stroke-dasharray": "2 4" }));
  }
};

const path = (s, x, y, log) => x.map((v, i) => log && v <= 0 ? "" : `${s.x(v).toFixed(1)},${s.y(y[i]).toFixed(1)}`).filter(Boolean).join(" ");
const drawSeries = (root, panel, s, one, look) => {
  const style = { fill: "none", stroke: COLOURS[look % COLOURS.length], "stroke-dasharray": DASHES[look % DASHES.length] };
  if (one.mark === "steps") {
    const width = one.x[1] - one.x[0], points = [];
    one.x.forEach((x, i) => points.push([x, one.y[i]], [x + width, one.y[i]]));
    root.append(svg("polyline", { ...style, "stroke-width": 1.5, points: path(s, points.map((p) => p[0]), points.map((p) => p[1])) }));
    one.x.forEach((x, i) => {
      const bar = svg("rect", { x: s.x(x), y: s.y(one.y[i]), width: s.x(x + width) - s.x(x), height: Math.max(0, s.y(0) - s.y(one.y[i])), fill: style.stroke, opacity: 0.08 });
      explain(bar, `${one.name}\n${number(x)} to ${number(x + width)}: ${number(one.y[i])}`);
      root.append(bar);
    });
    return;
  }
  for (const [x, y] of one.runs) root.append(svg("polyline", { ...style, "stroke-width": 0.6, opacity: 0.5, "stroke-dasharray": "", points: path(s, x, y, panel.log_x) }));
  if (one.low.length) {
    const there = path(s, one.x, one.high, panel.log_x), back = path(s, [...one.x].reverse(), [...one.low].reverse(), panel.log_x);
    root.append(svg("polygon", { points: `${there} ${back}`, fill: style.stroke, opacity: 0.13 }));
  }
  if (one.mark === "line") root.append(svg("polyline", { ...style, "stroke-width": 1.8, points: path(s, one.x, one.y, panel.log_x) }));
  one.x.forEach((x, i) => {
    if (panel.log_x && x <= 0) return;
    const dot = svg("circle", { cx: s.x(x), cy: s.y(one.y[i]), r: one.mark === "line" ? 2.6 : 4, fill: one.mark === "line" ? style.stroke : "none", stroke: style.stroke, "pointer-events": "all" });
    const band = one.low.length ? `\n${number(one.low[i])} to ${number(one.high[i])}` : "";
    explain(dot, `${one.name}\n${panel.x_label}: ${panel.ticks[x] ?? number(x)}\n${panel.y_label}: ${number(one.y[i])}${band}`);
    root.append(dot);
  });
};

const drawHeat = (panel) => {
  const { rows, columns, values } = panel.heat, size = 34, left = 190, top = 26;
  const root = svg("svg", { viewBox: `0 0 ${left + size * columns.length + 20} ${top + size * rows.length + 150}`, width: left + size * columns.length + 20, role: "img", "aria-label": panel.title });
  root.append(svg("text", { x: left, y: 16, "font-weight": 600 }, panel.title));
  rows.forEach((name, i) => root.append(svg("text", { x: left - 6, y: top + size * (i + 0.6), "text-anchor": "end" }, name)));
  columns.forEach((name, j) => root.append(svg("text", { transform: `translate(${left + size * (j + 0.6)} ${top + size * rows.length + 12}) rotate(-45)`, "text-anchor": "end" }, name)));
  values.forEach((row, i) => row.forEach((value, j) => {
    if (value === null) return;
    const cell = svg("rect", { x: left + size * j, y: top + size * i, width: size - 1, height: size - 1, fill: "#2457c5", "fill-opacity": (0.04 + 0.9 * value / 100).toFixed(3) });
    explain(cell, `${panel.y_label}: ${rows[i]}\n${panel.x_label}: ${columns[j]}\n${number(value)}`);
    root.append(cell, svg("text", { x: left + size * (j + 0.5), y: top + size * (i + 0.6), "text-anchor": "middle", "pointer-events": "none", style: value > 55 ? "fill:#fff" : "" }, String(Math.round(value))));
  }));
  return root;
};

const showFigure = (item) => {
  const place = byId("figure"), legend = byId("legend");
  place.replaceChildren(); legend.replaceChildren();
  tip.hidden = true;
  if (item.kind === "absent") { place.append(absent(item)); return; }
  const names = [...new Set(item.panels.flatMap((panel) => panel.series.map((one) => one.name)))];
  names.forEach((name, look) => legend.append(make("button", {
    type: "button", "aria-pressed": String(!hidden.has(name)), title: "show or hide", onclick: () => { hidden.has(name) ? hidden.delete(name) : hidden.add(name); showFigure(item); },
  }, (() => {
    const key = svg("svg", { width: 30, height: 10, "aria-hidden": "true" });
    key.append(svg("line", { x1: 0, x2: 30, y1: 5, y2: 5, stroke: COLOURS[look % COLOURS.length], "stroke-width": 2, "stroke-dasharray": DASHES[look % DASHES.length] }));
    return key;
  })(), name)));
  const panels = make("div", { class: "panels" });
  for (const panel of item.panels) {
    if (panel.heat) { panels.append(drawHeat(panel)); continue; }
    const seen = panel.series.filter((one) => !hidden.has(one.name)), s = scales(panel, seen);
    const root = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, role: "img", "aria-label": `${panel.title} ${panel.y_label} over ${panel.x_label}` });
    axes(root, panel, s);
    for (const one of seen) drawSeries(root, panel, s, one, names.indexOf(one.name));
    panels.append(root);
  }
  place.append(caption(item), panels, make("p", { class: "caption" }, "Files: ", make("a", { href: `exhibits/${item.id}.svg` }, "SVG"), ", ",
    make("a", { href: `exhibits/${item.id}.png` }, "PNG")));
};

// ---------------------------------------------------------------- episodes

const ITEM = 28, TRANSITIONS = ["i->c", "c->i", "c->c", "i->i"];
const state = { all: [], found: [], selected: -1, packed: null, wanted: {} };
const unpack = async () => {
  const bytes = Uint8Array.from(atob(byId("packed").textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
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
};
tabs(byId("table-tabs"), exhibits.filter((item) => !item.id.startsWith("F")), showTable);
const figures = tabs(byId("figure-tabs"), exhibits.filter((item) => item.id.startsWith("F")), showFigure);
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
unpack().then((packed) => { state.packed = packed; state.all = packed.episodes; buildFilters(); refilter(); document.body.dataset.ready = "true"; })
  .catch((error) => { byId("found").textContent = `The episodes could not be read (${error.message}); the raw files are beside this page.`; });
