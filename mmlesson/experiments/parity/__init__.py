"""Parity with other implementations: the same weights must give the same numbers.

Each module holds the map from another implementation's parameter names to ours, and `difference` or `differences`,
which compares classes that it is given (a notebook's own) with it on tiny random weights. `load_official` of clip and
flava loads the published weights, and only if the reader asks for it.
"""

from mmlesson.experiments.parity import clip, flamingo, flava, gemini

__all__ = ["clip", "flamingo", "flava", "gemini"]
