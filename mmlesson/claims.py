"""What a failing assert of a notebook says: the values that it compared, not only its name."""

import ast
import builtins
import itertools
import types

import torch

from mmlesson import display

_EXPLAIN = "__mmlesson_explain__"  # explain, where every cell finds it
_NO_ARGUMENTS = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
_count = itertools.count()  # of the values kept: no two asserts share a name


def watch():
    """From the next cell on, a failing `assert` without a message says what was measured. Does nothing outside IPython.

    Each cell's asserts are rewritten before they run (as pytest does in tests): `assert accuracy > 0.9` keeps the
    accuracy that it compared. Nothing is computed twice.
    """
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell = get_ipython()
    if shell is not None and not any(isinstance(t, _Rewriter) for t in shell.ast_transformers):
        setattr(builtins, _EXPLAIN, explain)
        shell.ast_transformers.append(_Rewriter())


def explain(claim, measured):
    """The sentence of a failed claim. claim: its source; measured: {source of a part: () -> its value}."""
    values = []
    for source, value in measured.items():
        try:
            found = value()
        except NameError:  # `a and b`: b was not computed
            continue
        if not isinstance(found, types.ModuleType) and not callable(found):
            values.append(f"{source} is {_short(found)}")
    said = f"Expected {claim}, but {' and '.join(values) or 'it is false'}."
    return display.wrapped(f"{said} Did you change something above, or stop a training early?")


class _Rewriter(ast.NodeTransformer):
    """assert a < b  ->  assert (x0 := a) < (x1 := b), explain("a < b", {"a": lambda: x0, "b": lambda: x1})."""

    def visit_Assert(self, node):
        if node.msg is not None:
            return node
        claim, parts = ast.unparse(node.test), {}
        node.test = self._keep(node.test, parts)
        measured = ast.Dict(
            keys=[ast.Constant(source) for source in parts],
            values=[ast.Lambda(_NO_ARGUMENTS, ast.Name(name, ast.Load())) for name in parts.values()],
        )
        function = ast.Name(_EXPLAIN, ast.Load())
        node.msg = ast.Call(function, [ast.Constant(claim), measured], [])
        return ast.fix_missing_locations(node)

    def _keep(self, node, parts):
        """The expression with each part that it compares kept under a name; constants need none."""
        if isinstance(node, ast.BoolOp):
            node.values = [self._keep(value, parts) for value in node.values]
        elif isinstance(node, ast.UnaryOp):
            node.operand = self._keep(node.operand, parts)
        elif isinstance(node, ast.Compare):
            node.left = self._named(node.left, parts)
            node.comparators = [self._named(value, parts) for value in node.comparators]
        elif isinstance(node, ast.Call):  # x.allclose(y), torch.equal(x, y), all(x > 0 for x in y)
            if isinstance(node.func, ast.Attribute):
                node.func.value = self._named(node.func.value, parts)
            node.args = [self._named(argument, parts) for argument in node.args]
        return node

    def _named(self, node, parts):
        if isinstance(node, ast.Name):
            parts[node.id] = node.id
        elif isinstance(node, ast.GeneratorExp):  # no name can be given in it; what it runs through has one
            for name in (n for each in node.generators for n in ast.walk(each.iter) if isinstance(n, ast.Name)):
                parts[name.id] = name.id
        elif not isinstance(node, (ast.Starred, ast.Constant)) and not _is_number(node):
            parts[ast.unparse(node)] = name = f"_claimed_{next(_count)}"
            return ast.NamedExpr(ast.Name(name, ast.Store()), node)
        return node


def _is_number(node):
    """-1, 1e-5, 2 / 3: what needs no measurement."""
    return all(isinstance(n, (ast.Constant, ast.UnaryOp, ast.BinOp, ast.unaryop, ast.operator)) for n in ast.walk(node))


def _short(value):
    """A number with four digits, a small tensor as a list, a large one by its shape and range; other things by repr."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, torch.Tensor):
        value = value.detach()
        if value.numel() == 1:
            return _short(value.item())
        if value.numel() <= 8:
            return "[" + ", ".join(_short(v) for v in value.flatten().tolist()) + "]"
        shape = " x ".join(map(str, value.shape))
        if value.dtype == torch.bool:
            return f"a tensor of {shape}, {int(value.sum())} of {value.numel()} true"
        return f"a tensor of {shape} from {_short(value.min().item())} to {_short(value.max().item())}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_short(v)}" for key, v in list(value.items())[:6]) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_short, value[:8])) + (", ..." if len(value) > 8 else "") + "]"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
