"""What happens to a training run when the machine misbehaves.

It is killed, it runs out of disk, its files are damaged.
"""

import errno, json, os, random, signal, subprocess, sys, time, types
from pathlib import Path

import pytest
from conftest import SCRIPTS

from charlm.checkpoint import load_model
from charlm.data import BadInput
from charlm.run import read_state

TINY = [
    "--corpus",
    "bundled",
    "--n-embd",
    "16",
    "--n-layer",
    "1",
    "--n-head",
    "2",
    "--block-size",
    "16",
    "--batch-size",
    "4",
    "--dropout",
    "0.1",
    "--steps",
    "600",
    "--eval-interval",
    "5",
    "--eval-iters",
    "2",
    "--dtype",
    "float32",
    "--decay",
    "cosine",
]


def train(*args):
    "A process that trains, with one thread, so that many can run beside each other"
    return subprocess.Popen(
        [SCRIPTS / "charlm-train", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def results(folder):
    "What a run has left, without the times"
    log = [
        json.loads(line) for line in Path(folder, "log.jsonl").read_text().splitlines()
    ]
    for entry in log:
        del entry["seconds"], entry["tokens_per_s"]
    return [
        Path(folder, name).read_bytes()
        for name in ("model.safetensors", "last.safetensors", "sample.txt")
    ], log


def kill_and_resume(times, seed):
    """Kill a run at so many random moments, continuing it each time.

    Returns the steps it had reached.
    """
    chance, reached = random.Random(seed), []
    for _ in range(times):
        there = (
            Path("killed", "run.safetensors").exists()
            or Path("killed", "previous.safetensors").exists()
        )
        process = (
            train("--resume", "killed")
            if there
            else train(*TINY, "--out", "killed", "--overwrite")
        )
        for line in process.stdout:
            if line.startswith("training"):
                break
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
        assert process.communicate()[1] == "" and process.returncode == -signal.SIGKILL
        try:
            reached.append(read_state(Path("killed"))[1]["step"])
        except BadInput as e:
            assert "no run to continue" in str(e)
    process = train("--resume", "killed")
    assert process.communicate()[1] == "" and process.returncode == 0
    return reached


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.full)])
def test_killed_at_random_moments(times):
    process = train(*TINY, "--out", "whole")
    assert process.communicate()[1] == ""
    reached = kill_and_resume(times, seed=times)
    assert reached == sorted(reached)  # no work before the last checkpoint is ever lost
    assert results("killed") == results("whole")
    # nor is anything half written left lying about
    assert not list(Path("killed").glob(".*.tmp"))


SHORT = [
    *TINY[: TINY.index("--steps")],
    "--steps",
    "20",
    "--eval-interval",
    "5",
    "--eval-iters",
    "2",
    "--dtype",
    "float32",
]


@pytest.mark.parametrize(
    "error",
    [errno.ENOSPC, errno.EROFS, errno.EIO],
    ids=["full disk", "read-only", "failing disk"],
)
@pytest.mark.parametrize("nth", [5, 6, 7, 8, 9])
def test_disk_that_refuses(command, monkeypatch, error, nth):
    "The nth file that is written fails: one clear line, and what was saved is whole"
    calls, fsync = [], os.fsync

    def failing(fd):
        calls.append(fd)
        if len(calls) == nth:
            raise OSError(error, os.strerror(error))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", failing)
    code, _, err = command("charlm-train", *SHORT, "--out", "m")
    assert code == 2 and err.count("\n") == 1
    assert (
        err.startswith("charlm-train: error: can't write m/")
        and os.strerror(error) in err
    )
    load_model("m")
    assert f"step {read_state(Path('m'))[1]['step']}" in err
    monkeypatch.setattr(os, "fsync", fsync)
    assert command("charlm-train", "--resume", "m")[0] == 0
    assert command("charlm-train", *SHORT, "--out", "whole")[0] == 0
    assert results("m") == results("whole")


def test_every_cut_and_every_flip_of_a_state_is_refused(command):
    assert command("charlm-train", *SHORT, "--out", "m")[0] == 0
    state, chance = Path("m/run.safetensors"), random.Random(1)
    whole = state.read_bytes()
    cuts = [whole[: chance.randrange(len(whole))] for _ in range(50)]
    places = [chance.randrange(len(whole)) for _ in range(50)]
    flips = [
        whole[:i] + bytes([whole[i] ^ 1 << chance.randrange(8)]) + whole[i + 1 :]
        for i in places
    ]
    for data in cuts + flips:
        state.write_bytes(data)
        with pytest.raises(
            BadInput,
            match="the state before it, of step 15, is good: --resume m --previous",
        ):
            read_state(Path("m"))
    code, _, err = command("charlm-train", "--resume", "m")
    assert code == 2 and err.count("\n") == 1 and "--resume m --previous" in err
    code, out, err = command("charlm-train", "--resume", "m", "--previous")
    assert (code, err) == (0, "") and "step    20" in out


@pytest.mark.parametrize(
    "args, part",
    [
        (["--lr", "0.5"], "the saved run has lr 0.03, not 0.5"),
        (["--n-embd", "32"], "the saved run has n_embd 16, not 32"),
        (["--corpus", "other.txt"], "was learning from another text than other.txt"),
        (["--out", "n"], "leave out --out and --overwrite"),
    ],
)
def test_resuming_otherwise_is_refused(command, args, part):
    Path("other.txt").write_text("Something else to learn from altogether.\n" * 100)
    assert command("charlm-train", *SHORT, "--out", "m")[0] == 0
    code, out, err = command("charlm-train", "--resume", "m", *args)
    assert code == 2 and out == "" and err.count("\n") == 1 and part in err


def test_a_text_that_has_changed_is_noticed(command):
    Path("own.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 100)
    assert command("charlm-train", *SHORT, "--corpus", "own.txt", "--out", "m")[0] == 0
    Path("own.txt").write_text("The quick brown fox jumps over the hazy dog.\n" * 100)
    code, _, err = command("charlm-train", "--resume", "m")
    assert code == 2 and "was learning from another text than own.txt" in err
    Path("own.txt").unlink()
    code, _, err = command("charlm-train", "--resume", "m")
    assert code == 2 and "no such file" in err


def test_overwriting_leaves_nothing_of_the_old_run(command):
    assert command("charlm-train", *SHORT, "--out", "m")[0] == 0
    assert (
        command(
            "charlm-train",
            *SHORT,
            "--out",
            "m",
            "--overwrite",
            "--lr",
            "1e30",
            "--clip",
            "0",
        )[0]
        == 2
    )
    assert (
        read_state(Path("m"))[1]["config"]["lr"] == 1e30
        and not Path("m/previous.safetensors").exists()
        and not Path("m/sample.txt").exists()
    )


def test_arguments_that_do_not_go_together(command):
    for args, part in (
        (["--previous"], "--previous goes with --resume"),
        (["--resume", "m", "--overwrite"], "leave out --out and --overwrite"),
    ):
        Path("m").mkdir(exist_ok=True)
        code, _, err = command("charlm-train", *args)
        assert code == 2 and err.count("\n") == 1 and part in err


def test_a_closed_pipe_stops_after_saving():
    done = subprocess.run(
        f"{SCRIPTS}/charlm-train {' '.join(TINY)} --out m | head -n 4; "
        "exit ${PIPESTATUS[0]}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 141
        and done.stderr == ""
        and read_state(Path("m"))[1]["step"] >= 10
    )


def test_nothing_to_resume(command):
    for folder in ("nowhere", "."):
        code, _, err = command("charlm-train", "--resume", folder)
        assert code == 2 and err == (
            f"charlm-train: error: no run to continue in {folder}; "
            "name the folder of an earlier charlm-train\n"
        )


def test_a_finished_run_resumed_is_finished_again(command):
    assert command("charlm-train", *SHORT, "--out", "m")[0] == 0
    before = results("m")
    assert command("charlm-train", "--resume", "m")[0] == 0
    assert results("m") == before


def test_divergence_names_step_rate_and_what_is_safe(command):
    code, _, err = command(
        "charlm-train", *SHORT, "--out", "m", "--lr", "1e30", "--clip", "0"
    )
    assert code == 2 and err.count("\n") == 1
    for part in (
        "the loss is nan at step ",
        "with a learning rate of 1e+30",
        "what was saved last is in m, step 0",
    ):
        assert part in err


def test_tensorboard_when_asked_for(command, monkeypatch):
    code, _, err = command("charlm-train", *SHORT, "--out", "m", "--tensorboard")
    assert code == 2 and err == (
        "charlm-train: error: TensorBoard is not installed; "
        "pip install tensorboard, or leave out --tensorboard\n"
    )
    written = []

    class Writer:
        def __init__(self, folder):
            self.folder = folder

        def add_scalar(self, name, value, step):
            written.append((self.folder, name, step))

        def flush(self):
            pass

    monkeypatch.setitem(
        sys.modules,
        "torch.utils.tensorboard",
        types.SimpleNamespace(SummaryWriter=Writer),
    )
    assert command("charlm-train", *SHORT, "--out", "n", "--tensorboard")[0] == 0
    folders, names, steps = map(set, zip(*written, strict=True))
    assert steps == {0, 5, 10, 15, 20}
    assert names == {"train", "val", "lr", "tokens_per_s"}
    assert folders == {"n"}
