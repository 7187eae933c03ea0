"""One comparison on disk, from its settings to its table: what ``compare`` does once it knows what is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from nightaug.config import Settings
from nightaug.detect.truth import Truth
from nightaug.errors import ConfigError, DatasetError, NothingSure
from nightaug.experiment.arms import CHECKPOINT, slug
from nightaug.experiment.compare_data import Arm, ArmSource, Data, build_arm
from nightaug.experiment.compare_detectors import Backend, Say
from nightaug.experiment.compare_facts import pairs
from nightaug.experiment.compare_plan import checkpoint_folder, is_trained, plan_lines
from nightaug.experiment.compare_rows import Rows, is_begun, is_done
from nightaug.experiment.compare_self import facts_of, label_folder, teachers, teachers_of
from nightaug.experiment.compare_settings import DAY, PSEUDO, CompareSettings, write_settings
from nightaug.experiment.compare_table import TableMaker, row_folder
from nightaug.experiment.compare_translate import TranslatorSource, folders, needed, render
from nightaug.images import atomic_write_bytes


class Comparison:
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
        self._check_fresh([row for row in wanted if not is_begun(row_folder(self.out, slug(row[0]), row[1]))])
        for name, seed in wanted:
            if (name, None) in self._built:
                self.rows.check(self._built[name, None], seed, row_folder(self.out, slug(name), seed))

    def _check_fresh(self, rows: Sequence[tuple[str, int]]) -> None:
        """What rows that are yet to be begun need: detectors that can be made, translators that can translate."""
        names = dict.fromkeys(DAY if name == CHECKPOINT else name for name, _ in rows)
        parts = {name: self.settings.parts(name) for name in names}
        detectors = [self.settings.detector_of(name) for name in names]
        if self.settings.teaches_apart:
            detectors += [self.settings.teacher_of(one) for some in parts.values() for one in teachers(some)]
        for detector in detectors:
            self.backend.check(self.backend.settings([detector]))
        for translator, direction in needed(parts):
            self.sources[translator].check(direction, self.out)

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
            labelled = {f"{PSEUDO}:{one}": self._labels(one, seed, name) for one in teachers(parts) if seed is not None}
            self._built[key] = build_arm(name, parts, there, self.data, self.settings.overrides(name), labelled)
        return self._built[key]

    def _labels(self, teacher: str, seed: int, student: str) -> ArmSource:
        """What an arm finds on the night images of train for another; it is trained first where need be."""
        arm, labels = self.arm(teacher, seed), label_folder(self.out, slug(teacher), seed)
        made = facts_of(labels).get("finished")
        learned = is_done(row_folder(self.out, slug(student), seed))
        if not self.settings.teaches_apart:
            runs = [row_folder(self.out, arm.slug, seed)]
            if not made and not is_done(runs[0]):
                self._make(teacher, seed)
        else:
            apart = teachers_of(self.out, arm.slug, seed, self.settings.teachers)
            runs = [one.folder for one in apart]
            if learned and not made and not all(map(is_trained, runs)):
                # Nobody who asks for a finished comparison's table wants hours of training first.
                row = row_folder(self.out, slug(student), seed)
                raise ConfigError(
                    f"{row} has learned from {labels}, which is gone; bring it back, or remove {row}, too"
                )
            for which, one in enumerate(() if made else apart, 1):
                if not is_trained(one.folder):
                    of = f" {which} of {len(apart)}" if len(apart) > 1 else ""
                    self.say(f"{arm.name}, seed {seed}, as a teacher{of}")
                self.rows.train(arm, seed, one.folder, self._teacher_settings(teacher, seed, one.seed))
        return self.rows.label(arm, runs, labels, self.data, self.settings.teacher_precision, self.settings.teaching)

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
                self.say(f"{name}, seed {seed} is left out: {error}{self._way_out(error)}")

    def _way_out(self, error: NothingSure) -> str:
        """What somebody can do whose teacher labels nothing."""
        if not error.trainable:
            return ""
        elsewhere = " and another --out" if self.settings.teaches_apart else ""
        return f"; train its teacher for longer (--teacher-steps{elsewhere})"

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
