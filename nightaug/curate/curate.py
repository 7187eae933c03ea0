"""Curating a translated folder: keep, mend, weigh down or drop its images and boxes, by their scores.

Only ``manifest.jsonl`` and, when mending, images change; labels stay as they are. Everything is counted and can be
undone (:mod:`nightaug.curate.ledger`). Run again with the same scores and settings nothing changes; others start from
the folder as it was translated.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from nightaug import __version__
from nightaug.curate.decide import BoxCounts, Decision, count_boxes, decide
from nightaug.curate.ledger import Entry, Header, Ledger, Row, Undone, read_rows, write_rows
from nightaug.curate.mend import mend, object_mask
from nightaug.curate.origins import Origins
from nightaug.curate.scores import ImageScore, TranslationScores
from nightaug.curate.settings import CurateSettings
from nightaug.data.formats import TRANSLATION, open_dataset
from nightaug.data.frames import Box
from nightaug.data.results import writing
from nightaug.errors import ConfigError, DatasetError, ImageError, Interrupted
from nightaug.images import atomic_write_bytes, read_image, remove_leftovers
from nightaug.runs import Progress, StopRequest, lock_folder
from nightaug.translate.folder import CURATED, REPORT
from nightaug.translate.pipeline import encode_translation
from nightaug.translate.translators import RELIGHT

#: Images mended ahead of the writing, per thread.
_AHEAD = 2

Bar = Callable[[str, int], AbstractContextManager[Progress]]


class CurateReport(msgspec.Struct, kw_only=True):
    """What curating did; ``curated/curation.json`` holds the same.

    Attributes:
        nightaug: version.
        settings: see :class:`CurateSettings`.
        images: ``total = kept + mended + weighed + dropped + unscored``; ``unscored`` have no scores and stay as they
            are; ``thinned`` of the others have dropped boxes.
        boxes: by class, of scored images; those of dropped images are dropped.
        invented: ``found`` of those that count, ``mended`` of them.
        brought_back: by class, boxes that stay only as too much of the class would have gone.
        failed: images that could not be mended, with the reason.
        judge_night_boxes: whether the judge behind the scores was trained on labelled night images; None: not known.
    """

    nightaug: str
    settings: CurateSettings
    images: dict[str, int]
    boxes: dict[str, BoxCounts]
    invented: dict[str, int]
    brought_back: dict[str, int]
    failed: dict[str, str]
    judge_night_boxes: bool | None

    @property
    def drop_share(self) -> float:
        """Share of the folder's images that are dropped, in [0, 1]."""
        return self.images["dropped"] / max(self.images["total"], 1)

    @property
    def box_drop_share(self) -> float:
        """Share of the scored boxes that are dropped, in [0, 1]."""
        total = sum(one.total for one in self.boxes.values())
        return sum(one.dropped for one in self.boxes.values()) / max(total, 1)


def _no_progress(done: int, note: str) -> None:
    pass


@contextmanager
def _no_bar(title: str, total: int) -> Iterator[Progress]:
    yield _no_progress


def curate(
    translated: str | os.PathLike[str],
    scores: TranslationScores,
    settings: CurateSettings | None = None,
    *,
    source: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    bar: Bar = _no_bar,
) -> CurateReport:
    """Curate a translated folder.

    Args:
        translated: made by ``nightaug translate``.
        scores: of its images as they were translated; images that are not in it are left alone.
        settings: None takes the defaults.
        source: ``mend`` only: what was translated; None: what the scores say.
        workers: threads that mend; None: all cores.
        dry_run: decide and count, change nothing (``mend`` then takes for granted that all can be mended).
        bar: a progress bar for a title and a number of images (:func:`nightaug.runs.progress_bar`).

    Raises:
        DatasetError: no translated folder, the scores are of other images, or the source is gone.
        ConfigError: the folder is in use, or cannot be mended: it was translated to day, or by relight itself.
        Interrupted: stopped by Ctrl-C while mending; run again to go on.
        NightaugError: the disk is full or cannot be written; run again to go on, or undo.
    """
    folder = Path(translated)
    source = None if source is None else Path(source)
    settings = settings or CurateSettings()
    read_rows(folder)  # refuse what is no translated folder before a lock is put into it
    if dry_run:
        return _Curation(folder, scores, settings, source).report()
    with writing(str(folder), "run nightaug curate again to go on, or with --undo"), closing(lock_folder(folder)):
        curation = _Curation(folder, scores, settings, source)
        remove_leftovers(folder)
        return curation.carry_out(workers or os.cpu_count() or 1, bar)


def undo(translated: str | os.PathLike[str]) -> Undone:
    """Give a translated folder back as it was before it was curated, byte for byte.

    Returns:
        How many images are as they were, and how many stay as they were translated anew since.

    Raises:
        DatasetError: no translated folder, or the original of an image is gone.
        ConfigError: the folder is in use.
        NightaugError: it cannot be written; run again to go on.
    """
    folder = Path(translated)
    read_rows(folder)
    with writing(str(folder), "run again to go on"), closing(lock_folder(folder)):
        ledger = Ledger(folder)
        remove_leftovers(folder)
        return ledger.undo()


class _Job(NamedTuple):
    """What is needed to mend one image; all paths are absolute or relative to the working folder."""

    row: Row
    score: ImageScore
    decision: Decision
    file: str  # SHA-256 of the image before
    night: Path
    day: Path
    boxes: Sequence[Box]


class _Curation:
    """One call of :func:`curate`: checks first, then decisions, then changes."""

    def __init__(self, folder: Path, scores: TranslationScores, settings: CurateSettings, source: Path | None) -> None:
        self.folder, self.settings, self.scores_settings = folder, settings, scores.settings
        self.ledger = Ledger(folder)
        self.rows = read_rows(folder)
        by_output = {score.output: score for score in scores.images}
        self.before = {row.known.output: self.ledger.before(row) for row in self.rows}
        self.scores = [by_output[row.known.output] for row in self.rows if row.known.output in by_output]
        self._check_scores()
        self.failed: dict[str, str] = {}
        self.decisions, self.brought_back = decide(self.scores, settings)
        self.facts = translation_facts(folder)
        self.source = source or Path(scores.source or str(self.facts.get("input", "")))
        if any(decision.mends for decision in self.decisions.values()):
            self._check_mendable()

    def _check_scores(self) -> None:
        if not self.scores:
            raise DatasetError(f"{self.folder}: the scores name none of its images; score this folder")
        other = [score.output for score in self.scores if self.before[score.output][1] != score.sha256]
        if other:
            what = "is missing" if self.before[other[0]][1] is None else "is another image than the scored one"
            hint = " (curated images are scored after --undo)" if self.ledger.header else ""
            raise DatasetError(
                f"{self.folder}: {len(other):,} of {len(self.scores):,} scored images have changed, {other[0]} {what}; "
                f"run nightaug score-translation again{hint}"
            )

    def _check_mendable(self) -> None:
        check_mendable(self.folder, self.rows)
        if not self.source.exists():
            raise DatasetError(f"{self.source}: what was translated is not there; name it with --source")

    def key(self) -> str:
        """Checksum of everything the result depends on besides the folder."""
        value = hashlib.sha256(self.settings.model_dump_json().encode())
        for score in self.scores:
            value.update(msgspec.json.encode(score))
        return value.hexdigest()

    def carry_out(self, workers: int, bar: Bar) -> CurateReport:
        """Do it; the folder must be locked."""
        header = Header(__version__, self.key())
        if self.ledger.header is not None and self.ledger.header != header:
            self.ledger.undo()
            self.ledger, self.rows = Ledger(self.folder), read_rows(self.folder)
        self.ledger.repair(self.rows)
        valid = {
            row.known.output
            for row in self.rows
            if row.known.output in self.decisions and self.ledger.live(row) is not None
        }
        # An entry stays until its image is mended again: it alone knows the row as it was translated.
        kept = {output: entry for output, entry in self.ledger.entries.items() if output in valid}
        ready = {
            output: entry.mended
            for output, entry in kept.items()
            if entry.mended is not None and entry.mended == self.ledger.checksum(output)
        }
        jobs = [job for job in self._jobs() if job.row.known.output not in ready]
        with self.ledger.begin(header, kept) as journal:
            with bar("mending", len(jobs)) as progress, StopRequest().listen() as stop:
                done = 0
                for job, outcome in self._mended(jobs, workers, lambda: stop.requested):
                    output, done = job.row.known.output, done + 1
                    if isinstance(outcome, ImageError):
                        self.failed[job.row.known.source] = str(outcome)
                    else:
                        sha256 = hashlib.sha256(outcome).hexdigest()
                        self.ledger.keep_original(output)
                        journal.add(Entry(output, job.row.line.decode(), job.file, sha256))
                        atomic_write_bytes(self.folder / output, outcome)
                        self.ledger.replaced(output, sha256)
                        ready[output] = sha256
                    progress(done, f"{len(self.failed)} cannot be mended" if self.failed else "")
                if stop.requested and done < len(jobs):
                    raise Interrupted(
                        f"stopped, {done:,} of {len(jobs):,} images mended; run the same command again to go on, "
                        "or nightaug curate with --undo"
                    )
            if self.failed:
                unmendable = {job.row.known.output for job in jobs} - set(ready)
                self.decisions, self.brought_back = decide(self.scores, self.settings, unmendable)
            lines = [self._line(row, ready) for row in self.rows]
            changed = {
                output: Entry(output, before.line.decode())
                for row, line in zip(self.rows, lines, strict=True)
                if (output := row.known.output) not in ready and line != (before := self.before[output][0]).line
            }
            new = [entry for output, entry in changed.items() if kept.get(output) != entry]
            if new:
                journal.add(*new)
            write_rows(self.folder, lines)
        report = self.report()
        path = self.folder / CURATED / REPORT
        data = msgspec.json.format(msgspec.json.encode(report, enc_hook=_encode_settings), indent=1) + b"\n"
        if not path.is_file() or path.read_bytes() != data:
            atomic_write_bytes(path, data)
        return report

    def _line(self, row: Row, ready: dict[str, str]) -> bytes:
        before, output = self.before[row.known.output][0], row.known.output
        decision = self.decisions.get(output)
        if decision is None:
            return row.line
        return before.changed(decision.weight, sorted(decision.dropped), ready.get(output))

    def _jobs(self) -> Iterator[_Job]:
        scores = {score.output: score for score in self.scores}
        wanted = [row for row in self.rows if row.known.output in scores and self.decisions[row.known.output].mends]
        if not wanted:
            return
        dataset = open_dataset(self.folder)
        boxes = {os.path.abspath(frame.path): frame.boxes for frame in dataset.frames() if frame.path is not None}
        origins = Origins(self.source)
        for row in wanted:
            output = row.known.output
            before, file = self.before[output]
            day = origins.find(before.known.source, before.known.direction)
            assert file is not None  # _check_scores
            yield _Job(
                before, scores[output], self.decisions[output], file, self.ledger.unmended(output),
                day, boxes.get(os.path.abspath(self.folder / output), []),
            )  # fmt: skip

    def _mended(
        self, jobs: list[_Job], workers: int, stopped: Callable[[], bool]
    ) -> Iterator[tuple[_Job, bytes | ImageError]]:
        """Mended files in the jobs' order, a bounded number of them in memory."""
        waiting: deque[tuple[_Job, Future[bytes | ImageError]]] = deque()
        queue = iter(jobs)
        with ThreadPoolExecutor(workers, "mend") as pool:
            while True:
                while len(waiting) < workers * _AHEAD and not stopped():
                    job = next(queue, None)
                    if job is None:
                        break
                    waiting.append((job, pool.submit(self._outcome, job)))
                if not waiting:
                    return
                job, future = waiting.popleft()
                yield job, future.result()

    def _outcome(self, job: _Job) -> bytes | ImageError:
        try:
            return self._mend(job)
        except ImageError as error:
            return error

    def _mend(self, job: _Job) -> bytes:
        from nightaug.relight import relight, relight_settings

        night, day = read_image(job.night), read_image(job.day)
        if night.shape != day.shape:
            raise ImageError(f"{job.day}: its size is not that of its translation")
        lost = [box.xyxy for box in job.score.boxes if box.index in job.decision.lost]
        kept = [box.xyxy for box in job.score.boxes if box.index not in job.decision.lost]
        share = float(object_mask(night.shape[:2], lost).mean())
        if share > self.settings.max_mended_area:
            raise ImageError(f"{job.row.known.output}: lost objects cover {share:.0%} of it")
        row, settings = job.row.known, self.facts.get("settings")
        settings = settings if isinstance(settings, dict) else {}
        strength = _number(settings.get("strength"), 1.0, 0.0, 1.0)
        constants = relight_settings(settings.get("relight") or {})
        relit = relight(day, job.boxes, seed=row.seed, strength=strength, settings=constants)
        image = mend(night, relit, lost, [job.score.invented[place].xyxy for place in job.decision.invented], kept)
        quality = round(_number(settings.get("quality"), 95, 1, 100))
        note = "; mended by nightaug curate with relight"
        return encode_translation(image, row.output, row.source, row.translator, row.direction, quality, note)

    def report(self) -> CurateReport:
        """Counts of what has been decided."""
        images = dict.fromkeys(("total", "kept", "mended", "weighed", "dropped", "unscored", "thinned"), 0)
        images["total"], images["unscored"] = len(self.rows), len(self.rows) - len(self.scores)
        for decision in self.decisions.values():
            kinds = (("dropped", decision.weight == 0), ("mended", decision.mends), ("weighed", decision.weight < 1))
            images[next((kind for kind, is_it in kinds if is_it), "kept")] += 1
            images["thinned"] += decision.weight > 0 and bool(decision.dropped)
        found = sum(decision.spoilt for decision in self.decisions.values())
        mended = sum(len(decision.invented) for decision in self.decisions.values())
        return CurateReport(
            nightaug=__version__,
            settings=self.settings,
            images=images,
            boxes=count_boxes(self.scores, self.decisions),
            invented={"found": found, "mended": mended},
            brought_back=dict(sorted(self.brought_back.items())),
            failed=self.failed,
            judge_night_boxes=_judge_night_boxes(self.scores_settings),
        )


def check_mendable(folder: Path, rows: Sequence[Row]) -> None:
    """Refuse to mend what relight cannot.

    Raises:
        ConfigError: images were translated to day, or by relight itself.
    """
    if any(row.known.direction != "day2night" for row in rows):
        raise ConfigError(f"{folder}: only translations to night can be mended; use --mode drop or weigh")
    if any(row.known.translator == RELIGHT for row in rows):
        raise ConfigError(
            f"{folder}: relight made these images, so mending with relight would bring back the same; use "
            "--mode drop or weigh"
        )


def _encode_settings(value: object) -> object:
    if isinstance(value, CurateSettings):
        return value.model_dump(mode="json")
    raise NotImplementedError(type(value).__name__)


def _judge_night_boxes(settings: Mapping[str, Any]) -> bool | None:
    """What the scores say of their judge: False where there was none, None where nothing is said."""
    judge = settings.get("judge")
    if judge is None:
        return False
    said = judge.get("night_boxes") if isinstance(judge, dict) else None
    return said if isinstance(said, bool) else None


def translation_facts(folder: Path) -> dict[str, object]:
    """What ``translation.json`` says; empty where it says nothing."""
    try:
        facts = json.loads((folder / TRANSLATION).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _number(value: object, otherwise: float, low: float, high: float) -> float:
    good = isinstance(value, (int, float)) and low <= value <= high
    return float(value) if good and isinstance(value, (int, float)) else otherwise
