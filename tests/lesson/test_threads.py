"""Threads: never more than the cores that a process is given, and fewer while other programs keep them busy."""

import math

import pytest
import torch

from mmlesson import lesson, threads
from mmlesson.train import fit


def container(tmp_path, groups, line):
    """A /proc and a /sys/fs/cgroup with these files: (proc, cgroups)."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(line)
    for name, text in groups.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "cgroup").mkdir(exist_ok=True)
    return tmp_path / "proc", tmp_path / "cgroup"


@pytest.mark.parametrize(
    "line, groups, quota",
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/user/me\n", {"cpu.max": "max 100000", "user/cpu.max": "200000 100000", "user/me/cpu.max": "max 9"}, 2.0),
        ("0::/user/me\n", {"user/cpu.max": "400000 100000\n", "user/me/cpu.max": "100000 100000\n"}, 1.0),
        ("0::/kubepods/pod1\n", {"cpu.max": "50000 100000\n"}, 0.5),  # the path is the host's
        ("9:name=systemd:/\n1:cpu:/q\n", {"cpu/q/cpu.cfs_quota_us": "100000", "cpu/q/cpu.cfs_period_us": "50000"}, 2.0),
        (
            "4:cpu,cpuacct:/docker/a\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            3.0,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("4:memory:/a\n", {"memory/cpu.cfs_quota_us": "1", "memory/cpu.cfs_period_us": "1"}, None),
        ("0::/\n", {"cpu.max": "damaged\n"}, None),
    ],
)
def test_the_quota_of_a_container_is_read(tmp_path, line, groups, quota):
    assert threads.quota(*container(tmp_path, groups, line)) == quota


def test_without_proc_there_is_no_quota(tmp_path):
    assert threads.quota(tmp_path, tmp_path) is None


@pytest.mark.parametrize("cores, quota, granted", [(2, None, 2), (64, 2.0, 2), (64, 2.9, 2), (2, 0.5, 1), (1, 8.0, 1)])
def test_granted_is_what_both_allow(cores, quota, granted, monkeypatch):
    monkeypatch.setattr(threads, "affinity", lambda: cores)
    monkeypatch.setattr(threads, "quota", lambda: quota)
    assert threads.granted() == granted


@pytest.fixture
def counts(monkeypatch):
    """torch's number of threads, pretended: a list whose last entry is the number in use."""
    used = [8]
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: used[-1])
    return used


def test_a_lesson_lowers_the_threads_and_never_raises_them(counts, monkeypatch, capsys):
    monkeypatch.setattr(threads, "granted", lambda: 2)
    lesson.start("any")
    assert counts[-1] == 2 and "threads 2" in capsys.readouterr().out
    monkeypatch.setattr(threads, "granted", lambda: 16)
    lesson.start("any")
    assert counts[-1] == 2


class Machine:
    """A clock, and how long a piece of work takes with so many threads, quiet or beside a busy program."""

    def __init__(self, monkeypatch, chooser):
        self.now, self.busy = 100.0, False
        monkeypatch.setattr(threads.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(chooser, "_seconds", lambda n: 30.0 if self.busy and n == chooser.most else 1 / n)

    def steps(self, chooser, seconds, each=0.2):
        until = self.now + seconds
        while self.now < until:
            chooser.choose()
            self.now += each


def test_threads_follow_the_load(counts, monkeypatch):
    said = []
    chooser = threads.Chooser(said.append)
    machine = Machine(monkeypatch, chooser)
    machine.steps(chooser, 60)
    assert chooser.threads == 8 and not said, "quiet: nothing changes, and nothing is said"
    machine.busy = True
    machine.steps(chooser, 60)
    assert chooser.threads == 4
    machine.busy = False
    machine.steps(chooser, 60)
    assert chooser.threads == 8
    assert said == [
        "Other programs keep the machine busy: 4 of 8 threads go on training.",
        "The machine is quieter again: training goes on with 8 threads.",
    ]


def test_a_busy_start_is_noticed_before_the_first_step(counts, monkeypatch):
    chooser = threads.Chooser(lambda line: None)
    Machine(monkeypatch, chooser).busy = True
    chooser.choose()
    assert chooser.threads == counts[-1] == 4


def test_a_slow_step_is_looked_into_at_once(counts, monkeypatch):
    chooser = threads.Chooser(lambda line: None)
    machine = Machine(monkeypatch, chooser)
    machine.steps(chooser, 40)  # by now it looks every twenty seconds
    machine.busy = True
    machine.steps(chooser, 4, each=2.0)
    assert chooser.threads == 4


def test_quiet_machines_are_seldom_asked(counts, monkeypatch):
    chooser = threads.Chooser(lambda line: None)
    machine, asked = Machine(monkeypatch, chooser), []
    monkeypatch.setattr(chooser, "_fewer_is_quicker", lambda: asked.append(1))
    machine.steps(chooser, 120)
    assert len(asked) <= 10


def test_one_thread_is_never_timed(counts, monkeypatch):
    counts.append(1)
    chooser = threads.Chooser()
    monkeypatch.setattr(chooser, "_seconds", lambda n: pytest.fail("nothing to choose"))
    chooser.choose()


def test_the_real_work_can_be_timed_and_the_threads_come_back():
    before = torch.get_num_threads()
    chooser = threads.Chooser(lambda line: None)
    assert 0 < chooser._seconds(1) < math.inf
    chooser.choose()
    chooser.restore()
    assert torch.get_num_threads() == before


def test_training_asks_before_every_step_and_gives_the_threads_back(monkeypatch):
    asked, model = [], torch.nn.Linear(2, 1)

    class Chooser:
        choose = staticmethod(lambda: asked.append("step"))
        restore = staticmethod(lambda: asked.append("end"))

    monkeypatch.setattr(threads, "Chooser", Chooser)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(model, lambda step: model(torch.ones(1, 2)).square().mean(), optimizer, 3)
    assert asked == ["step", "step", "step", "end"]
    asked.clear()
    with pytest.raises(FloatingPointError):
        fit(model, lambda step: model(torch.full((1, 2), math.inf)).mean(), optimizer, 3)
    assert asked == ["step", "end"]
