"""Metrics with a known truth, by hand."""

import pytest
import torch

from mmlesson.metrics import attention_inside, pointing_chance, pointing_game, recall_at_k

BOX = torch.tensor([0.25, 0.5, 0.75, 1.0])  # columns 1 and 2 of 4, the lower one of 2 rows


def one_hot(row, column):
    grid = torch.zeros(2, 4)
    grid[row, column] = 1
    return grid


def test_pointing_game_looks_at_the_largest_cell():
    maps = torch.stack([one_hot(1, 1), one_hot(1, 2), one_hot(1, 0), one_hot(0, 1)]) + 0.1
    assert pointing_game(maps, BOX.expand(4, 4)).tolist() == [True, True, False, False]


def test_pointing_game_broadcasts_boxes_over_heads():
    maps = torch.stack([torch.stack([one_hot(1, 1), one_hot(0, 0)]), torch.stack([one_hot(0, 3), one_hot(1, 2)])])
    boxes = torch.stack([BOX, torch.tensor([0.0, 0.0, 1.0, 0.5])])
    assert pointing_game(maps, boxes[:, None]).tolist() == [[True, False], [True, False]]


def test_chance_is_the_fraction_of_cells_inside():
    assert pointing_chance((2, 4), BOX).item() == 2 / 8


def test_attention_inside_is_the_area_for_even_attention():
    boxes = torch.tensor([[0.1, 0.2, 0.75, 0.9], [0.0, 0.0, 1.0, 1.0], [0.3, 0.3, 0.31, 0.32]])
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    torch.testing.assert_close(attention_inside(torch.full((3, 5, 7), 0.2), boxes), area)


def test_attention_inside_counts_a_cell_on_the_edge_by_its_area():
    box = torch.tensor([0.125, 0.5, 0.25, 0.75])  # half of one cell's width, half of its height
    assert attention_inside(one_hot(1, 0), box).item() == pytest.approx(0.25)
    assert attention_inside(one_hot(1, 1), box).item() == 0


def test_scores_refuse_what_has_no_meaning():
    with pytest.raises(ValueError, match=r"boxes \(..., 4\), got \(2, 4\) and \(3,\)"):
        pointing_game(one_hot(0, 0), torch.zeros(3))
    with pytest.raises(ValueError, match="after its softmax"):
        attention_inside(-one_hot(0, 0), BOX)
    with pytest.raises(ValueError, match="nan or inf"):
        pointing_game(one_hot(0, 0) * float("nan"), BOX)


def test_recall_at_k():
    similarity = torch.tensor([[0.9, 0.1, 0.2, 0.0], [0.8, 0.3, 0.1, 0.0], [0.5, 0.6, 0.4, 0.0]])
    assert recall_at_k(similarity) == pytest.approx(1 / 3)
    assert recall_at_k(similarity, 2) == pytest.approx(2 / 3)
    assert recall_at_k(similarity, 3) == 1
    assert recall_at_k(similarity, 1, target=torch.tensor([0, 0, 1])) == 1


def test_a_collapsed_model_recalls_nothing():
    assert recall_at_k(torch.ones(5, 5), 4) == 0


def test_recall_refuses_what_has_no_order():
    with pytest.raises(ValueError, match="not finite"):
        recall_at_k(torch.full((2, 2), float("nan")))
    with pytest.raises(ValueError, match="from 1 to the 2 candidates, not 3"):
        recall_at_k(torch.eye(2), 3)
    with pytest.raises(ValueError, match="pass target"):
        recall_at_k(torch.ones(3, 2))
