"""Full disks, read-only folders, and two processes that want the same folder."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fault_campaign.jobs import Job
from fault_campaign.trial import Child, Fault, Outcome, run
from fault_campaign.whole import differences, torn

_LIMIT = 300.0


@dataclass
class LimitReport:
    """What was found of one command under one kind of trouble."""

    kind: str
    command: str
    cases: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        return asdict(self) | {"good": not self.wrong}


def _complaints(outcome: Outcome, words: tuple[str, ...], expected: tuple[int, ...] = (2,)) -> list[str]:
    """What is wrong with the way a command has refused."""
    tail = " | ".join(outcome.text.strip().splitlines()[-3:])[-300:]
    if outcome.late:
        return ["hung"]
    if outcome.traceback or outcome.code not in expected:
        return [f"exit code {outcome.code}: {tail}"]
    if not any(word in outcome.text.lower() for word in words):
        return [f"does not say why: {tail}"]
    return []


def full_disk(job: Job, points: int, seed: int, scratch: Path) -> LimitReport:
    """No room from some change of a file on: a clear error, what was finished is whole, and with room it goes on."""
    report, chance = LimitReport("disk full", job.name), random.Random(f"{seed} full {job.name}")
    wanted, changes = _uninterrupted(job, scratch)
    for number in range(points):
        shutil.rmtree(job.out, ignore_errors=True)
        fault = Fault("ENOSPC", chance.randint(1, changes), root=job.out)
        outcome = run(job.call, scratch, fault, _LIMIT)
        _judge(report, job, scratch, wanted, outcome, f"at change {fault.at}", number, ("no space", "disk is full"))
    return report


def small_disk(job: Job, sizes: tuple[int, ...], scratch: Path) -> LimitReport | None:
    """The same on a real file system of so many bytes; None where this user may mount none."""
    report = LimitReport("disk full (tmpfs)", job.name)
    wanted, _ = _uninterrupted(job, scratch)
    for number, size in enumerate(sizes):
        shutil.rmtree(job.out, ignore_errors=True)
        if not _mount(job.out, size):
            return None
        try:
            outcome = run(job.call, scratch, Fault(root=job.out), _LIMIT)
            if outcome.code == 0:
                continue
            report.cases += 1
            report.refused += outcome.code == 2
            words = ("no space", "disk is full", "are free")
            report.wrong += [f"{size} bytes: {wrong}" for wrong in _complaints(outcome, words)]
            report.wrong += [f"{size} bytes: torn {name}" for name in torn(job.out)]
            rescued = scratch / f"rescued-{number}"
            shutil.copytree(job.out, rescued, symlinks=True)
        finally:
            _unmount(job.out)
        shutil.rmtree(job.out, ignore_errors=True)
        shutil.move(rescued, job.out)
        _goes_on(report, job, scratch, wanted, f"{size} bytes")
    return report


def read_only(job: Job, points: int, seed: int, scratch: Path) -> LimitReport:
    """A file system that becomes read-only, and a folder that is closed from the start."""
    report, chance = LimitReport("read only", job.name), random.Random(f"{seed} closed {job.name}")
    wanted, changes = _uninterrupted(job, scratch)
    words = ("read-only", "permission denied", "cannot be written", "cannot write")
    for number in range(points):
        shutil.rmtree(job.out, ignore_errors=True)
        fault = Fault("EROFS", chance.randint(1, changes), root=job.out)
        outcome = run(job.call, scratch, fault, _LIMIT)
        _judge(report, job, scratch, wanted, outcome, f"at change {fault.at}", number, words)
    shutil.rmtree(job.out, ignore_errors=True)
    job.out.mkdir()
    job.out.chmod(0o555)
    # To root every folder is open: there the system's answer is made up.
    closed = Fault("EROFS" if os.getuid() == 0 else "none", 1, root=job.out)
    outcome = run(job.call, scratch, closed, _LIMIT)
    report.cases += 1
    report.refused += outcome.code == 2
    report.wrong += [f"closed folder: {wrong}" for wrong in _complaints(outcome, words)]
    if any(job.out.iterdir()):
        report.wrong.append("closed folder: something was written")
    job.out.chmod(0o755)
    return report


def two_at_once(job: Job, points: int, seed: int, scratch: Path) -> LimitReport:
    """A second process on the folder of a first that is in the middle of its work: it refuses, or waits and shares."""
    report, chance = LimitReport("two at once", job.name), random.Random(f"{seed} two {job.name}")
    wanted, changes = _uninterrupted(job, scratch)
    for _ in range(points):
        shutil.rmtree(job.out, ignore_errors=True)
        fault = Fault("stop", chance.randint(3, max(3, changes - 2)), root=job.out)
        where = f"stopped at change {fault.at}"
        first = Child(job.call, scratch / "first", fault)
        if not first.paused():
            report.wrong.append(f"{where}: it never got there")
            continue
        report.cases += 1
        second = Child(job.call, scratch / "second", Fault(root=job.out))
        waits = job.name == "region cache"
        if waits:  # which divides the work, and waits for what the other holds
            first.go_on()
        outcome = second.wait(_LIMIT)
        report.refused += outcome.code == 2
        words = ("in use by another process",)
        # Where the first has nothing left to do but to go, the second may find all done.
        report.wrong += [f"{where}: second: {w}" for w in ([] if waits else _complaints(outcome, words))]
        if not waits:
            first.go_on()
        ended = first.wait(_LIMIT)
        if ended.code or (waits and outcome.code):
            report.wrong.append(f"{where}: exit codes {ended.code}, {outcome.code}: {ended.text[-200:]}")
        report.wrong += [f"{where}: differs: {name}" for name in differences(wanted, job.result(job.out))[:3]]
    return report


def _uninterrupted(job: Job, scratch: Path) -> tuple[dict[str, str], int]:
    shutil.rmtree(job.out, ignore_errors=True)
    whole = run(job.call, scratch, Fault(root=job.out), _LIMIT)
    assert whole.code == 0, whole.text
    return job.result(job.out), whole.changes


def _judge(
    report: LimitReport,
    job: Job,
    scratch: Path,
    wanted: dict[str, str],
    outcome: Outcome,
    where: str,
    number: int,
    words: tuple[str, ...],
) -> None:
    report.cases += 1
    report.refused += outcome.code == 2
    if outcome.code:  # what fails in the last change, a lock or a hint, may be passed over
        report.wrong += [f"{where}: {wrong}" for wrong in _complaints(outcome, words)]
    if job.out.exists():
        report.wrong += [f"{where}: torn {name}" for name in torn(job.out)]
    if number % 3 == 0:
        _goes_on(report, job, scratch, wanted, where)


def _goes_on(report: LimitReport, job: Job, scratch: Path, wanted: dict[str, str], where: str) -> None:
    again = run(job.call, scratch, Fault(root=job.out), _LIMIT)
    if again.code:
        report.wrong.append(f"{where}: run again: exit code {again.code}: {again.text[-200:]}")
        return
    report.wrong += [f"{where}: run again: differs: {name}" for name in differences(wanted, job.result(job.out))[:3]]


def _mount(folder: Path, size: int) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    libc: Callable[..., int] = ctypes.CDLL(None, use_errno=True).mount
    return os.getuid() == 0 and libc(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()) == 0


def _unmount(folder: Path) -> None:
    ctypes.CDLL(None, use_errno=True).umount(os.fsencode(folder))
