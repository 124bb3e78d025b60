"""The README's table is what the results say, and nothing else of the README changes."""

import json

import pytest

import mmlesson
from mmlesson import __main__

README = "# Course\n\n<!-- contract:begin -->\nold\n<!-- contract:end -->\n\nThe end.\n"


def result(lesson, **changes):
    versions = {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0", "mmlesson": "0.1.0"}
    plain = {"lesson": lesson, "device": "cpu", "threads": 2, "versions": versions, "seconds": 90.4}
    return {**plain, "peak_memory_mb": 1234, "figures": {"zero_shot": 0.95}, **changes}


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository with a README and two lessons, both measured."""
    monkeypatch.setattr(mmlesson, "repository", lambda: tmp_path)
    monkeypatch.delenv("MMLESSON_RESULTS", raising=False)
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    for folder in ("notebooks", "results"):
        (tmp_path / folder).mkdir()
    for number, lesson, seconds in (("03", "clip", 90.4), ("01", "attention", 30)):
        (tmp_path / "notebooks" / f"{number}_{lesson}.ipynb").touch()
        write(tmp_path, lesson, result(lesson, seconds=seconds))
    return tmp_path


def write(clone, lesson, content):
    (clone / "results" / f"{lesson}.json").write_text(json.dumps(content), encoding="utf-8")


def refused(clone, capsys):
    """The sentence with which the command ends; the README must be as it was."""
    assert __main__.main(["contract"]) == 1
    assert (clone / "README.md").read_text(encoding="utf-8") == README
    return capsys.readouterr().err


def test_the_table_is_written_between_the_marks(clone):
    assert __main__.main(["contract"]) == 0
    expected = README.replace(
        "old\n",
        "Measured by `make contract` on cpu with 2 threads, Python 3.11.7, torch 2.13.0, transformers 5.23.0, "
        "mmlesson 0.1.0:\n\n"
        "| lesson | minutes | peak memory |\n"
        "| --- | ---: | ---: |\n"
        "| [01_attention](notebooks/01_attention.ipynb) | 0.5 | 1,234 MB |\n"
        "| [03_clip](notebooks/03_clip.ipynb) | 1.5 | 1,234 MB |\n",
    )
    assert (clone / "README.md").read_text(encoding="utf-8") == expected
    assert __main__.main(["contract"]) == 0  # again: the same
    assert (clone / "README.md").read_text(encoding="utf-8") == expected


def test_results_elsewhere(clone, monkeypatch, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.setenv("MMLESSON_RESULTS", str(elsewhere))
    for path in (clone / "results").iterdir():
        path.rename(elsewhere / path.name)
    assert __main__.main(["contract"]) == 0


def test_missing_results_are_named(clone, capsys):
    (clone / "results" / "clip.json").unlink()
    sentence = refused(clone, capsys)
    assert "no results for clip in" in sentence and "make contract" in sentence


@pytest.mark.parametrize("content", [{"lesson": "clip"}, [], result("clip", seconds="fast")])
def test_damaged_results_are_named(clone, capsys, content):
    write(clone, "clip", content)
    sentence = refused(clone, capsys)
    assert "clip.json is damaged" in sentence and "delete it" in sentence


def test_results_of_two_runs_are_not_mixed(clone, capsys):
    write(clone, "clip", result("clip", device="cuda"))
    assert "not from one run (cpu with 2 threads" in refused(clone, capsys)


def test_a_readme_without_marks_is_left_alone(clone, capsys):
    (clone / "README.md").write_text("# Course\n", encoding="utf-8")
    assert __main__.main(["contract"]) == 1
    assert "expected a line <!-- contract:begin -->" in capsys.readouterr().err
    assert (clone / "README.md").read_text(encoding="utf-8") == "# Course\n"
