"The commands as processes: what a person sees, Ctrl-C, a closed pipe, two at once."

import fcntl, os, pty, re, signal, subprocess, termios
from pathlib import Path

import pytest
from conftest import ROOT, SCRIPTS

TINY = [
    "--corpus",
    "bundled",
    "--n-embd",
    "16",
    "--n-layer",
    "1",
    "--block-size",
    "32",
    "--eval-interval",
    "50",
    "--eval-iters",
    "10",
    "--dtype",
    "float32",
]


def start(name, *args, **kwargs):
    return subprocess.Popen(
        [SCRIPTS / name, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def own_terminal():
    """In a new process: its standard input is its terminal.

    And Ctrl-C counts even if these tests run in the background, where shells ignore it.
    """
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("name", ["charlm-train", "charlm-generate", "charlm-speedrun"])
def test_help_explains_every_argument(name):
    out, err = start(name, "--help", env=os.environ | {"COLUMNS": "120"}).communicate()
    assert err == "" and "usage" in out
    options = [line for line in out.splitlines() if line.startswith("  -")]
    assert len(options) > 5 and all(len(line.split(None, 2)) == 3 for line in options)


def test_output_that_is_no_terminal_stays_plain():
    out, err = start(
        "charlm-train", *TINY, "--steps", "100", "--out", "m"
    ).communicate()
    assert err == "" and "\r" not in out and "\x1b" not in out
    lines = out.splitlines()
    assert lines[0].startswith("bundled: ")
    steps = [line[:10] for line in lines if line.startswith("step")]
    assert steps == ["step     0", "step    50", "step   100"]
    assert (
        "validation loss" in out
        and "It writes:" in out
        and "model: m/model.safetensors" in out
    )


def test_a_terminal_gets_a_bar():
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    process = subprocess.Popen(
        [SCRIPTS / "charlm-train", *TINY, "--steps", "100", "--out", "m"],
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    seen = b""
    try:
        while piece := os.read(leader, 1000):
            seen += piece
    except OSError:
        pass  # the terminal closes with the process
    assert (
        process.wait() == 0
        and b"tok/s" in seen
        and b"best=" in seen
        and b"model: m/model.safetensors" in seen
    )


@pytest.mark.parametrize(
    "number, code",
    [(signal.SIGINT, 130), (signal.SIGTERM, 143)],
    ids=["SIGINT", "SIGTERM"],
)
def test_interrupted_saved_and_continued(number, code):
    process = start("charlm-train", *TINY, "--steps", "200", "--out", "m")
    for line in process.stdout:
        if line.startswith("step    50"):
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (code, "")
    assert re.search(
        r"^stopped at step (\d+); what was saved last is in m, step \1; "
        r"to continue: charlm-train --resume m$",
        out,
        re.M,
    )
    out, err = start("charlm-train", "--resume", "m").communicate()
    assert err == "" and "step   200" in out and "step     0" not in out
    whole = start("charlm-train", *TINY, "--steps", "200", "--out", "whole")
    assert whole.communicate()[1] == ""
    assert (
        Path("m/last.safetensors").read_bytes()
        == Path("whole/last.safetensors").read_bytes()
    )


def test_ctrl_c_in_a_terminal():
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    process = subprocess.Popen(
        [SCRIPTS / "charlm-train", *TINY, "--steps", "1000000", "--out", "m"],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
        preexec_fn=own_terminal,
    )
    os.close(follower)
    seen = b""
    while b"step    50" not in seen:
        seen += os.read(leader, 1000)
    os.write(leader, b"\x03")  # what the key sends
    try:
        while piece := os.read(leader, 1000):
            seen += piece
    except OSError:
        pass
    assert (
        process.wait() == 130
        and b"; to continue: charlm-train --resume m" in seen
        and b"Traceback" not in seen
    )


def test_two_processes_on_one_folder():
    first = start("charlm-train", *TINY, "--steps", "1000000", "--out", "m")
    for line in first.stdout:
        if line.startswith("step    50"):
            break
    for args in (["--resume", "m"], [*TINY, "--out", "m", "--overwrite"]):
        second = start("charlm-train", *args)
        assert second.communicate()[1] == (
            "charlm-train: error: another process is training in m; "
            "wait for it, or choose another folder\n"
        )
        assert second.returncode == 2
    first.send_signal(signal.SIGTERM)
    assert first.communicate()[1] == "" and first.returncode == 143


@pytest.mark.parametrize(
    "options",
    [
        "--length 100000",
        "--length 2000 --samples 20",
        "--length 100000 --reprime --timing",
    ],
)
def test_a_closed_pipe_ends_quietly(model_file, options):
    line = (
        f"{SCRIPTS}/charlm-generate {model_file} {options} | head -c 100; "
        "echo; echo ${PIPESTATUS[0]}"
    )
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=60
    )
    text, code = done.stdout.rsplit("\n", 2)[:2]
    assert (len(text), code, done.stderr) == (100, "0", "")


def test_writing_shows_up_in_a_terminal_as_it_comes(model_file):
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    process = subprocess.Popen(
        [
            SCRIPTS / "charlm-generate",
            model_file,
            "--length",
            "1000000",
            "--prompt",
            "the ",
        ],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
        preexec_fn=own_terminal,
    )
    os.close(follower)
    seen, pieces = b"", 0
    while len(seen) < 300:  # a million characters would take minutes
        seen += os.read(leader, 1000)
        pieces += 1
    assert process.poll() is None and seen.startswith(b"the ") and pieces > 5
    os.write(leader, b"\x03")  # what the key sends
    try:
        while piece := os.read(leader, 1000):
            seen += piece
    except OSError:
        pass
    assert (
        process.wait() == 130
        and seen.endswith(b"charlm-generate: stopped\r\n")
        and b"Traceback" not in seen
    )


def test_prompts_from_a_file_and_from_standard_input(model_file):
    Path("prompt.txt").write_text("the fox\r\n")
    args = [SCRIPTS / "charlm-generate", model_file, "--length", "20", "--seed", "1"]
    outputs = [
        subprocess.run([*args, *more], input=text, capture_output=True, text=True)
        for more, text in [
            (["--prompt", "the fox\n"], ""),
            (["--prompt-file", "prompt.txt"], ""),
            (["--prompt-file", "-"], "the fox\n"),
        ]
    ]
    assert len({o.stdout for o in outputs}) == 1 and all(
        o.stderr == "" and o.stdout.startswith("the fox\n") for o in outputs
    )
    bad = subprocess.run(
        [*args, "--prompt-file", "-"], input=b"the f\xf6x", capture_output=True
    )
    assert bad.stderr.startswith(
        b"charlm-generate: error: standard input is not UTF-8 text: "
        b"byte 0xf6 at position 5"
    )


def test_samples_stop_and_timing(model_file):
    def run(*more):
        return subprocess.run(
            [SCRIPTS / "charlm-generate", model_file, "--seed", "1", *more],
            capture_output=True,
            text=True,
        )

    several = run("--samples", "3", "--length", "30", "--prompt", "fox")
    assert several.stderr == "" and several.stdout.count("\n---\n") == 2
    assert all(t.startswith("fox") for t in several.stdout.split("\n---\n"))
    one = run("--length", "400", "--stop", "o", "--prompt", "the ", "--timing")
    assert one.stdout.rstrip("\n").endswith("o") and one.stdout.count("o") == 1
    assert re.fullmatch(r"\d+ characters in \d+\.\d\d s, [\d,]+ a second\n", one.stderr)
    greedy = [
        run("--length", "30", "--temperature", "0", "--seed", seed).stdout
        for seed in ("1", "2")
    ]
    assert greedy[0] == greedy[1]


def test_two_runs_at_once_get_folders_of_their_own():
    runs = [start("charlm-train", *TINY, "--steps", "20") for _ in range(2)]
    assert [p.communicate()[1] for p in runs] == ["", ""]
    assert [p.returncode for p in runs] == [0, 0]
    assert sorted(str(p) for p in Path("runs").rglob("model.safetensors")) == [
        "runs/bundled-1/model.safetensors",
        "runs/bundled-2/model.safetensors",
    ]


def test_the_same_seed_gives_the_same_file():
    for out in ("a", "b"):
        args = [*TINY, "--steps", "30", "--seed", "5", "--out", out]
        assert start("charlm-train", *args).communicate()[1] == ""
    for name in ("model.safetensors", "last.safetensors", "sample.txt"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()


def test_the_three_lines_of_the_readme(model_file, capsys):
    code = re.search(
        r"```python\n(from charlm.generate.+?)```",
        (ROOT / "README.md").read_text(),
        re.S,
    )[1]
    assert code.count("\n") == 3
    exec(
        code.replace("runs/tinyshakespeare-1", str(model_file)).replace(
            "ROMEO:", "the quick "
        )
    )
    assert len(capsys.readouterr().out) == len("the quick ") + 500 + 1
