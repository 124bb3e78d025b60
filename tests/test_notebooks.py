"""Hygiene of the stored notebooks, and proof that each check of it can fail."""

import tomllib
from pathlib import Path

import hygiene
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_the_first_three_lessons_are_there():
    assert [path.name for path in NOTEBOOKS][:3] == [
        "00_start_here.ipynb",
        "01_attention_and_encoders.ipynb",
        "02_clip.ipynb",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_hygiene(path):
    assert hygiene.problems(path) == []


def test_badges_lead_home():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["urls"]["Homepage"] == f"https://github.com/{hygiene.HOME}"


TOP = f"""# 01 A lesson

[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{hygiene.HOME}/blob/main/notebooks/01_toy.ipynb)
[![Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/{hygiene.HOME}/main?urlpath=lab/tree/notebooks/01_toy.ipynb)
"""
SENTENCE = "Red apples are nearest to their own caption."


def figure(text=SENTENCE, alt=SENTENCE):
    return new_output("display_data", {"image/png": "AAAA", "text/plain": text}, metadata={"image/png": {"alt": alt}})


def good_notebook():
    notebook = new_notebook(
        cells=[
            new_markdown_cell(TOP, id="top"),
            new_markdown_cell("## Part\n\nSee [the map](../assets/map.svg), [below](#Part), `just code`.", id="part"),
            new_code_cell("# NBVAL_IGNORE_OUTPUT\nassert True", execution_count=1, outputs=[figure()], id="one"),
            new_code_cell("print(1)", execution_count=2, outputs=[new_output("stream", text="1\n")], id="two"),
            new_code_cell("1 / 0", id="skipped", metadata={"tags": ["nbval-skip", "skip-execution"]}),
        ]
    )
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return notebook


def problems(notebook, tmp_path):
    """Store the notebook where ../assets/map.svg exists, and check it."""
    for folder in ("notebooks", "assets"):
        (tmp_path / folder).mkdir()
    (tmp_path / "assets" / "map.svg").touch()
    path = tmp_path / "notebooks" / "01_toy.ipynb"
    path.write_text(nbformat.v4.writes(notebook), encoding="utf-8")  # nbformat.write would mend some problems
    return hygiene.problems(path)


def test_a_good_notebook_has_no_problems(tmp_path):
    assert problems(good_notebook(), tmp_path) == []


def invalid(notebook):
    notebook.cells[3].outputs[0].output_type = "picture"


def other_kernel(notebook):
    notebook.metadata.kernelspec.name = "mmlesson"


def widgets(notebook):
    notebook.metadata.widgets = {}


def large(notebook):
    notebook.cells[3].outputs[0].text = "1" * hygiene.MAX_BYTES


def long(notebook):
    notebook.cells += [new_markdown_cell("More.") for _ in range(hygiene.MAX_CELLS)]


def twin_ids(notebook):
    notebook.cells[1].id = "top"


def renumbered(notebook):
    notebook.cells[1].id = "1"


def gap(notebook):
    notebook.cells[3].execution_count = 3


def not_run(notebook):
    notebook.cells[3].execution_count = None


def empty_cell(notebook):
    notebook.cells[3].source = "\n"


def stored_error(notebook):
    notebook.cells[3].outputs = [new_output("error", ename="ValueError", evalue="no", traceback=[])]


def stored_warning(notebook):
    notebook.cells[3].outputs = [new_output("stream", name="stderr", text="a.py:1: UserWarning: old\n")]


def no_sentence(notebook):
    notebook.cells[2].outputs = [figure("<Figure size 640x480 with 1 Axes>", "<Figure size 640x480 with 1 Axes>")]


def other_alt(notebook):
    notebook.cells[2].outputs = [figure(alt="A figure.")]


def broken_link(notebook):
    notebook.cells[1].source = '## Part\n\n<img src="../assets/absent.svg" alt="A map">'


def broken_anchor(notebook):
    notebook.cells[1].source = "## Part\n\n[below](#Party)"


def image_without_alt(notebook):
    notebook.cells[1].source = "## Part\n\n![](../assets/map.svg)"


def no_badge(notebook):
    notebook.cells[0].source = "# 01 A lesson"


def badge_elsewhere(notebook):
    notebook.cells[1].source = "## Part\n\n[run](https://mybinder.org/v2/gh/someone/fork/main)"


def path_in_source(notebook):
    notebook.cells[3].source = "open('/home/me/data')"


def path_in_output(notebook):
    notebook.cells[3].outputs[0].text = "C:\\Users\\me\\course"


def no_assert(notebook):
    notebook.cells[2].source = "# assert nothing"


def unknown_tag(notebook):
    notebook.cells[3].metadata.tags = ["nbval-ignore"]


def mark_with_words(notebook):
    notebook.cells[3].source = "# NBVAL_IGNORE_OUTPUT: slow\nprint(1)"


def half_skipped(notebook):
    notebook.cells[4].metadata.tags = ["skip-execution"]


def two_titles(notebook):
    notebook.cells[1].source = "# Part"


def skipped_level(notebook):
    notebook.cells[1].source = "### Part"


def unkind(notebook):
    notebook.cells[1].source = "## Part\n\nNot just here, but this is Easy."


SPOILERS = {
    invalid: "is no valid notebook",
    other_kernel: "another kernel",
    widgets: "stores widgets",
    large: "bytes, more than",
    long: "95 cells, more than 90",
    twin_ids: "'top' is not unique",
    renumbered: "cell id 1 is a small number",
    gap: "cell two has the count 3, expected 2",
    not_run: "cell two has the count None, expected 2",
    empty_cell: "cell two is empty",
    stored_error: "cell two stores an error: ValueError: no",
    stored_warning: "cell two stores a warning",
    no_sentence: "cell one: a figure's text is no sentence",
    other_alt: "cell one: a figure's alternative text",
    broken_link: "no file ../assets/absent.svg",
    broken_anchor: "no heading #Party",
    image_without_alt: "../assets/map.svg has no alternative text",
    no_badge: "has no badge to https://colab",
    badge_elsewhere: "points to someone/fork",
    path_in_source: "cell two holds the path /home/me/data",
    path_in_output: "cell two holds the path C:\\Users\\me\\course",
    no_assert: "asserts nothing",
    unknown_tag: "does not know the tag nbval-ignore",
    mark_with_words: "ignores the comment 'NBVAL_IGNORE_OUTPUT: slow'",
    half_skipped: "cell skipped: nbval-skip and the tag skip-execution go together",
    two_titles: "needs one title",
    skipped_level: "level 3 follows one of level 1",
    unkind: "cell part says 'Easy'",
}


@pytest.mark.parametrize("spoil, sentence", SPOILERS.items(), ids=lambda value: getattr(value, "__name__", None))
def test_each_problem_is_found(spoil, sentence, tmp_path):
    notebook = good_notebook()
    spoil(notebook)
    found = problems(notebook, tmp_path)
    assert [problem for problem in found if sentence in problem], found
    assert len(found) <= 2, "the problem, and at most one that follows from it"


def test_every_check_is_proven(tmp_path):
    """Without one of the checks, some spoiled notebook would pass."""
    silent = set(hygiene.CHECKS)
    for number, spoil in enumerate(SPOILERS):
        notebook = good_notebook()
        spoil(notebook)
        path = tmp_path / str(number) / "01_toy.ipynb"
        path.parent.mkdir()
        path.write_text(nbformat.v4.writes(notebook), encoding="utf-8")
        silent -= {check for check in silent if list(check(notebook, path))}
    assert silent == set()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_the_front_pages_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    page = new_notebook(cells=[new_markdown_cell(text)])
    for check in (hygiene.links_exist, hygiene.headings_in_order):
        assert list(check(page, ROOT / name)) == []


def test_the_readme_names_every_lesson():
    linked = set(hygiene.links((ROOT / "README.md").read_text(encoding="utf-8")))
    assert {f"notebooks/{path.name}" for path in NOTEBOOKS} <= linked
