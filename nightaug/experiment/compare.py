"""``nightaug compare`` as one function: the same detector, budget and test for every arm, and one table at the end.

Everything is kept as it is made. Run again, a comparison goes on: finished rows are neither trained nor tested again,
a row that was stopped continues at its newest state, and added arms or seeds are all that is new.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from nightaug.config import Settings, build, merge
from nightaug.detect.truth import Truth
from nightaug.errors import ConfigError, DatasetError, Interrupted, NothingSure
from nightaug.experiment.arms import CHECKPOINT, asked, check_folders, slug
from nightaug.experiment.compare_data import Arm, ArmSource, Data, build_arm, read_data
from nightaug.experiment.compare_facts import facts, pairs
from nightaug.experiment.compare_plan import checkpoint_folder, is_trained, plan_lines
from nightaug.experiment.compare_rows import Backend, Detectors, Rows, Say, is_done
from nightaug.experiment.compare_self import facts_of, label_folder, teachers, teachers_of
from nightaug.experiment.compare_settings import (
    DAY,
    PSEUDO,
    CompareOptions,
    CompareSettings,
    check_layers,
    check_out,
    check_teacher_settings,
    joined,
    lasting_places,
    other_steps,
    read_settings,
    starts_trained,
    write_settings,
)
from nightaug.experiment.compare_table import TableMaker, row_folder
from nightaug.experiment.compare_translate import (
    TranslatorSource,
    all_translators,
    check_directions,
    folders,
    needed,
    render,
)
from nightaug.experiment.wanted import wanted_rows
from nightaug.images import atomic_write_bytes, remove_leftovers
from nightaug.runs import lock_folder

#: Seeds of a comparison where nothing is said.
SEEDS = 3
#: Detector settings a comparison sets itself.
_OWN = ("steps", "seed")


def run_compare(
    dataset: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    detector: str | None = None,
    translators: Sequence[str] = (),
    arms: Sequence[str] | None = None,
    arms_file: str | os.PathLike[str] | None = None,
    ablate: str | None = None,
    layers: Sequence[Mapping[str, Any]] = (),
    options: Mapping[str, Any] | None = None,
    steps: int | None = None,
    day_steps: int | None = None,
    teacher_steps: int | None = None,
    teachers: int | None = None,
    teacher: Mapping[str, Any] | None = None,
    seeds: int | None = None,
    only: Sequence[str] = (),
    weights: str | None = None,
    bootstrap: int | None = None,
    allow_shared_drives: bool = False,
    world_version: int | str | None = None,
    command: str | None = None,
    cpu: bool = False,
    dry_run: bool = False,
    say: Say = lambda text: None,
    backend: Backend | None = None,
    report: Callable[[Path, Say], Path] | None = None,
) -> dict[str, Any]:
    """Compare what training images are worth on real night images.

    What a folder was begun with holds where nothing else is said, so that ``run_compare(dataset, out)`` goes on.

    Args:
        dataset: folder of ``nightaug prepare``; its labelled night test images are what everything is tested on.
        out: folder of the comparison.
        detector: overrides the layers' detector.
        translators: ``relight``, runs, weight files or translated folders, each also as ``NAME=...``.
        arms: names, see :mod:`nightaug.experiment.arms`; None: the usual ones and those of ``arms_file``.
        ablate: an adapted arm: one arm is added for each part of its night head, without that part.
        layers: settings of the detector, later ones win; whether an arm adapts is its own affair (``+adapt``).
        options: of :class:`CompareOptions`.
        steps: optimiser steps of every arm. day_steps: of the day checkpoint they start from; None: as ``steps``.
        teacher_steps: of arms when they label images for others; None: their own row, of ``steps``, labels.
        teachers: how often an arm is trained, with other seeds, to label images for others: their boxes are fused.
            None: once.
        teacher: detector settings of arms when they label images. With another ``detector`` or ``pretrained`` they
            start from that in place of the day checkpoint.
        seeds: how many, from 0.
        only: train only these rows now: ``ARM``, ``ARM@SEED``, ``@SEED`` or ``checkpoint``; the table holds what is
            done.
        weights: a detector every arm starts from, in place of a day checkpoint.
        bootstrap: replicates.
        allow_shared_drives: go on where drives of the test images are also in train; the table says so.
        world_version: of the sample world, where the dataset does not lead to its ``world.json``.
        command: for the table.
        dry_run: say what would be done, write nothing.
        backend: the detectors; a stand-in in tests.
        report: writes the page; None: :func:`nightaug.experiment.report.write_report`.

    Returns:
        The table as in ``table.json``; of a dry run the planned rows.

    Raises:
        ConfigError: settings that contradict each other or those the folder was begun with; all in one message.
        DatasetError: nothing to train or test on.
        Interrupted: stopped by Ctrl-C; run again, it goes on.
        NightaugError: as training and translating.
    """
    dataset, out, backend = Path(dataset), Path(out), backend or Detectors()
    arms_file = None if arms_file is None else Path(arms_file)
    before = read_settings(out / "compare.yaml")
    if before:  # settings an older version did not know have their defaults
        before = before.model_copy(update={"detector": lasting_places(_dump(backend.settings([before.detector])))})
    flags = {"detector": detector, "steps": steps, "weights": weights}
    given = {key: value for key, value in flags.items() if value is not None}
    recorded = [{**before.detector, "steps": before.steps}] if before else []
    check_layers(layers)
    if any(layer.get("adapt", "none") != "none" or layer.get("target") for layer in layers):
        say("adapt and target are left out: an arm adapts where it is named so, such as day+adapt")
    # An early stop would be another budget; what adapts, and to what, is said by the arms.
    base = backend.settings([*recorded, *layers, given, {"patience": None, "adapt": "none", "target": None}])
    base = backend.settings([lasting_places(base.model_dump(mode="json"))])
    counted = {key: getattr(before, key) for key in CompareOptions.model_fields} if before else {}
    counted |= {**(options or {}), **({} if bootstrap is None else {"bootstrap": bootstrap})}
    sources = all_translators(before.translators if before else {}, translators)
    detector_settings = _dump(base)
    found = asked(before, arms, arms_file, list(sources), ablate, detector_settings["adaptation"]["parts"])
    budget = int(base.model_dump()["steps"])
    check_teacher_settings(teacher or {})
    settings = build(
        CompareSettings,
        counted,
        {
            "dataset": str(dataset.absolute()),
            "allow_shared_drives": allow_shared_drives or (before is not None and before.allow_shared_drives),
            "world_version": world_version if world_version is not None else before and before.world_version,
            "detector": detector_settings,
            "steps": budget,
            "day_steps": None if starts_trained(base) else day_steps or (before and before.day_steps) or budget,
            "teacher_steps": other_steps(teacher_steps or (before.teacher_steps if before else None), budget),
            "teachers": teachers or (before.teachers if before else 1),
            "teacher": merge(before.teacher if before else {}, lasting_places(teacher or {})),
            "seeds": tuple(range(seeds or (len(before.seeds) if before else SEEDS))),
            "arms": {name: tuple(part.model_dump() for part in some) for name, some in found.arms.items()},
            "own": found.own,
            "ablated": found.ablated,
            # Those of before as well: a name that is given again must still mean the same.
            "translators": {
                name: sources[name].record().model_dump()
                for name in dict(needed(found.arms)) | (before.translators if before else {})
            },
            "commands": () if command is None else (command,),
        },
    )
    if before:
        settings = joined(before, settings, out, lambda name: any((out / "runs" / slug(name)).glob("seed*/row.json")))
    check_folders(settings.names)
    check_directions(settings.arms, sources)
    wanted = wanted_rows(only, settings.names, settings.seeds, settings.ablated)
    data = read_data(dataset, settings.dev_share, settings.allow_shared_drives)
    work = _Comparison(out, settings, data, base, sources, backend, cpu, say)
    check_out(out, dataset)
    work.describe(wanted)
    work.check(wanted)
    if dry_run:
        if (out / ".lock").exists():  # what claims a folder would make one
            lock_folder(out).close()
        return {"dry_run": True, "rows": [{"arm": arm, "seed": seed} for arm, seed in wanted]}
    lock = lock_folder(out)
    try:
        work.start()
        remove_leftovers(out)
        work.train(wanted)
        table = work.table(facts(settings, dataset))
    except KeyboardInterrupt as error:
        raise Interrupted(f"stopped; what is finished in {out} is kept, run the same command again to go on") from error
    finally:
        lock.close()
    for note in table["notes"]:
        say(f"note: {note}")
    if report is None:
        from nightaug.experiment.report import write_report

        report = write_report
    report(out, say)
    return table


def _dump(settings: Settings) -> dict[str, Any]:
    """The detector's settings but for those a comparison sets itself."""
    return {key: value for key, value in settings.model_dump(mode="json").items() if key not in _OWN}


class _Comparison:
    """One comparison on disk, from settings to table."""

    def __init__(
        self,
        out: Path,
        settings: CompareSettings,
        data: Data,
        base: Settings,
        sources: Mapping[str, TranslatorSource],
        backend: Backend,
        cpu: bool,
        say: Say,
    ) -> None:
        self.out, self.settings, self.data, self.base = out, settings, data, base
        self.sources, self.backend, self.cpu, self.say = sources, backend, cpu, say
        self.truth = Truth.from_frames(data.test, data.classes)
        self.dev_truth = Truth.from_frames(data.dev, data.classes)
        if not self.truth.annotations:
            raise DatasetError(f"{data.root}: test/B has no boxes to test on")
        for reason, number in self.truth.skipped.items():
            say(f"test images: {number:,} {reason}")
        self.rows = Rows(backend, data.classes, self.truth, self.dev_truth, data.dev, cpu, say)
        self._built: dict[tuple[str, int | None], Arm] = {}

    # -- before ----------------------------------------------------------------------------------------------

    def describe(self, wanted: Sequence[tuple[str, int]]) -> None:
        """Say what will be trained on what, and what of it is done."""
        images = len(self.dev_truth.images), len(self.truth.images)
        for line in plan_lines(self.out, self.settings, self.data, self.base, wanted, images):
            self.say(line)

    def check(self, wanted: Sequence[tuple[str, int]]) -> None:
        """Refuse arms whose images or settings cannot be used, before hours are spent on the others.

        What is yet to be translated or labelled cannot be looked at; the other parts of such an arm can.

        Raises:
            ConfigError, DatasetError: so, or test images or those of begun rows are not what they were.
        """
        mistakes = []
        detectors = {f"arm '{name}'": self.settings.detector_of(name) for name in self.settings.names}
        if self.settings.teacher:
            detectors["--teacher-set"] = self.settings.teacher_of(DAY)
        for where, detector in detectors.items():
            try:
                self.backend.settings([detector])
            except ConfigError as error:
                mistakes.append(f"{where}: {error}")
        if mistakes:
            raise ConfigError("; ".join(mistakes))
        for name in self.settings.names:
            parts = self.settings.parts(name)
            if self._is_made(name) and not teachers(parts):
                self.arm(name)
            else:
                there = [part for part in parts if not part.translated and not part.pseudo]
                build_arm(name, there, {}, self.data, self.settings.overrides(name))
        self._check_truth()
        for name, seed in wanted:
            if (name, None) in self._built:
                self.rows.check(self._built[name, None], seed, row_folder(self.out, slug(name), seed))

    def _check_truth(self) -> None:
        for path, truth in self._truths():
            if path.exists():
                there = Truth.read(path)
                if any(getattr(there, key) != getattr(truth, key) for key in ("classes", "images", "annotations")):
                    raise ConfigError(
                        f"{path} holds other images, classes or boxes than {self.data.root} now; choose another --out"
                    )

    def _truths(self) -> tuple[tuple[Path, Truth], ...]:
        return (self.out / "truth.json", self.truth), (self.out / "dev_truth.json", self.dev_truth)

    def start(self) -> None:
        """Write what the comparison is, unless its test images are not those it was begun with."""
        self._check_truth()  # again, as another process may have begun it meanwhile
        write_settings(self.settings, self.out / "compare.yaml")
        for path, truth in self._truths():
            truth.write(path)
        paths = {str(number): os.path.abspath(frame.path or "") for number, frame in self.truth.frames.items()}
        _write_json(self.out / "images.json", paths)

    # -- rows ------------------------------------------------------------------------------------------------

    def arm(self, name: str, seed: int | None = None) -> Arm:
        """An arm with its images, translated, or labelled by another arm of its seed, first where need be."""
        parts = self.settings.parts(name)
        key = (name, seed if teachers(parts) else None)
        if key not in self._built:
            ways = needed({name: parts})
            for translator, direction in ways:
                render(self.sources[translator], direction, self.data.root, self.out, self.cpu, self.say)
            there = folders(ways, self.sources, self.out)
            labelled = {f"{PSEUDO}:{one}": self._labels(one, seed) for one in teachers(parts) if seed is not None}
            self._built[key] = build_arm(name, parts, there, self.data, self.settings.overrides(name), labelled)
        return self._built[key]

    def _labels(self, teacher: str, seed: int) -> ArmSource:
        """What an arm finds on the night images of train; it is trained first where need be."""
        arm, labels = self.arm(teacher, seed), label_folder(self.out, slug(teacher), seed)
        made = facts_of(labels).get("finished")
        if not self.settings.teaches_apart:
            runs = [row_folder(self.out, arm.slug, seed)]
            if not made and not is_done(runs[0]):
                self._make(teacher, seed)
        else:
            apart = teachers_of(self.out, arm.slug, seed, self.settings.teachers)
            runs = [one.folder for one in apart]
            for which, one in enumerate(apart if not made else (), 1):
                if not is_trained(one.folder):
                    of = f" {which} of {len(apart)}" if len(apart) > 1 else ""
                    self.say(f"{arm.name}, seed {seed}, as a teacher{of}")
                self.rows.train(arm, seed, one.folder, self._teacher_settings(teacher, seed, one.seed))
        return self.rows.label(arm, runs, labels, self.data, self.settings.teaching)

    def _is_made(self, name: str) -> bool:
        """Whether an arm's images are all there already."""
        ways = needed({name: self.settings.parts(name)})
        return all(self.sources[one].is_made(direction, self.out) for one, direction in ways)

    def train(self, wanted: Sequence[tuple[str, int]]) -> None:
        """Train and test what is not done, seed by seed."""
        for name, seed in wanted:
            try:
                self._make(name, seed)
            except NothingSure as error:
                # The other rows are worth their time without it.
                self.say(f"{name}, seed {seed} is left out: {error}; train its teacher for longer (--teacher-steps)")

    def _make(self, name: str, seed: int) -> None:
        start = self._day_checkpoint(seed)
        if name == CHECKPOINT:
            return
        arm = self.arm(name, seed)
        folder = row_folder(self.out, arm.slug, seed)
        if not is_done(folder):
            self.say(f"{arm.name}, seed {seed}")
        self.rows.train(
            arm, seed, folder, self._settings(self.settings.detector_of(name), self.settings.steps, seed, start)
        )
        self.rows.test(folder)
        if arm.target and start is not None and name not in self.settings.ablated:
            self.rows.embed(arm, start.parent, folder, self.data)

    def _day_checkpoint(self, seed: int) -> Path | None:
        """The weights every arm of a seed starts from; trained first where need be."""
        if not self.settings.day_steps:
            return None
        folder = checkpoint_folder(self.out, seed)
        if not is_trained(folder):
            self.say(f"day checkpoint, seed {seed}")
        day = Arm("day checkpoint", self.arm(DAY).sources)
        settings = self._settings(self.settings.detector_of(DAY), self.settings.day_steps, seed, None)
        self.rows.train(day, seed, folder, settings)
        # The last weights, as everywhere here: the best ones would have been chosen.
        return folder / "last.safetensors"

    def _teacher_settings(self, arm: str, seed: int, own_seed: int) -> Settings:
        """Of a teacher that learns for the rows of ``seed``, and draws by a seed of its own."""
        start = None if self.settings.teaches_anew else self._day_checkpoint(seed)
        steps = self.settings.teacher_steps or self.settings.steps
        return self._settings(self.settings.teacher_of(arm), steps, own_seed, start)

    def _settings(self, detector: Mapping[str, Any], steps: int, seed: int, start: Path | None) -> Settings:
        own: dict[str, Any] = {"steps": steps, "seed": seed}
        if start is not None:
            own["weights"] = os.path.abspath(start)
        return self.backend.settings([detector, own])

    # -- after -----------------------------------------------------------------------------------------------

    def table(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Put together what is done; arms whose images are not made yet are missing in it."""
        arms = []
        for name in self.settings.names:
            done = [seed for seed in self.settings.seeds if is_done(row_folder(self.out, slug(name), seed))]
            if not self._is_made(name) or (teachers(self.settings.parts(name)) and not done):
                continue
            # What another arm has labelled is another set for every seed; the first stands for all.
            built = [self.arm(name, seed) for seed in done or self.settings.seeds[:1]]
            for arm, seed in zip(built, done, strict=False):
                self.rows.check(arm, seed, row_folder(self.out, arm.slug, seed))
            arms.append(built[0])
        _write_json(
            self.out / "pairs.json", pairs([arm for arm in arms if arm.key in self.settings.arms], self.settings.pairs)
        )
        return TableMaker(self.out, self.settings, self.data, arms, self.truth, self.dev_truth).make(facts, self.say)


def _write_json(path: Path, value: Any) -> None:
    atomic_write_bytes(path, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")
