"""The small world that every lesson shares: scenes of OpenMoji drawings whose truth is known.

objects.py         the 96 objects and 8 colors (English, Korean, category, code point)
glyphs.py          their drawings as tensors
scenes.py          what is where: writing, sampling and rendering scenes; the held-out (object, color) pairs
captions.py        what is said about a scene
tokenizer.py       the vocabulary, and the word-level tokenizer
hard_negatives.py  captions with one mistake
shifts.py          the same scenes drawn as training never showed them
video.py           clips of one item whose motion is known
questions.py       questions about scenes, and their answers
episodes.py        few-shot episodes: images and text in one sequence
speech.py          the names of colors and objects, spoken in English and Korean
batches.py         what CLIP, FLAVA and Flamingo train on
streams.py         what the Gemini-style model trains on

Drawings: OpenMoji (https://openmoji.org), CC BY-SA 4.0.
"""

from mmlesson.world.batches import (
    CaptionBatches,
    EpisodeBatches,
    ImageBatches,
    MaskedBatches,
    TextBatches,
    recall_lists,
)
from mmlesson.world.captions import (
    MOTIONS,
    NAMES,
    RELATIONS,
    TEMPLATES,
    captions,
    describe,
    korean_phrase,
    noun_phrase,
    pair_captions,
    phrase,
    relation,
    spoken_phrase,
)
from mmlesson.world.episodes import ATTRIBUTES, EPISODE_KINDS, Episodes, build_episodes, episodes
from mmlesson.world.hard_negatives import HARD_NEGATIVES, hard_negatives, swappable
from mmlesson.world.objects import COLORS, NATURAL, OBJECTS, Color, Object
from mmlesson.world.questions import QUESTIONS, askable, questions
from mmlesson.world.scenes import (
    LARGE_UPRIGHT,
    SUBSET,
    Item,
    Scenes,
    draw_pairs,
    held_out,
    join,
    normalize,
    pairs,
    render,
    sample,
    scene,
)
from mmlesson.world.shifts import SHIFTS, render_shifted
from mmlesson.world.speech import LANGUAGES, RATE, SAMPLES, SPOKEN_QUESTIONS, VOICES, recordings, speak, utterances
from mmlesson.world.streams import FRAMES, SPEECH, STREAM_KINDS, Streams, held_out_images, video_rows
from mmlesson.world.tokenizer import Tokenizer, extended_tokenizer, vocabulary
from mmlesson.world.video import Clips, render_video, video, video_captions

__all__ = [
    "ATTRIBUTES", "COLORS", "CaptionBatches", "Clips", "Color", "EPISODE_KINDS", "EpisodeBatches", "Episodes",
    "FRAMES", "HARD_NEGATIVES", "ImageBatches", "Item", "LANGUAGES", "LARGE_UPRIGHT", "MOTIONS", "MaskedBatches",
    "NAMES", "NATURAL", "OBJECTS", "Object", "QUESTIONS", "RATE", "RELATIONS", "SAMPLES", "SHIFTS", "SPEECH",
    "SPOKEN_QUESTIONS", "STREAM_KINDS", "SUBSET", "Scenes", "Streams", "TEMPLATES", "TextBatches", "Tokenizer",
    "VOICES", "askable", "build_episodes", "captions", "describe", "draw_pairs", "episodes", "extended_tokenizer",
    "hard_negatives", "held_out", "held_out_images", "join", "korean_phrase", "normalize", "noun_phrase",
    "pair_captions", "pairs", "phrase", "questions", "recall_lists", "recordings", "relation", "render",
    "render_shifted", "render_video", "sample", "scene", "speak", "spoken_phrase", "swappable", "utterances", "video",
    "video_captions", "video_rows", "vocabulary",
]  # fmt: skip
