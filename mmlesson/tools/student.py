"""The student edition, `python -m mmlesson student`: the notebooks with the answers folded away, and without outputs.

The one source is the worked edition in notebooks/. Answers stand between lines that hold `### BEGIN SOLUTION` and
`### END SOLUTION`, nbgrader's marks, and are cleared as nbgrader's ClearSolutions does (a test holds the two equal), so
that a learner need not install nbgrader and a teacher may use it on the same notebooks.
"""

import hashlib
import itertools
import json
import re

import mmlesson

CODE_STUB = "# YOUR CODE HERE\nraise NotImplementedError()"
TEXT_STUB = "YOUR ANSWER HERE"
BADGES = (  # of the worked edition, and of this one, which stands in a branch of its own
    ("/blob/main/notebooks/", "/blob/student/student/"),
    ("/main?urlpath=lab/tree/notebooks/", "/student?urlpath=lab/tree/student/"),
)
TITLE = """\
**This is the student edition: you write the code.** A cell with `# YOUR CODE HERE` is yours to fill in. Run the check
below it: it names what is wrong in a sentence. Until your code passes, the lesson goes on with the course's own, so you
can run everything, skip a step, and come back to it.

Stuck? Unfold *Show the answer* below the check. The worked edition, with all answers and all outputs, is
[notebooks/{name}](../notebooks/{name})."""
PREDICTIONS = """\
**Your predictions.** Double-click here and write them down before you go on.

1.
2.
3."""
ANSWER = """\
<details><summary>Show the answer</summary>

```python
{answer}
```
</details>"""


def clear_solutions(source, stub=CODE_STUB):
    """The text of a cell with each marked region replaced by `stub`, indented as its BEGIN line is.

    Raises ValueError if the marks are not balanced: nested, without an end, or without a beginning.
    """
    lines, inside = [], False
    for line in source.split("\n"):
        if "BEGIN SOLUTION" in line:
            if inside:
                raise ValueError("a second BEGIN SOLUTION stands before END SOLUTION")
            inside = True
            indent = re.match(r"\s*", line).group()
            lines += [indent + stub_line for stub_line in stub.split("\n")]
        elif "END SOLUTION" in line:
            if not inside:
                raise ValueError("END SOLUTION has no BEGIN SOLUTION before it")
            inside = False
        elif not inside:
            lines.append(line)
    if inside:
        raise ValueError("BEGIN SOLUTION has no END SOLUTION after it")
    return "\n".join(lines)


def without_marks(source):
    """The text of a cell as it runs in the worked edition, without the lines that hold the marks."""
    return "".join(line for line in source.splitlines(keepends=True) if not re.search("(BEGIN|END) SOLUTION", line))


def student_edition(notebook, name="notebook.ipynb"):
    """Turn a notebook (the dict of an .ipynb file, changed in place) into its student edition, and return it.

    Answers are cleared, and folded away below their checks; outputs and counts go. Raises ValueError that names the
    notebook and the cell if marks are not balanced.
    """
    cells, answers = [], []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])  # a list of lines in most files, one string in some
        is_code = cell["cell_type"] == "code"
        try:
            cleared = clear_solutions(source, CODE_STUB if is_code else TEXT_STUB)
        except ValueError as error:
            raise ValueError(f"{name}, cell {cell.get('id', '?')}: {error}. Balance the marks in this cell.") from None
        # A cell that nbgrader's metadata call an answer, and in which nothing is marked, is an answer as a whole.
        if cleared == source and cell["metadata"].get("nbgrader", {}).get("solution"):
            cleared = CODE_STUB if is_code else TEXT_STUB
        if is_code:
            cell["outputs"], cell["execution_count"] = [], None
            if cleared != source:
                answers.append(_text_cell(f"{cell['id']}-answer", ANSWER.format(answer=_answer(source))))
        cell["source"] = cleared.splitlines(keepends=True)
        cells.append(cell)
        if "check." in source:  # no answer stands between a step and its check
            cells, answers = cells + answers, []
        if cell["id"] == "title":
            cells.append(_text_cell("edition", TITLE.format(name=name)))
        if re.search("^## .*Predict first$", source, re.MULTILINE):
            cells.append(_text_cell("predictions", PREDICTIONS))
    notebook["cells"] = cells + answers
    return notebook


def _text_cell(name, text):
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": text.splitlines(keepends=True)}


def _answer(source):
    """What a step's own cell says in the worked edition: the function or the class, without the call of its check."""
    lines = without_marks(source).splitlines()
    return "\n".join(line for line in lines if not line.startswith("#|") and "check." not in line).strip()


def _read(path):
    try:
        notebook = json.loads(path.read_text(encoding="utf-8-sig"))
        list(notebook["cells"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path.name} is no notebook ({type(error).__name__}: {error}): restore it with "
            f"`git checkout notebooks/{path.name}`, or take it out of the folder."
        ) from None
    return notebook


def _with_badges(notebook):
    """Its badges open the student edition."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            source = "".join(cell["source"])
            for worked, student in BADGES:
                source = source.replace(worked, student)
            cell["source"] = source.splitlines(keepends=True)
    return notebook


def build(source, target):
    """Write the student edition of every notebook in folder `source` to folder `target` (Paths).

    A file that exists is never overwritten: the edition of a lesson that has changed since is put beside it. Returns
    the names written, and {name kept: name of its newer edition, written or there already; None if it is the newest}.
    """
    notebooks = sorted(source.glob("[0-9][0-9]_*.ipynb"))  # not a reader's own Untitled.ipynb
    if not notebooks:
        raise FileNotFoundError(f"There are no notebooks in {source}: restore them with `git checkout notebooks`.")
    # All are read and cleared before any is written: an error leaves no half-built folder.
    editions = {path.name: _with_badges(student_edition(_read(path), path.name)) for path in notebooks}
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file, and the student edition wants a folder of that name: rename the file.")
    target.mkdir(exist_ok=True)
    written, kept = [], {}
    for name, notebook in editions.items():
        notebook["metadata"]["edition"] = _edition(notebook)
        free, is_there = _place(target, name, notebook["metadata"]["edition"])
        if not is_there:
            with open(target / free, "x", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
            written.append(free)
        if free != name or is_there:
            kept[name] = free if free != name else None
    return written, kept


def _edition(notebook):
    """A short name for the contents of an edition, which a reader's answers do not change."""
    sources = "\0".join("".join(cell["source"]) for cell in notebook["cells"])
    return hashlib.sha256(sources.encode()).hexdigest()[:12]


def _place(target, name, edition):
    """(file name, whether this edition is there already): this name, or the same with _2, _3 and so on."""
    stem = name.removesuffix(".ipynb")
    for candidate in itertools.chain([name], (f"{stem}_{i}.ipynb" for i in itertools.count(2))):
        try:
            metadata = json.loads((target / candidate).read_text(encoding="utf-8-sig"))["metadata"]
            if metadata.get("edition") == edition:
                return candidate, True
        except FileNotFoundError:
            return candidate, False
        except (ValueError, KeyError, TypeError, AttributeError):
            pass  # a reader's file that cannot be read is kept like any other


def main():
    """Build student/ from notebooks/ in the checkout, and say what was written and what was kept."""
    root = mmlesson.repository()
    if not root:
        raise FileNotFoundError("The student edition is built from a clone: run this in the folder of the repository.")
    written, kept = build(root / "notebooks", root / "student")
    first = [name for name in written if name not in kept.values()]
    if first:
        print(f"Written to student/: {', '.join(first)}.")
    same = [name for name, newer in kept.items() if not newer]
    if same:
        print(f"Kept as they are in student/: {', '.join(same)}. To start one afresh, rename it and run this again.")
    for name, newer in kept.items():
        if newer:
            print(f"student/{name} is kept. The lesson has changed since you began it: {newer} is the newer edition.")
    return 0
