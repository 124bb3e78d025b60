"""mmlesson: CLIP, FLAVA, Flamingo and a Gemini-style model, built from scratch in notebooks.

models/        what the notebooks build, one module per lesson; written by `make export`, never edited by hand
world/         the data: scenes of drawings whose truth is known, captions, video, speech, batches
lesson, train, metrics, plots, widgets, checkpoints    what every lesson calls; no need to read them
claims, display, drawing, threads    what these are made of
exercises/     the checks of the exercises, one module per lesson: read them after you have tried
experiments/   the runs behind the stored figures: downstream tasks, ablations, parity with other implementations
interview/     interview cards in English and Korean
tools/         what the Makefile calls: doctor, student edition, training of the shipped checkpoints

Imports run one way: tools -> experiments -> models -> world and train.
"""

import os
import re
from pathlib import Path

__version__ = "0.1.0"


def device():
    """The torch device that every lesson uses: CUDA if there is one, else the CPU.

    MMLESSON_DEVICE (cpu, cuda, mps, cuda:1, ...) forces one. MPS is used only on request, because some operators of
    the lessons differ there. Raises ValueError if the forced device is unknown or absent.
    """
    import torch

    forced = os.environ.get("MMLESSON_DEVICE")
    if not forced:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(forced)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = re.split(r"(?<=[.:;]) |\n", str(error))[0].rstrip(".:;")[:100]  # torch's words may be a page long
        raise ValueError(
            f"MMLESSON_DEVICE={forced!r} cannot be used here ({why}). "
            "Set it to cpu, or unset it to let the course choose."
        ) from None
    if chosen.type == "meta":
        raise ValueError(
            "MMLESSON_DEVICE='meta' computes nothing: set it to cpu, or unset it to let the course choose."
        )
    return chosen


def repository():
    """The folder of the clone (Path) that the package runs from, or None if it was installed without one."""
    parent = Path(__file__).resolve().parent.parent
    return parent if (parent / "pyproject.toml").is_file() and (parent / "assets").is_dir() else None


def assets():
    """The folder (Path) of the shipped files: `assets/` of the clone, or the copy inside the installed package.

    Raises FileNotFoundError if there is neither.
    """
    if repository():
        return repository() / "assets"
    installed = Path(__file__).resolve().parent / "_assets"
    if not installed.is_dir():
        raise FileNotFoundError(
            "The course's assets folder is missing: expected assets/ in the repository or mmlesson/_assets in an "
            "installed package. Run `git checkout assets` in a clone, or install the package again."
        )
    return installed
