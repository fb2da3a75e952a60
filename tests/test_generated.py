"What is generated from the notebooks is in step with them, and they are clean."

import shutil, subprocess, sys
from pathlib import Path

from conftest import ROOT, SCRIPTS, copy_source


def snapshot(folder):
    names = [
        folder / "README.md",
        *folder.glob("charlm/*.py"),
        *folder.glob("nbs/*.ipynb"),
        *folder.glob("index_files/*"),
    ]
    return {str(p.relative_to(folder)): p.read_bytes() for p in names}


def test_export_clean_and_readme_change_nothing(tmp_path):
    copy = tmp_path / "copy"
    copy_source(copy)
    for p in copy.glob("charlm/*.py"):
        if p.name != "__init__.py":
            p.unlink()  # so that a module without a notebook shows as well
    (copy / "README.md").unlink()
    shutil.rmtree(copy / "index_files")
    for command in (
        [SCRIPTS / "nbdev-export"],
        [SCRIPTS / "nbdev-clean"],
        [sys.executable, "docs/readme.py"],
    ):
        subprocess.run(command, cwd=copy, check=True, capture_output=True)
    there, made = snapshot(ROOT), snapshot(copy)
    assert there.keys() == made.keys()
    assert [name for name in there if there[name] != made[name]] == []


def test_links_in_the_readme_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    local = [
        link
        for part in text.split("](")[1:]
        if not (link := part.split(")")[0]).startswith("http")
    ]
    assert local and all((ROOT / Path(link)).exists() for link in local)
