"""What several tests share.

Running a command as its console script does, a tiny model, a misbehaving web server.
"""

import runpy, shutil, signal, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from charlm.checkpoint import save_model
from charlm.data import CharTokenizer
from charlm.gpt import GPT, GPTConfig

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(sys.executable).parent


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
