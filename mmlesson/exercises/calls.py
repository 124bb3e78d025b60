"""Calls a learner's function: whatever it does becomes a sentence, and what it changes is changed back."""

import ast
import copy
import dis
import fnmatch
import functools
import inspect
import os
import textwrap
import threading
import traceback
from contextlib import contextmanager

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

TORCH, CHECKS = os.path.dirname(torch.__file__), os.path.dirname(__file__)  # whose lines are not a learner's
WAIT = 10  # seconds until a check says that it is still waiting


class CheckFailed(AssertionError):
    """The answer is not right yet; the message says what was expected and where to look."""

    def _render_traceback_(self):
        return [str(self)]  # IPython shows these lines instead of a traceback


class Interrupted(CheckFailed):
    """The learner interrupted the check while their function ran."""


class NotAttempted(CheckFailed):
    """The body of the exercise is still empty."""

    def __init__(self, name):
        super().__init__(f"{name}: not attempted yet. Fill in the body above and run the cell again.")


def _device():
    return torch.empty(0).device  # torch.get_default_device fails in 2.6 once a default was set and removed


def _set_device(device):
    torch.set_default_device(None if device.type == "cpu" else device)  # None removes the setting
    try:
        torch.get_default_device()
    except AttributeError:  # 2.6 cannot read a setting that was removed, and transformers reads it
        torch.set_default_device(device)


# Settings of the whole kernel that no answer may leave changed: how to read one, how to set it, what checks use, and
# what to say.
KERNEL = (
    (
        torch.is_grad_enabled,
        torch.set_grad_enabled,
        True,
        "your function leaves gradients switched off for the whole kernel (they are on again): "
        "`with torch.no_grad():` switches them off for a few lines.",
    ),
    (
        torch.get_default_dtype,
        torch.set_default_dtype,
        torch.float32,
        "your function leaves another default dtype for the whole kernel (it is changed back): "
        "give the dtype to the functions that make tensors.",
    ),
    (
        _device,
        _set_device,
        torch.device("cpu"),
        "your function leaves another default device for the whole kernel (it is changed back): "
        "give the device to the functions that make tensors.",
    ),
    (
        torch.is_anomaly_enabled,
        torch.autograd.set_detect_anomaly,
        False,
        "your function leaves torch's anomaly detection on for the whole kernel (it is off again).",
    ),
    (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
        False,
        "your function changes torch.use_deterministic_algorithms for the whole kernel (it is changed back).",
    ),
    (
        torch.get_num_threads,
        torch.set_num_threads,
        None,
        "your function changes the number of torch's threads for the whole kernel (it is changed back).",
    ),
)


@contextmanager
def clean_kernel():
    """The kernel as checks expect it: settings at torch's defaults, random numbers to be forgotten. Then as before."""
    before = [read() for read, *_ in KERNEL]
    with torch.random.fork_rng(devices=[]):
        try:
            for read, put, default, _ in KERNEL:
                if default is not None and read() != default:  # torch imports much when some of them are set
                    put(default)
            yield
        finally:
            for (read, put, *_), value in zip(KERNEL, before):
                if read() != value:
                    put(value)


@contextmanager
def waiting(name):
    """Say that the check still waits, once, if this takes longer than WAIT seconds."""
    message = (
        f"{name}: your function has been running for {WAIT} seconds, and the check goes on waiting. "
        "If it looks endless, interrupt the kernel."
    )
    timer = threading.Timer(WAIT, functools.partial(print, message, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _Watch(TorchFunctionMode):
    """Notes which of these words are parts of names of torch functions that are called, in whatever way."""

    def __init__(self, words):
        super().__init__()
        self.words, self.seen = words, set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.seen |= {word for word in self.words if word in getattr(function, "__name__", "")}
        return function(*args, **(kwargs or {}))


def call(name, function, inputs, changes=(), forbidden=()):
    """What function returns for the dict `inputs`, given by position; anything else that it does becomes a sentence.

    changes: patterns of what it may change, such as "model.logit_scale". forbidden: words in the names of torch
    functions that it may not use. Raises CheckFailed, or NotAttempted if a `raise NotImplementedError()` of its own is
    all that it does.
    """
    before = _contents_of_all(inputs)
    settings = [read() for read, *_ in KERNEL]
    try:
        with _Watch(forbidden) as watch:
            result = function(*inputs.values())
    except BaseException as error:  # exit() and an interrupt as well
        raise _in_words(name, function, error, inputs) from (None if isinstance(error, KeyboardInterrupt) else error)
    finally:
        changed = [
            (put(value), sentence)[1] for (read, put, _, sentence), value in zip(KERNEL, settings) if read() != value
        ]
    if changed:
        raise CheckFailed(f"{name}: {changed[0]}")
    if watch.seen:
        used = ", ".join(sorted(watch.seen))
        raise CheckFailed(f"{name}: your function uses {used}, which this exercise asks you to do without.")
    after = _contents_of_all(inputs)
    for path in before | after:
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in changes):
            continue
        sentence = _change(path, before.get(path), after.get(path), inputs)
        if sentence:
            raise CheckFailed(f"{name}: {sentence}")
    return result


def _in_words(name, function, error, inputs):
    """The exception to raise in place of `error`, which a learner's function raised."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first frame is `call`
    own = [frame for frame in frames if not frame.filename.startswith((TORCH, CHECKS))] or frames
    where = f" in the line `{own[0].line}`" if own and own[0].line else ""
    if isinstance(error, NotImplementedError) and _raised_itself(error.__traceback__):
        if is_more_than_a_raise(function):
            return CheckFailed(
                f"{name}: `raise NotImplementedError()` still stands in your function and stops it: delete that line."
            )
        return NotAttempted(name)
    if isinstance(error, CheckFailed):
        return error
    if isinstance(error, SystemExit):
        return CheckFailed(f"{name}: your function calls exit(){where}: use `return`, which ends the function alone.")
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(f"{name}: interrupted{where}. Your function was called with {describe(inputs)}.")
    raised = f"raised {type(error).__name__}{where}: {message(error)}."
    return CheckFailed(f"{name}: your function {raised} It was called with {describe(inputs)}.")


def message(error):
    """The first line of an error's message."""
    first_line = traceback.format_exception_only(error)[-1].splitlines()[0]
    return first_line.partition(": ")[2].rstrip(".") or "no message"


def _raised_itself(trace):
    """Whether the learner's own code raised it by a `raise`; torch raises NotImplementedErrors as well."""
    *_, last = _chain(trace)
    code = last.tb_frame.f_code
    if code.co_filename.startswith(TORCH):
        return False
    return any(i.offset == last.tb_lasti and i.opname == "RAISE_VARARGS" for i in dis.get_instructions(code))


def _chain(trace):
    while trace:
        yield trace
        trace = trace.tb_next


def is_more_than_a_raise(function):
    """Whether a body has statements besides its docstring and a `raise`; False if its source cannot be read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
        body = tree.body[0].body
    except (OSError, TypeError, SyntaxError, AttributeError, IndexError):
        return False

    def is_filler(statement):
        constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        return constant or isinstance(statement, (ast.Raise, ast.Pass))

    return not all(map(is_filler, body))


def is_empty(function):
    """Whether a function consists of a docstring, `pass` or `...` alone."""
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    done = {"RESUME", "NOP", "COPY_FREE_VARS", "MAKE_CELL", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}
    steps = list(dis.get_instructions(code))
    constants = [step.argval for step in steps if step.opname in ("LOAD_CONST", "RETURN_CONST")]
    return all(step.opname in done for step in steps) and all(c is None or c is ... for c in constants)


def fresh(x):
    """A copy of an input that a call may do anything to: tensors, modules, generators, also within lists and dicts."""
    if isinstance(x, torch.Tensor):
        return x.detach().clone().requires_grad_(x.requires_grad)
    if isinstance(x, torch.Generator):
        return torch.Generator().set_state(x.get_state())
    if isinstance(x, nn.Module):
        twin = copy.deepcopy(x)
        for p, q in zip(x.parameters(), twin.parameters()):
            q.grad = _copy(p.grad)  # deepcopy leaves it out
        return twin
    if isinstance(x, (list, tuple)):
        return type(x)(map(fresh, x))
    if isinstance(x, dict):
        return {key: fresh(value) for key, value in x.items()}
    return x


def _contents_of_all(inputs):
    return {path: value for name, x in inputs.items() for path, value in _contents(x, name).items()}


def _contents(x, path):
    """{path: value} of all in an input that a call might change."""
    if isinstance(x, torch.Tensor):
        gradient = _copy(x.grad) if x.is_leaf else None
        return {path: x.detach().clone(), f"{path}.requires_grad": x.requires_grad, f"{path}.grad": gradient}
    if isinstance(x, nn.Module):
        found = {}
        for name, module in x.named_modules(prefix=path):
            found[f"{name}.training"] = module.training
            for key, p in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                found |= {f"{name}.{key} (the {type(p).__name__})": p} | _contents(p, f"{name}.{key}")
        return found
    if isinstance(x, (list, tuple)):
        found = {path: type(x), f"len({path})": len(x)}
        return found | {k: v for i, y in enumerate(x) for k, v in _contents(y, f"{path}[{i}]").items()}
    if isinstance(x, dict):
        found = {path: type(x), f"len({path})": len(x)}
        return found | {k: v for key, y in x.items() for k, v in _contents(y, f"{path}[{key!r}]").items()}
    return {path: x} if isinstance(x, (str, int, float)) else {}


def _copy(x):
    return None if x is None else x.detach().clone()


def _change(path, before, after, inputs):
    """What to say about the value at this path, before and after; None if it is the same."""
    if " (the " in path:
        if before is after:
            return None
        name = path.split(" ")[0]
        if before is None or after is None:
            return (
                f"your function {'adds' if before is None else 'removes'} {name}: leave the parts of the model alone."
            )
        return f"{name} is another object now, but an optimizer holds the old one: change it in place."
    if isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor):
        same = before.shape == after.shape and before.dtype == after.dtype
        if same and torch.equal(before.nan_to_num(), after.nan_to_num()):
            return None
        if path in inputs:
            return f"your function changes its input {path} in place; work on a copy instead."
        return f"your function changes {path}, which should stay as it is."
    if before is after or (type(before) is type(after) and before == after):
        return None
    root = path.removeprefix("len(").rstrip(")").split("[")[0]
    if root in inputs and isinstance(inputs[root], (list, tuple, dict)):
        return f"your function changes its input {root} in place; work on a copy instead."
    if path.endswith(".grad"):
        return f"your function changes {path}: leave the stored gradients alone."
    if path.endswith(".training") and None in (before, after):
        module = path.removesuffix(".training")
        return f"your function {'adds' if before is None else 'removes'} {module}: leave the parts of the model alone."
    if path.endswith(".training"):
        return (
            f"your function calls {'train' if after else 'eval'}() on {path.removesuffix('.training')}: leave its mode."
        )
    return f"your function changes {path} from {before} to {after}: leave it as it was."


def describe(inputs):
    """The inputs of a call in words, such as "q float32 (2, 3, 4), patch 2, names (list of 3)"."""

    def words(name, x):
        if isinstance(x, torch.Tensor):
            return f"{name} {str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
        if isinstance(x, (list, tuple, dict)):
            return f"{name} ({type(x).__name__} of {len(x)})"
        return f"{name} {x}" if isinstance(x, (int, float)) else f"{name} ({type(x).__name__})"

    return ", ".join(words(name, x) for name, x in inputs.items())
