"""A claim of a notebook that fails says what was measured."""

import ast
import builtins

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from mmlesson import claims


@pytest.fixture
def shell(monkeypatch):
    shell = InteractiveShell.instance()
    monkeypatch.setattr(shell, "ast_transformers", [])
    claims.watch()
    yield shell
    InteractiveShell.clear_instance()


def failure(shell, source, **names):
    """The words of the AssertionError of a cell, as one line; None if it raises none."""
    shell.user_ns.update(names, torch=torch)
    error = shell.run_cell(source).error_in_exec
    return None if error is None else " ".join(str(error).split())


@pytest.mark.parametrize(
    "source, said",
    [
        ("assert accuracy > 0.95", "Expected accuracy > 0.95, but accuracy is 0.9123."),
        ("assert recall['ViT'] >= 2 * 0.3", "but recall['ViT'] is 0.25."),
        ("assert 0 < accuracy < recall['ViT']", "but accuracy is 0.9123 and recall['ViT'] is 0.25."),
        ("assert accuracy > 0.5 and recall['ViT'] > 0.5", "but accuracy is 0.9123 and recall['ViT'] is 0.25."),
        ("assert accuracy > 0.95 and missing > 1", "but accuracy is 0.9123. Did"),
        ("assert (values - 1).abs().max() < 1e-3", "but (values - 1).abs().max() is 2."),
        ("assert values.allclose(torch.ones(3))", "but values is [1, 2, 3] and torch.ones(3) is [1, 1, 1]."),
        ("assert torch.equal(values, values + 1)", "but values is [1, 2, 3] and values + 1 is [2, 3, 4]."),
        ("assert not values.sum() == 6", "but values.sum() is 6."),
        ("assert all(r > 0.5 for r in recall.values())", "but recall is {'ViT': 0.25, 'ResNet': 0.8}."),
        ("assert (large > 0).all()", "but large > 0 is a tensor of 5 x 4, 0 of 20 true."),
        ("assert large.sum() > 0", "but large.sum() is 0."),
        ("for x in [3, 2, 1]:\n    assert x > 1", "but x is 1."),
        ("def check(x):\n    assert x > 1\ncheck(0.5)", "but x is 0.5."),
        ("assert flag", "Expected flag, but it is false."),
    ],
)
def test_what_was_measured_is_said(shell, source, said):
    measured = {"accuracy": 0.91234, "recall": {"ViT": 0.25, "ResNet": 0.8}, "values": torch.tensor([1.0, 2.0, 3.0])}
    message = failure(shell, source, **measured, large=torch.zeros(5, 4), flag=False)
    assert said in message
    assert message.endswith("Did you change something above, or stop a training early?")


def test_what_holds_is_silent_and_computed_once(shell):
    calls = []
    assert failure(shell, "assert 0 < measure() < 2 and values.sum() == 1", measure=lambda: calls.append(1) or 1,
                   values=torch.ones(1)) is None  # fmt: skip
    assert calls == [1]


def test_an_assert_with_words_of_its_own_keeps_them(shell):
    assert failure(shell, "assert 1 > 2, 'so it is'") == "so it is"


def test_watching_twice_rewrites_once(shell):
    claims.watch()
    assert len(shell.ast_transformers) == 1


def test_other_code_is_untouched():
    source = "def f(x):\n    return [y for y in x if y]\nclass A:\n    b = 1\n"
    assert ast.unparse(claims._Rewriter().visit(ast.parse(source))) == ast.unparse(ast.parse(source))


def test_outside_ipython_nothing_happens(monkeypatch):
    InteractiveShell.clear_instance()
    monkeypatch.delattr(builtins, claims._EXPLAIN, raising=False)
    claims.watch()
    assert not hasattr(builtins, claims._EXPLAIN)
