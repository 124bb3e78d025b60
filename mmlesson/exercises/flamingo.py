"""The exercises of the Flamingo lesson."""

import torch
import torch.nn.functional as F
from torch import nn

from mmlesson.exercises import DTYPES, compare, exercise, randn

# The gate ---------------------------------------------------------------------------------------------------------


def _add(y, g, b):
    return y + g * b


def _gated(squash=torch.tanh, call=lambda branch, y, g: branch(y), join=_add):
    """The gated residual, put together from steps that a mistake replaces: g is the gate, b the branch's output."""

    def answer(y, branch, alpha):
        g = squash(alpha)
        return join(y, g, call(branch, y, g))

    return answer


def _normalized(x):
    return F.layer_norm(x, x.shape[-1:])


def _special_case_for_0(y, branch, alpha):
    return _gated()(y, branch, alpha) if alpha.any() else y


_RESIDUAL = "the residual is y itself, and the gate belongs to the branch only."
_ROUNDED = (
    "at alpha = 0 the output is close to y, but not y to the last bit: compute y + 0 * branch(y), with nothing else "
    "done to y, so the model starts as the language model."
)
_CUT_BRANCH = (
    "no gradient flows from the output into the branch, so its layers would never learn: look for .detach() or no_grad."
)


@exercise(
    verified="value, y to the bit at alpha = 0, gradients of alpha, branch and y, batches of one, both float types",
    returns={"the output": "(N, T, D)"},
    correct=_gated(),
    mistakes={
        "the gate is alpha itself: put it through tanh, which keeps it between -1 and 1.": _gated(lambda alpha: alpha),
        "the gate is alpha clamped to -1 ... 1: use tanh, which is smooth and keeps a gradient everywhere.": _gated(
            lambda alpha: alpha.clamp(-1, 1)
        ),
        "the gate is sigmoid(alpha), 0.5 at alpha = 0: use tanh(alpha), which is 0 there.": _gated(torch.sigmoid),
        "the gate is 1 - tanh(alpha), open at alpha = 0: use tanh(alpha).": _gated(lambda alpha: 1 - alpha.tanh()),
        "the sign of alpha is lost: use tanh(alpha) as it is, which may be negative.": _gated(
            lambda alpha: alpha.tanh().abs()
        ),
        "alpha is not used, so the branch is added in full: multiply it by tanh(alpha).": _gated(torch.ones_like),
        f"the gate multiplies the residual as well: {_RESIDUAL}": _gated(join=lambda y, g, b: g * (y + b)),
        f"the gate multiplies the residual instead of the branch: {_RESIDUAL}": _gated(join=lambda y, g, b: g * y + b),
        f"this is a blend, (1 - gate) * y + gate * branch(y): {_RESIDUAL}": _gated(
            join=lambda y, g, b: (1 - g) * y + g * b
        ),
        "the residual is missing: add y, or nothing is left at alpha = 0.": _gated(join=lambda y, g, b: g * b),
        "the gated branch is subtracted: add it.": _gated(join=lambda y, g, b: y - g * b),
        "tanh is taken of the branch: it belongs to alpha.": _gated(
            lambda alpha: alpha, join=lambda y, g, b: y + g * b.tanh()
        ),
        "tanh is taken of alpha * branch(y): take it of alpha alone.": _gated(
            lambda alpha: alpha, join=lambda y, g, b: y + (g * b).tanh()
        ),
        "the gate is applied to the input of the branch: multiply its output.": _gated(
            call=lambda branch, y, g: branch(g * y), join=lambda y, g, b: y + b
        ),
        "the branch is not called: multiply branch(y), not y, by the gate.": _gated(call=lambda branch, y, g: y),
        "the branch is called on its own output: call it once, on y.": _gated(
            call=lambda branch, y, g: branch(branch(y))
        ),
        "the branch gets a normalized y, but it has its own norm: call it on y itself.": _gated(
            call=lambda branch, y, g: branch(_normalized(y))
        ),
        "the residual is a normalized y, but only the branch has a norm: add y itself.": _gated(
            join=lambda y, g, b: _add(_normalized(y), g, b)
        ),
        "y is normalized first, but the branch has its own norm: both the branch and the sum get y itself.": (
            lambda y, branch, alpha: _gated()(_normalized(y), branch, alpha)
        ),
        "the sum is normalized, so it is not y at alpha = 0: return it as it is.": _gated(
            join=lambda y, g, b: _normalized(_add(y, g, b))
        ),
        _ROUNDED: _gated(join=lambda y, g, b: _add(y.float().to(y.dtype), g, b)),
        "no gradient reaches alpha: look for .item(), .data, .detach(), torch.tensor(), no_grad or math.tanh.": (
            _gated(lambda alpha: alpha.tanh().detach())
        ),
        "at alpha = 0 no gradient reaches alpha, so the gate would never open: tanh has slope 1 there, and 0 needs no "
        "special case.": _special_case_for_0,
        "y gets its gradient through the residual only: give the branch y itself, not y.detach().": _gated(
            call=lambda branch, y, g: branch(y.detach())
        ),
        "y gets its gradient through the branch only: add y itself, not y.detach().": _gated(
            join=lambda y, g, b: _add(y.detach(), g, b)
        ),
        _CUT_BRANCH: _gated(call=lambda branch, y, g: branch(y).detach()),
    },
)
def gated_residual(answer):
    """gated_residual(y, branch, alpha) -> y + tanh(alpha) * branch(y), Flamingo's gate (section 2.2, figure 4).

    y (N, T, D); branch: a function from (N, T, D) to the same shape; alpha: one number of the dtype of y, of shape ()
    or (1,).
    """
    sizes = (2, 3, 4), (1, 3, 4), (2, 1, 4), (2, 3, 1)
    for size, dtype, number in zip(sizes, 2 * DTYPES, (0.7, [-1.3], [2.5], -0.2)):
        y, branch, alpha = _gate_inputs(*size, dtype, number)
        answer.case(y=y, branch=branch, alpha=alpha, gradients=("y", "alpha"))
        answer.case("at alpha = 0", y=y, branch=branch, alpha=0 * alpha, gradients=("y", "alpha"))
    y, branch, alpha = _gate_inputs(2, 3, 4, torch.float32, [0.7])
    # The results of these two must not be changed in place: one is y itself, and the slope of exp is its result.
    answer.case("with a branch that returns its input", y=y, branch=lambda x: x, alpha=alpha)
    answer.case("with exp as the branch", y=y, branch=torch.exp, alpha=alpha, gradients=("y", "alpha"))
    hint = "tanh(50) is 1: take torch's tanh, which does not overflow, of alpha as it is."
    answer.case("at alpha = 50", y=y, branch=branch, alpha=0 * alpha + 50, hint=hint)
    if any(outcome.error for outcome in answer.outcomes):
        return
    for dtype in DTYPES:
        y, branch, alpha = _gate_inputs(2, 3, 4, dtype, 0.0)
        closed = answer.result(y=y, branch=branch, alpha=alpha)
        if not compare.difference("", closed, y):
            answer.expect(torch.equal(closed, y), _ROUNDED)
    _expect_gradient_of_branch(answer)


def _gate_inputs(N, T, D, dtype, number):
    return (
        randn(N, T, D, seed=1, dtype=dtype),
        _branch(randn(D, D, seed=2, dtype=dtype)),
        torch.tensor(number).to(dtype),
    )


def _branch(weight):
    """A branch with one weight (D, D), not linear; like attention it mixes the tokens of a row."""

    def branch(x):
        if x.ndim != 3:
            raise TypeError(f"branch takes a tensor (N, T, D), but got shape {tuple(x.shape)}")
        return (x @ weight).sin() + x.cumsum(dim=1).square() / 4

    return branch


def _expect_gradient_of_branch(answer):
    y, _, alpha = _gate_inputs(2, 3, 4, torch.float32, 0.7)
    weight = randn(4, 4, seed=2).requires_grad_()
    output = answer.result(y=y, branch=_branch(weight), alpha=alpha)
    if compare.difference("", output, _gated()(y, _branch(weight), alpha).detach()):
        return  # a wrong value is for the cases to name
    answer.expect(output.requires_grad, _CUT_BRANCH)


# One image per token ----------------------------------------------------------------------------------------------


def _so_far(image):
    """How many images have come up to each token, itself included."""
    return image.cumsum(dim=1)


def _media(count=_so_far, look=torch.eq, after=lambda mask, image: mask):
    """The mask, put together from steps that a mistake replaces; images are numbered from 1."""

    def answer(tokens, image_id, media):
        image = tokens == image_id
        number = torch.arange(1, media + 1, device=tokens.device)
        return after(look(count(image)[..., None], number), image)

    return answer


def _next_or_own(image):
    to_come = image.flip(1).cumsum(dim=1).flip(1)
    return torch.where(to_come > 0, image.sum(dim=1, keepdim=True) - to_come + 1, 0)


def _last_for_none(mask, image):
    """Index -1 where no image has come yet, as in torch.eye(media)[count - 1]."""
    last = torch.arange(mask.shape[-1]) == mask.shape[-1] - 1
    return mask | ((_so_far(image) == 0)[..., None] & last)


@exercise(
    verified="last image only, an <image> token sees its own, nothing before the first, other ids and sizes, one row",
    returns={"the mask": "(N, T, media)"},
    correct=_media(),
    mistakes={
        "a token sees all images so far, but only the last one counts.": _media(look=torch.ge),
        "a token sees the image after the right one: the first image of a row is number 0 along the last axis.": _media(
            lambda image: _so_far(image) + 1
        ),
        "an <image> token sees the image before its own: include the token itself in the count.": _media(
            lambda image: _so_far(image) - image.long()
        ),
        "an <image> token sees nothing: it should see its own image.": _media(
            after=lambda mask, image: mask & ~image[..., None]
        ),
        "only the <image> tokens see their image: the words after it see it as well.": _media(
            after=lambda mask, image: mask & image[..., None]
        ),
        "the tokens before the first image see it already: before the first image a token sees nothing.": _media(
            lambda image: _so_far(image).clamp(min=1)
        ),
        "the tokens before the first image see the last one (is it index -1?): there a token sees nothing.": _media(
            after=_last_for_none
        ),
        "the tokens before the first image see all images: before the first image a token sees nothing.": _media(
            after=lambda mask, image: mask | (_so_far(image) == 0)[..., None]
        ),
        "a token sees the next image, at or after it: count from the start of the row, not from its end.": _media(
            _next_or_own
        ),
        "the images stand in reverse order: the first image of a row comes first along the last axis.": _media(
            after=lambda mask, image: mask.flip(2)
        ),
        "every token from the first image on sees that one only: the last image so far counts.": _media(
            lambda image: _so_far(image).clamp(max=1)
        ),
        "the mask is inverted: True where a token may look.": _media(after=lambda mask, image: ~mask),
        "the mask is transposed: tokens come first, as in (N, T, media).": _media(after=lambda mask, image: mask.mT),
        "the images are counted over the rows (dim=0): count along a row.": _media(lambda image: image.cumsum(dim=0)),
        "the count goes on from one row to the next: start each row at 0.": _media(
            lambda image: image.flatten().cumsum(dim=0).view_as(image)
        ),
        "every token sees every image: it should see the last one at or before it.": _media(
            after=lambda mask, image: torch.ones_like(mask)
        ),
        "a token sees all images of its row: it should see the last one at or before it.": _media(
            lambda image: image.sum(dim=1, keepdim=True).expand(image.shape), torch.ge
        ),
        "a token sees the last image of its row: it should see the last one at or before it.": _media(
            lambda image: image.sum(dim=1, keepdim=True).expand(image.shape)
        ),
    },
)
def media_mask(answer):
    """media_mask(tokens, image_id, media) -> (N, T, media) bool, True where a token may look at an image.

    tokens (N, T) int64, with image_id at each <image>; media: images per row, at least as many as any row has <image>
    tokens. A token sees the last image at or before it (section 2.3); before the first image it sees none.
    """
    for where, rows, image_id, media in (
        ("", ("..I..I.I.", "I...I....", ".II...I..", ".........", "........I"), 27, 3),
        ("with room for more images", ("..I..I", "...I.."), 3, 5),
        ("where the id of <image> is 0", ("IIII...", ".I.I.I.", "......."), 0, 4),
        ("with one image per row", ("..I..", "....."), 1, 1),
        ("of one row", ("..I.II.",), 5, 3),
        ("of one row of images only", ("III",), 9, 3),
        ("of one row without images", ("...",), 40, 2),
        ("where the ids are large", (".I..I..I.", "..I...I.I"), 128256, 3),
        ("where the id of <image> is negative", ("I..I..I.I", ".II......"), -200, 4),
        ("of rows with one token", ("I", ".", "I"), 9, 2),
        ("of a single <image> token", ("I",), 2, 1),
    ):
        answer.case(where, tokens=_tokens(rows, image_id), image_id=image_id, media=media)


def _tokens(rows, image_id):
    """Token ids, image_id for each I; words repeat, and long rows hold the ids just above and below image_id."""
    words = [0, 1, 1, image_id + 1, 2, abs(image_id), image_id - 1, image_id - 65536, 30]
    words = [word for word in words if 0 <= word != image_id]
    return torch.tensor([[image_id if x == "I" else words[i % len(words)] for i, x in enumerate(row)] for row in rows])


# A step of the resampler ------------------------------------------------------------------------------------------


def _both(latents, features):
    return torch.cat([features, latents], dim=1)


def _latents(latents, features):
    return latents


def _features(latents, features):
    return features


def _all_rows(latents, features):
    return _both(latents, features).flatten(0, 1).expand(len(latents), -1, -1)


def _resample(
    ask=_latents,
    read=_both,
    project=lambda x, y, to_q, to_k, to_v: (x @ to_q, y @ to_k, y @ to_v),
    scale=lambda q, k, D: q.shape[-1] ** -0.5,
    weigh=lambda scores, scale: (scale * scores).softmax(dim=-1),
    collect=lambda weights, v, y: weights @ v,
):
    """One head of the resampler, put together from steps that a mistake replaces: x asks, y is read."""

    def answer(latents, features, to_q, to_k, to_v):
        x, y = ask(latents, features), read(latents, features)
        q, k, v = project(x, y, to_q, to_k, to_v)
        return collect(weigh(q @ k.mT, scale(q, k, len(to_q))), v, y)

    return answer


def _two_softmaxes(*inputs):
    return _resample(read=_features)(*inputs) + _resample(read=_latents)(*inputs)


@exercise(
    verified="queries, keys, values, scale, softmax, gradients, large scores, every size of one, both float types",
    returns={"the output": "(N, L, E)"},
    correct=_resample(),
    mistakes={
        "keys and values come from the features only: append the latents to them.": _resample(read=_features),
        "keys and values come from the latents only, so the image is not seen: take the features as well.": _resample(
            read=_latents
        ),
        "the queries come from the features: the latents ask, one output for each.": _resample(ask=_features),
        "features and latents both ask: the queries come from the latents only.": _resample(ask=_both),
        "the roles are swapped: the latents ask, and the features answer, with the latents appended.": _resample(
            _features, _latents
        ),
        "the scores are not scaled: divide them by sqrt(E).": _resample(scale=lambda q, k, D: 1),
        "the scores are divided by sqrt(D): the queries have E channels, so divide by sqrt(E).": _resample(
            scale=lambda q, k, D: D**-0.5
        ),
        "the scores are divided by E: divide by its square root.": _resample(scale=lambda q, k, D: 1 / q.shape[-1]),
        "the scores are multiplied by sqrt(E): divide by it, or multiply by E ** -0.5.": _resample(
            scale=lambda q, k, D: q.shape[-1] ** 0.5
        ),
        "the scale is taken from the number of keys: it is 1 / sqrt(E).": _resample(
            scale=lambda q, k, D: k.shape[1] ** -0.5
        ),
        "the weights are scaled, after the softmax: scale the scores, before it.": _resample(
            weigh=lambda scores, scale: scale * scores.softmax(dim=-1)
        ),
        "the softmax runs over the latents (dim=1): for each latent, take it over the keys (dim=-1).": _resample(
            weigh=lambda scores, scale: (scale * scores).softmax(dim=1)
        ),
        "the softmax runs over the batch (dim=0): for each latent, take it over the keys (dim=-1).": _resample(
            weigh=lambda scores, scale: (scale * scores).softmax(dim=0)
        ),
        "the softmax is missing: the scores are used as weights.": _resample(
            weigh=lambda scores, scale: scale * scores
        ),
        "these are the attention weights: multiply them by the values.": _resample(
            collect=lambda weights, v, y: weights
        ),
        "the values are not projected: multiply features and latents by to_v.": _resample(
            collect=lambda weights, v, y: weights @ y
        ),
        "the values are the keys again: use to_v.": _resample(
            project=lambda x, y, to_q, to_k, to_v: (x @ to_q, y @ to_k, y @ to_k)
        ),
        "to_k and to_v are swapped: to_k makes the keys, to_v the values.": _resample(
            project=lambda x, y, to_q, to_k, to_v: (x @ to_q, y @ to_v, y @ to_k)
        ),
        "to_q and to_k are swapped: to_q is for the latents' queries.": _resample(
            project=lambda x, y, to_q, to_k, to_v: (x @ to_k, y @ to_q, y @ to_v)
        ),
        "features and latents have a softmax each: append the latents first, and take one over all S + L keys.": (
            _two_softmaxes
        ),
        "the latents of one row see the features of all rows: keep them apart.": _resample(read=_all_rows),
    },
)
def resample(answer):
    """resample(latents, features, to_q, to_k, to_v) -> (N, L, E), one head of the Perceiver Resampler, without norms.

    latents (N, L, D), features (N, S, D); to_q, to_k, to_v (D, E). The latents ask; keys and values come from features
    and latents together, S + L of them (appendix A.1.1, figure 5). Scale 1 / sqrt(E).
    """
    for dtype, sizes in zip(DTYPES, ((2, 3, 12, 4, 6), (3, 6, 2, 7, 5))):
        answer.case(**_resampler_inputs(*sizes, dtype=dtype))
    inputs = _resampler_inputs(*sizes)
    answer.case(**inputs, gradients=tuple(inputs))
    for i, where in enumerate(("a batch of one", "one latent", "one feature", "one channel in", "one channel out")):
        sizes = [2, 3, 5, 4, 6]
        sizes[i] = 1
        answer.case(f"with {where}", **_resampler_inputs(*sizes))
    overflow = "exp(120) overflows float32: use softmax on the scores, which subtracts each row's maximum first."
    answer.case(
        "for scores from -122 to 122", **_straining_inputs([12], keys=[10.2, -10.2, -10.2, -10.2]), hint=overflow
    )
    underflow = "exp(-120) rounds to 0: use softmax on the scores, which subtracts each row's maximum first."
    answer.case("for scores of -120 and less", **_straining_inputs([-12], keys=[10.2, 10.3]), hint=underflow)
    each_row = "Subtract the maximum of each row, not that of all scores: a row far below it would round to 0."
    far_below = _straining_inputs([12, -12], keys=[10.2, 10.3])
    answer.case("where one latent's scores are far below the other's", **far_below, hint=each_row)


def _resampler_inputs(N, L, S, D, E, dtype=torch.float32):
    shapes = {"latents": (N, L, D), "features": (N, S, D), "to_q": (D, E), "to_k": (D, E), "to_v": (D, E)}
    return {name: randn(*shape, seed=i, dtype=dtype) for i, (name, shape) in enumerate(shapes.items(), 1)}


def _straining_inputs(queries, keys):
    """One channel out; the first channel of a latent is its query, and the second channel of every input is its key."""
    latents = torch.tensor([[[query, 10 + 0.1 * i] for i, query in enumerate(queries)]])
    features = torch.tensor([[[0.5 * i, key] for i, key in enumerate(keys)]])
    to_q, to_k, to_v = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.1]])[..., None]
    return {"latents": latents, "features": features, "to_q": to_q, "to_k": to_k, "to_v": to_v}


# Time embeddings for more frames ----------------------------------------------------------------------------------


def _positions(rows, frames):
    """Where the frames lie between the first and the last row."""
    return torch.linspace(0, rows - 1, frames, dtype=torch.float64)


def _neighbors(positions, last):
    """The rows below and above each position, and how far it is from the lower one."""
    lower = positions.long().clamp(max=last)
    return lower, (lower + 1).clamp(max=last), positions - lower


def _mix(below, above, fraction):
    return below * (1 - fraction) + above * fraction


def _exchanged(below, above, fraction):
    return _mix(above, below, fraction)


def _stretch(positions=_positions, neighbors=_neighbors, mix=_mix, after=lambda x: x):
    """The embeddings at the frames' positions, put together from steps that a mistake replaces."""

    def answer(time_embeddings, frames):
        rows = len(time_embeddings)
        lower, upper, fraction = neighbors(positions(rows, frames), rows - 1)
        fraction = fraction[:, None].to(time_embeddings)
        return after(mix(time_embeddings[lower], time_embeddings[upper], fraction))

    return answer


def _pick(index):
    """Whole rows, chosen by index(rows, frames)."""
    return lambda time_embeddings, frames: time_embeddings[index(len(time_embeddings), frames)]


def _resized(x, frames, align_corners):
    """The last axis of a matrix resized."""
    return F.interpolate(x[None], size=frames, mode="linear", align_corners=align_corners)[0]


def _fewer(shorten):
    """Right, except that shorten(time_embeddings, frames) makes fewer rows."""
    return lambda x, frames: shorten(x, frames) if 1 < frames < len(x) else _stretch()(x, frames)


def _single(choose):
    """Right, except for one frame, which gets choose(time_embeddings)."""
    return lambda x, frames: choose(x) if frames == 1 else _stretch()(x, frames)


_MIX = "mix the two nearest rows."
_STEP = "(F - 1) / (frames - 1) leads exactly from the first row to the last."
_SINGLE = "a single frame is the first one, so return time_embeddings[:1]."


@exercise(
    verified="more frames, fewer, as many, one, both ends kept, one row, gradient, both float types",
    returns={"the result": "(frames, D)"},
    correct=_stretch(),
    mistakes={
        "the ends are flat or lost: centers of intervals are aligned (align_corners=False): align the ends (True).": (
            lambda x, frames: _resized(x.T, frames, align_corners=False).T
        ),
        f"rows are repeated, so neighboring frames look the same (F.interpolate's default, 'nearest'): {_MIX}": _pick(
            lambda rows, frames: torch.arange(frames) * rows // frames
        ),
        f"each position is rounded to the nearest row, so neighboring frames look the same: {_MIX}": _pick(
            lambda rows, frames: _positions(rows, frames).round().long()
        ),
        f"each position is rounded down to a row, so neighboring frames look the same: {_MIX}": _pick(
            lambda rows, frames: _positions(rows, frames).long()
        ),
        f"the step from frame to frame is F / frames: {_STEP}": _stretch(
            lambda rows, frames: torch.arange(frames) * (rows / frames)
        ),
        f"the step from frame to frame is (F - 1) / frames: {_STEP}": _stretch(
            lambda rows, frames: torch.arange(frames) * ((rows - 1) / frames)
        ),
        f"the step from frame to frame is F / (frames - 1): {_STEP}": _stretch(
            lambda rows, frames: torch.linspace(0, rows, frames, dtype=torch.float64)
        ),
        "the two weights are swapped: the nearer of the two rows counts more.": _stretch(mix=_exchanged),
        "the two weights are swapped, so the last frame gets the row before the last: the nearer row counts more.": (
            _stretch(neighbors=lambda x, last: ((y := x.long().clamp(max=last - 1)), y + 1, x - y), mix=_exchanged)
        ),
        "this is transposed: return (frames, D).": _stretch(after=lambda x: x.T),
        "one axis too many: take the batch axis, which F.interpolate needs, away again.": _stretch(
            after=lambda x: x[None]
        ),
        "this is (1, D, frames), as F.interpolate returns it: take the batch axis away and transpose.": _stretch(
            after=lambda x: x.T[None]
        ),
        "the interpolation runs along D: F.interpolate resizes the last axis, so bring F there first.": (
            lambda x, frames: _resized(x, frames, align_corners=True)
        ),
        "the interpolation runs along D, without align_corners=True: F.interpolate resizes the last axis, so bring F "
        "there first.": lambda x, frames: _resized(x, frames, align_corners=False),
        f"each row is repeated for the same number of frames: {_MIX}": lambda x, frames: x.repeat_interleave(
            -(-frames // len(x)), dim=0
        )[:frames],
        "the rows start over after the last one: stretch them over the frames instead.": _pick(
            lambda rows, frames: torch.arange(frames) % rows
        ),
        "the rows after the last one are copies of it: stretch all rows over the frames.": _pick(
            lambda rows, frames: torch.arange(frames).clamp(max=rows - 1)
        ),
        "the frames after the last row get zeros: stretch all rows over the frames.": lambda x, frames: F.pad(
            x, (0, 0, 0, frames - len(x))
        ),
        "with fewer frames the last rows are cut off: the last frame gets the last row.": _fewer(
            lambda x, frames: x[:frames]
        ),
        f"with fewer frames every n-th row is taken: {_MIX}": _fewer(lambda x, frames: x[:: len(x) // frames][:frames]),
        "with fewer frames the rows are averaged in groups: mix the two nearest ones, so the ends stay.": _fewer(
            lambda x, frames: F.adaptive_avg_pool1d(x.T, frames).T
        ),
        f"one frame gets the mean of all rows: {_SINGLE}": _single(lambda x: x.mean(dim=0, keepdim=True)),
        f"one frame gets the middle row: {_SINGLE}": _single(lambda x: x[len(x) // 2][None]),
        f"one frame gets the last row: {_SINGLE}": _single(lambda x: x[-1:]),
        f"one frame gets NaN, because (F - 1) / (frames - 1) divides by zero: {_SINGLE}": _single(
            lambda x: x[:1] * torch.nan
        ),
        "one frame gets a row without its axis: time_embeddings[:1] is (1, D), time_embeddings[0] is (D,).": _single(
            lambda x: x[0]
        ),
    },
)
def interpolate_times(answer):
    """interpolate_times(time_embeddings, frames) -> (frames, D), embeddings (F, D) for another number of frames.

    Linear, over the whole span: the first and the last row stay at the ends, and one frame gets the first row. (Trained
    with 8 frames, Flamingo reads 30 in this way: appendix B.1.2.)
    """

    def case(rows, frames, dtype=torch.float32, D=3, **more):
        where = f"for {frames} frame{'s' * (frames > 1)} from {rows} row{'s' * (rows > 1)}"
        answer.case(where, time_embeddings=randn(rows, D, seed=1, dtype=dtype), frames=frames, **more)

    case(8, 30)
    case(5, 9, torch.float64)
    case(8, 3, torch.float64)
    case(7, 2)
    case(2, 5, D=1)
    case(11, 15)  # 11 * (15 / 11) is less than 15: a scale_factor would lose a frame
    gradients = ("time_embeddings",)
    case(6, 6, hint="With as many frames as rows nothing changes.", gradients=gradients)
    for rows in (8, 5, 1):
        case(rows, 1, hint=_SINGLE.capitalize(), gradients=gradients)
    case(1, 4, hint="With one row every frame gets it.", gradients=gradients)
    for rows, frames in ((8, 30), (8, 3)):
        case(rows, frames, gradients=gradients)


# What freezing saves ----------------------------------------------------------------------------------------------


def _elements(tensors):
    return sum(x.numel() for x in tensors)


def _bytes(tensors):
    return sum(x.numel() * x.element_size() for x in tensors)


def _freezing(
    parameters=lambda model: list(model.parameters()),
    trains=lambda p: p.requires_grad,
    count=_elements,
    save=lambda trainable, frozen: 3 * _bytes(frozen),
    after=lambda trainable, frozen, saved: (trainable, frozen, saved),
):
    """The three numbers, put together from steps that a mistake replaces."""

    def answer(model):
        found = parameters(model)
        trainable, frozen = [p for p in found if trains(p)], [p for p in found if not trains(p)]
        return after(count(trainable), count(frozen), save(trainable, frozen))

    return answer


def _tied_twice(model):
    return [p for _, p in model.named_parameters(remove_duplicate=False)]


def _equal_once(model):
    return list({(p.shape, *p.flatten().tolist()): p for p in model.parameters()}.values())


def _by_mode(model):
    modes = {p: module.training for module in model.modules() for p in module.parameters(recurse=False)}
    return _freezing(trains=modes.get)(model)


def _partly(wrong, *parts):
    """Right, except for these of the three numbers (0, 1 or 2), which are those of a wrong answer."""
    return lambda model: tuple((wrong if i in parts else _freezing())(model)[i] for i in range(3))


_ALL_MODULES = _freezing(lambda model: [p for module in model.modules() for p in module.parameters()])
_WITH_BUFFERS = _freezing(lambda model: [*model.parameters(), *model.buffers()])
_WRONG_LISTS = {
    "counts a parameter twice if two modules share it: model.parameters() lists it once.": _freezing(_tied_twice),
    "counts a parameter once for every module around it: model.parameters() visits all submodules.": _ALL_MODULES,
    "counts parameters of equal values once: only one parameter in two modules is shared.": _freezing(_equal_once),
}
_WRONG_UNITS = {
    "is a number of tensors: add up their numel().": _freezing(count=len),
    "is in bytes: count the elements, numel().": _freezing(count=_bytes),
}
_THREE = "per frozen parameter: a gradient and two moments make three."
_OWN_SIZE = "use each parameter's own element_size()."


@exercise(
    verified="both counts, tied parameters once, no buffers, bytes in every dtype, all or nothing frozen, no change",
    returns={"trainable": "", "frozen": "", "saved": ""},
    correct=_freezing(),
    mistakes={
        "trainable and frozen are exchanged: return trainable first.": _freezing(
            after=lambda t, f, saved: (f, t, saved)
        ),
        "the frozen parameters are taken for the trainable ones: requires_grad is True for trainable ones.": _freezing(
            trains=lambda p: not p.requires_grad
        ),
        "trainable is the number of all parameters: look at requires_grad.": _freezing(
            after=lambda t, f, saved: (t + f, f, saved)
        ),
        "frozen is the number of all parameters: look at requires_grad.": _freezing(
            after=lambda t, f, saved: (t, t + f, saved)
        ),
        "frozen and saved include buffers, which are no parameters.": _WITH_BUFFERS,
        "frozen includes buffers, which are no parameters.": _partly(_WITH_BUFFERS, 1),
        "saved includes buffers, which never have a gradient.": _partly(_WITH_BUFFERS, 2),
        "trainable is 0: state_dict() holds detached copies, and buffers too; read requires_grad from "
        "model.parameters().": _freezing(lambda model: list(model.state_dict().values())),
        "parameters without a stored gradient are taken for frozen: grad is None before the first backward pass, so "
        "read requires_grad.": _freezing(trains=lambda p: p.grad is not None),
        "parameters in eval mode are taken for frozen: eval() freezes nothing, so read requires_grad.": _by_mode,
        f"saved is the size of one tensor {_THREE}": _freezing(save=lambda trainable, frozen: _bytes(frozen)),
        f"saved is the size of two tensors {_THREE}": _freezing(save=lambda trainable, frozen: 2 * _bytes(frozen)),
        "saved includes the weights themselves, but frozen ones have to be in memory as well.": _freezing(
            save=lambda trainable, frozen: 4 * _bytes(frozen)
        ),
        "saved is a number of elements: multiply by element_size(), the bytes of each.": _freezing(
            save=lambda trainable, frozen: 3 * _elements(frozen)
        ),
        "saved is in bits: element_size() is in bytes already.": _freezing(
            save=lambda trainable, frozen: 24 * _bytes(frozen)
        ),
        "saved is what the trainable parameters need: count the frozen ones.": _freezing(
            save=lambda trainable, frozen: 3 * _bytes(trainable)
        ),
        "saved is counted over all parameters: only frozen ones save anything.": _freezing(
            save=lambda trainable, frozen: 3 * _bytes(trainable + frozen)
        ),
        f"saved takes every element to have 4 bytes: {_OWN_SIZE}": _freezing(
            save=lambda trainable, frozen: 12 * _elements(frozen)
        ),
        f"saved takes every element to be as large as one of the first frozen parameter: {_OWN_SIZE}": _freezing(
            save=lambda trainable, frozen: 3 * _elements(frozen) * frozen[0].element_size() if frozen else 0
        ),
        "saved takes the moments to have 4 bytes each: AdamW keeps them in the parameter's own dtype.": _freezing(
            save=lambda trainable, frozen: _bytes(frozen) + 8 * _elements(frozen)
        ),
    }
    | {
        f"{name} {sentence}": _partly(wrong, *parts)
        for sentence, wrong in _WRONG_LISTS.items()
        for name, *parts in (("each number", 0, 1, 2), ("trainable", 0), ("frozen", 1), ("saved", 2))
    }
    | {
        f"{name} {sentence}": _partly(wrong, *parts)
        for sentence, wrong in _WRONG_UNITS.items()
        for name, *parts in (("each count", 0, 1), ("trainable", 0), ("frozen", 1))
    },
)
def freezing(answer):
    """freezing(model) -> (trainable, frozen, saved), three ints.

    The numbers of trainable and of frozen parameters, each parameter once even if modules share it, and the bytes that
    frozen parameters save: for each a gradient and AdamW's two moments, in its own dtype. The model stays as it is.
    """
    answer.case(model=_SmallFlamingo(7))
    answer.case("in a model in eval mode", model=_SmallFlamingo(5).eval())
    answer.case("in a model of several dtypes", model=_SmallFlamingo(6, torch.float16, torch.float64))
    answer.case("in a model without frozen parameters", model=nn.Linear(3, 5))
    answer.case("in a model without trainable parameters", model=nn.Linear(3, 4).bfloat16().requires_grad_(False))
    answer.case("in a model without parameters", model=nn.GELU())


class _SmallFlamingo(nn.Module):
    """A frozen language model with tied embeddings, and new layers, two of which share their weight.

    As in real models, parameters of one shape have equal values at first (norms, gates), a part is in eval mode, some
    gradients are stored, one of them of a parameter that was frozen later, and one bias of a trained layer is frozen.
    """

    def __init__(self, width, block=torch.float32, embedding=torch.float32):
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 4), nn.Linear(4, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.block = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4), nn.LayerNorm(4))
        self.embedding.to(embedding)
        self.block.to(block).eval()
        self.patches = nn.Conv2d(3, 2, 2).eval()
        self.requires_grad_(False)
        self.latents, self.scale = nn.Parameter(torch.zeros(5, width)), nn.Parameter(torch.tensor(1.5))
        self.alpha_attn, self.alpha_dense = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.norm_media, self.norm_latents = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.again = nn.Linear(width, 4), nn.Linear(width, 4).eval()
        self.again.weight = self.attention.weight
        self.attention.bias.requires_grad_(False)
        self.register_buffer("positions", torch.arange(13.0))
        for p in (self.latents, self.alpha_attn, self.block[1].bias):
            p.grad = torch.ones_like(p)


# The best examples last -------------------------------------------------------------------------------------------


def _cosines(query, pool, dim=1):
    return F.normalize(query, dim=dim) @ F.normalize(pool, dim=dim).T


def _best_last(similarity, k):
    return similarity.argsort(dim=1)[:, -k:]


def _best_first(similarity, k):
    return _best_last(similarity, k).flip(1)


def _rices(similar=_cosines, rank=_best_last, after=lambda indices: indices):
    """The retrieval, put together from steps that a mistake replaces."""
    return lambda query, pool, k: after(rank(similar(query, pool), k))


def _first_of_equals(similarity, k):
    """Looks each of the k highest values up in its row."""
    return (similarity[:, None] == similarity.sort(dim=1).values[:, -k:, None]).int().argmax(dim=2)


_OTHER_SIMILARITIES = {
    "long vectors win, because this is the dot product: divide every row of pool by its length first.": (
        lambda query, pool: query @ pool.T
    ),
    "these are the nearest by Euclidean distance, where lengths count: normalize first.": (
        lambda query, pool: -torch.cdist(query, pool)
    ),
    "the columns are normalized (dim=0): normalize each row, dim=1.": lambda query, pool: _cosines(query, pool, dim=0),
    "these are the least similar ones: take the k highest cosines.": lambda query, pool: -_cosines(query, pool),
    "the sign of the cosine is lost, so opposite vectors win: take the k highest.": lambda query, pool: _cosines(
        query, pool
    ).abs(),
    "for each pool entry queries are chosen: take the k best along the pool, dim=1 of the (N, M) cosines.": (
        lambda query, pool: _cosines(query, pool).T
    ),
}
_TWICE = "the result names an entry of pool twice for one query: take the indices from topk or argsort."


@exercise(
    verified="cosine, the k best, most similar last, equal entries, one query, k = 1, whole pool, both float types",
    returns={"the result": "(N, k)"},
    correct=_rices(),
    mistakes={
        "the most similar one comes first: flip the order, so it stands right before the query.": _rices(
            rank=_best_first
        ),
        "the indices are sorted by their number: sort by similarity, the highest last.": _rices(
            after=lambda indices: indices.sort(dim=1).values
        ),
        "flip(0) exchanges the queries: reverse within a row, flip(1).": _rices(
            rank=_best_first, after=lambda indices: indices.flip(0)
        ),
        "this is transposed: return one row per query, (N, k).": _rices(after=lambda indices: indices.T),
        "these are similarities: return the indices of the entries in pool.": _rices(
            rank=lambda similarity, k: similarity.sort(dim=1).values[:, -k:]
        ),
        _TWICE: _rices(rank=_first_of_equals),
        "the k best queries are taken for each pool entry (dim=0): take the k best along the pool, dim=1.": _rices(
            lambda query, pool: _cosines(query, pool).T, _best_first, lambda indices: indices.T
        ),
    }
    | {sentence: _rices(similar) for sentence, similar in _OTHER_SIMILARITIES.items()}
    | {
        f"{sentence} The highest belongs at the end.": _rices(similar, _best_first)
        for sentence, similar in _OTHER_SIMILARITIES.items()
    },
)
def rices(answer):
    """rices(query, pool, k) -> (N, k) int64, for each query the k most similar pool entries, the most similar LAST.

    query (N, D), pool (M, D), not normalized; similarity is the cosine (retrieval-based in-context example selection,
    appendix A.2). Equal cosines may come in either order.
    """
    float32, float64 = DTYPES
    for where, N, M, k, D, dtype in (
        ("", 4, 9, 3, 5, float32),
        ("", 3, 8, 4, 7, float64),
        ("for one query", 1, 6, 2, 5, float64),
        ("with k = 1", 3, 7, 1, 5, float32),
        ("with k = 7", 3, 11, 7, 5, float32),
        ("for the whole pool", 2, 5, 5, 3, float64),
        ("for a pool of one", 2, 1, 1, 4, float32),
    ):
        answer.case(where, **_rices_inputs(N, M, k, D, dtype))
    line = torch.tensor([[2.0], [-3.0]])
    answer.case("for one channel", query=line[:1], pool=line, k=2, hint="Cosines of one channel are 1 or -1.")
    inputs = _rices_inputs(1, 9, 4, 5, float32)
    inputs["pool"] = 1e-3 * (inputs["query"] + 0.02 * inputs["pool"])
    answer.case("for short and similar vectors", **inputs, hint="Normalize without an epsilon that counts, unrounded.")
    _expect_each_of_equals(answer)


def _rices_inputs(N, M, k, D, dtype):
    lengths = (1.5 * randn(M, 1, seed=6, dtype=dtype)).exp()
    return {"query": 2 * randn(N, D, seed=5, dtype=dtype), "pool": lengths * randn(M, D, seed=7, dtype=dtype), "k": k}


def _expect_each_of_equals(answer):
    """The pool holds an entry twice, which is the best; either of the two may come first."""
    answer.judge()
    query, pool = randn(1, 5, seed=5), randn(4, 5, seed=7)
    pool[1] = pool[3] = query[0]
    indices = [answer.result(query=query, pool=pool, k=k) for k in (1, 3)]
    if len(set(indices[1].flatten().tolist())) < 3:
        answer.fail(_TWICE)
    one, three = (x.tolist() for x in indices)
    answer.expect(
        one in ([[1]], [[3]]) and set(three[0][-2:]) == {1, 3},
        f"entries 1 and 3 of the pool are equal and the best two, but for k = 1 the result is {one}, and for k = 3 it "
        f"is {three}: take the indices from topk or argsort.",
    )
