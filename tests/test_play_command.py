"""charlm-play and charlm-export: the page they make, what they refuse, who may come in.

What the page does is looked at elsewhere; here it is that it holds what it should, and
that leaving out comments and blanks changes nothing. The tests in a browser need
Chromium; without one they are skipped, except where CI is set.
"""

import ast, json, os, re, signal, socket, struct, subprocess, sys, time, zipfile
from base64 import b64decode, b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SCRIPTS, copy_source

import charlm.page
from charlm.checkpoint import save_model, to_bytes, weight_shapes
from charlm.checks import BadInput
from charlm.data import CharTokenizer
from charlm.fast import FastConfig, FastGPT
from charlm.generate import load_writer, write
from charlm.gpt import GPT, GPTConfig
from charlm.page import page, page_memory, pieces, script, strip_css, strip_js

LETTERS = CharTokenizer("".join(chr(97 + i) for i in range(26)) + " \n𝄞é")
SHAPE = dict(vocab_size=30, block_size=24, n_embd=36, n_head=4, n_layer=3)
KINDS = "GPT", "FastGPT"
each_kind = pytest.mark.parametrize("kind", KINDS)


def save(path, kind="GPT", dtype="float32"):
    torch.manual_seed(1)
    model = FastGPT(FastConfig(**SHAPE, recent=3))
    if kind == "GPT":
        model = GPT(GPTConfig(**SHAPE))
    torch.nn.init.normal_(model.lm_head.weight, std=0.5)
    save_model(path, model, LETTERS, dtype)
    return path


class Elements(HTMLParser):
    "tag, attributes and text of all scripts, styles, titles and metas of a page"

    def __init__(self, html):
        super().__init__()
        self.found, self.inside = [], False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.inside = tag in ("script", "style", "title", "meta")
        if self.inside:
            self.found.append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, text):
        if self.inside:
            self.found[-1][2] += text


def elements(html, tag):
    return [(a, text) for name, a, text in Elements(html).found if name == tag]


def refused(result, name, *parts):
    "Is it one line, and code 2?"
    code, out, err = result
    assert (code, out) == (2, "") and err.startswith(f"{name}: error: "), result
    assert err.count("\n") == 1 and err[:-1].isprintable()
    assert all(part in err for part in parts), err


# The page


def test_the_module_stands_on_little():
    imports = set()
    for node in ast.parse((ROOT / "charlm/page.py").read_text()).body:
        if isinstance(node, ast.Import):
            imports |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imports.add("." * node.level + node.module)
    own = {name for name in imports if name.startswith(".")}
    assert own == {".checks", ".checkpoint"}
    assert {name.split(".")[0] for name in imports - own} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    "name, args",
    [
        ("charlm-export", ["m.safetensors", "m.html"]),
        ("charlm-play", ["m.safetensors", "--no-browser"]),
        ("charlm-play", ["--no-browser"]),
        ("charlm-play", ["--port", "x"]),
        ("charlm-export", ["--help"]),
    ],
)
def test_no_torch_is_imported(name, args):
    save("m.safetensors")
    code = (
        "import sys, charlm.page\nfrom charlm.cli import main\n"
        "charlm.page.PageServer.serve_forever = lambda self: None\n"
        f"try: main({name!r}, sys.argv[1:])\nexcept SystemExit as e: print(e.code)\n"
        "assert 'torch' not in sys.modules and 'fastcore.test' not in sys.modules"
    )
    line = [sys.executable, "-c", code, *args]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@each_kind
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_page_holds_the_model_and_little_else(kind, dtype):
    raw = save(Path("m.safetensors"), kind, dtype).read_bytes()
    html = page("m.safetensors")
    models = [(a, t) for a, t in elements(html, "script") if a.get("id") == "model"]
    [(attributes, text)] = models
    assert b64decode(text, validate=True) == raw
    assert attributes["type"] == "application/octet-stream"
    assert attributes["data-name"] == "m"
    assert len(html.encode()) <= len(b64encode(raw)) + 60_000
    assert elements(page(), "script") == [e for e in elements(html, "script")[-2:]]
    for mark in ("<!--TITLE-->", "/*CSS*/", "/*ENGINE*/", "/*PAGE*/", "<!--MODEL-->"):
        assert mark not in html
    assert "CSP_HASHES" not in html


def test_only_what_is_in_the_page_may_run():
    html = page()
    [policy] = [
        a["content"]
        for a, _ in elements(html, "meta")
        if a.get("http-equiv", "").lower() == "content-security-policy"
    ]
    rules = [rule.split() for rule in policy.split(";")]
    rules = {rule[0]: rule[1:] for rule in rules if rule}
    assert rules["default-src"] == ["'none'"]
    own = {
        "'sha256-" + b64encode(sha256(text.encode()).digest()).decode() + "'"
        for tag in ("script", "style")
        for _, text in elements(html, tag)
    }
    allowed = {x for x in rules["script-src"] if x.startswith("'sha256")}
    scripts = [text for _, text in elements(html, "script")]
    assert len(scripts) == 2 and len(own) == 3 and allowed == own
    assert set(rules["script-src"]) == own | {"'wasm-unsafe-eval'"}
    assert not re.search(r"\bon\w+ *=|javascript:", html.split("<script>")[0])
    for source in re.findall(
        r"(?:src|href) *= *[\"']?([^\s>]+)", html.split("<script>")[0]
    ):
        assert source.startswith("data:"), source


EVIL = (
    "</title></script><script>alert(1)</script>\"'> <!-- /*ENGINE*/ <!--MODEL--> "
    "CSP_HASHES &amp; é𝄞"
)


def test_titles_and_names_are_text_and_nothing_else():
    name = EVIL.replace("/", "")
    path = save(Path(f"{name}.safetensors"))
    html = page(path, EVIL)
    assert [text.strip() for _, text in elements(html, "title")] == [EVIL]
    models = [a for a, _ in elements(html, "script") if a.get("id") == "model"]
    assert [a["data-name"] for a in models] == [name]
    assert len(elements(html, "script")) == 3
    odd = page(path, "a\0b\x1b\udcff\n")
    assert [text.strip() for _, text in elements(odd, "title")] == [
        r"a\x00b\x1b\udcff\n"
    ]


def test_models_beside_the_page_are_named_in_it():
    models = [{"name": EVIL, "title": EVIL, "file": "a.safetensors", "bytes": 3}]
    found = [a for a, _ in elements(page(models=models), "meta")]
    [content] = [a["content"] for a in found if a.get("name") == "charlm-models"]
    assert json.loads(content) == models
    assert "charlm-models" not in json.dumps([a for a, _ in elements(page(), "meta")])


def test_a_script_that_would_end_in_the_page_is_refused(monkeypatch):
    for bad in ("'</script>'", "'</SCRIPT '", "'<!--'"):
        monkeypatch.setattr(charlm.page, "page_file", lambda name, bad=bad: bad)
        with pytest.raises(ValueError, match="end or hide"):
            script("play.js")


# Comments and blanks left out


SAME = [
    "1 - -1", "1 - - 1", "let a = 1; a + + a", "let a = 1; a + ++a",
    "let a = 1; a-- - a",
    "let a = 4, g = 2; a / 2 / g", "'//' + \"/*\" + `//`", "/[/\"]/.test('/')",
    "'a/b'.replace(/\\//g, '`')", "`a${'}' + `b${1 // one\n}`}c  //\n  d`",
    "1 .toFixed(1)",
    "let a = 1\n++a\na", "(() => { return /* \n */ 5 })()", "(() => { return\n5 })()",
    "let a = 3\n;[1].map(x => a = x)\na", "1 /* a */+/* b */ 2 // c",
    "/x/ instanceof RegExp",
    "({a: 1}) .a", "[1,\n2 ,\n 3]\n.length", "`\\`${`$`}\\${` + 'x\\'//'",
    "let x = 6; x /= 2 // two\nx", "typeof /a/",
    "(function* () { yield /b/ })().next().value",
    "if (true)\n  7\nelse 8", "let b = 'é𝄞' // ü\nb",
    "((a) => a / 2)(3) / /4/.exec('4')",
    "'\\\n//'", "let o = {'/': 1, get b() { return 2 }}; o['/'] + o .b", "1 < 2 >> 1",
    "(class {\n  static a = 1\n  static *b() {}\n  static c = 2\n}).c",
    "let i = 0; for (;;) {\nif (i++ > 3) break }\ni",
]  # fmt: skip


def test_stripped_scripts_do_the_same(chromium):
    tab = chromium.new_page()
    run = "s => { try { return String(eval(s)) } catch (e) { return 'wrong: ' + e } }"
    for source in SAME:
        expected = tab.evaluate(run, source)
        stripped = strip_js(source)
        assert not expected.startswith("wrong"), (source, expected)
        assert tab.evaluate(run, stripped) == expected, (source, stripped)
        assert strip_js(stripped) == stripped and len(stripped) <= len(source)
    tab.close()


@pytest.mark.parametrize("name", ["charlm.js", "play.js"])
def test_scripts_lose_only_comments_and_blanks(name):
    def solid(source):
        return [p for kind, p in pieces(source) if kind not in ("comment", "space")]

    source = charlm.page.page_file(name)
    assert solid(strip_js(source)) == solid(source)
    assert "".join(piece for _, piece in pieces(source)) == source
    assert len(strip_js(source)) < len(source)


@pytest.mark.parametrize("source", ["'never ends", "`a${b", "a = /b\n/", "`"])
def test_what_is_no_javascript_is_not_stripped_quietly(source):
    try:
        assert strip_js(source).replace(" ", "") == source.replace(" ", "")
    except ValueError as e:
        assert "no end to" in str(e)


@pytest.mark.parametrize(
    "source, stripped",
    [
        ("a :hover { color : red ; }", "a :hover{color :red}"),
        ("/* x */ a, b\n> c {\n  margin: 0 auto;\n}\n", "a,b > c{margin:0 auto}"),
        ('a { content: "/* ; */  x" }', 'a{content:"/* ; */  x"}'),
        (r"a { content: '\'  ;  }' ; b: c }", r"a{content:'\'  ;  }';b:c}"),
        ("@media (min-width: 3em) and (x) { a { b: calc(1px + 2px) } }",)
        + ("@media (min-width:3em) and (x){a{b:calc(1px + 2px)}}",),
    ],
)
def test_styles_lose_only_comments_and_blanks(source, stripped):
    assert strip_css(source) == stripped


@each_kind
def test_an_exported_page_writes_what_python_writes(chromium, command, tmp_path, kind):
    "From a file, without asking anybody, and with nothing to complain about"
    path = save(tmp_path / "m.safetensors", kind, "bfloat16")
    code, out, err = command("charlm-export", path, "m.html", "--title", EVIL)
    assert (code, err) == (0, "") and out.startswith("m.html: ")
    raw = path.read_bytes()
    assert Path("m.html").stat().st_size <= len(b64encode(raw)) + 60_000
    context = chromium.new_context()
    context.set_offline(True)
    tab, troubles = context.new_page(), []
    tab.on("console", lambda m: troubles.append(m.text))
    tab.on("pageerror", lambda e: troubles.append(str(e)))
    tab.on("dialog", lambda d: troubles.append(d.message))
    tab.on("request", lambda r: troubles.append(r.url) if "html" not in r.url else 0)
    tab.goto(Path("m.html").absolute().as_uri())
    asked = [r for r in troubles if not r.startswith(("blob:", "data:"))]
    text = tab.evaluate(
        """async text => {
            const model = await charlm.open(Uint8Array.from(atob(text),
                c => c.charCodeAt(0)), "m")
            const answer = await model.write({length: 300, seed: "5"})
            model.close()
            return [model.simd, answer.text] }""",
        b64encode(raw).decode(),
    )
    assert text == [True, write(*load_writer(path), length=300, seed=5)]
    assert tab.title() == EVIL and asked == []
    assert [t for t in troubles if not t.startswith(("blob:", "data:"))] == []
    context.close()


@each_kind
def test_memory_is_counted_as_the_engine_counts(chromium, kind):
    tab = chromium.new_page()
    tab.goto("about:blank")
    tab.add_script_tag(content=charlm.page.page_file("charlm.js"))
    for odd in (1, 3):
        config = dict(vocab_size=7 * odd, block_size=5 * odd, n_embd=6, n_head=2)
        config |= {"n_layer": odd} | ({"recent": 2} if kind == "FastGPT" else {})
        found = tab.evaluate(
            """([kind, config]) => new charlm.Writer(new Map(), kind, config,
                {texts: 2, simd: false}).memory.byteLength""",
            [kind, config],
        )
        assert page_memory(kind, config) == found
    tab.close()


# What charlm-export refuses


def said(kind="FastGPT", **changes):
    "A file with zeros for weights that says something else of its model"
    config = dict(SHAPE, dropout=0.0) | ({"recent": 3} if kind == "FastGPT" else {})
    shapes = weight_shapes(kind, config | changes)
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    about = {"kind": "model", "model": kind, "chars": LETTERS.chars}
    return to_bytes(arrays, about | {"config": config | changes})


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda raw: raw[:-1], "was cut short"),
        (lambda raw: raw[:100], "was cut short"),
        (lambda raw: raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:], "checksum is wrong"),
        (lambda raw: raw.replace(b"bcef", b"bceg"), "checksum is wrong"),
        (lambda raw: b"", "not a safetensors file"),
        (lambda raw: b"First Citizen:\n" * 9, "not a safetensors file"),
        (lambda raw: struct.pack("<Q", 2**63) + raw[8:], "not a safetensors file"),
        (lambda raw: said(recent=25), "recent is 25, more than block_size 24"),
        (lambda raw: to_bytes({}, {"kind": "run"}), "holds a run, not a model"),
        (lambda raw: to_bytes({}, {"kind": "model"}), "is damaged"),
    ],
)
def test_a_bad_model_gets_no_page(command, model_file, change, words):
    model_file.write_bytes(change(model_file.read_bytes()))
    for name, args in (("charlm-export", ["m.html"]), ("charlm-play", [])):
        refused(command(name, model_file, *args), name, words, str(model_file))
    assert not Path("m.html").exists()


def test_a_model_too_large_gets_no_page(command, model_file, monkeypatch):
    raw, args = model_file.read_bytes(), ("charlm-export", model_file, "m.html")
    monkeypatch.setattr(charlm.page, "MOST_MEMORY", 1000)
    refused(command(*args), "charlm-export", "a page has 1,000: choose a smaller")
    monkeypatch.setattr(charlm.page, "MOST_BYTES", len(raw) - 1)
    refused(command(*args), "charlm-export", f"has {len(raw):,} bytes", "bfloat16")
    assert not Path("m.html").exists()


def test_a_page_is_not_put_just_anywhere(command, model_file, tmp_path):
    Path("there.html").write_text("mine")
    Path("folder.html").mkdir()
    Path("link.html").symlink_to(model_file)
    os.mkfifo("pipe.html")
    before = model_file.read_bytes()
    for file, words in {
        "m.txt": "choose one that ends in .html",
        str(model_file): "choose one that ends in .html",
        "there.html": "pass --overwrite to replace it",
        "folder.html": "it is a folder",
        "no/such/m.html": "can't write to the folder no/such",
        "pipe.html": "it is no regular file",
        "link.html": "is the model itself",
        "a\0.html": "a path can't hold the character NUL",
        "x" * 300 + ".html": "File name too long",
    }.items():
        for more in ([], ["--overwrite"] if file != "there.html" else []):
            result = command("charlm-export", model_file, file, *more)
            refused(result, "charlm-export", words)
        # A bad place is found before a missing model
        refused(command("charlm-export", "nowhere", file), "charlm-export")
    assert Path("there.html").read_text() == "mine"
    assert model_file.read_bytes() == before
    assert sorted(os.listdir()) == sorted(
        ["folder.html", "link.html", "pipe.html", "there.html", model_file.name]
    )
    result = command("charlm-export", model_file, "there.html", "--overwrite")
    assert result[0] == 0 and "<!doctype html>" in Path("there.html").read_text()


@pytest.mark.parametrize(
    "name, args, words",
    [
        ("charlm-export", [], "required: model, file"),
        ("charlm-export", ["m"], "required: file"),
        ("charlm-export", ["m", "a.html", "b.html"], "unrecognized arguments: b.html"),
        ("charlm-export", ["", "a.html"], "the model is empty"),
        ("charlm-export", ["m", ""], "the file is empty"),
        ("charlm-export", ["m", "a.html", "--title", ""], "--title is empty"),
        ("charlm-export", ["no/such", "a.html"], "no model at no/such"),
        ("charlm-play", ["m", "n"], "unrecognized arguments: n"),
        ("charlm-play", [""], "the model is empty"),
        ("charlm-play", ["no/such"], "no model at no/such"),
        ("charlm-play", ["--port", "x"], "invalid int value: 'x'"),
        ("charlm-play", ["--port", "-1"], "port is -1; it must be a whole number from"),
        ("charlm-play", ["--port", "65536"], "to 65,535"),
        ("charlm-play", ["--host", "0.0.0.0"], "unrecognized arguments"),
    ],
)
def test_wrong_arguments_are_one_line(command, name, args, words):
    refused(command(name, *args), name, words)


@pytest.mark.parametrize("name", ["charlm-play", "charlm-export"])
def test_help_explains_every_argument(command, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = command(name, "--help")
    lines = [line for line in out.splitlines() if re.match(r"  \S", line)]
    assert (code, err) == (0, "") and len(lines) in (4, 5)
    assert all(len(re.split(r"  +", line.strip())) == 2 for line in lines), lines


# Who may come in


class Play:
    "charlm-play as a process"

    def __init__(self, *args, **kwargs):
        line = [SCRIPTS / "charlm-play", *map(str, args)]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.process = subprocess.Popen(line, **pipes, **kwargs)
        self.said = self.process.stdout.readline()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/ \(Ctrl-C .*\)\n", self.said)
        assert found, self.process.communicate(timeout=30)
        self.port = int(found[1])

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def raw(self, request):
        "What comes back for these bytes"
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as s:
            s.sendall(request)
            answer = b""
            while piece := s.recv(2**16):
                answer += piece
        return answer

    def ask(self, line="GET / HTTP/1.1", *headers):
        "The status of the answer, and its body"
        request = "\r\n".join([line, *headers, "", ""]).encode("latin-1")
        head, _, body = self.raw(request).partition(b"\r\n\r\n")
        return int(head.split()[1]), head.decode().lower(), body

    def end(self):
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    "One that all may ask; at its end it must not have said anything more"
    path = save(tmp_path_factory.mktemp("play") / "model.safetensors", "FastGPT")
    with Play(path, "--no-browser", cwd=path.parent) as process:
        process.path = path
        yield process
        assert process.end() == (0, "", "")


def test_it_serves_the_page_and_says_how_to_treat_it(play):
    for name in ("127.0.0.1", "localhost", "LocalHost"):
        code, head, body = play.ask("GET / HTTP/1.1", f"Host: {name}:{play.port}")
        assert code == 200 and body == page(play.path).encode()
    for line in (
        "content-type: text/html; charset=utf-8",
        f"content-length: {len(body)}",
        "cache-control: no-store",
        "content-security-policy: frame-ancestors 'none'",
        "cross-origin-resource-policy: same-origin",
        "referrer-policy: no-referrer",
        "x-content-type-options: nosniff",
    ):
        assert f"{line}\r\n" in head + "\r\n", line
    assert "python" not in head and "access-control" not in head


@pytest.mark.parametrize(
    "hosts",
    [
        [], [""], ["evil.example"], ["evil.example:{port}"], ["127.0.0.1"],
        ["localhost"],
        ["127.0.0.1:1"], ["127.0.0.1.evil.example:{port}"], ["localhost.:{port}"],
        ["evil.example:{port}", "127.0.0.1:{port}"], ["0.0.0.0:{port}"],
        ["[::1]:{port}"],
        ["127.0.0.1:{port}", "evil.example"], ["127.0.0.1:{port}@evil.example"],
        ["127.0.0.1:{port}, evil.example"], ["127.1:{port}"], ["2130706433:{port}"],
        ["127.0.0.1:{port}", "127.0.0.1:{port}"], ["127.0.0.1:0{port}"],
    ],
    ids=str,
)  # fmt: skip
def test_it_answers_to_its_own_name_only(play, hosts):
    headers = ["Host: " + host.format(port=play.port) for host in hosts]
    for line in ("GET / HTTP/1.1", "GET / HTTP/1.0", "POST / HTTP/1.1"):
        code, head, body = play.ask(line, *headers)
        assert code == 403 and len(body) < 100 and b"evil" not in body


@pytest.mark.parametrize(
    "method", "POST PUT DELETE HEAD OPTIONS PATCH TRACE CONNECT get X <b>".split()
)
def test_it_knows_one_method(play, method):
    code, head, body = play.ask(f"{method} / HTTP/1.1", f"Host: 127.0.0.1:{play.port}")
    assert code == 405 and len(body) < 100


@pytest.mark.parametrize(
    "path",
    [
        "/index.html", "/model.safetensors", "/model", "/charlm.js", "/favicon.ico",
        "/?",
        "/?x=1", "/#a", "/.", "/..", "/../", "/../model.safetensors", "/./", "/%2e%2e/",
        "/..%2f..%2fetc/passwd", "/../../../../etc/passwd", "/%00", "\\", "/\\..\\",
        "*",
        "http://127.0.0.1/", "http://evil.example/", "file:///etc/passwd",
        "/etc/passwd",
        "/page/../", "/" + "a" * 5000,
    ],
)  # fmt: skip
def test_it_knows_one_path(play, path):
    code, head, body = play.ask(f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{play.port}")
    assert code == 404 and len(body) < 100


@pytest.mark.parametrize(
    "request_",
    [
        b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\0\xff\xfe\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 999 + b"\r\n",
        b"GET /" + b"x" * 99999 + b" HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0\x01",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n folded\r\n\r\n", b"GET /\r\n\r\n",
    ],
    ids=lambda r: ascii(r[:30]),
)  # fmt: skip
def test_nonsense_gets_no_page(play, request_):
    with socket.create_connection(("127.0.0.1", play.port), timeout=20) as s:
        answer = b""
        try:
            s.sendall(request_)
            s.shutdown(socket.SHUT_WR)
            while piece := s.recv(2**16):
                answer += piece
        except ConnectionError:
            pass  # it hung up while more was coming
    assert b"<script>" not in answer and len(answer) < 2000


def test_it_listens_on_this_machine_alone(play):
    others = [(socket.AF_INET, "127.0.0.2"), (socket.AF_INET6, "::1")]
    try:
        others.append((socket.AF_INET, socket.gethostbyname(socket.gethostname())))
    except OSError:
        pass
    for family, address in others:
        if address == "127.0.0.1":
            continue
        try:
            s = socket.socket(family)
        except OSError:
            continue  # no such addresses here
        with s:
            s.settimeout(5)
            with pytest.raises(OSError):
                s.connect((address, play.port))


def test_whoever_is_slow_or_leaves_keeps_nobody_waiting(play):
    slow = [socket.create_connection(("127.0.0.1", play.port)) for _ in range(20)]
    slow[0].sendall(b"GET / HT")
    own = f"Host: 127.0.0.1:{play.port}"
    assert play.ask("GET / HTTP/1.1", own)[0] == 200
    for s in slow:  # some say goodbye with a reset, in the middle of an answer
        s.sendall(f"GET / HTTP/1.1\r\n{own}\r\n\r\n".encode())
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
    assert play.ask("GET / HTTP/1.1", own)[0] == 200


def test_a_port_is_used_as_asked_or_named(play, command):
    said = command("charlm-play", "--port", play.port, "--no-browser")
    words = f"can't serve at port {play.port}: Address already in use; choose another"
    refused(said, "charlm-play", words)
    refused(
        command("charlm-play", "no/such", "--port", play.port), "charlm-play", words
    )
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    for _ in range(2):  # also right after it has ended
        with Play("--port", port, "--no-browser") as process:
            assert process.port == port
            own = f"Host: 127.0.0.1:{port}"
            code, _, body = process.ask("GET / HTTP/1.1", own)
            assert (code, body) == (200, charlm.page.play_pages()["/"][1])
            assert process.end() == (0, "", "")


def test_it_opens_a_browser(model_file, tmp_path):
    browser = tmp_path / "browser"
    browser.write_text(
        f'#!/bin/sh\nexec >{tmp_path}/half 2>&1\necho "$1"\n'
        f"mv {tmp_path}/half {tmp_path}/seen\nsleep 3\n"
    )
    browser.chmod(0o755)
    with Play(model_file, env=os.environ | {"BROWSER": f"{browser}"}) as process:
        for _ in range(300):
            if (tmp_path / "seen").exists():
                break
            time.sleep(0.1)
        own = f"Host: 127.0.0.1:{process.port}"
        assert process.ask("GET / HTTP/1.1", own)[0] == 200
        assert process.end() == (0, "", "")
    address = (tmp_path / "seen").read_text()
    assert address == f"http://127.0.0.1:{process.port}/\n"


def test_a_closed_output_doesnt_end_it(model_file):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    line = f'exec "{SCRIPTS}/charlm-play" "$1" --no-browser --port {port} >&-'
    command = ["sh", "-c", line, "sh", str(model_file)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    play = Play.__new__(Play)
    play.port = port
    for _ in range(300):
        try:
            assert play.ask("GET / HTTP/1.1", f"Host: localhost:{port}")[0] == 200
            break
        except ConnectionRefusedError:
            assert process.poll() is None
            time.sleep(0.1)
    else:
        pytest.fail("it doesn't answer")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == "" and process.returncode == 0


def test_models_that_ship_are_served_beside_the_page(monkeypatch, tmp_path):
    path = save(tmp_path / "a_model.safetensors")
    monkeypatch.setattr(charlm.page, "shipped", lambda: [path])
    pages = charlm.page.play_pages()
    assert pages["/a_model.safetensors"][1] == path.read_bytes()
    metas = [a for a, _ in elements(pages["/"][1].decode(), "meta")]
    [content] = [a["content"] for a in metas if a.get("name") == "charlm-models"]
    assert json.loads(content) == [
        {
            "name": "a_model",
            "title": "A model",
            "file": "a_model.safetensors",
            "bytes": path.stat().st_size,
        }
    ]
    assert list(charlm.page.play_pages(path)) == ["/"]


def test_a_server_refuses_a_port_that_is_none():
    for port in (-1, 65_536, 1.5, None, "8000", True):
        with pytest.raises(BadInput, match="^port is "):
            charlm.page.PageServer({}, port)


# What is installed


def test_the_wheel_holds_the_page_and_the_commands(tmp_path):
    source = tmp_path / "source"
    copy_source(source)
    line = [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, source]
    subprocess.run(line, check=True, capture_output=True, cwd=tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 9_000_000
    with zipfile.ZipFile(wheel) as z:
        names = z.namelist()
        [points] = [n for n in names if n.endswith("entry_points.txt")]
        points = z.read(points).decode()
        for name in ("charlm.js", "play.html", "play.css", "play.js"):
            there = (ROOT / "charlm/page" / name).read_bytes()
            assert z.read(f"charlm/page/{name}") == there
    assert "charlm/page.py" in names and "charlm/page/__init__.py" not in names
    for name in ("play", "export", "train", "generate", "speedrun"):
        assert f"charlm-{name} = charlm.start:charlm_{name}\n" in points + "\n"
