"""Flamingo with one thing changed: the variants of lesson 06's ablation, after the paper's table 3."""

import torch
from torch import nn

from mmlesson.models.clip import clip_resnet
from mmlesson.models.encoders import Transformer
from mmlesson.models.flamingo import (
    CELLS,
    MEDIA_WIDTH,
    ProjectedGrid,
    SquaredReLU,
    few_shot,
    small_flamingo,
    small_language_model,
    train_flamingo,
)


class MLPResampler(nn.Module):
    """A picture's features as one long vector, and a hidden layer: (N, 1, cells, width) -> (N, latents, width)."""

    def __init__(self, width, cells, latents, hidden=128):  # about as many parameters as the resampler
        super().__init__()
        self.latents = latents
        self.mlp = nn.Sequential(
            nn.LayerNorm(cells * width),
            nn.Linear(cells * width, hidden),
            SquaredReLU(),
            nn.Linear(hidden, latents * width),
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, features, need_weights=False):
        return self.norm(self.mlp(features.flatten(1)).unflatten(1, (self.latents, -1)))


class TransformerResampler(nn.Module):
    """A transformer over the cells, which all stay: (N, 1, cells, width) -> (N, cells, width)."""

    def __init__(self, width):
        super().__init__()
        self.transformer = Transformer(width, layers=1, heads=4)
        self.norm = nn.LayerNorm(width)

    def forward(self, features, need_weights=False):
        return self.norm(self.transformer(features.flatten(1, 2)))


class VanillaBlock(nn.Module):
    """A block with cross-attention between its two halves, as in "Attention is all you need": no gate, no new MLP."""

    def __init__(self, block, cross):
        super().__init__()
        self.block, self.cross, self.media, self.mask = block, cross, None, None

    def forward(self, x, need_weights=False):
        x = x + self.block.attn(self.block.norm_1(x))
        x = x + self.cross(x, self.media, self.mask)
        return x + self.block.mlp(self.block.norm_2(x))


class HandOver(nn.Module):
    """In place of a gated layer: leaves x as it is and gives media and mask to the block behind it."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x, media, mask, need_weights=False):
        self.block.media, self.block.mask = media, mask
        return x


def _no_gating(model):
    for layer in model.gated.values():
        for alpha in (layer.alpha_attn, layer.alpha_dense):
            nn.init.constant_(alpha.requires_grad_(False), 20.0)  # tanh(20) = 1


def _vanilla(model):
    blocks = model.language_model.blocks
    for i, layer in model.gated.items():
        blocks[int(i)] = VanillaBlock(blocks[int(i)], layer.attn)
        model.gated[i] = HandOver(blocks[int(i)])


def _mlp(model):
    model.resampler = MLPResampler(MEDIA_WIDTH, CELLS, latents=4)


def _transformer(model):
    model.resampler = TransformerResampler(MEDIA_WIDTH)


def _see_all(model):
    last = model.visible
    # The last picture and, from it backward, every one before.
    model.visible = lambda tokens, media: last(tokens, media).flip(2).cumsum(dim=2).flip(2).bool()


def _language_unfrozen(model):
    model.language_model.requires_grad_(True)


def _language_random(model):
    model.language_model = small_language_model()


def _vision_random(model):
    model.image_encoder = clip_resnet().image_encoder
    model.image_encoder.attnpool = ProjectedGrid(model.image_encoder.attnpool)


VARIANTS = {  # name: (what is changed, the paper's overall score in table 3, 70.7 for the full model)
    "full": (lambda model: None, 70.7),
    "no tanh gating": (_no_gating, 66.5),
    "vanilla cross-attention": (_vanilla, 66.9),
    "every other layer": (None, 68.2),
    "resampler: MLP": (_mlp, 66.6),
    "resampler: transformer": (_transformer, 66.7),
    "sees all pictures": (_see_all, 63.5),
    "language model unfrozen": (_language_unfrozen, 62.7),
    "language model from random": (_language_random, 57.8),
    "vision from random": (_vision_random, 61.4),
}


def trained_variant(name, frozen_weights, steps, seed, device):
    """(model, History): the lesson's Flamingo with one thing changed, trained as in the lesson."""
    torch.manual_seed(seed)
    model = small_flamingo(*frozen_weights, every=2 if name == "every other layer" else 1)
    change, _ = VARIANTS[name]
    if change:
        change(model)
    model.to(device)
    history = train_flamingo(model, steps, seed=seed)
    return model.eval(), history


def board(model):
    """What a variant is judged by, each a share from 0 to 1, on pairs that training never shows."""
    return {
        "new words, 8 shots": few_shot(model, "new_words")[8].item(),
        "task inference, 2 shots": few_shot(model, "attribute", shots=2)[2].item(),
        "names of objects, 2 shots": few_shot(model, "object", shots=2)[2].item(),
    }
