"""The frame of a lesson: start seeds and announces, scorecard measures and writes."""

import json
import random
import subprocess
import sys

import numpy
import pytest
import torch

import mmlesson
from mmlesson.lesson import peak_memory_mb, scorecard, start


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLESSON_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MMLESSON_DEVICE", "cpu")
    return tmp_path / "results"


def draw():
    return random.random(), numpy.random.rand(), torch.rand(1).item()


def test_start_seeds_all_three_sources_of_randomness():
    start("test", seed=3)
    first = draw()
    start("test", seed=3)
    assert draw() == first
    start("test", seed=4)
    assert all(a != b for a, b in zip(draw(), first))


def test_start_prints_one_line(results, capsys):
    lesson = start("clip", seed=7)
    line = f"Lesson clip: device cpu, threads {torch.get_num_threads()}, seed 7.\n"
    assert capsys.readouterr().out == line
    assert (lesson.name, lesson.seed, lesson.device) == ("clip", 7, torch.device("cpu"))


def test_a_name_that_cannot_be_a_file_is_refused():
    with pytest.raises(ValueError, match="letters, digits, - and _, like 'clip', not '../clip'"):
        start("../clip")


def test_scorecard_writes_what_it_shows(results, capsys):
    returned = scorecard(start("clip", seed=1), zero_shot_held_out=0.96875, images=numpy.int64(512))
    written = json.loads((results / "clip.json").read_text(encoding="utf-8"))
    assert written == returned
    assert written["figures"] == {"zero_shot_held_out": 0.96875, "images": 512}
    assert (written["lesson"], written["device"], written["seed"]) == ("clip", "cpu", 1)
    assert written["threads"] == torch.get_num_threads() and written["device_name"]
    assert written["versions"].keys() == {"python", "torch", "transformers", "mmlesson"}
    assert written["versions"]["mmlesson"] == mmlesson.__version__
    assert written["seconds"] >= 0 and 50 < written["peak_memory_mb"] < 100_000
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "Lesson clip, measured on cpu"
    assert lines[2].split() == ["zero", "shot", "held", "out", "0.9688"]
    assert lines[3].split() == ["images", "512"]


def test_scorecard_in_a_notebook_is_a_table_with_a_text_twin(results, notebook):
    scorecard(start("test"), accuracy=0.5)
    data = notebook[0]["data"]
    assert (
        '<th scope="row" style="text-align:left">accuracy</th>' in data["text/html"]
        and "<caption>" in data["text/html"]
    )
    assert "accuracy" in data["text/plain"] and "0.5" in data["text/plain"]


def test_a_cell_that_ends_with_the_scorecard_shows_it_once(results, notebook):
    from IPython.display import display

    card = scorecard(start("test"), accuracy=0.5)
    before = len(notebook)
    display(card)
    assert len(notebook) == before


def test_scorecard_goes_to_the_repository_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("MMLESSON_RESULTS", raising=False)
    monkeypatch.setattr(mmlesson, "repository", lambda: tmp_path / "repository")
    scorecard(start("test"))
    assert (tmp_path / "repository" / "results" / "test.json").is_file()
    monkeypatch.setattr(mmlesson, "repository", lambda: None)
    monkeypatch.chdir(tmp_path)
    scorecard(start("test"))
    assert (tmp_path / "results" / "test.json").is_file()


@pytest.mark.parametrize(
    ("value", "error", "sentence"),
    [
        (float("nan"), ValueError, "figure loss is nan: expected a finite number"),
        (float("inf"), ValueError, "figure loss is inf"),
        (torch.tensor(0.5), TypeError, "figure loss must be an int or a float, not Tensor: use .item()"),
        ("0.5", TypeError, "not str"),
        (True, TypeError, "not bool"),
    ],
)
def test_a_figure_that_is_no_finite_number_is_refused(results, value, error, sentence):
    with pytest.raises(error, match=sentence):
        scorecard(start("test"), loss=value)
    assert not results.exists()


def test_peak_memory_sees_what_was_freed():
    before = peak_memory_mb()
    block = bytearray(int(before * 1e6))  # as much again
    block[::4096] = b"x" * len(block[::4096])
    del block
    assert peak_memory_mb() > before * 1.5


def test_peak_memory_is_not_inherited_from_the_parent():
    code = "from mmlesson.lesson import peak_memory_mb; print(peak_memory_mb())"
    block = bytearray(800_000_000)
    child = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert child < len(block) / 1e6 < peak_memory_mb()


def test_where_results_cannot_be_stored_the_table_is_shown_all_the_same(tmp_path, monkeypatch, capsys):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("MMLESSON_RESULTS", str(tmp_path / "a file" / "results"))
    assert scorecard(start("any"), accuracy=0.5)["figures"] == {"accuracy": 0.5}
    shown = " ".join(capsys.readouterr().out.split())
    assert "accuracy 0.5" in shown
    assert "These figures could not be stored in" in shown and "set MMLESSON_RESULTS to another folder." in shown


def test_a_home_folder_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("MMLESSON_RESULTS", "~/results")
    scorecard(start("any"), accuracy=0.5)
    assert (tmp_path / "results" / "any.json").is_file()


@pytest.mark.parametrize("forced", ["meta", "mps" if sys.platform != "darwin" else "xpu", "warp"])
def test_a_device_that_cannot_compute_is_one_short_sentence(forced, monkeypatch):
    monkeypatch.setenv("MMLESSON_DEVICE", forced)
    with pytest.raises(ValueError) as raised:
        mmlesson.device()
    assert len(str(raised.value)) < 300 and "\n" not in str(raised.value) and "cpu" in str(raised.value)
