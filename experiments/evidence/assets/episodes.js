// The list of episodes, and beside it the selected episode with the differences between its attempts.
const ITEM = 28;

const drawList = () => {
  const list = byId("list"), first = Math.max(0, Math.floor(list.scrollTop / ITEM) - 5), { columns: c, arms, modes, tasks } = state.index;
  const last = Math.min(state.found.length, first + Math.ceil(list.clientHeight / ITEM) + 10), items = [];
  for (let k = first; k < last; k++) {
    const i = state.found[k];
    items.push(make("div", { class: "item", role: "option", id: `item-${k}`, style: `top:${k * ITEM}px`, "aria-selected": String(k === state.selected), "aria-posinset": k + 1, "aria-setsize": state.found.length, onclick: () => open(k) },
      make("b", {}, transition(i)), `${arms[c.arm[i]]} `, make("i", {}, `${c.seed[i]} ${modes[c.mode[i]]} · `), tasks[c.task[i]][1].slice(0, 90)));
  }
  byId("spacer").replaceChildren(...items);
  if (state.selected >= first && state.selected < last) list.setAttribute("aria-activedescendant", `item-${state.selected}`);
  else list.removeAttribute("aria-activedescendant");
};
const open = async (k) => {
  if (!state.found.length) return;
  state.selected = Math.max(0, Math.min(state.found.length - 1, k));
  const list = byId("list"), top = state.selected * ITEM, i = state.found[state.selected];
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + ITEM > list.scrollTop + list.clientHeight) list.scrollTop = top + ITEM - list.clientHeight;
  drawList();
  link.set("episode", placeOf(i), "episodes");
  let parts;
  try { parts = detail(i, await bodyOf(i)); }
  catch (error) { parts = [make("p", {}, `The texts of this episode cannot be read: ${error.message}. They are in ${placeOf(i)}.`)]; }
  if (state.found[state.selected] !== i) return;  // another episode was selected while the texts loaded
  byId("detail").replaceChildren(...parts);
  byId("detail").scrollTop = 0;
};
// Opens the episode that the address names; filters that hide it are reset.
const openLinked = () => {
  const wanted = link.get("episode");
  if (!wanted) return;
  const among = (k) => placeOf(state.found[k]) === wanted;
  let k = state.found.findIndex((_, at) => among(at));
  if (k < 0 && state.found.length < state.n) { byId("filters").reset(); refilter(); k = state.found.findIndex((_, at) => among(at)); }
  if (k >= 0) open(k);
  else byId("detail").replaceChildren(make("p", {}, `${wanted} is not among the episodes of this page.`));
};

// Word differences by longest common subsequence, without the common start and end. Texts beyond the size limit are shown as replaced.
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

// The texts of one episode: [verdicts, texts, answers, rewards, n_tokens, more]
const attemptBox = ([verdicts, texts, answers, rewards, tokens], k) => {
  const body = texts.length < 2 ? make("pre", {}, texts[k])
    : k === 0 ? marked(wordDiff(texts[0], texts[1]), "+", "del") : marked(wordDiff(texts[k - 1], texts[k]), "-", "ins");
  return make("div", { class: `attempt ${verdicts[k] === "correct" ? "right" : "wrong"}` },
    make("p", { class: "head" }, make("b", {}, `attempt ${k + 1}: ${verdicts[k]}`), ` · reward ${number(rewards[k])} · answer ${answers[k] ?? "none"} · ${tokens[k]} token${tokens[k] === 1 ? "" : "s"}`), body);
};
const tokenView = (more) => {
  const known = state.index.tokens, box = make("div", { class: "tokens" });
  const largest = Math.max(1e-9, ...more.advantages.flat().map(Math.abs));
  let read = 0;
  more.turns.forEach(([prompt, action, logprobs], k) => {
    for (const id of prompt.slice(read)) box.append(make("span", { class: "context", title: `token ${id}: context, not trained on` }, known[id] ?? `#${id}`));
    action.forEach((id, i) => {
      const value = more.advantages[k]?.[i];
      const ink = value === undefined ? null : `background: rgba(var(--${value >= 0 ? "plus" : "minus"}), ${(0.65 * Math.abs(value) / largest).toFixed(3)})`;
      box.append(make("span", { style: ink, title: `token ${id}: attempt ${k + 1}, log-prob ${number(logprobs[i])}, ` + (value === undefined ? "left out of training" : `advantage ${number(value)}`) }, known[id] ?? `#${id}`));
    });
    read = prompt.length + action.length;
  });
  return [make("h3", {}, `Tokens of training step ${more.step}`), make("p", { class: "caption" },
    "Dotted tokens are context and masked out of the loss. The others were sampled: green for a positive advantage, red for a negative one, no colour for 0."), box];
};
const detail = (i, body) => {
  const { columns: c, arms, modes, tasks } = state.index, [id, question, gold] = tasks[c.task[i]], [file, line] = placeOf(i).split(/:(?=\d+$)/);
  return [make("h3", {}, `${transition(i)} · ${arms[c.arm[i]]}, seed ${c.seed[i]}, ${modes[c.mode[i]]}`), make("p", { class: "question" }, question),
    make("p", { class: "caption" }, gold === null ? "" : `gold ${gold} · `, id.length > 60 ? "" : `task ${id} · `, make("a", { href: file }, `${file}, line ${line}`), " ",
      make("button", { type: "button", class: "small", onclick: (event) => copy(link.address(), event.target) }, "copy link")),
    make("div", { class: "attempts" }, ...body[1].map((_, k) => attemptBox(body, k))), ...(body[5] ? tokenView(body[5]) : [])];
};
