// Figures, drawn by plotly from the exhibits; the arm that is pointed at is highlighted and its band is shown, the other arms fade.
const DASHES = { solid: null, dash: "9 9", dashdot: "9 3 3 3", dot: "3 3", longdash: "15 15", longdashdot: "15 6 3 6" };  // dash patterns of plotly's line styles, for the legend
const MANY = 4;  // in figures of more curves, only the arm that is pointed at has its band and single seeds drawn
const LABEL_PX = 11.5, WIDE_PX = 440;

const themed = (layout, right) => {
  const axis = { gridcolor: themeColour("--line"), zerolinecolor: themeColour("--soft"), linecolor: themeColour("--line"), automargin: true, title: { standoff: 12 } };
  return { ...layout, showlegend: false, hovermode: "closest", margin: { l: 60, r: right, t: layout.title.text ? 40 : 15, b: 50 },
    template: { layout: { paper_bgcolor: themeColour("--bg"), plot_bgcolor: themeColour("--bg"), font: { color: themeColour("--fg"), size: 12 }, xaxis: axis, yaxis: axis,
      hoverlabel: { bgcolor: themeColour("--panel"), font: { color: themeColour("--fg") } } } } };
};
const curvesOf = (panel) => panel.data.filter((trace) => trace.type !== "heatmap" && shown.has(trace.name));
const labelled = (panel) => {
  const names = new Set(curvesOf(panel).filter((trace) => trace.meta === "line").map((trace) => trace.name));
  return names.size > 1 && curvesOf(panel).every((trace) => trace.meta !== "points") && !panel.layout.xaxis.ticktext ? [...names] : [];
};
// Writes each name at the right end of its curve; names whose curves end close to each other are moved apart.
const labelEnds = (node, names, looks) => {
  node.querySelectorAll(".end").forEach((old) => old.remove());
  const { xaxis, yaxis } = node._fullLayout;
  const ends = names.map((name) => {
    const trace = node.data.find((one) => one.name === name && one.meta === "line"), k = trace.y.findLastIndex((y) => y !== null);
    return { name, y: k < 0 ? null : yaxis._offset + yaxis.l2p(trace.y[k]) };
  }).filter((end) => end.y !== null && isFinite(end.y)).sort((a, b) => a.y - b.y);
  const low = LABEL_PX / 2, high = node.clientHeight - LABEL_PX / 2;
  for (let i = 1; i < ends.length; i++) ends[i].y = Math.max(ends[i].y, ends[i - 1].y + LABEL_PX);
  for (let i = ends.length - 1; i >= 0; i--) ends[i].y = Math.min(ends[i].y, i === ends.length - 1 ? high : ends[i + 1].y - LABEL_PX);
  for (const end of ends) node.append(make("span", { class: "end", ...pointed(end.name), style: `left: ${xaxis._offset + xaxis._length + 6}px; top: ${Math.max(low, end.y)}px; color: ${looks[end.name][0]}` }, end.name));
};
const emphasise = (name) => {
  for (const node of document.querySelectorAll("#figure .panel")) {
    const names = new Set((node.data ?? []).map((trace) => trace.name)), known = name !== null && names.has(name);
    for (const group of node.querySelectorAll(".scatterlayer .trace")) {
      const trace = group.__data__?.[0]?.trace;
      if (!trace) continue;
      const spread = trace.meta === "spread";
      group.style.display = spread && names.size > MANY && !(known && trace.name === name) ? "none" : "";
      group.style.opacity = known && trace.name !== name ? 0.12 : trace.opacity ?? 1;
    }
  }
};
pointing.listeners.push(emphasise);

const panelsOf = (item, place) => {
  const nodes = item.panels.map(({ layout: { title, xaxis, yaxis } }) => make("div", { class: "panel", role: "img", "aria-label": `${title.text} ${yaxis.title.text} over ${xaxis.title.text}` }));
  place.append(...nodes);  // all panels at once, so that each has its final width when it is drawn
  item.panels.forEach((panel, i) => {
    const node = nodes[i], names = node.clientWidth >= WIDE_PX ? labelled(panel) : [];
    const right = names.length ? Math.min(170, 20 + 6.2 * Math.max(...names.map((name) => name.length))) : 15;
    Plotly.newPlot(node, panel.data.filter((one) => one.type === "heatmap" || shown.has(one.name)), themed(panel.layout, right), { displayModeBar: false, responsive: true });
    const after = () => { labelEnds(node, names, item.looks); emphasise(pointing.name); };
    node.on("plotly_afterplot", after);
    node.on("plotly_hover", (event) => pointAt(event.points[0].data.name ?? null));
    node.on("plotly_unhover", () => pointAt(null));
    after();
  });
  return nodes;
};
const figureNumbers = (item) => {
  const heat = item.panels.find((panel) => panel.data[0]?.type === "heatmap")?.data[0];
  if (heat) return [["", ...heat.x], heat.y.map((name, i) => [name, ...heat.z[i].map((value) => value === null ? "-" : number(value))])];
  // Steps end with the right edge of the last bin, which repeats its value for the drawing and is no number of its own.
  const places = (panel, trace) => (trace.meta === "steps" ? trace.x.slice(0, -1) : trace.x).map((x) => panel.layout.xaxis.ticktext?.[x] ?? String(x));
  const rows = item.panels.flatMap((panel) => curvesOf(panel).filter((trace) => trace.meta !== "spread").flatMap((trace) =>
    places(panel, trace).map((x, i) => [panel.layout.title.text || panel.layout.yaxis.title.text, trace.name, x, trace.y[i] === null ? "" : String(+trace.y[i].toPrecision(6))])));
  return [["panel", "curve", [...new Set(item.panels.map((panel) => panel.layout.xaxis.title.text))].join(" / "), "value"], rows];
};
const keyOf = (ink, dash) => draw("svg", { class: "key", width: dash ? 45 : 10, height: 10, "aria-hidden": "true" }, dash
  ? draw("line", { x1: 0, x2: 45, y1: 5, y2: 5, stroke: ink, "stroke-width": 2.5, "stroke-dasharray": DASHES[dash] })
  : draw("rect", { x: 1, y: 1, width: 8, height: 8, fill: "none", stroke: ink, "stroke-width": 2 }));
const showFigure = (item) => {
  const place = byId("figure"), legend = byId("legend");
  for (const old of place.querySelectorAll(".panel")) Plotly.purge(old);
  place.replaceChildren(); legend.replaceChildren();
  const lined = new Set(item.panels.flatMap((panel) => panel.data.filter((trace) => ["line", "steps"].includes(trace.meta)).map((trace) => trace.name)));
  for (const [name, [ink, dash]] of Object.entries(item.looks)) if (shown.minor || !isMinor(name)) legend.append(make("button", {
    type: "button", "aria-pressed": String(shown.has(name)), title: "show or hide", ...pointed(name), onclick: () => toggle(name),
  }, keyOf(ink, lined.has(name) ? dash : null), name));
  const folded = Object.keys(item.looks).filter(isMinor).length;
  if (folded && !shown.minor) legend.append(make("button", { type: "button", onclick: () => show("all", "1") }, `+ ${counted(folded, "variant")}`));
  const panels = make("div", { class: "panels" });
  place.append(caption(item), panels, files(item, ["svg", "png"], () => figureNumbers(item)));
  panelsOf(item, panels);
};
const toggle = (name) => {
  const off = link.all("off");
  show("off", off.includes(name) ? off.filter((one) => one !== name) : [...off, name]);
  byId("legend").querySelector(`[data-arm="${CSS.escape(name)}"]`)?.focus();
};
let figures = { move: () => {}, again: () => {} };
const startFigures = (code) => {
  document.head.append(make("script", {}, code));
  figures = tabs(byId("figure-tabs"), byId("figure"), "figure", exhibits.filter((item) => item.kind === "figure"), showFigure);
  redraw.push(figures.again);
};
