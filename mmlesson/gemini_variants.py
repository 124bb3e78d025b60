"""Lesson 07's model with one thing changed: grafted, not native; raw sound; no QK-norm. All learn equally long."""

import torch
from torch import nn

from mmlesson import assets, world
from mmlesson.models.clip import clip_resnet
from mmlesson.models.flamingo import MEDIA_WIDTH, GatedCrossAttention, ProjectedGrid
from mmlesson.models.gemini import (
    FIRST_CODE,
    GRID,
    SOUND,
    MelEncoder,
    RawFrames,
    Streams,
    exam,
    small_gemini,
    train_gemini,
)

OBJECTS = world.FEW  # a third of all: many short runs have little time
SENSING = {"write": 16, "hear": 16, "ask": 8}  # the streams of a step that end in words about something sensed
KINDS = {**SENSING, "read": 8, "draw": 16}


class GraftedBlock(nn.Module):
    """A block of the decoder, frozen, with lesson 06's gated cross-attention before it; `media` is set from outside."""

    def __init__(self, block, width, heads):
        super().__init__()
        self.block, self.media = block, None
        self.gated = GatedCrossAttention(width, width, heads, width // heads)

    def forward(self, x, cache=None, need_weights=False):
        everywhere = torch.ones(*x.shape[:2], self.media.shape[1], dtype=torch.bool, device=x.device)
        return self.block(self.gated(x, self.media, everywhere), cache, need_weights)


class Grafted(nn.Module):
    """A decoder that has learned from text alone, frozen, with eyes and ears attached afterwards (lesson 06's way).

    The eyes are lesson 02's CLIP, frozen: a picture is restored from its codes and seen as 16 features. The ears are
    MelEncoder. Pictures and sounds so leave the stream and become media that every word may look at: the rows of a
    batch hold them in the same places, before the words that need them. Ears, projections and gated layers are trained.
    It reads, and it cannot draw, for no code passes through the decoder.
    """

    def __init__(self, reader, clip, codebook, heads=4):
        super().__init__()
        self.embedding, self.scale, self.decoder = reader.embedding, reader.scale, reader.decoder
        self.eyes, self.restored = clip.image_encoder, codebook.decode
        self.eyes.attnpool = ProjectedGrid(self.eyes.attnpool)
        self.requires_grad_(False)
        width = self.embedding.embedding_dim
        self.see, self.listener, self.norm = nn.Linear(MEDIA_WIDTH, width), MelEncoder(width), nn.LayerNorm(width)
        self.decoder.blocks = nn.ModuleList(GraftedBlock(block, width, heads) for block in self.decoder.blocks)

    def train(self, mode=True):
        """As in any Module, but the eyes stay in eval mode: their BatchNorm must not learn either."""
        super().train(mode)
        self.eyes.eval()
        return self

    def embed(self, tokens, waves=None):
        """The words of tokens (N, T) as (N, words, width); what stands between them is set as the blocks' media."""
        is_code, is_sound = tokens[0] >= FIRST_CODE, tokens[0] == SOUND
        media = []
        if is_code.any():
            codes = (tokens[:, is_code] - FIRST_CODE).unflatten(1, (GRID, GRID))
            media.append(self.see(self.eyes(self.restored(codes))))
        if waves is not None:
            media.append(self.listener(waves))
        if media:
            for block in self.decoder.blocks:
                block.media = self.norm(torch.cat(media, dim=1))
        return self.embedding(tokens[:, ~(is_code | is_sound)]) * self.scale

    def logits(self, states):
        return nn.functional.linear(states, self.embedding.weight)

    def forward(self, tokens, waves=None):
        """As GeminiStyle's; the logits for places of codes and of sound are 0."""
        sensed = (tokens[0] >= FIRST_CODE) | (tokens[0] == SOUND)
        logits = torch.zeros(*tokens.shape, self.embedding.num_embeddings, device=tokens.device)
        logits[:, ~sensed] = self.logits(self.decoder(self.embed(tokens, waves)))
        return logits


def grafted(codebook, steps, seed, device):
    """Text alone for half as many steps, then `steps` with all frozen but the graft: (model, History of both).

    So it sees and hears as often as the native ones, and it has read before.
    """
    reader = small_gemini().to(device)
    history, _ = train_gemini(reader, codebook, steps // 2, {"read": sum(SENSING.values())}, OBJECTS, seed=seed)
    clip = clip_resnet()
    clip.load_state_dict(assets.load_weights("clip_resnet"))
    model = Grafted(reader, clip, codebook).to(device)
    more, _ = train_gemini(model, codebook, steps, SENSING, OBJECTS, seed=seed + 1)
    return model, history + more


VARIANTS = {  # what small_gemini is built with
    "native": {},
    "grafted": None,
    "native, raw sound": {"listener": RawFrames},
    "native, no QK-norm": {"qk_norm": False},
}
MEASURED_EVERY = 50  # steps


def trained_variant(name, codebook, steps, seed, device, kinds=KINDS):
    """(model, History): the lesson's model with one thing changed, on the same streams and steps.

    The History measures the largest attention logit of each kind of stream, for the native ones.
    """
    torch.manual_seed(seed)
    if VARIANTS[name] is None:
        model, history = grafted(codebook, steps, seed, device)
    else:
        model = small_gemini(**VARIANTS[name]).to(device)
        streams = Streams(codebook, seed=1000, objects=OBJECTS)
        probes = {kind: streams.batch(kind, 4) for kind in kinds}

        def measure(step):
            return {kind: largest_logit(model, tokens, waves) for kind, (tokens, _, waves) in probes.items()}

        history, _ = train_gemini(model, codebook, steps, kinds, OBJECTS, seed=seed, measure=measure,
                                  measure_every=MEASURED_EVERY)  # fmt: skip
    return model.eval(), history


@torch.no_grad()
def largest_logit(model, tokens, waves):
    """The largest |q k| / sqrt(d) that any head of any layer computes for these streams, before the softmax."""
    largest, hooks = [], []

    def look(attention, inputs, _):
        q, k = attention.queries_and_keys(inputs[0])
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        largest.append((q @ k.mT / q.shape[-1] ** 0.5).abs().max().item())

    for block in model.decoder.blocks:
        hooks.append(block.attn.register_forward_hook(look))
    model(tokens, waves)
    for hook in hooks:
        hook.remove()
    return max(largest)


def board(model, history, codebook, judge):
    """What a variant scored, and how its attention logits grew: a dict of scores and of dicts {step: logit}."""
    able = None if isinstance(model, Grafted) else judge
    scores = exam(model, codebook, able, objects=OBJECTS, watch=False)
    growth = {kind: {str(m["step"]): m[kind] for m in history.measures} for kind in KINDS if history.measures}
    return {**scores, "seconds": history.seconds, **({"logits": growth} if growth else {})}
