"""Captions from a small grammar, and the word-level tokenizer that reads them."""

import difflib
import re

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
# Made-up words, for things that a model has never heard named. None is an English word or a word of the grammar.
NAMES = tuple(
    """bamu blick bolu brimo cheda dax deebo dofa drulo ekku fendo fepo fimu fuli gazu glimo gopa gubi hasko hobu igga
    ilno jabo jelk jipa jomu kasi kelu kiba koda kreb laju leffo lomi luzi meepa moku mulo nabo nerk nifo nolu ocki
    oolu pabu pizo plim podu quib rabo riffo rumi sabu sefo skub somo tavo tefi tima togu vabi vusk wug zabo""".split()
)
_MARKS = ("<image>", ";", "?")  # a picture or clip; the end of what is said about it; the end of a question
_QUESTION_WORDS = ("are", "color", "happens", "how", "it", "many", "the", "things", "what", "where", "yes")
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
    things = list(zip(scenes.objects[index, :count].tolist(), scenes.colors[index, :count].tolist()))
    if count > 1 and len(set(things)) == 1:
        return noun_phrase(*things[0], count=count)
    phrases = [noun_phrase(*thing) for thing in things]
    if count == 1:
        return phrases[0]
    if count == 2:
        return f"{phrases[0]} {relation(scenes, index)} {phrases[1]}"
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def captions(scenes, seed=None, template=None):
    """One caption a scene: list of N strings.

    template: a string with {} for all of them; None draws one of TEMPLATES for each (seed: int or torch.Generator).
    """
    if template is not None:
        if "{}" not in template:
            raise ValueError(f"A template needs {{}} where the description goes; got {template!r}.")
        return [template.format(describe(scenes, i)) for i in range(len(scenes))]
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed or 0)
    drawn = torch.randint(len(TEMPLATES), (len(scenes),), generator=generator).tolist()
    return [TEMPLATES[t].format(describe(scenes, i)) for i, t in enumerate(drawn)]


def pair_captions(pairs, template="{}"):
    """Captions of (object, color) pairs: (P, 2) long -> list of P strings."""
    return [template.format(noun_phrase(o, c)) for o, c in pairs.tolist()]


def motion_phrase(object_index, color_index, motion):
    """ "a red cat moves left", "red scissors move left"; motion: an index into MOTIONS."""
    verb, _, rest = MOTIONS[motion].partition(" ")
    if OBJECTS[object_index].name in _ALREADY_PLURAL:
        verb = verb.removesuffix("s")
    return f"{noun_phrase(object_index, color_index)} {verb} {rest}".strip()


def vocabulary(extended=False):
    """Every word that a caption of a scene can hold, sorted. extended: and then those of video, questions and episodes.

    The words of captions come first in both, and have the same ids in both tokenizers.
    """
    words = set(NUMBERS) | {"a", "an", "and", ","}
    for text in (*TEMPLATES, *RELATIONS):
        words |= set(text.replace("{}", " ").split())
    for o in OBJECTS:
        words |= {o.name, plural(o.name)}
    words = sorted(words | {c.name for c in COLORS})
    if not extended:
        return words
    # The checkpoints of lesson 02 hold one embedding for each word above, in this order, and <eot> is the id after
    # them: one word more, and they would not load. So what later lessons say is a longer list, for Tokenizer(words).
    verbs = {word for motion in MOTIONS for word in motion.split()}
    verbs |= {verb.removesuffix("s") for verb in verbs}  # "scissors move"
    return [*words, *_MARKS, *sorted(verbs - set(words)), *_QUESTION_WORDS, *NAMES]


class Tokenizer:
    """One id a word. <pad> is 0, <sot> and <eot> are the two highest ids (CLIP pools at the highest id).

    words: list of distinct words; None is vocabulary(), and vocabulary(extended=True) reads video and episodes too.
    Lesson 01 teaches how byte-pair encoding learns sub-words instead.
    """

    def __init__(self, words=None):
        self.words = ["<pad>", *(vocabulary() if words is None else words), "<sot>", "<eot>"]
        self.index = {word: i for i, word in enumerate(self.words)}
        self.pad, self.sot, self.eot = 0, len(self.words) - 2, len(self.words) - 1
        marks = [re.escape(word) for word in self.words[1:-2] if not word.isalpha()]
        self._pattern = re.compile("|".join([*marks, r"[^\W\d_]+"]))

    def __len__(self):
        return len(self.words)

    def encode(self, texts, length=None):
        """Texts to token ids: (N, length) long, <sot> words <eot> then <pad>; length None fits the longest text.

        Raises ValueError for a word that is not in the vocabulary, or a text longer than `length`.
        """
        rows = [[self.sot, *self.ids(text), self.eot] for text in texts]
        longest = max(map(len, rows))
        length = length or longest
        if longest > length:
            text = texts[[len(r) for r in rows].index(longest)]
            raise ValueError(f"{text!r} needs {longest} tokens with <sot> and <eot>, and only {length} fit.")
        return torch.tensor([row + [self.pad] * (length - len(row)) for row in rows])

    def ids(self, text):
        """The ids of one text's words and marks, as a list, without <sot> and <eot>."""
        return [self._id(word) for word in self._pattern.findall(text.lower())]

    def decode(self, tokens):
        """Token ids (N, T) back to texts, without the special tokens."""
        special = {self.pad, self.sot, self.eot}
        return [_joined(self.words[i] for i in row if i not in special) for row in tokens.tolist()]

    def _id(self, word):
        if word not in self.index:
            close = difflib.get_close_matches(word, self.words, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else " mmlesson.world.vocabulary() lists the words it knows."
            raise ValueError(f"The world has no word {word!r}.{hint}")
        return self.index[word]


def _joined(words):
    return " ".join(words).replace(" ,", ",").replace(" ?", "?")
