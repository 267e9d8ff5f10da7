// Scenes that are drawn: pieces are put on the cells of the world's grid.

const composed = (placed) => call(`/play/scene?${new URLSearchParams(placed.map(([piece, x, y]) => ["place", `${piece}@${x},${y}`]))}`);

function startDrawing() {
  if (!world?.pieces.length) return;
  const colours = [...new Set(world.pieces.map((p) => p.split(" ")[0]))], kinds = [...new Set(world.pieces.map((p) => p.split(" ").slice(1).join(" ")))].filter(Boolean);
  const single = world.pieces.filter((p) => !p.includes(" "));
  drawing = { placed: session.now.placed ?? [], colour: colours.find((c) => !single.includes(c)), kind: kinds[0], last: Promise.resolve() };
  $("colours").replaceChildren(...colours.filter((c) => !single.includes(c)).map((c) =>
    make("button", { type: "button", "aria-label": c, title: c, "aria-pressed": c === drawing.colour, style: `background:${c}`, onclick: () => pick({ colour: c }) })));
  $("shapes").replaceChildren(...[...kinds, ...single].map((k) =>
    make("button", { type: "button", textContent: k, "aria-pressed": k === drawing.kind, onclick: () => pick({ kind: k }) })));
  $("draw").hidden = false;
  $("cells").hidden = false;
  $("open-draw").setAttribute("aria-expanded", "true");
  showExamples(false);
  cells();
}

function pick(choice) {
  Object.assign(drawing, choice);
  for (const [id, chosen] of [["colours", drawing.colour], ["shapes", drawing.kind]])
    for (const button of $(id).children) button.setAttribute("aria-pressed", (button.title || button.textContent) === chosen);
}

function stopDrawing() {
  drawing = null;
  $("draw").hidden = true;
  $("cells").hidden = true;
  $("open-draw").setAttribute("aria-expanded", "false");
}

function cells() {
  const [columns, rows] = world.grid, there = new Map(drawing.placed.map(([piece, x, y]) => [`${x},${y}`, piece]));
  $("cells").style.gridTemplate = `repeat(${rows}, 1fr) / repeat(${columns}, 1fr)`;
  const at = document.activeElement?.dataset?.cell;
  $("cells").replaceChildren(...Array.from({ length: rows * columns }, (_, i) => {
    const x = i % columns, y = rows - 1 - Math.floor(i / columns), piece = there.get(`${x},${y}`);
    return make("button", { type: "button", "data-cell": `${x},${y}`, "aria-label": `Column ${x + 1}, height ${y + 1}: ${piece ?? "empty"}`, onclick: () => place(x, y), onkeydown: (event) => walk(event, x, y) });
  }));
  if (at) $("cells").querySelector(`[data-cell="${at}"]`)?.focus();
}

function walk(event, x, y) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  if (!step) return;
  event.preventDefault();
  $("cells").querySelector(`[data-cell="${x + step[0]},${y + step[1]}"]`)?.focus();
}

function place(x, y) {
  const piece = world.pieces.includes(drawing.kind) ? drawing.kind : `${drawing.colour} ${drawing.kind}`;
  redraw((placed) => {
    const rest = placed.filter(([, a, b]) => a !== x || b !== y);
    return rest.length === placed.length ? [...rest, [piece, x, y]] : rest;
  });
}

/** One change after the other: a click adds to what the one before it left. */
function redraw(change) {
  const mine = drawing;
  mine.last = mine.last.then(() => guarded(async () => {
    const made = await composed(change(mine.placed));
    mine.placed = made.placed;
    await begin({ placed: made.placed }, await frameOf(fromBase64(made.image)), { keep: true });
    if (drawing === mine) cells();
    say(made.placed.length ? `On the table: ${made.placed.map(([p]) => p).join(", ")}.` : "The table is empty.");
  }));
}
