// Worked examples: choose, then read what we would say of each candidate.

import { byId, choose, data, digit, goesOn, isOpen, isReady, isTyping, mark, positions, prompt, say, show, words } from "./view.js";

const { lessons } = data;
const chosen = []; // "best-worst" of each example, as first chosen
let number = 0;
let choice = { best: null, worst: null };
const count = () => lessons[number].candidates.length;

async function begin() {
  choice = { best: null, worst: null };
  byId("number").textContent = words("example_of", { n: number + 1, total: lessons.length });
  byId("next").textContent = words(number + 1 < lessons.length ? "example_next" : "example_begin");
  positions.forEach((item) => { item.querySelector(".remark").hidden = true; });
  byId("verdict").textContent = "";
  update();
  await show(lessons[number]);
}

function pick(kind, position) {
  if (!isReady() || position >= count()) return;
  choose(choice, kind, position, count());
  update();
}

function update() {
  mark(choice);
  byId("prompt").textContent = prompt(choice, count(), "example_read");
  const complete = choice.best !== null && choice.worst !== null;
  if (complete) explain();
  byId("next").disabled = !complete;
}

const isRight = () => choice.best === lessons[number].best && choice.worst === lessons[number].worst;

function explain() {
  const lesson = lessons[number];
  chosen[number] ??= `${choice.best}-${choice.worst}`;
  positions.slice(0, count()).forEach((item, i) => {
    const remark = item.querySelector(".remark");
    remark.textContent = lesson.remarks[i];
    remark.hidden = false;
  });
  byId("verdict").textContent = isRight() ? words("example_same") : words("example_ours", { best: lesson.best + 1, worst: lesson.worst + 1 });
}

function next() {
  if (byId("next").disabled) return;
  number += 1;
  if (number === lessons.length) {
    byId("next").disabled = true;
    byId("chosen").value = chosen.join(",");
    byId("trained").submit();
    return;
  }
  begin();
  window.scrollTo(0, 0);
  byId("action").focus({ preventScroll: true });
  say(`${words("example_of", { n: number + 1, total: lessons.length })}. ${lessons[number].action}`);
}

positions.forEach((item, i) => {
  item.querySelector(".best").addEventListener("click", () => pick("best", i));
  item.querySelector(".worst").addEventListener("click", () => pick("worst", i));
});
byId("next").addEventListener("click", next);
document.addEventListener("keydown", (event) => {
  if (isTyping(event) || isOpen() || event.repeat) return;
  const key = digit(event);
  if (key > 0) { event.preventDefault(); pick(event.shiftKey ? "worst" : "best", key - 1); }
  if (goesOn(event)) { event.preventDefault(); next(); }
});
begin();
