// What happened between two images, and how to get from one to another.

const QUESTIONS = {
  predict: { title: "What happens next?" },
  explain: { title: "What happened?", about: "Between two images: open one, press a frame of the film, or ask about the last step.", from: "Before", other: "After", go: "What happened?" },
  plan: { title: "How to get there?", about: "Open an image of the goal, or press a frame of the film: the inverse model proposes actions, the forward model imagines them.", from: "Start", other: "Goal", go: "Plan" },
};

function setMode(name) {
  mode = name;
  turn("answer");
  for (const tab of document.querySelectorAll(".tab")) tab.setAttribute("aria-pressed", tab.dataset.mode === mode);
  for (const element of document.querySelectorAll(".for-predict")) element.classList.toggle("away", mode !== "predict");
  document.querySelector(".for-other").hidden = mode === "predict";
  const question = QUESTIONS[mode];
  $("ask-title").textContent = question.title;
  $("other-about").textContent = question.about ?? "";
  $("other-title").textContent = question.other ?? "";
  $("answer").textContent = question.go ?? "";
  $("answered").replaceChildren();
  if (mode === "predict") return;
  other = null;
  $("answer").disabled = true;
  if (mode === "explain" && session.at > 0) setOther(session.now.frame, "the last step", session.nodes[session.now.parent].frame);
  else setBefore(session.now.frame, "the scene on the left");
}

function setBefore(frame, caption) {
  paint($("before"), frame.bitmap);
  $("before").setAttribute("aria-label", caption);
  $("before-title").textContent = `${QUESTIONS[mode].from}: ${caption}`;
}

function setOther(frame, caption, before = null) {
  other = { frame, before };
  turn("answer");
  setBefore(before ?? session.now.frame, before ? "one step earlier" : "the scene on the left");
  paint($("other"), frame.bitmap);
  $("other").setAttribute("aria-label", caption);
  $("other-title").textContent = `${QUESTIONS[mode].other}: ${caption}`;
  $("answer").disabled = false;
  $("answered").replaceChildren();
}

async function answer() {
  const source = (other.before ?? session.now.frame).blob, target = other.frame.blob, mine = turn("answer");
  $("answered").replaceChildren(make("span", { className: "spin", role: "img", "aria-label": "The model reads" }));
  const made = await guarded(() => (mode === "explain" ? explained(source, target) : planned(source, target)));
  if (mine()) $("answered").replaceChildren(...(made ?? []));
}

async function explained(source, target) {
  const read = await call("/v1/explain", { source, target, alternatives: 5 }), all = [read, ...read.alternatives];
  const total = all.reduce((sum, e) => sum + (e.logprob === null ? 0 : Math.exp(e.logprob)), 0);
  const body = make("tbody", {}, ...all.map((e) => make("tr", {}, make("td", { textContent: e.action }), make("td", { textContent: e.logprob === null ? "–" : `${(100 * Math.exp(e.logprob)).toFixed(1)} %` }), make("td", { textContent: number(e.logprob) }))));
  const head = make("thead", {}, make("tr", {}, ...["In words", "Probability", "log p"].map((textContent) => make("th", { textContent, scope: "col" }))));
  return [make("p", { className: "big", textContent: read.action || "No words." }), make("p", { className: "quiet", textContent: read.logprob === null ? "This model gives no likelihood." : `Its likelihood among these ${all.length} sentences: ${Math.round((100 * Math.exp(read.logprob)) / total)} %. A sentence can be right in several wordings.` }), make("table", {}, head, body)];
}

async function planned(source, target) {
  const plan = await call("/v1/plan", { source, target, steps: 3 });
  if (!plan.reached) return [make("p", { className: "big", textContent: "No plan found." }), make("p", { className: "quiet", textContent: `${plan.predictions} predictions were imagined.` })];
  if (!plan.steps.length) return [make("p", { className: "big", textContent: "Nothing is to be done." })];
  const steps = plan.steps.map((step, i) => make("p", { textContent: `${i + 1}. ${step.action} (${step.probability.toFixed(2)})` }));
  return [make("p", { className: "big", textContent: `${plan.steps.length} ${plan.steps.length > 1 ? "actions" : "action"}, confidence ${plan.confidence.toFixed(2)}` }), ...steps,
    make("button", { type: "button", className: "primary", textContent: "Play it", onclick: () => playPlan(plan.steps.map((s) => s.action)) })];
}

async function playPlan(actions) {
  setMode("predict");
  for (const action of actions) {
    $("action").value = action;
    await predict();
    if (!shown) return;
    await goOn(ranked()[0]);
  }
}
