"""The student edition: cleared as nbgrader clears, complete, and never over a learner's work."""

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import mmlesson
from mmlesson import __main__
from mmlesson.tools import student as edition

NOTEBOOKS = sorted((mmlesson.repository() / "notebooks").glob("*.ipynb"))
BUILT = [path for path in NOTEBOOKS if path.stem[:2] < "04"]  # the others still ask for some of what they print

CELLS = {
    "no region": "x = 1\nprint(x)\n",
    "empty": "",
    "top level": "### BEGIN SOLUTION\nx = 1\n### END SOLUTION\nprint(x)",
    "in a function": "def f(x):\n    y = 2\n    ### BEGIN SOLUTION\n    return x + y\n    ### END SOLUTION\n\n\nf(1)",
    "nested deeper": "class A:\n    def f(self):\n        for _ in range(2):\n"
    "            ### BEGIN SOLUTION\n            if True:\n                pass\n            ### END SOLUTION\n",
    "two regions": "def f():\n    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION\n\ndef g():\n"
    "  ### BEGIN SOLUTION\n  return 2\n  ### END SOLUTION",
    "tabs": "def f():\n\t### BEGIN SOLUTION\n\treturn 1\n\t### END SOLUTION",
    "less indented end": "def f():\n        ### BEGIN SOLUTION\n        return 1\n### END SOLUTION\n",
    "empty region": "def f():\n    # BEGIN SOLUTION\n    # END SOLUTION\n",
    "words around the mark": "x = 0  # BEGIN SOLUTION: the answer\nx = 1\n# END SOLUTION, x is done\nx",
    "blank lines kept": "\n\n### BEGIN SOLUTION\n\nx = 1\n\n### END SOLUTION\n\n",
}


def by_nbgrader(notebook):
    from nbgrader.preprocessors import ClearSolutions

    clear = ClearSolutions(enforce_metadata=False)
    return [cell.source for cell in clear.preprocess(notebook, {})[0].cells]


def by_us(notebook):
    """The sources of the notebook's own cells, without those that the student edition adds."""
    own = {cell.id for cell in notebook.cells}
    return [cell.source for cell in students(notebook).cells if cell.id in own]


def students(notebook):
    ours = edition.student_edition(json.loads(nbformat.writes(notebook)))
    return nbformat.reads(json.dumps(ours), as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_same_as_nbgrader_on_the_lessons(path):
    notebook = nbformat.read(path, as_version=4)
    assert by_us(notebook) == by_nbgrader(notebook)


@pytest.mark.parametrize("source", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("new_cell", [new_code_cell, new_markdown_cell])
def test_same_as_nbgrader_on_tricky_cells(source, new_cell):
    notebook = new_notebook(cells=[new_cell(source), new_cell("y = 2")])
    assert by_us(notebook) == by_nbgrader(notebook)


@pytest.mark.parametrize("source", ["x = 1", CELLS["in a function"]])
def test_same_as_nbgrader_on_cells_with_its_metadata(source):
    graded = {"nbgrader": {"solution": True, "grade": False, "grade_id": "a", "locked": False, "schema_version": 3}}
    notebook = new_notebook(cells=[new_code_cell(source, metadata=graded)])
    assert by_us(notebook) == by_nbgrader(notebook)
    assert "NotImplementedError" in by_us(notebook)[0]


@pytest.mark.parametrize(
    "source, wrong",
    [
        ("### BEGIN SOLUTION\nx = 1", "BEGIN SOLUTION has no END SOLUTION"),
        ("x = 1\n### END SOLUTION", "END SOLUTION has no BEGIN SOLUTION"),
        ("### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION", "second BEGIN SOLUTION"),
    ],
)
def test_unbalanced_marks_name_notebook_and_cell(source, wrong):
    notebook = new_notebook(cells=[new_code_cell("fine"), new_code_cell(source, id="guilty-cell")])
    with pytest.raises(ValueError, match=f"02_b.ipynb, cell guilty-cell: .*{wrong}"):
        edition.student_edition(notebook, "02_b.ipynb")


def worked_notebook():
    shown = [new_output("stream", text="shown\n")]
    answer = "#| export\n" + CELLS["in a function"].removesuffix("\n\n\nf(1)")
    return new_notebook(
        cells=[
            new_markdown_cell("# 안녕 A lesson", id="title"),
            new_code_cell("print('shown')", execution_count=1, outputs=shown),
            new_markdown_cell("## Predict first\n\n1. What?"),
            new_code_cell(answer, id="step", execution_count=2, outputs=shown, metadata={"tags": ["exercise"]}),
            new_code_cell("f = check.f(f)", execution_count=3, outputs=shown),
        ]
    )


def test_a_student_starts_without_outputs_and_with_answers_folded_away():
    worked = worked_notebook()
    student = students(worked)
    nbformat.validate(student)
    assert all(
        cell.outputs == [] and cell.execution_count is None for cell in student.cells if cell.cell_type == "code"
    )
    title, told, _, _, predictions, step, check, answer = student.cells
    assert title.source == "# 안녕 A lesson"
    assert "student edition" in told.source and "(../notebooks/notebook.ipynb)" in told.source
    assert predictions.cell_type == "markdown" and "predictions" in predictions.source
    assert step.source == "#| export\ndef f(x):\n    y = 2\n    # YOUR CODE HERE\n    raise NotImplementedError()"
    assert step.metadata.tags == ["exercise"] and check.source == "f = check.f(f)"
    assert answer.source == (
        "<details><summary>Show the answer</summary>\n\n```python\n"
        "def f(x):\n    y = 2\n    return x + y\n```\n</details>"
    )


@pytest.mark.parametrize("path", BUILT, ids=lambda path: path.name)
def test_no_answer_is_printed_before_its_step(path):
    """No longer line of an answer stands in the student edition before or in the step itself."""
    worked, student = nbformat.read(path, as_version=4), students(nbformat.read(path, as_version=4))
    inside, answers = False, []
    for cell in worked.cells:
        for line in cell.source.splitlines() if cell.cell_type == "code" else ():
            inside = "BEGIN SOLUTION" in line or inside and "END SOLUTION" not in line
            if inside and "SOLUTION" not in line and len(line.strip()) > 30:
                answers.append((cell.id, line.strip()))
    places = {cell.id: i for i, cell in enumerate(student.cells)}
    for step, line in answers:
        before = [cell.id for cell in student.cells[: places[step] + 1] if line in cell.source]
        assert before == [], f"the answer of {step} stands in {before}: {line}"


def test_a_learners_work_is_never_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mmlesson, "repository", lambda: tmp_path)
    (tmp_path / "notebooks").mkdir()
    source, mine = tmp_path / "notebooks" / "01_a.ipynb", tmp_path / "student" / "01_a.ipynb"

    def student():
        assert __main__.main(["student"]) == 0
        return capsys.readouterr().out

    nbformat.write(worked_notebook(), source)
    assert student() == "Written to student/: 01_a.ipynb.\n"
    filled = mine.read_text(encoding="utf-8").replace("raise NotImplementedError()", "return x + 2")
    mine.write_text(filled, encoding="utf-8")
    same = "Kept as they are in student/: 01_a.ipynb. To start one afresh, rename it and run this again.\n"
    assert student() == same

    newer = worked_notebook()
    newer.cells[1].source = "print('changed')"
    nbformat.write(newer, source)
    told = "student/01_a.ipynb is kept. The lesson has changed since you began it: 01_a_2.ipynb is the newer edition.\n"
    assert student() == told
    assert student() == told  # and nothing is written a second time
    assert sorted(path.name for path in mine.parent.iterdir()) == ["01_a.ipynb", "01_a_2.ipynb"]
    assert mine.read_text(encoding="utf-8") == filled
    assert "changed" in (mine.parent / "01_a_2.ipynb").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["my own answers", "[]", "{}", '{"metadata": null}', "\ufeff{"])
def test_a_file_that_is_no_notebook_is_kept_too(tmp_path, text):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "student").mkdir()
    nbformat.write(worked_notebook(), tmp_path / "notebooks" / "01_a.ipynb")
    mine = tmp_path / "student" / "01_a.ipynb"
    mine.write_text(text, encoding="utf-8")
    assert edition.build(tmp_path / "notebooks", tmp_path / "student") == (
        ["01_a_2.ipynb"],
        {"01_a.ipynb": "01_a_2.ipynb"},
    )
    assert mine.read_text(encoding="utf-8") == text


def test_an_error_leaves_no_half_built_folder(tmp_path):
    (tmp_path / "notebooks").mkdir()
    nbformat.write(worked_notebook(), tmp_path / "notebooks" / "01_a.ipynb")
    broken = new_notebook(cells=[new_code_cell("### BEGIN SOLUTION")])
    nbformat.write(broken, tmp_path / "notebooks" / "02_b.ipynb")
    with pytest.raises(ValueError, match="02_b.ipynb"):
        edition.build(tmp_path / "notebooks", tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_without_notebooks_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mmlesson, "repository", lambda: tmp_path)
    assert __main__.main(["student"]) == 1
    assert "There are no notebooks in" in capsys.readouterr().err
    monkeypatch.setattr(mmlesson, "repository", lambda: None)
    assert __main__.main(["student"]) == 1
    assert "built from a clone" in capsys.readouterr().err


def course(tmp_path, monkeypatch, **files):
    """A clone with one notebook and these files in notebooks/."""
    (tmp_path / "notebooks").mkdir()
    nbformat.write(worked_notebook(), tmp_path / "notebooks" / "01_a.ipynb")
    for name, text in files.items():
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text(text)
    monkeypatch.setattr(mmlesson, "repository", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize("damaged", ["", '{"cells": [{"source": ["torn', "[]", '{"cells": 3}', '{"no": "cells"}'])
def test_a_damaged_notebook_is_named_and_nothing_is_written(damaged, tmp_path, monkeypatch, capsys):
    root = course(tmp_path, monkeypatch, **{"02_b": damaged})
    assert __main__.main(["student"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("02_b.ipynb is no notebook") and "git checkout notebooks/02_b.ipynb" in said
    assert not (root / "student").exists()


def test_a_readers_own_notebook_beside_the_lessons_is_left_out(tmp_path, monkeypatch):
    root = course(tmp_path, monkeypatch, Untitled="not even json")
    assert __main__.main(["student"]) == 0
    assert [path.name for path in (root / "student").iterdir()] == ["01_a.ipynb"]


def test_a_byte_order_mark_is_no_damage(tmp_path, monkeypatch):
    root = course(tmp_path, monkeypatch)
    path = root / "notebooks" / "01_a.ipynb"
    path.write_text("\ufeff" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert __main__.main(["student"]) == 0


def test_a_file_in_place_of_the_folder_is_one_sentence(tmp_path, monkeypatch, capsys):
    root = course(tmp_path, monkeypatch)
    (root / "student").write_text("mine")
    assert __main__.main(["student"]) == 1
    assert "is a file, and the student edition wants a folder of that name" in capsys.readouterr().err
    assert (root / "student").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch, capsys):
    course(tmp_path, monkeypatch)

    def read_only(source, target):
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr(edition, "build", read_only)
    assert __main__.main(["student"]) == 1
    assert "student cannot be written (Permission denied)" in capsys.readouterr().err


def test_the_badges_open_the_student_edition(tmp_path, monkeypatch):
    root = course(tmp_path, monkeypatch)
    badge = "https://colab.research.google.com/github/a/b/blob/main/notebooks/01_a.ipynb"
    binder = "https://mybinder.org/v2/gh/a/b/main?urlpath=lab/tree/notebooks/01_a.ipynb"
    nbformat.write(
        new_notebook(cells=[new_markdown_cell(f"[c]({badge}) [b]({binder})")]), root / "notebooks/01_a.ipynb"
    )
    assert __main__.main(["student"]) == 0
    (cell,) = nbformat.read(root / "student" / "01_a.ipynb", as_version=4).cells
    assert "github/a/b/blob/student/student/01_a.ipynb" in cell.source
    assert "gh/a/b/student?urlpath=lab/tree/student/01_a.ipynb" in cell.source
