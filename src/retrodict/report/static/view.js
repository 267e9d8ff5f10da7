"use strict";
// The list of items and one item. All of a run's text goes in as text, never as markup; what is chosen stands in the
// address after the #, so that a link leads to the same view.

const SIZE = 50; // items on a page of the list
const NEAR = 0.5; // difference of two ranks in [0, 1] from which a judge and a metric disagree
const get = (id) => document.getElementById(id);
const waiting = new Map(); // what to do with details that are on their way
const details = new Map();
let data = null, state = {}, shown = [];

function make(tag, text = "", name = "") {
  const node = document.createElement(tag);
  if (text) node.textContent = text;
  if (name) node.className = name;
  return node;
}

function number(value) {
  if (value === null || value === undefined) return "\u2013";
  const text = Math.abs(value) >= 100 || Number.isInteger(value) ? String(value) : value.toFixed(3);
  return text.replace("-", "\u2212");
}

// ---- the address

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  state = {};
  for (const key of ["q", "subset", "show", "measure", "column", "page", "item"]) state[key] = given.get(key) || "";
}

function address(changes) {
  const next = new URLSearchParams();
  for (const [key, value] of Object.entries({ ...state, ...changes })) if (value) next.set(key, value);
  return "#" + next.toString();
}

// ---- which items, in which order

const chosenMeasure = () => Math.min(Number(state.measure) || 0, data.measures.length - 1);
const chosenColumn = () => Math.min(Number(state.column) || 0, data.columns.length - 1);

function worth(item, column, measure) { // higher is better; null where there is no value
  if (measure < 0 || column < 0) return null;
  const value = item.values[column][measure];
  return value === null ? null : data.measures[measure].higher ? value : -value;
}

function ranks(column, measure) { // of all items, in [0, 1]; equals share theirs
  const known = data.items.map((item, i) => [worth(item, column, measure), i]).filter(([value]) => value !== null);
  known.sort((a, b) => a[0] - b[0]);
  const ranked = new Array(data.items.length).fill(null);
  for (let i = 0; i < known.length;) {
    let j = i;
    while (j < known.length && known[j][0] === known[i][0]) j++;
    for (let k = i; k < j; k++) ranked[known[k][1]] = known.length > 1 ? (i + j - 1) / 2 / (known.length - 1) : 0.5;
    i = j;
  }
  return ranked;
}

function pairOfMeasures() { // a judge, and what measured the same frames
  const all = data.measures.map((measure, i) => i);
  const picked = chosenMeasure();
  const judges = all.filter((i) => data.measures[i].judge), metrics = all.filter((i) => !data.measures[i].judge);
  const judge = judges.includes(picked) ? picked : judges[0], metric = metrics.includes(picked) ? picked : metrics[0];
  return judge === undefined || metric === undefined ? null : [judge, metric];
}

function select() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const column = chosenColumn(), measure = chosenMeasure();
  let rows = data.items.filter((item) => (!state.subset || item.subset === state.subset) &&
    words.every((word) => item.text.includes(word)));
  const by = (value) => {
    const keyed = rows.map((item) => [value(item), item]).filter(([key]) => key !== null);
    keyed.sort((a, b) => b[0] - a[0] || a[1].n - b[1].n);
    rows = keyed.map(([, item]) => item);
  };
  if (state.show === "unscored") {
    rows = rows.filter((item) => item.values.some((values, i) => item.reasons[i] || (measure >= 0 && values[measure] === null)));
  } else if (state.show === "worst") {
    by((item) => { const value = worth(item, column, measure); return value === null ? null : -value; });
  } else if (state.show === "best") {
    by((item) => worth(item, column, measure));
  } else if (state.show === "judge") {
    const pair = pairOfMeasures();
    const [a, b] = pair ? pair.map((one) => ranks(column, one)) : [[], []];
    by((item) => {
      if (!pair || a[item.n] === null || b[item.n] === null) return null;
      const apart = Math.abs(a[item.n] - b[item.n]);
      return apart > NEAR ? apart : null;
    });
  } else if (state.show === "systems") {
    by((item) => {
      const known = data.columns.map((_, i) => worth(item, i, measure)).filter((value) => value !== null);
      const apart = known.length > 1 ? Math.max(...known) - Math.min(...known) : 0;
      return apart > 0 ? apart : null;
    });
  }
  return rows;
}

// ---- the list

function figure(source, label, small, alt) {
  const box = make("figure");
  if (source) {
    const image = make("img");
    image.loading = "lazy";
    image.alt = alt || label;
    image.addEventListener("load", () => image.classList.toggle("small-image", image.naturalWidth < 128));
    image.src = source;
    box.append(image);
  } else box.append(make("div", "no image", "none"));
  const caption = make("figcaption");
  caption.append(make("b", label));
  if (small) caption.append(make("br"), document.createTextNode(small));
  box.append(caption);
  return box;
}

function frameOf(item, column) {
  const candidate = item.frames[column];
  if (candidate === null) return "";
  const { run, system } = data.columns[column];
  return `images/${run}/${encodeURIComponent(system)}/${candidate}/${item.n}`;
}

function strip(item, several) {
  const row = make("div", "", "strip");
  row.append(figure(`images/source/${item.n}`, "Source"));
  row.append(figure(item.target ? `images/target/${item.n}` : "", "Target", item.target ? "" : "none is known"));
  const measure = chosenMeasure();
  data.columns.forEach((column, i) => {
    const value = measure < 0 ? "" : `${data.measures[measure].title} ${number(item.values[i][measure])}`;
    row.append(figure(frameOf(item, i), column.title, item.reasons[i] && !several ? `${value} (${item.reasons[i]})` : value));
  });
  return row;
}

function showList() {
  const pages = Math.max(1, Math.ceil(shown.length / SIZE)), page = Math.min(Math.max(Number(state.page) || 1, 1), pages);
  const nodes = shown.slice((page - 1) * SIZE, page * SIZE).map((item) => {
    const line = make("li"), link = make("a"), words = make("div", "", "words");
    link.href = address({ item: item.id });
    link.dataset.id = item.id;
    words.append(make("b", item.action), make("small", `${item.subset} · ${item.id}`));
    link.append(words, strip(item));
    line.append(link);
    return line;
  });
  get("items").replaceChildren(...nodes);
  get("pages").hidden = pages === 1;
  get("page").textContent = `page ${page} of ${pages}`;
  get("back").disabled = page === 1;
  get("on").disabled = page === pages;
  get("back").onclick = () => { location.hash = address({ page: page - 1 }); scrollTo(0, 0); };
  get("on").onclick = () => { location.hash = address({ page: page + 1 }); scrollTo(0, 0); };
}

// ---- one item

function table(item) {
  const box = make("div", "", "scroll"), grid = make("table", "", "numbers"), head = make("tr");
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", "Every number of this item");
  head.append(make("td"));
  for (const measure of data.measures) {
    const cell = make("th", measure.title);
    cell.scope = "col";
    head.append(cell);
  }
  const top = make("thead"), body = make("tbody");
  top.append(head);
  data.columns.forEach((column, i) => {
    const line = make("tr"), name = make("th", column.title);
    name.scope = "row";
    line.append(name);
    for (const value of item.values[i]) line.append(make("td", number(value)));
    body.append(line);
  });
  grid.append(top, body);
  box.append(grid);
  return box;
}

function showDetail(item, more, into) {
  for (const { title, text } of more.told) into.append(make("h3", title), make("p", text));
  if (more.words.length) into.append(make("h3", "What judges said"));
  for (const said of more.words) {
    const box = make("div", "", "said"), parts = [];
    if (said.score !== undefined) parts.push(`${number(said.score)} of ${more.top}`);
    if (said.es !== undefined) parts.push(`edit success ${number(said.es)}`, `minimal edit ${number(said.me)}`);
    if (said.outcome !== undefined) parts.push(said.outcome === 1 ? "better" : said.outcome === 0 ? "worse" : "a tie");
    if (said.reason) parts.push(`unscored: ${said.reason}`);
    if (said.detail) parts.push(said.detail);
    box.append(make("b", `${said.judge}, ${said.row}: `), document.createTextNode(parts.join(", ")));
    for (const reply of said.replies || []) box.append(make("blockquote", reply));
    into.append(box);
  }
  for (const pool of more.pools) {
    if (pool.frames.length < 2) continue;
    const row = make("div", "", "strip");
    for (const frame of pool.frames) {
      const scores = Object.entries({ ...frame.scores, ...frame.verifiers }).map(([name, value]) => `${name} ${number(value)}`);
      const label = frame.candidate < 0 ? "Greedy" : `Candidate ${frame.candidate + 1}`;
      const notes = [...scores, ...frame.chosen.map((name) => `chosen by ${name}`), frame.reason].filter(Boolean);
      const box = figure(frame.image.split("/").map(encodeURIComponent).join("/"), label, notes.join(", "), `${label} of ${pool.title}`);
      if (frame.chosen.length) box.className = "chosen";
      row.append(box);
    }
    into.append(make("h3", `Candidates of ${pool.title}`), row);
  }
  const facts = make("dl");
  for (const [key, value] of [["id", item.id], ["subset", item.subset], ["group", more.group], ["clip", more.clip], ...more.facts]) {
    if (value) facts.append(make("dt", key), make("dd", value));
  }
  into.append(make("h3", "About the item"), facts);
}

function showItem(item) {
  const box = get("item"), bar = make("div", "", "bar"), at = shown.indexOf(item);
  const button = (text, enabled, act) => {
    const node = make("button", text);
    node.type = "button";
    node.disabled = !enabled;
    node.onclick = act;
    bar.append(node);
  };
  button("All items", true, close);
  button("Previous", at > 0, () => step(-1));
  button("Next", at >= 0 && at < shown.length - 1, () => step(1));
  const large = strip(item, true), rest = make("div");
  large.classList.add("large");
  for (const image of large.querySelectorAll("img")) image.loading = "eager";
  box.replaceChildren(bar, make("h2", item.action), large);
  const lost = data.columns.map((column, i) => item.reasons[i] && `${column.title}: ${item.reasons[i]}`).filter(Boolean);
  if (lost.length) box.append(make("p", `Not scored. ${lost.join("; ")}.`, "note"));
  if (data.measures.length && data.columns.length) box.append(table(item));
  box.append(rest);
  const put = () => { if (state.item === item.id) showDetail(item, details.get(item.n), rest); };
  if (details.has(item.n)) return put();
  waiting.set(item.n, put);
  const script = make("script");
  script.src = `details/${item.n}.js`;
  document.head.append(script);
  script.onload = () => script.remove();
}

globalThis.viewDetail = (n, more) => {
  details.set(n, more);
  const put = waiting.get(n);
  waiting.delete(n);
  if (put) put();
};

function step(by) {
  const at = shown.findIndex((item) => item.id === state.item), next = shown[at + by];
  if (next) location.replace(address({ item: next.id }));
}

function close() {
  const at = shown.findIndex((item) => item.id === state.item);
  location.hash = address({ item: "", page: at < 0 ? state.page : Math.floor(at / SIZE) + 1 });
}

// ---- all of it

function show() {
  const before = state.item;
  read();
  for (const key of ["q", "subset", "show", "measure", "column"]) {
    const field = get(key), value = state[key] || (field.tagName === "SELECT" && key !== "subset" && key !== "show" ? "0" : "");
    if (field.value !== value) field.value = value;
  }
  shown = select();
  const item = state.item ? data.items.find((one) => one.id === state.item) : null;
  const at = item ? shown.indexOf(item) : -1;
  get("status").textContent = item ? (at < 0 ? "This item is not among those chosen." : `Item ${at + 1} of ${shown.length}`)
    : `${shown.length.toLocaleString("en")} of ${data.items.length.toLocaleString("en")} items`;
  get("list").hidden = Boolean(item);
  get("item").hidden = !item;
  if (item) {
    showItem(item);
    get("item").focus({ preventScroll: true });
    scrollTo(0, 0);
  } else {
    showList();
    if (before) [...get("items").querySelectorAll("a")].find((link) => link.dataset.id === before)?.focus();
  }
}

globalThis.viewItems = (given) => {
  data = given;
  for (const item of data.items) item.text = `${item.id} ${item.action} ${item.subset}`.toLowerCase();
  const options = (id, names) => names.forEach((name, i) => {
    const option = make("option", name);
    option.value = id === "subset" ? name : String(i);
    get(id).append(option);
  });
  options("subset", [...new Set(data.items.map((item) => item.subset))]);
  options("measure", data.measures.map((measure) => measure.title));
  options("column", data.columns.map((column) => column.title));
  let soon = 0;
  get("q").addEventListener("input", () => {
    clearTimeout(soon);
    soon = setTimeout(() => location.replace(address({ q: get("q").value, page: "", item: "" })), 60);
  });
  for (const key of ["subset", "show", "measure", "column"]) {
    get(key).addEventListener("change", () => { location.hash = address({ [key]: get(key).value, page: "", item: "" }); });
  }
  get("filters").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", show);
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = ["INPUT", "SELECT"].includes(event.target.tagName);
    if (event.key === "Escape" && typing) return event.target.blur();
    if (typing) return;
    if (event.key === "Escape" && state.item) close();
    else if (event.key === "/") { event.preventDefault(); get("q").focus(); }
    else if ("jk".includes(event.key) && event.key) {
      const by = event.key === "j" ? 1 : -1;
      if (state.item) return step(by);
      const links = [...get("items").querySelectorAll("a")];
      const at = links.indexOf(document.activeElement);
      links[Math.min(Math.max(at + by, 0), links.length - 1)]?.focus();
    }
  });
  show();
};
