"""Mutation tests of mmlesson.check: wrong answers must fail with the right sentence, correct variants must pass.

WRONG[exercise] maps a phrase of the expected sentence to an answer that deserves it, RIGHT[exercise] a description to a
correct answer. Run with -s to see the counts.
"""

import math
import subprocess
import sys
from collections import Counter
from itertools import combinations, pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmlesson import scores
from mmlesson.check import Answer, CheckFailed, attention, clip

WRONG, RIGHT, MODULES = {}, {}, {}


# Lesson 01 ---------------------------------------------------------------------------------------------------------

MODULES["attention"] = attention


def scaled(q, k):
    return q @ k.mT / math.sqrt(q.size(-1))


def block(scores, mask):
    return scores.masked_fill(~mask, -torch.inf)


def softmax_or_zeros(scores):
    return scores.softmax(-1).nan_to_num()


def attend(scores=scaled, block=block, normalize=softmax_or_zeros, after=lambda weights, mask: weights):
    """Attention put together from steps that a mutant can replace."""

    def answer(q, k, v, mask=None):
        s = scores(q, k)
        weights = normalize(s if mask is None else block(s, mask))
        weights = weights if mask is None else after(weights, mask)
        return weights @ v, weights

    return answer


def attention_in_place(q, k, v, mask=None):
    q /= math.sqrt(q.size(-1))
    return attend(scores=lambda q, k: q @ k.mT)(q, k, v, mask)


def attention_without_gradient(q, k, v, mask=None):
    with torch.no_grad():
        return attend()(q, k, v, mask)


def attention_forgets_return(q, k, v, mask=None):
    if mask is None:
        return attend()(q, k, v)


def attention_by_loops(q, k, v, mask=None):
    weights = torch.zeros(q.size(0), q.size(1), k.size(1), dtype=q.dtype)
    allowed = torch.ones_like(weights, dtype=torch.bool) if mask is None else mask.expand(weights.shape)
    for b in range(q.size(0)):
        for i in range(q.size(1)):
            keys = [j for j in range(k.size(1)) if allowed[b, i, j]]
            if keys:
                row = torch.stack([q[b, i] @ k[b, j] for j in keys]) / math.sqrt(q.size(2))
                weights[b, i, keys] = row.softmax(0)
    return weights @ v, weights


def attention_by_einsum(q, k, v, mask=None):
    scores = torch.einsum("bqd,bkd->bqk", q * q.size(-1) ** -0.5, k)
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf)
        empty = ~mask.any(-1, keepdim=True)
        scores = scores.masked_fill(empty, 0)
    weights = torch.softmax(scores, dim=-1)
    if mask is not None:
        weights = weights.masked_fill(empty, 0)
    return torch.einsum("bqk,bkv->bqv", weights, v), weights


def attention_by_sdpa(q, k, v, mask=None):
    """F.scaled_dot_product_attention gives no weights, but attending to an identity matrix shows them."""
    identity = torch.eye(k.size(1), dtype=q.dtype).expand(k.size(0), -1, -1)
    weights = F.scaled_dot_product_attention(q, k, identity, attn_mask=mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask), weights


WRONG["attention"] = {
    "the scores are not scaled": attend(scores=lambda q, k: q @ k.mT),
    "divided by d": attend(scores=lambda q, k: q @ k.mT / q.size(-1)),
    "multiplied by the square root of d": attend(scores=lambda q, k: q @ k.mT * math.sqrt(q.size(-1))),
    "scaled by the number of keys": attend(scores=lambda q, k: q @ k.mT / math.sqrt(k.size(1))),
    "over the queries (dim=-2)": attend(normalize=lambda s: s.softmax(-2)),
    "over the batch": attend(normalize=lambda s: s.softmax(0)),
    "holds the raw scores": attend(normalize=lambda s: s),
    "holds raw dot products": attend(scores=lambda q, k: q @ k.mT, normalize=lambda s: s),
    "two results are swapped": lambda q, k, v, mask=None: attend()(q, k, v, mask)[::-1],
    "return two tensors, (output, weights); got a Tensor": lambda q, k, v, mask=None: attend()(q, k, v, mask)[0],
    "should be a torch.Tensor, but is a list": lambda q, k, v, mask=None: (v, attend()(q, k, v)[1].tolist()),
    "the output has shape (2, 3, 5); expected (2, 3, 6) = (B, Tq, dv)": lambda q, k, v, mask=None: (
        (attend()(q, k, v)[1],) * 2
    ),
    "It should be weights @ v": lambda q, k, v, mask=None: (2 * attend()(q, k, v)[0], attend()(q, k, v)[1]),
    "dtype torch.float32; expected torch.float64": lambda q, k, v, mask=None: attend()(
        q.float(), k.float(), v.float(), mask
    ),
    "the mask has no effect": lambda q, k, v, mask=None: attend()(q, k, v),
    "the mask is inverted": attend(block=lambda s, mask: s.masked_fill(mask, -torch.inf)),
    "applied after the softmax": attend(block=lambda s, mask: s, after=lambda w, mask: w * mask),
    "set to 0, and exp(0) = 1": attend(block=lambda s, mask: s * mask),
    "set to -1": attend(block=lambda s, mask: s.masked_fill(~mask, -1)),
    "added as 0 and 1": attend(block=lambda s, mask: s + mask),
    "still get some weight": attend(block=lambda s, mask: s.masked_fill(~mask, -5)),
    "a fully blocked row is NaN": attend(normalize=lambda s: s.softmax(-1)),
    "spreads its attention evenly": attend(block=lambda s, mask: s.masked_fill(~mask, torch.finfo(s.dtype).min)),
    "the gradient that it sends to q is NaN": attend(
        block=lambda s, mask: s + torch.zeros(mask.shape, dtype=s.dtype).masked_fill(~mask, -torch.inf)
    ),
    "no gradient flows from the output to q": attention_without_gradient,
    "changes its input q in place": attention_in_place,
    "returned None when called with q float32 (2, 3, 4)": attention_forgets_return,
}
RIGHT["attention"] = {
    "matmul": attend(),
    "loops": attention_by_loops,
    "einsum and where": attention_by_einsum,
    "SDPA": attention_by_sdpa,
    "zeros where blocked": attend(normalize=lambda s: s.softmax(-1), after=lambda w, mask: w.masked_fill(~mask, 0)),
    "large negative number, then zeros": attend(
        block=lambda s, mask: s.masked_fill(~mask, -1e9), after=lambda w, mask: w * mask
    ),
}

MODULES["causal_padding_mask"] = attention


def text_mask(causal=lambda i, j: j <= i, real=lambda i, j, n: j < n):
    def answer(lengths, size):
        i, j, n = torch.arange(size)[:, None], torch.arange(size), lengths[:, None, None]
        return causal(i, j) & real(i, j, n)

    return answer


def text_mask_by_loops(lengths, size):
    rows = [[[j <= i and j < n for j in range(size)] for i in range(size)] for n in lengths.tolist()]
    return torch.tensor(rows)


def text_mask_by_triu(lengths, size):
    mask = torch.ones(len(lengths), size, size).triu(1).bool()
    for example, length in zip(mask, lengths, strict=True):
        example[:, length:] = True
    return ~mask


WRONG["causal_padding_mask"] = {
    "keep the diagonal": text_mask(causal=lambda i, j: j < i),
    "this is the upper triangle": text_mask(causal=lambda i, j: j >= i),
    "the mask is inverted": lambda lengths, size: ~text_mask()(lengths, size),
    "padding is ignored": text_mask(real=lambda i, j, n: n > -1),
    "order is ignored": text_mask(causal=lambda i, j: (i + j) > -1),
    "padded queries (rows) are blocked": text_mask(real=lambda i, j, n: i < n),
    "one padded key is let through": text_mask(real=lambda i, j, n: j <= n),
    "this is the padding mask alone": lambda lengths, size: torch.arange(size) < lengths[:, None],
    "this is the causal mask alone": lambda lengths, size: torch.ones(size, size).tril().bool(),
    "has dtype torch.float32; expected torch.bool": lambda lengths, size: torch.zeros(
        len(lengths), size, size
    ).masked_fill(~text_mask()(lengths, size), -torch.inf),
    "has shape (3, 1, 6, 6); expected (3, 6, 6) = (N, size, size)": lambda lengths, size: text_mask()(lengths, size)[
        :, None
    ],
    "the values of the mask differ, first at index (0, 0, 0): expected True, got False": text_mask(
        real=lambda i, j, n: (j < n) & (j > 0)
    ),
    "changes its input lengths in place": lambda lengths, size: text_mask()(lengths.sub_(1), size),
}
RIGHT["causal_padding_mask"] = {
    "arange": text_mask(),
    "loops": text_mask_by_loops,
    "triu and slices": text_mask_by_triu,
}

MODULES["patchify"] = attention


def patches_by_reshape(images, patch, order=(0, 2, 4, 1, 3, 5)):
    N, C, H, W = images.shape
    grid = images.reshape(N, C, H // patch, patch, W // patch, patch).permute(order)
    return grid.reshape(N, -1, C * patch * patch)


def patches_far_apart(images, patch):
    N, C, H, W = images.shape
    grid = images.reshape(N, C, patch, H // patch, patch, W // patch)
    return grid.permute(0, 3, 5, 1, 2, 4).reshape(N, -1, C * patch * patch)


def patches_as_grid(images, patch):
    return patches_by_reshape(images, patch).unflatten(1, (images.size(2) // patch, -1))


def patches_with_square_grid(images, patch):
    N, C, H, _ = images.shape
    side = H // patch
    return images.reshape(N, C, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5).reshape(N, side * side, -1)


def patches_by_loops(images, patch):
    rows, columns = range(0, images.size(2), patch), range(0, images.size(3), patch)
    pieces = [images[:, :, y : y + patch, x : x + patch].flatten(1) for y in rows for x in columns]
    return torch.stack(pieces, dim=1)


WRONG["patchify"] = {
    "a reshape alone scrambles the pixels": lambda images, patch: images.reshape(len(images), -1, 3 * patch**2),
    "the patches run down the columns": lambda images, patch: patches_by_reshape(images, patch, (0, 4, 2, 1, 3, 5)),
    "the channels come last": lambda images, patch: patches_by_reshape(images, patch, (0, 2, 4, 3, 5, 1)),
    "each patch is transposed": lambda images, patch: patches_by_reshape(images, patch, (0, 2, 4, 1, 5, 3)),
    "pixels that lie far apart": patches_far_apart,
    "the last two axes are swapped": lambda images, patch: F.unfold(images, patch, stride=patch),
    "the grid of patches is not flattened": patches_as_grid,
    "the patches are not flattened": lambda images, patch: patches_by_reshape(images, patch).unflatten(
        2, (-1, patch, patch)
    ),
    "raised RuntimeError in the line `return images.reshape(N, C, side, patch": patches_with_square_grid,
    "expected torch.float64, the dtype of the inputs": lambda images, patch: patches_by_reshape(images.float(), patch),
    "changes its input images in place": lambda images, patch: patches_by_reshape(images.mul_(2), patch),
    "the values of the patch tensor differ by up to": lambda images, patch: patches_by_reshape(images.flip(3), patch),
}
RIGHT["patchify"] = {
    "reshape and permute": patches_by_reshape,
    "loops": patches_by_loops,
    "F.unfold": lambda images, patch: F.unfold(images, patch, stride=patch).mT,
    "Tensor.unfold": lambda images, patch: (
        images.unfold(2, patch, patch).unfold(3, patch, patch).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    ),
}

MODULES["pool_eot"] = attention


def at(position):
    """Pool the state at a position that is computed from the tokens."""
    return lambda states, tokens: states[torch.arange(len(tokens)), position(tokens)]


def mean_up_to_eot(states, tokens):
    return torch.stack([s[: t.argmax() + 1].mean(0) for s, t in zip(states, tokens, strict=True)])


WRONG["pool_eot"] = {
    "this is the last position": lambda states, tokens: states[:, -1],
    "this is the first position": lambda states, tokens: states[:, 0],
    "this is the mean over all positions": lambda states, tokens: states.mean(1),
    "this is the mean up to <eot>": mean_up_to_eot,
    "this is the maximum of the states": lambda states, tokens: states.max(1).values,
    "one position before <eot>": at(lambda tokens: tokens.argmax(1) - 1),
    "one position after <eot>": at(lambda tokens: tokens.argmax(1) + 1),
    "the last token other than 0": at(lambda tokens: (tokens != 0).sum(1) - 1),
    "mixes all rows and positions": lambda states, tokens: states[:, tokens.argmax(1)],
    "raised IndexError": at(lambda tokens: (tokens != 0).sum(1)),
    "no gradient flows from the pooled tensor to states": lambda states, tokens: at(lambda t: t.argmax(1))(
        states.detach(), tokens
    ),
    "the values of the pooled tensor differ": at(lambda tokens: tokens.argmax(1) // 2),
}
RIGHT["pool_eot"] = {
    "argmax and arange": at(lambda tokens: tokens.argmax(-1)),
    "gather": lambda states, tokens: states.gather(
        1, tokens.argmax(1)[:, None, None].expand(-1, 1, states.size(2))
    ).squeeze(1),
    "loops": lambda states, tokens: torch.stack(
        [s[t.tolist().index(max(t))] for s, t in zip(states, tokens, strict=True)]
    ),
}

MODULES["most_frequent_pair"] = attention


def count_pairs(words, pairs=pairwise, weight=lambda count: count):
    counts = Counter()
    for word, count in words.items():
        for pair in pairs(word):
            counts[pair] += weight(count)
    return counts


def first_best(counts):
    return min(counts, key=lambda pair: (-counts[pair], pair))


WRONG["most_frequent_pair"] = {
    "the counts of the words are ignored": lambda words: first_best(count_pairs(words, weight=lambda count: 1)),
    "this is the least frequent pair": lambda words: min(count_pairs(words).items(), key=lambda item: item[1])[0],
    "once per word only": lambda words: first_best(count_pairs(words, pairs=lambda word: set(pairwise(word)))),
    "no neighbors": lambda words: first_best(count_pairs(words, pairs=lambda word: combinations(word, 2))),
    "without its count": lambda words: count_pairs(words).most_common(1)[0],
    "return the two symbols as a tuple": lambda words: "".join(first_best(count_pairs(words))),
    "should be a tuple, but is ['t', 'o'], of type list": lambda words: list(first_best(count_pairs(words))),
    "a tie goes to the pair seen first": lambda words: count_pairs(words).most_common(1)[0][0],
    "a tie goes to the largest pair": lambda words: max((count, pair) for pair, count in count_pairs(words).items())[1],
    "is ('o', 't'); expected ('t', 'o')": lambda words: first_best(count_pairs(words))[::-1],
    "changes its input words in place": lambda words: [first_best(count_pairs(words)), words.clear()][0],
}
RIGHT["most_frequent_pair"] = {
    "Counter": lambda words: first_best(count_pairs(words)),
    "sorted": lambda words: sorted((-count, pair) for pair, count in count_pairs(words).items())[0][1],
    "best of the sorted pairs": lambda words: max(sorted(count_pairs(words)), key=count_pairs(words).get),
}


# Lesson 02 ---------------------------------------------------------------------------------------------------------

MODULES["clip_loss"] = clip


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def rows(logits):
    """The losses of the rows, by log-sum-exp."""
    return logits.logsumexp(1) - logits.diagonal()


def mean_of_both(logits):
    return (rows(logits).mean() + rows(logits.T).mean()) / 2


def contrast(normalize=unit, scale=torch.exp, loss=mean_of_both):
    def answer(image_features, text_features, logit_scale):
        return loss(scale(logit_scale) * normalize(image_features) @ normalize(text_features).T)

    return answer


def clip_loss_image_normalized_only(image_features, text_features, logit_scale):
    return mean_of_both(logit_scale.exp() * unit(image_features) @ text_features.T)


def clip_loss_text_normalized_only(image_features, text_features, logit_scale):
    return mean_of_both(logit_scale.exp() * image_features @ unit(text_features).T)


def rows_without_maximum(logits):
    return (logits.exp().sum(1).log() - logits.diagonal()).mean()


def rows_with_epsilon(logits):
    return -(logits.softmax(1).diagonal() + 1e-8).log().mean()


def rows_without_positive(logits):
    return (logits.masked_fill(torch.eye(len(logits)).bool(), -torch.inf).logsumexp(1) - logits.diagonal()).mean()


def both(rows_loss):
    return lambda logits: (rows_loss(logits) + rows_loss(logits.T)) / 2


def labeled(logits, labels):
    """Both directions with integer labels, as F.cross_entropy takes them."""
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels.argsort())) / 2


def clip_loss_in_place(image_features, text_features, logit_scale):
    image_features /= image_features.norm(dim=-1, keepdim=True)
    return contrast()(image_features, text_features, logit_scale)


def clip_loss_exp_and_sum(image_features, text_features, logit_scale):
    image = image_features / image_features.square().sum(1, keepdim=True).sqrt()
    text = text_features / text_features.square().sum(1, keepdim=True).sqrt()
    logits = logit_scale.exp() * image @ text.T

    def one_direction(logits):
        logits = logits - logits.amax(1, keepdim=True)
        return (logits.exp().sum(1).log() - logits.diagonal()).mean()

    return (one_direction(logits) + one_direction(logits.T)) / 2


def clip_loss_by_loops(image_features, text_features, logit_scale):
    total = 0
    for a, b in ((image_features, text_features), (text_features, image_features)):
        for i in range(len(a)):
            logits = torch.stack([logit_scale.exp() * F.cosine_similarity(a[i], x, dim=0) for x in b])
            total = total - logits.log_softmax(0)[i]
    return total / (2 * len(image_features))


WRONG["clip_loss"] = {
    "this is the image-to-text direction only": contrast(loss=lambda z: rows(z).mean()),
    "or over the rows twice": contrast(loss=lambda z: (F.cross_entropy(z, torch.arange(len(z))) + rows(z).mean()) / 2),
    "this is the text-to-image direction only": contrast(loss=lambda z: rows(z.T).mean()),
    "the features are not normalized": contrast(normalize=lambda x: x),
    "the text features are not normalized": clip_loss_image_normalized_only,
    "the image features are not normalized": clip_loss_text_normalized_only,
    "normalized over the batch (dim=0)": contrast(normalize=lambda x: x / x.norm(dim=0)),
    "is a square root missing": contrast(normalize=lambda x: x / x.square().sum(1, keepdim=True)),
    "logit_scale is a logarithm": contrast(scale=lambda s: s),
    "divided by the scale": contrast(scale=lambda s: 1 / s.exp()),
    "logit_scale is not used": contrast(scale=lambda s: 1),
    "sum of the two directions": contrast(loss=lambda z: rows(z).mean() + rows(z.T).mean()),
    "this is the sum over the batch: ": contrast(loss=lambda z: (rows(z) + rows(z.T)).sum() / 2),
    "over the batch and over both directions": contrast(loss=lambda z: (rows(z) + rows(z.T)).sum()),
    "this is one loss per pair": contrast(loss=lambda z: (rows(z) + rows(z.T)) / 2),
    "the sign is wrong": contrast(loss=lambda z: -mean_of_both(z)),
    "belongs to text i, not to i + 1": contrast(loss=lambda z: labeled(z, torch.arange(len(z)).roll(-1))),
    "belongs to text i, not to i - 1": contrast(loss=lambda z: labeled(z, torch.arange(len(z)).roll(1))),
    "missing from the denominator": contrast(loss=both(rows_without_positive)),
    "exp(100) overflows float32": contrast(loss=both(rows_without_maximum)),
    "is NaN or infinite. The probabilities round to 0": contrast(
        loss=both(lambda z: -z.softmax(1).diagonal().log().mean())
    ),
    "an epsilon hides that": contrast(loss=both(rows_with_epsilon)),
    "no gradient flows from the loss to logit_scale": contrast(scale=lambda s: s.detach().exp()),
    "no gradient flows from the loss to text_features": lambda i, t, s: contrast()(i, t.detach(), s),
    "the loss where all features are equal": contrast(loss=lambda z: mean_of_both(z) if len(z) == 5 else z.sum()),
    "should be a torch.Tensor, but is a float": contrast(loss=lambda z: mean_of_both(z).item()),
    "has shape (1, 1); expected () = one number": contrast(loss=lambda z: mean_of_both(z)[None, None]),
    "expected torch.float64": contrast(loss=lambda z: mean_of_both(z).float()),
    "changes its input image_features in place": clip_loss_in_place,
    "the loss is 1.8": contrast(scale=lambda s: s.exp() + 1),
}
RIGHT["clip_loss"] = {
    "logsumexp": contrast(),
    "exp, log, sum": clip_loss_exp_and_sum,
    "F.cross_entropy": contrast(loss=lambda z: labeled(z, torch.arange(len(z)))),
    "loops": clip_loss_by_loops,
}

MODULES["zero_shot_classifier"] = clip


def classify(before=unit, reduce=lambda x: x.mean(1), after=unit, prompts=lambda template, name: template.format(name)):
    def answer(encode_text, names, templates):
        texts = [prompts(template, name) for name in names for template in templates]
        features = encode_text(texts).reshape(len(names), len(templates), -1)
        return after(reduce(before(features)))

    return answer


def classifier_mixes_prompts(encode_text, names, templates):
    texts = [template.format(name) for template in templates for name in names]
    return unit(unit(encode_text(texts)).reshape(len(names), len(templates), -1).mean(1))


def classifier_passes_one_string(encode_text, names, templates):
    return torch.stack([unit(sum(encode_text(template.format(name)) for template in templates)) for name in names])


def classifier_by_loops(encode_text, names, templates):
    weights = []
    for name in names:
        features = F.normalize(encode_text([template.replace("{}", name) for template in templates]), dim=-1)
        weights.append(F.normalize(features.sum(0), dim=0))
    return torch.stack(weights)


def classifier_by_templates(encode_text, names, templates):
    with torch.no_grad():
        per_template = [unit(encode_text([template.format(name) for name in names])) for template in templates]
        return unit(torch.stack(per_template).mean(0))


WRONG["zero_shot_classifier"] = {
    "normalize before the mean as well": classify(before=lambda x: x),
    "shorter than 1: normalize it again": classify(after=lambda x: x),
    "nothing is normalized": classify(before=lambda x: x, after=lambda x: x),
    "this is the sum over the templates": classify(reduce=lambda x: x.sum(1), after=lambda x: x),
    "only the first template": classify(reduce=lambda x: x[:, 0]),
    "only the last template": classify(reduce=lambda x: x[:, -1]),
    "the mean over the classes": classify(reduce=lambda x: x.mean(0)),
    "this is transposed": classify(after=lambda x: unit(x).T),
    "prompts of different classes are mixed": classifier_mixes_prompts,
    "one row per prompt": classify(reduce=lambda x: x.flatten(0, 1)),
    "all classes get the same vector": classify(prompts=lambda template, name: template),
    "the templates are not used": classify(prompts=lambda template, name: name),
    "encode_text takes a list of strings, but got 'a photo of a red apple.'": classifier_passes_one_string,
    "should be a torch.Tensor, but is a list": classify(after=lambda x: list(unit(x))),
    "expected torch.float64": classify(after=lambda x: unit(x).float()),
    "the values of the classifier differ": classify(before=lambda x: x / x.norm(dim=0)),
    "changes its input names in place": lambda e, names, t: [classify()(e, names, t), names.pop()][0],
}
RIGHT["zero_shot_classifier"] = {
    "one batch": classify(),
    "loops and sum": classifier_by_loops,
    "template by template, no_grad": classifier_by_templates,
}

MODULES["recall_at_k"] = clip


def hits_at_k(similarity, k, largest=True):
    best = similarity.topk(k, dim=1, largest=largest).indices
    return (best == torch.arange(len(similarity))[:, None]).any(1)


def recall(similarity, k):
    return hits_at_k(similarity, k).double().mean().item()


def recall_by_sorting(similarity, k):
    hits = 0
    for i, row in enumerate(similarity.tolist()):
        hits += i in sorted(range(len(row)), key=row.__getitem__, reverse=True)[:k]
    return hits / len(similarity)


WRONG["recall_at_k"] = {
    "the columns are used as queries": lambda similarity, k: recall(similarity.T, k),
    "these are the k lowest": lambda similarity, k: hits_at_k(similarity, k, largest=False).double().mean().item(),
    "this is a percentage": lambda similarity, k: 100 * recall(similarity, k),
    "this is the number of hits": lambda similarity, k: hits_at_k(similarity, k).sum().item(),
    "the hits are divided by k too": lambda similarity, k: recall(similarity, k) / k,
    "this is recall@1": lambda similarity, k: recall(similarity, 1),
    "this is recall@(k - 1)": lambda similarity, k: recall(similarity, k - 1),
    "this is recall@(k + 1)": lambda similarity, k: recall(similarity, k + 1),
    "is a tensor of shape (); expected a Python float: end with .item()": lambda similarity, k: (
        hits_at_k(similarity, k).double().mean()
    ),
    "recall@3 of 20 queries is 0": lambda similarity, k: 0.0,
    "recall@3 of 20 queries should be a float, but is '40 %', of type str": lambda similarity, k: "40 %",
    "changes its input similarity in place": lambda similarity, k: recall(similarity.neg_(), k),
}
RIGHT["recall_at_k"] = {
    "topk": recall,
    "sorting": recall_by_sorting,
    "mmlesson.scores": scores.recall_at_k,
    "ranks": lambda similarity, k: ((similarity > similarity.diag()[:, None]).sum(1) < k).float().mean().item(),
}

MODULES["clamp_logit_scale"] = clip


def new_parameter(model):
    model.logit_scale = nn.Parameter(model.logit_scale.detach().clamp(max=math.log(100)))


def plain_tensor(model):
    value = model.logit_scale.detach().clamp(max=math.log(100))
    del model.logit_scale
    model.logit_scale = value


@torch.no_grad()
def all_parameters(model):
    for parameter in model.parameters():
        parameter.clamp_(max=math.log(100))


def frozen(model):
    model.logit_scale.requires_grad_(False).clamp_(max=math.log(100))


@torch.no_grad()
def exponentiated(model):
    model.logit_scale.copy_(model.logit_scale.exp().clamp(max=100))


def clamp_to(low, high):
    @torch.no_grad()
    def answer(model):
        model.logit_scale.clamp_(low, high)

    return answer


def clamp_with_gradient(model):
    model.logit_scale.clamp_(max=math.log(100))


def clamp_by_assignment(model):
    model.logit_scale = model.logit_scale.clamp(max=math.log(100))


def clamp_by_hand(model):
    if model.logit_scale.item() > math.log(100):
        with torch.no_grad():
            model.logit_scale.fill_(math.log(100))


def clamp_data(model):
    model.logit_scale.data = torch.clamp(model.logit_scale.data, 0, 4.6052)


def clamp_and_return(model):
    with torch.no_grad():
        return model.logit_scale.clamp_(max=math.log(100))


WRONG["clamp_logit_scale"] = {
    "is unchanged": lambda model: model.logit_scale.clamp(max=math.log(100)),
    "its limit is ln 100": clamp_to(None, 100),
    "holds the scale itself": exponentiated,
    "the limit is log10(100) = 2": clamp_to(None, math.log10(100)),
    "expected the limit, ln 100 = 4.605": clamp_to(None, math.log(10)),
    "is below the limit and should stay": clamp_to(math.log(1 / 0.07), math.log(100)),
    "is no nn.Parameter now": plain_tensor,
    "the optimizer holds the old one": new_parameter,
    "no longer requires a gradient": frozen,
    "another parameter changed as well": all_parameters,
    "a leaf Variable that requires grad is being used in an in-place operation": clamp_with_gradient,
    "cannot assign 'torch.FloatTensor' as parameter 'logit_scale'": clamp_by_assignment,
}
RIGHT["clamp_logit_scale"] = {
    "no_grad and clamp_": clamp_to(None, math.log(100)),
    "from 0, as open_clip does": clamp_to(0, math.log(100)),
    "if": clamp_by_hand,
    ".data": clamp_data,
    "returns the parameter": clamp_and_return,
}

MODULES["multi_positive_loss"] = clip


def same_caption(captions):
    return torch.tensor([[float(a == b) for b in captions] for a in captions])


def soft_rows(logits, targets):
    return -(targets * logits.log_softmax(1)).sum(1)


def multi(targets=lambda same: same / same.sum(1, keepdim=True), loss=None):
    """The loss with targets made from the matrix of equal captions."""
    loss = loss or (lambda z, t: (soft_rows(z, t).mean() + soft_rows(z.T, t.T).mean()) / 2)
    return lambda logits, captions: loss(logits, targets(same_caption(captions).to(logits.dtype)))


def duplicates_left_out(logits, captions):
    others = same_caption(captions).bool() & ~torch.eye(len(captions)).bool()
    return mean_of_both(logits.masked_fill(others, -torch.inf))


def total_probability(logits, captions):
    same = same_caption(captions).bool()
    return both(lambda z: (z.logsumexp(1) - z.masked_fill(~same, -torch.inf).logsumexp(1)).mean())(logits)


def without_itself(same):
    others = same - torch.eye(len(same), dtype=same.dtype)
    return others / others.sum(1, keepdim=True).clamp(min=1)


def multi_by_loops(logits, captions):
    total = 0
    for z in (logits, logits.T):
        log_probability = z - z.logsumexp(1, keepdim=True)
        for i, caption in enumerate(captions):
            positives = [j for j, other in enumerate(captions) if other == caption]
            total = total - log_probability[i, positives].mean()
    return total / (2 * len(captions))


def multi_by_cross_entropy(logits, captions):
    ids = torch.tensor([captions.index(caption) for caption in captions])
    targets = F.normalize((ids[:, None] == ids).to(logits.dtype), p=1, dim=1)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


WRONG["multi_positive_loss"] = {
    "duplicates still count as wrong answers": lambda logits, captions: mean_of_both(logits),
    "sum to more than 1": multi(targets=lambda same: same),
    "this is the image-to-text direction only": multi(loss=lambda z, t: soft_rows(z, t).mean()),
    "this is the text-to-image direction only": multi(loss=lambda z, t: soft_rows(z.T, t.T).mean()),
    "duplicates are left out of the denominator": duplicates_left_out,
    "the log of the positives' total probability": total_probability,
    "the pair itself is missing from the targets": multi(targets=without_itself),
    "sum of the two directions": multi(loss=lambda z, t: (soft_rows(z, t) + soft_rows(z.T, t)).mean()),
    "this is the sum over the batch": multi(loss=lambda z, t: (soft_rows(z, t) + soft_rows(z.T, t)).sum() / 2),
    "the sign is wrong": multi(loss=lambda z, t: -(soft_rows(z, t) + soft_rows(z.T, t)).mean() / 2),
    "log_softmax or logsumexp": multi(
        loss=lambda z, t: -((t * z.softmax(1).log()).sum(1) + (t * z.T.softmax(1).log()).sum(1)).mean() / 2
    ),
    "no gradient flows from the loss to logits": lambda logits, captions: multi()(logits.detach(), captions),
    "the loss without duplicates": lambda logits, captions: (
        multi()(logits, captions) if len(set(captions)) < len(captions) else logits.sum()
    ),
    "has shape (6,); expected () = one number": multi(loss=lambda z, t: (soft_rows(z, t) + soft_rows(z.T, t)) / 2),
    "expected torch.float64": lambda logits, captions: multi()(logits.float(), captions),
    "changes its input captions in place": lambda logits, captions: multi()(logits, [captions.sort(), captions][1]),
}
RIGHT["multi_positive_loss"] = {
    "log_softmax": multi(),
    "loops": multi_by_loops,
    "F.cross_entropy with probabilities": multi_by_cross_entropy,
}

MODULES["pointing_game"] = clip


def inside(x, y, boxes):
    x0, y0, x1, y1 = boxes.unbind(1)
    return (x > x0) & (x < x1) & (y > y0) & (y < y1)


def point(center=lambda row, column, gh, gw: ((column + 0.5) / gw, (row + 0.5) / gh), split=None, pick=torch.argmax):
    split = split or (lambda index, gh, gw: (index // gw, index % gw))

    def answer(attention, boxes):
        gh, gw = attention.shape[1:]
        row, column = split(pick(attention.flatten(1), dim=1), gh, gw)
        return inside(*center(row, column, gh, gw), boxes).double().mean().item()

    return answer


def attention_inside(attention, boxes):
    N, gh, gw = attention.shape
    y, x = torch.meshgrid((torch.arange(gh) + 0.5) / gh, (torch.arange(gw) + 0.5) / gw, indexing="ij")
    return (
        sum(
            (a * inside(x, y, box[None, :, None, None])[0]).sum().item()
            for a, box in zip(attention, boxes, strict=True)
        )
        / N
    )


def pointing_by_loops(attention, boxes):
    hits = 0
    for weights, (x0, y0, x1, y1) in zip(attention.tolist(), boxes.tolist(), strict=True):
        cells = [(weight, row, column) for row, line in enumerate(weights) for column, weight in enumerate(line)]
        _, row, column = max(cells)
        hits += x0 <= (column + 0.5) / len(weights[0]) <= x1 and y0 <= (row + 0.5) / len(weights) <= y1
    return hits / len(boxes)


def pointing_by_comparison(attention, boxes):
    _, gh, gw = attention.shape
    _, row, column = (attention == attention.amax((1, 2), keepdim=True)).nonzero().T
    low, high = boxes[:, :2], boxes[:, 2:]
    center = torch.stack([(2 * column + 1) / (2 * gw), (2 * row + 1) / (2 * gh)], dim=1)
    return ((low <= center) & (center <= high)).all(1).float().mean().item()


WRONG["pointing_game"] = {
    "x and y are swapped": point(center=lambda row, column, gh, gw: ((row + 0.5) / gh, (column + 0.5) / gw)),
    "the corner of the highest cell": point(center=lambda row, column, gh, gw: (column / gw, row / gh)),
    "the far corner": point(center=lambda row, column, gh, gw: ((column + 1) / gw, (row + 1) / gh)),
    "split by the height": point(split=lambda index, gh, gw: (index // gh, index % gh)),
    "the sides of the grid are mixed up": point(
        center=lambda row, column, gh, gw: ((column + 0.5) / gh, (row + 0.5) / gw)
    ),
    "read as (x, y, width, height)": lambda attention, boxes: point()(
        attention, torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
    ),
    "this is the attention inside the boxes": attention_inside,
    "this is a percentage": lambda attention, boxes: 100 * point()(attention, boxes),
    "this is the number of hits": lambda attention, boxes: round(point()(attention, boxes) * len(boxes)),
    "this is the fraction of misses": lambda attention, boxes: 1 - point()(attention, boxes),
    "the lowest cell is tested": point(pick=torch.argmin),
    "expected a Python float: end with .item()": lambda attention, boxes: torch.tensor(point()(attention, boxes)),
    "changes its input boxes in place": lambda attention, boxes: point()(attention, boxes.mul_(2)),
    "the score of 40 maps with 4 x 6 cells is": lambda attention, boxes: 0.9 * point()(attention, boxes),
}
RIGHT["pointing_game"] = {
    "divide and take the rest": point(),
    "loops": pointing_by_loops,
    "comparison with the maximum": pointing_by_comparison,
    "mmlesson.scores": lambda attention, boxes: scores.pointing_game(attention, boxes).float().mean().item(),
}


# The tests ---------------------------------------------------------------------------------------------------------


def table(answers):
    return [pytest.param(name, text, id=f"{name}: {text}") for name in answers for text in answers[name]]


def check(name):
    return getattr(MODULES[name], name)


def failure(name, answer):
    """The sentence with which this exercise's check turns an answer down."""
    with pytest.raises(CheckFailed) as caught:
        check(name)(answer)
    return str(caught.value)


@pytest.mark.parametrize("name, phrase", table(WRONG))
def test_wrong_answer_is_named(name, phrase):
    sentence = failure(name, WRONG[name][phrase])
    assert phrase in sentence
    assert sentence.startswith(f"{name}: ") and "\n" not in sentence and sentence.endswith((".", "?"))


@pytest.mark.parametrize("name, variant", table(RIGHT))
def test_correct_variant_passes(name, variant, capsys):
    check(name)(RIGHT[name][variant])
    line = capsys.readouterr().out
    assert line.startswith(f"{name}: ") and "checks passed (" in line and line.count("\n") == 1


def test_every_exercise_has_enough_of_both():
    print(f"\n{'exercise':22}{'wrong':>6}{'right':>6}")
    for name in MODULES:
        print(f"{name:22}{len(WRONG[name]):6}{len(RIGHT[name]):6}")
        assert len(WRONG[name]) >= 5 and len(RIGHT[name]) >= 2
    print(f"{'together':22}{sum(map(len, WRONG.values())):6}{sum(map(len, RIGHT.values())):6}")


@pytest.mark.parametrize("name", MODULES)
def test_every_known_mistake_is_provoked(name, monkeypatch):
    """No sentence about a known mistake is dead: some wrong answer above gets it."""
    known = set()

    def recording(original):
        def expect(self, what, got, expected, wrong=(), *rest, **options):
            known.update(sentence for _, sentence in wrong)
            return original(self, what, got, expected, wrong, *rest, **options)

        return expect

    for method in ("expect_tensor", "expect_value"):
        monkeypatch.setattr(Answer, method, recording(getattr(Answer, method)))
    said = "\n".join(failure(name, answer) for answer in WRONG[name].values())
    assert [sentence for sentence in known if sentence not in said] == []


def not_filled(*inputs):
    raise NotImplementedError()


@pytest.mark.parametrize("name", MODULES)
def test_unfilled_exercise_prints_and_does_not_raise(name, capsys):
    check(name)(not_filled)
    expected = f"{name}: not attempted yet. Fill in the body above and run the cell again.\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("name", [name for name in MODULES if name != "clamp_logit_scale"])  # it works in place
def test_empty_body_counts_as_not_attempted(name, capsys):
    check(name)(lambda *inputs: ...)
    assert capsys.readouterr().out.startswith(f"{name}: not attempted yet.")
    check(name)(lambda *inputs: None)
    line = capsys.readouterr().out
    assert line.startswith(f"{name}: not attempted yet.") and "is its `return` missing?" in line


class OtherLesson:
    """The tests above for another lesson: a subclass Test... gives its module of checks, its WRONG and its RIGHT."""

    @pytest.fixture(autouse=True)
    def this_lesson(self, monkeypatch):
        here = sys.modules[__name__]
        monkeypatch.setattr(here, "MODULES", dict.fromkeys(self.WRONG, self.module))
        monkeypatch.setattr(here, "WRONG", self.WRONG)
        monkeypatch.setattr(here, "RIGHT", self.RIGHT)

    def pytest_generate_tests(self, metafunc):
        if "phrase" in metafunc.fixturenames:
            metafunc.parametrize("name, phrase", table(self.WRONG))
        elif "variant" in metafunc.fixturenames:
            metafunc.parametrize("name, variant", table(self.RIGHT))
        elif "name" in metafunc.fixturenames:
            metafunc.parametrize("name", list(self.WRONG))

    def test_wrong_answer_is_named(self, name, phrase):
        test_wrong_answer_is_named(name, phrase)

    def test_correct_variant_passes(self, name, variant, capsys):
        test_correct_variant_passes(name, variant, capsys)

    def test_every_exercise_has_enough_of_both(self):
        test_every_exercise_has_enough_of_both()

    def test_every_known_mistake_is_provoked(self, name, monkeypatch):
        test_every_known_mistake_is_provoked(name, monkeypatch)

    def test_empty_body_counts_as_not_attempted(self, name, capsys):
        test_unfilled_exercise_prints_and_does_not_raise(name, capsys)
        test_empty_body_counts_as_not_attempted(name, capsys)


@pytest.mark.parametrize("name", MODULES)
def test_exception_becomes_a_sentence_with_its_cause(name):
    def broken(*inputs):
        return {}["logits"]

    with pytest.raises(CheckFailed, match="your function raised KeyError in the line") as caught:
        check(name)(broken)
    assert "'logits'. It was called with " in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)


def test_exception_names_the_shapes():
    sentence = failure("attention", lambda q, k, v, mask=None: q @ k)
    assert "RuntimeError in the line `sentence = failure(" in sentence
    assert "called with q float32 (2, 3, 4), k float32 (2, 5, 4), v float32 (2, 5, 6)." in sentence
    assert "images float32 (2, 3, 4, 6), patch 2." in failure("patchify", lambda images: images)
    assert "words (dict of 5)." in failure("most_frequent_pair", lambda words: words[0])
    assert "encode_text (_TextEncoder), names (list of 4)" in failure("zero_shot_classifier", lambda e, n, t: 1 / 0)


def test_error_of_torch_is_no_empty_body():
    """torch raises NotImplementedError for a softmax over booleans."""
    sentence = failure("attention", lambda q, k, v, mask=None: (q > 0).softmax(-1))
    assert "raised NotImplementedError" in sentence and "not implemented for 'Bool'" in sentence


def test_function_itself_is_expected():
    assert "without calling it, as in check.clip_loss(my_clip_loss)" in failure("clip_loss", torch.tensor(1.0))


def test_notebook_shows_the_sentence_and_no_traceback(capsys, tmp_path, monkeypatch):
    interactive = pytest.importorskip("IPython.core.interactiveshell")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = interactive.InteractiveShell()
    result = shell.run_cell("from mmlesson.check import clip as check\ncheck.recall_at_k(lambda similarity, k: 2.0)")
    shown = "".join(capsys.readouterr())
    assert isinstance(result.error_in_exec, CheckFailed)
    assert shown.strip() == str(result.error_in_exec) == "recall_at_k: recall@3 of 20 queries is 2; expected 0.4."


def test_plain_python_shows_the_sentence_too():
    code = "from mmlesson.check import clip as check; check.recall_at_k(lambda similarity, k: 2.0)"
    shell = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    last = shell.stderr.strip().splitlines()[-1]
    assert last == "mmlesson.check.CheckFailed: recall_at_k: recall@3 of 20 queries is 2; expected 0.4."
