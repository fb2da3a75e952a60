"""The engine of the page, in a real browser: what torch says, what Python writes.

Models are untrained, with weights of which every one counts. Without Chromium the tests
are skipped, except where CI is set, where that is a failure.
"""

import json, re, shutil, struct
from base64 import b64encode

import numpy as np
import pytest
import torch
from conftest import ROOT, untrained

from charlm.checkpoint import load_model, narrowed, read_model, save_model, to_bytes
from charlm.checks import BadInput, check_number
from charlm.corpus import Alphabet
from charlm.data import CharTokenizer
from charlm.fast import FastConfig, FastGPT
from charlm.generate import draw, load_writer, uniforms, write
from charlm.inside import attention_maps, surprise

ENGINE = ROOT / "charlm/page/charlm.js"
LETTERS = CharTokenizer("".join(chr(97 + i) for i in range(26)) + " \n𝄞é")
SHAPE = dict(vocab_size=30, block_size=24, n_embd=36, n_head=4, n_layer=3)
KINDS, TYPES = ("GPT", "FastGPT"), ("float32", "bfloat16")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "(kind, type) -> a model's file"
    folder, made = tmp_path_factory.mktemp("models"), {}
    for kind in KINDS:
        for dtype in TYPES:
            path = folder / f"{kind}-{dtype}.safetensors"
            save_model(path, untrained(kind, SHAPE), LETTERS, dtype)
            made[kind, dtype] = path
    return made


PAGE = """<!doctype html><meta charset=utf-8>
{head}<title>.</title><input type=file multiple><script src="charlm.js"></script>
<script nonce=own>
const file = i => document.querySelector("input").files[i];
const bytes = async i => new Uint8Array(await file(i).arrayBuffer());
const writer = async (i, how) => charlm.load_writer(await bytes(i), file(i).name, how);
const line = async make => {{ try {{ await make(); }} catch (e) {{
  return e instanceof charlm.BadInput ? e.message : "NOT A LINE: " + e.stack; }} }};
</script>"""


@pytest.fixture(scope="module")
def new_page(chromium, tmp_path_factory):
    "`new_page(*paths)`: a page at file:// with the engine and these files chosen"
    contexts, troubles = [], []

    def go(*paths, head=""):
        folder = tmp_path_factory.mktemp("page")
        shutil.copy(ENGINE, folder)
        (folder / "index.html").write_text(PAGE.format(head=head))
        context = chromium.new_context()
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda e: troubles.append(str(e)))
        page.on("dialog", lambda d: troubles.append(d.message))
        page.on("request", lambda r: troubles.append(r.url) if "http" in r.url else 0)
        page.goto((folder / "index.html").as_uri())
        page.set_input_files("input", [str(p) for p in paths])
        return page

    yield go
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture(scope="module")
def page(new_page, files):
    "One with all the models, in the order of `files`"
    return new_page(*files.values())


def index(kind, dtype="float32"):
    return [(k, d) for k in KINDS for d in TYPES].index((kind, dtype))


each_kind = pytest.mark.parametrize("kind", KINDS)
each_type = pytest.mark.parametrize("dtype", TYPES)


def text_of(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 30, (n,), generator=g)


@torch.no_grad()
def torch_logits(model, ids):
    "What torch says after each of the tokens, each with all the context it can have"
    if isinstance(model, FastGPT):
        return model(ids[None])[0][0]
    T = model.config.block_size
    return torch.stack(
        [model(ids[None, max(0, n - T) : n])[0][0, -1] for n in range(1, len(ids) + 1)]
    )


# What a model says


LOGITS = """async ([i, ids, simd]) => {
    const {writer: w} = await writer(i, {simd}), text = w.start()
    return [w.simd, ids.map(id => Array.from(text.read([id]))),
        Array.from(w.start().read(ids))]
}"""


@each_kind
@each_type
def test_logits_are_torchs_over_a_full_context_and_past_it(page, files, kind, dtype):
    model, _ = load_model(files[kind, dtype])
    ids = text_of(model.config.reach + 60)
    expected = torch_logits(model, ids)
    for simd in (False, True):
        found, each, at_once = page.evaluate(
            LOGITS, [index(kind, dtype), ids.tolist(), simd]
        )
        assert found == simd
        off = (torch.tensor(each) - expected).abs().max()
        assert off < 1e-4, (simd, off)
        assert each[-1] == at_once, "reading in one go says something else"


PIECES = """async ([i, ids]) => {
    const {writer: w} = await writer(i, {texts: 2}), text = w.start(0)
    const same = (a, b) => a.every((x, j) => x === b[j])
    const found = []
    let seed = 1, rest = 0
    for (let n = 0; n < 60; n++) {
        seed = seed * 48271 % 2147483647
        const length = 1 + seed % ids.length
        const some = [...ids.slice(0, length), ...ids.slice(0, seed % 3)]
        const todo = text.go_to(some)
        rest += some.length - todo.length
        const scores = Array.from(text.read(todo))
        found.push(same(scores, w.start(1).read(some)))
        for (let m = 0; m < seed % 50; m++) text.read([m % 30])
    }
    for (let n = 0; n < 40; n++) { // back from where not all had been read
        text.forget().read(ids.slice(0, 150))
        for (let m = 150; m < 150 + n % 4; m++) text.read([ids[m]])
        const some = ids.slice(0, 152 - n)
        const scores = Array.from(text.read(text.go_to(some)))
        found.push(same(scores, w.start(1).read(some)))
    }
    return [found, rest]
}"""


@each_kind
def test_going_to_another_text_is_reading_it_anew(page, kind):
    ids = text_of(200).tolist()
    found, spared = page.evaluate(PIECES, [index(kind), ids])
    assert all(found) and spared > (5 if kind == "GPT" else 60)


def test_products_in_both_forms(page):
    off = page.evaluate("""() => {
        const config = {vocab_size: 7, block_size: 5, n_embd: 6, n_head: 2, n_layer: 1}
        const w = new charlm.Writer(new Map(), "GPT", config)
        const numbers = new Float32Array(w.memory), fast = w.matvec
        const at = new Float32Array(w.memory, 0, 9999)
        let worst = 0
        for (let rows = 0; rows < 10; rows++) for (let cols = 0; cols < 70; cols++) {
            for (let i = 0; i < 2000; i++) numbers[i] = Math.sin(i * i)
            const w = numbers.subarray(100, 1000), x = numbers.subarray(1003, 1100)
            const [a, b] = [numbers.subarray(0, 10), new Float32Array(10)]
            a.fill(0)
            fast(a, w, 5, x, rows, cols, cols + 3)
            charlm.matvec(b, w, 5, x, rows, cols, cols + 3)
            for (let r = 0; r < 10; r++) worst = Math.max(worst, Math.abs(a[r] - b[r]))
        }
        return worst
    }""")
    assert off < 1e-5


NAMES = "out w x rows cols stride i even sum a b c d".split()
CODES = {
    "block": "0240", "loop": "0340", "end": "0b", "br": "0c", "br_if": "0d",
    "local.get": "20", "local.set": "21", "local.tee": "22", "f32.load": "2a0200",
    "f32.store": "380200", "i32.const": "41", "f32.const 0": "4300000000",
    "i32.eqz": "45", "i32.ge_u": "4f", "f32.add": "92", "f32.mul": "94",
    "i32.add": "6a", "i32.sub": "6b", "i32.and": "71", "i32.shl": "74",
    "v128.load": "fd000200", "v128.load offset=16": "fd000210",
    "v128.load offset=32": "fd000220", "v128.load offset=48": "fd000230",
    "f32x4.splat": "fd13", "f32x4.extract_lane": "fd1f", "f32x4.add": "fde401",
    "f32x4.mul": "fde601",
}  # fmt: skip


def assembled(instruction):
    "The bytes of one instruction of the kernel, in hexadecimal"
    if instruction in CODES:
        return CODES[instruction]
    code, _, of = instruction.rpartition(" ")
    if of.startswith("$"):
        return f"{CODES[code]}{NAMES.index(of[1:]):02x}"
    number = int(of)
    if code == "i32.const" and number > 63:  # two groups of seven bits
        return f"{CODES[code]}{number & 0x7F | 0x80:02x}{number >> 7:02x}"
    return f"{CODES[code]}{number & 0x7F if code == 'i32.const' else number:02x}"


def test_the_kernels_bytes_are_what_the_text_beside_them_says():
    source = ENGINE.read_text()
    lines = re.search(r"KERNEL = `\n(.*?)`", source, re.S)[1].splitlines()
    lines = [re.fullmatch(r"([0-9a-f ]+);; +(.*)", line).groups() for line in lines]
    assert len(lines) > 50
    for code, text in lines[7:]:
        instructions = [t.strip() for t in text.split(",")]
        assert "".join(map(assembled, instructions)) == code.replace(" ", ""), text


# What it writes


WRITE = """async ([i, how]) => {
    const {writer: w, alphabet} = await writer(i)
    return charlm.write(w, alphabet, how)
}"""


@each_kind
@each_type
def test_greedy_text_is_pythons(page, files, kind, dtype):
    how = dict(prompt="some 𝄞\n", length=500, temperature=0)
    expected = write(*load_writer(files[kind, dtype]), seed=1, **how)
    assert page.evaluate(WRITE, [index(kind, dtype), how]) == expected
    assert len(expected) == 507


@each_kind
@pytest.mark.parametrize(
    "seed, how",
    [
        (0, {}),
        (1, dict(temperature=0.7, prompt="é")),
        (2, dict(top_k=5)),
        (2**63 - 1, dict(top_p=0.9, temperature=1.3)),
        (1234567, dict(temperature=0.8, top_k=20, top_p=0.6, prompt="the 𝄞 " * 40)),
    ],
)
def test_drawn_text_is_pythons(page, files, kind, seed, how):
    how = how | dict(length=400)
    expected = write(*load_writer(files[kind, "bfloat16"]), seed=seed, **how)
    how["seed"] = str(seed)
    assert page.evaluate(WRITE, [index(kind, "bfloat16"), how]) == expected


@each_kind
def test_stops_where_python_stops(page, files, kind):
    for stop in ("a", "\n", "𝄞", "ab"):
        how = dict(length=300, stop=stop, seed=3)
        expected = write(*load_writer(files[kind, "float32"]), **how)
        assert page.evaluate(WRITE, [index(kind), how]) == expected


def test_chance_is_pythons(page):
    for seed in (0, 1, 1234567, 2**53 + 1, 2**63 - 1, 2**64 - 1):
        chance = uniforms(seed)
        found = page.evaluate(
            """seed => { const chance = charlm.uniforms(seed)
            return Array.from({length: 50}, () => chance.next().value) }""",
            str(seed),
        )
        assert found == [next(chance) for _ in range(50)]


def test_draws_are_pythons(page):
    rng, cases = np.random.default_rng(0), []
    for _ in range(400):
        scores = rng.normal(size=rng.integers(1, 40)).astype(np.float32) * 3
        if rng.random() < 0.5:
            scores = np.round(scores)  # ties
        t = rng.choice([0.0, 1e-9, 0.3, 1.0, 2.5, 1e30])
        k = rng.choice([None, 1, 3, 100])
        p = rng.choice([None, 1e-9, 0.3, 0.9, 1.0])
        cases.append([scores.tolist(), rng.random(), float(t), k, p])
    for eighths in range(8):  # at the very ends of the shares
        for p in (None, 0.25, 0.5, 0.75):
            cases.append([[0.0] * 4, eighths / 8, 1.0, None, p])
    found = page.evaluate(
        """cases => cases.map(([scores, u, ...how]) =>
            charlm.draw(Float32Array.from(scores), u, ...how))""",
        cases,
    )
    assert found == [draw(np.float32(scores), *rest) for scores, *rest in cases]


# What it says when it can't


@pytest.mark.parametrize(
    "text",
    ["Q", "abcé 𝄞 Ünd", "x" * 30 + "Ẽ" + "yz" * 20, "a\u00a0b", "\t", "''\"", "\ud800"]
    + ["a\U0001f600b", "𝄞" * 15 + "ß\u200b", "ab\\c", "\x7f", "\U000e0001"],
)
def test_an_unknown_character_is_named_as_in_python(page, text):
    with pytest.raises(BadInput) as expected:
        LETTERS.ids(text)
    said = page.evaluate(
        """([chars, text]) => line(() => {
            new charlm.Alphabet(chars).ids(JSON.parse(text)) })""",
        [LETTERS.chars, json.dumps(text)],
    )
    assert said == str(expected.value)


def test_code_points_stay_whole(page):
    chars = "a𝄞é😀\n"
    found = page.evaluate(
        """chars => { const a = new charlm.Alphabet(chars)
        return [a.vocab_size, a.ids("😀𝄞a"), a.text([3, 1, 0])] }""",
        chars,
    )
    assert found == [5, Alphabet(chars).ids("😀𝄞a"), "😀𝄞a"]


@pytest.mark.parametrize(
    "how",
    [
        dict(length=0), dict(length=1.5), dict(length="9"),
        dict(seed=-1), dict(seed=2**63), dict(temperature=-1), dict(temperature="1"),
        dict(temperature=True), dict(top_k=0), dict(top_p=0), dict(top_p=1.5),
        dict(top_p=[1]), dict(stop=""), dict(prompt=""), dict(stop="Q"),
        dict(prompt="<script>alert(1)</script>"), dict(temperature=1e31),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_setting_is_named_as_in_python(page, files, how):
    with pytest.raises(BadInput) as expected:
        write(*load_writer(files["GPT", "float32"]), **how)
    sent = {k: str(v) if k == "seed" and v > 0 else v for k, v in how.items()}
    said = page.evaluate(
        """how => line(async () => { const {writer: w, alphabet} = await writer(0)
            charlm.write(w, alphabet, how) })""",
        sent,
    )
    assert said == str(expected.value)


def test_limits_are_pythons(page):
    limits = page.evaluate("""() => Object.entries(charlm.LIMITS).map(
        ([name, [, , words]]) => [name, words])""")
    assert len(limits) > 10
    for name, words in limits:
        with pytest.raises(BadInput, match=re.escape(f"must be {words}") + "$"):
            check_number(name, None)


# In a worker


ASK = """async i => {
    const model = await charlm.open(file(i)), pieces = [], nats = []
    const text = "some words 𝄞 that go on past the context"
    const how = {prompt: text, length: 2000, seed: 7}, order = []
    const noted = async (name, answer) => (await answer, order.push(name), answer)
    const [written, bars, few, surprise, attention, early] = await Promise.all([
        noted("written", model.write(how, piece => pieces.push(piece))),
        noted("bars", model.probabilities(text)),
        model.probabilities(text, {top_k: 3, temperature: 0.5}),
        model.surprise(text, some => nats.push(...some)), model.attention(text),
        model.attention(text, 7)])
    const {kind, config, chars, verified, num_params, simd} = model
    const weights = ({from, weights}) => [from, weights.map(
        layer => layer.map(head => Array.from(head)))]
    const bad = [
        await line(() => model.write({prompt: "Q"})),
        await line(() => model.write({prompt: ""})),
        await line(() => model.surprise("a")),
        await line(() => model.attention("abc", 3))]
    model.close()
    bad.push(await line(() => model.write()))
    return {text, order, written, pieces, bars, few, surprise, nats, bad,
        attention: weights(attention), early: weights(early),
        about: {kind, config, chars, verified, num_params, simd}}
}"""


@each_kind
def test_a_worker_answers_while_it_writes(page, files, kind):
    path = files[kind, "float32"]
    model, _ = load_model(path)
    said = page.evaluate(ASK, index(kind))
    written, about, text = said["written"], said["about"], said["text"]
    assert written["text"] == write(*load_writer(path), text, 2000, seed=7)
    assert "".join(said["pieces"]) == written["added"] and len(said["pieces"]) > 1
    assert (written["characters"], written["stopped"], written["seed"]) == (
        2000,
        False,
        "7",
    )
    assert said["order"] == ["bars", "written"]
    config = read_model(path)[2]
    assert about == dict(
        kind=kind,
        config=config,
        chars=LETTERS.chars,
        verified=True,
        num_params=model.num_params(),
        simd=True,
    )
    ids = torch.tensor(LETTERS.ids(text))
    logits = torch_logits(model, ids)
    torch.testing.assert_close(torch.tensor(said["bars"]), logits[-1].softmax(-1))
    few = torch.tensor(said["few"])
    assert (few > 0).sum() == 3 and abs(few.sum() - 1) < 1e-6
    nats = -logits[:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    close = dict(atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.tensor(said["surprise"]), nats, **close)
    assert said["nats"] == said["surprise"]
    if kind == "GPT":
        torch.testing.assert_close(surprise(model, ids), nats, **close)
    assert "unknown character 'Q' (U+0051)" in said["bad"][0]
    assert said["bad"][1:] == [
        "the prompt is empty; give the model at least one character to go on from",
        "surprise needs at least two characters",
        "position is 3; the text has positions 0 to 2",
        "the model is closed",
    ]
    start, early = said["early"]
    maps = attention_maps(model, ids[None, :8])[:, 0, :, -1]  # (n_layer,n_head,8)
    assert start == 0
    torch.testing.assert_close(torch.tensor(early), maps, **close)
    start, late = said["attention"]
    assert start == len(ids) - 24
    torch.testing.assert_close(torch.tensor(late).sum(-1), torch.ones(3, 4))
    if kind == "GPT":
        maps = attention_maps(model, ids[None, -24:])[:, 0, :, -1]
        torch.testing.assert_close(torch.tensor(late), maps, **close)


def test_writing_can_be_stopped_and_goes_on(page):
    said = page.evaluate("""async () => {
        const model = await charlm.open(file(3))
        let stopped = 0, first = 0
        const begun = performance.now()
        const long = await model.write({length: 1e8, seed: 1}, () => {
            first = first || performance.now()
            if (performance.now() - begun > 200 && !stopped) {
                stopped = performance.now()
                model.stop()
            }
        })
        const waited = performance.now() - stopped
        const again = await model.write({length: long.characters, seed: 1})
        model.close()
        return [long, again, first - begun, waited]
    }""")
    long, again, first, waited = said
    assert long["stopped"] and not again["stopped"]
    assert 0 < long["characters"] < 10**6 and long["added"] == again["added"]
    assert first < 2000 and waited < 2000, (first, waited)


POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "script-src file: 'nonce-own' {more}; worker-src blob:\">\n"
)


@pytest.mark.parametrize("more, simd", [("'wasm-unsafe-eval'", True), ("", False)])
def test_works_under_a_strict_policy(new_page, files, more, simd):
    path = files["FastGPT", "float32"]
    page = new_page(path, head=POLICY.format(more=more))
    said = page.evaluate("""async () => { const model = await charlm.open(file(0))
        return [model.simd, (await model.write({length: 200, seed: 4})).text] }""")
    assert said == [simd, write(*load_writer(path), length=200, seed=4)]


def test_where_no_worker_may_run_it_says_so(new_page, files):
    head = POLICY.format(more="").replace("worker-src blob:", "worker-src 'none'")
    page = new_page(files["GPT", "float32"], head=head)
    said = page.evaluate("line(() => charlm.open(file(0)))")
    assert said == "this browser doesn't let the page start a worker"


def test_without_sha256_it_says_so(chromium, files):
    path = files["GPT", "float32"]
    context = chromium.new_context()
    page = context.new_page()  # about:blank is no secure context
    page.add_script_tag(content=ENGINE.read_text())
    said = page.evaluate(
        """async base64 => {
            const from = Uint8Array.from(atob(base64), c => c.charCodeAt(0))
            const model = await charlm.open(from, "it")
            const {text} = await model.write({length: 100, seed: 4})
            return [isSecureContext, model.verified, text, from.length] }""",
        b64encode(path.read_bytes()).decode(),
    )
    secure, verified, text, n = said
    assert (secure, verified, n) == (False, False, path.stat().st_size)
    assert text == write(*load_writer(path), length=100, seed=4)
    context.close()


# Files that are none


def with_header(header, data=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(kind="F32", shape=(1,), ends=(0, 4)):
    return dict(dtype=kind, shape=list(shape), data_offsets=list(ends))


def bad_files(good):
    "name -> (bytes, whether Python says the same, to the letter)"
    raw = good.read_bytes()
    weights, kind, config, alphabet = read_model(good)
    about = dict(kind="model", model=kind, config=config, chars=alphabet.chars)
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"

    def flipped(at):
        return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]

    def said(**other):
        return to_bytes(weights, about | other)

    def shaped(**other):
        return said(config=config | other)

    def holding(**other):
        other = {name.replace("__", "."): x for name, x in other.items()}
        kept = {n: x for n, x in weights.items() if other.get(n, x) is not None}
        return to_bytes(kept | {n: x for n, x in other.items() if x is not None}, about)

    nan, inf = (weights["lm_head.bias"].copy() for _ in range(2))
    nan[3], inf[3] = np.nan, -np.inf
    big = dict(vocab_size=2, block_size=65536, n_embd=128, n_head=1, n_layer=4)
    big = big | dict(dropout=0.0, recent=1)
    hungry = {"token_embedding_table.weight": (1, 2, 128), "lm_head.weight": (2, 128)}
    hungry["lm_head.bias"] = (2,)
    for i in range(4):
        for name, shape in {
            "sa.bias": (1, 65536),
            "sa.qkv.weight": (384, 128),
            "sa.proj.weight": (128, 128),
            "ffwd.0.weight": (512, 128),
            "ffwd.2.weight": (128, 512),
        }.items():
            hungry[f"blocks.{i}.{name}"] = shape
    hungry = {n: np.zeros(shape, np.uint16) for n, shape in hungry.items()}
    about_big = dict(kind="model", model="FastGPT", config=big, chars="ab")

    own = {
        "empty": b"",
        "seven bytes": raw[:7],
        "a text": b"First Citizen:\nBefore we proceed any further, hear me speak.\n",
        "a page": f"<!doctype html><html>{evil}</html>".encode(),
        "a picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(99),
        "a pickle": b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x02os\x8c\x06system\x93.",
        "a zip": b"PK\x03\x04" + bytes(200),
        "a byte short": raw[:-1],
        "half": raw[: len(raw) // 2],
        "cut in the header": raw[:100],
        "a byte more": raw + b"x",
        "header of 2^63": struct.pack("<Q", 2**63) + raw[8:],
        "header of 2^64-1": struct.pack("<Q", 2**64 - 1) + raw[8:],
        "header of 17 MB": with_header(b" " * 17_000_000),
        "header of nothing": with_header(b""),
        "header no JSON": with_header(b"{'a': 1}"),
        "header a list": with_header([1, 2]),
        "header null": with_header(None),
        "header no UTF-8": with_header(b'{"\xff": 1}'),
        "header deep": with_header(b"[" * 200_000 + b"]" * 200_000),
        "header of scripts": with_header({evil: evil}),
        "overlap": with_header({"a": entry(), "b": entry()}, bytes(4)),
        "gap": with_header({"a": entry(), "b": entry(ends=(8, 12))}, bytes(12)),
        "twice": with_header(
            b'{"a": %b, "\\u0061": %b}' % ((json.dumps(entry()).encode(),) * 2),
            bytes(4),
        ),
        "negative": with_header({"a": entry(ends=(-4, 0))}, bytes(4)),
        "backwards": with_header({"a": entry(ends=(4, 0))}, bytes(4)),
        "offsets of 1e300": with_header({"a": entry(ends=(0, 1e300))}, bytes(4)),
        "shape of 2^200": with_header({"a": entry(shape=[2**50] * 4)}, bytes(4)),
        "shape of words": with_header({"a": entry(shape=["4"])}, bytes(4)),
        "half floats": with_header({"a": entry("F16", (2,))}, bytes(4)),
        "type of scripts": with_header({"a": entry(evil)}, bytes(4)),
        "__proto__": with_header(b'{"__proto__": {"dtype": "F32"}}', bytes(4)),
        "recent too large": None if kind == "GPT" else shaped(recent=1000),
        "metadata twice": with_header(
            {"__metadata__": {"charlm": '{"format": 4, "kind": "a", "kind": "b"}'}}
        ),
        "memory": to_bytes(hungry, about_big),
    }
    same = {
        "no metadata": with_header({"a": entry()}, bytes(4)),
        "other metadata": with_header({"__metadata__": {"x": evil}}),
        "metadata no JSON": with_header({"__metadata__": {"charlm": evil}}),
        "metadata a number": with_header({"__metadata__": {"charlm": "4"}}),
        "metadata deep": with_header({"__metadata__": {"charlm": "[" * 10**5}}),
        "newer": said(format=5),
        "older": said(format=3),
        "a run": said(kind="run"),
        "a kind of scripts": said(kind=evil),
        "no kind": said(kind=None),
        "a bit of the weights": flipped(len(raw) - 500),
        "a bit of the sum": flipped(raw.index(b"sha256") + 20),
        "a bit of the alphabet": flipped(raw.index(b"abcdef")),
        "no sum": said(sha256=7),
        "unknown model": said(model=evil),
        "model constructor": said(model="constructor"),
        "model a list": said(model=[["GPT"]]),
        "no shape": said(config=None),
        "less shape": said(config={"vocab_size": 30}),
        "more shape": shaped(**{evil: 1}),
        "no block": shaped(block_size=0),
        "true layers": shaped(n_layer=True),
        "a huge block": shaped(block_size=2**40),
        "a block of words": shaped(block_size=evil),
        "heads": shaped(n_head=5),
        "999 layers": shaped(n_layer=999),
        "four layers": shaped(n_layer=4),
        "fewer layers": shaped(n_layer=2),
        "wider": shaped(n_embd=40),
        "one weight less": holding(lm_head__bias=None),
        "one weight more": holding(**{evil: np.zeros(3, np.float32)}),
        "another shape": holding(lm_head__bias=np.zeros((30, 1), np.float32)),
        "whole numbers": holding(lm_head__bias=np.zeros(30, np.int64)),
        "bytes": holding(lm_head__bias=np.zeros(30, np.uint8)),
        "not a number": holding(lm_head__bias=nan),
        "infinite": holding(lm_head__bias=narrowed(inf)),
        "no alphabet": said(chars=None),
        "empty alphabet": said(chars=""),
        "a script for an alphabet": said(chars="<script>alert(2)</"),
        "alphabet of two": said(chars="ab"),
        "one character twice": said(chars="aa" + LETTERS.chars[2:]),
        "half a character": said(chars="\ud834" + LETTERS.chars[1:]),
        "alphabet a list": said(chars=list(LETTERS.chars)),
    }
    if kind == "GPT":
        own.pop("recent too large")
    return own, same


OWN_WORDS = {
    "empty": "it has 0 bytes",
    "a byte short": "its numbers end at byte",
    "a byte more": "its numbers end at byte",
    "header of 2^64-1": "beyond its end",
    "header of 17 MB": "17,000,000 bytes; a page reads at most 16,777,216",
    "header no UTF-8": "not JSON",
    "header a list": "not a table",
    "overlap": "'b' doesn't begin where the one before ends",
    "gap": "'b' doesn't begin where the one before ends",
    "twice": "'a' twice",
    "negative": "'a' doesn't say where its numbers are",
    "backwards": "-4 bytes",
    "shape of 2^200": "has the shape",
    "half floats": "in the type F16, which charlm doesn't use",
    "metadata twice": "not one that charlm wrote",
    "recent too large": "recent is 1000, more than block_size 24",
    "memory": "holds a model that needs 1,080,045,616 bytes",
}


@each_kind
def test_a_bad_file_is_one_line_and_the_page_goes_on(
    new_page, files, kind, tmp_path_factory
):
    good = files[kind, "float32"]
    own, same = bad_files(good)
    if kind == "FastGPT":  # what doesn't depend on the kind, once is enough
        own = {"recent too large": own["recent too large"]}
    assert len(own) + len(same) > 30
    folder = tmp_path_factory.mktemp("bad")
    paths = []
    for name, raw in {**own, **same}.items():
        paths.append(folder / f"{name}.safetensors")
        paths[-1].write_bytes(raw)
    page = new_page(*paths, good)
    said = page.evaluate(
        """async n => {
            const said = []
            for (let i = 0; i < n; i++) {
                said.push(await line(() => charlm.open(file(i))))
                document.body.append(document.createElement("p"))
                document.body.lastChild.textContent = said.at(-1)
            }
            const model = await charlm.open(file(n))
            said.push((await model.write({length: 50, seed: 1})).text)
            return said }""",
        len(paths),
    )
    assert said.pop() == write(*load_writer(good), length=50, seed=1)
    for path, line in zip(paths, said, strict=True):
        name = path.stem
        assert line and line.startswith(path.name), (name, line)
        assert line.isprintable() and len(line) < 400, (name, line)
        assert not line.startswith("NOT"), (name, line)
        with pytest.raises(BadInput) as expected:
            load_writer(path)
            raise BadInput("Python reads it")
        if name in OWN_WORDS:
            assert OWN_WORDS[name] in line, (name, line)
        if name in same:
            assert f"{folder}/{line}" == str(expected.value), name
    assert page.locator("img, p > *").count() == 0


def test_what_is_no_file_or_too_large_is_refused_at_once(page):
    assert page.evaluate("""async () => [
        await line(() => charlm.open("model.safetensors")),
        await line(() => charlm.open(null)),
        await line(() => charlm.open({size: 3})),
        await line(() => charlm.open(new Blob(Array(65).fill(new Uint8Array(2 ** 23))),
            "large"))]""") == ["that is not a file"] * 3 + [
        "large has 545,259,520 bytes; a page reads at most 536,870,912"
    ]


# How fast


@pytest.fixture(scope="module")
def large_page(new_page, tmp_path_factory):
    "A page with untrained models of the recipes `fast` and `speedrun`"
    tok = CharTokenizer("".join(chr(48 + i) for i in range(65)))
    folder, paths = tmp_path_factory.mktemp("large"), []
    torch.manual_seed(2)
    small = dict(block_size=128, n_embd=128, n_layer=1, recent=4)
    for i, shape in enumerate([{}, small]):
        model = FastGPT(FastConfig(65, **shape))
        torch.nn.init.normal_(model.lm_head.weight, std=0.1)
        paths.append(folder / f"{i}.safetensors")
        save_model(paths[-1], model, tok, "bfloat16")
    return new_page(*paths)


def test_it_is_fast_enough(large_page):
    "Also beside a busy program: measured are several times these speeds"
    speeds = large_page.evaluate("""async () => {
        const best = []
        for (const [i, length] of [[0, 300], [1, 3000]]) {
            const model = await charlm.open(file(i)), speeds = []
            for (let n = 0; n < 3; n++) {
                const {seconds} = await model.write({length, prompt: "0"})
                speeds.push(length / seconds)
            }
            best.push(Math.max(...speeds))
            model.close()
        }
        return best }""")
    print("characters a second:", speeds)
    assert speeds[0] >= 200 and speeds[1] >= 2000, speeds


def test_what_was_half_read_is_read_anew(large_page):
    stopped, found, fresh = large_page.evaluate("""async () => {
        const model = await charlm.open(file(0)), other = await charlm.open(file(0))
        const prompt = "0A1bC2".repeat(200), how = {prompt, length: 20, seed: 1}
        const long = model.write({...how, length: 1e6})
        setTimeout(() => model.stop(), 350)
        const {stopped} = await long
        how.prompt += "D"
        const texts = [await model.write(how), await other.write(how)]
        model.close()
        other.close()
        return [stopped, ...texts.map(x => x.text)] }""")
    assert stopped and found == fresh


def test_its_lines_fit_a_page():
    lines = ENGINE.read_text().splitlines()
    assert [line for line in lines if len(line) > 88 or line != line.rstrip()] == []
