"""Check for the exercise of lesson 00: search."""

import torch
import torch.nn.functional as F

from mmlesson.check import exercise, randn


@exercise("cosine, order, one and several results")
def search(answer):
    """search(query, pictures, k) -> (k,) long: the indices of the k pictures nearest to the query, best first.

    query (D,), pictures (N, D): features of any length; near means a high cosine.
    """
    # Lengths from 0.3 to 3, and seeds with which every ranking below begins with other four pictures.
    query = randn(5, seed=29)
    pictures = randn(9, 5, seed=30) * torch.linspace(3, 0.3, 9)[:, None]
    cosine = F.cosine_similarity(query, pictures)
    rankings = [
        (pictures @ query, "a long feature wins, because you rank by dot product: divide each picture by its length."),
        (-(pictures - query).norm(dim=1), "you rank by distance, where lengths count: divide both by their lengths."),
        (
            F.normalize(pictures, dim=0) @ query,
            "you divide by lengths taken over the pictures (dim=0): each picture, a row, has its own (dim=1).",
        ),
        (cosine.abs(), "a cosine of -1 is as far as it gets, and here it counts as near: leave out the abs."),
        (-cosine, "the farthest come first: the highest cosine is the nearest picture."),
    ]
    for k in (4, 1):
        found = answer(query=query, pictures=pictures, k=k)
        pair = isinstance(found, (tuple, list)) and len(found) == 2 and all(isinstance(x, torch.Tensor) for x in found)
        answer.expect(not pair, "you return two tensors; topk and sort give (values, indices): return the indices.")
        values = isinstance(found, torch.Tensor) and found.is_floating_point()
        answer.expect(not values, "these are floats, such as cosines: return the indices of the pictures.")
        expected = cosine.topk(k).indices
        wrong = [(score.topk(k).indices, sentence) for score, sentence in rankings]
        wrong += [
            (cosine.argsort(descending=True), "this ranks all pictures: keep the first k."),
            (expected.sort().values, "these are the right pictures, but not in order: the nearest comes first."),
        ]
        answer.expect_tensor("the result", found, expected, wrong, axes="(k,)")
