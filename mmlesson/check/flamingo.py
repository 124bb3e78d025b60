"""Checks for the exercises of lesson 06, Flamingo."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from mmlesson.check import DTYPES, exercise, randn

# Gates ---------------------------------------------------------------------------------------------------------------


@exercise("value, y to the bit at alpha = 0, gradients of alpha, branch and y, both float types")
def gated_residual(answer):
    """gated_residual(y, branch, alpha) -> y + tanh(alpha) * branch(y), Flamingo's gate (section 2.2, figure 4).

    y (N, T, D); branch: a function from (N, T, D) to the same shape; alpha: one number, of shape () or (1,).
    """
    for dtype, number in zip(DTYPES, (0.7, [-1.3]), strict=True):
        y, weight = randn(2, 3, 4, seed=1, dtype=dtype), randn(4, 4, seed=2, dtype=dtype)
        alpha, branch = torch.tensor(number, dtype=dtype), _branch(weight)
        output = answer(y=y, branch=branch, alpha=alpha)
        expected, wrong = y + alpha.tanh() * branch(y), _wrong_gates(y, branch, alpha)
        hint = "It should be y + tanh(alpha) * branch(y)."
        answer.expect_tensor("the output", output, expected, wrong, axes="(N, T, D)", hint=hint)
        closed = answer(y=y, branch=branch, alpha=torch.zeros_like(alpha))
        answer.expect_tensor("the output at alpha = 0", closed, y, axes="(N, T, D)")
        rounded = (
            "at alpha = 0 the output is close to y, but not y to the last bit: compute y + 0 * branch(y), with nothing "
            "else done to y, so that the model starts as the language model."
        )
        answer.expect(torch.equal(closed, y), rounded)
    _expect_gate_gradients(answer, y, weight, alpha)
    _expect_gate_gradients(answer, y, weight, torch.zeros_like(alpha), " at alpha = 0")


def _branch(weight):
    """A branch with one weight (D, D), neither linear nor symmetric."""
    return lambda x: (x @ weight).sin() + x.square() / 4


def _wrong_gates(y, branch, alpha):
    gate, update, normed = alpha.tanh(), branch(y), F.layer_norm(y, y.shape[-1:])
    residual = "the residual is y itself, and the gate belongs to the branch only"
    norm = "y is normalized first, but the branch has its own norm: both the branch and the sum get y itself."
    return [
        (y + alpha * update, "the gate is alpha itself: put it through tanh, which keeps it between -1 and 1."),
        (
            y + alpha.sigmoid() * update,
            "the gate is sigmoid(alpha), 0.5 at alpha = 0: use tanh(alpha), which is 0 there.",
        ),
        (y + update, "alpha is not used, so the branch is added in full: multiply it by tanh(alpha)."),
        (gate * (y + update), f"the gate multiplies the residual as well: {residual}."),
        (gate * y + update, f"the gate multiplies the residual instead of the branch: {residual}."),
        ((1 - gate) * y + gate * update, f"this is a blend, (1 - gate) * y + gate * branch(y): {residual}."),
        (gate * update, "the residual is missing: add y, or nothing is left at alpha = 0."),
        (y + (1 - gate) * update, "the gate is 1 - tanh(alpha), open at alpha = 0: use tanh(alpha)."),
        (y - gate * update, "the gated branch is subtracted: add it."),
        (y + alpha * update.tanh(), "tanh is taken of the branch: it belongs to alpha."),
        (y + (alpha * update).tanh(), "tanh is taken of alpha * branch(y): take it of alpha alone."),
        (y + branch(gate * y), "the gate is applied to the input of the branch: multiply its output."),
        (y + gate * y, "the branch is not called: multiply branch(y), not y, by the gate."),
        (y + gate * branch(update), "the branch is called twice: call it once, on y."),
        (y + gate * branch(normed), norm),
        (normed + gate * branch(normed), norm),
        (normed + gate * update, norm),
    ]


def _expect_gate_gradients(answer, y, weight, alpha, case=""):
    y, weight, alpha = leaves = [x.clone().requires_grad_() for x in (y, weight, alpha)]
    weights = randn(*y.shape, seed=3, dtype=y.dtype)

    def gradients(output):
        if not output.requires_grad:
            return [torch.zeros_like(x) for x in leaves]
        return torch.autograd.grad((output * weights).sum(), leaves, allow_unused=True, materialize_grads=True)

    branch = _branch(weight)
    got, expected = gradients(answer(y=y, branch=branch, alpha=alpha)), gradients(y + alpha.tanh() * branch(y))
    wrong, hint = _wrong_gate_gradients(weights, *expected, case), "It should be that of y + tanh(alpha) * branch(y)."
    for i, name in ((2, "alpha"), (1, "the branch's weight"), (0, "y")):
        answer.expect_tensor(f"the gradient of {name}{case}", got[i], expected[i], wrong[i], hint=hint)


def _wrong_gate_gradients(weights, to_y, to_weight, to_alpha, case):
    cut = "no gradient reaches alpha: look for .item(), .detach(), no_grad or math.tanh, which returns a plain number."
    if case:
        cut = (
            "at alpha = 0 no gradient reaches alpha, so the gate would never open: tanh has slope 1 there, and 0 needs "
            "no special case."
        )
    unused = "no gradient reaches the branch, so its layers would never learn: look for .detach() or no_grad."
    return [
        [
            (weights, "y gets its gradient through the residual only: give the branch y itself, not y.detach()."),
            (to_y - weights, "y gets its gradient through the branch only: add y itself, not y.detach()."),
        ],
        [(torch.zeros_like(to_weight), unused)],
        [(torch.zeros_like(to_alpha), cut)],
    ]


# Media ---------------------------------------------------------------------------------------------------------------


@exercise("last image only, an <image> token sees its own, nothing before the first, other ids and sizes")
def media_mask(answer):
    """media_mask(tokens, image_id, media) -> (N, T, media) bool, True where a token may look at an image.

    tokens (N, T) long, with image_id at each <image>; media: images per row, at least as many as any row has <image>
    tokens. A token sees the last image at or before it (section 2.3); before the first image it sees none.
    """
    for what, tokens, image_id, media in (
        ("the mask", _interleaved(), 27, 3),
        ("the mask with room for more images", torch.tensor([[27, 3, 5, 8, 3, 6], [3, 9, 27, 4, 2, 0]]), 3, 5),
    ):
        mask = answer(tokens=tokens, image_id=image_id, media=media)
        image = tokens == image_id
        wrong = _wrong_media(image, media)
        hint = "In a row, count the <image> tokens up to each token, itself included."
        answer.expect_tensor(what, mask, _last_image(image, media), wrong, axes="(N, T, media)", hint=hint)


def _interleaved():
    """Rows with 3 images, 2 from the start on, 3 of which 2 side by side, none, and 1 at the very end."""
    rows = ["..I..I.I.", "I...I....", ".II...I..", ".........", "........I"]
    return torch.tensor([[27 if mark == "I" else 1 + (3 * i) % 26 for i, mark in enumerate(row)] for row in rows])


def _last_image(image, media):
    return image.cumsum(1)[..., None] == torch.arange(1, media + 1)


def _wrong_media(image, media):
    count, total, each = image.cumsum(1), image.sum(1, keepdim=True), torch.arange(media)
    to_come = total - count + image.long()  # images at or after a token
    mask, own = _last_image(image, media), image[..., None]
    flat = image.flatten().cumsum(0).reshape(image.shape)
    nothing = "before the first image a token sees nothing"
    return [
        (count[..., None] > each, "a token sees all images before it, but only the last one counts: == instead of >=."),
        (
            count[..., None] == each,
            "a token sees the image after the right one: the count starts at 1, but arange(media) at 0.",
        ),
        (
            (count - image.long())[..., None] == each + 1,
            "an <image> token sees the image before its own: include the token itself in the count.",
        ),
        (mask & ~own, "an <image> token sees nothing: it should see its own image."),
        (mask & own, "only the <image> tokens see their image: the words after it see it as well."),
        ((count - 1).clamp(min=0)[..., None] == each, f"the tokens before the first image see it already: {nothing}."),
        ((count - 1)[..., None] % media == each, f"index -1 picks the last image: {nothing}."),
        (
            (to_come[..., None] > 0) & ((total - to_come)[..., None] == each),
            "a token sees the next image, at or after it: count from the start of the row, not from its end.",
        ),
        (~mask, "the mask is inverted: True where a token may look."),
        (mask.mT, "the mask is transposed: tokens come first, as in (N, T, media)."),
        (image.cumsum(0)[..., None] == each + 1, "the images are counted over the rows (dim=0): count along a row."),
        (flat[..., None] == each + 1, "the count goes on from one row to the next: start each row at 0."),
        (torch.ones_like(mask), "every token sees every image: it should see the last one at or before it."),
        (
            (total[..., None] > each).expand(mask.shape),
            "a token sees all images of its row: it should see the last one at or before it.",
        ),
    ]


@exercise("queries, keys, values, scale, softmax, gradients, large scores, both float types")
def resample(answer):
    """resample(latents, features, to_q, to_k, to_v) -> (N, L, E), one head of the Perceiver Resampler, without norms.

    latents (N, L, D), features (N, S, D); to_q, to_k, to_v (D, E). The latents ask; keys and values come from features
    and latents together, S + L of them (appendix A.1.1, figure 5). Scale 1 / sqrt(E).
    """

    def expect_output(what, inputs, wrong=(), hint=""):
        output = answer(**inputs)
        answer.expect_tensor(what, output, _resampled(**inputs), wrong, axes="(N, L, E)", hint=hint)
        return output

    for dtype, sizes in zip(DTYPES, ((2, 3, 5, 4, 6), (3, 4, 2, 7, 5)), strict=True):
        inputs = _resampler_inputs(*sizes, dtype=dtype)
        expect_output("the output", inputs, _wrong_outputs(**inputs))
    inputs = {name: x.requires_grad_() for name, x in inputs.items()}
    answer.expect_gradients("the output", expect_output("the output", inputs), **inputs)

    inputs = _resampler_inputs(2, 3, 5, 4, 6, dtype=torch.float32)
    scores = inputs["latents"] @ inputs["to_q"] @ (inputs["features"] @ inputs["to_k"]).mT / math.sqrt(6)
    inputs["to_q"] = 120 / scores.max() * inputs["to_q"]
    overflow = "exp(120) overflows float32: use softmax, which subtracts each row's maximum first."
    expect_output("the output for scores up to 120", inputs, hint=overflow)


def _resampler_inputs(N, L, S, D, E, dtype):
    shapes = {"latents": (N, L, D), "features": (N, S, D), "to_q": (D, E), "to_k": (D, E), "to_v": (D, E)}
    return {name: randn(*shape, seed=i, dtype=dtype) for i, (name, shape) in enumerate(shapes.items(), 1)}


def _attend(q, k, v, scale=None, dim=-1):
    scale = q.size(-1) ** -0.5 if scale is None else scale
    return (scale * q @ k.mT).softmax(dim) @ v


def _resampled(latents, features, to_q, to_k, to_v):
    both = torch.cat([features, latents], dim=1)
    return _attend(latents @ to_q, both @ to_k, both @ to_v)


def _wrong_outputs(latents, features, to_q, to_k, to_v):
    both = torch.cat([features, latents], dim=1)
    every = both.flatten(0, 1).expand(len(both), -1, -1)
    q, k, v = latents @ to_q, both @ to_k, both @ to_v
    (D, E), keys = to_q.shape, both.size(1)
    scores, latent_part, feature_part = q @ k.mT / math.sqrt(E), latents @ to_k, features @ to_k
    return [
        (
            _attend(q, feature_part, features @ to_v),
            "keys and values come from the features only: append the latents to them.",
        ),
        (
            _attend(q, latent_part, latents @ to_v),
            "keys and values come from the latents only, so the picture is not seen: take the features as well.",
        ),
        (_attend(features @ to_q, k, v), "the queries come from the features: the latents ask, one output for each."),
        (_attend(both @ to_q, k, v), "features and latents both ask: the queries come from the latents only."),
        (
            _attend(features @ to_q, latent_part, latents @ to_v),
            "the roles are swapped: the latents ask, and the features answer, with the latents appended.",
        ),
        (_attend(q, k, v, 1), "the scores are not scaled: divide them by sqrt(E)."),
        (_attend(q, k, v, D**-0.5), "the scores are divided by sqrt(D): the queries have E channels, so by sqrt(E)."),
        (_attend(q, k, v, 1 / E), "the scores are divided by E: divide by its square root."),
        (
            _attend(q, k, v, E**0.5),
            "the scores are multiplied by sqrt(E): divide by it, or multiply by E ** -0.5.",
        ),
        (_attend(q, k, v, keys**-0.5), "the scale is taken from the number of keys: it is 1 / sqrt(E)."),
        (
            _attend(q, k, v, dim=1),
            "the softmax runs over the latents (dim=1): for each latent, over the keys (dim=-1).",
        ),
        (_attend(q, k, v, dim=0), "the softmax runs over the batch (dim=0): for each latent, over the keys (dim=-1)."),
        (scores @ v, "the softmax is missing: the scores are used as weights."),
        (scores.softmax(-1), "these are the attention weights: multiply them by the values."),
        (scores.softmax(-1) @ both, "the values are not projected: multiply features and latents by to_v."),
        (_attend(q, k, k), "the values are the keys again: use to_v."),
        (_attend(q, v, k), "to_k and to_v are swapped: to_k makes the keys, to_v the values."),
        (_attend(latents @ to_k, both @ to_q, v), "to_q and to_k are swapped: to_q is for the latents' queries."),
        (
            _attend(q, feature_part, features @ to_v) + _attend(q, latent_part, latents @ to_v),
            "features and latents have a softmax each: append the latents first, and take one over all S + L keys.",
        ),
        (
            _attend(q, every @ to_k, every @ to_v),
            "the latents of one row see the features of all rows: keep them apart.",
        ),
    ]


@exercise("more frames, fewer, as many, one, both ends kept, gradient, both float types")
def interpolate_times(answer):
    """interpolate_times(times, frames) -> (frames, D), learned time embeddings (F, D) for another number of frames.

    Linear, over the whole span: the first and the last row stay at the ends; one frame gets times[:1]. (Trained with
    8, Flamingo reads 30 frames in this way: appendix B.1.2.)
    """
    what = "the result for {} frames from {} rows"
    float32, float64 = DTYPES
    for rows, frames, dtype in ((8, 30, float32), (5, 9, float64), (8, 3, float64), (6, 6, float32)):
        times = randn(rows, 3, seed=1, dtype=dtype)
        got = answer(times=times, frames=frames)
        hint = "Frame i lies at row i * (F - 1) / (frames - 1), between two neighbors."
        wrong = _wrong_times(times, frames) if frames != rows else ()
        expected = _stretched(times, frames)
        answer.expect_tensor(what.format(frames, rows), got, expected, wrong, axes="(frames, D)", hint=hint)
    times = randn(8, 3, seed=2)
    divided = "With one frame, (F - 1) / (frames - 1) divides by zero: return times[:1]."
    wrong = _wrong_single(times)
    answer.expect_tensor("the result for 1 frame", answer(times=times, frames=1), times[:1], wrong, "(1, D)", divided)
    times.requires_grad_()
    answer.expect_gradients("the result", answer(times=times, frames=30), times=times)


def _at(times, positions):
    """The rows of times at these positions, 0 to F - 1, mixed linearly from the two neighbors."""
    lower, last = positions.long(), len(times) - 1
    share = (positions - lower)[:, None].to(times.dtype)
    lower, upper = lower.clamp(max=last), (lower + 1).clamp(max=last)
    return times[lower] * (1 - share) + times[upper] * share


def _stretched(times, frames):
    return _at(times, torch.linspace(0, len(times) - 1, frames, dtype=torch.float64))


def _exchanged(times, positions, lower):
    share = (positions - lower)[:, None].to(times.dtype)
    return times[lower] * share + times[(lower + 1).clamp(max=len(times) - 1)] * (1 - share)


def _wrong_times(times, frames):
    rows, i = len(times), torch.arange(frames)
    places, right = torch.linspace(0, rows - 1, frames, dtype=torch.float64), _stretched(times, frames)
    floor, columns = places.long(), times.T[None]
    repeated = "rows are repeated, so that neighboring frames look the same: mix the two nearest rows."
    held = "the rows after the last one are copies of it: stretch all rows over the frames."
    exchanged = "the two weights are swapped: the nearer of the two rows counts more."
    step = "the step from frame to frame is off: (F - 1) / (frames - 1) leads exactly from the first row to the last."
    along = "the interpolation runs along D: F.interpolate resizes the last axis, so bring F there first."
    wrong = [
        (
            F.interpolate(columns, size=frames, mode="linear", align_corners=False)[0].T,
            "the ends are flat or lost: align_corners=False aligns the centers of intervals; set align_corners=True.",
        ),
        (times[i * rows // frames], repeated),
        (times[places.round().long()], repeated),
        (times[floor], repeated),
        (_at(times, i * (rows / frames)), step),
        (_at(times, i * ((rows - 1) / frames)), step),
        (_at(times, torch.linspace(0, rows, frames)), step),
        (_exchanged(times, places, floor), exchanged),
        (_exchanged(times, places, floor.clamp(max=rows - 2)), exchanged),
        (right.T, "this is transposed: (frames, D)."),
        (right[None], "one axis too many: take the batch axis, which F.interpolate needs, away again."),
        (F.interpolate(times[None], size=frames, mode="linear", align_corners=True)[0], along),
        (F.interpolate(times[None], size=frames, mode="linear", align_corners=False)[0], along),
    ]
    if frames > rows:
        padding = times.new_zeros(frames - rows, times.size(1))
        return wrong + [
            (times.repeat_interleave(-(-frames // rows), 0)[:frames], repeated),
            (times[i % rows], "the rows start over after the last one: stretch them over the frames instead."),
            (times[i.clamp(max=rows - 1)], held),
            (torch.cat([times, padding]), "the frames after the last row get zeros: stretch all rows over the frames."),
        ]
    pooled = F.adaptive_avg_pool1d(columns, frames)[0].T
    return wrong + [
        (times[:frames], "the last rows are cut off: the last frame gets the last row."),
        (times[:: rows // frames][:frames], "every n-th row is taken: mix the two nearest rows."),
        (pooled, "the rows are averaged in groups: mix the two nearest ones, so that the ends stay."),
    ]


def _wrong_single(times):
    middle = F.interpolate(times.T[None], size=1, mode="linear", align_corners=False)[0].T
    first = "a single frame is the first one: return times[:1]."
    return [
        (times.mean(0, keepdim=True), first),
        (middle, first),
        (times[len(times) // 2][None], first),
        (times[-1:], first),
        (times[0], "this is one row without its axis: times[:1] is (1, D), times[0] is (D,)."),
    ]


# Freezing ------------------------------------------------------------------------------------------------------------


@exercise("both counts, tied parameters once, no buffers, bytes in every dtype, nothing frozen")
def freezing(answer):
    """freezing(model) -> (trainable, frozen, saved), three ints.

    The numbers of trainable and of frozen parameters, each parameter once even if modules share it, and the bytes that
    frozen parameters save: for each a gradient and AdamW's two moments, in its own dtype.
    """
    names = "trainable", "frozen", "saved"
    for case, model in (
        ("", _SmallFlamingo()),
        (" in a model of several dtypes", _SmallFlamingo(torch.float16, torch.float64)),
        (" in a model without frozen parameters", nn.Linear(3, 5)),
    ):
        flags = [p.requires_grad for p in model.parameters()]
        results = answer(model=model)
        complete = isinstance(results, (tuple, list)) and len(results) == 3
        answer.expect(complete, f"return three numbers, ({', '.join(names)}); got a {type(results).__name__}.")
        read = "your function changes requires_grad: it is there to be read only."
        answer.expect([p.requires_grad for p in model.parameters()] == flags, read)
        wrong = [()] * 3
        if _frozen_or_not(model)[1]:
            wrong = *(_wrong_counts(model, name) for name in names[:2]), _wrong_savings(model)
        for name, got, expected, known in zip(names, results, _frozen_or_not(model), wrong, strict=True):
            kind = f"{name}{case} is {got!r}, of type {type(got).__name__}: keep to ints, as numel() returns them."
            answer.expect(isinstance(got, (int, torch.Tensor)), kind)
            answer.expect_value(name + case, got, expected, known)


class _SmallFlamingo(nn.Module):
    """A frozen language model with tied embeddings, and new layers, two of which share their weight."""

    def __init__(self, block=torch.float32, embedding=torch.float32):
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 4), nn.Linear(4, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.block = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))
        self.embedding.to(embedding)
        self.block.to(block)
        self.requires_grad_(False)
        self.latents, self.alpha = nn.Parameter(torch.zeros(5, 7)), nn.Parameter(torch.zeros(1))
        self.attention, self.again = nn.Linear(7, 4), nn.Linear(7, 4)
        self.again.weight = self.attention.weight
        self.register_buffer("positions", torch.arange(13.0))


def _elements(tensors):
    return sum(x.numel() for x in tensors)


def _bytes(tensors):
    return sum(x.numel() * x.element_size() for x in tensors)


def _split(parameters):
    """The trainable and the frozen ones."""
    parameters = list(parameters)
    return [p for p in parameters if p.requires_grad], [p for p in parameters if not p.requires_grad]


def _frozen_or_not(model):
    trainable, frozen = _split(model.parameters())
    return _elements(trainable), _elements(frozen), 3 * _bytes(frozen)


_TIED = "counts a parameter twice if two modules share it: model.parameters() lists it once."
_NESTED = "counts a parameter once for every module around it: model.parameters() visits all submodules by itself."


def _wrong_counts(model, name):
    i = 0 if name == "trainable" else 1
    own, other = _split(model.parameters())[i], _split(model.parameters())[1 - i]
    tied = _split(p for _, p in model.named_parameters(remove_duplicate=False))[i]
    nested = _split(p for module in model.modules() for p in module.parameters())[i]
    wrong = [
        (_elements(other), f"{name} is the number of the other ones: requires_grad is True for trainable parameters."),
        (_elements(tied), f"{name} {_TIED}"),
        (_elements(nested), f"{name} {_NESTED}"),
        (len(own), f"{name} is a number of tensors: add up their numel()."),
        (_elements([*own, *other]), f"{name} is the number of all parameters: look at requires_grad."),
        (_elements([*own, *model.buffers()]), f"{name} includes buffers, which are no parameters."),
        (_bytes(own), f"{name} is in bytes: count the elements, numel()."),
    ]
    if name == "frozen":
        return wrong
    nothing = (
        "trainable is 0: read requires_grad from model.parameters(); state_dict() holds detached copies, and grad is "
        "None before the first backward pass."
    )
    return [*wrong, (0, nothing)]


def _wrong_savings(model):
    trainable, frozen = _split(model.parameters())
    per, number = _bytes(frozen), _elements(frozen)
    tied = _split(p for _, p in model.named_parameters(remove_duplicate=False))[1]
    nested = _split(p for module in model.modules() for p in module.parameters())[1]
    three = "per frozen parameter: a gradient and two moments make three"
    alike = "saved takes all elements to be of one size: use each parameter's own element_size()."
    return [
        (per, f"saved is the size of one tensor {three}."),
        (2 * per, f"saved is the size of two tensors {three}."),
        (4 * per, "saved includes the weights themselves, but frozen ones have to be in memory as well."),
        (3 * number, "saved is a number of elements: multiply by element_size(), the bytes of each."),
        (8 * 3 * per, "saved is in bits: element_size() is in bytes already."),
        (3 * _bytes(tied), f"saved {_TIED}"),
        (3 * _bytes(nested), f"saved {_NESTED}"),
        (3 * _bytes(trainable), "saved is what the trainable parameters need: count the frozen ones."),
        (3 * _bytes([*trainable, *frozen]), "saved is counted over all parameters: only frozen ones save anything."),
        (3 * _bytes([*frozen, *model.buffers()]), "saved includes buffers, which never have a gradient."),
        *((3 * size * number, alike) for size in (2, 4, 8)),
    ]


# Examples ------------------------------------------------------------------------------------------------------------


@exercise("cosine, the k best, most similar last, one query, k = 1, whole pool, both float types")
def rices(answer):
    """rices(query, pool, k) -> (N, k) long, for each query the k most similar pool entries, the most similar LAST.

    query (N, D), pool (M, D), not normalized; similarity is the cosine (retrieval-based in-context example selection,
    appendix A.2).
    """
    float32, float64 = DTYPES
    for what, N, M, k, dtype in (
        ("the result", 4, 9, 3, float32),
        ("the result for one query", 1, 6, 2, float64),
        ("the result with k = 1", 3, 7, 1, float32),
        ("the result for the whole pool", 2, 5, 5, float64),
    ):
        query, lengths = 2 * randn(N, 5, seed=5, dtype=dtype), (1.5 * randn(M, 1, seed=6, dtype=dtype)).exp()
        pool = lengths * randn(M, 5, seed=7, dtype=dtype)
        indices = answer(query=query, pool=pool, k=k)
        floating = isinstance(indices, torch.Tensor) and indices.is_floating_point()
        answer.expect(not floating, f"{what} has a float dtype: return indices into pool, not similarities.")
        expected = _best_last(_cosines(query, pool), k)
        wrong = _wrong_rices(query, pool, k) if what == "the result" else ()
        answer.expect_tensor(what, indices, expected, wrong, axes="(N, k)")


def _cosines(query, pool, dim=1):
    return F.normalize(query, dim=dim) @ F.normalize(pool, dim=dim).T


def _best_last(similarity, k):
    return similarity.argsort(1)[:, -k:]


def _wrong_rices(query, pool, k):
    cosines, order = _cosines(query, pool), _best_last(_cosines(query, pool), k)
    columns = cosines.T.argsort(1)[:, -k:]  # for each pool entry, queries
    long = "long vectors win, since this is the dot product: divide every row of pool by its length first."
    far = "these are the nearest by Euclidean distance, where lengths count: normalize first."
    least = "these are the least similar ones: take the k highest cosines."
    axis = "for each pool entry queries are chosen: take the k best along the pool, dim=1 of the (N, M) cosines."
    both_ways = [
        (_best_last(query @ pool.T, k), long),
        (_best_last(-torch.cdist(query, pool), k), far),
        (_best_last(_cosines(query, pool, dim=0), k), "the columns are normalized (dim=0): normalize each row, dim=1."),
        (_best_last(-cosines, k), least),
        (columns, axis),
    ]
    return [
        (order.flip(1), "the most similar one comes first: flip the order, so that it stands right before the query."),
        (order.sort(1).values, "the indices are sorted by their number: sort by similarity, the highest last."),
        (order.flip(0, 1), "flip(0) exchanges the queries: reverse within a row, flip(1)."),
        (order.T, "this is transposed: one row per query, (N, k)."),
        *((x, sentence) for wrong, sentence in both_ways for x in (wrong, wrong.flip(1), wrong.T, wrong.flip(1).T)),
    ]
