// The page of a model: write with it, look inside, open another. All that computes is
// in the engine, the global `charlm`; here is what can be seen and pressed.
//
// Names, alphabets and texts come from files: they are only ever set as text.

(() => {
"use strict";

const MOST = 20000; // characters written in one go
const MAPS = 16; // layers, and heads of each, that are shown at most
const CELLS = 24; // of the small map of a head

const $ = id => document.getElementById(id);

let model = null; // what is open: a handle of the engine
let text = []; // the characters that stand there
let typed = []; // for each: was it typed (or put there) by the reader?
let nats = []; // for each but the first: its surprise, as far as it is known
let at = 0; // the place looked at, from 0 to text.length
let looked = {before: []}; // what the bars and maps say, and after which characters
let writing = false, follows = true; // does the cursor go along with the writing?
let loads = 0, writes = 0, looks = 0; // the newest counts, what is older is dropped

// ------------------------------------------------------------------- Small helpers

function element(tag, className = "", content = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = content;
  return made;
}

// A line is set only if it changes, so that it is read out once
function say(id, line) {
  if ($(id).textContent !== line) $(id).textContent = line;
}

// What went wrong, in one line
function wrong(id, error) {
  const known = error instanceof charlm.BadInput;
  say(id, known ? error.message : `something went wrong: ${error?.message ?? error}`);
}

const commas = n => n.toLocaleString("en-US");
const escaped = name => charlm.repr(name).slice(1, -1);
const lens = () => document.querySelector("[name=lens]:checked").value;

// A character as it can be seen, and what it is called
function visible(char) {
  if (char === " ") return "␣";
  if (char === "\n") return "↵";
  if (/\p{M}/u.test(char)) return "◌" + char;
  return char === "\\" ? char : escaped(char);
}

function called(char) {
  return {" ": "space", "\n": "line end"}[char] ?? `“${visible(char)}”`;
}

function percent(p) {
  if (p > 0 && p < 0.0005) return "< 0.1 %";
  return `${(100 * p).toFixed(1)} %`;
}

function after(ms, act) { // only the last of several calls counts
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, ms);
  };
}

// --------------------------------------------------------------------- Open a model

async function load(name, get) { // get: () -> a promise of a Blob or Uint8Array
  const turn = ++loads, shown = charlm.shown(name, escaped);
  say("file-wrong", "");
  say("loading", `Reading ${shown}…`);
  let fresh;
  try {
    fresh = await charlm.open(await get(), name);
    if (turn === loads) use(fresh, shown);
    else fresh.close();
  } catch (e) {
    if (turn === loads) wrong("file-wrong", e);
  }
  if (turn === loads) say("loading", "");
}

function load_file(file) {
  load(file.name, async () => {
    try { await file.slice(0, 1).arrayBuffer(); }
    catch { throw new charlm.BadInput(`${file.name} can't be read; is it a file?`); }
    return file;
  });
}

// From here on this model writes
function use(fresh, name) {
  const first = !model;
  writes++;
  looks++;
  model?.close();
  model = fresh;
  set_writing(false);
  document.querySelectorAll("[data-needs]").forEach(x => { x.disabled = false; });
  const {kind, config, num_params, verified, alphabet} = model;
  say("name", name);
  say("facts", [kind, `${commas(num_params)} parameters`,
    `${config.n_layer} × ${config.n_head} heads`,
    `looks back ${commas(config.block_size)} characters`,
    verified ? "✓ checksum verified" : "checksum not verified in this browser",
  ].join(" · "));
  say("known", `Knows ${commas(alphabet.vocab_size)} characters`);
  say("chars", alphabet.chars.slice(0, 2000).map(visible).join(" "));
  $("alphabet").hidden = false;
  make_maps(config);
  const hello = "ROMEO:", knows = char => alphabet.numbers.has(char);
  if (first && !$("prompt").value && Array.from(hello).every(knows))
    $("prompt").value = hello;
  say("status", "");
  say("speed", "");
  begin();
}

// The model inside this page
function built_in() {
  const found = $("model");
  if (!found) return false;
  const raw = atob(found.textContent.trim()), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  load(found.dataset.name || "model", async () => bytes);
  found.remove();
  return true;
}

// Models beside this page, fetched when asked for, and only from where it came from
function beside(already) {
  let models = [];
  const said = document.querySelector("meta[name=charlm-models]")?.content;
  try { models = JSON.parse(said ?? "[]"); } catch { /* then none are offered */ }
  for (const {name, title, file, bytes} of models) {
    const address = new URL(file, location);
    if (address.origin !== location.origin) continue;
    const get = async () => {
      const answer = await fetch(address).catch(() => null);
      if (answer?.ok) return new Uint8Array(await answer.arrayBuffer());
      throw new charlm.BadInput(`${name} could not be fetched; is its server running?`);
    };
    const size = `${(bytes / 1e6).toFixed(1)} MB`;
    const button = element("button", "", `${title ?? name} (${size})`);
    button.type = "button";
    button.onclick = () => load(name, get);
    $("sources").prepend(button);
    if (!already && location.hash === `#${name}`) button.click();
  }
}

// ---------------------------------------------------------------- What is asked for

// The prompt's characters; null: one is unknown, and named beside it
function prompt_chars() {
  if (!model) return null;
  let chars = null;
  say("prompt-wrong", "");
  try {
    const opening = charlm.opening(model.alphabet, $("prompt").value || null);
    model.alphabet.ids(opening);
    chars = Array.from(opening);
  } catch (e) { wrong("prompt-wrong", e); }
  $("prompt").ariaInvalid = String(!chars);
  return chars;
}

// A whole number as it stands in its field, null: nothing does
function whole(name, most = Infinity) {
  const said = $(name).value.trim(), [least, limit, words] = charlm.LIMITS[name];
  const number = /^\d{1,30}$/.test(said) ? BigInt(said) : -1n;
  const fits = least <= number && number <= limit, few = !fits || !(number > most);
  $(name).ariaInvalid = String(said !== "" && !(fits && few));
  if (!said) return null;
  if (!fits) throw new charlm.BadInput(
    `${name} is ${charlm.shown(said)}; it must be ${words}`);
  if (!few) throw new charlm.BadInput(
    `length is ${said}; this page writes at most ${commas(most)} characters at once`);
  return said;
}

// How it draws
function drawing() {
  const top_p = Number($("top_p").value), top_k = whole("top_k");
  return {temperature: Number($("temperature").value), top_k: top_k && Number(top_k),
    top_p: top_p === 1 ? null : top_p};
}

// All that there is to say about writing; null: something is wrong, and named
function settings() {
  say("how-wrong", "");
  try {
    const how = drawing(), length = Number(whole("length", MOST) ?? 500);
    const seed = whole("seed") ?? new_seed();
    return {...how, length, seed};
  } catch (e) {
    wrong("how-wrong", e);
    return null;
  }
}

function new_seed() {
  const [chance] = crypto.getRandomValues(new Uint32Array(1));
  $("seed").value = chance % 1000000;
  $("seed").ariaInvalid = "false";
  return $("seed").value;
}

// ------------------------------------------------------------------ The text

let spans = []; // one for each character
const caret = element("span", "after"); // the place after the last one

function show(chars, by_reader) {
  [text, typed, nats, spans, at] = [[], [], [], [], 0];
  $("text").replaceChildren();
  append(chars, by_reader);
}

function append(chars, by_reader = []) {
  const box = $("text"), scrolled = box.scrollTop + box.clientHeight;
  const low = box.scrollHeight - scrolled < 48;
  let line = text.at(-1) === "\n" ? null : box.lastElementChild;
  chars.forEach((char, i) => {
    if (!line) line = box.appendChild(element("div"));
    const span = element("span", char === "\n" ? "end" : "", char);
    span.classList.toggle("given", !!by_reader[i]);
    line.append(span);
    spans.push(span);
    text.push(char);
    typed.push(!!by_reader[i]);
    if (char === "\n") line = null;
  });
  if (!line) line = box.appendChild(element("div"));
  line.append(caret);
  if (low) box.scrollTop = box.scrollHeight;
}

function point(to, seen = true) {
  (spans[at] ?? caret).classList.remove("cursor");
  at = Math.max(0, Math.min(to, text.length));
  const there = spans[at] ?? caret;
  there.classList.add("cursor");
  if (seen) there.scrollIntoView({block: "nearest"});
}

// Go to a place of the text because the reader wants to
function go(to) {
  follows = false;
  point(to);
  say_where();
  look_soon();
}

function on_key(event) {
  const start = text.lastIndexOf("\n", at - 1) + 1, found = text.indexOf("\n", at);
  const end = at > 0 || text[0] !== "\n" ? found : 0, column = at - start;
  const last = end < 0 ? text.length : end;
  const above = start > 1 ? text.lastIndexOf("\n", start - 2) + 1 : 0;
  const below = text.indexOf("\n", last + 1);
  const to = {
    ArrowLeft: at - 1, ArrowRight: at + 1,
    ArrowUp: start > 0 ? Math.min(above + column, start - 1) : at,
    ArrowDown: Math.min(last + 1 + column, below < 0 ? text.length : below),
    Home: event.ctrlKey ? 0 : start, End: event.ctrlKey ? text.length : last,
  }[event.key];
  if (to === undefined || event.altKey || event.metaKey || !model) return;
  event.preventDefault();
  go(to);
}

// ------------------------------------------------------------------------- Write

// The prompt alone, as it is typed: what may come next?
function begin() {
  const chars = prompt_chars();
  if (!chars) {
    if (model && !text.every(char => model.alphabet.numbers.has(char))) show([]);
    return;
  }
  writes++;
  model.stop("write");
  set_writing(false);
  show(chars, chars.map(() => true));
  point(text.length);
  look();
}

function write_prompt() {
  const chars = prompt_chars();
  if (chars) write(chars, chars.map(() => true));
  else $("prompt").focus();
}

// Write on from these characters
async function write(chars, by_reader) {
  const how = settings();
  if (!how) return;
  const turn = ++writes, begun = performance.now();
  let n = 0;
  model.stop("write");
  stop_looking();
  show(chars, by_reader);
  point(text.length);
  follows = true;
  set_writing(true);
  say("status", "Writing…");
  const more = added => {
    if (turn !== writes) return;
    const some = Array.from(added);
    if (at === text.length) caret.classList.remove("cursor");
    append(some);
    n += some.length;
    show_speed(n, (performance.now() - begun) / 1000);
  };
  try {
    const done = await model.write({...how, prompt: chars.join("")}, more);
    if (turn !== writes) return;
    show_speed(n, done.seconds);
    say("status", `${done.stopped ? "Stopped after" : "Wrote"} ` +
      `${commas(n)} ${n === 1 ? "character" : "characters"} with seed ${done.seed}.`);
  } catch (e) {
    if (turn !== writes) return;
    say("status", "");
    wrong("how-wrong", e);
  }
  set_writing(false);
  if (follows) point(text.length, false);
  look();
}

function show_speed(n, seconds) {
  if (n) say("speed", `${commas(Math.round(n / seconds))} characters a second`);
}

function set_writing(now) {
  writing = now;
  say("write", now ? "Stop" : "Write");
  $("write").classList.toggle("stops", now);
}

function stop() {
  if (writing) model.stop("write");
}

// Another character at the place that the bars tell of
function put({char}) {
  const {before} = looked;
  const by_reader = typed.slice(0, before.length);
  write([...before, char], [...by_reader, true]);
}

// ----------------------------------------------------------------- Look inside

function stop_looking() {
  looks++;
  for (const what of ["probabilities", "attention", "surprise"]) model.stop(what);
  $("bars").ariaBusy = "true";
}

// What may come at the cursor, what the heads look at there, how surprising all is
async function look() {
  if (!model) return;
  stop_looking();
  const turn = looks, before = text.slice(0, at), known = before.join("");
  say_where();
  paint_legend();
  if (!at) return show_nothing();
  try {
    const how = drawing(), free = await model.probabilities(known);
    const now = await model.probabilities(known, how);
    if (turn !== looks) return;
    say("how-wrong", "");
    show_bars(before, free, now);
    const seen = await model.attention(known);
    if (turn !== looks) return;
    show_heads(seen);
    if (lens() === "surprise") await colour(turn);
  } catch (e) {
    if (turn === looks) wrong("how-wrong", e);
  }
}

const look_soon = after(40, look);

function show_nothing() {
  looked = {before: []};
  say_where();
  $("bars").replaceChildren();
  $("bars").ariaBusy = "false";
  say("rest", "");
  $("heads-part").hidden = true;
}

function say_where() {
  const n = text.length, i = at + 1, more = nats[at];
  if (!model || !n) return;
  if (at === n) return say("where", `After character ${commas(n)}, ` +
    `${called(text[n - 1])}. Press one to put it there and go on.`);
  const here = `Character ${commas(i)} of ${commas(n)}, ${called(text[at])}`;
  if (!at) return say("where", `${here}. Nothing comes before it: it was given.`);
  say("where", here + (more === undefined ? "." : `, ${more.toFixed(2)} nats.`));
}

// The ten likeliest, and what was drawn; those beyond top-k and top-p have no share
function show_bars(before, free, now) {
  const list = $("bars"), {chars, numbers} = model.alphabet;
  const best = chars.map((_, i) => i).sort((a, b) => free[b] - free[a]);
  const drawn = numbers.get(text[before.length]), rows = best.slice(0, 10);
  if (drawn !== undefined && !rows.includes(drawn)) rows.push(drawn);
  while (list.children.length > rows.length) list.lastChild.remove();
  while (list.children.length < rows.length) list.append(new_bar());
  rows.forEach((id, row) => fill_bar(list.children[row].firstChild, id, now[id],
    id === drawn));
  const others = chars.length - rows.length;
  const sum = rows.reduce((sum, id) => sum + now[id], 0);
  say("rest", others ? `The other ${commas(others)}: ` +
    percent(Math.max(0, 1 - sum)) : "");
  looked = {before};
  list.ariaBusy = "false";
}

function new_bar() {
  const item = element("li"), button = element("button");
  button.type = "button";
  button.append(element("span", "fill"), element("span", "key"),
    element("span", "note"), element("span", "part"));
  button.onclick = () => put(button);
  item.append(button);
  return item;
}

function fill_bar(button, id, p, drawn) {
  const [fill, key, note, part] = button.children;
  button.char = model.alphabet.chars[id];
  fill.style.setProperty("--p", p);
  key.textContent = visible(button.char);
  note.textContent = drawn ? "stands there" : p ? "" : "never drawn now";
  part.textContent = percent(p);
  button.classList.toggle("drawn", drawn);
  button.ariaLabel = `${called(button.char)} ${percent(p)}` +
    `${drawn ? ", stands there" : ""}: put it there and go on`;
}

// ------------------------------------------------------------------------ Heads

// A small map for each head, to be chosen from
function make_maps({n_layer, n_head}) {
  const rows = Array.from({length: Math.min(n_layer, MAPS)}, (_, layer) => {
    const row = element("div", "layer", String(layer + 1)), all = element("div");
    for (let head = 0; head < Math.min(n_head, MAPS); head++) {
      const label = element("label"), radio = element("input"), map = element("span");
      Object.assign(radio, {type: "radio", name: "head", value: `${layer} ${head}`,
        checked: !layer && !head,
        ariaLabel: `Layer ${layer + 1}, head ${head + 1}`});
      map.className = "map";
      for (let i = 0; i < CELLS; i++) map.append(element("i"));
      label.append(radio, map);
      label.title = radio.ariaLabel;
      all.append(label);
    }
    row.append(all);
    return row;
  });
  $("heads").replaceChildren(...rows);
}

// Each cell stands for some positions, and is as strong as the strongest of them
function show_heads(seen) {
  Object.assign(looked, seen);
  document.querySelectorAll("#heads label").forEach(label => {
    const [layer, head] = label.firstChild.value.split(" ");
    const weights = seen.weights[layer][head], n = weights.length;
    const cells = new Float64Array(CELLS);
    for (let j = 0; j < n; j++) {
      const back = Math.floor((n - 1 - j) * (n > CELLS ? CELLS / n : 1));
      cells[CELLS - 1 - back] = Math.max(cells[CELLS - 1 - back], weights[j]);
    }
    const most = Math.max(...cells);
    label.lastChild.childNodes.forEach((cell, i) =>
      cell.style.setProperty("--w", (100 * cells[i] / most).toFixed(0)));
  });
  $("heads-part").hidden = false;
  paint_head();
}

// The chosen head's weights on the characters of the text
function paint_head() {
  document.querySelectorAll("#text .seen").forEach(span => {
    span.classList.remove("seen");
    span.style.removeProperty("--w");
  });
  const chosen = document.querySelector("[name=head]:checked");
  if (!chosen || lens() !== "attention" || !looked.weights) return paint_legend();
  const [layer, head] = chosen.value.split(" "), {from} = looked;
  const weights = looked.weights[layer][head], most = Math.max(...weights);
  weights.forEach((weight, j) => {
    const span = spans[from + j];
    if (!span || weight < most / 100) return;
    span.classList.add("seen");
    span.style.setProperty("--w", (58 * weight / most).toFixed(1));
  });
  paint_legend(weights.indexOf(most), most, chosen.ariaLabel);
}

// ------------------------------------------------------------- Surprise, legends

// Each character's surprise, as the model finds it out
async function colour(turn) {
  if (nats.length >= text.length || text.length < 2) return paint_legend();
  let i = 0;
  await model.surprise(text.join(""), some => {
    if (turn !== looks) return;
    for (const x of some) {
      i++;
      nats[i] = x;
      spans[i].classList.add(`s${Math.max(0, Math.min(5, Math.floor(x)))}`);
    }
  });
  if (turn !== looks) return;
  paint_legend();
  say_where();
}

function swatch(className, label, strength) {
  const all = element("span"), box = element("span", `swatch ${className}`);
  if (strength) box.style.setProperty("--w", strength);
  all.append(box, label);
  return all;
}

function paint_legend(j, most, name) {
  const parts = [], known = nats.slice(1);
  if (lens() === "surprise") {
    const odds = [3, 7, 20, 55, 150].map(n => `1 in ${n}`);
    parts.push("How likely it was:", swatch("s0", `over ${odds[0]}`));
    odds.forEach((words, i) => parts.push(swatch(`s${i + 1}`, i === 4 ?
      `under ${words}` : `to ${odds[i + 1]}`)));
    if (known.length && known.length === text.length - 1) parts.push("On average " +
      `${(known.reduce((a, b) => a + b) / known.length).toFixed(2)} nats.`);
  }
  if (lens() === "attention" && most !== undefined) parts.push(`${name}:`,
    swatch("much", "little", 6), swatch("much", "much", 58),
    `most on ${called(text[looked.from + j])}, ${percent(most)}.`);
  const made = parts.map(part =>
    typeof part === "string" ? element("span", "", part) : part);
  $("legend").replaceChildren(...made);
  $("legend").hidden = lens() === "plain";
}

function change_lens() {
  $("text").dataset.lens = lens();
  paint_head();
  if (lens() === "surprise" && nats.length < text.length) look();
}

// ------------------------------------------------------------------- Set it going

function show_sliders() {
  const top_p = Number($("top_p").value);
  say("temperature-is", Number($("temperature").value).toFixed(2));
  say("top_p-is", top_p === 1 ? "all" : top_p.toFixed(2));
}

const begin_soon = after(120, begin);

$("write").onclick = () => writing ? stop() : write_prompt();
$("again").onclick = () => {
  new_seed();
  write_prompt();
};
$("on").onclick = () => { if (text.length) write(text.slice(), typed.slice()); };
$("prompt").oninput = begin_soon;
$("new-seed").onclick = () => new_seed();
for (const id of ["temperature", "top_p", "top_k"]) $(id).oninput = () => {
  show_sliders();
  look_soon();
};
for (const id of ["top_k", "length", "seed"]) $(id).onkeydown = event => {
  if (event.key === "Enter") write_prompt();
};
$("back").onclick = () => go(at - 1);
$("forth").onclick = () => go(at + 1);
$("text").onkeydown = on_key;
$("text").onclick = event => {
  const found = spans.indexOf(event.target);
  if (found >= 0) go(found);
  else if (event.target === caret) go(text.length);
};
$("lens").onchange = change_lens;
$("heads").onchange = () => {
  document.querySelector("[value=attention]").checked = true;
  change_lens();
};
document.onkeydown = event => {
  if (event.key === "Escape") stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && model)
    write_prompt();
};

$("open").onclick = () => $("file").click();
$("file").onchange = () => {
  if ($("file").files[0]) load_file($("file").files[0]);
  $("file").value = "";
};

const has_files = event => event.dataTransfer?.types.includes("Files");
window.ondragover = event => {
  if (!has_files(event)) return;
  event.preventDefault();
  $("drop").hidden = false;
};
window.ondragleave = event => {
  if (!event.relatedTarget) $("drop").hidden = true;
};
window.ondrop = event => {
  $("drop").hidden = true;
  if (!has_files(event)) return;
  event.preventDefault();
  if (event.dataTransfer.files[0]) load_file(event.dataTransfer.files[0]);
};

document.querySelectorAll("[data-needs]").forEach(x => { x.disabled = true; });
say("title", document.title.trim() || "charlm");
new_seed();
show_sliders();
change_lens();
beside(built_in());
})();
