"""The world's word-level tokenizer, and the vocabulary that it reads."""

import difflib
import re
import unicodedata
from functools import cache

import torch

from mmlesson.world.captions import MOTIONS, NAMES, NUMBERS, RELATIONS, TEMPLATES, plural
from mmlesson.world.objects import COLORS, OBJECTS

_MARKS = ("<image>", ";", "?")  # an image or clip; the end of what is said about it; the end of a question
_QUESTION_WORDS = ("are", "color", "happens", "how", "it", "many", "the", "things", "what", "where", "yes")


def vocabulary(extended=False):
    """Every word that a caption of a scene can hold, sorted; extended adds those of video, questions and episodes.

    The words of captions come first in both lists, so they have the same ids in both tokenizers.
    """
    words = set(NUMBERS) | {"a", "an", "and", ","}
    for text in (*TEMPLATES, *RELATIONS):
        words |= set(text.replace("{}", " ").split())
    for o in OBJECTS:
        words |= {o.name, plural(o.name)}
    words = sorted(words | {c.name for c in COLORS})
    if not extended:
        return words
    # The CLIP checkpoints hold one embedding for each word above, in this order, and <eot> is the id after them: with
    # one more word they would not load. So the words of later lessons are a longer list, for Tokenizer(words).
    verbs = {word for motion in MOTIONS for word in motion.split()}
    verbs |= {verb.removesuffix("s") for verb in verbs}  # "scissors move"
    return [*words, *_MARKS, *sorted(verbs - set(words)), *_QUESTION_WORDS, *NAMES]


class Tokenizer:
    """One id per word. <pad> is 0, <sot> and <eot> are the two highest ids (CLIP pools at the highest id).

    words: list of distinct words; None stands for vocabulary(). vocabulary(extended=True) reads video and episodes too.
    The attention lesson teaches byte-pair encoding, which learns sub-words instead.
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
        if isinstance(texts, str):
            raise ValueError(f"encode takes a list of texts: write [{texts!r}].")
        rows = [[self.sot, *self.ids(text), self.eot] for text in texts]
        longest = max(map(len, rows))
        length = length or longest
        if longest > length:
            text = texts[[len(r) for r in rows].index(longest)]
            raise ValueError(f"{text!r} needs {longest} tokens with <sot> and <eot>, and only {length} fit.")
        return torch.tensor([row + [self.pad] * (length - len(row)) for row in rows])

    def ids(self, text):
        """The ids of one text's words and marks, as a list, without <sot> and <eot>."""
        return [self._id(word) for word in self._pattern.findall(unicodedata.normalize("NFC", text).lower())]

    def decode(self, tokens):
        """Token ids (N, T) back to texts, without the special tokens."""
        special = {self.pad, self.sot, self.eot}
        return [_joined(self.words[i] for i in row if i not in special) for row in tokens.tolist()]

    def _id(self, word):
        if word not in self.index:
            close = difflib.get_close_matches(word, self.words, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else " Its `words` lists those that it knows."
            raise ValueError(f"The vocabulary has no word {word!r}.{hint}")
        return self.index[word]


@cache
def extended_tokenizer():
    """The tokenizer of video, questions and episodes (the same object every time)."""
    return Tokenizer(vocabulary(extended=True))


def _joined(words):
    return " ".join(words).replace(" ,", ",").replace(" ?", "?")
