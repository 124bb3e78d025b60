"""How many threads torch uses: one for each core that this process is given, fewer while others keep them busy."""

import math
import os
import time
from pathlib import Path

import torch

PROBE_EVERY = 2.0  # seconds


def affinity():
    """How many cores the system lets this process run on: a batch job may get fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota(proc=Path("/proc"), cgroups=Path("/sys/fs/cgroup")):
    """How many cores' worth of time a container grants (float), or None without a limit.

    docker --cpus, Kubernetes and Binder limit time, not cores: 2 of 64 cores show up as 64. Read from Linux's control
    groups, version 2 (cpu.max) and 1 (cpu.cfs_quota_us), of this process's group and of all groups above it.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:  # no Linux, or no /proc
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        root = root if root.is_dir() else cgroups / "cpu"
        group = root / path.lstrip("/")
        # In a container the path may be the host's, which does not exist here: then the root is the group.
        for folder in (group, *group.parents):
            if folder == root.parent:
                break
            limits.append(_limit(folder))
    return min((limit for limit in limits if limit), default=None)


def _limit(folder):
    try:
        if (folder / "cpu.max").exists():
            most, period = (folder / "cpu.max").read_text().split()
        else:
            most = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text()
        return None if most in ("max", "-1") else int(most) / int(period)
    except (OSError, ValueError):
        return None


def granted():
    """How many cores this process may keep busy: an int of at least 1, from affinity and quota."""
    return max(1, int(min(affinity(), quota() or math.inf)))


def limit():
    """Lower torch's threads to the cores that are granted; never raises them. Returns the number in use."""
    if torch.get_num_threads() > granted():
        torch.set_num_threads(granted())
    return torch.get_num_threads()


class Chooser:
    """Lowers torch's threads while other programs keep the cores busy, and raises them again when these are done.

    Two threads that share a core with another program wait for each other at every operation: one busy neighbor makes
    two threads on two cores twelve times slower, and one thread hardly. So every two seconds a small piece of work is
    timed with the threads in use, with half of them and with twice as many, and the quickest is taken; twice in a row,
    because a neighbor's hiccup says nothing. The work is not the model's: its numbers do not depend on the timing.

    most: the number in use when it is made, to which restore() returns.
    """

    def __init__(self, say=print):
        self.most = self.threads = torch.get_num_threads()
        self._say = say
        self._wish = self.most
        self._next = time.perf_counter()  # the first time at once: the machine may be busy already
        generator = torch.Generator().manual_seed(0)
        self._work = [torch.randn(256, 256, generator=generator) for _ in range(2)]

    def choose(self):
        """Call it between steps. Probes at most every two seconds; prints one line when the number changes."""
        if self.most == 1 or time.perf_counter() < self._next:
            return
        quickest = self._quickest()
        if quickest == self.threads:
            self._wish = self.threads
        elif quickest != self._wish:
            self._wish = quickest  # and wait for a second opinion
        else:
            why = "Other programs keep this machine busy" if quickest < self.threads else "The machine is quieter again"
            self._say(f"{why}: training goes on with {quickest} of {self.most} threads.")
            self.threads = quickest
        torch.set_num_threads(self.threads)
        sure = self._wish == self.threads
        self._next = time.perf_counter() + (PROBE_EVERY if sure else PROBE_EVERY / 10)

    def restore(self):
        """Give torch its threads back."""
        torch.set_num_threads(self.most)

    def _quickest(self):
        counts = sorted({max(1, self.threads // 2), self.threads, min(self.most, 2 * self.threads)})
        seconds = {count: self._seconds(count) for count in counts}
        best = min(counts, key=seconds.get)
        # A change has to be worth it: what is measured is short, and so a little noisy.
        return best if seconds[best] < 0.7 * seconds[self.threads] else self.threads

    def _seconds(self, threads):
        torch.set_num_threads(threads)
        a, b = self._work
        (a @ b).relu()  # the threads are started here
        started = time.perf_counter()
        for done in range(1, 13):  # noqa: B007
            (a @ b).relu().softmax(dim=-1)
            elapsed = time.perf_counter() - started
            if elapsed > 0.05:  # on a busy machine a few tell enough
                break
        return elapsed / done
