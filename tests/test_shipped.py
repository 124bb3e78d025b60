"""The files in assets/: small, of known kinds, and exactly what their cards say."""

import hashlib
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from mmlesson import assets, flamingo_variants, gemini_variants
from mmlesson.make_assets import VARIANTS
from mmlesson.scoreboard import CHANCE

FOLDER = Path(__file__).parent.parent / "assets"
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
    cards = {path.stem for path in FOLDER.glob("*.md") if path.read_text(encoding="utf-8").startswith("---\n")}
    assert cards == {path.stem for path in CHECKPOINTS}


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.name)
def test_a_checkpoint_is_what_its_card_says(path):
    card = assets.card(path.stem)
    assert set(assets.CARD_KEYS) <= set(card)
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


def test_the_ablation_holds_a_whole_scoreboard_for_every_variant_and_seed():
    ablation = json.loads((FOLDER / "flava_ablation.json").read_text(encoding="utf-8"))
    assert list(ablation["boards"]) == list(VARIANTS)
    tasks = {family: list(chances) for family, chances in CHANCE.items()}
    for boards in ablation["boards"].values():
        assert len(boards) == len(ablation["seeds"])
        for board in boards:
            assert {family: list(scores) for family, scores in board.items()} == tasks
            assert all(0 <= score <= 1 for scores in board.values() for score in scores.values())


def test_flamingos_ablation_holds_every_variant_and_seed():
    ablation = json.loads((FOLDER / "flamingo_ablation.json").read_text(encoding="utf-8"))
    assert list(ablation["boards"]) == list(flamingo_variants.VARIANTS)
    tasks = set(ablation["boards"]["full"][0])
    for boards in ablation["boards"].values():
        assert len(boards) == len(ablation["seeds"]) == 3
        assert all(set(board) == tasks and all(0 <= score <= 1 for score in board.values()) for board in boards)


def test_geminis_ablation_holds_every_variant_and_seed():
    ablation = json.loads((FOLDER / "gemini_ablation.json").read_text(encoding="utf-8"))
    assert list(ablation["boards"]) == list(gemini_variants.VARIANTS)
    for variant, boards in ablation["boards"].items():
        assert len(boards) == len(ablation["seeds"]) == 3
        for board in boards:
            assert all(0 <= score <= 1 for name, score in board.items() if name not in ("seconds", "logits"))
            assert ("text_to_image" in board) == ("logits" in board) == (variant != "grafted")
            assert set(board.get("logits", gemini_variants.KINDS)) == set(gemini_variants.KINDS)
