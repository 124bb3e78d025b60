"""Flamingo's few-shot accuracy: each answer of an episode has the earlier ones as its examples."""

import torch

from mmlesson import world


@torch.no_grad()
def answers_correct(model, episodes, frames=8, transform=None, batch_size=300):
    """Whether each answer is correct, given the earlier ones in context: (N, M) bool, on the CPU.

    transform: changes the images (N, M, ..., 3, H, W) before the model gets them, as a control. batch_size: about how
    many images, or frames of clips, are encoded together.
    """
    device, correct = next(model.parameters()).device, []
    images_each = episodes.starts.shape[1] * (frames if isinstance(episodes.media, world.Clips) else 1)
    for chunk in torch.arange(len(episodes)).split(max(1, batch_size // images_each)):
        part = episodes[chunk]
        images = part.images(frames=frames, device=device)
        features = model.encode(images if transform is None else transform(images))
        correct.append(part.correct(model(part.tokens.to(device), features)).cpu())
    return torch.cat(correct)


def few_shot_accuracy(model, kind, n=200, shots=8, frames=8, transform=None, **options):
    """Accuracy by the number of examples, (shots + 1,), on pairs that training never shows.

    kind and options: as in world.episodes. frames, transform: as in answers_correct.
    """
    episodes = world.episodes(n, 2_000_000, kind, shots=shots, split="held_out", **options)
    return answers_correct(model, episodes, frames, transform).float().mean(dim=0)
