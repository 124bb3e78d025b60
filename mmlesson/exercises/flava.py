"""The exercises of the FLAVA lesson."""

import functools
import math

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from mmlesson.exercises import DTYPES, compare, exercise, randn


def _variations(answer, **steps):
    """{sentence: answer with one step replaced}, from {sentence: step} for each of these steps."""
    return {s: answer(**{name: step}) for name, table in steps.items() for s, step in table.items()}


# Random answers ---------------------------------------------------------------------------------------------------
# They have no expected values, but statistics: {sentence: samples (n, ...)}. A sentence has places for the means that
# are {found} and {expected}, and for the {place} within the samples. One without {expected} says what never happens.

_CHANCE = 6.5  # Standard deviations: the means of a right answer are nearer to the expected ones.
_ALIKE = 4  # The means of one mistake in two codes are mostly nearer; else the sentence is a general one.


def _generator(seed):
    return torch.Generator().manual_seed(seed)


def _apart(a, b):
    """How far apart the means of two samples are, in standard deviations of their difference."""
    if not len(a) or not len(b):
        return torch.zeros(())
    a, b = a.double(), b.double()
    gap = (a.mean(0) - b.mean(0)).abs()
    deviation = (torch.cat([a, b]).var(0, correction=0) * (1 / len(a) + 1 / len(b))).sqrt()
    return torch.where(gap > 0, gap / deviation, 0)


@functools.cache
def _of_ours(measure, function, case, times):
    """The statistics of a case from a function of this module, from several times as many draws."""
    return measure(function, *case, times=times)


def _expect_statistics(answer, draw, measure, cases):
    """Fail unless the statistics of draw, a learner's function, are those of the correct answer in all cases."""
    tried = [(case, measure(draw, *case)) for case in cases]
    failed = []
    for case, statistics in tried:
        expected = _of_ours(measure, answer.exercise.correct, case, 4)
        for sentence, samples in statistics.items():
            far = _apart(samples, expected[sentence])
            never = "{expected}" not in sentence
            size = math.inf if never and samples.any() else far.max().item()
            if size > _CHANCE:
                failed.append((size, _in_words(sentence, samples, expected[sentence], far)))
    if failed:
        worst = max(size for size, _ in failed)
        said = next(sentence for size, sentence in failed if size >= worst / 2)
        answer.fail(_nearest_mistake(answer, measure, tried) or said)
    answer.passed += sum(len(statistics) for _, statistics in tried)


def _nearest_mistake(answer, measure, tried):
    """The sentence of the mistake that gives the same statistics in all cases, or None."""
    best, name = _ALIKE, None
    for sentence, mistake in answer.exercise.mistakes.items():
        far = 0
        for case, statistics in tried:
            own = _of_ours(measure, mistake, case, 1)
            far = max(far, *(_apart(samples, own[what]).max().item() for what, samples in statistics.items()))
            if far >= best:
                break
        else:
            best, name = far, sentence
    return name


def _in_words(sentence, samples, expected, far):
    place = tuple(int(i) for i in torch.unravel_index(far.argmax(), far.shape))

    def words(x):
        mean = x.double().mean(0)[place].item()
        return f"{mean:.1%}" if x.dtype == torch.bool else f"{mean:.4g}"

    return sentence.format(found=words(samples), expected=words(expected), place=place)


def _expect_own_randomness(answer, draw):
    """Expect that draw(generator), a tensor, draws from this generator and nothing else, and does not seed it."""
    with torch.random.fork_rng(devices=[]):  # in a state that no answer seeds by chance
        everywhere = torch.default_generator.manual_seed(20211208).get_state()
        generator = _generator(1)
        first, once = draw(generator), generator.get_state()
        _, twice, again = draw(generator), generator.get_state(), draw(_generator(1))
        untouched = torch.equal(everywhere, torch.get_rng_state())
    unused, seeded = torch.equal(once, _generator(1).get_state()), torch.equal(once, twice)
    for holds, sentence in (
        (untouched, "your function uses torch's global generator: give every random function generator=generator."),
        (not unused, "your function draws nothing from the generator that it is given."),
        (
            not seeded,
            "your function seeds the generator that it is given, and so it repeats itself: only draw from it.",
        ),
        (torch.equal(first, again), "equal generators gave different results: draw all random numbers from generator."),
    ):
        answer.expect(holds, sentence)


def _expect_kind(answer, what, got, shape, dtype, axes):
    """Fail unless got is a tensor of this shape and dtype."""
    like = torch.zeros(shape, dtype=dtype)
    if not isinstance(got, torch.Tensor) or (got.shape, got.dtype, got.device) != (like.shape, dtype, like.device):
        answer.fail(compare.difference(what, got, like, axes))


# Block masks ------------------------------------------------------------------------------------------------------


def _area(u, left, patches):
    return 4 + u * (max(4, left) - 4)


def _ratio(u):
    return 0.3 ** (1 - 2 * u)


def _sides(area, ratio, side):
    return round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))


def _place(side, h, w, u, v):
    """Top and left of a rectangle, None if it does not fit. u, v: random numbers below 1."""
    return None if max(h, w) > side else (int(u * (side - h + 1)), int(v * (side - w + 1)))


def _rectangle(side, top, left, height, width):
    """As an integer with one bit per patch, like all masks here: a check draws thousands of them."""
    row = ((1 << width) - 1 << left) & ((1 << side) - 1)
    return sum(row << side * y for y in range(top, min(top + height, side)))


def _blocks(
    area=_area,
    ratio=_ratio,
    sides=_sides,
    place=_place,
    accept=lambda new, size, left: 0 < new <= left,
    cost=lambda new, size: new,
    enough=0,
    tries=10,
    anew=True,
    shared=0,
):
    """BEiT's mask, put together from steps that a mistake replaces.

    enough: stop when no more than this is left. anew: whether a success begins the count of tries anew. shared: how
    many of its four random numbers a try takes over from the first one.
    """

    def answer(side, patches, generator):
        mask, left, tried, first = 0, patches, 0, []
        while left > enough and tried < tries:
            numbers = torch.rand(4, generator=generator).tolist()
            first = first if tried else numbers
            a, r, u, v = first[:shared] + numbers[shared:]
            height, width = sides(area(a, left, patches), ratio(r), side)
            corner = place(side, height, width, u, v)
            block = _rectangle(side, *corner, height, width) if corner else 0
            new = (block & ~mask).bit_count()
            success = block and accept(new, height * width, left)
            if success:
                mask |= block
                left -= cost(new, height * width)
            tried = 0 if success and anew else tried + 1
        return torch.tensor([mask >> i & 1 for i in range(side * side)], dtype=torch.bool).view(side, side)

    return answer


def _scattered(side, patches, generator):
    return (torch.randperm(side * side, generator=generator) < patches).view(side, side)


def _exclusive(side, h, w, u, v):
    """As by randint(side - h), where that has a place."""
    return _place(side, h, w, 0, 0) and (int(u * max(1, side - h)), int(v * max(1, side - w)))


def _anywhere(side, h, w, u, v):
    """Also where the grid cuts the rectangle off."""
    return _place(side, h, w, 0, 0) and (int(u * side), int(v * side))


def _inside(side, h, w, u, v):
    """Anywhere, None if the grid would cut the rectangle off."""
    top, left = int(u * side), int(v * side)
    return None if top + h > side or left + w > side else (top, left)


def _strictly(place):
    return lambda side, h, w, u, v: None if max(h, w) >= side else place(side, h, w, u, v)


# (side, patches, number of masks). The first ones are corners where every try fails.
_NOTHING_FITS = (1, 1, 20), (5, 0, 20), (5, 1, 20), (5, 2, 20), (2, 3, 20)
_MASKS = *_NOTHING_FITS, (2, 4, 40), (8, 24, 150), (8, 8, 500), (12, 60, 400), (10, 100, 300), (4, 5, 2400)


def _mask_statistics(draw, side, patches, number, times=1):
    """The statistics of this many masks; see _expect_statistics."""
    generator = _generator(side * patches + 5)  # the correct answer's means are then near those of many more masks
    masks = torch.stack([draw(side, patches, generator) for _ in range(number * times)])
    count, rows, columns = masks.sum((1, 2)), masks.any(2).sum(1), masks.any(1).sum(1)
    case = f"with side {side} and {patches} patches, "
    if (side, patches, number) in _NOTHING_FITS:
        why = "even a rectangle of area 4 does not fit, or masks more patches than that."
        return {case + "{found} of the masks are not empty: " + why: count > 0}
    is_block = (count > 0) & (rows * columns == count)
    pairs = (masks[:, 1:] & masks[:, :-1]).sum((1, 2)) + (masks[:, :, 1:] & masks[:, :, :-1]).sum((1, 2))
    shapes = torch.zeros(len(masks), side + 1, side + 1, dtype=torch.bool)
    shapes[torch.arange(len(masks)), rows, columns] = is_block
    statistics = {
        "{found} patches are masked on average": count,
        "{found} pairs of neighbors are masked on average": pairs,
        "patch {place} is masked in {found} of the masks": masks,
        "{found} of the masks are a single rectangle": is_block,
    }
    if patches < side * side:
        statistics["{found} of the masks are taller than wide"] = rows > columns
        statistics["{found} of the masks are wider than tall"] = rows < columns
    if side < 10:
        statistics["{found} of the masks are one rectangle of {place[0]} x {place[1]}"] = shapes
    hint = "; expected {expected}: look at each step of a try, at when it fails, and at when the tries end."
    over = "{found} of the masks mask more: a rectangle with more new patches than are left is a failed try."
    return {case + over: count > patches} | {case + what + hint: samples for what, samples in statistics.items()}


class _Draws(TorchFunctionMode):
    """Counts the calls that are given a generator, and stops a function that never stops by itself."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.calls = answer, 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.calls += "generator" in kwargs
        if self.calls > 10_000:
            self.answer.fail(
                "no rectangle can be accepted here, but your function goes on and on (it was stopped): give up after "
                "ten tries in a row have failed."
            )
        return function(*args, **kwargs)


def _tries(answer, draw):
    """How many tries fail before a function gives up, if it calls random functions equally often in each; else 0."""

    def calls(patches, generator):
        with _Draws(answer) as draws:
            empty = not draw(5, patches, generator).any()
        return draws.calls, empty

    generator = _generator(1)
    all_fail = {calls(2, generator) for _ in range(10)}
    one_try = min(calls(4, generator)[0] for _ in range(40))  # a third of these masks need one try
    number, empty = all_fail.pop()
    return number / one_try if empty and not all_fail and one_try else 0


_LOG = "draw the logarithm of height / width uniformly, from log(0.3) to log(1 / 0.3)."
_ROOTS = "height is sqrt(area * ratio), width is sqrt(area / ratio)."
_BOUND = "randint excludes its upper bound, so it needs side - height + 1 and side - width + 1."


@exercise(
    verified="never above the budget, areas, aspect ratios, every place, ten tries, own generator only, small grids",
    returns={"the mask": "(side, side)"},
    correct=_blocks(),
    mistakes={
        "the mask is inverted: True stands for a masked patch.": lambda *inputs: ~_blocks()(*inputs),
        "the masked patches are scattered: mask whole rectangles.": _scattered,
    }
    | _variations(
        _blocks,
        accept={
            "the mask masks nothing: set the patches of each rectangle to True.": lambda new, size, left: False,
            "too many are masked: a try fails if it adds more than is left.": lambda new, size, left: new > 0,
            "a rectangle that overlaps masked patches is a failed try here: it may, if it adds a new one.": (
                lambda new, size, left: 0 < new == size <= left
            ),
            "a rectangle larger than what is left is a failed try here: count its *new* patches only.": (
                lambda new, size, left: 0 < new and size <= left
            ),
            "a rectangle that adds all that is left fails here: it may.": lambda new, size, left: 0 < new < left,
            "a rectangle that masks nothing new is a success here: it fails.": lambda new, size, left: new <= left,
        },
        cost={
            "this is one rectangle: go on adding rectangles while patches are left.": lambda new, size: math.inf,
            "a rectangle costs its whole size here: subtract its *new* patches only.": lambda new, size: size,
        },
        enough={"the mask ends when fewer than four patches are left: a rectangle may overlap and add a few.": 3},
        tries={"the first try that fails ends the mask: stop when ten in a row have failed.": 1},
        anew={"there are ten tries for the whole mask: begin to count anew when a rectangle has gone in.": False},
        shared={"all tries for a rectangle have the same area and ratio: draw both anew in each try.": 2},
        area={
            "the area is always 4: draw it uniformly between 4 and what is left.": lambda u, left, patches: 4,
            "the area is always what is left: draw it from 4 up to that.": lambda u, left, patches: max(4, left),
            "the area goes up to `patches`: draw it up to what is left.": lambda u, left, patches: _area(u, patches, 0),
            "the area falls below 4 when less is left: then it is 4.": lambda u, left, patches: 4 + u * (left - 4),
            "the area is uniform from 1 on: it begins at 4.": lambda u, left, patches: 1 + u * (left - 1),
            "areas below 4 are raised to 4: draw from 4 on.": lambda u, left, patches: max(4, u * left),
            "the area stays below what is left: randint excludes its upper bound.": lambda u, left, patches: int(
                4 + u * (max(5, left) - 4)
            ),
        },
        ratio={
            f"the aspect ratio is uniform: {_LOG}": lambda u: 0.3 + u * (1 / 0.3 - 0.3),
            f"no rectangle is taller than wide: {_LOG}": lambda u: 0.3**u,
            f"no rectangle is wider than tall: {_LOG}": lambda u: 0.3**-u,
            f"all rectangles are squares: {_ROOTS}": lambda u: 1,
        },
        sides={
            f"the roots are missing: {_ROOTS}": lambda area, ratio, side: _sides(area**2, ratio**2, side),
            f"rectangles are too long, with ratios far from 1: {_ROOTS}": lambda area, ratio, side: _sides(
                area, ratio**2, side
            ),
            "the sides are cut down to integers, as by int(): round them.": lambda area, ratio, side: (
                [int(math.sqrt(x)) for x in (area * ratio, area / ratio)]
            ),
            "the sides are rounded up: round them to the nearest integer.": lambda area, ratio, side: (
                [math.ceil(math.sqrt(x)) for x in (area * ratio, area / ratio)]
            ),
            "a rectangle too large for the grid is shortened here: it is a failed try.": lambda *x: (
                [min(size, x[-1]) for size in _sides(*x)]
            ),
        },
        place={
            "a rectangle as tall or as wide as the grid is a failed try here: it fits.": _strictly(_place),
            f"places in the last row and column are missing: {_BOUND}": _exclusive,
            f"places in the last row and column, and rectangles that fill the grid, are missing: {_BOUND}": (
                _strictly(_exclusive)
            ),
            "rectangles are cut off at the edge of the grid: draw a place where the whole rectangle fits.": _anywhere,
            "places beyond the edge are drawn and fail: draw among the places where the rectangle fits.": _inside,
            "all rectangles begin at (0, 0): draw top and left.": lambda side, h, w, u, v: _place(side, h, w, 0, 0),
            "top and left come from one random number: draw two.": lambda side, h, w, u, v: _place(side, h, w, u, u),
            "height and width are mixed up: top goes up to side - height, left up to side - width.": (
                lambda side, h, w, u, v: _place(side, w, h, u, v)
            ),
        },
    ),
)
def block_mask(answer):
    """block_mask(side, patches, generator) -> (side, side) bool, True where masked: BEiT's block-wise masking.

    Adds random rectangles until `patches` patches are masked or ten tries in a row have failed. The area is uniform
    between 4 and what is left (at least 4), the aspect ratio log-uniform between 0.3 and 1 / 0.3, the sides are
    rounded, and the place is any in the grid. A try fails if the rectangle does not fit, masks nothing new, or masks
    more new patches than are left.
    """

    def draw(side, patches, generator):
        mask = answer.result(side=side, patches=patches, generator=generator)
        _expect_kind(answer, "the mask", mask, (side, side), torch.bool, "(side, side)")
        return mask

    tries = _tries(answer, draw)
    _expect_own_randomness(answer, lambda generator: torch.stack([draw(8, 24, generator) for _ in range(5)]))
    counted = tries in (6, 7, 8, 9, *range(11, 31))  # other numbers may have other reasons, or show in the statistics
    answer.expect(not counted, f"your function gives up after {tries:.0f} tries in a row that fail: it should be ten.")
    _expect_statistics(answer, draw, _mask_statistics, _MASKS)


# Masked words -----------------------------------------------------------------------------------------------------


def _numbers(like, g):
    return torch.rand(like.shape, generator=g)


def _with_ids(low, more, one=False):
    """A step that draws random ids from low to vocab_size + more - 1, one for each position or one for all."""
    return lambda x, size, mask_id, g: torch.randint(low, size + more, (1, 1) if one else x.shape, generator=g)


def _choose(maskable, ratio, g):
    return maskable & (_numbers(maskable, g) < ratio)


def _by_thresholds(mask, other):
    """A step that says which of the chosen words become mask_id, and which another word."""

    def fates(chosen, g):
        number = _numbers(chosen, g)
        return chosen & (number < mask), chosen & (mask <= number) & (number < mask + other)

    return fates


_FATES, _IDS = _by_thresholds(0.8, 0.1), _with_ids(0, 0)


def _mask(choose=_choose, fates=_FATES, ids=_IDS, finish=lambda old, new, labels: (new, labels)):
    """BERT's masking, put together from steps that a mistake replaces; size is that of the vocabulary."""

    def answer(tokens, maskable, mask_id, vocab_size, generator, ratio=0.15):
        chosen = choose(maskable, ratio, generator)
        masked, other = fates(chosen, generator)
        corrupted = torch.where(masked, mask_id, tokens)
        corrupted = torch.where(other, ids(tokens, vocab_size, mask_id, generator), corrupted)
        return finish(tokens, corrupted, torch.where(chosen, tokens, -100))

    return answer


def _order(maskable, g):
    """A random order of the maskable words of each row, from 0 on."""
    return _numbers(maskable, g).masked_fill(~maskable, 2).argsort(dim=1).argsort(dim=1)


def _exact_number(maskable, ratio, g):
    return maskable & (_order(maskable, g) < (ratio * maskable.sum(1, keepdim=True)).round())


def _at_least_one(maskable, ratio, g):
    chosen = _choose(maskable, ratio, g)
    return chosen | (maskable & ~chosen.any(1, keepdim=True) & (_order(maskable, g) == 0))


def _independent_fates(chosen, g):
    masked, other = (chosen & (_numbers(chosen, g) < share) for share in (0.8, 0.1))
    return masked & ~other, other


def _shuffled(tokens, size, mask_id, g):
    return tokens.gather(1, _numbers(tokens, g).argsort(dim=1))


def _other_than_mask_id(tokens, size, mask_id, g):
    ids = torch.randint(size - 1, tokens.shape, generator=g)
    return ids + (ids >= mask_id)


def _other_than_before(tokens, size, mask_id, g):
    return (tokens + torch.randint(1, size, tokens.shape, generator=g)) % size


def _masks_only(tokens, maskable, mask_id, *more):
    corrupted, labels = _mask()(tokens, maskable, mask_id, *more)
    return corrupted, labels.masked_fill(corrupted != mask_id, -100)


# Captions, their length, vocab_size, mask_id, ratio (None: the default), captions in a call (None: all).
_CAPTIONS = (
    (1, 1, 9, 4, 1.0, None),
    (50, 9, 12, 3, 0.0, None),
    (2000, 20, 30, 27, None, None),
    (2500, 14, 5, 3, 1.0, None),
    (800, 14, 2, 1, 1.0, None),
    (500, 14, 23, 0, None, 1),
)


def _captions(N, T, vocab_size, mask_id):
    """Tokens and maskable of captions between <sot> and <eot>, padded, a third of words alone; some ids are rare."""
    ids = torch.tensor([i for i in range(vocab_size) if i != mask_id])
    position, length = torch.arange(T), torch.randint(T // 2 - 1, T - 1, (N, 1), generator=_generator(1))
    tokens = ids[(torch.rand(N, T, generator=_generator(2)).square() * len(ids)).long()]
    words = (position > 0) & (position <= length) | (torch.arange(N)[:, None] % 3 == 2)
    tokens[~words] = ids[len(ids) // 2]
    tokens[(position == length + 1) & ~words], tokens[~words[:, 0], 0] = ids[0], ids[-1]
    return tokens, words


def _repeats(x, among):
    """Whether the two entries of a pair of rows are equal, where both count. No row is in two pairs."""
    return (x[1::2] == x[:-1:2])[among[1::2] & among[:-1:2]]


def _word_statistics(draw, N, T, vocab_size, mask_id, ratio, size, times=1):
    """The statistics of this many captions; see _expect_statistics."""
    tokens, maskable = _captions(N * times, T, vocab_size, mask_id)
    generator, given, ratio = _generator(3), [] if ratio is None else [ratio], 0.15 if ratio is None else ratio
    parts = zip(tokens.split(size or len(tokens)), maskable.split(size or len(tokens)))
    results = [draw(*part, mask_id, vocab_size, generator, *given) for part in parts]
    corrupted, labels = (torch.cat(parts) for parts in zip(*results))
    chosen = labels != -100
    masked = chosen & (corrupted == mask_id)
    other = chosen & ~masked & (corrupted != tokens)
    beyond = (corrupted < 0) | (corrupted >= vocab_size)
    fate, number = chosen.long() + masked + 2 * other, chosen.sum(1)
    deviation = number - ratio * maskable.sum(1)
    never = {
        "labels is not -100 at {found} of the positions where maskable is False: nothing is chosen there.": (
            chosen[~maskable]
        ),
        "{found} of the labels are not the original ids: take them from tokens.": (labels != tokens)[chosen],
        "{found} of the positions without a label differ from tokens: only chosen words change, and all of these have "
        "a label.": (corrupted != tokens)[~chosen],
        "{found} of the chosen words become an id outside of [0, vocab_size).": beyond[chosen],
    }
    statistics = {
        "{found} of the maskable words have a label": chosen[maskable],
        "{found} of the captions have a label at position {place[0]}": chosen,
        "{found} of the captions have no label": number == 0,
        "(chosen words - ratio * maskable words) of a caption, squared, is {found} on average": deviation.square(),
        "{found} of the chosen words become mask_id": masked[chosen],
        "{found} of the chosen words become another word": other[chosen],
        "{found} of the chosen words stay": (~masked & ~other)[chosen],
        "{found} of the random words are the id {place[0]}": corrupted[other][:, None] == torch.arange(vocab_size),
    }
    repeats = {
        "{found} of the words have the fate of the word before": _repeats(fate.T, maskable.T),
        "{found} of the words have the fate of the word above, at the same position": _repeats(fate, maskable),
        "{found} of the random words repeat the one before": _repeats(corrupted[other], other[other]),
        "{found} of the random words repeat the one above": _repeats(corrupted.T[other.T], other[other]),
    }
    where, each = f"with ratio {ratio} and {vocab_size} ids, ", ": draw random numbers for each position by itself."
    sentences = {where + s: x for s, x in never.items()}
    sentences |= {where + s + "; expected {expected}.": x for s, x in statistics.items()}
    return sentences | {where + s + "; expected {expected}" + each: x for s, x in repeats.items()}


@exercise(
    verified="80/10/10, labels, maskable positions only, each word by itself, all ids, ratio, own generator only",
    returns={"corrupted": "(N, T)", "labels": "(N, T)"},
    correct=_mask(),
    mistakes={
        "only the words that became mask_id have a label: random ids and words that stay are chosen too.": _masks_only,
    }
    | _variations(
        _mask,
        fates={
            "corrupted is the same as tokens: replace the chosen words.": _by_thresholds(0, 0),
            "every chosen word becomes mask_id: 10 % become a random id and 10 % stay.": _by_thresholds(1, 0),
            "no chosen word stays as it is: replace half of what mask_id leaves.": _by_thresholds(0.8, 0.2),
            "no chosen word becomes a random id: half of what mask_id leaves does.": _by_thresholds(0.8, 0),
            "only 2 % become random ids, 10 % of what mask_id leaves: take half of that.": _by_thresholds(0.8, 0.02),
            "some masks are overwritten by random ids: draw these among what mask_id leaves.": _independent_fates,
            "80 % stay and 10 % become mask_id: it is the other way round.": _by_thresholds(0.1, 0.1),
            "80 % become a random id and 10 % mask_id: it is the other way round.": _by_thresholds(0.1, 0.8),
        },
        finish={
            "the two results are swapped: return (corrupted, labels).": lambda old, new, labels: (labels, new),
            "words that stay have no label: they are chosen too, the model has to confirm them.": (
                lambda old, new, labels: (new, torch.where(new == old, -100, labels))
            ),
            "labels is 0 where nothing was chosen: use -100, which F.cross_entropy skips.": (
                lambda old, new, labels: (new, labels.masked_fill(labels == -100, 0))
            ),
            "every position has a label: use -100 where nothing was chosen.": lambda old, new, labels: (new, old),
            "the labels are inverted: the chosen words have one, all other positions have -100.": (
                lambda old, new, labels: (new, torch.where(labels == -100, old, -100))
            ),
            "all labels are -100: label the chosen words with their ids.": lambda old, new, labels: (
                new,
                0 * old - 100,
            ),
            "labels hold the corrupted words: take the original ones, from tokens.": (
                lambda old, new, labels: (new, torch.where(labels == -100, -100, new))
            ),
        },
        choose={
            "maskable is not used: choose only where it is True, with &.": lambda m, ratio, g: _numbers(m, g) < ratio,
            "maskable is inverted: choose words where it is True.": lambda m, ratio, g: _choose(~m, ratio, g),
            "all but `ratio` of the words are chosen: take random numbers *below* ratio.": (
                lambda m, ratio, g: m & (_numbers(m, g) >= ratio)
            ),
            "ratio is not used: 0.15 is only its default.": lambda m, ratio, g: _choose(m, 0.15, g),
            "all captions have the same part of their words chosen: draw for each word by itself.": _exact_number,
            "each caption has at least one chosen word: by chance it may have none.": _at_least_one,
            "the first word of a caption is never chosen: maskable alone says where to choose.": (
                lambda m, ratio, g: _choose(m & (m.cumsum(1) > 1), ratio, g)
            ),
            "whole rows are chosen: draw one random number for each position, (N, T).": (
                lambda m, ratio, g: m & (_numbers(m[:, :1], g) < ratio)
            ),
            "the same positions are chosen in every row: draw one random number for each position, (N, T).": (
                lambda m, ratio, g: m & (_numbers(m[0], g) < ratio)
            ),
        },
        ids={
            "all random words are the same one: draw one id for each position, (N, T).": _with_ids(0, 0, one=True),
            "no random word is the id 0: randint(vocab_size, ...) draws from 0 to vocab_size - 1.": _with_ids(1, 0),
            "no random word is the last id: randint excludes its upper bound, which is vocab_size.": _with_ids(0, -1),
            "a random word may be vocab_size: randint excludes its upper bound, which is that.": _with_ids(0, 1),
            "the random words are words of the batch, frequent ones more often: draw from [0, vocab_size).": _shuffled,
            "no random word is mask_id: draw from all of [0, vocab_size).": _other_than_mask_id,
            "no random word is the original one: draw from all of [0, vocab_size).": _other_than_before,
        },
    ),
)
def mask_words(answer):
    """mask_words(tokens, maskable, mask_id, vocab_size, generator, ratio=0.15) -> (corrupted, labels), BERT's 80/10/10.

    tokens (N, T) int64; maskable (N, T) bool, where a word may be chosen. Each is chosen with probability `ratio`,
    independently of the others; of the chosen words 80 % become mask_id, 10 % a random id from [0, vocab_size), 10 %
    stay. labels: the original ids at the chosen positions, -100 elsewhere. Both results are (N, T) int64.
    """

    def draw(*inputs):
        names = "tokens", "maskable", "mask_id", "vocab_size", "generator", "ratio"
        results = answer.result(**dict(zip(names, inputs)))
        if not isinstance(results, (tuple, list)) or len(results) != 2:
            answer.fail(f"return two results, (corrupted, labels); got a {type(results).__name__}.")
        for name, got in zip(answer.exercise.returns, results):
            _expect_kind(answer, name, got, inputs[0].shape, torch.int64, "(N, T)")
        return results

    few = *_captions(50, 9, vocab_size=12, mask_id=3), 3, 12
    _expect_own_randomness(answer, lambda generator: torch.stack(list(draw(*few, generator))))
    _expect_statistics(answer, draw, _word_statistics, _CAPTIONS)


# What negatives may teach -----------------------------------------------------------------------------------------


def _paired(tokens, negatives, row):
    return torch.where(row, negatives, tokens)


def _matched(is_negative):
    return (~is_negative).long()


def _unless_all(is_negative):
    """The rows whose labels go."""
    return is_negative & ~is_negative.all()


def _blank(labels, gone, tokens, negatives):
    return labels.masked_fill(gone, -100)


def _targets(pair=_paired, match=_matched, gone=_unless_all, blank=_blank, order=(0, 1, 2)):
    """The three targets, put together from steps that a mistake replaces."""

    def answer(tokens, negatives, is_negative, mlm_labels):
        paired = pair(tokens, negatives, is_negative[:, None])
        mmm_labels = blank(mlm_labels, gone(is_negative)[:, None], tokens, negatives)
        results = paired, match(is_negative), mmm_labels
        return tuple(results[i] for i in order)

    return answer


def _match_of_equal_captions(tokens, negatives, is_negative, mlm_labels):
    paired, _, mmm_labels = _targets()(tokens, negatives, is_negative, mlm_labels)
    return paired, (paired == tokens).all(1).long(), mmm_labels


_ORDER = "return (paired, itm_labels, mmm_labels)."


@exercise(
    verified="replaced captions, labels of both losses, equal captions and words, no positives, one row, one word",
    returns={"paired": "(N, T)", "itm_labels": "(N,)", "mmm_labels": "(N, T)"},
    correct=_targets(),
    mistakes={
        "itm_labels is 1 where the two captions are equal: is_negative alone says which pairs match.": (
            _match_of_equal_captions
        ),
    }
    | _variations(
        _targets,
        order={
            f"the first two results are swapped: {_ORDER}": (1, 0, 2),
            f"the last two results are swapped: {_ORDER}": (0, 2, 1),
        },
        pair={
            "paired holds the original captions: take that of negatives where is_negative is True.": lambda a, b, row: (
                a
            ),
            "paired holds the negatives only: take them where is_negative is True, else tokens.": lambda a, b, row: b,
            "is_negative is the wrong way round: True takes negatives.": lambda a, b, row: torch.where(row, a, b),
            "negatives are appended: here they replace rows of tokens.": lambda a, b, row: torch.cat([a, b]),
        },
        match={
            "itm_labels are inverted: 1 stands for a pair that matches, 0 for one that does not.": torch.Tensor.long,
            "itm_labels are 1 and -1: they are classes for F.cross_entropy, 1 and 0.": lambda x: 1 - 2 * x.long(),
            "itm_labels are all 1, but not every pair matches: 0 where is_negative is True.": lambda x: 0 * x + 1,
            "if no pair matches, all itm_labels are 0: mmm_labels alone make an exception.": lambda x: _matched(
                _unless_all(x)
            ),
        },
        gone={
            "a negative row keeps its labels, but its image shows something else: -100 in the whole row.": (
                torch.zeros_like
            ),
            "the positive rows lost their labels: -100 in the negative ones.": torch.logical_not,
            "no row is positive, and all labels are -100: the loss would be NaN, a mean over nothing; keep all.": (
                lambda x: x
            ),
            "no row is negative, and all labels are -100: then keep all.": lambda x: _unless_all(x) | ~x.any(),
        },
        blank={
            "negative rows are labeled 0, and 0 is an id: use -100.": lambda x, gone, a, b: x.masked_fill(gone, 0),
            "negative rows are dropped: keep all N rows, with -100 there.": lambda x, gone, a, b: x[~gone[:, 0]],
            "negative rows are labeled with their new words: write -100.": lambda x, gone, a, b: torch.where(
                gone, b, x
            ),
            "negative rows are labeled with their new words at masked positions: write -100 in the whole row.": (
                lambda x, gone, a, b: torch.where(gone & (x != -100), b, x)
            ),
            "a negative row keeps the labels of words that both captions have: -100 in the whole row.": (
                lambda x, gone, a, b: x.masked_fill(gone & (a != b), -100)
            ),
        },
    ),
)
def match_targets(answer):
    """match_targets(tokens, negatives, is_negative, mlm_labels) -> (paired, itm_labels, mmm_labels), all int64.

    tokens, negatives, mlm_labels (N, T) int64; is_negative (N,) bool. paired: tokens, with the row of negatives where
    is_negative. itm_labels (N,): 1 = matched, 0 = not. mmm_labels: mlm_labels with -100 in all of a negative row,
    unless no row is positive: then they stay as they are, or the loss would be a mean over nothing, NaN.
    """
    # Few ids, so that words repeat, and negatives that are equal to their caption, as random ones may be.
    tokens, negatives, labels = (torch.randint(5, (6, 7), generator=_generator(seed)) for seed in (1, 2, 3))
    labels[torch.rand(6, 7, generator=_generator(4)) < 0.6] = -100
    negatives[:2], labels[2], labels[4] = tokens[:2], -100, tokens[4]

    def case(where, flags, rows=slice(None), words=slice(None), gap=1):
        a, b, c = (torch.where(x < 0, x, gap * x)[rows, words] for x in (tokens, negatives, labels))
        is_negative = torch.tensor(flags) == 1
        answer.case(where, tokens=a, negatives=b, is_negative=is_negative, mlm_labels=c)

    case("", [0, 1, 0, 1, 1, 0])
    case("of other rows", [1, 0, 1, 0, 0, 1])
    case("of large ids", [0, 1, 0, 1, 1, 0], gap=12345)
    case("of a batch without negatives", 6 * [0])
    case("of a batch without positives", 6 * [1])
    case("where the one positive row has no labels", [1, 0, 1, 1], slice(1, 5))
    case("of as many captions as words", [0, 1, 1, 0, 1], slice(1, 6), slice(5))
    case("of captions with one word", [0, 1, 1, 0, 1, 0], slice(6), slice(1))
    case("of one positive row", [0], slice(5, 6))
    case("of one negative row", [1], slice(5, 6))


# A contrast of the positive rows ----------------------------------------------------------------------------------


def _unit(x):
    return F.normalize(x, dim=-1)


def _surprise(logits, positive):
    """-log of the probability of the diagonal, in the positive rows."""
    return (logits.logsumexp(dim=1) - logits.diagonal())[positive]


def _mean_of_both(a, b, positive):
    return (a.mean() + b.mean()) / 2


def _contrast(both=_surprise, image=None, text=None, unit=_unit, scale=torch.exp, reduce=_mean_of_both):
    """FLAVA's contrastive loss, put together from steps that a mistake replaces."""

    def answer(image_features, text_features, logit_scale, positive):
        logits = scale(logit_scale) * unit(image_features) @ unit(text_features).T
        return reduce((image or both)(logits, positive), (text or both)(logits.T, positive), positive)

    return answer


def _of_all(logits, positive):
    return _surprise(logits, torch.ones_like(positive))


def _of_others(logits, positive):
    return _surprise(logits, ~positive)


def _alone(logits, positive):
    return _of_all(logits[positive][:, positive], positive[positive])


def _counted_labels(logits, positive):
    return logits[positive].logsumexp(dim=1) - logits[positive].diagonal()


def _transposed(logits, positive):
    return _surprise(logits.T, positive)


def _detached(image_features, text_features, logit_scale, positive):
    image, text = (torch.where(positive[:, None], x, x.detach()) for x in (image_features, text_features))
    return _contrast()(image, text, logit_scale, positive)


@exercise(
    verified="positive rows, all columns, own index as label, both directions, gradients, overflow, both float types",
    returns={"the loss": "one number"},
    correct=_contrast(),
    mistakes={
        "no gradient reaches the rows that are not positive, but as negatives they should be pushed away.": _detached,
    }
    | _variations(
        _contrast,
        both={
            "this is CLIP's loss over all rows: average over the positive ones only.": _of_all,
            "the loss is taken over the rows that are not positive: take the positive ones.": _of_others,
            "the other rows left the softmax as well: keep their columns, so that the logits are (n_pos, N).": _alone,
            "the labels count the positive rows, 0 to n_pos - 1: row i belongs to column i of all N.": _counted_labels,
        },
        image={
            "image to text is averaged over all rows: leave out the others in both directions.": _of_all,
            "in the direction from image to text the other rows left the softmax: keep their columns in both.": _alone,
            "this is the text-to-image direction only: add the same on logits and take the mean.": _transposed,
        },
        text={
            "text to image is averaged over all rows: leave out the others in both directions.": _of_all,
            "in the direction from text to image the other rows left the softmax: keep their columns in both.": _alone,
            "this is the image-to-text direction only: add the same on logits.T and take the mean.": _transposed,
        },
        reduce={
            "the sum over positive rows is divided by N: divide it by their number.": lambda a, b, positive: (
                (a + b).sum() / (2 * len(positive))
            ),
            "this is the sum over the positive rows: take their mean.": lambda a, b, positive: (a + b).sum() / 2,
            "this is the sum of the two directions: take their mean.": lambda a, b, positive: a.mean() + b.mean(),
            "this is one loss per positive row: take the mean.": lambda a, b, positive: (a + b) / 2,
            "the sign is wrong: the loss is minus the log-probability of the right partner.": (
                lambda a, b, positive: -_mean_of_both(a, b, positive)
            ),
        },
        unit={
            "the features are not normalized: divide each row by its length.": lambda x: x,
            "the features are normalized over the batch (dim=0): normalize each row.": lambda x: F.normalize(x, dim=0),
        },
        scale={
            "logit_scale is a logarithm: multiply by logit_scale.exp().": lambda s: s,
            "the logits are divided by the scale: multiply (it is 1 / temperature).": lambda s: (-s).exp(),
            "logit_scale is not used: multiply the cosines by logit_scale.exp().": lambda s: 1,
        },
    ),
)
def global_contrastive(answer):
    """global_contrastive(image_features, text_features, logit_scale, positive) -> 0-dim tensor, FLAVA's GC loss.

    Features (N, D), not normalized; logit_scale: 0-dim, the logarithm of the scale; positive (N,) bool, at least one
    True. CLIP's loss, but averaged over the positive rows only. The other rows stay in the softmax, as columns.
    """

    def case(where, image, text, positive, logit_scale=1.5, **more):
        features = {"image_features": image, "text_features": text}
        logit_scale = torch.tensor(logit_scale, dtype=image.dtype)
        answer.case(where, **features, logit_scale=logit_scale, positive=torch.tensor(positive) == 1, **more)

    positive = [1, 0, 1, 1, 0, 1]
    for dtype in DTYPES:
        image, text = 3 * randn(6, 7, seed=1, dtype=dtype), 2 * randn(6, 7, seed=2, dtype=dtype)
        case("", image, text, positive)
    case("", image, text, positive, gradients=("image_features", "text_features", "logit_scale"))
    case("of similar features at scale exp(5)", 1 + 0.05 * image, 1 + 0.05 * text, positive, 5.0)
    case("at a scale below 1", image, text, positive, -0.7)
    case("where the first rows are not positive", image, text, [0, 0, 0, 1, 0, 1])
    case("where one row is positive", image, text, [0, 0, 1, 0, 0, 0])
    case("where all rows are positive, CLIP's own,", image, text, 6 * [1])
    case("where captions repeat", image, text[[0, 0, 1, 2, 2, 0]], positive)
    case("of features with one number each", image[:, :1], text[:, :1], positive)
    case("of one pair", image[:1], text[:1], [1])
    image, ln_100, use = randn(6, 7, seed=3), math.log(100), "use F.cross_entropy or logsumexp."
    case("at scale 100", image, image, positive, ln_100, hint=f"exp(100) overflows float32: {use}")
    hint = f"The probabilities round to 0 and have no log (an epsilon hides that): {use}"
    case("of opposite pairs at scale 100", image, -image, positive, ln_100, hint=hint)
    apart, same = torch.ones(2, 6, 4)
    apart[2] = -1
    hint = f"Subtract the maximum of each row, not that of the whole matrix: {use}"
    case("at scale 100 where one image is opposite to all texts", apart, same, positive, ln_100, hint=hint)


# A gradient through argmin ----------------------------------------------------------------------------------------


def _quantize(distance=torch.cdist, choose=lambda x: x.argmin(1), through=lambda z, entry: z + (entry - z).detach()):
    """Vector quantization, put together from steps that a mistake replaces."""

    def answer(z, codebook):
        codes = choose(distance(z, codebook))
        return through(z, codebook[codes]), codes

    return answer


def _dim_0(z, codebook):
    return _quantize()(z, codebook)[0], torch.cdist(z, codebook).argmin(0)


def _one_hot(z, codebook):
    quantized, codes = _quantize()(z, codebook)
    return quantized, F.one_hot(codes, len(codebook))


_DETACH = "quantized = z + (entry - z).detach()"


@exercise(
    verified="nearest entry, value, gradient to z, none to the codebook, one vector, one entry, both float types",
    returns={"quantized": "(N, D)", "codes": "(N,)"},
    correct=_quantize(),
    mistakes={
        "the two results are swapped: return (quantized, codes), in this order.": lambda *x: _quantize()(*x)[::-1],
        "codes has the nearest z of each entry (dim=0): find the nearest entry of each z.": _dim_0,
        "codes is one-hot: return the indices.": _one_hot,
    }
    | _variations(
        _quantize,
        distance={
            "the entry with the highest dot product is chosen: take the nearest one.": lambda z, e: -z @ e.T,
            "the entry with the highest cosine is chosen: take the nearest one, lengths count.": (
                lambda z, e: -z @ _unit(e).T
            ),
            "the distance adds up absolute differences: take the Euclidean one.": lambda z, e: torch.cdist(z, e, p=1),
            "the distance is the largest difference: take the Euclidean one.": lambda z, e: torch.cdist(
                z, e, torch.inf
            ),
            "a factor 2 is missing: |z - e|^2 is |z|^2 - 2 z e + |e|^2.": lambda z, e: e.square().sum(1) - z @ e.T,
        },
        choose={"the farthest entry is chosen: take the nearest one.": lambda distance: distance.argmax(1)},
        through={
            f"quantized is still z: its value should be the codebook's entry, as in {_DETACH}.": lambda z, entry: z,
            f"entry and z are the wrong way round in the difference: {_DETACH}.": lambda z, entry: 2 * z - entry,
            f"this is the difference only: {_DETACH}.": lambda z, entry: entry - z,
            f"z is added but not subtracted: {_DETACH}.": lambda z, entry: z + entry,
            f"the gradient goes to the codebook and not to z: {_DETACH} sends it to z.": lambda z, entry: entry,
            f"the codebook gets a gradient through quantized as well: detach the entry, as in {_DETACH}.": (
                lambda z, entry: entry + z - z.detach()
            ),
            f"no gradient flows from quantized to z: z is detached, cancels, or is under no_grad; {_DETACH}.": (
                lambda z, entry: entry.detach()
            ),
            f"z gets the gradient twice: it should come in once, as in {_DETACH}.": lambda z, entry: (
                2 * z + (entry - 2 * z).detach()
            ),
            f"z gets the gradient with the wrong sign: {_DETACH}.": lambda z, entry: (entry + z).detach() - z,
        },
    ),
)
def straight_through(answer):
    """straight_through(z, codebook) -> (quantized, codes), vector quantization with the straight-through gradient.

    z (N, D), codebook (K, D). codes (N,) int64: the entry at the smallest Euclidean distance. quantized (N, D): these
    entries; backward, their gradient goes to z unchanged, and none goes to the codebook.
    """
    for N, K, dtype in ((11, 7, torch.float32), (5, 8, torch.float64), (6, 6, torch.float32)):
        z, codebook = 1.5 * randn(N, 3, seed=1, dtype=dtype), randn(K, 3, seed=2, dtype=dtype)
        answer.case(z=z, codebook=codebook)
    answer.case(z=z, codebook=codebook, gradients=("z", "codebook"))
    answer.case("of vectors that are entries", z=codebook[[4, 0, 4]], codebook=codebook)
    answer.case("of equal vectors", z=z[[1, 1, 2, 1]], codebook=codebook)
    answer.case("of entries with one number", z=z[:, :1], codebook=codebook[:, :1])
    answer.case("of one vector", z=z[:1], codebook=codebook)
    answer.case("of 400 entries", z=50 * randn(30, 3, seed=3), codebook=50 * randn(400, 3, seed=4))
    answer.case("of vectors far from all entries", z=100 * z, codebook=codebook)
    answer.case("of a codebook with one entry", z=z, codebook=codebook[:1])
    answer.case("of one vector and one entry", z=z[:1], codebook=codebook[:1])


# Finite scalar quantization ---------------------------------------------------------------------------------------


def _through(x, rounded):
    return x + (rounded - x).detach()


def _weighted(factors):
    """A code: the sum over i of level i times the product of factors(levels, i)."""
    return lambda level, L: (level * torch.tensor([math.prod(factors(L, i)) for i in range(len(L))])).sum(-1)


_CODE = _weighted(lambda L, i: L[:i])


def _finite(
    bound=lambda z, top: top * z.sigmoid(),
    through=lambda x: _through(x, x.round()),
    rescale=lambda level, top: 2 * level / top - 1,
    code=_CODE,
):
    """FSQ, put together from steps that a mistake replaces."""

    def answer(z, levels):
        top = torch.tensor(levels, dtype=z.dtype) - 1
        level = through(bound(z, top))
        return rescale(level, top), code(level.detach().long(), levels)

    return answer


def _not_rounded(z, levels):
    return 2 * z.sigmoid() - 1, _finite()(z, levels)[1]


def _cut_codes(z, levels):
    quantized, _ = _finite()(z, levels)
    level = (quantized.detach() + 1) / 2 * (torch.tensor(levels) - 1)  # in float32 some come back as 2.9999998
    return quantized, _CODE(level.long(), levels)


def _past_the_sigmoid(z, levels):
    quantized, codes = _finite()(z, levels)
    return _through(z, quantized), codes


_SCALED = "quantized = 2 * level / (L - 1) - 1 lies between -1 and 1."
_EARLIER = "multiply each level by the product of all earlier L."
_STRAIGHT = "level = x + (x.round() - x).detach(), with x = (L - 1) * sigmoid(z)."


@exercise(
    verified="levels, range, codes, all 240 of them, large codebooks, straight-through gradient, shapes, float types",
    returns={"quantized": "(..., d)", "codes": "(...), one per vector"},
    correct=_finite(),
    mistakes={
        "the two results are swapped: return (quantized, codes), in this order.": lambda *x: _finite()(*x)[::-1],
        "quantized is not rounded: round (L - 1) * sigmoid(z) first.": _not_rounded,
        "some levels are one too low, since long() cuts 2.9999998 to 2: round() before it.": _cut_codes,
        f"the gradient skips the sigmoid: {_STRAIGHT}": _past_the_sigmoid,
        "L * sigmoid(z) rounds to L + 1 different levels, 0 to L: multiply by L - 1.": _finite(
            bound=lambda z, top: (top + 1) * z.sigmoid(), rescale=lambda level, top: 2 * level / (top + 1) - 1
        ),
    }
    | _variations(
        _finite,
        through={
            "the levels are not rounded, and long() cuts them down: round (L - 1) * sigmoid(z).": lambda x: x,
            "the levels are rounded down: use round, or the top level is rare.": lambda x: _through(x, x.floor()),
            "the levels are rounded up: use round, or the lowest level is rare.": lambda x: _through(x, x.ceil()),
            f"no gradient flows from quantized to z: round(), .detach(), numpy and no_grad pass none: {_STRAIGHT}": (
                torch.round
            ),
        },
        bound={
            "L * sigmoid(z) rounds to L, a level too many: multiply by L - 1.": lambda z, top: (top + 1) * z.sigmoid(),
            "(tanh(z) + 1) / 2 is sigmoid(2 * z), twice as steep: use sigmoid(z).": (
                lambda z, top: top * (2 * z).sigmoid()
            ),
            "the sigmoid is missing: the levels leave the range from 0 to L - 1.": lambda z, top: top * z,
        },
        rescale={
            f"quantized holds the levels themselves: {_SCALED}": lambda level, top: level,
            f"quantized lies between 0 and 1: {_SCALED}": lambda level, top: level / top,
            f"the levels are divided by L: {_SCALED}": lambda level, top: 2 * level / (top + 1) - 1,
        },
        code={
            "the last channel runs fastest: the first should, with weight 1.": _weighted(lambda L, i: L[i + 1 :]),
            "the first weight is L_0, but should be 1, an empty product.": _weighted(lambda L, i: L[: i + 1]),
            "the weights are powers of the first L, but each channel has its own L.": _weighted(lambda L, i: i * L[:1]),
            f"each level is multiplied by its own L: {_EARLIER}": _weighted(lambda L, i: L[i : i + 1]),
            f"each level is multiplied by the one L before it: {_EARLIER}": _weighted(lambda L, i: L[:i][-1:]),
            f"the levels are added up, so many vectors share a code: {_EARLIER}": _weighted(lambda L, i: ()),
            "codes holds the levels, d per vector: combine them into one number.": lambda level, levels: level,
            "the codes begin at 1: as class labels they begin at 0.": lambda level, levels: 1 + _CODE(level, levels),
        },
    ),
)
def fsq(answer):
    """fsq(z, levels) -> (quantized, codes), finite scalar quantization.

    z (..., d), levels: tuple of d ints, at least 2. level_i = round((L_i - 1) * sigmoid(z_i)), with the gradient of the
    unrounded value; quantized (..., d) = 2 * level / (L - 1) - 1, in the dtype of z; codes (...) int64: the sum over i
    of level_i times the product of all earlier L.
    """
    for shape, levels, dtype in (((4, 5, 3), (8, 6, 5), torch.float32), ((9, 2), (3, 4), torch.float64)):
        z = 2 * randn(*shape, seed=1, dtype=dtype)
        answer.case(z=z, levels=levels)
    answer.case(z=z, levels=levels, gradients=("z",))
    every = torch.cartesian_prod(*(torch.linspace(0, 1, L) for L in (5, 6, 8))).flip(1)
    answer.case("of all 240 combinations of levels", z=every.logit(eps=1e-6), levels=(8, 6, 5))
    z = 2 * randn(6, 2, 4, seed=2)
    answer.case("of large z", z=100 * z, levels=(7, 2, 4, 3))
    answer.case("of equal levels", z=z, levels=(5, 5, 5, 5))
    answer.case("with one channel", z=z[..., :1], levels=(6,))
    answer.case("of one vector", z=z[:1, 0], levels=(3, 4, 2, 5))
    answer.case("of one vector without axes in front", z=z[0, 0], levels=(3, 4, 2, 5))
    answer.case("of axes of size one", z=z[:1, :1, :1], levels=(9,))
    answer.case("of a channel with 300 levels", z=z[..., :2], levels=(300, 3))
    z, levels = 2 * randn(9, 20, seed=3), (8,) * 20
    answer.case("of a codebook with 8 ** 20 codes", z=z, levels=levels)
    answer.judge()
    exact = torch.equal(answer.result(z=z, levels=levels)[1], answer.exercise.correct(z, levels)[1])
    answer.expect(exact, "large codes are not exact, as in float32 or float64: multiply and add the levels as int64.")
