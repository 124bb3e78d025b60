"""Questions about scenes, and their answers: a small grammar, true by the spec."""

import random
from collections import Counter
from typing import NamedTuple

import torch

from mmlesson.world.captions import NUMBERS, be, describe, noun_phrase, plural
from mmlesson.world.objects import COLORS, NATURAL, OBJECTS
from mmlesson.world.scenes import EMPTY, held_out

_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


class _Thing(NamedTuple):
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
        where     where is the red apple? (of two things)  left
        count     how many apples are there?               three
        exists    is there a red apple?                    yes / no
        relation  is the red apple left of the dog?        yes / no
    Yes and no are equally frequent in both kinds, and what is denied is nearly there: the apple in the color of the
    dog beside it, the two things with places exchanged. A question about training pairs never names a held-out one.
    Raises ValueError for an unknown kind, or a scene about which nothing of `kinds` can be asked.
    """
    kinds = tuple(QUESTIONS if kinds is None else kinds)
    for kind in kinds:
        if kind not in QUESTIONS:
            raise ValueError(f"There are no questions of kind {kind!r}; choose from {', '.join(QUESTIONS)}.")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    rng = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
    asked = [_ask(things, kinds, rng) for things in _things(scenes)]
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
    return torch.tensor([_ask(things, kinds, random.Random(0)) is not None for things in _things(scenes)])


def _ask(things, kinds, rng):
    for kind in rng.sample(kinds, len(kinds)):
        if asked := _ASK[kind](things, rng):
            return asked
    return None


def _things(scenes):
    rows = zip(scenes.objects.tolist(), scenes.colors.tolist(), scenes.boxes().tolist())
    return [[_Thing(o, c, tuple(box)) for o, c, box in zip(*row) if o != EMPTY] for row in rows]


def _color(things, rng):
    """An object whose items all have one color."""
    colors = {}
    for thing in things:
        colors.setdefault(thing.object, []).append(thing.color)
    single = [(o, found) for o, found in colors.items() if len(set(found)) == 1 and found[0] != NATURAL]
    if not single:
        return None
    o, found = rng.choice(single)
    name = OBJECTS[o].name if len(found) == 1 else plural(OBJECTS[o].name)
    return f"what color {be(name, len(found))} the {name}?", COLORS[found[0]].name


def _object(things, rng):
    """The only kind of thing in the picture, or the only kind of thing in its color."""
    asked = ["it"] if len(things) == 1 else []
    for c in {thing.color for thing in things} - {NATURAL}:
        if len({thing.object for thing in things if thing.color == c}) == 1:
            asked.append(COLORS[c].name)
    if not asked:
        return None
    chosen = rng.choice(sorted(asked))
    thing = next(t for t in things if chosen in ("it", _color_name(t)))
    return f"what is {chosen}?", thing.name


def _neighbor(things, rng):
    """The one thing on some side of another: no second one may stand there, not even at a slant."""
    asked = []
    for there in things:
        for side in _OPPOSITE:
            found = [t for t in things if side in _sides(t, there)]
            if len(found) == 1 and _relation(found[0], there) == side and _the(there, things):
                asked.append((side, there, found[0]))
    if not asked:
        return None
    side, there, answer = rng.choice(asked)
    return f"what is {side} {_the(there, things, rng)}?", answer.name


def _where(things, rng):
    """The side of one of two things, seen from the other."""
    if len(things) != 2:
        return None
    here, there = rng.sample(things, 2)
    side = _relation(here, there)
    if side is None or not _the(here, things):
        return None
    return f"where {be(here.name)} {_the(here, things, rng)}?", side.split()[0]


def _count(things, rng):
    chosen, count = rng.choice([*Counter(thing.name for thing in things).items(), ("thing", len(things))])
    return f"how many {plural(chosen)} are there?", NUMBERS[count]


def _exists(things, rng):
    thing, yes = rng.choice(things), rng.random() < 0.5
    o, c = thing.object, thing.color
    if c == NATURAL or rng.random() < 0.25:  # without a color
        present = {t.object for t in things}
        c = NATURAL
        if not yes:
            o = rng.choice([i for i in range(len(OBJECTS)) if i not in present])
    elif not yes:
        o, c = _absent(thing, things, rng)
    phrase = noun_phrase(o, c)
    return f"{be(OBJECTS[o].name)} there {phrase}?", "yes" if yes else "no"


def _absent(thing, things, rng):
    """A pair that is not in the scene and is close to what is: exchanged, recolored or another object in its color."""
    present = {(t.object, t.color) for t in things}
    # In training, a held-out pair would only ever be denied, and the model would learn to deny it.
    unseen_too = any(held_out(*pair) for pair in present)

    def absent(pair):
        return pair not in present and (unseen_too or not held_out(*pair))

    exchanged = {(a.object, b.color) for a in things for b in things if b.color != NATURAL}
    exchanged = sorted(filter(absent, exchanged))
    if exchanged and rng.random() < 0.5:
        return rng.choice(exchanged)
    recolored = [(thing.object, c) for c in range(len(COLORS))]
    replaced = [(o, thing.color) for o in range(len(OBJECTS))]
    return rng.choice(list(filter(absent, rng.choice([recolored, replaced]))))


def _is_beside(things, rng):
    """Whether two things stand as said; the false sentence says the opposite."""
    named = [t for t in things if _the(t, things)]
    stand = [(a, b) for a in named for b in named if a is not b and _relation(a, b)]
    if not stand:
        return None
    (a, b), yes = rng.choice(stand), rng.random() < 0.5
    side = _relation(a, b) if yes else _OPPOSITE[_relation(a, b)]
    return f"{be(a.name)} {_the(a, things, rng)} {side} {_the(b, things, rng)}?", "yes" if yes else "no"


def _sides(a, b):
    """On which sides of b the whole of a lies: one of RELATIONS, two at a slant, none where they overlap."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.box, b.box
    slack = 1e-3
    apart = {"left of": bx0 - ax1, "right of": ax0 - bx1, "above": by0 - ay1, "below": ay0 - by1}
    return {side for side, gap in apart.items() if gap > -slack}


def _relation(a, b):
    """How a stands to b where nobody would argue: on one side only, and further that way than any other."""
    sides = _sides(a, b)
    if len(sides) != 1:
        return None
    dx, dy = (a.box[k] + a.box[k + 2] - b.box[k] - b.box[k + 2] for k in (0, 1))
    side = next(iter(sides))
    return side if (abs(dx) > abs(dy)) == (side in ("left of", "right of")) else None


def _the(thing, things, rng=None):
    """A name that means this thing alone: "the apple" or "the red apple"; None if there is no such name."""
    names = []
    if sum(t.object == thing.object for t in things) == 1:
        names.append(f"the {thing.name}")
    if thing.color != NATURAL and sum(t[:2] == thing[:2] for t in things) == 1:
        names.append(f"the {_color_name(thing)} {thing.name}")
    if not names:
        return None
    return rng.choice(names) if rng else names[0]


def _color_name(thing):
    return None if thing.color == NATURAL else COLORS[thing.color].name


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
