"""Checks for the exercises of lesson 05, FLAVA."""

import math
from itertools import product

import torch
import torch.nn.functional as F

from mmlesson.check import DTYPES, exercise, randn


def _generator(seed):
    return torch.Generator().manual_seed(seed)


def _expect_own_randomness(answer, draw):
    """Expect that draw(generator), a tensor, uses this generator and nothing else, and does not seed it."""
    with torch.random.fork_rng(devices=[]):  # in a state that no answer seeds by chance
        state = torch.default_generator.manual_seed(20211208).get_state()
        first, generator = draw(_generator(1)), _generator(1)
        again, after = draw(generator), draw(generator)
        untouched = torch.equal(state, torch.get_rng_state())
    everywhere = "your function uses torch's global generator: pass generator=generator to every random function."
    answer.expect(untouched, everywhere)
    foreign = "equal generators gave different results: take every random number from the generator, none from random."
    answer.expect(torch.equal(first, again), foreign)
    seeded = "two calls in a row with one generator gave the same result: do not seed the generator that is passed in."
    answer.expect(not torch.equal(again, after), seeded)


def _expect_kind(answer, what, got, shape, dtype, axes):
    """Type, shape and dtype of a random result, which has no expected values."""
    if not isinstance(got, torch.Tensor):
        answer.fail(f"{what} should be a torch.Tensor, but is a {type(got).__name__}.")
    if got.shape != shape:
        answer.fail(f"{what} has shape {tuple(got.shape)}; expected {tuple(shape)} = {axes}.")
    if got.dtype != dtype:
        answer.fail(f"{what} has dtype {got.dtype}; expected {dtype}.")


def _expect_results(answer, results, names):
    number = {2: "two", 3: "three"}[len(names)]
    complete = isinstance(results, (tuple, list)) and len(results) == len(names)
    answer.expect(complete, f"return {number} tensors, ({', '.join(names)}); got a {type(results).__name__}.")
    return results


# Random masks --------------------------------------------------------------------------------------------------------

_DRAWS = 500


@exercise("never above the budget, near it on average, blocks, both orientations, every cell, own generator only")
def block_mask(answer):
    """block_mask(side, patches, generator) -> (side, side) bool, True where hidden: BEiT's block-wise masking.

    Adds random rectangles until `patches` cells are hidden or ten tries in a row fail. A rectangle has an area uniform
    between 4 and what remains (at least 4), an aspect ratio log-uniform between 0.3 and 1 / 0.3, rounded sides, and any
    place in the grid; it fails if it does not fit, adds no new cell, or adds more than what remains.
    """

    def draw(side, patches, generator):
        mask = answer(side=side, patches=patches, generator=generator)
        _expect_kind(answer, "the mask", mask, (side, side), torch.bool, "(side, side)")
        return mask

    def many(number, *arguments):
        return torch.stack([draw(*arguments) for _ in range(number)])

    answer.expect(draw(8, 24, _generator(1)).any(), "the mask hides nothing: set the cells of each rectangle to True.")
    _expect_own_randomness(answer, lambda generator: many(5, 8, 24, generator))
    for seed, side, patches, expect in ((2, 8, 24, _expect_blocks), (3, 10, 12, _expect_orientations)):
        masks = many(_DRAWS, side, patches, _generator(seed))
        _expect_budget(answer, masks, patches)
        expect(answer, masks, patches)


def _expect_budget(answer, masks, patches):
    hidden = masks.sum((1, 2))
    inverted = "the mask is inverted: True stands for a hidden cell, and at most `patches` cells are hidden."
    answer.expect((~masks).sum((1, 2)).max() > patches, inverted)
    over = (hidden > patches).sum()
    answer.expect(
        over == 0,
        f"{over} of {len(masks)} masks hide more than {patches} cells, up to {hidden.max()}: "
        f"reject a rectangle that adds more new cells than what remains.",
    )


def _expect_blocks(answer, masks, patches):
    """On an 8 x 8 grid, 24 cells. The right answer: 2.85 hidden neighbors, 8 % single rectangles, 23.9 cells."""
    neighbors = _neighbors(masks)
    scattered = (
        f"the hidden cells are scattered, with {neighbors:.1f} hidden neighbors (of 4) on average; expected 2.8: "
        f"hide whole rectangles."
    )
    answer.expect(neighbors > 2, scattered)
    single = sum(mask.any(1).sum() * mask.any(0).sum() == mask.sum() for mask in masks) / len(masks)
    one = f"{single:.0%} of the masks are one rectangle: go on adding rectangles, of random area, while cells remain."
    answer.expect(single < 0.5, one)
    mean = masks.sum((1, 2)).double().mean()
    few = (
        f"the masks hide {mean:.1f} of {patches} cells on average; expected 90 % or more: count only new cells, and "
        f"give each rectangle ten tries."
    )
    answer.expect(mean >= 0.9 * patches, few)
    small = (
        f"the blocks are small, with {neighbors:.1f} hidden neighbors (of 4) on average; expected 2.8: draw the area "
        f"uniformly from 4 up to what remains."
    )
    answer.expect(neighbors > 2.55, small)
    _expect_places(answer, masks)


def _neighbors(masks):
    """The mean number of hidden cells beside, above and below a hidden cell."""
    pairs = (masks[:, 1:] & masks[:, :-1]).sum() + (masks[:, :, 1:] & masks[:, :, :-1]).sum()
    return 2 * pairs / masks.sum()


def _expect_places(answer, masks):
    often = masks.double().mean(0)  # how often each cell is hidden
    end = "randint excludes its upper bound, so it needs side - height + 1 (and side - width + 1)."
    for name, line in (("row", often[-1]), ("column", often[:, -1])):
        answer.expect(line.any(), f"the last {name} is never hidden: {end}")
    never = (often == 0).nonzero().tolist()
    if never:
        answer.fail(f"{len(never)} cells are never hidden, first {tuple(never[0])}: draw any place that fits.")
    for name, first, last in (("row", often[0], often[-1]), ("column", often[:, 0], often[:, -1])):
        first, last = first.mean(), last.mean()
        answer.expect(
            abs(first - last) < 0.12,
            f"the first {name} is hidden in {first:.0%} of the masks, the last one in {last:.0%}; expected 20 % each: "
            f"draw a place where the whole rectangle fits, instead of cutting it off.",
        )


def _expect_orientations(answer, masks, _):
    """With 12 of 10 x 10 cells the first rectangle sets the shape. The right answer: a quarter wide, a quarter tall."""
    across, down = _longest_run(masks), _longest_run(masks.mT)
    wide, tall = ((a >= 1.5 * b).double().mean() for a, b in ((across, down), (down, across)))
    answer.expect(
        min(wide, tall) > 0.12,
        f"{wide:.0%} of the masks are clearly wide and {tall:.0%} clearly tall; expected 25 % each: draw the logarithm "
        f"of the aspect ratio uniformly from log(0.3) to log(1 / 0.3).",
    )


def _longest_run(masks):
    """The length of each mask's longest run of hidden cells within a row."""
    run, longest = torch.zeros(masks.shape[:2]), torch.zeros(len(masks))
    for column in masks.unbind(2):
        run = (run + 1) * column
        longest = longest.maximum(run.amax(1))
    return longest


_VOCAB, _MASK_ID = 30, 27  # words 1 to 26, <sot> 28, <eot> 29


@exercise("80/10/10, labels, maskable positions only, own generator only")
def mask_words(answer):
    """mask_words(tokens, maskable, mask_id, vocab_size, generator, ratio=0.15) -> (corrupted, labels), BERT's 80/10/10.

    tokens (N, T) long; maskable (N, T) bool, where a word may be chosen. Each is chosen with probability `ratio`; of
    the chosen words 80 % become mask_id, 10 % a random id from [0, vocab_size), 10 % stay. labels: the original ids at
    the chosen positions, -100 elsewhere.
    """
    tokens, maskable = _captions()
    names = "corrupted", "labels"

    def draw(generator, **ratio):
        ids = {"mask_id": _MASK_ID, "vocab_size": _VOCAB}
        results = answer(tokens=tokens, maskable=maskable, **ids, generator=generator, **ratio)
        for name, got in zip(names, _expect_results(answer, results, names), strict=True):
            _expect_kind(answer, name, got, tokens.shape, torch.long, "(N, T)")
        return torch.stack(list(results))

    _expect_own_randomness(answer, draw)
    corrupted, labels = draw(_generator(2))
    _expect_labels(answer, tokens, maskable, corrupted, labels)
    _expect_chosen(answer, maskable, labels != -100, 0.15)
    _expect_shares(answer, tokens, corrupted, labels != -100)
    corrupted, labels = draw(_generator(3), ratio=0.5)
    _expect_labels(answer, tokens, maskable, corrupted, labels)
    _expect_chosen(answer, maskable, labels != -100, 0.5)
    _expect_random_words(answer, corrupted[(labels != -100) & (corrupted != tokens) & (corrupted != _MASK_ID)])


def _captions(N=2000, T=20):
    """Captions of 8 to 18 random words between <sot> and <eot>, padded with 0, and where the words are."""
    position, length = torch.arange(T), torch.randint(8, 19, (N, 1), generator=_generator(4))
    tokens = torch.randint(1, 27, (N, T), generator=_generator(5))
    maskable = (position > 0) & (position <= length)
    tokens[:, 0] = 28
    tokens[position == length + 1] = 29
    tokens[position > length + 1] = 0
    return tokens, maskable


def _expect_labels(answer, tokens, maskable, corrupted, labels):
    swapped = "the two results are swapped: return (corrupted, labels), in this order."
    answer.expect(not (corrupted == -100).any(), swapped)
    changed = corrupted != tokens
    answer.expect(changed.any(), "corrupted is the same as tokens: replace the chosen words.")
    answer.expect((labels != -100).any(), "all labels are -100: a chosen position is labeled with its original id.")
    inverted = "the labels are inverted: the chosen words have one, all other positions have -100."
    answer.expect((labels[changed] != -100).any(), inverted)
    fill = labels[~maskable].unique().tolist()
    if len(fill) == 1:
        other = f"labels is {fill[0]} where nothing was chosen: use -100, which F.cross_entropy skips."
        answer.expect(fill == [-100], other)
    everywhere = "every position has a label: use -100 where nothing was chosen, so that the loss skips it."
    answer.expect((labels == -100).any(), everywhere)
    chosen = labels != -100
    wrongly = (chosen & ~maskable).sum()
    wrong = f"{wrongly} positions were chosen where maskable is False (padding, <sot>, <eot>): combine the two with &."
    answer.expect(wrongly == 0, wrong)
    late = "labels hold the corrupted words: take the original ones, from tokens."
    answer.expect(not torch.equal(labels[chosen], corrupted[chosen]), late)
    original = "labels hold other ids than tokens at chosen positions: they are the words to be guessed."
    answer.expect(torch.equal(labels[chosen], tokens[chosen]), original)
    stray = (changed & ~chosen).sum()
    unlabeled = f"{stray} words were replaced but have no label: replace chosen words only."
    answer.expect(stray == 0, unlabeled)


def _expect_chosen(answer, maskable, chosen, ratio):
    share = (chosen.sum() / maskable.sum()).item()
    each = "draw one random number per position, (N, T)."
    whole = (chosen == maskable).all(1) | ~chosen.any(1)
    answer.expect(not whole.all(), f"whole rows are chosen: {each}")
    columns = (chosen.sum(0) / maskable.sum(0))[maskable.any(0)]
    same = (columns - share).abs().amax() > 0.3
    answer.expect(not same, f"the same positions are chosen in every row: {each}")
    answer.expect(
        abs(share - ratio) < 0.03,
        f"with ratio {ratio}, {share:.0%} of the maskable words are chosen; expected {ratio:.0%}: "
        f"choose a position if its random number is below ratio.",
    )


def _expect_shares(answer, tokens, corrupted, chosen):
    """The shares of masked, replaced and kept words; with 3,900 chosen words none is off by 0.03 by chance."""
    masked = chosen & (corrupted == _MASK_ID)
    kept = chosen & (corrupted == tokens)
    shares = torch.stack([masked.sum(), (chosen & ~masked & ~kept).sum(), kept.sum()]) / chosen.sum()
    known = [
        ((1, 0, 0), "every chosen word becomes mask_id: 10 % become a random id and 10 % stay."),
        ((0.8, 0.2, 0), "no chosen word stays as it is: replace half of what mask_id leaves, not all of it."),
        ((0.8, 0, 0.2), "no chosen word becomes a random id: half of what mask_id leaves does."),
        ((0.89, 0.11, 0), "words that stay have no label: they are chosen too, and the model has to confirm them."),
        (
            (0.8, 0.02, 0.18),
            "only 2 % become random ids, which is 10 % of the 20 % that mask_id leaves: take half of those.",
        ),
        ((0.72, 0.1, 0.18), "some masks are overwritten by random ids: draw these among what mask_id leaves."),
        ((0.1, 0.1, 0.8), "80 % stay and 10 % become mask_id: it is the other way round."),
    ]
    became = "{:.0%} became mask_id, {:.0%} another word, {:.0%} stayed".format(*shares.tolist())
    known.append(((0.8, 0.1, 0.1), f"of the chosen words {became}; expected 80 %, 10 % and 10 %."))
    far = [(shares - torch.tensor(expected)).abs().max() for expected, _ in known]
    nearest = min(range(len(known)), key=far.__getitem__)
    answer.expect(far[-1] < 0.03, known[nearest if far[nearest] < 0.03 else -1][1])


def _expect_random_words(answer, words):
    """With some 1,400 random words, every id of the vocabulary comes up."""
    outside = words[(words < 0) | (words >= _VOCAB)].tolist()
    beyond = f"one random id is {max(outside, default=0)}, but vocab_size is {_VOCAB}: draw from [0, vocab_size)."
    answer.expect(not outside, beyond)
    found = words.unique().tolist()
    answer.expect(len(found) > 1, "all random words are the same one: draw one id per position, (N, T).")
    missing = ", ".join(str(i) for i in range(_VOCAB) if i not in [*found, _MASK_ID])
    bounds = "randint(vocab_size, ...) draws from 0 to vocab_size - 1."
    answer.expect(not missing, f"these ids never come up as a random word: {missing}; {bounds}")


# Targets and losses --------------------------------------------------------------------------------------------------


@exercise("replaced captions, labels of both losses, a batch without positives")
def match_targets(answer):
    """match_targets(tokens, negatives, is_negative, mlm_labels) -> (paired, itm_labels, mmm_labels).

    tokens, negatives, mlm_labels (N, T) long; is_negative (N,) bool. paired: tokens, with the row of negatives where
    is_negative. itm_labels (N,) long: 1 = matched, 0 = not. mmm_labels: mlm_labels with -100 in all of a negative row,
    unless no row is positive: then they stay as they are, or the loss would be a mean over nothing, NaN.
    """
    tokens, negatives = (torch.randint(1, 30, (5, 7), generator=_generator(seed)) for seed in (1, 2))
    labels = torch.where(torch.rand(5, 7, generator=_generator(3)) < 0.4, tokens, -100)
    names = "paired", "itm_labels", "mmm_labels"
    for case, rows in (
        ("", [False, True, False, False, True]),
        (" of a batch without negatives", [False] * 5),
        (" of a batch without positives", [True] * 5),
    ):
        is_negative = torch.tensor(rows)
        results = answer(tokens=tokens, negatives=negatives, is_negative=is_negative, mlm_labels=labels)
        expected = _targets(tokens, negatives, is_negative, labels)
        wrong = _wrong_targets(tokens, negatives, is_negative, labels)
        axes = "(N, T)", "(N,)", "(N, T)"
        for i, got in enumerate(_expect_results(answer, results, names)):
            answer.expect_tensor(names[i] + case, got, expected[i], wrong[i], axes=axes[i])


def _targets(tokens, negatives, is_negative, labels):
    row = is_negative[:, None]
    kept = labels if is_negative.all() else labels.masked_fill(row, -100)
    return torch.where(row, negatives, tokens), (~is_negative).long(), kept


def _wrong_targets(tokens, negatives, is_negative, labels):
    row, (_, itm_labels, kept) = is_negative[:, None], _targets(tokens, negatives, is_negative, labels)
    order = "the results are in another order: return (paired, itm_labels, mmm_labels)."
    paired = [
        (tokens, "paired holds the original captions only: take the row of negatives where is_negative is True."),
        (negatives, "paired holds the negatives only: take their row where is_negative is True, else that of tokens."),
        (torch.where(row, tokens, negatives), "is_negative is the wrong way round: True takes the row of negatives."),
        (torch.cat([tokens, negatives]), "negatives are appended: here they replace rows, and paired stays (N, T)."),
        (itm_labels, order),
    ]
    itm = [
        (is_negative.long(), "itm_labels are inverted: 1 stands for a pair that matches, 0 for one that does not."),
        (torch.where(is_negative, -1, 1), "itm_labels are 1 and -1: they are classes for F.cross_entropy, 1 and 0."),
        (torch.ones_like(itm_labels), "itm_labels are all 1, but not every pair matches: 0 where is_negative is True."),
        (kept, order),
    ]
    positive = labels[~is_negative]
    if is_negative.all():
        itm = [
            (torch.ones_like(itm_labels), "no pair matches: itm_labels are all 0, only mmm_labels make an exception.")
        ]
        mmm = [
            (
                torch.full_like(labels, -100),
                "no row is positive, and all labels are -100: the loss, a mean over nothing, would be NaN. "
                "Then keep them all.",
            )
        ]
    else:
        mmm = [
            (labels, "a negative row keeps its labels, but its picture shows something else: -100 in the whole row."),
            (labels.masked_fill(~row, -100), "the positive rows lost their labels: blank the negative ones."),
            (
                labels.masked_fill(row, 0),
                "negative rows are labeled 0, and 0 is <pad>: use -100, which the loss skips.",
            ),
            (positive, "negative rows are dropped: keep all N rows and write -100, so that rows still line up."),
            (torch.where(row, negatives, labels), "negative rows are labeled with their new words: write -100 there."),
        ]
    return paired, itm, mmm


@exercise("positive rows, all columns, own index as label, both directions, gradients, both float types")
def global_contrastive(answer):
    """global_contrastive(image_features, text_features, logit_scale, positive) -> 0-dim tensor, FLAVA's GC loss.

    Features (N, D), not normalized; logit_scale: the logarithm of the scale; positive (N,) bool, at least one True.
    CLIP's loss, but averaged over the positive rows only. The other rows stay in the softmax, as columns.
    """

    def expect_loss(what, image, text, logit_scale, positive, wrong=(), hint=""):
        cosines = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        expected = _positives_only(logit_scale.exp() * cosines, positive)
        loss = answer(image_features=image, text_features=text, logit_scale=logit_scale, positive=positive)
        answer.expect_tensor(what, loss, expected, wrong, axes="one number", hint=hint)
        return loss

    positive = torch.tensor([True, False, True, True, False, True])
    for dtype in DTYPES:
        image, text = 3 * randn(6, 7, seed=1, dtype=dtype), 2 * randn(6, 7, seed=2, dtype=dtype)
        logit_scale = torch.tensor(1.5, dtype=dtype)
        wrong = _wrong_contrasts(image, text, logit_scale, positive)
        expect_loss("the loss", image, text, logit_scale, positive, wrong)
    image, text, logit_scale = (x.requires_grad_() for x in (image, text, logit_scale))
    loss = expect_loss("the loss", image, text, logit_scale, positive)
    answer.expect_gradients("the loss", loss, image_features=image, text_features=text, logit_scale=logit_scale)
    for gradient in torch.autograd.grad(loss, (image, text)):
        lost = "no gradient reaches the rows that are not positive, but as wrong candidates they should be pushed away."
        answer.expect(gradient[~positive].any(), lost)

    every, image, text = torch.ones(6, dtype=torch.bool), randn(6, 7, seed=3), randn(6, 7, seed=4)
    expect_loss("the loss where all rows are positive, CLIP's own,", image, text, torch.tensor(1.5), every)
    overflow = "exp(100) overflows float32: use F.cross_entropy or logsumexp."
    expect_loss("the loss at scale 100", image, image, torch.tensor(100.0).log(), positive, hint=overflow)


def _positives_only(logits, positive, labels=None):
    """Mean of both directions, averaged over the positive rows; their labels are their own indices."""
    labels = positive.nonzero()[:, 0] if labels is None else labels
    return (F.cross_entropy(logits[positive], labels) + F.cross_entropy(logits.T[positive], labels)) / 2


def _wrong_contrasts(image, text, logit_scale, positive):
    i, t = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    logits, every, count = logit_scale.exp() * i @ t.T, torch.ones_like(positive), positive.sum()
    own, among, loss = positive.nonzero()[:, 0], torch.arange(count), _positives_only(logits, positive)
    per_row = [F.cross_entropy(x[positive], own, reduction="none") for x in (logits, logits.T)]
    image_to_text = per_row[0].mean()
    return [
        (_positives_only(logits, every), "this is CLIP's loss over all rows: average over the positive ones only."),
        (_positives_only(logits, ~positive), "the loss is taken over the negative rows: take the positive ones."),
        (
            _positives_only(logits[positive][:, positive], every[positive]),
            "the negatives left the softmax as well: keep their columns, so that the logits are (n_pos, N).",
        ),
        (
            _positives_only(logits, positive, among),
            "the labels count the positive rows, 0 to n_pos - 1: row i belongs to column i of all N.",
        ),
        (
            (image_to_text + F.cross_entropy(logits.T, torch.arange(len(logits)))) / 2,
            "text to image is averaged over all rows: leave out the negative ones in both directions.",
        ),
        (
            (image_to_text + F.cross_entropy(logits.T[positive][:, positive], among)) / 2,
            "in the direction from text to image the negatives left the softmax: keep their columns in both.",
        ),
        (image_to_text, "this is the image-to-text direction only: add the same on logits.T and take the mean."),
        (per_row[1].mean(), "this is the text-to-image direction only: add the same on logits and take the mean."),
        (count / len(positive) * loss, "the sum over positive rows is divided by N: divide it by their number."),
        (count * loss, "this is the sum over the positive rows: take their mean."),
        (2 * loss, "this is the sum of the two directions: take their mean."),
        ((per_row[0] + per_row[1]) / 2, "this is one loss per positive row: take the mean."),
        (-loss, "the sign is wrong: the loss is minus the log-probability of the right partner."),
        (
            _positives_only(logit_scale.exp() * image @ text.T, positive),
            "the features are not normalized: divide each row by its length.",
        ),
        (
            _positives_only(logit_scale * i @ t.T, positive),
            "logit_scale is a logarithm: multiply by logit_scale.exp().",
        ),
        (_positives_only(i @ t.T, positive), "logit_scale is not used: multiply the cosines by logit_scale.exp()."),
    ]


# Codebooks -----------------------------------------------------------------------------------------------------------


def _gradients(result, weights, *inputs):
    """The gradients of (result * weights).sum() at these inputs, zeros where there is none."""
    if not result.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    return torch.autograd.grad((result * weights).sum(), inputs, allow_unused=True, materialize_grads=True)


@exercise("nearest entry, value, gradient to z, none to the codebook, both float types")
def straight_through(answer):
    """straight_through(z, codebook) -> (quantized, codes), vector quantization with the straight-through gradient.

    z (N, D), codebook (K, D). codes (N,) long: the entry at the smallest Euclidean distance. quantized (N, D): these
    entries; backward, their gradient goes to z unchanged, and none goes to the codebook.
    """
    for dtype in DTYPES:
        z, codebook = randn(11, 3, seed=1, dtype=dtype), randn(7, 3, seed=2, dtype=dtype)
        z, codebook = z.requires_grad_(), codebook.requires_grad_()
        quantized, codes = _expect_results(answer, answer(z=z, codebook=codebook), ("quantized", "codes"))
        with torch.no_grad():
            nearest = torch.cdist(z, codebook).argmin(1)
            entries = codebook[nearest]
            answer.expect_tensor("codes", codes, nearest, _wrong_codes(z, codebook), axes="(N,)")
            answer.expect_tensor("quantized", quantized, entries, _wrong_entries(z, entries), axes="(N, D)")
        weights = randn(11, 3, seed=3, dtype=dtype)
        _expect_identity(answer, weights, *_gradients(quantized, weights, z, codebook))


def _wrong_codes(z, codebook):
    cosine = F.normalize(z, dim=1) @ F.normalize(codebook, dim=1).T
    distance = torch.cdist(z, codebook)
    return [
        (codebook[distance.argmin(1)], "the two results are swapped: return (quantized, codes), in this order."),
        ((z @ codebook.T).argmax(1), "the entry with the highest dot product is chosen: take the nearest one."),
        (cosine.argmax(1), "the entry with the highest cosine is chosen: take the nearest one, lengths count."),
        (torch.cdist(z, codebook, p=1).argmin(1), "the distance adds up absolute differences: take the Euclidean one."),
        (distance.argmax(1), "the farthest entry is chosen: take the nearest one."),
        (distance.argmin(0), "for each entry the nearest z is found (dim=0): for each z, find the nearest entry."),
        (F.one_hot(distance.argmin(1), len(codebook)), "codes is one-hot: return the indices."),
    ]


def _wrong_entries(z, entries):
    detach = "quantized = z + (entry - z).detach()"
    return [
        (z, f"quantized is still z: its value should be the codebook's entry, as in {detach}."),
        (2 * z - entries, f"entry and z are the wrong way round in the difference: {detach}."),
        (entries - z, f"this is the difference only: {detach}."),
        (entries + z, f"z is added but not subtracted: {detach}."),
    ]


def _expect_identity(answer, weights, to_z, to_codebook):
    detach = "quantized = z + (entry - z).detach()"
    if to_codebook.any() and not to_z.any():
        answer.fail(f"the gradient goes to the codebook and not to z: {detach} sends it to z.")
    if to_codebook.any():
        answer.fail(f"the codebook gets a gradient through quantized as well: detach the entry, as in {detach}.")
    if not to_z.any():
        answer.fail(f"no gradient reaches z, since argmin has none and detach() cuts it: {detach}.")
    wrong = [(2 * weights, f"z gets the gradient twice: it should come in once, as in {detach}.")]
    hint = "It should be the gradient of quantized, unchanged."
    answer.expect_tensor("the gradient of z", to_z, weights, wrong, axes="(N, D)", hint=hint)


@exercise("levels, range, codes, all 240 of them, straight-through gradient, other shapes, both float types")
def fsq(answer):
    """fsq(z, levels) -> (quantized, codes), finite scalar quantization.

    z (..., d), levels: d ints. level_i = round((L_i - 1) * sigmoid(z_i)), with the gradient of the unrounded value;
    quantized (..., d) = 2 * level / (L - 1) - 1; codes (...) long: the sum over i of level_i times the product of all
    earlier L.
    """
    for shape, levels, dtype in (((4, 5, 3), (8, 6, 5), torch.float32), ((9, 2), (3, 4), torch.float64)):
        z = (2 * randn(*shape, seed=1, dtype=dtype)).requires_grad_()
        quantized, codes = _expect_results(answer, answer(z=z, levels=levels), ("quantized", "codes"))
        top = torch.tensor(levels, dtype=dtype) - 1
        with torch.no_grad():
            level = (top * z.sigmoid()).round()
            code, scaled = _mixed_radix(level, levels), 2 * level / top - 1
            swapped = code, "the two results are swapped: return (quantized, codes), in this order."
            wrong = [*_wrong_fsq(z, level, top), swapped]
            answer.expect_tensor("quantized", quantized, scaled, wrong, axes="(..., d)")
            answer.expect_tensor(
                "codes", codes, code, _wrong_fsq_codes(level, top, levels), axes="(...), one per vector"
            )
        _expect_slope(answer, z, quantized)
    z, levels = _all_levels(), (8, 6, 5)
    codes = answer(z=z, levels=levels)[1]
    answer.expect_tensor("codes of all 240 combinations of levels", codes, torch.arange(240), axes="(240,)")


def _mixed_radix(level, levels):
    return (level * torch.tensor([math.prod(levels[:i]) for i in range(len(levels))])).sum(-1).long()


def _all_levels():
    """A z for each of the 8 * 6 * 5 combinations, the first channel running fastest."""
    grid = torch.tensor([(a / 7, b / 5, c / 4) for c, b, a in product(range(5), range(6), range(8))])
    return grid.logit(eps=1e-6)


def _wrong_fsq(z, level, top):
    s, scaled = z.sigmoid(), "quantized = 2 * level / (L - 1) - 1 lies between -1 and 1."
    return [
        (2 * s - 1, "quantized is not rounded: round (L - 1) * sigmoid(z) first."),
        (2 * (top * s).floor() / top - 1, "the levels are rounded down: use round, or the top level is never reached."),
        (2 * (top * s).ceil() / top - 1, "the levels are rounded up: use round, or the lowest level is never reached."),
        (
            2 * ((top + 1) * s).round() / (top + 1) - 1,
            "L * sigmoid(z) rounds to L + 1 different levels, 0 to L: multiply by L - 1.",
        ),
        (2 * ((top + 1) * s).round() / top - 1, "L * sigmoid(z) rounds to L, one level too many: multiply by L - 1."),
        (level, f"quantized holds the levels themselves: {scaled}"),
        (level / top, f"quantized lies between 0 and 1: {scaled}"),
        (2 * level / (top + 1) - 1, f"the levels are divided by L: {scaled}"),
        (
            2 * (top * (z.tanh() + 1) / 2).round() / top - 1,
            "(tanh(z) + 1) / 2 is sigmoid(2 * z), twice as steep: use sigmoid(z).",
        ),
        (2 * (top * z).round() / top - 1, "the sigmoid is missing: the levels leave the range from 0 to L - 1."),
    ]


def _wrong_fsq_codes(level, top, levels):
    d = range(len(levels))
    cut = (((2 * level / top - 1) + 1) / 2 * top).long()  # in float32 some levels come back as 2.9999998

    def weighted(weights):
        return (level * torch.tensor(list(weights))).sum(-1)

    earlier = "multiply each level by the product of all earlier L."
    return [
        (
            weighted(math.prod(levels[i + 1 :]) for i in d),
            "the last channel runs fastest: the first should, with weight 1.",
        ),
        (
            weighted(math.prod(levels[: i + 1]) for i in d),
            "the first weight is L_0, but should be 1, an empty product.",
        ),
        (weighted(levels[0] ** i for i in d), "the weights are powers of the first L, but each channel has its own L."),
        (weighted(levels), f"each level is multiplied by its own L: {earlier}"),
        (level.sum(-1), f"the levels are added up, so that many vectors share a code: {earlier}"),
        (
            _mixed_radix(cut, levels),
            "some levels are one too low, since long() cuts 2.9999998 to 2: round() before it.",
        ),
        (level, "codes holds the levels, d per vector: combine them into one number."),
        (_mixed_radix(level, levels) + 1, "the codes begin at 1: as class labels they begin at 0."),
    ]


def _expect_slope(answer, z, quantized):
    weights = randn(*z.shape, seed=3, dtype=z.dtype)
    (gradient,) = _gradients(quantized, weights, z)
    s = z.detach().sigmoid()
    through = "level = x + (x.round() - x).detach(), with x = (L - 1) * sigmoid(z)."
    answer.expect(gradient.any(), f"no gradient reaches z, since that of round() is 0 everywhere: {through}")
    wrong = [(weights, f"the gradient skips the sigmoid: {through}")]
    expected = weights * 2 * s * (1 - s)
    hint = "It should be that of the unrounded value, 2 * sigmoid(z) - 1."
    answer.expect_tensor("the gradient of z", gradient, expected, wrong, axes="(..., d)", hint=hint)
