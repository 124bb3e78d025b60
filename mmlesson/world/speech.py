"""Speech: the names of colors and objects, and two questions, spoken in English and in Korean by several voices.

The recordings were made once with eSpeak NG, by `mmlesson/tools/record_speech.py`. assets/speech holds them as Ogg
Opus, one file per voice, and index.json says where each utterance lies. Some voices are held out of training.
"""

import functools
import json
import unicodedata

import torch
import torch.nn.functional as F

from mmlesson.world.objects import COLORS, OBJECTS

RATE = 8000  # samples per second
SAMPLES = 16_640  # of every clip: 2.08 seconds
LANGUAGES = ("en", "ko")
SPOKEN_QUESTIONS = {"en": ("what is it", "what color is it"), "ko": ("이게 뭐야", "무슨 색이야")}
VOICES = {  # of each split
    "train": ("m1", "m2", "m3", "m6", "m8", "f1", "f2", "f4", "Andy", "linda"),
    "held_out": ("m7", "f5", "Annie"),
}


def utterances(language):
    """What every voice says in one of LANGUAGES, as a list: 8 colors, 96 objects, 2 questions."""
    if language not in LANGUAGES:
        raise ValueError(f"The voices speak {' and '.join(LANGUAGES)}, not {language!r}.")
    name = "name" if language == "en" else "korean"
    return [getattr(row, name) for row in (*COLORS, *OBJECTS)] + list(SPOKEN_QUESTIONS[language])


@functools.cache
def recordings(voice):
    """All that one voice says: {utterance: (samples,) floats in [-1, 1] at RATE}, English and Korean together."""
    import soundfile

    from mmlesson import assets

    if voice not in VOICES["train"] + VOICES["held_out"]:
        raise ValueError(f"There is no voice {voice!r}; choose one of {', '.join(sum(VOICES.values(), ()))}.")
    index = json.loads((assets() / "speech" / "index.json").read_text(encoding="utf-8"))
    path = assets() / "speech" / f"{voice}.ogg"
    try:
        samples, rate = soundfile.read(path, dtype="float32")
    except soundfile.SoundFileError:
        state = "is damaged" if path.exists() else "is missing"
        raise ValueError(f"assets/speech/{path.name} {state}: restore it with `git checkout assets`.") from None
    said, lengths = utterances("en") + utterances("ko"), index["lengths"][voice]
    if (rate, len(samples), len(lengths)) != (RATE, sum(lengths), len(said)):
        raise ValueError(
            f"assets/speech/{voice}.ogg is not what its index.json says: expected {sum(lengths)} samples at {RATE} "
            f"per second, found {len(samples)} at {rate}. Restore both with `git checkout assets`."
        )
    return dict(zip(said, torch.from_numpy(samples).split(lengths)))


def speak(phrases, seed=0, voices="train", vary=True):
    """Phrases such as "red cat", "고양이" or "what is it" as sound: (N, SAMPLES) floats at RATE.

    voices: a split ("train" or "held_out", from which each phrase draws its voice), one voice, or N voices. vary: draw
    tempo and pitch (together, up to a tenth either way), loudness, pauses, the start, and a little noise; False gives
    the plain recording. The same seed (an int or a torch.Generator) gives the same sounds.
    Raises ValueError for a word that no voice says, or a phrase that takes longer than a clip.
    """
    if isinstance(phrases, str):
        raise ValueError(f"speak takes a list of phrases: write [{phrases!r}].")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    if isinstance(voices, str):
        names = VOICES.get(voices, (voices,))
        voices = [names[i] for i in torch.randint(len(names), (len(phrases),), generator=generator)]
    if len(voices) != len(phrases):
        raise ValueError(f"speak got {len(phrases)} phrases and {len(voices)} voices: expected one for each.")
    dice = torch.rand(len(phrases), 4, generator=generator).tolist()
    clips = torch.stack([_clip(*row, vary) for row in zip(phrases, voices, dice)])
    if vary:
        loudness = 0.01 * torch.rand(len(clips), 1, generator=generator)
        clips = clips + loudness * torch.randn(clips.shape, generator=generator)
    return clips


def _clip(phrase, voice, dice, vary):
    """One phrase, on a stretch of silence: (SAMPLES,)."""
    tempo, loudness, pause, start = dice if vary else (0.5, 0.5, 0.5, 0.5)
    said = recordings(voice)
    phrase = unicodedata.normalize("NFC", phrase)  # macOS hands Korean over in parts of syllables
    words = [phrase] if phrase in said else phrase.split()
    for word in words:
        if word not in said:
            raise ValueError(f"No voice says {word!r}; world.utterances('en') and ('ko') list what they say.")
    silence = torch.zeros(round(RATE * (0.02 + 0.06 * pause)))
    sound = torch.cat([part for word in words for part in (said[word], silence)])
    if vary:
        length = round(len(sound) * 2 ** ((2 * tempo - 1) / 8))
        sound = F.interpolate(sound[None, None], size=length, mode="linear")[0, 0]
    sound = sound * (0.4 + 0.4 * loudness) / sound.abs().max()
    sound = F.pad(sound, (round(0.1 * RATE * start), 0))
    if len(sound) > SAMPLES:
        raise ValueError(
            f"{phrase!r} takes {len(sound) / RATE:.1f} seconds and a clip {SAMPLES / RATE}: say fewer words."
        )
    return F.pad(sound, (0, SAMPLES - len(sound)))
