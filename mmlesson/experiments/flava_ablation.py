"""FLAVA's ablation: which start, which batches and which losses end the bag of words (after the paper's table 3)."""

from typing import NamedTuple

import torch

from mmlesson import device, world
from mmlesson.checkpoints import load_pretrained
from mmlesson.experiments import downstream
from mmlesson.experiments.adapters import DualEncoderAdapter, FusionEncoderAdapter
from mmlesson.models.flava import block_mask, mask_words, small_flava, train_flava

STEPS = 1500
PAIRS_ONLY, ALL_KINDS = (1.0, 0.0, 0.0), (0.7, 0.15, 0.15)
ALL_LOSSES = ("gc", "itm", "mmm")


class Recipe(NamedTuple):
    start: str | None  # a checkpoint, or None for random weights
    mixture: tuple  # how often a step takes pairs, images, texts
    losses: tuple  # of pairs
    negatives: bool  # whether half of the captions are wrong


VARIANTS = {
    "contrast": Recipe(None, PAIRS_ONLY, ("gc",), False),
    "contrast, hard negatives": Recipe(None, PAIRS_ONLY, ("gc",), True),
    "contrast, stage one": Recipe("flava_unimodal", PAIRS_ONLY, ("gc",), False),
    "+ fusion": Recipe(None, PAIRS_ONLY, ALL_LOSSES, True),
    "+ images and texts alone": Recipe(None, ALL_KINDS, ALL_LOSSES, True),
    "full": Recipe("flava_unimodal", ALL_KINDS, ALL_LOSSES, True),
}


def train_recipe(recipe, steps, seed):
    """(model, History): a small FLAVA trained by a Recipe."""
    torch.manual_seed(seed)
    model = small_flava().to(device())
    if recipe.start:
        model = load_pretrained(recipe.start, device()).requires_grad_(True)
    batches = world.MaskedBatches(
        load_pretrained("codebook", device()).encode, block_mask, mask_words, steps,
        mixture=recipe.mixture, negatives=recipe.negatives, seed=seed, device=device(),
    )  # fmt: skip
    history, _ = train_flava(model, batches, recipe.losses)
    return model.eval(), history


def evaluate(model, losses):
    """The downstream scores of a FLAVA trained with these losses of pairs: without matching it is asked as a CLIP."""
    return downstream.evaluate(FusionEncoderAdapter(model) if "itm" in losses else DualEncoderAdapter(model))


def run(variant, seed):
    """(scores, History) of one run."""
    model, history = train_recipe(VARIANTS[variant], STEPS, seed)
    return evaluate(model, VARIANTS[variant].losses), history
