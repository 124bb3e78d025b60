"""The project's home stands in pyproject.toml; `make home` writes every address of the course from it."""

import shutil
import subprocess

import pytest

import mmlesson
from mmlesson import __main__
from mmlesson.tools import home

ROOT = mmlesson.repository()


@pytest.fixture
def fork(tmp_path, monkeypatch):
    """A copy of what names the home, whose pyproject.toml says that it is somebody else's."""
    (tmp_path / "notebooks").mkdir()
    for path in (ROOT / "README.md", ROOT / "pyproject.toml", *(ROOT / "notebooks").glob("*.ipynb")):
        shutil.copy(path, tmp_path / path.relative_to(ROOT))
    project = tmp_path / "pyproject.toml"
    project.write_text(project.read_text().replace(f"github.com/{home.home(ROOT)}", "github.com/a-teacher/my.course-2"))
    monkeypatch.setattr(mmlesson, "repository", lambda: tmp_path)
    return tmp_path


def texts(folder):
    return {p.name: p.read_text(encoding="utf-8") for p in (folder / "README.md", *(folder / "notebooks").iterdir())}


def test_the_course_is_where_its_project_file_says():
    for name, text in texts(ROOT).items():
        assert home.moved(text, home.home(ROOT)) == text, f"{name}: run `make home`"


def test_no_address_is_written_down_anywhere_else():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("This is no clone.")
    stray = [
        name
        for name in files.stdout.splitlines()
        if name.endswith((".py", ".md", ".toml", ".yml", ".yaml", ".ipynb", "Makefile", "run"))
        and home.home(ROOT) in home.moved((ROOT / name).read_text(encoding="utf-8"), "another/place")
    ]
    assert stray == ["pyproject.toml"]


def test_a_fork_moves_everything_with_one_command(fork, capsys):
    old = home.home(ROOT)
    before = texts(fork)
    assert __main__.main(["home"]) == 0
    after = texts(fork)
    assert "README.md" in capsys.readouterr().out
    for name in before:
        assert old not in after[name] and after[name] == before[name].replace(old, "a-teacher/my.course-2")
    assert __main__.main(["home"]) == 0
    assert "nothing changed" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["https://gitlab.com/a/b", "github.com/a/b", "https://github.com/a"])
def test_a_home_that_no_badge_can_open_is_one_sentence(fork, page, capsys):
    project = fork / "pyproject.toml"
    project.write_text(project.read_text().replace("https://github.com/a-teacher/my.course-2", page))
    assert __main__.main(["home"]) == 1
    assert "expected https://github.com/owner/name" in capsys.readouterr().err
