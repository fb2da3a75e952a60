"""What a hostile tester did to charlm, from the review of commit 1079924.

h and m are findings of high and medium weight, by their number; the low ones follow.
A finding stands for a class: its neighbours, other commands and options, are tried too.
"""

import ctypes
import errno
import gzip
import json
import os
import random
import resource
import select
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SCRIPTS, answer
from safetensors.torch import load_file, save

from charlm.bigram import BigramLM, bigram_counts
from charlm.checkpoint import load_model, read_file, save_model, to_bytes, write_file
from charlm.data import BadInput, CharTokenizer, train_val_split
from charlm.generate import OnDevice, stream_text, write, write_several
from charlm.gpt import GPT, GPTConfig
from charlm.inside import attention_maps, surprise
from charlm.run import resume_run
from charlm.fast import FastConfig, FastGPT
from charlm.train import TrainConfig, evaluate, train

try:
    from charlm import corpus as texts
except ImportError:
    from charlm import data as texts

TRAIN, GENERATE, SPEEDRUN = "charlm-train", "charlm-generate", "charlm-speedrun"
GIB = 2**30
LINE = "All the world is made of letters, said the printer.\n"
SMALL = (
    "--n-embd 8 --n-head 2 --n-layer 1 --block-size 8 --batch-size 2 --steps 4 "
    "--eval-interval 2 --eval-iters 1 --dtype float32 --threads 1"
).split()
ENDLESS = ["--steps", "1000000", "--eval-interval", "50"]
UNTOUCHED = "nothing was saved yet"

# Helpers


class Hang(Exception):
    "Something took longer than it may"


@contextmanager
def limits(seconds=10, memory=GIB):
    "So many seconds, and so many bytes more than now, are all that the block may have"
    late = []

    def enough(number, frame):
        late.append(number)
        raise Hang(f"not done after {seconds} s")

    handler = signal.signal(signal.SIGALRM, enough)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(
        resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, hard)
    )
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, handler)
    assert not late, "somebody caught the alarm"


def one_line(result, name, *parts):
    "Exit code 2 and one printable line that names all parts; returns it"
    code, out, err = result
    assert code == 2, (code, err)
    assert err.startswith(f"{name}: error: "), err
    assert err.count("\n") == 1, err
    assert err[:-1].isprintable(), err
    for part in parts:
        assert str(part).lower() in err.lower(), (part, err)
    return err


def parsed(result, name):
    "As `one_line`, or the same below the usage, as argparse has it"
    code, out, err = result
    assert code == 2, (code, err)
    usage, _, line = err.rpartition(f"{name}: error: ")
    assert line.count("\n") == 1, err
    assert usage == "" or usage.startswith("usage: "), err


def sound(result, name):
    "It worked, or it was refused in one line; nothing else will do"
    code, out, err = result
    assert "Traceback" not in err, err
    if code == 0:
        return True
    one_line(result, name)
    return False


def small(*more):
    "Arguments of a run that is over in a moment"
    Path("own.txt").write_text(LINE * 40)
    return ["--corpus", "own.txt", *SMALL, *more]


KEPT = {}


def old_run(command, folder="m"):
    "A finished run; returns its files"
    if not KEPT:
        assert command(TRAIN, *small("--out", folder))[0] == 0
        KEPT.update(visible(folder))
    small()
    Path(folder).mkdir(exist_ok=True)
    for name, data in KEPT.items():
        Path(folder, name).write_bytes(data)
    return dict(KEPT)


def visible(folder):
    "The files of a folder that `ls` shows"
    paths = [p for p in Path(folder).rglob("*") if not p.is_dir()]
    named = {str(p.relative_to(folder)): p for p in paths}
    return {n: p.read_bytes() for n, p in named.items() if not n.startswith(".")}


def old_or_new(folder, old, seed):
    "All of the old run is there, or nothing of it and a new one that can be continued"
    now = visible(folder)
    if now == old:
        return "old"
    assert not [name for name in old if now.get(name) == old[name]]
    assert resume_run(Path(folder)).trainer.config.seed == seed
    return "new"


@contextmanager
def at_call(name, nth, action):
    "While the block lasts, let something happen at the nth call of a function of `os`"
    calls, function = [], getattr(os, name)

    def now(*args, **kwargs):
        calls.append(args)
        if len(calls) == nth:
            action()
        return function(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, name, now)
        yield


def fail():
    "What a full disk does"
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


STARTED = []


def child(*args, **kwargs):
    "A process whose output can be read; Ctrl-C counts, wherever these tests run"

    def fresh():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    env = os.environ | {"OMP_NUM_THREADS": "1"} | kwargs.pop("env", {})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0}
    kwargs = {"preexec_fn": fresh} | pipes | kwargs
    STARTED.append(subprocess.Popen(list(map(arg, args)), env=env, **kwargs))
    return STARTED[-1]


def arg(a):
    "What a process can be given"
    return a if isinstance(a, bytes) else str(a)


@pytest.fixture(autouse=True)
def nobody_left():
    "No process outlives the test that started it"
    yield
    for process in STARTED:
        if process.poll() is None:
            process.kill()
        process.communicate()
    STARTED.clear()


def ended(process, seconds=60):
    "Exit code, output and errors of a process that must end in time"
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"not done after {seconds} s: {out[-500:]} {err[-500:]}")
    return process.returncode, (out or b"").decode(), err.decode()


def bash(line, **env):
    "A process that runs a line of bash, in which $BIN is where the commands are"
    return child("bash", "-c", line, env={"BIN": str(SCRIPTS)} | env)


def trained(*args, **kwargs):
    "A process that trains for ever, when it has got to step 50"
    process = child(SCRIPTS / TRAIN, *small(*ENDLESS, *args), **kwargs)
    for line in process.stdout:
        if line.startswith(b"step    50"):
            break
    return process


def file_of(tensors, about):
    "The bytes of a file of ours, with a checksum that is right"
    try:
        return to_bytes(tensors, about)
    except (TypeError, ValueError, KeyError, AttributeError):  # a type we never write
        tensors = {name: t.contiguous() for name, t in tensors.items()}
        return save(tensors, {"charlm": json.dumps(about)})


def content(path, kind):
    "What a file of ours holds, and what it says"
    numbers, about = read_file(Path(path), kind)
    return {name: torch.as_tensor(t) for name, t in numbers.items()}, about


def crafted(path, kind, change, to="crafted.safetensors"):
    "A changed copy of a file of ours; returns its path"
    tensors, about = content(path, kind)
    change(tensors, about)
    Path(to).write_bytes(file_of(tensors, about))
    return to


def fast_file(path="fast.safetensors", V=20, **shape):
    "A small model of the fast kind"
    config = FastConfig(
        V, **{"block_size": 8, "n_embd": 8, "n_head": 2, "n_layer": 2} | shape
    )
    torch.manual_seed(1)
    model = FastGPT(config)
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.1)
    save_model(path, model, CharTokenizer("\nabcdefghijklmnopqrs"[:V]))
    return path


@pytest.fixture
def plain_user():
    "Root may read everything; without two of its powers it is a user as any other"
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None)
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    powers = (ctypes.c_uint32 * 6)()
    if libc.capget(head, powers):
        pytest.skip("capabilities can't be read here")
    before = powers[0]
    powers[0] = before & ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    if libc.capset(head, powers):
        pytest.skip("capabilities can't be given up here")
    yield
    powers[0] = before
    libc.capset(head, powers)


@pytest.fixture
def hurry(monkeypatch):
    "Nobody waits before trying again"
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture
def no_network(monkeypatch):
    "Tiny Shakespeare can't be had, and nobody waits for it"
    nowhere = texts.Remote("tinyshakespeare", ("http://127.0.0.1:9/",), "0" * 64)
    monkeypatch.setattr(texts, "TINY_SHAKESPEARE", nowhere)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def make_special(path, kind):
    "Put something that isn't a file at `path`; returns what `lstat` then says"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        os.mkdir(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path)
    elif kind == "link to a device":
        make_special(path + ".device", "device")
        os.symlink(path + ".device", path)
    elif kind == "link to a fifo":
        make_special(path + ".fifo", "fifo")
        os.symlink(path + ".fifo", path)
    else:
        minor = 3 if kind == "device" else 7
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        except PermissionError:
            pytest.skip("devices can't be made here")
    return os.lstat(path)


SPECIAL = [
    "device",
    "full device",
    "fifo",
    "folder",
    "socket",
    "link to a device",
    "link to a fifo",
]

# 1: nothing old goes before something new is there

CANNOT_START = {
    "no TensorBoard": ["--tensorboard"],
    "batch of 10^18": ["--batch-size", 10**18],
    "batch of 10^10": ["--batch-size", 10**10],
    "evaluation of 10^400": ["--eval-iters", 10**400],
    "rate of 10^308": ["--lr", "1e308"],
    "steps of 10^400": ["--steps", 10**400],
    "layers of 10^9": ["--n-layer", 10**9],
    "channels of 2^40": ["--n-embd", 2**40],
    "no such device": ["--device", "cuda:77"],
    "no such text": ["--corpus", "nowhere.txt"],
    "seed of -1": ["--seed", "-1"],
}


@pytest.mark.parametrize("args", CANNOT_START.values(), ids=CANNOT_START.keys())
def test_h01_overwrite_deletes_the_old_run_before_the_new_one_works(
    command, monkeypatch, args
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    old = old_run(command)
    with limits(20, 3 * GIB):
        result = command(TRAIN, *small("--out", "m", "--overwrite", *args))
    one_line(result, TRAIN)
    assert visible("m") == old


def test_h01_overwrite_without_a_compiler(command):
    old = old_run(command)
    args = small("--out", "m", "--overwrite", "--compile", "yes")
    os.mkdir("empty")
    where = {
        "PATH": os.path.abspath("empty"),
        "TORCHINDUCTOR_CACHE_DIR": os.path.abspath("c"),
    }
    env = {"CC": "", "CXX": ""} | where
    one_line(ended(child(SCRIPTS / TRAIN, *args, env=env)), TRAIN, "compile")
    assert visible("m") == old


@pytest.mark.parametrize("nth", range(1, 5))
@pytest.mark.parametrize("name", ["fsync", "replace", "rename", "unlink"])
def test_h01_overwrite_on_a_disk_that_is_full(command, name, nth):
    old = old_run(command)
    args = small("--out", "m", "--overwrite", "--seed", 2)
    with at_call(name, nth, fail):
        result = command(TRAIN, *args)
    sound(result, TRAIN)
    old_or_new("m", old, 2)


def test_h01_overwrite_interrupted_before_the_first_state(command):
    ways = (signal.SIGKILL, 0), (signal.SIGINT, 130), (signal.SIGTERM, 143)
    started = []
    for number, code in ways:
        old = old_run(command, folder := number.name)
        args = small("--out", folder, "--overwrite", "--eval-iters", 10**6, "--seed", 2)
        started.append((number, code, child(SCRIPTS / TRAIN, *args)))
    for number, code, process in started:
        process.stdout.readline()
        time.sleep(0.5)
        for _ in range(2):  # the second one: at once
            process.send_signal(number)
            time.sleep(0.1)
        found, out, err = ended(process)
        assert found in (code, -number)
        assert "Traceback" not in err
        assert visible(number.name) == old
    result = command(TRAIN, *small("--out", "SIGKILL", "--overwrite", "--seed", 2))
    assert result[0] == 0
    assert old_or_new("SIGKILL", old, 2) == "new"
    hidden = [n for n in os.listdir("SIGKILL") if n.startswith(".")]
    assert set(hidden) <= {".lock"}  # nor does the killed run leave anything


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.full)])
def test_h01_overwrite_killed_at_random_moments(command, times):
    chance = random.Random(times)
    for _ in range(times):
        old = old_run(command)
        args = small("--out", "m", "--overwrite", "--seed", "2", "--eval-iters", "200")
        process = child(SCRIPTS / TRAIN, *args)
        time.sleep(chance.uniform(1, 3))
        process.kill()
        ended(process)
        old_or_new("m", old, 2)


@pytest.mark.parametrize(
    "args",
    [
        ["--corpus", "nowhere.txt"],
        ["--steps", 0],
        ["--device", "cuda:77"],
        ["--recipe", "quick"],
        ["--look", -1],
    ],
)
def test_h01_overwrite_of_a_certificate(command, args):
    small()
    Path("c.json").write_text("kept")
    args = ["--corpus", "own.txt", "--out", "c.json", "--overwrite", *args]
    one_line(command(SPEEDRUN, *args), SPEEDRUN)
    assert Path("c.json").read_text() == "kept"


def test_h01_overwrite_leaves_what_is_not_ours(command):
    old_run(command)
    Path("m/notes.txt").write_text("mine")
    Path("m/sub").mkdir()
    Path("m/sub/model.safetensors").write_text("mine too")
    assert command(TRAIN, *small("--out", "m", "--overwrite"))[0] == 0
    assert Path("m/notes.txt").read_text() == "mine"
    assert Path("m/sub/model.safetensors").read_text() == "mine too"


# 2: what is written is a file

RACE = ["--corpus", "long.txt", "--steps", "1", "--dtype", "float32", "--threads", "1"]


def race(*more):
    "Arguments of a short speedrun"
    Path("long.txt").write_text(LINE * 40)
    return [*RACE, *more]


@pytest.mark.parametrize("flags", [[], ["--overwrite"]], ids=["plain", "overwrite"])
@pytest.mark.parametrize("kind", SPECIAL)
def test_h02_speedrun_replaces_devices_fifos_and_links(command, kind, flags):
    before = make_special("c.json", kind)
    with limits(20):
        result = command(SPEEDRUN, *race("--out", "c.json", *flags))
    one_line(result, SPEEDRUN, "c.json")
    after = os.lstat("c.json")
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)


def test_h02_a_link_stays_and_its_target_is_written(command):
    Path("there").mkdir()
    Path("there/c.json").write_text("old")
    os.symlink("there/c.json", "c.json")
    one_line(command(SPEEDRUN, *race("--out", "c.json")), SPEEDRUN)
    assert Path("there/c.json").read_text() == "old"
    assert command(SPEEDRUN, *race("--out", "c.json", "--overwrite"))[0] == 0
    assert os.readlink("c.json") == "there/c.json"
    assert json.loads(Path("there/c.json").read_text())["steps"] == 1


@pytest.mark.parametrize("flags", [[], ["--overwrite"]], ids=["plain", "overwrite"])
def test_h02_a_link_to_nothing_stays(command, flags):
    os.symlink("new.json", "c.json")
    result = command(SPEEDRUN, *race("--out", "c.json", *flags))
    if sound(result, SPEEDRUN):
        assert json.loads(Path("new.json").read_text())["steps"] == 1
    assert os.readlink("c.json") == "new.json"


def test_h02_a_link_to_itself(command):
    os.symlink("c.json", "c.json")
    result = command(SPEEDRUN, *race("--out", "c.json", "--overwrite"))
    one_line(result, SPEEDRUN, "c.json")
    assert os.readlink("c.json") == "c.json"


@pytest.mark.parametrize("kind", [k for k in SPECIAL if k != "folder"])
def test_h02_a_folder_for_a_run_that_is_none(command, kind):
    before = make_special("m", kind)
    with limits(20):
        result = command(TRAIN, *small("--out", "m", "--overwrite"))
    one_line(result, TRAIN, "m")
    assert os.lstat("m").st_mode == before.st_mode


@pytest.mark.parametrize("kind", SPECIAL)
def test_h02_saving_a_model_over_something_else(model_file, kind):
    model, tok = load_model(model_file)
    before = make_special("there", kind)
    with limits(10), pytest.raises(BadInput, match="there"):
        save_model("there", model, tok)
    assert os.lstat("there").st_mode == before.st_mode


def test_h02_saving_a_model_through_a_link(model_file):
    model, tok = load_model(model_file)
    os.mkdir("there")
    write_file("there/m", b"old")
    os.symlink("there/m", "m")
    save_model("m", model, tok)
    assert os.readlink("m") == "there/m"
    assert os.listdir("there") == ["m"]
    load_model("there/m")


# 3: the end of a run needs no more than its steps


def bounded(memory):
    "For a new process: no more address space than this"
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def test_h03_the_last_minute_of_a_run_needs_far_more_memory():
    chars = [chr(i) for i in range(0x4E00, 0x4E00 + 20_000)]
    random.Random(1).shuffle(chars)
    Path("chinese.txt").write_text("".join(chars) * 2)
    args = ["--corpus", "chinese.txt", *SMALL, "--out", "m"]
    process = child(SCRIPTS / TRAIN, *args, preexec_fn=bounded(8 * GIB))
    code, out, err = ended(process)
    assert (code, err) == (0, "")
    assert "validation loss" in out
    assert {"sample.txt", "loss.png", "model.safetensors"} <= set(os.listdir("m"))


def test_h03_pairs_are_counted_as_before(command):
    text = "".join(random.Random(1).choices("abcdefgh \n", range(1, 11), k=4000))
    Path("pairs.txt").write_text(text)
    code, out, err = command(TRAIN, "--corpus", "pairs.txt", *SMALL, "--out", "m")
    assert code == 0
    tok = CharTokenizer.from_text(text)
    V = tok.vocab_size
    learn, judge = [bigram_counts(s, V) for s in train_val_split(tok.encode(text))]
    assert f"counted pairs {BigramLM.from_counts(learn).exact_loss(judge):.3f}" in out


@pytest.mark.full
def test_h03_a_text_of_200_megabytes():
    line = Path(texts.__file__).with_name("texts") / "bell_of_orrin.txt"
    with open("long.txt", "wb") as f:
        for _ in range(1500):
            f.write(line.read_bytes())
    args = ["--corpus", "long.txt", *SMALL, "--block-size", "256", "--out", "m"]
    process = child(SCRIPTS / TRAIN, *args, preexec_fn=bounded(8 * GIB))
    code, out, err = ended(process, 580)
    assert (code, err) == (0, "")
    assert "validation loss" in out


# 4: a fresh folder, or a line


@pytest.mark.parametrize(
    "target", ["/nowhere/runs", "runs", "own.txt"], ids=["nothing", "itself", "file"]
)
def test_h04_runs_is_a_link_to(command, target):
    args = small()
    os.symlink(target, "runs")
    with limits(20):
        one_line(command(TRAIN, *args), TRAIN, "runs")
    assert os.readlink("runs") == target


@pytest.mark.parametrize("out", ["gone", "gone/deeper", "loop", "loop/deeper"])
def test_h04_out_is_a_link_to_nothing(command, out):
    args = small("--out", out)
    os.symlink("/nowhere/m", "gone")
    os.symlink("loop", "loop")
    with limits(20):
        one_line(command(TRAIN, *args), TRAIN, out)


# 5: the network fails in many ways, and the bundled play steps in

NETWORK = {
    "socks proxy": {"ALL_PROXY": "socks5://127.0.0.1:1080"},
    "no certificates": {"SSL_CERT_FILE": "/nope.pem"},
    "rubbish for certificates": {"SSL_CERT_FILE": "own.txt"},
    "folder for certificates": {"SSL_CERT_FILE": "."},
    "no folder of certificates": {"SSL_CERT_DIR": "/nope"},
    "key log nowhere": {"SSLKEYLOGFILE": "/nope/keys"},
    "unknown proxy": {"http_proxy": "foo://bar"},
    "unknown proxy for all": {"ALL_PROXY": "foo://bar"},
    "proxy without an address": {"HTTP_PROXY": "http://[::1"},
    "proxy port": {"HTTP_PROXY": "http://127.0.0.1:99999999"},
    "proxy host": {"HTTP_PROXY": "http://a..b:1"},
    "proxy that nobody serves": {"ALL_PROXY": "http://127.0.0.1:9"},
    "no proxy for rubbish": {"NO_PROXY": "[::"},
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("env", NETWORK.values(), ids=NETWORK.keys())
def test_h05_a_common_environment_kills_plain_training(
    command, monkeypatch, no_network, env
):
    args = small("--out", "m")[2:]
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with limits(20):
        code, out, err = command(TRAIN, *args)
    assert code == 0, err
    assert out.startswith("bundled: ")
    assert err.startswith("charlm-train: warning: ")
    assert err.count("\n") == 1
    url = "https://127.0.0.1:9/a.txt"
    result = command(TRAIN, "--corpus", url, *SMALL, "--out", "n")
    one_line(result, TRAIN, url)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "kind", ["closed", "closed above", "file", "folder", "too long"]
)
def test_h05_the_cache_is(command, monkeypatch, no_network, plain_user, kind):
    args = small("--out", "m")[2:]
    folder = Path(".cache/charlm")
    folder.mkdir(parents=True)
    (folder / "tinyshakespeare.txt").write_text("not it")
    if kind == "closed":
        folder.chmod(0)
    elif kind == "closed above":
        folder.parent.chmod(0)
    elif kind == "file":
        monkeypatch.setenv("XDG_CACHE_HOME", os.path.abspath("own.txt"))
    elif kind == "folder":
        (folder / "tinyshakespeare.txt").unlink()
        (folder / "tinyshakespeare.txt").mkdir()
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", "/tmp/" + "a" * 300)
    code, out, err = command(TRAIN, *args)
    assert code == 0, err
    assert out.startswith("bundled: ")
    assert err.startswith("charlm-train: warning: ")
    assert err.count("\n") == 1


# 6: a file is compared with what it claims


def claims(where, **values):
    "A change to what a file says of its model"
    return lambda tensors, about: about[where].update(values)


def alphabet(n):
    "A change of the alphabet to n characters"
    return lambda tensors, about: about.update(
        chars="".join(map(chr, range(0x10000, n + 0x10000)))
    )


CLAIMS = {
    "n_layer 10^9": {"n_layer": 10**9},
    "n_layer 10^6": {"n_layer": 10**6},
    "n_layer 10^30": {"n_layer": 10**30},
    "block_size 40,000": {"block_size": 40_000},
    "block_size 10^9": {"block_size": 10**9},
    "block_size 2^63": {"block_size": 2**63},
    "n_embd 2^20": {"n_embd": 2**20},
    "n_embd 2^62": {"n_embd": 2**62, "n_head": 1},
    "n_head 0": {"n_head": 0},
    "n_head a list": {"n_head": [1]},
    "vocab_size 10^9": {"vocab_size": 10**9},
    "vocab_size 10^30": {"vocab_size": 10**30},
    "dropout a word": {"dropout": "much"},
    "dropout nan": {"dropout": float("nan")},
    "a setting too many": {"colour": "red"},
}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_h06_a_small_file_stops_the_reader(command, model_file, claim):
    path = crafted(model_file, "model", claims("config", **claim))
    with limits(20):
        err = one_line(command(GENERATE, path), GENERATE, path)
    assert "not enough memory" not in err


@pytest.mark.parametrize("n", [100_000, 1_048_576])
def test_h06_a_huge_alphabet_stops_the_reader(command, model_file, n):
    path = crafted(model_file, "model", alphabet(n))
    with limits(20):
        err = one_line(command(GENERATE, path), GENERATE, path)
    assert "not enough memory" not in err


def test_h06_a_huge_alphabet_is_checked_in_time():
    chars = "".join(map(chr, range(0x10000, 0x10000 + 1_000_000)))
    with limits(20):
        assert CharTokenizer(chars).vocab_size == 1_000_000
        with pytest.raises(BadInput, match="twice"):
            CharTokenizer(chars + chars[-1])


def test_h06_a_fast_model_that_claims_to_be_large(command):
    for claim in (
        {"n_layer": 10**9},
        {"recent": 2**40, "block_size": 2**41},
        {"recent": 0},
    ):
        path = crafted(fast_file(), "model", claims("config", **claim))
        with limits(20):
            err = one_line(command(GENERATE, path), GENERATE, path)
        assert "not enough memory" not in err


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_h06_a_small_state_stops_the_reader(command, claim):
    old_run(command)
    crafted("m/run.safetensors", "run", claims("shape", **claim), "m/run.safetensors")
    os.unlink("m/previous.safetensors")
    with limits(20):
        err = one_line(command(TRAIN, "--resume", "m"), TRAIN, "m")
    assert "not enough memory" not in err


def test_h06_a_huge_alphabet_in_a_state(command):
    old_run(command)
    crafted("m/run.safetensors", "run", alphabet(1_048_576), "m/run.safetensors")
    os.unlink("m/previous.safetensors")
    with limits(20):
        err = one_line(command(TRAIN, "--resume", "m"), TRAIN)
    assert len(err) < 1000  # nor is all of it printed


def with_words(path, words):
    "A safetensors file of the same numbers that says this"
    Path("words.safetensors").write_bytes(save(load_file(path), {"charlm": words}))
    return "words.safetensors"


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_h06_metadata_nested_too_deep(command, model_file, opening):
    closing = "]" if opening == "[" else "}"
    deep = opening * 100_000 + "1" + closing * 100_000
    path = with_words(model_file, f'{{"format": 3, "kind": "model", "x": {deep}}}')
    with limits(20):
        one_line(command(GENERATE, path), GENERATE, path)


# 7 and 17: downloads

TEXT = (LINE * 2000).encode()


def packed(n):
    "n bytes, all 0, as gzip, made piece by piece"
    packer = zlib.compressobj(9, wbits=31)
    pieces = [packer.compress(bytes(10**6)) for _ in range(n // 10**6)]
    return b"".join(pieces) + packer.flush()


@pytest.mark.parametrize("codings", ["gzip, gzip", "gzip,gzip,gzip", "deflate, gzip"])
def test_h07_a_nested_bomb_passes_the_limit(server, codings):
    body = TEXT
    for coding in codings.split(","):
        pack = gzip.compress if coding.strip() == "gzip" else zlib.compress
        body = pack(body)
    url = server("/nested", answer(body, content_encoding=codings))
    with pytest.raises(BadInput, match="nested"):
        texts.download([url], wait=0.01)


def test_h07_a_bomb_of_a_gigabyte(server):
    bomb = gzip.compress(packed(10**9))
    nested = server("/nested", answer(bomb, content_encoding="gzip, gzip"))
    single = server("/single", answer(packed(3 * 10**8), content_encoding="gzip"))
    for url in (nested, single):
        with limits(10, GIB // 2), pytest.raises(BadInput, match="nested|single"):
            texts.download([url], max_bytes=10**6, wait=0.01)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize(
    "cut", [0.5, -1, -8], ids=["half", "last byte", "last 8 bytes"]
)
def test_m17_a_packed_text_that_is_cut_short(server, coding, cut):
    packed = gzip.compress(TEXT) if coding == "gzip" else zlib.compress(TEXT)
    part = packed[: int(len(packed) * cut) if cut == 0.5 else cut]
    url = server("/cut", answer(part, content_encoding=coding))
    with pytest.raises(BadInput, match="/cut"):
        texts.download([url], wait=0.01)


def test_m17_a_part_that_nobody_asked_for(server):
    there = f"bytes 0-{len(TEXT) - 1}/{2 * len(TEXT)}"
    url = server("/part", answer(TEXT, 206, content_range=there))
    with pytest.raises(BadInput, match="/part"):
        texts.download([url], wait=0.01)


@pytest.mark.parametrize("status", [204, 205, 300, 304, 404, 500])
def test_m17_no_text_at_all(command, server, hurry, status):
    url = server("/none", answer(b"", status))
    one_line(command(TRAIN, "--corpus", url, *SMALL, "--out", "m"), TRAIN, url)
    assert not Path("m").exists()


PAGES = {
    "type": (TEXT, {"content_type": "text/html"}),
    "type with charset": (TEXT, {"content_type": "Text/HTML; charset=utf-8"}),
    "doctype": (b"<!DOCTYPE html>\n" + TEXT, {"content_type": "text/plain"}),
    "small doctype": (b"<!doctype html><p>" + TEXT, {}),
    "html": (b"<html><body>" + TEXT, {}),
    "HTML with spaces": (b"\xef\xbb\xbf \n <HTML lang='en'>" + TEXT, {}),
}


@pytest.mark.parametrize("body, headers", PAGES.values(), ids=PAGES.keys())
def test_m17_a_web_page_instead_of_the_text(command, server, hurry, body, headers):
    url = server("/login", answer(body, **headers))
    err = one_line(command(TRAIN, "--corpus", url, *SMALL, "--out", "m"), TRAIN, url)
    assert "html" in err.lower() or "web page" in err.lower()
    assert not Path("m").exists()


def send(request, data, pause, times=400):
    "Send the same again and again, until nobody listens"
    try:
        for _ in range(times):
            request.wfile.write(data)
            time.sleep(pause)
    except OSError:
        request.close_connection = True


def dribbling_body(request, n):
    request.send_response(200)
    request.send_header("content-length", "1000000")
    request.end_headers()
    send(request, b"a", 0.05)


def dribbling_chunks(request, n):
    request.protocol_version = "HTTP/1.1"
    request.send_response(200)
    request.send_header("transfer-encoding", "chunked")
    request.end_headers()
    send(request, b"1\r\na\r\n", 0.05)


def dribbling_header(request, n):
    request.wfile.write(b"HTTP/1.1 200 OK\r\nx: ")
    send(request, b"a", 0.05)


def endless_103(request, n):
    send(request, b"HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\n", 0.02, 1000)


def silent(request, n):
    send(request, b"", 0.05)


def slow_redirects(request, n):
    time.sleep(0.4)
    answer(b"", 302, location="/slow_redirects")(request, n)


def slow_errors(request, n):
    time.sleep(0.7)
    answer(b"", 503)(request, n)


SLOW = [
    dribbling_body,
    dribbling_chunks,
    dribbling_header,
    endless_103,
    silent,
    slow_redirects,
    slow_errors,
]


@pytest.mark.parametrize("handler", SLOW, ids=lambda h: h.__name__)
def test_m17_a_download_has_a_time_limit(server, handler):
    url = server(f"/{handler.__name__}", handler)
    began = time.monotonic()
    with limits(15), pytest.raises(BadInput, match=handler.__name__):
        texts.download([url], seconds=1, tries=2, wait=0.01)
    assert time.monotonic() - began < 5


def test_m17_a_slow_download_within_its_time(server):
    def slow(request, n):
        request.send_response(200)
        request.send_header("content-length", str(len(LINE)))
        request.end_headers()
        for c in LINE.encode():
            request.wfile.write(bytes([c]))
            time.sleep(0.01)

    url = server("/slow", slow)
    assert texts.fetch(url, max_bytes=1000, seconds=20) == LINE.encode()


# 8: what is empty is not what is left out

EMPTY = [
    (TRAIN, name)
    for name in (
        "resume",
        "out",
        "corpus",
        "recipe",
        "device",
        "dtype",
        "decay",
        "compile",
    )
]
EMPTY += [(GENERATE, name) for name in ("prompt-file", "device", "stop")]
EMPTY += [(SPEEDRUN, name) for name in ("out", "corpus", "recipe", "device", "dtype")]


@pytest.mark.parametrize("name, option", EMPTY)
@pytest.mark.parametrize("form", ["two words", "one word"])
def test_m08_an_empty_option_counts_as_left_out(
    command, model_file, name, option, form
):
    args = {TRAIN: small, SPEEDRUN: race}.get(name, lambda: [model_file])()
    if option != "out" and name != GENERATE:
        args += ["--out", "new"]
    if option == "resume":
        args = SMALL.copy()
    before = sorted(os.listdir())
    args += [f"--{option}", ""] if form == "two words" else [f"--{option}="]
    with limits(20):
        one_line(command(name, *args), name)
    assert sorted(os.listdir()) == before


def test_m08_an_empty_resume_with_other_settings(command):
    one_line(command(TRAIN, *small("--resume", "")), TRAIN, "resume")
    assert not Path("runs").exists()


def test_m08_an_empty_model(command):
    parsed(command(GENERATE, ""), GENERATE)


# 9: only what is ours is removed

FOREIGN = (
    ".notes.tmp .notes.0123abcd.tmp .model.safetensors.tmp "
    ".model.safetensors.0123ABCD.tmp .model.safetensors.0123abcd.tmp.bak "
    ".model.safetensors.0123abcde.tmp .my.run.safetensors.0123abcd.tmp "
    "x.run.safetensors.0123abcd.tmp .writable .new .old notes.txt"
).split()
OURS = [
    ".run.safetensors.0123abcd.tmp",
    ".model.safetensors.89abcdef.tmp",
    ".log.jsonl.00000000.tmp",
    ".next.safetensors.01234567.tmp",
]


@pytest.mark.parametrize("how", ["new", "overwrite", "resume"])
def test_m09_files_of_others_are_deleted(command, how):
    if how != "new":
        old_run(command)
    Path("m").mkdir(exist_ok=True)
    for name in FOREIGN + OURS:
        Path("m", name).write_text(name)
    for folder in (".cache.tmp", ".last.safetensors.0123abcd.tmp"):
        Path("m", folder).mkdir()
        Path("m", folder, "inside").write_text("kept")
    Path("precious").write_text("kept")
    os.symlink("../precious", "m/.sample.txt.0123abcd.tmp")
    args = {
        "new": small("--out", "m"),
        "overwrite": small("--out", "m", "--overwrite"),
        "resume": ["--resume", "m"],
    }[how]
    code, out, err = command(TRAIN, *args)
    assert (code, err) == (0, "")
    for name in FOREIGN:
        assert Path("m", name).read_text() == name
    for folder in (".cache.tmp", ".last.safetensors.0123abcd.tmp"):
        assert Path("m", folder, "inside").read_text() == "kept"
    assert os.path.islink("m/.sample.txt.0123abcd.tmp")
    assert Path("precious").read_text() == "kept"
    assert not [name for name in OURS if Path("m", name).exists()]


def test_m09_in_the_working_folder(command):
    for name in FOREIGN:
        Path(name).write_text(name)
    assert command(TRAIN, *small("--out", "."))[0] == 0
    for name in FOREIGN:
        assert Path(name).read_text() == name


@pytest.mark.parametrize(
    "name", ["sample.txt", "loss.png", "run.safetensors", "next.safetensors"]
)
def test_m09_a_folder_with_the_name_of_a_result(command, name):
    Path("m", name).mkdir(parents=True)
    Path("m", name, "inside").write_text("kept")
    for flags in ([], ["--overwrite"]):
        sound(command(TRAIN, *small("--out", "m", *flags)), TRAIN)
    assert Path("m", name, "inside").read_text() == "kept"


# 10: streams that are closed or full


def test_m10_closed_or_full_streams_end_a_training():
    ways = ["2>&-", ">&-", "<&- >&- 2>&-", ">/dev/full", ">/dev/full 2>&1"]
    line = f"$BIN/charlm-train {' '.join(small())} --out m%d %s"
    started = [bash(line % (i, way)) for i, way in enumerate(ways)]
    for i, (way, process) in enumerate(zip(ways, started, strict=True)):
        code, out, err = ended(process)
        assert "Traceback" not in err, (way, err)
        assert code == 0, (way, err)
        files = {"model.safetensors", "sample.txt", "loss.png", "log.jsonl"}
        assert files <= set(os.listdir(f"m{i}")), way
        assert load_model(f"m{i}")[0].config.n_embd == 8
        if way == "2>&-":
            assert "validation loss" in out


def test_m10_closed_or_full_streams_and_the_other_commands(model_file):
    generate = f"$BIN/charlm-generate {model_file} --length 300"
    speedrun = f"$BIN/charlm-speedrun {' '.join(race())}"
    lines = [
        f"{generate} >/dev/full",
        f"{generate} --samples 2 >/dev/full",
        f"{generate} --prompt-file - <&-",
        f"{generate} 2>&-",
        f"{generate} >&-",
        f"{generate} --timing 2>/dev/full",
        f"{speedrun} --out full.json >/dev/full",
        f"{speedrun} --out closed.json >&- 2>&-",
        "$BIN/charlm-generate --help >/dev/full",
    ]
    started = [bash(line) for line in lines]
    results = [ended(process) for process in started]
    for line, (code, _, err) in zip(lines, results, strict=True):
        assert "Traceback" not in err and "Exception ignored" not in err, (line, err)
        assert code in (0, 2), (line, code)
    for result in results[:3]:
        one_line(result, GENERATE)
    for code, out, _ in (results[3], results[5]):
        assert code == 0 and len(out) >= 300
    for name in ("full.json", "closed.json"):
        assert json.loads(Path(name).read_text())["steps"] == 1


# 11: output that can't be encoded


def test_m11_output_that_can_not_be_encoded():
    Path("caf\u00e9.txt").write_text("\u00e9\u4e2d\U0001f600 \u00fc\n" * 400)
    flags = " ".join(["--corpus", "caf\u00e9.txt", *SMALL, "--out"])
    learn = "$BIN/charlm-train " + flags
    speedrun = "$BIN/charlm-speedrun " + " ".join(race("--corpus", "caf\u00e9.txt"))
    started = [
        bash(f"{learn} m", PYTHONIOENCODING="ascii"),
        bash(f"{learn} n", PYTHONIOENCODING="cp1252"),
        bash(speedrun, PYTHONIOENCODING="ascii"),
    ]
    for process, word in zip(started, ["caf\\xe9", "\\u4e2d", "caf\\xe9"], strict=True):
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, b"")
        assert word.encode() in out
    write = "$BIN/charlm-generate m --length 50 --prompt "
    started = [
        bash(write + "\u4e2d", PYTHONIOENCODING="ascii"),
        bash(write + "\u4e2d --samples 2", PYTHONIOENCODING="latin-1"),
        bash(write + "\u4e01", PYTHONIOENCODING="ascii"),
    ]
    for process in started[:2]:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, b"")
        assert out.startswith(b"\\u4e2d")
    one_line(ended(started[2]), GENERATE, "\\u4e01")


# 12 and 13: paths, and what is said to be saved

CAFE = os.fsdecode(b"caf\xe9")


def test_m12_a_folder_that_is_not_utf8(command):
    result = command(TRAIN, *small("--out", CAFE))
    if sound(result, TRAIN):
        load_model(CAFE)
        assert resume_run(Path(CAFE)).trainer.step == 4
        assert command(TRAIN, "--resume", CAFE)[0] == 0
        assert command(GENERATE, CAFE, "--length", 5)[0] == 0
    else:
        assert not os.path.exists(CAFE)  # refused before anything was made


def test_m12_a_run_interrupted_in_a_folder_that_is_not_utf8(command):
    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)

    with at_call("fsync", 8, interrupt):
        code, out, err = command(TRAIN, *small("--out", CAFE, "--steps", 40))
    assert code in (2, 130)
    if os.path.exists(CAFE):
        assert UNTOUCHED not in out + err
        resume_run(Path(CAFE))


def test_m12_a_model_that_is_not_utf8(command, model_file):
    model_file.rename(f"{CAFE}.safetensors")
    code, out, err = command(GENERATE, f"{CAFE}.safetensors", "--length", 5)
    if code:
        one_line((code, out, err), GENERATE)
    assert "not a safetensors file" not in err


def test_m12_a_text_that_is_not_utf8_by_name(model_file):
    Path(f"{CAFE}.txt").write_text(LINE * 40)
    Path("prompt").write_text("the")
    os.rename("prompt", f"{CAFE}.prompt")
    strict = {"PYTHONIOENCODING": "utf-8:strict"}
    name = b"caf\xe9.txt"
    started = [
        child(SCRIPTS / TRAIN, "--corpus", name, *SMALL, "--out", "m", env=strict),
        child(SCRIPTS / SPEEDRUN, *RACE, "--corpus", name, env=strict),
        child(SCRIPTS / GENERATE, model_file, "--prompt-file", b"caf\xe9.prompt"),
        child(SCRIPTS / GENERATE, model_file, "--prompt", name, env=strict),
    ]
    names = [TRAIN, SPEEDRUN, GENERATE, GENERATE]
    results = [ended(process) for process in started]
    for result, command in zip(results, names, strict=True):
        sound(result, command)
    if results[0][0] == 0:
        assert resume_run(Path("m")).trainer.step == 4
    else:
        assert not Path("m").exists()


def test_m13_nothing_was_saved_is_said_of_a_renamed_folder(command):
    args = small("--out", "m", "--steps", 40)
    with at_call("fsync", 20, lambda: os.rename("m", "m2")):
        err = one_line(command(TRAIN, *args), TRAIN)
    assert UNTOUCHED not in err
    resume_run(Path("m2"))


def test_m13_nothing_was_saved_is_said_of_a_bad_state(command):
    def spoil():
        Path("m/run.safetensors").write_bytes(b"rubbish")
        fail()

    args = small("--out", "m", "--steps", 40)
    with at_call("fsync", 20, spoil):
        err = one_line(command(TRAIN, *args), TRAIN)
    assert UNTOUCHED not in err
    resume_run(Path("m"), previous=True)


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5, 6, 12])
def test_m13_what_is_said_to_be_saved_is(command, nth):
    with at_call("fsync", nth, fail):
        result = command(TRAIN, *small("--out", "m", "--steps", 8))
    err = one_line(result, TRAIN)
    try:
        step = resume_run(Path("m")).trainer.step
    except BadInput:
        assert "step" not in err.split("saved last")[-1] or UNTOUCHED in err
    else:
        assert f"step {step}" in err and UNTOUCHED not in err


# 14: what is saved can be loaded


class MyGPT(GPT):
    "A model of the user's own"


class MyFast(FastGPT):
    "Another"


def unsaved(kind):
    "A model that may be saved or refused, but not saved and then refused"
    torch.manual_seed(1)
    shape = {"block_size": 8, "n_embd": 8, "n_head": 2, "n_layer": 1}
    fast = FastConfig(5, **shape)
    model = (MyGPT if kind == "subclass" else GPT)(GPTConfig(5, **shape))
    if kind == "fast subclass":
        model = MyFast(fast)
    if kind == "compiled":
        model = torch.compile(model)
    if kind == "fast and compiled":
        model = torch.compile(FastGPT(fast))
    if kind in ("float64", "bfloat16", "float16"):
        model = model.to(getattr(torch, kind))
    if kind == "one part in float64":
        model.lm_head.double()
    if kind == "one weight more":
        model.extra = torch.nn.Linear(2, 2)
    if kind == "one weight less":
        model.ln_f = torch.nn.Identity()
    if kind == "not finite":
        with torch.no_grad():
            model.lm_head.weight[0, 0] = float("nan")
    if kind == "another shape":
        model.config = GPTConfig(5, **shape | {"n_layer": 2})
    return model


UNSAVED = [
    "subclass",
    "fast subclass",
    "compiled",
    "fast and compiled",
    "float64",
    "bfloat16",
    "float16",
    "one part in float64",
    "one weight more",
    "one weight less",
    "not finite",
    "another shape",
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", UNSAVED)
def test_m14_saved_and_then_refused(kind):
    model = unsaved(kind)
    if kind.startswith("float") or kind == "one part in float64":
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.full_like(p, 1 / 3))
    try:
        save_model("m", model, CharTokenizer("abcde"))
    except ValueError:  # which `BadInput` is
        assert not Path("m").exists()
        return
    back, tok = load_model("m")
    whole = getattr(model, "_orig_mod", model).state_dict()
    assert type(back).__name__ == type(getattr(model, "_orig_mod", model)).__name__
    for name, t in back.state_dict().items():
        assert torch.equal(t.double(), whole[name].double()), name


# 15: ordinary slips

LONG = "a" * 300
HOSTS = [
    "http://example..com/x",
    f"http://{'a' * 64}.com/x",
    f"https://{LONG}.com/x",
    "http://.com/x",
    "http://a b/x",
    "http://[::1/x",
    "http://127.0.0.1:99999/x",
    "http://\u00df\u200d..de/x",
    "http://xn--\u00e9/x",
    "HTTP://[v1.x]/",
    "https:///x",
]


@pytest.mark.parametrize("url", HOSTS)
def test_m15_a_host_that_can_not_be(command, hurry, url):
    with limits(20):
        result = command(TRAIN, "--corpus", url, *SMALL, "--out", "m")
    one_line(result, TRAIN, "download")


@pytest.mark.parametrize("url", HOSTS + ["file:///etc/passwd", "ftp://a/b", ""])
def test_m15_redirected_to_a_host_that_can_not_be(command, server, hurry, url):
    there = url.encode().decode("latin-1")
    moved = server("/moved", answer(b"", 302, location=there))
    with limits(20):
        result = command(TRAIN, "--corpus", moved, *SMALL, "--out", "m")
    one_line(result, TRAIN)


ARGUMENTS = {
    "resume, too long": [TRAIN, "--resume", LONG],
    "resume, too deep": [TRAIN, "--resume", "a/" * 3000],
    "resume, below a file": [TRAIN, "--resume", "own.txt/m"],
    "resume, closed": [TRAIN, "--resume", "closed/m"],
    "resume, itself closed": [TRAIN, "--resume", "closed"],
    "out, too long": [TRAIN, "--corpus", "own.txt", "--out", LONG],
    "out, closed": [TRAIN, "--corpus", "own.txt", "--out", "closed/m"],
    "corpus, closed": [TRAIN, "--corpus", "closed/a.txt"],
    "corpus, too deep": [TRAIN, "--corpus", "a/" * 3000],
    "corpus, below a file": [TRAIN, "--corpus", "own.txt/a"],
    "model, closed": [GENERATE, "closed/model"],
    "model, too deep": [GENERATE, "a/" * 3000],
    "model, below a file": [GENERATE, "own.txt/a"],
    "prompt, closed": [GENERATE, "small.safetensors", "--prompt-file", "closed/a"],
    "prompt, too long": [GENERATE, "small.safetensors", "--prompt-file", LONG],
    "certificate, closed": [SPEEDRUN, "--corpus", "own.txt", "--out", "closed/c"],
    "certificate, too long": [SPEEDRUN, "--corpus", "own.txt", "--out", LONG],
    "certificate, below a file": [
        SPEEDRUN,
        "--corpus",
        "own.txt",
        "--out",
        "own.txt/c",
    ],
    "rate of 3e38": [TRAIN, "--corpus", "own.txt", "--out", "m", "--lr", "3e38"],
    "rate of 3.5e38": [TRAIN, "--corpus", "own.txt", "--out", "m", "--lr", "3.5e38"],
    "rate of 1e39": [
        TRAIN,
        "--corpus",
        "own.txt",
        "--out",
        "m",
        "--lr",
        "1e39",
        "--recipe",
        "lecture",
    ],
}


@pytest.mark.parametrize("args", ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_m15_an_ordinary_slip(command, model_file, plain_user, args):
    small()
    os.mkdir("closed", 0)
    name, *args = args
    if "--corpus" in args:
        args = [*(SMALL if name == TRAIN else RACE), *args]
    with limits(20):
        one_line(command(name, *args), name)


@pytest.mark.parametrize("folder", [LONG, "a/" * 3000, "closed/here", "own.txt"])
def test_m15_a_data_folder_that_can_not_be(command, monkeypatch, plain_user, folder):
    small()
    os.mkdir("closed", 0)
    monkeypatch.setenv("CHARLM_DATA", folder)
    for args in ([], ["--corpus", "tinyshakespeare"]):
        one_line(command(TRAIN, *SMALL, *args), TRAIN)


@pytest.mark.parametrize("p", ["1e-46", "1e-38", "1e-8", "1e-320", "5e-324"])
def test_m15_top_p_of_next_to_nothing(command, model_file, p):
    for path in (model_file, fast_file()):
        result = command(GENERATE, path, "--length", 20, "--top-p", p)
        sound(result, GENERATE)


@pytest.mark.parametrize("t", ["1e-46", "1e-320", "1e300", "3.4e38", "1e-30"])
def test_m15_a_temperature_of_next_to_nothing(command, model_file, t):
    result = command(GENERATE, model_file, "--length", 20, "--temperature", t)
    sound(result, GENERATE)


@pytest.mark.parametrize(
    "gone",
    [["model"], ["last"], ["model", "last"], ["model", "last", "previous"]],
    ids="-".join,
)
def test_m15_a_finished_run_whose_models_are_gone(command, gone):
    old_run(command)
    for name in gone:
        Path("m", f"{name}.safetensors").unlink()
    sound(command(TRAIN, "--resume", "m"), TRAIN)


def test_m15_a_backend_of_nonsense():
    rubbish = {"MPLBACKEND": "nonsense"}
    args = small("--out", "m")
    Path("matplotlibrc").write_text("savefig.format: pdf\n")
    Path("rc").write_text("backend: nonsense\nfont.size: many\n")
    started = [
        child(SCRIPTS / TRAIN, *args, env=rubbish),
        child(
            SCRIPTS / TRAIN,
            *args[:-1],
            "n",
            env={"MATPLOTLIBRC": os.path.abspath("rc")},
        ),
    ]
    for folder, process in zip(["m", "n"], started, strict=True):
        code, out, err = ended(process)
        assert code == 0, err
        assert "Traceback" not in err
        assert "validation loss" in out
        assert Path(folder, "loss.png").read_bytes().startswith(b"\x89PNG")


# 16: what can't be read is not missing


def test_m16_an_unreadable_model_is_called_missing(command, model_file, plain_user):
    model_file.chmod(0)
    err = one_line(command(GENERATE, model_file), GENERATE, "permission denied")
    assert "makes one" not in err
    Path("m").mkdir()
    model_file.rename("m/model.safetensors")
    one_line(command(GENERATE, "m"), GENERATE, "permission denied")
    Path("m").chmod(0)
    err = one_line(command(GENERATE, "m"), GENERATE, "permission denied")
    assert "makes one" not in err


@pytest.mark.parametrize("closed", ["m/run.safetensors", "m"])
def test_m16_an_unreadable_state_is_called_missing(command, plain_user, closed):
    old_run(command)
    Path(closed).chmod(0)
    result = command(TRAIN, "--resume", "m")
    Path(closed).chmod(0o700)
    err = one_line(result, TRAIN, "permission denied")
    assert "--previous" not in err


def test_m16_an_unreadable_text_is_called_missing(command, model_file, plain_user):
    args = small()
    Path("own.txt").chmod(0)
    one_line(command(TRAIN, *args), TRAIN, "permission denied", "own.txt")
    args = [model_file, "--prompt-file", "own.txt"]
    one_line(command(GENERATE, *args), GENERATE, "permission denied")


@pytest.mark.parametrize(
    "kind", ["folder", "link to nothing", "link to itself", "fifo"]
)
def test_m16_something_else_where_a_model_should_be(command, kind):
    Path("m").mkdir()
    if kind == "folder":
        Path("m/model.safetensors").mkdir()
    elif kind == "fifo":
        os.mkfifo("m/model.safetensors")
    else:
        os.symlink(
            "/nowhere" if "nothing" in kind else "model.safetensors",
            "m/model.safetensors",
        )
    if kind == "fifo":  # no alarm wakes who waits for one
        result = ended(child(SCRIPTS / GENERATE, "m"), 20)
    else:
        result = command(GENERATE, "m")
    one_line(result, GENERATE, "m/model.safetensors")


# 18: passwords


def with_password(url, who="user:geheim77"):
    return url.replace("http://", f"http://{who}@")


def told(folder, word):
    "The files, and their names, in which a word is"
    files = [p for p in Path(folder).rglob("*") if p.is_file()]
    return [p for p in files if word.encode() in p.read_bytes() or word in str(p)]


@pytest.mark.parametrize(
    "who", ["user:geheim77", ":geheim77", "u%40x:geheim77%21", "a:b:geheim77"]
)
def test_m18_a_password_is_printed_and_stored(command, server, who):
    url = with_password(server("/own.txt", answer(TEXT)), who)
    for args in (
        ["--corpus", url, *SMALL, "--out", "m"],
        ["--corpus", url, *SMALL],
        ["--resume", "m", "--corpus", url],
    ):
        code, out, err = command(TRAIN, *args)
        assert code == 0, err
        assert "geheim77" not in out + err
    code, out, err = command(TRAIN, "--resume", "m")
    assert code in (0, 2)
    assert "geheim77" not in out + err
    assert told(".", "geheim77") == []
    code, out, err = command(SPEEDRUN, *RACE, "--corpus", url)
    assert code == 0, err
    assert "geheim77" not in out + err
    assert told(".", "geheim77") == []


def test_m18_a_password_in_what_goes_wrong(command, server, hurry):
    gone = server("/gone", answer(b"", 404))
    page = server("/page", answer(b"<html>", content_type="text/html"))
    bad = server("/bad", answer(b"caf\xe9"))
    empty = server("/empty", answer(b" "))
    short = server("/short", answer(b"abc"))
    moved = server("/moved", answer(b"", 302, location=with_password(gone)))
    urls = [
        *map(with_password, (gone, page, bad, empty, short, moved)),
        moved,
        "http://user:geheim77@127.0.0.1:9/a.txt",
        "http://user:geheim77@a..b/a.txt",
        "http://user:geheim77@127.0.0.1:999999/",
        "http://user:geheim77@[::1/",
        "HTTP://u:geheim77@",
    ]
    for url in urls:
        with limits(20):
            err = one_line(command(TRAIN, "--corpus", url, *SMALL), TRAIN)
        assert "geheim77" not in err


# 19: a closed terminal


def test_m19_a_closed_terminal_ends_a_run_without_saving():
    gone = trained("--out", "m")

    def ignoring():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    nohup = trained("--out", "n", preexec_fn=ignoring)
    gone.send_signal(signal.SIGHUP)
    nohup.send_signal(signal.SIGHUP)
    code, out, err = ended(gone)
    assert (code, err) == (129, "")
    assert f"step {resume_run(Path('m')).trainer.step};" in out
    ready, _, _ = select.select([nohup.stdout], [], [], 20)
    assert ready and nohup.poll() is None  # it goes on
    nohup.send_signal(signal.SIGTERM)
    assert ended(nohup)[0] == 143


# 20: writing takes as long as the text is


class Endless(OnDevice):
    "A model that writes the same character for ever, at once"

    def read(self, idx):
        return self.same[: len(idx)]


def endless():
    "One of those and its tokenizer, whose characters are large in memory"
    model = Endless(GPT(GPTConfig(16, block_size=8, n_embd=8, n_head=2, n_layer=1)))
    model.same = np.tile(np.arange(16) == 0, (4, 1)) * 99.0
    return model, CharTokenizer("".join(map(chr, range(0x1F600, 0x1F610))))


@pytest.mark.parametrize(
    "stop", [None, "\U0001f601\U0001f602"], ids=["no stop", "stop"]
)
def test_m20_long_writing_is_quadratic(stop):
    times = []
    with limits(60):
        pieces = stream_text(*endless(), None, 300_000, 1, stop)
        for _ in range(30):
            began = time.perf_counter()
            for _ in range(10_000):
                next(pieces)
            times.append(time.perf_counter() - began)
    assert min(times[-4:]) < 3 * min(times[:4])


def test_m20_writing_several_is_quadratic():
    times = []
    with limits(60):
        for length in (5000, 5000, 80_000):
            began = time.perf_counter()
            write_several(*endless(), 4, None, length, 1)
            times.append(time.perf_counter() - began)
    assert times[2] < 28 * min(times[:2])  # 16 would be right


@pytest.mark.parametrize(
    "more", [[], ["--samples", 3], ["--seed", 1]], ids=["one", "three", "fast"]
)
def test_m20_a_long_prompt(command, model_file, more):
    for path, prompt in ((fast_file(n_layer=1), "abcdefgh"), (model_file, "the fox ")):
        Path("prompt").write_text(prompt * 250_000)
        with limits(20, 2 * GIB):
            result = command(
                GENERATE, path, "--prompt-file", "prompt", "--length", 5, *more
            )
        code, out, err = result
        assert code == 0, err
        assert out.startswith(prompt * 2)


@pytest.mark.parametrize("layers", [1, 3])
def test_m20_a_long_prompt_counts_as_far_as_it_did(layers):
    model, tok = load_model(fast_file(n_layer=layers, recent=3))
    chance = torch.Generator().manual_seed(1)
    for length in (1, 2, 7, 8, 9, 23, 24, 25, 26, 100, 555):
        idx = torch.randint(20, (2, length), generator=chance)
        with torch.no_grad():
            whole = model(idx)[0][:, -1].argmax(-1)
        assert torch.equal(model.generate(idx, 1, temperature=0)[:, -1], whole)


# Low: the first second


def test_low_ctrl_c_in_the_first_second():
    args = small("--out", "m")
    lines = [(TRAIN, *args), (GENERATE, "m"), (SPEEDRUN, "--help")]
    chance = random.Random(1)
    for moment in (0.12, 0.3, 0.5, 0.8, 1.2):
        name, *rest = chance.choice(lines)
        process = child(SCRIPTS / name, *rest)
        time.sleep(moment)
        process.send_signal(signal.SIGINT)
        code, out, err = ended(process)
        assert "Traceback" not in err, (moment, err)
        assert code in (130, -signal.SIGINT, 0, 2), moment
        if code in (0, 2):  # it was over already
            assert name != TRAIN


def test_low_a_working_folder_that_is_gone(model_file):
    line = "mkdir gone; cd gone; rmdir ../gone; "
    started = [
        bash(line + "$BIN/charlm-train --corpus bundled --steps 1"),
        bash(line + f"$BIN/charlm-generate {model_file} --length 5"),
        bash(line + "$BIN/charlm-speedrun --corpus bundled --steps 1"),
    ]
    for process, name in zip(started, ["train", "generate", "speedrun"], strict=True):
        result = ended(process)
        assert not sound(result, f"charlm-{name}") or name == "generate"


# Low: numbers

WHOLE = {
    TRAIN: (
        "steps batch-size accumulate block-size n-embd n-head n-layer recent "
        "warmup eval-interval eval-iters seed threads"
    ).split(),
    GENERATE: ["length", "samples", "top-k", "seed"],
    SPEEDRUN: ["seed", "look", "steps", "threads"],
}
SHARES = {
    TRAIN: ["dropout", "lr", "hold", "final-lr", "weight-decay", "clip"],
    GENERATE: ["temperature", "top-p"],
}
MAY_BE_0 = {
    "warmup",
    "seed",
    "threads",
    "look",
    "dropout",
    "hold",
    "final-lr",
    "weight-decay",
    "clip",
    "temperature",
}
SIZES = {
    "batch-size",
    "accumulate",
    "block-size",
    "n-embd",
    "n-head",
    "n-layer",
    "recent",
    "samples",
    "threads",
}
WHOLE_WRONG = [
    10**400,
    10**30,
    2**63,
    0,
    -1,
    -(10**30),
    "",
    " ",
    "nan",
    "1.5",
    "one",
    "1" * 5000,
]
SHARES_WRONG = [
    "nan",
    "inf",
    "-inf",
    "1e308",
    "-1e308",
    "1e400",
    "0",
    "-1",
    "-0.001",
    "",
    " ",
    "one",
    "1" * 400,
]

OPTIONS = [(c, o, v) for c, names in WHOLE.items() for o in names for v in WHOLE_WRONG]
OPTIONS += [
    (c, o, v) for c, names in SHARES.items() for o in names for v in SHARES_WRONG
]
OPTIONS = [(c, o, v) for c, o, v in OPTIONS if not (str(v) == "0" and o in MAY_BE_0)]
OPTIONS += [(c, o, 10**18) for c, names in WHOLE.items() for o in names if o in SIZES]


@pytest.mark.parametrize(
    "name, option, value",
    OPTIONS,
    ids=[f"{c}-{o}-{str(v)[:20]}" for c, o, v in OPTIONS],
)
def test_low_numbers_out_of_range(command, model_file, name, option, value):
    args = {TRAIN: lambda: small("--out", "m"), SPEEDRUN: race}
    args = args.get(name, lambda: [model_file])()
    with limits(20, 2 * GIB):
        result = command(name, *args, f"--{option}={value}")
    parsed(result, name)
    assert "not enough memory" not in result[2]
    assert not Path("m").exists()


@pytest.mark.parametrize(
    "name, value",
    [
        ("steps", 10**400),
        ("batch_size", 10**30),
        ("lr", 1e308),
        ("lr", float("inf")),
        ("lr", "1"),
        ("steps", 1.5),
        ("steps", True),
        ("dropout", None),
        ("warmup", True),
        ("threads", 1.5),
        ("clip", float("nan")),
        ("seed", "1"),
        ("hold", "x"),
        ("final_lr", float("nan")),
        ("eval_iters", None),
    ],
)
def test_low_settings_of_the_wrong_type(name, value):
    with limits(20), pytest.raises(BadInput, match=name):
        if name == "dropout":
            GPTConfig(5, dropout=value)
        else:
            TrainConfig(**{name: value})


# Low: crafted models


def test_low_a_missing_weight_is_named(command, model_file):
    path = crafted(
        model_file, "model", lambda tensors, about: tensors.pop("lm_head.bias")
    )
    one_line(command(GENERATE, path), GENERATE, path, "lm_head.bias")


def change(**values):
    "A change to what a file says"
    return lambda tensors, about: about.update(values)


def all_weights(f):
    "A change to every number of a file"
    return lambda tensors, about: tensors.update({n: f(t) for n, t in tensors.items()})


WORDS = {
    "chars numbers": change(chars=[1] * 19),
    "chars words": change(chars=["the", "quick"]),
    "chars a number": change(chars=19),
    "chars nothing": change(chars=None),
    "chars an object": change(chars={"a": 1}),
    "chars empty": change(chars=""),
    "chars twice": change(chars="a" * 19),
    "model a list": change(model=["GPT"]),
    "model an object": change(model={}),
    "model of another kind": change(model="FastGPT"),
    "model unknown": change(model="MyGPT"),
    "config a list": change(config=[1]),
    "config nothing": change(config=None),
    "config a word": change(config="small"),
    "format a word": change(format="3"),
    "format nothing": change(format=None),
    "format -1": change(format=-1),
    "format true": change(format=True),
    "format huge": change(format=10**400),
    "format infinite": change(format=float("inf")),
    "format half": change(format=2.5),
    "kind a list": change(kind=["model"]),
    "kind with a line end": change(kind="a\nb\x1b[31mred\x07"),
    "kind of 100,000 letters": change(kind="a" * 100_000),
    "kind unprintable": change(kind="\u202e\ud800\u2028"),
    "model with a line end": change(model="a\nb\x1b[31mred\x07"),
    "config with a line end": claims("config", **{"a\nb\x1b[31mred": 1}),
    "weight with a line end": lambda tensors, about: tensors.update(
        {"a\nb\x1b[31m": torch.ones(1)}
    ),
    "float8 weights": all_weights(lambda t: t.to(torch.float8_e4m3fn)),
    "bool weights": all_weights(lambda t: t > 0),
    "whole weights": all_weights(lambda t: (t * 100).long()),
    "complex weights": all_weights(lambda t: t.to(torch.complex64)),
    "weights in a row": all_weights(lambda t: t.flatten()),
    "weights on edge": all_weights(lambda t: t.t() if t.dim() == 2 else t),
    "no weights": lambda tensors, about: tensors.clear(),
    "infinite weights": all_weights(lambda t: t / 0),
    "10,000 weights more": lambda tensors, about: tensors.update(
        {f"w{i}": torch.ones(1) for i in range(10_000)}
    ),
}


@pytest.mark.parametrize("do", WORDS.values(), ids=WORDS.keys())
def test_low_a_crafted_model(command, model_file, do):
    path = crafted(model_file, "model", do)
    with limits(20):
        err = one_line(command(GENERATE, path), GENERATE, path)
    assert len(err) < 1000
    assert "not enough memory" not in err
    with pytest.raises(BadInput):
        load_model(path)


ODD = {
    "weights of 3e38": all_weights(lambda t: torch.full_like(t, 3e38)),
    "weights of 1e300": all_weights(
        lambda t: torch.full_like(t, 1e300, dtype=torch.float64)
    ),
    "weights of 1e30": all_weights(lambda t: torch.full_like(t, 1e30)),
    "weights of -3e38 and 3e38": all_weights(
        lambda t: torch.randn_like(t).sign() * 3e38
    ),
    "only surrogates": change(chars="".join(map(chr, range(0xD800, 0xD800 + 19)))),
    "only control characters": change(chars="".join(map(chr, range(19)))),
    "float16 weights": all_weights(lambda t: t.half()),
    "float64 weights": all_weights(lambda t: t.double()),
}


@pytest.mark.parametrize("do", ODD.values(), ids=ODD.keys())
def test_low_an_odd_model(command, model_file, do):
    path = crafted(model_file, "model", do)
    with limits(20):
        for more in ([], ["--samples", 2], ["--temperature", 0]):
            sound(command(GENERATE, path, "--length", 20, *more), GENERATE)


def reheaded(path, f):
    "A safetensors file whose header has been changed"
    data = Path(path).read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = f(json.loads(data[8 : 8 + n]))
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    Path("headed").write_bytes(
        len(header).to_bytes(8, "little") + header + data[8 + n :]
    )
    return "headed"


def more_of(**entry):
    "A tensor more in a header"

    def add(header):
        end = max(
            v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"
        )
        return header | {
            "x": {"dtype": "F32", "shape": [0], "data_offsets": [end, end]} | entry
        }

    return add


HEADERS = {
    "shape of 2^63": more_of(shape=[0, 2**63]),
    "shape of 2^64": more_of(shape=[0, 2**64]),
    "shape of many": more_of(shape=[0] + [2**31] * 5),
    "shape of 10,000": more_of(shape=[0] + [1] * 10_000),
    "float4": more_of(dtype="F4"),
    "float8": more_of(dtype="F8_E8M0"),
    "unknown type": more_of(dtype="F3"),
    "deep": lambda header: b"[" * 100_000,
    "deep words": lambda header: json.dumps(
        header | {"__metadata__": {"charlm": "[" * 10**6}}
    ).encode(),
    "words of words": lambda header: (
        header | {"__metadata__": {"charlm": json.dumps("a")}}
    ),
    "words of nothing": lambda header: header | {"__metadata__": {"charlm": ""}},
    "no words": lambda header: {k: v for k, v in header.items() if k != "__metadata__"},
}


@pytest.mark.parametrize("f", HEADERS.values(), ids=HEADERS.keys())
def test_low_a_crafted_header(command, model_file, f):
    path = reheaded(model_file, f)
    with limits(20):
        one_line(command(GENERATE, path), GENERATE, path)


# Low: crafted states


def drop(*names):
    "Leave out of a state what begins so"

    def do(tensors, about):
        for name in [n for n in tensors if n.startswith(names)]:
            del tensors[name]
        for name in names:
            about.pop(name, None)

    return do


def put(**values):
    "Add numbers to a state"
    named = {n.replace("__", "."): t for n, t in values.items()}
    return lambda tensors, about: tensors.update(named)


def entry(**values):
    "A change to the last line of the history"
    return lambda tensors, about: about["history"][-1].update(values)


BAD = ["x", None, [], {}, True, 1.5, -1, 10**400]
STATES = {f"step {v!r:.20}": change(step=v) for v in BAD}
STATES |= {"step above steps": change(step=5)}
STATES |= {
    f"seconds {v!r:.20}": change(seconds=v) for v in ("x", None, [], float("nan"), -1.5)
}
STATES |= {f"best {v!r:.20}": change(best=v) for v in ("x", None, [], {})}
STATES |= {
    f"history {v!r:.20}": change(history=v)
    for v in ("x", None, 3, [1], ["x"], [{}], {})
}
STATES |= {
    f"{n} {v!r:.20}": entry(**{n: v})
    for n in ("step", "train", "val", "lr")
    for v in ("x", None, [], 10**400)
}
STATES |= {
    f"{n} {v!r:.20}": change(**{n: v})
    for n in ("config", "shape", "text", "chars")
    for v in ("x", None, 3, [], {})
}
STATES |= {f"model {v!r:.20}": change(model=v) for v in ("MyGPT", 3, [], {}, "GPT")}
STATES |= {
    f"format {v!r:.20}": change(format=v) for v in ("3", None, [], 1, 2.5, True, 10**30)
}
STATES |= {
    f"{n} {v!r:.20}": claims("config", **{n: v})
    for n in ("steps", "lr", "decay", "dtype", "device", "compile", "threads", "seed")
    for v in ("x", None, [], 10**400, -1)
}
STATES |= {
    f"{n} {v!r:.20}": claims("text", **{n: v})
    for n in ("name", "source", "sha256")
    for v in (3, None, [], "a\nb\x1b[31m", "\ud800", "x" * 5000)
}
STATES |= {
    "a setting too many": claims("config", colour="red"),
    "scaler a word": change(scaler="x"),
    "scaler a list": change(scaler=[1]),
    "no history": drop("history"),
    "no step": drop("step"),
    "no random numbers": drop("random"),
    "no weights": drop("model."),
    "no optimizer": drop("optimizer"),
    "half of an optimizer": drop("optimizer.1", "optimizer.0.mean"),
    "optimizer.abc": put(optimizer__abc=torch.ones(1)),
    "optimizer.": put(optimizer__=torch.ones(1)),
    "optimizer.999.mean": put(optimizer__999__mean=torch.ones(1)),
    "optimizer.-1.mean": put(**{"optimizer__-1__mean": torch.ones(1)}),
    "optimizer.0.colour": put(optimizer__0__colour=torch.ones(1)),
    "random.torch short": put(random__torch=torch.ones(3, dtype=torch.uint8)),
    "random.torch of floats": put(random__torch=torch.ones(5056)),
    "random.data short": put(random__data=torch.ones(3, dtype=torch.uint8)),
    "weights not finite": lambda tensors, about: tensors.update(
        {n: t / 0 for n, t in tensors.items() if n.startswith("model.")}
    ),
    "weights of another shape": lambda tensors, about: tensors.update(
        {n: t[:1] for n, t in tensors.items() if n.startswith("model.")}
    ),
    "optimizer of another shape": lambda tensors, about: tensors.update(
        {n: torch.ones(7) for n in tensors if n.startswith("optimizer.")}
    ),
    "control characters": change(kind="run\n\x1b[31mred"),
}
HARMLESS = {n for n in STATES if n.startswith("name '")} | {
    "seconds nan",
    "seconds -1.5",
}


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_low_an_odd_state(command, name):
    old_run(command)
    crafted("m/run.safetensors", "run", STATES[name], "m/run.safetensors")
    os.unlink("m/previous.safetensors")
    with limits(20):
        result = command(TRAIN, "--resume", "m")
    sound(result, TRAIN)
    assert "\x1b" not in result[1]


@pytest.mark.parametrize("name", [n for n in STATES if n not in HARMLESS])
def test_low_a_crafted_state(command, name):
    old_run(command)
    crafted("m/run.safetensors", "run", STATES[name], "m/run.safetensors")
    os.unlink("m/previous.safetensors")
    state = Path("m/run.safetensors").read_bytes()
    with limits(20):
        err = one_line(command(TRAIN, "--resume", "m"), TRAIN)
    assert len(err) < 10_000
    assert Path("m/run.safetensors").read_bytes() == state  # refused, not overwritten


# Low: messages


def test_low_previous_with_only_the_last_state(command):
    old_run(command)
    os.unlink("m/previous.safetensors")
    err = one_line(command(TRAIN, "--resume", "m", "--previous"), TRAIN)
    assert "makes one" not in err


def test_low_a_text_that_moved(command):
    old_run(command)
    os.rename("own.txt", "moved.txt")
    one_line(command(TRAIN, "--resume", "m"), TRAIN, "--corpus")
    assert command(TRAIN, "--resume", "m", "--corpus", "moved.txt")[0] == 0


ODD_PATHS = [
    "a\nb",
    "a\rb",
    "a\x1b[31mb",
    "a\u2028b",
    "a\u202eb",
    "a\x07",
    "-" * 40 + "\n",
]


@pytest.mark.parametrize("path", ODD_PATHS)
def test_low_a_path_with_control_characters(command, model_file, path):
    one_line(command(GENERATE, f"./{path}"), GENERATE)
    one_line(command(TRAIN, "--corpus", f"./{path}", *SMALL), TRAIN)
    one_line(command(TRAIN, "--resume", f"./{path}"), TRAIN)
    args = [model_file, "--prompt-file", f"./{path}"]
    one_line(command(GENERATE, *args), GENERATE)
    result = command(SPEEDRUN, *race("--out", f"./gone/{path}"))
    one_line(result, SPEEDRUN)
    for option in ("recipe", "dtype", "decay", "compile", "device"):
        result = command(TRAIN, *small(f"--{option}={path}"))
        one_line(result, TRAIN)


@pytest.mark.parametrize("out", ["my run", "it's", "$HOME", "-m", "a;b"])
def test_low_what_to_type_next_is_quoted(command, out):
    code, printed, err = command(TRAIN, *small(f"--out={out}"))
    assert (code, err) == (0, "")
    last = printed.splitlines()[-1].partition("charlm-generate ")[2]
    assert [Path(word) for word in shlex.split(last) if word != "--"] == [Path(out)]


def test_low_a_path_named_like_a_text():
    with pytest.raises(BadInput) as caught:
        texts.load_corpus(Path("bundled"))
    assert "did you mean 'bundled'?" not in str(caught.value)


def test_low_a_text_without_end(command, model_file):
    zeros = Path("zeros")
    with open(zeros, "wb") as f:
        f.truncate(10**11)
    for name, args in (
        (TRAIN, ["--corpus", "zeros", *SMALL]),
        (GENERATE, [model_file, "--prompt-file", "zeros"]),
    ):
        with limits(20):
            err = one_line(command(name, *args), name)
        assert "batch_size" not in err and "length" not in err


# Low: ids

V = 5
ROWS = {
    "too large": torch.tensor([[1, 5, 2]]),
    "far too large": torch.tensor([[2**40, 1, 2]]),
    "negative": torch.tensor([[1, -1, 2]]),
    "far below": torch.tensor([[1, -(2**63), 2]]),
    "bool": torch.tensor([[True, False, True]]),
    "float": torch.tensor([[1.0, 2.0, 3.0]]),
    "complex": torch.tensor([[1 + 0j, 2, 3]]),
    "no rows": torch.empty(0, 3, dtype=torch.long),
    "no columns": torch.empty(2, 0, dtype=torch.long),
    "a cube": torch.ones(1, 2, 3, dtype=torch.long),
    "a row": torch.tensor([1, 2, 3]),
}
DOORS = {
    "forward": lambda model, idx: model(idx),
    "generate": lambda model, idx: model.generate(idx, 2),
    "attention_maps": attention_maps,
}


def make_model(kind):
    "A small model of 5 characters"
    torch.manual_seed(1)
    shape = {"block_size": 8, "n_embd": 8, "n_head": 2, "n_layer": 1}
    if kind == "BigramLM":
        return BigramLM(V)
    return (
        FastGPT(FastConfig(V, **shape))
        if kind == "FastGPT"
        else GPT(GPTConfig(V, **shape))
    )


KINDS = [(kind, door) for kind in ("GPT", "FastGPT") for door in DOORS]
KINDS += [("BigramLM", "forward"), ("BigramLM", "generate")]


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize("kind, door", KINDS)
def test_low_a_batch_of_ids_that_are_none(kind, door, rows):
    with pytest.raises(BadInput):
        DOORS[door](make_model(kind), rows)


TEXTS = {
    name: rows[0].repeat(20) for name, rows in ROWS.items() if rows.shape == (1, 3)
}
SCORES = {
    "evaluate": evaluate,
    "surprise": surprise,
    "bigram_counts": lambda model, ids: bigram_counts(ids, V),
    "decode": lambda model, ids: CharTokenizer("abcde").decode(ids),
    "train": lambda model, ids: train(
        model, ids, ids, TrainConfig(steps=1, eval_iters=1)
    ),
}


@pytest.mark.parametrize("ids", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("door", SCORES)
@pytest.mark.parametrize("kind", ["GPT", "FastGPT"])
def test_low_a_text_of_ids_that_are_none(kind, door, ids):
    with pytest.raises(BadInput):
        SCORES[door](make_model(kind), ids)


@pytest.mark.parametrize("door", ["evaluate", "surprise"])
def test_low_a_text_that_is_empty(door):
    for ids in (
        torch.empty(0, dtype=torch.long),
        torch.empty(0),
        torch.ones(2, 3).long(),
    ):
        with pytest.raises(BadInput):
            SCORES[door](make_model("GPT"), ids)


def test_low_a_tokenizer_of_another_model():
    for kind in ("GPT", "FastGPT"):
        with pytest.raises(BadInput):
            write(make_model(kind), CharTokenizer("abcdefghi"), "i", 3)
        with pytest.raises(BadInput):
            list(stream_text(make_model(kind), CharTokenizer("abcdefghi"), "i", 3))


@pytest.mark.parametrize(
    "ids",
    [
        ["a"],
        [None],
        [1.5],
        [[1], [2]],
        [2**70],
        [-1],
        [5],
        "abc",
        3,
        None,
        [True],
        [1j],
        torch.tensor(3),
        torch.tensor([1.0]),
    ],
    ids=repr,
)
def test_low_decoding_what_is_no_text(ids):
    with pytest.raises(BadInput):
        CharTokenizer("abcde").decode(ids)


def test_low_decoding_nothing():
    tok = CharTokenizer("abcde")
    assert tok.decode([]) == ""
    assert tok.decode(torch.empty(0, dtype=torch.long)) == ""
    assert tok.decode(iter([0, 4])) == "ae"
