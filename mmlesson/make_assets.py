"""Trains the shipped checkpoints again, with the lessons' own code.

`make assets` for all of them, `python -m mmlesson.make_assets NAME` for one.
"""

import sys

import torch

from mmlesson import assets, device, scores, world
from mmlesson.models import clip

SEED = 0
STEPS = {"clip_resnet": 800, "clip_vit": 6000}
ABOUT = {
    "clip_resnet": "The CLIP of lesson 02 with the small ModifiedResNet, as `train_clip` leaves it.",
    "clip_vit": "The CLIP of lesson 02 with the small ViT, by the same `train_clip`: a ViT needs more steps.",
}
DATA = """
Data: random scenes of the course's own world, 672 of the 768 (object, color) pairs, eight caption templates. The other
96 pairs never appear in training; the metrics are measured on them. Pictures: OpenMoji (https://openmoji.org),
CC BY-SA 4.0. Made for teaching: it knows 96 drawings and nothing else.
"""


def train(name):
    """Train one checkpoint from its seed and write assets/<name>.safetensors with its model card."""
    torch.manual_seed(SEED)
    model = getattr(clip, name)().to(device())
    history = clip.train_clip(model, steps=STEPS[name], seed=SEED)
    model.eval()
    unseen = world.sample(960, seed=100, split="held_out")
    classifier = clip.zero_shot_classifier(model, world.pair_captions(world.pairs()))
    similarity = clip.image_features(model, unseen) @ classifier.T
    target = (unseen.objects * len(world.COLORS) + unseen.colors)[:, 0].to(similarity.device)
    card = {
        "command": f"python -m mmlesson.make_assets {name}",
        "seed": SEED,
        "steps": len(history.steps),
        "seconds": round(history.seconds),
        "metrics": {"zero_shot_held_out": round(scores.recall_at_k(similarity, 1, target), 4)},
        "config": {
            "builder": f"mmlesson.models.clip.{name}()",
            "parameters": sum(p.numel() for p in model.parameters()),
            "torch": torch.__version__.split("+")[0],
            "device": device().type,
        },
    }
    path = assets.save_weights(name, model.state_dict(), card, ABOUT[name] + "\n" + DATA)
    print(f"{path.name}: {card['metrics']}, {card['seconds']} s")


if __name__ == "__main__":
    for name in sys.argv[1:] or STEPS:
        if name not in STEPS:
            sys.exit(f"There is no checkpoint {name!r} to make; choose from {', '.join(STEPS)}.")
        train(name)
