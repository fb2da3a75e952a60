// The page of a model: write with it, look inside, open another. All that computes is
// in the engine, the global `charlm`; here is what can be seen and pressed.
//
// Names, alphabets and texts come from files: they are only ever set as text.

(() => {
"use strict";

const LIMITS = {...charlm.LIMITS,
  length: [1, 20000, "a whole number from 1 to 20,000"]};
const MAPS = 16; // layers, and heads of each, that are shown at most
const CELLS = 24; // of the small map of a head

const $ = id => document.getElementById(id);
const all = query => [...document.querySelectorAll(query)];

let model = null; // what is open: a handle of the engine
let text = []; // the characters that stand there
let spans = []; // each as it is shown
let nats = []; // for each but the first: its surprise, as far as it is known
let at = 0; // the place looked at, from 0 to text.length
let shown_prompt = null; // which one it began with
let looked = {n: 0}; // what bars and maps say, and after how many characters
let writing = false, follows = true; // does the cursor go along with the writing?
let loads = 0, writes = 0, looks = 0; // the newest counts, what is older is dropped

// ------------------------------------------------------------------- Small helpers

function element(tag, className = "", content = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = content;
  return made;
}

// For the style sheet: how long a bar, how strong a colour
const paint = (shown, name, x) => shown.style.setProperty(name, x.toFixed(4));

// A line is set only if it changes, so that it is read out once
function say(id, line) {
  if ($(id).textContent !== line) $(id).textContent = line;
}

const commas = n => n.toLocaleString("en-US");
const many = (n, one) => `${commas(n)} ${one}${n === 1 ? "" : "s"}`;
const escaped = name => charlm.repr(name).slice(1, -1);
const lens = () => all("[name=lens]:checked")[0].value;

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
    if (turn === loads) say("file-wrong", e.message);
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
  cut(0);
  show_nothing();
  all("#ask button, #look button").forEach(x => { x.disabled = false; });
  const {kind, config, num_params, verified, alphabet} = model;
  say("name", name);
  const {n_layer, n_head, block_size} = config;
  say("facts", [kind, many(num_params, "parameter"),
    `${many(n_layer, "layer")} of ${many(n_head, "head")}`,
    `context ${commas(block_size)}`,
    verified ? "✓ checksum verified" : "checksum not verified here",
  ].map(fact => fact.replaceAll(" ", "\u00a0")).join(" · "));
  say("known", `Knows ${many(alphabet.vocab_size, "character")}`);
  say("chars", alphabet.chars.map(visible).join(" "));
  $("alphabet").hidden = false;
  make_maps(config);
  const hello = "ROMEO:", knows = char => alphabet.numbers.has(char);
  if (first && !$("prompt").value && Array.from(hello).every(knows))
    $("prompt").value = hello;
  begin();
}

// The model inside this page
function built_in() {
  const found = $("model");
  if (!found) return;
  const raw = atob(found.textContent.trim()), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  load(found.dataset.name || "model", async () => bytes);
  found.remove();
}

// Models beside this page, fetched when asked for, and only from where it came from
function beside() {
  let models = [];
  const said = all("meta[name=charlm-models]")[0]?.content;
  try { models = JSON.parse(said ?? "[]"); } catch { /* then none are offered */ }
  for (const {name, title, file, bytes} of models) {
    const address = new URL(file, location.href);
    if (address.origin !== location.origin) continue;
    const get = async () => {
      const answer = await fetch(address).catch(() => null);
      if (answer?.ok) return new Uint8Array(await answer.arrayBuffer());
      throw new charlm.BadInput(`${name} can't be fetched; is its server running?`);
    };
    const button = element("button", "", `${title} (${(bytes / 1e6).toFixed(1)} MB)`);
    button.onclick = () => load(name, get);
    $("sources").prepend(button);
    if (location.hash === `#${name}`) button.click();
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
  } catch (e) { say("prompt-wrong", e.message); }
  $("prompt").ariaInvalid = !chars;
  return chars;
}

// A whole number as it stands in its field, null: nothing does
function whole(name) {
  const field = $(name), said = field.value.trim(), [least, most, words] = LIMITS[name];
  const number = /^\d{1,30}$/.test(said) ? BigInt(said) : -1n;
  const fits = !said || least <= number && number <= most;
  field.ariaInvalid = !fits;
  if (fits) return said || null;
  throw new charlm.BadInput(`${name} is ${charlm.shown(said)}; it must be ${words}`);
}

// How it draws
function drawing() {
  const top_p = +$("top_p").value, top_k = whole("top_k") && +whole("top_k");
  return {temperature: +$("temperature").value, top_k, top_p: top_p < 1 ? top_p : null};
}

// All that there is to say about writing
function settings() {
  return {...drawing(), length: +(whole("length") ?? 500),
    seed: whole("seed") ?? new_seed()};
}

function new_seed() {
  const [chance] = crypto.getRandomValues(new Uint32Array(1));
  $("seed").value = chance % 1000000;
  return whole("seed");
}

// ------------------------------------------------------------------ The text

const caret = element("span", "after"); // the place after the last one

function cut(n) { // to the first n characters
  for (const span of spans.splice(n)) span.remove();
  for (const line of $("text").querySelectorAll("div:empty")) line.remove();
  text.length = n;
  nats.length = Math.min(n, nats.length);
  if (looked.n > n) looked = {n: 0};
}

function append(chars, given = false) {
  const box = $("text"), low = box.scrollHeight - box.scrollTop - box.clientHeight < 48;
  caret.remove();
  let line = box.lastChild;
  for (const char of [...chars, ""]) {
    if (!line || line.lastChild?.textContent === "\n")
      line = box.appendChild(element("div"));
    if (!char) break;
    const span = element("span", char === "\n" ? "end" : "", char);
    span.classList.toggle("given", given);
    line.append(span);
    spans.push(span);
    text.push(char);
  }
  line.append(caret);
  if (low) box.scrollTop = box.scrollHeight;
}

function show_prompt(chars) { // as typed, with nothing written yet
  shown_prompt = $("prompt").value;
  cut(0);
  append(chars, true);
}

function point(to, seen = true) {
  all(".cursor")[0]?.classList.remove("cursor");
  at = Math.min(to, text.length);
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

// Where a click or the arrow keys lead; after all characters: the caret
function place(span) {
  const found = spans.indexOf(span);
  return found < 0 ? text.length : found;
}

function on_key(event) {
  const there = spans[at] ?? caret, line = there.parentNode, row = [...line.children];
  const same_column = other =>
    other?.children[Math.min(row.indexOf(there), other.children.length - 1)];
  const to = {
    ArrowLeft: spans[at - 1], ArrowRight: spans[at + 1] ?? caret,
    ArrowUp: same_column(line.previousSibling), Home: row[0],
    ArrowDown: same_column(line.nextSibling), End: row.at(-1),
  }[event.key];
  if (!to) return;
  event.preventDefault();
  go(place(to));
}

// ------------------------------------------------------------------------- Write

// The prompt alone, as it is typed: what may come next?
function begin() {
  const chars = prompt_chars();
  if (!chars) return;
  writes++;
  model.stop();
  set_writing(false);
  say("status", "Press Write, or Ctrl and Enter.");
  say("speed", "");
  show_prompt(chars);
  point(text.length);
  look();
}

function write_prompt() {
  const chars = prompt_chars();
  if (chars) write(() => show_prompt(chars));
  else $("prompt").focus();
}

// Write on from the text, once it is what it should be
async function write(prepare) {
  let how, n = 0;
  say("how-wrong", "");
  try { how = settings(); }
  catch (e) { return say("how-wrong", e.message); }
  const turn = ++writes, begun = performance.now();
  model.stop();
  stop_looking();
  prepare?.();
  point(text.length);
  follows = true;
  set_writing(true);
  say("status", "Writing…");
  const more = added => {
    if (turn !== writes) return;
    const some = Array.from(added);
    caret.classList.remove("cursor");
    append(some);
    n += some.length;
    show_speed(n, (performance.now() - begun) / 1000);
  };
  try {
    const done = await model.write({...how, prompt: text.join("")}, more);
    if (turn !== writes) return;
    show_speed(n, done.seconds);
    say("status", `${done.stopped ? "Stopped after" : "Wrote"} ` +
      `${many(n, "character")} with seed ${done.seed}.`);
  } catch (e) {
    if (turn !== writes) return;
    say("status", "");
    say("how-wrong", e.message);
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
}

// Another character at the place that the bars tell of
function put({char}) {
  const {n} = looked;
  if (n) write(() => {
    cut(n);
    append([char], true);
  });
}

// ----------------------------------------------------------------- Look inside

function stop_looking() {
  looks++;
  for (const what of ["probabilities", "attention", "surprise"]) model.stop(what);
  $("bars").ariaBusy = true;
}

// What may come at the cursor, what the heads look at there, how surprising all is
async function look() {
  if (!model) return;
  stop_looking();
  const turn = looks, n = at, known = text.slice(0, n).join("");
  say_where();
  paint_legend();
  if (!n) return show_nothing();
  try {
    const how = drawing(), free = await model.probabilities(known);
    const now = await model.probabilities(known, how);
    if (turn !== looks) return;
    say("how-wrong", "");
    show_bars(n, free, now);
    const seen = await model.attention(known);
    if (turn !== looks) return;
    show_heads(seen);
    if (lens() === "surprise") await colour(turn);
  } catch (e) {
    if (turn !== looks) return;
    say("how-wrong", e.message);
    $("bars").ariaBusy = false;
  }
}

const look_later = after(40, look);

function look_soon() {
  if (model) stop_looking();
  look_later();
}

function show_nothing() {
  looked = {n: 0};
  $("bars").replaceChildren();
  $("bars").ariaBusy = false;
  say("rest", "");
  $("heads-part").hidden = true;
}

function say_where() {
  const n = text.length, more = nats[at], of = `Character ${commas(at + 1)} of ` +
    `${commas(n)}, ${called(text[at] ?? "")}`;
  say("where", !n ? "" : at === n ?
    `After ${many(n, "character")}. Press one to put it there and go on.` :
    !at ? `${of}. Nothing comes before it.` :
    more === undefined ? `${of}.` : `${of}, ${more.toFixed(2)} nats.`);
}

// The ten likeliest, and what was drawn; those beyond top-k and top-p have no share
function show_bars(n, free, now) {
  const list = $("bars"), {chars, numbers} = model.alphabet;
  const best = chars.map((_, i) => i).sort((a, b) => free[b] - free[a]);
  const drawn = numbers.get(text[n]), rows = best.slice(0, 10);
  if (drawn !== undefined && !rows.includes(drawn)) rows.push(drawn);
  while (list.children.length > rows.length) list.lastChild.remove();
  while (list.children.length < rows.length) list.append(new_bar());
  const why = spans[n]?.classList.contains("given") ? "typed" : "drawn";
  rows.forEach((id, row) => fill_bar(list.children[row].firstChild, id, now[id],
    id === drawn ? why : ""));
  const rest = rows.reduce((rest, id) => rest - now[id], 1);
  say("rest", `All others: ${percent(Math.max(0, rest))}`);
  looked = {n};
  list.ariaBusy = false;
}

function new_bar() {
  const item = element("li"), button = element("button");
  button.append(element("span", "fill"), element("span", "key"),
    element("span", "note"), element("span", "part"));
  button.onclick = () => put(button);
  item.append(button);
  return item;
}

function fill_bar(button, id, p, drawn) {
  const [fill, key, note, part] = button.children;
  button.char = model.alphabet.chars[id];
  paint(fill, "--p", p);
  key.textContent = visible(button.char);
  note.textContent = drawn || (p ? "" : "never drawn now");
  part.textContent = percent(p);
  button.classList.toggle("drawn", drawn !== "");
  button.ariaLabel = `${called(button.char)} ${percent(p)}` +
    `${drawn && `, ${drawn}`}: put it there and go on`;
}

// ------------------------------------------------------------------------ Heads

// A small map for each head, to be chosen from
function make_maps({n_layer, n_head}) {
  const rows = Array.from({length: Math.min(n_layer, MAPS)}, (_, layer) => {
    const row = element("div", "layer", layer + 1), maps = element("div");
    for (let head = 0; head < Math.min(n_head, MAPS); head++) {
      const label = element("label"), radio = element("input"), map = element("span");
      Object.assign(radio, {type: "radio", name: "head", value: `${layer} ${head}`,
        checked: !layer && !head,
        ariaLabel: `Layer ${layer + 1}, head ${head + 1}`});
      map.className = "map";
      for (let i = 0; i < CELLS; i++) map.append(element("i"));
      label.append(radio, map);
      maps.append(label);
    }
    row.append(maps);
    return row;
  });
  $("heads").replaceChildren(...rows);
}

// The small maps: a cell for each of the last characters, the newest at the right
function show_heads(seen) {
  Object.assign(looked, seen);
  for (const label of all("#heads label")) {
    const [radio, map] = label.children, [layer, head] = radio.value.split(" ");
    const weights = Array.from(seen.weights[layer][head]), most = Math.max(...weights);
    weights.reverse();
    map.childNodes.forEach((cell, i) =>
      paint(cell, "--w", 100 * (weights[CELLS - 1 - i] ?? 0) / most));
  }
  $("heads-part").hidden = false;
  paint_head();
}

// The chosen head's weights on the characters of the text
function paint_head() {
  for (const span of spans) span.style.removeProperty("--w");
  const chosen = all("[name=head]:checked")[0];
  if (!chosen || lens() !== "attention" || !looked.weights) return paint_legend();
  const [layer, head] = chosen.value.split(" "), {from} = looked;
  const weights = looked.weights[layer][head], most = Math.max(...weights);
  weights.forEach((weight, j) => {
    const span = spans[from + j];
    if (span && weight > most / 100) paint(span, "--w", 58 * weight / most);
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
      paint(spans[i], "--s", Math.min(95, 18 * x));
    }
  });
  if (turn !== looks) return;
  paint_legend();
  say_where();
}

function swatch(label, strength) { // strength: 0 to 95
  const whole = element("span"), box = element("span", "swatch");
  paint(box, "--s", strength);
  paint(box, "--w", strength);
  whole.append(box, label);
  return whole;
}

function paint_legend(j, most, name) {
  const parts = [], known = nats.slice(1);
  if (lens() === "surprise") {
    const odds = ["sure", "1 in 3", "1 in 7", "1 in 20", "1 in 55", "1 in 150 or less"];
    parts.push("How likely it was:", ...odds.map((words, i) => swatch(words, 18 * i)));
    if (known.length && known.length === text.length - 1) parts.push("On average " +
      `${(known.reduce((a, b) => a + b) / known.length).toFixed(2)} nats.`);
  }
  if (lens() === "attention" && most !== undefined) parts.push(`${name}:`,
    swatch("little", 6), swatch("much", 58),
    `most on ${called(text[looked.from + j])}, ${percent(most)}.`);
  $("legend").replaceChildren(...parts.flatMap(part => [part, " "]));
}

function change_lens() {
  document.body.dataset.lens = lens();
  paint_head();
  if (lens() === "surprise" && nats.length < text.length) look();
}

// ------------------------------------------------------------------- Set it going

function show_sliders() {
  const top_p = $("top_p").value;
  say("temperature-is", $("temperature").value);
  say("top_p-is", top_p === "1" ? "all" : top_p);
}

const begin_soon = after(120, () => {
  if ($("prompt").value !== shown_prompt || !model) begin();
});

$("write").onclick = () => writing ? model.stop() : write_prompt();
$("again").onclick = () => {
  new_seed();
  write_prompt();
};
$("on").onclick = () => text.length ? write() : write_prompt();
$("prompt").oninput = begin_soon;
$("new-seed").onclick = () => new_seed();
for (const id of ["temperature", "top_p", "top_k"]) $(id).oninput = () => {
  show_sliders();
  look_soon();
};
for (const id of ["top_k", "length", "seed"]) Object.assign($(id), {
  inputMode: "numeric", autocomplete: "off",
  onkeydown: event => { if (event.key === "Enter") write_prompt(); },
});
$("back").onclick = () => go(Math.max(0, at - 1));
$("forth").onclick = () => go(at + 1);
$("text").onkeydown = on_key;
$("text").onclick = event => {
  if (event.target.localName === "span") go(place(event.target));
};
$("lens").onchange = change_lens;
$("heads").onchange = () => {
  all("[value=attention]")[0].checked = true;
  change_lens();
};
document.onkeydown = event => {
  if (event.key === "Escape" && writing) model.stop();
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

all("#ask button, #look button").forEach(x => { x.disabled = true; });
say("title", document.title.trim() || "charlm");
new_seed();
show_sliders();
change_lens();
$("how").open = innerWidth > 640;
built_in();
beside();
})();
