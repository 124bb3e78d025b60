"""Flamingo's ablation: one thing changed at a time, after the paper's table 3."""

import torch
from torch import nn

from mmlesson import device
from mmlesson.experiments.few_shot import few_shot_accuracy
from mmlesson.models.attention import Transformer
from mmlesson.models.clip import clip_resnet
from mmlesson.models.flamingo import (
    CELLS,
    LIVE_KINDS,
    MEDIA_WIDTH,
    GridEncoder,
    SquaredReLU,
    small_flamingo,
    small_language_model,
    train_flamingo,
)
from mmlesson.world import EpisodeBatches

STEPS = 300
PAPER = {  # the paper's overall score in table 3
    "full": 70.7,
    "no tanh gating": 66.5,
    "vanilla cross-attention": 66.9,
    "every other layer": 68.2,
    "resampler: MLP": 66.6,
    "resampler: transformer": 66.7,
    "sees all images": 63.5,
    "language model unfrozen": 62.7,
    "language model from random": 57.8,
    "vision from random": 61.4,
}


class MLPResampler(nn.Module):
    """An image's features as one long vector, and a hidden layer: (N, 1, cells, width) -> (N, latents, width)."""

    def __init__(self, *, width, cells, latents):
        super().__init__()
        self.latents = latents
        hidden = 128  # about as many parameters as the resampler
        self.mlp = nn.Sequential(
            nn.LayerNorm(cells * width),
            nn.Linear(cells * width, hidden),
            SquaredReLU(),
            nn.Linear(hidden, latents * width),
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, features):
        return self.norm(self.mlp(features.flatten(1)).unflatten(1, (self.latents, -1)))


class TransformerResampler(nn.Module):
    """A transformer over the cells, all of which stay: (N, 1, cells, width) -> (N, cells, width)."""

    def __init__(self, *, width):
        super().__init__()
        self.transformer = Transformer(width=width, layers=1, heads=4)
        self.norm = nn.LayerNorm(width)

    def forward(self, features):
        return self.norm(self.transformer(features.flatten(1, 2)))


class VanillaBlock(nn.Module):
    """A block with cross-attention between its halves, as in "Attention is all you need": no gate, no new MLP."""

    def __init__(self, block, cross):
        super().__init__()
        self.block, self.cross, self.media, self.mask = block, cross, None, None

    def forward(self, x):
        x = x + self.block.attn(self.block.norm_1(x))
        x = x + self.cross(x, self.media, self.mask)
        return x + self.block.mlp(self.block.norm_2(x))


class PassMedia(nn.Module):
    """In place of a gated layer: returns x unchanged, and passes media and mask to the block behind it."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x, media, mask):
        self.block.media, self.block.mask = media, mask
        return x


def no_gating(model):
    for layer in model.gated.values():
        for alpha in (layer.alpha_attn, layer.alpha_dense):
            nn.init.constant_(alpha.requires_grad_(False), 20.0)  # tanh(20) = 1


def vanilla(model):
    blocks = model.language_model.blocks
    for i, layer in model.gated.items():
        blocks[int(i)] = VanillaBlock(blocks[int(i)], layer.attn)
        model.gated[i] = PassMedia(blocks[int(i)])


def mlp_resampler(model):
    model.resampler = MLPResampler(width=MEDIA_WIDTH, cells=CELLS, latents=4)


def transformer_resampler(model):
    model.resampler = TransformerResampler(width=MEDIA_WIDTH)


def see_all(model):
    last = model.visible
    # The last image and, from it backward, every one before.
    model.visible = lambda tokens, media: last(tokens, media).flip(2).cumsum(dim=2).flip(2).bool()


def language_unfrozen(model):
    model.language_model.requires_grad_(True)


def language_random(model):
    model.language_model = small_language_model()


def vision_random(model):
    model.image_encoder = GridEncoder(clip_resnet().image_encoder)


CHANGES = {
    "no tanh gating": no_gating,
    "vanilla cross-attention": vanilla,
    "resampler: MLP": mlp_resampler,
    "resampler: transformer": transformer_resampler,
    "sees all images": see_all,
    "language model unfrozen": language_unfrozen,
    "language model from random": language_random,
    "vision from random": vision_random,
}
VARIANTS = tuple(PAPER)


def train_variant(variant, seed, steps=STEPS):
    """(model, History): the lesson's Flamingo with one thing changed, trained as in the lesson."""
    torch.manual_seed(seed)
    model = small_flamingo(cross_attn_every=2 if variant == "every other layer" else 1)
    if variant in CHANGES:
        CHANGES[variant](model)
    model.to(device())
    history = train_flamingo(model, EpisodeBatches(steps, kinds=LIVE_KINDS, seed=seed))
    return model.eval(), history


def evaluate(model):
    """Scores {task: 0 to 1} on pairs that training never shows."""
    return {
        "new words, 8 shots": few_shot_accuracy(model, "new_words")[8].item(),
        "task inference, 2 shots": few_shot_accuracy(model, "attribute", shots=2)[2].item(),
        "names of objects, 2 shots": few_shot_accuracy(model, "object", shots=2)[2].item(),
    }


def run(variant, seed):
    """(scores, History) of one run."""
    model, history = train_variant(variant, seed)
    return evaluate(model), history
