"""The Gemini-style model with one thing changed: grafted, not native; raw sound; no QK-norm. All train equally long."""

import torch
import torch.nn.functional as F
from torch import nn

from mmlesson import device, world
from mmlesson.checkpoints import load_pretrained
from mmlesson.experiments import gemini_evaluation
from mmlesson.models.flamingo import MEDIA_WIDTH, GatedCrossAttention, GridEncoder
from mmlesson.models.gemini import (
    FIRST_CODE,
    GRID,
    SOUND,
    MelEncoder,
    RawFrames,
    interleave,
    small_gemini,
    train_gemini,
)

STEPS = 800
OBJECTS = world.SUBSET  # a third of all: many short runs have little time
SENSING = {"write": 16, "hear": 16, "ask": 8}  # rows per step that end in words about an image or a sound
MIXTURE = {**SENSING, "read": 8, "draw": 16}
MEASURE_EVERY = 50  # steps


class GraftedBlock(nn.Module):
    """A frozen block of the decoder with Flamingo's gated cross-attention before it; `media` is set from outside."""

    def __init__(self, block, *, width, heads):
        super().__init__()
        self.block, self.media = block, None
        self.gated = GatedCrossAttention(width=width, media_width=width, heads=heads, head_dim=width // heads)

    def forward(self, x, cache=None):
        everywhere = torch.ones(*x.shape[:2], self.media.shape[1], dtype=torch.bool, device=x.device)
        return self.block(self.gated(x, self.media, everywhere), cache)


class Grafted(nn.Module):
    """A frozen decoder that was trained on text alone, with image and audio encoders attached afterwards (as Flamingo).

    The image encoder is our CLIP's, frozen: an image is restored from its codes and seen as 16 features. The audio
    encoder is a MelEncoder. So images and sounds leave the token stream and become media that every word may look at;
    all rows of a batch must hold them in the same places, before the words that need them. The audio encoder, the
    projections and the gated layers are trained. It can read but not draw, because no image code passes through the
    decoder.
    """

    def __init__(self, reader, clip, codebook):
        super().__init__()
        self.embedding, self.scale, self.decoder = reader.embedding, reader.scale, reader.decoder
        self.tokenizer, self.first_code, self.grid = reader.tokenizer, reader.first_code, reader.grid
        self.image_encoder, self.decode_codes = GridEncoder(clip.image_encoder), codebook.decode
        self.requires_grad_(False)
        width = self.embedding.embedding_dim
        self.image_projection = nn.Linear(MEDIA_WIDTH, width)
        self.audio_encoder = MelEncoder(width)
        self.norm = nn.LayerNorm(width)
        blocks = (GraftedBlock(block, width=width, heads=4) for block in self.decoder.blocks)
        self.decoder.blocks = nn.ModuleList(blocks)

    def train(self, mode=True):
        """As in any Module, but the image encoder stays in eval mode: its BatchNorm must not learn either."""
        super().train(mode)
        self.image_encoder.eval()
        return self

    def embed(self, tokens, waves=None):
        """The words of tokens (N, T) as (N, words, width); images and sounds are set as the blocks' media."""
        is_code, is_sound = tokens[0] >= FIRST_CODE, tokens[0] == SOUND
        media = []
        if is_code.any():
            codes = (tokens[:, is_code] - FIRST_CODE).unflatten(1, (GRID, GRID))
            media.append(self.image_projection(self.image_encoder(self.decode_codes(codes))))
        if waves is not None:
            media.append(self.audio_encoder(waves))
        if media:
            for block in self.decoder.blocks:
                block.media = self.norm(torch.cat(media, dim=1))
        return self.embedding(tokens[:, ~(is_code | is_sound)]) * self.scale

    def logits(self, states):
        return F.linear(states, self.embedding.weight)

    def forward(self, tokens, waves=None):
        """As GeminiStyle's; the logits at image codes and sounds are 0."""
        sensed = (tokens[0] >= FIRST_CODE) | (tokens[0] == SOUND)
        logits = torch.zeros(*tokens.shape, self.embedding.num_embeddings, device=tokens.device)
        logits[:, ~sensed] = self.logits(self.decoder(self.embed(tokens, waves)))
        return logits


VARIANTS = {  # what small_gemini is built with
    "native": {},
    "grafted": None,
    "native, raw sound": {"audio_encoder": RawFrames},
    "native, no QK-norm": {"qk_norm": False},
}


def streams(codebook, steps, mixture, seed):
    return world.Streams(codebook.encode, steps, mixture=mixture, objects=OBJECTS, seed=seed, device=device())


def train_grafted(codebook, steps, seed, sensing):
    """(model, History): text alone for half as many steps, then `steps` with everything frozen but the graft.

    So it sees and hears as often as the native models, and it has read before.
    """
    reader = small_gemini().to(device())
    text = streams(codebook, steps // 2, {"read": sum(sensing.values())}, seed)
    history, _ = train_gemini(reader, text)
    model = Grafted(reader, load_pretrained("clip_resnet"), codebook).to(device())
    more, _ = train_gemini(model, streams(codebook, steps, sensing, seed + 1))
    return model, history + more


def train_variant(variant, seed, codebook, steps=STEPS, mixture=MIXTURE):
    """(model, History): the lesson's model with one thing changed, on the same streams and steps.

    For the native ones the History measures the largest attention logit of each kind of rows.
    """
    torch.manual_seed(seed)
    if VARIANTS[variant] is None:
        model, history = train_grafted(codebook, steps, seed, {kind: mixture[kind] for kind in SENSING})
        return model.eval(), history
    model = small_gemini(**VARIANTS[variant]).to(device())
    source = streams(codebook, 0, {}, seed=1000)
    probes = {kind: source.rows(kind, 4) for kind in mixture}

    def measure(step):
        return {kind: largest_logit(model, *probe) for kind, probe in probes.items()}

    train = streams(codebook, steps, mixture, seed)
    history, _ = train_gemini(model, train, measure=measure, measure_every=MEASURE_EVERY)
    return model.eval(), history


@torch.no_grad()
def largest_logit(model, rows, waves):
    """The largest |q k| / sqrt(d) that any head of any layer computes for these rows, before the softmax."""
    largest, hooks = [], []

    def look(attention, inputs, _):
        q, k = attention.queries_and_keys(inputs[0])
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        largest.append((q @ k.mT / q.shape[-1] ** 0.5).abs().max().item())

    for block in model.decoder.blocks:
        hooks.append(block.attn.register_forward_hook(look))
    tokens, _ = interleave(rows)
    model(tokens.to(device()), None if waves is None else waves.to(device()))
    for hook in hooks:
        hook.remove()
    return max(largest)


def evaluate(model, history, codebook, classifier):
    """Scores of a variant, its seconds, and how its attention logits grew: {kind: {step: logit}} as "logits"."""
    classifier = None if isinstance(model, Grafted) else classifier
    scores = gemini_evaluation.evaluate(model, codebook, classifier, objects=OBJECTS, with_video=False)
    kinds = [kind for kind in MIXTURE if history.measures]
    growth = {kind: {str(m["step"]): m[kind] for m in history.measures} for kind in kinds}
    return {**scores, "seconds": history.seconds, **({"logits": growth} if growth else {})}


def run(variant, seed):
    """(scores, History) of one run."""
    codebook = load_pretrained("codebook", device())
    model, history = train_variant(variant, seed, codebook)
    classifier = gemini_evaluation.PairClassifier(load_pretrained("clip_resnet", device()))
    return evaluate(model, history, codebook, classifier), history
