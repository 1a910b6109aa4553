# SPDX-License-Identifier: Apache-2.0
"""The page of `perception.oddity_play`: one riddle at a time, answered by click or key 1 ... 6."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Which one is odd?</title>
<style>
  body { font: 16px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 46rem;
         padding: 0 1rem; color: #222; background: #f4f4f2; }
  h1 { font-size: 1.4rem; margin: 0 0 .3rem; }
  #frames { display: grid; grid-template-columns: repeat(3, 1fr); gap: 12px; margin: 1rem 0; }
  #frames button { padding: 0; border: 4px solid #bbb; border-radius: 6px; background: none;
                   cursor: pointer; line-height: 0; position: relative; }
  #frames button:hover:enabled, #frames button:focus-visible { border-color: #357; outline: none; }
  #frames button.right { border-color: #2a8a3e; }
  #frames button.wrong { border-color: #c33; }
  #frames img { width: 100%; image-rendering: auto; border-radius: 2px; }
  #frames span { position: absolute; left: 6px; top: 4px; font: 12px/1 monospace; color: #777; }
  #message { min-height: 3em; }
  #next { font: inherit; padding: .4rem 1.2rem; }
  table { border-collapse: collapse; width: 100%; margin-top: 1rem; font-size: .92rem; }
  th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid #ddd; }
  th:first-child, td:first-child { text-align: left; }
  .error { color: #a00; }
</style>
</head>
<body>
<h1>Which one is odd?</h1>
<p>Five of the six pictures follow one rule, one breaks it. Click it, or press 1 to 6.</p>
<div id="frames" aria-label="six pictures"></div>
<p id="message" role="status"></p>
<p><button id="next" hidden>Next riddle (Enter)</button></p>
<div id="scores"></div>
<script>
"use strict";
const frames = document.getElementById("frames"), message = document.getElementById("message");
const next = document.getElementById("next"), scores = document.getElementById("scores");
let number = null, shown = 0, answered = true;

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)};
  const reply = await fetch(path, options);
  const value = await reply.json();
  if (!reply.ok) throw new Error(value.error);
  return value;
}

function say(text, error) {
  message.textContent = text;
  message.className = error ? "error" : "";
}

async function show() {
  next.hidden = true;
  say("");
  try {
    const riddle = await ask("/riddle");
    number = riddle.number;
    frames.replaceChildren(...riddle.frames.map((source, k) => {
      const button = document.createElement("button"), image = document.createElement("img");
      const label = document.createElement("span");
      image.src = source;
      image.alt = "picture " + (k + 1);
      label.textContent = k + 1;
      button.append(image, label);
      button.onclick = () => answer(k);
      return button;
    }));
    answered = false;
    shown = performance.now();
  } catch (problem) { say(problem.message, true); }
}

async function answer(choice) {
  if (answered) return;
  answered = true;
  const seconds = (performance.now() - shown) / 1000;
  try {
    const result = await ask("/answer", {number, choice, seconds});
    const buttons = [...frames.children];
    buttons.forEach(b => b.disabled = true);
    buttons[result.label].classList.add("right");
    if (!result.correct) buttons[choice].classList.add("wrong");
    say((result.correct ? "Right. " : "Wrong: it is picture " + (result.label + 1) + ". ")
        + "The rule: " + result.name + ".");
    table(result.scores);
    next.hidden = false;
    next.focus();
  } catch (problem) { answered = false; say(problem.message, true); }
}

function row(cells, kind) {
  const line = document.createElement("tr");
  for (const cell of cells) {
    const box = document.createElement(kind);
    box.textContent = cell;
    line.append(box);
  }
  return line;
}

const percent = x => x === null ? "" : (100 * x).toFixed(0) + " %";

function table(score) {
  const grid = document.createElement("table");
  grid.append(row(["Family", "Riddles", "You", "95 % interval", "Chance", ...score.models], "th"));
  for (const r of score.rows) {
    const interval = r.low === null ? "" : percent(r.low) + " to " + percent(r.high);
    grid.append(row([r.family, r.answered, percent(r.share), interval, percent(score.chance),
                     ...r.models.map(percent)], "td"));
  }
  scores.replaceChildren(grid);
}

next.onclick = show;
document.onkeydown = event => {
  const k = "123456".indexOf(event.key);
  if (event.key.length === 1 && k >= 0) answer(k);
};
ask("/scores").then(table).catch(problem => say(problem.message, true));
show();
</script>
</body>
</html>
"""
