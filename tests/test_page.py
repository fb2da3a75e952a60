"""The page in a real browser: write, look inside, open another model, by any means.

The model is untrained, with weights of which every one counts. Without Chromium the
tests are skipped, except where CI is set, where that is a failure.
"""

import re
from base64 import b64encode
from importlib.resources import files as package

import pytest
import torch
from conftest import ROOT
from playwright.sync_api import expect

from charlm.checkpoint import load_model, save_model
from charlm.checks import BadInput
from charlm.data import CharTokenizer
from charlm.fast import FastConfig, FastGPT
from charlm.generate import load_writer, write
from charlm.gpt import GPT, GPTConfig
from charlm.inside import attention_maps, surprise
from charlm.page import page as whole_page

FOLDER = ROOT / "charlm/page"
OWN = ("play.html", "play.css", "play.js")
LETTERS = CharTokenizer("".join(chr(97 + i) for i in range(26)) + " \n.𝄞")
EVIL = CharTokenizer("".join(dict.fromkeys("<script>alert(1)</ROME:\n")))
expect.set_options(timeout=10_000)


def make(folder, name, tok, fast=False):
    "The file of an untrained model whose every weight counts"
    torch.manual_seed(len(name))
    shape = dict(block_size=24, n_embd=32, n_head=4, n_layer=2)
    model = (
        FastGPT(FastConfig(tok.vocab_size, **shape, recent=3))
        if fast
        else GPT(GPTConfig(tok.vocab_size, **shape))
    )
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
        model.lm_head.weight.normal_(std=0.5)
    save_model(folder / name, model.eval(), tok)
    return folder / name


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return dict(
        GPT=make(folder, "lecture.safetensors", LETTERS),
        FastGPT=make(folder, "fast.safetensors", LETTERS, fast=True),
        evil=make(folder, "<img src=x onerror=alert(1)>.safetensors", EVIL),
    )


@pytest.fixture
def open_page(chromium, tmp_path):
    "`open_page(model)`: the page at file://; nothing may go wrong or be asked for"
    contexts, troubles = [], []

    def go(model=None, title="charlm", beside=(), **settings):
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(whole_page(model, title, beside))
        contexts.append(chromium.new_context(**settings))
        page = contexts[-1].new_page()
        own = ("blob:", "data:")

        def asked(request):
            if request.url != path.as_uri() and not request.url.startswith(own):
                troubles.append(request.url)

        page.on("request", asked)
        page.on("pageerror", lambda e: troubles.append(str(e)))
        page.on("console", lambda m: troubles.append(m.text))
        page.on("dialog", lambda d: troubles.append(d.message))
        page.goto(path.as_uri())
        if model:
            expect(page.locator("#facts")).to_contain_text("checksum verified")
        return page

    yield go
    for context in contexts:
        context.close()
    assert troubles == []


def shown(page):
    "The text that stands there, without the marks of line ends"
    return page.evaluate(
        "[...document.querySelectorAll('#text span')].map(x => x.textContent).join('')"
    )


def ready(page):
    "Wait until the bars are those of the cursor"
    expect(page.locator("#bars")).to_have_attribute("aria-busy", "false")


def write_in(page, **fields):
    for name, value in fields.items():
        page.fill(f"#{name}", str(value))
    page.click("#write")
    expect(page.locator("#status")).to_contain_text("Wrote")
    ready(page)


def bars(page):
    "character -> share, and that of all others, in per cent"
    found = page.evaluate("""() => [...document.querySelectorAll('#bars button')].map(
        x => [x.char, +x.querySelector('.fill').style.getPropertyValue('--p')])""")
    rest = page.inner_text("#rest").rpartition(": ")[2].strip("< %")
    return dict(found), float(rest)


def drop(page, path, name=None):
    "Drop a file on the page"
    raw = b64encode(path if isinstance(path, bytes) else path.read_bytes()).decode()
    page.evaluate(
        """([raw, name]) => {
            const bytes = Uint8Array.from(atob(raw), c => c.charCodeAt(0))
            const dataTransfer = new DataTransfer()
            dataTransfer.items.add(new File([bytes], name))
            for (const kind of ["dragover", "drop"]) document.body.dispatchEvent(
                new DragEvent(kind, {dataTransfer, bubbles: true, cancelable: true}))
        }""",
        [raw, name or path.name],
    )


# Write


@pytest.mark.parametrize("kind", ["GPT", "FastGPT"])
def test_the_same_seed_writes_what_python_writes(open_page, models, kind):
    page, writer = open_page(models[kind]), load_writer(models[kind])
    for seed, how in [
        (1, dict(prompt="so it goes.\n𝄞")),
        (2**63 - 1, dict(prompt="abc", top_k=5, temperature=0.7)),
        (33, dict(prompt="", top_p=0.8, top_k=20)),
        (0, dict(prompt="a", temperature=0)),
    ]:
        fields = dict(temperature=1, top_p=1, top_k="") | how
        write_in(page, seed=seed, length=300, **fields)
        how["prompt"] = how["prompt"] or None
        expected = write(*writer, length=300, seed=seed, **how)
        assert shown(page).lstrip("\n") == expected
        assert f"seed {seed}." in page.inner_text("#status")
        assert re.match(r"[\d,]+ characters a second", page.inner_text("#speed"))


def test_a_seed_is_kept_and_a_new_sample_has_a_new_one(open_page, models):
    page = open_page(models["GPT"])
    seed = page.input_value("#seed")
    assert seed.isdigit()
    page.fill("#prompt", "abc")
    texts = []
    for button in ("#write", "#write", "#again"):
        page.click(button)
        expect(page.locator("#status")).to_contain_text("Wrote")
        ready(page)
        texts.append(shown(page))
    assert texts[0] == texts[1] != texts[2]
    assert page.input_value("#seed") != seed
    page.click("#new-seed")
    page.fill("#seed", "")
    write_in(page)
    assert page.input_value("#seed") in page.inner_text("#status")
    page.click("#on")
    expect(page.locator("#speed")).to_contain_text("a second")
    expect(page.locator("#write")).to_have_text("Write")
    ready(page)
    assert len(shown(page)) == len("abc") + 1000


def test_stop_with_the_button_and_with_escape(open_page, models):
    page = open_page(models["GPT"])
    page.fill("#length", "20000")
    for how in (lambda: page.click("#write"), lambda: page.keyboard.press("Escape")):
        page.click("#write")
        expect(page.locator("#write")).to_have_text("Stop")
        page.wait_for_selector("#text div:nth-child(3)")
        how()
        expect(page.locator("#status")).to_contain_text("Stopped after")
        assert 0 < len(shown(page)) < 20000
        expect(page.locator("#write")).to_have_text("Write")
    write_in(page, length=30, prompt="goes on", seed=4)
    expected = write(*load_writer(models["GPT"]), "goes on", 30, seed=4)
    assert shown(page) == expected


def test_an_unknown_character_is_named_beside_the_prompt(open_page, models):
    page = open_page(models["GPT"])
    write_in(page, prompt="abc", length=20)
    before = shown(page)
    page.fill("#prompt", "ab Ç")
    with pytest.raises(BadInput) as said:
        LETTERS.ids("ab Ç")
    expect(page.locator("#prompt-wrong")).to_have_text(str(said.value))
    expect(page.locator("#prompt")).to_have_attribute("aria-invalid", "true")
    page.click("#write")
    assert shown(page) == before
    page.click("#on")
    expect(page.locator("#status")).to_contain_text("Wrote")
    write_in(page, prompt="ab c")
    expect(page.locator("#prompt-wrong")).to_be_empty()
    assert shown(page).startswith("ab c")


@pytest.mark.parametrize(
    "name, value, good, words",
    [
        ("top_k", "0", "", "top_k is '0'; it must be a whole number from 1 to"),
        ("length", "20001", "9", "it must be a whole number from 1 to 20,000"),
        ("seed", "-1", "1", "seed is '-1'; it must be a whole number from 0 to 9,223"),
        ("seed", str(2**63), "2", "it must be a whole number"),
        ("top_k", "<b>", "3", "top_k is '<b>'"),
    ],
)
def test_a_wrong_setting_is_named(open_page, models, name, value, good, words):
    page = open_page(models["GPT"])
    write_in(page, length=10)
    before = shown(page)
    page.fill(f"#{name}", value)
    page.click("#write")
    expect(page.locator("#how-wrong")).to_contain_text(words)
    expect(page.locator(f"#{name}")).to_have_attribute("aria-invalid", "true")
    assert shown(page) == before
    write_in(page, **{name: good})
    expect(page.locator("#how-wrong")).to_be_empty()


# Look inside


@torch.no_grad()
def torch_shares(path, text):
    model, tok = load_model(path)
    return model(tok.encode(text)[None])[0][0, -1].softmax(-1), tok


def test_bars_add_up_and_a_press_on_one_goes_on_from_there(open_page, models):
    page = open_page(models["GPT"])
    write_in(page, prompt="the ", length=15, seed=5)
    text = shown(page)
    page.locator("#text span").nth(9).click()
    expect(page.locator("#where")).to_contain_text("Character 10 of 19")
    ready(page)
    found, rest = bars(page)
    shares, tok = torch_shares(models["GPT"], text[:9])
    assert len(found) in (10, 11) and abs(100 * sum(found.values()) + rest - 100) < 0.1
    for char, p in found.items():
        assert abs(p - float(shares[tok.chars.index(char)])) < 1e-4
    assert list(found)[0] == tok.decode(shares.argmax()[None])
    drawn = page.locator("#bars .drawn")
    assert drawn.count() == 1 and "drawn" in drawn.inner_text()
    assert drawn.evaluate("x => x.char") == text[9]
    other = next(char for char in found if char != text[9])
    page.locator("#bars button").nth(list(found).index(other)).click()
    expect(page.locator("#status")).to_contain_text("Wrote 15")
    ready(page)
    expected = write(*load_writer(models["GPT"]), text[:9] + other, 15, seed=5)
    assert shown(page) == expected
    page.fill("#top_k", "2")
    expect(page.locator("#bars")).to_contain_text("never drawn now")
    ready(page)
    found, rest = bars(page)
    assert sum(p > 0 for p in found.values()) == 2 and rest == 0
    page.fill("#temperature", "0")
    expect(page.locator("#bars")).to_contain_text("100.0 %")


def test_typed_text_is_coloured_by_surprise(open_page, models):
    page, text = open_page(models["GPT"]), "some words\nabout it"
    page.check("[value=surprise]", force=True)
    page.fill("#prompt", text)
    expect(page.locator("#legend")).to_contain_text("On average")
    model, tok = load_model(models["GPT"])
    nats = surprise(model, tok.encode(text))
    found = page.evaluate("""() => [...document.querySelectorAll('#text span')].map(
        x => x.style.getPropertyValue('--s'))""")
    strengths = torch.tensor([float(x) for x in found if x])
    torch.testing.assert_close(strengths, (18 * nats).clamp(max=95), atol=1e-2, rtol=0)
    assert f"On average {nats.mean():.2f} nats" in page.inner_text("#legend")
    page.locator("#text span").nth(3).click()
    expect(page.locator("#where")).to_contain_text(f"{nats[2]:.2f} nats")


def test_each_heads_weights_are_shown_in_the_text(open_page, models):
    page, text = open_page(models["GPT"]), "what it looks at"
    page.fill("#prompt", text)
    expect(page.locator("#where")).to_contain_text(f"After {len(text)} characters")
    page.locator("#heads input").nth(6).check(force=True)  # layer 2, head 3
    assert page.is_checked("[value=attention]")
    expect(page.locator("#legend")).to_contain_text("Layer 2, head 3")
    model, tok = load_model(models["GPT"])
    maps = attention_maps(model, tok.encode(text)[None])
    expected = maps[1, 0, 2, -1]
    found = page.evaluate("""() => [...document.querySelectorAll('#text span')].map(
        x => +x.style.getPropertyValue('--w'))""")[: len(text)]
    strong = expected > expected.max() / 90
    off = torch.tensor(found) - 58 * expected / expected.max()
    assert off[strong].abs().max() < 0.1
    assert page.locator("#heads input").count() == 8
    assert f"{100 * expected.max():.1f} %" in page.inner_text("#legend")


# Models


def test_a_model_of_ones_own_by_dialog_and_by_drop(open_page, models):
    page = open_page(title="<b>mine</b>")
    assert page.inner_text("h1") == "<b>mine</b>" == page.title().strip()
    expect(page.locator("#write")).to_be_disabled()
    page.set_input_files("#file", str(models["FastGPT"]))
    expect(page.locator("#name")).to_have_text("fast.safetensors")
    write_in(page, prompt="abc", length=50, seed=3)
    assert shown(page) == write(*load_writer(models["FastGPT"]), "abc", 50, seed=3)
    drop(page, models["GPT"])
    expect(page.locator("#name")).to_have_text("lecture.safetensors")
    n = load_model(models["GPT"])[0].num_params()
    facts = page.inner_text("#facts").replace("\u00a0", " ")
    assert facts == (
        f"GPT · {n:,} parameters · 2 layers of 4 heads · context 24 · "
        "✓ checksum verified"
    )
    assert page.is_hidden("#drop") and page.input_value("#prompt") == "abc"
    write_in(page)
    assert shown(page) == write(*load_writer(models["GPT"]), "abc", 50, seed=3)


def test_a_bad_file_is_one_line_and_the_page_goes_on(open_page, models):
    page, raw = open_page(models["GPT"]), models["GPT"].read_bytes()
    evil = "<img src=x onerror=alert(2)>"
    flipped = raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:]
    newer = raw.replace(b'format\\": 4', b'format\\": 5').replace(
        b'format\\":4', b'format\\":5'
    )
    assert newer != raw
    for bad, name, words in [
        (flipped, "damaged", "checksum is wrong"),
        (raw[:-5], "short", "cut short"),
        (b"First Citizen: " + evil.encode(), evil, "not a safetensors file"),
        (b"", "empty", "it has 0 bytes"),
        (newer, "newer", "newer charlm"),
        (b"\xff" * 7 + b"\x7f" + bytes(99), "huge\n\u202eheader", "beyond its end"),
    ]:
        drop(page, bad, name)
        expect(page.locator("#file-wrong")).to_contain_text(words)
        said = page.inner_text("#file-wrong")
        assert said.isprintable() and len(said) < 300
        assert page.inner_text("#name") == "lecture"
    write_in(page, prompt="abc", length=50, seed=3)
    assert shown(page) == write(*load_writer(models["GPT"]), "abc", 50, seed=3)
    drop(page, models["FastGPT"])
    expect(page.locator("#name")).to_have_text("fast.safetensors")
    expect(page.locator("#file-wrong")).to_be_empty()


def test_scripts_in_names_and_alphabets_stay_text(open_page, models):
    page = open_page(models["evil"], title="</title><script>alert(3)</script>")
    assert page.inner_text("#name") == models["evil"].stem
    assert page.input_value("#prompt") == "ROMEO:"
    page.click("#known")
    assert page.inner_text("#chars").split() == ["↵" if c == "\n" else c
                                                 for c in EVIL.chars]  # fmt: skip
    write_in(page, prompt="<script>", length=100)
    assert page.locator("img, #text script").count() == 0
    drop(page, models["GPT"])  # which knows no "<"
    expect(page.locator("#prompt-wrong")).to_contain_text("unknown character '<'")
    write_in(page, prompt="fine")


def test_models_beside_the_page_are_offered(open_page):
    here = dict(name="a", title="<b>A</b>", file="a.safetensors", bytes=500_000)
    elsewhere = dict(name="b", title="B", file="https://example.org/b", bytes=1)
    page = open_page(beside=[here, elsewhere])
    buttons = page.locator("#sources button").all_inner_texts()
    assert buttons == ["<b>A</b> (0.5 MB)", "Open a model…"]


# For everyone


def test_axe_finds_nothing_serious(open_page, models):
    axe = (package("axe_playwright_python") / "axe.min.js").read_text()
    for scheme in ("light", "dark"):
        page = open_page(models["GPT"], color_scheme=scheme)
        write_in(page, prompt="so it goes\n" * 3, length=100)
        page.evaluate(axe)
        for lens in ("plain", "surprise", "attention"):
            page.check(f"[value={lens}]", force=True)
            if lens == "surprise":
                expect(page.locator("#legend")).to_contain_text("On average")
            page.fill("#prompt", "É" if lens == "attention" else "so it goes\n")
            page.wait_for_timeout(400)
            found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
            serious = [
                (v["id"], node["html"][:120], node.get("failureSummary"))
                for v in found["violations"]
                if v["impact"] in ("serious", "critical")
                for node in v["nodes"]
            ]
            assert serious == [], (scheme, lens)


FOCUSED = """() => { const x = document.activeElement
    const shown = x.matches('#lens input, #heads input') ? x.nextSibling : x
    const style = getComputedStyle(shown)
    return [x.id || x.value || x.ariaLabel || x.localName,
        style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1] }"""


def test_with_the_keyboard_alone(open_page, models):
    page = open_page(models["GPT"])
    ready(page)
    seen = {}
    for _ in range(60):
        page.keyboard.press("Tab")
        name, visible = page.evaluate(FOCUSED)
        seen[name] = visible
    expected = {"open", "prompt", "write", "again", "on", "temperature", "top_p"}
    expected |= {"top_k", "length", "seed", "new-seed", "plain", "text", "back"}
    expected |= {"forth", "0 0"}
    assert expected <= set(seen), expected - set(seen)
    assert [name for name, ok in seen.items() if not ok and name != "body"] == []
    page.focus("#prompt")
    page.keyboard.press("Control+A")
    page.keyboard.type("two words")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#status")).to_contain_text("Wrote 500")
    ready(page)
    text = shown(page)
    page.focus("#text")
    for key in ("Home", "ArrowUp", "ArrowLeft"):
        page.keyboard.press(key)
    where = page.inner_text("#where")
    i = int(re.search(r"Character (\d+)", where)[1])
    page.keyboard.press("ArrowRight")
    expect(page.locator("#where")).to_contain_text(f"Character {i + 1} of 509")
    ready(page)
    page.locator("#bars button").nth(2).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("Wrote 500")
    ready(page)
    assert shown(page)[:i] == text[:i] and len(shown(page)) == i + 501
    page.focus("[value=plain]")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#legend")).to_contain_text("On average")


def test_the_arrow_keys_go_through_the_text(open_page, models):
    page = open_page(models["GPT"])
    page.fill("#prompt", "abc\n\nde\nfghij")
    expect(page.locator("#where")).to_contain_text("After 13")
    page.focus("#text")
    for key, place in [
        ("ArrowUp", 7), ("ArrowUp", 4), ("ArrowUp", 0), ("ArrowUp", 0),
        ("ArrowLeft", 0), ("End", 3), ("ArrowDown", 4), ("ArrowRight", 5),
        ("ArrowDown", 8), ("End", 13), ("ArrowRight", 13), ("Home", 8),
        ("ArrowLeft", 7),
    ]:  # fmt: skip
        page.keyboard.press(key)
        found = page.evaluate("""() => [...document.querySelectorAll('#text span')]
            .findIndex(x => x.matches('.cursor'))""")
        assert found == place, key


def test_it_answers_within_a_tenth_of_a_second_while_it_writes(open_page, models):
    page = open_page(models["GPT"])
    page.fill("#length", "20000")
    page.check("[value=surprise]", force=True)
    page.click("#write")
    page.wait_for_selector("#text div:nth-child(5)")
    waits = page.evaluate("""async () => {
        const waits = [], box = document.querySelector("#temperature")
        for (let i = 0; i < 40; i++) {
            const begun = performance.now()
            box.value = 0.5 + i / 40
            box.dispatchEvent(new Event("input"))
            await new Promise(go => setTimeout(go, 0))
            waits.push(performance.now() - begun)
            await new Promise(go => setTimeout(go, 10))
        }
        return [waits.sort((a, b) => a - b), document.querySelector("#write").innerText]
    }""")
    assert waits[1] == "Stop", "it had already written all"
    assert waits[0][-3] < 100, waits[0]
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_contain_text("Stopped")


def test_on_a_phone_nothing_stands_out(open_page, models):
    page = open_page(models["GPT"], viewport=dict(width=390, height=844))
    assert not page.evaluate("document.querySelector('#how').open")
    page.click("#how summary")
    write_in(page, prompt="x" * 300, length=200)
    page.check("[value=surprise]", force=True)
    expect(page.locator("#legend")).to_contain_text("On average")
    drop(page, b"<no model>" * 9, "a" * 200)
    expect(page.locator("#file-wrong")).not_to_be_empty()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.set_viewport_size(dict(width=320, height=600))
    assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_it_holds_still_for_those_who_asked(open_page, models):
    moves = "getComputedStyle(document.querySelector('#bars .fill')).transitionDuration"
    for asked, expected in (("reduce", "0s"), ("no-preference", "0.18s")):
        page = open_page(models["GPT"], reduced_motion=asked)
        ready(page)
        assert page.evaluate(moves) == expected


# The files themselves


def test_its_lines_fit_a_page_and_nothing_is_put_in_as_html():
    for name in OWN:
        lines = (FOLDER / name).read_text().splitlines()
        assert [x for x in lines if len(x) > 88 or x != x.rstrip()] == [], name
    script = (FOLDER / "play.js").read_text()
    assert not re.search("innerHTML|outerHTML|insertAdjacent|document.write", script)
    assert not re.search(r"https?://(?!www.w3.org/2000/svg)", whole_page())
