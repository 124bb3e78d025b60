"""mmlesson: CLIP, FLAVA, Flamingo and a Gemini-style model, built from scratch in notebooks."""

import os

__version__ = "0.1.0"


def device():
    """The torch device that every lesson uses: CUDA if there is one, else the CPU.

    MMLESSON_DEVICE (cpu, cuda, mps, cuda:1, ...) forces one. MPS is used only when asked for, because some
    operators of the lessons differ there. Raises ValueError if the forced device is unknown or absent.
    """
    import torch

    forced = os.environ.get("MMLESSON_DEVICE")
    if not forced:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(forced)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"MMLESSON_DEVICE={forced!r} cannot be used here ({str(error).splitlines()[0]}). "
            "Set it to cpu, or unset it to let the course choose."
        ) from None
    return chosen
