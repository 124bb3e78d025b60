"""pyproject.toml says what is needed, constraints.txt which versions; everything else only points to these two."""

import importlib.metadata
import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import mmlesson

ROOT = mmlesson.repository()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
EXTRAS = PROJECT["optional-dependencies"]
NEEDED = PROJECT["dependencies"] + [line for extra in EXTRAS.values() for line in extra if line != "mmlesson[lab]"]
OLDEST = PROJECT["requires-python"].removeprefix(">=")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def pins():
    return {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in map(Requirement, LINES)}


def test_each_constraint_is_one_exact_version():
    # A local label (+cpu) exists on one index only; with none, any build of the version fits.
    wrong = [line for line in LINES if not re.fullmatch(r"[a-z0-9-]+==[0-9][A-Za-z0-9.]*( ; .+)?", line)]
    assert wrong == []


def test_constraints_are_sorted_and_name_nothing_twice():
    assert sorted(LINES, key=str.upper) == LINES
    assert len(pins()) == len(LINES)


@pytest.mark.parametrize("name, pin", pins().items())
def test_no_pin_excludes_the_oldest_python_that_the_project_names(name, pin):
    try:
        installed = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is for other systems or other tasks, and not installed here.")
    if installed["Version"].split("+")[0] != pin:
        pytest.skip(f"Another version of {name} than the pinned one is installed here.")
    wanted = installed["Requires-Python"]
    assert SpecifierSet(wanted or "").contains(f"{OLDEST}.0"), f"{name} wants Python {wanted}"


def test_what_breaks_transformers_is_not_pinned():
    assert not {"torchvision", "mmlesson"} & pins().keys()


@pytest.mark.parametrize("needed", NEEDED)
def test_each_dependency_has_a_lower_bound_and_a_version_that_fits(needed):
    requirement = Requirement(needed)
    assert [bound.operator for bound in requirement.specifier] == [">="], "one lower bound, and no upper one"
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)], prereleases=True)


def test_conda_environment_only_points_to_the_two_files():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, nested = environment.pop("dependencies")
    assert environment == {"name": "mmlesson", "channels": ["conda-forge"]}
    assert pip == "pip"
    assert nested == {"pip": [f"--extra-index-url {CPU_INDEX}", "-c constraints.txt", "-e .[lab]"]}
    name, version = python.split("=")
    assert name == "python" and version in SpecifierSet(PROJECT["requires-python"])


def test_the_readme_agrees():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"Python (?:>= )?(3\.\d+)(?: or newer|\+)", readme)) == {OLDEST}
    assert '-c constraints.txt -e ".[lab]"' in readme


def test_the_doctor_and_the_makefile_ask_for_the_same_python():
    from mmlesson.tools.doctor import NEEDED_PYTHON

    oldest = tuple(map(int, OLDEST.split(".")))
    assert oldest == NEEDED_PYTHON
    assert f"sys.version_info >= {oldest}" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_one_version_of_the_package():
    assert PROJECT["version"] == mmlesson.__version__
