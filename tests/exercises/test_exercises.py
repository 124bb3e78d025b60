"""Every check names every mistake of its table, accepts right answers however they are written, and stays unhurt.

Beside this file there is one module per lesson with answers that were written independently of the checks: WRONG maps
a phrase of the expected sentence to an answer that deserves it, RIGHT a description to a correct answer.
"""

import importlib
import os
import re
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch import nn

import mmlesson
from mmlesson.exercises import CheckFailed, Exercise, calls
from mmlesson.models.vision import VisionTransformer

exercise_module = importlib.import_module("mmlesson.exercises.exercise")  # the package has a function of that name
LESSONS = ("start_here", "attention", "vision", "clip", "flava", "flamingo", "gemini")
EXERCISES, WRONG, RIGHT = {}, {}, {}
for lesson in LESSONS:
    checks = importlib.import_module(f"mmlesson.exercises.{lesson}")
    answers = importlib.import_module(f"exercises.{lesson}")
    EXERCISES |= {name: found for name, found in vars(checks).items() if isinstance(found, Exercise)}
    WRONG |= answers.WRONG
    RIGHT |= answers.RIGHT


def table(answers):
    return [pytest.param(name, text, id=f"{name}: {text}") for name in answers for text in answers[name]]


MISTAKES = {name: exercise.mistakes for name, exercise in EXERCISES.items()}
every_exercise = pytest.mark.parametrize("name", EXERCISES)


def failure(name, answer):
    """The sentence with which this exercise's check turns an answer down."""
    with pytest.raises(CheckFailed) as caught:
        EXERCISES[name].verify(answer)
    return str(caught.value)


# Mistakes and right answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, sentence", table(MISTAKES))
def test_a_mistake_is_named(name, sentence):
    said = failure(name, MISTAKES[name][sentence])
    assert said == f"{name}: {sentence}"
    assert "\n" not in said and said.endswith((".", "?"))


@pytest.mark.parametrize("name, phrase", table(WRONG))
def test_a_wrong_answer_is_refused(name, phrase):
    said = failure(name, WRONG[name][phrase])
    assert phrase in said
    assert said.startswith(f"{name}: ") and "\n" not in said and said.endswith((".", "?"))


@pytest.mark.parametrize("name, variant", table(RIGHT))
def test_a_right_answer_passes(name, variant, capsys, monkeypatch):
    monkeypatch.setattr(Exercise, "slower", lambda *_: 1)  # loops are right, too
    monkeypatch.setattr(calls, "WAIT", 3600)  # and a busy machine takes its time
    assert EXERCISES[name](RIGHT[name][variant]) is RIGHT[name][variant]
    line = capsys.readouterr().out
    assert re.fullmatch(rf"{name}: \d+ checks passed \(.+\)\.\n", line)


@every_exercise
def test_the_correct_answer_passes_and_others_are_there(name):
    EXERCISES[name].verify(EXERCISES[name].correct)
    assert len(WRONG[name]) >= 3 and len(RIGHT[name]) >= 2


# What goes wrong in every exercise alike -----------------------------------------------------------------------------


def each(change):
    """A change of a result, applied to each of its tensors."""

    def changed(result):
        if isinstance(result, (tuple, list)):
            return type(result)(changed(x) for x in result)
        return change(result) if isinstance(result, torch.Tensor) else result

    return changed


SPOILS = {  # how to spoil the result of a right answer
    "a list": lambda result: result.tolist() if isinstance(result, torch.Tensor) else [result],
    "a string": str,
    "numpy": each(lambda x: x.detach().numpy()),
    "None": lambda result: None,
    "nested": lambda result: (result,),
    "an axis more": each(lambda x: x[None]),
    "no axes of size one": each(lambda x: x.squeeze()),
    "half precision": each(lambda x: x.half() if x.is_floating_point() else x.to(torch.int32)),
    "NaN": each(lambda x: x * torch.nan if x.is_floating_point() else x - 1 if x.dtype != torch.bool else ~x),
    "one per mille off": each(lambda x: x * 1.001 if x.is_floating_point() else x + 1 if x.dtype != torch.bool else ~x),
}


def unchanged(a, b):
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, (tuple, list)) and type(a) is type(b):
        return len(a) == len(b) and all(map(unchanged, a, b))
    return type(a) is type(b) and a == b


def shows_nothing(name, spoil):
    """Whether an exercise returns nothing that could be spoiled in this way."""
    exercise = EXERCISES[name]
    seen = []

    def watched(*inputs):
        result = exercise.correct(*inputs)
        seen.append(unchanged(result, spoil(result)))
        return result

    exercise.verify(watched)
    return all(seen)


@pytest.mark.parametrize("spoil", SPOILS)
@every_exercise
def test_a_spoiled_result_is_refused(name, spoil):
    exercise = EXERCISES[name]
    if exercise.observe or shows_nothing(name, SPOILS[spoil]):
        pytest.skip("this exercise returns nothing of the kind")
    said = failure(name, lambda *inputs: SPOILS[spoil](exercise.correct(*inputs)))
    assert said.startswith(f"{name}: ") and "\n" not in said and said.endswith((".", "?"))


@every_exercise
def test_an_input_changed_in_place_is_named(name):
    exercise, nothing_to_change = EXERCISES[name], []

    def answer(*inputs):
        result = exercise.correct(*inputs)
        for x in inputs:
            if isinstance(x, torch.Tensor) and not x.requires_grad and x.numel():
                x.copy_(x + 1 if x.dtype != torch.bool else ~x)
                return result
            if isinstance(x, list):
                x.append(x[0] if x else None)
                return result
            if isinstance(x, dict):
                x.clear()
                return result
            if isinstance(x, nn.Module):
                x.train(not x.training)
                return result
        nothing_to_change.append(True)
        return result

    try:
        exercise.verify(answer)
    except CheckFailed as failed:
        assert "changes its input" in str(failed) or "leave its mode" in str(failed)
    else:
        assert nothing_to_change
        pytest.skip("this exercise has no such input")


@every_exercise
def test_gradients_that_are_asked_for_must_flow(name):
    exercise, asked = EXERCISES[name], []

    def answer(*inputs):
        asked.extend(x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad)
        with torch.no_grad():
            return exercise.correct(*inputs)

    if "gradient" in exercise.verified:
        assert "no gradient flows from" in failure(name, answer)
        assert asked
    else:
        exercise.verify(answer)
        assert not asked


KERNEL = {
    "gradients switched off": lambda: torch.set_grad_enabled(False),
    "another default dtype": lambda: torch.set_default_dtype(torch.float64),
    "anomaly detection on": lambda: torch.autograd.set_detect_anomaly(True),
    "use_deterministic_algorithms": lambda: torch.use_deterministic_algorithms(True),
    "the number of torch's threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
}


def settings():
    return [read() for read, *_ in calls.KERNEL]


@pytest.mark.parametrize("phrase", KERNEL)
@every_exercise
def test_a_change_of_the_kernel_is_named_and_undone(name, phrase):
    before = settings()

    def answer(*inputs):
        result = EXERCISES[name].correct(*inputs)
        KERNEL[phrase]()
        return result

    assert phrase in failure(name, answer)
    assert settings() == before


@pytest.mark.parametrize("phrase", KERNEL)
@every_exercise
def test_a_learners_own_settings_hurt_no_right_answer_and_stay(name, phrase):
    before = settings()
    try:
        KERNEL[phrase]()
        own, random = settings(), torch.get_rng_state()
        EXERCISES[name].verify(EXERCISES[name].correct)
        assert settings() == own and torch.equal(torch.get_rng_state(), random)
    finally:
        for (_, put, *_), value in zip(calls.KERNEL, before):
            put(value)


class PositionsOnTheCPU(VisionTransformer):
    def forward(self, images):
        x = self.conv1(images).flatten(2).mT
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = self.transformer(self.ln_pre(x + self.positional_embedding))
        return self.ln_post(x * torch.ones(x.size(1), 1))[:, 0] @ self.proj


def mask_on_the_cpu(lengths, size):
    position = torch.arange(size)
    return (position <= position[:, None]) & (position < lengths[:, None, None])


@pytest.mark.parametrize(
    "name, answer", [("VisionTransformer", PositionsOnTheCPU), ("causal_padding_mask", mask_on_the_cpu)]
)
def test_an_answer_that_would_fail_on_the_readers_gpu_is_told_so(name, answer, monkeypatch):
    exercise = EXERCISES[name]
    assert exercise.verify(answer)
    monkeypatch.setattr(mmlesson, "device", lambda: torch.device("meta"))  # without numbers, but a device of its own
    assert "makes a tensor on the CPU, but the lesson runs on meta" in failure(name, answer)


# Calls that do not come back with a result ---------------------------------------------------------------------------


def not_filled(*inputs):
    """A docstring."""
    raise NotImplementedError()


def without_statements(*inputs):
    """A docstring."""


@pytest.mark.parametrize("answer", [not_filled, without_statements, lambda *inputs: ...])
@every_exercise
def test_an_empty_body_is_told_from_a_wrong_one(name, answer):
    assert failure(name, answer) == f"{name}: not attempted yet. Fill in the body above and run the cell again."


@every_exercise
def test_a_body_below_a_forgotten_raise_is_named(name):
    def forgotten(*inputs):
        raise NotImplementedError()
        return EXERCISES[name].correct(*inputs)

    assert "`raise NotImplementedError()` still stands in your function" in failure(name, forgotten)


def test_a_forgotten_return_is_named():
    def forgotten(similarity, k):
        similarity.topk(k)

    assert "is a `return` missing?" in failure("recall_at_k", forgotten)


@every_exercise
def test_an_error_of_torch_is_no_empty_body(name):
    """torch raises NotImplementedErrors as well: for a softmax over booleans (from 2.7), for one without forward."""

    def softmax_of_booleans(*inputs):
        return torch.ones(2, dtype=torch.bool).softmax(0)

    said = failure(name, softmax_of_booleans)
    assert re.search(r"raised (NotImplemented|Runtime)Error in the line `return torch\.ones\(", said)
    assert "raised NotImplementedError" in failure(name, nn.Module())


@every_exercise
def test_an_exception_becomes_a_sentence_with_its_cause(name):
    def broken(*inputs):
        return {}["logits"]

    with pytest.raises(CheckFailed, match="your function raised KeyError in the line") as caught:
        EXERCISES[name].verify(broken)
    assert "'logits'. It was called with " in str(caught.value)


@every_exercise
def test_leaving_python_becomes_a_sentence(name):
    def leaves(*inputs):
        sys.exit()

    assert "your function calls exit() in the line `sys.exit()`" in failure(name, leaves)


def test_an_interrupt_becomes_a_sentence_and_ends_the_check():
    calls_so_far = []

    def endless(similarity, k):
        calls_so_far.append(k)
        raise KeyboardInterrupt

    assert "recall_at_k: interrupted in the line `raise KeyboardInterrupt`" in failure("recall_at_k", endless)
    assert len(calls_so_far) == 1


def test_a_long_wait_is_announced(monkeypatch, capsys):
    monkeypatch.setattr(calls, "WAIT", 0.05)
    exercise = EXERCISES["recall_at_k"]
    exercise.verify(lambda similarity, k: [time.sleep(0.1), exercise.correct(similarity, k)][1])
    said = capsys.readouterr().out
    assert said.startswith(
        "recall_at_k: your function has been running for 0.05 seconds, and the check goes on waiting"
    )
    monkeypatch.undo()
    exercise.verify(exercise.correct)
    assert "waiting" not in capsys.readouterr().out
    assert not [t for t in threading.enumerate() if isinstance(t, threading.Timer) and not t.finished.is_set()]


def test_a_backward_pass_that_fails_becomes_a_sentence():
    def attention(q, k, v, mask=None):
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        if mask is not None:
            weights = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf).softmax(-1)
            weights[~mask.expand_as(weights)] = 0
        return weights @ v, weights

    assert "the backward pass fails, because a tensor that it needs was changed in place" in failure(
        "attention", attention
    )


def test_the_function_itself_is_expected():
    assert "without calling it, and not a Tensor." in failure("clip_loss", torch.tensor(1.0))


@pytest.mark.parametrize("answer", [not_filled, lambda *inputs: 2.0])
@every_exercise
def test_the_lesson_goes_on_with_the_courses_own(name, answer, monkeypatch, capsys):
    monkeypatch.delenv("MMLESSON_STRICT", raising=False)
    exercise = EXERCISES[name]
    assert exercise(answer) is exercise.course
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == failure(name, answer)
    assert rest == [f"The lesson goes on with the course's {name} until yours passes."]


@every_exercise
def test_the_courses_own_passes_and_makes_nothing_on_the_cpu(name, monkeypatch):
    monkeypatch.setattr(mmlesson, "device", lambda: torch.device("meta"))
    exercise = EXERCISES[name]
    assert exercise.verify(exercise.course) > 0
    assert not exercise.step or exercise.course.__module__.startswith("mmlesson.models.")


@pytest.mark.parametrize("name", [name for name, exercise in EXERCISES.items() if exercise.pace])
def test_a_right_answer_that_is_very_slow_passes_and_is_not_used(name, monkeypatch, capsys):
    exercise = EXERCISES[name]
    seconds = {exercise.correct: 1.0}  # of a stopwatch that no machine can disturb
    monkeypatch.setattr(exercise_module, "_seconds", lambda function, inputs: seconds.get(function, 0.01))
    assert exercise.verify(exercise.course) and len(exercise.pace()) >= 2
    assert exercise(exercise.correct) is exercise.course
    passed, said = capsys.readouterr().out.splitlines()
    assert "checks passed" in passed
    assert said == "Yours is right, and 100 times slower than the course's, with which the lesson goes on."
    seconds[exercise.correct] = 0.15  # 15 times slower: no training takes much longer for it
    assert exercise(exercise.correct) is exercise.correct


def test_the_stopwatch_takes_the_shorter_of_two_calls(monkeypatch):
    seen, clock = [], iter([0, 5, 10, 11])
    monkeypatch.setattr(exercise_module.time, "perf_counter", lambda: next(clock))
    assert exercise_module._seconds(seen.append, {"x": 3}) == 1 and seen == [3, 3]


def test_a_grader_gets_an_exception(monkeypatch, capsys, tmp_path):
    interactive = pytest.importorskip("IPython.core.interactiveshell")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("MMLESSON_STRICT", "1")
    shell = interactive.InteractiveShell()
    result = shell.run_cell(
        "from mmlesson.exercises import clip as check\ncheck.recall_at_k(lambda similarity, k: 2.0)"
    )
    shown = "".join(capsys.readouterr())
    assert isinstance(result.error_in_exec, CheckFailed)
    assert shown.strip() == str(result.error_in_exec)  # the sentence, and no traceback
    assert re.fullmatch(r"recall_at_k: the recall @3 of 37 queries is 2; expected 0\.\d+\.", shown.strip())


def test_plain_python_shows_the_sentence_too():
    code = "from mmlesson.exercises import clip as check; check.recall_at_k(lambda similarity, k: 2.0)"
    strict = {**os.environ, "MMLESSON_STRICT": "1"}
    shell = subprocess.run([sys.executable, "-c", code], env=strict, capture_output=True, text=True, encoding="utf-8")
    last = shell.stderr.strip().splitlines()[-1]
    assert last.startswith("mmlesson.exercises.calls.CheckFailed: recall_at_k: the recall @3 of 37 queries is 2; ")
