"""Checks for the exercises of lesson 07, a Gemini-style model."""

import math

import torch
import torch.nn.functional as F

from mmlesson.check import DTYPES, exercise, randn

# Attention -----------------------------------------------------------------------------------------------------------


@exercise("norm per head, weights, scale, causal, gradients, small inputs, both float types")
def qk_norm_attention(answer):
    """qk_norm_attention(q, k, v, q_weight, q_bias, k_weight, k_bias) -> (N, heads, T, d), causal, without rotation.

    q, k, v (N, heads, T, d); weights and biases (heads, d). Queries and keys go through a LayerNorm over d, each head
    by itself (eps 1e-5, biased variance), as in Chameleon; then softmax(q k / sqrt(d)) v over the past.
    """
    float32, float64 = DTYPES
    for what, sizes, dtype in (
        ("the output", (2, 4, 4, 6), float32),
        ("the output with 2 heads and 5 tokens", (3, 2, 5, 4), float64),
    ):
        inputs = _heads(*sizes, dtype=dtype)
        wrong = _wrong_attention(**inputs) if what == "the output" else ()
        answer.expect_tensor(what, answer(**inputs), _qk_normed(**inputs), wrong, axes="(N, heads, T, d)")

    small = {**inputs, "q": inputs["q"] / 30000, "k": inputs["k"] / 30000}
    what, hint = "the output for q and k around 0.001", "There epsilon counts: divide by sqrt(variance + 1e-5)."
    answer.expect_tensor(what, answer(**small), _qk_normed(**small), _wrong_epsilons(**small), hint=hint)

    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    output = answer(**leaves)
    # k_bias is left out: it adds the same to all scores of a query, and softmax takes that away again.
    answer.expect_gradients("the output", output, **{name: x for name, x in leaves.items() if name != "k_bias"})
    weights = randn(*output.shape, seed=8, dtype=float64)

    def gradient(output):
        return torch.autograd.grad((output * weights).sum(), leaves["q"])[0]

    frozen = "mean and variance are detached, but the gradient of a LayerNorm runs through them as well."
    wrong = [(gradient(_qk_normed(**leaves, norm=lambda x: _standard(x, of=x.detach()))), frozen)]
    answer.expect_tensor("the gradient of q", gradient(output), gradient(_qk_normed(**leaves)), wrong)


def _heads(N, heads, T, d, dtype):
    """Inputs with a mean other than 0 and weights other than 1, so large that epsilon does not count."""
    q, k, v = (size * (randn(N, heads, T, d, seed=i, dtype=dtype) + 0.5) for i, size in ((1, 30), (2, 30), (3, 1.5)))
    q_weight, k_weight = (1 + randn(heads, d, seed=i, dtype=dtype) / 2 for i in (4, 5))
    q_bias, k_bias = (randn(heads, d, seed=i, dtype=dtype) for i in (6, 7))
    return {"q": q, "k": k, "v": v, "q_weight": q_weight, "q_bias": q_bias, "k_weight": k_weight, "k_bias": k_bias}


def _standard(x, dims=-1, eps=1e-5, correction=0, of=None):
    """Mean 0 and variance 1 over these axes; the statistics are those `of` x itself."""
    of = x if of is None else of
    return (x - of.mean(dims, keepdim=True)) / (of.var(dims, correction=correction, keepdim=True) + eps).sqrt()


def _past(T):
    return torch.ones(T, T, dtype=torch.bool).tril()


def _attend(q, k, v, scale=None, dim=-1, keep=None):
    scores = q @ k.mT * (q.size(-1) ** -0.5 if scale is None else scale)
    return scores.masked_fill(~(_past(q.size(-2)) if keep is None else keep), -torch.inf).softmax(dim) @ v


def _qk_normed(q, k, v, q_weight, q_bias, k_weight, k_bias, norm=_standard, **options):
    q, k = norm(q) * q_weight[:, None] + q_bias[:, None], norm(k) * k_weight[:, None] + k_bias[:, None]
    return _attend(q, k, v, **options)


def _wrong_attention(q, k, v, q_weight, q_bias, k_weight, k_bias):
    heads, d, past, parameters = q.size(1), q.size(3), _past(q.size(2)), (q_weight, q_bias, k_weight, k_bias)
    given = q, k, v, *parameters
    normed_q, normed_k = (
        _standard(x) * w[:, None] + b[:, None] for x, w, b in zip((q, k), parameters[::2], parameters[1::2])
    )
    scores, ones = normed_q @ normed_k.mT / math.sqrt(d), torch.ones_like(q_weight)
    own = "each head by itself has mean 0 and variance 1 over its d numbers"
    per_head = "head h gets q_weight[h] and q_bias[h]: add an axis for the tokens, as in q_weight[:, None]"
    no_past = "the attention is not causal: mask the scores of later tokens with -inf before the softmax."
    both = "queries and keys are normalized, each with its own weight and bias"
    plain = "the values are normalized, or get a weight: only queries and keys do, v stays as it is."
    return [
        (_attend(q, k, v), "the norm is missing: queries and keys need a LayerNorm over d before they are multiplied."),
        (_qk_normed(*given, norm=lambda x: _standard(x, (1, 3))), f"the norm runs over heads and d together: {own}."),
        (_qk_normed(*given, norm=lambda x: _standard(x, (2, 3))), f"the norm runs over tokens and d together: {own}."),
        (_qk_normed(*given, norm=lambda x: _standard(x, 2)), "the norm runs over the tokens (dim=2): take d, dim=-1."),
        (_qk_normed(*given, norm=lambda x: _standard(x, 1)), "the norm runs over the heads (dim=1): take d, dim=-1."),
        (
            _qk_normed(*given, norm=lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()),
            "this is RMSNorm: a LayerNorm subtracts the mean over d first.",
        ),
        (
            _qk_normed(*given, norm=lambda x: x - x.mean(-1, keepdim=True)),
            "the mean is subtracted, but nothing is divided: divide by sqrt(variance + 1e-5).",
        ),
        (
            _qk_normed(*given, norm=lambda x: (x - x.mean(-1, keepdim=True)) / x.var(-1, correction=0, keepdim=True)),
            "x is divided by the variance: divide by its square root.",
        ),
        (
            _qk_normed(*given, norm=lambda x: F.normalize(x, dim=-1)),
            "this makes unit vectors: a LayerNorm subtracts the mean and divides by the standard deviation.",
        ),
        (
            _qk_normed(*given, norm=lambda x: _standard(x, correction=1)),
            "the variance is divided by d - 1 (unbiased, the default of .var and .std): set correction=0.",
        ),
        (_qk_normed(q, k, _standard(v), *parameters), plain),
        (_qk_normed(q, k, _standard(v) * k_weight[:, None] + k_bias[:, None], *parameters), plain),
        (_attend(normed_q, k, v), f"only the queries are normalized: {both}."),
        (_attend(q, normed_k, v), f"only the keys are normalized: {both}."),
        (_qk_normed(*given, scale=1), "the scale is missing: divide the scores by sqrt(d)."),
        (_qk_normed(*given, scale=1 / d), "the scores are divided by d: divide by its square root."),
        (_qk_normed(*given, scale=d**0.5), "the scores are multiplied by sqrt(d): divide by it."),
        (_qk_normed(*given, scale=(heads * d) ** -0.5), "the scores are divided by sqrt(heads * d): take sqrt(d)."),
        (_qk_normed(*given, keep=torch.ones_like(past)), no_past),
        (_qk_normed(*given, keep=past.T), "the mask is upside down: token t sees tokens 0 to t, torch.tril, not triu."),
        (
            _qk_normed(*given, keep=past.tril(-1)),
            "a token does not see itself, and the first one sees nothing: keep the diagonal.",
        ),
        (
            _qk_normed(*given, keep=torch.ones_like(past).tril(1)),
            "token t sees token t + 1 as well: is the diagonal of your mask off by one?",
        ),
        ((scores * past).softmax(-1) @ v, "later tokens get the score 0, which still has a weight: fill with -inf."),
        (
            scores.softmax(-1) * past @ v,
            "the mask comes after the softmax, so the weights do not add up to 1: fill the scores with -inf before it.",
        ),
        (
            _qk_normed(*given, dim=-2),
            "the softmax runs over the queries (dim=-2): for each query over the keys, dim=-1.",
        ),
        (_qk_normed(*given, dim=1), "the softmax runs over the heads (dim=1): for each query over the keys, dim=-1."),
        (
            _attend(_standard(q) * q_weight + q_bias, _standard(k) * k_weight + k_bias, v),
            f"the weights meet the tokens, not the heads (here there are as many): {per_head}.",
        ),
        (
            _qk_normed(q, k, v, *(x[:1].expand_as(x) for x in parameters)),
            f"all heads use the weight and bias of head 0: {per_head}.",
        ),
        (
            _qk_normed(q, k, v, *(x.mean(0).expand_as(x) for x in parameters)),
            f"weight and bias are averaged over the heads: {per_head}.",
        ),
        (
            _qk_normed(q, k, v, ones, 0 * ones, ones, 0 * ones),
            "weight and bias are not used: apply them after the norm.",
        ),
        (_qk_normed(q, k, v, ones, q_bias, ones, k_bias), "the weights are not used: multiply by them after the norm."),
        (_qk_normed(q, k, v, q_weight, 0 * ones, k_weight, 0 * ones), "q_bias is not used: add it after the weight."),
        (
            _qk_normed(q, k, v, k_weight, k_bias, q_weight, q_bias),
            "the parameters are swapped: q_weight and q_bias are for the queries.",
        ),
        (
            _qk_normed(q, k, v, q_weight, q_bias, q_weight, q_bias),
            "the keys get the queries' weight: use k_weight and k_bias for them.",
        ),
        (
            _attend(
                _standard(q * q_weight[:, None] + q_bias[:, None]),
                _standard(k * k_weight[:, None] + k_bias[:, None]),
                v,
            ),
            "weight and bias come before the norm, which undoes much of them: normalize first.",
        ),
        (
            _attend(
                (_standard(q) + q_bias[:, None]) * q_weight[:, None],
                (_standard(k) + k_bias[:, None]) * k_weight[:, None],
                v,
            ),
            "the bias is added before the weight multiplies: norm, times weight, plus bias.",
        ),
        (_qk_normed(*given).transpose(1, 2), "heads and tokens are exchanged in the output: (N, heads, T, d)."),
        (
            scores.masked_fill(~past, -torch.inf).softmax(-1),
            "these are the attention weights: multiply them by the values.",
        ),
    ]


def _wrong_epsilons(**inputs):
    def outside(x):
        return (x - x.mean(-1, keepdim=True)) / (x.std(-1, correction=0, keepdim=True) + 1e-5)

    other = "for q and k around 0.001 the output shows another epsilon: it is 1e-5, F.layer_norm's default."
    return [
        (_qk_normed(**inputs, norm=outside), "is your epsilon inside the sqrt? Divide by sqrt(variance + 1e-5)."),
        (
            _qk_normed(**inputs, norm=lambda x: _standard(x, eps=1e-10)),
            "is your epsilon squared? Add 1e-5 to the variance, not to the standard deviation before you square it.",
        ),
        (
            _qk_normed(**inputs, norm=lambda x: _standard(x, eps=0)),
            "epsilon is missing: divide by sqrt(variance + 1e-5), so that equal numbers do not give 0 / 0.",
        ),
        *((_qk_normed(**inputs, norm=lambda x, eps=eps: _standard(x, eps=eps)), other) for eps in (1e-6, 1e-8, 1e-3)),
    ]


# The stream ----------------------------------------------------------------------------------------------------------


@exercise("order, marks, offset, places, pictures of several sizes, side by side, none")
def interleave(answer):
    """interleave(parts, first_code, image, end_image) -> (tokens, places), both (T,) long.

    parts: a list of lists of word ids and of LongTensors (h, w), the codes of pictures. tokens: the words as they are;
    for a picture the mark `image`, its codes row by row, each + first_code, and the mark `end_image`. places: 0, 1,
    2, ... for the codes of each picture, -1 for all other tokens.
    """
    small, wide = torch.tensor([[3, 0, 5], [7, 1, 2]]), torch.tensor([[4, 6, 0, 8, 2]])
    tall = torch.tensor([[1, 9], [0, 3], [5, 4], [2, 7]])
    for case, parts in (
        ("", [[6, 2, 9], small, [0, 13], tall, [5]]),
        (" for pictures side by side", [tall, wide, [], torch.tensor([[8]]), [3, 3]]),
        (" without a picture", [[4, 1], [12]]),
    ):
        numbers = {"first_code": 20, "image": 11, "end_image": 15}
        results = answer(parts=parts, **numbers)
        pair = isinstance(results, (tuple, list)) and len(results) == 2
        answer.expect(pair, f"return two tensors, (tokens, places); got a {type(results).__name__}.")
        expected = _joined(parts, **numbers)
        wrong = (
            ((), ())
            if case
            else (_wrong_tokens(parts, **numbers), _wrong_places(parts, expected[0], numbers["first_code"]))
        )
        for name, got, right, known in zip(("tokens", "places"), results, expected, wrong, strict=True):
            answer.expect_tensor(name + case, got, right, known, axes="(T,)")


def _flat(parts):
    return torch.tensor([int(x) for part in parts for x in part], dtype=torch.long)


def _joined(parts, first_code, image, end_image, words=lambda part: part, codes=None, open_with=None, close_with=None):
    """tokens and places; the options replace one of the steps."""
    codes = codes or (lambda picture: (picture + first_code).flatten().tolist())
    start = [image] if open_with is None else open_with
    end = [end_image] if close_with is None else close_with
    tokens, places = [], []
    for part in parts:
        if isinstance(part, torch.Tensor):
            tokens.append([*start, *codes(part), *end])
            places.append([*[-1] * len(start), *range(part.numel()), *[-1] * len(end)])
        else:
            tokens.append(words(part))
            places.append([-1] * len(part))
    return _flat(tokens), _flat(places)


def _wrong_tokens(parts, first_code, image, end_image):
    def tokens(parts=parts, **options):
        return _joined(parts, first_code, image, end_image, **options)[0]

    pictures = [part for part in parts if isinstance(part, torch.Tensor)]
    words = [part for part in parts if isinstance(part, list)]
    ordered = "the parts are sorted by kind: keep them in the order of the list."
    shifted = "the ids of codes are off by one: code 0 becomes first_code itself."
    return [
        (
            tokens(codes=lambda picture: (picture.T + first_code).flatten().tolist()),
            "the codes are read column by column: go row by row, as flatten() does.",
        ),
        (
            tokens(codes=lambda picture: picture.flatten().tolist()),
            "the codes have no offset, so that they read as words: add first_code to each.",
        ),
        (
            tokens(words=lambda part: [word + first_code for word in part]),
            "first_code is added to the words as well: it belongs to the codes only.",
        ),
        (
            tokens(open_with=[image + first_code], close_with=[end_image + first_code]),
            "first_code is added to the marks: `image` and `end_image` are ids already.",
        ),
        (
            tokens(codes=lambda picture: picture.flatten().tolist()) + first_code,
            "first_code is added to all tokens: it belongs to the codes only.",
        ),
        (tokens(codes=lambda picture: (picture + first_code + 1).flatten().tolist()), shifted),
        (tokens(codes=lambda picture: (picture + first_code - 1).flatten().tolist()), shifted),
        (tokens(close_with=[]), "the mark at the end of a picture is missing: append `end_image` after its codes."),
        (tokens(open_with=[]), "the mark before a picture is missing: begin with `image`."),
        (
            tokens(open_with=[], close_with=[]),
            "pictures have no marks: put `image` before and `end_image` after the codes.",
        ),
        (
            tokens(open_with=[end_image], close_with=[image]),
            "the marks are swapped: `image` comes before the codes, `end_image` after them.",
        ),
        (tokens(close_with=[image]), "pictures end with `image`: their last token is `end_image`."),
        (
            tokens(codes=lambda picture: _flat([[*row, end_image] for row in picture + first_code]).tolist()[:-1]),
            "every row of a picture has a mark at its end: one `end_image` closes the whole picture.",
        ),
        (
            tokens(codes=lambda picture: (picture + first_code).flip(0).flatten().tolist()),
            "the rows of a picture come from bottom to top: start with row 0.",
        ),
        (tokens([*pictures, *words]), ordered),
        (tokens([*words, *pictures]), ordered),
        (tokens(words), "the pictures are missing: append the mark, the codes and the other mark for a tensor."),
        (tokens(pictures), "the words are missing: a part that is a list goes into the tokens as it is."),
    ]


def _wrong_places(parts, tokens, first_code):
    pictures = [part for part in parts if isinstance(part, torch.Tensor)]
    is_code, size, each = tokens >= first_code, tokens.numel(), [torch.arange(picture.numel()) for picture in pictures]

    def places(numbers, other=-1):
        """Numbers for the codes of all pictures, one tensor for each of these."""
        result = torch.full((size,), other)
        result[is_code] = torch.cat(numbers)
        return result

    marks = places([numbers + 1 for numbers in each])
    marks[:-1][is_code[1:] & ~is_code[:-1]] = 0  # the marks before the codes
    with_end = marks.clone()
    with_end[1:][is_code[:-1] & ~is_code[1:]] = torch.tensor([picture.numel() + 1 for picture in pictures])
    counted = "the marks are counted: the first code of a picture, after `image`, has place 0, and marks have -1."
    column = "the places run column by column: number the codes in the order in which they stand in the tokens."
    return [
        (
            places([torch.arange(is_code.sum())]),
            "the places go on from one picture to the next: each starts at 0 again.",
        ),
        (marks, counted),
        (with_end, counted),
        (places([numbers + 1 for numbers in each]), "the places start at 1: the first code of a picture has place 0."),
        (places(each, other=0), "words and marks have place 0, like the first code: give them -1."),
        (
            torch.arange(size),
            "these are positions in the stream: only codes have places, counted from 0 in each picture.",
        ),
        (
            torch.arange(size).masked_fill(~is_code, -1),
            "the places are positions in the stream: count from 0 in each picture.",
        ),
        (
            places([numbers % picture.size(1) for numbers, picture in zip(each, pictures, strict=True)]),
            "the places start again in every row, so they are columns: go on until the end of the picture.",
        ),
        (
            places([numbers // picture.size(1) for numbers, picture in zip(each, pictures, strict=True)]),
            "these are rows: number the codes one by one.",
        ),
        (places([numbers.view_as(x.T).T.flatten() for numbers, x in zip(each, pictures, strict=True)]), column),
        (
            places([numbers * 0 + i for i, numbers in enumerate(each)]),
            "these are the numbers of the pictures: number the codes within each picture.",
        ),
        (
            places(each).masked_fill(tokens == first_code, -1),
            "code 0, the token first_code, has no place: is there a > where >= should be?",
        ),
        (places([picture.flatten() for picture in pictures]), "these are the codes themselves: say where they stand."),
    ]


# Causality -----------------------------------------------------------------------------------------------------------


@exercise("causal, off by one, a block, one token, a small leak, a full view")
def leaks(answer):
    """leaks(model, tokens) -> list of ints, rising: all t where a change of token t alone changes an EARLIER output.

    model: a function from tokens (T,) long to outputs (T, vocabulary); tokens (T,) long. All ids below the vocabulary,
    model(tokens).shape[-1], are valid. An empty list means that the model is causal.
    """
    tokens = torch.tensor([2, 1, 4, 0, 3, 3, 0])
    T = len(tokens)
    everything, none = list(range(T)), []
    later, off_by_one = list(range(T - 1)), {(t, t + 1): 1.0 for t in range(T - 1)}
    itself = "the output at t itself counts, but it may change: compare the outputs before t, [:t]."
    cumulative = "tokens that were changed stay changed: start from a fresh clone of tokens for every t."
    replaced = (
        "a token that is 0 already does not change if 0 is written: use another id, (tokens[t] + 1) % vocabulary."
    )
    alone = "all tokens from t on are changed at once: change token t alone, so that it is known which one leaks."
    small = "a leak of 0.001 is missed: compare all numbers of the outputs, with torch.equal or a small tolerance."
    before = "only the output right before t is compared: a token may leak to any earlier one, [:t]."
    receivers = "these are the positions whose output changes: return those of the tokens that were changed."
    likeliest = "only the likeliest tokens are compared: a leak shows in the numbers first, so compare all of these."
    last = "only the last token is changed: try every t."
    for what, extra, expected, wrong, dtype in (
        (
            "the result for a causal model",
            {},
            none,
            [
                (everything, itself),
                (later, "the outputs after t are compared, which should change: compare those before t, [:t]."),
                (everything[1:], cumulative),
            ],
            torch.float32,
        ),
        (
            "the result for a model in which output t sees token t + 1",
            off_by_one,
            everything[1:],
            [
                ([T - 1], last),
                (later, receivers),
                ([1], "the search stops at the first leak: go on, and collect all of them."),
                (everything[:0:-1], "the positions fall: list them from the first to the last."),
                ([0], "the list holds those that do not leak: it should hold those that do."),
                (none, "no leak is found: change token t to another id, and compare the outputs before t."),
                ([t for t in everything[1:] if tokens[t]], replaced),
                (_by_argmax(_toy(T, off_by_one, torch.float64), tokens), likeliest),
                (everything[1:-1], "the last token is left out: it can leak as well."),
            ],
            torch.float64,
        ),
        (
            "the result for a model in which tokens 2 to 4 see each other",
            {(s, t): 1.0 for s in (2, 3, 4) for t in (2, 3, 4) if s < t},
            [3, 4],
            [([2, 3], receivers), ([2, 3, 4], "token 2 is listed, but nothing before it sees it: compare [:t].")],
            torch.float32,
        ),
        (
            "the result for a model in which output 1 sees token 5",
            {(1, 5): 1.0},
            [5],
            [([1], receivers), (none, before), ([2, 3, 4, 5], alone)],
            torch.float32,
        ),
        (
            "the result for a model that leaks by 0.001",
            {(3, 4): 0.001},
            [4],
            [(none, small), ([3], receivers)],
            torch.float32,
        ),
        (
            "the result for a model without a mask",
            {(s, t): 1.0 for s in range(T) for t in range(s + 1, T)},
            everything[1:],
            [],
            torch.float64,
        ),
    ):
        found = answer(model=_toy(T, extra, dtype), tokens=tokens)
        if isinstance(found, list):
            odd = next((x for x in found if type(x) is not int), None)
            kind = f"{what} holds {odd!r}, of type {type(odd).__name__}: give the positions as ints."
            answer.expect(odd is None, kind)
        answer.expect_value(what, found, expected, wrong)


def _toy(T, extra, dtype):
    """A model whose output s is a sum over tokens 0 to s, and those that `extra`, (s, t): strength, adds."""
    mixture = (randn(T, T, seed=1, dtype=dtype).abs() + 0.5).tril()
    for (s, t), strength in extra.items():
        mixture[s, t] = strength
    table = 2 * randn(5, 5, seed=10, dtype=dtype)

    def model(tokens):
        T = tokens.size(-1)
        return mixture[:T, :T] @ table[tokens]

    return model


def _by_argmax(model, tokens):
    """The tokens that change which id is the likeliest before them."""
    changed = [torch.where(torch.arange(len(tokens)) == t, (tokens + 1) % 5, tokens) for t in range(len(tokens))]
    likeliest = model(tokens).argmax(-1)
    return [t for t, row in enumerate(changed) if (model(row).argmax(-1) != likeliest)[:t].any()]


# Sampling ------------------------------------------------------------------------------------------------------------


@exercise("guidance, top-k, temperature, rows that add up to 1, plain cases, large logits, both float types")
def guided(answer):
    """guided(conditional, unconditional, guidance, temperature, top_k) -> probabilities (N, K).

    From logits c, u (N, K): u + guidance * (c - u) (Ho & Salimans 2022), of which the top_k largest of each row stay;
    divided by the temperature, then softmax. There are no ties.
    """
    float32, float64 = DTYPES
    for what, (N, K), guidance, temperature, top_k, dtype in (
        ("the result", (4, 7), 3.0, 0.7, 3, float32),
        ("the result for guidance 1.5", (2, 9), 1.5, 1.4, 5, float64),
        ("the result for guidance 1", (3, 5), 1.0, 0.5, 5, float32),
        ("the result for guidance 0", (3, 6), 0.0, 2.0, 4, float64),
        ("the result for top_k = 1", (2, 6), 2.0, 1.0, 1, float32),
    ):
        c, u = (1.2 * randn(N, K, seed=i, dtype=dtype) for i in (1, 2))
        sizes = {"guidance": guidance, "temperature": temperature, "top_k": top_k}
        wrong = _wrong_chances(c, u, **sizes) if what == "the result" else ()
        got = answer(conditional=c, unconditional=u, **sizes)
        answer.expect_tensor(what, got, _chances(c, u, **sizes), wrong, axes="(N, K)")
    c, u = (randn(3, 5, seed=i) for i in (3, 4))
    c[:, 2] += 120
    got = answer(conditional=c, unconditional=u, guidance=2.0, temperature=0.5, top_k=4)
    overflow = "exp(480) overflows: use softmax, which subtracts each row's maximum first."
    answer.expect_tensor("the result for logits up to 240", got, _chances(c, u, 2.0, 0.5, 4), hint=overflow)


def _keep(logits, top_k, dim=-1):
    """True for the top_k largest along this axis."""
    return torch.zeros_like(logits).scatter(dim, logits.topk(top_k, dim).indices, 1).bool()


def _chances(c, u, guidance, temperature, top_k, mix=None, keep=None, fill=-torch.inf, dim=-1):
    logits = u + guidance * (c - u) if mix is None else mix
    keep = _keep(logits, top_k) if keep is None else keep
    return (logits.masked_fill(~keep, fill) / temperature).softmax(dim)


def _wrong_chances(c, u, guidance, temperature, top_k):
    sizes = {"guidance": guidance, "temperature": temperature, "top_k": top_k}
    g, T = guidance, temperature
    logits = u + g * (c - u)
    keep, pc, pu = _keep(logits, top_k), (c / T).softmax(-1), (u / T).softmax(-1)
    plain, mixed = (logits / T).softmax(-1), pu + g * (pc - pu)
    flat = logits.flatten().topk(top_k).values[-1]
    per_row = "top_k is counted over the whole batch: each row keeps its own top_k, topk(top_k, dim=-1)."
    probabilities = "probabilities are mixed: mix the logits, u + guidance * (c - u), and take one softmax at the end."
    first = "top_k is taken before the guidance: the largest of the guided logits stay."
    number = "keeps one logit {}: exactly top_k of each row stay; is your comparison >= with the smallest of these?"
    formula = "it should be u + guidance * (c - u)"
    hot = "the temperature {}: divide the logits by it before the softmax."

    def chances(mix=None, **options):
        return _chances(c, u, **{**sizes, **options}, mix=mix)

    def kept(p):
        return p * _keep(p, top_k) / (p * _keep(p, top_k)).sum(-1, keepdim=True)

    return [
        (chances(c + g * (c - u)), f"the guidance starts at 0, as in the paper's c + w * (c - u): here {formula}."),
        (chances(c + g * (u - c)), f"c and u are swapped: {formula}, so that 1 gives c."),
        (chances(c), f"the guidance is not used: {formula}."),
        (chances(u), f"only the unconditional logits are used: {formula}."),
        (chances(g * (c - u)), f"u is missing: {formula}."),
        (chances(u + g * c), f"u is not subtracted from c: {formula}."),
        (chances(g * c), f"the conditional logits are multiplied, but u is missing: {formula}."),
        (chances(u + g * (c / T - u)), hot.format("divides c only")),
        (kept(mixed), probabilities),
        (mixed, probabilities),
        (kept(mixed.clamp(min=0)), probabilities),
        (chances(keep=_keep(c, top_k)), first),
        (chances(keep=_keep(u, top_k)), first),
        (chances(keep=_keep(c, top_k) & _keep(u, top_k)), first),
        (chances(keep=logits >= flat), per_row),
        (chances(keep=_keep(logits, top_k, dim=0)), per_row),
        (chances(keep=torch.ones_like(keep)), "top_k is not used: only the top_k largest logits of each row stay."),
        (chances(keep=_keep(-logits, top_k)), "the smallest logits stay: keep the largest."),
        (chances(keep=~keep), "the largest logits are removed: they should stay, and all others go."),
        (chances(top_k=top_k + 1), number.format("more")),
        (chances(top_k=top_k - 1), number.format("fewer")),
        (chances(fill=0.0), "logits outside of the top_k become 0, which has a probability: fill with -inf."),
        (plain * keep, "the rows do not add up to 1: fill the logits with -inf before the softmax, or divide again."),
        (chances(temperature=1 / T), hot.format("multiplies the logits")),
        (chances(temperature=1), hot.format("is not used")),
        (chances(temperature=T**2), hot.format("is used twice")),
        (_chances(c, u, g, 1, top_k) / T, hot.format("divides the probabilities")),
        (chances(dim=0), "the softmax runs over the batch (dim=0): each row adds up to 1, dim=-1."),
        (
            _chances(c, u, **sizes).log(),
            "these are logarithms of probabilities: softmax instead of log_softmax.",
        ),
        (logits.masked_fill(~keep, -torch.inf) / T, "these are logits: take the softmax of each row."),
        (_chances(c, u, **sizes).T, "this is transposed: (N, K)."),
        (
            _chances(c, u, **sizes).gather(-1, logits.topk(top_k).indices),
            "only the kept probabilities are returned, (N, top_k): all others are 0, and the columns stay in place.",
        ),
    ]


# Sound ---------------------------------------------------------------------------------------------------------------


@exercise("rise, fall, zero outside, area 1, order of axes, both float types")
def mel_triangles(answer):
    """mel_triangles(corners, frequencies) -> (bands, bins), triangles of the area 1: Slaney's form, which Whisper uses.

    corners (bands + 2,) in Hz, rising; frequencies (bins,) in Hz. Filter i rises from corners[i] to corners[i + 1],
    falls to corners[i + 2] and is 0 elsewhere; its peak is 2 / (corners[i + 2] - corners[i]).
    """
    float32, float64 = DTYPES
    for what, corners, top, bins, dtype in (
        ("the result", [80, 160, 330, 600, 910, 1500, 2400], 2560, 33, float32),
        ("the result for 3 bands and 12 bins", [0, 0.9, 1.5, 4, 7], 6.6, 12, float64),
        ("the result for 1 band", [1, 3, 3.5], 4, 17, float32),
    ):
        corners, frequencies = torch.tensor(corners, dtype=dtype), torch.linspace(0, top, bins, dtype=dtype)
        got = answer(corners=corners, frequencies=frequencies)
        wrong = _wrong_triangles(corners, frequencies) if what == "the result" else ()
        answer.expect_tensor(what, got, _triangles(corners, frequencies), wrong, axes="(bands, bins)")


def _lines(corners, frequencies):
    """Both lines of every triangle, and the corners of each (bands, 1)."""
    left, middle, right = (corners[i : len(corners) - 2 + i, None] for i in range(3))
    return (frequencies - left) / (middle - left), (right - frequencies) / (right - middle), left, middle, right


def _triangles(corners, frequencies):
    rise, fall, left, _, right = _lines(corners, frequencies)
    return rise.minimum(fall).clamp(min=0) * 2 / (right - left)


def _wrong_triangles(corners, frequencies):
    rise, fall, left, middle, right = _lines(corners, frequencies)
    peak, step = rise.minimum(fall).clamp(min=0), frequencies[1] - frequencies[0]
    height, right_answer = 2 / (right - left), _triangles(corners, frequencies)
    area = "the area over Hz is 1 for the triangle itself: multiply by 2 / (corners[i + 2] - corners[i])"
    half = "only one side of the triangle is there: it rises to corners[i + 1] and falls to corners[i + 2]."
    slope = "a line is divided by the wrong distance: rising by middle - left, falling by right - middle."
    shift = "the corners belong to the neighboring band: filter i has corners[i], corners[i + 1] and corners[i + 2]."
    inside = (frequencies >= left) & (frequencies <= right)
    moved = torch.zeros_like(right_answer)
    moved[:-1] = right_answer[1:]
    moved_up = right_answer.roll(1, 0)
    moved_up[0] = 0
    return [
        (peak, f"the peaks are 1, so that wide filters let more through: {area}."),
        (rise.minimum(fall) * height, "outside of the triangle the values are negative: clamp them at 0."),
        (
            rise.minimum(fall),
            "outside of the triangle the values are negative, and the area is not 1: clamp, then scale.",
        ),
        (peak / peak.sum(1, keepdim=True), f"each row adds up to 1 over the bins: {area}."),
        (peak / (peak.sum(1, keepdim=True) * step), f"the area is that of the bins, not of the triangle: {area}."),
        (peak / peak.sum(0).clamp(min=1e-9), f"each column adds up to 1: {area}."),
        (peak / peak.amax(1, keepdim=True), f"each row is divided by its largest value: {area}."),
        (
            rise.maximum(fall).clamp(min=0) * height,
            "the larger of the two lines is taken: a triangle is the smaller one, torch.minimum.",
        ),
        ((rise * fall).clamp(min=0) * height, "the two lines are multiplied: take the smaller one, torch.minimum."),
        ((rise + fall).clamp(min=0) * height, "the two lines are added: take the smaller one, torch.minimum."),
        (peak / (right - left), f"the area is 1/2: half the width times the height is 1. So {area}."),
        (peak * (right - left) / 2, f"this is multiplied by half the width: {area}."),
        (peak * 2 / (middle - left), f"the height is taken from the rising side only: {area}."),
        (peak * 2 / (right - middle), f"the height is taken from the falling side only: {area}."),
        (peak * 2 / (corners[-1] - corners[0]), f"all filters have the same height: {area}."),
        (inside / (right - left), "these are rectangles: rise to the middle corner, and fall again."),
        (torch.where(frequencies <= middle, rise.clamp(min=0), 0) * height, half),
        (torch.where(frequencies > middle, fall.clamp(min=0), 0) * height, half),
        (
            (1 - 2 * (frequencies - (left + right) / 2).abs() / (right - left)).clamp(min=0) * height,
            "the peak is halfway between the outer corners: it is at corners[i + 1].",
        ),
        (((frequencies - left) / (right - left)).minimum(fall).clamp(min=0) * height, slope),
        (rise.minimum((right - frequencies) / (right - left)).clamp(min=0) * height, slope),
        (((frequencies - left) / (right - middle)).minimum(fall).clamp(min=0) * height, slope),
        (rise.minimum((right - frequencies) / (middle - left)).clamp(min=0) * height, slope),
        (moved, shift),
        (moved_up, shift),
        (right_answer.T, "this is transposed: one row for each band, (bands, bins)."),
        (right_answer.flip(0), "the bands come from high to low: row 0 has the lowest corners."),
        (right_answer.sum(0), "the filters are added up: one row for each band, (bands, bins)."),
    ]


# The loss ------------------------------------------------------------------------------------------------------------


@exercise("shift, kinds, pads, weight, z-loss, one kind only, large logits, gradient, both float types")
def stream_loss(answer):
    """stream_loss(logits, tokens, first_code, pad, image_weight, z_weight) -> scalar, in nats.

    logits (N, T, V) predict the tokens (N, T) that come next. The mean surprise over targets that are words (below
    first_code, not pad), plus image_weight times that over image codes (from first_code on), plus z_weight times the
    mean over both of logsumexp(logits) squared. The mean over no target is 0.
    """
    float32, float64 = DTYPES
    numbers = {"first_code": 8, "pad": 0, "image_weight": 0.3, "z_weight": 0.02}
    mixed = torch.tensor([[1, 5, 8, 12, 9, 3, 2, 0, 0], [4, 10, 11, 8, 7, 6, 1, 2, 0], [7, 3, 9, 8, 8, 10, 4, 12, 5]])
    left = torch.tensor([[0, 0, 6, 9, 8, 11, 2], [0, 3, 12, 10, 1, 1, 8]])
    for what, tokens, dtype in (
        ("the loss", mixed, float32),
        ("the loss with padding on the left", left, float64),
        ("the loss without image codes", torch.tensor([[1, 5, 2, 7, 0], [3, 6, 4, 0, 0]]), float32),
        ("the loss without words", torch.tensor([[9, 8, 12, 10], [11, 8, 9, 9]]), float64),
    ):
        logits = 1.5 * randn(*tokens.shape, 13, seed=1, dtype=dtype) + 1
        wrong = _wrong_losses(logits, tokens, **numbers) if what == "the loss" else ()
        hint = "The mean over no target counts as 0: divide by at least 1." if "without" in what else ""
        got = answer(logits=logits, tokens=tokens, **numbers)
        answer.expect_tensor(what, got, _loss(logits, tokens, **numbers), wrong, axes="one number", hint=hint)

    large = 100 * randn(*mixed.shape, 13, seed=2)
    got = answer(logits=large, tokens=mixed, **numbers)
    overflow = "exp(300) overflows: use logsumexp, log_softmax or cross_entropy."
    answer.expect_tensor("the loss for logits up to 300", got, _loss(large, mixed, **numbers), hint=overflow)

    logits = (1.5 * randn(*mixed.shape, 13, seed=1, dtype=float64) + 1).requires_grad_()
    got, expected = answer(logits=logits, tokens=mixed, **numbers), _loss(logits, mixed, **numbers)
    answer.expect_gradients("the loss", got, logits=logits)
    gradient, right = (torch.autograd.grad(loss, logits)[0] for loss in (got, expected))
    without = torch.autograd.grad(_loss(logits, mixed, **{**numbers, "z_weight": 0}), logits)[0]
    detached = "no gradient comes through the z-loss: leave its logsumexp attached, without detach or no_grad."
    answer.expect_tensor("the gradient of logits", gradient, right, [(without, detached)])


def _mean(values, where):
    return (values * where).sum() / where.sum().clamp(min=1)


def _next(logits, tokens, first_code, pad):
    """Surprise at each target, logsumexp of its logits, and where targets are words and codes: (N, T - 1) each."""
    logits, target = logits[:, :-1], tokens[:, 1:]
    z = logits.logsumexp(-1)
    surprise = z - logits.gather(-1, target[..., None])[..., 0]
    return surprise, z, (target < first_code) & (target != pad), target >= first_code


def _loss(logits, tokens, first_code, pad, image_weight, z_weight):
    surprise, z, word, code = _next(logits, tokens, first_code, pad)
    return _mean(surprise, word) + image_weight * _mean(surprise, code) + z_weight * _mean(z.square(), word | code)


def _wrong_losses(logits, tokens, first_code, pad, image_weight, z_weight):
    kinds, weights = {"first_code": first_code, "pad": pad}, {"image_weight": image_weight, "z_weight": z_weight}
    surprise, z, word, code = _next(logits, tokens, **kinds)
    target, source, both = tokens[:, 1:], tokens[:, :-1], word | code
    all_logits, everywhere = logits.logsumexp(-1), torch.ones_like(word)
    words, codes, squares = _mean(surprise, word), _mean(surprise, code), _mean(z.square(), both)
    weight = word + image_weight * code

    def loss(logits, tokens):
        return _loss(logits, tokens, **kinds, **weights)

    def unshifted(logits, tokens):
        """The loss of logits at t against the token at t."""
        empty = tokens[:, :1].new_full((len(tokens), 1), pad)
        return loss(torch.cat([logits, logits[:, :1]], 1), torch.cat([empty, tokens], 1))

    def total(words=words, codes=codes, squares=squares, image_weight=image_weight):
        return words + image_weight * codes + z_weight * squares

    def by_kind(word, code):
        return total(_mean(surprise, word), _mean(surprise, code), _mean(z.square(), word | code))

    def rows(values, where):
        return ((values * where).sum(1) / where.sum(1).clamp(min=1)).mean()

    shift = "logits[:, :-1] predict tokens[:, 1:]"
    apart = "words and codes have a mean each, added with weights 1 and image_weight"
    padding = "pad is no target: leave it out"
    kind = "the target decides whether a place counts as a word or as a code, not the token that is read there."
    z_pads = "pads count in the z-loss: its mean is over words and codes only."
    lse = "the z-loss is the mean of logsumexp(logits) squared"
    means = "sums are taken: divide each by the number of its targets."
    return [
        (unshifted(logits, tokens), f"the logits are compared with the token that they have read: {shift}."),
        (unshifted(logits[:, 1:], tokens[:, :-1]), f"the shift goes the wrong way: {shift}."),
        (unshifted(logits[:, :-2], tokens[:, 2:]), f"there are two shifts, to the token after the next: {shift}."),
        (unshifted(logits, tokens.roll(-1, 1)), f"the last place predicts the first token: {shift}, one place less."),
        (
            total((surprise * weight).sum() / both.sum(), 0),
            f"one mean is taken over all targets: {apart}.",
        ),
        (total((surprise * weight).sum() / weight.sum(), 0), f"this is a weighted mean over all targets: {apart}."),
        (total(_mean(surprise, both), 0), f"words and codes count alike, in one mean: {apart}."),
        (total(codes, words), "image_weight multiplies the words: it belongs to the image codes."),
        (total(image_weight * words), "image_weight multiplies words and codes: it belongs to the codes only."),
        (total((1 - image_weight) * words), "the words are multiplied by 1 - image_weight: their weight is 1."),
        (total(image_weight=1), "image_weight is not used: multiply the mean over image codes by it."),
        (total(codes=0), "the image codes are left out: add image_weight times their mean."),
        (total(words=0), "the words are left out: add their mean."),
        (by_kind(target < first_code, code), f"pads count as words: {padding}."),
        (total(_mean(surprise, target < first_code)), f"pads count as words in the mean: {padding}."),
        (
            total((surprise * word).sum() / everywhere.sum(), (surprise * code).sum() / everywhere.sum()),
            "the sums are divided by the number of all places: divide by that of words, and of codes.",
        ),
        (by_kind((source < first_code) & (source != pad), source >= first_code), kind),
        (by_kind((source < first_code) & word | (source < first_code) & code, (source >= first_code) & both), kind),
        (by_kind(word | (target == first_code), target > first_code), "first_code itself is a code: >=, not >."),
        (total(squares=_mean(z.square(), everywhere)), z_pads),
        (total(squares=_mean(all_logits.square(), torch.ones_like(all_logits))), z_pads),
        (
            total(squares=_mean(z.square(), word)),
            "the z-loss is taken over words only: its mean is over words and codes.",
        ),
        (
            total(squares=_mean(z.square(), code)),
            "the z-loss is taken over codes only: its mean is over words and codes.",
        ),
        (
            total(squares=_mean(z.square(), word) + _mean(z.square(), code)),
            "the z-loss has a mean for words and one for codes: take one mean over both.",
        ),
        (total(squares=_mean(logits[:, :-1].square().mean(-1), both)), f"the logits are squared: {lse}."),
        (total(squares=_mean(logits[:, :-1].square().sum(-1), both)), f"the logits are squared: {lse}."),
        (total(squares=_mean(z, both)), f"logsumexp is not squared: {lse}."),
        (total(squares=_mean(z, both).square()), f"the mean is squared: square first, since {lse}."),
        (total(squares=_mean(surprise.square(), both)), f"the surprise is squared: {lse}."),
        (total(squares=0), f"the z-loss is missing, or taken of log_softmax, whose logsumexp is 0: {lse}."),
        (total(squares=squares / z_weight), f"z_weight is not used: {lse}, times z_weight."),
        (total(squares=-squares), "the z-loss is subtracted: add it."),
        (
            -words - image_weight * codes + z_weight * squares,
            "the sign is wrong: surprise is minus the log probability.",
        ),
        (total((surprise * word).sum(), (surprise * code).sum(), (z.square() * both).sum()), means),
        (total((surprise * word).sum(), (surprise * code).sum()), means),
        (
            total(rows(surprise, word), rows(surprise, code), rows(z.square(), both)),
            "each row has a mean of its own: take one over the targets of all rows.",
        ),
        (total(rows(surprise, word), rows(surprise, code)), "each row has a mean of its own: take one over all rows."),
    ]
