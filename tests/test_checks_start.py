"""Mutation tests of lesson 00's exercise: wrong answers fail with the right sentence, correct variants pass."""

import pytest
import torch
import torch.nn.functional as F

from mmlesson.check import CheckFailed, start


def rank(score, pick=lambda scores, k: scores.topk(k).indices):
    """A search put together from a score and a choice, which a mutant can replace."""
    return lambda query, pictures, k: pick(score(query, pictures), k)


def cosine(query, pictures):
    return F.normalize(pictures, dim=1) @ F.normalize(query, dim=0)


def search_in_place(query, pictures, k):
    pictures /= pictures.norm(dim=1, keepdim=True)
    return (pictures @ query).topk(k).indices


def search_by_loops(query, pictures, k):
    def near(i):
        return float(query @ pictures[i]) / float(pictures[i] @ pictures[i]) ** 0.5

    return torch.tensor(sorted(range(len(pictures)), key=near, reverse=True)[:k])


WRONG = {
    "you rank by dot product": rank(lambda query, pictures: pictures @ query),
    "a long feature wins": rank(lambda query, pictures: pictures / pictures.norm() @ query),  # dim forgotten
    "you rank by distance": rank(lambda query, pictures: -(pictures - query).norm(dim=1)),
    "over the pictures (dim=0)": rank(lambda query, pictures: F.normalize(pictures, dim=0) @ query),
    "leave out the abs": rank(lambda query, pictures: cosine(query, pictures).abs()),
    "the farthest come first": rank(cosine, lambda scores, k: scores.argsort()[:k]),
    "keep the first k": rank(cosine, lambda scores, k: scores.argsort(descending=True)),
    "not in order": rank(cosine, lambda scores, k: scores.topk(k).indices.sort().values),
    "topk and sort give (values, indices)": rank(cosine, lambda scores, k: scores.topk(k)),
    "return the indices of the pictures": rank(cosine, lambda scores, k: scores.topk(k).values),
    "should be a torch.Tensor, but is a list": rank(cosine, lambda scores, k: scores.topk(k).indices.tolist()),
    "dtype torch.int32; expected torch.int64": rank(cosine, lambda scores, k: scores.topk(k).indices.int()),
    "has shape (1, 4); expected (4,) = (k,)": rank(cosine, lambda scores, k: scores[None].topk(k).indices),
    "has shape (); expected (1,) = (k,)": rank(cosine, lambda scores, k: scores.topk(k).indices.squeeze()),
    "changes its input pictures in place": search_in_place,
    "raised RuntimeError in the line": rank(lambda query, pictures: query @ pictures),
}
RIGHT = {
    "normalize and topk": rank(cosine),
    "cosine_similarity and argsort": rank(
        lambda query, pictures: F.cosine_similarity(query, pictures), lambda s, k: s.argsort(descending=True)[:k]
    ),
    "distance between normalized features": rank(
        lambda query, pictures: -(F.normalize(pictures, dim=1) - F.normalize(query, dim=0)).norm(dim=1)
    ),
    "the query keeps its length": rank(lambda query, pictures: F.normalize(pictures, dim=1) @ query),
    "loops": search_by_loops,
}


@pytest.mark.parametrize("phrase", WRONG)
def test_wrong_answer_is_named(phrase):
    with pytest.raises(CheckFailed) as caught:
        start.search(WRONG[phrase])
    sentence = str(caught.value)
    assert phrase in sentence
    assert sentence.startswith("search: ") and "\n" not in sentence and sentence.endswith((".", "?"))


@pytest.mark.parametrize("variant", RIGHT)
def test_correct_variant_passes(variant, capsys):
    start.search(RIGHT[variant])
    line = capsys.readouterr().out
    assert line.startswith("search: ") and "checks passed (" in line and line.count("\n") == 1


def test_unfilled_exercise_prints_and_does_not_raise(capsys):
    def not_filled(query, pictures, k):
        raise NotImplementedError()

    start.search(not_filled)
    assert capsys.readouterr().out == "search: not attempted yet. Fill in the body above and run the cell again.\n"
