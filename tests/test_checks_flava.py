"""Mutation tests of lesson 05's exercises, FLAVA, by the tests of test_checks.py, which explains WRONG and RIGHT."""

import math
import random

import pytest
import test_checks as shared
import torch
import torch.nn.functional as F

from mmlesson.check import flava

WRONG, RIGHT = {}, {}


# Block masks ---------------------------------------------------------------------------------------------------------


def uniform(generator, low, high):
    return low + (high - low) * torch.rand((), generator=generator).item()


def log_uniform(generator, low=0.3, high=1 / 0.3):
    return math.exp(uniform(generator, math.log(low), math.log(high)))


def area_up_to(generator, remaining):
    return uniform(generator, 4, max(4, remaining))


def anywhere(generator, side, height, width):
    """Top and left; a rectangle that is too large is turned away."""
    if height > side or width > side:
        return None
    return [int(torch.randint(side - size + 1, (), generator=generator)) for size in (height, width)]


def blocks(
    area=area_up_to,
    aspect=log_uniform,
    place=anywhere,
    cost=lambda block: int((~block).sum()),
    accept=lambda cost, remaining: 0 < cost <= remaining,
    tries=10,
    rectangles=99,
    after=lambda mask: mask,
):
    """Block-wise masking put together from steps that a mutant can replace."""

    def answer(side, patches, generator):
        mask, remaining = torch.zeros(side, side, dtype=torch.bool), patches
        for _ in range(rectangles):
            for _ in range(tries):
                size, ratio = area(generator, remaining), aspect(generator)
                height, width = round(math.sqrt(size * ratio)), round(math.sqrt(size / ratio))
                corner = place(generator, side, height, width)
                if corner is None:
                    continue
                block = mask[corner[0] : corner[0] + height, corner[1] : corner[1] + width]
                if accept(cost(block), remaining):
                    remaining -= cost(block)
                    block[:] = True
                    break
            else:
                break
        return after(mask)

    return answer


def seeded(seed):
    """The right masks, drawn from a generator that is made inside."""
    return lambda side, patches, generator: blocks()(side, patches, torch.Generator().manual_seed(seed(generator)))


def scattered(side, patches, generator):
    mask = torch.zeros(side * side, dtype=torch.bool)
    mask[torch.randperm(side * side, generator=generator)[:patches]] = True
    return mask.reshape(side, side)


def cut_off(generator, side, height, width):
    return [int(torch.randint(side, (), generator=generator)) for _ in range(2)]


def short_of_the_end(generator, side, height, width):
    if height >= side or width >= side:
        return None
    return [int(torch.randint(side - size, (), generator=generator)) for size in (height, width)]


def not_at_the_start(generator, side, height, width):
    corner = anywhere(generator, side - 1, height, width)
    return corner and [1 + corner[0], 1 + corner[1]]


def crashes_if_too_large(generator, side, height, width):
    return [int(torch.randint(side - size + 1, (), generator=generator)) for size in (height, width)]


def by_random(generator, side, height, width):
    if height > side or width > side:
        return None
    return random.randint(0, side - height), random.randint(0, side - width)


def last_column_spared(generator, side, height, width):
    if height > side or width >= side:
        return None
    ends = side - height + 1, side - width
    return [int(torch.randint(end, (), generator=generator)) for end in ends]


@torch.no_grad()
def global_seed(side, patches, generator):
    torch.manual_seed(generator.initial_seed())
    return blocks()(side, patches, torch.default_generator)


def beit(side, patches, generator):
    """As BEiT's own code: strictly inside the grid, and a small remainder lowers the area below the minimum."""
    mask, count = torch.zeros(side, side, dtype=torch.int), 0
    while count < patches:
        delta, most = 0, patches - count
        for _ in range(10):
            size = uniform(generator, 4, most)
            ratio = math.exp(uniform(generator, math.log(0.3), -math.log(0.3)))
            h, w = int(round(math.sqrt(size * ratio))), int(round(math.sqrt(size / ratio)))
            if w < side and h < side:
                top = torch.randint(side - h + 1, (1,), generator=generator).item()
                left = torch.randint(side - w + 1, (1,), generator=generator).item()
                new = h * w - mask[top : top + h, left : left + w].sum().item()
                if 0 < new <= most:
                    mask[top : top + h, left : left + w] = 1
                    delta = new
                    break
        if delta == 0:
            break
        count += delta
    return mask.bool()


def blocks_by_loops(side, patches, generator):
    """A set of cells; 99 random numbers are drawn at a time."""
    hidden, numbers = set(), []

    def number():
        if not numbers:
            numbers.extend(torch.rand(99, generator=generator, dtype=torch.double).tolist())
        return numbers.pop()

    failures = 0
    while len(hidden) < patches and failures < 10:
        remaining = patches - len(hidden)
        size = 4 + (max(4, remaining) - 4) * number()
        ratio = 0.3 ** (1 - 2 * number())
        height, width = round((size * ratio) ** 0.5), round((size / ratio) ** 0.5)
        top, left = math.floor(number() * (side - height + 1)), math.floor(number() * (side - width + 1))
        new = {(top + y, left + x) for y in range(height) for x in range(width)} - hidden
        if min(top, left) >= 0 and height <= side and width <= side and 0 < len(new) <= remaining:
            hidden, failures = hidden | new, 0
        else:
            failures += 1
    return torch.tensor([[(y, x) in hidden for x in range(side)] for y in range(side)])


WRONG["block_mask"] = {
    "the mask is inverted": blocks(after=lambda mask: ~mask),
    "the mask hides nothing": blocks(rectangles=0),
    "hide more than 24 cells, up to": blocks(accept=lambda cost, remaining: 0 < cost and remaining > 0),
    "hide more than 12 cells, up to 24": lambda side, patches, generator: blocks()(side, 24, generator),
    "the hidden cells are scattered": scattered,
    "of the masks are one rectangle: go on": blocks(rectangles=1),
    "100% of the masks are one rectangle": blocks(area=lambda generator, remaining: remaining, rectangles=1),
    "on average; expected 90 % or more: count only new cells": blocks(cost=lambda block: block.numel()),
    "and give each rectangle ten tries": blocks(tries=1),
    "the blocks are small": blocks(area=lambda generator, remaining: 4),
    "the last row is never hidden": blocks(place=short_of_the_end),
    "the last column is never hidden": blocks(place=last_column_spared),
    "15 cells are never hidden, first (0, 0)": blocks(place=not_at_the_start),
    "instead of cutting it off": blocks(place=cut_off),
    "and 0% clearly tall": blocks(aspect=lambda generator: log_uniform(generator, high=1)),
    "0% of the masks are clearly wide": blocks(aspect=lambda generator: log_uniform(generator, low=1)),
    "expected 25 % each": blocks(aspect=lambda generator: 1),
    "draw the logarithm of the aspect ratio": blocks(aspect=lambda generator: uniform(generator, 0.3, 1 / 0.3)),
    "torch's global generator": lambda side, patches, generator: blocks()(side, patches, None),
    "pass generator=generator to every random function": global_seed,
    "none from random": blocks(place=by_random),
    "do not seed the generator that is passed in": lambda side, patches, generator: blocks()(
        side, patches, generator.manual_seed(0)
    ),
    "two calls in a row": seeded(seed=lambda generator: generator.initial_seed()),
    "raised RuntimeError in the line": blocks(place=crashes_if_too_large),
    "has dtype torch.float32; expected torch.bool": blocks(after=torch.Tensor.float),
    "has shape (64,); expected (8, 8) = (side, side)": blocks(after=torch.Tensor.flatten),
    "should be a torch.Tensor, but is a list": blocks(after=torch.Tensor.tolist),
}
RIGHT["block_mask"] = {
    "torch": blocks(),
    "BEiT's code": beit,
    "set of cells": blocks_by_loops,
    "too large sides are shortened": blocks(
        place=lambda generator, side, *sizes: anywhere(generator, side, *(min(size, side) for size in sizes))
    ),
}


# Masked words --------------------------------------------------------------------------------------------------------


def replace(tokens, chosen, mask_id, vocab_size, generator):
    """BERT's way: 80 % of the chosen ones, then half of the rest."""
    masked = chosen & (torch.rand(tokens.shape, generator=generator) < 0.8)
    other = chosen & ~masked & (torch.rand(tokens.shape, generator=generator) < 0.5)
    words = torch.randint(vocab_size, tokens.shape, generator=generator)
    return torch.where(other, words, torch.where(masked, mask_id, tokens))


def by_thresholds(mask=0.8, other=0.1):
    """Replace by one random number per position."""

    def replace(tokens, chosen, mask_id, vocab_size, generator):
        number = torch.rand(tokens.shape, generator=generator)
        words = torch.randint(vocab_size, tokens.shape, generator=generator)
        corrupted = torch.where(chosen & (number < mask), mask_id, tokens)
        return torch.where(chosen & (mask <= number) & (number < mask + other), words, corrupted)

    return replace


def independently(tokens, chosen, mask_id, vocab_size, generator):
    masked, other = (torch.rand(tokens.shape, generator=generator) < share for share in (0.8, 0.1))
    words = torch.randint(vocab_size, tokens.shape, generator=generator)
    return torch.where(chosen & other, words, torch.where(chosen & masked, mask_id, tokens))


def ten_percent_of_the_rest(tokens, chosen, mask_id, vocab_size, generator):
    masked, other = (torch.rand(tokens.shape, generator=generator) < share for share in (0.8, 0.1))
    words = torch.randint(vocab_size, tokens.shape, generator=generator)
    return torch.where(chosen & masked, mask_id, torch.where(chosen & other, words, tokens))


def with_words(words):
    """Random words drawn in another way."""

    def replace(tokens, chosen, mask_id, vocab_size, generator):
        number = torch.rand(tokens.shape, generator=generator)
        corrupted = torch.where(chosen & (number < 0.8), mask_id, tokens)
        return torch.where(chosen & (number >= 0.9), words(tokens, vocab_size, generator), corrupted)

    return replace


def choose(maskable, generator, ratio):
    return maskable & (torch.rand(maskable.shape, generator=generator) < ratio)


def masked_words(
    choose=choose,
    replace=replace,
    label=lambda tokens, corrupted, chosen: torch.where(chosen, tokens, -100),
    after=lambda corrupted, labels: (corrupted, labels),
):
    """Masking put together from steps that a mutant can replace."""

    def answer(tokens, maskable, mask_id, vocab_size, generator, ratio=0.15):
        chosen = choose(maskable, generator, ratio)
        corrupted = replace(tokens, chosen, mask_id, vocab_size, generator)
        return after(corrupted, label(tokens, corrupted, chosen))

    return answer


def once_for_all_rows(maskable, generator, ratio):
    return maskable & (torch.rand(maskable.size(1), generator=generator) < ratio)


def whole_rows(maskable, generator, ratio):
    return maskable & (torch.rand(len(maskable), 1, generator=generator) < ratio)


def random_words_anywhere(tokens, chosen, mask_id, vocab_size, generator):
    corrupted = replace(tokens, chosen, mask_id, vocab_size, generator)
    other = torch.rand(tokens.shape, generator=generator) < 0.02
    return torch.where(other, torch.randint(vocab_size, tokens.shape, generator=generator), corrupted)


def random_words(tokens, size):
    return torch.tensor(random.choices(range(size), k=tokens.numel())).view_as(tokens)


def in_place(tokens, maskable, mask_id, vocab_size, generator, ratio=0.15):
    chosen = choose(maskable, generator, ratio)
    labels = tokens.masked_fill(~chosen, -100)
    tokens[chosen] = mask_id
    return tokens, labels


def masked_by_loops(tokens, maskable, mask_id, vocab_size, generator, ratio=0.15):
    """A whole number of positions per row, a little noisy so that it is right on average."""
    corrupted, labels = tokens.clone(), torch.full_like(tokens, -100)
    for row in range(len(tokens)):
        places = maskable[row].nonzero()[:, 0]
        count = math.floor(ratio * len(places) + torch.rand((), generator=generator).item())
        for place in places[torch.randperm(len(places), generator=generator)[:count]]:
            labels[row, place] = tokens[row, place]
            number = torch.rand((), generator=generator).item()
            if number < 0.9:
                word = torch.randint(vocab_size, (), generator=generator)
                corrupted[row, place] = mask_id if number < 0.8 else word
    return corrupted, labels


def masked_by_bernoulli(tokens, maskable, mask_id, vocab_size, generator, ratio=0.15):
    """As the collator of transformers does it."""
    corrupted, labels = tokens.clone(), tokens.clone()
    chance = torch.full(labels.shape, ratio).masked_fill_(~maskable, 0.0)
    chosen = torch.bernoulli(chance, generator=generator).bool()
    labels[~chosen] = -100
    masked = torch.bernoulli(torch.full(labels.shape, 0.8), generator=generator).bool() & chosen
    corrupted[masked] = mask_id
    other = torch.bernoulli(torch.full(labels.shape, 0.5), generator=generator).bool() & chosen & ~masked
    corrupted[other] = torch.randint(vocab_size, labels.shape, dtype=torch.long, generator=generator)[other]
    return corrupted, labels


WRONG["mask_words"] = {
    "every chosen word becomes mask_id": masked_words(replace=by_thresholds(1, 0)),
    "no chosen word stays as it is": masked_words(replace=by_thresholds(0.8, 0.2)),
    "no chosen word becomes a random id": masked_words(replace=by_thresholds(0.8, 0)),
    "only 2 % become random ids": masked_words(replace=ten_percent_of_the_rest),
    "some masks are overwritten by random ids": masked_words(replace=independently),
    "it is the other way round": masked_words(replace=by_thresholds(0.1, 0.1)),
    "50% stayed; expected 80 %, 10 % and 10 %": masked_words(replace=by_thresholds(0.4, 0.1)),
    "words that stay have no label": masked_words(
        label=lambda tokens, corrupted, chosen: torch.where(corrupted != tokens, tokens, -100)
    ),
    "labels is 0 where nothing was chosen": masked_words(
        label=lambda tokens, corrupted, chosen: torch.where(chosen, tokens, 0)
    ),
    "every position has a label": masked_words(label=lambda tokens, corrupted, chosen: tokens),
    "the labels are inverted": masked_words(label=lambda tokens, corrupted, chosen: torch.where(chosen, -100, tokens)),
    "all labels are -100": masked_words(label=lambda tokens, corrupted, chosen: torch.full_like(tokens, -100)),
    "labels hold the corrupted words": masked_words(
        label=lambda tokens, corrupted, chosen: torch.where(chosen, corrupted, -100)
    ),
    "labels hold other ids than tokens": masked_words(
        label=lambda tokens, corrupted, chosen: torch.where(chosen, tokens + 1, -100)
    ),
    "were chosen where maskable is False": masked_words(
        choose=lambda maskable, generator, ratio: choose(torch.ones_like(maskable), generator, ratio)
    ),
    "combine the two with &": masked_words(
        choose=lambda maskable, generator, ratio: choose(~maskable, generator, ratio)
    ),
    "were replaced but have no label": masked_words(replace=random_words_anywhere),
    "corrupted is the same as tokens": masked_words(replace=lambda tokens, *rest: tokens.clone()),
    "with ratio 0.15, 85% of the maskable words": masked_words(
        choose=lambda maskable, generator, ratio: maskable & ~choose(maskable, generator, ratio)
    ),
    "with ratio 0.5, 15% of the maskable words": masked_words(
        choose=lambda maskable, generator, ratio: choose(maskable, generator, 0.15)
    ),
    "the same positions are chosen in every row": masked_words(choose=once_for_all_rows),
    "whole rows are chosen": masked_words(choose=whole_rows),
    "these ids never come up as a random word: 0;": masked_words(
        replace=with_words(lambda tokens, size, g: torch.randint(1, size, tokens.shape, generator=g))
    ),
    "never come up as a random word: 29; randint(vocab_size, ...) draws": masked_words(
        replace=with_words(lambda tokens, size, g: torch.randint(size - 1, tokens.shape, generator=g))
    ),
    "one random id is 30, but vocab_size is 30": masked_words(
        replace=with_words(lambda tokens, size, g: torch.randint(size + 1, tokens.shape, generator=g))
    ),
    "all random words are the same one": masked_words(
        replace=with_words(lambda tokens, size, g: torch.randint(size, (), generator=g))
    ),
    "torch's global generator": masked_words(
        replace=with_words(lambda tokens, size, g: torch.randint(size, tokens.shape))
    ),
    "none from random": masked_words(replace=with_words(lambda tokens, size, g: random_words(tokens, size))),
    "two calls in a row": lambda tokens, maskable, mask_id, size, generator, ratio=0.15: masked_words()(
        tokens, maskable, mask_id, size, generator.manual_seed(0), ratio
    ),
    "the two results are swapped": masked_words(after=lambda corrupted, labels: (labels, corrupted)),
    "return two tensors, (corrupted, labels); got a Tensor": masked_words(after=lambda corrupted, labels: corrupted),
    "labels has dtype torch.float32; expected torch.int64": masked_words(
        after=lambda corrupted, labels: (corrupted, labels.float())
    ),
    "labels has shape (": masked_words(after=lambda corrupted, labels: (corrupted, labels[labels != -100])),
    "changes its input tokens in place": in_place,
    "takes 5 positional arguments but 6 were given": lambda tokens, maskable, mask_id, vocab_size, generator: (
        masked_words()(tokens, maskable, mask_id, vocab_size, generator)
    ),
}
RIGHT["mask_words"] = {
    "half of the rest": masked_words(),
    "one number, two thresholds": masked_words(replace=by_thresholds()),
    "loops": masked_by_loops,
    "as transformers": masked_by_bernoulli,
}


# Targets and losses --------------------------------------------------------------------------------------------------


def keep_if_none(is_negative):
    """The rows whose labels go: the negatives, unless there is nothing else."""
    return is_negative & ~is_negative.all()


def targets(
    pair=lambda tokens, negatives, row: torch.where(row, negatives, tokens),
    itm=lambda is_negative: (~is_negative).long(),
    mmm=lambda labels, row, negatives: labels.masked_fill(row, -100),
    gone=keep_if_none,
    after=lambda *results: results,
):
    """The three results, each from a step that a mutant can replace."""

    def answer(tokens, negatives, is_negative, mlm_labels):
        labels = mmm(mlm_labels, gone(is_negative)[:, None], negatives)
        return after(pair(tokens, negatives, is_negative[:, None]), itm(is_negative), labels)

    return answer


def targets_in_place(tokens, negatives, is_negative, mlm_labels):
    tokens[is_negative] = negatives[is_negative]
    return targets()(tokens, negatives, is_negative, mlm_labels)


def labels_in_place(tokens, negatives, is_negative, mlm_labels):
    if not is_negative.all():
        mlm_labels[is_negative] = -100
    return *targets()(tokens, negatives, is_negative, mlm_labels)[:2], mlm_labels


def targets_by_clone(tokens, negatives, is_negative, mlm_labels):
    """As the reference: positives, or all rows if there is none."""
    paired, labels = tokens.clone(), mlm_labels.clone()
    paired[is_negative] = negatives[is_negative]
    itm_labels = 1 - is_negative.long()
    positive = itm_labels.ne(0)
    labels[~(positive | ~positive.any())] = -100
    return paired, itm_labels, labels


def targets_by_loops(tokens, negatives, is_negative, mlm_labels):
    flags = is_negative.tolist()
    paired = [b if flag else a for a, b, flag in zip(tokens.tolist(), negatives.tolist(), flags, strict=True)]
    blank = [-100] * tokens.size(1)
    labels = [blank if flag and not all(flags) else row for row, flag in zip(mlm_labels.tolist(), flags, strict=True)]
    return [torch.tensor(x) for x in (paired, [int(not flag) for flag in flags], labels)]


WRONG["match_targets"] = {
    "paired holds the original captions only": targets(pair=lambda tokens, negatives, row: tokens),
    "paired holds the negatives only": targets(pair=lambda tokens, negatives, row: negatives),
    "is_negative is the wrong way round": targets(
        pair=lambda tokens, negatives, row: torch.where(row, tokens, negatives)
    ),
    "negatives are appended": targets(pair=lambda tokens, negatives, row: torch.cat([tokens, negatives])),
    "itm_labels are inverted": targets(itm=lambda is_negative: is_negative.long()),
    "itm_labels are 1 and -1": targets(itm=lambda is_negative: torch.where(is_negative, -1, 1)),
    "itm_labels are all 1": targets(itm=lambda is_negative: torch.ones(len(is_negative), dtype=torch.long)),
    "no pair matches: itm_labels are all 0": targets(itm=lambda is_negative: (~is_negative | is_negative.all()).long()),
    "itm_labels has dtype torch.bool; expected torch.int64": targets(itm=lambda is_negative: ~is_negative),
    "a negative row keeps its labels": targets(mmm=lambda labels, row, negatives: labels),
    "lost their labels: blank the negative ones": targets(
        mmm=lambda labels, row, negatives: labels.masked_fill(~row, -100)
    ),
    "negative rows are labeled 0": targets(mmm=lambda labels, row, negatives: labels.masked_fill(row, 0)),
    "negative rows are dropped": targets(mmm=lambda labels, row, negatives: labels[~row[:, 0]]),
    "labeled with their new words": targets(mmm=lambda labels, row, negatives: torch.where(row, negatives, labels)),
    "no row is positive, and all labels are -100": targets(gone=lambda is_negative: is_negative),
    "the positive rows lost their labels": targets(gone=lambda is_negative: is_negative | ~is_negative.any()),
    "the results are in another order": targets(after=lambda paired, itm, mmm: (itm, paired, mmm)),
    "return (paired, itm_labels, mmm_labels).": targets(after=lambda paired, itm, mmm: (paired, mmm, itm)),
    "return three tensors, (paired, itm_labels, mmm_labels); got a tuple": targets(
        after=lambda paired, itm, mmm: (paired, itm)
    ),
    "changes its input tokens in place": targets_in_place,
    "changes its input mlm_labels in place": labels_in_place,
}
RIGHT["match_targets"] = {
    "where": targets(),
    "clone": targets_by_clone,
    "loops": targets_by_loops,
}


def both_positive(logits, positive):
    """Cross-entropies of the positive rows, both directions."""
    own = positive.nonzero()[:, 0]
    return [F.cross_entropy(x[positive], own, reduction="none") for x in (logits, logits.T)]


def mean_of_positives(logits, positive):
    a, b = both_positive(logits, positive)
    return (a.mean() + b.mean()) / 2


def contrast(loss=mean_of_positives, normalize=shared.unit, scale=torch.exp):
    def answer(image_features, text_features, logit_scale, positive):
        return loss(scale(logit_scale) * normalize(image_features) @ normalize(text_features).T, positive)

    return answer


def every(positive):
    return torch.ones_like(positive)


def counted_labels(logits, positive):
    labels = torch.arange(int(positive.sum()))
    return (F.cross_entropy(logits[positive], labels) + F.cross_entropy(logits.T[positive], labels)) / 2


def negatives_left_text_softmax(logits, positive):
    return (both_positive(logits, positive)[0].mean() + mean_of_positives_alone(logits.T, positive)[0].mean()) / 2


def mean_of_positives_alone(logits, positive):
    return both_positive(logits[positive][:, positive], every(positive[positive]))


def text_over_all(logits, positive):
    return (both_positive(logits, positive)[0].mean() + both_positive(logits, every(positive))[1].mean()) / 2


def with_negatives_detached(image_features, text_features, logit_scale, positive):
    keep = positive[:, None]
    image, text = (torch.where(keep, x, x.detach()) for x in (image_features, text_features))
    return contrast()(image, text, logit_scale, positive)


def contrast_masked_mean(image_features, text_features, logit_scale, positive):
    """All rows, with the negative ones ignored as cross_entropy ignores them."""
    logits = logit_scale.exp() * F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).T
    labels = torch.arange(len(logits)).masked_fill(~positive, -100)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def contrast_by_weights(image_features, text_features, logit_scale, positive):
    logits = logit_scale.exp() * shared.unit(image_features) @ shared.unit(text_features).T
    weight = positive.to(logits.dtype)
    per_row = -(logits.log_softmax(1) + logits.log_softmax(0)).diagonal() / 2
    return (weight * per_row).sum() / weight.sum()


def contrast_by_loops(image_features, text_features, logit_scale, positive):
    losses = []
    for a, b in ((image_features, text_features), (text_features, image_features)):
        for i in positive.nonzero()[:, 0].tolist():
            logits = logit_scale.exp() * F.cosine_similarity(a[i][None], b)
            losses.append(logits.logsumexp(0) - logits[i])
    return torch.stack(losses).mean()


WRONG["global_contrastive"] = {
    "this is CLIP's loss over all rows": contrast(lambda z, positive: mean_of_positives(z, every(positive))),
    "taken over the negative rows": contrast(
        lambda z, positive: mean_of_positives(z, positive if positive.all() else ~positive)
    ),
    "the negatives left the softmax as well": contrast(
        lambda z, positive: sum(mean_of_positives_alone(z, positive)).mean() / 2
    ),
    "the labels count the positive rows": contrast(counted_labels),
    "text to image is averaged over all rows": contrast(text_over_all),
    "in the direction from text to image the negatives left": contrast(negatives_left_text_softmax),
    "this is the image-to-text direction only": contrast(lambda z, positive: both_positive(z, positive)[0].mean()),
    "this is the text-to-image direction only": contrast(lambda z, positive: both_positive(z, positive)[1].mean()),
    "is divided by N": contrast(lambda z, positive: sum(both_positive(z, positive)).sum() / 2 / len(z)),
    "the sum over the positive rows": contrast(lambda z, positive: sum(both_positive(z, positive)).sum() / 2),
    "sum of the two directions": contrast(lambda z, positive: 2 * mean_of_positives(z, positive)),
    "one loss per positive row": contrast(lambda z, positive: sum(both_positive(z, positive)) / 2),
    "the sign is wrong": contrast(lambda z, positive: -mean_of_positives(z, positive)),
    "the features are not normalized": contrast(normalize=lambda x: x),
    "logit_scale is a logarithm": contrast(scale=lambda s: s),
    "logit_scale is not used": contrast(scale=lambda s: 1),
    "no gradient flows from the loss to logit_scale": contrast(scale=lambda s: s.detach().exp()),
    "no gradient reaches the rows that are not positive": with_negatives_detached,
    "exp(100) overflows float32": contrast(
        lambda z, positive: (z.exp().sum(1).log() + z.exp().sum(0).log() - 2 * z.diagonal())[positive].mean() / 2
    ),
    "CLIP's own, is": contrast(lambda z, positive: mean_of_positives(z, positive) * (1 + positive.all())),
    "dtype torch.float32; expected torch.float64": contrast(lambda z, positive: mean_of_positives(z.float(), positive)),
    "changes its input image_features in place": lambda image, text, scale, positive: contrast()(
        image.detach().mul_(2), text, scale, positive
    ),
}
RIGHT["global_contrastive"] = {
    "positive rows": contrast(),
    "ignored labels": contrast_masked_mean,
    "weights": contrast_by_weights,
    "loops": contrast_by_loops,
}


# Codebooks -----------------------------------------------------------------------------------------------------------


def nearest(z, codebook):
    return torch.cdist(z, codebook).argmin(1)


def quantize(code=nearest, through=lambda z, entry: z + (entry - z).detach(), after=lambda *results: results):
    def answer(z, codebook):
        codes = code(z, codebook)
        return after(through(z, codebook[codes]), codes)

    return answer


def distances_as_codes(z, codebook):
    quantized, codes = quantize()(z, codebook)
    return quantized, (z - quantized).norm(dim=1)


def nearest_z(z, codebook):
    return quantize()(z, codebook)[0], torch.cdist(z, codebook).argmin(0)


def quantize_in_place(z, codebook):
    with torch.no_grad():
        z /= z.norm(dim=1, keepdim=True)
    return quantize()(z, codebook)


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, codebook):
        return codebook[nearest(z, codebook)]

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def quantize_by_function(z, codebook):
    return StraightThrough.apply(z, codebook), nearest(z, codebook)


def quantize_by_loops(z, codebook):
    codes = torch.tensor([min(range(len(codebook)), key=lambda k: float((x - codebook[k]).detach().norm())) for x in z])
    entries = torch.stack([codebook[k] for k in codes]).detach()
    return entries + z - z.detach(), codes


def quantize_by_expansion(z, codebook):
    squared = codebook.square().sum(1) - 2 * z @ codebook.T  # + |z|^2, the same for all entries
    codes = squared.min(1).indices
    one_hot = F.one_hot(codes, len(codebook)).to(z.dtype)
    return z - (z - one_hot @ codebook).detach(), codes


WRONG["straight_through"] = {
    "the highest dot product": quantize(code=lambda z, codebook: (z @ codebook.T).argmax(1)),
    "the highest cosine": quantize(code=lambda z, codebook: (shared.unit(z) @ shared.unit(codebook).T).argmax(1)),
    "adds up absolute differences": quantize(code=lambda z, codebook: torch.cdist(z, codebook, p=1).argmin(1)),
    "the farthest entry": quantize(code=lambda z, codebook: torch.cdist(z, codebook).argmax(1)),
    "for each entry the nearest z": nearest_z,
    "dtype torch.float32; expected torch.int64": distances_as_codes,
    "codes is one-hot": quantize(after=lambda quantized, codes: (quantized, F.one_hot(codes, 7))),
    "codes has shape (11, 1); expected (11,) = (N,)": quantize(
        after=lambda quantized, codes: (quantized, codes[:, None])
    ),
    "codes has dtype torch.float32; expected torch.int64": quantize(
        after=lambda quantized, codes: (quantized, codes.float())
    ),
    "the two results are swapped": quantize(after=lambda quantized, codes: (codes, quantized)),
    "return two tensors, (quantized, codes); got a Tensor": quantize(after=lambda quantized, codes: quantized),
    "quantized is still z": quantize(through=lambda z, entry: z),
    "are the wrong way round in the difference": quantize(through=lambda z, entry: z + (z - entry).detach()),
    "this is the difference only": quantize(through=lambda z, entry: entry - z),
    "z is added but not subtracted": quantize(through=lambda z, entry: z + entry.detach()),
    "goes to the codebook and not to z": quantize(through=lambda z, entry: entry),
    "detach() sends it to z": quantize(through=lambda z, entry: z + (entry - z)),
    "the codebook gets a gradient through quantized as well": quantize(
        through=lambda z, entry: entry + (z - z.detach())
    ),
    "no gradient reaches z": quantize(through=lambda z, entry: entry.detach()),
    "detach() cuts it": quantize(through=lambda z, entry: (z + entry - z).detach()),
    "z gets the gradient twice": quantize(through=lambda z, entry: 2 * z + (entry - 2 * z).detach()),
    "It should be the gradient of quantized, unchanged": quantize(
        through=lambda z, entry: entry.detach() * z / z.detach()
    ),
    "dtype torch.float32; expected torch.float64": quantize(after=lambda quantized, codes: (quantized.float(), codes)),
    "changes its input z in place": quantize_in_place,
}
RIGHT["straight_through"] = {
    "detach": quantize(),
    "autograd.Function": quantize_by_function,
    "loops": quantize_by_loops,
    "one-hot and expanded distance": quantize_by_expansion,
}


def round_through(x):
    return x + (x.round() - x).detach()


def strides(levels):
    return torch.tensor([math.prod(levels[:i]) for i in range(len(levels))])


def finite(
    bound=lambda z, top: top * z.sigmoid(),
    rounded=round_through,
    rescale=lambda level, top: 2 * level / top - 1,
    code=lambda level, levels: (level * strides(levels)).sum(-1).long(),
    after=lambda *results: results,
):
    """FSQ put together from steps that a mutant can replace."""

    def answer(z, levels):
        top = torch.tensor(levels, dtype=z.dtype) - 1
        level = rounded(bound(z, top))
        return after(rescale(level, top), code(level.detach(), levels))

    return answer


def weigh(weights):
    return lambda level, levels: (level * torch.tensor([weights(levels, i) for i in range(len(levels))])).sum(-1).long()


def fsq_skips_sigmoid(z, levels):
    quantized, codes = finite()(z, levels)
    return z + (quantized - z).detach(), codes


def fsq_half_gradient(z, levels):
    quantized, codes = finite()(z, levels)
    return quantized / 2 + quantized.detach() / 2, codes


def fsq_codes_cut(z, levels):
    quantized, _ = finite()(z, levels)
    level = ((quantized.detach() + 1) / 2 * (torch.tensor(levels) - 1)).long()
    return quantized, (level * strides(levels)).sum(-1)


def fsq_limited(z, levels):
    """Never reaches the outermost levels."""
    return finite(bound=lambda z, top: (top * z.sigmoid()).clamp(max=top - 0.6))(z, levels)


def fsq_for_three_axes(z, levels):
    batch, grid, d = z.shape
    return finite()(z, levels)


def fsq_in_place(z, levels):
    return finite()(z.data.mul_(2), levels)


class RoundThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (x + 0.5).floor()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def fsq_by_loops(z, levels):
    channels, codes, stride = [], 0, 1
    for x, count in zip(z.unbind(-1), levels, strict=True):
        soft = torch.sigmoid(x)
        level = torch.round((count - 1) * soft.detach()).long()
        channels.append(2 * level / (count - 1) - 1 + 2 * (soft - soft.detach()))
        codes = codes + stride * level
        stride *= count
    return torch.stack(channels, dim=-1), codes


def fsq_horner(z, levels):
    """tanh of z / 2, and codes by Horner's rule from the last channel to the first."""
    half = (torch.tensor(levels, dtype=z.dtype) - 1) / 2
    level = RoundThrough.apply((1 + (z / 2).tanh()) * half)
    codes = torch.zeros(z.shape[:-1], dtype=torch.long)
    for i in reversed(range(len(levels))):
        codes = codes * levels[i] + level[..., i].long()
    return (level - half) / half, codes


WRONG["fsq"] = {
    "quantized is not rounded": finite(rounded=lambda x: x),
    "the levels are rounded down": finite(rounded=lambda x: x.floor()),
    "the levels are rounded up": finite(rounded=lambda x: x.ceil()),
    "rounds to L + 1 different levels": finite(
        bound=lambda z, top: (top + 1) * z.sigmoid(), rescale=lambda level, top: 2 * level / (top + 1) - 1
    ),
    "one level too many": finite(bound=lambda z, top: (top + 1) * z.sigmoid()),
    "quantized holds the levels themselves": finite(rescale=lambda level, top: level),
    "quantized lies between 0 and 1": finite(rescale=lambda level, top: level / top),
    "the levels are divided by L": finite(rescale=lambda level, top: 2 * level / (top + 1) - 1),
    "twice as steep": finite(bound=lambda z, top: top * (z.tanh() + 1) / 2),
    "the sigmoid is missing": finite(bound=lambda z, top: top * z),
    "the last channel runs fastest": finite(code=weigh(lambda levels, i: math.prod(levels[i + 1 :]))),
    "the first weight is L_0": finite(code=weigh(lambda levels, i: math.prod(levels[: i + 1]))),
    "powers of the first L": finite(code=weigh(lambda levels, i: levels[0] ** i)),
    "multiplied by its own L": finite(code=weigh(lambda levels, i: levels[i])),
    "the levels are added up": finite(code=weigh(lambda levels, i: 1)),
    "some levels are one too low": fsq_codes_cut,
    "codes holds the levels": finite(code=lambda level, levels: level.long()),
    "the codes begin at 1": finite(code=lambda level, levels: 1 + (level * strides(levels)).sum(-1).long()),
    "codes has dtype torch.float32; expected torch.int64": finite(
        code=lambda level, levels: (level * strides(levels)).sum(-1)
    ),
    "no gradient reaches z": finite(rounded=torch.round),
    "the gradient skips the sigmoid": fsq_skips_sigmoid,
    "that of the unrounded value": fsq_half_gradient,
    "the values of quantized differ": fsq_limited,
    "not enough values to unpack (expected 3, got 2)": fsq_for_three_axes,
    "the two results are swapped": finite(after=lambda quantized, codes: (codes, quantized)),
    "return two tensors, (quantized, codes); got a Tensor": finite(after=lambda quantized, codes: quantized),
    "dtype torch.float32; expected torch.float64": finite(after=lambda quantized, codes: (quantized.float(), codes)),
    "changes its input z in place": fsq_in_place,
}
RIGHT["fsq"] = {
    "detach": finite(),
    "loops": fsq_by_loops,
    "autograd.Function, tanh, Horner": fsq_horner,
}


# The tests, those of test_checks.py ----------------------------------------------------------------------------------


class TestFlava(shared.OtherLesson):
    module, WRONG, RIGHT = flava, WRONG, RIGHT


@pytest.mark.parametrize("name", ["block_mask", "mask_words"])
def test_statistics_leave_room(name, monkeypatch):
    """A right answer does not fail by chance: other random numbers pass as well."""
    monkeypatch.setattr(flava, "_generator", lambda seed: torch.Generator().manual_seed(seed + 1000))
    for answer in RIGHT[name].values():
        getattr(flava, name)(answer)
