"The commands as processes: what a person sees, Ctrl-C, a closed pipe, two at once."
import os, pty, signal, subprocess, termios
from pathlib import Path

import pytest
from conftest import SCRIPTS

TINY = ["--corpus", "bundled", "--n-embd", "16", "--n-layer", "1", "--eval-interval", "50"]

def start(name, *args, **kwargs):
    return subprocess.Popen([SCRIPTS/name, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)

@pytest.mark.parametrize("name", ["charlm-train", "charlm-generate"])
def test_help_explains_every_argument(name):
    out, err = start(name, "--help", env=os.environ | {"COLUMNS": "120"}).communicate()
    assert err == "" and "usage" in out
    options = [line for line in out.splitlines() if line.startswith("  -")]
    assert len(options) > 5 and all(len(line.split(None, 2)) == 3 for line in options)

def test_output_that_is_no_terminal_stays_plain():
    out, err = start("charlm-train", *TINY, "--steps", "100", "--out", "m").communicate()
    assert err == "" and "\r" not in out and "\x1b" not in out
    lines = out.splitlines()
    assert lines[0].startswith("bundled: ") and [l[:10] for l in lines if l.startswith("step")] == ["step     0", "step    50", "step   100"]
    assert "validation loss" in out and "It writes:" in out and "model: m/model.safetensors" in out

def test_a_terminal_gets_a_bar():
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    process = subprocess.Popen([SCRIPTS/"charlm-train", *TINY, "--steps", "100", "--out", "m"], stdout=follower, stderr=follower)
    os.close(follower)
    seen = b""
    try:
        while piece := os.read(leader, 1000): seen += piece
    except OSError: pass                                            # the terminal closes with the process
    assert process.wait() == 0 and b"step/s" in seen and b"model: m/model.safetensors" in seen

def test_ctrl_c_is_no_traceback():
    process = start("charlm-train", *TINY, "--steps", "1000000", "--out", "m")
    for line in process.stdout:
        if line.startswith("step    50"): break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err.strip() == "charlm-train: stopped"
    assert os.listdir("m") == []                                    # and no half a model

def test_a_closed_pipe_ends_quietly(model_file):
    done = subprocess.run(f"{SCRIPTS}/charlm-generate {model_file} --length 20000 | head -c 10", shell=True, capture_output=True, text=True)
    assert len(done.stdout) == 10 and done.stderr == ""

def test_two_runs_at_once_get_folders_of_their_own():
    runs = [start("charlm-train", *TINY, "--steps", "20") for _ in range(2)]
    assert [p.communicate()[1] for p in runs] == ["", ""] and [p.returncode for p in runs] == [0, 0]
    assert sorted(str(p) for p in Path("runs").rglob("model.safetensors")) == ["runs/bundled-1/model.safetensors", "runs/bundled-2/model.safetensors"]

def test_the_same_seed_gives_the_same_file():
    for out in ("a", "b"): assert start("charlm-train", *TINY, "--steps", "30", "--seed", "5", "--out", out).communicate()[1] == ""
    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()
