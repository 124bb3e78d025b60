"""The downstream tasks give a model that knows everything full marks, and one that knows nothing chance."""

import pytest
import torch
import torch.nn.functional as F

from mmlesson import world
from mmlesson.experiments import downstream


class Blind:
    """Returns noise, and repairs nothing."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def noise(self, n, d=8):
        return torch.randn(n, d, generator=self.generator)

    def image(self, images):
        return self.noise(len(images))

    def text(self, captions):
        return self.noise(len(captions))

    def joint(self, images, captions):
        return self.noise(len(images))

    def similarity(self, images, captions):
        return self.noise(len(images), len(captions))

    def match(self, images, captions):
        return self.noise(len(images))[:, 0]

    def repair(self, images, captions):
        return captions


class Pixels(Blind):
    """Sees pixels and counts words, and never brings the two together."""

    vocabulary = world.vocabulary()

    def image(self, images):
        return F.avg_pool2d(images, 6).flatten(1)

    def text(self, captions):
        bags = torch.zeros(len(captions), 2 * len(self.vocabulary))
        for row, caption in zip(bags, captions):
            for position, word in enumerate(caption.replace(",", " ,").split()):
                row[self.vocabulary.index(word) + (position > 3) * len(self.vocabulary)] += 1
        return bags


def test_noise_scores_chance():
    scores = downstream.evaluate(Blind(), train=600, test=400)
    assert [list(tasks) for tasks in scores.values()] == [list(tasks) for tasks in downstream.CHANCE.values()]
    for family, tasks in scores.items():
        for task, score in tasks.items():
            assert abs(score - downstream.CHANCE[family][task]) < 0.12, task
    assert sum(map(len, scores.values())) >= 12


def test_pixels_and_words_score_where_they_suffice():
    scores = downstream.evaluate(Pixels(), train=800, test=300)
    assert scores["vision"]["color"] > 0.4 and scores["vision"]["place"] > 0.8
    assert scores["language"]["second color"] > 0.9 and scores["language"]["category named"] > 0.9
    assert scores["both"]["places swapped"] < 0.62


def test_repair_counts_whole_captions():
    class Oracle(Blind):
        def repair(self, images, captions):
            return [known[caption] for caption in captions]

    scenes = downstream._scenes(40, 33, 2)
    known = {}
    for kind in ("another color", "another object"):
        true, negatives = world.hard_negatives(scenes, 0, kind, "relation", world.SUBSET)
        known |= dict(zip(negatives, true))
    assert downstream._repair(Oracle(), 40) == 1.0
    assert downstream._repair(Blind(), 40) == 0.0


def test_probe_finds_what_is_linear_and_only_that():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1200, 6, generator=generator)
    linear, crossed = (x[:, 0] > 0).long(), (x[:, 0] * x[:, 1] > 0).long()

    def score(labels, **options):
        return downstream.probe(x[:800], labels[:800], x[800:], labels[800:], **options)

    assert score(linear) > 0.95
    assert score(crossed) < 0.62
    assert score(crossed, hidden=32) > 0.85  # the head for questions has one layer more


def test_probe_does_not_touch_the_random_state():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    downstream.probe(
        torch.randn(20, 2, generator=torch.Generator()), torch.arange(20) % 2, torch.zeros(2, 2), torch.tensor([0, 1])
    )
    assert torch.equal(torch.rand(1), expected)


def test_macro_weighs_families_not_tasks():
    scores = {"vision": {"a": 1.0, "b": 0.0}, "language": {"c": 0.2}, "both": {"d": 0.6}}
    assert downstream.macro_average(scores) == pytest.approx((0.5 + 0.2 + 0.6) / 3)
