"""The files in assets/: small, of known kinds, and exactly what their cards say."""

import hashlib
import importlib.util
import json
import xml.etree.ElementTree as ElementTree

import pytest

import mmlesson
from mmlesson import checkpoints
from mmlesson.experiments import downstream, flamingo_ablation, flava_ablation, gemini_ablation, stored_boards

FOLDER = mmlesson.assets()
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file())
CHECKPOINTS = [path for path in FILES if path.suffix == ".safetensors"]
DRAWINGS = [path for path in FILES if path.suffix == ".svg"]
# A pickle (.pt, .bin, .npy) can run code when it is loaded.
KINDS = {".safetensors", ".md", ".yaml", ".svg", ".json", ".ogg"}
MAX_BYTES = 30_000_000


def test_the_checkpoints_are_there():
    assert {"clip_resnet", "clip_vit", "codebook", "flava", "language_model", "flamingo", "gemini"} <= {
        path.stem for path in CHECKPOINTS
    }


def test_only_known_kinds_of_files():
    assert [path.name for path in FILES if path.suffix not in KINDS] == []


def test_everything_together_is_small():
    assert sum(path.stat().st_size for path in FILES) <= MAX_BYTES


def test_every_checkpoint_has_a_card_and_every_card_a_checkpoint():
    cards = {path.stem for path in FOLDER.glob("checkpoints/*.md")}
    assert cards == {path.stem for path in CHECKPOINTS}


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.name)
def test_a_checkpoint_is_what_its_card_says(path):
    card = checkpoints.card(path.stem)
    assert set(checkpoints.CARD_KEYS) <= set(card)
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "OpenMoji" in path.with_suffix(".md").read_text(encoding="utf-8"), "the card credits the drawings"


@pytest.mark.parametrize("path", DRAWINGS, ids=lambda path: path.name)
def test_a_drawing_has_a_title_and_loads_nothing(path):
    drawing = ElementTree.parse(path).getroot()
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    assert drawing.findtext("{http://www.w3.org/2000/svg}title", "").strip()
    for element in drawing.iter():
        assert not element.tag.endswith("}script")
        for name, value in element.attrib.items():
            assert not (name.endswith("href") and not value.startswith("#")), f"{path.name} loads {value}"


def commands():
    """Every command that a shipped file names as the one that made it."""
    cards = [checkpoints.card(path.stem)["command"] for path in CHECKPOINTS]
    runs = [json.loads(path.read_text(encoding="utf-8"))["command"] for path in FOLDER.rglob("*.json")]
    return sorted(cards + runs)


@pytest.mark.parametrize("command", commands())
def test_the_command_that_made_a_file_is_there(command):
    python, dash_m, module, *names = command.split()
    assert (python, dash_m) == ("python", "-m") and importlib.util.find_spec(module)
    if module.endswith("train_checkpoints"):
        from mmlesson.tools.train_checkpoints import MAKERS

        assert names[0] in MAKERS and len(names) == 1


def test_flavas_ablation_holds_all_tasks_for_every_variant_and_seed():
    boards = stored_boards("flava")
    assert list(boards) == list(flava_ablation.VARIANTS)
    tasks = {family: list(chances) for family, chances in downstream.CHANCE.items()}
    for runs in boards.values():
        assert len(runs) == 3
        for scores in runs:
            assert {family: list(found) for family, found in scores.items()} == tasks
            assert all(0 <= score <= 1 for found in scores.values() for score in found.values())


def test_flamingos_ablation_holds_every_variant_and_seed():
    boards = stored_boards("flamingo")
    assert list(boards) == list(flamingo_ablation.VARIANTS)
    tasks = set(boards["full"][0])
    for runs in boards.values():
        assert len(runs) == 3
        assert all(set(scores) == tasks and all(0 <= score <= 1 for score in scores.values()) for scores in runs)


def test_geminis_ablation_holds_every_variant_and_seed():
    boards = stored_boards("gemini")
    assert list(boards) == list(gemini_ablation.VARIANTS)
    for variant, runs in boards.items():
        assert len(runs) == 3
        for scores in runs:
            assert all(0 <= score <= 1 for name, score in scores.items() if name not in ("seconds", "logits"))
            assert ("text_to_image" in scores) == ("logits" in scores) == (variant != "grafted")
            assert set(scores.get("logits", gemini_ablation.MIXTURE)) == set(gemini_ablation.MIXTURE)
