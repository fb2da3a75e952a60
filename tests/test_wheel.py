"The built wheel, with run-time dependencies only, away from the checkout."

import os, shutil, subprocess, sys

from conftest import ROOT, copy_source


def test_wheel_works_alone(tmp_path):
    source = tmp_path / "source"
    copy_source(source)
    env = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CHARLM"))
    }

    def run(*args, **kwargs):
        return subprocess.run(
            [str(a) for a in args],
            check=True,
            capture_output=True,
            text=True,
            env=env,
            cwd=tmp_path,
            **kwargs,
        ).stdout

    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", source)
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    bin = tmp_path / "venv" / "bin"
    run(
        bin / "pip",
        "install",
        "--quiet",
        "--constraint",
        ROOT / "constraints.txt",
        *(tmp_path / "dist").glob("*.whl"),
    )
    shutil.rmtree(source)

    imported = run(
        bin / "python",
        "-W",
        "error",
        "-c",
        "import importlib, pkgutil, charlm\n"
        "for m in pkgutil.iter_modules(charlm.__path__): "
        "print(importlib.import_module('charlm.' + m.name).__file__)",
    )
    assert (
        imported.count(str(tmp_path / "venv"))
        == len(imported.splitlines())
        == len(list((ROOT / "charlm").glob("*.py"))) - 1
    )
    assert (
        run(
            bin / "python",
            "-W",
            "error",
            "-c",
            "from charlm.data import load_corpus; "
            "print(len(load_corpus('bundled')) > 100_000)",
        )
        == "True\n"
    )
    for missing in ("nbdev", "IPython", "pytest"):
        importing = [bin / "python", "-c", f"import {missing}"]
        assert subprocess.run(importing, capture_output=True).returncode == 1

    said = run(
        bin / "charlm-train",
        "--corpus",
        "bundled",
        "--out",
        "tiny",
        "--steps",
        "20",
        "--eval-interval",
        "10",
        "--n-embd",
        "16",
        "--n-layer",
        "1",
    )
    assert "step    20: train loss" in said and "model: tiny/model.safetensors" in said
    written = run(
        bin / "charlm-generate",
        "tiny",
        "--prompt",
        "The ",
        "--length",
        "50",
        "--seed",
        "1",
    )
    assert written.startswith("The ") and len(written) == 55
