"""The exercise of the first lesson."""

import torch
import torch.nn.functional as F

from mmlesson.exercises import exercise, randn


def _cosine(query, images):
    return F.cosine_similarity(query, images)


def _nearest(scores, k):
    return scores.topk(k).indices


def _search(score=_cosine, pick=_nearest):
    """A search, put together from steps that a mistake replaces."""
    return lambda query, images, k: pick(score(query, images), k)


@exercise(
    verified="cosine, order, one and all results, one image, one number each, both float types",
    returns={"the result": "(k,)"},
    correct=_search(),
    mistakes={
        "long features win, as you rank by dot product: divide each image's by its length.": _search(
            lambda q, x: x @ q
        ),
        "you rank by distance, where lengths count: divide by them first.": _search(lambda q, x: -(x - q).norm(dim=1)),
        "you divide by lengths taken over the images (dim=0): each image's feature, a row, has its own (dim=1).": (
            _search(lambda q, x: F.normalize(x, dim=0) @ q)
        ),
        "you divide by squared lengths: is a square root missing?": _search(lambda q, x: x @ q / x.square().sum(dim=1)),
        "a cosine of -1 counts as near here, but is far: leave out the abs.": _search(lambda q, x: _cosine(q, x).abs()),
        "the farthest come first: the highest cosine is the nearest image.": _search(lambda q, x: -_cosine(q, x)),
        "the nearest comes last: it should come first.": _search(pick=lambda s, k: _nearest(s, k).flip(0)),
        "these are the right images, but not in order: the nearest comes first.": _search(
            pick=lambda s, k: _nearest(s, k).sort().values
        ),
        "this ranks all images: keep the first k.": _search(pick=lambda s, k: _nearest(s, len(s))),
        "these are cosines: return the indices of the images.": _search(pick=lambda s, k: s.topk(k).values),
        "you return two tensors; topk gives (values, indices): return the indices.": _search(pick=torch.topk),
        "you return cosines and indices: return the indices alone.": _search(pick=lambda s, k: tuple(s.topk(k))),
        "the images are counted from 1: the first row has index 0.": _search(pick=lambda s, k: _nearest(s, k) + 1),
    },
)
def search(answer):
    """search(query, images, k) -> int64 (k,), the indices of the k images nearest to the query, best first.

    query (D,) and images (N, D) are features of any length but 0; near means a high cosine.
    """
    for (N, D), k, seed, dtype in (((9, 5), 4, 1344, torch.float32), ((6, 6), 6, 87, torch.float64)):
        # Lengths from 0.3 to 30 times the usual.
        images = randn(N, D, seed=seed, dtype=dtype) * torch.linspace(30, 0.3, N, dtype=dtype)[:, None]
        query = randn(D, seed=seed + 100, dtype=dtype)
        answer.case(f"for k = {k} of {N} images", query=query, images=images, k=k)
        answer.case(f"for k = 1 of {N} images", query=query, images=images, k=1)
    answer.case("for one image", query=query, images=images[:1], k=1)
    line = torch.tensor([[-3.0], [0.5]])
    answer.case("for images with one number each", query=line[1], images=line, k=1)
    # The order of the cosines is neither that of the rows nor its reverse.
    alike = torch.tensor([[2.0, 0.168], [0.5, 0.04], [30.0, 2.64], [1.0, 0.082], [0.7, 0.0602]])
    answer.case("for much the same cosines", query=torch.tensor([2.0, 0.0]), images=alike, k=5)
    _expect_each_of_equals(answer)


def _expect_each_of_equals(answer):
    """Two images are equal, and nearest to the query."""
    answer.judge()  # an answer that is wrong anyway gets its own sentence
    images = torch.tensor([[1.0, 4], [3, 1], [1, 1], [3, 1]])
    found = answer.result(query=torch.tensor([2.0, 0.0]), images=images, k=3).tolist()
    answer.expect(
        found in ([1, 3, 2], [3, 1, 2]),
        f"images 1 and 3 of four are equal and the nearest two; expected [1, 3, 2] or [3, 1, 2], but got {found}. "
        "Take the indices from topk or argsort, which return each image once.",
    )
