"use strict";
// Functions that all parts of the page share: elements, the address, what is shown, the highlighted arm, copying.
const byId = (id) => document.getElementById(id);
const fill = (node, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
};
const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const number = (x) => Math.abs(x) >= 1000 ? Math.round(x).toLocaleString("en") : String(+x.toPrecision(4));
const counted = (n, one) => `${n.toLocaleString("en")} ${one}${n === 1 ? "" : "s"}`;
const themeColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const delayed = (run, ms) => { let timer; return () => { clearTimeout(timer); timer = setTimeout(run, ms); }; };
const unpack = async (text) => {
  const bytes = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};

const data = JSON.parse(byId("data").textContent), exhibits = data.exhibits;
const isMinor = (name) => data.minor.some((one) => name === one || name.startsWith(`${one}, `));

// ---------------------------------------------------------------- the address

// The part of the address after # encodes what is shown, so that a copied link shows the same: #figure=F4&transition=i->c.
// #F4 alone is a link to an exhibit.
const link = {
  values: new URLSearchParams(),
  read() {
    const text = location.hash.slice(1);
    this.values = new URLSearchParams(text === "F0" ? "at=verdict" : /^[A-Z]\d+$/.test(text) ? `${text[0] === "F" ? "figure" : "table"}=${text}&at=${text[0] === "F" ? "figures" : "tables"}` : text.includes("=") ? text : "");
  },
  get(name) { return this.values.get(name); },
  all(name) { return this.values.getAll(name); },
  set(name, value, at = null) {
    this.values.delete(name);
    for (const one of [value].flat()) if (one !== null && one !== "") this.values.append(name, one);
    if (at) this.values.set("at", at);
    this.later();
  },
  write() { history.replaceState(null, "", `#${this.values}`); },
  address() { this.write(); return location.href; },
};
link.later = delayed(() => link.write(), 150);  // browsers refuse pages that change their address too often
link.read();

// ---------------------------------------------------------------- what is shown

const views = [...new Set(exhibits.flatMap((item) => item.kind === "dots" ? item.rows.map((row) => row.view) : item.views ?? []))].filter(Boolean);
const shown = {
  get view() { return views.includes(link.get("view")) ? link.get("view") : views[0] ?? ""; },
  get minor() { return link.get("all") === "1"; },
  has(name) { return !link.all("off").includes(name) && (this.minor || !isMinor(name)); },
};
const redraw = [];  // functions that redraw the parts that depend on what is shown
const show = (name, value) => { link.set(name, value); redraw.forEach((one) => one()); };

const drawSwitches = () => {
  const place = byId("switches"), focused = document.activeElement?.name;
  place.replaceChildren();
  if (views.length > 1) place.append(make("fieldset", {}, make("legend", { class: "unseen" }, "Episodes of tables and of the dot plot"), ...views.map((view) =>
    make("label", {}, make("input", { type: "radio", name: "view", value: view, checked: view === shown.view, onchange: () => show("view", view) }), view))));
  if (data.minor.length) place.append(make("label", { title: "Variants of arms (v)" }, make("input", { type: "checkbox", name: "minor", checked: shown.minor, onchange: () => show("all", shown.minor ? "" : "1") }), `${data.minor.length} variants`));
  if (focused) place.querySelector(`[name=${focused}]:checked, [name=${focused}]`)?.focus();
};
redraw.push(drawSwitches);

// ---------------------------------------------------------------- the arm under the pointer

const pointing = { name: null, listeners: [] };
const pointAt = (name) => {
  if (name === pointing.name) return;
  pointing.name = name;
  for (const node of document.querySelectorAll("[data-arm]")) node.classList.toggle("pointed", node.dataset.arm === name);
  pointing.listeners.forEach((one) => one(name));
};
const pointed = (name) => ({ "data-arm": name, onpointerenter: () => pointAt(name), onpointerleave: () => pointAt(null), onfocusin: () => pointAt(name), onfocusout: () => pointAt(null) });

// ---------------------------------------------------------------- copying

const say = (text) => { byId("said").textContent = text; };
const copy = async (text, button) => {
  try { await navigator.clipboard.writeText(text); }
  catch {  // the clipboard is not permitted, as on a page opened without a server
    const field = make("textarea", { class: "unseen" }, text);
    document.body.append(field); field.select(); document.execCommand("copy"); field.remove();
  }
  copy.last = text;
  say("copied");
  if (button && button.textContent !== "copied") { const before = button.textContent; button.textContent = "copied"; setTimeout(() => { button.textContent = before; }, 1200); }
};
const flatCell = (text) => { const [first, ...rest] = String(text).split("\n"); return first + rest.map((one) => ` [${one}]`).join(""); };
// LaTeX as the export writes it (latex.py): longer marks before those that they begin with, an interval in small type.
const texMark = new RegExp(Object.keys(data.tex).sort((a, b) => b.length - a.length).map((one) => one.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")).join("|"), "g");
const texCell = (text) => {
  const [first, ...rest] = String(text).split("\n").map((line) => line.replace(texMark, (mark) => data.tex[mark]));
  return first + rest.map((one) => ` {\\scriptsize [${one}]}`).join("");
};
const flatly = (form) => (header, rows) => form(header.map(flatCell), rows.map((row) => row.map(flatCell)));
const FORMS = {
  Markdown: flatly((header, rows) => [header, header.map(() => "---"), ...rows].map((row) => `| ${row.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`).join("\n")),
  CSV: flatly((header, rows) => [header, ...rows].map((row) => row.map((cell) => /[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell).join(",")).join("\n")),
  LaTeX: (header, rows) => {
    const line = (row) => `${row.map(texCell).join(" & ")} \\\\`, names = header[1] === "episodes" ? 2 : 1;
    const kinds = header.map((_, i) => rows.some((row) => String(row[i]).split("\n")[0].length > data.words) ? "p{6cm}" : i < names ? "l" : "r");
    return [`\\begin{tabular}{${kinds.join("")}}`, "\\toprule", line(header), "\\midrule", ...rows.map(line), "\\bottomrule", "\\end{tabular}"].join("\n");
  },
};
// Buttons that copy numbers; header and rows are computed when a button is pressed, so that they match what is shown.
const copies = (numbers) => ["Copy: ", ...Object.entries(FORMS).map(([name, form]) => make("button", {
  type: "button", class: "small", onclick: (event) => { copy(`${form(...numbers())}\n`, event.target); },
}, name))];
const caption = (item) => make("p", { class: "caption" }, make("b", {}, `${item.title} (${item.id}). `), item.caption || "");
const files = (item, kinds, numbers) => make("p", { class: "files" }, ...copies(numbers), " Files: ",
  ...kinds.flatMap((kind, i) => [i ? ", " : "", make("a", { href: `exhibits/${item.id}.${kind}` }, kind.toUpperCase())]));
