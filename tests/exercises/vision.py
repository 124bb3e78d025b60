"""Answers to the Vision lesson's exercise, written independently of its check."""

import torch
import torch.nn.functional as F


def by_einsum(images, patch):
    grid = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
    return torch.einsum("nchywx->nhwcyx", grid).flatten(3).flatten(1, 2)


def by_loops(images, patch):
    rows, columns = range(0, images.size(2), patch), range(0, images.size(3), patch)
    return torch.stack([images[:, :, y : y + patch, x : x + patch].flatten(1) for y in rows for x in columns], dim=1)


def with_square_grid(images, patch):
    N, C, H, _ = images.shape
    side = H // patch
    return images.reshape(N, C, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5).reshape(N, side * side, -1)


WRONG = {
    "patchify": {
        "uses unfold, which this exercise asks you to do without": lambda images, patch: F.unfold(images, patch).mT,
        "uses pixel_unshuffle": lambda images, patch: F.pixel_unshuffle(images, patch).flatten(2).mT,
        "raised RuntimeError in the line `return images.reshape(N, C, side, patch": with_square_grid,
        "expected torch.float64, the dtype of the inputs": lambda images, patch: by_einsum(images.float(), patch),
        "changes its input images in place": lambda images, patch: by_einsum(images.mul_(2), patch),
        "(2, 3, 4, 6) and patch 2 differ by up to": lambda images, patch: by_loops(images.flip(3), patch),
    }
}
RIGHT = {"patchify": {"loops": by_loops, "einsum": by_einsum}}
