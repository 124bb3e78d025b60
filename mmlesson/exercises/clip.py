"""The exercises of the CLIP lesson."""

import math
import zlib

import torch
import torch.nn.functional as F
from torch import nn

from mmlesson.exercises import DTYPES, exercise, randn

# The symmetric loss -----------------------------------------------------------------------------------------------


def _unit(x):
    return F.normalize(x, dim=-1)


def _surprise(logits, left_out=0.0):
    """-log of the probability of the diagonal, row by row; left_out (N, N) is added to the candidates' logits."""
    logits = logits - logits.amax(dim=1, keepdim=True)
    return (logits + left_out).exp().sum(dim=1).log() - logits.diagonal()


def _mean_of_both(rows, columns):
    return (rows.mean() + columns.mean()) / 2


def _loss(image=_unit, text=_unit, scale=torch.exp, surprise=_surprise, reduce=_mean_of_both):
    """CLIP's loss, put together from steps that a mistake replaces."""

    def answer(image_features, text_features, logit_scale):
        logits = scale(logit_scale) * image(image_features) @ text(text_features).T
        return reduce(surprise(logits), surprise(logits.T))

    return answer


def _raw(x):
    return x


def _over_batch(x):
    return F.normalize(x, dim=0)


def _squared_length(x):
    return x / x.square().sum(dim=-1, keepdim=True)


def _shifted(by):
    """The loss with the labels of all images moved on by so many places."""

    def answer(image_features, text_features, logit_scale):
        return _loss()(image_features, text_features.roll(-by, 0), logit_scale)

    return answer


def _surprise_without_partner(logits):
    return _surprise(logits, torch.zeros_like(logits).fill_diagonal_(-torch.inf))


@exercise(
    verified="both directions, normalization, scale, chance, gradients, no overflow, a batch of one, both float types",
    returns={"the loss": "one number"},
    step=True,
    pace=lambda: {
        "image_features": randn(128, 256, seed=0),
        "text_features": randn(128, 256, seed=1),
        "logit_scale": torch.tensor(2.7),
    },
    correct=_loss(),
    mistakes={
        "this is the image-to-text direction only (softmax over the rows, or over the rows twice): "
        "add the same on logits.T and take the mean.": _loss(reduce=lambda rows, columns: rows.mean()),
        "this is the text-to-image direction only (softmax over the columns, or over the columns twice): "
        "add the one over the rows and take the mean.": _loss(reduce=lambda rows, columns: columns.mean()),
        "the features are not normalized: divide each row by its length.": _loss(image=_raw, text=_raw),
        "the image features are not normalized: divide each row by its length.": _loss(image=_raw),
        "the text features are not normalized: divide each row by its length.": _loss(text=_raw),
        "the features are normalized over the batch (dim=0): normalize each row.": _loss(_over_batch, _over_batch),
        "the features are divided by their squared length: is a square root missing?": _loss(
            _squared_length, _squared_length
        ),
        "logit_scale is a logarithm: multiply by logit_scale.exp().": _loss(scale=lambda s: s),
        "the logits are divided by the scale: multiply (it is 1 / temperature).": _loss(scale=lambda s: (-s).exp()),
        "logit_scale is not used: multiply the cosines by logit_scale.exp().": _loss(scale=lambda s: 1),
        "this is the sum of the two directions: take their mean.": _loss(
            reduce=lambda rows, columns: rows.mean() + columns.mean()
        ),
        "this is the sum over the batch: take the mean over its pairs.": _loss(
            reduce=lambda rows, columns: (rows + columns).sum() / 2
        ),
        "this is the sum over the batch and over both directions: take the mean of each.": _loss(
            reduce=lambda rows, columns: (rows + columns).sum()
        ),
        "this is one loss per pair: take the mean.": _loss(reduce=lambda rows, columns: (rows + columns) / 2),
        "the sign is wrong: the loss is minus the log-probability of the right partner.": _loss(
            reduce=lambda rows, columns: -_mean_of_both(rows, columns)
        ),
        "the labels are off by one: image i belongs to text i, not to i + 1.": _shifted(1),
        "the labels are off by one: image i belongs to text i, not to i - 1.": _shifted(-1),
        "the right partner is missing from the denominator: sum exp over all N candidates.": _loss(
            surprise=_surprise_without_partner
        ),
    },
)
def clip_loss(answer):
    """clip_loss(image_features, text_features, logit_scale) -> 0-dim tensor, CLIP's symmetric loss.

    image_features, text_features (N, D), not normalized; row i of one belongs to row i of the other. logit_scale: 0-dim
    tensor, the natural logarithm of the scale.
    """

    def case(where, image, text, logit_scale, **more):
        answer.case(where, image_features=image, text_features=text, logit_scale=logit_scale, **more)

    for dtype, N, scale in zip(DTYPES, (20, 5), (-0.7, 1.5)):
        lengths = torch.logspace(-2, 1, N, dtype=dtype)[:, None]
        image, text = lengths * randn(N, 7, seed=1, dtype=dtype), 2 * randn(N, 7, seed=2, dtype=dtype)
        case("", image, text, torch.tensor(scale, dtype=dtype))
    features = ("image_features", "text_features", "logit_scale")
    case("", image, text, torch.tensor(scale, dtype=dtype), gradients=features)
    case("of a batch of one pair", image[:1], text[:1], torch.tensor(scale, dtype=dtype))
    case("of features with one number each", image[:, :1], text[:, :1], torch.tensor(scale, dtype=dtype))
    same, image, ln_100 = torch.ones(6, 4), randn(5, 7, seed=3), torch.tensor(100.0).log()
    case("where all features are equal, which is chance, ln N,", same, same, torch.tensor(2.0))
    overflow = "Subtract each row's maximum before exp, and clamp nothing: exp(100) overflows float32."
    case("of perfect pairs at scale 100", image, image, ln_100, hint=overflow)
    underflow = "Take logit - log-sum-exp, and clamp nothing: probabilities that round to 0 have no log."
    case("of opposite pairs at scale 100", image, -image, ln_100, hint=underflow)
    apart = torch.ones(5, 4)
    apart[2] = -1
    each_row = "Subtract the maximum of each row, not that of the whole matrix: a row far below it would round to 0."
    case("at scale 100 where one image is opposite to all texts", apart, same[:5], ln_100, hint=each_row)
    case("at scale 100 where one text is opposite to all images", same[:5], apart, ln_100, hint=each_row)


# Classifiers made of words ----------------------------------------------------------------------------------------


class _TextEncoder:
    """Stands for a text encoder: random features of very different lengths, always the same for the same text."""

    def __init__(self, dtype):
        self.dtype = dtype

    def __call__(self, texts):
        if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"encode_text takes a list of strings, but got {texts!r}")
        seeds = [zlib.crc32(text.encode()) for text in texts]
        return torch.stack([(0.02 + seed % 9) * randn(5, seed=seed, dtype=self.dtype) for seed in seeds])


def _classifier(
    before=_unit, reduce=lambda x: x.mean(dim=1), after=_unit, prompt=lambda template, name: template.format(name)
):
    """A zero-shot classifier, put together from steps that a mistake replaces."""

    def answer(encode_text, names, templates):
        texts = [prompt(template, name) for name in names for template in templates]
        features = encode_text(texts).unflatten(0, (len(names), len(templates)))  # (C, T, D)
        return after(reduce(before(features)))

    return answer


def _mixed_prompts(encode_text, names, templates):
    texts = [template.format(name) for template in templates for name in names]
    features = _unit(encode_text(texts)).unflatten(0, (len(names), len(templates)))
    return _unit(features.mean(dim=1))


@exercise(
    verified="both normalizations, mean over templates, order of prompts, one class, one template, both float types",
    returns={"the classifier": "(C, D)"},
    step=True,
    correct=_classifier(),
    mistakes={
        "normalize before the mean as well, or long vectors outvote short ones.": _classifier(before=_raw),
        "the mean of unit vectors is shorter than 1: normalize it again.": _classifier(after=_raw),
        "nothing is normalized: normalize each prompt, take the mean, normalize again.": _classifier(
            before=_raw, after=_raw
        ),
        "this is the sum over the templates: its length should be 1, so normalize it.": _classifier(
            reduce=lambda x: x.sum(dim=1), after=_raw
        ),
        "only the first template is used: take the mean over all of them.": _classifier(reduce=lambda x: x[:, 0]),
        "only the last template is used: take the mean over all of them.": _classifier(reduce=lambda x: x[:, -1]),
        "this is the mean over the classes: take it over the templates.": _classifier(reduce=lambda x: x.mean(dim=0)),
        "this is transposed, (D, C): return one row per class, (C, D).": _classifier(after=lambda x: _unit(x).T),
        "prompts of different classes are mixed: encoded template by template they are (T, C, D), not (C, T, D).": (
            _mixed_prompts
        ),
        "this is one row per prompt, (C * T, D): take the mean over each class's templates.": _classifier(
            reduce=lambda x: x.flatten(0, 1)
        ),
        "all classes get the same vector: use template.format(name), not the template.": _classifier(
            prompt=lambda template, name: template
        ),
        "the templates are not used: encode template.format(name).": _classifier(prompt=lambda template, name: name),
    },
)
def class_embeddings(answer):
    """class_embeddings(encode_text, names, templates) -> (C, D), one unit vector per class name.

    encode_text: list of n strings -> (n, D), not normalized; each template holds one {}. Normalize every prompt's
    features, take the mean over the templates, normalize again.
    """
    # A name and a template stand here twice, and some names differ in their spelling only.
    names = ["red apple", "duck", "hot_dog", "Red panda", "red panda", "T-shirt", "t shirt", "duck"]
    templates = ["a photo of a {}.", "my {}", "{}, a sketch", "A {}", "my {}"]
    for C, T, dtype in ((8, 5, torch.float32), (3, 2, torch.float64), (3, 3, torch.float32)):
        answer.case(encode_text=_TextEncoder(dtype), names=names[:C], templates=templates[:T])
    answer.case("of one class", encode_text=_TextEncoder(torch.float32), names=names[:1], templates=templates)
    answer.case("with one template", encode_text=_TextEncoder(torch.float32), names=names, templates=templates[:1])


# Recall at k ------------------------------------------------------------------------------------------------------


def _rank(similarity):
    """How many candidates are more similar to each query than the right one."""
    return (similarity > similarity.diagonal()[:, None]).sum(dim=1)


def _recall(hit=lambda similarity, k: _rank(similarity) < k):
    """The fraction of hits, from a step that a mistake replaces."""
    return lambda similarity, k: hit(similarity, k).double().mean().item()


def _first_columns(similarity, k):
    """Compares the k best with 0 ... k - 1, the numbers of places, in place of the query's own."""
    return (similarity.topk(k, dim=1).indices == torch.arange(k)).any(dim=1)


@exercise(
    verified="rows as queries, k from 1 to N, fraction, type, one query, both float types",
    returns={"the recall": ""},
    correct=_recall(),
    mistakes={
        "the columns are used as queries: a query is a row of the similarities.": _recall(lambda s, k: _rank(s.T) < k),
        "these are the k lowest similarities: take the highest.": _recall(lambda s, k: _rank(-s) < k),
        "this is a percentage: return the fraction, between 0 and 1.": lambda s, k: 100 * _recall()(s, k),
        "this is the number of hits: divide it by the number of queries.": lambda s, k: (_rank(s) < k).sum().item(),
        "the hits are divided by k too (that is precision): divide by the number of queries only.": (
            lambda s, k: _recall()(s, k) / k
        ),
        "this is recall@1: look at the k highest, not the highest only.": _recall(lambda s, k: _rank(s) < 1),
        "this is recall@(k - 1): is a rank counted from 1, or a slice one short?": _recall(
            lambda s, k: _rank(s) < k - 1
        ),
        "this is recall@(k + 1): with ranks from 0, the k best have rank < k.": _recall(lambda s, k: _rank(s) < k + 1),
        "only the last of the k places is looked at: a hit may stand at any of them.": _recall(
            lambda s, k: _rank(s) == k - 1
        ),
        "the k best are compared with 0, 1, 2, ... along the places: each query has its own number, so make "
        "torch.arange(N) a column, [:, None].": _recall(_first_columns),
        "this is the fraction of misses: return that of the hits.": lambda s, k: 1 - _recall()(s, k),
    },
)
def recall_at_k(answer):
    """recall_at_k(similarity, k) -> float, the fraction of rows whose own column is among the k highest of the row.

    similarity (N, N), queries by rows, candidates by columns, the right ones on the diagonal.
    """
    for seed, (N, k, dtype, size, middle) in enumerate(
        (
            (37, 3, torch.float32, 1, 0),
            (23, 5, torch.float64, 1e-6, 0.8),  # much the same similarities
            (19, 1, torch.float32, 1000, 0),
            (31, 2, torch.float32, 1, -20),
        ),
        start=3,
    ):
        similarity = middle + size * (randn(N, N, seed=seed, dtype=dtype) + torch.eye(N, dtype=dtype))
        answer.case(f"@{k} of {N} queries", similarity=similarity, k=k)
    answer.case("of a transposed matrix", similarity=similarity.T, k=3)  # in memory it is column by column
    answer.case("@12 of 12 queries", similarity=randn(12, 12, seed=9) - 4 * torch.eye(12), k=12)
    answer.case("@1 of one query", similarity=randn(1, 1, seed=9), k=1)


# The limit of the scale -------------------------------------------------------------------------------------------


class _SmallClip(nn.Module):
    """A trainable and a frozen part, one in training mode and one not, with stored gradients; and a logit_scale."""

    def __init__(self, logit_scale):
        super().__init__()
        self.text, self.image = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
        for tower in (self.text, self.image):
            nn.init.constant_(tower.weight, 50)
            tower.weight.grad = torch.ones(1, 2)
        self.image.eval().requires_grad_(False)
        self.logit_bias, self.image_scale = nn.Parameter(torch.tensor(8.0)), nn.Parameter(torch.tensor(9.0))
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale))
        self.logit_scale.grad = torch.tensor(50.0)
        self.register_buffer("first_logit_scale", torch.tensor(7.0))


def _clamp(**limits):
    def answer(model):
        with torch.no_grad():
            model.logit_scale.clamp_(**limits)

    return answer


@torch.no_grad()
def _exponential(model):
    model.logit_scale.copy_(model.logit_scale.exp().clamp(max=100))


@exercise(
    verified="ln 100, in place, the same trainable parameter, nothing else touched",
    returns={"logit_scale": "one number"},
    observe=lambda inputs, result: inputs["model"].logit_scale.detach(),
    changes=("model.logit_scale",),
    step=True,
    correct=_clamp(max=math.log(100)),
    mistakes={
        "model.logit_scale stays too high: lower the parameter itself, in place, as clamp_(max=...) does.": (
            lambda model: model.logit_scale.clamp(max=math.log(100))
        ),
        "logit_scale now holds the scale itself: clamp its logarithm, at ln 100 = 4.605.": _exponential,
        "logit_scale is clamped to 100, but it is a logarithm: its limit is ln 100 = 4.605.": _clamp(max=100),
        "the limit is log10(100) = 2: exp() undoes the natural logarithm, math.log(100) = 4.605.": _clamp(max=2),
        "logit_scale is kept above ln 100 instead of below: give the limit as max.": _clamp(min=math.log(100)),
        "logit_scale is set to ln 100 whatever it was: only a larger one may change.": _clamp(
            min=math.log(100), max=math.log(100)
        ),
    },
)
def clamp_logit_scale(answer):
    """clamp_logit_scale(model): clamp model.logit_scale in place to at most ln 100; it stays the same Parameter.

    Code that also clamps it to at least 0, as open_clip does, passes too.
    """
    for value in (6.0, 200.0, 2.5, 0.1, 4.5, 4.59, 4.7):
        answer.case(f"after {value:g}", model=_SmallClip(value))
    answer.judge()
    negative = answer.result(model=_SmallClip(-5.0))
    answer.expect(negative in (-5, 0), f"logit_scale was -5, a scale below 1, and is {negative:.4g} now: leave it.")


# Equal captions ---------------------------------------------------------------------------------------------------


def _equal(captions):
    return torch.tensor([[a == b for b in captions] for a in captions])


def _uniform(equal):
    return equal / equal.sum(dim=1, keepdim=True)


def _soft_surprise(logits, targets):
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1)


def _multi(targets=_uniform, surprise=_soft_surprise, reduce=_mean_of_both):
    """The loss with shared targets, put together from steps that a mistake replaces."""

    def answer(logits, captions):
        shared = targets(_equal(captions).to(logits.dtype))
        return reduce(surprise(logits, shared), surprise(logits.T, shared.T))

    return answer


def _without_itself(equal):
    others = equal - torch.eye(len(equal), dtype=equal.dtype)
    return others / others.sum(dim=1, keepdim=True).clamp(min=1)


def _duplicates_left_out(logits, captions):
    others = _equal(captions) & ~torch.eye(len(captions), dtype=torch.bool)
    without = logits.masked_fill(others, -torch.inf)
    return _mean_of_both(_surprise(without), _surprise(without.T))


def _total_probability(logits, captions):
    other = ~_equal(captions)
    rows, columns = (z.logsumexp(1) - z.masked_fill(other, -torch.inf).logsumexp(1) for z in (logits, logits.T))
    return _mean_of_both(rows, columns)


@exercise(
    verified="duplicates as positives, both directions, gradients, no overflow, one pair, both float types",
    returns={"the loss": "one number"},
    correct=_multi(),
    mistakes={
        "duplicates still count as wrong answers: every j with an equal caption is right.": _multi(
            targets=lambda equal: torch.eye(len(equal), dtype=equal.dtype)
        ),
        "the targets of a row sum to more than 1: divide them by the number of positives.": _multi(targets=_raw),
        "this is the image-to-text direction only (rows): add the same on logits.T and take the mean.": _multi(
            reduce=lambda rows, columns: rows.mean()
        ),
        "this is the text-to-image direction only (columns): add the one over the rows and take the mean.": _multi(
            reduce=lambda rows, columns: columns.mean()
        ),
        "duplicates are left out of the denominator, a sound alternative but not the one asked for: "
        "here they share the target.": _duplicates_left_out,
        "this is the log of the positives' total probability, a sound alternative but not the one asked for: "
        "take the mean of their log-probabilities.": _total_probability,
        "the pair itself is missing from the targets: it is as right as its duplicates.": _multi(
            targets=_without_itself
        ),
        "this is the sum of the two directions: take their mean.": _multi(
            reduce=lambda rows, columns: rows.mean() + columns.mean()
        ),
        "this is the sum over the batch: take the mean over its rows.": _multi(
            reduce=lambda rows, columns: (rows + columns).sum() / 2
        ),
        "this is one loss per row: take the mean.": _multi(reduce=lambda rows, columns: (rows + columns) / 2),
        "the sign is wrong: the loss is minus the log-probability of the targets.": _multi(
            reduce=lambda rows, columns: -_mean_of_both(rows, columns)
        ),
    },
)
def multi_positive_loss(answer):
    """multi_positive_loss(logits, captions) -> 0-dim tensor, the symmetric loss where equal captions are all right.

    logits (N, N), scaled, images by rows; captions: list of N strings. The target of row i is uniform over all j with
    captions[j] == captions[i]; the loss is the mean of the cross-entropies over rows and over columns.
    """
    apple, tree, duck, swapped = "a red apple", "a red apple tree", "a red duck and a car", "a red car and a duck"
    long = "a red apple beside a green tree, a blue house, a yellow car and a small white duck"
    alike = ["A red apple", "a red apple.", "a  red apple", "a red apple ", "a green apple", long, f"{long} and a cat"]
    captions = [apple, duck, apple, tree, swapped, duck, apple, *alike]  # only three and two of them are equal
    captions = ["".join(list(caption)) for caption in captions]  # equal strings, but not the same objects
    for dtype in DTYPES:
        answer.case(logits=3 * randn(14, 14, seed=4, dtype=dtype), captions=captions)
    # Transposed, it is column by column in memory.
    answer.case(logits=3 * randn(14, 14, seed=4, dtype=dtype).T, captions=captions, gradients=("logits",))
    answer.case("without duplicates, CLIP's own,", logits=randn(6, 6, seed=5), captions=list("abcdef"))
    answer.case("where all captions are equal", logits=randn(3, 3, seed=6), captions=3 * ["a red apple"])
    answer.case("of a batch of one pair", logits=randn(1, 1, seed=7), captions=["a red apple"])
    hint = "Give large logits to log_softmax or logsumexp as they are: exp overflows, and its log underflows."
    answer.case("of large logits", logits=200 * randn(14, 14, seed=4), captions=captions, hint=hint)


# The pointing game ------------------------------------------------------------------------------------------------


def _highest(attention):
    return attention.flatten(1).argmax(dim=1)


def _split(index, gh, gw):
    return index // gw, index % gw


def _center(row, column, gh, gw):
    return (column + 0.5) / gw, (row + 0.5) / gh


def _inside(x, y, boxes):
    x0, y0, x1, y1 = boxes.unbind(dim=1)
    return (x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)


def _point(pick=_highest, split=_split, place=_center, hit=_inside):
    """The fraction of hits, put together from steps that a mistake replaces."""

    def answer(attention, boxes):
        gh, gw = attention.shape[1:]
        return hit(*place(*split(pick(attention), gh, gw), gh, gw), boxes).double().mean().item()

    return answer


def _as_sizes(x, y, boxes):
    return _inside(x, y, torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))


def _weight_inside(attention, boxes):
    gh, gw = attention.shape[1:]
    x, y = _center(*_split(torch.arange(gh * gw), gh, gw), gh, gw)
    x0, y0, x1, y1 = boxes[:, :, None].unbind(dim=1)
    inside = (x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)  # (N, cells)
    return (attention.flatten(1) * inside).sum(dim=1).mean().item()


def _whole_cell(attention, boxes):
    gh, gw = attention.shape[1:]
    row, column = _split(_highest(attention), gh, gw)
    corners = (column / gw, row / gh), ((column + 1) / gw, (row + 1) / gh)
    return (_inside(*corners[0], boxes) & _inside(*corners[1], boxes)).double().mean().item()


def _center_of_mass(attention, boxes):
    gh, gw = attention.shape[1:]
    x, y = _center(*_split(torch.arange(gh * gw), gh, gw), gh, gw)
    weights = attention.flatten(1) / attention.flatten(1).sum(dim=1, keepdim=True)
    return _inside((weights * x).sum(dim=1), (weights * y).sum(dim=1), boxes).double().mean().item()


_IT_IS_AT = "its center is at (column + 0.5) / gw, (row + 0.5) / gh."


@exercise(
    verified="center of the highest cell, x and y, grids that are not square, fraction, one map, both float types",
    returns={"the score": ""},
    correct=_point(),
    mistakes={
        "x and y are swapped: a row is y, a column is x, and a box is (x0, y0, x1, y1).": _point(
            hit=lambda x, y, boxes: _inside(y, x, boxes)
        ),
        f"the corner of the highest cell is tested: {_IT_IS_AT}": _point(
            place=lambda row, column, gh, gw: (column / gw, row / gh)
        ),
        f"the far corner of the highest cell is tested: {_IT_IS_AT}": _point(
            place=lambda row, column, gh, gw: ((column + 1) / gw, (row + 1) / gh)
        ),
        f"the cells are spread from 0 to 1, edges included (divided by gw - 1 and gh - 1): {_IT_IS_AT}": _point(
            place=lambda row, column, gh, gw: (column / max(gw - 1, 1), row / max(gh - 1, 1))
        ),
        "the flat index is split by the height of the grid: row = index // gw, column = index % gw.": _point(
            split=lambda index, gh, gw: (index // gh, index % gh)
        ),
        "the sides of the grid are mixed up: divide columns by the width gw and rows by the height gh.": _point(
            place=lambda row, column, gh, gw: ((column + 0.5) / gh, (row + 0.5) / gw)
        ),
        "y counts from the bottom: row 0 is at the top, and so is y = 0.": _point(
            hit=lambda x, y, boxes: _inside(x, 1 - y, boxes)
        ),
        "the boxes are read as (x, y, width, height): they are (x0, y0, x1, y1).": _point(hit=_as_sizes),
        "this is the attention inside the boxes: test whether the highest cell lies inside.": _weight_inside,
        "the whole highest cell must lie in the box here: test its center alone.": _whole_cell,
        "this is the center of mass of each map: take the highest cell.": _center_of_mass,
        "this is a percentage: return the fraction, between 0 and 1.": lambda a, b: 100 * _point()(a, b),
        "this is the number of hits: divide it by the number of maps.": lambda a, b: round(len(a) * _point()(a, b)),
        "this is the fraction of misses: return that of the hits.": lambda a, b: 1 - _point()(a, b),
        "the lowest cell is tested: take the highest.": _point(pick=lambda attention: _highest(-attention)),
    },
)
def pointing_game(answer):
    """pointing_game(attention, boxes) -> float, the fraction of maps whose highest cell has its center in the box.

    attention (N, gh, gw), rows are y; boxes (N, 4) = (x0, y0, x1, y1) as fractions of the sides.
    """
    for seed, (N, gh, gw, dtype, sharpness) in enumerate(
        (
            (43, 4, 6, torch.float32, 1),
            (37, 5, 3, torch.float64, 1),
            (41, 4, 4, torch.float32, 1e-4),  # much the same weights
            (29, 7, 2, torch.float32, 1),
            (23, 1, 5, torch.float32, 1),
            (31, 6, 1, torch.float32, 1),
        ),
        start=373,
    ):
        attention = (sharpness * randn(N, gh * gw, seed=seed, dtype=dtype)).softmax(-1).reshape(N, gh, gw)
        x, y = _center(*_split(_highest(attention), gh, gw), gh, gw)
        # Boxes near the highest cell, so that about half of them hold its center; no corner of a cell lies on an edge.
        middle = torch.stack([x, y], dim=1) + 0.15 * randn(N, 2, seed=seed + 100)
        half = 0.06 + 0.3 * randn(N, 2, seed=seed + 200).sigmoid()
        boxes = torch.cat([middle - half, middle + half], dim=1).clamp(0.01, 0.99).to(dtype)
        answer.case(f"of {N} maps with {gh} x {gw} cells", attention=attention, boxes=boxes)
        flipped = attention.mT.contiguous().mT  # the same maps, column by column in memory
        answer.case(f"of {N} maps with {gh} x {gw} cells that are a transposed tensor", attention=flipped, boxes=boxes)
    one = attention[:1]
    x, y = _center(*_split(_highest(one), gh, gw), gh, gw)
    around = torch.stack([x - 0.05, y - 0.05, x + 0.05, y + 0.05], dim=1)
    answer.case("of one map whose center is inside", attention=one, boxes=around)
    answer.case("of one map whose center is outside", attention=one, boxes=around + 0.11)
