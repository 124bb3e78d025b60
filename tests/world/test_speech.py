"""Speech: what the voices say can be asked for by name, varies by the seed alone, and stays inside its clip."""

import hashlib
import json

import pytest
import torch

import mmlesson
from mmlesson import world
from mmlesson.tools import record_speech
from mmlesson.world.speech import VOICES, recordings

EVERYONE = VOICES["train"] + VOICES["held_out"]


def test_every_voice_says_every_name_and_question_in_both_languages():
    names = [c.name for c in world.COLORS] + [o.name for o in world.OBJECTS]
    korean = [c.korean for c in world.COLORS] + [o.korean for o in world.OBJECTS]
    assert set(names) < set(world.utterances("en")) and set(korean) < set(world.utterances("ko"))
    for voice in EVERYONE:
        said = recordings(voice)
        assert list(said) == world.utterances("en") + world.utterances("ko")
        for text, sound in said.items():
            assert 0.1 * world.RATE < len(sound) < 1.1 * world.RATE, (voice, text)
            assert 0.2 < sound.abs().max() <= 1.0, (voice, text)


def test_held_out_voices_are_others():
    assert not set(VOICES["train"]) & set(VOICES["held_out"])
    assert len(set(EVERYONE)) == len(EVERYONE)


def test_the_files_are_those_of_the_index():
    index = json.loads((mmlesson.assets() / "speech" / "index.json").read_text(encoding="utf-8"))
    recorded = mmlesson.assets().glob("speech/*.ogg")
    files = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in recorded}
    assert files == index["sha256"] and set(files) == set(EVERYONE) == set(index["accents"])


def test_a_seed_fixes_the_sounds():
    phrases = ["red cat", "빨간색 고양이", "what is it"]
    once, again, other = (world.speak(phrases, seed) for seed in (1, 1, 2))
    assert torch.equal(once, again) and not torch.equal(once, other)
    assert once.shape == (3, world.SAMPLES) and once.isfinite().all()
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(world.speak(phrases, generator), once)
    assert not torch.equal(world.speak(phrases, generator), once)  # it goes on


def test_the_plain_recording_is_the_words_one_after_the_other():
    said = recordings("f1")
    clip = world.speak(["red cat"], voices="f1", vary=False)[0]
    red = said["red"]
    first = clip[round(0.05 * world.RATE) :][: len(red)]
    torch.testing.assert_close(first, red * first.abs().max() / red.abs().max())
    assert torch.equal(clip, world.speak(["red cat"], seed=5, voices=["f1"], vary=False)[0])


def longest(words, voice):
    return max(words, key=lambda word: len(recordings(voice)[word]))


@pytest.mark.parametrize("language", world.LANGUAGES)
@pytest.mark.parametrize("vary", [False, True])
def test_the_longest_phrase_fits_however_it_is_varied(language, vary):
    said = world.utterances(language)
    phrases = [f"{longest(said[:8], voice)} {longest(said[8:104], voice)}" for voice in EVERYONE]
    for seed in range(3):
        clips = world.speak(phrases, seed, voices=list(EVERYONE), vary=vary)
        assert clips[:, -80:].abs().mean() < 0.05  # silence, or a little noise, at the end


def test_a_split_draws_its_own_voices():
    for split in ("train", "held_out"):
        plain = {voice: world.speak(["cat"], voices=voice, vary=False)[0] for voice in EVERYONE}
        heard = world.speak(["cat"] * 60, 0, voices=split, vary=False)
        found = {voice for voice, sound in plain.items() for clip in heard if torch.equal(clip, sound)}
        assert found == set(VOICES[split])


def test_what_cannot_be_said():
    with pytest.raises(ValueError, match="No voice says 'zebra'"):
        world.speak(["red zebra"])
    with pytest.raises(ValueError, match="There is no voice 'Bob'"):
        world.speak(["cat"], voices="Bob")
    with pytest.raises(ValueError, match="2 phrases and 1 voices"):
        world.speak(["cat", "dog"], voices=["f1"])
    with pytest.raises(ValueError, match="speak en and ko, not 'fr'"):
        world.utterances("fr")


def test_a_truncated_recording_is_one_clear_sentence(monkeypatch, tmp_path):
    (tmp_path / "speech").mkdir()
    index = json.loads((mmlesson.assets() / "speech" / "index.json").read_text(encoding="utf-8"))
    index["lengths"]["f1"][0] += 1
    (tmp_path / "speech" / "index.json").write_text(json.dumps(index), encoding="utf-8")
    (tmp_path / "speech" / "f1.ogg").write_bytes((mmlesson.assets() / "speech" / "f1.ogg").read_bytes())
    monkeypatch.setattr(mmlesson, "assets", lambda: tmp_path)
    with pytest.raises(ValueError, match="f1.ogg is not what its index.json says: expected"):
        recordings.__wrapped__("f1")


def test_resampling_keeps_a_tone_and_drops_what_the_lower_rate_cannot_hold():
    time = torch.arange(22_050) / 22_050
    low, high = (torch.sin(2 * torch.pi * hertz * time) for hertz in (440, 6000))
    kept = record_speech.resampled(low + high, 22_050)
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(world.RATE) / world.RATE)
    torch.testing.assert_close(kept, expected, atol=5e-3, rtol=0)


def test_trimming_keeps_a_margin_around_what_is_loud():
    sound = torch.zeros(8000)
    sound[3000:4000] = 0.5
    trimmed = record_speech.trimmed(sound)
    assert len(trimmed) == 160 + 999 + 160 and trimmed[160] == 0.5 and trimmed[159] == 0
