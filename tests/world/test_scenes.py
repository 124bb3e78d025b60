"""The world: the truth in a spec must be what the image shows and what the caption says."""

import os
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch

from mmlesson import world
from mmlesson.world import glyphs
from mmlesson.world.captions import plural


def test_the_tables_are_sound():
    assert len(world.OBJECTS) == 96 and len(world.COLORS) == 8
    for column in ("name", "korean", "code_point"):
        assert len({getattr(o, column) for o in world.OBJECTS}) == 96, column
    assert {o.category for o in world.OBJECTS} == {"animal", "food", "plant", "vehicle", "thing"}
    assert all(o.name.isalpha() and o.name.islower() for o in world.OBJECTS)
    assert all("가" <= letter <= "힣" for o in world.OBJECTS for letter in o.korean)


def test_every_drawing_is_there_and_differs():
    drawings = glyphs.sprites(torch.arange(96), torch.full((96,), world.NATURAL), 24)
    assert drawings.shape == (96, 4, 24, 24)
    assert (drawings[:, 3].mean(dim=(1, 2)) > 0.05).all(), "a drawing is empty: is the code point in the font?"
    distance = torch.cdist(drawings.flatten(1), drawings.flatten(1))
    assert (distance + torch.eye(96) * 99).min() > 1.0, "two objects look the same"


def test_only_what_is_needed_is_drawn_and_a_bounded_amount_is_kept(monkeypatch):
    drawn = []
    sprite = glyphs._sprite
    monkeypatch.setattr(glyphs, "_sprite", lambda *kind: drawn.append(kind[:2]) or sprite(*kind))
    monkeypatch.setattr(glyphs, "_sheets", OrderedDict())
    scenes = world.join([world.scene(world.Item(name, "red")) for name in ("owl", "cat", "owl")])
    first = world.render(scenes, 40)
    assert len(drawn) == 2
    assert world.render(scenes, 40).equal(first) and len(drawn) == 2, "a second batch draws nothing"
    monkeypatch.setattr(glyphs, "KEPT_BYTES", 4 * 4 * 224**2 * 2)
    for side in (224, 240, 260):
        world.render(scenes, side)
    assert sum(sheet.drawings.nbytes for sheet in glyphs._sheets.values()) <= glyphs.KEPT_BYTES
    drawn.clear()
    assert world.render(scenes, 40).equal(first) and len(drawn) == 2, "the oldest went first, and comes back the same"


@pytest.mark.parametrize("side", [224, 336])
def test_one_large_image_costs_little_memory(side):
    peak = "print(lesson.peak_memory_mb())"
    run = f"from mmlesson import lesson, world; {peak}; world.render(world.sample(1), {side}); {peak}"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())  # torch alone takes 300 MB, and 600 in a build for CUDA
    assert after - before < 150, f"{before} MB, then {after} MB"


def test_held_out_pairs_are_balanced_and_never_sampled_for_training():
    out = world.pairs("held_out")
    assert len(out) == 96 and len(world.pairs("train")) == 672 and len(world.pairs()) == 768
    assert (out[:, 0].bincount() == 1).all() and (out[:, 1].bincount() == 12).all()
    for items in (1, 2, 4):
        train = world.sample(2000, seed=items, items=items, distinct=False)
        assert not world.held_out(train.objects, train.colors).any()
        unseen = world.sample(200, seed=items, items=items, split="held_out")
        assert world.held_out(unseen.objects, unseen.colors).all()
    assert not world.held_out(0, world.NATURAL)


def test_same_seed_same_bytes_in_a_fresh_process():
    code = (
        "import hashlib; from mmlesson import world; s = world.sample(64, seed=7, items=2);"
        "p = world.render(s, device='cpu'); c = ' '.join(world.captions(s, seed=3));"
        "print(hashlib.sha256(p.numpy().tobytes() + c.encode()).hexdigest())"
    )
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment) for _ in "ab"]
    assert runs[0].stdout == runs[1].stdout != "", runs[0].stderr
    other = world.sample(64, seed=8, items=2)
    assert not torch.equal(other.objects, world.sample(64, seed=7, items=2).objects)


@pytest.mark.parametrize("items", [1, 2, 3, 4])
def test_boxes_hold_the_drawing_and_hold_it_tightly(items):
    scenes = world.sample(64, seed=items, items=items)
    side = 128
    boxes = scenes.boxes() * side
    scenes.backgrounds.fill_(1.0)
    whole = world.render(scenes, side, device="cpu")
    inked = (whole < 0.98).any(dim=1)
    for n in range(len(scenes)):
        y, x = torch.nonzero(inked[n], as_tuple=True)
        extent = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1])
        union = torch.cat([boxes[n, :, :2].amin(0), boxes[n, :, 2:].amax(0)])
        assert (extent - union).abs().max() < 4, (n, extent, union)
    assert scenes.boxes().min() >= -1e-3 and scenes.boxes().max() <= 1 + 1e-3
    for a in range(items):
        for b in range(a):
            apart = torch.minimum(boxes[:, a, 2:], boxes[:, b, 2:]) <= torch.maximum(boxes[:, a, :2], boxes[:, b, :2])
            assert apart.any(dim=1).all(), "two items overlap"


def test_spread_zero_puts_the_drawing_in_the_middle():
    boxes = world.sample(64, seed=0, spread=0).boxes()[:, 0]
    assert ((boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5).abs().max() < 1e-5
    far = world.sample(64, seed=0, size=(0.3, 0.4)).boxes()[:, 0]
    assert ((far[:, :2] + far[:, 2:]) / 2 - 0.5).abs().max() > 0.2


def test_relations_said_are_true():
    scenes = world.sample(300, seed=0, items=2)
    seen = set()
    for i in range(len(scenes)):
        said = world.relation(scenes, i)
        first, second = scenes.boxes()[i, :2]
        true = {
            "left of": first[2] <= second[0] + 1e-3,
            "right of": first[0] >= second[2] - 1e-3,
            "above": first[3] <= second[1] + 1e-3,
            "below": first[1] >= second[3] - 1e-3,
        }
        assert true[said]
        seen.add(said)
    assert seen == set(world.RELATIONS)


def test_color_said_is_color_drawn():
    scenes = world.join([world.scene(world.Item("heart", color.name)) for color in world.COLORS])
    middle = world.render(scenes, 64, device="cpu")[:, :, 28:36, 28:36].mean(dim=(2, 3))
    palette = torch.tensor([c.rgb for c in world.COLORS]) / 255
    nearest = torch.cdist(torch.nn.functional.normalize(middle), torch.nn.functional.normalize(palette)).argmin(dim=1)
    assert nearest.tolist() == list(range(8))


def test_captions():
    item = world.Item
    one = world.scene(item("owl"))
    assert world.describe(one, 0) == "an owl"
    assert world.describe(world.scene(item("apple", "orange")), 0) == "an orange apple"
    assert world.describe(world.scene(item("ufo")), 0) == "a ufo"
    assert world.describe(world.scene(item("scissors", "red")), 0) == "red scissors"
    two = world.scene(item("cat", "red", x=0.25, size=0.4), item("dog", "blue", x=0.75, size=0.4))
    assert world.describe(two, 0) == "a red cat left of a blue dog"
    three = world.sample(1, seed=0, items=3, same=True)
    assert world.describe(three, 0).startswith("three ")
    assert world.captions(one, template="a picture of {}") == ["a picture of an owl"]
    assert world.korean_phrase(24, 0) == "빨간색 사과"
    assert [plural(n) for n in ("cat", "sheep", "bus", "cherries", "butterfly")] == [
        "cats", "sheep", "buses", "cherries", "butterflies",
    ]  # fmt: skip


def test_tokenizer_reads_everything_that_the_grammar_can_say():
    tokenizer = world.Tokenizer()
    for items in (1, 2, 3, 4):
        for same in (False, True):
            texts = world.captions(world.sample(300, seed=items, items=items, same=same), seed=1)
            tokens = tokenizer.encode(texts)
            assert tokenizer.decode(tokens) == texts
    assert tokenizer.eot == tokens.max() == len(tokenizer) - 1
    assert (tokens.argmax(dim=1) + 1 == (tokens != tokenizer.pad).sum(dim=1)).all()


@pytest.mark.parametrize("shift", world.SHIFTS)
def test_shifts_change_the_image_and_keep_the_place(shift):
    scenes = world.sample(32, seed=0)
    plain, shifted = world.render(scenes), world.render_shifted(scenes, shift)
    assert shifted.shape == plain.shape and shifted.min() >= 0 and shifted.max() <= 1
    assert torch.equal(plain, shifted) == (shift == "none")
    assert torch.equal(shifted, world.render_shifted(scenes, shift)), "same seed, same bytes"


def test_a_forced_device_is_obeyed_and_a_wrong_one_explained(monkeypatch):
    monkeypatch.setenv("MMLESSON_DEVICE", "cpu")
    assert world.render(world.sample(2)).device.type == "cpu"
    monkeypatch.setenv("MMLESSON_DEVICE", "abacus")
    with pytest.raises(ValueError, match="MMLESSON_DEVICE='abacus' cannot be used here"):
        world.render(world.sample(2))
