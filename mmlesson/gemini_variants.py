"""Lesson 07's model with one thing changed: grafted, not native; raw sound; no QK-norm. All learn equally long."""

import torch
from torch import nn

from mmlesson import world
from mmlesson.models.flamingo import GatedCrossAttention
from mmlesson.models.gemini import (
    FIRST_CODE,
    SOUND,
    RawFrames,
    Streams,
    exam,
    small_gemini,
    train_gemini,
)
from mmlesson.train import History

OBJECTS = world.FEW  # a third of all: many short runs have little time
SENSING = {"write": 24, "hear": 24, "ask": 8}  # the streams of a step that end in words about something sensed
KINDS = {**SENSING, "read": 8, "draw": 24}


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

    Codes and sounds leave the stream and become media that every word may look at: the rows of a batch hold them in the
    same places, before the words that need them. What embeds them, and the gated layers, are trained. It reads, and it
    cannot draw, for no code passes through the decoder.
    """

    def __init__(self, reader, heads=4):
        super().__init__()
        self.embedding, self.scale, self.decoder = reader.embedding, reader.scale, reader.decoder
        self.requires_grad_(False)
        width = self.embedding.embedding_dim
        self.senses = small_gemini()  # its embeddings and its listener
        self.senses.decoder = None
        self.norm = nn.LayerNorm(width)
        self.decoder.blocks = nn.ModuleList(GraftedBlock(block, width, heads) for block in self.decoder.blocks)

    def embed(self, tokens, waves=None):
        """The words of tokens (N, T) as (N, words, width); what stands between them is set as the blocks' media."""
        sensed = (tokens[0] >= FIRST_CODE) | (tokens[0] == SOUND)
        if sensed.any():
            media = self.norm(self.senses.embed(tokens, waves)[:, sensed])
            for block in self.decoder.blocks:
                block.media = media
        return self.embedding(tokens[:, ~sensed]) * self.scale

    def logits(self, states):
        return nn.functional.linear(states, self.embedding.weight)

    def forward(self, tokens, waves=None):
        """As GeminiStyle's; the logits for places of codes and of sound are 0."""
        sensed = (tokens[0] >= FIRST_CODE) | (tokens[0] == SOUND)
        logits = torch.zeros(*tokens.shape, self.embedding.num_embeddings, device=tokens.device)
        logits[:, ~sensed] = self.logits(self.decoder(self.embed(tokens, waves)))
        return logits


def grafted(codebook, steps, seed, device):
    """Half of the steps on text alone, then half with all frozen but the graft: (model, History)."""
    reader = small_gemini().to(device)
    history, _ = train_gemini(reader, codebook, steps // 2, {"read": sum(SENSING.values())}, OBJECTS, seed=seed)
    model = Grafted(reader).to(device)
    more, _ = train_gemini(model, codebook, steps - steps // 2, SENSING, OBJECTS, seed=seed + 1)
    return model, History(steps=history.steps + more.steps, loss=history.loss + more.loss,
                          seconds=history.seconds + more.seconds)  # fmt: skip


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
