"""Answers to the Attention lesson's exercises, written independently of its checks."""

import math
from collections import Counter
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from mmlesson.models import attention as model

WRONG, RIGHT = {}, {}


def by_sdpa(q, k, v, mask=None):
    """F.scaled_dot_product_attention gives no weights, but attending to an identity matrix shows them."""
    identity = torch.eye(k.size(1), dtype=q.dtype).expand(k.size(0), -1, -1)
    weights = F.scaled_dot_product_attention(q, k, identity, attn_mask=mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask), weights


def by_where(q, k, v, mask=None, blocked=-1e9):
    """A large negative number, then zeros; the heart of BERT's attention."""
    mask = torch.ones(k.size(1), dtype=torch.bool) if mask is None else mask
    scores = torch.einsum("bqd,bkd->bqk", q * q.size(-1) ** -0.5, k)
    weights = torch.where(mask, scores, blocked).softmax(-1) * mask
    return torch.einsum("bqk,bkv->bqv", weights, v), weights


def by_exp(q, k, v, mask=None, maximum=lambda scores: scores.amax(-1, keepdim=True)):
    scores = q @ k.mT / math.sqrt(q.size(-1))
    allowed = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand(scores.shape)
    scores = scores.masked_fill(~allowed, torch.finfo(q.dtype).min)
    weights = (scores - maximum(scores)).exp() * allowed
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)
    return weights @ v, weights


def adds_minus_infinity(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.size(-1))
    if mask is not None:
        scores = scores + torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1).nan_to_num()
    return weights @ v, weights


def detaches_the_weights(q, k, v, mask=None):
    output, weights = by_sdpa(q, k, v, mask)
    return output, weights.detach()


WRONG["attention"] = {
    "got a Tensor": lambda *inputs: by_sdpa(*inputs)[0],
    "the output has shape (2, 3, 5); expected (2, 3, 6) = (B, Tq, dv)": lambda *inputs: 2 * by_sdpa(*inputs)[1:],
    "expected torch.float64": lambda q, *inputs: tuple(x.float() for x in by_sdpa(q, *inputs)),
    "the gradient that it sends to q is NaN or infinite. masked_fill and torch.where": adds_minus_infinity,
    "no gradient flows from the weights tensor with mask=None to q": detaches_the_weights,
    "for scores far from 0 has 3 of 6 values that are NaN": lambda *inputs: by_exp(*inputs, maximum=lambda scores: 0),
    "subtract each row's maximum": lambda *inputs: by_exp(*inputs, maximum=torch.max),
    "block with -inf": lambda *inputs: by_where(*inputs, blocked=-100.0),
}
RIGHT["attention"] = {"SDPA": by_sdpa, "where": by_where, "exp and sum": by_exp}


def mask_by_slices(lengths, size, diagonal=1):
    blocked = torch.ones(len(lengths), size, size).triu(diagonal).bool()
    for example, length in zip(blocked, lengths, strict=True):
        example[:, length:] = True
    return ~blocked


def mask_by_negative_slices(lengths, size):
    mask = torch.ones(len(lengths), size, size).tril().bool()
    for example, length in zip(mask, lengths, strict=True):
        example[:, length - size :] = False
    return mask


WRONG["causal_padding_mask"] = {
    "keep the diagonal": lambda lengths, size: mask_by_slices(lengths, size, diagonal=0),
    "has dtype torch.float32; expected torch.bool": lambda *inputs: mask_by_slices(*inputs).float(),
    "has shape (3, 1, 6, 6); expected (3, 6, 6) = (N, size, size)": lambda *inputs: mask_by_slices(*inputs)[:, None],
    "for lengths [4, 2, 6] and size 6 differ, first at index (2, 0, 0): expected True": mask_by_negative_slices,
    "changes its input lengths in place": lambda lengths, size: mask_by_slices(lengths.sub_(1), size),
}
RIGHT["causal_padding_mask"] = {
    "triu and slices": mask_by_slices,
    "the smaller limit": lambda lengths, size: (
        torch.arange(size) < torch.minimum(lengths[:, None], torch.arange(size) + 1)[:, :, None]
    ),
}


def pool_by_gather(states, tokens):
    return states.gather(1, tokens.argmax(1)[:, None, None].expand(-1, 1, states.size(2)))


def pool_by_loops(states, tokens, find=max):
    return torch.stack([s[t.index(find(t))] for s, t in zip(states, tokens.tolist(), strict=True)])


WRONG["pool_eot"] = {
    "the pooled tensor has shape (5, 1, 3); expected (5, 3) = (N, D)": pool_by_gather,
    "of one caption has shape (3,); expected (1, 3)": lambda *inputs: pool_by_gather(*inputs).squeeze(),
    "the position of the lowest id": lambda *inputs: pool_by_loops(*inputs, find=min),
    "first at index (0, 0)": lambda *inputs: pool_by_loops(*inputs, find=lambda ids: 9 if 9 in ids else ids[0]),
    "no gradient flows from the pooled tensor to states": lambda s, t: torch.tensor(pool_by_loops(s, t).tolist()).to(s),
    "raised IndexError": lambda states, tokens: states[torch.arange(len(tokens)), tokens.amax(1)],
}
RIGHT["pool_eot"] = {"gather": lambda *inputs: pool_by_gather(*inputs).squeeze(1), "loops": pool_by_loops}


def pair_by_sorting(words, key=lambda pair: pair):
    counts = Counter(pair for word, count in words.items() for pair in pairwise(word) for _ in range(count))
    return sorted(counts, key=lambda pair: (-counts[pair], key(pair)))[0]


def pair_by_slices(words, skip=lambda pair: False):
    counts = {}
    for word in words:
        for pair in (word[i : i + 2] for i in range(len(word) - 1)):
            counts[pair] = counts.get(pair, 0) + (not skip(pair)) * words[word]
    return min(pair for pair in counts if counts[pair] == max(counts.values()))


WRONG["most_frequent_pair"] = {
    "is ('p', 'a'); expected ('z', 'z')": lambda words: pair_by_slices(words, skip=lambda pair: pair[0] == pair[1]),
    "should be a tuple, but is ['z', 'z'], of type list": lambda words: list(pair_by_sorting(words)),
    "expected ('b', 'i'). Of equally frequent pairs": lambda words: pair_by_sorting(words, lambda pair: pair[::-1]),
    "expected ('a', 'bc'). Of equally frequent pairs": lambda words: pair_by_sorting(words, lambda pair: pair[0]),
    "expected ('Bo', 'a'). Of equally frequent pairs": lambda words: pair_by_sorting(words, lambda p: str(p).lower()),
    "changes its input words in place": lambda words: [pair_by_sorting(words), words.clear()][0],
}
RIGHT["most_frequent_pair"] = {"sorted": pair_by_sorting, "slices": pair_by_slices}


# Layers


class ByEinsum(model.MultiHeadAttention):
    def forward(self, x, mask=None):
        qkv = self.in_proj(x).reshape(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return torch.einsum("nhtd,whd->ntw", self.attend(*qkv, mask), self._last()) + self.out_proj.bias

    def _last(self):
        return self.out_proj.weight.unflatten(1, (self.heads, -1))


class BySlices(model.MultiHeadAttention):
    def forward(self, x, mask=None):
        d = x.size(-1) // self.heads
        q, k, v = (torch.stack(y.split(d, dim=-1), dim=1) for y in self.in_proj(x).tensor_split(3, dim=-1))
        return self.out_proj(torch.cat(list(self.attend(q, k, v, mask).unbind(1)), dim=-1))


class WithoutItsOwnParts(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x, mask=None):
        return self.attention(x, x, x, attn_mask=None if mask is None else ~mask)[0]


class Reshaped(model.MultiHeadAttention):
    def forward(self, x, mask=None):
        q, k, v = (y.view(len(x), self.heads, x.size(1), -1) for y in self.in_proj(x).chunk(3, -1))
        return self.out_proj(self.attend(q, k, v, mask).view(x.shape))


class WrongChunks(model.MultiHeadAttention):
    def forward(self, x, mask=None):
        q, k, v = self.in_proj(x).unflatten(-1, (-1, 3)).unbind(-1)
        q, k, v = (model.split_heads(y, self.heads) for y in (q, k, v))
        return self.out_proj(model.merge_heads(self.attend(q, k, v, mask)))


WRONG["MultiHeadAttention"] = {
    "let self.attend do the attention": WithoutItsOwnParts,
    "the output": WrongChunks,
    "raised RuntimeError in the line `q, k, v = (y.view(": Reshaped,
}
RIGHT["MultiHeadAttention"] = {"einsum": ByEinsum, "slices": BySlices}


class InTwoSteps(model.Block):
    def forward(self, x, mask=None):
        attended = x + self.attn(self.ln_1(x), mask=mask)
        return attended + self.mlp(self.ln_2(attended))


class Summed(model.Block):
    def forward(self, x, mask=None):
        branches = [self.attn(self.ln_1(x), mask)]
        branches.append(self.mlp(self.ln_2(x + branches[0])))
        return torch.stack([x, *branches]).sum(dim=0)


class InPlace(model.Block):
    def forward(self, x, mask=None):
        x += self.attn(self.ln_1(x), mask)
        x += self.mlp(self.ln_2(x))
        return x


class Doubled(model.Block):
    def forward(self, x, mask=None):
        x = x + self.attn(self.ln_1(x), mask)
        return x + x + self.mlp(self.ln_2(x))


class Tuple(model.Block):
    def forward(self, x, mask=None):
        return self.attn(self.ln_1(x), mask), self.mlp(self.ln_2(x))


WRONG["Block"] = {"changes its input x in place": InPlace, "the output": Doubled, "but is a tuple": Tuple}
RIGHT["Block"] = {"two steps": InTwoSteps, "a sum": Summed}
