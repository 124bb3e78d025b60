"""What every stored notebook must be. Each check takes a notebook and its path and yields one sentence per problem."""

import re
from urllib.parse import unquote

import nbformat
from nbformat.validator import iter_validate

import mmlesson
from mmlesson.tools import home

MAX_BYTES = 1_500_000
MAX_CELLS = 120
MAX_LINES = 40  # of a code cell
MAX_WIDTH = 120  # of a line
HOME = home.home(mmlesson.repository())
NBVAL_TAGS = {"nbval-skip", "nbval-ignore-output", "nbval-check-output", "nbval-raises-exception"}
NBVAL_COMMENTS = {tag.upper().replace("-", "_") for tag in NBVAL_TAGS}

# Words that tell readers that what they find hard is not.
BELITTLING = re.compile(r"\b(simply|just|eas(?:y|ily)|obvious(?:ly)?|trivial(?:ly)?)\b", re.IGNORECASE)
ALLOWED_PHRASES = ("not just", "just as", "just before", "just after", "just above", "just below")
STYLE = (
    (r"\'\'\'", 'has a docstring in three single quotes: use """'),
    (r"# fmt: (skip|off)", "has a mark for a formatter that does not read notebooks"),
    (r"^_ = ", "throws a result away: a figure returns nothing"),
    (r"^(?!lesson = ).*\bstart\(\"", "starts the lesson under another name than `lesson`"),
)
NUMBERED_LESSON = re.compile(r"\b[Ll]essons? \d\d\b|레슨 ?\d\d")
MACHINE_PATH = re.compile(r"(?:/(?:home|root|work|tmp|Users|var|opt)/|[A-Z]:\\\\?Users)[\w./\\-]*")


def problems(path):
    """Every problem of the notebook stored at `path`."""
    notebook = nbformat.v4.reads(path.read_text(encoding="utf-8"))  # nbformat.read would mend some problems
    return [problem for check in CHECKS for problem in check(notebook, path)]


def valid(notebook, path):
    for error in iter_validate(notebook):
        yield f"is no valid notebook: {str(error).splitlines()[0]}"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "names another kernel than python3"
    if "widgets" in notebook.metadata:
        yield "stores widgets, which GitHub may refuse: run `make execute`"


def small(notebook, path):
    if path.stat().st_size > MAX_BYTES:
        yield f"has {path.stat().st_size:,} bytes, more than {MAX_BYTES:,}"
    if len(notebook.cells) > MAX_CELLS:
        yield f"has {len(notebook.cells)} cells, more than {MAX_CELLS}"


def short_cells(notebook, path):
    for cell in code_cells(notebook):
        lines = len(cell.source.splitlines())
        if lines > MAX_LINES:
            yield f"cell {cell.id} has {lines} lines of code, more than {MAX_LINES}: split it, and show each result"


def narrow(notebook, path):
    """Tables, badges, images and addresses cannot be wrapped; everything else can."""
    for cell in notebook.cells:
        for line in cell.source.splitlines():
            wrappable = cell.cell_type == "code" or not (line.startswith(("|", "[![", "![", "<")) or "://" in line)
            if len(line) > MAX_WIDTH and wrappable:
                yield f"cell {cell.id} has a line of {len(line)} characters, more than {MAX_WIDTH}: {line[:40]!r}"


def stable_ids(notebook, path):
    ids = [cell.get("id", "") for cell in notebook.cells]
    for cell_id in ids:
        if ids.count(cell_id) > 1 or not cell_id:
            yield f"cell id {cell_id!r} is not unique"
        elif not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", cell_id):
            yield f"cell id {cell_id!r} is not like clip-loss: a tool renumbered the cells, or a name needs mending"


def executed_in_order(notebook, path):
    """Counts are 1, 2, 3...; a cell may lack one only if every runner skips it."""
    expected = 0
    for cell in code_cells(notebook):
        tags = set(cell.metadata.get("tags", []))
        if "skip-execution" in tags:
            continue
        if not cell.source.strip():
            yield f"cell {cell.id} is empty"
            continue
        expected += 1
        if cell.execution_count != expected:
            yield f"cell {cell.id} has the count {cell.execution_count}, expected {expected}: run `make execute`"
            return


def clean_outputs(notebook, path):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"cell {cell.id} stores an error: {output.ename}: {output.evalue}"
            elif output.get("name") == "stderr" and "Warning" in output.text:
                yield f"cell {cell.id} stores a warning: {output.text.splitlines()[0]}"


def figures_have_sentences(notebook, path):
    """A picture's text/plain is a sentence, and its alternative text is the same sentence."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if "image/png" not in output.get("data", {}):
                continue
            sentence = output.data.get("text/plain", "")
            if not sentence.endswith(".") or sentence.startswith("<"):
                yield f"cell {cell.id}: a figure's text is no sentence: {sentence[:60]!r}"
            if output.metadata.get("image/png", {}).get("alt") != sentence:
                yield f"cell {cell.id}: a figure's alternative text is not its sentence"


def links_exist(notebook, path):
    for cell in markdown_cells(notebook):
        for target in links(cell.source):
            file = unquote(target.partition("#")[0])
            if not file:  # a heading of this notebook
                if unquote(target[1:]).lower() not in anchors(notebook):
                    yield f"cell {cell.id}: no heading {target}"
            elif not re.match(r"[a-z]+:", file) and not (path.parent / file).exists():
                yield f"cell {cell.id}: no file {file}"
        for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)", cell.source):
            if not alt.strip():
                yield f"cell {cell.id}: the image {target} has no alternative text"


def badges(notebook, path):
    """The first cells hold both badges, and they open this notebook from the project's home."""
    top = "\n".join(cell.source for cell in markdown_cells(notebook)[:3])
    here = f"notebooks/{path.name}"
    for url in (
        f"https://colab.research.google.com/github/{HOME}/blob/main/{here}",
        f"https://mybinder.org/v2/gh/{HOME}/main?urlpath=lab/tree/{here}",
    ):
        if f"({url})" not in top and f'"{url}"' not in top:
            yield f"has no badge to {url} in its first cells"
    for cell in markdown_cells(notebook):
        for owner in re.findall(
            r"https://(?:colab\.research\.google\.com/github|mybinder\.org/v2/gh)/(\w+/\w+)", cell.source
        ):
            if owner != HOME:
                yield f"cell {cell.id}: a badge points to {owner} instead of {HOME}"


def no_machine_paths(notebook, path):
    for cell in notebook.cells:
        texts = [cell.source]
        for output in cell.get("outputs", []):
            texts += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
            texts.append(output.get("text", ""))
        found = MACHINE_PATH.search("\n".join(map(str, texts)))
        if found:
            yield f"cell {cell.id} holds the path {found.group()}"


def claims_are_asserted(notebook, path):
    if not any(re.search(r"^\s*assert\b|assert_close\(", cell.source, re.MULTILINE) for cell in code_cells(notebook)):
        yield "asserts nothing"


def nbval_marks(notebook, path):
    """nbval ignores a mark that it does not know; a skipped cell must be skipped by other runners too."""
    for cell in code_cells(notebook):
        tags = set(cell.metadata.get("tags", []))
        for tag in sorted(tags):
            if "nbval" in tag.lower() and tag not in NBVAL_TAGS:
                yield f"cell {cell.id}: nbval does not know the tag {tag}"
        comments = {
            line.strip().lstrip("#").strip() for line in cell.source.splitlines() if line.strip().startswith("#")
        }
        for comment in sorted(comments):
            if "NBVAL" in comment and comment not in NBVAL_COMMENTS:
                yield f"cell {cell.id}: nbval ignores the comment {comment!r}: the mark must be all of it"
        skipped = "nbval-skip" in tags or "NBVAL_SKIP" in comments
        if skipped != ("skip-execution" in tags):
            yield f"cell {cell.id}: nbval-skip and the tag skip-execution go together"


def headings_in_order(notebook, path):
    levels = [level for level, _ in headings(notebook)]
    if levels[:1] != [1] or levels.count(1) != 1:
        yield "needs one title, as its first heading"
    for above, below in zip(levels, levels[1:]):
        if below > above + 1:
            yield f"a heading of level {below} follows one of level {above}"


def house_style(notebook, path):
    """One style in all lessons: headings, the name of the lesson object, quotes, nothing that does nothing."""
    for level, text in headings(notebook):
        if level == 1 and re.match(r"\d", text):
            yield f"the title {text!r} has a number, which stands in the file's name alone"
        if level == 2 and re.match(r"\d", text) and not re.match(r"\d+ · ", text):
            yield f"the heading {text!r} is not like '2 · The loss by hand'"
    for cell in code_cells(notebook):
        for pattern, what in STYLE:
            if re.search(pattern, cell.source, re.MULTILINE):
                yield f"cell {cell.id} {what}"


def no_tools(notebook, path):
    """The tools belong to the Makefile; the first lesson alone calls the doctor."""
    for cell in code_cells(notebook):
        for line in re.findall(r"^.*\bmmlesson\.tools\b.*$", cell.source, re.MULTILINE):
            if path.stem != "00_start_here" or line != "from mmlesson.tools import doctor":
                yield f"cell {cell.id} imports mmlesson.tools, which belong to the Makefile"


def lessons_by_name(notebook, path):
    """A lesson's number stands in its file's name alone, so it can move."""
    for cell in notebook.cells:
        prose = re.sub(r"\d\d_\w+\.ipynb", "", cell.source)
        for found in NUMBERED_LESSON.findall(prose):
            yield f"cell {cell.id} says {found!r}: name the lesson"


def kind_words(notebook, path):
    for cell in markdown_cells(notebook):
        prose = re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$", "", cell.source, flags=re.DOTALL)
        for phrase in ALLOWED_PHRASES:
            prose = re.sub(rf"\b{phrase}\b", "", prose, flags=re.IGNORECASE)
        for word in BELITTLING.findall(prose):
            yield f"cell {cell.id} says {word!r}"


CHECKS = (
    valid,
    small,
    short_cells,
    narrow,
    stable_ids,
    executed_in_order,
    clean_outputs,
    figures_have_sentences,
    links_exist,
    badges,
    no_machine_paths,
    claims_are_asserted,
    nbval_marks,
    headings_in_order,
    house_style,
    no_tools,
    lessons_by_name,
    kind_words,
)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def markdown_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def links(markdown):
    """The targets of links and images, in Markdown's form and in HTML's."""
    prose = re.sub(r"```.*?```|`[^`]*`", "", markdown, flags=re.DOTALL)
    return re.findall(r"\]\(<?([^)\s>]+)", prose) + re.findall(r"""(?:src|href)=["']([^"']+)""", prose)


def headings(notebook):
    """(level, text) of every heading."""
    found = []
    for cell in markdown_cells(notebook):
        prose = re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)
        found += [(len(marks), text.strip()) for marks, text in re.findall(r"^(#{1,6}) (.+)$", prose, re.MULTILINE)]
    return found


def anchors(notebook):
    """What `#...` can point to, in lower case: headings, their blanks as hyphens (JupyterLab), and HTML ids."""
    ids = {found.lower() for cell in markdown_cells(notebook) for found in re.findall(r'id="([^"]+)"', cell.source)}
    return ids | {re.sub(r"\s", "-", text).lower() for _, text in headings(notebook)}
