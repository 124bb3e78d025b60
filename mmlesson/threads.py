"""How many threads torch uses: one for each core that this process is given, fewer while others keep them busy."""

import math
import os
import statistics
import time
from collections import deque
from pathlib import Path

import torch


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

    Two threads that share a core with another program wait for each other at every operation: on two cores one busy
    neighbor makes two threads several times slower, and one thread hardly. So now and then a piece of work is timed
    with the threads in use and with half of them, or, once there are fewer, with twice as many. The work is not the
    model's, whose numbers do not depend on these timings as long as the machine is quiet.

    most: the number in use when it is made, to which restore() returns.
    """

    def __init__(self, say=print):
        self.most = self.threads = torch.get_num_threads()
        self._say = say
        self._next, self._pause = 0.0, 2.0  # seconds; the first time at once: the machine may be busy already
        self._last, self._gaps = None, deque(maxlen=9)
        generator = torch.Generator().manual_seed(0)
        # For each thread as many rows: enough work for all.
        self._a, self._b = (torch.randn(rows, 256, generator=generator) for rows in (128 * self.most, 256))

    def choose(self):
        """Call it between steps. Times the work if some seconds have passed or steps are suddenly slow."""
        now = time.perf_counter()
        slow = self._is_slow(now)
        if self.most > 1 and (now > self._next or slow):
            before = self.threads
            if self.threads < self.most and self._more_is_quicker():
                self.threads = min(self.most, 2 * self.threads)
                self._say(f"The machine is quieter again: training goes on with {self.threads} threads.")
            elif self.threads > 1 and self._fewer_is_quicker():
                self.threads //= 2
                self._say(
                    f"Other programs keep the machine busy: {self.threads} of {self.most} threads go on training."
                )
            torch.set_num_threads(self.threads)
            self._pause = 2.0 if self.threads != before else min(20.0, 2 * self._pause)
            self._next = time.perf_counter() + self._pause
        self._last = time.perf_counter()

    def restore(self):
        """Give torch its threads back."""
        torch.set_num_threads(self.most)

    def _is_slow(self, now):
        """Whether the step since the last call took three times as long as those before, at most once a second."""
        if self._last is None:
            return False
        gap, usual = now - self._last, statistics.median(self._gaps) if len(self._gaps) == 9 else math.inf
        self._gaps.append(gap)
        return gap > 3 * usual and now > self._next - self._pause + 1

    def _fewer_is_quicker(self):
        return self._seconds(self.threads // 2) < self._seconds(self.threads)

    def _more_is_quicker(self):
        return self._seconds(min(self.most, 2 * self.threads)) < 0.85 * self._seconds(self.threads)

    def _seconds(self, threads):
        """Seconds that the piece of work takes with so many threads, tried for long enough to be interrupted."""
        torch.set_num_threads(threads)
        (self._a @ self._b).relu()  # the threads are started here
        started, done, elapsed = time.perf_counter(), 0, 0.0
        while elapsed < 0.04:
            (self._a @ self._b).relu().softmax(dim=-1)
            done += 1
            elapsed = time.perf_counter() - started
        return elapsed / done
