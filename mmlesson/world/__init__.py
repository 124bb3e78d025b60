"""The small world that every lesson shares: scenes of OpenMoji drawings whose truth is known.

objects.py   the 96 objects and 8 colors (English, Korean, category, code point)
glyphs.py    their drawings as tensors
scenes.py    what is where: writing, sampling and rendering scenes; the held-out (object, color) pairs
captions.py  what is said about a scene, and the word-level tokenizer
shifts.py    the same scenes drawn as training never showed them

Speech, video and few-shot episodes will stand here too, one module each, when the lessons that need them arrive.
Drawings: OpenMoji (https://openmoji.org), CC BY-SA 4.0.
"""

from mmlesson.world.captions import (
    RELATIONS,
    TEMPLATES,
    Tokenizer,
    captions,
    describe,
    korean_phrase,
    noun_phrase,
    pair_captions,
    relation,
    vocabulary,
)
from mmlesson.world.objects import COLORS, NATURAL, OBJECTS, Color, Object
from mmlesson.world.scenes import Item, Scenes, draw_pairs, held_out, join, pairs, render, sample, scene
from mmlesson.world.shifts import SHIFTS, render_shifted

__all__ = [
    "COLORS", "NATURAL", "OBJECTS", "RELATIONS", "SHIFTS", "TEMPLATES", "Color", "Item", "Object", "Scenes",
    "Tokenizer", "captions", "describe", "draw_pairs", "held_out", "join", "korean_phrase", "noun_phrase",
    "pair_captions", "pairs", "relation", "render", "render_shifted", "sample", "scene", "vocabulary",
]  # fmt: skip
