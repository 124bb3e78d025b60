"""Downstream tasks for one frozen model that sees and reads: vision, language and both, each with its usual protocol.

Vision and language tasks are linear probes (CLIP, section 3.2), questions about images train a head of two layers
(FLAVA, section 4), everything else is zero-shot. The model is asked through an *adapter*, an object with

    image(images) -> (N, D)            input of the linear probes on images
    text(captions) -> (N, D)           input of the linear probes on text
    joint(images, captions) -> (N, D)  input of the head for questions
    similarity(images, captions) -> (N, M)   for retrieval
    match(images, captions) -> (N,)    how well image i and caption i belong together
    repair(images, captions) -> list of N captions, each with at most one word changed
"""

import torch
import torch.nn.functional as F
from torch import nn

from mmlesson import world

CHANCE = {
    "vision": {"object": 1 / 32, "color": 1 / 8, "category": 0.25, "count": 1 / 4, "place": 1 / 4, "same color": 1 / 2},
    "language": {"second color": 1 / 8, "category named": 0.25, "same color named": 1 / 2, "word order": 1 / 2},
    "both": {
        "image to text": 1 / 256, "text to image": 1 / 256, "another object": 1 / 2, "colors swapped": 1 / 2,
        "objects swapped": 1 / 2, "places swapped": 1 / 2, "question": 1 / 8, "repair": 0.0,
    },
}  # fmt: skip
CATEGORIES = sorted({o.category for o in world.OBJECTS})
CATEGORY = torch.tensor([CATEGORIES.index(o.category) for o in world.OBJECTS])
SIDE = 48


def evaluate(adapter, train=1500, test=500):
    """{family: {task: accuracy}} of a model: 18 tasks in the families of CHANCE.

    train, test: scenes or texts per probe; the test scenes are new, of training pairs.
    """
    with torch.no_grad():
        both = {
            **_retrieval(adapter),
            **_hard_negatives(adapter, test),
            "repair": _repair(adapter, test // 4),
        }
    both["question"] = _questions(adapter, train, test)
    found = {
        "vision": _vision(adapter, train, test),
        "language": _language(adapter, train, test),
        "both": both,
    }
    return {family: {task: found[family][task] for task in tasks} for family, tasks in CHANCE.items()}


def macro_average(scores):
    """Mean over the families of the mean over their tasks, as in FLAVA's table 3 (vision, language, both)."""
    return sum(sum(tasks.values()) / len(tasks) for tasks in scores.values()) / len(scores)


def probe(features, labels, test_features, test_labels, hidden=0):
    """Accuracy on the test part of a classifier fitted to frozen features (N, D): linear, or with one hidden layer.

    labels (N,) long. Features are standardized; full-batch L-BFGS with a small L2 penalty.
    """
    features, test_features = features.float(), test_features.float()  # a model may think in half precision
    mean, std = features.mean(0), features.std(0) + 1e-6
    x, test_x = (features - mean) / std, (test_features - mean) / std
    classes = int(labels.max()) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Linear(x.shape[1], hidden), nn.ReLU()] if hidden else []
        head = nn.Sequential(*layers, nn.Linear(hidden or x.shape[1], classes)).to(x.device)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(head(x), labels)
        value = value + 1e-3 * sum(p.square().sum() for p in head.parameters())
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        return (head(test_x).argmax(dim=1) == test_labels).float().mean().item()


def _scenes(n, seed, items, **options):
    return world.sample(n, seed, items=items, objects=world.SUBSET, **{**world.LARGE_UPRIGHT, **options})


def _images(scenes):
    return world.render(scenes, side=SIDE)


@torch.no_grad()
def _in_chunks(function, *columns):
    """function over chunks of 100 rows of tensors or lists, joined again."""
    starts = range(0, len(columns[0]), 100)
    return torch.cat([function(*(column[i : i + 100] for column in columns)) for i in starts])


def _vision(adapter, train, test):
    def score(labels, scenes):
        x = _in_chunks(lambda index: adapter.image(_images(scenes[index])), torch.arange(len(scenes)))
        return [probe(x[:train], y[:train], x[train:], y[train:]) for y in (y.to(x.device) for y in labels)]

    n = train + test
    two = _scenes(n, 7, 2)
    first = two.centers.sum(dim=2).argmin(dim=1, keepdim=True)  # the left or upper one, which a caption names first
    objects, colors = (x.gather(1, first)[:, 0] for x in (two.objects, two.colors))
    right, low = (two.centers > 0.5).all(dim=1).long().unbind(dim=1)  # both in the right half, both in the lower half
    in_a_row = (two.centers[:, 0, 1] > 0.5) == (two.centers[:, 1, 1] > 0.5)
    place = torch.where(in_a_row, low, 2 + right)
    result = dict(
        zip(("object", "color", "category", "place"), score((objects, colors, CATEGORY[objects], place), two))
    )
    # One item has the whole image, not a quarter of it: at half the size all drawings are equal.
    sizes = {1: (0.42, 0.48)}
    counted = world.join([_scenes(-(-n // 4), 2 + k, k, size=sizes.get(k, (0.85, 0.95))) for k in (1, 2, 3, 4)])
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    (result["count"],) = score((counted.counts[order] - 1,), counted[order])
    same, chosen = _half_in_one_color(n, 8)
    (result["same color"],) = score((same,), chosen)
    return result


def _language(adapter, train, test):
    def score(captions, labels):
        x = _in_chunks(adapter.text, captions)
        y = torch.as_tensor(labels, device=x.device)
        return probe(x[:train], y[:train], x[train:], y[train:])

    n, generator = train + test, torch.Generator().manual_seed(0)
    captions, _ = world.hard_negatives(_scenes(n, 20, 2), generator, joined="relation")
    one = _scenes(n, 21, 1, distinct=False)
    same, chosen = _half_in_one_color(n, 22)
    compared, _ = world.hard_negatives(chosen, generator)
    intact = (torch.rand(n, generator=generator) < 0.5).tolist()
    where = torch.rand(n, generator=generator).tolist()
    texts = [c if good else _neighbors_exchanged(c, place) for c, good, place in zip(captions, intact, where)]
    return {
        "second color": score(captions, [_colors_named(c)[1] for c in captions]),
        "category named": score(world.captions(one, generator), CATEGORY[one.objects[:, 0]]),
        "same color named": score(compared, same),
        "word order": score(texts, [int(good) for good in intact]),
    }


COLOR_NAMES = [c.name for c in world.COLORS]
OBJECT_NAMES = [o.name for o in world.OBJECTS]


def _colors_named(caption):
    return [COLOR_NAMES.index(word) for word in caption.split() if word in COLOR_NAMES]


def _neighbors_exchanged(caption, place):
    words = caption.split()
    i = int(place * (len(words) - 1))
    return " ".join([*words[:i], words[i + 1], words[i], *words[i + 2 :]])


def _half_in_one_color(n, seed):
    """Labels (n,) and n scenes of two items, of which every other one, shuffled, has a single color."""
    many = _scenes(12 * n, seed, 2)
    many = many[(many.objects[:, 0] != many.objects[:, 1]).nonzero()[:, 0]]
    same = many.colors[:, 0] == many.colors[:, 1]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    index = torch.cat([same.nonzero()[: n // 2, 0], (~same).nonzero()[: n - n // 2, 0]])[order]
    return same[index].long(), many[index]


def _retrieval(adapter):
    scenes = _scenes(256, 30, 2)
    similarity = adapter.similarity(_images(scenes), world.hard_negatives(scenes, 0, joined="relation")[0])
    own = torch.arange(256, device=similarity.device)
    return {
        "image to text": (similarity.argmax(1) == own).float().mean().item(),
        "text to image": (similarity.argmax(0) == own).float().mean().item(),
    }


def _hard_negatives(adapter, test):
    scenes = _scenes(4 * test, 31, 2)
    scenes = scenes[world.swappable(scenes).nonzero()[:test, 0]]
    result = {}
    for kind in ("another object", "colors swapped", "objects swapped", "places swapped"):
        true, negative = world.hard_negatives(scenes, 0, kind, objects=world.SUBSET)

        def margin_of(i, t, n):
            return adapter.match(_images(scenes[i]), t) - adapter.match(_images(scenes[i]), n)

        margin = _in_chunks(margin_of, torch.arange(len(scenes)), true, negative)
        result[kind] = (margin > 0).float().mean().item()
    return result


def _questions(adapter, train, test):
    """ "a dog": which color? A head of two layers on the joint vector; the scene holds another color too."""
    scenes = _scenes(2 * (train + test), 32, 2)
    scenes = scenes[world.swappable(scenes).nonzero()[: train + test, 0]]
    which = torch.randint(2, (len(scenes), 1), generator=torch.Generator().manual_seed(0))
    objects, labels = scenes.objects.gather(1, which)[:, 0].tolist(), scenes.colors.gather(1, which)[:, 0].tolist()
    asked = [world.noun_phrase(o, world.NATURAL) for o in objects]
    x = _in_chunks(lambda i, q: adapter.joint(_images(scenes[i]), q), torch.arange(len(scenes)), asked)
    y = torch.tensor(labels, device=x.device)
    return probe(x[:train], y[:train], x[train:], y[train:], hidden=128)


def _repair(adapter, test):
    scenes = _scenes(test, 33, 2)
    by_color = world.hard_negatives(scenes, 0, "another color", "relation")
    by_object = world.hard_negatives(scenes, 0, "another object", "relation", world.SUBSET)
    true, negative = (a[: test // 2] + b[test // 2 :] for a, b in zip(by_color, by_object))
    repaired = adapter.repair(_images(scenes), negative)
    return sum(_named(a) == _named(b) for a, b in zip(repaired, true)) / len(true)


def _named(caption):
    """The colors and objects of a caption, in order; articles do not count."""
    return [w for w in caption.split() if w in COLOR_NAMES or w in OBJECT_NAMES]
