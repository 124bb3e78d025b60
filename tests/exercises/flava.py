"""Answers to the FLAVA lesson's exercises, written independently of its checks."""

import itertools
import math

import torch
import torch.nn.functional as F

WRONG, RIGHT = {}, {}


# Random masks: a rectangle by slices, with steps that a wrong answer replaces.


def blocks(area=lambda left: (4, max(4, left)), steepest=1 / 0.3, tries=10, place=lambda free: free + 1):
    log_ratio = math.log(steepest)

    def answer(side, patches, generator):
        def uniform(low, high):
            return low + (high - low) * torch.rand(1, generator=generator).item()

        mask, failed = torch.zeros(side, side, dtype=torch.bool), 0
        while failed < tries and mask.sum() < patches:
            left = patches - int(mask.sum())
            size, ratio = uniform(*area(left)), math.exp(uniform(-log_ratio, log_ratio))
            h, w = round((size * ratio) ** 0.5), round((size / ratio) ** 0.5)
            failed += 1
            if h <= side and w <= side:
                y, x = (int(torch.randint(place(side - n), (1,), generator=generator)) for n in (h, w))
                after = mask.clone()
                after[y : y + h, x : x + w] = True
                if 0 < int(after.sum() - mask.sum()) <= left:
                    mask, failed = after, 0
        return mask

    return answer


def blocks_by_sets(side, patches, generator):
    """The same with Python's sets of patches."""

    def draw():
        return torch.rand((), generator=generator).item()

    masked, failed = set(), 0
    while len(masked) < patches and failed < 10:
        failed += 1
        size = 4 + draw() * max(0, patches - len(masked) - 4)
        ratio = math.exp((2 * draw() - 1) * math.log(0.3))
        h, w = round(math.sqrt(size * ratio)), round(math.sqrt(size / ratio))
        if max(h, w) > side:
            continue
        y, x = math.floor(draw() * (side - h + 1)), math.floor(draw() * (side - w + 1))
        new = set(itertools.product(range(y, y + h), range(x, x + w))) - masked
        if new and len(new) <= patches - len(masked):
            masked, failed = masked | new, 0
    return torch.tensor([[(y, x) in masked for x in range(side)] for y in range(side)])


def seeds_itself(side, patches, generator):
    return blocks()(side, patches, generator.manual_seed(0))


WRONG["block_mask"] = {
    "your function seeds the generator that it is given": seeds_itself,
    "uses torch's global generator": lambda side, patches, generator: blocks()(side, patches, None),
    "expected torch.bool": lambda side, patches, generator: blocks()(side, patches, generator).long(),
    "gives up after 20 tries in a row that fail: it should be ten": blocks(tries=20),
    "; expected": blocks(steepest=2),
    "the area is uniform from 1 on: it begins at 4": blocks(area=lambda left: (1, left)),
    "your function raised RuntimeError": blocks(place=lambda free: free),
}
RIGHT["block_mask"] = {"slices": blocks(), "sets of patches": blocks_by_sets}


def words_by_loops(tokens, maskable, mask_id, vocab_size, generator, ratio=0.15):
    def number():
        return torch.rand((), generator=generator).item()

    corrupted, labels = tokens.clone(), torch.full_like(tokens, -100)
    for n, t in maskable.nonzero().tolist():
        if number() < ratio:
            labels[n, t] = tokens[n, t]
            fate = number()
            if fate < 0.8:
                corrupted[n, t] = mask_id
            elif fate < 0.9:
                corrupted[n, t] = torch.randint(vocab_size, (), generator=generator)
    return corrupted, labels


def words(half=0.5, top=0, rate=lambda ratio: ratio):
    """By torch.bernoulli; ids below vocab_size + top."""

    def answer(tokens, maskable, mask_id, vocab_size, generator, ratio=0.15):
        chosen = torch.bernoulli(maskable * min(1.0, rate(ratio)), generator=generator).bool()
        masked = torch.bernoulli(chosen * 0.8, generator=generator).bool()
        other = torch.bernoulli((chosen & ~masked) * half, generator=generator).bool()
        ids = torch.randint(vocab_size + top, tokens.shape, generator=generator)
        corrupted = tokens.clone()
        corrupted[masked], corrupted[other] = mask_id, ids[other]
        return corrupted, torch.where(chosen, tokens, -100)

    return answer


def words_after_the_first(tokens, maskable, *more):
    later = torch.arange(tokens.shape[1]) > 0
    return words()(tokens, maskable & later, *more)


WRONG["mask_words"] = {
    "of the maskable words have a label; expected 1": words_after_the_first,
    "only 2 % become random ids": words(half=0.1),
    "randint excludes its upper bound": words(top=-1),
    "of the maskable words have a label; expected 15": words(rate=lambda ratio: 1.2 * ratio),
    "changes its input tokens in place": lambda tokens, *more: [words()(tokens, *more), tokens.add_(1)][0],
    "return two results, (corrupted, labels); got a Tensor": lambda *inputs: words()(*inputs)[0],
    "labels has dtype torch.float32; expected torch.int64": lambda *inputs: (
        words()(*inputs)[0], words()(*inputs)[1].float()
    ),
}  # fmt: skip
RIGHT["mask_words"] = {"bernoulli": words(), "one word after the other, slowly": words_by_loops}


def match_by_loops(tokens, negatives, is_negative, mlm_labels):
    paired, labels = [], []
    for own, other, flag, label in zip(tokens, negatives, is_negative.tolist(), mlm_labels):
        paired.append(other if flag else own)
        labels.append(torch.full_like(label, -100) if flag and not is_negative.all() else label)
    return torch.stack(paired), torch.tensor([int(not flag) for flag in is_negative.tolist()]), torch.stack(labels)


def match_by_index(tokens, negatives, is_negative, mlm_labels, kind=torch.int64, alone=True):
    paired, labels = tokens.clone(), mlm_labels.clone()
    paired[is_negative] = negatives[is_negative]
    if not (alone and is_negative.all()):
        labels[is_negative] = -100
    return paired, 1 - is_negative.to(kind), labels


WRONG["match_targets"] = {
    "itm_labels has dtype torch.float32; expected torch.int64": lambda *x: match_by_index(*x, kind=torch.float32),
    "no row is positive, and all labels are -100": lambda *x: match_by_index(*x, alone=False),
    "return three results, (paired, itm_labels, mmm_labels); got a tuple of 2": lambda *x: match_by_index(*x)[:2],
    "changes its input tokens in place": lambda tokens, *x: match_by_loops(tokens.fill_(1), *x),
}
RIGHT["match_targets"] = {"loops": match_by_loops, "boolean index": match_by_index}


def contrast_by_loops(image_features, text_features, logit_scale, positive):
    total = 0
    for a, b in ((image_features, text_features), (text_features, image_features)):
        for i in positive.nonzero()[:, 0].tolist():
            logits = logit_scale.exp() * F.cosine_similarity(a[i : i + 1], b, dim=1)
            total = total + logits.logsumexp(0) - logits[i]
    return total / (2 * positive.sum())


def contrast_by_weights(image_features, text_features, logit_scale, positive, weigh=lambda p: p / p.sum()):
    logits = logit_scale.exp() * F.normalize(image_features, dim=1) @ F.normalize(text_features, dim=1).T
    own = torch.arange(len(logits))
    both = [F.cross_entropy(x, own, reduction="none") for x in (logits, logits.T)]
    return sum(both) @ weigh(positive.to(logits.dtype)) / 2


def contrast_without_maximum(image_features, text_features, logit_scale, positive):
    logits = logit_scale.exp() * F.normalize(image_features, dim=1) @ F.normalize(text_features, dim=1).T
    both = [(x.exp().sum(1).log() - x.diagonal())[positive].mean() for x in (logits, logits.T)]
    return sum(both) / 2


WRONG["global_contrastive"] = {
    "the sum over positive rows is divided by N": lambda *x: contrast_by_weights(*x, weigh=lambda p: p / len(p)),
    "exp(100) overflows float32": contrast_without_maximum,
    "no gradient flows from the loss to logit_scale": lambda i, t, s, p: contrast_by_loops(i, t, s.detach(), p),
    "the loss is ": lambda *x: 1.01 * contrast_by_loops(*x),
}
RIGHT["global_contrastive"] = {"loops": contrast_by_loops, "weights": contrast_by_weights}


class Nearest(torch.autograd.Function):
    """Straight through by a backward pass of its own."""

    @staticmethod
    def forward(ctx, z, codebook):
        codes = (z[:, None] - codebook).square().sum(2).argmin(1)
        ctx.mark_non_differentiable(codes)
        return codebook[codes], codes

    @staticmethod
    def backward(ctx, gradient, _):
        return gradient, None


def quantize_by_loops(z, codebook):
    codes = torch.tensor([min(range(len(codebook)), key=lambda k: (x - codebook[k]).norm().item()) for x in z])
    return z + (codebook[codes] - z).detach(), codes


WRONG["straight_through"] = {
    "codes has dtype torch.int32; expected torch.int64": lambda *x: (Nearest.apply(*x)[0], Nearest.apply(*x)[1].int()),
    "return two results, (quantized, codes); got a Tensor": lambda *x: Nearest.apply(*x)[0],
    "no gradient flows from quantized to z": lambda z, e: quantize_by_loops(z.detach(), e),
    "the values of codes differ": lambda z, e: (lambda q, c: (q, c.roll(1)))(*quantize_by_loops(z, e)),
}
RIGHT["straight_through"] = {"autograd.Function": Nearest.apply, "loops": quantize_by_loops}


def fsq_by_channels(z, levels, rounded=torch.round, dtype=torch.int64):
    quantized, codes, product = [], torch.zeros(z.shape[:-1], dtype=dtype), 1
    for x, L in zip(z.unbind(-1), levels):
        level = (L - 1) / (1 + (-x).exp())
        level = level - level.detach() + rounded(level.detach())
        quantized.append(level / (L - 1) * 2 - 1)
        codes, product = codes + product * level.detach().round().to(dtype), product * L
    return torch.stack(quantized, -1), codes


def fsq_by_horner(z, levels):
    top = torch.tensor(levels) - 1
    level = torch.round((top * z.sigmoid()).detach())
    codes = 0
    for i in reversed(range(len(levels))):
        codes = codes * levels[i] + level[..., i].long()
    through = top * z.sigmoid() + (level - top * z.sigmoid()).detach()
    return 2 * through / top - 1, codes


WRONG["fsq"] = {
    "codes has dtype torch.float32; expected torch.int64": lambda z, levels: fsq_by_channels(
        z, levels, dtype=torch.float32
    ),
    "the levels are rounded down": lambda z, levels: fsq_by_channels(z, levels, torch.floor),
    "large codes are not exact": lambda z, levels: (
        lambda q, c: (q, c.float().long())
    )(*fsq_by_channels(z, levels)),
    "quantized has shape (20, 3); expected (4, 5, 3)": lambda z, levels: fsq_by_horner(z.flatten(0, -2), levels),
}  # fmt: skip
RIGHT["fsq"] = {"channel by channel": fsq_by_channels, "Horner's scheme": fsq_by_horner}
