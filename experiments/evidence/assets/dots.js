// The first screen: one row for each arm with its interval, every seed and badges; a row's button shows or hides its sentences.
const niceTicks = (low, high, most) => {
  const raw = (high - low || 1) / most, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((one) => one * power >= raw) * power;
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i <= high / step + 1e-9; i++) ticks.push(+(i * step).toPrecision(10));  // multiplied, not added up, so that the tick at 0 is exactly 0
  return ticks;
};
const axisOf = (rows, most) => {
  const values = [0, ...rows.flatMap((row) => [row.mean, row.low, row.high, ...row.seeds])].filter((one) => one !== null);
  const low = Math.min(...values), high = Math.max(...values), room = 0.05 * (high - low || 1);
  return { at: (value) => `${(100 * (value - low + room) / (high - low + 2 * room)).toFixed(3)}%`, ticks: niceTicks(low, high, most) };
};
const signed = (value, digits) => {
  if (value === null) return "-";
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? text : value < 0 ? `-${text}` : `+${text}`;
};
const rowPlot = (row, axis, digits, labelled) => {
  const y = 9, known = (value) => value !== null, ink = data.colours[row.name] ?? "var(--accent)", parts = [];
  for (const tick of axis.ticks) {
    parts.push(draw("line", { x1: axis.at(tick), x2: axis.at(tick), y1: 0, y2: 26, class: tick === 0 ? "zero" : "grid" }));
    if (labelled) parts.push(draw("text", { x: axis.at(tick), y: 37, class: "tick" }, number(tick)));
  }
  if (known(row.low) && known(row.high)) parts.push(draw("line", { x1: axis.at(row.low), x2: axis.at(row.high), y1: y, y2: y, class: "bar", style: `stroke: ${ink}` }));
  row.seeds.filter(known).forEach((value) => parts.push(draw("circle", { cx: axis.at(value), cy: 20, r: 3, class: "seed", style: `stroke: ${ink}` }, draw("title", {}, `a training run: ${signed(value, digits)}`))));
  if (known(row.mean)) parts.push(draw("circle", { cx: axis.at(row.mean), cy: y, r: 6, class: "mean", style: `fill: ${ink}` }, draw("title", {}, `mean ${signed(row.mean, digits)}`)));
  const label = `${signed(row.mean, digits)}, interval ${signed(row.low, digits)} to ${signed(row.high, digits)}; runs ${row.seeds.map((one) => signed(one, digits)).join(", ")}`;
  return draw("svg", { class: "row", height: labelled ? 42 : 26, role: "img", "aria-label": label }, ...parts);
};
const axisPlot = (axis) => draw("svg", { class: "row", height: 18, "aria-hidden": "true" }, ...axis.ticks.map((tick) => draw("text", { x: axis.at(tick), y: 13, class: "tick" }, number(tick))));

const opened = new Set();  // keys of the rows whose sentences are shown
const dotRows = (item, row, axis) => {
  const key = `${item.id}/${row.name}`, said = make("tr", { class: "said", hidden: !opened.has(key) }, make("td", { colspan: 4 }, row.said));
  const button = make("button", { type: "button", class: "name", "aria-expanded": String(opened.has(key)), onclick: () => {
    opened.has(key) ? opened.delete(key) : opened.add(key);
    said.hidden = !opened.has(key);
    button.setAttribute("aria-expanded", String(!said.hidden));
  } }, row.name);
  return [make("tr", pointed(row.name), make("th", { scope: "row" }, button),
    make("td", { class: "plot" }, rowPlot(row, axis, item.digits, !item.shared)),
    make("td", { class: "number" }, signed(row.mean, item.digits), " ", make("small", {}, `[${signed(row.low, item.digits)}, ${signed(row.high, item.digits)}]`)),
    make("td", { class: "badges" }, ...row.badges.map((badge) => make("span", { class: `badge ${badge.tone}` }, badge.text)))), said];
};
const dotsOf = (item) => {
  const all = item.rows.filter((row) => row.view === "" || row.view === shown.view), few = all.filter((row) => shown.minor || !isMinor(row.name));
  const most = innerWidth < 600 ? 4 : 8, shared = axisOf(item.rows, most);
  const body = make("tbody", {}, ...few.flatMap((row) => dotRows(item, row, item.shared ? shared : axisOf([row], 4))));
  const heads = ["", item.x_label, "mean and interval", "findings"].map((name, i) => make("th", { scope: "col", class: ["", "plot", "number", "badges"][i] }, i ? name : make("span", { class: "unseen" }, "name")));
  if (item.shared) heads[1].append(axisPlot(shared));
  const table = make("table", { class: "dots" }, make("caption", { class: "unseen" }, item.title), make("thead", {}, make("tr", {}, ...heads)), body);
  const left = all.length - few.length, lead = item.lead[shown.view] ?? item.lead[""] ?? "";
  const ofView = (one) => views.length > 1 && few.some((row) => row.view) ? [one] : [];
  const numbers = () => [["name", ...ofView("episodes"), item.x_label, "low", "high", "runs", "findings"], few.map((row) => [row.name, ...ofView(row.view), ...[row.mean, row.low, row.high].map((one) => signed(one, item.digits)), row.seeds.map((one) => signed(one, item.digits)).join(" "), row.badges.map((badge) => badge.text).join(", ")])];
  return [make("h2", {}, item.title, shown.view && views.length > 1 ? make("small", {}, ` ${shown.view}`) : ""), ...(lead ? [make("p", { class: "lead" }, lead)] : []), table,
    ...(left || (shown.minor && data.minor.length) ? [make("p", {}, make("button", { type: "button", onclick: () => show("all", shown.minor ? "" : "1") }, left ? `show ${counted(left, "variant")}` : "hide the variants"))] : []),
    make("details", { class: "about" }, make("summary", {}, "Caption, and numbers to copy"), make("p", { class: "caption" }, item.caption), files(item, ["svg", "png"], numbers))];
};
const drawDots = () => {
  const focused = document.activeElement?.closest?.("#dots [data-arm]")?.dataset.arm;
  byId("dots").replaceChildren(...exhibits.filter((item) => item.kind === "dots").flatMap((item) => dotsOf(item)));
  if (focused) byId("dots").querySelector(`[data-arm="${CSS.escape(focused)}"] button`)?.focus();
};
redraw.push(drawDots);
