"""mmlesson/models is what `make export` writes: byte for byte, and nothing else is there."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import mmlesson

ROOT = mmlesson.repository()
MODELS = Path("mmlesson") / "models"


def export(folder):
    """What nbdev-export writes for the notebooks in `folder`: {file name: bytes}."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / MODELS).mkdir(parents=True)
    shutil.copy(ROOT / MODELS / "__init__.py", folder / MODELS)
    program = Path(sys.executable).with_name("nbdev-export")
    done = subprocess.run([program], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.name: path.read_bytes() for path in modules(folder / MODELS)}


def modules(folder):
    """The modules of `folder`, without nbdev's index of them, which is not committed."""
    return [path for path in sorted(folder.glob("*.py")) if path.name != "_modidx.py"]


def test_export_is_up_to_date(tmp_path):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    expected = export(tmp_path)
    found = {path.name: path.read_bytes() for path in modules(ROOT / MODELS)}
    assert found.keys() == expected.keys(), "run `make export`, and delete modules that no notebook writes any more"
    stale = [name for name in found if found[name] != expected[name]]
    assert not stale, f"{', '.join(stale)} in mmlesson/models: not what the notebooks export; run `make export`"


@pytest.mark.parametrize("body, exported", [("#| export\nx = 1", True), ("x = 1", False)])
def test_only_marked_cells_are_exported(tmp_path, body, exported):
    (tmp_path / "notebooks").mkdir()
    cells = [nbformat.v4.new_code_cell("#| default_exp toy"), nbformat.v4.new_code_cell(body)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "01_toy.ipynb")
    assert (b"x = 1" in export(tmp_path).get("toy.py", b"")) == exported
