"""Records assets/speech: every utterance of mmlesson.world.speech by every voice.

`python -m mmlesson.tools.record_speech` needs the extra `speech`, that is espeakng-loader: eSpeak NG
(GPL-3.0-or-later) as a shared library. The course itself does not need it, and a synthesizer's license does not cover
the sounds that it makes.
"""

import ctypes
import hashlib
import json

import numpy as np
import soundfile
import torch
from torch.nn import functional as F

import mmlesson
from mmlesson.world.speech import LANGUAGES, RATE, VOICES, utterances

ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-us-nyc")  # of English, taken in turn
WORDS_A_MINUTE = 200
_AUDIO_RETRIEVAL, _UTF8, _RATE = 1, 1, 1  # espeak_AUDIO_OUTPUT, espeakCHARS_UTF8, espeakRATE of speak_lib.h
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Engine:
    """eSpeak NG through its C interface (speak_lib.h)."""

    def __init__(self):
        import espeakng_loader

        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self.rate = self.library.espeak_Initialize(_AUDIO_RETRIEVAL, 0, data, 0)
        if self.rate <= 0:
            raise OSError("eSpeak NG did not start: install the extra again, `pip install -e .[speech]`.")
        self.pieces = []
        self.callback = _CALLBACK(self._keep)  # kept, or it would be collected while the library calls it
        self.library.espeak_SetSynthCallback(self.callback)
        self.library.espeak_SetParameter(_RATE, WORDS_A_MINUTE, 0)

    def _keep(self, samples, count, events):
        if samples and count > 0:
            self.pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, text, voice):
        """The sound of `text`: (samples,) float tensor at RATE, without the silence around it. voice: "ko+f1"."""
        self.pieces.clear()
        if self.library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"eSpeak NG has no voice {voice!r}.")
        data = text.encode() + b"\0"
        self.library.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 0, 0, _UTF8, None, None)
        self.library.espeak_Synchronize()
        return trimmed(resampled(torch.from_numpy(np.concatenate(self.pieces).astype(np.float32) / 2**15), self.rate))


def resampled(sound, rate):
    """(samples,) at `rate` -> at RATE, by its spectrum below half of RATE."""
    length = round(len(sound) * RATE / rate)
    spectrum = torch.fft.rfft(sound)[: length // 2 + 1]
    return torch.fft.irfft(spectrum, n=length) * length / len(sound)


def trimmed(sound):
    """The sound without silence at both ends, except for a margin of 0.02 seconds."""
    loud = (sound.abs() > 0.01).nonzero()[:, 0]
    margin = round(0.02 * RATE)
    return sound[max(0, loud[0] - margin) : loud[-1] + margin]


def make_speech():
    """Write one Ogg Opus file a voice, at the lowest rate that Opus has (6 kbit/s), and the index."""
    engine, folder = Engine(), mmlesson.assets() / "speech"
    folder.mkdir(exist_ok=True)
    index = {"command": "python -m mmlesson.tools.record_speech", "accents": {}, "lengths": {}, "sha256": {}}
    for i, voice in enumerate(VOICES["train"] + VOICES["held_out"]):
        accent = ACCENTS[i % len(ACCENTS)]
        sounds = [
            engine.say(text, f"{accent if language == 'en' else 'ko'}+{voice}")
            for language in LANGUAGES
            for text in utterances(language)
        ]
        sounds = [F.pad(sound * 0.7 / sound.abs().max(), (0, round(0.03 * RATE))) for sound in sounds]
        path = folder / f"{voice}.ogg"
        soundfile.write(path, torch.cat(sounds).numpy(), RATE, format="OGG", subtype="OPUS", compression_level=1.0)
        index["accents"][voice] = accent
        index["lengths"][voice] = [len(sound) for sound in sounds]
        index["sha256"][voice] = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{path.name}: {len(sounds)} utterances, {path.stat().st_size / 1000:.0f} kB", flush=True)
    text = json.dumps(index, separators=(",", ":")).replace('],"', '],\n"')  # one line per voice
    (mmlesson.assets() / "speech" / "index.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    make_speech()
