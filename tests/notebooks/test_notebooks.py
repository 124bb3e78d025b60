"""Hygiene of the stored notebooks, and proof that each check of it can fail."""

import re
from pathlib import Path

import hygiene
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import mmlesson

ROOT = mmlesson.repository()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SLUGS = [path.stem.partition("_")[2] for path in NOTEBOOKS]


def test_a_notebook_is_named_by_its_number_and_its_slug():
    assert {"start_here", "attention", "vision", "clip", "flava", "flamingo", "gemini"} <= set(SLUGS)
    assert all(re.fullmatch(r"\d\d_[a-z]+(_[a-z]+)*", path.stem) for path in NOTEBOOKS)
    numbers = [path.stem[:2] for path in NOTEBOOKS]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_one_slug_everywhere(path):
    """The lesson's results, model, checks and cards all go by the slug of its file."""
    slug = path.stem.partition("_")[2]
    code = "\n".join(cell.source for cell in hygiene.code_cells(nbformat.read(path, as_version=4)))
    assert f'lesson = start("{slug}"' in code
    assert set(re.findall(r"^#\| default_exp (\w+)$", code, re.MULTILINE)) <= {slug}
    assert set(re.findall(r"from mmlesson\.exercises import (\w+) as check", code)) <= {slug}
    assert set(re.findall(r'cards\.show\("(\w+)"', code)) <= {slug}


def test_what_belongs_to_a_lesson_is_named_by_its_slug():
    folders = {
        "mmlesson/exercises/*.py": {"__init__", "exercise", "calls", "compare"},
        "tests/exercises/*.py": {"test_exercises"},
        "mmlesson/models/*.py": {"__init__", "_modidx"},
        "assets/cards/*.yaml": set(),
    }
    for pattern, others in folders.items():
        found = {path.stem for path in ROOT.glob(pattern)} - others
        assert found <= set(SLUGS), pattern


TEXTS = [path for pattern in ("*.md", "mmlesson/**/*.py", "tests/**/*.py", "assets/**/*.yaml", "assets/**/*.md",
                              "assets/**/*.svg", "assets/**/*.json", ".github/**/*", "Makefile", "pyproject.toml")
         for path in ROOT.glob(pattern) if path.is_file() and path != Path(__file__)]  # fmt: skip


def test_no_text_names_a_lesson_by_a_number():
    named = [(path.name, hygiene.NUMBERED_LESSON.findall(path.read_text(encoding="utf-8"))) for path in TEXTS]
    assert len(TEXTS) > 100
    assert [(name, found) for name, found in named if found] == []


def test_every_notebook_that_is_named_is_there():
    """A link in a text, a table or a test: notebooks/03_clip.ipynb."""
    known = {path.name for path in NOTEBOOKS} | {
        "01_toy.ipynb",
        "01_a.ipynb",
        "01_a_2.ipynb",
        "00_a.ipynb",
        "02_b.ipynb",
    }
    for path in TEXTS:
        assert set(re.findall(r"\d\d_\w+\.ipynb", path.read_text(encoding="utf-8"))) <= known, path.name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_hygiene(path):
    assert hygiene.problems(path) == []


TOP = f"""# Toy: a lesson

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
    notebook.cells += [new_markdown_cell("More.", id=f"more-{i}") for i in range(hygiene.MAX_CELLS)]


def long_cell(notebook):
    notebook.cells[3].source = "print(1)\n" * (hygiene.MAX_LINES + 1)


def wide_code(notebook):
    notebook.cells[3].source = "x = 1  # " + "x" * hygiene.MAX_WIDTH


def wide_prose(notebook):
    notebook.cells[1].source = "## Part\n\n" + "so " * hygiene.MAX_WIDTH


def twin_ids(notebook):
    notebook.cells[1].id = "top"


def renumbered(notebook):
    notebook.cells[1].id = "1"


def capital_id(notebook):
    notebook.cells[1].id = "export-MultiHead"


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
    notebook.cells[0].source = "# Toy: a lesson"


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


def numbered_title(notebook):
    notebook.cells[0].source = TOP.replace("# Toy", "# 01 Toy")


def other_heading(notebook):
    notebook.cells[1].source = "## 1. Part"


def other_quotes(notebook):
    notebook.cells[3].source = "def f():\n    '''Nothing.'''"


def formatter_mark(notebook):
    notebook.cells[3].source = "x = [1,  2]  # fmt: skip"


def thrown_away(notebook):
    notebook.cells[3].source = "_ = print(1)"


def other_start(notebook):
    notebook.cells[3].source = 'here = lesson.start("toy")'


def author_tools(notebook):
    notebook.cells[3].source = "from mmlesson.tools import student"


def numbered_lesson(notebook):
    notebook.cells[1].source = "## Part\n\nAs in lesson 02."


def unkind(notebook):
    notebook.cells[1].source = "## Part\n\nNot just here, but this is Easy."


SPOILERS = {
    invalid: "is no valid notebook",
    other_kernel: "another kernel",
    widgets: "stores widgets",
    large: "bytes, more than",
    long: "125 cells, more than 120",
    long_cell: "cell two has 41 lines of code, more than 40",
    wide_code: "cell two has a line of 129 characters",
    wide_prose: "cell part has a line of 360 characters",
    twin_ids: "'top' is not unique",
    renumbered: "cell id '1' is not like clip-loss",
    capital_id: "cell id 'export-MultiHead' is not like clip-loss",
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
    numbered_title: "the title '01 Toy: a lesson' has a number",
    other_heading: "the heading '1. Part' is not like",
    other_quotes: "cell two has a docstring in three single quotes",
    formatter_mark: "cell two has a mark for a formatter",
    thrown_away: "cell two throws a result away",
    other_start: "cell two starts the lesson under another name",
    author_tools: "cell two imports mmlesson.tools",
    numbered_lesson: "cell part says 'lesson 02'",
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


def lessons_in(markdown):
    """{number: file name} of the table rows that name a lesson by number and link its notebook."""
    return dict(re.findall(r"^\| (\d\d) \|.*?\((?:notebooks/)?(\d\d_\w+\.ipynb)\)", markdown, re.MULTILINE))


def test_the_readme_and_the_map_of_the_first_lesson_name_every_lesson_by_its_number():
    start = nbformat.read(NOTEBOOKS[0], as_version=4)
    pages = (ROOT / "README.md").read_text(encoding="utf-8"), "\n".join(c.source for c in hygiene.markdown_cells(start))
    files = {path.name[:2]: path.name for path in NOTEBOOKS}
    assert lessons_in(pages[0]) == files
    assert lessons_in(pages[1]) == {number: name for number, name in files.items() if number != "00"}
