"""Answers to the Flamingo lesson's exercises, written independently of its checks."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from mmlesson.models import flamingo

WRONG, RIGHT = {}, {}


def by_exponentials(y, branch, alpha):
    up, down = alpha.exp(), (-alpha).exp()
    return torch.add(y, (up - down) / (up + down) * branch(y))


def by_rows(y, branch, alpha):
    update = branch(y)
    return torch.stack([row + alpha.reshape(()).tanh() * more for row, more in zip(y, update)])


WRONG["gated_residual"] = {
    "not y to the last bit": lambda y, branch, alpha: (y + 1) + alpha.tanh() * branch(y) - 1,
    "at alpha = 0 no gradient reaches alpha": lambda y, branch, alpha: (
        y if alpha == 0 else y + torch.tanh(alpha) * branch(y)
    ),
    "the gate would never open": lambda y, branch, alpha: y + alpha.abs().tanh() * alpha.sign() * branch(y),
    "or math.tanh": lambda y, branch, alpha: y + math.tanh(alpha) * branch(y),
    "is NaN or infinite": lambda y, branch, alpha: y + alpha.square().sqrt().tanh() * alpha.sign() * branch(y),
    "the values of the output differ": lambda y, branch, alpha: y + alpha.tanh().square() * branch(y),
    "branch takes a tensor (N, T, D), but got shape (3, 4)": lambda y, branch, alpha: torch.stack(
        [row + alpha.tanh() * branch(row) for row in y]
    ),
}
RIGHT["gated_residual"] = {
    "exponentials": by_exponentials,
    "rows": by_rows,
    "lerp": lambda y, branch, alpha: torch.lerp(y, y + branch(y), alpha.tanh()),
}


def mask_by_loops(tokens, image_id, media):
    mask = torch.zeros(*tokens.shape, media, dtype=torch.bool)
    for n, row in enumerate(tokens.tolist()):
        last = -1
        for t, token in enumerate(row):
            last += token == image_id
            if last >= 0:
                mask[n, t, last] = True
    return mask


def as_many_as_exist(tokens, image_id, media):
    count = (tokens == image_id).cumsum(1)
    return count[..., None] == torch.arange(1, int(count.max()) + 1)


WRONG["media_mask"] = {
    "the mask with room for more images has shape (2, 6, 2); expected (2, 6, 5) = (N, T, media)": as_many_as_exist,
    "is it index -1?": lambda tokens, image_id, media: torch.eye(media, dtype=torch.bool)[
        (tokens == image_id).cumsum(1) - 1
    ],
    "the values of the mask with room for more images differ": lambda tokens, image_id, media: mask_by_loops(
        tokens, 27, media
    ),
    "the mask of one row has shape (7, 3)": lambda *inputs: mask_by_loops(*inputs).squeeze(0),
    "has dtype torch.float32; expected torch.bool": lambda *inputs: torch.where(mask_by_loops(*inputs), 0, -torch.inf),
}
RIGHT["media_mask"] = {
    "loops": mask_by_loops,
    "padded identity": lambda tokens, image_id, media: torch.eye(media + 1).bool()[(tokens == image_id).cumsum(1), 1:],
    "one-hot": lambda tokens, image_id, media: F.one_hot(tokens.eq(image_id).long().cumsum(-1), media + 1)[..., 1:] > 0,
}


def resample_by_loops(latents, features, to_q, to_k, to_v):
    rows = []
    for n in range(len(latents)):
        tokens = [*features[n], *latents[n]]
        for latent in latents[n]:
            scores = torch.stack([(latent @ to_q) @ (token @ to_k) for token in tokens]) / math.sqrt(to_q.shape[1])
            weights = (scores - scores.max()).exp()
            rows.append(sum(w * (token @ to_v) for w, token in zip(weights, tokens)) / weights.sum())
    return torch.stack(rows).reshape(len(latents), -1, to_v.shape[1])


def resample_by_sdpa(latents, features, to_q, to_k, to_v):
    keys_and_values = torch.cat([latents, features], dim=1) @ torch.cat([to_k, to_v], dim=1)
    return F.scaled_dot_product_attention(latents @ to_q, *keys_and_values.chunk(2, dim=-1))


def all_ask(latents, features, to_q, to_k, to_v):
    everything = torch.cat([features, latents], dim=1)
    return resample_by_sdpa(everything, everything[:, :0], to_q, to_k, to_v)[:, features.shape[1] :]


def softmax_by_hand(shift):
    def answer(latents, features, to_q, to_k, to_v):
        everything = torch.cat([features, latents], dim=1)
        scores = latents @ to_q @ (everything @ to_k).mT / to_q.shape[1] ** 0.5
        weights = (scores - shift(scores)).exp()
        weights = weights / weights.sum(-1, keepdim=True)
        return weights @ everything @ to_v

    return answer


def normalized_in_place(latents, features, to_q, to_k, to_v):
    everything = torch.cat([features, latents], dim=1)
    weights = (latents @ to_q @ (everything @ to_k).mT / to_q.shape[1] ** 0.5).softmax(-1)
    weights /= weights.sum(-1, keepdim=True)
    return weights @ (everything @ to_v)


WRONG["resample"] = {
    "exp(120) overflows float32": softmax_by_hand(lambda scores: 0),
    "exp(-120) rounds to 0": softmax_by_hand(lambda scores: scores.amax().relu()),
    "Subtract the maximum of each row": softmax_by_hand(lambda scores: scores.amax((1, 2), keepdim=True)),
    "no gradient flows from the output to latents": lambda latents, *rest: resample_by_sdpa(latents.detach(), *rest),
    "the backward pass fails": normalized_in_place,
    "with a batch of one has shape (3, 6); expected (1, 3, 6) = (N, L, E)": lambda *inputs: resample_by_sdpa(
        *inputs
    ).squeeze(0),
    "Sizes of tensors must match": lambda latents, features, to_q, to_k, to_v: resample_by_sdpa(
        torch.cat([latents, features]), features, to_q, to_k, to_v
    ),
}
RIGHT["resample"] = {
    "loops": resample_by_loops,
    "SDPA": resample_by_sdpa,
    "all ask, the latents' part": all_ask,
    "softmax by hand": softmax_by_hand(lambda scores: scores.amax(-1, keepdim=True)),
}


def times_by_loops(times, frames):
    rows = []
    for i in range(frames):
        position = i * (len(times) - 1) / max(frames - 1, 1)
        lower = min(math.floor(position), len(times) - 2)
        rows.append(times[lower] + (position - lower) * (times[lower + 1] - times[lower]))
    return torch.stack(rows)


def times_by_hats(times, frames):
    """A matrix (frames, F) of weights: a hat function around each row."""
    positions = torch.linspace(0, len(times) - 1, frames, dtype=torch.float64)
    distance = (positions[:, None] - torch.arange(len(times))).abs()
    return (1 - distance).clamp(min=0).to(times.dtype) @ times


def resize(times, frames, **options):
    return F.interpolate(times.T[None], size=frames, mode="linear", **options)[0].T


def divided(times, frames):
    step = (len(times) - 1) / (frames - 1)
    lower = [min(int(i * step), max(len(times) - 2, 0)) for i in range(frames)]
    upper = [min(i + 1, len(times) - 1) for i in lower]
    fraction = torch.tensor([[i * step - low] for i, low in enumerate(lower)]).to(times)
    return times[lower].lerp(times[upper], fraction)


WRONG["interpolate_times"] = {
    "the ends are flat or lost": lambda times, frames: times[:1] if frames == 1 else resize(times, frames),
    "rows are repeated, so neighboring frames look the same": lambda times, frames: (
        F.interpolate(times.T[None], size=frames)[0].T
    ),
    "for 1 frame from 8 rows differ": lambda times, frames: (
        resize(times, frames, align_corners=True) if frames > 1 else times[[0, -1]].mean(0, keepdim=True)
    ),
    "raised ZeroDivisionError in the line `step = ": divided,
    "raised NotImplementedError in the line `return F.interpolate(": lambda times, frames: F.interpolate(
        times, size=frames, mode="linear", align_corners=True
    ),
    "for 6 frames from 6 rows differ": lambda times, frames: times_by_hats(times, frames) * (1 + (frames == 6)),
    "no gradient flows from the result": lambda times, frames: nn.Parameter(times_by_hats(times, frames)),
    "for 15 frames from 11 rows has shape (14, 3)": lambda times, frames: (
        F.interpolate(times.T[None], scale_factor=frames / len(times), mode="linear", align_corners=True)[0].T
    ),
}
RIGHT["interpolate_times"] = {
    "loops": times_by_loops,
    "matrix of hats": times_by_hats,
    "F.interpolate": lambda times, frames: resize(times, frames, align_corners=True),
    "the lesson's own": flamingo.interpolate_times,
}


def counts_by_loops(model):
    seen, numbers = set(), [0, 0, 0]
    for module in model.modules():
        for p in module.parameters(recurse=False):
            if id(p) not in seen:
                seen.add(id(p))
                size = math.prod(p.shape)
                numbers[not p.requires_grad] += size
                numbers[2] += 0 if p.requires_grad else 3 * size * torch.finfo(p.dtype).bits // 8
    return numbers


def counts_by_adamw(model):
    """What AdamW really holds after a step, measured on a copy of every frozen parameter."""
    copies = [nn.Parameter(p.detach().clone()) for p in model.parameters() if not p.requires_grad]
    saved = 0
    if copies:
        optimizer = torch.optim.AdamW(copies)
        for p in copies:
            p.grad = torch.zeros_like(p)
        optimizer.step()
        moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
        saved = sum(x.nbytes for x in [*moments, *(p.grad for p in copies)])
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trainable, sum(p.numel() for p in model.parameters()) - trainable, saved


def after(change):
    """The right numbers, from a model that change has touched."""

    def answer(model):
        numbers = counts_by_adamw(model)
        change(model)
        return numbers

    return answer


def one_module_one_state(model):
    """Takes a module for frozen if its first parameter is."""
    numbers = [0, 0]
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own:
            numbers[not own[0].requires_grad] += sum(p.numel() for p in own)
    return *numbers, 12 * numbers[1]


WRONG["freezing"] = {
    "changes model.latents.requires_grad from True to False": after(lambda model: model.requires_grad_(False)),
    "calls eval() on model": after(nn.Module.eval),
    "leave the stored gradients alone": after(nn.Module.zero_grad),
    "which should stay as it is": after(nn.Module.half),
    "int, but is 0.00": lambda model: [*counts_by_loops(model)[:2], counts_by_loops(model)[2] / 2**20],
    "trainable is ": one_module_one_state,
    "return three results, (trainable, frozen, saved); got a list of 2": lambda model: counts_by_loops(model)[:2],
}
RIGHT["freezing"] = {"loops and a set": counts_by_loops, "measured on AdamW": counts_by_adamw}


def rices_by_loops(query, pool, k):
    rows = []
    for q in query:
        similarity = [F.cosine_similarity(q, p, dim=0).item() for p in pool]
        rows.append(sorted(range(len(pool)), key=similarity.__getitem__)[len(pool) - k :])
    return torch.tensor(rows)


def rices_by_index(query, pool, k):
    rows = []
    for row in F.cosine_similarity(query[:, None], pool[None], dim=-1).tolist():
        rows.append([row.index(value) for value in sorted(row)[-k:]])
    return torch.tensor(rows)


def rices_by_distance(query, pool, k):
    distance = torch.cdist(F.normalize(query), F.normalize(pool))
    return distance.topk(k, largest=False).indices.flip(-1)


def best_one(query, pool, k):
    return rices_by_loops(query, pool, k) if k > 1 else rices_by_loops(query, pool, k).squeeze(1)


def rices_by_dict(query, pool, k):
    rows = []
    for scores in F.normalize(query) @ F.normalize(pool).T:
        index = {score: i for i, score in enumerate(scores.tolist())}
        rows.append([index[score] for score in sorted(index)[-k:]])
    return torch.tensor(rows)


WRONG["rices"] = {
    "entries 1 and 3 of the pool are equal and the best two": rices_by_dict,
    "names an entry of pool twice for one query": rices_by_index,
    "the result with k = 1 has shape (3,); expected (3, 1) = (N, k)": best_one,
    "the result for one query has shape (2,)": lambda *inputs: rices_by_loops(*inputs).squeeze(0),
    "long vectors win": lambda query, pool, k: (F.normalize(query) @ pool.T).argsort(1)[:, -k:],
    "The highest belongs at the end": lambda query, pool, k: (query @ pool.T).topk(k).indices,
    "the values of the result differ": lambda query, pool, k: rices_by_loops(query, pool, len(pool))[:, -1 - k : -1],
}
RIGHT["rices"] = {
    "loops": rices_by_loops,
    "distance of unit vectors": rices_by_distance,
    "unit pool alone": lambda query, pool, k: (query @ F.normalize(pool).T).argsort(1)[:, -k:],
}
