"""Trains the shipped checkpoints again, with the lessons' own code.

`make assets` for all of them, `python -m mmlesson.make_assets NAME` for one.
"""

import sys

import torch

from mmlesson import assets, device, scores, world
from mmlesson.models import clip

SEED = 0
RECIPES = {
    "clip_resnet": {"steps": 540},
    "clip_vit": {"steps": 1600, "lr": 1e-3, "curriculum": 0.7},
}
ABOUT = {
    "clip_resnet": "The CLIP of lesson 02 with the small ModifiedResNet, as `train_clip` leaves it.",
    "clip_vit": "The CLIP of lesson 02 with the small ViT, by the same `train_clip`: a ViT needs more steps.",
}
DATA = """
Data: random scenes of the course's own world, 672 of the 768 (object, color) pairs, eight caption templates. The other
96 pairs never appear in training; the metrics are measured on them. Pictures: OpenMoji (https://openmoji.org),
CC BY-SA 4.0. Made for teaching: it knows 96 drawings and nothing else.
"""


def held_out(model):
    """Zero-shot top-1 over all 768 captions, on pictures of the pairs that training never shows."""
    unseen = world.sample(960, seed=100, split="held_out")
    classifier = clip.zero_shot_classifier(model, world.pair_captions(world.pairs()))
    similarity = clip.image_features(model, unseen) @ classifier.T
    target = (unseen.objects * len(world.COLORS) + unseen.colors)[:, 0].to(similarity.device)
    return {"zero_shot_held_out": scores.recall_at_k(similarity, 1, target)}


def train(name):
    """Train one checkpoint from its seed and write assets/<name>.safetensors with its model card."""
    torch.manual_seed(SEED)
    model = getattr(clip, name)().to(device())
    history = clip.train_clip(model, **RECIPES[name], seed=SEED, measure=lambda _: held_out(model), measure_every=200)
    for measured in history.measures:
        print(measured)
    model.eval()
    card = {
        "command": f"python -m mmlesson.make_assets {name}",
        "seed": SEED,
        "steps": len(history.steps),
        "seconds": round(history.seconds),
        "metrics": {name: round(value, 4) for name, value in held_out(model).items()},
        "config": {
            **RECIPES[name],
            "builder": f"mmlesson.models.clip.{name}()",
            "parameters": sum(p.numel() for p in model.parameters()),
            "torch": torch.__version__.split("+")[0],
            "device": device().type,
        },
    }
    path = assets.save_weights(name, model.state_dict(), card, ABOUT[name] + "\n" + DATA)
    print(f"{path.name}: {card['metrics']}, {card['seconds']} s")


if __name__ == "__main__":
    for name in sys.argv[1:] or RECIPES:
        if name not in RECIPES:
            sys.exit(f"There is no checkpoint {name!r} to make; choose from {', '.join(RECIPES)}.")
        train(name)
