"""The table of a comparison, made from the detections its rows have left; it can be made again at any time."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from nightaug.detect.average_precision import average_precision, match
from nightaug.detect.eval_curves import best_score
from nightaug.detect.evaluate import evaluate
from nightaug.detect.truth import Truth
from nightaug.errors import DatasetError
from nightaug.experiment import gap
from nightaug.experiment.arms import is_folder
from nightaug.experiment.compare_adapt import ablation
from nightaug.experiment.compare_data import Arm, Data
from nightaug.experiment.compare_rows import DETECTIONS, DEV_DETECTIONS, is_done, read_state
from nightaug.experiment.compare_settings import CEILINGS, DAY, CompareSettings
from nightaug.experiment.verdict import missing_note, others, size_notes, verdict
from nightaug.images import atomic_write_bytes
from nightaug.runs import progress_bar

#: Confusion matrices and pictures, as long as no day arm says what the threshold should be.
_UNCHOSEN_SCORE = 0.25
_ANEW = "remove that file and run compare again: its weights, where they are kept, are tested once more"
_METRICS = {DETECTIONS: "metrics.json", DEV_DETECTIONS: "dev_metrics.json"}


class _Detection(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


class TableMaker:
    """Reads the finished rows of a comparison and puts them together.

    Args:
        out: the comparison's folder.
        arms: those whose images are known; an arm without a finished row is no row of the table.
    """

    def __init__(
        self, out: Path, settings: CompareSettings, data: Data, arms: Sequence[Arm], truth: Truth, dev_truth: Truth
    ) -> None:
        self.out, self.settings, self.data = out, settings, data
        self.arms = [arm for arm in arms if arm.key not in settings.ablated]
        self.ablated = [arm for arm in arms if arm.key in settings.ablated]
        self.truth, self.dev_truth = truth, dev_truth
        self.done = {arm.key: tuple(seed for seed in settings.seeds if is_done(self.folder(arm, seed))) for arm in arms}
        self.boxes = truth.boxes()
        self.tested = [name for name in truth.classes if self.boxes[name]]
        self.measured, self.few = self._measured()
        self.samples: dict[str, gap.Samples] = {}
        self.ap50: dict[str, gap.Floats] = {}

    def folder(self, arm: Arm, seed: int) -> Path:
        return row_folder(self.out, arm.slug, seed)

    def _measured(self) -> tuple[list[str], bool]:
        """The classes the mean AP is over, and whether there were too few boxes for the rule."""
        trained = [arm.boxes() for arm in self.arms]
        measured = [
            name
            for name in self.tested
            if self.boxes[name] >= self.settings.min_boxes and all(boxes[name] for boxes in trained)
        ]
        return measured or self.tested, not measured

    def make(self, facts: Mapping[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
        """The table; every row's metrics are brought to the score chosen on dev, no detector is run.

        Args:
            facts: what is written into the table as it is (command, machine, ...).
        """
        score = self._choose_score()
        shown = _UNCHOSEN_SCORE if score is None else score
        finished = [arm for arm in self.arms if self.done[arm.key]]
        ablated = [arm for arm in self.ablated if self.done[arm.key]]
        rows = sum(len(self.done[arm.key]) for arm in (*finished, *ablated))
        for arm in (*finished, *ablated):
            for seed in self.done[arm.key]:
                for name in _METRICS:
                    self._metrics(self.folder(arm, seed), name, shown)
            self._sample(arm)
        say(f"{rows} finished runs, mean AP over {', '.join(self.measured) or 'no class'}")
        wanted = dict.fromkeys(self.settings.arms, self.settings.seeds)
        wanted |= dict.fromkeys(self.settings.ablated, self.settings.seeds[:1])
        missing = [f"{n} seed {s}" for n, seeds in wanted.items() for s in seeds if s not in self.done.get(n, ())]
        fewest = min((len(self.done[arm.key]) for arm in finished), default=0)
        table: dict[str, Any] = {
            **facts,
            "seeds": list(self.settings.seeds),
            "wall_s": self._wall(),
            "train": {domain: len(frames) for domain, frames in self.data.train.items()},
            "test": {"images": len(self.truth.images), "boxes": self.boxes},
            "dev": {"images": len(self.dev_truth.images)},
            "classes": list(self.truth.classes),
            "measured_classes": self.measured,
            "score": score,
            "ceilings": self._ceilings(),
            "arms": [self._row(arm) for arm in finished],
        }
        day = next((row for row in table["arms"] if row["slug"] == DAY), None)
        known = {arm.key: arm for arm in (*finished, *ablated)}
        parts = ablation(known, self.samples, day, self._at(self.measured), self.settings.bootstrap_seed)
        table |= {"ablation": parts[0]} if parts else {}
        table |= {"other_ablations": parts[1:]} if parts[1:] else {}
        notes = size_notes(len(self.truth.images), fewest, self.settings.min_images, self.settings.min_seeds)
        if self.few:
            notes.append(
                f"no class has {self.settings.min_boxes} test boxes and training boxes in every arm: AP is over all "
                "classes and noisy"
            )
        blind = [row["name"] for row in table["arms"] if not any(run["AP_all"] for run in row["seeds"])]
        if blind:
            notes.append(f"not one detection is right in {', '.join(blind)}: train for longer before comparing")
        dropped = [f"{arm.name} {arm.dropped:,}" for arm in finished if arm.dropped]
        notes += [f"images dropped: {', '.join(dropped)}"] if dropped else []
        # Of the dataset and its translations that is as it should be.
        held = {arm.name: sum(s.held_back for s in arm.sources if is_folder(s.spec)) for arm in finished}
        notes += [f"{name}: {n:,} images of dev or test drives held back" for name, n in held.items() if n]
        adapted = {arm.name: len(arm.target) for arm in finished if arm.target}
        notes += [f"{name}: learns from {n:,} night images without labels, too" for name, n in adapted.items()]
        notes += [
            f"{arm.name}: learns from {len(source.frames):,} {source.name}, too"
            for arm in finished for source in arm.sources if source.spec.pseudo
        ]  # fmt: skip
        table["notes"] = [*notes, *self.data.notes, *missing_note(missing)]
        table["verdict"], table["others"] = verdict(table), others(table)
        atomic_write_bytes(self.out / "table.json", msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")
        return table

    def _choose_score(self) -> float | None:
        """The score threshold of the best mean F1 of the day arm on dev, over all its seeds; None without any hit."""
        day = next((arm for arm in self.arms if arm.key == DAY), None)
        curves = {}
        for seed in self.done[DAY] if day else ():
            assert day is not None
            found = self._metrics(self.folder(day, seed), DEV_DETECTIONS, None)["curves"]
            curves.update({f"{name} {seed}": curve for name, curve in found.items()})
        if not any(curve["best_f1"] for curve in curves.values()):
            return None  # nothing was found on dev: no threshold is better than another
        return best_score(curves)

    def _metrics(self, folder: Path, detections: str, score: float | None) -> dict[str, Any]:
        """A row's metrics from its file, made anew where its detections or the score are others; None: any score."""
        raw = (folder / detections).read_bytes()
        sha = hashlib.sha256(raw).hexdigest()
        path = folder / _METRICS[detections]
        try:
            there = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
            if there["detections_sha"] == sha and score in (None, there["confusion"]["score"]):
                return there
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        truth = self.truth if detections == DETECTIONS else self.dev_truth
        metrics = evaluate(truth, _rows(folder / detections, raw, truth), score=score)
        metrics["detections_sha"] = sha
        atomic_write_bytes(path, msgspec.json.encode(metrics))
        return metrics

    def _sample(self, arm: Arm) -> None:
        """The arm's AP on the test images and on every draw of them; draws once made are read again."""
        point, drawn, ap50 = zip(*(self._drawn(self.folder(arm, seed)) for seed in self.done[arm.key]), strict=True)
        self.samples[arm.key] = gap.Samples(self.done[arm.key], np.stack(point), np.stack(drawn))
        self.ap50[arm.key] = np.stack(ap50)

    @cached_property
    def _truth_bytes(self) -> bytes:
        """All that the AP of a row depends on besides its detections."""
        return msgspec.json.encode([self.truth.images, self.truth.annotations, self.truth.classes])

    def _drawn(self, folder: Path) -> tuple[gap.Floats, gap.Floats, gap.Floats]:
        settings = self.settings
        raw = (folder / DETECTIONS).read_bytes()
        digest = hashlib.sha256(raw)
        digest.update(self._truth_bytes)
        key = f"{digest.hexdigest()} {settings.bootstrap} {settings.bootstrap_seed}"
        path = folder / "bootstrap.npz"
        try:
            with np.load(path, allow_pickle=False) as there:
                if str(there["key"]) == key:
                    return there["point"], there["drawn"], there["ap50"]
        except (OSError, ValueError, KeyError, EOFError):
            pass
        matches = match(self.truth, _rows(folder / DETECTIONS, raw, self.truth))
        found = average_precision(matches)
        draws = gap.draw_images(len(self.truth.images), settings.bootstrap, settings.bootstrap_seed)
        with progress_bar(f"bootstrap of {folder.parent.name}", len(draws), unit="draws") as progress:
            drawn = gap.drawn_ap(matches, draws, lambda done: progress(done, ""))
        buffer = io.BytesIO()
        np.savez_compressed(buffer, key=key, point=found.ap, drawn=drawn, ap50=found.ap50)
        atomic_write_bytes(path, buffer.getvalue())
        return found.ap, drawn, found.ap50

    # -- rows ------------------------------------------------------------------------------------------------

    def _at(self, names: Sequence[str]) -> list[int]:
        return [self.truth.classes.index(name) for name in names]

    def _against_day(self, key: str, classes: Sequence[str]) -> gap.Estimate | None:
        """AP over ``classes`` less that of the day arm, where both share a seed."""
        arm, day = self.samples.get(key), self.samples.get(DAY)
        if arm is None or day is None or not gap.common_seeds(arm, day):
            return None
        return gap.difference(arm, day, self._at(classes), self.settings.bootstrap_seed)

    def _ceilings(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in CEILINGS:
            if name in self.settings.arms:
                over = self._against_day(name, self.measured)
                nothing = {"value": None, "low": None, "high": None, "measurable": False}
                found[name] = nothing if over is None else {
                    **over.as_dict(), "measurable": not gap.not_measurable(over)
                }  # fmt: skip
        return found

    def _recovered(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in CEILINGS:
            if name not in self.settings.arms:
                continue
            three = [self.samples.get(arm) for arm in (key, DAY, name)]
            known = [sample for sample in three if sample is not None]
            if len(known) < len(three) or not gap.common_seeds(*known):
                found[name] = {"not_measurable": f"{DAY} and {name} are not finished with the same seeds"}
            else:
                found[name] = gap.recovered(
                    known[0], known[1], known[2], self._at(self.measured), self.settings.bootstrap_seed
                )
        return found

    def _row(self, arm: Arm) -> dict[str, Any]:
        seeds = [self._seed_row(arm, number, seed) for number, seed in enumerate(self.done[arm.key])]
        over = self._against_day(arm.key, self.measured)
        per_class = {name: self._class_row(arm, name) for name in self.tested}
        lost = [name for name in self.measured if (per_class[name]["change"] or 0.0) < 0]
        return {
            "name": arm.name,
            "slug": arm.slug,
            "sources": [
                {
                    "data": Path(source.spec.data).name,
                    "split": source.spec.split,
                    "domain": source.spec.domain or "A+B",
                    "weight": source.weight,
                    "images": len(source.frames),
                }
                for source in arm.sources
            ],
            "night_boxes": arm.night_boxes,
            "translator": arm.translator,
            "unlabelled": len(arm.target),
            "images_dropped": arm.dropped,
            "seeds": seeds,
            **{key: _spread([row[key] for row in seeds]) for key in ("AP", "AP50", "AP_all")},
            "per_class": per_class,
            "over_day": None if over is None else over.as_dict(),
            "recovered": self._recovered(arm.key),
            "lost": sorted(lost, key=lambda name: per_class[name]["change"]),
        }

    def _seed_row(self, arm: Arm, number: int, seed: int) -> dict[str, Any]:
        ap, ap50 = self.samples[arm.key].point[number], self.ap50[arm.key][number]
        state = read_state(self.folder(arm, seed))
        return {
            "seed": seed,
            "AP": _mean(ap[self._at(self.measured)]),
            "AP50": _mean(ap50[self._at(self.measured)]),
            "AP_all": _mean(ap),
            "per_class": {
                name: {"AP": gap.or_null(ap[at]), "AP50": gap.or_null(ap50[at])}
                for name, at in zip(self.tested, self._at(self.tested), strict=True)
            },
            "wall_s": None if state is None else round(state.wall_s, 1),
            "folder": self.folder(arm, seed).relative_to(self.out).as_posix(),
        }

    def _class_row(self, arm: Arm, name: str) -> dict[str, Any]:
        (at,) = self._at([name])
        over = self._against_day(arm.key, [name])
        change = {"value": None, "low": None, "high": None} if over is None else over.as_dict()
        return {
            "AP": _mean(self.samples[arm.key].point[:, at]),
            "AP50": _mean(self.ap50[arm.key][:, at]),
            "change": change["value"],
            "low": change["low"],
            "high": change["high"],
            "boxes": self.boxes[name],
            "measured": name in self.measured,
        }

    def _wall(self) -> float:
        """Seconds of all rows and checkpoints, all sessions together."""
        states = [read_state(path.parent) for path in self.out.glob("*/**/seed*/row.json")]
        return round(sum(state.wall_s for state in states if state is not None), 1)


def _rows(path: Path, raw: bytes, truth: Truth) -> list[dict[str, Any]]:
    """A row's detections, as a detector has written them.

    Raises:
        DatasetError: the file is damaged, or of other images or classes.
    """
    try:
        rows = msgspec.json.decode(raw, type=list[_Detection])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is damaged ({error}); {_ANEW}") from error
    images = {image["id"] for image in truth.images}
    if any(row.image_id not in images or not 1 <= row.category_id <= len(truth.classes) for row in rows):
        raise DatasetError(f"{path} names images or classes that are not in the test set; {_ANEW}")
    return [{**msgspec.structs.asdict(row), "bbox": list(row.bbox)} for row in rows]


def row_folder(out: Path, slug: str, seed: int) -> Path:
    """The run folder of an arm."""
    return out / "runs" / slug / f"seed{seed}"


def _mean(values: gap.Floats) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _spread(values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean over the seeds, and their standard deviation where there are several."""
    known = [value for value in values if value is not None]
    if not known:
        return {"mean": None, "spread": None}
    return {"mean": float(np.mean(known)), "spread": float(np.std(known, ddof=1)) if len(known) > 1 else None}
