// Tabs with keyboard control, tables, and the list of exhibits that the runs lack data for.
const tabs = (place, panel, key, items, show) => {
  const buttons = items.map((item, i) => make("button", {
    type: "button", role: "tab", id: `tab-${item.id}`, "aria-controls": panel.id, title: item.title, onclick: () => select(i),
    onkeydown: (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (by) { event.preventDefault(); select(current + by); buttons[current].focus(); }
    },
  }, `${item.title} (${item.id})`));
  let current = 0;
  const paint = (i) => {
    current = (i + items.length) % items.length;
    buttons.forEach((button, k) => { button.setAttribute("aria-selected", String(k === current)); button.tabIndex = k === current ? 0 : -1; });
    panel.setAttribute("aria-labelledby", `tab-${items[current].id}`);
    show(items[current]);
  };
  const select = (i) => { paint(i); link.set(key, items[current].id, `${key}s`); };
  const again = () => { if (items.length) paint(Math.max(0, items.findIndex((item) => item.id === link.get(key)))); };
  place.append(...buttons);
  if (!items.length) { panel.removeAttribute("role"); place.removeAttribute("role"); }
  again();
  return { move: (by) => { if (items.length) select(current + by); }, again };
};

const isFigure = (item) => item.id.startsWith("F");
const drawAbsent = () => {
  for (const [place, items] of [["tables", exhibits.filter((item) => !isFigure(item))], ["figures", exhibits.filter(isFigure)]]) {
    const missing = items.filter((item) => item.kind === "absent");
    if (missing.length) byId(place).append(make("details", { class: "about" }, make("summary", {}, `Not available from these runs: ${missing.length}`),
      make("ul", {}, ...missing.map((item) => make("li", {}, `${item.title} (${item.id}): ${item.reason}`)))));
  }
};

// Header and rows of a table as they are shown: one view, without hidden arms, the first columns. With `everything`, as
// for printing, all are returned. Then, and if `naming`, as for copying, a column names the episodes that a row is about.
const partOf = (item, everything = false, naming = everything) => {
  const columns = item.lead && !everything && link.get("columns") !== "all" ? item.lead : item.header.length;
  const mixed = naming && new Set(item.views).size > 1, named = (row, view) => mixed ? [row[0], view, ...row.slice(1)] : row;
  const isShown = (row, i) => (everything || shown.minor || !isMinor(row[0])) && (everything || !item.views.length || item.views[i] === shown.view);
  const rows = item.rows.flatMap((row, i) => isShown(row, i) ? [named(row.slice(0, columns), item.views[i])] : []);
  return [named(item.header.slice(0, columns), "episodes"), rows];
};
// Tables as they are printed: columns that do not fit a page beside the names of the rows become a table of their own below.
const sheetsOf = (item) => {
  const [header, rows] = partOf(item, true), names = header[1] === "episodes" ? 2 : 1, sheets = [];
  const n = header.length - names, step = Math.ceil(n / Math.ceil(n / data.sheet));
  for (let i = names; i < header.length; i += step) sheets.push([header, ...rows].map((row) => [...row.slice(0, names), ...row.slice(i, i + step)]));
  return sheets.map(([first, ...rest]) => tableOf(item, [first, rest]));
};
const tableOf = (item, [header, rows] = partOf(item)) => {
  const inWords = header.map((_, i) => rows.some((row) => row[i].split("\n")[0].length > data.words) ? "words" : null);  // all cells of a column have the same style
  const cell = (text, i) => {
    const [first, ...rest] = text.split("\n"), node = make(i ? "td" : "th", { class: inWords[i], scope: i ? null : "row" }, first);
    if (rest.length) node.append(make("br"), make("small", {}, rest.join(" ")));
    return node;
  };
  return make("table", { class: "numbers" }, make("caption", { class: "unseen" }, item.title), make("thead", {}, make("tr", {}, ...header.map((name, i) => make("th", { class: inWords[i], scope: "col" }, name)))),
    make("tbody", {}, ...rows.map((row) => make("tr", pointed(row[0]), ...row.map(cell)))));
};
const showTable = (item) => {
  const left = item.rows.length - partOf(item)[1].length - (item.views.length ? item.views.filter((one) => one !== shown.view).length : 0);
  const more = item.lead && item.lead < item.header.length, all = link.get("columns") === "all";
  byId("table").replaceChildren(caption(item), make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": item.title }, tableOf(item)),
    make("p", { class: "files" }, ...(more ? [make("button", { type: "button", class: "small", onclick: () => show("columns", all ? "" : "all") }, all ? "fewer columns" : counted(item.header.length - item.lead, "more column"))] : []),
      ...(left > 0 ? [make("button", { type: "button", class: "small", onclick: () => show("all", "1") }, `${counted(left, "row")} of variants`)] : [])),
    files(item, ["csv", "md"], () => partOf(item, false, true)));
};
