"""What an exercise is: the cases that it tries, its correct answer, and its table of mistakes."""

import functools
import importlib
import inspect
import os
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

import mmlesson
from mmlesson.exercises import calls, compare
from mmlesson.exercises.calls import CheckFailed, Interrupted, NotAttempted

DTYPES = torch.float32, torch.float64
SLOW = 20  # times the course's own: from here on the lesson goes on with that


def exercise(**parts):
    """Decorator: turns a function check(answer), which states the cases, into an Exercise. parts: see Exercise."""
    return functools.partial(Exercise, **parts)


class Exercise:
    """Call it with a learner's function: it returns that function if it is right, else the course's own.

    check: a function of an Answer, which tries cases on it. verified: what a pass has verified, in a few words.
    correct: a right answer. mistakes: {sentence: wrong answer}; a learner who makes one of them in all cases reads its
    sentence. returns: {name: axes} of what the function returns, for one thing or for several; the axes, such as
    "(N, T)", may be empty. observe(inputs, result): what is compared, if that is not the result. changes: patterns of
    what a call may change, such as "model.logit_scale". forbidden: words in the names of torch functions that may not
    be used. step: whether this builds a part of the model, which mmlesson.models holds under the same name.
    use(cls, *inputs): what a class does with the inputs, where the answer is one and its `forward` is to be written.
    pace(): the inputs of a call as large as those of the lesson, where a slow answer would hold up its training.
    """

    def __init__(
        self,
        check,
        *,
        verified,
        correct,
        mistakes,
        returns,
        observe=None,
        changes=(),
        forbidden=(),
        step=False,
        use=None,
        pace=None,
    ):
        functools.update_wrapper(self, check)
        self.name, self.check, self.verified, self.returns = check.__name__, check, verified, returns
        self.observe, self.changes, self.forbidden = observe, changes, forbidden
        self.step, self.use, self.pace = step, use, pace
        self.correct = self.function(correct)
        self.mistakes = {sentence: self.function(mistake) for sentence, mistake in mistakes.items()}

    def __call__(self, function):
        """Judge a learner's function, and say in a line what the lesson goes on with: that is what it returns.

        Where MMLESSON_STRICT is set, as for graders and `make test`, it raises CheckFailed unless the answer is right.
        """
        try:
            passed = self.verify(function)
        except CheckFailed as failure:
            if os.environ.get("MMLESSON_STRICT"):
                raise
            print(failure)
        else:
            print(f"{self.name}: {passed} checks passed ({self.verified}).")
            slower = self.slower(function)
            if slower < SLOW:
                return function
            print(f"Yours is right, and {slower:.0f} times slower than the course's, with which the lesson goes on.")
            return self.course
        print(f"The lesson goes on with the course's {self.name} until yours passes.")
        return self.course

    def slower(self, function):
        """How many times as long as the course's own an answer takes at the lesson's size; 1 if nobody would notice."""
        if not self.pace:
            return 1
        with calls.clean_kernel(), calls.waiting(self.name):
            seconds, courses = (_seconds(self.function(f), self.pace()) for f in (function, self.course))
        return seconds / courses if seconds > 0.1 else 1

    @property
    def course(self):
        """The course's own answer."""
        if not self.step:
            return self.correct
        models = importlib.import_module(self.check.__module__.replace(".exercises.", ".models."))
        return getattr(models, self.name)

    def function(self, answer):
        """An answer as a function of the inputs: a class as it is used."""
        if not self.use or not isinstance(answer, type):
            return answer

        @functools.wraps(answer.forward)  # what a learner wrote, for the sentences that quote it
        def use(*inputs):
            return self.use(answer, *inputs)

        return use

    def verify(self, function):
        """The number of checks that a right answer passes. Raises CheckFailed if it is wrong or not written yet."""
        answer = Answer(self, self.function(function))
        with calls.clean_kernel(), calls.waiting(self.name):
            self.check(answer)
            answer.judge()
            answer.try_on(mmlesson.device())
        return answer.passed


@dataclass
class Case:
    """One call: its inputs, what its results are called in sentences, and to which inputs they must send a gradient."""

    inputs: dict
    where: str  # as in "the loss of perfect pairs": "of perfect pairs"
    hint: str
    gradients: tuple


@dataclass
class Outcome:
    """What a function did in a case."""

    result: object = None
    parts: dict = field(default_factory=dict)  # {name: value}
    gradients: dict = field(default_factory=dict)  # {(name of the part, name of the input): tensor or None}
    error: str = ""  # of the call
    backward_error: Exception | None = None


class Tried(NamedTuple):
    """A case, what the learner's function did in it, and what the correct answer does."""

    case: Case
    found: Outcome
    expected: Outcome


class Answer:
    """A learner's function, the cases that it was tried on, and what it did."""

    def __init__(self, exercise, function):
        self.exercise, self.function = exercise, function
        self.cases, self.outcomes, self.passed = [], [], 0
        self.first = {}  # the inputs of the first case
        if not callable(function):
            self.fail(f"give the check the function itself, without calling it, and not a {type(function).__name__}.")

    def case(self, where="", *, gradients=(), hint="", **inputs):
        """Try one case; the results of all of them are judged at the end.

        where: what distinguishes it, as in "of perfect pairs". gradients: names of inputs to which the results must
        send the same gradients as those of the correct answer. hint: marks a case that strains the numbers, judged when
        all others are right, and says what to look at.
        """
        self.first = self.first or inputs
        self.cases.append(Case(inputs, where, hint, tuple(gradients)))
        self.outcomes.append(self.outcome(self.function, self.cases[-1]))

    def result(self, **inputs):
        """What the learner's function returns for these inputs, for a check that judges it by itself."""
        return self.call(self.function, inputs)

    def outcome(self, function, case):
        """What a function does in a case."""
        inputs = calls.fresh(case.inputs)
        for name in case.gradients:
            inputs[name].requires_grad_()
        try:
            result = self.call(function, inputs)
        except (Interrupted, NotAttempted):
            raise
        except CheckFailed as failure:
            return Outcome(error=str(failure))
        found = Outcome(result, self.named(result))
        if case.gradients and found.parts:
            try:
                found.gradients = compare.gradients(found.parts, inputs, case.gradients)
            except Exception as error:
                found.backward_error = error
        return found

    def call(self, function, inputs):
        """The result of a call, or what the exercise observes after it. An empty body raises NotAttempted."""
        exercise = self.exercise
        forbidden = exercise.forbidden if function is self.function else ()
        result = calls.call(exercise.name, function, inputs, exercise.changes, forbidden)
        if (result is None or result is ...) and calls.is_empty(inspect.unwrap(function)):
            raise NotAttempted(exercise.name)
        if exercise.observe:
            return exercise.observe(inputs, result)
        if result is None:
            self.fail(f"your function returned None when called with {calls.describe(inputs)}; is a `return` missing?")
        return result

    def named(self, result):
        """{name: part} of a result, {} if it has another number of parts."""
        names = list(self.exercise.returns)
        if len(names) == 1:
            return {names[0]: result}
        several = isinstance(result, (tuple, list)) and len(result) == len(names)
        return dict(zip(names, result)) if several else {}

    def judge(self):
        """Raise CheckFailed unless the outcomes of all cases so far are those of the correct answer.

        It is called after the check; a check calls it as well if more is to be tried once the cases are right.
        """
        tried = [
            Tried(case, found, self.outcome(self.exercise.correct, case))
            for case, found in zip(self.cases, self.outcomes)
        ]
        ordinary = [one for one in tried if not one.case.hint]
        for rounds, failure_of, alike in (
            (ordinary, self.value_failure, _alike_values),
            (tried, self.value_failure, _alike_values),
            (tried, self.gradient_failure, _alike_gradients),
        ):
            failure = next(filter(None, (failure_of(*one) for one in rounds)), None)
            if failure:
                self.fail(self.recognize(rounds, alike) or failure)
        self.passed += len(tried) + sum(bool(case.gradients) for case in self.cases)
        self.cases, self.outcomes = [], []

    def try_on(self, device):
        """Fail if the function cannot work with tensors of this device, since it makes some of its own on the CPU."""
        plain = all(x is None or isinstance(x, (torch.Tensor, int, float, str)) for x in self.first.values())
        if torch.device(device).type == "cpu" or not plain:
            return
        inputs = {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in self.first.items()}
        try:
            self.function(*inputs.values())
        except Exception as error:
            if "same device" in str(error) or "expected device" in str(error):
                self.fail(
                    f"your function makes a tensor on the CPU, but the lesson runs on {torch.device(device)}: "
                    "give what you make the device of an input, as in torch.arange(n, device=x.device)."
                )

    def recognize(self, tried, alike):
        """The sentence of the mistake that explains what was found in all cases, or None.

        An error explains nothing. Where errors leave a single wrong result, many mistakes would fit it: then the
        mistake has to raise an error, too.
        """
        errors = [one for one in tried if one.found.error]
        tried = [one for one in tried if not one.found.error]
        wrong = sum(not alike(one.found, one.expected) for one in tried)
        if not wrong:
            return None
        for sentence, mistake in self.exercise.mistakes.items():
            if not all(alike(one.found, self.outcome(mistake, one.case)) for one in tried):
                continue
            if wrong > 1 or not errors or any(self.outcome(mistake, one.case).error for one in errors):
                return sentence
        return None

    def value_failure(self, case, found, expected):
        """The sentence on the results of one case, or None."""
        if found.error:
            return found.error
        if not found.parts:
            names = list(self.exercise.returns)
            number = {2: "two", 3: "three"}.get(len(names), len(names))
            got = type(found.result).__name__
            got += f" of {len(found.result)}" if isinstance(found.result, (tuple, list)) else ""
            return f"return {number} results, ({', '.join(names)}); got a {got}."
        for name, axes in self.exercise.returns.items():
            what = f"{name} {case.where}".strip()
            sentence = compare.difference(what, found.parts[name], expected.parts[name], axes, case.hint)
            if sentence:
                return sentence
        return None

    def gradient_failure(self, case, found, expected):
        """The sentence on the gradients of one case, whose results are right, or None."""
        if found.backward_error:
            what = " and ".join(self.exercise.returns)
            return compare.backward_failure(f"{what} {case.where}".strip(), calls.message(found.backward_error))
        for (part, name), gradient in found.gradients.items():
            what = f"{part} {case.where}".strip()
            sentence = compare.gradient_difference(what, name, gradient, expected.gradients[part, name], case.hint)
            if sentence:
                return sentence
        return None

    def expect_same(self, what, got, expected, axes=""):
        """Fail unless got has the type, shape, dtype and values of expected. axes: as in "(N, T)"."""
        sentence = compare.difference(what, got, expected, axes)
        self.expect(not sentence, sentence)

    def expect(self, condition, sentence):
        """Fail with this sentence unless the condition holds."""
        if not condition:
            self.fail(sentence)
        self.passed += 1

    def fail(self, sentence):
        """Raise CheckFailed with this sentence."""
        name = f"{self.exercise.name}: "
        raise CheckFailed(name + sentence.removeprefix(name).strip())


def _seconds(function, inputs):
    """Of a call: the shorter of two, since the first of its size is slow in torch."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        function(*inputs.values())
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _alike_values(a, b):
    return not b.error and compare.alike(a.result, b.result)


def _alike_gradients(a, b):
    return _alike_values(a, b) and compare.alike_gradients(a.gradients, b.gradients)


def randn(*shape, seed, dtype=torch.float32):
    """Normal random numbers on the CPU, the same in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def with_forward(base, forward):
    """The class `base` with another `forward`, under its own name."""
    return type(base.__name__, (base,), {"forward": forward})


def randomized(module, x):
    """The module in the dtype and on the device of x, every parameter random: a bias of 0 would hide a wrong one."""
    for i, p in enumerate(module.to(x).parameters()):
        p.data.copy_(0.5 * randn(*p.shape, seed=i))
    return module
