"""True captions beside captions in which one thing is wrong: what matching is trained and tested on."""

import torch

from mmlesson.world.captions import noun_phrase, relation
from mmlesson.world.objects import COLORS, OBJECTS
from mmlesson.world.scenes import held_out

CONTRASTS = ("colors swapped", "objects swapped", "places swapped", "another color", "another object")


def swappable(scenes):
    """(N,) bool: where two items can trade their colors: different objects, different colors, no held-out pair."""
    objects, colors = scenes.objects[:, :2], scenes.colors[:, :2]
    two = (scenes.counts == 2) & (objects[:, 0] != objects[:, -1]) & (colors[:, 0] != colors[:, -1])
    return two & ~held_out(objects, colors.flip(1)).any(dim=1)


def contrasts(scenes, seed=0, kind=None, joined=None, objects=None):
    """A true and a wrong caption for each scene of one or two items: (list of N strings, list of N strings).

    kind: one of CONTRASTS; None draws one that fits for each scene. joined: "and" or "relation", how the two items
    are named together; None draws. objects: the indices that "another object" chooses from; None is all 96.
    The wrong caption never names a held-out pair of a scene of training pairs, or "never seen" would already mean
    "wrong". Captions name first what stands left or above, as one reads; so do the wrong ones, of what they claim.
    Raises ValueError for a scene that the kind does not fit (see `swappable`), or that has more than two items.
    """
    if kind is not None and kind not in CONTRASTS:
        raise ValueError(f"There is no contrast {kind!r}; choose one of {', '.join(CONTRASTS)}.")
    if joined not in (None, "and", "relation"):
        raise ValueError(f'joined is "and" or "relation" (or None for either), not {joined!r}.')
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    counts, can_swap = scenes.counts.tolist(), swappable(scenes).tolist()
    if max(counts) > 2:
        raise ValueError("contrasts speaks of scenes with one or two items; sample them with items=1 or items=2.")
    dice = torch.rand(len(scenes), 4, generator=generator).tolist()
    objects = range(len(OBJECTS)) if objects is None else objects
    right, wrong = [], []
    for i, count in enumerate(counts):
        things = list(zip(scenes.objects[i, :count].tolist(), scenes.colors[i, :count].tolist()))
        fits = [c for c in CONTRASTS if _fits(c, things, can_swap[i])]
        if kind is not None and kind not in fits:
            raise ValueError(f"{kind!r} does not fit scene {i}: take only scenes where world.swappable is true.")
        chosen = kind or fits[int(dice[i][0] * len(fits))]
        word = relation(scenes, i) if count == 2 else ""
        if word in ("right of", "below"):
            things, word = things[::-1], {"right of": "left of", "below": "above"}[word]
        told = joined or ("and" if dice[i][1] < 0.5 else "relation")
        if told == "and" and chosen != "places swapped":
            word = "and"
        right.append(_sentence(things, word))
        wrong.append(_sentence(_spoiled(things, chosen, dice[i][2:], objects), word))
    return right, wrong


def _fits(kind, things, can_swap):
    if kind in ("colors swapped", "objects swapped"):
        return can_swap
    return kind != "places swapped" or (len(things) == 2 and things[0] != things[1])


def _sentence(things, word):
    return f" {word} ".join(noun_phrase(*thing) for thing in things)


def _spoiled(things, kind, dice, objects):
    """The (object, color) pairs with one thing wrong."""
    if kind == "places swapped":
        return things[::-1]
    if kind in ("colors swapped", "objects swapped"):
        (a, red), (b, blue) = things
        return [(a, blue), (b, red)] if kind == "colors swapped" else [(b, red), (a, blue)]
    which = int(dice[0] * len(things))
    obj, color = things[which]
    unseen = held_out(obj, color)
    if kind == "another color":
        others = [(obj, c) for c in range(len(COLORS)) if c != color and (unseen or not held_out(obj, c))]
    else:
        others = [(o, color) for o in objects if o != obj and (unseen or not held_out(o, color))]
    others = [thing for thing in others if thing not in things]
    return [*things[:which], others[int(dice[1] * len(others))], *things[which + 1 :]]
