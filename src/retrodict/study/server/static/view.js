// What the training page and the task page share: words, images, picks, enlarging, holding to see the scene before.

export const byId = (name) => document.getElementById(name);
export const data = JSON.parse(byId("data").textContent);
export const positions = [...document.querySelectorAll(".candidate")];
const main = document.querySelector("main");

/** The words of this name, with `{fields}` filled in. */
export const words = (name, fields = {}) => data.words[name].replace(/\{(\w+)\}/g, (_, field) => fields[field] ?? "");

export const say = (text) => { byId("live").textContent = text; }; // read aloud only

/** What concerns the rater: seen, and read aloud. */
export function notice(text, trouble = false) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
  byId("notice").classList.toggle("trouble", trouble);
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// --- images: shown together, once all of them can be seen ---------------------------------------------------------------

const SLOW = 700; // milliseconds after which the page says that it waits
const STALLED = 60000; // milliseconds after which an image is asked for again
let sources = { source: "", candidates: [] };
let shown = 0; // counts tasks: an image of the one before must not be taken for one of this
let ready = false;

export const isReady = () => ready;

/** Put a task's images and its sentence on the page; true once all images are decoded, false when another task came first. */
export async function show(task) {
  const turn = ++shown;
  setReady(false);
  notice("");
  sources = task;
  byId("action").textContent = task.action;
  const [width, height] = task.size;
  main.style.setProperty("--ratio", width / height);
  const all = [[byId("source"), task.source, words("scene_before_of", { action: task.action })]];
  positions.forEach((item, i) => {
    item.hidden = i >= task.candidates.length;
    if (item.hidden) return;
    all.push([item.querySelector(".after"), task.candidates[i], words("candidate", { n: i + 1 })]);
    all.push([item.querySelector(".before"), task.source, ""]);
  });
  for (const [image, , text] of all) { image.removeAttribute("src"); image.alt = text; image.width = width; image.height = height; }
  const slow = setTimeout(() => { if (turn === shown && !ready && byId("notice").hidden) notice(words("loading")); }, SLOW);
  await Promise.all(all.map(([image, address]) => arrive(image, address, turn)));
  clearTimeout(slow);
  if (turn !== shown) return false;
  notice("");
  setReady(true);
  return true;
}

/** Ask for an image until it is there, or another task is shown. */
async function arrive(image, address, turn) {
  for (let tries = 1; turn === shown; tries += 1) {
    image.src = address;
    const decoded = image.decode().then(() => image.naturalWidth > 0, () => false);
    if (await Promise.race([decoded, sleep(STALLED).then(() => false)])) return;
    if (turn !== shown) return;
    notice(words("load_failed"), true);
    await sleep(Math.min(250 * 2 ** tries, 5000));
    if (turn === shown) image.removeAttribute("src");
  }
}

function setReady(on) {
  ready = on;
  main.classList.toggle("loading", !on);
  for (const button of main.querySelectorAll(".picks button")) button.disabled = !on;
}

export function mark({ best, worst, ratings = [] }) {
  positions.forEach((item, i) => {
    item.classList.toggle("is-best", i === best);
    item.classList.toggle("is-worst", i === worst);
    item.querySelector(".best")?.setAttribute("aria-pressed", String(i === best));
    item.querySelector(".worst")?.setAttribute("aria-pressed", String(i === worst));
    for (const button of item.querySelectorAll(".rate")) button.setAttribute("aria-pressed", String(Number(button.dataset.value) === ratings[i]));
  });
}

/** Choose the best or the worst. The two differ, and of two candidates one being the best makes the other the worst. */
export function choose(choice, kind, position, count) {
  const other = kind === "best" ? "worst" : "best";
  choice[kind] = position;
  if (choice[other] === position) choice[other] = null;
  if (count === 2) choice[other] = 1 - position;
}

/** The words above the candidates, while the best and the worst are being chosen. */
export function prompt({ best, worst }, count, end) {
  if (best === null) return words(count === 2 ? "ask_better" : "ask_best");
  return words(worst === null ? "ask_worst" : end);
}

/** The number of a digit key, on any layout and on the number pad; null for other keys. */
export function digit(event) {
  const key = /^(?:Digit|Numpad)([0-9])$/.exec(event.code);
  return key ? Number(key[1]) : null;
}

export const isTyping = (event) => event.ctrlKey || event.metaKey || event.altKey || Boolean(event.target.closest?.("textarea"));

// Enter on a button that is not pressed yet presses it, as everywhere; otherwise it goes on.
export const goesOn = (event) => event.key === "Enter" && !event.target.closest?.("button:not([aria-pressed='true']), a");

// --- holding -------------------------------------------------------------------------------------------------------

let holding = false;

export function hold(on) {
  if (on === holding) return;
  holding = on;
  document.body.classList.toggle("holding", on);
  byId("zoomimage").src = zoomed === null ? "" : address(on ? "source" : zoomed);
  if (on) say(words("say_before"));
}

for (const button of document.querySelectorAll("button.hold")) {
  button.addEventListener("pointerdown", (event) => { button.setPointerCapture(event.pointerId); hold(true); });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture", "blur"]) button.addEventListener(end, () => hold(false));
  button.addEventListener("keydown", (event) => { if (event.code === "Space") { event.preventDefault(); hold(true); } });
  button.addEventListener("keyup", (event) => { if (event.code === "Space") { event.preventDefault(); hold(false); } });
  button.addEventListener("contextmenu", (event) => event.preventDefault());
}
document.addEventListener("keydown", (event) => { if (event.code === "KeyF" && !isTyping(event)) { event.preventDefault(); hold(true); } });
document.addEventListener("keyup", (event) => { if (event.code === "KeyF") hold(false); });
window.addEventListener("blur", () => hold(false));

// --- enlarging -----------------------------------------------------------------------------------------------------

const dialog = byId("zoom");
const SCALES = [1, 2, 4];
let zoomed = null; // "source" or a candidate's position
let scale = 0;

const address = (what) => (what === "source" ? sources.source : sources.candidates[what]);

export const isOpen = () => dialog.open || byId("help").open;

export function enlarge(what) {
  if (!ready || main.classList.contains("covered")) return;
  zoomed = what;
  byId("zoomimage").src = address(what);
  byId("zoomimage").alt = what === "source" ? words("scene_before") : words("candidate", { n: what + 1 });
  byId("zoomname").textContent = what === "source" ? words("zoom_before") : words("candidate", { n: what + 1 });
  if (!dialog.open) { resize(0); dialog.showModal(); }
}

function step(by) {
  const all = ["source", ...sources.candidates.map((_, i) => i)];
  enlarge(all[(all.indexOf(zoomed) + by + all.length) % all.length]);
}

function resize(to) {
  scale = Math.min(SCALES.length - 1, Math.max(0, to));
  dialog.dataset.scale = String(SCALES[scale]);
}

const zoomActions = {
  previous: () => step(-1), next: () => step(1), out: () => resize(scale - 1), in: () => resize(scale + 1),
  close: () => dialog.close(), hold: () => {},
};
for (const button of dialog.querySelectorAll("[data-zoom]")) button.addEventListener("click", zoomActions[button.dataset.zoom]);
byId("zoomimage").addEventListener("click", () => resize(scale === SCALES.length - 1 ? 0 : scale + 1));
dialog.addEventListener("close", () => { zoomed = null; hold(false); });
// Back on the task, not on the button that opened the dialog: Enter must go on, not open it again.
for (const one of [dialog, byId("help")]) one.addEventListener("close", () => byId("action").focus({ preventScroll: true }));
dialog.addEventListener("keydown", (event) => {
  const [left, right] = document.dir === "rtl" ? ["next", "previous"] : ["previous", "next"];
  const action = { ArrowLeft: left, ArrowRight: right, "+": "in", "=": "in", "-": "out" }[event.key];
  if (action) { event.preventDefault(); zoomActions[action](); }
});
for (const button of document.querySelectorAll("main button.image")) {
  const what = button.dataset.position ?? Number(button.closest(".candidate").dataset.position);
  button.addEventListener("click", () => enlarge(what));
}
document.addEventListener("keydown", (event) => {
  if (event.code === "KeyZ" && !isTyping(event) && !isOpen()) { event.preventDefault(); enlarge(0); }
});
byId("keys").addEventListener("click", () => byId("help").showModal());
