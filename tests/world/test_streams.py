"""Streams of every kind are made of training pairs, hold what they need, and are fixed by their seed."""

import pytest
import torch

from mmlesson import world
from mmlesson.world import SPEECH

KINDS = list(world.STREAM_KINDS)


def encode(images):
    """Stands for a codebook: 16 codes per image, from its brightness."""
    return (images.mean(dim=1)[:, ::8, ::8] * 100).long()


def words_of(row):
    return " ".join(part for part in row if isinstance(part, str))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_show_training_pairs_and_hold_what_they_need(kind):
    (rows, waves), (again, waves_again) = (world.Streams(encode, objects=[0, 24], seed=3).rows(kind, 8) for _ in "ab")
    assert [words_of(row) for row in rows] == [words_of(row) for row in again] and len(rows) == 8
    assert waves is None or torch.equal(waves, waves_again)
    sounds = sum(part is SPEECH for row in rows for part in row)
    assert sounds == (0 if waves is None else len(waves))
    assert (waves is not None) == (kind in ("hear", "hear_draw", "say_draw", "ask"))
    images = [sum(isinstance(part, torch.Tensor) for part in row) for row in rows]
    assert set(images) == {{"read": 0, "hear": 0, "watch": world.FRAMES}.get(kind, 1)}
    assert all(isinstance(row[-1], torch.Tensor) == (kind in ("draw", "hear_draw", "say_draw")) for row in rows)
    said = " ".join(map(words_of, rows))
    if kind in ("read", "draw", "write", "hear", "say_draw"):
        assert any(name in said for name in ("cat", "고양이", "apple", "사과"))
    unseen = [(o, c) for o in (0, 24) for c in range(len(world.COLORS)) if world.held_out(o, c)]
    assert unseen and not any(world.spoken_phrase(pair, "en") in said for pair in unseen)


def test_a_step_takes_the_asked_number_of_each_kind():
    streams = world.Streams(encode, 3, mixture={"read": 2, "hear": 5}, seed=0)
    steps = list(streams)
    assert len(streams) == len(steps) == 3
    assert all({kind: len(rows) for kind, (rows, _) in step.items()} == {"read": 2, "hear": 5} for step in steps)
    assert words_of(steps[0]["read"][0][0]) != words_of(steps[1]["read"][0][0])


def test_a_question_is_answered_by_what_was_asked():
    rows, _ = world.Streams(encode, seed=0).rows("ask", 40)
    answers = {row[2].split()[1] for row in rows}
    colors = {c.name for c in world.COLORS} | {c.korean for c in world.COLORS}
    assert answers & colors and answers - colors


def test_what_was_said_stands_between_the_sound_and_its_image():
    (sound, words, image), *_ = world.Streams(encode, seed=0).rows("say_draw", 1)[0]
    language, *said, end = words.split()
    assert sound is SPEECH and language in ("<en>", "<ko>") and end == ";" and image.shape == (4, 4)
    assert " ".join(said) in [world.spoken_phrase(p, language[1:-1]) for p in world.pairs("train").tolist()]


def test_a_clip_is_watched_frame_by_frame():
    clips = world.video(2, seed=0)
    rows = world.video_rows(clips, encode)
    assert [part for part in rows[0] if isinstance(part, str)][:4] == ["<t1>", "<t2>", "<t3>", "<t4>"]
    assert rows[0][-1] == f"<en> {world.video_captions(clips)[0]} ;"
    second_frame = world.render_video(clips, 4)[1, 1:2]
    assert torch.equal(rows[1][3], encode(second_frame)[0].cpu())


def test_held_out_images_show_what_training_never_shows():
    pairs, codes = world.held_out_images(encode, 150, objects=[0, 24])
    assert world.held_out(pairs[:, 0], pairs[:, 1]).all() and set(pairs[:, 0].tolist()) == {0, 24}
    assert codes.shape == (150, 4, 4)
