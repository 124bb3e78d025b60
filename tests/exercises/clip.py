"""Answers to the CLIP lesson's exercises, written independently of its checks."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from mmlesson import metrics

WRONG, RIGHT = {}, {}


def loss_by(one_direction, scale=torch.exp):
    """The loss from a function of logits, images by rows."""

    def answer(image_features, text_features, logit_scale):
        image = image_features / image_features.square().sum(1, keepdim=True).sqrt()
        text = text_features / text_features.square().sum(1, keepdim=True).sqrt()
        logits = scale(logit_scale) * image @ text.T
        return (one_direction(logits) + one_direction(logits.T)) / 2

    return answer


def exp_and_sum(logits):
    logits = logits - logits.amax(1, keepdim=True)
    return (logits.exp().sum(1).log() - logits.diagonal()).mean()


def maximum_of_the_matrix(logits):
    logits = logits - logits.max()
    return (logits.exp().sum(1).log() - logits.diagonal()).mean()


def by_loops(image_features, text_features, logit_scale):
    total = 0
    for a, b in ((image_features, text_features), (text_features, image_features)):
        for i in range(len(a)):
            logits = torch.stack([logit_scale.exp() * F.cosine_similarity(a[i], x, dim=0) for x in b])
            total = total + (logits - logits.max()).exp().sum().log() + logits.max() - logits[i]
    return total / (2 * len(image_features))


def in_place_on_the_way(logits):
    logits = logits - logits.amax(1, keepdim=True)
    exponentials = logits.exp()
    total = exponentials.sum(1)
    exponentials += 0
    return (total.log() - logits.diagonal()).mean()


WRONG["clip_loss"] = {
    "exp(100) overflows float32": loss_by(lambda z: (z.exp().sum(1).log() - z.diagonal()).mean()),
    "probabilities that round to 0": loss_by(lambda z: -z.softmax(1).diagonal().log().mean()),
    "log-sum-exp, and clamp nothing: probabilities": loss_by(lambda z: -(z.softmax(1).diagonal() + 1e-8).log().mean()),
    "Subtract the maximum of each row, not that of the whole matrix": loss_by(maximum_of_the_matrix),
    "no gradient flows from the loss to logit_scale": loss_by(exp_and_sum, scale=lambda s: s.detach().exp()),
    "has shape (1,); expected () = one number": loss_by(lambda z: exp_and_sum(z)[None]),
    "expected 3.04": loss_by(exp_and_sum, scale=lambda s: s.exp() + 1),
    "the backward pass fails": loss_by(in_place_on_the_way),
}
RIGHT["clip_loss"] = {
    "exp, log, sum": loss_by(exp_and_sum),
    "loops": by_loops,
    "logsumexp": loss_by(lambda z: (z.logsumexp(1) - z.diagonal()).mean()),
    "F.cross_entropy": loss_by(lambda z: F.cross_entropy(z, torch.arange(len(z)))),
}


def classify(encode_text, names, templates, unit=lambda x: F.normalize(x, dim=-1)):
    weights = []
    for name in names:
        features = unit(encode_text([template.replace("{}", name) for template in templates]))
        weights.append(F.normalize(features.sum(0), dim=0))
    return torch.stack(weights)


@torch.no_grad()
def template_by_template(encode_text, names, templates):
    rows = [encode_text([template.format(name) for name in names]) for template in templates]
    rows = [row / row.norm(dim=-1, keepdim=True) for row in rows]
    mean = torch.stack(rows).mean(0)
    return mean / mean.norm(dim=-1, keepdim=True)


WRONG["class_embeddings"] = {
    "encode_text takes a list of strings, but got 'a photo of a red apple.'": lambda encode_text, names, templates: (
        torch.stack([sum(encode_text(template.format(name)) for template in templates) for name in names])
    ),
    "the values of the classifier differ": lambda e, n, t: classify(e, n, t, unit=lambda x: x / x.norm(dim=0)),
    "raised RuntimeError": lambda e, n, t: torch.cat([classify(e, n[:1], t)] * 2)[:, :3] @ torch.ones(5),
}
RIGHT["class_embeddings"] = {"loops and sum": classify, "template by template": template_by_template}


def recall_by_sorting(similarity, k):
    hits = 0
    for i, row in enumerate(similarity.tolist()):
        hits += i in sorted(range(len(row)), key=row.__getitem__, reverse=True)[:k]
    return hits / len(similarity)


WRONG["recall_at_k"] = {
    "is a tensor of shape (); expected a Python float: end with .item()": lambda similarity, k: (
        (similarity.topk(k).indices == torch.arange(len(similarity))[:, None]).any(1).float().mean()
    ),
    "the recall @3 of 37 queries is 0": lambda similarity, k: 0.0,
    "expected 0.": lambda similarity, k: round(recall_by_sorting(similarity, k), 2),
    "should be a float, but is '40 %', of type str": lambda similarity, k: "40 %",
}
RIGHT["recall_at_k"] = {
    "sorting": recall_by_sorting,
    "mmlesson.metrics": metrics.recall_at_k,
    "ranks": lambda similarity, k: ((similarity > similarity.diag()[:, None]).sum(1) < k).float().mean().item(),
}

LIMIT = math.log(100)


def new_parameter(model):
    model.logit_scale = nn.Parameter(model.logit_scale.detach().clamp(max=LIMIT))


def plain_tensor(model):
    value = model.logit_scale.detach().clamp(max=LIMIT)
    del model.logit_scale
    model.logit_scale = value


@torch.no_grad()
def all_parameters(model):
    for parameter in model.parameters():
        parameter.clamp_(max=LIMIT)


def unfreezes(model):
    model.requires_grad_(False)
    model.logit_scale.clamp_(max=LIMIT)
    model.requires_grad_(True)


@torch.no_grad()
def clamped(model):
    model.logit_scale.clamp_(max=LIMIT)


def by_hand(model):
    if model.logit_scale.item() > LIMIT:
        with torch.no_grad():
            model.logit_scale.fill_(LIMIT)


def by_data(model):
    model.logit_scale.data = torch.clamp(model.logit_scale.data, 0, 4.6052)


WRONG["clamp_logit_scale"] = {
    "model.logit_scale is another object now, but an optimizer holds the old one": new_parameter,
    "your function removes model.logit_scale": plain_tensor,
    "changes model.logit_bias, which should stay as it is": all_parameters,
    "changes model.logit_scale.requires_grad from True to False": lambda model: model.logit_scale.requires_grad_(
        False
    ).clamp_(max=LIMIT),
    "changes model.image.weight.requires_grad from False to True": unfreezes,
    "calls eval() on model": lambda model: clamped(model.eval()),
    "leave the stored gradients alone": lambda model: [clamped(model), model.zero_grad()][0],
    "leaves gradients switched off": lambda model: [torch.set_grad_enabled(False), clamped(model)][1],
    "a leaf Variable that requires grad is being used in an in-place operation": lambda model: model.logit_scale.clamp_(
        max=LIMIT
    ),
}
RIGHT["clamp_logit_scale"] = {"no_grad and clamp_": clamped, "if": by_hand, ".data, from 0 as in open_clip": by_data}


def multi_by_loops(logits, captions):
    total = 0
    for z in (logits, logits.T):
        log_probability = z - z.logsumexp(1, keepdim=True)
        for i, caption in enumerate(captions):
            positives = [j for j, other in enumerate(captions) if other == caption]
            total = total - log_probability[i, positives].mean()
    return total / (2 * len(captions))


def multi_by_cross_entropy(logits, captions, same=lambda a, b: a == b):
    targets = torch.tensor([[float(same(a, b)) for b in captions] for a in captions]).to(logits.dtype)
    targets = F.normalize(targets, p=1, dim=1)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


WRONG["multi_positive_loss"] = {
    "the loss": lambda logits, captions: multi_by_cross_entropy(logits, captions, lambda a, b: a is b),
    "the loss is": lambda logits, captions: multi_by_cross_entropy(logits, captions, lambda a, b: set(a) == set(b)),
    "log_softmax or logsumexp": lambda logits, captions: multi_by_loops(logits, captions) + 0 * logits.exp().sum(),
}
RIGHT["multi_positive_loss"] = {"loops": multi_by_loops, "F.cross_entropy": multi_by_cross_entropy}


def pointing_by_loops(attention, boxes):
    hits = 0
    for weights, (x0, y0, x1, y1) in zip(attention.tolist(), boxes.tolist(), strict=True):
        cells = [(weight, row, column) for row, line in enumerate(weights) for column, weight in enumerate(line)]
        _, row, column = max(cells)
        hits += x0 <= (column + 0.5) / len(weights[0]) <= x1 and y0 <= (row + 0.5) / len(weights) <= y1
    return hits / len(boxes)


WRONG["pointing_game"] = {
    "expected a Python float: end with .item()": lambda attention, boxes: torch.tensor(
        pointing_by_loops(attention, boxes)
    ),
    "the score of 43 maps with 4 x 6 cells is": lambda attention, boxes: 0.9 * pointing_by_loops(attention, boxes),
    "the score of 43 maps": lambda attention, boxes: pointing_by_loops(attention.mean(0, keepdim=True), boxes[:1]),
}
RIGHT["pointing_game"] = {
    "loops": pointing_by_loops,
    "mmlesson.metrics": lambda attention, boxes: metrics.pointing_game(attention, boxes).float().mean().item(),
}
