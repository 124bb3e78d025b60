"""Instant feedback on the exercises, one module per lesson; a failed check names the mistake in a sentence.

    from mmlesson.check import clip as check
    check.clip_loss(my_clip_loss)

A check tests type, shape, dtype, finiteness and value, in this order. It computes the usual wrong answers too, so that
it can tell which one it sees. tests/test_checks.py holds, for every exercise, answers that must fail and answers that
must pass.
"""

import copy
import functools
import math
import traceback

import torch

DTYPES = torch.float32, torch.float64


class CheckFailed(AssertionError):
    """The answer is not right yet; the message says what was expected and where to look."""

    def _render_traceback_(self):
        return [str(self)]  # IPython shows these lines instead of a traceback


class NotAttempted(Exception):
    """The body of the exercise is still empty."""


def exercise(verified):
    """Decorate check(answer) so that it takes the learner's function and prints one line when it passes.

    `verified` says in a few words what a pass has verified. Raises CheckFailed; an empty body prints a friendly line.
    """

    def decorate(check):
        @functools.wraps(check)
        def run(function):
            answer = Answer(check.__name__, function)
            try:
                check(answer)
            except NotAttempted as remark:
                print(f"{answer.name}: not attempted yet. Fill in the body above and run the cell again.{remark}")
            else:
                print(f"{answer.name}: {answer.passed} checks passed ({verified}).")

        return run

    return decorate


class Answer:
    """A learner's function: call it with named inputs, then state what is expected of its result."""

    def __init__(self, name, function):
        self.name, self.function, self.calls, self.passed = name, function, 0, 0
        if not callable(function):
            self.fail(f"give the check the function itself, without calling it, as in check.{name}(my_{name}).")

    def __call__(self, **inputs):
        """The function's result; None or ... from the first call means that the body is still empty."""
        result = self.run(**inputs)
        if self.calls == 1 and result is ...:
            raise NotAttempted
        if self.calls == 1 and result is None:
            raise NotAttempted(" (It returned None: if the body is filled in, is its `return` missing?)")
        if result is None:
            self.fail(f"your function returned None when called with {_describe(inputs)}; is a `return` missing?")
        return result

    def run(self, **inputs):
        """Call the function, by position so that parameters may be renamed; an exception becomes a sentence."""
        self.calls += 1
        before = {name: copy.deepcopy(x) for name, x in inputs.items() if isinstance(x, (torch.Tensor, list, dict))}
        try:
            result = self.function(*inputs.values())
        except Exception as error:
            # torch raises NotImplementedError as well, as in: "softmax" not implemented for 'Bool'.
            if isinstance(error, NotImplementedError) and "not implemented for" not in str(error):
                raise NotAttempted from None
            frames = traceback.extract_tb(error.__traceback__)[1:]  # the first frame is this method
            where = f" in the line `{frames[0].line}`" if frames and frames[0].line else ""
            reason = (str(error).splitlines() or ["no message"])[0].rstrip(".")
            raise CheckFailed(
                f"{self.name}: your function raised {type(error).__name__}{where}: {reason}. "
                f"It was called with {_describe(inputs)}."
            ) from error
        for name, x in before.items():
            if not _same(x, inputs[name]):
                self.fail(f"your function changes its input {name} in place; work on a copy instead.")
        return result

    def fail(self, sentence):
        """Raise CheckFailed with this sentence."""
        raise CheckFailed(f"{self.name}: {sentence.strip()}")

    def expect(self, condition, sentence):
        """Fail with this sentence unless the condition holds."""
        if not condition:
            self.fail(sentence)
        self.passed += 1

    def expect_tensor(self, what, got, expected, wrong=(), axes="", hint=""):
        """Compare type, shape, dtype, finiteness and value.

        what: the subject of the sentences, such as "the output". wrong: the usual wrong answers, (tensor, sentence).
        axes: names of the expected axes. hint: added when the values are not finite or differ for no known reason.
        """
        if not isinstance(got, torch.Tensor):
            self.fail(f"{what} should be a torch.Tensor, but is a {type(got).__name__}.")
        got = got.detach().cpu()
        # A wrong answer may have another shape (a missing axis, a transpose), so it can explain that as well.
        known = next((sentence for x, sentence in wrong if _close(got, x)), None)
        if got.shape != expected.shape:
            axes = f" = {axes}" if axes else ""
            self.fail(known or f"{what} has shape {tuple(got.shape)}; expected {tuple(expected.shape)}{axes}.")
        if got.dtype != expected.dtype:
            like = ", the dtype of the inputs" if expected.is_floating_point() else ""
            self.fail(f"{what} has dtype {got.dtype}; expected {expected.dtype}{like}.")
        if not got.isfinite().all():
            bad = ~got.isfinite()
            count = f"has {bad.sum()} of {got.numel()} values that are" if got.ndim else "is"
            self.fail(known or f"{what} {count} NaN or infinite{_first(bad)}. {hint}")
        if not _close(got, expected):
            self.fail(known or f"{_difference(what, got, expected)} {hint}")
        self.passed += 1

    def expect_value(self, what, got, expected, wrong=()):
        """Compare type and value of a plain Python object: a float or a tuple."""
        known = next((sentence for x, sentence in wrong if _equal(got, x)), None)
        kind = type(expected).__name__
        if isinstance(got, torch.Tensor):
            end = ": end with .item()" if kind == "float" else ""
            self.fail(f"{what} is a tensor of shape {tuple(got.shape)}; expected a Python {kind}{end}.")
        if not isinstance(got, type(expected)):
            self.fail(known or f"{what} should be a {kind}, but is {got!r}, of type {type(got).__name__}.")
        if not _equal(got, expected):
            self.fail(known or f"{what} is {_short(got)}; expected {_short(expected)}.")
        self.passed += 1

    def expect_gradients(self, what, result, hint="", **inputs):
        """Expect a finite gradient, not zero everywhere, from the result to each of these inputs."""
        names, leaves = list(inputs), list(inputs.values())
        gradients = [None] * len(leaves)
        if result.requires_grad:
            gradients = torch.autograd.grad(result.square().sum(), leaves, allow_unused=True, retain_graph=True)
        for name, gradient in zip(names, gradients, strict=True):
            if gradient is None or not gradient.any():
                self.fail(f"no gradient flows from {what} to {name}: look for .item(), .detach(), .data or no_grad.")
            if not gradient.isfinite().all():
                self.fail(f"{what} is right, but the gradient that it sends to {name} is NaN or infinite. {hint}")
        self.passed += 1


def randn(*shape, seed, dtype=torch.float32):
    """Normal random numbers on the CPU, the same in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)


def _same(a, b):
    """Whether two inputs are equal; lists and dicts may hold tensors."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(x, b[key]) for key, x in a.items())
    return a == b


def _close(a, b):
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5, equal_nan=True)


def _equal(a, b):
    numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) if numbers else type(a) is type(b) and a == b


def _short(value):
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


def _first(bad):
    """Where the first True is, in words; nothing for a single number."""
    return f", first at index {tuple(bad.nonzero()[0].tolist())}" if bad.ndim else ""


def _difference(what, got, expected):
    if not got.ndim:
        return f"{what} is {_short(got.item())}; expected {_short(expected.item())}."
    wrong = ~torch.isclose(got.double(), expected.double(), rtol=1e-4, atol=1e-5)
    size = f" by up to {(got - expected).abs().max():.3g}" if got.is_floating_point() else ""
    first = tuple(wrong.nonzero()[0].tolist())
    return (
        f"the values of {what} differ{size}{_first(wrong)}: "
        f"expected {_short(expected[first].item())}, got {_short(got[first].item())}."
    )


def _describe(inputs):
    """The inputs of a call in words, such as "q float32 (2, 3, 4), patch 2, names (list of 3)"."""

    def describe(name, x):
        if isinstance(x, torch.Tensor):
            return f"{name} {str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
        if isinstance(x, (list, dict)):
            return f"{name} ({type(x).__name__} of {len(x)})"
        return f"{name} {x}" if isinstance(x, (int, float)) else f"{name} ({type(x).__name__})"

    return ", ".join(describe(name, x) for name, x in inputs.items())
