"""What the comparisons share: noise on every parameter, a random state of their own, and downloads on request."""

import functools
import os
import re

import torch

from mmlesson import display


def add_noise(model, seed):
    """Noise on every parameter and on BatchNorm's statistics: zeros and ones would hide a forgotten key."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = 0.05 * torch.randn(tensor.shape, generator=generator)
                tensor += noise.abs() if name.endswith("running_var") else noise
    return model.eval()


def seeded(compare):
    """Decorate a comparison: a seeded random state that leaves the caller's alone, no gradients, on the CPU."""

    @functools.wraps(compare)
    def run(*arguments, seed=0):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            return compare(*arguments)

    return run


def unwrapped(weights):
    """A state dict without the prefixes of torch.compile (_orig_mod.) and of DataParallel (module.)."""
    return {re.sub(r"^((module|_orig_mod)\.)+", "", name): w for name, w in weights.items()}


def fetch(model_class, name):
    """A published model of transformers, or None with one sentence that says why not.

    Nothing is downloaded unless the environment variable MMLESSON_ONLINE is 1.
    """
    if os.environ.get("MMLESSON_ONLINE") != "1":
        print("Offline: the official weights were not asked for (set MMLESSON_ONLINE=1 to load them).")
        return None
    try:
        return model_class.from_pretrained(name, use_safetensors=True)
    except (OSError, ValueError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(display.wrapped(f"Offline: the official weights could not be fetched ({why}); we go on without them."))
        return None
