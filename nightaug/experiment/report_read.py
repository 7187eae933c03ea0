"""What a comparison left in its folder, read for the report: checked types, and a list of what is missing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from nightaug import __version__
from nightaug.data.text import plain, without_surrogates
from nightaug.detect.eval_results import read_results
from nightaug.detect.truth import Truth
from nightaug.errors import ConfigError, DatasetError
from nightaug.experiment.arms import slug
from nightaug.runs import RunFolder

Number = float | None


class Interval(msgspec.Struct):
    """A value with its bootstrap interval, or the reason why there is none."""

    value: Number = None
    low: Number = None
    high: Number = None
    measurable: bool = True
    not_measurable: str | None = None


class Stat(msgspec.Struct):
    """Mean over the seeds, and their spread."""

    mean: Number = None
    spread: Number = None


class ClassRow(msgspec.Struct):
    """One class in one arm; ``change`` is against ``day``, with its interval."""

    AP: Number = None
    AP50: Number = None
    change: Number = None
    low: Number = None
    high: Number = None
    boxes: int = 0
    measured: bool = False


class SeedRow(msgspec.Struct):
    """One run of an arm."""

    seed: int


class SourceRow(msgspec.Struct):
    """Where an arm's training images come from."""

    data: str = ""
    split: str = ""
    domain: str = ""
    weight: Number = None
    images: int | None = None


class Arm(msgspec.Struct):
    """One row of the comparison."""

    name: str
    slug: str
    sources: list[SourceRow] = []
    night_boxes: bool = False
    translator: str | None = None
    images_dropped: int | None = None
    seeds: list[SeedRow] = []
    AP: Stat = msgspec.field(default_factory=Stat)
    AP50: Stat = msgspec.field(default_factory=Stat)
    AP_all: Stat = msgspec.field(default_factory=Stat)
    per_class: dict[str, ClassRow] = {}
    over_day: Interval | None = None
    recovered: dict[str, Interval | None] = {}
    lost: list[str] = []


class Test(msgspec.Struct):
    """The real night test set."""

    images: int | None = None
    boxes: dict[str, int] = {}


class Dev(msgspec.Struct):
    """The part of the training drives every choice is made on."""

    images: int | None = None


class PartRow(msgspec.Struct):
    """An adapted arm with and without one part; the difference is with less without, over the ``seeds`` of both."""

    part: str
    AP_with: Number = None
    AP_without: Number = None
    difference: Number = None
    low: Number = None
    high: Number = None
    seeds: list[int] = []
    exceeds_spread: bool | None = None


class Ablation(msgspec.Struct):
    """What each part of an adapted arm is worth, held against the spread of the day arm over its seeds."""

    arm: str
    rows: list[PartRow] = []
    day_spread: Number = None


class Table(msgspec.Struct):
    """``table.json``; all fractions in 0..1."""

    nightaug: str
    arms: list[Arm]
    world_version: int | str | None = None
    commit: str | None = None
    command: str | None = None
    machine: str | None = None
    date: str | None = None
    detector: str | None = None
    dataset: str | None = None
    steps: int | None = None
    day_steps: int | None = None
    teacher_steps: int | None = None
    teachers: int = 1
    teacher_precision: float | None = None
    teacher: dict[str, Any] = {}
    batch: int | None = None
    width: int | None = None
    height: int | None = None
    seeds: list[int] = []
    wall_s: Number = None
    train: dict[str, int | None] = {}
    test: Test = msgspec.field(default_factory=Test)
    dev: Dev = msgspec.field(default_factory=Dev)
    classes: list[str] = []
    measured_classes: list[str] = []
    score: Number = None
    ceilings: dict[str, Interval | None] = {}
    verdict: str | None = None
    others: list[str] = []
    notes: list[str] = []
    ablation: Ablation | None = None
    other_ablations: list[Ablation] = []

    @property
    def ablations(self) -> list[Ablation]:
        """All that have a row."""
        return [entry for entry in (self.ablation, *self.other_ablations) if entry is not None and entry.rows]


class Curve(msgspec.Struct):
    """Precision over recall, and F1 over score, of one class at IoU 0.5."""

    recall: list[Number] = []
    precision: list[Number] = []
    f1: list[Number] = []
    score: list[Number] = []


class Confusion(msgspec.Struct):
    """Counts, rows truth and columns detected; the last of both is the background."""

    classes: list[str]
    matrix: list[list[float]]
    score: Number = None
    iou: Number = None


class Metrics(msgspec.Struct):
    """The parts of a run's ``metrics.json`` the report draws."""

    curves: dict[str, Curve] = {}
    confusion: Confusion | None = None


class Pair(msgspec.Struct):
    """A day image and what an arm's translator made of it."""

    source: str
    arm: str
    translated: str


#: x, y, class number, 0 for day or 1 for night.
Spot = tuple[float, float, Annotated[int, msgspec.Meta(ge=0)], Annotated[int, msgspec.Meta(ge=0, le=1)]]


class Features(msgspec.Struct):
    """A detector's features of labelled objects; see :mod:`nightaug.experiment.embedding`."""

    points: list[Spot]
    variance: tuple[Number, Number] = (None, None)
    domain_separation: Number = None
    class_separation: Number = None
    chance: Number = None


class Embedding(msgspec.Struct):
    """``embedding.json`` of a run."""

    classes: list[str]
    before: Features
    after: Features

    def __post_init__(self) -> None:
        if any(spot[2] >= len(self.classes) for side in (self.before, self.after) for spot in side.points):
            raise ValueError("a point is of a class that is not named")


class Run(NamedTuple):
    """What one training of one arm left."""

    arm: str
    seed: int
    folder: Path
    metrics: Metrics | None
    log: list[dict[str, Any]]
    embedding: Embedding | None = None


@dataclass
class Compared:
    """A compare folder. ``missing`` says in sentences what is not there (yet)."""

    folder: Path
    table: Table
    runs: list[Run] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    truth: Truth | None = None
    images: dict[int, Path] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def results(self, run: Run) -> list[dict[str, Any]] | None:
        """The run's detections on the test set; None, and a line in ``missing``, where there are none."""
        path = run.folder / "detections.json"
        if self.truth is None:
            return None
        if not path.is_file():
            self.missing.append(f"{path.relative_to(self.folder).as_posix()} is not there")
            return None
        try:
            return read_results(path, self.truth).rows
        except DatasetError as error:
            self.missing.append(str(error))
            return None


def read_comparison(folder: Path) -> Compared:
    """Read a compare folder.

    Raises:
        DatasetError: ``table.json`` is missing, damaged, or of another version of nightaug.
    """
    compared = Compared(folder, _read_table(folder / "table.json"))
    table = compared.table
    seeds = table.seeds or sorted({row.seed for arm in table.arms for row in arm.seeds})
    for arm in table.arms:
        done = [row.seed for row in arm.seeds]
        absent = [str(seed) for seed in seeds if seed not in done]
        if absent:
            compared.missing.append(f"{arm.name}: seed {', '.join(absent)} not finished")
        for seed in done:
            path = folder / "runs" / arm.slug / f"seed{seed}"
            metrics = _part(compared, path / "metrics.json", Metrics)
            shown = path / "embedding.json"  # not every arm has one
            embedding = _part(compared, shown, Embedding) if shown.is_file() else None
            compared.runs.append(Run(arm.name, seed, path, metrics, _log(path), embedding))
    there = {arm.slug for arm in table.arms}
    wanted = dict.fromkeys([*_wanted_arms(folder), *table.ceilings])
    compared.missing += [f"{name}: no seed finished" for name in wanted if slug(name) not in there]
    compared.truth = _truth(compared)
    images = _part(compared, folder / "images.json", dict[int, str]) or {}
    compared.images = {number: Path(path) for number, path in images.items()}
    if any(arm.translator for arm in table.arms):
        compared.pairs = _part(compared, folder / "pairs.json", list[Pair]) or []
    return compared


def _read_table(path: Path) -> Table:
    if not path.parent.is_dir():
        raise DatasetError(f"{path.parent}: no such folder; expected the one nightaug compare wrote")
    if not path.is_file() and (path.parent / "compare.yaml").is_file():
        raise DatasetError(
            f"{path.parent} holds no table.json yet: nightaug compare writes it at its end; to see what is done, "
            "stop it and run it with --only and an arm that is finished"
        )
    if not path.is_file():
        raise DatasetError(f"{path.parent} holds no table.json: not the folder of a comparison")
    try:
        table = _decode(path, Table)
    except ValueError as error:
        raise DatasetError(f"{path}: not a table this version of nightaug writes ({error})") from error
    ours, theirs = __version__.split(".")[:2], table.nightaug.split(".")[:2]
    if ours != theirs:
        raise DatasetError(
            f"{path} was written by nightaug {plain(table.nightaug)}, this is {__version__}: "
            "run nightaug compare again (finished runs are kept), or report with that version"
        )
    for arm in table.arms:
        if not arm.slug or arm.slug.startswith(".") or Path(arm.slug).name != arm.slug or "\0" in arm.slug:
            raise DatasetError(f"{path}: {arm.slug!r} is no folder name for an arm")
    return table


T = TypeVar("T")


def _decode(path: Path, type_: type[T]) -> T:
    """A JSON file of a known shape.

    Raises:
        ValueError: unreadable or another shape, in one line.
    """
    try:
        data = path.read_bytes()
        try:
            return msgspec.json.decode(data, type=type_)
        except (ValueError, RecursionError):
            # NaN is no JSON, but what Python writes where nothing could be measured.
            import json

            return msgspec.convert(without_surrogates(_without_nan(json.loads(data))), type_, strict=False)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return value


def _part(compared: Compared, path: Path, type_: type[T]) -> T | None:
    """A file the report can do without."""
    name = path.relative_to(compared.folder).as_posix()
    if not path.is_file():
        compared.missing.append(f"{name} is not there")
        return None
    try:
        return _decode(path, type_)
    except ValueError as error:
        compared.missing.append(f"{name} cannot be used ({error})")
        return None


def _truth(compared: Compared) -> Truth | None:
    path = compared.folder / "truth.json"
    if not path.is_file():
        compared.missing.append("truth.json is not there")
        return None
    try:
        return Truth.read(path)
    except DatasetError as error:
        compared.missing.append(str(error))
        return None


def _log(run: Path) -> list[dict[str, Any]]:
    try:
        return [row for row in RunFolder(run).read_metrics() if isinstance(row, dict) and "step" in row]
    except (OSError, UnicodeDecodeError):
        return []


def _wanted_arms(folder: Path) -> list[str]:
    """Names of the arms the comparison was asked for, as far as its settings say."""
    from nightaug.config import load_yaml

    try:
        arms = load_yaml(folder / "compare.yaml").get("arms")
    except ConfigError:
        return []
    names = list(arms) if isinstance(arms, (list, dict)) else []
    return [name for name in names if isinstance(name, str)]
