// One task after another. Every click is sent at once and sent again until the server says that it is saved; the server
// knows each click by its trial and revision, so that sending it twice changes nothing.

import { byId, choose, data, digit, goesOn, isOpen, isReady, isTyping, mark, notice, positions, prompt, say, show, words } from "./view.js";

const base = location.pathname.replace(/\/+$/, "");
const { points, limit } = data;
let task = data.task;
let moving = false; // between Next and the next task
let last = "worst"; // what Undo takes back first
const count = () => task.candidates.length;

// --- time for which the images are in view -------------------------------------------------------------------------------

let before = performance.now();

function clock() {
  const now = performance.now();
  if (isReady() && document.visibilityState === "visible") task.seconds += (now - before) / 1000;
  before = now;
  return Math.min(task.seconds, 86400);
}
document.addEventListener("visibilitychange", () => {
  const now = performance.now();
  if (isReady() && document.visibilityState === "hidden") task.seconds += (now - before) / 1000;
  before = now;
});

function cover() {
  const over = limit > 0 && isReady() && clock() >= limit;
  if (over && !document.querySelector("main").classList.contains("covered")) notice(words("time_up"));
  document.querySelector("main").classList.toggle("covered", over);
}
if (limit) setInterval(cover, 200);

// --- saving --------------------------------------------------------------------------------------------------------------

let queue = [];
let sending = false;

function save(done) {
  task.revision += 1;
  const { position, revision, best, worst, cant_tell, comment } = task;
  queue.push({ position, revision, best, worst, cant_tell, done, comment, ratings: [...task.ratings], seconds: clock() });
  send();
}

async function send() {
  if (sending) return;
  sending = true;
  let tries = 0;
  while (queue.length) {
    if (!tries) saved(words("saving"));
    const answer = await ask("judge", queue[0]);
    if (answer.trouble) {
      tries += 1;
      saved(words(answer.trouble), true);
      await new Promise((resolve) => setTimeout(resolve, Math.min(250 * 2 ** tries, 5000)));
      continue;
    }
    tries = 0;
    const click = queue[0];
    if (answer.conflict) { queue = []; } else { queue.shift(); }
    saved(answer.conflict ? "" : words("saved"));
    if (answer.conflict || click.done) await take(answer.state, answer.conflict ? words("elsewhere") : "");
  }
  sending = false;
}

/** Ask the server; `trouble` names the words for what went wrong where it did not answer, or something else did. */
async function ask(path, click = null) {
  try {
    const sent = click && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(click) };
    const response = await fetch(`${base}/${path}`, sent ?? {});
    if (!response.headers.has("X-Study")) return { trouble: response.ok ? "not_study" : "not_saved" };
    if ([400, 403, 404].includes(response.status)) { queue = []; location.reload(); return { trouble: "saving" }; }
    if (!response.ok && response.status !== 409) return { trouble: "not_saved" };
    const state = await response.json();
    if (response.status === 409) return { conflict: true, state };
    return click && state.saved !== click.revision ? { trouble: "not_study" } : { state };
  } catch {
    return { trouble: "not_saved" };
  }
}

function saved(text, trouble = false) {
  byId("saved").textContent = text;
  byId("saved").classList.toggle("trouble", trouble);
  if (trouble) say(text);
}
window.addEventListener("beforeunload", (event) => { if (queue.length) event.preventDefault(); });

// --- tasks ---------------------------------------------------------------------------------------------------------------

const early = new Map(); // images of the next tasks, kept so that the browser keeps them

async function take(state, text = "") {
  moving = false;
  if (state.finished) { location.assign(base); return; }
  task = state;
  last = "worst";
  await begin(text);
}

/** Show the task; its clock starts when all its images can be seen. */
async function begin(text = "") {
  const number = task.position + 1;
  byId("count").textContent = words("count", { n: number, total: task.total });
  byId("progress").value = task.position;
  byId("rest").hidden = !task.rest;
  byId("resting").textContent = words("rest", { n: task.position });
  byId("question").textContent = task.question;
  byId("question").hidden = !task.question;
  document.querySelector(".criteria").hidden = Boolean(task.question);
  document.querySelector("main").classList.remove("covered");
  if (byId("comment")) byId("comment").value = task.comment;
  const arrived = show(task);
  update();
  window.scrollTo(0, 0);
  say(`${words("say_task", { n: number, total: task.total, action: task.action })} ${task.question}`);
  if (text) notice(text);
  arrived.then((isCurrent) => {
    if (!isCurrent) return;
    before = performance.now();
    update();
    if (text) notice(text);
    for (const address of task.later) {
      if (!early.has(address)) { const image = new Image(); image.src = address; early.set(address, image); }
    }
    for (const address of [...early.keys()].slice(0, -60)) early.delete(address);
  });
}

const isEmpty = () => !task.cant_tell && task.best === null && task.worst === null && task.ratings.every((value) => value === null);
const isComplete = () => task.cant_tell || (points ? !task.ratings.includes(null) : task.best !== null && task.worst !== null);

function update() {
  mark(task);
  byId("cant").setAttribute("aria-pressed", String(task.cant_tell));
  byId("cant").disabled = !isReady();
  byId("next").disabled = !isReady() || !isComplete();
  byId("undo").disabled = task.position === 0 && isEmpty();
  byId("prompt").textContent = task.cant_tell ? words("said_cant")
    : points ? words(isComplete() ? "ask_next" : "ask_rate") : prompt(task, count(), "ask_next");
}

const isStill = () => moving || !isReady();

function pick(kind, position) {
  if (isStill() || points || position >= count() || task[kind] === position) return;
  choose(task, kind, position, count());
  task.cant_tell = false;
  last = kind;
  change(words(kind === "best" ? "say_best" : "say_worst", { n: position + 1 }));
}

function rate(position, value) {
  if (isStill() || position < 0 || value > points || task.ratings[position] === value) return;
  task.ratings[position] = value;
  task.cant_tell = false;
  change(words("rate", { n: position + 1, value, points }));
}

function change(text) {
  task.done = false;
  notice("");
  update();
  save(false);
  say(`${text} ${byId("prompt").textContent}`);
}

function cantTell() {
  if (isStill()) return;
  task.cant_tell = !task.cant_tell;
  task.best = task.worst = null;
  task.ratings.fill(null);
  change("");
}

/** Take back what was chosen last; with nothing chosen, or a task that is done, look at the one before. */
async function undo() {
  if (moving) return;
  if (!task.done && !isEmpty()) { takeBack(); return; }
  if (task.position === 0 || queue.length) return;
  moving = true;
  const answer = await ask(`task?position=${task.position - 1}`);
  moving = false;
  if (answer.trouble) { notice(words("no_connection"), true); return; }
  await take(answer.state, words("back_to", { n: task.position }));
}

function takeBack() {
  if (task.cant_tell) { cantTell(); return; }
  if (points) {
    task.ratings[task.ratings.findLastIndex((value) => value !== null)] = null;
  } else {
    const kind = task[last] !== null ? last : task.worst !== null ? "worst" : "best";
    task[kind] = null;
    if (count() === 2) task.best = task.worst = null;
    last = kind === "worst" ? "best" : "worst";
  }
  change(words("say_back"));
}

function next() {
  if (isStill() || !isComplete()) return;
  moving = true;
  byId("next").disabled = true;
  save(true);
}

/** Which candidate a digit rates: the one with the focus, else the first without a rating. */
function rated() {
  const focused = positions.findIndex((item) => item.contains(document.activeElement));
  return focused >= 0 ? focused : task.ratings.indexOf(null);
}

positions.forEach((item, i) => {
  item.querySelector(".best")?.addEventListener("click", () => pick("best", i));
  item.querySelector(".worst")?.addEventListener("click", () => pick("worst", i));
  for (const button of item.querySelectorAll(".rate")) button.addEventListener("click", () => rate(i, Number(button.dataset.value)));
});
byId("next").addEventListener("click", next);
byId("undo").addEventListener("click", undo);
byId("cant").addEventListener("click", cantTell);
byId("rested").addEventListener("click", () => { byId("rest").hidden = true; byId("action").focus(); });
byId("comment")?.addEventListener("change", (event) => { task.comment = event.target.value; if (!isStill()) save(task.done); });
byId("comment")?.addEventListener("input", (event) => { task.comment = event.target.value; });
document.addEventListener("keydown", (event) => {
  if (isTyping(event) || isOpen() || event.repeat) return;
  const key = digit(event);
  if (key === 0 && !event.shiftKey) { event.preventDefault(); cantTell(); }
  if (key > 0) { event.preventDefault(); if (points) { rate(rated(), key); } else { pick(event.shiftKey ? "worst" : "best", key - 1); } }
  if (event.key === "Backspace") { event.preventDefault(); undo(); }
  if (goesOn(event)) { event.preventDefault(); next(); }
});
begin();
