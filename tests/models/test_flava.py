"""FLAVA's codebook, masks, losses and encoders do what the lesson says."""

import math

import pytest
import torch

from mmlesson import world
from mmlesson.experiments.parity.flava import tiny_batch, tiny_ours, tiny_reference
from mmlesson.models.flava import (
    FLAVA,
    MASK,
    TOKENIZER,
    Encoder,
    ImageCodebook,
    ImageEncoder,
    TextEncoder,
    block_mask,
    fsq,
    mask_words,
    masked_loss,
    pair_losses,
    small_flava,
)


def test_fsq_codes_are_the_levels_as_digits():
    levels = (8, 6, 5)
    z = torch.cartesian_prod(*(torch.linspace(-12, 12, 80) for _ in levels)).requires_grad_()
    quantized, codes = fsq(z, levels)
    assert len(codes.unique()) == 240 and codes.min() == 0 and codes.max() == 239
    digits = ((quantized + 1) / 2 * (torch.tensor(levels) - 1)).round().long()
    assert (digits[:, 0] + 8 * digits[:, 1] + 48 * digits[:, 2] == codes).all()
    (gradient,) = torch.autograd.grad(quantized.sum(), z)
    assert (gradient >= 0).all() and gradient.max() > 0.4  # the sigmoid's slope, not the staircase's


@torch.no_grad()
def test_the_codebook_decodes_what_it_encodes():
    torch.manual_seed(0)
    codebook = ImageCodebook(width=16)
    images = torch.rand(3, 3, 24, 32)
    codes = codebook.encode(images)
    assert codes.shape == (3, 6, 8)
    torch.testing.assert_close(codebook.decode(codes), codebook(images).clamp(0, 1))


def test_block_mask_masks_nearly_what_is_asked_in_blocks():
    generator = torch.Generator().manual_seed(0)
    masks = torch.stack([block_mask(6, 14, generator) for _ in range(300)])
    masked = masks.sum((1, 2))
    assert masked.max() <= 14 and masked.float().mean() > 12.6
    assert masks.float().mean(0).min() > 0.1  # every patch is masked now and then, those at the border too
    together = (masks[:, 1:] & masks[:, :-1]).float().mean() / masks.float().mean() ** 2
    assert together > 1.4  # scattered patches would give 1


def test_mask_words_leaves_special_tokens_alone():
    generator = torch.Generator().manual_seed(0)
    tokens = TOKENIZER.encode(["a red cat left of a blue dog", "a cat"] * 500)
    corrupted, labels = mask_words(tokens, generator, ratio=0.3)
    special = (tokens == 0) | (tokens >= TOKENIZER.sot)
    assert (labels[special] == -100).all() and torch.equal(corrupted[special], tokens[special])
    asked = labels != -100
    assert torch.equal(labels[asked], tokens[asked]) and torch.equal(corrupted[~asked], tokens[~asked])
    assert abs((corrupted[asked] == MASK).float().mean() - 0.8) < 0.04
    assert abs(asked[~special].float().mean() - 0.3) < 0.03


def test_masked_loss_without_a_mask_is_zero():
    head = torch.nn.Linear(4, 7)
    loss = masked_loss(head, torch.randn(2, 3, 4, requires_grad=True), torch.full((2, 3), -100))
    assert loss == 0 and math.isfinite(loss.item())
    loss.backward()


@torch.no_grad()
def test_negatives_count_for_matching_and_in_the_contrast_only():
    ours = tiny_ours(tiny_reference(1), FLAVA, ImageEncoder, TextEncoder, Encoder)
    images, masked, codes, tokens, corrupted, labels, matched = tiny_batch(1)
    negative = ~matched
    losses = pair_losses(ours, images, masked, codes, tokens, corrupted, labels, matched)
    other_codes = torch.where(negative[:, None], (codes + 1) % 50, codes)
    other_labels = torch.where(negative[:, None] & (labels != -100), (labels + 1) % 120, labels)
    same = pair_losses(ours, images, masked, other_codes, tokens, corrupted, other_labels, matched)
    assert losses["mmm_image"] == same["mmm_image"] and losses["mmm_text"] == same["mmm_text"]
    other_tokens = torch.where(negative[:, None], 5, tokens)
    moved = pair_losses(ours, images, masked, codes, other_tokens, corrupted, labels, matched)
    assert losses["gc"] != moved["gc"]  # the caption of a negative is still a column
    none = pair_losses(ours, images, masked, codes, tokens, corrupted, labels, torch.zeros_like(matched))
    assert all(math.isfinite(value) for value in none.values())
    assert set(pair_losses(ours, *tiny_batch(1), losses=("gc",))) == {"gc"}


@torch.no_grad()
def test_padding_changes_nothing():
    torch.manual_seed(0)
    model = small_flava().eval()
    images, tokens = torch.randn(2, 3, 48, 48), torch.tensor([[221, 5, 9, 222], [221, 7, 222, 0]])
    longer = torch.nn.functional.pad(tokens, (0, 5))
    a, b = model(images, tokens), model(images, longer)
    torch.testing.assert_close(a[0], b[0, : a.shape[1]])
    torch.testing.assert_close(model.match(images, tokens), model.match(images, longer))
    torch.testing.assert_close(model.encode_text(tokens), model.encode_text(longer))


def test_words_of_another_tokenizer_are_masked_with_its_own_ids():
    tokenizer = world.Tokenizer([f"word{letter}" for letter in "abcdefgh"])
    tokens = torch.randint(1, tokenizer.sot, (200, 12), generator=torch.Generator().manual_seed(0))
    corrupted, labels = mask_words(tokens, torch.Generator().manual_seed(1), 0.5, tokenizer)
    assert (corrupted == len(tokenizer)).any() and corrupted.max() == len(tokenizer)
    assert labels.max() < tokenizer.sot
    with pytest.raises(ValueError, match="Token 30000 is none of the tokenizer's 11"):
        mask_words(torch.tensor([[30000]]), torch.Generator(), 0.5, tokenizer)
