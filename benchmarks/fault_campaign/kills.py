"""kill -9 at chosen moments: what is there afterwards, and what comes out when the command is run again."""

from __future__ import annotations

import random
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fault_campaign.jobs import Job
from fault_campaign.trial import Fault, run
from fault_campaign.whole import differences, litter, torn

#: Kills before a command may end: then its result is compared.
_CHAIN = 6
#: Share of the kills by the clock; the others are at a change of a file.
_BY_CLOCK = 0.25
_LIMIT = 300.0


@dataclass
class KillReport:
    """What was found of one command.

    Attributes:
        points: kills that struck. by_clock: of these, by the clock.
        endings: how often it was run on to its end and compared.
        torn, lost, unequal, failed: what was wrong, in words; all empty where all is well.
        litter: temporary files that the last run of a chain left behind, at most.
    """

    command: str
    points: int = 0
    by_clock: int = 0
    endings: int = 0
    torn: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    unequal: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    litter: int = 0

    @property
    def good(self) -> bool:
        return not (self.torn or self.lost or self.unequal or self.failed)

    def row(self) -> dict[str, Any]:
        return asdict(self) | {"good": self.good}


def campaign(job: Job, points: int, seed: int, scratch: Path) -> KillReport:
    """Kill a command ``points`` times, in chains that each end in a whole run."""
    report, chance = KillReport(job.name), random.Random(f"{seed} {job.name}")
    shutil.rmtree(job.out, ignore_errors=True)
    whole = run(job.call, scratch, Fault(root=job.out), _LIMIT)
    if whole.code:
        report.failed.append(f"uninterrupted: exit code {whole.code}: {_tail(whole.text)}")
        return report
    wanted = job.result(job.out)
    while report.points < points and not report.failed:
        shutil.rmtree(job.out, ignore_errors=True)
        before, ended = 0, False
        for _ in range(min(_CHAIN, points - report.points)):
            by_clock = chance.random() < _BY_CLOCK
            fault = (
                Fault("none", seconds=chance.uniform(0, whole.seconds), root=job.out)
                if by_clock
                else Fault("kill", chance.randint(1, max(2, whole.changes)), root=job.out)
            )
            outcome = run(job.call, scratch, fault, _LIMIT)
            where = f"kill {report.points + 1} ({fault.kind} at {fault.at or round(fault.seconds or 0, 2)})"
            if not outcome.killed:
                ended = True
                if outcome.code:
                    report.failed.append(f"{where}: exit code {outcome.code}: {_tail(outcome.text)}")
                break
            report.points += 1
            report.by_clock += by_clock
            report.torn += [f"{where}: {name}" for name in torn(job.out)]
            now = job.done(job.out)
            if now < before:
                report.lost.append(f"{where}: {now} were done, {before} before it")
            before = now
        if not ended:
            outcome = run(job.call, scratch, Fault(root=job.out), _LIMIT)
            if outcome.code:
                report.failed.append(f"after {report.points} kills: exit code {outcome.code}: {_tail(outcome.text)}")
        if not report.failed:
            report.endings += 1
            found = differences(wanted, job.result(job.out))
            report.unequal += [f"after {report.points} kills: {name}" for name in found[:5]]
            report.torn += [f"at the end: {name}" for name in torn(job.out)]
            report.litter = max(report.litter, litter(job.out))
    return report


def _tail(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-3:])[-400:]
