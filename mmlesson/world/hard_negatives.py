"""Hard negatives: captions with one mistake beside the true ones, to train and test matching."""

import torch

from mmlesson.world.captions import noun_phrase, relation
from mmlesson.world.objects import COLORS, OBJECTS
from mmlesson.world.scenes import held_out

HARD_NEGATIVES = ("colors swapped", "objects swapped", "places swapped", "another color", "another object")


def swappable(scenes):
    """(N,) bool: where two items can trade colors: different objects and colors, and no held-out pair results."""
    objects, colors = scenes.objects[:, :2], scenes.colors[:, :2]
    two = (scenes.counts == 2) & (objects[:, 0] != objects[:, -1]) & (colors[:, 0] != colors[:, -1])
    return two & ~held_out(objects, colors.flip(1)).any(dim=1)


def hard_negatives(scenes, seed=0, kind=None, joined=None, objects=None):
    """A true caption and a hard negative for each scene of one or two items: (list of N strings, list of N strings).

    kind: one of HARD_NEGATIVES; None draws one that fits for each scene. joined: "and" or "relation", how the two
    items are named together; None draws. objects: indices that "another object" chooses from; None means all 96.
    The negative of a scene of training pairs never names a held-out pair, or "never seen" would already mean "wrong".
    Captions name first what stands left or above, as one reads; the negatives do so for what they claim.
    Raises ValueError for a scene that the kind does not fit (see `swappable`), or that has more than two items.
    """
    if kind is not None and kind not in HARD_NEGATIVES:
        raise ValueError(f"There is no hard negative {kind!r}; choose one of {', '.join(HARD_NEGATIVES)}.")
    if joined not in (None, "and", "relation"):
        raise ValueError(f'joined is "and" or "relation" (or None for either), not {joined!r}.')
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    counts, can_swap = scenes.counts.tolist(), swappable(scenes).tolist()
    if max(counts) > 2:
        raise ValueError("hard_negatives takes scenes with one or two items; sample them with items=1 or items=2.")
    dice = torch.rand(len(scenes), 4, generator=generator).tolist()
    objects = range(len(OBJECTS)) if objects is None else objects
    captions, negatives = [], []
    for i, count in enumerate(counts):
        items = list(zip(scenes.objects[i, :count].tolist(), scenes.colors[i, :count].tolist()))
        fits = [k for k in HARD_NEGATIVES if _fits(k, items, can_swap[i])]
        if kind is not None and kind not in fits:
            raise ValueError(f"{kind!r} does not fit scene {i}: take only scenes where world.swappable is true.")
        chosen = kind or fits[int(dice[i][0] * len(fits))]
        word = relation(scenes, i) if count == 2 else ""
        if word in ("right of", "below"):
            items, word = items[::-1], {"right of": "left of", "below": "above"}[word]
        link = joined or ("and" if dice[i][1] < 0.5 else "relation")
        if link == "and" and chosen != "places swapped":
            word = "and"
        captions.append(_sentence(items, word))
        negatives.append(_sentence(_corrupted(items, chosen, dice[i][2:], objects), word))
    return captions, negatives


def _fits(kind, items, can_swap):
    if kind in ("colors swapped", "objects swapped"):
        return can_swap
    return kind != "places swapped" or (len(items) == 2 and items[0] != items[1])


def _sentence(items, word):
    return f" {word} ".join(noun_phrase(*item) for item in items)


def _corrupted(items, kind, dice, objects):
    """The (object, color) pairs with one mistake."""
    if kind == "places swapped":
        return items[::-1]
    if kind in ("colors swapped", "objects swapped"):
        (a, red), (b, blue) = items
        return [(a, blue), (b, red)] if kind == "colors swapped" else [(b, red), (a, blue)]
    which = int(dice[0] * len(items))
    obj, color = items[which]
    unseen = held_out(obj, color)
    if kind == "another color":
        others = [(obj, c) for c in range(len(COLORS)) if c != color and (unseen or not held_out(obj, c))]
    else:
        others = [(o, color) for o in objects if o != obj and (unseen or not held_out(o, color))]
    others = [item for item in others if item not in items]
    return [*items[:which], others[int(dice[1] * len(others))], *items[which + 1 :]]
