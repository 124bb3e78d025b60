"""Checks for the exercises of lesson 02, CLIP."""

import math
import zlib

import torch
import torch.nn.functional as F
from torch import nn

from mmlesson.check import DTYPES, exercise, randn


@exercise("both directions, normalization, scale, chance, gradients, no overflow, both float types")
def clip_loss(answer):
    """clip_loss(image_features, text_features, logit_scale) -> 0-dim tensor, CLIP's symmetric loss.

    image_features, text_features (N, D), not normalized; row i of one belongs to row i of the other. logit_scale: 0-dim
    tensor, the natural logarithm of the scale.
    """

    def expect_loss(what, image, text, logit_scale, wrong=(), hint=""):
        expected = _symmetric(logit_scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T)
        loss = answer(image_features=image, text_features=text, logit_scale=logit_scale)
        answer.expect_tensor(what, loss, expected, wrong, axes="one number", hint=hint)
        return loss

    for dtype in DTYPES:
        image, text = 3 * randn(5, 7, seed=1, dtype=dtype), 2 * randn(5, 7, seed=2, dtype=dtype)
        logit_scale = torch.tensor(1.5, dtype=dtype)
        expect_loss("the loss", image, text, logit_scale, _wrong_clip_losses(image, text, logit_scale))
    image, text, logit_scale = (x.requires_grad_() for x in (image, text, logit_scale))
    loss = expect_loss("the loss", image, text, logit_scale)
    answer.expect_gradients("the loss", loss, image_features=image, text_features=text, logit_scale=logit_scale)

    same, image, ln_100 = torch.ones(6, 4), randn(5, 7, seed=3), torch.tensor(100.0).log()
    expect_loss("the loss where all features are equal, which is chance, ln N,", same, same, torch.tensor(2.0))
    overflow = "exp(100) overflows float32: subtract each row's maximum before exp, as log-sum-exp does."
    expect_loss("the loss of perfect pairs at scale 100", image, image, ln_100, hint=overflow)
    underflow = "The probabilities round to 0 and have no log (an epsilon hides that): use logit - logsumexp(logits)."
    expect_loss("the loss of opposite pairs at scale 100", image, -image, ln_100, hint=underflow)


def _symmetric(logits, targets=None):
    """Mean over both directions of the cross-entropy with these targets (N, N), by default the diagonal."""
    targets = torch.eye(len(logits), dtype=logits.dtype) if targets is None else targets
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets.T)) / 2


def _wrong_clip_losses(image, text, logit_scale):
    N, scale, eye = len(image), logit_scale.exp(), torch.eye(len(image), dtype=image.dtype)
    i, t = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    i0, t0 = F.normalize(image, dim=0), F.normalize(text, dim=0)
    logits = scale * i @ t.T
    loss = _symmetric(logits)
    per_pair = -(logits.log_softmax(1) + logits.log_softmax(0)).diagonal() / 2
    negatives = logits.masked_fill(eye.bool(), -torch.inf)
    without = (negatives.logsumexp(1) + negatives.logsumexp(0)).mean() / 2 - logits.diagonal().mean()
    return [
        (
            F.cross_entropy(logits, eye),
            "this is the image-to-text direction only (softmax over the rows, or over the rows twice): "
            "add the same on logits.T and take the mean.",
        ),
        (
            F.cross_entropy(logits.T, eye),
            "this is the text-to-image direction only (softmax over the columns, or over the columns twice): "
            "add the one over the rows and take the mean.",
        ),
        (_symmetric(scale * image @ text.T), "the features are not normalized: divide each row by its length."),
        (_symmetric(scale * image @ t.T), "the image features are not normalized: divide each row by its length."),
        (_symmetric(scale * i @ text.T), "the text features are not normalized: divide each row by its length."),
        (_symmetric(scale * i0 @ t0.T), "the features are normalized over the batch (dim=0): normalize each row."),
        (
            _symmetric(scale * i @ t.T / image.norm(dim=1)[:, None] / text.norm(dim=1)),
            "the features are divided by their squared length: is a square root missing?",
        ),
        (_symmetric(logit_scale * i @ t.T), "logit_scale is a logarithm: multiply by logit_scale.exp()."),
        (_symmetric(i @ t.T / scale), "the logits are divided by the scale: multiply (it is 1 / temperature)."),
        (_symmetric(i @ t.T), "logit_scale is not used: multiply the cosines by logit_scale.exp()."),
        (2 * loss, "this is the sum of the two directions: take their mean."),
        (N * loss, "this is the sum over the batch: take the mean over its pairs."),
        (2 * N * loss, "this is the sum over the batch and over both directions: take the mean of each."),
        (per_pair, "this is one loss per pair: take the mean."),
        (-loss, "the sign is wrong: the loss is minus the log-probability of the right partner."),
        (_symmetric(logits, eye.roll(1, 1)), "the labels are off by one: image i belongs to text i, not to i + 1."),
        (_symmetric(logits, eye.roll(-1, 1)), "the labels are off by one: image i belongs to text i, not to i - 1."),
        (without, "the right partner is missing from the denominator: sum exp over all N candidates."),
    ]


@exercise("both normalizations, mean over templates, order of prompts, other sizes, both float types")
def zero_shot_classifier(answer):
    """zero_shot_classifier(encode_text, names, templates) -> (C, D), one unit vector per class name.

    encode_text: list of n strings -> (n, D), not normalized; each template holds one {}. Normalize every prompt's
    features, take the mean over the templates, normalize again.
    """
    for C, T, dtype in ((4, 3, torch.float32), (3, 2, torch.float64)):
        names = ["red apple", "duck", "canoe", "red panda"][:C]
        templates = ["a photo of a {}.", "my {}", "a sketch of the {}"][:T]
        encode_text = _TextEncoder(dtype)
        features = torch.stack([encode_text([template.format(name) for template in templates]) for name in names])
        expected = F.normalize(F.normalize(features, dim=-1).mean(1), dim=-1)
        wrong = _wrong_classifiers(features, expected)
        wrong += _wrong_prompts(encode_text, names, templates)
        got = answer(encode_text=encode_text, names=list(names), templates=list(templates))
        answer.expect_tensor("the classifier", got, expected, wrong, axes="(C, D)")


class _TextEncoder:
    """Stands for a text encoder: random features of very different lengths, always the same for the same text."""

    def __init__(self, dtype):
        self.dtype = dtype

    def __call__(self, texts):
        if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"encode_text takes a list of strings, but got {texts!r}")
        seeds = [zlib.crc32(text.encode()) for text in texts]
        return torch.stack([(1 + seed % 9) * randn(5, seed=seed, dtype=self.dtype) for seed in seeds])


def _wrong_classifiers(features, expected):
    unit = F.normalize(features, dim=-1)  # (C, T, D)
    mixed = unit.transpose(0, 1).reshape(unit.shape)
    return [
        (
            F.normalize(features.mean(1), dim=-1),
            "normalize before the mean as well, or long vectors outvote short ones.",
        ),
        (unit.mean(1), "the mean of unit vectors is shorter than 1: normalize it again."),
        (features.mean(1), "nothing is normalized: normalize each prompt, take the mean, normalize again."),
        (unit.sum(1), "this is the sum over the templates: its length should be 1, so normalize it."),
        (unit[:, 0], "only the first template is used: take the mean over all of them."),
        (unit[:, -1], "only the last template is used: take the mean over all of them."),
        (F.normalize(unit.mean(0), dim=-1), "this is the mean over the classes: take it over the templates."),
        (expected.T, "this is transposed, (D, C): return one row per class, (C, D)."),
        (
            F.normalize(mixed.mean(1), dim=-1),
            "prompts of different classes are mixed: encoded template by template they are (T, C, D), not (C, T, D).",
        ),
        (unit.flatten(0, 1), "this is one row per prompt, (C * T, D): take the mean over each class's templates."),
    ]


def _wrong_prompts(encode_text, names, templates):
    braces = F.normalize(F.normalize(encode_text(templates), dim=-1).mean(0), dim=-1)
    return [
        (
            braces.expand(len(names), -1),
            "all classes get the same vector: use template.format(name), not the template.",
        ),
        (F.normalize(encode_text(names), dim=-1), "the templates are not used: encode template.format(name)."),
    ]


@exercise("rows as queries, k, fraction, type, both float types")
def recall_at_k(answer):
    """recall_at_k(similarity, k) -> float, the fraction of rows whose own column is among the k highest of the row.

    similarity (N, N), queries by rows, candidates by columns, the right ones on the diagonal.
    """
    for N, k, dtype in ((20, 3, torch.float32), (12, 2, torch.float64), (6, 6, torch.float32)):
        similarity = randn(N, N, seed=4, dtype=dtype) + torch.eye(N, dtype=dtype)
        expected = _recall(similarity, k)
        wrong = [
            (_recall(similarity.T, k), "the columns are used as queries: a query is a row of the similarities."),
            (_recall(-similarity, k), "these are the k lowest similarities: take the highest."),
            (100 * expected, "this is a percentage: return the fraction, between 0 and 1."),
            (round(N * expected), "this is the number of hits: divide it by the number of queries."),
            (expected / k, "the hits are divided by k too (that is precision): divide by the number of queries only."),
            (_recall(similarity, 1), "this is recall@1: look at the k highest, not the highest only."),
            (_recall(similarity, k - 1), "this is recall@(k - 1): is a rank counted from 1, or a slice one short?"),
            (_recall(similarity, k + 1), "this is recall@(k + 1): with ranks from 0, the k best have rank < k."),
        ]
        got = answer(similarity=similarity, k=k)
        answer.expect_value(f"recall@{k} of {N} queries", got, expected, wrong)


def _recall(similarity, k):
    better = (similarity > similarity.diagonal()[:, None]).sum(1)
    return (better < k).double().mean().item()


@exercise("ln 100, in place, the same trainable parameter, nothing else touched")
def clamp_logit_scale(answer):
    """clamp_logit_scale(model): clamp model.logit_scale in place to at most ln 100; it stays the same Parameter.

    Code that also clamps it to at least 0, as open_clip does, passes too.
    """
    six, large = _clamped(answer, 6.0), _clamped(answer, 200.0)
    wrong = [
        (large, 200, "model.logit_scale is unchanged: clamp() returns a new tensor, clamp_() works in place."),
        (six, 100, "logit_scale now holds the scale itself: clamp its logarithm, at ln 100 = 4.605."),
        (large, 100, "logit_scale is clamped to 100, but it is a logarithm: its limit is ln 100 = 4.605."),
        (large, 2, "the limit is log10(100) = 2: exp() undoes the natural logarithm, math.log(100) = 4.605."),
    ]
    for got, mistake, sentence in wrong:
        answer.expect(not math.isclose(got, mistake, abs_tol=1e-3), sentence)
    for value, got in ((6.0, six), (200.0, large)):
        right = math.isclose(got, math.log(100), abs_tol=1e-3)  # CLIP's own code rounds to 4.6052
        answer.expect(right, f"a logit_scale of {value} became {got:.4g}; expected the limit, ln 100 = 4.605.")
    for value in (2.5, 0.5, -1.0):
        got = _clamped(answer, value)
        untouched = got == value or (value < 0 and got == 0)
        answer.expect(untouched, f"a logit_scale of {value} is below the limit and should stay, but became {got:.4g}.")


def _clamped(answer, value):
    """The value of logit_scale after the learner's clamp; the rest of the model must be as before."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 50)
    model.logit_scale = before = nn.Parameter(torch.tensor(value))
    answer.run(model=model)
    after = model.logit_scale
    answer.expect(isinstance(after, nn.Parameter), "model.logit_scale is no nn.Parameter now: change it in place.")
    replaced = "model.logit_scale is a new Parameter, but the optimizer holds the old one: change it in place."
    answer.expect(after is before, replaced)
    answer.expect(after.requires_grad, "model.logit_scale no longer requires a gradient, so it would stop learning.")
    answer.expect(model.weight.item() == 50, "another parameter changed as well: clamp model.logit_scale only.")
    return after.item()


@exercise("duplicates as positives, both directions, gradients, no overflow, both float types")
def multi_positive_loss(answer):
    """multi_positive_loss(logits, captions) -> 0-dim tensor, the symmetric loss where equal captions are all right.

    logits (N, N), scaled, images by rows; captions: list of N strings. The target of row i is uniform over all j with
    captions[j] == captions[i]; the loss is the mean of the cross-entropies over rows and over columns.
    """
    captions = ["a red apple", "a blue duck", "a red apple", "a green car", "a blue duck", "a red apple"]
    equal = torch.tensor([[a == b for b in captions] for a in captions])

    def expect_loss(what, logits, captions, expected, wrong=(), hint=""):
        loss = answer(logits=logits, captions=list(captions))
        answer.expect_tensor(what, loss, expected, wrong, axes="one number", hint=hint)
        return loss

    for dtype in DTYPES:
        logits, targets = 3 * randn(6, 6, seed=4, dtype=dtype), equal.to(dtype) / equal.sum(1, keepdim=True)
        wrong = _wrong_multi_positives(logits, equal, targets)
        expect_loss("the loss", logits, captions, _symmetric(logits, targets), wrong)
    logits.requires_grad_()
    loss = expect_loss("the loss", logits, captions, _symmetric(logits, targets))
    answer.expect_gradients("the loss", loss, logits=logits)

    expect_loss("the loss without duplicates, CLIP's own,", logits, list("abcdef"), _symmetric(logits))
    large = 200 * randn(6, 6, seed=4)
    hint = "Large logits overflow exp and underflow its log: use log_softmax or logsumexp."
    expect_loss("the loss of large logits", large, captions, _symmetric(large, targets.float()), hint=hint)


def _wrong_multi_positives(logits, equal, targets):
    itself = torch.eye(len(logits), dtype=torch.bool)
    others = (equal & ~itself).to(logits.dtype)
    without = logits.masked_fill(equal & ~itself, -torch.inf)
    alone = -(without.log_softmax(1) + without.log_softmax(0)).diagonal().mean() / 2
    rows, columns = (logits.log_softmax(dim).masked_fill(~equal, -torch.inf).logsumexp(dim) for dim in (1, 0))
    loss = _symmetric(logits, targets)
    return [
        (_symmetric(logits), "duplicates still count as wrong answers: every j with an equal caption is right."),
        (
            _symmetric(logits, equal.to(logits.dtype)),
            "the targets of a row sum to more than 1: divide them by the number of positives.",
        ),
        (
            F.cross_entropy(logits, targets),
            "this is the image-to-text direction only (rows): add the same on logits.T and take the mean.",
        ),
        (
            F.cross_entropy(logits.T, targets.T),
            "this is the text-to-image direction only (columns): add the one over the rows and take the mean.",
        ),
        (
            alone,
            "duplicates are left out of the denominator, a sound alternative but not the one asked for: "
            "here they share the target.",
        ),
        (
            -(rows + columns).mean() / 2,
            "this is the log of the positives' total probability, a sound alternative but not the one asked for: "
            "take the mean of their log-probabilities.",
        ),
        (
            _symmetric(logits, others / others.sum(1, keepdim=True).clamp(min=1)),
            "the pair itself is missing from the targets: it is as right as its duplicates.",
        ),
        (2 * loss, "this is the sum of the two directions: take their mean."),
        (len(logits) * loss, "this is the sum over the batch: take the mean over its rows."),
        (-loss, "the sign is wrong: the loss is minus the log-probability of the targets."),
    ]


@exercise("center of the highest cell, x and y, grids that are not square, fraction, both float types")
def pointing_game(answer):
    """pointing_game(attention, boxes) -> float, the fraction of maps whose highest cell has its center in the box.

    attention (N, gh, gw), rows are y; boxes (N, 4) = (x0, y0, x1, y1) as fractions of the sides.
    """
    for N, gh, gw, dtype in ((40, 4, 6, torch.float32), (30, 5, 3, torch.float64)):
        attention = randn(N, gh * gw, seed=373, dtype=dtype).softmax(-1).reshape(N, gh, gw)
        highest = attention.flatten(1).argmax(1)
        x, y = (highest % gw + 0.5) / gw, (highest // gw + 0.5) / gh
        # Boxes near the highest cell, so that about half of them hold its center; no corner of a cell lies on an edge.
        middle = torch.stack([x, y], 1) + 0.15 * randn(N, 2, seed=374)
        half = 0.08 + 0.12 * randn(N, 2, seed=375).sigmoid()
        boxes = torch.cat([middle - half, middle + half], 1).clamp(0.01, 0.99).to(dtype)
        got = answer(attention=attention, boxes=boxes)
        what = f"the score of {N} maps with {gh} x {gw} cells"
        answer.expect_value(what, got, _hits(x, y, boxes), _wrong_points(attention, boxes, highest, x, y))


def _hits(x, y, boxes):
    x0, y0, x1, y1 = boxes.T
    return ((x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)).double().mean().item()


def _wrong_points(attention, boxes, highest, x, y):
    N, gh, gw = attention.shape
    row, column, lowest = highest // gw, highest % gw, attention.flatten(1).argmin(1)
    right = _hits(x, y, boxes)
    as_sizes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    cells = torch.arange(gh * gw)
    inside = [[_hits((c % gw + 0.5) / gw, (c // gw + 0.5) / gh, box[None]) for c in cells] for box in boxes]
    center = "its center is at (column + 0.5) / gw, (row + 0.5) / gh."
    return [
        (_hits(y, x, boxes), "x and y are swapped: a row is y, a column is x, and a box is (x0, y0, x1, y1)."),
        (_hits(column / gw, row / gh, boxes), f"the corner of the highest cell is tested: {center}"),
        (_hits((column + 1) / gw, (row + 1) / gh, boxes), f"the far corner of the highest cell is tested: {center}"),
        (
            _hits((highest % gh + 0.5) / gw, (highest // gh + 0.5) / gh, boxes),
            "the flat index is split by the height of the grid: row = index // gw, column = index % gw.",
        ),
        (
            _hits((column + 0.5) / gh, (row + 0.5) / gw, boxes),
            "the sides of the grid are mixed up: divide columns by the width gw and rows by the height gh.",
        ),
        (_hits(x, y, as_sizes), "the boxes are read as (x, y, width, height): they are (x0, y0, x1, y1)."),
        (
            (attention.flatten(1) * torch.tensor(inside)).sum(1).mean().item(),
            "this is the attention inside the boxes: test whether the highest cell lies inside.",
        ),
        (100 * right, "this is a percentage: return the fraction, between 0 and 1."),
        (round(N * right), "this is the number of hits: divide it by the number of maps."),
        (1 - right, "this is the fraction of misses: return that of the hits."),
        (
            _hits((lowest % gw + 0.5) / gw, (lowest // gw + 0.5) / gh, boxes),
            "the lowest cell is tested: take the highest.",
        ),
    ]
