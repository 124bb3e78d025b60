"""A student edition runs to its end, whatever a reader has written into it so far."""

import json
import re

import nbformat
import pytest
from nbclient import NotebookClient

import mmlesson
from mmlesson.tools.student import student_edition, without_marks

NOTEBOOKS = sorted((mmlesson.repository() / "notebooks").glob("*.ipynb"))


def student(path, fill=None):
    """The student edition of a notebook, its steps filled with fill(the worked cell's source) unless that is None."""
    worked = {cell.id: cell.source for cell in nbformat.read(path, as_version=4).cells}
    notebook = student_edition(json.loads(path.read_text(encoding="utf-8")), path.name)
    notebook = nbformat.reads(json.dumps(notebook), as_version=4)
    unwritten = [cell for cell in notebook.cells if cell.cell_type == "code" and "# YOUR CODE HERE" in cell.source]
    for cell in unwritten if fill else ():
        cell.source = fill(worked[cell.id]) or cell.source
    return notebook


def wrong(source):
    """The source with bodies that return a string."""
    return re.sub(r"( *)### BEGIN SOLUTION.*?### END SOLUTION", r"\1return 'not so'", source, flags=re.DOTALL)


def run(notebook, monkeypatch):
    """Run a notebook as a reader does; returns what it printed. An error in any cell is an error here."""
    monkeypatch.delenv("MMLESSON_STRICT", raising=False)
    folder = mmlesson.repository() / "notebooks"
    NotebookClient(notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def steps(path):
    """The names of a lesson's build steps."""
    text = path.read_text(encoding="utf-8")
    return [name for name in re.findall(r"(\w+) = check\.\w+\(\1\)", text) if not name.startswith("my_")]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_filled_with_the_worked_answers_it_is_the_worked_edition(path):
    worked = [without_marks(c.source) for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert worked == [cell.source for cell in student(path, without_marks).cells if cell.cell_type == "code"]


ATTENTION, CLIP = (next(path for path in NOTEBOOKS if path.stem.endswith(name)) for name in ("_attention", "_clip"))


@pytest.mark.parametrize("empty", steps(ATTENTION))
def test_with_one_step_left_empty_it_runs_to_its_end(empty, monkeypatch):
    """The reader's classes and the course's work in one model."""

    def fill(source):
        return None if re.search(rf"(def|class) {empty}\b", source) else without_marks(source)

    said = run(student(ATTENTION, fill), monkeypatch)
    assert re.findall(r"goes on with the course's (\w+)", said) == [empty]


@pytest.mark.parametrize(
    "path, fill, said", [(ATTENTION, None, "not attempted yet"), (ATTENTION, wrong, ""), (CLIP, wrong, "")]
)
def test_empty_or_full_of_mistakes_it_runs_to_its_end(path, fill, said, monkeypatch):
    printed = run(student(path, fill), monkeypatch)
    assert len(steps(path)) >= 6
    assert re.findall(r"goes on with the course's (\w+)", printed) == steps(path)
    assert all(re.search(rf"^{name}: .*{said}", printed, re.MULTILINE) for name in steps(path))
