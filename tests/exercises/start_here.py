"""Answers to the first lesson's exercise, written independently of its check."""

import torch
import torch.nn.functional as F


def by_loops(query, images, k):
    def near(i):
        return float(query @ images[i]) / float(images[i] @ images[i]) ** 0.5

    return torch.tensor(sorted(range(len(images)), key=near, reverse=True)[:k])


def by_angle(query, images, k):
    return (images @ query / images.norm(dim=1) / query.norm()).acos().topk(k, largest=False).indices


def in_place(query, images, k):
    images /= images.norm(dim=1, keepdim=True)
    return (images @ query).topk(k).indices


WRONG = {
    "search": {
        "long features win": lambda query, images, k: (images / images.norm() @ query).topk(k).indices,
        "the nearest comes last": lambda query, images, k: F.cosine_similarity(query, images).argsort()[-k:],
        "should be a torch.Tensor, but is a list": lambda *inputs: by_loops(*inputs).tolist(),
        "dtype torch.int32; expected torch.int64": lambda *inputs: by_loops(*inputs).int(),
        "has shape (1, 4); expected (4,) = (k,)": lambda *inputs: by_loops(*inputs)[None],
        "for much the same cosines": lambda query, images, k: (
            (2000 * F.cosine_similarity(query, images)).round().topk(k).indices
        ),
        "changes its input images in place": in_place,
        "raised RuntimeError in the line": lambda query, images, k: (query @ images).topk(k).indices,
    }
}
RIGHT = {"search": {"loops": by_loops, "angles": by_angle}}
