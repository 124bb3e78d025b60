"""The frame of a lesson: start() at its top, scorecard() at its end."""

import html
import importlib.metadata
import json
import math
import numbers
import os
import platform
import random
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import mmlesson
from mmlesson import claims, display, drawing, threads


@dataclass(frozen=True)
class Lesson:
    """What start() sets: the lesson's name, the seed, the device (torch.device), the start time (perf_counter)."""

    name: str
    seed: int
    device: torch.device
    started: float


def start(name, seed=0):
    """Seed everything, choose the device and the plot style, start the clock; print one line. Returns a Lesson.

    torch gets at most as many threads as there are cores for it: those that this process may use, and no more than the
    quota of a container grants.
    name: the lesson's slug, such as "clip"; it becomes the name of the results file. Raises ValueError if it cannot.
    """
    import numpy

    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"A lesson's name consists of letters, digits, - and _, like 'clip', not {name!r}.")
    device = mmlesson.device()
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)  # every device
    drawing.style()
    claims.watch()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    print(f"Lesson {name}: device {device.type}, threads {threads.limit()}, seed {seed}.")
    return Lesson(name, seed, device, time.perf_counter())


class Scorecard(dict):
    """What scorecard() wrote, as a dict. A notebook has shown it already, so ending a cell with it shows it once."""

    def _ipython_display_(self):
        pass


def scorecard(lesson, **figures):
    """Show the lesson's measured results as a table and write them to `results/<lesson>.json`. Returns a Scorecard.

    figures: the headline numbers by name, finite ints or floats. The file goes to the folder MMLESSON_RESULTS if that
    is set, else to results/ in the repository, else to results/ in the current folder. Where it cannot be written, the
    table is shown all the same, with a sentence that says so.
    Raises TypeError for a figure that is not a number, ValueError for one that is not finite.
    """
    versions = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": importlib.metadata.version("transformers"),
        "mmlesson": mmlesson.__version__,
    }
    result = Scorecard(
        lesson=lesson.name,
        device=lesson.device.type,
        device_name=_device_name(lesson.device),
        threads=torch.get_num_threads(),
        seed=lesson.seed,
        versions=versions,
        seconds=round(time.perf_counter() - lesson.started, 1),
        peak_memory_mb=round(peak_memory_mb()),
        figures={name: _plain_number(name, value) for name, value in figures.items()},
    )
    if lesson.device.type == "cuda":
        result["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated(lesson.device) / 1e6)
    shown = {**result["figures"], **{k: v for k, v in result.items() if k.startswith(("seconds", "peak"))}}
    rows = [(name.replace("_", " "), f"{value:.4g}") for name, value in shown.items()]
    _table(f"Lesson {lesson.name}, measured on {lesson.device.type}", rows)
    path = results_folder() / f"{lesson.name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8", newline="\n")
    except OSError as error:
        why = f"These figures could not be stored in {path} ({error.strerror}): set MMLESSON_RESULTS to another folder."
        print(display.wrapped(why))
    return result


def peak_memory_mb():
    """The peak of this process's memory in RAM so far, in MB of 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux. Not getrusage: its peak is inherited from the parent process
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024 / 1e6
    if sys.platform == "win32":
        import psutil  # comes with ipykernel

        return psutil.Process().memory_info().peak_wset / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6  # bytes on macOS, KB elsewhere


def _plain_number(name, value):
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"scorecard's figure {name} must be an int or a float, not {type(value).__name__}: "
            "use .item() on a tensor of one element."
        )
    if not math.isfinite(value):
        raise ValueError(f"scorecard's figure {name} is {value}: expected a finite number. Did the training diverge?")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def results_folder():
    """Where scorecards are stored: the folder MMLESSON_RESULTS, else results/ in the repository or here."""
    forced = os.environ.get("MMLESSON_RESULTS")
    return Path(forced).expanduser() if forced else (mmlesson.repository() or Path.cwd()) / "results"


def _device_name(device):
    """The processor's or the GPU's name, as it calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text(encoding="utf-8")) if cpuinfo.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _table(caption, rows):
    """Show rows of (name, value), both strings, as an HTML table with a plain-text twin."""
    width = max(len(name) for name, _ in rows)
    text = "\n".join([caption, *(f"  {name:<{width}}  {value}" for name, value in rows)])
    body = "".join(
        f'<tr><th scope="row" style="text-align:left">{html.escape(name)}</th>'
        f'<td style="text-align:right">{html.escape(value)}</td></tr>'
        for name, value in rows
    )
    display.show(text, html=f"<table><caption>{html.escape(caption)}</caption>{body}</table>")
