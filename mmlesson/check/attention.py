"""Checks for the exercises of lesson 01, attention and encoders."""

import math
from collections import Counter
from itertools import combinations, pairwise

import torch

from mmlesson.check import DTYPES, exercise, randn

# Queries by rows, keys by columns: not symmetric, and no row is empty.
_MASK = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1], [1, 1, 0, 0, 0]], dtype=torch.bool)


@exercise("scaling, masks, gradients, both float types, a row with nothing to attend to")
def attention(answer):
    """attention(q, k, v, mask=None) -> (output, weights), scaled dot-product attention.

    q (B, Tq, d), k (B, Tk, d), v (B, Tk, dv); mask bool, broadcastable to (B, Tq, Tk), True where a query may attend.
    output (B, Tq, dv), weights (B, Tq, Tk); a query that may attend to nothing gets zeros in both.
    """
    padding = torch.tensor([[[True, True, False, True, True]], [[True, True, True, False, False]]])
    for dtype in DTYPES:
        q, k, v = (randn(2, T, width, seed=T + width, dtype=dtype) for T, width in ((3, 4), (5, 4), (5, 6)))
        _expect_attention(answer, q, k, v)
        _expect_attention(answer, q, k, v, _MASK.clone())
        _expect_attention(answer, q, k, v, padding)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    output, weights = answer(q=q, k=k, v=v)
    answer.expect_gradients("the output", output, q=q, k=k, v=v)
    answer.expect_gradients("the weights tensor", weights, q=q, k=k)
    _expect_zeros_in_empty_rows(answer, *leaves)


def _expect_attention(answer, q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.size(-1))
    weights = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)
    result = answer(q=q, k=k, v=v) if mask is None else answer(q=q, k=k, v=v, mask=mask)
    pair = isinstance(result, (tuple, list)) and len(result) == 2
    answer.expect(pair, f"return two tensors, (output, weights); got a {type(result).__name__}.")
    wrong = _wrong_scales(q, k, scores) if mask is None else _wrong_masks(scores, mask, result[1])
    wrong += [(weights @ v, "the two results are swapped: return (output, weights), in this order.")]
    answer.expect_tensor("the weights tensor", result[1], weights, wrong, axes="(B, Tq, Tk)")
    answer.expect_tensor("the output", result[0], weights @ v, axes="(B, Tq, dv)", hint="It should be weights @ v.")


def _wrong_scales(q, k, scores):
    dots, d, Tk = q @ k.mT, q.size(-1), k.size(-2)
    return [
        (dots.softmax(-1), "the scores are not scaled: divide q @ k.mT by the square root of d, the width of a query."),
        ((dots / d).softmax(-1), "the scores are divided by d: divide by its square root."),
        ((dots * math.sqrt(d)).softmax(-1), "the scores are multiplied by the square root of d: divide by it."),
        (
            (dots / math.sqrt(Tk)).softmax(-1),
            "the scores are scaled by the number of keys: use the square root of d, the width of a query.",
        ),
        (
            scores.softmax(-2),
            "the softmax runs over the queries (dim=-2): a query shares out its attention over the keys, dim=-1.",
        ),
        (
            scores.softmax(0),
            "the softmax runs over the batch (F.softmax without dim does this): it should run over the keys, dim=-1.",
        ),
        (scores, "the second result holds the raw scores: return the weights, after the softmax."),
        (dots, "the second result holds raw dot products: scale them, take the softmax and return that."),
    ]


def _wrong_masks(scores, mask, got):
    weights = scores.softmax(-1)
    wrong = [
        (weights, "the mask has no effect: block the scores where it is False, before the softmax."),
        (
            scores.masked_fill(mask, -torch.inf).softmax(-1),
            "the mask is inverted: True means that the query may attend, so block where it is False (~mask).",
        ),
        (
            weights * mask,
            "the mask is applied after the softmax, so the rows no longer sum to 1: put -inf into the scores first.",
        ),
        (
            scores.masked_fill(~mask, 0).softmax(-1),
            "blocked scores are set to 0, and exp(0) = 1 is still a weight: set them to -inf.",
        ),
        (
            scores.masked_fill(~mask, -1).softmax(-1),
            "blocked scores are set to -1, and exp(-1) is still a weight: set them to -inf.",
        ),
        ((scores + mask).softmax(-1), "the mask is added as 0 and 1: put -inf into the scores where it is False."),
    ]
    if isinstance(got, torch.Tensor) and got.shape == scores.shape:
        got = got.detach().cpu()
        if got.masked_fill(mask, 0).abs().max() > 1e-6:
            wrong.append((got, "blocked keys still get some weight: is -inf written into their scores?"))
    return wrong


def _expect_zeros_in_empty_rows(answer, q, k, v):
    mask = _MASK.clone()
    mask[1] = False
    blocked = (q @ k.mT / math.sqrt(q.size(-1))).masked_fill(~mask, -torch.inf)
    weights = blocked.softmax(-1).nan_to_num()
    advice = "A query with nothing to attend to gets zeros."
    wrong = [
        (blocked.softmax(-1), f"a fully blocked row is NaN, since its softmax is 0/0. {advice}"),
        (
            blocked.masked_fill(~mask, -1e9).softmax(-1),
            f"a fully blocked row spreads its attention evenly, since a large negative number is not -inf. {advice}",
        ),
    ]
    output, got = answer(q=q, k=k, v=v, mask=mask)
    answer.expect_tensor("the weights tensor with a fully blocked row", got, weights, wrong)
    answer.expect_tensor("the output with a fully blocked row", output, weights @ v, hint=advice)
    # Adding -inf passes so far, but its backward pass multiplies the NaN of the softmax by zero, which is NaN.
    stop = "masked_fill and torch.where stop the softmax's NaN on its way back, adding -inf does not."
    answer.expect_gradients("the output with a fully blocked row", output, hint=stop, q=q, k=k, v=v)


@exercise("order of time, padding, dtype, other sizes")
def causal_padding_mask(answer):
    """causal_padding_mask(lengths, size) -> bool (N, size, size).

    lengths: int64 (N,). True where query i (row) may attend to key j (column): j <= i and j < length.
    """
    for lengths, size in (([4, 2, 6], 6), ([1, 5], 5)):
        lengths = torch.tensor(lengths)
        causal = torch.ones(size, size, dtype=torch.bool).tril()
        real = torch.arange(size) < lengths[:, None]
        expected = causal & real[:, None, :]
        got = answer(lengths=lengths, size=size)
        answer.expect_tensor("the mask", got, expected, _wrong_text_masks(causal, real, lengths), "(N, size, size)")


def _wrong_text_masks(causal, real, lengths):
    keys, queries = real[:, None, :], real[:, :, None]
    one_more = (torch.arange(len(causal)) <= lengths[:, None])[:, None, :]
    return [
        (causal.tril(-1) & keys, "a query may attend to itself: keep the diagonal, j <= i."),
        (causal.mT & keys, "this is the upper triangle: rows are queries i, columns are keys j, and j <= i is tril."),
        (~(causal & keys), "the mask is inverted: True means that the query may attend."),
        (causal.expand(len(real), -1, -1), "padding is ignored: no query may attend to a key at j >= length."),
        (keys.expand(-1, len(causal), -1), "order is ignored: a query may not attend to a key after it, j > i."),
        (
            causal & queries,
            "padded queries (rows) are blocked, and a fully blocked row gives NaN: block padded keys (columns) only.",
        ),
        (causal & one_more, "one padded key is let through: the last real token is at length - 1, so j < length."),
        (real, "this is the padding mask alone, (N, size): combine it with the causal one to (N, size, size)."),
        (causal, "this is the causal mask alone, (size, size): combine it with the padding to (N, size, size)."),
    ]


@exercise("order of patches, order within a patch, pictures that are not square, both float types")
def patchify(answer):
    """patchify(images, patch) -> (N, P, C * patch * patch), the patches row by row, each in the order (C, row, column).

    With this order a Linear on the patches equals a Conv2d whose kernel and stride are the patch.
    """
    for (N, C, H, W), patch, dtype in (((2, 3, 4, 6), 2, torch.float32), ((1, 2, 9, 6), 3, torch.float64)):
        images = randn(N, C, H, W, seed=H, dtype=dtype)
        expected = _patches(images, patch)
        got = answer(images=images, patch=patch)
        wrong = _wrong_patches(images, patch, expected)
        answer.expect_tensor("the patch tensor", got, expected, wrong, axes="(N, P, C * patch * patch)")


def _patches(images, patch, axes="NhwCyx", split="NChywx"):
    """Patches with their axes in this order: h, w count the patches of a picture, y, x the pixels of a patch."""
    N, C, H, W = images.shape
    sizes = {"N": N, "C": C, "h": H // patch, "w": W // patch, "y": patch, "x": patch}
    grid = images.reshape([sizes[axis] for axis in split]).permute([split.index(axis) for axis in axes])
    return grid.reshape(N, -1, C * patch * patch)


def _wrong_patches(images, patch, expected):
    N, P, _ = expected.shape
    grid = expected.reshape(N, images.size(2) // patch, images.size(3) // patch, -1)
    return [
        (images.reshape(expected.shape), "a reshape alone scrambles the pixels: split both sides, permute, flatten."),
        (_patches(images, patch, "NwhCyx"), "the patches run down the columns: take them row by row, as one reads."),
        (_patches(images, patch, "NhwyxC"), "the channels come last in a patch: Conv2d has them first."),
        (
            _patches(images, patch, "NhwCxy"),
            "each patch is transposed: within a patch the row comes before the column.",
        ),
        (
            _patches(images, patch, split="NCyhxw"),
            "a patch collects pixels that lie far apart: split a side into (count, patch), not (patch, count).",
        ),
        (expected.mT, "the last two axes are swapped: F.unfold gives (N, C * patch * patch, P), so transpose it."),
        (grid, "the grid of patches is not flattened: join its rows and columns into one axis, P."),
        (
            expected.reshape(N, P, -1, patch, patch),
            "the patches are not flattened: join channel, row and column into one axis.",
        ),
    ]


@exercise("position, first <eot>, any vocabulary, gradients, both float types")
def pool_eot(answer):
    """pool_eot(states, tokens) -> (N, D), the state at the first position of each row's highest token id.

    states (N, T, D); tokens int64 (N, T), where <eot> has the highest id.
    """
    # The first two rows are padded with 0, as in openai/CLIP, the others with <eot>, as in transformers.
    small = torch.tensor([[8, 3, 5, 9, 0, 0], [8, 7, 9, 0, 0, 0], [8, 9, 9, 9, 9, 9], [8, 2, 2, 6, 9, 9]])
    for tokens, dtype in ((small, torch.float32), (small + 40 * (small == 9), torch.float64)):
        states = randn(4, 6, 3, seed=5, dtype=dtype).requires_grad_()
        expected = states[torch.arange(4), tokens.argmax(1)]
        got = answer(states=states, tokens=tokens)
        answer.expect_tensor("the pooled tensor", got, expected, _wrong_pools(states, tokens), axes="(N, D)")
    answer.expect_gradients("the pooled tensor", got, states=states)


def _wrong_pools(states, tokens):
    rows, eot = torch.arange(len(tokens)), tokens.argmax(1)
    until = (torch.arange(tokens.size(1)) <= eot[:, None])[..., None]
    return [
        (states[:, -1], "this is the last position, padding in a short caption: take that of the highest token id."),
        (states[:, 0], "this is the first position, <sot>: under the causal mask it has seen no other token."),
        (states.mean(1), "this is the mean over all positions: take the one state at the highest token id."),
        ((states * until).sum(1) / until.sum(1), "this is the mean up to <eot>: take the one state at <eot>."),
        (states.amax(1), "this is the maximum of the states: take the argmax of the tokens, then the state there."),
        (states[rows, eot - 1], "this is one position before <eot>: its state has not seen <eot> yet."),
        (states[rows, eot + 1], "this is one position after <eot>, which is padding."),
        (
            states[rows, (tokens != 0).sum(1) - 1],
            "this is the last token other than 0: where <eot> pads too, take its first position, as argmax does.",
        ),
        (
            states[:, eot],
            "states[:, positions] mixes all rows and positions: index with torch.arange(N) instead of the colon.",
        ),
    ]


@exercise("counts, neighbors, repeats within a word, ties")
def most_frequent_pair(answer):
    """most_frequent_pair(words) -> tuple of two symbols, the pair that byte-pair encoding merges next.

    words: {tuple of symbols: count}. Of several most frequent pairs, the smallest one in Python's order of tuples.
    """
    words = {tuple("pineapple"): 6, tuple("tomato"): 4, tuple("banana"): 1, tuple("canoe"): 1, tuple("a"): 9}
    got = answer(words=dict(words))
    answer.expect_value("the most frequent pair", got, ("t", "o"), _wrong_pairs(words, got))

    tied = {("l", "o", "w</w>"): 3, ("n", "e", "w</w>"): 3, ("b", "i", "g</w>"): 3}
    rule = "of equally frequent pairs return the smallest in Python's order of tuples."
    wrong = [
        (("l", "o"), f"a tie goes to the pair seen first: {rule}"),
        (("o", "w</w>"), f"a tie goes to the largest pair: {rule}"),
    ]
    answer.expect_value("the most frequent pair among equals", answer(words=dict(tied)), ("b", "i"), wrong)


def _count_pairs(words, pairs=pairwise):
    counts = Counter()
    for word, count in words.items():
        for pair in pairs(word):
            counts[pair] += count
    return counts


def _wrong_pairs(words, got):
    def like(counts, extreme=max):
        """What this way of counting returns; the learner's own pair where several are equal."""
        best = [pair for pair, count in counts.items() if count == extreme(counts.values())]
        return got if got in best else best[0]

    once = _count_pairs(words, lambda word: set(pairwise(word)))
    return [
        (
            like(_count_pairs(dict.fromkeys(words, 1))),
            "the counts of the words are ignored: a pair counts once per occurrence.",
        ),
        (like(_count_pairs(words), min), "this is the least frequent pair: return the most frequent one."),
        (like(once), "a pair counts once per word only, but 'tomato' holds ('t', 'o') twice."),
        (
            like(_count_pairs(words, lambda word: combinations(word, 2))),
            "symbols that are no neighbors are paired: take each symbol with the next one only.",
        ),
        ((("t", "o"), 8), "return the pair alone, without its count."),
        ("to", "return the two symbols as a tuple: joining them is the next step, the merge."),
    ]
