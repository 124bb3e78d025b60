"""The project's home, `python -m mmlesson home`: every address of the course, as pyproject.toml's Homepage says it.

A fork changes that one line and runs `make home`: then its badges open the fork, on Colab and on Binder, Colab's first
cell installs the fork, and the README clones it.
"""

import re
import tomllib

import mmlesson

OWNER = r"[\w.-]+/[\w.-]+"
# What stands before (and after) owner/name wherever the course speaks of itself.
ADDRESSES = [
    re.compile(rf"({before})({OWNER})({after})")
    for before, after in (
        (r"https://colab\.research\.google\.com/github/", r"/blob/(?:main/notebooks|student/student)/"),
        (r"https://mybinder\.org/v2/gh/", r"/(?:main|student)\?urlpath="),
        (r"%pip install -q git\+https://github\.com/", r""),
        (r"git clone --depth 1 https://github\.com/", r""),
        (r"https://github\.com/", r"/issues/new/choose"),
    )
]


def home(root):
    """owner/name of the project at `root` (Path), from pyproject.toml. Raises ValueError if it is none of GitHub's."""
    page = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Homepage"]
    found = re.fullmatch(rf"https://github\.com/({OWNER})", page.rstrip("/"))
    if not found:
        raise ValueError(
            f"Homepage in pyproject.toml is {page!r}: expected https://github.com/owner/name, which badges are made of."
        )
    return found[1]


def moved(text, owner):
    """The text with each address of the course at `owner`, an owner/name."""
    for address in ADDRESSES:
        text = address.sub(rf"\g<1>{owner}\g<3>", text)
    return text


def main():
    """Write the addresses in README.md and the notebooks anew. Returns the exit code."""
    root = mmlesson.repository()
    if not root:
        raise FileNotFoundError("Addresses are written in a clone: run this in the folder of the repository.")
    owner, changed = home(root), []
    for path in (root / "README.md", *sorted((root / "notebooks").glob("*.ipynb"))):
        before = path.read_text(encoding="utf-8")
        after = moved(before, owner)
        if after != before:
            path.write_text(after, encoding="utf-8", newline="\n")
            changed.append(path.name)
    print(f"The course is at {owner}: {', '.join(changed) or 'nothing'} changed.")
    return 0
