"""Damaged inputs through the real commands: each is named with its reason, the rest finished, nothing else changed."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fault_campaign.damage import HEIGHT, WIDTH
from fault_campaign.jobs import World
from fault_campaign.trial import Outcome, command, run
from fault_campaign.whole import files, torn
from nightaug.images import ImageFormat, encode_image

#: No command may compute longer on so little; and where it waits, it is waited for longer on a busy machine.
LIMIT, PATIENCE = 10.0, 40.0
#: Kinds that damage files of the output itself, which need not be mended.
_OURS_DAMAGED = ("files of a run", "translated folder")
IMAGE_FORMATS: tuple[ImageFormat, ...] = ("jpg", "png", "webp")
GOOD = ("good0.jpg", "good1.png", "good2.webp")


class Case(NamedTuple):
    """One damaged input and the command it is given to.

    Attributes:
        kind: what is damaged, for the table.
        words: of the command.
        bad: name of the damaged thing: where it is refused, that must be said.
        finished: relative to ``out``: what must be there in spite of it, where the command does not refuse all of it.
        must_refuse: the damage is such that it cannot be overlooked.
    """

    kind: str
    words: tuple[str | Path, ...]
    bad: str
    finished: tuple[str, ...] = ()
    must_refuse: bool = False


@dataclass
class KindReport:
    """Counts of one kind of damage under one command; ``wrong`` says what broke a promise, ``slowest`` is in
    seconds of processor time."""

    kind: str
    command: str
    cases: int = 0
    refused: int = 0
    in_part: int = 0
    whole: int = 0
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        return asdict(self) | {"slowest": round(self.slowest, 2), "good": not self.wrong}


class Place:
    """The folders of one case: ``input`` is damaged, ``out`` is written, everything else must stay as it is."""

    def __init__(self, root: Path, world: World, runs: Path) -> None:
        self.root, self.world, self.runs = root, world, runs
        self.input, self.out, self.beside = root / "in", root / "out", root / "beside"
        for folder in (self.input, self.beside, root / "tmp"):
            folder.mkdir(parents=True)
        (self.beside / "outside.jpg").write_bytes(picture(9, "jpg"))
        (root / "outside.jpg").write_bytes(picture(9, "jpg"))

    def good(self, folder: Path | None = None) -> None:
        """Three images that nothing is wrong with."""
        for number, name in enumerate(GOOD):
            write((folder or self.input) / name, picture(number, IMAGE_FORMATS[number]))

    def labelled(self, documents: dict[str, bytes], format: str) -> None:
        """The good images with labels beside them, as datasets of that format lie."""
        self.good(self.input / "images")
        folder = self.input / ("labels" if format in ("yolo", "bdd100k", "voc") else "annotations")
        for name, data in documents.items():
            write((self.input if name == "data.yaml" else folder) / name, data)

    def run_of(self, name: str) -> Path:
        """A finished run of this case's own."""
        shutil.copytree(self.runs / name, self.input / name)
        return self.input / name

    def snapshot(self) -> dict[str, tuple[int, int, int]]:
        """Everything but ``out`` and the system's temporary folder."""
        found = {}
        for path in files(self.root):
            if path.parts[len(self.root.parts)] not in ("out", "tmp", "said"):
                status = path.lstat()
                found[str(path)] = (status.st_size, status.st_mtime_ns, status.st_mode)
        return found


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def picture(number: int, format: ImageFormat) -> bytes:
    """A small picture with some structure."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / WIDTH
    base = np.stack([np.sin(6 * x + i + number) + np.cos(5 * y - i) for i in range(3)], axis=2) * 50 + 120
    return encode_image(np.clip(base + rng.normal(0, 6, base.shape), 0, 255).astype(np.uint8), format)


Maker = Callable[[Place, random.Random, int], Case]


def make_runs(world: World, runs: Path, scratch: Path) -> None:
    """What the cases start from: a run of each trainer and a translated folder."""
    for name in ("train-translator", "train-detector"):
        job = world.jobs()[name]
        outcome = run(job.call, scratch, limit=300)
        assert outcome.code == 0, outcome.text
        shutil.copytree(job.out, runs / name)
        shutil.rmtree(job.out)
    for number, name in enumerate(GOOD):
        write(runs / "pictures" / name, picture(number, IMAGE_FORMATS[number]))
    outcome = run(command("translate", runs / "pictures", "--out", runs / "translated"), scratch)
    assert outcome.code == 0, outcome.text


def campaign(world: World, runs: Path, root: Path, jobs: Sequence[tuple[Maker, int]], seed: int) -> list[KindReport]:
    """Damaged inputs, each in folders of its own; ``jobs``: makers with the numbers of their cases."""
    reports: dict[tuple[str, str], KindReport] = {}
    for maker, number in jobs:
        name = f"{maker.__name__}-{number}"
        place = Place(root / name, world, runs)
        case = maker(place, random.Random(f"{seed} {name}"), number)
        before = place.snapshot()
        outcome = run(_at(place, command(*case.words)), place.root / "said", limit=PATIENCE)
        key = (case.kind, str(case.words[0]))
        report = reports.setdefault(key, KindReport(*key))
        _count(report, case, outcome)
        report.wrong += [f"{name} (seed {seed}): {wrong}" for wrong in broken_promises(case, place, outcome, before)]
        if not report.wrong:
            shutil.rmtree(place.root, ignore_errors=True)
    return list(reports.values())


def _at(place: Place, call: Callable[[], int]) -> Callable[[], int]:
    def moved() -> int:
        os.environ["TMPDIR"] = str(place.root / "tmp")
        os.chdir(place.beside)
        return call()

    return moved


def _count(report: KindReport, case: Case, outcome: Outcome) -> None:
    report.cases += 1
    report.slowest = max(report.slowest, outcome.busy)
    report.refused += outcome.code == 2
    report.in_part += outcome.code == 1
    report.whole += outcome.code == 0


def broken_promises(
    case: Case, place: Place, outcome: Outcome, before: dict[str, tuple[int, int, int]]
) -> Iterator[str]:
    """What a user would complain of, in words."""
    text = outcome.text
    tail = " | ".join(text.strip().splitlines()[-3:])[-300:]
    if outcome.late:
        yield f"still at it after {PATIENCE:.0f} s"
        return
    if outcome.busy > LIMIT:
        yield f"took {outcome.busy:.0f} s of processor time"
    if outcome.traceback or outcome.code not in (0, 1, 2):
        yield f"exit code {outcome.code}: {tail}"
    after = place.snapshot()
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    if changed:
        yield f"changed outside --out: {', '.join(changed[:3])}"
    errors = [line for line in text.splitlines() if line.startswith("error:")]
    if outcome.code == 2 and len(errors) != 1:
        yield f"{len(errors)} lines of error: {tail}"
    if outcome.code == 0 and case.must_refuse and case.bad not in text:
        yield f"finished without a word of {case.bad}"
    if outcome.code in (1, 2) and case.bad and case.bad not in text and not _recorded(place.out, case.bad):
        yield f"does not name {case.bad}: {tail}"
    if outcome.code in (0, 1):
        missing = [name for name in case.finished if not (place.out / name).exists()]
        if missing:
            yield f"not finished: {', '.join(missing)}: {tail}"
        if place.out.is_dir():
            yield from (f"torn: {each}" for each in torn(place.out) if case.kind not in _OURS_DAMAGED)


def _recorded(out: Path, name: str) -> bool:
    """Whether a result says why something was left out."""
    return any(
        name in (out / file).read_text("utf-8", "replace")
        for file in ("problems.jsonl", "translation.json", "log.txt", "counts.json")
        if (out / file).is_file()
    )
