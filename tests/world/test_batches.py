"""Batches have as many steps as they say, are fixed by their seed, and hold what their models train on."""

import pytest
import torch

from mmlesson import world
from mmlesson.models.flamingo import long_lists
from mmlesson.models.flava import block_mask, mask_words


def encode(images):
    return (images.mean(dim=1)[:, ::4, ::4] * 100).long()


def masked(steps, **options):
    return world.MaskedBatches(encode, block_mask, mask_words, steps, batch_size=16, device="cpu", **options)


BATCHES = {
    "captions": lambda steps, seed: world.CaptionBatches(steps, batch_size=8, seed=seed, device="cpu"),
    "images": lambda steps, seed: world.ImageBatches(steps, batch_size=8, seed=seed, device="cpu"),
    "masked": lambda steps, seed: masked(steps, seed=seed),
    "text": lambda steps, seed: world.TextBatches(steps, kinds=("count",), lists=long_lists, seed=seed),
    "episodes": lambda steps, seed: world.EpisodeBatches(steps, kinds=("object", "motion"), batch_size=2, seed=seed),
}


def tensors(batch):
    """All tensors of a batch, however it is nested."""
    if isinstance(batch, world.Episodes):
        return [batch.tokens]
    if isinstance(batch, torch.Tensor):
        return [batch]
    return [t for part in batch for t in tensors(part)] if isinstance(batch, (list, tuple)) else []


@pytest.mark.parametrize("name", BATCHES)
def test_the_length_is_the_number_of_steps_and_the_seed_fixes_all(name):
    build = BATCHES[name]
    once, again, other = (tensors(list(build(4, seed))) for seed in (3, 3, 4))
    assert len(build(4, 3)) == len(list(build(4, 3))) == 4
    assert len(once) == len(again) and all(map(torch.equal, once, again))
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(once, other))


def offsets(images):
    """How far the drawing of each image lies from the middle, from left to right."""
    ink = (images - images[:, :, :1, :1]).abs().sum(dim=(1, 2))  # (N, 32)
    return (ink * torch.linspace(-1, 1, 32)).sum(dim=1) / ink.sum(dim=1)


def test_no_pair_repeats_within_a_batch_of_captions_and_the_curriculum_ends_in_variety():
    batches = list(world.CaptionBatches(10, batch_size=64, curriculum=0.4, seed=0, device="cpu"))
    assert all(images.shape == (64, 3, 32, 32) for images, _ in batches)
    tokenizer = world.Tokenizer()
    names = [c.name for c in world.COLORS] + [o.name for o in world.OBJECTS]
    for _, tokens in batches:
        pairs = [tuple(w for w in text.replace(",", "").split() if w in names) for text in tokenizer.decode(tokens)]
        assert len(set(pairs)) == 64
    first, last = (offsets(images) for images, _ in (batches[0], batches[-1]))
    assert last.std() > 2 * first.std()


def test_codebook_batches_alternate_between_two_sides():
    assert [tuple(images.shape) for images in world.ImageBatches(3, batch_size=8, device="cpu")] == [
        (8, 3, 32, 32), (8, 3, 24, 24), (8, 3, 32, 32),
    ]  # fmt: skip


def test_masked_batches_mix_three_kinds_and_half_of_the_pairs_are_negatives():
    kinds = [name for name, _ in masked(200, mixture=(0.0, 0.5, 0.5))]
    assert set(kinds) == {"images", "texts"} and 60 < kinds.count("images") < 140
    batches = masked(0)
    images, patches, codes, tokens, corrupted, labels, matched = batches.pairs()
    assert images.shape == (16, 3, 48, 48) and patches.shape == codes.shape == (16, 36)
    assert tokens.shape == corrupted.shape == labels.shape and matched.dtype == torch.bool
    assert patches.sum(dim=1).max() <= 5 and ((labels == -100) | (labels == tokens)).all()
    rates = torch.cat([batches.pairs()[-1] for _ in range(30)]).float().mean()
    assert 0.38 < rates < 0.62
    assert masked(0, negatives=False).pairs()[-1].all()
    assert batches.images()[1].sum(dim=1).max() <= 14
    assert all(part.shape[0] == 16 for part in batches.texts())


def test_recall_lists_know_what_stood_before():
    tokens, known = world.recall_lists(5, 12, torch.Generator().manual_seed(0))
    for row, marks in zip(tokens.unflatten(1, (12, 3)).tolist(), known.tolist()):
        seen = {}
        for (key, value, _), mark in zip(row, marks):
            assert mark == (key in seen) and seen.get(key, value) == value
            seen[key] = value
    words = torch.arange(10, 30)
    tokens, _ = world.recall_lists(5, 12, torch.Generator().manual_seed(0), words=words)
    assert set(tokens.unflatten(1, (12, 3))[..., :2].flatten().tolist()) <= set(words.tolist())


def test_lists_come_first_and_clips_come_twice_as_often():
    first, second = world.TextBatches(2, kinds=("count",), lists=long_lists)
    assert len(first) == len(second) == 2 and first[0].shape == second[0].shape == (32, 48)
    assert len(next(iter(world.TextBatches(1, kinds=(), lists=long_lists)))) == 1
    ((objects, clips),) = world.EpisodeBatches(1, kinds=("object", "motion"), batch_size=2)
    assert objects.starts.shape == (2, 9) and clips.starts.shape == (4, 5)
