"""mmlesson/models is what `make export` writes: byte for byte, and nothing else is there."""

import contextlib
import shutil
from pathlib import Path

import nbformat
import pytest

import mmlesson
from mmlesson.tools import export

ROOT = mmlesson.repository()
MODELS = Path("mmlesson") / "models"


def exported(folder):
    """What `make export` writes for the notebooks in `folder`: {file name: bytes}."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / MODELS).mkdir(parents=True)
    shutil.copy(ROOT / MODELS / "__init__.py", folder / MODELS)
    with contextlib.chdir(folder):
        export.main()
    return {path.name: path.read_bytes() for path in modules(folder / MODELS)}


def modules(folder):
    """The modules of `folder`, without nbdev's index of them, which is not committed."""
    return [path for path in sorted(folder.glob("*.py")) if path.name != "_modidx.py"]


def test_export_is_up_to_date(tmp_path):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    expected = exported(tmp_path)
    found = {path.name: path.read_bytes() for path in modules(ROOT / MODELS)}
    assert found.keys() == expected.keys(), "run `make export`, and delete modules that no notebook writes any more"
    stale = [name for name in found if found[name] != expected[name]]
    assert not stale, f"{', '.join(stale)} in mmlesson/models: not what the notebooks export; run `make export`"


def toy(folder, body):
    """What a notebook of one cell exports."""
    (folder / "notebooks").mkdir()
    cells = [nbformat.v4.new_code_cell("#| default_exp toy"), nbformat.v4.new_code_cell(body)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "notebooks" / "01_toy.ipynb")
    return exported(folder).get("toy.py", b"").decode()


@pytest.mark.parametrize("body, there", [("#| export\nx = 1", True), ("x = 1", False)])
def test_only_marked_cells_are_exported(tmp_path, body, there):
    assert ("x = 1" in toy(tmp_path, body)) == there


def test_the_marks_of_answers_are_dropped(tmp_path):
    body = "#| export\ndef f(x):\n    ### BEGIN SOLUTION\n    return x + 1\n    ### END SOLUTION"
    written = toy(tmp_path, body)
    assert written.endswith("def f(x):\n    return x + 1\n") and "SOLUTION" not in written
