"""Bad requests to the world: each gets one clear sentence."""

import pytest
import torch

from mmlesson import world

ITEM, ONE = world.Item, world.scene(world.Item("owl"))
MISTAKES = {
    "scenes: unknown object": (
        lambda: world.scene(ITEM("aple")),
        "There is no object 'aple' in the world; did you mean 'apple'?",
    ),
    "scenes: unknown color": (lambda: world.scene(ITEM("apple", "read")), "did you mean 'red'?"),
    "scenes: negative size": (lambda: world.scene(ITEM("apple", size=-1)), "The size of the apple is -1;"),
    "scenes: too large": (lambda: world.scene(ITEM("apple", size=1.5)), "above 0 and up to 1"),
    "scenes: outside": (lambda: world.scene(ITEM("apple", "red", x=0.1)), "The red apple leaves the image"),
    "scenes: overlap": (
        lambda: world.scene(ITEM("apple", x=0.4, size=0.5), ITEM("dog", x=0.6, size=0.5)),
        "The dog overlaps the apple",
    ),
    "scenes: empty": (lambda: world.scene(), "A scene holds 1 to 4 items, and this one has 0."),
    "scenes: unknown split": (lambda: world.sample(3, split="test"), "There is no split 'test'; choose one of train"),
    "scenes: no scenes": (lambda: world.sample(0), "sample needs n >= 1"),
    "scenes: size range": (lambda: world.sample(1, size=(0.9, 0.2)), "size is a range (smallest, largest)"),
    "scenes: spread": (lambda: world.sample(1, spread=2), "spread runs from 0"),
    "scenes: side": (lambda: world.render(world.sample(1), side=0), "side is the image's height and width"),
    "scenes: style": (lambda: world.render(world.sample(1), style="oil"), "There is no style 'oil'"),
    "scenes: shift": (lambda: world.render_shifted(world.sample(1), "fog"), "There is no shift 'fog'"),
    "scenes: template": (lambda: world.captions(world.sample(1), template="a photo"), "A template needs {}"),
    "scenes: unknown word": (
        lambda: world.Tokenizer().encode(["a red aple"]),
        "The vocabulary has no word 'aple'. Did you mean",
    ),
    "scenes: too long": (lambda: world.Tokenizer().encode(["a red apple"], length=4), "needs 5 tokens"),
    "scenes: nowhere": (
        lambda: world.scene(ITEM("cat", x=float("nan"))),
        "The cat needs a place and an angle that are",
    ),
    "scenes: angle": (lambda: world.sample(3, angle=float("nan")), "angle is the largest rotation in degrees"),
    "scenes: one text": (lambda: world.Tokenizer().encode("red"), "encode takes a list of texts: write ['red']."),
    "scenes: foreign word": (
        lambda: world.Tokenizer(["teal"]).encode(["black"]),
        "Its `words` lists those that it knows",
    ),
    "speech: one phrase": (lambda: world.speak("red cat"), "speak takes a list of phrases: write ['red cat']."),
    "speech: too long": (
        lambda: world.speak(["red cat blue dog green horse pink cup"], vary=False),
        "and a clip 2.08: say fewer words.",
    ),
    "batches: small images": (lambda: world.ImageBatches(1, batch_size=2), "batch_size is at least 4, not 2"),
    "batches: small masked": (
        lambda: world.MaskedBatches(None, None, None, batch_size=3),
        "batch_size is at least 4, not 3",
    ),
    "episodes: kind": (
        lambda: world.episodes(2, kind="words"),
        "There are no episodes of kind 'words'; choose one of new_words",
    ),
    "episodes: none": (lambda: world.episodes(0), "n >= 1 episodes and shots >= 0 examples; got n=0"),
    "episodes: shots": (lambda: world.episodes(1, shots=-1), "got n=1, shots=-1"),
    "episodes: ways": (lambda: world.episodes(1, ways=65), "from 1 to 64 (64 names, 96 objects); got 65"),
    "episodes: ways of few": (
        lambda: world.episodes(1, ways=3, objects=[1, 2]),
        "from 1 to 2 (64 names, 2 objects); got 3",
    ),
    "episodes: objects": (lambda: world.episodes(1, objects=[96]), "objects is a list of object indices from 0 to 95"),
    "episodes: split": (lambda: world.episodes(1, split="test"), "There is no split 'test'"),
    "episodes: attributes": (
        lambda: world.episodes(1, kind="attribute", attributes=("size",)),
        "attributes are some of color,",
    ),
    "episodes: lengths": (
        lambda: world.build_episodes(ONE, [["dax", "wug"]]),
        "one string for each of the 1 images in texts",
    ),
    "episodes: word": (
        lambda: world.build_episodes(ONE, [["daxx"]]),
        "The vocabulary has no word 'daxx'. Did you mean 'dax'?",
    ),
    "episodes: logits": (
        lambda: world.episodes(2, shots=1).correct(torch.zeros(2, 5, 9)),
        "correct wants logits for every",
    ),
    "episodes: take": (
        lambda: world.episodes(2, shots=1).take([[0], [2]]),
        "take wants 2 rows of chunk indices from 0 to 1",
    ),
    "episodes: questions": (lambda: world.questions(ONE, kinds=("size",)), "There are no questions of kind 'size'"),
    "episodes: unaskable": (lambda: world.questions(ONE, kinds=("color",)), "has one true answer in scene 0, 'an owl'"),
    "video: none": (lambda: world.video(0), "video needs n >= 1 clips; got n=0."),
    "video: motion": (lambda: world.video(2, motion="jumps"), "There is no motion 'jumps'; choose one of moves left,"),
    "video: indices": (
        lambda: world.video(2, motion=[0, 9]),
        "motion is a word or 2 whole numbers from 0 to 8; got [0, 9].",
    ),
    "video: too few": (lambda: world.video(3, motion=[0, 1]), "motion is a word or 3 whole numbers"),
    "video: split": (lambda: world.video(2, split="test"), "There is no split 'test'"),
    "video: one frame": (lambda: world.render_video(world.video(1), frames=1), "A clip has 2 or more frames"),
    "video: times": (lambda: world.video(1).at([0.5, 1.5]), "times is a list of moments from 0 (first) to 1 (last)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_bad_request_gets_one_clear_sentence(mistake):
    call, sentence = MISTAKES[mistake]
    with pytest.raises(ValueError) as caught:
        call()
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
