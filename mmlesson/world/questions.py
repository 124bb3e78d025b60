"""Questions about scenes, and their answers: a small grammar, true by the spec."""

import random
from collections import Counter
from typing import NamedTuple

import torch

from mmlesson.world.captions import NUMBERS, be, describe, noun_phrase, plural
from mmlesson.world.objects import COLORS, NATURAL, OBJECTS
from mmlesson.world.scenes import EMPTY, held_out

_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


class _Item(NamedTuple):
    object: int
    color: int
    box: tuple  # x0, y0, x1, y1

    @property
    def name(self):
        return OBJECTS[self.object].name


def questions(scenes, seed=0, kinds=None):
    """One question and its answer for every scene: two lists of N strings.

    seed: an int or a torch.Generator. kinds: some of QUESTIONS (all if None); each scene gets one of those that have
    exactly one true answer there:
        color     what color is the dog?                   red
        object    what is it? / what is red?               apple
        neighbor  what is left of the red apple?           dog
        where     where is the red apple? (of two items)   left
        count     how many apples are there?               three
        exists    is there a red apple?                    yes / no
        relation  is the red apple left of the dog?        yes / no
    Yes and no are equally frequent in both kinds, and what is denied is nearly there: the apple in the color of the
    dog beside it, the two items with places exchanged. A question about training pairs never names a held-out one.
    Raises ValueError for an unknown kind, or a scene about which nothing of `kinds` can be asked.
    """
    kinds = tuple(QUESTIONS if kinds is None else kinds)
    for kind in kinds:
        if kind not in QUESTIONS:
            raise ValueError(f"There are no questions of kind {kind!r}; choose from {', '.join(QUESTIONS)}.")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    rng = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
    asked = [_ask(items, kinds, rng) for items in _items(scenes)]
    if None in asked:
        i = asked.index(None)
        raise ValueError(
            f"Nothing of the kinds {', '.join(kinds)} has one true answer in scene {i}, {describe(scenes, i)!r}; "
            "allow more kinds, or leave the scene out (mmlesson.world.askable tells)."
        )
    return [question for question, _ in asked], [answer for _, answer in asked]


def askable(scenes, kinds=None):
    """(N,) bool: whether `questions` finds something of these kinds to ask about each scene."""
    kinds = tuple(QUESTIONS if kinds is None else kinds)
    return torch.tensor([_ask(items, kinds, random.Random(0)) is not None for items in _items(scenes)])


def _ask(items, kinds, rng):
    for kind in rng.sample(kinds, len(kinds)):
        if asked := _ASK[kind](items, rng):
            return asked
    return None


def _items(scenes):
    rows = zip(scenes.objects.tolist(), scenes.colors.tolist(), scenes.boxes().tolist())
    return [[_Item(o, c, tuple(box)) for o, c, box in zip(*row) if o != EMPTY] for row in rows]


def _color(items, rng):
    """An object whose items all have one color."""
    colors = {}
    for item in items:
        colors.setdefault(item.object, []).append(item.color)
    single = [(o, found) for o, found in colors.items() if len(set(found)) == 1 and found[0] != NATURAL]
    if not single:
        return None
    o, found = rng.choice(single)
    name = OBJECTS[o].name if len(found) == 1 else plural(OBJECTS[o].name)
    return f"what color {be(name, len(found))} the {name}?", COLORS[found[0]].name


def _object(items, rng):
    """The only object in the image, or the only object in its color."""
    asked = ["it"] if len(items) == 1 else []
    for c in {item.color for item in items} - {NATURAL}:
        if len({item.object for item in items if item.color == c}) == 1:
            asked.append(COLORS[c].name)
    if not asked:
        return None
    chosen = rng.choice(sorted(asked))
    item = next(t for t in items if chosen in ("it", _color_name(t)))
    return f"what is {chosen}?", item.name


def _neighbor(items, rng):
    """The one item on some side of another: no second one may stand there, not even at a slant."""
    asked = []
    for there in items:
        for side in _OPPOSITE:
            found = [t for t in items if side in _sides(t, there)]
            if len(found) == 1 and _relation(found[0], there) == side and _the(there, items):
                asked.append((side, there, found[0]))
    if not asked:
        return None
    side, there, answer = rng.choice(asked)
    return f"what is {side} {_the(there, items, rng)}?", answer.name


def _where(items, rng):
    """The side of one of two items, seen from the other."""
    if len(items) != 2:
        return None
    here, there = rng.sample(items, 2)
    side = _relation(here, there)
    if side is None or not _the(here, items):
        return None
    return f"where {be(here.name)} {_the(here, items, rng)}?", side.split()[0]


def _count(items, rng):
    chosen, count = rng.choice([*Counter(item.name for item in items).items(), ("thing", len(items))])
    return f"how many {plural(chosen)} are there?", NUMBERS[count]


def _exists(items, rng):
    item, yes = rng.choice(items), rng.random() < 0.5
    o, c = item.object, item.color
    if c == NATURAL or rng.random() < 0.25:  # without a color
        present = {t.object for t in items}
        c = NATURAL
        if not yes:
            o = rng.choice([i for i in range(len(OBJECTS)) if i not in present])
    elif not yes:
        o, c = _absent(item, items, rng)
    phrase = noun_phrase(o, c)
    return f"{be(OBJECTS[o].name)} there {phrase}?", "yes" if yes else "no"


def _absent(item, items, rng):
    """A pair that is not in the scene and is close to what is: exchanged, recolored or another object in its color."""
    present = {(t.object, t.color) for t in items}
    # In training, a held-out pair would only ever be denied, and the model would learn to deny it.
    unseen_too = any(held_out(*pair) for pair in present)

    def absent(pair):
        return pair not in present and (unseen_too or not held_out(*pair))

    exchanged = {(a.object, b.color) for a in items for b in items if b.color != NATURAL}
    exchanged = sorted(filter(absent, exchanged))
    if exchanged and rng.random() < 0.5:
        return rng.choice(exchanged)
    recolored = [(item.object, c) for c in range(len(COLORS))]
    replaced = [(o, item.color) for o in range(len(OBJECTS))]
    return rng.choice(list(filter(absent, rng.choice([recolored, replaced]))))


def _is_beside(items, rng):
    """Whether two items stand as said; the false sentence says the opposite."""
    named = [t for t in items if _the(t, items)]
    stand = [(a, b) for a in named for b in named if a is not b and _relation(a, b)]
    if not stand:
        return None
    (a, b), yes = rng.choice(stand), rng.random() < 0.5
    side = _relation(a, b) if yes else _OPPOSITE[_relation(a, b)]
    return f"{be(a.name)} {_the(a, items, rng)} {side} {_the(b, items, rng)}?", "yes" if yes else "no"


def _sides(a, b):
    """On which sides of b the whole of a lies: one of RELATIONS, two at a slant, none where they overlap."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.box, b.box
    slack = 1e-3
    apart = {"left of": bx0 - ax1, "right of": ax0 - bx1, "above": by0 - ay1, "below": ay0 - by1}
    return {side for side, gap in apart.items() if gap > -slack}


def _relation(a, b):
    """How a stands to b, where that is beyond dispute: on one side only, and further that way than any other."""
    sides = _sides(a, b)
    if len(sides) != 1:
        return None
    dx, dy = (a.box[k] + a.box[k + 2] - b.box[k] - b.box[k + 2] for k in (0, 1))
    side = next(iter(sides))
    return side if (abs(dx) > abs(dy)) == (side in ("left of", "right of")) else None


def _the(item, items, rng=None):
    """A name that means this item alone: "the apple" or "the red apple"; None if there is no such name."""
    names = []
    if sum(t.object == item.object for t in items) == 1:
        names.append(f"the {item.name}")
    if item.color != NATURAL and sum(t[:2] == item[:2] for t in items) == 1:
        names.append(f"the {_color_name(item)} {item.name}")
    if not names:
        return None
    return rng.choice(names) if rng else names[0]


def _color_name(item):
    return None if item.color == NATURAL else COLORS[item.color].name


_ASK = {
    "color": _color,
    "object": _object,
    "neighbor": _neighbor,
    "where": _where,
    "count": _count,
    "exists": _exists,
    "relation": _is_beside,
}
QUESTIONS = tuple(_ASK)
