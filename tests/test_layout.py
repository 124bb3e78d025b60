"""The folders are what the maps say, and imports run one way."""

import ast
import re

import pytest

import mmlesson

ROOT = mmlesson.repository()
PACKAGE = ROOT / "mmlesson"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "_modidx.py"
}
CALLED = {"lesson", "train", "metrics", "plots", "widgets", "checkpoints"}  # what every lesson calls
HELPERS = {"claims", "display", "drawing", "threads"}  # what those share
ALLOWED = {  # which parts each part of the package may import
    "world": {"world"},
    "models": {"models", "world", "train", "checkpoints"},
    "experiments": {"experiments", "models", "world", "train", "checkpoints", "display"},
    "exercises": {"exercises", "models"},
    "interview": {"interview", "display"},
    "tools": {
        "tools",
        "experiments",
        "models",
        "world",
        "train",
        "metrics",
        "checkpoints",
        "drawing",
        "lesson",
        "threads",
    },
    "__main__": {"tools"},
    **dict.fromkeys(CALLED | HELPERS, CALLED | HELPERS),
}


def part(module):
    """The part of the package that a module belongs to: "mmlesson.world.scenes" -> "world"."""
    return (module.split(".") + [""])[1]


def imports(module):
    """The modules of mmlesson that a module imports, anywhere in its code."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name in MODULES and name != "mmlesson"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    """tools -> experiments -> models -> world and train; no module but the commands imports the tools."""
    outside = {name for name in imports(module) if part(name) not in ALLOWED.get(part(module), set())}
    assert outside == set()


def test_the_world_knows_no_model_and_stays_independent_of_the_frame():
    assert {part(name) for module in MODULES if part(module) == "world" for name in imports(module)} == {"world"}


def entries(text):
    """The names at the beginning of the lines of a code map; several may share a line."""
    lines = re.findall(r"^(\S(?:.*?))(?:\s{2,}|$)", text, re.MULTILINE)
    return {name.strip("`/, ") for line in lines for name in re.split(r"[ ,|]+", line)}


def test_the_map_of_the_package_names_every_part():
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts - {"__init__", "__main__"} - HELPERS <= entries(mmlesson.__doc__)


@pytest.mark.parametrize("folder", ["world", "exercises", "experiments", "tools"])
def test_the_map_of_a_folder_names_every_module(folder):
    import importlib

    listed = importlib.import_module(f"mmlesson.{folder}").__doc__
    for path in (PACKAGE / folder).iterdir():
        if path.stem.startswith("_") or path.suffix not in ("", ".py"):
            continue
        is_lesson = folder == "exercises" and path.stem not in ("exercise", "calls", "compare")
        assert is_lesson or path.stem in listed, path


def test_the_readme_has_the_same_map():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("models/", "world/", "exercises/", "experiments/", "interview/", "tools/"):
        assert f"`{name}`" in readme, name


def test_tests_stand_in_folders_that_mirror_the_package():
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    package = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders - {"notebooks", "lesson"} == package


def test_assets_stand_in_folders_by_kind():
    assert {path.name for path in (ROOT / "assets").iterdir()} == {
        "ablations", "cards", "checkpoints", "drawings", "speech",
    }  # fmt: skip
