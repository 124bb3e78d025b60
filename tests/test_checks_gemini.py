"""Mutation tests of lesson 07's exercises, a Gemini-style model; test_checks.py explains WRONG and RIGHT."""

import math

import test_checks as shared
import torch
import torch.nn.functional as F

from mmlesson.check import gemini

WRONG, RIGHT = {}, {}


# Attention -----------------------------------------------------------------------------------------------------------


def layer_norm(x):
    return F.layer_norm(x, x.shape[-1:])


def over(*dims, eps=1e-5, correction=0):
    def norm(x):
        return (x - x.mean(dims, keepdim=True)) / torch.sqrt(x.var(dims, correction=correction, keepdim=True) + eps)

    return norm


def affine(x, weight, bias):
    return x * weight[:, None, :] + bias[:, None, :]


def block_later(scores):
    T = scores.size(-1)
    return scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)


def attend(
    norm=layer_norm,
    change=lambda norm, x, weight, bias: affine(norm(x), weight, bias),
    sides=lambda q, k, change, norm, wq, bq, wk, bk: (change(norm, q, wq, bq), change(norm, k, wk, bk)),
    values=lambda v, k_weight, k_bias: v,
    scale=lambda heads, d: d**-0.5,
    block=block_later,
    normalize=lambda scores: scores.softmax(-1),
    after=lambda weights, v: weights @ v,
):
    """QK-norm attention put together from steps that a mutant can replace."""

    def answer(q, k, v, q_weight, q_bias, k_weight, k_bias):
        v = values(v, k_weight, k_bias)
        (_, heads, _, d) = q.shape
        q, k = sides(q, k, change, norm, q_weight, q_bias, k_weight, k_bias)
        return after(normalize(block(q @ k.mT * scale(heads, d))), v)

    return answer


def blocked(keep):
    def block(scores):
        T = scores.size(-1)
        return scores.masked_fill(~keep(torch.ones(T, T, dtype=torch.bool)), -torch.inf)

    return block


def mask_after(scores):
    return scores.softmax(-1) * torch.ones_like(scores).tril()


def norm_by_hand(x, eps=1e-5):
    centered = x - x.sum(-1, keepdim=True) / x.size(-1)
    return centered / (centered.square().mean(-1, keepdim=True) + eps) ** 0.5


def norm_with_eps_outside(x):
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, unbiased=False, keepdim=True) + 1e-5)


def norm_with_eps_squared(x):
    std = x.var(-1, correction=0, keepdim=True)
    return (x - x.mean(-1, keepdim=True)) / (std + 1e-5**2).sqrt()


def detached_norm(x):
    mean, var = x.detach().mean(-1, keepdim=True), x.detach().var(-1, correction=0, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt()


def attention_in_place(q, k, v, *parameters):
    q -= q.mean(-1, keepdim=True)
    return attend()(q, k, v, *parameters)


def attention_without_gradient(*inputs):
    with torch.no_grad():
        return attend()(*inputs)


def attention_by_loops(q, k, v, q_weight, q_bias, k_weight, k_bias):
    N, heads, T, d = q.shape
    rows = []
    for n in range(N):
        for h in range(heads):
            qs = [F.layer_norm(q[n, h, t], (d,), q_weight[h], q_bias[h]) for t in range(T)]
            ks = [F.layer_norm(k[n, h, t], (d,), k_weight[h], k_bias[h]) for t in range(T)]
            for t in range(T):
                scores = torch.stack([qs[t] @ ks[s] for s in range(t + 1)]) / math.sqrt(d)
                rows.append(scores.softmax(0) @ v[n, h, : t + 1])
    return torch.stack(rows).reshape(N, heads, T, v.size(-1))


def attention_by_sdpa(q, k, v, q_weight, q_bias, k_weight, k_bias):
    q, k = affine(layer_norm(q), q_weight, q_bias), affine(layer_norm(k), k_weight, k_bias)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def attention_by_einsum(q, k, v, q_weight, q_bias, k_weight, k_bias):
    q = torch.einsum("nhtd,hd->nhtd", norm_by_hand(q), q_weight) + q_bias.unsqueeze(1)
    k = torch.einsum("nhtd,hd->nhtd", norm_by_hand(k), k_weight) + k_bias.unsqueeze(1)
    scores = torch.einsum("nhtd,nhsd->nhts", q, k) / q.shape[-1] ** 0.5
    mask = torch.full(scores.shape[-2:], -1e9, dtype=q.dtype).triu(1)
    return torch.einsum("nhts,nhsd->nhtd", F.softmax(scores + mask, dim=-1), v)


WRONG["qk_norm_attention"] = {
    "the norm is missing": attend(change=lambda norm, x, weight, bias: x),
    "the norm runs over heads and d together": attend(norm=over(1, 3)),
    "the norm runs over tokens and d together": attend(norm=over(2, 3)),
    "the norm runs over the tokens (dim=2)": attend(norm=over(2)),
    "the norm runs over the heads (dim=1)": attend(norm=over(1)),
    "this is RMSNorm": attend(norm=lambda x: F.rms_norm(x, x.shape[-1:], eps=1e-5)),
    "but nothing is divided": attend(norm=lambda x: x - x.mean(-1, keepdim=True)),
    "x is divided by the variance": attend(
        norm=lambda x: (x - x.mean(-1, keepdim=True)) / x.var(-1, correction=0, keepdim=True)
    ),
    "this makes unit vectors": attend(norm=lambda x: x / x.norm(dim=-1, keepdim=True)),
    "divided by d - 1 (unbiased": attend(norm=over(-1, correction=1)),
    "the values are normalized": attend(values=lambda v, weight, bias: layer_norm(v)),
    "or get a weight": attend(values=lambda v, weight, bias: affine(layer_norm(v), weight, bias)),
    "only the queries are normalized": attend(
        sides=lambda q, k, change, norm, wq, bq, wk, bk: (change(norm, q, wq, bq), k)
    ),
    "only the keys are normalized": attend(
        sides=lambda q, k, change, norm, wq, bq, wk, bk: (q, change(norm, k, wk, bk))
    ),
    "the scale is missing": attend(scale=lambda heads, d: 1),
    "the scores are divided by d:": attend(scale=lambda heads, d: 1 / d),
    "the scores are multiplied by sqrt(d)": attend(scale=lambda heads, d: math.sqrt(d)),
    "the scores are divided by sqrt(heads * d)": attend(scale=lambda heads, d: (heads * d) ** -0.5),
    "the attention is not causal": attend(block=lambda scores: scores),
    "the mask is upside down": attend(block=blocked(torch.triu)),
    "a token does not see itself": attend(block=blocked(lambda ones: ones.tril(-1))),
    "is the diagonal of your mask off by one?": attend(block=blocked(lambda ones: ones.tril(1))),
    "later tokens get the score 0": attend(block=torch.tril),
    "the mask comes after the softmax": attend(block=lambda scores: scores, normalize=mask_after),
    "the softmax runs over the queries (dim=-2)": attend(normalize=lambda scores: scores.softmax(-2)),
    "the softmax runs over the heads (dim=1)": attend(normalize=lambda scores: scores.softmax(1)),
    "the weights meet the tokens, not the heads": attend(change=lambda norm, x, weight, bias: norm(x) * weight + bias),
    "all heads use the weight and bias of head 0": attend(
        change=lambda norm, x, weight, bias: norm(x) * weight[0] + bias[0]
    ),
    "weight and bias are averaged over the heads": attend(
        change=lambda norm, x, weight, bias: norm(x) * weight.mean(0) + bias.mean(0)
    ),
    "weight and bias are not used": attend(change=lambda norm, x, weight, bias: norm(x)),
    "the weights are not used": attend(change=lambda norm, x, weight, bias: norm(x) + bias[:, None]),
    "q_bias is not used": attend(change=lambda norm, x, weight, bias: norm(x) * weight[:, None]),
    "the parameters are swapped": attend(
        sides=lambda q, k, change, norm, wq, bq, wk, bk: (change(norm, q, wk, bk), change(norm, k, wq, bq))
    ),
    "the keys get the queries' weight": attend(
        sides=lambda q, k, change, norm, wq, bq, wk, bk: (change(norm, q, wq, bq), change(norm, k, wq, bq))
    ),
    "weight and bias come before the norm": attend(change=lambda norm, x, weight, bias: norm(affine(x, weight, bias))),
    "the bias is added before the weight multiplies": attend(
        change=lambda norm, x, weight, bias: (norm(x) + bias[:, None]) * weight[:, None]
    ),
    "heads and tokens are exchanged in the output": attend(after=lambda weights, v: (weights @ v).transpose(1, 2)),
    "these are the attention weights": attend(after=lambda weights, v: weights),
    "is your epsilon inside the sqrt?": attend(norm=norm_with_eps_outside),
    "is your epsilon squared?": attend(norm=norm_with_eps_squared),
    "epsilon is missing": attend(norm=over(-1, eps=0)),
    "the output shows another epsilon": attend(norm=over(-1, eps=1e-6)),
    "it is 1e-5, F.layer_norm's default": attend(norm=lambda x: F.layer_norm(x, x.shape[-1:], eps=1e-8)),
    "no gradient flows from the output to q:": attention_without_gradient,
    "no gradient flows from the output to q_weight": attend(
        change=lambda norm, x, weight, bias: affine(norm(x), weight.detach(), bias)
    ),
    "mean and variance are detached": attend(norm=detached_norm),
    "the gradient of q differ": attend(
        change=lambda norm, x, weight, bias: affine((norm(x) + norm(x).detach()) / 2, weight, bias)
    ),
    "the values of the output differ": attend(normalize=lambda scores: scores.softmax(-1).square()),
    "has shape (2, 4, 24); expected (2, 4, 4, 6)": attend(
        after=lambda weights, v: (weights @ v).transpose(1, 2).flatten(2)
    ),
    "expected torch.float64": attend(after=lambda weights, v: (weights @ v).float()),
    "changes its input q in place": attention_in_place,
    "should be a torch.Tensor, but is a tuple": attend(after=lambda weights, v: (weights @ v, weights)),
}
RIGHT["qk_norm_attention"] = {
    "F.layer_norm": attend(),
    "by hand": attend(norm=norm_by_hand),
    "var and eps": attend(norm=over(-1)),
    "loops": attention_by_loops,
    "F.scaled_dot_product_attention": attention_by_sdpa,
    "einsum": attention_by_einsum,
    "without k_bias, which cancels": attend(
        sides=lambda q, k, change, norm, wq, bq, wk, bk: (change(norm, q, wq, bq), change(norm, k, wk, 0 * bk))
    ),
    "scaled queries": attend(
        sides=lambda q, k, change, norm, wq, bq, wk, bk: (
            change(norm, q, wq, bq) / math.sqrt(q.size(-1)),
            change(norm, k, wk, bk),
        ),
        scale=lambda heads, d: 1,
    ),
}


# The stream ----------------------------------------------------------------------------------------------------------


def stream(
    words=lambda ids, first: list(ids),
    codes=lambda picture, first: (picture.flatten() + first).tolist(),
    start=lambda image, end, first: [image],
    end=lambda image, end, first: [end],
    order=lambda parts: parts,
    number=lambda picture: list(range(picture.numel())),
    elsewhere=-1,
    finish=lambda tokens, places, first: (torch.tensor(tokens), torch.tensor(places)),
):
    """The stream put together from steps that a mutant can replace."""

    def answer(parts, first_code, image, end_image):
        tokens, places = [], []
        for part in order(parts):
            if isinstance(part, torch.Tensor):
                opening, closing = start(image, end_image, first_code), end(image, end_image, first_code)
                tokens += opening + codes(part, first_code) + closing
                places += [elsewhere] * len(opening) + number(part) + [elsewhere] * len(closing)
            else:
                tokens += words(part, first_code)
                places += [elsewhere] * len(part)
        return finish(tokens, places, first_code)

    return answer


def is_picture(part):
    return isinstance(part, torch.Tensor)


def from_tokens(number):
    """A last step that numbers the codes by looking at the tokens."""
    return lambda tokens, places, first: (torch.tensor(tokens), number(torch.tensor(tokens), first))


def going_on(tokens, first):
    is_code = tokens >= first
    return torch.where(is_code, is_code.cumsum(0) - 1, -1)


def without_code_0(tokens, first):
    right = numbered_by_cumsum(tokens, first)
    return torch.where(tokens > first, right, -1)


def numbered_by_cumsum(tokens, first):
    is_code = tokens >= first
    count = is_code.cumsum(0)
    before = torch.where(is_code, 0, count).cummax(0).values
    return torch.where(is_code, count - before - 1, -1)


def marks_counted(parts, first_code, image, end_image, end=False):
    tokens, places = [], []
    for part in parts:
        if is_picture(part):
            tokens += [image, *(part.flatten() + first_code).tolist(), end_image]
            places += [*range(part.numel() + 1), part.numel() + 1 if end else -1]
        else:
            tokens += part
            places += [-1] * len(part)
    return torch.tensor(tokens), torch.tensor(places)


def rows_with_marks(picture, first):
    rows = (picture + first).tolist()
    return sum(([*row, 15] for row in rows), [])[:-1]


def new_start_after_words(parts, first_code, image, end_image):
    tokens, places, count = [], [], 0
    for part in parts:
        if not is_picture(part):
            tokens, places, count = tokens + part, places + [-1] * len(part), 0
            continue
        tokens += [image, *(part.flatten() + first_code).tolist(), end_image]
        places += [-1, *range(count, count + part.numel()), -1]
        count += part.numel()
    return torch.tensor(tokens), torch.tensor(places)


def picture_numbers(parts, first_code, image, end_image):
    tokens, _ = stream()(parts, first_code, image, end_image)
    return tokens, torch.where(tokens >= first_code, (tokens == image).cumsum(0) - 1, -1)


def stream_in_place(parts, first_code, image, end_image):
    for part in parts:
        if is_picture(part):
            part += first_code
    return stream(codes=lambda picture, first: picture.flatten().tolist())(parts, first_code, image, end_image)


def words_by_append(parts, first_code, image, end_image):
    parts[0].append(image)
    return stream()(parts, first_code, image, end_image)


def stream_by_cat(parts, first_code, image, end_image):
    tokens, places = [], []
    for part in parts:
        if is_picture(part):
            mark = part.new_ones(1)
            tokens.append(torch.cat([image * mark, part.reshape(-1) + first_code, end_image * mark]))
            places.append(F.pad(torch.arange(part.numel()), (1, 1), value=-1))
        else:
            tokens.append(torch.tensor(part, dtype=torch.long))
            places.append(torch.full((len(part),), -1))
    return torch.cat(tokens), torch.cat(places)


def stream_by_loops(parts, first_code, image, end_image):
    pairs = []
    for part in parts:
        if not is_picture(part):
            pairs.extend((word, -1) for word in part)
            continue
        h, w = part.shape
        pairs.append((image, -1))
        pairs.extend((int(part[i, j]) + first_code, i * w + j) for i in range(h) for j in range(w))
        pairs.append((end_image, -1))
    return tuple(torch.tensor(column) for column in zip(*pairs, strict=True))


WRONG["interleave"] = {
    "the codes are read column by column": stream(codes=lambda picture, first: (picture.T.flatten() + first).tolist()),
    "the codes have no offset": stream(codes=lambda picture, first: picture.flatten().tolist()),
    "first_code is added to the words as well": stream(words=lambda ids, first: [i + first for i in ids]),
    "first_code is added to the marks": stream(
        start=lambda image, end, first: [image + first], end=lambda image, end, first: [end + first]
    ),
    "first_code is added to all tokens": stream(
        codes=lambda picture, first: picture.flatten().tolist(),
        finish=lambda tokens, places, first: (torch.tensor(tokens) + first, torch.tensor(places)),
    ),
    "code 0 becomes first_code itself": stream(
        codes=lambda picture, first: (picture.flatten() + first + 1).tolist(),
    ),
    "the ids of codes are off by one": stream(codes=lambda picture, first: (picture.flatten() + first - 1).tolist()),
    "the mark at the end of a picture is missing": stream(end=lambda image, end, first: []),
    "the mark before a picture is missing": stream(start=lambda image, end, first: []),
    "pictures have no marks": stream(start=lambda image, end, first: [], end=lambda image, end, first: []),
    "the marks are swapped": stream(start=lambda image, end, first: [end], end=lambda image, end, first: [image]),
    "pictures end with `image`": stream(end=lambda image, end, first: [image]),
    "every row of a picture has a mark at its end": stream(codes=rows_with_marks),
    "the rows of a picture come from bottom to top": stream(
        codes=lambda picture, first: (picture.flip(0).flatten() + first).tolist()
    ),
    "the parts are sorted by kind": stream(order=lambda parts: sorted(parts, key=is_picture)),
    "keep them in the order of the list": stream(order=lambda parts: sorted(parts, key=is_picture, reverse=True)),
    "the pictures are missing": stream(order=lambda parts: [part for part in parts if not is_picture(part)]),
    "the words are missing": stream(order=lambda parts: [part for part in parts if is_picture(part)]),
    "the places go on from one picture to the next": stream(finish=from_tokens(going_on)),
    "the marks are counted": marks_counted,
    "the first code of a picture, after `image`, has place 0": lambda *inputs: marks_counted(*inputs, end=True),
    "the places start at 1": stream(number=lambda picture: list(range(1, picture.numel() + 1))),
    "words and marks have place 0, like the first code": stream(elsewhere=0),
    "these are positions in the stream": stream(finish=from_tokens(lambda tokens, first: torch.arange(len(tokens)))),
    "the places are positions in the stream": stream(
        finish=from_tokens(lambda tokens, first: torch.where(tokens >= first, torch.arange(len(tokens)), -1))
    ),
    "the places start again in every row": stream(number=lambda picture: [*range(picture.size(1))] * picture.size(0)),
    "these are rows: number the codes one by one": stream(
        number=lambda picture: [i // picture.size(1) for i in range(picture.numel())]
    ),
    "the places run column by column": stream(
        number=lambda picture: torch.arange(picture.numel()).view(picture.T.shape).T.flatten().tolist()
    ),
    "these are the numbers of the pictures": picture_numbers,
    "is there a > where >= should be?": stream(finish=from_tokens(without_code_0)),
    "these are the codes themselves": stream(number=lambda picture: picture.flatten().tolist()),
    "tokens differ, first at index (7,)": stream(
        finish=lambda tokens, places, first: (torch.tensor(tokens).clamp(max=26), torch.tensor(places))
    ),
    "places for pictures side by side": new_start_after_words,
    "places without a picture": stream(
        finish=lambda tokens, places, first: (
            torch.tensor(tokens),
            torch.tensor(places).clamp(min=-1 if max(places) > 0 else 0),
        )
    ),
    "tokens has shape (1, 24); expected (24,) = (T,)": stream(
        finish=lambda tokens, places, first: (torch.tensor([tokens]), torch.tensor(places))
    ),
    "tokens has dtype torch.float32; expected torch.int64": stream(
        finish=lambda tokens, places, first: (torch.tensor(tokens).float(), torch.tensor(places))
    ),
    "tokens should be a torch.Tensor, but is a list": stream(finish=lambda tokens, places, first: (tokens, places)),
    "return two tensors, (tokens, places); got a Tensor": stream(
        finish=lambda tokens, places, first: torch.tensor(tokens)
    ),
    "changes its input parts in place": stream_in_place,
    "parts in place; work on a copy": words_by_append,
    "raised AttributeError in the line": lambda parts, first_code, image, end_image: parts[0].flatten(),
    "your function raised TypeError": lambda parts, first_code, image, end_image: [part + 20 for part in parts],
}
RIGHT["interleave"] = {
    "lists": stream(),
    "cat": stream_by_cat,
    "loops": stream_by_loops,
    "places from the tokens": stream(finish=from_tokens(numbered_by_cumsum)),
    "a list of the two": lambda *inputs: list(stream()(*inputs)),
}


# Causality -----------------------------------------------------------------------------------------------------------


def search(
    positions=lambda T: range(T),
    change=lambda tokens, t, vocabulary: torch.where(torch.arange(len(tokens)) == t, (tokens + 1) % vocabulary, tokens),
    look=lambda outputs, t: outputs[:t],
    differ=lambda a, b: not torch.equal(a, b),
    after=lambda found, T: found,
):
    """The search put together from steps that a mutant can replace."""

    def answer(model, tokens):
        before = model(tokens)
        found = []
        for t in positions(len(tokens)):
            now = model(change(tokens, t, before.shape[-1]))
            if differ(look(before, t), look(now, t)):
                found.append(t)
        return after(found, len(tokens))

    return answer


def write(value):
    """Write one id at t; value: (old id, vocabulary) -> new id."""

    def change(tokens, t, vocabulary):
        tokens = tokens.clone()
        tokens[t] = value(tokens[t], vocabulary)
        return tokens

    return change


def all_from(tokens, t, vocabulary):
    return torch.where(torch.arange(len(tokens)) >= t, (tokens + 1) % vocabulary, tokens)


def cumulative(model, tokens):
    before, changed, found = model(tokens), tokens.clone(), []
    for t in range(len(tokens)):
        changed[t] = (changed[t] + 1) % before.shape[-1]
        if not torch.equal(model(changed)[:t], before[:t]):
            found.append(t)
    return found


def receivers(model, tokens):
    before, found = model(tokens), set()
    for t in range(len(tokens)):
        changed = write(lambda old, vocabulary: (old + 1) % vocabulary)(tokens, t, before.shape[-1])
        found |= set((model(changed) != before)[:t].any(dim=1).nonzero().flatten().tolist())
    return sorted(found)


def search_in_place(model, tokens):
    before, found = model(tokens), []
    for t in range(len(tokens)):
        tokens[t] = (tokens[t] + 1) % before.shape[-1]
        if not torch.equal(model(tokens)[:t], before[:t]):
            found.append(t)
    return found


def search_by_batch(model, tokens):
    """All changes side by side, if the model takes a batch."""
    T = len(tokens)
    before = model(tokens)
    changed = (tokens + torch.eye(T, dtype=torch.long)) % before.shape[-1]
    moved = (torch.stack([model(row) for row in changed]) != before).any(dim=-1)  # (changed token, output)
    return moved.tril(-1).any(dim=1).nonzero().flatten().tolist()


def search_every_id(model, tokens):
    before, found = model(tokens), set()
    for t in range(len(tokens)):
        for other in range(before.size(-1)):
            now = model(write(lambda old, vocabulary, other=other: other)(tokens, t, None))
            if (now - before)[:t].abs().sum() > 1e-6:
                found.add(t)
    return sorted(found)


def search_and_put_back(model, tokens):
    before, found = model(tokens), []
    for t in range(len(tokens)):
        old = tokens[t].item()
        tokens[t] = (old + 2) % before.shape[-1]
        if t > 0 and (model(tokens)[:t] - before[:t]).abs().max() > 1e-6:
            found.append(t)
        tokens[t] = old
    return found


def unmasked_and_one_more(model, tokens):
    """A mistake where output 0 sees all tokens."""
    changed = write(lambda old, vocabulary: (old + 1) % vocabulary)(tokens, 6, 5)
    found = search()(model, tokens)
    return found if torch.equal(model(tokens)[0], model(changed)[0]) else [*found, 7]


WRONG["leaks"] = {
    "the output at t itself counts": search(look=lambda outputs, t: outputs[: t + 1]),
    "compare the outputs before t, [:t]": search(look=lambda outputs, t: outputs),
    "the outputs after t are compared": search(look=lambda outputs, t: outputs[t + 1 :]),
    "tokens that were changed stay changed": cumulative,
    "only the last token is changed": search(positions=lambda T: [T - 1]),
    "these are the positions whose output changes": receivers,
    "the search stops at the first leak": search(after=lambda found, T: found[:1]),
    "the positions fall": search(positions=lambda T: range(T - 1, -1, -1)),
    "the list holds those that do not leak": search(
        after=lambda found, T: [t for t in range(T) if t not in found] if found else found
    ),
    "no leak is found": search(change=lambda tokens, t, vocabulary: tokens),
    "a token that is 0 already does not change": search(change=write(lambda old, vocabulary: 0)),
    "the last token is left out": search(positions=lambda T: range(T - 1)),
    "token 2 is listed, but nothing before it sees it": search(
        after=lambda found, T: [2, *found] if found == [3, 4] else found
    ),
    "only the output right before t is compared": search(look=lambda outputs, t: outputs[t - 1 : t]),
    "all tokens from t on are changed at once": search(change=all_from),
    "a leak of 0.001 is missed": search(differ=lambda a, b: not torch.allclose(a, b, atol=0.01)),
    "compare all numbers of the outputs": search(differ=lambda a, b: (a - b).abs().sum() > 0.1),
    "only the likeliest tokens are compared": search(differ=lambda a, b: not torch.equal(a.argmax(-1), b.argmax(-1))),
    "with torch.equal or a small tolerance": search(differ=lambda a, b: not torch.equal(a.round(), b.round())),
    "for a causal model is [3]; expected []": search(after=lambda found, T: found or [3]),
    "tokens 2 to 4 see each other is [3]; expected [3, 4]": search(
        after=lambda found, T: [3] if found == [3, 4] else found
    ),
    "without a mask is [1, 2, 3, 4, 5, 6, 7]": unmasked_and_one_more,
    "holds tensor(1), of type Tensor": search(positions=lambda T: torch.arange(T)),
    "holds False, of type bool": lambda model, tokens: [t in search()(model, tokens) for t in range(len(tokens))],
    "expected a Python list": lambda model, tokens: torch.tensor(search()(model, tokens)),
    "should be a list, but is True, of type bool": lambda model, tokens: not search()(model, tokens),
    "should be a list, but is (), of type tuple": lambda model, tokens: tuple(search()(model, tokens)),
    "changes its input tokens in place": search_in_place,
    "raised IndexError in the line": search(
        positions=lambda T: range(T + 1), change=write(lambda old, v: (old + 1) % v)
    ),
    "index 5 is out of range": lambda model, tokens: model(tokens + 1),
}
RIGHT["leaks"] = {
    "where": search(),
    "clone": search(change=write(lambda old, vocabulary: (old + 1) % vocabulary)),
    "another id": search(change=write(lambda old, vocabulary: 0 if old else 1)),
    "all rows at once": search_by_batch,
    "every id": search_every_id,
    "changed and put back": search_and_put_back,
    "a small tolerance": search(differ=lambda a, b: not torch.allclose(a, b)),
}


# Sampling ------------------------------------------------------------------------------------------------------------


def cut(logits, k, fill=-torch.inf):
    lowest = logits.topk(k, dim=-1).values[:, -1:]
    return torch.where(logits < lowest, fill, logits)


def sample(
    mix=lambda c, u, g: u + g * (c - u),
    keep=lambda logits, k, c, u: cut(logits, k),
    cool=lambda logits, T: logits / T,
    normalize=lambda logits: logits.softmax(-1),
    after=lambda p, logits, k: p,
):
    """The probabilities put together from steps that a mutant can replace."""

    def answer(conditional, unconditional, guidance, temperature, top_k):
        logits = mix(conditional, unconditional, guidance)
        p = normalize(cool(keep(logits, top_k, conditional, unconditional), temperature))
        return after(p, logits, top_k)

    return answer


def keep_where(chosen):
    return lambda logits, k, c, u: logits.masked_fill(~chosen(logits, k, c, u), -torch.inf)


def at_least(x, k):
    return x >= x.topk(k, dim=-1).values[:, -1:]


def mixed_probabilities(after):
    def answer(conditional, unconditional, guidance, temperature, top_k):
        pc, pu = (conditional / temperature).softmax(-1), (unconditional / temperature).softmax(-1)
        return after(pu + guidance * (pc - pu), top_k)

    return answer


def top_of(p, k):
    p = torch.where(at_least(p, k), p, 0)
    return p / p.sum(-1, keepdim=True)


def cold_condition(c, u, guidance, temperature, top_k):
    return sample(cool=lambda logits, T: logits / T, mix=lambda c, u, g: u + g * (c / temperature - u))(
        c, u, guidance, temperature, top_k
    )


def guided_in_place(c, u, guidance, temperature, top_k):
    u += guidance * (c - u)
    return sample(mix=lambda c, u, g: u)(c, u, guidance, temperature, top_k)


def softmax_without_maximum(logits):
    return logits.exp() / logits.exp().sum(-1, keepdim=True)


def guided_by_loops(c, u, guidance, temperature, top_k):
    rows = []
    for c_row, u_row in zip(c, u, strict=True):
        logits = [b + guidance * (a - b) for a, b in zip(c_row, u_row, strict=True)]
        chosen = sorted(range(len(logits)), key=lambda i: -logits[i].item())[:top_k]
        weights = torch.zeros_like(c_row)
        for i in chosen:
            weights[i] = ((logits[i] - logits[chosen[0]]) / temperature).exp()
        rows.append(weights / weights.sum())
    return torch.stack(rows)


def guided_by_scatter(c, u, guidance, temperature, top_k):
    values, indices = torch.lerp(u, c, guidance).topk(top_k)
    return torch.zeros_like(c).scatter(1, indices, (values / temperature).softmax(-1))


def renormalized(p, logits, k):
    p = p * at_least(logits, k)
    return p / p.sum(-1, keepdim=True)


no_cut = {"keep": lambda logits, k, c, u: logits}

WRONG["guided"] = {
    "the guidance starts at 0": sample(mix=lambda c, u, g: (1 + g) * c - g * u),
    "c and u are swapped": sample(mix=lambda c, u, g: g * u + (1 - g) * c),
    "the guidance is not used": sample(mix=lambda c, u, g: c),
    "only the unconditional logits are used": sample(mix=lambda c, u, g: u),
    "u is missing: it should be": sample(mix=lambda c, u, g: g * (c - u)),
    "u is not subtracted from c": sample(mix=lambda c, u, g: u + g * c),
    "the conditional logits are multiplied": sample(mix=lambda c, u, g: g * c),
    "the temperature divides c only": cold_condition,
    "probabilities are mixed": mixed_probabilities(top_of),
    "mix the logits, u + guidance * (c - u)": mixed_probabilities(lambda p, k: p),
    "take one softmax at the end": mixed_probabilities(lambda p, k: top_of(p.clamp(min=0), k)),
    "top_k is taken before the guidance": sample(keep=keep_where(lambda logits, k, c, u: at_least(c, k))),
    "the largest of the guided logits stay": sample(keep=keep_where(lambda logits, k, c, u: at_least(u, k))),
    "before the guidance: the largest": sample(
        keep=keep_where(lambda logits, k, c, u: at_least(c, k) & at_least(u, k)),
    ),
    "top_k is counted over the whole batch": sample(
        keep=keep_where(lambda logits, k, c, u: logits >= logits.flatten().topk(k).values[-1])
    ),
    "each row keeps its own top_k": sample(
        keep=keep_where(lambda logits, k, c, u: logits >= logits.topk(min(k, len(c)), dim=0).values[-1])
    ),
    "top_k is not used": sample(**no_cut),
    "the smallest logits stay": sample(keep=keep_where(lambda logits, k, c, u: at_least(-logits, k))),
    "the largest logits are removed": sample(keep=keep_where(lambda logits, k, c, u: ~at_least(logits, k))),
    "keeps one logit more": sample(keep=lambda logits, k, c, u: cut(logits, k + 1)),
    "keeps one logit fewer": sample(keep=keep_where(lambda logits, k, c, u: logits > logits.topk(k).values[:, -1:])),
    "logits outside of the top_k become 0": sample(keep=lambda logits, k, c, u: cut(logits, k, fill=0.0)),
    "which has a probability: fill with -inf": sample(keep=lambda logits, k, c, u: cut(logits, k, fill=1e-10)),
    "the rows do not add up to 1": sample(**no_cut, after=lambda p, logits, k: p * at_least(logits, k)),
    "the temperature multiplies the logits": sample(cool=lambda logits, T: logits * T),
    "the temperature is not used": sample(cool=lambda logits, T: logits),
    "the temperature is used twice": sample(cool=lambda logits, T: logits / T / T),
    "the temperature divides the probabilities": lambda c, u, guidance, temperature, top_k: (
        sample(cool=lambda logits, T: logits)(c, u, guidance, temperature, top_k) / temperature
    ),
    "the softmax runs over the batch (dim=0)": sample(normalize=lambda logits: logits.softmax(0)),
    "these are logarithms of probabilities": sample(normalize=lambda logits: logits.log_softmax(-1)),
    "these are logits: take the softmax": sample(normalize=lambda logits: logits),
    "this is transposed": sample(after=lambda p, logits, k: p.T),
    "only the kept probabilities are returned": lambda c, u, guidance, temperature, top_k: (
        (u + guidance * (c - u)).topk(top_k).values / temperature
    ).softmax(-1),
    "the values of the result differ": sample(after=lambda p, logits, k: p.square()),
    "the result for guidance 0 differ": lambda c, u, guidance, temperature, top_k: sample()(
        c, u if guidance else c, guidance, temperature, top_k
    ),
    "the result for guidance 1 differ": lambda c, u, guidance, temperature, top_k: sample()(
        c, u, guidance, 1.0 if guidance == 1 else temperature, top_k
    ),
    "the result for top_k = 1 differ": lambda c, u, guidance, temperature, top_k: sample()(
        c, u, guidance, temperature, top_k if top_k > 1 else c.size(1)
    ),
    "use softmax, which subtracts each row's maximum first": sample(normalize=softmax_without_maximum),
    "has shape (4,); expected (4, 7) = (N, K)": sample(after=lambda p, logits, k: p.argmax(-1)),
    "expected torch.float64": sample(after=lambda p, logits, k: p.float()),
    "changes its input unconditional in place": guided_in_place,
    "should be a torch.Tensor, but is a list": sample(after=lambda p, logits, k: p.tolist()),
}
RIGHT["guided"] = {
    "where": sample(),
    "g * c + (1 - g) * u": sample(mix=lambda c, u, g: g * c + (1 - g) * u),
    "c + (g - 1) * (c - u)": sample(mix=lambda c, u, g: c + (g - 1) * (c - u)),
    "log probabilities mixed": sample(mix=lambda c, u, g: torch.lerp(u.log_softmax(-1), c.log_softmax(-1), g)),
    "divided again": lambda c, u, guidance, temperature, top_k: renormalized(
        ((u + guidance * (c - u)) / temperature).softmax(-1), u + guidance * (c - u), top_k
    ),
    "scatter": guided_by_scatter,
    "loops": guided_by_loops,
    "temperature first": lambda c, u, guidance, temperature, top_k: sample(cool=lambda logits, T: logits)(
        c / temperature, u / temperature, guidance, temperature, top_k
    ),
}


# Sound ---------------------------------------------------------------------------------------------------------------


def triangles(
    lines=lambda f, a, b, c: ((f - a) / (b - a), (c - f) / (c - b)),
    join=lambda rise, fall: torch.minimum(rise, fall),
    clamp=lambda x: x.clamp(min=0),
    scale=lambda x, f, a, b, c: 2 * x / (c - a),
    after=lambda filters: filters,
    pick=lambda corners: (corners[:-2, None], corners[1:-1, None], corners[2:, None]),
):
    """The filters put together from steps that a mutant can replace."""

    def answer(corners, frequencies):
        a, b, c = pick(corners)
        return after(scale(clamp(join(*lines(frequencies[None], a, b, c))), frequencies, a, b, c))

    return answer


def neighbors(step):
    """The corners of the band before or after; beyond the ends nothing passes."""

    def answer(corners, frequencies):
        filters = triangles()(corners, frequencies)
        nothing = torch.zeros_like(filters[:1])
        return torch.cat([filters[1:], nothing] if step > 0 else [nothing, filters[:-1]])

    return answer


def rectangles(corners, frequencies):
    low, high = corners[:-2, None], corners[2:, None]
    return ((frequencies >= low) & (frequencies <= high)) / (high - low)


def one_side(left):
    def join(rise, fall):
        kept = rise if left else fall
        return torch.where((rise <= 1) if left else (fall < 1), kept, 0)

    return triangles(join=join)


def halfway(corners):
    return corners[:-2, None], (corners[:-2, None] + corners[2:, None]) / 2, corners[2:, None]


def triangles_in_place(corners, frequencies):
    frequencies -= corners[0]
    return triangles()(corners - corners[0], frequencies)


def triangles_by_loops(corners, frequencies):
    rows = []
    for a, b, c in zip(corners, corners[1:], corners[2:]):
        row = []
        for f in frequencies:
            if a <= f <= b:
                row.append((f - a) / (b - a))
            elif b < f <= c:
                row.append((c - f) / (c - b))
            else:
                row.append(torch.zeros_like(f))
        rows.append(2 * torch.stack(row) / (c - a))
    return torch.stack(rows)


def triangles_as_librosa(corners, frequencies):
    widths, ramps = corners.diff(), corners[:, None] - frequencies[None]
    rows = [
        torch.maximum(torch.zeros_like(frequencies), torch.minimum(-ramps[i] / widths[i], ramps[i + 2] / widths[i + 1]))
        for i in range(len(corners) - 2)
    ]
    return torch.stack(rows) * (2.0 / (corners[2:] - corners[:-2]))[:, None]


WRONG["mel_triangles"] = {
    "the peaks are 1": triangles(scale=lambda x, f, a, b, c: x),
    "outside of the triangle the values are negative: clamp": triangles(clamp=lambda x: x),
    "the values are negative, and the area is not 1": triangles(clamp=lambda x: x, scale=lambda x, f, a, b, c: x),
    "each row adds up to 1 over the bins": triangles(scale=lambda x, f, a, b, c: x / x.sum(1, keepdim=True)),
    "the area is that of the bins": triangles(
        scale=lambda x, f, a, b, c: x / (x.sum(1, keepdim=True) * (f[1] - f[0])),
    ),
    "each column adds up to 1": triangles(scale=lambda x, f, a, b, c: x / x.sum(0).clamp(min=1e-9)),
    "each row is divided by its largest value": triangles(
        scale=lambda x, f, a, b, c: x / x.max(dim=1, keepdim=True).values
    ),
    "the larger of the two lines is taken": triangles(join=torch.maximum),
    "the two lines are multiplied": triangles(join=torch.mul),
    "the two lines are added": triangles(join=torch.add),
    "the area is 1/2": triangles(scale=lambda x, f, a, b, c: x / (c - a)),
    "this is multiplied by half the width": triangles(scale=lambda x, f, a, b, c: x * (c - a) / 2),
    "the height is taken from the rising side only": triangles(scale=lambda x, f, a, b, c: 2 * x / (b - a)),
    "the height is taken from the falling side only": triangles(scale=lambda x, f, a, b, c: 2 * x / (c - b)),
    "all filters have the same height": triangles(scale=lambda x, f, a, b, c: 2 * x / (c[-1] - a[0])),
    "these are rectangles": rectangles,
    "only one side of the triangle is there": one_side(left=True),
    "it rises to corners[i + 1] and falls": one_side(left=False),
    "the peak is halfway between the outer corners": triangles(pick=halfway),
    "a line is divided by the wrong distance": triangles(
        lines=lambda f, a, b, c: ((f - a) / (c - a), (c - f) / (c - b))
    ),
    "rising by middle - left": triangles(lines=lambda f, a, b, c: ((f - a) / (b - a), (c - f) / (c - a))),
    "falling by right - middle": triangles(lines=lambda f, a, b, c: ((f - a) / (c - b), (c - f) / (c - b))),
    "divided by the wrong distance: rising by middle - left, falling": triangles(
        lines=lambda f, a, b, c: ((f - a) / (b - a), (c - f) / (b - a))
    ),
    "the corners belong to the neighboring band": neighbors(1),
    "filter i has corners[i], corners[i + 1]": neighbors(-1),
    "this is transposed": triangles(after=lambda filters: filters.T),
    "the bands come from high to low": triangles(after=lambda filters: filters.flipud()),
    "the filters are added up": triangles(after=lambda filters: filters.sum(dim=0)),
    "the values of the result differ": triangles(clamp=lambda x: x.clamp(min=0).square()),
    "the result has shape (7, 33); expected (5, 33) = (bands, bins)": triangles(
        after=lambda filters: F.pad(filters, (0, 0, 1, 1))
    ),
    "the result for 3 bands and 12 bins": lambda corners, frequencies: triangles()(
        corners, torch.linspace(0, 2560, 33, dtype=frequencies.dtype)
    ),
    "expected torch.float64": triangles(after=lambda filters: filters.float()),
    "the result for 1 band differ": lambda corners, frequencies: (
        triangles(pick=halfway)(corners, frequencies) if len(corners) == 3 else triangles()(corners, frequencies)
    ),
    "changes its input frequencies in place": triangles_in_place,
    "should be a torch.Tensor, but is a list": triangles(after=lambda filters: list(filters)),
    "raised RuntimeError in the line": triangles(pick=lambda corners: (corners[:-2], corners[1:-1], corners[2:])),
}
RIGHT["mel_triangles"] = {
    "minimum": triangles(),
    "loops": triangles_by_loops,
    "as librosa": triangles_as_librosa,
    "product of clamped lines": triangles(join=lambda rise, fall: rise.clamp(0, 1) * fall.clamp(0, 1)),
    "relu": triangles(clamp=torch.relu),
    "stack and min": triangles(join=lambda rise, fall: torch.stack([rise, fall]).amin(0)),
}


# The loss ------------------------------------------------------------------------------------------------------------


def mean_of(values, where):
    return values[where].mean() if where.any() else values.sum() * 0


def one_stream(
    align=lambda logits, tokens: (logits[:, :-1], tokens[:, 1:]),
    words=lambda target, source, first, pad: (target < first) & (target != pad),
    codes=lambda target, source, first: target >= first,
    average=mean_of,
    add=lambda word, code, weight: word + weight * code,
    z=lambda logits, both, surprise: mean_of(logits.logsumexp(-1) ** 2, both),
    z_weight=lambda w: w,
):
    """The loss put together from steps that a mutant can replace."""

    def answer(logits, tokens, first_code, pad, image_weight, w):
        source = tokens[:, :-1]
        logits, target = align(logits, tokens)
        surprise = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
        word, code = words(target, source, first_code, pad), codes(target, source, first_code)
        language = add(average(surprise, word), average(surprise, code), image_weight)
        return language + z_weight(w) * z(logits, word | code, surprise)

    return answer


def one_mean(divide):
    """A single mean over all targets, of surprise times a weight for each."""

    def answer(logits, tokens, first_code, pad, image_weight, z_weight):
        logits, target = logits[:, :-1], tokens[:, 1:]
        surprise = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
        weight = torch.where(target >= first_code, image_weight, 1.0) * (target != pad)
        z = mean_of(logits.logsumexp(-1).square(), target != pad)
        return divide(surprise, weight, target != pad) + z_weight * z

    return answer


def rolled(logits, tokens):
    return logits, tokens.roll(-1, 1)


def sum_of(values, where):
    return (values * where).sum()


def mean_of_all(values, where):
    return (values * where).mean()


def by_rows(values, where):
    return torch.stack([mean_of(row, here) for row, here in zip(values, where, strict=True)]).mean()


def pads_in_z(logits, both, surprise):
    return (logits.logsumexp(-1) ** 2).mean()


def last_place_in_z(logits, tokens, first_code, pad, image_weight, z_weight):
    language = one_stream(z_weight=lambda w: 0)(logits, tokens, first_code, pad, image_weight, z_weight)
    return language + z_weight * logits.logsumexp(-1).square().mean()


def z_by_kind(combine):
    def answer(logits, tokens, first_code, pad, image_weight, z_weight):
        language = one_stream(z_weight=lambda w: 0)(logits, tokens, first_code, pad, image_weight, z_weight)
        squares, target = logits[:, :-1].logsumexp(-1).square(), tokens[:, 1:]
        word, code = mean_of(squares, (target < first_code) & (target != pad)), mean_of(squares, target >= first_code)
        return language + z_weight * combine(word, code)

    return answer


def pads_as_words(logits, tokens, first_code, pad, image_weight, z_weight):
    """In the mean over words, not in the z-loss."""
    everything = one_stream(words=lambda t, s, first, pad: t < first, z_weight=lambda w: 0)
    language = everything(logits, tokens, first_code, pad, image_weight, z_weight)
    return language + z_weight * mean_of(logits[:, :-1].logsumexp(-1).square(), tokens[:, 1:] != pad)


def mean_over_none(values, where):
    return values[where].mean()


def gathered_exponentials(logits, tokens, first_code, pad, image_weight, z_weight):
    logits, target = logits[:, :-1], tokens[:, 1:]
    z = logits.exp().sum(-1).log()
    surprise = z - logits.gather(-1, target[..., None])[..., 0]
    word, code = (target < first_code) & (target != pad), target >= first_code
    z = mean_of(z.square(), word | code)
    return mean_of(surprise, word) + image_weight * mean_of(surprise, code) + z_weight * z


def loss_in_place(logits, tokens, first_code, pad, image_weight, z_weight):
    tokens[tokens == pad] = -100
    target = tokens[:, 1:]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), target.flatten())


def loss_by_loops(logits, tokens, first_code, pad, image_weight, z_weight):
    nothing = logits.new_zeros(())
    words, codes, squares = [], [], []
    for row, line in zip(logits, tokens.tolist(), strict=True):
        for here, target in zip(row, line[1:]):
            if target == pad:
                continue
            z = torch.logsumexp(here, 0)
            (codes if target >= first_code else words).append(z - here[target])
            squares.append(z * z)
    means = [torch.stack(each).mean() if each else nothing for each in (words, codes, squares)]
    return means[0] + image_weight * means[1] + z_weight * means[2]


def loss_by_ignore_index(logits, tokens, first_code, pad, image_weight, z_weight):
    logits, target = logits[:, :-1].transpose(1, 2), tokens[:, 1:]
    word, code = (target < first_code) & (target != pad), target >= first_code
    parts = []
    for kind in (word, code):
        total = F.cross_entropy(logits, target.masked_fill(~kind, -100), ignore_index=-100, reduction="sum")
        parts.append(total / max(kind.sum(), 1))
    return parts[0] + image_weight * parts[1] + z_weight * logits.logsumexp(1)[word | code].square().mean()


def loss_by_weights(logits, tokens, first_code, pad, image_weight, z_weight):
    """Every target with its own weight, one sum."""
    log_p, target = logits.log_softmax(-1)[:, :-1], tokens[:, 1:]
    word, code = (target < first_code) & (target != pad), target >= first_code
    weight = word / word.sum().clamp(min=1) + image_weight * code / code.sum().clamp(min=1)
    z = (logits - logits.log_softmax(-1))[:, :-1, 0]
    picked = torch.take_along_dim(log_p, target[..., None], -1)[..., 0]
    return (z_weight * z.square() * (word | code)).sum() / (word | code).sum() - (weight * picked).sum()


WRONG["stream_loss"] = {
    "compared with the token that they have read": one_stream(
        align=lambda logits, tokens: (logits, tokens), words=lambda t, s, first, pad: (t < first) & (t != pad)
    ),
    "the shift goes the wrong way": one_stream(align=lambda logits, tokens: (logits[:, 1:], tokens[:, :-1])),
    "there are two shifts": one_stream(align=lambda logits, tokens: (logits[:, :-2], tokens[:, 2:])),
    "the last place predicts the first token": one_stream(align=rolled),
    "one mean is taken over all targets": one_mean(lambda s, w, real: (s * w).sum() / real.sum()),
    "this is a weighted mean over all targets": one_mean(lambda s, w, real: (s * w).sum() / w.sum()),
    "words and codes count alike": one_mean(lambda s, w, real: s[real].mean()),
    "image_weight multiplies the words:": one_stream(add=lambda word, code, weight: weight * word + code),
    "image_weight multiplies words and codes": one_stream(add=lambda word, code, weight: weight * (word + code)),
    "the words are multiplied by 1 - image_weight": one_stream(
        add=lambda word, code, weight: torch.lerp(word, code, weight)
    ),
    "image_weight is not used": one_stream(add=lambda word, code, weight: word + code),
    "the image codes are left out": one_stream(add=lambda word, code, weight: word),
    "the words are left out": one_stream(add=lambda word, code, weight: weight * code),
    "pads count as words: pad is no target": one_stream(words=lambda t, s, first, pad: t < first),
    "pads count as words in the mean": pads_as_words,
    "the sums are divided by the number of all places": one_stream(average=mean_of_all),
    "the target decides whether a place counts": one_stream(
        words=lambda t, s, first, pad: (s < first) & (s != pad), codes=lambda t, s, first: s >= first
    ),
    "not the token that is read there": one_stream(
        words=lambda t, s, first, pad: (s < first) & (t != pad), codes=lambda t, s, first: (s >= first) & (t != 0)
    ),
    "first_code itself is a code": one_stream(
        words=lambda t, s, first, pad: (t <= first) & (t != pad), codes=lambda t, s, first: t > first
    ),
    "pads count in the z-loss": one_stream(z=pads_in_z),
    "its mean is over words and codes only": last_place_in_z,
    "the z-loss is taken over words only": z_by_kind(lambda word, code: word),
    "the z-loss is taken over codes only": z_by_kind(lambda word, code: code),
    "a mean for words and one for codes": z_by_kind(lambda word, code: word + code),
    "the logits are squared": one_stream(z=lambda logits, both, surprise: (logits**2)[both].mean()),
    "squared: the z-loss is the mean of logsumexp(logits) squared": one_stream(
        z=lambda logits, both, surprise: (logits**2)[both].sum(-1).mean()
    ),
    "logsumexp is not squared": one_stream(z=lambda logits, both, surprise: logits.logsumexp(-1)[both].mean()),
    "the mean is squared: square first": one_stream(
        z=lambda logits, both, surprise: logits.logsumexp(-1)[both].mean() ** 2
    ),
    "the surprise is squared": one_stream(z=lambda logits, both, surprise: surprise[both].square().mean()),
    "the z-loss is missing": one_stream(z_weight=lambda w: 0),
    "or taken of log_softmax, whose logsumexp is 0": one_stream(
        z=lambda logits, both, surprise: mean_of(logits.log_softmax(-1).logsumexp(-1) ** 2, both)
    ),
    "z_weight is not used": one_stream(z_weight=lambda w: 1),
    "the z-loss is subtracted": one_stream(z_weight=lambda w: -w),
    "the sign is wrong": one_stream(add=lambda word, code, weight: -word - weight * code),
    "sums are taken": one_stream(
        average=sum_of, z=lambda logits, both, surprise: sum_of(logits.logsumexp(-1) ** 2, both)
    ),
    "divide each by the number of its targets": one_stream(average=sum_of),
    "each row has a mean of its own: take one over the targets": one_stream(
        average=by_rows, z=lambda logits, both, surprise: by_rows(logits.logsumexp(-1) ** 2, both)
    ),
    "each row has a mean of its own: take one over all rows": one_stream(average=by_rows),
    "the loss without image codes is NaN or infinite": one_stream(average=mean_over_none),
    "The mean over no target counts as 0": one_stream(
        average=lambda values, where: (values * where).sum() / where.sum(),
    ),
    "the loss with padding on the left is": one_stream(
        words=lambda t, s, first, pad: (t < first) & (t != pad) & (s.cumsum(1) > 0)
    ),
    "use logsumexp, log_softmax or cross_entropy": gathered_exponentials,
    "no gradient flows from the loss to logits": lambda logits, *rest: one_stream()(logits.detach(), *rest),
    "no gradient comes through the z-loss": one_stream(
        z=lambda logits, both, surprise: mean_of(logits.detach().logsumexp(-1) ** 2, both)
    ),
    "the gradient of logits differ": one_stream(add=lambda word, code, weight: word + weight * code.detach()),
    "is 7": lambda *inputs: torch.tensor(7.0),
    "has shape (3, 8); expected () = one number": one_stream(
        average=lambda values, where: values * where, z=lambda logits, both, surprise: logits.logsumexp(-1) ** 2 * both
    ),
    "should be a torch.Tensor, but is a float": lambda *inputs: one_stream()(*inputs).item(),
    "expected torch.float64": lambda logits, *rest: one_stream()(logits.float(), *rest),
    "changes its input tokens in place": loss_in_place,
}
RIGHT["stream_loss"] = {
    "cross_entropy": one_stream(),
    "loops": loss_by_loops,
    "ignore_index": loss_by_ignore_index,
    "weights and one sum": loss_by_weights,
    "clamp": one_stream(average=lambda values, where: (values * where).sum() / where.sum().clamp(min=1)),
}


# The tests, those of test_checks.py ----------------------------------------------------------------------------------


class TestGemini(shared.OtherLesson):
    module, WRONG, RIGHT = gemini, WRONG, RIGHT
