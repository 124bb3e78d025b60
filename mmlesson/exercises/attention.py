"""The exercises of the Attention lesson."""

import math
from collections import Counter
from itertools import combinations, pairwise

import torch

from mmlesson.exercises import DTYPES, exercise, randn, randomized, with_forward
from mmlesson.models import attention as model

# Attention --------------------------------------------------------------------------------------------------------


def _divided(by, **steps):
    """Attention whose dot products are divided by a function of d and the number of keys."""
    return _attention(lambda q, k: q @ k.mT / by(q.size(-1), k.size(-2)), **steps)


def _scaled(q, k):
    return q @ k.mT / math.sqrt(q.size(-1))


def _block(scores, mask):
    return scores.masked_fill(~mask, -torch.inf)


def _clear(weights, mask):
    return weights.masked_fill(~mask, 0)


def _output_and_weights(weights, v, scores):
    return weights @ v, weights


def _attention(score=_scaled, block=_block, dim=-1, clear=_clear, results=_output_and_weights):
    """Scaled dot-product attention, put together from steps that a mistake replaces."""

    def answer(q, k, v, mask=None):
        scores = score(q, k)
        if mask is None:
            return results(scores.softmax(dim), v, scores)
        scores = block(scores, mask)
        return results(clear(scores.softmax(dim), mask), v, scores)

    return answer


def _blocked(block):
    """Attention that blocks scores in this way, and clears no weights."""
    return _attention(block=block, clear=lambda weights, mask: weights)


def _filled(value):
    return _blocked(lambda scores, mask: scores.masked_fill(~mask, value))


def _with_scores(weights, v, scores):
    return weights @ v, scores


_ZEROS = "A query with nothing to attend to gets zeros."


@exercise(
    verified="scale, masks of all shapes, a fully blocked row, gradients, large scores, sides of one, both float types",
    returns={"the output": "(B, Tq, dv)", "the weights tensor": "(B, Tq, Tk)"},
    step=True,
    pace=lambda: {name: randn(128, 64, 32, seed=0) for name in "qkv"},
    correct=_attention(),
    mistakes={
        "the scores are not scaled: divide q @ k.mT by the square root of d.": _divided(lambda d, keys: 1),
        "the scores are divided by d: divide by its square root.": _divided(lambda d, keys: d),
        "the scores are multiplied by the square root of d: divide by it.": _divided(lambda d, keys: d**-0.5),
        "the scores are scaled by the number of keys: use the square root of d, the width of a query.": _divided(
            lambda d, keys: keys**0.5
        ),
        "the softmax runs over the queries (dim=-2): let it run over the keys, dim=-1.": _attention(dim=-2),
        "the softmax runs over the batch, as F.softmax without dim does: give it dim=-1, the keys.": _attention(dim=0),
        "the second result holds raw scores: return the weights, after the softmax.": _attention(results=_with_scores),
        "the second result holds raw dot products: scale them, take the softmax and return that.": _divided(
            lambda d, keys: 1, results=_with_scores
        ),
        "the two results are swapped: return (output, weights), in this order.": lambda *x: _attention()(*x)[::-1],
        "the mask has no effect: block the scores where it is False, before the softmax.": _blocked(lambda s, m: s),
        "the mask is inverted: True means that the query may attend.": _blocked(lambda s, m: _block(s, ~m)),
        "with a mask all weights are 0: one step blocks where the mask is False, the other where it is True.": (
            _attention(block=lambda s, m: _block(s, ~m))
        ),
        "the mask is applied after the softmax, so the rows no longer sum to 1: put -inf into the scores first.": (
            _attention(block=lambda s, m: s)
        ),
        "blocked scores are set to 0, and exp(0) = 1 is still a weight: set them to -inf.": _filled(0),
        "blocked scores are set to -1, and exp(-1) is still a weight: set them to -inf.": _filled(-1),
        "blocked keys still get some weight: is -inf written into their scores?": _filled(-10),
        "the mask is added as 0 and 1: put -inf into the scores where it is False.": _blocked(lambda s, m: s + m),
        "with a mask all is NaN (0 * inf, or a softmax over +inf): write -inf with masked_fill.": _filled(torch.inf),
        f"a fully blocked row is NaN, since its softmax is 0/0. {_ZEROS}": _filled(-torch.inf),
        f"a fully blocked row spreads its attention evenly, since a large negative number is not -inf. {_ZEROS}": (
            _filled(-1e9)
        ),
    },
)
def attention(answer):
    """attention(q, k, v, mask=None) -> (output, weights), scaled dot-product attention.

    q (B, Tq, d), k (B, Tk, d), v (B, Tk, dv); mask bool, broadcastable to (B, Tq, Tk), True where a query may attend.
    output (B, Tq, dv), weights (B, Tq, Tk), of the dtype of q; a query that may attend to nothing gets zeros in both.
    """
    # Each query may attend to some keys and not to others; each pair of them is allowed somewhere in the batch.
    rows = ((1, 0, 1, 1, 0), (0, 1, 1, 0, 1), (1, 1, 0, 0, 0)), ((0, 1, 0, 1, 1), (1, 0, 1, 1, 0), (0, 0, 1, 1, 1))
    mask, one, qkv = torch.tensor(rows).bool(), torch.ones(1, 1, 1), ("q", "k", "v")
    for dtype, d, dv in zip(DTYPES, (4, 7), (6, 2)):
        q, k, v = (randn(2, T, width, seed=T + width, dtype=dtype) for T, width in ((3, d), (5, d), (5, dv)))
        answer.case(q=q, k=k, v=v)
        answer.case("with a mask", q=q, k=k, v=v, mask=mask)
    q, k, v = q.float(), k.float(), v.float()
    answer.case("with mask=None", q=q, k=k, v=v, mask=None, gradients=qkv)
    answer.case("for a batch of one", q=q[:1], k=k[:1], v=v[:1])
    answer.case("for one query, one key and a width of 1", q=2 * one, k=one, v=3 * one)
    answer.case("with a mask", q=q, k=k, v=v, mask=mask, gradients=qkv)

    shapes = {"(Tq, Tk)": mask[0], "(1, Tq, Tk)": mask[:1], "(B, 1, Tk)": mask[:, :1], "(Tk,)": mask[0, 0]}
    for axes, other in shapes.items():
        hint = f"A mask of shape {axes} broadcasts to (B, Tq, Tk)."
        answer.case(f"with a mask of shape {axes}", q=q, k=k, v=v, mask=other, hint=hint)
    answer.case("with as many queries as keys and a mask of shape (Tk,)", q=k, k=k, v=v, mask=mask[0, 0], hint=hint)
    blocked = mask.clone()
    blocked[0, 1] = False
    answer.case("with a fully blocked row", q=q, k=k, v=v, mask=blocked, hint=_ZEROS)
    double = (x.double() for x in (q, k, v))
    answer.case("with a blocked row, in float64", **dict(zip("qkv", double)), mask=blocked[0], hint=_ZEROS)
    hint = f"A mask of shape (B, Tq, 1) blocks whole rows. {_ZEROS}"
    answer.case("with a mask of shape (B, Tq, 1)", q=q, k=k, v=v, mask=blocked[:, :, 1:2], hint=hint)
    answer.case("where all keys are blocked", q=q, k=k, v=v, mask=torch.zeros(5).bool(), hint=_ZEROS)
    answer.case("with its only key blocked", q=one, k=one, v=one, mask=one < 0, hint=_ZEROS)
    stop = "masked_fill and torch.where stop the softmax's NaN on its way back, adding -inf does not."
    answer.case("with a fully blocked row", q=q, k=k, v=v, mask=blocked, gradients=qkv, hint=stop)
    # The allowed scores are near 1,000 in one row and near -1,000 in the other, and a blocked one is far above them.
    q = torch.tensor([[[1000.0, 1], [-1000, 1]]], dtype=torch.float64)
    k = math.sqrt(2) * torch.tensor([[[1.0, 0], [1, 1], [1, 2], [3, 0], [-3, 0]]], dtype=torch.float64)
    mask = torch.tensor([True, True, True, False, False])
    hint = (
        "Scores lie near 1,000 in one row and near -1,000 in the other: subtract each row's maximum before exp, as "
        "softmax does, and block with -inf before it."
    )
    v = randn(1, 5, 3, seed=1, dtype=q.dtype)
    answer.case("for scores far from 0", q=q, k=k, v=v, mask=mask, hint=hint, gradients=qkv)


# A mask for captions ----------------------------------------------------------------------------------------------


def _mask(allowed=lambda i, j, n: (j <= i) & (j < n), finish=lambda mask: mask):
    """The mask from a rule for query i, key j and length n."""

    def answer(lengths, size):
        j = torch.arange(size, device=lengths.device)
        i = j[:, None]
        return finish(allowed(i, j, lengths[:, None, None]).expand(len(lengths), size, size))

    return answer


@exercise(
    verified="order of time, padding, dtype, lengths that fill the size or not, one caption, one token",
    returns={"the mask": "(N, size, size)"},
    correct=_mask(),
    mistakes={
        "a query may attend to itself: keep the diagonal, j <= i.": _mask(lambda i, j, n: (j < i) & (j < n)),
        "this is the upper triangle: j <= i, with keys as columns, is tril.": _mask(lambda i, j, n: (j >= i) & (j < n)),
        "rows and columns are swapped: the queries are the rows.": _mask(lambda i, j, n: (i <= j) & (i < n)),
        "the mask is inverted: True means that the query may attend.": _mask(lambda i, j, n: ~((j <= i) & (j < n))),
        "padding is ignored: no query may attend to a key at j >= length.": _mask(lambda i, j, n: j <= i),
        "order is ignored: a query may not attend to a key after it, j > i.": _mask(lambda i, j, n: j < n),
        "one of the two conditions is enough here: combine them with &.": _mask(lambda i, j, n: (j <= i) | (j < n)),
        "one padded key is let through: real keys have j < length.": _mask(lambda i, j, n: (j <= i) & (j <= n)),
        "the last real key is blocked: real keys have j < length.": _mask(lambda i, j, n: (j <= i) & (j < n - 1)),
        "padded queries (rows) are blocked, and a fully blocked row gives NaN: block padded keys (columns) only.": (
            _mask(lambda i, j, n: (j <= i) & (i < n))
        ),
        "padded tokens attend to themselves: no query may attend to padding, its own position included.": _mask(
            lambda i, j, n: (j <= i) & (j < n) | (i == j)
        ),
        "this is the padding mask alone, (N, size): combine it with the causal one to (N, size, size).": _mask(
            lambda i, j, n: j < n, finish=lambda mask: mask[:, 0]
        ),
        "this is the causal mask alone, (size, size): combine it with the padding to (N, size, size).": _mask(
            lambda i, j, n: j <= i, finish=lambda mask: mask[0]
        ),
        "the mask is as long as the longest caption: make it size x size, padding included.": lambda lengths, size: (
            _mask()(lengths, int(lengths.max()))
        ),
    },
)
def causal_padding_mask(answer):
    """causal_padding_mask(lengths, size) -> bool (N, size, size).

    lengths: int64 (N,), from 1 to size. True where query i (row) may attend to key j (column): j <= i and j < length.
    """
    # Some captions, none, and all fill the size; as many captions as tokens; one caption, one token.
    for lengths, size in (([4, 2, 6], 6), ([3, 1, 3, 2], 7), ([4, 4], 4), ([2, 3, 1], 3), ([2], 4), ([1], 1)):
        answer.case(f"for lengths {lengths} and size {size}", lengths=torch.tensor(lengths), size=size)


# Layers -----------------------------------------------------------------------------------------------------------


def run_and_record(layer, *inputs):
    """What a layer returns, and the attention weights that `recording` keeps of it; None if it keeps none."""
    with model.recording(layer) as weights:
        layer(*inputs)
    return layer(*inputs), weights[0] if weights else None


def _heads(attend=lambda self, q, k, v, mask: self.attend(q, k, v, mask), order="qkv", finish=None, split=None):
    """Multi-head attention, put together from steps that a mistake replaces."""

    def forward(self, x, mask=None):
        parts = dict(zip(order, self.in_proj(x).chunk(3, dim=-1)))
        q, k, v = ((split or model.split_heads)(parts[name], self.heads) for name in "qkv")
        return (finish or _merged)(self, attend(self, q, k, v, mask), x)

    return with_forward(model.MultiHeadAttention, forward)


def _merged(layer, heads, x):
    return layer.out_proj(model.merge_heads(heads))


def _without_transpose(y, heads):
    """(N, T, width) cut straight into the shape (N, heads, T, d)."""
    return y.reshape(len(y), heads, y.size(1), -1)


_BLOCK = "x + attention of the norm, then x + MLP of the norm"


def _cases(answer):
    """The cases of a layer, with masks and without."""
    mask = torch.ones(5, 5).bool().tril()
    for dtype, (N, T, width, heads) in zip(
        (*DTYPES, *DTYPES), ((2, 5, 8, 2), (3, 5, 12, 3), (1, 1, 2, 2), (4, 2, 6, 1))
    ):
        x = randn(N, T, width, seed=T + width, dtype=dtype)
        told = f"for x {(N, T, width)} and {heads} head{'s'[: heads > 1]}"
        answer.case(told, width=width, heads=heads, x=x, mask=None)
        if T == 5:
            answer.case(f"{told}, with a causal mask", width=width, heads=heads, x=x, mask=mask)
    x = randn(2, 5, 8, seed=3)
    answer.case("with a causal mask", width=8, heads=2, x=x, mask=mask, gradients=("x",))


@exercise(
    verified="heads, order, masks, the last projection, recording, gradients, sides of one, both float types",
    returns={"the output": "(N, T, width)", "the recorded weights": "(N, heads, T, T)"},
    step=True,
    use=lambda cls, width, heads, x, mask: run_and_record(randomized(cls(width=width, heads=heads), x), x, mask),
    pace=lambda: dict(width=64, heads=4, x=randn(64, 64, 64, seed=0), mask=None),
    correct=model.MultiHeadAttention,
    mistakes={
        "the mask has no effect: hand it on to self.attend.": _heads(lambda self, q, k, v, mask: self.attend(q, k, v)),
        "the last projection is missing: send the merged heads through self.out_proj.": _heads(
            finish=lambda self, heads, x: model.merge_heads(heads)
        ),
        "the heads are not merged but averaged: put them side by side with merge_heads.": _heads(
            finish=lambda self, heads, x: self.out_proj(heads.mean(dim=1).repeat(1, 1, self.heads))
        ),
        "the heads are merged without moving their axis back: (N, heads, T, d) -> (N, T, heads, d) -> (N, T, width).": (
            _heads(finish=lambda self, heads, x: self.out_proj(heads.reshape(x.shape)))
        ),
        "a reshape alone mixes tokens and heads: cut the channels into (heads, d), then swap axes 1 and 2.": _heads(
            split=_without_transpose
        ),
        "there is one head: split queries, keys and values with split_heads.": _heads(
            split=lambda y, heads: y[:, None]
        ),
        "queries and keys are swapped: in_proj gives queries, keys, values, in this order.": _heads(order="kqv"),
        "keys and values are swapped: in_proj gives queries, keys, values, in this order.": _heads(order="qvk"),
        "queries and values are swapped: in_proj gives queries, keys, values, in this order.": _heads(order="vkq"),
        "the keys serve as values, too: use all three parts of in_proj.": _heads(
            lambda self, q, k, v, mask: self.attend(q, k, k, mask)
        ),
        "the scores are divided by the square root of d twice: self.attend does it already.": _heads(
            lambda self, q, k, v, mask: self.attend(q / q.size(-1) ** 0.5, k, v, mask)
        ),
        "the input is added to the result: that is the block's job.": _heads(
            finish=lambda self, heads, x: x + _merged(self, heads, x)
        ),
        "nothing is recorded: let self.attend do the attention, so that `recording` can see the weights.": _heads(
            lambda self, q, k, v, mask: model.AttentionLayer().attend(q, k, v, mask)
        ),
    },
)
def MultiHeadAttention(answer):
    """MultiHeadAttention.forward(x, mask=None) -> (N, T, width): project, split, attend, merge, project.

    x (N, T, width); mask as in attention, or None. `self.attend` does the attention, so that `recording` sees it.
    """
    _cases(answer)


def _mlp_first(self, x, mask=None):
    x = x + self.mlp(self.ln_2(x))
    return x + self.attn(self.ln_1(x), mask)


def _transformer_block(
    attended=lambda block, x, mask: x + block.attn(block.ln_1(x), mask),
    finished=lambda block, x: x + block.mlp(block.ln_2(x)),
):
    """A block, put together from steps that a mistake replaces."""
    return with_forward(model.Block, lambda self, x, mask=None: finished(self, attended(self, x, mask)))


@exercise(
    verified="both additions, both norms, masks, gradients, sides of one, both float types",
    returns={"the output": "(N, T, width)"},
    step=True,
    use=lambda cls, width, heads, x, mask: randomized(cls(width=width, heads=heads), x)(x, mask),
    pace=lambda: dict(width=64, heads=4, x=randn(64, 64, 64, seed=0), mask=None),
    correct=model.Block,
    mistakes={
        f"nothing is added: a block is {_BLOCK}.": _transformer_block(
            lambda block, x, mask: block.attn(block.ln_1(x), mask), lambda block, x: block.mlp(block.ln_2(x))
        ),
        f"the attention is not added to its input: a block is {_BLOCK}.": _transformer_block(
            lambda block, x, mask: block.attn(block.ln_1(x), mask)
        ),
        f"the MLP is not added to its input: a block is {_BLOCK}.": _transformer_block(
            finished=lambda block, x: block.mlp(block.ln_2(x))
        ),
        "the norms come after the additions, as in the first transformers: CLIP normalizes what enters a branch.": (
            _transformer_block(
                lambda block, x, mask: block.ln_1(x + block.attn(x, mask)),
                lambda block, x: block.ln_2(x + block.mlp(x)),
            )
        ),
        "the norms are missing: each branch starts with its norm.": _transformer_block(
            lambda block, x, mask: x + block.attn(x, mask), lambda block, x: x + block.mlp(x)
        ),
        "the attention's norm is missing: send self.ln_1(x) into self.attn.": _transformer_block(
            lambda block, x, mask: x + block.attn(x, mask)
        ),
        "the MLP's norm is missing: send self.ln_2(x) into self.mlp.": _transformer_block(
            finished=lambda block, x: x + block.mlp(x)
        ),
        "ln_1 serves twice: the MLP has its own norm, ln_2.": _transformer_block(
            finished=lambda block, x: x + block.mlp(block.ln_1(x))
        ),
        "the two norms are swapped: ln_1 stands before the attention, ln_2 before the MLP.": _transformer_block(
            lambda block, x, mask: x + block.attn(block.ln_2(x), mask), lambda block, x: x + block.mlp(block.ln_1(x))
        ),
        "the mask has no effect: hand it on to self.attn.": _transformer_block(
            lambda block, x, mask: x + block.attn(block.ln_1(x))
        ),
        "the branches run side by side: the MLP works on what the attention has added to.": _transformer_block(
            lambda block, x, mask: x + block.attn(block.ln_1(x), mask) + block.mlp(block.ln_2(x)), lambda block, x: x
        ),
        "the MLP runs before the attention: the attention comes first.": with_forward(model.Block, _mlp_first),
        "the normalized x is added to, and the residual stream is lost: add to x itself.": _transformer_block(
            lambda block, x, mask: (y := block.ln_1(x)) + block.attn(y, mask),
            lambda block, x: (y := block.ln_2(x)) + block.mlp(y),
        ),
    },
)
def Block(answer):
    """Block.forward(x, mask=None) -> (N, T, width): pre-LN attention, then the pre-LN MLP, each added to its input.

    x (N, T, width); mask as in attention, or None.
    """
    _cases(answer)


# One vector for a caption -----------------------------------------------------------------------------------------


def _pool(position):
    """The state of each row at one position, a function of the tokens."""
    return lambda states, tokens: states[torch.arange(len(tokens)), position(tokens)]


def _mean_up_to_eot(states, tokens):
    return torch.stack([rows[: ids.argmax() + 1].mean(dim=0) for rows, ids in zip(states, tokens)])


@exercise(
    verified="position, first <eot>, any vocabulary, gradients, one caption, one token, both float types",
    returns={"the pooled tensor": "(N, D)"},
    step=True,
    correct=_pool(lambda tokens: tokens.argmax(dim=1)),
    mistakes={
        "this is the last position, which is padding in a short caption: take that of <eot>.": lambda s, t: s[:, -1],
        "this is the first position, <sot>: under the causal mask it has seen no other token.": lambda s, t: s[:, 0],
        "this is the mean over all positions: take the one state at the highest token id.": lambda s, t: s.mean(dim=1),
        "this is the maximum of the states: take the state at the argmax of the tokens.": lambda s, t: s.amax(dim=1),
        "this is the mean up to <eot>: take the one state at <eot>.": _mean_up_to_eot,
        "this is one position before <eot>: its state has not seen <eot> yet.": _pool(lambda t: t.argmax(1) - 1),
        "this is one position after <eot>, which is padding.": _pool(lambda t: t.argmax(1) + 1),
        "this is the last token other than 0: where <eot> pads too, take its first position, as argmax does.": _pool(
            lambda t: (t != 0).sum(1) - 1
        ),
        "this is the last position of the highest id: the first one counts, as argmax finds it.": _pool(
            lambda t: t.size(1) - 1 - t.flip(1).argmax(1)
        ),
        "this is one row for each position of the highest id: a caption gets one row, that of the first.": (
            lambda s, t: s[t == t.amax(dim=1, keepdim=True)]
        ),
        "the batch's highest id is taken: each row has its own.": _pool(lambda t: (t == t.max()).int().argmax(1)),
        "this is the position of the lowest id: take that of the highest.": _pool(lambda t: t.argmin(1)),
        "each row is read at all rows' positions: index with torch.arange(N) and positions, both of shape (N,).": (
            lambda s, t: s[:, t.argmax(1)]
        ),
    },
)
def pool_eot(answer):
    """pool_eot(states, tokens) -> (N, D), the state at the first position of each row's highest token id.

    states (N, T, D); tokens int64 (N, T), where <eot> has the highest id.
    """
    # Padded with 0, as in openai/CLIP, and with <eot>, as in transformers; in the first row another id is the highest.
    rows = [2, 6, 3, 6, 5, 0], [8, 7, 9, 0, 0, 0], [8, 9, 9, 9, 9, 9], [8, 2, 9, 5, 9, 4], [8, 3, 5, 9, 0, 0]
    tokens, start_or_end = torch.tensor(rows), torch.tensor([[8, 2, 9], [9, 8, 2]])
    large = torch.tensor([[49406, 767, 736, 320, 7, 49407], [49406, 49407, 49407, 49407, 49407, 49407]])
    for dtype, ids in zip(DTYPES, (tokens, large)):
        answer.case(states=randn(*ids.shape, 3, seed=5, dtype=dtype), tokens=ids)
    states = randn(5, 6, 3, seed=6)
    answer.case(states=states, tokens=tokens, gradients=("states",))
    answer.case("where <eot> comes last or first", states=states[:2, :3], tokens=start_or_end)
    answer.case("of as many captions as tokens", states=states[:3, :3], tokens=tokens[:3, 1:4])
    answer.case("of one caption", states=states[:1], tokens=tokens[:1])
    answer.case("of one caption with one token and one number", states=states[:1, :1, :1], tokens=tokens[:1, :1])


# The next merge ---------------------------------------------------------------------------------------------------


def _smallest(counts):
    return min(counts, key=lambda pair: (-counts[pair], pair))


def _pair(pairs=pairwise, weight=lambda count: count, add=lambda old, new: old + new, choose=_smallest):
    """The most frequent pair, put together from steps that a mistake replaces."""

    def answer(words):
        counts = Counter()
        for word, count in words.items():
            for pair in pairs(word):
                counts[pair] = add(counts[pair], weight(count))
        return choose(counts)

    return answer


def _tie(choose):
    """Settles a tie by this function of the list of the most frequent pairs, in the order in which they were seen."""
    return _pair(choose=lambda counts: choose([pair for pair in counts if counts[pair] == max(counts.values())]))


def _without_overlaps(word):
    last = None
    for pair in pairwise(word):
        last = None if pair == last else pair
        if last:
            yield last


_RULE = "Of equally frequent pairs return the smallest in Python's order of tuples."


@exercise(
    verified="counts, neighbors, repeats within a word, overlaps, symbols of several letters, ties, a single pair",
    returns={"the most frequent pair": ""},
    correct=_pair(),
    mistakes={
        "the counts of the words are ignored: a pair counts once per occurrence.": _pair(weight=lambda count: 1),
        "this is the least frequent pair: return the most frequent one.": _pair(choose=lambda c: min(c, key=c.get)),
        "a pair counts once per word only, but p-a-p-a-y-a holds ('p', 'a') twice.": _pair(lambda w: set(pairwise(w))),
        "symbols that are no neighbors are paired: pair each with the next only.": _pair(lambda w: combinations(w, 2)),
        "the last pair of a word is left out: n symbols have n - 1 pairs.": _pair(lambda w: list(pairwise(w))[:-1]),
        "the first pair of a word is left out: n symbols have n - 1 pairs.": _pair(lambda w: list(pairwise(w))[1:]),
        "a word's last symbol is paired with its first: leave that out.": _pair(lambda w: zip(w[-1:] + w[:-1], w)),
        "pairs that overlap count once, but z-z-z holds ('z', 'z') at two places.": _pair(_without_overlaps),
        "the order within a pair is ignored: ('p', 'a') and ('a', 'p') are different pairs.": _pair(
            lambda w: (tuple(sorted(pair)) for pair in pairwise(w))
        ),
        "letters are paired, but a symbol may have several: take the elements of the tuple, not of its joined text.": (
            _pair(lambda w: pairwise("".join(w)))
        ),
        "the count of a pair is overwritten by that of a later one: add them up.": _pair(add=lambda old, new: new),
        "the two symbols are in the wrong order: keep that of the word.": _pair(choose=lambda c: _smallest(c)[::-1]),
        "return the pair alone, without its count.": _pair(choose=lambda c: c.most_common(1)[0]),
        "return the pair as a tuple: joining it is the next step.": _pair(choose=lambda c: "".join(_smallest(c))),
        f"a tie goes to the pair seen first. {_RULE}": _tie(lambda pairs: pairs[0]),
        f"a tie goes to the pair seen last. {_RULE}": _tie(lambda pairs: pairs[-1]),
        f"a tie goes to the largest pair. {_RULE}": _tie(max),
        f"a tie goes to the pair whose joined text comes first. {_RULE}": _tie(lambda pairs: min(pairs, key="".join)),
    },
)
def most_frequent_pair(answer):
    """most_frequent_pair(words) -> tuple of two symbols, the pair that byte-pair encoding merges next.

    words: {tuple of symbols: count}, with at least one pair. Of several most frequent pairs, the smallest one in
    Python's order of tuples.
    """

    def case(counts, **more):
        words = {tuple(word.split("-")): count for word, count in counts.items()}
        told = ", ".join(f"{count} x {word}" for word, count in counts.items())
        answer.case(f"of {told}", words=words, **more)

    # None of these has a tie, not even in the counts of the mistakes above, and each tells other mistakes apart.
    case({"z-z-z": 7, "e-e-e": 1, "tr-e-e": 3, "p-a-p-a-y-a": 6})
    case({"b-e-e-t-l-e": 5, "o-w</w>": 2, "ee-e": 9, "z-z-z": 6, "t-re-e": 7})
    case({"m-m-m": 6, "tr-e-e": 8, "o-w</w>": 4, "e-e-e": 3})
    case({"e-e-e": 9, "l-o-w</w>": 7, "o-w</w>": 6, "tr-e-e": 1})
    case({"ee-e": 5, "e": 1, "z-z-z": 2})
    case({"e": 9, "ee-e": 2, "z": 1, "z-z-z": 3})
    case({"a-b-a-c": 3, "b-a-x": 2, "a-c": 5, "d-a-c": 1})
    case({"m-m": 1})
    # Ties: the smallest pair comes first neither in its word nor among the words, has the longer symbols, is written
    # with a capital letter, and is the start of another.
    case({"l-o-w</w>": 3, "z-b-i-g</w>": 3, "n-e-w</w>": 3}, hint=_RULE)
    case({"ab-a": 2, "a-c": 1, "a-bc": 2, "a-c</w>": 1, "a-c-c": 1}, hint=_RULE)
    case({"a-x": 2, "Bo-a": 1, "Bo-a-b": 1, "b-a": 2}, hint=_RULE)
    case({"a!-a": 2, "a-x</w>": 2}, hint=_RULE)
    case({"b-a": 2, "a-z": 2}, hint=_RULE)
    different = "('a', 'bc') and ('ab', 'c') are two pairs: count the tuples, not their joined text."
    case({"a-bc": 2, "ab-c": 2, "x-y": 3}, hint=different)
