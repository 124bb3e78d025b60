"""Results and gradients beside the expected ones: whether they agree, and if not, what to say."""

import math

import torch


def alike(a, b):
    """Whether two results are the same for a check: types of numbers aside, and up to rounding."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return _kind(a) == _kind(b) and a.shape == b.shape and _close(a.detach(), b.detach())
    if isinstance(a, (tuple, list)) and type(a) is type(b):
        return len(a) == len(b) and all(map(alike, a, b))
    if _is_number(a) and _is_number(b):
        return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) or (a != a and b != b)
    return type(a) is type(b) and a == b


def difference(what, got, expected, axes="", hint=""):
    """The sentence on a result that is not as expected, or None: type, shape, dtype, finiteness, value, in this order.

    what: its name in the sentence, such as "the output". axes: the names of its axes, such as "(N, T)". hint: added
    when the values are not finite or differ.
    """
    if isinstance(expected, torch.Tensor):
        return _tensor_difference(what, got, expected, axes, hint)
    kind = type(expected).__name__
    if isinstance(got, torch.Tensor):
        end = ": end with .item()" if _is_number(expected) else ""
        return f"{what} is a tensor of shape {tuple(got.shape)}; expected a Python {kind}{end}."
    if type(got) is not type(expected):
        return f"{what} should be {_article(kind)}, but is {_one_line(got)}, of type {type(got).__name__}."
    if isinstance(expected, list):
        odd = next((x for x in got if expected and type(x) is not type(expected[0])), None)
        if odd is not None:
            return (
                f"{what} holds {_one_line(odd)}, of type {type(odd).__name__}; expected {type(expected[0]).__name__}s."
            )
    if not alike(got, expected):
        got, expected = _short(got, expected)
        return f"{what} is {got}; expected {expected}. {hint}"
    return None


def _tensor_difference(what, got, expected, axes, hint):
    if not isinstance(got, torch.Tensor):
        return f"{what} should be a torch.Tensor, but is {_article(type(got).__name__)}."
    got = got.detach()
    if got.layout != expected.layout:
        return f"{what} is a sparse tensor: end with .to_dense()."
    if got.device != expected.device:
        return f"{what} is on the device {got.device}; expected {expected.device}, the device of the inputs."
    if got.shape != expected.shape:
        axes = f" = {axes}" if axes else ""
        return f"{what} has shape {tuple(got.shape)}; expected {tuple(expected.shape)}{axes}."
    if got.dtype != expected.dtype:
        like = ", the dtype of the inputs" if expected.is_floating_point() else ""
        return f"{what} has dtype {got.dtype}; expected {expected.dtype}{like}."
    if not got.isfinite().all() and expected.isfinite().all():
        bad = ~got.isfinite()
        count = f"has {bad.sum()} of {got.numel()} values that are" if got.ndim else "is"
        return f"{what} {count} NaN or infinite{_first(bad)}. {hint}"
    if _close(got, expected):
        return None
    if not got.ndim:
        got, expected = _short(got.item(), expected.item())
        return f"{what} is {got}; expected {expected}. {hint}"
    wrong = ~torch.isclose(got.double(), expected.double(), rtol=1e-4, atol=1e-5)
    size = f" by up to {(got - expected).abs().max():.3g}" if got.is_floating_point() else ""
    where, first = _first(wrong), tuple(wrong.nonzero()[0].tolist())
    got, expected = _short(got[first].item(), expected[first].item())
    return f"the values of {what} differ{size}{where}: expected {expected}, got {got}. {hint}"


def gradients(parts, inputs, names):
    """{(part, name): gradient or None}, from every float tensor in the dict `parts` to these inputs.

    A part's gradient is that of a weighted sum of its values; the weights are random, always the same. Raises
    what the backward pass raises.
    """
    found, leaves = {}, [inputs[name] for name in names]
    for part, x in parts.items():
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            continue
        got = [None] * len(leaves)
        if x.requires_grad:
            weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(x.numel()), dtype=torch.float64)
            total = (x * weights.to(x)).sum()
            got = torch.autograd.grad(total, leaves, allow_unused=True, retain_graph=True)
        found |= {(part, name): g for name, g in zip(names, got)}
    return found


def alike_gradients(a, b):
    return a.keys() == b.keys() and all(_close_gradient(a[key], b[key]) for key in a)


def gradient_difference(part, name, got, expected, hint=""):
    """The sentence on a gradient that is not as expected, or None. A gradient of zeros counts as none."""
    if _close_gradient(got, expected):
        return None
    if got is None or not got.any():
        return (
            f"no gradient flows from {part} to {name}: "
            "look for .item(), .tolist(), .detach(), .data, numpy, torch.tensor(...) or no_grad."
        )
    if not got.isfinite().all():
        return f"{part} is right, but the gradient that it sends to {name} is NaN or infinite. {hint}"
    if expected is None or not expected.any():
        return f"{part} is right, but it sends a gradient to {name}, which should get none."
    wrong = ~torch.isclose(got, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    first = tuple((wrong if wrong.any() else got != expected).nonzero()[0].tolist())
    got, expected = _short(got[first].item(), expected[first].item())
    return (
        f"{part} is right, but not the gradient that it sends to {name}: at index {first} expected {expected}, "
        f"got {got}. Is a part of the way cut off by .detach() or no_grad, or rounded? {hint}"
    )


def backward_failure(what, message):
    """The sentence on a backward pass that raised an error with this message."""
    reason = f": {message}."
    if "inplace operation" in message:
        reason = (
            ", because a tensor that it needs was changed in place (x[...] = ..., x *= ..., a method that ends in _): "
            "write a new tensor instead."
        )
    return f"the values of {what} are right, but the backward pass fails{reason}"


def _close_gradient(a, b):
    a, b = (None if x is None or not x.any() else x.double() for x in (a, b))
    if a is None or b is None:
        return a is b
    largest = b.nan_to_num().abs().max().item()
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4 * largest, equal_nan=True)


def _kind(x):
    return x.device, x.layout


def _close(a, b):
    return torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5, equal_nan=True)


def _is_number(x):
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def _short(a, b):
    """Two values in words, with as many digits as tell them apart."""
    if not (isinstance(a, float) and isinstance(b, float)):
        return _one_line(a), _one_line(b)
    words = ((f"{a:.{digits}g}", f"{b:.{digits}g}") for digits in (4, 6, 9, 17))
    return next((pair for pair in words if pair[0] != pair[1]), (repr(a), repr(b)))


def _one_line(value):
    """The repr of a value, or its beginning if that is long."""
    line, *more = repr(value).splitlines()
    return f"{line[:80]} ..." if more or len(line) > 80 else line


def _article(noun):
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _first(bad):
    """Where the first True is, in words; nothing for a single number."""
    return f", first at index {tuple(bad.nonzero()[0].tolist())}" if bad.ndim else ""
