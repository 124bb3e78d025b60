"""Hard negatives: the true caption is true, and the other is wrong in exactly the way that is named."""

import pytest
import torch

from mmlesson import world

COLORS = [c.name for c in world.COLORS]
OBJECTS = [o.name for o in world.OBJECTS]


def items_of(caption):
    """[(object, color)] of a caption, in order, and the words between them."""
    words = caption.split()
    colors = [COLORS.index(w) for w in words if w in COLORS]
    objects = [OBJECTS.index(w) for w in words if w in OBJECTS]
    between = " ".join(w for w in words if w not in COLORS + OBJECTS + ["a", "an"])
    return list(zip(objects, colors)), between


def truth(scenes, i):
    """The things of scene i as one reads: from the left, or from above."""
    count = int(scenes.counts[i])
    order = sorted(range(count), key=lambda k: scenes.centers[i, k].round(decimals=1).flip(0).tolist())
    if count == 2:
        across = abs(float(scenes.centers[i, 0, 0] - scenes.centers[i, 1, 0])) > 0.25
        order = sorted(range(2), key=lambda k: float(scenes.centers[i, k, 0 if across else 1]))
    return [(int(scenes.objects[i, k]), int(scenes.colors[i, k])) for k in order]


@pytest.fixture(scope="module")
def scenes():
    drawn = world.sample(600, seed=5, items=2)
    return drawn[world.swappable(drawn).nonzero()[:, 0]]


@pytest.mark.parametrize("kind", world.HARD_NEGATIVES)
@pytest.mark.parametrize("joined", ["and", "relation"])
def test_the_true_one_is_true_and_the_other_wrong_in_one_way(scenes, kind, joined):
    for i, (right, wrong) in enumerate(zip(*world.hard_negatives(scenes, 0, kind, joined))):
        said, between = items_of(right)
        assert said == truth(scenes, i)
        expected = {"left of", "above"} if joined == "relation" or kind == "places swapped" else {"and"}
        assert between in expected
        claimed, same = items_of(wrong)
        assert same == between
        (o1, c1), (o2, c2) = said
        if kind == "places swapped":
            assert claimed == [(o2, c2), (o1, c1)]
        elif kind == "colors swapped":
            assert claimed == [(o1, c2), (o2, c1)]
        elif kind == "objects swapped":
            assert claimed == [(o2, c1), (o1, c2)]
        else:
            changed = [(a, b) for a, b in zip(said, claimed) if a != b]
            assert len(changed) == 1
            (a, b) = changed[0]
            assert (a[0] == b[0]) == (kind == "another color") and (a[1] == b[1]) == (kind == "another object")


def test_held_out_pairs_are_not_named_about_training_scenes(scenes):
    for kind in world.HARD_NEGATIVES:
        for caption in world.hard_negatives(scenes, 1, kind)[1]:
            assert not any(world.held_out(torch.tensor(o), torch.tensor(c)) for o, c in items_of(caption)[0]), caption


def test_unswappable_scenes_are_found():
    scenes = world.join([
        world.scene(world.Item("cat", "red", 0.25, 0.25, 0.4), world.Item("dog", "red", 0.75, 0.25, 0.4)),
        world.scene(world.Item("cat", "red", 0.25, 0.25, 0.4), world.Item("cat", "blue", 0.75, 0.25, 0.4)),
        world.scene(world.Item("cat", "red")),
        world.scene(world.Item("dog", "red", 0.25, 0.25, 0.4), world.Item("camel", "blue", 0.75, 0.25, 0.4)),
    ])  # fmt: skip
    assert world.swappable(scenes).tolist() == [False, False, False, True]
    with pytest.raises(ValueError, match="'colors swapped' does not fit scene 0: take only scenes"):
        world.hard_negatives(scenes, 0, "colors swapped")


def test_mixed_batches_draw_what_fits():
    scenes = world.join([world.sample(200, 1, items=2), world.sample(100, 2)])
    right, wrong = world.hard_negatives(scenes, 3)
    assert all(a != b for a, b in zip(right, wrong))
    assert {len(items_of(c)[0]) for c in right[200:]} == {1}
    assert world.hard_negatives(scenes, 3) == (right, wrong)
    assert world.hard_negatives(scenes, 4) != (right, wrong)


def test_other_objects_can_be_limited(scenes):
    _, wrong = world.hard_negatives(scenes, 0, "another object", objects=range(10))
    right, _ = world.hard_negatives(scenes, 0, "another object", objects=range(10))
    for a, b in zip(right, wrong):
        changed = [y[0] for x, y in zip(items_of(a)[0], items_of(b)[0]) if x != y]
        assert changed[0] < 10


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "sizes swapped"}, "There is no hard negative 'sizes swapped'; choose one of colors swapped"),
        ({"joined": "or"}, "joined is"),
    ],
)
def test_bad_input_gets_one_sentence(scenes, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        world.hard_negatives(scenes, **options)


def test_three_items_are_refused():
    with pytest.raises(ValueError, match="one or two items"):
        world.hard_negatives(world.sample(4, 0, items=3))


def test_sample_takes_some_objects_only():
    few = [3, 40, 95]
    for items in (1, 2):
        assert set(world.sample(200, 0, items=items, objects=few).objects.flatten().tolist()) == set(few)
    assert len(world.pairs("all", few)) == 24 and len(world.pairs("held_out", few)) == 3
    with pytest.raises(ValueError, match="objects are indices from 0 to 95"):
        world.sample(2, objects=[96])
