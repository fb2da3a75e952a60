"""What several tests share.

Running a command as its console script does, tiny models, a browser, a misbehaving web
server.
"""

import os, runpy, shutil, signal, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from playwright.sync_api import sync_playwright

from charlm.checkpoint import save_model
from charlm.data import CharTokenizer
from charlm.fast import FastConfig, FastGPT
from charlm.gpt import GPT, GPTConfig

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(sys.executable).parent


def untrained(kind, shape):
    "A model of that kind, of whose weights every one counts"
    torch.manual_seed(1)
    if kind == "FastGPT":
        model = FastGPT(FastConfig(**shape, recent=3))
    else:
        model = GPT(GPTConfig(**shape))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
        model.lm_head.weight.normal_(std=0.5)
    return model.eval()


@pytest.fixture(scope="module")
def chromium():
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if not found and os.environ.get("CI"):
        pytest.fail("no Chromium here; CI must have one (apt-get install chromium)")
    if not found:
        pytest.skip("no Chromium here (apt-get install chromium)")
    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=found, args=flags)
        yield browser
        browser.close()


def copy_source(to):
    "Copy the checkout without what commands and other tests write into it meanwhile"
    shutil.copytree(
        ROOT,
        to,
        ignore=shutil.ignore_patterns(
            ".*",
            "runs",
            "__pycache__",
            "*.egg-info",
            "_proc",
            "_build",
            "build",
            "dist",
        ),
    )


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    "Every test runs in an empty folder of its own: an empty cache, no CHARLM_DATA"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.delenv("CHARLM_DATA", raising=False)


@pytest.fixture
def command(monkeypatch, capfd):
    """Run an installed console script inside this process.

    Returns exit code, standard output, standard error.
    """

    def run(name, *args):
        monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
        capfd.readouterr()
        before = signal.getsignal(signal.SIGINT)
        try:
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
            code = 0
        except SystemExit as e:
            code = e.code or 0
        finally:
            signal.signal(signal.SIGINT, before)
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def model_file(tmp_path):
    "The path of a small untrained model that knows a few lower-case letters"
    tok = CharTokenizer.from_text("the quick brown fox\n")
    torch.manual_seed(1)
    path = tmp_path / "small.safetensors"
    save_model(
        path,
        GPT(GPTConfig(tok.vocab_size, block_size=8, n_embd=8, n_head=2, n_layer=1)),
        tok,
    )
    return path


@pytest.fixture
def server():
    """`serve(path, handler)` answers requests for that path.

    It does so by calling handler(request, number of earlier visits).
    """
    pages, visits = {}, {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            n = visits[self.path] = visits.get(self.path, -1) + 1
            pages[self.path](self, n)

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=httpd.serve_forever, args=[0.02], daemon=True).start()

    def serve(path, handler):
        pages[path] = handler
        return f"http://127.0.0.1:{httpd.server_port}{path}"

    serve.visits = visits
    yield serve
    httpd.shutdown()
    httpd.server_close()


def answer(body=b"", status=200, **headers):
    "A handler that sends `body`"

    def handle(request, n):
        request.send_response(status)
        named = {k.replace("_", "-"): v for k, v in headers.items()}
        for name, value in ({"content-length": len(body)} | named).items():
            request.send_header(name, str(value))
        request.end_headers()
        request.wfile.write(body)

    return handle
