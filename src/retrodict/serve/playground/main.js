// The page: scene, candidates, film, and what listens to what.

const $ = (id) => document.getElementById(id);
const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
};
const say = (text) => { $("said").textContent = text; };
const number = (value) => (value === null || value === undefined ? "–" : Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(2).replace("-", "−"));

const session = new Session();
let mode = "predict", view = "image", blinking = null, models = null, world = null, shown = null, other = null, asked = null, drawing = null, hints = matchMedia("(max-width: 900px)").matches ? 6 : 10;

function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { $("toast").hidden = true; }, 6000);
}

async function guarded(work) {
  try { return await work(); }
  catch (error) {
    if (error.name === "AbortError") return undefined;
    toast(error instanceof ServerError ? error.message : "The server cannot be reached.");
    if (!(error instanceof ServerError)) console.warn(error);
    return undefined;
  }
}

/** Whether this is still the last piece of work of its kind: what was overtaken shows nothing. */
const turns = {};
function turn(kind) {
  const mine = turns[kind] = (turns[kind] ?? 0) + 1;
  return () => turns[kind] === mine;
}

onKey(() => new Promise((done) => {
  $("key").addEventListener("close", () => done($("key-text").value), { once: true });
  $("key").showModal();
}));

// --- the scene ----------------------------------------------------------------------------------

async function begin(source, frame, { keep = false } = {}) {
  session.begin(source, frame);
  shown = null;
  if (!keep) stopDrawing();
  await render();
  await look();
}

async function exampleFrame(i) {
  return frameOf(await (await fetch(`/play/examples/${i}.png`)).blob());
}

async function sourceFrame(source) {
  if ("example" in source) return exampleFrame(source.example);
  if ("placed" in source) return frameOf(fromBase64((await composed(source.placed)).image));
  const text = source.image ?? sessionStorage.getItem(`image-${source.kept}`);
  if (!text) throw new ServerError(0, "The image of this link is kept in the tab that made it. Open it again here.");
  return frameOf(fromBase64(text));
}

async function asPng(file) {
  const bitmap = await createImageBitmap(file).catch(() => { throw new ServerError(0, `${file.name || "This"} is no image that can be read.`); });
  const scale = Math.min(1, 1024 / Math.max(bitmap.width, bitmap.height));
  if (file.type === "image/png" && scale === 1) return file;
  const canvas = new OffscreenCanvas(Math.max(1, Math.round(bitmap.width * scale)), Math.max(1, Math.round(bitmap.height * scale)));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/png" });
}

async function openFile(file) {
  await guarded(async () => {
    if (file.type === "application/json" || file.name?.endsWith(".json")) return restore(JSON.parse(await file.text()));
    const blob = await asPng(file);
    if (mode !== "predict") return setOther(await frameOf(blob), "Opened image");
    return begin(await imageSource(blob, toBase64), await frameOf(blob));
  });
}

/** What the model makes of the scene: notes, and actions to suggest. */
async function look() {
  const frame = session.now.frame;
  const seen = await guarded(() => call("/v1/suggest", { image: frame.blob }));
  if (!seen || frame !== session.now.frame) return;
  $("notes").hidden = !seen.notes.length;
  $("notes").textContent = seen.notes.length ? `The model guesses here: ${seen.notes.join(", and ")}.` : "";
  session.now.actions = mixed(seen.actions);
  session.now.placed = seen.placed;
  suggest();
}

/** Actions of every kind in turn, so that the first few show what can be said. */
function mixed(actions) {
  const kinds = new Map();
  for (const action of actions) {
    const kind = action.split(" ")[0];
    kinds.set(kind, [...(kinds.get(kind) ?? []), action]);
  }
  const rows = [...kinds.values()];
  return Array.from({ length: actions.length }, (_, i) => rows.map((row) => row[i])).flat().filter(Boolean);
}

function suggest() {
  const typed = $("action").value.trim().toLowerCase(), all = session.now.actions ?? [];
  const fitting = all.filter((a) => typed.split(/\s+/).every((word) => a.includes(word)));
  const some = fitting.length ? fitting : all;
  $("suggested").replaceChildren(...some.slice(0, hints).map((action) =>
    make("button", { type: "button", textContent: action, onclick: () => { $("action").value = action; predict(); } })));
  $("more").hidden = some.length <= hints;
  $("action").placeholder = all[0] ?? "in words";
  $("known").replaceChildren(...all.map((value) => make("option", { value })));
}

// --- candidates ---------------------------------------------------------------------------------

let pending = null;

async function ask(action, seed, frame) {
  const verifiers = [models.verifier, ...Object.keys(models.verifiers).filter((v) => v !== models.verifier && v !== "random")];
  pending?.abort();
  pending = new AbortController();
  const answer = await call("/v1/images/edits", { image: frame.blob, prompt: action, n: 8, seed, verifiers: verifiers.join(",") }, pending.signal);
  return Promise.all(answer.data.map(async (entry, i) => ({ ...answer.retrodict.images[i], frame: await frameOf(fromBase64(entry.b64_json)), key: entry.b64_json })));
}

async function predict() {
  const action = $("action").value.trim(), seed = Math.max(0, Math.floor(Number($("seed").value) || 0)), source = session.now, mine = turn("predict");
  if (!action) { $("action").focus(); return; }
  if (drawing) stopDrawing();
  $("empty").hidden = true;
  $("candidates").replaceChildren(make("li", { className: "wait" }, make("span", { className: "spin", role: "img", "aria-label": "The model samples" })));
  const began = performance.now(), candidates = await guarded(() => ask(action, seed, source.frame));
  if (!mine() || source !== session.now) return;
  if (!candidates) { $("candidates").replaceChildren(); $("empty").hidden = false; return; }
  shown = { action, seed, candidates, grids: null, seconds: (performance.now() - began) / 1000 };
  $("tools").hidden = false;
  await cards();
  if (!shown) return;
  const best = ranked()[0], distinct = new Set(candidates.map((c) => c.key)).size;
  $("count").textContent = `${candidates.length} candidates, ${distinct === 1 ? "all alike" : `${distinct} different`}, in ${shown.seconds.toFixed(1)} s`;
  say(`${$("count").textContent}. The chosen one has a score of ${number(best.scores[$("verifier").value])}.`);
  if (innerWidth <= 900) $("tools").scrollIntoView({ behavior: "smooth", block: "start" });
}

function ranked() {
  const by = $("verifier").value, value = (c) => c.scores[by] ?? -Infinity;
  return [...shown.candidates].sort((a, b) => value(b) - value(a) || a.candidate - b.candidate);
}

async function cards() {
  if (!shown) return;
  if (view === "recognition" && !shown.grids) await loadGrids();
  if (!shown) return;
  const by = $("verifier").value, order = ranked(), first = new Map();
  const tops = Object.fromEntries(Object.keys(models.verifiers).map((v) => [v, Math.max(...order.map((c) => c.scores[v] ?? -Infinity))]));
  const finite = order.map((c) => c.scores[by]).filter((s) => s !== null && s !== undefined), least = Math.min(...finite), most = Math.max(...finite);
  $("candidates").replaceChildren(...order.map((c, i) => {
    const canvas = make("canvas", { "aria-hidden": "true" }), twin = first.get(c.key), share = most > least ? (c.scores[by] - least) / (most - least) : 1;
    if (twin === undefined) first.set(c.key, i + 1);
    c.canvas = canvas;
    draw(c);
    const score = number(c.scores[by]), bar = make("i");
    bar.style.width = `${Math.round(6 + 94 * share)}%`;
    const rows = Object.keys(c.scores).flatMap((v) => [
      make("dt", { className: v === by ? "lead" : "", textContent: models.verifiers[v].title }),
      make("dd", { className: `${v === by ? "lead" : ""} ${c.scores[v] !== null && c.scores[v] === tops[v] ? "top" : ""}`, textContent: number(c.scores[v]) })]);
    return make("li", { className: `card${i ? "" : " chosen"}${twin ? " twin" : ""}`, style: `animation-delay:${i * 25}ms` },
      make("button", { type: "button", "aria-label": `Go on with ${i + 1}${i ? "" : ", the chosen one"}: score ${score}`, onclick: () => goOn(c) }, canvas),
      make("div", { className: "badge" }, make("span", { textContent: `${i + 1}` }), make("span", { className: i ? "" : "best", textContent: i === 0 ? "chosen" : twin ? `same as ${twin}` : "" })),
      ...(twin ? [] : [make("div", { className: "bar" }, bar), make("dl", { className: "scores" }, ...rows)]));
  }));
}

function draw(c) {
  const before = session.now.frame.bitmap, after = c.frame.bitmap;
  if (view === "difference") difference(c.canvas, before, after);
  else if (view === "recognition" && shown.grids) heat(c.canvas, after, shown.grids.get(c.key));
  else paint(c.canvas, view === "blink" && blinking?.off ? before : after);
}

async function loadGrids() {
  const of = shown, source = session.now.frame.blob, distinct = new Map(of.candidates.map((c) => [c.key, c.frame.blob]));
  const grids = await guarded(() => Promise.all([...distinct].map(async ([key, target]) => [key, (await call("/v1/recognition", { source, target })).grid])));
  if (grids) of.grids = new Map(grids);
}

async function setView(name) {
  view = name;
  clearInterval(blinking?.timer);
  blinking = null;
  if (view === "blink") {
    blinking = { off: false };
    blinking.timer = setInterval(() => { blinking.off = !blinking.off; shown?.candidates.forEach(draw); }, matchMedia("(prefers-reduced-motion: reduce)").matches ? 1500 : 600);
  }
  for (const button of $("views").children) button.setAttribute("aria-pressed", button.dataset.view === view);
  if (view === "recognition" && shown && !shown.grids) await loadGrids();
  shown?.candidates.forEach(draw);
}

async function goOn(c) {
  const { action, seed } = shown;
  session.add(action, seed, c.candidate, $("verifier").value, c.frame, c.scores[$("verifier").value]);
  shown = null;
  $("action").value = "";
  say(`Step ${session.path().length - 1}: ${action}. Say what happens next.`);
  await render();
  $("action").focus({ preventScroll: true });
  await look();
}

// --- film, branches, export ---------------------------------------------------------------------

function filmButton(i, current) {
  const node = session.nodes[i], canvas = make("canvas", { "aria-hidden": "true" });
  paint(canvas, node.frame.bitmap);
  const caption = node.action || "The beginning", depth = session.path(i).length - 1;
  return make("button", { type: "button", "aria-current": current ? "true" : "false", onclick: () => stand(i) }, canvas, make("span", { className: "number", textContent: `${depth} ` }), caption);
}

async function stand(i) {
  if (mode !== "predict" && i !== session.at) { setOther(session.nodes[i].frame, session.nodes[i].action || "the beginning"); return; }
  session.at = i;
  shown = null;
  await render();
  await look();
}

async function render() {
  const { bitmap } = session.now.frame;
  paint($("now"), bitmap);
  $("now").setAttribute("aria-label", session.now.action ? `The scene after: ${session.now.action}` : "The scene at the beginning");
  $("depth").textContent = session.at ? `after ${session.path().length - 1} ${session.path().length > 2 ? "steps" : "step"}` : "";
  $("strip").replaceChildren(...session.path().map((i) => make("li", {}, filmButton(i, i === session.at))));
  $("strip").scrollLeft = $("strip").scrollWidth;
  const others = session.branches();
  $("branches").replaceChildren(...(others.length ? [make("p", { className: "quiet", textContent: "Other branches" }), make("div", { className: "row" }, ...others.map((i) =>
    make("button", { type: "button", textContent: session.path(i).slice(1).map((k) => session.nodes[k].action).join(" → ") || "The beginning", onclick: () => stand(i) })))] : []));
  if (mode !== "predict") setMode(mode);
  $("undo").disabled = session.at === 0;
  $("candidates").replaceChildren();
  $("tools").hidden = !shown;
  $("empty").hidden = false;
  for (const button of $("examples").children) button.setAttribute("aria-pressed", session.source.example === Number(button.dataset.example));
  suggest();
  write(session.toJson());
}

async function undo() {
  if (session.at === 0) return;
  const { action, parent } = session.now;
  $("action").value = action; // before anything is awaited: what is typed meanwhile stays
  say(`Undone: ${action}.`);
  await stand(parent);
}

function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  say(`Saved ${name}.`);
}

const film = () => session.path().map((i) => ({ bitmap: session.nodes[i].frame.bitmap, caption: session.nodes[i].action || "start" }));

/** The same nodes again: the server samples the same candidates from the same seeds. */
async function restore(state) {
  await guarded(async () => {
    if (state?.retrodict !== 1 || !Array.isArray(state.nodes)) throw new ServerError(0, "This is no saved session.");
    session.begin(state.source, await sourceFrame(state.source));
    for (const node of state.nodes) {
      const from = session.nodes[node.parent], candidates = await ask(node.action, node.seed, from.frame), c = candidates.find((one) => one.candidate === node.pick);
      if (!c) throw new ServerError(0, "A step of this session cannot be made again with this server's settings.");
      session.nodes.push({ ...node, frame: c.frame, score: c.scores[node.verifier] ?? null });
    }
    session.at = Math.min(Math.max(0, state.at | 0), session.nodes.length - 1);
    await render();
    await look();
  });
}

// --- wiring -------------------------------------------------------------------------------------

function showExamples(open) {
  $("examples").hidden = !open;
  $("open-examples").setAttribute("aria-expanded", open);
}

$("ask").addEventListener("submit", (event) => { event.preventDefault(); predict(); });
$("action").addEventListener("input", suggest);
$("more").addEventListener("click", () => { hints += 30; suggest(); });
$("verifier").addEventListener("change", cards);
$("open-examples").addEventListener("click", () => { stopDrawing(); showExamples($("examples").hidden); });
$("open-draw").addEventListener("click", () => (drawing ? stopDrawing() : startDrawing()));
$("clear").addEventListener("click", () => redraw(() => []));
$("open-file").addEventListener("click", () => { $("file").value = ""; $("file").click(); });
$("file").addEventListener("change", () => { const [file] = $("file").files; if (file) { const was = mode; mode = "predict"; openFile(file).finally(() => { mode = was; }); } });
$("open-other").addEventListener("click", () => { $("other-file").value = ""; $("other-file").click(); });
$("other-file").addEventListener("change", () => { if ($("other-file").files[0]) openFile($("other-file").files[0]); });
$("answer").addEventListener("click", answer);
$("undo").addEventListener("click", undo);
$("save-png").addEventListener("click", async () => save(await strip(film()), "film.png"));
$("save-gif").addEventListener("click", () => save(gif(film()), "film.gif"));
$("save-json").addEventListener("click", () => save(new Blob([JSON.stringify({ ...session.toJson(), model: models.id, inverse: models.inverse, version: models.version }, null, 1)], { type: "application/json" }), "film.json"));
$("link").addEventListener("click", async () => { await navigator.clipboard?.writeText(location.href).catch(() => {}); toast("The link to this session is copied."); });
for (const tab of document.querySelectorAll(".tab")) tab.addEventListener("click", () => setMode(tab.dataset.mode));

document.addEventListener("paste", (event) => { const file = [...(event.clipboardData?.files ?? [])][0]; if (file) { event.preventDefault(); openFile(file); } });
document.addEventListener("dragover", (event) => { event.preventDefault(); $("scene").classList.add("over"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("scene").classList.remove("over"); });
document.addEventListener("drop", (event) => { event.preventDefault(); $("scene").classList.remove("over"); const [file] = event.dataTransfer.files; if (file) openFile(file); });
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, textarea, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^[1-8]$/.test(event.key) && shown) { const c = ranked()[Number(event.key) - 1]; if (c) goOn(c); }
  else if (event.key === "u") undo();
  else if (event.key === "b") setView(view === "blink" ? "image" : "blink");
  else if (event.key === "d") setView(view === "difference" ? "image" : "difference");
  else if (event.key === "/") { event.preventDefault(); $("action").focus(); }
});

async function start() {
  const told = await guarded(async () => [await call("/v1/models"), await call("/play/world")]);
  if (!told) return;
  const [entry] = told[0].data;
  models = { id: entry.id, ...entry.retrodict };
  world = told[1];
  $("model").textContent = `Model ${models.id}${models.inverse === models.id ? "" : `, verified by ${models.inverse}`} · retrodict ${models.version}`;
  $("about").textContent = world.about;
  $("open-draw").hidden = !world.pieces.length;
  document.querySelector('[data-mode="plan"]').hidden = !models.plans;
  $("verifier").replaceChildren(...Object.entries(models.verifiers).filter(([v]) => v !== "random").map(([value, { title }]) => make("option", { value, textContent: title })));
  $("verifier").value = models.verifier;
  $("views").replaceChildren(...["image", "difference", "recognition", "blink"].filter((name) => name !== "recognition" || models.recognition).map((name) =>
    make("button", { type: "button", textContent: { image: "Image", difference: "Difference", recognition: "Recognition", blink: "Blink" }[name], "data-view": name, "aria-pressed": name === "image", onclick: () => setView(name) })));
  $("examples").replaceChildren(...Array.from({ length: world.examples }, (_, i) => make("button", { type: "button", "data-example": i, "aria-pressed": "false", "aria-label": `Example ${i + 1}`, onclick: () => guarded(async () => begin({ example: i }, await exampleFrame(i))) },
    make("img", { src: `/play/examples/${i}.png`, alt: "" }))));
  const state = read();
  if (state) await restore(state);
  if (!session.now.frame) await guarded(async () => begin({ example: 0 }, await exampleFrame(0)));
  document.body.dataset.ready = "true";
}

start();
