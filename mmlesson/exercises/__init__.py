"""Instant feedback on the exercises, one module per lesson; a failed check names the mistake in a sentence.

    from mmlesson.exercises import clip as check
    check.clip_loss(my_clip_loss)

exercise.py  what an exercise is: the cases it tries, its correct answer, its table of mistakes
calls.py     calls a learner's function: whatever it does becomes a sentence, and what it changes is changed back
compare.py   results and gradients beside the expected ones
<lesson>.py  the exercises of one lesson
"""

from mmlesson.exercises.calls import CheckFailed
from mmlesson.exercises.exercise import DTYPES, Exercise, exercise, randn, randomized, with_forward

__all__ = ["CheckFailed", "DTYPES", "Exercise", "exercise", "randn", "randomized", "with_forward"]
