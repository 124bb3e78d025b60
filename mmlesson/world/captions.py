"""Captions from a small grammar."""

import torch

from mmlesson.world.objects import COLORS, NATURAL, OBJECTS

TEMPLATES = (
    "{}",
    "a picture of {}",
    "a drawing of {}",
    "this is {}",
    "there is {} here",
    "you can see {}",
    "look at {}",
    "{} on paper",
)
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = ("no", "one", "two", "three", "four")
MOTIONS = (
    "moves left", "moves right", "moves up", "moves down", "grows", "shrinks",
    "spins left", "spins right", "stays still",
)  # fmt: skip
# Made-up names, for objects to be named in context. None is an English word or a word of the grammar.
NAMES = tuple(
    """bamu blick bolu brimo cheda dax deebo dofa drulo ekku fendo fepo fimu fuli gazu glimo gopa gubi hasko hobu igga
    ilno jabo jelk jipa jomu kasi kelu kiba koda kreb laju leffo lomi luzi meepa moku mulo nabo nerk nifo nolu ocki
    oolu pabu pizo plim podu quib rabo riffo rumi sabu sefo skub somo tavo tefi tima togu vabi vusk wug zabo""".split()
)
_IRREGULAR = {"sheep": "sheep", "fish": "fish", "butterfly": "butterflies", "strawberry": "strawberries"}
_ALREADY_PLURAL = {"grapes", "cherries", "scissors", "glasses", "gloves"}


def plural(noun):
    """The plural of an object's name: "cat" -> "cats", "cherries" -> "cherries"."""
    if noun in _ALREADY_PLURAL:
        return noun
    return _IRREGULAR.get(noun, noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s"))


def be(noun, count=1):
    """ "is" or "are", as the grammar wants it after `count` of an object."""
    return "are" if count > 1 or noun in _ALREADY_PLURAL else "is"


def noun_phrase(object_index, color_index, count=1):
    """ "a red apple", "an owl" (natural color), "three green snakes"; indices as in a scene."""
    noun = OBJECTS[object_index].name
    color = "" if color_index == NATURAL else COLORS[color_index].name + " "
    if count > 1:
        return f"{NUMBERS[count]} {color}{plural(noun)}"
    words = color + noun
    if noun in _ALREADY_PLURAL:
        return words  # "red scissors", not "a red scissors"
    return f"{'an' if words[0] in 'aeiou' and noun != 'ufo' or color == 'orange ' else 'a'} {words}"


def korean_phrase(object_index, color_index):
    """The same in Korean: "빨간색 사과"."""
    color = "" if color_index == NATURAL else COLORS[color_index].korean + " "
    return color + OBJECTS[object_index].korean


def phrase(pair, language):
    """The written name of an (object, color) pair in "en" or "ko": "a red cat", "빨간색 고양이"."""
    return noun_phrase(*pair) if language == "en" else korean_phrase(*pair)


def spoken_phrase(pair, language):
    """The name of an (object, color) pair as the voices say it: "red cat", "빨간색 고양이"."""
    name = "name" if language == "en" else "korean"
    return f"{getattr(COLORS[pair[1]], name)} {getattr(OBJECTS[pair[0]], name)}"


def relation(scenes, index):
    """How the first item of scene `index` stands to the second: one of RELATIONS."""
    (x0, y0), (x1, y1) = scenes.centers[index, :2].tolist()
    if abs(x0 - x1) >= abs(y0 - y1):
        return "left of" if x0 < x1 else "right of"
    return "above" if y0 < y1 else "below"


def describe(scenes, index):
    """The plain description of one scene, without a template.

    One item: "a red apple". Several equal ones: "three red apples". Two: "a red apple left of a blue dog".
    More: "a red apple, a blue dog and a pink cup".
    """
    count = int(scenes.counts[index])
    items = list(zip(scenes.objects[index, :count].tolist(), scenes.colors[index, :count].tolist()))
    if count > 1 and len(set(items)) == 1:
        return noun_phrase(*items[0], count=count)
    phrases = [noun_phrase(*item) for item in items]
    if count == 1:
        return phrases[0]
    if count == 2:
        return f"{phrases[0]} {relation(scenes, index)} {phrases[1]}"
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def captions(scenes, seed=None, template=None):
    """One caption per scene: list of N strings.

    template: a string with {}, for all scenes; None draws one of TEMPLATES for each (seed: int or torch.Generator).
    """
    if template is not None:
        if "{}" not in template:
            raise ValueError(f"A template needs {{}} where the description goes; got {template!r}.")
        return [template.format(describe(scenes, i)) for i in range(len(scenes))]
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed or 0)
    drawn = torch.randint(len(TEMPLATES), (len(scenes),), generator=generator).tolist()
    return [TEMPLATES[t].format(describe(scenes, i)) for i, t in enumerate(drawn)]


def pair_captions(pairs):
    """Plain captions of (object, color) pairs: (P, 2) long -> list of P strings."""
    return [noun_phrase(o, c) for o, c in pairs.tolist()]


def motion_phrase(object_index, color_index, motion):
    """ "a red cat moves left", "red scissors move left"; motion: an index into MOTIONS."""
    verb, _, rest = MOTIONS[motion].partition(" ")
    if OBJECTS[object_index].name in _ALREADY_PLURAL:
        verb = verb.removesuffix("s")
    return f"{noun_phrase(object_index, color_index)} {verb} {rest}".strip()
