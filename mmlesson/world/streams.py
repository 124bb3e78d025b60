"""Streams for the Gemini-style model: text, images, speech and video as lists of parts, of nine kinds.

A row is a list of parts. A part is a string of words and marks, the codes of an image (h, w) long, or SPEECH, which
stands for a clip of sound. The last part of a row is the training target; the rest is context.
"""

import torch

from mmlesson.world.captions import phrase, spoken_phrase
from mmlesson.world.scenes import LARGE_UPRIGHT, draw_pairs, render, sample
from mmlesson.world.speech import LANGUAGES, SPOKEN_QUESTIONS, speak
from mmlesson.world.video import render_video, video, video_captions

SPEECH = object()  # in a row: "here, the next clip of sound"
FRAMES = 4  # of a clip


class Streams:
    """Endless random rows of every kind, with their clips of sound; its length is the number of steps.

    encode: images (N, 3, 32, 32) -> codes (N, h, w), such as ImageCodebook.encode. mixture: {kind: rows per step}, each
    kind one of STREAM_KINDS; iterating yields {kind: (rows, waves or None)} per step. objects: indices of those that
    may appear; None means all 96 (clips always show all). Voices, images and clips are those of training.
    """

    def __init__(self, encode, steps=0, *, mixture=None, objects=None, seed=0, device=None):
        self.encode, self.objects, self.device = encode, objects, device
        self.steps, self.mixture = steps, mixture or {}
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self):
        return self.steps

    def __iter__(self):
        for _ in range(self.steps):
            yield {kind: self.rows(kind, n) for kind, n in self.mixture.items()}

    def rows(self, kind, n):
        """n rows of one kind, and their clips of sound (n, samples), or None if they have none."""
        return STREAM_KINDS[kind](self, n)

    def languages(self, n):
        return [LANGUAGES[i] for i in torch.randint(2, (n,), generator=self.generator).tolist()]

    def both_languages(self, n):
        """n pairs of languages, in either order."""
        return [("en", "ko") if first == "en" else ("ko", "en") for first in self.languages(n)]

    def pairs(self, n):
        """n training pairs (object, color), as a list."""
        return draw_pairs(n, "train", self.generator, self.objects).tolist()

    def images(self, n):
        """n pairs (object, color) as a list, and the codes of an image of each: (n, h, w)."""
        scenes = sample(n, self.generator, objects=self.objects, **LARGE_UPRIGHT)
        pairs = torch.cat([scenes.objects, scenes.colors], dim=1).tolist()
        return pairs, self.encode(render(scenes, device=self.device)).cpu()

    def speech(self, pairs):
        """Each pair spoken in one of the languages: its transcripts, "<en> red cat ;", and the sounds."""
        spoken = [(spoken_phrase(p, lang), lang) for p, lang in zip(pairs, self.languages(len(pairs)))]
        waves = speak([words for words, _ in spoken], self.generator)
        return [f"<{lang}> {words} ;" for words, lang in spoken], waves


def read(streams, n):
    """A name in one language, then in the other: a red cat <ko> 빨간색 고양이 ;"""
    pairs = streams.pairs(n)
    named = zip(pairs, streams.both_languages(n))
    return [[phrase(p, a), f"<{b}> {phrase(p, b)} ;"] for p, (a, b) in named], None


def write(streams, n):
    """An image, then its name in both languages: <image> ... </image> <en> a red cat ; <ko> 빨간색 고양이 ;"""
    pairs, codes = streams.images(n)
    named = zip(codes, pairs, streams.both_languages(n))
    return [[c, " ".join(f"<{lang}> {phrase(p, lang)} ;" for lang in langs)] for c, p, langs in named], None


def draw(streams, n):
    """A name, then an image of it: a red cat <image> ... </image>; one in ten has no name (for guidance)."""
    pairs, codes = streams.images(n)
    unconditional = (torch.rand(n, generator=streams.generator) < 0.1).tolist()
    named = zip(pairs, codes, streams.languages(n), unconditional)
    return [[c] if nameless else [phrase(p, lang), c] for p, c, lang, nameless in named], None


def hear(streams, n):
    """Speech, then its transcript: <audio> ... </audio> <en> red cat ;"""
    transcripts, waves = streams.speech(streams.pairs(n))
    return [[SPEECH, text] for text in transcripts], waves


def hear_draw(streams, n):
    """Speech, then an image of it: <audio> ... </audio> <image> ... </image>"""
    pairs, codes = streams.images(n)
    return [[SPEECH, c] for c in codes], streams.speech(pairs)[1]


def say_draw(streams, n):
    """Speech, its transcript, an image of it: <audio> ... </audio> <en> red cat ; <image> ... </image>"""
    pairs, codes = streams.images(n)
    transcripts, waves = streams.speech(pairs)
    return [[SPEECH, text, c] for text, c in zip(transcripts, codes)], waves


def ask(streams, n):
    """An image, a spoken question, its answer: <image> ... </image> <audio> ... </audio> <en> red ;"""
    pairs, codes = streams.images(n)
    which = torch.randint(2, (n,), generator=streams.generator).tolist()
    rows, questions = [], []
    for pair, c, k, lang in zip(pairs, codes, which, streams.languages(n)):
        color_and_object = spoken_phrase(pair, lang).split()
        rows.append([c, SPEECH, f"<{lang}> {color_and_object[1 - k]} ;"])
        questions.append(SPOKEN_QUESTIONS[lang][k])
    return rows, speak(questions, streams.generator)


def look(streams, n):
    """One moment of a clip, small and rotated, then its name: <image> ... </image> <en> a red cat ;"""
    clips = video(n, streams.generator)
    moments = render(clips.at(torch.rand(1, generator=streams.generator)), device=streams.device)
    named = zip(clips.objects.tolist(), clips.colors.tolist(), streams.languages(n))
    words = [f"<{lang}> {phrase(pair, lang)} ;" for *pair, lang in named]
    return [[c, text] for c, text in zip(streams.encode(moments).cpu(), words)], None


def watch(streams, n):
    """A clip, frame by frame, then what happens: <t1> <image> ... </image> <t2> ... <en> a red cat spins left ;"""
    return video_rows(video(n, streams.generator), streams.encode, streams.device), None


STREAM_KINDS = {
    "read": read, "draw": draw, "write": write, "hear": hear, "hear_draw": hear_draw, "say_draw": say_draw,
    "ask": ask, "look": look, "watch": watch,
}  # fmt: skip


def video_rows(clips, encode, device=None):
    """Rows of clips: the frames with their time marks, then what happens."""
    images = render_video(clips, FRAMES, device=device).flatten(0, 1)
    codes = torch.cat([encode(chunk).cpu() for chunk in images.split(128)])
    frames = codes.unflatten(0, (len(clips), FRAMES))
    marked = [[part for t, c in enumerate(f) for part in (f"<t{t + 1}>", c)] for f in frames]
    return [[*parts, f"<en> {caption} ;"] for parts, caption in zip(marked, video_captions(clips))]


def held_out_images(encode, n, seed=100, objects=None, device=None):
    """n pairs that training never shows, as (n, 2) long, and the codes (n, h, w) of an image of each."""
    scenes = sample(n, seed, split="held_out", objects=objects, **LARGE_UPRIGHT)
    pairs = torch.cat([scenes.objects, scenes.colors], dim=1)
    chunks = torch.arange(n).split(128)
    return pairs, torch.cat([encode(render(scenes[chunk], device=device)).cpu() for chunk in chunks])
