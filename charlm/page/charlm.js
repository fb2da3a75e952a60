// A charlm model in a web page: read its file, write with it, look inside.
//
// Plain JavaScript without anything else: <script src="charlm.js"></script>, also from
// file://, makes one global object, `charlm`. Everything stands in one function, as
// the text of that function is also what runs in the Web Worker (see `open`).
//
// Names and order are those of chapter 5 (charlm/generate.py) and of the chapter on
// model files (charlm/checkpoint.py). Shapes are in parentheses: B is always 1 here,
// C = n_embd, H = n_head, L = n_layer, V = vocab_size, W = block_size.

globalThis.charlm = (function engine() {
"use strict";

// ---------------------------------------------------------------- What can be wrong

// Something the reader can put right: one printable line, not too long
class BadInput extends Error {
  constructor(message) {
    const all = Array.from(message);
    const [start, end] = [all.slice(0, 700), all.slice(-250)];
    super(printable(all.length > 1000 ? [...start, "…", ...end].join("") : message));
    this.name = "BadInput";
  }
}

// The text with escapes for everything that a page or terminal would not simply show
const printable = text => text.replace(/(?! )[\p{C}\p{Z}]/gu, escaped);

function escaped(char) { // as Python writes it
  const short = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}[char];
  if (short) return short;
  const code = char.codePointAt(0), digits = code.toString(16);
  if (code < 0x100) return "\\x" + digits.padStart(2, "0");
  if (code < 0x10000) return "\\u" + digits.padStart(4, "0");
  return "\\U" + digits.padStart(8, "0");
}

// How Python writes a value
function repr(value) {
  if (typeof value === "string") return repr_text(value);
  if (typeof value === "number") return repr_number(value);
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(repr).join(", ")}]`;
  if (typeof value !== "object") return String(value);
  const pairs = Object.entries(value).map(([k, v]) => `${repr(k)}: ${repr(v)}`);
  return `{${pairs.join(", ")}}`;
}

function repr_text(text) {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const inside = text.replaceAll("\\", "\\\\").replaceAll(quote, "\\" + quote);
  return quote + printable(inside) + quote;
}

function repr_number(value) {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  return String(value).replace(/e([+-])(\d)$/, "e$10$2");
}

const tuple = shape =>
  shape.length === 1 ? `(${shape},)` : `(${shape.map(repr).join(", ")})`;

// A value, shortened in the middle: at most some 60 characters
function shown(value, as = repr) {
  let text;
  try { text = as(value); }
  catch { return "something deeply nested"; }
  const all = Array.from(text);
  if (all.length <= 60) return text;
  return all.slice(0, 30).join("") + "…" + all.slice(-20).join("");
}

const with_commas = n => String(n).replace(/\B(?=(\d{3})+$)/g, ",");

const LIMITS = { // least, most, in words; the same as in charlm/checks.py
  vocab_size: [1, 1114112, "a whole number from 1 to 1,114,112"],
  block_size: [1, 65536, "a whole number from 1 to 65,536"],
  n_embd: [1, 65536, "a whole number from 1 to 65,536"],
  n_head: [1, 1024, "a whole number from 1 to 1,024"],
  n_layer: [1, 1000, "a whole number from 1 to 1,000"],
  recent: [1, 1000, "a whole number from 1 to 1,000"],
  dropout: [0, 1 - 2 ** -53, "a number from 0 to below 1"],
  seed: [0, 2n ** 63n - 1n, "a whole number from 0 to 9,223,372,036,854,775,807"],
  length: [1, 1e9, "a whole number from 1 to 1,000,000,000"],
  temperature: [0, 1e30, "a number from 0 to 1e+30"],
  top_k: [1, 1e9, "a whole number from 1 to 1,000,000,000"],
  top_p: [Number.MIN_VALUE, 1, "a number above 0 to 1"],
};

// The same value, if it is a number in the range of `name`
function check_number(name, value) {
  const [least, most, words] = LIMITS[name], whole = words.startsWith("a whole");
  const exact = typeof value === "bigint" || Number.isSafeInteger(value);
  const number = whole ? exact : typeof value === "number";
  if (number && least <= value && value <= most) return value;
  throw new BadInput(`${name} is ${shown(value)}; it must be ${words}`);
}

// ------------------------------------------------------------------- A model's file

const FORMAT = 4; // see charlm/checkpoint.py
const MOST_BYTES = 2 ** 29; // of a file: more than a page should hold
const MOST_HEADER = 2 ** 24; // of what it says about its numbers, in bytes
const MOST_MEMORY = 2 ** 30; // of a model that writes, in bytes
const KINDS = new Map([["F32", 4], ["BF16", 2], ["I64", 8], ["U8", 1]]); // in bytes
const WORDS = {I64: "int64", U8: "uint8"};

function check_size(size, name) {
  if (size <= MOST_BYTES) return;
  throw new BadInput(`${name} has ${with_commas(size)} bytes; ` +
    `a page reads at most ${with_commas(MOST_BYTES)}`);
}

// The table at the start of a safetensors file, as it stands there and parsed
function read_header(bytes, name) {
  const no = why => new BadInput(
    `${name} is not a safetensors file, or was cut short (${why})`);
  if (bytes.length < 8) throw no(`it has ${bytes.length} bytes`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, 8);
  const size = Number(view.getBigUint64(0, true));
  if (size > bytes.length - 8) throw no("its header would go beyond its end");
  if (size > MOST_HEADER) throw no(`its header has ${with_commas(size)} bytes; ` +
    `a page reads at most ${with_commas(MOST_HEADER)}`);
  const raw = bytes.subarray(8, 8 + size);
  let json, table;
  try {
    json = new TextDecoder("utf-8", {fatal: true, ignoreBOM: true}).decode(raw);
    table = JSON.parse(json);
  } catch { throw no("its header is not JSON"); }
  if (json[0] !== "{") throw no("its header is not a table");
  const twice = repeated(json);
  if (twice !== null) throw no(`its header has ${shown(twice)} twice`);
  return [table, 8 + size];
}

// The first name that stands twice in one object of valid JSON; null: none does
function repeated(json) {
  const open = [], colon = /\s*:/y;
  for (let i = 0; i < json.length; i++) {
    if (json[i] === "{" || json[i] === "[") open.push(new Set());
    if (json[i] === "}" || json[i] === "]") open.pop();
    if (json[i] !== '"') continue;
    const from = i++;
    while (json[i] !== '"') i += json[i] === "\\" ? 2 : 1;
    colon.lastIndex = i + 1;
    if (!colon.test(json)) continue;
    const key = JSON.parse(json.slice(from, i + 1));
    if (open.at(-1).has(key)) return key;
    open.at(-1).add(key);
  }
  return null;
}

const is_table = x => typeof x === "object" && x !== null && !Array.isArray(x);
const is_count = x => Number.isSafeInteger(x) && x >= 0;

// Map: name -> {kind, shape, bytes}; the numbers must fill the file without a gap
function read_arrays(bytes, name) {
  const [table, start] = read_header(bytes, name), arrays = new Map();
  const bad = (tensor, why) =>
    new BadInput(`${name} is damaged: ${shown(tensor)} ${why}`);
  for (const [tensor, entry] of Object.entries(table)) {
    if (tensor === "__metadata__") continue;
    const {dtype: kind, shape, data_offsets: ends} = is_table(entry) ? entry : {};
    if (typeof kind !== "string") throw bad(tensor, "has no type");
    if (!KINDS.has(kind)) throw new BadInput(`${name} holds ${shown(tensor)} in the ` +
      `type ${shown(kind).slice(1, -1)}, which charlm doesn't use`);
    const whole = Array.isArray(shape) && shape.length <= 64 && shape.every(is_count);
    if (!whole) throw bad(tensor, `has the shape ${shown(shape)}`);
    const two = Array.isArray(ends) && ends.length === 2 && ends.every(is_count);
    if (!two) throw bad(tensor, "doesn't say where its numbers are");
    const size = shape.reduce((n, x) => n * x, KINDS.get(kind));
    if (ends[1] - ends[0] !== size) throw bad(tensor,
      `has the shape ${shown(shape, tuple)} but ${ends[1] - ends[0]} bytes`);
    arrays.set(tensor, {kind, shape, ends});
  }
  let end = 0;
  const sorted = [...arrays].sort(([, a], [, b]) =>
    a.ends[0] - b.ends[0] || a.ends[1] - b.ends[1]);
  for (const [tensor, a] of sorted) {
    if (a.ends[0] !== end) throw bad(tensor, "doesn't begin where the one before ends");
    end = a.ends[1];
    a.bytes = bytes.subarray(start + a.ends[0], start + end);
  }
  if (start + end !== bytes.length) throw new BadInput(
    `${name} is not a safetensors file, or was cut short (its numbers end at byte ` +
    `${with_commas(start + end)}, the file at ${with_commas(bytes.length)})`);
  return [arrays, table, start];
}

// What charlm wrote about the numbers
function what_it_says(table, name) {
  let about = null;
  const said = is_table(table.__metadata__) ? table.__metadata__.charlm : null;
  try { about = JSON.parse(said); } catch { /* said below */ }
  const found = is_table(about) ? about.format : null;
  if (typeof said !== "string" || !Number.isInteger(found) || repeated(said) !== null)
    throw new BadInput(`${name} is a safetensors file, but not one that charlm wrote`);
  const so = `(format ${shown(found)}; this one reads ${FORMAT})`;
  if (found > FORMAT)
    throw new BadInput(`${name} was written by a newer charlm ${so}; upgrade charlm`);
  if (found < FORMAT)
    throw new BadInput(`${name} was written by an older charlm ${so}; train again`);
  return about;
}

// Where the 64 digits stand, or -1
function find_digits(bytes, digits, end) {
  const wanted = new TextEncoder().encode(digits);
  for (let i = bytes.indexOf(wanted[0]); i >= 0 && i + 64 <= end;) {
    if (wanted.every((byte, j) => bytes[i + j] === byte)) return i;
    i = bytes.indexOf(wanted[0], i + 1);
  }
  return -1;
}

// SHA-256 of all bytes, with zeros in place of its own digits; 64 digits
async function checksum(bytes, at) {
  const blank = bytes.slice();
  blank.fill("0".charCodeAt(0), at, at + 64);
  const sha = new Uint8Array(await crypto.subtle.digest("SHA-256", blank));
  return Array.from(sha, x => x.toString(16).padStart(2, "0")).join("");
}

// Has nothing changed? false: can't tell, as browsers give SHA-256 only to pages from
// https, localhost or a file
async function check_sum(bytes, digits, end, name) {
  const bad = new BadInput(`${name} is damaged: its checksum is wrong`);
  if (typeof digits !== "string" || !/^[0-9a-f]{64}$/.test(digits)) throw bad;
  const at = find_digits(bytes, digits, end);
  if (at < 0) throw bad;
  if (!globalThis.crypto?.subtle) return false;
  if (await checksum(bytes, at) !== digits) throw bad;
  return true;
}

const SHAPES = new Map([ // what there is to say about the shape of each kind of model
  ["GPT", ["vocab_size", "block_size", "n_embd", "n_head", "n_layer", "dropout"]],
  ["FastGPT", ["vocab_size", "block_size", "n_embd", "n_head", "n_layer", "dropout",
    "recent"]],
]);

// Can there be a model of this kind and shape?
function check_shape(kind, config) {
  const names = SHAPES.get(kind);
  if (!names)
    throw new BadInput(`it holds a model of the unknown kind ${shown(kind)}`);
  const said = is_table(config) ? Object.keys(config).sort().join() : null;
  if (said !== [...names].sort().join()) throw new BadInput(
    `the shape of a ${kind} has ${names.join(", ")}, not ${shown(config)}`);
  for (const name of Object.keys(config)) check_number(name, config[name]);
  const {n_embd, n_head, recent = 1, block_size} = config;
  if (n_embd % n_head) throw new BadInput(
    `n_embd is ${n_embd}, which n_head ${n_head} doesn't divide`);
  if (recent > block_size) throw new BadInput(`recent is ${recent}, ` +
    `more than block_size ${block_size}; choose a smaller one`);
}

// Map: name -> shape, of all weights
function weight_shapes(kind, config) {
  const {vocab_size: V, block_size: T, n_embd: C, n_head: H, n_layer, recent} = config;
  const table = {
    FastGPT: {"token_embedding_table.weight": [recent, V, C]},
    GPT: {"token_embedding_table.weight": [V, C],
      "position_embedding_table.weight": [T, C]},
  }[kind];
  const layer = {
    FastGPT: {"sa.bias": [H, T], "sa.qkv.weight": [3 * C, C],
      "sa.proj.weight": [C, C], "ffwd.0.weight": [4 * C, C],
      "ffwd.2.weight": [C, 4 * C]},
    GPT: {"sa.qkv.weight": [3 * C, C], "sa.proj.weight": [C, C], "sa.proj.bias": [C],
      "ffwd.net.0.weight": [4 * C, C], "ffwd.net.0.bias": [4 * C],
      "ffwd.net.2.weight": [C, 4 * C], "ffwd.net.2.bias": [C],
      "ln1.weight": [C], "ln1.bias": [C], "ln2.weight": [C], "ln2.bias": [C]},
  }[kind];
  const end = {FastGPT: {}, GPT: {"ln_f.weight": [C], "ln_f.bias": [C]}}[kind];
  const shapes = new Map(Object.entries(table));
  for (let i = 0; i < n_layer; i++)
    for (const name in layer) shapes.set(`blocks.${i}.${name}`, layer[name]);
  for (const name in end) shapes.set(name, end[name]);
  return shapes.set("lm_head.weight", [V, C]).set("lm_head.bias", [V]);
}

// Each weight that such a model has, and no other
function check_weights(arrays, kind, config) {
  if (config.n_layer > arrays.size) throw new BadInput(
    `n_layer is ${config.n_layer}, but there are only ${arrays.size} tensors`);
  const expected = weight_shapes(kind, config);
  const differ = [...[...expected.keys()].filter(name => !arrays.has(name)),
    ...[...arrays.keys()].filter(name => !expected.has(name))].sort();
  if (differ.length) throw new BadInput(
    `${expected.has(differ[0]) ? "no" : "unknown"} weight ${shown(differ[0])}`);
  for (const [name, shape] of expected) {
    const a = arrays.get(name);
    if (tuple(a.shape) !== tuple(shape)) throw new BadInput(
      `${name} has the shape ${shown(a.shape, tuple)}, not ${tuple(shape)}`);
    if (a.kind in WORDS)
      throw new BadInput(`${name} has the type ${WORDS[a.kind]}; it must be float32`);
  }
}

// The numbers of one tensor in float32; a bfloat16 is the upper half of a float32
function widened(a, name) {
  const own = a.bytes.slice().buffer; // a copy begins at a multiple of 4 bytes
  let numbers;
  if (a.kind === "F32") numbers = new Float32Array(own);
  else numbers = new Float32Array(Uint32Array.from(new Uint16Array(own),
    x => x << 16).buffer);
  if (!all_finite(numbers)) throw new BadInput(
    `${name} has weights that are not finite; its training went wrong, so train again`);
  return numbers;
}

function all_finite(numbers) {
  for (let i = 0; i < numbers.length; i++)
    if (numbers[i] - numbers[i] !== 0) return false; // true of NaN and of infinity
  return true;
}

// A different, whole character for each id
function check_alphabet(chars, vocab_size) {
  check_chars(chars);
  const n = Array.from(chars).length;
  if (n !== vocab_size) throw new BadInput("the alphabet has the wrong size: " +
    `${n} characters for vocab_size ${vocab_size}`);
}

// What `save_model` wrote: weights by name, kind, config, alphabet, and whether the
// checksum could be verified; every claim is checked before anything is built
async function read_model(
  bytes, // Uint8Array, the whole file
  name = "the file", // what to call it in an error
) {
  check_size(bytes.length, name);
  const [arrays, table, end] = read_arrays(bytes, name);
  const about = what_it_says(table, name), found = about.kind;
  if (found !== "model") throw new BadInput(`${name} holds a ` +
    `${found === "run" ? found : shown(found)}, not a model; name another file`);
  const verified = await check_sum(bytes, about.sha256, end, name);
  const {model: kind, config, chars} = about, weights = new Map();
  try {
    check_shape(kind, config);
    check_weights(arrays, kind, config);
    check_alphabet(chars, config.vocab_size);
    for (const [tensor, a] of arrays) weights.set(tensor, widened(a, tensor));
  } catch (e) {
    if (!(e instanceof BadInput)) throw e;
    throw new BadInput(`${name} is damaged: ${e.message}`);
  }
  check_memory(kind, config, name);
  return {weights, kind, config, alphabet: new Alphabet(chars), verified};
}

// --------------------------------------------------------------------- An alphabet

// The characters that a model knows; the id of one is its position in `chars`.
// A character is a whole code point, as in Python: Array.from keeps them whole
class Alphabet {
  constructor(chars) {
    check_chars(chars);
    this.chars = Array.from(chars); // (V)
    this.vocab_size = this.chars.length;
    this.numbers = new Map(this.chars.map((c, i) => [c, i]));
  }

  // Turn characters into ids
  ids(text) {
    const chars = Array.from(text);
    const unknown = chars.findIndex(c => !this.numbers.has(c));
    if (unknown >= 0) this.refuse(chars, unknown);
    return chars.map(c => this.numbers.get(c));
  }

  // Turn ids into characters
  text(ids) { return Array.from(ids, i => this.chars[i]).join(""); }

  // The characters of the alphabet most like `char`, the most similar first
  nearest(char, n = 3) {
    const own = plain(char), code = char.codePointAt(0);
    const unlike = c => [plain(c) !== own, Math.abs(c.codePointAt(0) - code)];
    const marked = this.chars.map(c => [c, ...unlike(c)]);
    marked.sort((a, b) => a[1] - b[1] || a[2] - b[2]);
    return marked.slice(0, n).map(([c]) => c);
  }

  // The error for an unknown character, the first of `chars`
  refuse(chars, i) {
    const near = this.nearest(chars[i]).map(repr).join(", ");
    const code = chars[i].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    const around = chars.slice(Math.max(0, i - 10), i + 10).join("");
    throw new BadInput(`unknown character ${repr(chars[i])} (U+${code}) at position ` +
      `${i} of ${repr(around)}; the nearest of the ${this.vocab_size} characters ` +
      `known here: ${near}; leave it out or use one of these`);
  }
}

// A character without its accents, and without the difference of capitals
function plain(char) {
  const [bare] = char.normalize("NFKD");
  return bare === "ı" ? bare : bare.toLowerCase().toUpperCase().toLowerCase();
}

function check_chars(chars) {
  if (typeof chars !== "string")
    throw new BadInput(`the alphabet is ${shown(chars)}; it must be a text`);
  if (!chars)
    throw new BadInput("the alphabet is empty; it needs at least one character");
  const all = Array.from(chars), counts = new Map();
  for (const c of all) counts.set(c, (counts.get(c) ?? 0) + 1);
  const twice = [...counts].reduce((best, pair) => pair[1] > best[1] ? pair : best);
  if (twice[1] > 1) throw new BadInput(`the alphabet has ${repr(twice[0])} twice; ` +
    "each character needs an id of its own");
  const half = all.find(c => /\p{Cs}/u.test(c));
  if (half) throw new BadInput(`the alphabet has ${repr(half)}, ` +
    "which is half a character; leave it out");
}

// ------------------------------------------------------------------------- Chance

// Random numbers that any language can repeat: splitmix64 (Steele et al., 2014)
function* uniforms(seed) { // a BigInt or a whole number; each from 0 to below 1
  const u64 = x => BigInt.asUintN(64, x);
  seed = u64(BigInt(seed));
  while (true) {
    seed = u64(seed + 0x9E3779B97F4A7C15n);
    let z = u64((seed ^ seed >> 30n) * 0xBF58476D1CE4E5B9n);
    z = u64((z ^ z >> 27n) * 0x94D049BB133111EBn);
    yield Number((z ^ z >> 31n) >> 11n) / 2 ** 53; // 53 bits make a float
  }
}

// How likely each token is, up to a common factor: (V) -> (V)
function shares(scores, temperature = 1, top_k = null, top_p = null) {
  let most = -Infinity;
  for (let i = 0; i < scores.length; i++) most = Math.max(most, scores[i]);
  let all = Float64Array.from(scores,
    x => Math.exp((x - most) / Math.max(temperature, 1e-30)));
  if (top_k === null && top_p === null) return all;
  const best = Array.from(scores.keys());
  best.sort((a, b) => scores[b] - scores[a]); // ties stay in the order of ids
  best.length = Math.min(best.length, top_k ?? best.length);
  const sums = cumsum(best.map(i => all[i])), enough = (top_p ?? 1) * sums.at(-1);
  const kept = new Float64Array(all.length);
  for (let i = 0; i < best.length; i++) {
    kept[best[i]] = all[best[i]];
    if (sums[i] >= enough) break;
  }
  return kept;
}

function cumsum(numbers) { // (N) -> (N)
  let sum = 0;
  return Float64Array.from(numbers, x => sum += x);
}

// The first token at which the shares, added up in the order of ids, exceed `u`
function draw(scores, u, temperature = 1, top_k = null, top_p = null) {
  if (temperature === 0) return likeliest(scores);
  const sums = cumsum(shares(scores, temperature, top_k, top_p));
  const point = u * sums.at(-1), found = sums.findIndex(sum => sum > point);
  return found < 0 ? likeliest(scores) : found;
}

function likeliest(scores) { // the first of the largest
  let best = 0;
  for (let i = 1; i < scores.length; i++) if (scores[i] > scores[best]) best = i;
  return best;
}

// Shares that add up to one: (V) -> (V); temperature 0: all for the likeliest
function probabilities(scores, temperature = 1, top_k = null, top_p = null) {
  if (temperature === 0)
    return Float64Array.from(scores, (_, i) => +(i === likeliest(scores)));
  const all = shares(scores, temperature, top_k, top_p), sum = cumsum(all).at(-1);
  return all.map(x => x / sum);
}

// ------------------------------------------------------------ All that takes time

// out[r] = the sum over c of w[at + r * stride + c] * x[c], for (rows,cols) numbers.
// Four rows at a time, so that x is fetched once for all of them
function matvec(out, w, at, x, rows, cols, stride) {
  let r = 0;
  for (; r + 3 < rows; r += 4, at += 4 * stride) {
    const second = at + stride, third = second + stride, fourth = third + stride;
    let a = 0, b = 0, c = 0, d = 0;
    for (let i = 0; i < cols; i++) {
      const y = x[i];
      a += w[at + i] * y;
      b += w[second + i] * y;
      c += w[third + i] * y;
      d += w[fourth + i] * y;
    }
    out[r] = a;
    out[r + 1] = b;
    out[r + 2] = c;
    out[r + 3] = d;
  }
  for (; r < rows; r++, at += stride) {
    let a = 0;
    for (let i = 0; i < cols; i++) a += w[at + i] * x[i];
    out[r] = a;
  }
}

// The same in WebAssembly, sixteen products at a time: bytes, and what they mean.
// $out, $w, $x and $stride are in bytes; $even: the bytes of the whole sixteens
const KERNEL = `
00 61 73 6d 01 00 00 00       ;; module
01 0a 01 60 06 7f 7f 7f 7f 7f 7f 00 ;; type: (i32 i32 i32 i32 i32 i32) -> ()
02 0e 01 02 6a 73 06 6d 65 6d 6f 72 79 02 00 01 ;; import js.memory, at least 1 page
03 02 01 00                   ;; one function of type 0
07 0a 01 06 6d 61 74 76 65 63 00 00 ;; export it as matvec
0a b5 02 01 b2 02             ;; its code:
03 02 7f 01 7d 04 7b          ;; $i $even i32, $sum f32, $a $b $c $d v128
20 04 41 70 71 41 02          ;; local.get $cols, i32.const -16, i32.and, i32.const 2
74 21 07                      ;; i32.shl, local.set $even
20 04 41 02 74 21 04          ;; local.get $cols, i32.const 2, i32.shl, local.set $cols
02 40                         ;; block
03 40                         ;;   loop
20 03 45 0d 01                ;;     local.get $rows, i32.eqz, br_if 1
43 00 00 00 00 fd 13 22 09    ;;     f32.const 0, f32x4.splat, local.tee $a
22 0a 22 0b 21 0c             ;;     local.tee $b, local.tee $c, local.set $d
41 00 21 06                   ;;     i32.const 0, local.set $i
02 40                         ;;     block
03 40                         ;;       loop
20 06 20 07 4f                ;;         local.get $i, local.get $even, i32.ge_u
0d 01                         ;;         br_if 1
20 01 20 06 6a fd 00 02 00    ;;         local.get $w, local.get $i, i32.add, v128.load
20 02 20 06 6a fd 00 02 00    ;;         local.get $x, local.get $i, i32.add, v128.load
fd e6 01 20 09 fd e4 01       ;;         f32x4.mul, local.get $a, f32x4.add
21 09                         ;;         local.set $a
20 01 20 06 6a                ;;         local.get $w, local.get $i, i32.add
fd 00 02 10                   ;;         v128.load offset=16
20 02 20 06 6a                ;;         local.get $x, local.get $i, i32.add
fd 00 02 10                   ;;         v128.load offset=16
fd e6 01 20 0a fd e4 01       ;;         f32x4.mul, local.get $b, f32x4.add
21 0a                         ;;         local.set $b
20 01 20 06 6a                ;;         local.get $w, local.get $i, i32.add
fd 00 02 20                   ;;         v128.load offset=32
20 02 20 06 6a                ;;         local.get $x, local.get $i, i32.add
fd 00 02 20                   ;;         v128.load offset=32
fd e6 01 20 0b fd e4 01       ;;         f32x4.mul, local.get $c, f32x4.add
21 0b                         ;;         local.set $c
20 01 20 06 6a                ;;         local.get $w, local.get $i, i32.add
fd 00 02 30                   ;;         v128.load offset=48
20 02 20 06 6a                ;;         local.get $x, local.get $i, i32.add
fd 00 02 30                   ;;         v128.load offset=48
fd e6 01 20 0c fd e4 01       ;;         f32x4.mul, local.get $d, f32x4.add
21 0c                         ;;         local.set $d
20 06 41 c0 00 6a             ;;         local.get $i, i32.const 64, i32.add
21 06                         ;;         local.set $i
0c 00                         ;;         br 0
0b                            ;;       end
0b                            ;;     end
20 09 20 0a fd e4 01 20 0b    ;;     local.get $a, local.get $b, f32x4.add, local.get $c
20 0c fd e4 01 fd e4 01 22 09 ;;     local.get $d, f32x4.add, f32x4.add, local.tee $a
fd 1f 00 20 09                ;;     f32x4.extract_lane 0, local.get $a
fd 1f 01 92 20 09             ;;     f32x4.extract_lane 1, f32.add, local.get $a
fd 1f 02 20 09                ;;     f32x4.extract_lane 2, local.get $a
fd 1f 03 92 92                ;;     f32x4.extract_lane 3, f32.add, f32.add
21 08                         ;;     local.set $sum
02 40                         ;;     block
03 40                         ;;       loop
20 06 20 04 4f                ;;         local.get $i, local.get $cols, i32.ge_u
0d 01                         ;;         br_if 1
20 01 20 06 6a 2a 02 00       ;;         local.get $w, local.get $i, i32.add, f32.load
20 02 20 06 6a 2a 02 00       ;;         local.get $x, local.get $i, i32.add, f32.load
94 20 08 92                   ;;         f32.mul, local.get $sum, f32.add
21 08                         ;;         local.set $sum
20 06 41 04 6a                ;;         local.get $i, i32.const 4, i32.add
21 06                         ;;         local.set $i
0c 00                         ;;         br 0
0b                            ;;       end
0b                            ;;     end
20 00 20 08 38 02 00          ;;     local.get $out, local.get $sum, f32.store
20 00 41 04 6a                ;;     local.get $out, i32.const 4, i32.add
21 00                         ;;     local.set $out
20 01 20 05 6a                ;;     local.get $w, local.get $stride, i32.add
21 01                         ;;     local.set $w
20 03 41 01 6b                ;;     local.get $rows, i32.const 1, i32.sub
21 03                         ;;     local.set $rows
0c 00                         ;;     br 0
0b                            ;;   end
0b                            ;; end
0b                            ;; end
`;

// Room for so many numbers, and the fastest `matvec` that works on them here
function make_room_for(floats, simd) {
  const most = {initial: Math.ceil(floats / 2 ** 14) + 1}; // pages of 64 KiB
  try {
    if (!simd) throw new Error("not wanted");
    const hex = KERNEL.replace(/;;.*/g, "").match(/[0-9a-f]{2}/g);
    const code = Uint8Array.from(hex, byte => parseInt(byte, 16));
    const memory = new WebAssembly.Memory(most), js = {memory};
    const module = new WebAssembly.Module(code);
    const {matvec: kernel} = new WebAssembly.Instance(module, {js}).exports;
    const fast = (out, w, at, x, rows, cols, stride) => kernel(out.byteOffset,
      w.byteOffset + 4 * at, x.byteOffset, rows, cols, 4 * stride);
    return [memory.buffer, fast];
  } catch { /* an older browser, or one that was told not to */ }
  try { return [new ArrayBuffer(4 * floats), matvec]; }
  catch { throw new BadInput("the model doesn't fit into memory"); }
}

// -------------------------------------------------------------------- The writer

// How many numbers a text needs room for
function room_sizes(kind, config) {
  const {vocab_size: V, block_size: W, n_embd: C, n_head: H, n_layer: L} = config;
  const cache = L * C * (kind === "FastGPT" ? 2 * W : W);
  return {keys: cache, values: cache, weights: L * H * W,
    x: C, h: C, qkv: 3 * C, y: C, up: 4 * C, scores: V};
}

// How many numbers a model and so many texts need
function memory_floats(kind, config, texts) {
  const even = n => Math.ceil(n / 4) * 4; // each array begins at a multiple of 16 bytes
  let all = 0;
  for (const shape of weight_shapes(kind, config).values())
    all += even(shape.reduce((n, x) => n * x, 1));
  for (const n of Object.values(room_sizes(kind, config))) all += texts * even(n);
  return all;
}

function check_memory(kind, config, name, texts = 2) {
  const bytes = 4 * memory_floats(kind, config, texts);
  if (bytes > MOST_MEMORY) throw new BadInput(`${name} holds a model that needs ` +
    `${with_commas(bytes)} bytes to write; a page has ${with_commas(MOST_MEMORY)}`);
}

// A trained model that reads a text piece by piece and says what may follow
class Writer {
  constructor(
    weights, // Map: name -> Float32Array; copied
    kind, // "GPT" or "FastGPT"
    config, // its shape
    {texts = 1, simd = true} = {}, // side by side, see `start`; use WebAssembly?
  ) {
    const {vocab_size, n_embd, n_head, n_layer, block_size, recent = 1} = config;
    Object.assign(this, {vocab_size, n_embd, n_head, n_layer, block_size, recent});
    this.fast = kind === "FastGPT";
    this.head_size = n_embd / n_head;
    this.reach = block_size; // the last tokens of a text that count
    if (this.fast) this.reach = n_layer * (block_size - 1) + recent;
    this.room = this.fast ? 2 * block_size : block_size; // positions kept at most
    const floats = memory_floats(kind, config, texts);
    [this.memory, this.matvec] = make_room_for(floats, simd);
    this.simd = this.matvec !== matvec;
    this.used = 0;
    this.w = new Map();
    for (const [name, x] of weights) {
      const own = this.take(x.length);
      own.set(x);
      this.w.set(name.replace(".net.", "."), own);
    }
    const names = ["ln1", "sa.qkv", "sa.proj", "ln2", "ffwd.0", "ffwd.2"];
    this.layers = [];
    for (let i = 0; i < n_layer; i++)
      this.layers.push(names.map(name => this.part(`blocks.${i}.${name}`)));
    [this.ln_f, this.lm_head] = [this.part("ln_f"), this.part("lm_head")];
    this.near = this.layers.map((_, i) => this.w.get(`blocks.${i}.sa.bias`)); // (H,W)
    this.table = this.w.get("token_embedding_table.weight"); // (recent,V,C)
    this.places = this.w.get("position_embedding_table.weight"); // (W,C)
    this.rooms = Array.from({length: texts}, () => this.make_room_of(kind, config));
  }

  // (out,in) and (out), or (C) and (C); undefined where absent
  part(name) { return [this.w.get(name + ".weight"), this.w.get(name + ".bias")]; }

  // The next n numbers of the memory
  take(n) {
    const own = new Float32Array(this.memory, 4 * this.used, n);
    this.used += Math.ceil(n / 4) * 4;
    return own;
  }

  // All that a text needs, laid out once; a piece of each for every head
  make_room_of(kind, config) {
    const own = {}, {n_head: H, n_layer: L, block_size: W, head_size} = this;
    const sizes = room_sizes(kind, config);
    for (const name in sizes) own[name] = this.take(sizes[name]);
    const cut = (x, n, size) =>
      Array.from({length: n}, (_, i) => x.subarray(i * size, (i + 1) * size));
    own.q_heads = cut(own.qkv, H, head_size); // of (3C) the first C
    own.y_heads = cut(own.y, H, head_size);
    own.weight_heads = cut(own.weights, L * H, W);
    return own;
  }

  // Begin a text: a writer that has read nothing, with the same weights. The text that
  // was read in the same room ends
  start(room = 0) {
    const text = Object.assign(Object.create(Writer.prototype), this, this.rooms[room]);
    return text.forget();
  }

  forget() {
    this.seen = []; // ids of all tokens
    this.length = 0; // positions kept
    this.from = 0; // the first token that was read, see `go_to`
    return this;
  }

  // Read on: the ids of the next tokens -> scores for what follows them (V), which hold
  // until the next read
  read(ids) {
    const steps = this.reading(ids);
    let step = steps.next();
    while (!step.done) step = steps.next();
    return step.value;
  }

  // The same with a pause after each token, so that others have their turn
  *reading(ids) {
    for (const id of ids) this.seen.push(id);
    const end = this.seen.length;
    for (let at = this.make_room(ids.length); at < end - 1; at++) {
      this.forward(at, false);
      yield "";
    }
    this.forward(end - 1, true);
    return this.scores;
  }

  // T tokens have come: the first to read; where a `GPT` is full, it reads all anew
  make_room(T) {
    const end = this.seen.length;
    if (!this.fast && this.length + T <= this.room) return end - T;
    if (this.fast && T <= this.reach) return end - T;
    this.length = 0;
    this.from = Math.max(0, end - this.reach);
    return this.from;
  }

  // Of a whole text, the ids still to be read: not what was the start of the last one
  go_to(ids) {
    let same = 0;
    while (same < ids.length - 1 && ids[same] === this.seen[same]) same++;
    const kept = this.length - (this.seen.length - same);
    const needed = this.fast ? Math.min(same, this.block_size - 1) : same;
    const exact = this.from === 0 || this.fast && same + 1 - this.from >= this.reach;
    if (kept < needed || !exact) {
      this.forget();
      return ids;
    }
    this.seen.length = same;
    this.length = kept;
    return ids.slice(same);
  }

  // The vector of the token seen[at]: x (C)
  embed(at) {
    const {x, table, places, n_embd: C, vocab_size: V} = this;
    x.fill(0);
    for (let i = 0; i < this.recent && i <= at; i++) {
      const row = (i * V + this.seen[at - i]) * C;
      for (let c = 0; c < C; c++) x[c] += table[row + c];
    }
    if (this.fast) return;
    for (let c = 0; c < C; c++) x[c] += places[this.length * C + c];
  }

  // A linear layer: x (in) -> out (out)
  linear(out, x, [weight, bias]) {
    this.matvec(out, weight, 0, x, out.length, x.length, x.length);
    if (bias) add(out, bias);
  }

  // Read the token seen[at]; what may follow is worked out only for the last
  forward(at, last) {
    const {x, h, qkv, y, up, n_layer} = this;
    if (this.length === this.room) this.slide();
    this.embed(at);
    for (let i = 0; i < n_layer; i++) {
      const [ln1, to_qkv, proj, ln2, to_up, down] = this.layers[i];
      norm(h, x, ln1);
      this.linear(qkv, h, to_qkv); // (C) -> (3C)
      this.keep(i);
      if (i === n_layer - 1 && !last) break; // its keys and values are all that counts
      for (let head = 0; head < this.n_head; head++) this.attend(i, head);
      this.linear(h, y, proj);
      add(x, h);
      norm(h, x, ln2);
      this.linear(up, h, to_up); // (C) -> (4C)
      relu(up, this.fast);
      this.linear(h, up, down); // (4C) -> (C)
      add(x, h);
    }
    this.length++;
    if (!last) return;
    norm(h, x, this.ln_f);
    this.linear(this.scores, h, this.lm_head); // (C) -> (V)
  }

  // Keep the newest position's key and value: keys (L,H,room,head_size),
  // values (L,H,head_size,room), so that both are read one number after the other
  keep(i) {
    const {keys, values, qkv, n_embd: C, head_size, room, length} = this;
    for (let c = 0; c < C; c++) {
      const head = Math.floor(c / head_size), inside = c - head * head_size;
      const start = (i * C + head * head_size) * room;
      keys[start + length * head_size + inside] = qkv[C + c];
      values[start + inside * room + length] = qkv[2 * C + c];
    }
  }

  // One head of layer i at the newest position: its part of y. What it takes from each
  // position that it sees stays in its part of `weights`
  attend(i, head) {
    const {n_embd: C, head_size, room, block_size: W, near} = this;
    const first = Math.max(0, this.length + 1 - W), n = this.length + 1 - first;
    const start = (i * C + head * head_size) * room, scale = head_size ** -0.5;
    const wei = this.weight_heads[i * this.n_head + head]; // (W), the first n count
    const q = this.q_heads[head], y = this.y_heads[head]; // (head_size)
    this.matvec(wei, this.keys, start + first * head_size, q, n, head_size, head_size);
    for (let j = 0; j < n; j++) wei[j] *= scale;
    if (near[i]) for (let j = 0; j < n; j++) wei[j] += near[i][head * W + n - 1 - j];
    softmax(wei, n);
    this.matvec(y, this.values, start + first, wei, head_size, n, room);
  }

  // Full: what the next position of a `FastGPT` can see moves to the front
  slide() {
    const {keys, values, head_size, room} = this, kept = this.block_size - 1;
    for (let at = 0; at < keys.length; at += head_size * room) { // a head each
      const end = at + room * head_size;
      keys.copyWithin(at, end - kept * head_size, end);
    }
    for (let at = 0; at < values.length; at += room) // one number of all positions
      values.copyWithin(at, at + room - kept, at + room);
    this.length = kept;
  }

  // What each head looks at from the last position read: its weights, [layer][head] ->
  // (n), for n positions of the text from the one numbered `from`
  attention() {
    const n = Math.min(this.length, this.block_size), rows = this.weight_heads;
    const of = i => Array.from({length: this.n_head},
      (_, head) => rows[i * this.n_head + head].slice(0, n));
    return {from: this.seen.length - n, weights: this.layers.map((_, i) => of(i))};
  }
}

function add(x, y) { // (C) += (C)
  for (let c = 0; c < x.length; c++) x[c] += y[c];
}

function relu(x, squared) { // (4C), in place
  for (let c = 0; c < x.length; c++) {
    const positive = x[c] > 0 ? x[c] : 0;
    x[c] = squared ? positive * positive : positive;
  }
}

// Layer normalisation: x (C) -> out (C)
function norm(out, x, [gain, shift]) {
  const C = x.length;
  let mean = 0, variance = 0;
  for (let c = 0; c < C; c++) mean += x[c];
  mean /= C;
  for (let c = 0; c < C; c++) variance += (x[c] - mean) ** 2;
  const scale = 1 / Math.sqrt(variance / C + 1e-5);
  for (let c = 0; c < C; c++) out[c] = (x[c] - mean) * scale;
  if (!gain) return;
  for (let c = 0; c < C; c++) out[c] = out[c] * gain[c] + shift[c];
}

function softmax(x, n) { // the first n of x, in place
  let most = -Infinity, sum = 0;
  for (let j = 0; j < n; j++) if (x[j] > most) most = x[j];
  for (let j = 0; j < n; j++) {
    x[j] = Math.exp(x[j] - most);
    sum += x[j];
  }
  for (let j = 0; j < n; j++) x[j] /= sum;
}

// -------------------------------------------------------- From ids to characters

// Read a model in order to write with it
async function load_writer(bytes, name, how) { // see `read_model` and `Writer`
  const {weights, kind, config, alphabet, verified} = await read_model(bytes, name);
  return {writer: new Writer(weights, kind, config, how), alphabet, kind, config,
    verified};
}

// What a text goes on from; where nothing was asked for, something has to be there
function opening(alphabet, prompt) {
  if (prompt === "") throw new BadInput(
    "the prompt is empty; give the model at least one character to go on from");
  return prompt ?? (alphabet.numbers.has("\n") ? "\n" : alphabet.chars[0]);
}

// A seed as it is typed or chosen; nothing: a new one
function as_seed(seed) {
  if (typeof seed === "string" && /^\d{1,30}$/.test(seed)) seed = BigInt(seed);
  return seed ?? crypto.getRandomValues(new Uint32Array(1))[0];
}

// The settings of `write`, each checked, with what goes without saying
function check_settings(alphabet, how) {
  const {prompt = null, length = 500, stop = null} = how;
  const {temperature = 1, top_k = null, top_p = null} = how, seed = as_seed(how.seed);
  const numbers = {length, seed, temperature, top_k, top_p};
  for (const name in numbers)
    if (numbers[name] !== null) check_number(name, numbers[name]);
  if (stop === "") throw new BadInput("stop is empty; give it a text, or leave it out");
  alphabet.ids(stop ?? ""); // what is never written never stops it
  return {...numbers, stop, idx: alphabet.ids(opening(alphabet, prompt))};
}

// Write on from a prompt, character by character ("" while it reads)
function* stream_text(
  text, // what `Writer.start` gives
  alphabet, // of its model
  how = {}, // prompt, length, seed, stop, temperature, top_k, top_p
) {
  const {length, seed, stop, temperature, top_k, top_p, idx} =
    check_settings(alphabet, how);
  const chance = uniforms(seed);
  let next = text.go_to(idx), end = "";
  for (let n = 0; n < length; n++) {
    const scores = yield* text.reading(next);
    check_scores(scores);
    const id = draw(scores, chance.next().value, temperature, top_k, top_p);
    next = [id];
    yield alphabet.chars[id];
    if (!stop) continue;
    end = (end + alphabet.chars[id]).slice(-stop.length);
    if (end === stop) return;
  }
}

function check_scores(scores) {
  if (!all_finite(scores)) throw new BadInput("the model's scores are not finite; " +
    "its training went wrong, so train again");
}

// The prompt and what the model adds, without line ends in front
function write(writer, alphabet, how = {}) {
  const added = [...stream_text(writer.start(), alphabet, how)].join("");
  return (opening(alphabet, how.prompt) + added).replace(/^\n+/, "");
}

// How unexpected each character but the first is, in nats ("" while it reads)
function* surprise(text, alphabet, chars) {
  const ids = alphabet.ids(chars);
  if (ids.length < 2) throw new BadInput("surprise needs at least two characters");
  text.forget();
  for (let i = 1; i < ids.length; i++) {
    const scores = yield* text.reading([ids[i - 1]]);
    check_scores(scores);
    const most = scores[likeliest(scores)];
    yield Math.log(cumsum(shares(scores)).at(-1)) + most - scores[ids[i]];
  }
}

// ------------------------------------------------- In a worker, beside the page

// Answer what comes from the page: {id, what, ...} -> {id, more}s, then {id, done} or
// {id, error}. One text is for writing, the other for looking, each in its turn
function serve(port) {
  const {port1, port2} = new MessageChannel(), waiting = [], jobs = new Set();
  port1.onmessage = () => waiting.shift()();
  const turn = () => new Promise(go => { // let messages come in
    waiting.push(go);
    port2.postMessage(0);
  });
  const queues = {write: Promise.resolve(), look: Promise.resolve()};
  const state = {};

  port.onmessage = ({data: {id, what, ...asked}}) => {
    if (what === "stop") return stop(asked.which);
    const queue = what === "write" ? "write" : "look", job = {id, what, stopped: false};
    jobs.add(job);
    queues[queue] = queues[queue].then(() => answer(job, asked));
  };

  function stop(which) {
    for (const job of jobs) if (job.what === which) job.stopped = true;
  }

  async function answer(job, asked) {
    const {id, what} = job;
    try { port.postMessage({id, done: await answers[what](job, asked)}); }
    catch (e) { port.postMessage({id, error: in_a_line(e)}); }
    jobs.delete(job);
  }

  // Go through the steps of a generator; what it yields goes to the page in batches
  async function go_through(job, steps) {
    let batch = [], sent = 0, step = job.stopped ? {done: true} : steps.next();
    while (!step.done && !job.stopped) {
      if (step.value !== "") batch.push(step.value);
      if (performance.now() - sent > 25) {
        if (batch.length) port.postMessage({id: job.id, more: batch});
        batch = [];
        await turn();
        sent = performance.now();
      }
      if (!job.stopped) step = steps.next();
    }
    if (batch.length) port.postMessage({id: job.id, more: batch});
    return step.value;
  }

  // Read a whole text in `look`, of which not all may be new; -> scores (V)
  async function look_at(job, ids) {
    const {look} = state;
    const scores = await go_through(job, look.reading(look.go_to(ids)));
    if (!job.stopped) return check_scores(scores), scores;
    look.forget();
    throw new BadInput("stopped");
  }

  const answers = {
    async load(job, {file, name}) {
      if (file instanceof Blob) file = new Uint8Array(await file.arrayBuffer());
      const {writer, alphabet, kind, config, verified} =
        await load_writer(file, name, {texts: 2});
      Object.assign(state, {alphabet, text: writer.start(0), look: writer.start(1)});
      const sizes = [...weight_shapes(kind, config).values()];
      const num_params = sizes.reduce((n, s) => n + s.reduce((m, x) => m * x, 1), 0);
      const {simd, reach} = writer, chars = alphabet.chars.join("");
      return {kind, config, chars, verified, num_params, simd, reach};
    },

    async write(job, {how}) {
      const {text, alphabet} = state, seed = as_seed(how.seed);
      const started = performance.now(), before = opening(alphabet, how.prompt);
      const steps = stream_text(text, alphabet, {...how, seed});
      let added = "";
      const noted = function* () {
        for (const char of steps) { added += char; yield char; }
      };
      await go_through(job, noted());
      if (job.stopped) text.forget();
      const seconds = (performance.now() - started) / 1000;
      return {text: (before + added).replace(/^\n+/, ""), added, seed: String(seed),
        characters: Array.from(added).length, seconds, stopped: job.stopped};
    },

    async probabilities(job, {text, how}) {
      const {alphabet} = state, all = check_settings(alphabet, {...how, prompt: text});
      const scores = await look_at(job, all.idx);
      return Array.from(probabilities(scores, all.temperature, all.top_k, all.top_p));
    },

    async surprise(job, {text}) {
      const {look, alphabet} = state, nats = [], steps = surprise(look, alphabet, text);
      const noted = function* () {
        for (const x of steps) { if (x !== "") nats.push(x); yield x; }
      };
      await go_through(job, noted());
      if (job.stopped) look.forget();
      return nats;
    },

    async attention(job, {text, at}) {
      const ids = state.alphabet.ids(opening(state.alphabet, text));
      const last = at ?? ids.length - 1;
      if (!is_count(last) || last >= ids.length) throw new BadInput(
        `position is ${shown(at)}; the text has positions 0 to ${ids.length - 1}`);
      await look_at(job, ids.slice(0, last + 1));
      return state.look.attention();
    },
  };
}

// What went wrong, for a reader
function in_a_line(error) {
  if (error instanceof BadInput) return error.message;
  if (error instanceof RangeError) return "the model doesn't fit into memory";
  return new BadInput(`the engine failed: ${error?.message ?? error}`).message;
}

const NO_WORKER = "this browser doesn't let the page start a worker";

// A model that lives in a worker; each question is answered by a promise
class Handle {
  constructor(worker, release) {
    Object.assign(this, {worker, release, asked: new Map(), next: 0});
    worker.onmessage = ({data}) => this.hear(data);
    worker.onerror = event => {
      event.preventDefault?.();
      const why = event.message && `the engine failed: ${event.message}`;
      this.close(why || NO_WORKER);
    };
  }

  ask(what, asked, on_more) {
    if (!this.worker) return Promise.reject(new BadInput("the model is closed"));
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.asked.set(id, {resolve, reject, on_more});
      this.worker.postMessage({id, what, ...asked});
    });
  }

  hear({id, more, done, error}) {
    const {resolve, reject, on_more} = this.asked.get(id) ?? {};
    if (!resolve) return;
    if (more) return on_more?.(more);
    this.asked.delete(id);
    if (error === undefined) resolve(done);
    else reject(new BadInput(error));
  }

  // Write on: `on_text` gets what is added, a few characters at a time
  write(how = {}, on_text = null) {
    return this.ask("write", {how}, batch => on_text?.(batch.join("")));
  }

  // Stop what was asked so far of this kind: "write", "surprise", "probabilities" …
  stop(which = "write") { this.worker?.postMessage({what: "stop", which}); }

  // How likely each character of the alphabet is to come next, (V)
  probabilities(text, how = {}) { return this.ask("probabilities", {text, how}); }

  // Nats for each character but the first; `on_nats` gets them a few at a time
  surprise(text, on_nats = null) { return this.ask("surprise", {text}, on_nats); }

  // What each head looks at from position `at`, the last if left out, see `Writer`
  attention(text, at) { return this.ask("attention", {text, at}); }

  close(why = "the model is closed") {
    this.worker?.terminate();
    this.worker = null;
    for (const {reject} of this.asked.values()) reject(new BadInput(why));
    this.asked.clear();
    this.release();
  }
}

// Open a model in a worker of its own
async function open(
  file, // a File or Blob, a Uint8Array or an ArrayBuffer
  name = file?.name ?? "the file", // what to call it in an error
) {
  if (file instanceof ArrayBuffer) file = new Uint8Array(file);
  if (!(file instanceof Uint8Array || file instanceof Blob))
    throw new BadInput("that is not a file");
  check_size(file.size ?? file.byteLength, name);
  const handle = new Handle(...new_worker());
  try {
    Object.assign(handle, await handle.ask("load", {file, name}));
    handle.alphabet = new Alphabet(handle.chars);
    return handle;
  } catch (e) {
    handle.close();
    throw e;
  }
}

// A worker that runs this very text, and what to do when it is no longer needed
function new_worker() {
  const source = new Blob([`(${engine})().serve(self)`], {type: "text/javascript"});
  const address = URL.createObjectURL(source);
  const release = () => URL.revokeObjectURL(address);
  try { return [new Worker(address), release]; }
  catch {
    release();
    throw new BadInput(NO_WORKER);
  }
}

return {open, load_writer, read_model, write, stream_text, surprise, Writer, Alphabet,
  BadInput, uniforms, draw, shares, probabilities, matvec, opening, shown, repr, serve,
  FORMAT, LIMITS, MOST_BYTES};
})();
