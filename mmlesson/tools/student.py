"""The student edition, `python -m mmlesson student`: the notebooks with the exercises' answers taken out.

The one source is the worked edition in notebooks/. Answers stand between lines that hold `### BEGIN SOLUTION` and
`### END SOLUTION`, nbgrader's marks, and are cleared as nbgrader's ClearSolutions does (a test holds the two equal), so
that a learner need not install nbgrader and a teacher may use it on the same notebooks.
"""

import json
import re

import mmlesson

CODE_STUB = "# YOUR CODE HERE\nraise NotImplementedError()"
TEXT_STUB = "YOUR ANSWER HERE"
BADGES = (  # of the worked edition, and of this one, which stands in a branch of its own
    ("/blob/main/notebooks/", "/blob/student/student/"),
    ("/main?urlpath=lab/tree/notebooks/", "/student?urlpath=lab/tree/student/"),
)


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


def student_edition(notebook, name="notebook"):
    """Clear the answers of a notebook (the dict of an .ipynb file, changed in place), with their outputs and counts.

    Other cells keep their stored outputs. Raises ValueError that names the notebook and the cell if marks are not
    balanced. Returns the notebook.
    """
    for cell in notebook["cells"]:
        is_code = cell["cell_type"] == "code"
        stub = CODE_STUB if is_code else TEXT_STUB
        source = "".join(cell["source"])  # a list of lines in most files, one string in some
        try:
            cleared = clear_solutions(source, stub)
        except ValueError as error:
            raise ValueError(f"{name}, cell {cell.get('id', '?')}: {error}. Balance the marks in this cell.") from None
        # A cell that nbgrader's metadata call an answer, and in which nothing is marked, is an answer as a whole.
        if cleared == source and cell["metadata"].get("nbgrader", {}).get("solution"):
            cleared = stub
        if cleared == source:
            continue
        cell["source"] = cleared.splitlines(keepends=True)
        if is_code:
            cell["outputs"], cell["execution_count"] = [], None
    return notebook


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

    A file that exists is never overwritten. Returns the file names written and the file names kept.
    """
    notebooks = sorted(source.glob("[0-9][0-9]_*.ipynb"))  # not a reader's own Untitled.ipynb
    if not notebooks:
        raise FileNotFoundError(f"There are no notebooks in {source}: restore them with `git checkout notebooks`.")
    # All are read and cleared before any is written: an error leaves no half-built folder.
    editions = {path.name: _with_badges(student_edition(_read(path), path.name)) for path in notebooks}
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file, and the student edition wants a folder of that name: rename the file.")
    target.mkdir(exist_ok=True)
    written, kept = [], []
    for name, notebook in editions.items():
        try:
            with open(target / name, "x", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
            written.append(name)
        except FileExistsError:
            kept.append(name)
    return written, kept


def main():
    """Build student/ from notebooks/ in the checkout, and say what was written and what was kept."""
    root = mmlesson.repository()
    if not root:
        raise FileNotFoundError("The student edition is built from a clone: run this in the folder of the repository.")
    written, kept = build(root / "notebooks", root / "student")
    if written:
        print(f"Written to student/: {', '.join(written)}.")
    if kept:
        print(f"Kept as they are in student/: {', '.join(kept)}. To start one afresh, rename it and run this again.")
    return 0
