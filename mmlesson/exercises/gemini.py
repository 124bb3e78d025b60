"""The exercises of the Gemini-style lesson."""

import torch
import torch.nn.functional as F

from mmlesson.exercises import DTYPES, exercise, randn

# Attention with a norm for queries and keys --------------------------------------------------------------------------


def _standard(x, dims=-1, eps=1e-5, correction=0, of=None):
    """Mean 0 and variance 1 over these axes; the statistics are those of x itself, or of another tensor."""
    of = x if of is None else of
    mean = of.mean(dims, keepdim=True)
    variance = (of - mean).square().sum(dims, keepdim=True) / (of.numel() // mean.numel() - correction)
    return (x - mean) / (variance + eps).sqrt()


def _affine(x, weight, bias):
    return x * weight[:, None] + bias[:, None]


def _normed(norm=_standard, affine=_affine):
    return lambda x, weight, bias: affine(norm(x), weight, bias)


def _plain(x, weight, bias):
    return x


def _softmax(keep=torch.tril, fill=-torch.inf, dim=-1):
    """The attention weights; keep: from a matrix of ones to the entries that a token sees."""

    def weigh(scores):
        seen = keep(torch.ones_like(scores, dtype=torch.bool))
        return scores.masked_fill(~seen, fill).softmax(dim)

    return weigh


_NORMED, _SOFTMAX = _normed(), _softmax()


def _attention(
    queries=_NORMED,
    keys=_NORMED,
    values=_plain,
    parameters=lambda *four: four,
    scale=lambda heads, d: d**-0.5,
    weigh=_SOFTMAX,
    combine=torch.matmul,
):
    """Causal attention, put together from steps that a mistake replaces."""

    def answer(q, k, v, *four):
        q_weight, q_bias, k_weight, k_bias = parameters(*four)
        q, k, v = queries(q, q_weight, q_bias), keys(k, k_weight, k_bias), values(v, k_weight, k_bias)
        return combine(weigh(q @ k.mT * scale(q.size(1), q.size(3))), v)

    return answer


def _both(norm=_standard, affine=_affine):
    """Attention with this norm for queries and keys."""
    return _attention(_normed(norm, affine), _normed(norm, affine))


def _each(change):
    """Attention with each of the four parameters changed."""
    return _attention(parameters=lambda *four: map(change, four))


def _centered(x):
    return x - x.mean(-1, keepdim=True)


def _variance(x):
    return x.var(-1, correction=0, keepdim=True)


def _rms(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


_OWN = "each head by itself has mean 0 and variance 1 over its d numbers."
_PER_HEAD = "head h gets q_weight[h] and q_bias[h]: add an axis for the tokens, as in q_weight[:, None]."
_BOTH = "queries and keys are normalized, each with its own weight and bias."
_PLAIN_V = "only queries and keys have a norm, v stays as it is."


@exercise(
    verified="norm per head, weights, scale, causal, gradients, epsilon, large scores, sizes of one, both float types",
    returns={"the output": "(N, heads, T, d)"},
    correct=_attention(),
    mistakes={
        "the norm is missing: queries and keys need a LayerNorm over d before they are multiplied.": _attention(
            _plain, _plain
        ),
        f"the norm runs over heads and d together: {_OWN}": _both(lambda x: _standard(x, (1, 3))),
        f"the norm runs over tokens and d together: {_OWN}": _both(lambda x: _standard(x, (2, 3))),
        "the norm runs over the tokens (dim=2): take d, dim=-1.": _both(lambda x: _standard(x, 2)),
        "the norm runs over the heads (dim=1): take d, dim=-1.": _both(lambda x: _standard(x, 1)),
        "this is RMSNorm: a LayerNorm subtracts the mean over d first.": _both(_rms),
        "the mean is subtracted, but nothing is divided: divide by sqrt(variance + 1e-5).": _both(_centered),
        "x is divided by the variance: divide by its square root.": _both(
            lambda x: _centered(x) / (_variance(x) + 1e-5)
        ),
        "this makes unit vectors: a LayerNorm subtracts the mean and divides by the standard deviation.": _both(
            lambda x: F.normalize(x, dim=-1)
        ),
        "the variance is divided by d - 1 (unbiased, the default of .var and .std): set correction=0.": _both(
            lambda x: _standard(x, correction=1)
        ),
        f"the values are normalized: {_PLAIN_V}": _attention(values=lambda v, weight, bias: _standard(v)),
        f"the values are normalized and get the keys' weight and bias: {_PLAIN_V}": _attention(values=_NORMED),
        f"only the queries are normalized: {_BOTH}": _attention(keys=_plain),
        f"only the keys are normalized: {_BOTH}": _attention(queries=_plain),
        "the scale is missing: divide the scores by sqrt(d).": _attention(scale=lambda heads, d: 1),
        "the scores are divided by d: divide by its square root.": _attention(scale=lambda heads, d: 1 / d),
        "the scores are multiplied by sqrt(d): divide by it.": _attention(scale=lambda heads, d: d**0.5),
        "the scores are divided by sqrt(heads * d): take sqrt(d).": _attention(
            scale=lambda heads, d: (heads * d) ** -0.5
        ),
        "the attention is not causal: mask the scores of later tokens with -inf before the softmax.": _attention(
            weigh=_softmax(lambda ones: ones)
        ),
        "the mask is upside down: token t sees tokens 0 to t, torch.tril, not triu.": _attention(
            weigh=_softmax(torch.triu)
        ),
        "the mask is inverted, so token t sees the later ones alone: mask these, and keep tokens 0 to t.": _attention(
            weigh=_softmax(lambda ones: ones.triu(1))
        ),
        "a token does not see itself, and the first one sees nothing: keep the diagonal.": _attention(
            weigh=_softmax(lambda ones: ones.tril(-1))
        ),
        "token t sees token t + 1 as well: is the diagonal of your mask off by one?": _attention(
            weigh=_softmax(lambda ones: ones.tril(1))
        ),
        "later tokens get the score 0, which still has a weight: fill with -inf.": _attention(weigh=_softmax(fill=0.0)),
        "the mask comes after the softmax, so the weights do not add up to 1: fill the scores with -inf before it.": (
            _attention(weigh=lambda scores: scores.softmax(-1).tril())
        ),
        "the softmax runs over the queries (dim=-2): for each query over the keys, dim=-1.": _attention(
            weigh=_softmax(dim=-2)
        ),
        "the softmax runs over the heads (dim=1): for each query over the keys, dim=-1.": _attention(
            weigh=_softmax(dim=1)
        ),
        f"the weights meet the tokens, not the heads (here there may be as many): {_PER_HEAD}": _both(
            affine=lambda x, weight, bias: x * weight + bias
        ),
        f"the weights meet the batch, not the heads (here there may be as many): {_PER_HEAD}": _both(
            affine=lambda x, weight, bias: x * weight[:, None, None] + bias[:, None, None]
        ),
        f"all heads use the weight and bias of head 0: {_PER_HEAD}": _each(lambda x: x[:1].expand_as(x)),
        f"weight and bias are averaged over the heads: {_PER_HEAD}": _each(lambda x: x.mean(0).expand_as(x)),
        "weight and bias are not used: apply them after the norm.": _both(affine=_plain),
        "the weights are not used: multiply by them after the norm.": _both(
            affine=lambda x, weight, bias: x + bias[:, None]
        ),
        "q_bias is not used: add it after the weight.": _both(affine=lambda x, weight, bias: x * weight[:, None]),
        "the parameters are swapped: q_weight and q_bias are for the queries.": _attention(
            parameters=lambda qw, qb, kw, kb: (kw, kb, qw, qb)
        ),
        "the keys get the queries' weight: use k_weight and k_bias for them.": _attention(
            parameters=lambda qw, qb, kw, kb: (qw, qb, qw, qb)
        ),
        "the queries get the keys' weight: use q_weight and q_bias for them.": _attention(
            parameters=lambda qw, qb, kw, kb: (kw, kb, kw, kb)
        ),
        "weight and bias come before the norm, which undoes much of them: normalize first.": _attention(
            *2 * [lambda x, weight, bias: _standard(_affine(x, weight, bias))]
        ),
        "the bias is added before the weight multiplies: norm, times weight, plus bias.": _both(
            affine=lambda x, weight, bias: (x + bias[:, None]) * weight[:, None]
        ),
        "heads and tokens are exchanged in the output: (N, heads, T, d).": _attention(
            combine=lambda weights, v: (weights @ v).transpose(1, 2)
        ),
        "these are the attention weights: multiply them by the values.": _attention(combine=lambda weights, v: weights),
        "is your epsilon inside the sqrt? Divide by sqrt(variance + 1e-5).": _both(
            lambda x: _centered(x) / (_variance(x).sqrt() + 1e-5)
        ),
        "epsilon has almost no effect: add 1e-5 itself to the variance (is it squared?), and normalize once.": _both(
            lambda x: _standard(x, eps=1e-10)
        ),
        "epsilon is missing: divide by sqrt(variance + 1e-5), or equal numbers give 0 / 0.": _both(
            lambda x: _standard(x, eps=0)
        ),
        **{
            f"your epsilon is {eps:g}: it should be 1e-5, F.layer_norm's default.": _both(
                lambda x, eps=eps: _standard(x, eps=eps)
            )
            for eps in (1e-3, 1e-6, 1e-8, 1e-12)
        },
        "mean and variance are detached, but the gradient of a LayerNorm runs through them as well.": _both(
            lambda x: _standard(x, of=x.detach())
        ),
    },
)
def qk_norm_attention(answer):
    """qk_norm_attention(q, k, v, q_weight, q_bias, k_weight, k_bias) -> (N, heads, T, d), causal, without rotation.

    q, k, v (N, heads, T, d); weights and biases (heads, d). Queries and keys go through a LayerNorm over d, each head
    by itself (eps 1e-5, biased variance), as in Chameleon; then softmax(q k / sqrt(d)) v over the past.
    """
    float32, float64 = DTYPES
    answer.case(**_heads(3, 2, 5, 4, float32))
    answer.case("of as many images, heads and tokens", **_heads(4, 4, 4, 6, float32))
    # k_bias adds the same to all scores of a query, and the softmax takes that away: it gets no gradient.
    inputs = _heads(2, 3, 4, 5, float64)
    answer.case("in float64", **inputs, gradients=[name for name in inputs if name != "k_bias"])
    answer.case("of a batch of one", **_heads(1, 3, 5, 4, float32))
    answer.case("with one head", **_heads(3, 1, 20, 5, float32))
    answer.case("of one token", **_heads(2, 3, 1, 4, float64))

    hint = "There epsilon counts: divide by sqrt(variance + 1e-5)."
    small = inputs | {"q": inputs["q"] / 30000, "k": inputs["k"] / 30000}
    answer.case("for q and k around 0.001", **small, hint=hint)
    far = inputs | {"q": inputs["q"] + 300, "k": inputs["k"] - 300}
    answer.case(
        "for q around 300 and k around -300", **far, hint="Subtract the mean first: E[x^2] - E[x]^2 rounds to 0."
    )
    equal = inputs | {"q": torch.full_like(inputs["q"], 0.5)}
    answer.case("where all numbers of a query are equal", **equal, hint=hint)
    answer.case("with one number per head", **_heads(2, 3, 4, 1, float64), hint=hint)
    hint = "Add epsilon before the square root: the slope of sqrt at 0 is infinite."
    answer.case("where all numbers of a query are equal", **equal, hint=hint, gradients=("q", "k", "v"))
    hint = "Scores go up to 1000 there: softmax subtracts each row's maximum, and later tokens need the score -inf."
    large = inputs | {"q_weight": 200 * inputs["q_weight"]}
    answer.case("of large weights", **large, hint=hint)


def _heads(N, heads, T, d, dtype):
    """Inputs with a mean other than 0 and weights other than 1, so large that epsilon does not count."""
    q, k, v = (size * (randn(N, heads, T, d, seed=i, dtype=dtype) + 0.5) for i, size in ((1, 30), (2, 30), (3, 1.5)))
    q_weight, k_weight = (1 + randn(heads, d, seed=i, dtype=dtype) / 2 for i in (4, 5))
    q_bias, k_bias = (randn(heads, d, seed=i, dtype=dtype) for i in (6, 7))
    return {"q": q, "k": k, "v": v, "q_weight": q_weight, "q_bias": q_bias, "k_weight": k_weight, "k_bias": k_bias}


# One stream ----------------------------------------------------------------------------------------------------------


def _is_image(part):
    return isinstance(part, torch.Tensor)


def _numbers(image):
    return torch.arange(image.numel()).view_as(image)


def _stream(
    word=lambda i, first: i,
    codes=lambda x, first: x + first,
    marks=lambda start, end, first: ([start], [end]),
    parts_of=lambda parts: parts,
    number=_numbers,
    around=lambda image: (-1, -1),
    elsewhere=-1,
    renumber=lambda positions, tokens, first_code: positions,
):
    """The stream, put together from steps that a mistake replaces; number, around: positions of codes and marks."""

    def answer(parts, first_code, image, end_image):
        tokens, positions = [], []
        opening, closing = marks(image, end_image, first_code)
        for part in parts_of(parts):
            if _is_image(part):
                tokens += [*opening, *codes(part, first_code).flatten().tolist(), *closing]
                before, after = around(part)
                positions += [before] * len(opening) + number(part).flatten().tolist() + [after] * len(closing)
            else:
                tokens += [word(i, first_code) for i in part]
                positions += [elsewhere for i in part]
        tokens, positions = (torch.tensor(x, dtype=torch.long) for x in (tokens, positions))
        return tokens, renumber(positions, tokens, first_code)

    return answer


def _end_after_each_row(parts, first_code, image, end_image):
    tokens, positions = [], []
    for part in parts:
        if _is_image(part):
            rows = F.pad(part + first_code, (0, 1), value=end_image), F.pad(_numbers(part), (0, 1), value=-1)
            tokens, positions = [*tokens, image, *rows[0].flatten()], [*positions, -1, *rows[1].flatten()]
        else:
            tokens, positions = tokens + part, positions + [-1] * len(part)
    return torch.tensor(tokens), torch.tensor(positions)


def _for_codes(numbers):
    """Positions numbers(positions), for the codes only."""
    return lambda positions, tokens, first_code: torch.where(positions >= 0, numbers(positions), -1)


_OFF_BY_ONE = "code 0 becomes first_code itself."
_COUNTED = "the first code of an image, after `image`, has position 0, and marks have -1."


@exercise(
    verified="order, marks, offset, positions, images of several sizes, side by side, one, none, one token",
    returns={"tokens": "(T,)", "positions": "(T,)"},
    correct=_stream(),
    mistakes={
        "the codes are read column by column: go row by row, as flatten() does.": _stream(
            codes=lambda x, first: x.T + first
        ),
        "the codes have no offset, so they read as words: add first_code to each.": _stream(codes=lambda x, first: x),
        "first_code is added to the words as well: it belongs to the codes only.": _stream(
            word=lambda i, first: i + first
        ),
        "first_code is added to the marks, not to the codes: `image` and `end_image` are ids already.": _stream(
            codes=lambda x, first: x,
            marks=lambda start, end, first: ([start + first], [end + first]),
        ),
        "first_code is added to the marks as well: `image` and `end_image` are ids already.": _stream(
            marks=lambda start, end, first: ([start + first], [end + first])
        ),
        "first_code is added to all tokens: it belongs to the codes only.": _stream(
            word=lambda i, first: i + first,
            marks=lambda start, end, first: ([start + first], [end + first]),
        ),
        f"the ids of codes are one too high: {_OFF_BY_ONE}": _stream(codes=lambda x, first: x + first + 1),
        f"the ids of codes are one too low: {_OFF_BY_ONE}": _stream(codes=lambda x, first: x + first - 1),
        "the mark at the end of an image is missing: append `end_image` after its codes.": _stream(
            marks=lambda start, end, first: ([start], [])
        ),
        "the mark before an image is missing: begin with `image`.": _stream(
            marks=lambda start, end, first: ([], [end])
        ),
        "images have no marks: put `image` before and `end_image` after the codes.": _stream(
            marks=lambda start, end, first: ([], [])
        ),
        "the marks are swapped: `image` comes before the codes, `end_image` after them.": _stream(
            marks=lambda start, end, first: ([end], [start])
        ),
        "images end with `image`: their last token is `end_image`.": _stream(
            marks=lambda start, end, first: ([start], [start])
        ),
        "every row of an image has a mark at its end: one `end_image` closes the whole image.": _end_after_each_row,
        "codes and positions run column by column: go row by row, as flatten() does.": _stream(
            codes=lambda x, first: x.T + first, number=lambda image: _numbers(image).T
        ),
        "the two results are swapped: return (tokens, positions).": lambda *inputs: _stream()(*inputs)[::-1],
        "the rows of an image come from bottom to top: start with row 0.": _stream(
            codes=lambda x, first: x.flip(0) + first
        ),
        "the images come before the words: keep the parts in the order of the list.": _stream(
            parts_of=lambda parts: sorted(parts, key=_is_image, reverse=True)
        ),
        "the words come before the images: keep the parts in the order of the list.": _stream(
            parts_of=lambda parts: sorted(parts, key=_is_image)
        ),
        "the images are missing: append the mark, the codes and the other mark for a tensor.": _stream(
            parts_of=lambda parts: [part for part in parts if not _is_image(part)]
        ),
        "the words are missing: a part that is a list goes into the tokens as it is.": _stream(
            parts_of=lambda parts: list(filter(_is_image, parts))
        ),
        "the positions go on from one image to the next: each starts at 0 again.": _stream(
            renumber=_for_codes(lambda positions: (positions >= 0).cumsum(0) - 1)
        ),
        f"the mark before an image is counted: {_COUNTED}": _stream(
            number=lambda image: _numbers(image) + 1, around=lambda image: (0, -1)
        ),
        f"the marks are counted: {_COUNTED}": _stream(
            number=lambda image: _numbers(image) + 1, around=lambda image: (0, image.numel() + 1)
        ),
        f"the mark after an image is counted: {_COUNTED}": _stream(around=lambda image: (-1, image.numel())),
        "the positions start at 1: the first code of an image has position 0.": _stream(
            number=lambda image: _numbers(image) + 1
        ),
        "words and marks have position 0, like the first code: give them -1.": _stream(
            around=lambda image: (0, 0), elsewhere=0
        ),
        "these are positions in the stream: only codes have positions, counted from 0 in each image.": _stream(
            renumber=lambda positions, tokens, first_code: torch.arange(len(tokens))
        ),
        "the positions of codes are those in the stream: count from 0 in each image.": _stream(
            renumber=_for_codes(lambda positions: torch.arange(len(positions)))
        ),
        "the positions start again in every row, so they are columns: go on until the end of the image.": _stream(
            number=lambda image: _numbers(image) % image.size(1)
        ),
        "these are rows: number the codes one by one.": _stream(number=lambda image: _numbers(image) // image.size(1)),
        "the positions run column by column: number the codes in the order in which they stand in the tokens.": _stream(
            number=lambda image: torch.arange(image.numel()).view_as(image.T).T
        ),
        "these are the numbers of the images: number the codes within each image.": _stream(
            renumber=_for_codes(lambda positions: (positions == 0).cumsum(0) - 1)
        ),
        "code 0, the token first_code, has no position: is there a > where >= should be?": _stream(
            renumber=lambda positions, tokens, first_code: positions.masked_fill(tokens == first_code, -1)
        ),
        "these are the codes themselves: say where they stand.": _stream(number=lambda image: image),
    },
)
def interleave(answer):
    """interleave(parts, first_code, image, end_image) -> (tokens, positions), both (T,) long, T at least 1.

    parts: a list of lists of word ids and of LongTensors (h, w), the codes of images. Word ids, image and end_image are
    below first_code. tokens: the words as they are; an image as the mark `image`, its codes row by row, each +
    first_code, and the mark `end_image`. positions: 0, 1, 2, ... in each image, -1 for words and marks.
    """
    small, wide = torch.tensor([[3, 0, 5], [7, 1, 2]]), torch.tensor([[4, 6, 0, 8, 2]])
    dot = torch.tensor([[8]])
    tall = torch.tensor([[1, 0, 5, 2], [9, 3, 4, 7]]).mT  # column by column in memory, which view() does not take
    # Codes that are the numbers of marks, of words and of their neighbors.
    marks = torch.tensor([[11, 15, 15], [3, 3, 3], [0, 11, 0]])
    large = 8191 - 20 * torch.arange(400).view(20, 20)
    for where, parts, first_code, image, end_image in (
        ("", [[6, 2, 9], small, [0, 13], tall, [5]], 20, 11, 15),
        ("for images side by side", [tall, wide, [], dot, [3, 3]], 25, 24, 0),
        ("for equal images and equal words", [[3, 1], small, [3, 1], [3, 3, 19], small, small, [3, 1]], 20, 15, 11),
        ("for codes above first_code", [[4, 2], torch.tensor([[8, 9, 10], [0, 12, 25]]), [1]], 9, 8, 7),
        ("for large images and codes", [[57000], large, [300, 57343]], 57344, 50001, 50002),
        ("for codes that are ids of words and marks, too,", [[3, 0], marks, [7, 0, 3]], 16, 11, 15),
        ("for a single image", [small], 9, 8, 7),
        ("without an image", [[4, 1], [], [12, 12]], 20, 11, 15),
        ("for one word", [[0]], 3, 1, 2),
    ):
        answer.case(where, parts=parts, first_code=first_code, image=image, end_image=end_image)


# Causality -----------------------------------------------------------------------------------------------------------


def _differ(a, b):
    return not torch.equal(a, b)


def _change(at=torch.eq, other=lambda ids, vocabulary: (ids + 1) % vocabulary):
    """The step that writes other ids at t, or at all positions p with at(p, t)."""

    def change(tokens, t, vocabulary):
        return torch.where(at(torch.arange(len(tokens)), t), other(tokens, vocabulary), tokens)

    return change


_ONE = _change()


def _search(
    tried=range, change=_ONE, look=lambda outputs, t: outputs[:t], differ=_differ, finish=lambda found, T: found
):
    """The search for leaks, put together from steps that a mistake replaces."""

    def answer(model, tokens):
        before = model(tokens)
        T, vocabulary = before.shape
        outputs = {t: model(change(tokens, t, vocabulary)) for t in tried(T)}
        return finish([t for t in outputs if differ(look(before, t), look(outputs[t], t))], T)

    return answer


def _receivers(model, tokens):
    before = model(tokens)
    T, vocabulary = before.shape
    moved = torch.stack([(model(_ONE(tokens, t, vocabulary)) != before).any(dim=1) for t in range(T)])
    return moved.tril(-1).any(dim=0).nonzero().flatten().tolist()


@exercise(
    verified="causal, off by one, a block, far leaks, tiny leaks, leaks that cancel, one token, both float types",
    returns={"the result": ""},
    correct=_search(),
    mistakes={
        "the output at t itself counts, but it may change: compare the outputs before t, [:t].": _search(
            look=lambda outputs, t: outputs[: t + 1]
        ),
        "the outputs at t and later count, but they may change: compare those before t, [:t].": _search(
            look=lambda outputs, t: outputs
        ),
        "the outputs from t on are compared, which should change: compare those before t, [:t].": _search(
            look=lambda outputs, t: outputs[t:]
        ),
        "the outputs after t are compared, which should change: compare those before t, [:t].": _search(
            look=lambda outputs, t: outputs[t + 1 :]
        ),
        "the output right before t is left out: compare [:t], which ends at t - 1.": _search(
            look=lambda outputs, t: outputs[: max(t - 1, 0)]
        ),
        "the slice [:t - 1] ends at t - 2, and at the last but one output if t is 0: compare [:t].": _search(
            look=lambda outputs, t: outputs[: t - 1]
        ),
        "only the output right before t is compared: a token may leak to any earlier one, [:t].": _search(
            look=lambda outputs, t: outputs[max(t - 1, 0) : t]
        ),
        "only the output at 0 is compared: a token may leak to any earlier one, [:t].": _search(
            look=lambda outputs, t: outputs[: min(t, 1)]
        ),
        "only the output at t - 1 is compared, the last one if t is 0: a token may leak to any earlier one, [:t].": (
            _search(look=lambda outputs, t: outputs[t - 1])
        ),
        "only the output at 0 is compared, even with itself if t is 0: a token may leak to any earlier one, [:t].": (
            _search(look=lambda outputs, t: outputs[0])
        ),
        "the output at 0 is left out: a token may leak to any earlier one, [:t].": _search(
            look=lambda outputs, t: outputs[1:t]
        ),
        "tokens that were changed stay changed: start from a fresh clone of tokens for every t.": _search(
            change=_change(torch.le)
        ),
        "a token that is 0 already does not change if 0 is written: use another id, (tokens[t] + 1) % vocabulary.": (
            _search(change=_change(other=lambda ids, vocabulary: 0))
        ),
        "all tokens from t on are changed at once, or cut off: change token t alone, to know which one leaks.": _search(
            change=_change(torch.ge)
        ),
        "these are the positions whose output changes: return those of the tokens that were changed.": _receivers,
        "only the likeliest tokens are compared: a leak shows in the numbers first, so compare all of these.": _search(
            differ=lambda a, b: _differ(a.argmax(-1), b.argmax(-1))
        ),
        "all numbers before t are expected to change: a single one is a leak, so use any(), not all().": _search(
            differ=lambda a, b: (a != b).all()
        ),
        "only the last token is changed: try every t.": _search(tried=lambda T: [T - 1]),
        "the last token is left out: it can leak as well.": _search(tried=lambda T: range(T - 1)),
        "the search stops at the first leak: go on, and collect all of them.": _search(
            finish=lambda found, T: found[:1]
        ),
        "the positions fall: list them from the first to the last.": _search(tried=lambda T: range(T - 1, -1, -1)),
        "the list holds those that do not leak: it should hold those that do.": _search(
            finish=lambda found, T: [t for t in range(T) if t not in found]
        ),
        "the list holds those that do not leak, 0 left out: it should hold those that do.": _search(
            finish=lambda found, T: [t for t in range(1, T) if t not in found]
        ),
        "the positions start at 1: the first token is 0.": _search(finish=lambda found, T: [t + 1 for t in found]),
        "no leak is found: change token t to another id, and compare the outputs before t.": lambda model, tokens: [],
    },
)
def leaks(answer):
    """leaks(model, tokens) -> list of ints, rising: all t where a change of token t alone changes an EARLIER output.

    model: a function from tokens (T,) long to outputs (T, vocabulary); all ids below vocabulary are valid. Outputs that
    are not exactly equal differ. An empty list means that the model is causal.
    """
    float32, float64 = DTYPES
    tokens = torch.tensor([2, 1, 4, 2, 3, 3, 0])
    T = len(tokens)
    block = {(s, t): 1 for s in (2, 3, 4) for t in (2, 3, 4) if s < t}
    blind = {(0, 6): 1} | {(t, t): 0 for t in range(T)}
    everything = {(s, t): 1 for s in range(T) for t in range(s + 1, T)}
    for where, extra, dtype in (
        ("for a causal model", {}, float32),
        ("for a model in which output t sees token t + 1", {(t, t + 1): 1 for t in range(T - 1)}, float64),
        ("for a model in which tokens 2 to 4 see each other", block, float32),
        ("for a model in which output 1 sees token 5", {(1, 5): 1}, float32),
        ("for a model in which output 0 sees tokens 3 and 6", {(0, 3): 2, (0, 6): 1}, float64),
        ("for a model without a mask", everything, float64),
        ("for a model in which output 0 sees token 6, and no output its own token", blind, float32),
    ):
        answer.case(where, model=_toy(5, extra, dtype), tokens=tokens)
    twelve = torch.tensor([8, 8, 0, 8, 7, 1, 2, 2, 3, 8, 4, 6])
    answer.case("for twelve tokens", model=_toy(9, {(2, 3): 1, (0, 4): -1, (9, 11): 1}, float32), tokens=twelve)
    for ids in ([1, 1], [0, 0]):
        answer.case(f"for tokens {ids}", model=_toy(2, {(0, 1): 1}, float32), tokens=torch.tensor(ids))
    answer.case("for one token", model=_toy(3, {}, float32), tokens=torch.tensor([2]))

    hint = (
        "Compare all numbers, one by one, as torch.equal does: changes may be negative, cancel in a sum, or be single."
    )
    one_hot = _toy(5, {(2, 5): 1, (3, 5): -1}, float32, table=torch.eye(5))
    answer.case("for a leak of +1 and -1", model=one_hot, tokens=tokens, hint=hint)
    ids = torch.arange(5.0)[:, None]
    falling = _toy(5, {(2, 3): 1}, float32, table=-ids.expand(5, 5))
    answer.case("for a leak that lowers all numbers", model=falling, tokens=tokens, hint=hint)
    for name, column in (("last", 4), ("first", 0)):
        single = _toy(5, {(2, 3): 1}, float32, table=ids * (torch.arange(5) == column))
        answer.case(f"for a leak to the {name} logit alone", model=single, tokens=tokens, hint=hint)
    hint = "A leak counts however small: compare all numbers as they are, without a tolerance, as torch.equal does."
    for leak, dtype in ((2**-10, float32), (2**-20, float32), (2**-40, float64)):
        answer.case(f"for a leak of {leak:.1g}", model=_toy(5, {(1, 4): leak}, dtype), tokens=tokens, hint=hint)
    tiny = _toy(5, {(1, 4): 1}, float32, table=2.0**-80 * ids.expand(5, 5))
    answer.case("for outputs of about 1e-24", model=tiny, tokens=tokens, hint=hint)


def _toy(vocabulary, extra, dtype, table=None):
    """A model whose output s is the sum of rows of a table, of tokens 0 to s and those in extra, (s, t): strength.

    All sums are exact, so an output that does not see a token stays exactly equal, in whatever order it is computed.
    """
    if table is None:  # between 1 and 7; another row is higher in some columns, lower in others, and has another sum
        table = (4 + 1.5 * randn(vocabulary, vocabulary, seed=37)).round()
    table = table.to(dtype)

    def model(tokens):
        if tokens.ndim != 1:
            raise ValueError(f"the model takes tokens of shape (T,), but got {tuple(tokens.shape)}")
        T = len(tokens)
        mixture = torch.ones(T, T, dtype=dtype).tril()
        for (s, t), strength in extra.items():
            if t < T:
                mixture[s, t] = strength
        return mixture @ table[tokens]

    return model


# Sampling ------------------------------------------------------------------------------------------------------------


def _mix(c, u, g):
    return u + g * (c - u)


def _largest(x, k, dim=-1):
    """True for the k largest along an axis."""
    return torch.zeros_like(x, dtype=torch.bool).scatter(dim, x.topk(k, dim).indices, True)


def _chances(
    mix=_mix,
    keep=lambda x, k, c, u: _largest(x, k),
    fill=-torch.inf,
    cool=lambda logits, t: logits / t,
    turn=lambda logits: logits.softmax(-1),
    finish=lambda p, t: p,
):
    """The probabilities, put together from steps that a mistake replaces."""

    def answer(conditional, unconditional, guidance, temperature, top_k):
        logits = mix(conditional, unconditional, guidance)
        kept = keep(logits, top_k, conditional, unconditional)
        return finish(turn(cool(logits.masked_fill(~kept, fill), temperature)), temperature)

    return answer


def _zeros_after_softmax(conditional, unconditional, guidance, temperature, top_k):
    logits = _mix(conditional, unconditional, guidance)
    return (logits / temperature).softmax(-1) * _largest(logits, top_k)


def _mixed_probabilities(finish):
    def answer(conditional, unconditional, guidance, temperature, top_k):
        pc, pu = (conditional / temperature).softmax(-1), (unconditional / temperature).softmax(-1)
        return finish(_mix(pc, pu, guidance), top_k)

    return answer


def _top(p, k):
    p = p * _largest(p, k)
    return p / p.sum(-1, keepdim=True)


def _only_kept(conditional, unconditional, guidance, temperature, top_k):
    return (_mix(conditional, unconditional, guidance).topk(top_k).values / temperature).softmax(-1)


def _cold_condition(conditional, unconditional, guidance, temperature, top_k):
    return _chances(cool=lambda logits, t: logits)(
        conditional / temperature, unconditional, guidance, temperature, top_k
    )


_FORMULA = "it should be u + guidance * (c - u)."
_LOGITS = "mix the logits, u + guidance * (c - u), and take one softmax at the end."
_GUIDED = "the largest of the guided logits stay."
_PER_ROW = "each row keeps its own top_k, topk(top_k, dim=-1)."
_NUMBER = "exactly top_k of each row stay; is your comparison >= with the smallest of these?"
_DIVIDE = "divide the logits by it before the softmax."


@exercise(
    verified="guidance from -1 to 10, top_k from 1 to K, temperature, large logits, sizes of one, both float types",
    returns={"the result": "(N, K)"},
    correct=_chances(),
    mistakes={
        f"the guidance starts at 0, as in the paper's c + w * (c - u): here {_FORMULA}": _chances(
            lambda c, u, g: c + g * (c - u)
        ),
        f"c and u are swapped: {_FORMULA}": _chances(lambda c, u, g: c + g * (u - c)),
        f"the difference is turned around: {_FORMULA}": _chances(lambda c, u, g: u + g * (u - c)),
        f"the guidance is not used: {_FORMULA}": _chances(lambda c, u, g: c),
        f"only the unconditional logits are used: {_FORMULA}": _chances(lambda c, u, g: u),
        f"u is missing: {_FORMULA}": _chances(lambda c, u, g: g * (c - u)),
        f"u is not subtracted from c: {_FORMULA}": _chances(lambda c, u, g: u + g * c),
        f"the conditional logits are multiplied, but u is missing: {_FORMULA}": _chances(lambda c, u, g: g * c),
        f"the temperature divides c only: {_DIVIDE}": _cold_condition,
        f"probabilities are mixed: {_LOGITS}": _mixed_probabilities(_top),
        f"probabilities are mixed, and negative ones set to 0: {_LOGITS}": _mixed_probabilities(
            lambda p, k: _top(p.clamp(min=0), k)
        ),
        f"probabilities are mixed, and top_k is not used: {_LOGITS}": _mixed_probabilities(lambda p, k: p),
        f"top_k is taken of the conditional logits, before the guidance: {_GUIDED}": _chances(
            keep=lambda x, k, c, u: _largest(c, k)
        ),
        f"top_k is taken of the unconditional logits, before the guidance: {_GUIDED}": _chances(
            keep=lambda x, k, c, u: _largest(u, k)
        ),
        f"top_k is taken of both kinds of logits, before the guidance: {_GUIDED}": _chances(
            keep=lambda x, k, c, u: _largest(c, k) & _largest(u, k)
        ),
        f"top_k is counted over the whole batch: {_PER_ROW}": _chances(
            keep=lambda x, k, c, u: _largest(x.flatten(), k).view_as(x)
        ),
        f"top_k is counted over the rows (dim=0): {_PER_ROW}": _chances(
            keep=lambda x, k, c, u: _largest(x, min(k, len(x)), dim=0)
        ),
        "top_k is not used: only the top_k largest logits of each row stay.": _chances(
            keep=lambda x, k, c, u: torch.ones_like(x, dtype=torch.bool)
        ),
        "the smallest logits stay: keep the largest.": _chances(keep=lambda x, k, c, u: _largest(-x, k)),
        "the largest logits are removed: they should stay, and all others go.": _chances(
            keep=lambda x, k, c, u: ~_largest(x, k)
        ),
        f"one logit too many stays: {_NUMBER}": _chances(keep=lambda x, k, c, u: _largest(x, min(k + 1, x.size(1)))),
        f"one logit too few stays: {_NUMBER}": _chances(keep=lambda x, k, c, u: _largest(x, k - 1)),
        "logits outside of the top_k become 0, which has a probability: fill with -inf.": _chances(fill=0),
        "the rows do not add up to 1: fill the logits with -inf before the softmax, or divide again.": (
            _zeros_after_softmax
        ),
        f"the temperature multiplies the logits: {_DIVIDE}": _chances(cool=lambda logits, t: logits * t),
        f"the temperature is not used: {_DIVIDE}": _chances(cool=lambda logits, t: logits),
        f"the temperature is used twice: {_DIVIDE}": _chances(cool=lambda logits, t: logits / t**2),
        f"the temperature divides the probabilities: {_DIVIDE}": _chances(
            cool=lambda logits, t: logits, finish=lambda p, t: p / t
        ),
        "the softmax runs over the batch (dim=0): each row adds up to 1, dim=-1.": _chances(
            turn=lambda logits: logits.softmax(0)
        ),
        "these are logarithms of probabilities: softmax instead of log_softmax.": _chances(
            turn=lambda logits: logits.log_softmax(-1)
        ),
        "these are logits: take the softmax of each row.": _chances(turn=lambda logits: logits),
        "this is transposed: (N, K).": _chances(finish=lambda p, t: p.T),
        "only the kept probabilities are returned, (N, top_k): all others are 0, and the columns stay in place.": (
            _only_kept
        ),
    },
)
def guided(answer):
    """guided(conditional, unconditional, guidance, temperature, top_k) -> probabilities (N, K).

    From logits c, u (N, K): u + guidance * (c - u) (Ho & Salimans 2022), of which the top_k largest of each row stay;
    divided by the temperature, then softmax. There are no ties.
    """
    float32, float64 = DTYPES
    for where, (N, K), guidance, temperature, top_k, dtype in (
        ("", (4, 7), 3.0, 0.7, 3, float32),
        ("for guidance 1.5", (2, 9), 1.5, 1.4, 5, float64),
        ("for guidance 1", (3, 5), 1.0, 0.5, 4, float32),
        ("for guidance 0", (3, 6), 0.0, 2.0, 4, float64),
        ("for guidance -1", (3, 6), -1.0, 1.3, 2, float32),
        ("for guidance 10", (5, 4), 10.0, 8.0, 3, float64),
        ("for top_k = 1", (2, 6), 2.0, 1.0, 1, float32),
        ("for top_k = K", (3, 5), 2.0, 0.8, 5, float32),
        ("for one row", (1, 6), 2.5, 1.7, 3, float32),
        ("for one code", (3, 1), 2.0, 0.9, 1, float64),
    ):
        c, u = (1.2 * randn(N, K, seed=i, dtype=dtype) for i in (1, 2))
        sizes = {"guidance": guidance, "temperature": temperature, "top_k": top_k}
        answer.case(where, conditional=c, unconditional=u, **sizes)

    c, u = (randn(3, 5, seed=i, dtype=float64) for i in (3, 4))
    c[:, 1:3] += 500
    sizes = {"guidance": 2.0, "temperature": 0.5, "top_k": 4}
    overflow = "Give the logits as they are to softmax, which subtracts each row's maximum: exp(2000) overflows."
    answer.case("for logits up to 1000", conditional=c, unconditional=u, **sizes, hint=overflow)
    low = "Fill removed logits with -inf, below all others, and subtract each row's maximum, whatever its sign."
    answer.case("for logits around -2000", conditional=c - 2000, unconditional=u - 2000, **sizes, hint=low)
    far = torch.tensor([[0.0], [-900], [900]], dtype=float64)
    rows = "Subtract the maximum of each row, not that of all: a row far below it would round to 0."
    answer.case("for rows far apart", conditional=c + far, unconditional=u + far, **sizes, hint=rows)
    answer.judge()
    left = answer.result(conditional=c, unconditional=u, **sizes) > 0
    answer.expect(left.sum() <= 3 * 4, "removed logits have a small probability: it should be exactly 0.")


# Sound ---------------------------------------------------------------------------------------------------------------


def _triangles(
    corners_of=lambda corners: (corners[:-2, None], corners[1:-1, None], corners[2:, None]),
    rise=lambda f, a, b, e: (f - a) / (b - a),
    fall=lambda f, a, b, e: (e - f) / (e - b),
    join=torch.minimum,
    clamp=lambda x: x.clamp(min=0),
    scale=lambda x, f, a, b, e: 2 * x / (e - a),
    finish=lambda filters: filters,
):
    """The filters, put together from steps that a mistake replaces; a, b, e as in the exercise, (bands, 1)."""

    def answer(corners, frequencies):
        at = frequencies, *corners_of(corners)
        return finish(scale(clamp(join(rise(*at), fall(*at))), *at))

    return answer


def _pieces(left, right):
    """Rising or falling, chosen by comparisons of a frequency with the corners."""

    def answer(corners, frequencies):
        f, a, b, e = frequencies, corners[:-2, None], corners[1:-1, None], corners[2:, None]
        x = (f - a) / (b - a) * left(f, a, b) + (e - f) / (e - b) * right(f, b, e)
        return 2 * x / (e - a)

    return answer


def _nothing(f, x, y):
    return torch.zeros_like(f)


def _rectangles(corners, frequencies):
    a, e = corners[:-2, None], corners[2:, None]
    return ((frequencies >= a) & (frequencies <= e)) / (e - a)


def _moved(by):
    """The filters of the neighboring bands; none beyond the ends."""

    def answer(corners, frequencies):
        filters = _triangles()(corners, frequencies)
        nothing = torch.zeros_like(filters[:1])
        return torch.cat([filters[1:], nothing] if by > 0 else [nothing, filters[:-1]])

    return answer


_AREA = "the area over Hz is 1 for the triangle itself: multiply by 2 / (corners[i + 2] - corners[i])."
_MINIMUM = "take the smaller one, torch.minimum."
_SLOPE = "rising by middle - left, falling by right - middle."
_CORNERS = "filter i has corners[i], corners[i + 1] and corners[i + 2]."


@exercise(
    verified="rise, fall, peak, zero outside, area 1, order of axes, one band, one frequency, both float types",
    returns={"the result": "(bands, bins)"},
    correct=_triangles(),
    mistakes={
        f"the peaks are 1, so wide filters let more through: {_AREA}": _triangles(scale=lambda x, f, a, b, e: x),
        "outside of the triangle the values are negative: clamp them at 0.": _triangles(clamp=lambda x: x),
        "outside of the triangle the values are negative, and the area is not 1: clamp, then scale.": _triangles(
            clamp=lambda x: x, scale=lambda x, f, a, b, e: x
        ),
        f"each row adds up to 1 over the bins: {_AREA}": _triangles(
            scale=lambda x, f, a, b, e: x / x.sum(1, keepdim=True)
        ),
        f"the area is that of the bins, not of the triangle: {_AREA}": _triangles(
            scale=lambda x, f, a, b, e: x / (x.sum(1, keepdim=True) * (f[1] - f[0]))
        ),
        f"each column adds up to 1: {_AREA}": _triangles(scale=lambda x, f, a, b, e: x / x.sum(0).clamp(min=1e-9)),
        f"each row is divided by its largest value: {_AREA}": _triangles(
            scale=lambda x, f, a, b, e: x / x.amax(1, keepdim=True)
        ),
        f"the larger of the two lines is taken: {_MINIMUM}": _triangles(join=torch.maximum),
        f"the two lines are multiplied: {_MINIMUM}": _triangles(join=torch.mul),
        f"the two lines are added: {_MINIMUM}": _triangles(join=torch.add),
        f"the area is 1/2: half the width times the height is 1. So {_AREA}": _triangles(
            scale=lambda x, f, a, b, e: x / (e - a)
        ),
        f"this is multiplied by half the width: {_AREA}": _triangles(scale=lambda x, f, a, b, e: x * (e - a) / 2),
        f"the height is taken from the rising side only: {_AREA}": _triangles(
            scale=lambda x, f, a, b, e: 2 * x / (b - a)
        ),
        f"the height is taken from the falling side only: {_AREA}": _triangles(
            scale=lambda x, f, a, b, e: 2 * x / (e - b)
        ),
        f"all filters have the same height: {_AREA}": _triangles(scale=lambda x, f, a, b, e: 2 * x / (e[-1] - a[0])),
        "these are rectangles: rise to the middle corner, and fall again.": _rectangles,
        "the falling side is missing: from corners[i + 1] fall to 0 at corners[i + 2].": _pieces(
            lambda f, a, b: (f >= a) & (f <= b), _nothing
        ),
        "the rising side is missing: from 0 at corners[i] rise to corners[i + 1].": _pieces(
            _nothing, lambda f, b, e: (f >= b) & (f <= e)
        ),
        "a frequency that is corners[i + 1] itself gets 0: the peak is there, so one comparison needs >= or <=.": (
            _pieces(lambda f, a, b: (f > a) & (f < b), lambda f, b, e: (f > b) & (f < e))
        ),
        "a frequency that is corners[i + 1] itself counts on both sides: the peak is there, once.": (
            _pieces(lambda f, a, b: (f >= a) & (f <= b), lambda f, b, e: (f >= b) & (f <= e))
        ),
        "the peak is halfway between the outer corners: it is at corners[i + 1].": _triangles(
            lambda corners: (
                corners[:-2, None],
                (corners[:-2, None] + corners[2:, None]) / 2,
                corners[2:, None],
            )
        ),
        f"both lines are divided by the whole width: {_SLOPE}": _triangles(
            rise=lambda f, a, b, e: (f - a) / (e - a), fall=lambda f, a, b, e: (e - f) / (e - a)
        ),
        f"the rising line is divided by the whole width: {_SLOPE}": _triangles(
            rise=lambda f, a, b, e: (f - a) / (e - a)
        ),
        f"the falling line is divided by the whole width: {_SLOPE}": _triangles(
            fall=lambda f, a, b, e: (e - f) / (e - a)
        ),
        f"the rising line is divided by right - middle: {_SLOPE}": _triangles(
            rise=lambda f, a, b, e: (f - a) / (e - b)
        ),
        f"the falling line is divided by middle - left: {_SLOPE}": _triangles(
            fall=lambda f, a, b, e: (e - f) / (b - a)
        ),
        f"the two distances are swapped: {_SLOPE}": _triangles(
            rise=lambda f, a, b, e: (f - a) / (e - b), fall=lambda f, a, b, e: (e - f) / (b - a)
        ),
        f"the corners belong to the band above: {_CORNERS}": _moved(1),
        f"the corners belong to the band below: {_CORNERS}": _moved(-1),
        "this is transposed: one row for each band, (bands, bins).": _triangles(finish=lambda filters: filters.T),
        "the bands come from high to low: row 0 has the lowest corners.": _triangles(
            finish=lambda filters: filters.flip(0)
        ),
        "the filters are added up: one row for each band, (bands, bins).": _triangles(
            finish=lambda filters: filters.sum(0)
        ),
    },
)
def mel_triangles(answer):
    """mel_triangles(corners, frequencies) -> (bands, bins), triangles of area 1: Slaney's form, which Whisper uses.

    corners (bands + 2,) in Hz, strictly rising; frequencies (bins,) in Hz. Filter i rises from corners[i] to
    corners[i + 1], falls to corners[i + 2] and is 0 elsewhere; its peak is 2 / (corners[i + 2] - corners[i]).
    """
    float32, float64 = DTYPES
    for where, corners, frequencies, dtype in (
        ("", [80, 160, 330, 600, 910, 1500, 2400], range(0, 2561, 80), float32),
        ("for 3 bands and 12 bins", [0, 0.9, 1.5, 4, 7], [0.6 * i for i in range(12)], float64),
        ("for frequencies at the corners", [1, 2, 4, 5, 5.5], [1, 2, 4, 5, 5.5, 7], float32),
        ("for as many bands as bins", [1, 2, 3, 4.5, 6], [1.5, 2.75, 5.5], float64),
        ("for 1 band", [1, 3, 3.5], [0.25 * i for i in range(17)], float32),
        ("for 1 band and 1 frequency", [2, 3, 5], [4.5], float64),
        ("for frequencies in any order", [1, 2, 4, 5, 7], [4.5, 1.5, 6, 3, 2.25, 3], float32),
    ):
        corners, frequencies = (torch.tensor(list(x), dtype=dtype) for x in (corners, frequencies))
        answer.case(where, corners=corners, frequencies=frequencies)
    corners, frequencies = torch.tensor([0.5, 2, 3, 4, 5]), torch.tensor([2.25])
    hint = "A band that holds no frequency is all 0."
    answer.case("for 1 frequency", corners=corners, frequencies=frequencies, hint=hint)
    answer.judge()
    apart = torch.tensor([0.0, 1, 2, 10, 11, 12])
    outside = answer.result(corners=apart, frequencies=torch.tensor([0.5, 5]))[0, 1].item()
    answer.expect(outside == 0, f"outside of its triangle a filter is {outside:.3g}: it should be exactly 0.")


# The loss ------------------------------------------------------------------------------------------------------------


def _mean(values, where):
    return (values * where).sum() / where.sum().clamp(min=1)


def _sum(values, where):
    return (values * where).sum()


def _over_positions(values, where):
    return (values * where).sum() / max(where.numel(), 1)


def _by_rows(values, where):
    return ((values * where).sum(1) / where.sum(1).clamp(min=1)).mean()


def _word(target, source, first_code, pad):
    return (target < first_code) & (target != pad)


def _code(target, source, first_code, pad):
    return (target >= first_code) & (target != pad)


def _apart(average=_mean, add=lambda words, codes, image_weight: words + image_weight * codes):
    """What the words and the codes have in the loss, from an average of each."""
    return lambda x, word, code, w: add(average(x, word), average(x, code), w)


def _z_mean(average=_mean, counted=lambda word, code, t, pad: word | code):
    return lambda values, *kinds: average(values, counted(*kinds))


_MEANS, _Z_MEAN = _apart(), _z_mean()


def _loss(
    align=lambda logits, tokens: (logits[:, :-1], tokens[:, 1:]),
    word=_word,
    code=_code,
    language=_MEANS,
    logsumexp=lambda logits: logits.logsumexp(-1),
    square=lambda z, surprise: z.square(),
    z_mean=_Z_MEAN,
    numbers=lambda pad, image_weight, z_weight: (pad, image_weight, z_weight),
):
    """The loss, put together from steps that a mistake replaces."""

    def answer(logits, tokens, first_code, *three):
        pad, image_weight, z_weight = numbers(*three)
        source, (logits, target) = tokens[:, :-1], align(logits, tokens)
        surprise = logits.logsumexp(-1) - logits.gather(-1, target[..., None])[..., 0]
        is_word, is_code = (kind(target, source, first_code, pad) for kind in (word, code))
        squares = square(logsumexp(logits), surprise)
        loss = language(surprise, is_word, is_code, image_weight)
        return loss + z_weight * z_mean(squares, is_word, is_code, target, pad)

    return answer


def _only_where(condition):
    """The loss over the targets t after the tokens s that fulfill one more condition(t, s, pad)."""

    def and_so(kind):
        return lambda t, s, first, pad: kind(t, s, first, pad) & condition(t, s, pad)

    return _loss(word=and_so(_word), code=and_so(_code))


def _last_position_in_z(logits, tokens, first_code, pad, image_weight, z_weight):
    language = _loss()(logits, tokens, first_code, pad, image_weight, 0)
    return language + z_weight * logits.logsumexp(-1).square().mean()


_SHIFT = "logits[:, :-1] predict tokens[:, 1:]."
_APART = "words and codes have a mean each, added with weights 1 and image_weight."
_PADS = "pad is no target, so leave it out."
_KIND = "the target decides whether a position counts as a word or as a code, not the token that is read there"
_Z = "the z-loss is the mean of logsumexp(logits) squared."
_BOTH_IN_Z = "its mean is over words and codes."


@exercise(
    verified="shift, kinds, pads anywhere, weights, z-loss, one kind or no target, large logits, gradient, float types",
    returns={"the loss": "one number"},
    correct=_loss(),
    mistakes={
        f"the logits are compared with the token that they have read: {_SHIFT}": _loss(lambda x, tokens: (x, tokens)),
        f"the shift goes the wrong way: {_SHIFT}": _loss(lambda x, tokens: (x[:, 1:], tokens[:, :-1])),
        f"there are two shifts, to the token after the next: {_SHIFT}": _loss(
            lambda x, tokens: (x[:, :-2], tokens[:, 2:])
        ),
        f"the last position predicts the first token: {_SHIFT} That is one position less.": _loss(
            lambda x, tokens: (x, tokens.roll(-1, 1))
        ),
        f"each row's last position predicts the first token of the next row: {_SHIFT}": _loss(
            lambda x, tokens: (x.flatten(0, 1)[None, :-1], tokens.flatten()[None, 1:])
        ),
        f"one mean is taken over all targets: {_APART}": _loss(
            language=lambda x, word, code, w: _sum(x, word + w * code) / (word | code).sum().clamp(min=1)
        ),
        f"this is a weighted mean over all targets: {_APART}": _loss(
            language=lambda x, word, code, w: _sum(x, word + w * code) / (word + w * code).sum().clamp(min=1e-9)
        ),
        f"words and codes count alike, in one mean: {_APART}": _loss(
            language=lambda x, word, code, w: _mean(x, word | code)
        ),
        "image_weight multiplies the words: it belongs to the image codes.": _loss(
            language=_apart(add=lambda a, b, w: w * a + b)
        ),
        "image_weight multiplies words and codes: it belongs to the codes only.": _loss(
            language=_apart(add=lambda a, b, w: w * (a + b))
        ),
        "the words are multiplied by 1 - image_weight: their weight is 1.": _loss(
            language=_apart(add=lambda a, b, w: (1 - w) * a + w * b)
        ),
        "image_weight is not used: multiply the mean over image codes by it.": _loss(
            language=_apart(add=lambda a, b, w: a + b)
        ),
        "image_weight is always 0.5: use the argument.": _loss(numbers=lambda pad, w, z: (pad, 0.5, z)),
        "the image codes are left out: add image_weight times their mean.": _loss(
            language=_apart(add=lambda a, b, w: a)
        ),
        "the words are left out: add their mean.": _loss(language=_apart(add=lambda a, b, w: w * b)),
        f"pads count as words: {_PADS}": _loss(word=lambda t, s, first, pad: t < first),
        f"pads count as words in the mean of these: {_PADS}": _loss(
            word=lambda t, s, first, pad: t < first,
            z_mean=_z_mean(counted=lambda word, code, t, pad: t != pad),
        ),
        f"pads from first_code on count as image codes: {_PADS}": _loss(code=lambda t, s, first, pad: t >= first),
        f"pads count as words below first_code and as image codes above: {_PADS}": _loss(
            word=lambda t, s, first, pad: t < first,
            code=lambda t, s, first, pad: t >= first,
        ),
        "pads are expected to be 0: use the argument `pad`.": _loss(numbers=lambda pad, w, z: (0, w, z)),
        "all that follows a row's first pad is left out: a pad may stand anywhere.": _only_where(
            lambda target, source, pad: (target == pad).cumsum(1) == 0
        ),
        "what follows a pad is left out, and pads themselves count: a target that is pad counts nowhere.": _loss(
            word=lambda t, s, first, pad: (t < first) & (s != pad),
            code=lambda t, s, first, pad: (t >= first) & (s != pad),
        ),
        "what follows a pad is left out: only the target decides whether a position counts.": _only_where(
            lambda target, source, pad: source != pad
        ),
        "the sums are divided by the number of all positions: divide by that of words, and of codes.": _loss(
            language=_apart(_over_positions)
        ),
        "all sums are divided by the number of all positions: divide by that of words, of codes, of both.": _loss(
            language=_apart(_over_positions), z_mean=_z_mean(_over_positions)
        ),
        f"{_KIND}, and whether it counts at all.": _loss(
            word=lambda t, s, first, pad: _word(s, None, first, pad),
            code=lambda t, s, first, pad: _code(s, None, first, pad),
        ),
        f"{_KIND}.": _loss(
            word=lambda t, s, first, pad: (s < first) & (t != pad),
            code=lambda t, s, first, pad: (s >= first) & (t != pad),
        ),
        "first_code itself is a code: >=, not >.": _loss(
            word=lambda t, s, first, pad: (t <= first) & (t != pad),
            code=lambda t, s, first, pad: (t > first) & (t != pad),
        ),
        "first_code itself is left out: it is a code, >=, not >.": _loss(
            code=lambda t, s, first, pad: (t > first) & (t != pad)
        ),
        f"pads count in the z-loss: {_BOTH_IN_Z}": _loss(
            z_mean=_z_mean(counted=lambda word, code, t, pad: torch.ones_like(word))
        ),
        f"all positions count in the z-loss, pads and the last one too: {_BOTH_IN_Z}": _last_position_in_z,
        f"the z-loss is taken over words only: {_BOTH_IN_Z}": _loss(
            z_mean=_z_mean(counted=lambda word, code, t, pad: word)
        ),
        f"the z-loss is taken over codes only: {_BOTH_IN_Z}": _loss(
            z_mean=_z_mean(counted=lambda word, code, t, pad: code)
        ),
        "the z-loss has a mean for words and one for codes: take one mean over both.": _loss(
            z_mean=lambda values, word, code, target, pad: _mean(values, word) + _mean(values, code)
        ),
        f"the logits are squared, and their mean is taken: {_Z}": _loss(
            logsumexp=lambda logits: logits.square().mean(-1).sqrt()
        ),
        f"the logits are squared, and added up: {_Z}": _loss(logsumexp=lambda logits: logits.square().sum(-1).sqrt()),
        f"logsumexp is not squared: {_Z}": _loss(square=lambda z, surprise: z),
        f"the mean is squared, but {_Z} Square first.": _loss(
            square=lambda z, surprise: z, z_mean=lambda values, *kinds: _Z_MEAN(values, *kinds).square()
        ),
        f"the surprise is squared: {_Z}": _loss(square=lambda z, surprise: surprise.square()),
        f"the z-loss is missing, or taken of log_softmax, whose logsumexp is 0: {_Z}": _loss(
            numbers=lambda pad, w, z: (pad, w, 0)
        ),
        f"z_weight is not used: {_Z} Multiply it by z_weight.": _loss(numbers=lambda pad, w, z: (pad, w, 1)),
        "z_weight is always 1e-5: use the argument.": _loss(numbers=lambda pad, w, z: (pad, w, 1e-5)),
        "the z-loss is subtracted: add it.": _loss(numbers=lambda pad, w, z: (pad, w, -z)),
        "the sign is wrong: surprise is minus the log probability.": _loss(
            language=_apart(add=lambda a, b, w: -a - w * b)
        ),
        "sums are taken: divide each by the number of its targets.": _loss(language=_apart(_sum), z_mean=_z_mean(_sum)),
        "sums of the surprise are taken: divide each by the number of its targets.": _loss(language=_apart(_sum)),
        "each row has a mean of its own: take one over the targets of all rows.": _loss(
            language=_apart(_by_rows), z_mean=_z_mean(_by_rows)
        ),
        "each row has a mean of its own, apart from the z-loss: take one over all rows.": _loss(
            language=_apart(_by_rows)
        ),
        "no gradient comes through the z-loss: leave its logsumexp attached, without detach or no_grad.": _loss(
            logsumexp=lambda logits: logits.detach().logsumexp(-1)
        ),
    },
)
def stream_loss(answer):
    """stream_loss(logits, tokens, first_code, pad, image_weight, z_weight) -> scalar, in nats.

    logits (N, T, V) predict the tokens (N, T) that come next. The mean surprise over targets that are words (below
    first_code), plus image_weight times that over image codes (from first_code on), plus z_weight times the mean over
    both of logsumexp(logits) squared. A target that is pad counts nowhere. The mean over no target is 0.
    """
    float32, float64 = DTYPES

    def case(where, tokens, dtype=float32, V=13, size=1.5, shift=1, hint="", gradients=(), **changed):
        tokens = torch.tensor(tokens)
        logits = size * randn(*tokens.shape, V, seed=1, dtype=dtype) + shift
        numbers = {"first_code": 8, "pad": 0, "image_weight": 0.3, "z_weight": 0.02} | changed
        answer.case(where, logits=logits, tokens=tokens, **numbers, hint=hint, gradients=gradients)

    mixed = [[1, 5, 8, 12, 9, 3, 2, 0, 0], [4, 10, 11, 8, 7, 6, 1, 2, 0], [7, 3, 9, 8, 8, 10, 4, 12, 5]]
    case("", mixed)
    case("in float64", mixed, float64, gradients=["logits"])
    case("with padding on the left", [[0, 0, 6, 9, 8, 11, 2], [0, 3, 12, 10, 1, 1, 8]], float64)
    case("with pads among the words", [[1, 0, 3, 5, 9, 10, 3, 2], [3, 7, 0, 8, 12, 3, 3, 6]], pad=3)
    case("with a pad above first_code", [[1, 5, 9, 12, 10, 2, 12], [3, 12, 7, 8, 11, 12, 6]], pad=12)
    case("where first_code is the pad", [[1, 5, 9, 8, 10, 2, 8], [3, 8, 7, 9, 11, 12, 6]], float64, pad=8)
    case("for another first_code", mixed, first_code=4, image_weight=2.5)
    case("for image_weight 0", mixed, image_weight=0.0)
    case("for z_weight 0", mixed, z_weight=0.0)
    case("of logits around 30", mixed, shift=30, z_weight=0.5)
    case("of one row", mixed[1:2], float64, V=17)
    case("of logits around -30", mixed, shift=-30, z_weight=0.5)
    case("of rows of two tokens", [[9, 2], [2, 11], [5, 6]])
    case("of one word and one code", [[2, 5, 9]])

    hint = "A mean over no target is 0 (divide by at least 1), and the other terms stay."
    case("without image codes", [[1, 5, 2, 7, 0], [3, 6, 4, 0, 0]], hint=hint)
    case("without words", [[9, 8, 12, 10], [11, 8, 9, 9]], float64, hint=hint)
    case("of one target", [[2, 5], [9, 0]], hint=hint)
    case("where all ids are codes", mixed, first_code=0, pad=12, hint=hint)
    case("of nothing but pads", [[0, 0, 0], [5, 0, 0]], float64, hint=hint)
    case("of one token, which predicts nothing,", [[5], [9]], float64, hint=hint)
    large = "Give the logits as they are to logsumexp, log_softmax or cross_entropy: exp overflows, its log underflows."
    case("of logits up to 300", mixed, size=100, hint=large)
    hint = "0 / 0 spoils the gradient even where its result is replaced: divide by at least 1."
    case("without image codes", [[1, 5, 2, 7, 0], [3, 6, 4, 0, 0]], gradients=["logits"], hint=hint)
    case("without words", [[9, 8, 12, 10], [11, 8, 9, 9]], gradients=["logits"], hint=hint)
