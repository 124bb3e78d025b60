"""The small world that every lesson shares: scenes of OpenMoji drawings whose truth is known.

objects.py    the 96 objects and 8 colors (English, Korean, category, code point)
glyphs.py     their drawings as tensors
scenes.py     what is where: writing, sampling and rendering scenes; the held-out (object, color) pairs
captions.py   what is said about a scene, and the word-level tokenizer
contrasts.py  true captions beside captions with one thing wrong
shifts.py     the same scenes drawn as training never showed them
video.py      clips of one item whose motion is known
questions.py  questions about scenes, and their answers
episodes.py   few-shot episodes: pictures and words in one stream
speech.py     the names of colors and objects, spoken in English and Korean

Drawings: OpenMoji (https://openmoji.org), CC BY-SA 4.0.
"""

from mmlesson.world.captions import (
    MOTIONS,
    NAMES,
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
from mmlesson.world.contrasts import CONTRASTS, contrasts, swappable
from mmlesson.world.episodes import ATTRIBUTES, EPISODE_KINDS, Episodes, episodes, interleave
from mmlesson.world.objects import COLORS, NATURAL, OBJECTS, Color, Object
from mmlesson.world.questions import QUESTIONS, askable, questions
from mmlesson.world.scenes import FEW, STEADY, Item, Scenes, draw_pairs, held_out, join, pairs, render, sample, scene
from mmlesson.world.shifts import SHIFTS, render_shifted
from mmlesson.world.speech import LANGUAGES, RATE, SAMPLES, SPOKEN_QUESTIONS, VOICES, recordings, speak, utterances
from mmlesson.world.video import Clips, render_video, video, video_captions

__all__ = [
    "ATTRIBUTES", "COLORS", "CONTRASTS", "Clips", "Color", "EPISODE_KINDS", "Episodes", "FEW", "Item",
    "LANGUAGES", "MOTIONS", "NAMES", "NATURAL", "OBJECTS", "Object", "QUESTIONS", "RATE", "RELATIONS",
    "SAMPLES", "SHIFTS", "SPOKEN_QUESTIONS", "STEADY", "Scenes", "TEMPLATES", "Tokenizer", "VOICES", "askable",
    "captions", "contrasts", "describe", "draw_pairs", "episodes", "held_out", "interleave", "join",
    "korean_phrase", "noun_phrase", "pair_captions", "pairs", "questions", "recordings", "relation", "render",
    "render_shifted", "render_video", "sample", "scene", "speak", "swappable", "utterances", "video",
    "video_captions", "vocabulary",
]  # fmt: skip
