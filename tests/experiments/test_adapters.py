"""A FLAVA is asked as a CLIP or through its fusion encoder, and repairs at most one word of a caption."""

import pytest
import torch

from mmlesson import world
from mmlesson.checkpoints import load_pretrained
from mmlesson.experiments.adapters import DualEncoderAdapter, FusionEncoderAdapter


@pytest.fixture(scope="module")
def scenes():
    drawn = world.sample(12, 7, items=2, objects=world.SUBSET, **world.LARGE_UPRIGHT)
    return drawn[world.swappable(drawn).nonzero()[:, 0]]


@torch.no_grad()
@pytest.mark.parametrize("adapter", [DualEncoderAdapter, FusionEncoderAdapter])
def test_an_adapter_gives_what_the_tasks_ask_for(adapter, scenes):
    asked = adapter(load_pretrained("flava"))
    images, captions = (
        world.render(scenes, side=48, device="cpu"),
        [world.describe(scenes, i) for i in range(len(scenes))],
    )
    n = len(scenes)
    for found in (asked.image(images), asked.text(captions), asked.joint(images, captions)):
        assert found.ndim == 2 and len(found) == n
    assert asked.similarity(images, captions).shape == (n, n) and asked.match(images, captions).shape == (n,)


@torch.no_grad()
@pytest.mark.parametrize(("adapter", "least"), [(DualEncoderAdapter, 0.5), (FusionEncoderAdapter, 0.5)])
def test_a_repair_changes_one_word_and_mostly_mends(adapter, least, scenes):
    true, negatives = world.hard_negatives(scenes, 0, "another color", "relation")
    images = world.render(scenes, side=48, device="cpu")
    repaired = adapter(load_pretrained("flava")).repair(images, negatives)
    for before, after in zip(negatives, repaired):
        assert sum(a != b for a, b in zip(before.split(), after.split(), strict=True)) <= 1
    assert sum(a == b for a, b in zip(repaired, true)) > least * len(true)
