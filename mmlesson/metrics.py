"""Metrics with a known truth: does the attention lie on the object, and is the match ranked first?"""

import torch


def pointing_game(maps, boxes):
    """Whether the center of each map's largest cell lies inside the box.

    maps: (..., gh, gw) attention over a grid of cells. boxes: (..., 4) as (x0, y0, x1, y1), fractions of the side;
    the leading dimensions broadcast, so boxes[:, None] serves maps of (N, heads, gh, gw). Returns bool (...).
    The pointing game of Zhang et al. 2018, "Top-down neural attention by excitation backprop", section 4.1, without
    its margin of 15 pixels.
    """
    maps, boxes = _checked(maps, boxes)
    centers = _centers_inside(maps.shape[-2:], boxes).flatten(-2)
    peak = maps.flatten(-2).argmax(-1, keepdim=True)
    return centers.expand(*peak.shape[:-1], -1).gather(-1, peak).squeeze(-1)


def pointing_chance(grid, boxes):
    """The fraction of the grid's cells that would hit in the pointing game: what pointing at random scores.

    grid: (gh, gw). boxes: (..., 4). Returns float (...).
    """
    return _centers_inside(grid, boxes).float().mean((-2, -1))


def attention_inside(maps, boxes):
    """The fraction of each map's attention inside the box; a cell on the edge counts by its area inside.

    maps: (..., gh, gw), not negative. boxes: (..., 4) as in pointing_game. Returns float (...) from 0 to 1; even
    attention scores the box's area, (x1 - x0) * (y1 - y0).
    """
    maps, boxes = _checked(maps, boxes)
    if (maps < 0).any():
        raise ValueError("attention_inside needs weights, which are not negative: pass attention after its softmax.")
    height, width = maps.shape[-2:]
    x0, y0, x1, y1 = (boxes[..., i, None].to(maps) for i in range(4))
    rows, columns = (torch.arange(n, device=maps.device) / n for n in (height, width))
    # How much of each row and of each column of cells the box covers, as fractions of the cell.
    down = ((rows + 1 / height).minimum(y1) - rows.maximum(y0)).clamp(min=0) * height
    across = ((columns + 1 / width).minimum(x1) - columns.maximum(x0)).clamp(min=0) * width
    covered = down[..., :, None] * across[..., None, :]
    return (maps * covered).sum((-2, -1)) / maps.sum((-2, -1))


def recall_at_k(similarity, k=1, target=None):
    """The fraction of rows whose target is among the k highest scores of the row, as a float from 0 to 1.

    similarity: (N, M), row i against every candidate. target: (N,) column of the right candidate; default i itself.
    A tie counts against the target, so a model that scores everything alike is not rewarded.
    """
    if not torch.isfinite(similarity).all():
        raise ValueError("recall_at_k got scores that are not finite (nan or inf): they have no order.")
    if not 1 <= k <= similarity.shape[1]:
        raise ValueError(f"k must be from 1 to the {similarity.shape[1]} candidates, not {k}.")
    if target is None:
        if similarity.shape[0] > similarity.shape[1]:
            raise ValueError(f"{tuple(similarity.shape)} has rows without a column of their own: pass target.")
        target = torch.arange(len(similarity), device=similarity.device)
    score = similarity.gather(1, target.to(similarity.device)[:, None])
    rank = (similarity >= score).sum(1)  # 1 is the top; those that tie come first
    return (rank <= k).float().mean().item()


def _checked(maps, boxes):
    if maps.dim() < 2 or boxes.shape[-1:] != (4,):
        raise ValueError(
            f"Expected maps (..., gh, gw) and boxes (..., 4), got {tuple(maps.shape)} and {tuple(boxes.shape)}."
        )
    if not torch.isfinite(maps).all():
        raise ValueError("The attention maps hold nan or inf: a fully masked row?")
    return maps, boxes.to(maps.device)


def _centers_inside(grid, boxes):
    """Bool (..., gh, gw): whether the center of each cell lies inside the box."""
    height, width = grid
    y = ((torch.arange(height, device=boxes.device) + 0.5) / height)[:, None]
    x = (torch.arange(width, device=boxes.device) + 0.5) / width
    x0, y0, x1, y1 = (boxes[..., i, None, None] for i in range(4))
    return (x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)
