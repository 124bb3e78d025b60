"""Mutation tests of lesson 06's exercises, Flamingo, by the tests of test_checks.py, which explains WRONG and RIGHT."""

import math

import test_checks as shared
import torch
import torch.nn.functional as F
from torch import nn

from mmlesson.check import flamingo

WRONG, RIGHT = {}, {}


# Gates ---------------------------------------------------------------------------------------------------------------


def gate(
    squash=torch.tanh,
    feed=lambda y, branch, g: branch(y),
    add=lambda y, b, g: y + g * b,
):
    """The gated residual put together from steps that a mutant can replace."""

    def answer(y, branch, alpha):
        g = squash(alpha)
        return add(y, feed(y, branch, g), g)

    return answer


def normed(y):
    return F.layer_norm(y, y.shape[-1:])


def gate_in_place(y, branch, alpha):
    y += alpha.tanh() * branch(y)
    return y


def gate_only_if_open(y, branch, alpha):
    return y if alpha == 0 else gate()(y, branch, alpha)


def gate_without_gradient(y, branch, alpha):
    with torch.no_grad():
        return gate()(y, branch, alpha)


def gate_in_half_the_digits(y, branch, alpha):
    return gate()(y.float(), lambda x: branch(x.to(y.dtype)), alpha).to(y.dtype)


def gate_by_exponentials(y, branch, alpha):
    up, down = alpha.exp(), (-alpha).exp()
    return torch.add(y, (up - down) / (up + down) * branch(y))


def gate_by_rows(y, branch, alpha):
    update = branch(y)
    rows = [torch.stack([y[n, t] + alpha.reshape(()).tanh() * update[n, t] for t in range(y.size(1))]) for n in (0, 1)]
    return torch.stack(rows)


WRONG["gated_residual"] = {
    "the gate is alpha itself": gate(squash=lambda alpha: alpha),
    "0.5 at alpha = 0": gate(squash=torch.sigmoid),
    "alpha is not used": gate(squash=torch.ones_like),
    "the gate multiplies the residual as well": gate(add=lambda y, b, g: g * (y + b)),
    "the gate multiplies the residual instead of the branch": gate(add=lambda y, b, g: g * y + b),
    "this is a blend": gate(add=lambda y, b, g: (1 - g) * y + g * b),
    "the residual is missing": gate(add=lambda y, b, g: g * b),
    "the gate is 1 - tanh(alpha)": gate(squash=lambda alpha: 1 - alpha.tanh()),
    "the gated branch is subtracted": gate(add=lambda y, b, g: y - g * b),
    "tanh is taken of the branch": gate(squash=lambda alpha: alpha, add=lambda y, b, g: y + g * b.tanh()),
    "tanh is taken of alpha * branch(y)": gate(squash=lambda alpha: alpha, add=lambda y, b, g: y + (g * b).tanh()),
    "the gate is applied to the input of the branch": gate(
        feed=lambda y, branch, g: branch(g * y), add=lambda y, b, g: y + b
    ),
    "the branch is not called": gate(feed=lambda y, branch, g: y),
    "the branch is called twice": gate(feed=lambda y, branch, g: branch(branch(y))),
    "y is normalized first": gate(feed=lambda y, branch, g: branch(normed(y))),
    "both the branch and the sum get y itself": gate(
        feed=lambda y, branch, g: branch(normed(y)), add=lambda y, b, g: normed(y) + g * b
    ),
    "but the branch has its own norm": gate(add=lambda y, b, g: normed(y) + g * b),
    "It should be y + tanh(alpha) * branch(y)": gate(squash=lambda alpha: alpha.tanh().square()),
    "not y to the last bit": gate_in_half_the_digits,
    "the output at alpha = 0 differ": gate(squash=lambda alpha: torch.where(alpha == 0, 0.1, alpha.tanh())),
    "no gradient reaches alpha: look for .item()": gate(squash=lambda alpha: math.tanh(alpha.item())),
    "no_grad or math.tanh": gate(squash=lambda alpha: math.tanh(alpha.detach())),
    "look for .item(), .detach()": gate_without_gradient,
    "at alpha = 0 no gradient reaches alpha": gate_only_if_open,
    "so the gate would never open": gate(squash=lambda alpha: alpha.abs().tanh() * alpha.sign()),
    "the gradient of alpha at alpha = 0 has 1 of 1 values that are NaN": gate(
        squash=lambda alpha: alpha.square().sqrt().tanh() * alpha.sign()
    ),
    "no gradient reaches the branch": gate(feed=lambda y, branch, g: branch(y).detach()),
    "through the residual only": gate(feed=lambda y, branch, g: branch(y.detach())),
    "through the branch only": gate(add=lambda y, b, g: y.detach() + g * b),
    "the gradient of alpha differ": gate(squash=lambda alpha: (alpha.tanh() + alpha.tanh().detach()) / 2),
    "changes its input y in place": gate_in_place,
    "raised IndexError in the line": gate(squash=lambda alpha: alpha[0].tanh()),
    "has shape (1, 2, 3, 4); expected (2, 3, 4) = (N, T, D)": gate(add=lambda y, b, g: (y + g * b)[None]),
    "should be a torch.Tensor, but is a tuple": gate(add=lambda y, b, g: (y + g * b, g)),
    "dtype torch.float32; expected torch.float64": gate(add=lambda y, b, g: (y + g * b).float()),
}
RIGHT["gated_residual"] = {
    "tanh": gate(),
    "exponentials": gate_by_exponentials,
    "rows": gate_by_rows,
    "lerp": gate(add=lambda y, b, g: torch.lerp(y, y + b, g)),
    "addcmul": gate(add=lambda y, b, g: torch.addcmul(y, g.expand_as(b), b)),
}


# Media ---------------------------------------------------------------------------------------------------------------


def media(
    place=lambda image: image.cumsum(1) - 1,
    compare=lambda place, each: place[..., None] == each,
    after=lambda mask, image: mask,
):
    """The mask put together from steps that a mutant can replace: where the image of a token is, -1 for nowhere."""

    def answer(tokens, image_id, media):
        image = tokens == image_id
        return after(compare(place(image), torch.arange(media)), image)

    return answer


def next_image(image):
    to_come = image.flip(1).cumsum(1).flip(1)
    return torch.where(to_come > 0, image.sum(1, keepdim=True) - to_come, -1)


def media_for_27_only(tokens, image_id, media):
    return (tokens == 27).cumsum(1)[..., None] == torch.arange(1, media + 1)


def media_that_exist(tokens, image_id, media):
    count = (tokens == image_id).cumsum(1)
    return count[..., None] == torch.arange(1, int(count.max()) + 1)


def media_by_eye(tokens, image_id, media):
    """Row -1 of an identity matrix is its last one."""
    return torch.eye(media, dtype=torch.bool)[(tokens == image_id).cumsum(1) - 1]


def media_in_place(tokens, image_id, media):
    return tokens.eq_(image_id).cumsum(1)[..., None] == torch.arange(1, media + 1)


def media_by_loops(tokens, image_id, media):
    mask = torch.zeros(*tokens.shape, media, dtype=torch.bool)
    for n, row in enumerate(tokens.tolist()):
        last = -1
        for t, token in enumerate(row):
            last += token == image_id
            if last >= 0:
                mask[n, t, last] = True
    return mask


def media_by_padded_eye(tokens, image_id, media):
    return torch.eye(media + 1).bool()[(tokens == image_id).cumsum(1), 1:]


def media_by_one_hot(tokens, image_id, media):
    return F.one_hot(tokens.eq(image_id).long().cumsum(-1), media + 1)[..., 1:] > 0


def media_by_triangle(tokens, image_id, media):
    """A token counts the <image> tokens by a lower triangle of ones."""
    T = tokens.size(1)
    counts = (tokens == image_id).double() @ torch.ones(T, T).tril().T.double()
    return torch.stack([counts == m + 1 for m in range(media)], dim=-1)


WRONG["media_mask"] = {
    "a token sees all images before it": media(compare=lambda place, each: place[..., None] >= each),
    "a token sees the image after the right one": media(place=lambda image: image.cumsum(1)),
    "an <image> token sees the image before its own": media(place=lambda image: image.cumsum(1) - image.long() - 1),
    "an <image> token sees nothing": media(after=lambda mask, image: mask & ~image[..., None]),
    "only the <image> tokens see their image": media(after=lambda mask, image: mask & image[..., None]),
    "the tokens before the first image see it already": media(place=lambda image: (image.cumsum(1) - 1).clamp(min=0)),
    "index -1 picks the last image": media_by_eye,
    "a token sees the next image": media(place=next_image),
    "the mask is inverted": media(after=lambda mask, image: ~mask),
    "the mask is transposed": media(after=lambda mask, image: mask.mT),
    "counted over the rows (dim=0)": media(place=lambda image: image.cumsum(0) - 1),
    "goes on from one row to the next": media(place=lambda image: image.flatten().cumsum(0).view_as(image) - 1),
    "every token sees every image": media(after=lambda mask, image: torch.ones_like(mask)),
    "a token sees all images of its row": media(
        place=lambda image: image.sum(1, keepdim=True).expand(image.shape),
        compare=lambda count, each: count[..., None] > each,
    ),
    "the mask differ, first at index (0, 0, 0)": media(
        after=lambda mask, image: mask | (image.cumsum(1) == 0)[..., None]
    ),
    "has dtype torch.int64; expected torch.bool": media(after=lambda mask, image: mask.long()),
    "has dtype torch.float32; expected torch.bool": media(
        after=lambda mask, image: torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    ),
    "has shape (5, 9); expected (5, 9, 3) = (N, T, media)": media(compare=lambda place, each: place),
    "has shape (5, 9, 12)": media(after=lambda mask, image: mask.repeat_interleave(4, dim=-1)),
    "has shape (5, 1, 9, 3)": media(after=lambda mask, image: mask[:, None]),
    "the mask with room for more images differ": media_for_27_only,
    "the mask with room for more images has shape (2, 6, 2)": media_that_exist,
    "should be a torch.Tensor, but is a list": media(after=lambda mask, image: mask.tolist()),
    "changes its input tokens in place": media_in_place,
}
RIGHT["media_mask"] = {
    "cumsum": media(),
    "loops": media_by_loops,
    "padded identity": media_by_padded_eye,
    "one-hot": media_by_one_hot,
    "triangle": media_by_triangle,
    "index and -1": media(place=lambda image: torch.where(image.cumsum(1) > 0, image.cumsum(1) - 1, -1)),
}


def both(latents, features):
    return torch.cat([features, latents], dim=1)


def features_only(latents, features):
    return features


def latents_only(latents, features):
    return latents


def perceive(
    ask=latents_only,
    answer_with=both,
    project=lambda asking, answering, to_q, to_k, to_v: (asking @ to_q, answering @ to_k, answering @ to_v),
    scale=lambda q, k, D: q.size(-1) ** -0.5,
    normalize=lambda scores: scores.softmax(-1),
    after=lambda weights, v, answering: weights @ v,
):
    """One step of the resampler put together from steps that a mutant can replace."""

    def answer(latents, features, to_q, to_k, to_v):
        asking, answering = ask(latents, features), answer_with(latents, features)
        q, k, v = project(asking, answering, to_q, to_k, to_v)
        return after(normalize(scale(q, k, latents.size(-1)) * q @ k.mT), v, answering)

    return answer


def two_softmaxes(latents, features, *matrices):
    return sum(perceive(answer_with=part)(latents, features, *matrices) for part in (features_only, latents_only))


def values_of_latents_only(latents, features, to_q, to_k, to_v):
    k = both(latents, features) @ to_k
    return (latents @ to_q @ k.mT / math.sqrt(k.size(-1))).softmax(-1) @ (latents @ to_v)


def all_rows(latents, features):
    return both(latents, features).flatten(0, 1).expand(len(latents), -1, -1)


def softmax_by_hand(scores):
    return scores.exp() / scores.exp().sum(-1, keepdim=True)


def resample_in_place(latents, features, to_q, to_k, to_v):
    latents *= to_q.size(1) ** -0.5
    return perceive(scale=lambda q, k, D: 1)(latents, features, to_q, to_k, to_v)


def resample_by_loops(latents, features, to_q, to_k, to_v):
    rows = []
    for n in range(len(latents)):
        things = [*features[n], *latents[n]]
        for latent in latents[n]:
            scores = torch.stack([(latent @ to_q) @ (thing @ to_k) for thing in things]) / math.sqrt(to_q.size(1))
            weights = (scores - scores.max()).exp()
            rows.append(sum(w * (thing @ to_v) for w, thing in zip(weights, things)) / weights.sum())
    return torch.stack(rows).reshape(len(latents), -1, to_v.size(1))


def resample_by_einsum(latents, features, to_q, to_k, to_v):
    everything = torch.cat([latents, features], dim=-2)
    q = torch.einsum("nld,de->nle", latents, to_q)
    k, v = (torch.einsum("nsd,de->nse", everything, matrix) for matrix in (to_k, to_v))
    weights = F.softmax(torch.einsum("nle,nse->nls", q, k) / q.shape[-1] ** 0.5, dim=2)
    return torch.einsum("nls,nse->nle", weights, v)


def resample_by_sdpa(latents, features, to_q, to_k, to_v):
    kv = both(latents, features) @ torch.cat([to_k, to_v], dim=1)
    return F.scaled_dot_product_attention(latents @ to_q, *kv.chunk(2, dim=-1))


def fourth_roots(asking, answering, to_q, to_k, to_v):
    """Both sides of the product scaled by the fourth root, as in IP-Adapter, which keeps float16 small."""
    root = to_q.size(1) ** -0.25
    return root * asking @ to_q, root * answering @ to_k, answering @ to_v


WRONG["resample"] = {
    "keys and values come from the features only": perceive(answer_with=features_only),
    "keys and values come from the latents only": perceive(answer_with=latents_only),
    "the queries come from the features": perceive(ask=features_only),
    "features and latents both ask": perceive(ask=both),
    "the roles are swapped": perceive(ask=features_only, answer_with=latents_only),
    "the scores are not scaled": perceive(scale=lambda q, k, D: 1),
    "the scores are divided by sqrt(D)": perceive(scale=lambda q, k, D: D**-0.5),
    "the scores are divided by E": perceive(scale=lambda q, k, D: 1 / q.size(-1)),
    "the scores are multiplied by sqrt(E)": perceive(scale=lambda q, k, D: q.size(-1) ** 0.5),
    "taken from the number of keys": perceive(scale=lambda q, k, D: k.size(1) ** -0.5),
    "the softmax runs over the latents (dim=1)": perceive(normalize=lambda scores: scores.softmax(1)),
    "the softmax runs over the batch (dim=0)": perceive(normalize=lambda scores: scores.softmax(0)),
    "the softmax is missing": perceive(normalize=lambda scores: scores),
    "these are the attention weights": perceive(after=lambda weights, v, answering: weights),
    "the values are not projected": perceive(after=lambda weights, v, answering: weights @ answering),
    "the values are the keys again": perceive(project=lambda a, b, to_q, to_k, to_v: (a @ to_q, b @ to_k, b @ to_k)),
    "to_k and to_v are swapped": perceive(project=lambda a, b, to_q, to_k, to_v: (a @ to_q, b @ to_v, b @ to_k)),
    "to_q and to_k are swapped": perceive(project=lambda a, b, to_q, to_k, to_v: (a @ to_k, b @ to_q, b @ to_v)),
    "have a softmax each": two_softmaxes,
    "the latents of one row see the features of all rows": perceive(answer_with=all_rows),
    "raised RuntimeError in the line `return (latents @ to_q": values_of_latents_only,
    "Sizes of tensors must match except in dimension 0": perceive(
        answer_with=lambda latents, features: torch.cat([features, latents])
    ),
    "the values of the output differ": perceive(normalize=lambda scores: scores.softmax(-1).square()),
    "exp(120) overflows float32": perceive(normalize=softmax_by_hand),
    "no gradient flows from the output to latents": lambda latents, features, *matrices: perceive()(
        latents.detach(), features, *matrices
    ),
    "no gradient flows from the output to features": lambda latents, features, *matrices: perceive()(
        latents, features.detach(), *matrices
    ),
    "no gradient flows from the output to to_k": perceive(
        project=lambda a, b, to_q, to_k, to_v: (a @ to_q, b @ to_k.detach(), b @ to_v)
    ),
    "has shape (2, 18); expected (2, 3, 6) = (N, L, E)": perceive(after=lambda weights, v, x: (weights @ v).flatten(1)),
    "should be a torch.Tensor, but is a tuple": perceive(after=lambda weights, v, answering: (weights @ v, weights)),
    "dtype torch.float32; expected torch.float64": perceive(after=lambda weights, v, x: (weights @ v).float()),
    "changes its input latents in place": resample_in_place,
}
RIGHT["resample"] = {
    "features first": perceive(),
    "latents first": perceive(answer_with=lambda latents, features: torch.cat([latents, features], dim=1)),
    "loops": resample_by_loops,
    "einsum": resample_by_einsum,
    "SDPA": resample_by_sdpa,
    "fourth roots": perceive(project=fourth_roots, scale=lambda q, k, D: 1),
}


def resize(**options):
    """times resized by F.interpolate along F."""
    return lambda times, frames: F.interpolate(times.T[None], size=frames, **options)[0].T


def linear(align_corners=True):
    return resize(mode="linear", align_corners=align_corners)


def mixed_at(positions, mix=lambda lower, upper, share: lower * (1 - share) + upper * share):
    """Rows mixed from two neighbors at these positions, with one frame and as many as rows taken care of."""

    def answer(times, frames):
        if frames in (1, len(times)):
            return times[:frames]
        place = positions(len(times), frames)
        lower = place.long().clamp(max=len(times) - 2)
        return mix(times[lower], times[lower + 1], (place - lower)[:, None].clamp(0, 1).to(times.dtype))

    return answer


def even(rows, frames):
    return torch.linspace(0, rows - 1, frames, dtype=torch.float64)


def picked(index):
    """Whole rows, chosen by index(rows, i)."""
    return lambda times, frames: times[index(len(times), torch.arange(frames), frames)]


def padded(times, frames):
    more = times.new_zeros(max(frames - len(times), 0), times.size(1))
    return torch.cat([linear()(times, min(frames, len(times))), more])


def only_longer(shorter):
    """Right if there are at least as many frames as rows."""
    return lambda times, frames: linear()(times, frames) if frames >= len(times) else shorter(times, frames)


def one_frame(single):
    return lambda times, frames: linear()(times, frames) if frames > 1 else single(times)


def every_nth(times, frames):
    return times[:: len(times) // frames][:frames]


def repeated(times, frames):
    return (
        linear()(times, frames)
        if frames <= len(times)
        else times.repeat_interleave(-(-frames // len(times)), 0)[:frames]
    )


def along_channels(align_corners):
    return lambda times, frames: F.interpolate(times[None], size=frames, mode="linear", align_corners=align_corners)[0]


def step_by_division(times, frames):
    place = torch.arange(frames, dtype=times.dtype) * (len(times) - 1) / torch.tensor(frames - 1)
    lower = place.nan_to_num().long().clamp(max=len(times) - 2)
    return torch.lerp(times[lower], times[lower + 1], (place - lower)[:, None])


def step_by_python(times, frames):
    step = (len(times) - 1) / (frames - 1)
    return torch.stack([linear()(times, frames)[i] for i in range(frames) if i * step >= 0])


def interpolate_in_place(times, frames):
    times -= 0.1
    return linear()(times, frames)


def interpolate_by_loops(times, frames):
    rows = []
    for i in range(frames):
        place = i * (len(times) - 1) / max(frames - 1, 1)
        lower = min(math.floor(place), len(times) - 2)
        rows.append(times[lower] + (place - lower) * (times[lower + 1] - times[lower]))
    return torch.stack(rows)


def interpolate_by_hats(times, frames):
    """A matrix (frames, F) of weights: a hat function around each row."""
    distance = (even(len(times), frames)[:, None] - torch.arange(len(times))).abs()
    return (1 - distance).clamp(min=0).to(times.dtype) @ times


def interpolate_by_grid(times, frames):
    """F.interpolate in two dimensions."""
    return F.interpolate(times[None, None], (frames, times.size(1)), mode="bilinear", align_corners=True)[0, 0]


def interpolate_by_cases(times, frames):
    if frames == len(times):
        return times
    return times[:1] if frames == 1 else linear()(times, frames)


WRONG["interpolate_times"] = {
    "align_corners=False aligns the centers": linear(align_corners=False),
    "rows are repeated": resize(mode="nearest"),
    "neighboring frames look the same": repeated,
    "the result for 3 frames from 8 rows differ": only_longer(lambda times, frames: times[[0, 4, 7]].neg()),
    "mix the two nearest rows": picked(lambda rows, i, frames: even(rows, frames).round().long()),
    "so that neighboring frames": picked(lambda rows, i, frames: even(rows, frames).long()),
    "the step from frame to frame is off": mixed_at(lambda rows, frames: torch.arange(frames) * rows / frames),
    "the ends are flat or lost": only_longer(linear(align_corners=False)),
    "leads exactly from the first row": mixed_at(lambda rows, frames: torch.arange(frames) * (rows - 1) / frames),
    "to the last.": mixed_at(lambda rows, frames: torch.linspace(0, rows, frames)),
    "the two weights are swapped": mixed_at(even, lambda lower, upper, share: lower * share + upper * (1 - share)),
    "this is transposed": lambda times, frames: linear()(times, frames).T,
    "one axis too many": lambda times, frames: linear()(times, frames)[None],
    "the interpolation runs along D": along_channels(align_corners=True),
    "F.interpolate resizes the last axis": along_channels(align_corners=False),
    "the rows start over after the last one": picked(lambda rows, i, frames: i % rows),
    "the rows after the last one are copies of it": picked(lambda rows, i, frames: i.clamp(max=rows - 1)),
    "the frames after the last row get zeros": padded,
    "the last rows are cut off": only_longer(lambda times, frames: times[:frames]),
    "every n-th row is taken": only_longer(every_nth),
    "the rows are averaged in groups": only_longer(
        lambda times, frames: F.adaptive_avg_pool1d(times.T[None], frames)[0].T
    ),
    "a single frame is the first one": one_frame(lambda times: times.mean(0, keepdim=True)),
    "return times[:1]": one_frame(lambda times: times[-1:]),
    "first one: return": one_frame(lambda times: linear(align_corners=False)(times, 1)),
    "a single frame is the first": one_frame(lambda times: times[len(times) // 2][None]),
    "this is one row without its axis": one_frame(lambda times: times[0]),
    "divides by zero: return times[:1]": step_by_division,
    "raised ZeroDivisionError in the line `step = ": step_by_python,
    "the result for 30 frames from 8 rows differ": lambda times, frames: linear()(times, frames).flip(0),
    "the result for 6 frames from 6 rows differ": lambda times, frames: linear()(times, frames) * (1 + (frames == 6)),
    "has shape (29, 3); expected (30, 3) = (frames, D)": lambda times, frames: linear()(times, frames - 1),
    "no gradient flows from the result to times": lambda times, frames: nn.Parameter(linear()(times, frames)),
    "dtype torch.float32; expected torch.float64": lambda times, frames: linear()(times, frames).float(),
    "should be a torch.Tensor, but is a list": lambda times, frames: linear()(times, frames).tolist(),
    "changes its input times in place": interpolate_in_place,
}
RIGHT["interpolate_times"] = {
    "F.interpolate": linear(),
    "two neighbors": mixed_at(even),
    "lerp": mixed_at(even, torch.lerp),
    "loops": interpolate_by_loops,
    "matrix of hats": interpolate_by_hats,
    "bilinear": interpolate_by_grid,
    "special cases": interpolate_by_cases,
}


# Freezing ------------------------------------------------------------------------------------------------------------


def total(parameters):
    return sum(p.numel() for p in parameters)


def bytes_of(parameters):
    return sum(p.numel() * p.element_size() for p in parameters)


def counts(
    parameters=lambda model: list(model.parameters()),
    trains=lambda p: p.requires_grad,
    count=total,
    save=lambda trainable, frozen: 3 * bytes_of(frozen),
    after=lambda *results: results,
):
    """The three numbers, from steps that a mutant can replace."""

    def answer(model):
        everything = parameters(model)
        trainable, frozen = [p for p in everything if trains(p)], [p for p in everything if not trains(p)]
        return after(count(trainable), count(frozen), save(trainable, frozen))

    return answer


def tied_twice(model):
    return [p for _, p in model.named_parameters(remove_duplicate=False)]


def level_by_level(model):
    return [p for module in model.modules() for p in module.parameters()]


def frozen_by(parameters=None, count=total):
    """The right trainable count, and these parameters, or this count, for the frozen one."""

    def answer(model):
        trainable, _, saved = counts()(model)
        everything = parameters(model) if parameters else model.parameters()
        return trainable, count([p for p in everything if not p.requires_grad]), saved

    return answer


def saved_by(parameters):
    """Right counts, bytes from these parameters."""

    def answer(model):
        trainable, frozen, _ = counts()(model)
        return trainable, frozen, 3 * bytes_of([p for p in parameters(model) if not p.requires_grad])

    return answer


def with_buffers(model):
    return [*model.parameters(), *model.buffers()]


def freezes(model):
    results = counts()(model)
    model.requires_grad_(False)
    return results


def first_size(trainable, frozen):
    return 3 * total(frozen) * frozen[0].element_size() if frozen else 0


def counts_by_loops(model):
    seen, numbers = set(), [0, 0, 0]
    for module in model.modules():
        for p in module.parameters(recurse=False):
            if id(p) in seen:
                continue
            seen.add(id(p))
            size = math.prod(p.shape)
            numbers[not p.requires_grad] += size
            numbers[2] += 0 if p.requires_grad else 3 * size * torch.finfo(p.dtype).bits // 8
    return numbers


def counts_by_storage(model):
    """Tied parameters are those with the same memory."""
    parameters = {p.data_ptr(): p for p in tied_twice(model)}.values()
    return counts(parameters=lambda model: list(parameters))(model)


def counts_by_adamw(model):
    """What AdamW really holds after a step, measured in a copy of every frozen parameter."""
    copies = [nn.Parameter(p.detach().clone()) for p in model.parameters() if not p.requires_grad]
    saved = 0
    if copies:
        optimizer = torch.optim.AdamW(copies)
        for p in copies:
            p.grad = torch.zeros_like(p)
        optimizer.step()
        moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
        saved = bytes_of(moments) + bytes_of(p.grad for p in copies)
    trainable = total(p for p in model.parameters() if p.requires_grad)
    return trainable, total(model.parameters()) - trainable, saved


WRONG["freezing"] = {
    "trainable is the number of the other ones": counts(trains=lambda p: not p.requires_grad),
    "requires_grad is True for trainable parameters": counts(
        after=lambda trainable, frozen, saved: (frozen, trainable, saved)
    ),
    "frozen is the number of the other ones": counts(
        after=lambda trainable, frozen, saved: (trainable, trainable, saved)
    ),
    "trainable counts a parameter twice if two modules share it": counts(parameters=tied_twice),
    "frozen counts a parameter twice if two modules share it": frozen_by(tied_twice),
    "saved counts a parameter twice if two modules share it": saved_by(tied_twice),
    "trainable counts a parameter once for every module around it": counts(parameters=level_by_level),
    "frozen counts a parameter once for every module around it": frozen_by(level_by_level),
    "saved counts a parameter once for every module around it": saved_by(level_by_level),
    "trainable is a number of tensors": counts(count=len),
    "frozen is a number of tensors": frozen_by(count=len),
    "trainable is the number of all parameters": counts(
        after=lambda trainable, frozen, saved: (trainable + frozen, frozen, saved)
    ),
    "frozen is the number of all parameters": counts(
        after=lambda trainable, frozen, saved: (trainable, trainable + frozen, saved)
    ),
    "trainable includes buffers": counts(
        parameters=with_buffers, trains=lambda p: p.requires_grad or not isinstance(p, nn.Parameter)
    ),
    "frozen includes buffers": counts(parameters=with_buffers),
    "trainable is in bytes": counts(count=bytes_of),
    "frozen is in bytes": frozen_by(count=bytes_of),
    "state_dict() holds detached copies": counts(parameters=lambda model: list(model.state_dict().values())),
    "grad is None before the first backward pass": counts(trains=lambda p: p.grad is not None),
    "saved is the size of one tensor": counts(save=lambda trainable, frozen: bytes_of(frozen)),
    "saved is the size of two tensors": counts(save=lambda trainable, frozen: 2 * bytes_of(frozen)),
    "saved includes the weights themselves": counts(save=lambda trainable, frozen: 4 * bytes_of(frozen)),
    "saved is a number of elements": counts(save=lambda trainable, frozen: 3 * total(frozen)),
    "saved is in bits": counts(save=lambda trainable, frozen: 24 * bytes_of(frozen)),
    "saved is what the trainable parameters need": counts(save=lambda trainable, frozen: 3 * bytes_of(trainable)),
    "saved is counted over all parameters": counts(save=lambda trainable, frozen: 3 * bytes_of([*trainable, *frozen])),
    "saved includes buffers": saved_by(with_buffers),
    "saved takes all elements to be of one size": counts(save=lambda trainable, frozen: 12 * total(frozen)),
    "use each parameter's own element_size()": counts(save=first_size),
    "to be of one size: use": counts(save=lambda trainable, frozen: 24 * total(frozen)),
    "saved is 0; expected 1224": counts(save=lambda trainable, frozen: 0),
    "saved is 0.00116729736328125, of type float": counts(save=lambda trainable, frozen: 3 * bytes_of(frozen) / 2**20),
    "trainable is 72.0, of type float": counts(count=lambda parameters: float(total(parameters))),
    "trainable is a tensor of shape (); expected a Python int": counts(
        count=lambda parameters: torch.tensor(total(parameters))
    ),
    "return three numbers, (trainable, frozen, saved); got a tuple": counts(
        after=lambda trainable, frozen, saved: (trainable, frozen)
    ),
    "return three numbers, (trainable, frozen, saved); got a dict": counts(
        after=lambda trainable, frozen, saved: {"trainable": trainable, "frozen": frozen, "saved": saved}
    ),
    "saved in a model without frozen parameters is 'nothing', of type str": counts(
        save=lambda trainable, frozen: 3 * bytes_of(frozen) if frozen else "nothing"
    ),
    "raised IndexError in the line": counts(
        save=lambda trainable, frozen: 3 * bytes_of(frozen) + 0 * frozen[0].numel()
    ),
    "your function changes requires_grad": freezes,
}
RIGHT["freezing"] = {
    "sums": counts(),
    "loops and a set": counts_by_loops,
    "storage": counts_by_storage,
    "measured in AdamW": counts_by_adamw,
    "nbytes": counts(save=lambda trainable, frozen: 3 * sum(p.nbytes for p in frozen)),
    "a list": counts(after=lambda *results: list(results)),
}


# Examples ------------------------------------------------------------------------------------------------------------


def cosines(query, pool):
    return shared.unit(query) @ shared.unit(pool).T


def ascending(similarity, k):
    """Indices of the k highest, the highest last."""
    return similarity.argsort(dim=1)[:, -k:]


def retrieve(similar=cosines, rank=ascending, after=lambda indices: indices):
    """Retrieval put together from steps that a mutant can replace."""
    return lambda query, pool, k: after(rank(similar(query, pool), k))


def top(similarity, k, dim=1, largest=True):
    return similarity.topk(min(k, similarity.size(dim)), dim=dim, largest=largest).indices


def dot(query, pool):
    return query @ pool.T


def near(query, pool):
    return -torch.cdist(query, pool)


def by_columns(query, pool):
    return F.normalize(query, dim=0) @ F.normalize(pool, dim=0).T


def one_query(query, pool, k):
    """Takes the axes of size 1 away."""
    return top(cosines(query, pool).squeeze(), k, dim=-1).flip(-1)


def rices_in_place(query, pool, k):
    pool /= pool.norm(dim=1, keepdim=True)
    return retrieve()(query, pool, k)


def rices_by_loops(query, pool, k):
    rows = []
    for q in query:
        similarity = [F.cosine_similarity(q, p, dim=0).item() for p in pool]
        rows.append(sorted(range(len(pool)), key=similarity.__getitem__)[len(pool) - k :])
    return torch.tensor(rows)


def rices_by_broadcast(query, pool, k):
    similarity = F.cosine_similarity(query[:, None], pool[None], dim=-1)
    return similarity.sort(dim=-1, descending=True).indices[:, :k].flip(-1)


WRONG["rices"] = {
    "the most similar one comes first": retrieve(rank=top),
    "right before the query": retrieve(rank=lambda s, k: s.argsort(dim=1, descending=True)[:, :k]),
    "the indices are sorted by their number": retrieve(after=lambda indices: indices.sort(dim=1).values),
    "flip(0) exchanges the queries": retrieve(rank=lambda s, k: top(s, k).flip(0)),
    "this is transposed": retrieve(after=lambda indices: indices.T),
    "long vectors win": retrieve(similar=dot),
    "this is the dot product": retrieve(similar=dot, rank=top),
    "divide every row of pool by its length": retrieve(similar=lambda query, pool: shared.unit(query) @ pool.T),
    "the nearest by Euclidean distance": retrieve(similar=near),
    "where lengths count": retrieve(similar=near, rank=top),
    "the columns are normalized (dim=0)": retrieve(similar=by_columns),
    "normalize each row, dim=1": retrieve(similar=by_columns, rank=top),
    "these are the least similar ones": retrieve(rank=lambda s, k: s.argsort(dim=1)[:, :k]),
    "take the k highest cosines": retrieve(rank=lambda s, k: s.argsort(dim=1, descending=True)[:, -k:]),
    "for each pool entry queries are chosen": retrieve(rank=lambda s, k: top(s, k, dim=0)),
    "take the k best along the pool": retrieve(rank=lambda s, k: top(s, k, dim=0).T.flip(1)),
    "not similarities": retrieve(rank=lambda s, k: s.sort(dim=1).values[:, -k:]),
    "has a float dtype": retrieve(after=torch.Tensor.float),
    "has dtype torch.int32; expected torch.int64": retrieve(after=torch.Tensor.int),
    "the result differ": retrieve(rank=lambda s, k: ascending(s, k + 1)[:, :-1]),
    "the result has shape (4, 4); expected (4, 3) = (N, k)": retrieve(rank=lambda s, k: ascending(s, k + 1)),
    "the result for one query has shape (2,)": one_query,
    "the result with k = 1 has shape (3,)": lambda query, pool, k: (
        retrieve()(query, pool, k) if k > 1 else cosines(query, pool).argmax(dim=1)
    ),
    "the result for the whole pool differ": lambda query, pool, k: (
        retrieve()(query, pool, k) if k < len(pool) else torch.arange(k).expand(len(query), k)
    ),
    "has shape (4, 9)": retrieve(rank=lambda s, k: s.argsort(dim=1)),
    "should be a torch.Tensor, but is a list": retrieve(after=torch.Tensor.tolist),
    "changes its input pool in place": rices_in_place,
}
RIGHT["rices"] = {
    "argsort": retrieve(),
    "topk and flip": retrieve(rank=lambda s, k: top(s, k).flip(1)),
    "loops": rices_by_loops,
    "cosine_similarity": rices_by_broadcast,
    "unit pool only": retrieve(similar=lambda query, pool: query @ shared.unit(pool).T),
    "distance of unit vectors": retrieve(similar=lambda query, pool: near(shared.unit(query), shared.unit(pool))),
    "smallest of the negative": retrieve(
        similar=lambda q, p: -cosines(q, p), rank=lambda s, k: top(s, k, 1, False).flip(1)
    ),
}


# The tests, those of test_checks.py ----------------------------------------------------------------------------------


class TestFlamingo(shared.OtherLesson):
    module, WRONG, RIGHT = flamingo, WRONG, RIGHT
