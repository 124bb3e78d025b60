"""Answers to the Gemini-style lesson's exercises, written independently of its checks."""

import math

import torch
import torch.nn.functional as F

WRONG, RIGHT = {}, {}


def attend(q, k, v, q_weight, q_bias, k_weight, k_bias, norm=F.layer_norm, softmax=torch.softmax):
    d = q.shape[-1]
    q = norm(q, (d,)) * q_weight.unsqueeze(1) + q_bias.unsqueeze(1)
    k = norm(k, (d,)) * k_weight.unsqueeze(1) + k_bias.unsqueeze(1)
    mask = torch.full((q.shape[2], q.shape[2]), -torch.inf, dtype=q.dtype).triu(1)
    return softmax(torch.einsum("nhtd,nhsd->nhts", q, k) / math.sqrt(d) + mask, -1) @ v


def attend_by_sdpa(q, k, v, q_weight, q_bias, k_weight, k_bias):
    def norm(x, weight, bias):
        heads = [F.layer_norm(x[:, h], x.shape[-1:], weight[h], bias[h]) for h in range(x.shape[1])]
        return torch.stack(heads, dim=1)

    return F.scaled_dot_product_attention(norm(q, q_weight, q_bias), norm(k, k_weight, k_bias), v, is_causal=True)


def attend_by_loops(q, k, v, q_weight, q_bias, k_weight, k_bias):
    output = torch.empty_like(v)
    for n, h, t in torch.cartesian_prod(*map(torch.arange, v.shape[:3])).tolist():
        query = F.layer_norm(q[n, h, t], q.shape[-1:], q_weight[h], q_bias[h])
        keys = F.layer_norm(k[n, h, : t + 1], k.shape[-1:], k_weight[h], k_bias[h])
        output[n, h, t] = (keys @ query * q.shape[-1] ** -0.5).softmax(0) @ v[n, h, : t + 1]
    return output


def softmax_without_maximum(scores, dim):
    return scores.exp() / scores.exp().sum(dim, keepdim=True)


def softmax_in_place(scores, dim):
    exponentials = (scores - scores.amax(dim, keepdim=True)).exp()
    exponentials /= exponentials.sum(dim, keepdim=True)
    return exponentials


def half_detached(x, shape):
    y = F.layer_norm(x, shape)
    return (y + y.detach()) / 2


WRONG["qk_norm_attention"] = {
    "of large weights has": lambda *inputs: attend(*inputs, softmax=softmax_without_maximum),
    "the backward pass fails": lambda *inputs: attend(*inputs, softmax=softmax_in_place),
    "not the gradient that it sends to q:": lambda *inputs: attend(*inputs, norm=half_detached),
    "has shape (3, 5, 4); expected (1, 3, 5, 4)": lambda *inputs: attend(*inputs).squeeze(),
    "the values of the output differ": lambda q, *rest: attend(q[:, :1].expand_as(q), *rest),
    "epsilon has almost no effect": lambda *inputs: attend(*inputs, norm=lambda x, d: F.layer_norm(x, d, eps=1e-10)),
}
RIGHT["qk_norm_attention"] = {
    "einsum": attend,
    "F.scaled_dot_product_attention": attend_by_sdpa,
    "loops": attend_by_loops,
    "without k_bias, which cancels": lambda *inputs: attend(*inputs[:6], torch.zeros_like(inputs[6])),
}


def stream_by_cat(parts, first_code, image, end_image):
    tokens, positions = [], []
    for part in parts:
        if torch.is_tensor(part):
            tokens.append(F.pad(part.reshape(-1) + first_code, (1, 1)))
            tokens[-1][0], tokens[-1][-1] = image, end_image
            positions.append(F.pad(torch.arange(part.numel()), (1, 1), value=-1))
        else:
            tokens.append(torch.tensor(part, dtype=torch.long))
            positions.append(torch.full((len(part),), -1))
    return torch.cat(tokens), torch.cat(positions)


def stream_by_loops(parts, first_code, image, end_image):
    pairs = []
    for part in parts:
        if isinstance(part, list):
            pairs.extend((word, -1) for word in part)
            continue
        h, w = part.shape
        pairs.append((image, -1))
        pairs.extend((int(part[i, j]) + first_code, i * w + j) for i in range(h) for j in range(w))
        pairs.append((end_image, -1))
    return [torch.tensor(column) for column in zip(*pairs, strict=True)]


def positions_from_tokens(parts, first_code, image, end_image):
    tokens, _ = stream_by_cat(parts, first_code, image, end_image)
    is_code = tokens >= first_code
    count = is_code.cumsum(0)
    before = torch.where(is_code, 0, count).cummax(0).values
    return tokens, torch.where(is_code, count - before - 1, -1)


def new_start_after_words_only(parts, first_code, image, end_image):
    tokens, positions, count = [], [], 0
    for part in parts:
        if isinstance(part, list):
            tokens, positions, count = tokens + part, positions + [-1] * len(part), 0
        else:
            tokens += [image, *(part.flatten() + first_code).tolist(), end_image]
            positions += [-1, *range(count, count + part.numel()), -1]
            count += part.numel()
    return torch.tensor(tokens), torch.tensor(positions)


def stream_in_place(parts, first_code, image, end_image):
    for part in parts:
        if torch.is_tensor(part):
            part += first_code
    return stream_by_cat(parts, 0, image, end_image)


WRONG["interleave"] = {
    "the values of positions for images side by side differ": new_start_after_words_only,
    "changes parts[1], which should stay as it is": stream_in_place,
    "the values of tokens for images side by side differ": lambda parts, first_code, image, end_image: stream_by_cat(
        parts, 20, image, end_image
    ),
    "tokens has shape (1, 24); expected (24,) = (T,)": lambda *inputs: [x[None] for x in stream_by_cat(*inputs)],
    "return two results, (tokens, positions); got a Tensor": lambda *inputs: torch.stack(stream_by_cat(*inputs)),
    "your function raised TypeError in the line": lambda parts, *rest: sum(parts),
}
RIGHT["interleave"] = {
    "cat": stream_by_cat,
    "loops, and a list of two": stream_by_loops,
    "positions from the tokens": positions_from_tokens,
}


def search(model, tokens, moved=lambda a, b: (a != b).any()):
    before, found = model(tokens), []
    for t in range(1, len(tokens)):
        changed = tokens.tolist()
        changed[t] = (changed[t] + 1) % before.shape[1]
        if moved(model(torch.tensor(changed))[:t], before[:t]):
            found.append(t)
    return found


def search_every_id_backwards(model, tokens):
    found, vocabulary = set(), model(tokens).shape[-1]
    for t in reversed(range(len(tokens))):
        for other in range(vocabulary):
            changed = tokens.clone()
            changed[t] = other
            if model(changed)[:t].tolist() != model(tokens)[:t].tolist():
                found.add(t)
    return sorted(found)


def search_and_put_back(model, tokens):
    before, found = model(tokens), []
    for t, old in enumerate(tokens.tolist()):
        tokens[t] = 1 if old == 0 else 0
        if (model(tokens) - before)[:t].abs().sum() > 0:
            found.append(t)
        tokens[t] = old
    return found


def pairs(model, tokens):
    before, rows = model(tokens), torch.arange(len(tokens))
    changed = [model(torch.where(rows == t, (tokens + 1) % before.shape[1], tokens)) for t in rows]
    return torch.stack([(now != before).any(1) for now in changed]).tril(-1)  # (changed token, output)


def search_in_place(model, tokens):
    before, found = model(tokens), []
    for t in range(len(tokens)):
        tokens[t] = (tokens[t] + 1) % before.shape[-1]
        if not torch.equal(model(tokens)[:t], before[:t]):
            found.append(t)
    return found


WRONG["leaks"] = {
    "A leak counts however small": lambda *inputs: search(*inputs, moved=lambda a, b: not torch.allclose(a, b)),
    "for a leak of 9e-13 is []; expected [4]": lambda *inputs: search(
        *inputs, moved=lambda a, b: not torch.equal(a.float(), b.float())
    ),
    "for a leak of +1 and -1 is []; expected [5]. Compare all numbers, one by one": lambda *inputs: search(
        *inputs, moved=lambda a, b: a.sum() != b.sum()
    ),
    "changes may be negative, cancel in a sum, or be single": lambda *inputs: search(
        *inputs, moved=lambda a, b: ((a - b) > 0).any()
    ),
    "holds np.int64(1), of type int64; expected ints": lambda *inputs: list(
        pairs(*inputs).any(1).nonzero()[:, 0].numpy()
    ),
    "is a tensor of shape (0,); expected a Python list": lambda *inputs: pairs(*inputs).any(1).nonzero()[:, 0],
    "the model takes tokens of shape (T,), but got (1, 7)": lambda model, tokens: search(model, tokens[None]),
    "index 5 is out of": lambda model, tokens: model(tokens + 1) is None,
    "changes its input tokens in place": search_in_place,
}
RIGHT["leaks"] = {
    "lists": search,
    "every id, backwards": search_every_id_backwards,
    "changed and put back": search_and_put_back,
    "all pairs": lambda model, tokens: pairs(model, tokens).any(1).nonzero().flatten().tolist(),
}


def sample(c, u, guidance, temperature, top_k, fill=-torch.inf, softmax=torch.softmax):
    logits = torch.lerp(u, c, guidance)
    fixed = torch.full_like(logits, fill)
    kept = logits.sort(dim=1, descending=True).indices[:, :top_k]
    return softmax(fixed.scatter(1, kept, logits.gather(1, kept)) / temperature, -1)


def sample_by_loops(c, u, guidance, temperature, top_k):
    rows = []
    for a, b in zip(c.tolist(), u.tolist(), strict=True):
        logits = [guidance * x + (1 - guidance) * y for x, y in zip(a, b, strict=True)]
        top, smallest = max(logits), sorted(logits)[-top_k]
        weights = [math.exp((x - top) / temperature) * (x >= smallest) for x in logits]
        rows.append([weight / sum(weights) for weight in weights])
    return torch.tensor(rows, dtype=c.dtype)


def sample_and_divide_again(c, u, guidance, temperature, top_k):
    log_probabilities = u.log_softmax(1) + guidance * (c.log_softmax(1) - u.log_softmax(1))
    p = (log_probabilities / temperature).softmax(1)
    p = torch.where(p >= p.topk(top_k).values.amin(1, keepdim=True), p, 0)
    return p / p.sum(1, keepdim=True)


def softmax_of_all(x, dim):
    weights = (x - x.max()).exp()
    return weights / weights.sum(dim, keepdim=True)


WRONG["guided"] = {
    "exp(2000) overflows": lambda *inputs: sample(*inputs, softmax=softmax_without_maximum),
    "logits outside of the top_k become 0": lambda *inputs: sample(*inputs, fill=1e-10),
    "Fill removed logits with -inf": lambda *inputs: sample(*inputs, fill=-100.0),
    "Subtract the maximum of each row, not that of all": lambda *inputs: sample(*inputs, softmax=softmax_of_all),
    "it should be exactly 0": lambda *inputs: sample(*inputs).clamp(min=1e-7),
    "for guidance -1 differ": lambda c, u, guidance, *rest: sample(c, u, abs(guidance), *rest),
    "for guidance 10 differ": lambda c, u, guidance, *rest: sample(c, u, min(guidance, 5.0), *rest),
    "has shape (6,); expected (1, 6) = (N, K)": lambda *inputs: sample(*inputs).squeeze(),
}
RIGHT["guided"] = {
    "sort and scatter": sample,
    "loops": sample_by_loops,
    "log probabilities, divided again": sample_and_divide_again,
    "a very small number": lambda *inputs: sample(*inputs, fill=-1e10),
}


def triangles_by_loops(corners, frequencies):
    rows = []
    for a, b, e in zip(corners, corners[1:], corners[2:]):
        row = []
        for f in frequencies:
            x = (f - a) / (b - a) if a <= f <= b else (e - f) / (e - b) if b < f <= e else torch.zeros_like(f)
            row.append(2 * x / (e - a))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def triangles_as_librosa(corners, frequencies):
    widths, ramps = corners.diff(), corners[:, None] - frequencies[None]
    rows = [
        torch.maximum(torch.zeros_like(frequencies), torch.minimum(-ramps[i] / widths[i], ramps[i + 2] / widths[i + 1]))
        for i in range(len(corners) - 2)
    ]
    return torch.stack(rows) * (2.0 / (corners[2:] - corners[:-2]))[:, None]


def triangles_by_clamped_product(corners, frequencies):
    a, b, e = corners.unfold(0, 3, 1)[..., None].unbind(1)
    rise, fall = (frequencies - a) / (b - a), (e - frequencies) / (e - b)
    return rise.clamp(0, 1) * fall.clamp(0, 1) / ((e - a) / 2)


def triangles_from_too_low(corners, frequencies):
    """Each rises over the corners of the band below."""
    return triangles_by_loops(torch.cat([corners[:1] - 1, corners[:-1]]), frequencies)


def scaled_to_one_and_back(corners, frequencies):
    filters = triangles_as_librosa(corners, frequencies)
    return filters / filters.sum(1, keepdim=True) * filters.sum(1, keepdim=True)


WRONG["mel_triangles"] = {
    "it should be exactly 0": lambda *inputs: triangles_as_librosa(*inputs).clamp(min=1e-8),
    "the values of the result differ": triangles_from_too_low,
    "for 3 bands and 12 bins has shape (3, 33)": lambda corners, frequencies: triangles_by_loops(
        corners, torch.arange(0, 2561, 80, dtype=corners.dtype)
    ),
    "for 1 band has shape (17,); expected (1, 17) = (bands, bins)": lambda *inputs: triangles_as_librosa(
        *inputs
    ).squeeze(),
    "for 1 frequency has 1 of 3 values that are NaN or infinite": scaled_to_one_and_back,
    "raised RuntimeError in the line": lambda corners, frequencies: frequencies - corners[:-2],
}
RIGHT["mel_triangles"] = {
    "loops": triangles_by_loops,
    "as librosa": triangles_as_librosa,
    "product of clamped lines": triangles_by_clamped_product,
}


def loss_by_cross_entropy(logits, tokens, first_code, pad, image_weight, z_weight, mean=None):
    mean = mean or (lambda x: x.mean() if x.numel() else logits.sum() * 0)
    target, logits = tokens[:, 1:].flatten(), logits[:, :-1].flatten(0, 1)
    surprise, z = F.cross_entropy(logits, target, reduction="none"), logits.logsumexp(1)
    real = target != pad
    word, code = real & (target < first_code), real & (target >= first_code)
    return mean(surprise[word]) + image_weight * mean(surprise[code]) + z_weight * mean(z[real] ** 2)


def loss_by_loops(logits, tokens, first_code, pad, image_weight, z_weight):
    words, codes, squares = [], [], []
    for row, line in zip(logits, tokens.tolist(), strict=True):
        for here, target in zip(row, line[1:]):
            if target != pad:
                z = torch.logsumexp(here, 0)
                (codes if target >= first_code else words).append(z - here[target])
                squares.append(z * z)
    words, codes, squares = (sum(x) / len(x) if x else logits.new_zeros(()) for x in (words, codes, squares))
    return words + image_weight * codes + z_weight * squares


def loss_by_ignore_index(logits, tokens, first_code, pad, image_weight, z_weight):
    logits, target = logits[:, :-1].mT, tokens[:, 1:].masked_fill(tokens[:, 1:] == pad, -100)
    parts = []
    for weight, kind in ((1, (target >= 0) & (target < first_code)), (image_weight, target >= first_code)):
        total = F.cross_entropy(logits, target.where(kind, -100), reduction="sum")
        parts.append(weight * total / kind.sum().clamp(min=1))
    real = target >= 0
    return sum(parts) + z_weight * (logits.logsumexp(1).square() * real).sum() / real.sum().clamp(min=1)


def loss_of_exponentials(logits, *rest):
    log_p = logits.exp() / logits.exp().sum(-1, keepdim=True)
    z = logits.exp().sum(-1, keepdim=True).log()
    return loss_by_loops(log_p.log() + z, *rest)


def loss_with_pads_after_the_words(logits, tokens, first_code, pad, *weights):
    """The pads of each row are cut off at its end only."""
    at_the_end = (tokens != pad).flip(1).cumsum(1).flip(1) == 0
    moved = tokens.masked_fill(at_the_end, logits.shape[-1] - 1)
    return loss_by_loops(logits, moved, first_code, logits.shape[-1] - 1, *weights)


def loss_with_nan_replaced(logits, tokens, first_code, pad, image_weight, z_weight):
    logits, target = logits[:, :-1], tokens[:, 1:]
    z, real = logits.logsumexp(2), target != pad
    surprise = z - logits.gather(2, target[..., None])[..., 0]
    parts = (surprise, real & (target < first_code)), (surprise, real & (target >= first_code)), (z.square(), real)
    word, code, squares = (((x * where).sum() / where.sum()).nan_to_num() for x, where in parts)
    return word + image_weight * code + z_weight * squares


WRONG["stream_loss"] = {
    "the loss without image codes is NaN or infinite. A mean over no target is 0": lambda *inputs: (
        loss_by_cross_entropy(*inputs, mean=lambda x: x.mean())
    ),
    "the loss is": loss_with_pads_after_the_words,
    "exp overflows, its log underflows": loss_of_exponentials,
    "0 / 0 spoils the gradient": loss_with_nan_replaced,
    "no gradient flows from the loss in float64 to logits": lambda logits, *rest: loss_by_loops(logits.detach(), *rest),
    "not the gradient that it sends to logits": lambda *inputs: (
        (loss_by_loops(*inputs) + loss_by_loops(*inputs).detach()) / 2
    ),
}
RIGHT["stream_loss"] = {
    "cross_entropy": loss_by_cross_entropy,
    "loops": loss_by_loops,
    "ignore_index": loss_by_ignore_index,
}
