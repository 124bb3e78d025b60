"""What `make lab` installs, and when: tried with a Python that only writes down how it was called."""

import os
import shutil
import subprocess
import sys

import pytest

import mmlesson

ROOT = mmlesson.repository()
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="The CPU build is asked for on Linux alone.")

PYTHON = """#!/bin/sh
case "$*" in
  *version_info*) echo 3.11 ;;
  *--index-url*) echo "$*" >> calls; exit "${CPU_INDEX_FAILS:-0}" ;;
  *) echo "$*" >> calls ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A folder "a course" with the Makefile, and a .venv whose Python writes its arguments to the file `calls`."""
    if not shutil.which("make"):
        pytest.skip("make is not installed here.")
    folder = tmp_path / "a course"
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    for path in (folder / ".venv" / "bin" / "python", folder / "python3"):
        path.write_text(PYTHON)
        path.chmod(0o755)
    return folder


def make(clone, target=".venv/.installed", gpu=False, **environment):
    """Run make there. Returns (what Python was called with, what make printed)."""
    tools = clone / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "nvidia-smi").write_text(f"#!/bin/sh\nexit {0 if gpu else 9}\n")
    (tools / "nvidia-smi").chmod(0o755)
    (clone / "calls").unlink(missing_ok=True)
    done = subprocess.run(
        ["make", target, "PYTHON3=./python3"],
        cwd=clone,
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "MAKEFLAGS": "", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    calls = clone / "calls"
    return calls.read_text().splitlines() if calls.exists() else [], done.stdout


@LINUX_ONLY
def test_without_a_gpu_torch_alone_comes_from_the_index_of_cpu_builds(clone):
    torch, course = make(clone)[0]
    assert f"--no-deps -c constraints.txt --index-url {CPU_INDEX} torch" in torch
    assert course == "-m pip install -c constraints.txt -e .[lab]"


@LINUX_ONLY
def test_where_that_index_cannot_be_reached_pip_takes_its_own(clone):
    calls, said = make(clone, CPU_INDEX_FAILS="1")
    assert calls[-1] == "-m pip install -c constraints.txt -e .[lab]"
    assert "torch comes from pip's own indexes" in said


def test_with_a_gpu_pip_takes_its_own(clone):
    assert make(clone, gpu=True)[0] == ["-m pip install -c constraints.txt -e .[lab]"]


def test_the_tests_need_more(clone):
    assert make(clone, ".venv/.installed-test")[0][-1] == "-m pip install -c constraints.txt -e .[test]"
    assert make(clone)[0] == [], "what the tests need contains what the course needs"


def test_a_second_time_installs_nothing(clone):
    make(clone)
    assert make(clone)[0] == []


def test_a_moved_clone_is_installed_anew(clone):
    make(clone)
    moved = clone.rename(clone.parent / "moved")
    calls, said = make(moved)
    assert calls[0] == "-m venv --clear .venv" and calls[-1].endswith(".[lab]")
    assert "moved" in said
    assert make(moved)[0] == []


def test_an_upgraded_python_is_installed_for_anew(clone):
    make(clone)
    for path in (clone / ".venv" / "bin" / "python", clone / "python3"):
        path.write_text(PYTHON.replace("echo 3.11", "echo 3.12"))
    assert make(clone)[0][0] == "-m venv --clear .venv"


def test_a_changed_constraint_installs_again_into_what_is_there(clone):
    make(clone)
    later = (clone / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(clone / "constraints.txt", (later, later))
    calls, _ = make(clone)
    assert calls and not any("venv" in call for call in calls)
