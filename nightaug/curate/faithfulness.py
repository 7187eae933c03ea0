"""What a translation did to its objects: kept, moved, invented; and whether it became night at all.

Every measure is skipped with its reason where what it needs is not there: without any weights, edges, lamps
and the statistics of images remain. See :mod:`nightaug.curate.kept` for the formula of *kept*, and METHODS 7 of the
project for the words.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nightaug import __version__
from nightaug.clip.encoder import Clip, load_clip
from nightaug.curate.features import (
    ClipFeatures,
    Extractor,
    InceptionFeatures,
    parse_features,
)
from nightaug.curate.gallery import write_gallery
from nightaug.curate.judge import SCORE, Judge, best_threshold, false_detections, new_detections
from nightaug.curate.judge_labels import judge_night_boxes
from nightaug.curate.kept import ClipBox, ask_clip, score_boxes, wanted
from nightaug.curate.measure import Eyes, measure
from nightaug.curate.night_classifier import LEAST, NightClassifier, train_night_classifier
from nightaug.curate.pairs import Pair, Pairs, find_pairs, find_real
from nightaug.curate.rows import PairRow, RealRow, Rows, open_rows, rows_path
from nightaug.curate.scores import ImageScore, Invented, TranslationScores, read_scores, write_scores
from nightaug.curate.summary import blind_judge, invented_untold, summary_lines
from nightaug.curate.whole import Measured, summarize
from nightaug.data.frames import Frame
from nightaug.data.results import writing
from nightaug.devices import check_device, default_device
from nightaug.errors import CheckpointError, ConfigError, DatasetError, ImageError, Interrupted
from nightaug.runs import StopRequest, progress_bar

#: Real night images that are looked at: as many as translations, but at least and at most so many.
_LEAST_REAL, _MOST_REAL = 200, 1000
_MOST_WORKERS = 8
#: How a line of our rows begins, and what the head of our page says.
_ROWS, _PAGE = (b'{"type":"pair","key":"', b'{"type":"real","key":"'), b"<title>Scores of "


def score_translation(
    source: str | os.PathLike[str],
    translated: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    real: str | os.PathLike[str] | None = None,
    judge: str | os.PathLike[str] | None = None,
    clip: str = "none",
    features: Sequence[str] | None = None,
    score: float | None = None,
    real_limit: int | None = None,
    limit: int | None = None,
    batch: int = 8,
    device: str | None = None,
    precision: str = "auto",
    workers: int | None = None,
    seed: int = 0,
    everything: bool = False,
    gallery: bool = True,
    worst: int = 12,
    stop: StopRequest | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> TranslationScores:
    """Score a translated folder; arguments as the command's options.

    Writes ``out`` (see :mod:`nightaug.curate.scores`), a gallery page beside it, and ``NAME.rows.jsonl``, from which an
    interrupted run goes on.

    Args:
        source: what was translated.
        translated: the folder ``nightaug translate`` made.
        real: real night images, labelled or not.
        judge: a train-detector run or weight file that took no part in the translation.
        clip: as for train-detector.
        features: of whole images, any of ``clip``, ``inception``, ``inception:FILE``, ``judge``; None: what is there.
        score: least score of a detection that counts; None: where the judge's F1 on the source is best.
        real_limit: real images to look at; None: as many as translations, 200 to 1,000.
        everything: kept, lost, moved and invented are also of the images and boxes that curating has left out of
            training.
        stop: a request of the caller, who has more to do and looks at it afterwards; None: one of its own.

    Raises:
        DatasetError: nothing to score.
        ConfigError: settings that contradict each other, or a file that scoring has not made would be written over.
        CheckpointError: no usable judge or CLIP.
        Interrupted: stopped by Ctrl-C; what was measured is kept.
    """
    source, translated, out = Path(source), Path(translated), Path(out)
    real = None if real is None else Path(real)
    judge = None if judge is None else Path(judge)
    _check(out, score, batch, workers)
    _check_own(out, gallery)
    device = default_device() if device is None else device
    check_device(device)
    pairs = find_pairs(source, translated, limit)
    if everything:
        pairs.items = [replace(pair, weight=1.0, dropped=frozenset()) for pair in pairs.items]
    nights = find_real(real, pairs, real_limit or _real_limit(len(pairs.items))) if real is not None else []
    skipped: dict[str, str] = {}
    arbiter = Judge(judge, device, precision) if judge is not None else None
    saw_nights = judge_night_boxes(judge, source) if judge is not None else False
    network = load_clip(clip, device, optional=True) if clip != "none" else None
    eyes = _open_eyes(arbiter, network, features, device, skipped)
    targets = _targets(pairs, arbiter)
    boxes = sum(wanted(box) for pair in pairs.items for box in pair.frame.boxes)
    counts = f"{len(pairs.items):,} translations with {boxes:,} boxes, {len(nights):,} real night images"
    say(f"{counts}; {_who(arbiter, network)}")
    for note in pairs.notes:
        say(note)
    threads = workers or min(_MOST_WORKERS, os.cpu_count() or 1)
    stop = stop or StopRequest()
    with stop.listen(), writing(str(out.parent), "what was measured is kept"):
        with open_rows(rows_path(out)) as rows:
            measured, failed = _measure(pairs, nights, eyes, rows, batch, threads, stop, skipped)
        if not measured.rows:
            raise DatasetError(
                f"{translated}: none of {len(failed):,} images can be read ({next(iter(failed.values()))})"
            )
        boxed = measured.pairs
        said: list[list[ClipBox]] | None = None
        choices = 1
        if network is not None and boxes:
            said, choices = ask_clip(boxed, network, pairs.classes, stop, say)
    threshold, source_of_it = _threshold(measured, arbiter, targets, score)
    known = arbiter.classes if arbiter is not None else ()
    classifier = _classifier(measured, seed, real is not None)
    images = [
        _image(pair, row, known, targets, threshold, said[at] if said is not None else None, 1 / choices)
        for at, (pair, row) in enumerate(zip(boxed, measured.rows, strict=True))
    ]
    summary = summarize(
        measured, images, threshold, 1 / choices, arbiter is not None, targets, classifier, real is not None
    )
    if arbiter is not None:
        unknown = sorted(set(pairs.classes) - set(known))
        asked = [box.found_day for image in images for box in image.boxes if box.found_day is not None]
        found = float(np.mean(np.array(asked) >= threshold)) if asked else None
        summary["judge"] = {
            "name": arbiter.name, "score": threshold, "score_from": source_of_it, "found_source": found,
            "unknown": unknown,
        }  # fmt: skip
        if blind_judge(summary):
            summary["invented"] |= invented_untold()
        if unknown:
            skipped["judge's word on " + ", ".join(unknown)] = "it was not trained on them"
    summary["failed"], summary["skipped"] = len(failed), skipped
    settings = {
        "judge": None if arbiter is None else {"name": arbiter.name, "sha256": arbiter.sha, "night_boxes": saw_nights},
        "clip": None if network is None else {"name": network.name, "sha256": network.sha},
        "features": sorted(_names(eyes)), "score": threshold, "seed": seed, "limit": limit,
        "real": None if real is None else str(real), "real_images": len(measured.real_rows),
    }  # fmt: skip
    scores = TranslationScores(
        nightaug=__version__, source=os.path.abspath(source), translated=os.path.abspath(translated), settings=settings,
        summary=summary, images=images, failed=failed,
    )  # fmt: skip
    with writing(str(out.parent), "what was measured is kept, run again"):
        write_scores(out, scores)
        if gallery:
            write_gallery(out.with_suffix(".html"), scores, boxed, worst)
    _report(scores, say)
    return scores


def _check(out: Path, score: float | None, batch: int, workers: int | None) -> None:
    if out.is_dir() or out.suffix.lower() != ".json":
        raise ConfigError(f"--out {out}: expected a .json file to write")
    if score is not None and not 0 < score < 1:
        raise ConfigError(f"--score {score}: expected a number between 0 and 1")
    if batch < 1 or (workers is not None and workers < 1):
        raise ConfigError("--batch and --workers: expected 1 or more")


def _check_own(out: Path, gallery: bool) -> None:
    """Nothing is written over but what scoring has made, be it only a part of it.

    Raises:
        ConfigError: naming the file.
    """
    page = out.with_suffix(".html")
    checks = {out: _is_scores, rows_path(out): _is_rows} | ({page: _is_page} if gallery else {})
    for path, is_ours in checks.items():
        if path.exists() and not (path.is_file() and is_ours(path)):
            raise ConfigError(f"{path} is a file that score-translation has not made; choose another --out")


def _is_scores(path: Path) -> bool:
    try:
        read_scores(path)
    except DatasetError:
        return False
    return True


def _is_rows(path: Path) -> bool:
    """Whether any line is a row, also one of another version; a crash may have torn the first after a few bytes."""
    with open(path, "rb") as stream:
        if any(line.startswith(_ROWS) for line in stream):
            return True
    return path.stat().st_size < len(_ROWS[0]) and any(start.startswith(path.read_bytes()) for start in _ROWS)


def _is_page(path: Path) -> bool:
    with open(path, "rb") as stream:
        return _PAGE in stream.read(1000)


def _real_limit(translations: int) -> int:
    return min(max(translations, _LEAST_REAL), _MOST_REAL)


def _who(judge: Judge | None, clip: Clip | None) -> str:
    return f"judge: {judge.name if judge else 'none'}, CLIP: {clip.name if clip else 'none'}"


def _open_eyes(
    judge: Judge | None, clip: Clip | None, features: Sequence[str] | None, device: str, skipped: dict[str, str]
) -> Eyes:
    """The extractors that were asked for; those that are not there are said in ``skipped``."""
    asked = None if features is None else parse_features(features)
    extractors: list[Extractor] = []
    kinds = [(name, "") for name, there in (("clip", clip), ("judge", judge)) if there] if asked is None else asked
    for kind, source in kinds:
        if kind == "clip" and clip is None:
            skipped["features of CLIP"] = "no --clip"
        elif kind == "clip" and clip is not None:
            extractors.append(ClipFeatures(clip))
        elif kind == "judge" and judge is None:
            skipped["features of the judge"] = "no --judge"
        elif kind == "inception":
            try:
                extractors.append(InceptionFeatures(source or "IMAGENET1K_V1", device))
            except CheckpointError as error:
                if source:
                    raise  # a file that was named is meant
                skipped["features of Inception"] = str(error)
    if judge is None:
        skipped["found, moved, invented objects"] = "no --judge (a detector that took no part in the translation)"
    if clip is None:
        skipped["CLIP's word on each box, CMMD"] = "no --clip"
    if not kinds:
        skipped["FID and KID"] = "no features: they come from --judge, --clip or --features inception"
    return Eyes(judge, extractors, ("judge", "") in kinds and judge is not None)


def _names(eyes: Eyes) -> list[str]:
    return [*(each.name for each in eyes.extractors), *(["judge"] if eyes.judge_features else [])]


def _targets(pairs: Pairs, judge: Judge | None) -> tuple[str, ...]:
    """Classes in which the judge's detections are looked at: its own that the labels know; without labels all.

    Raises:
        ConfigError: there is none.
    """
    if judge is None:
        return ()
    if not pairs.classes:
        return judge.classes
    common = tuple(name for name in judge.classes if name in pairs.classes)
    if not common:
        raise ConfigError(
            f"--judge {judge.name} knows {', '.join(judge.classes)}; the labels have {', '.join(pairs.classes)}: "
            "take one that was trained on these classes"
        )
    return common


def _measure(
    pairs: Pairs,
    nights: list[tuple[Frame, bool]],
    eyes: Eyes,
    rows: Rows,
    batch: int,
    workers: int,
    stop: StopRequest,
    skipped: dict[str, str],
) -> tuple[Measured, dict[str, str]]:
    """Rows of all images that can be read, and why the others cannot."""
    measured = Measured([], [], skipped=skipped)
    failed = dict(pairs.failed)
    items: list[Pair | Frame] = [*pairs.items, *(frame for frame, _ in nights)]
    done = 0
    with progress_bar("scoring", len(items)) as progress:
        outcomes = measure(
            items, eyes, rows, batch=batch, workers=workers, stopped=lambda: stop.requested
        )  # fmt: skip
        for number, outcome in outcomes:
            item = items[number]
            if isinstance(outcome, ImageError):
                name = item.output if isinstance(item, Pair) else f"real night: {item.name}"
                failed[name] = str(outcome)
            elif isinstance(outcome, PairRow) and isinstance(item, Pair):
                measured.pairs.append(item)
                measured.rows.append(outcome)
            elif isinstance(outcome, RealRow):
                measured.real.append(nights[number - len(pairs.items)])
                measured.real_rows.append(outcome)
            done += 1
            progress(done, "")
    if stop.requested and done < len(items):
        raise Interrupted(
            f"stopped after {done:,} of {len(items):,} images; they are kept, run the same command to go on"
        )
    return measured, failed


def _threshold(
    measured: Measured, judge: Judge | None, targets: Sequence[str], score: float | None
) -> tuple[float, str]:
    """The judge's threshold, and where it is from."""
    if score is not None:
        return score, "as asked"
    if judge is None:
        return SCORE, "unused"
    # Both have one size and one list of boxes; the translation's file is the one the labels were read with.
    labelled = [(pair, row) for pair, row in zip(measured.pairs, measured.rows, strict=True) if pair.labelled]
    frames = [pair.frame for pair, _ in labelled]
    found = best_threshold(frames, [row.day for _, row in labelled if row.day is not None], targets)
    return (SCORE, "a default, for want of labels") if found is None else (found, "its best F1 on the source")


def _classifier(measured: Measured, seed: int, asked: bool) -> NightClassifier | None:
    if min(len(measured.rows), len(measured.real_rows)) < LEAST:
        why = f"fewer than {LEAST} source or real night images" if asked else "no --real night images"
        measured.skipped["did it become night"] = why
        return None
    day, dim = ([np.array(row.statistics[at]) for row in measured.rows] for at in (0, 1))
    return train_night_classifier(day, dim, [np.array(row.statistics) for row in measured.real_rows], seed)


def _image(
    pair: Pair,
    row: PairRow,
    known: Sequence[str],
    targets: Sequence[str],
    score: float,
    clip: list[ClipBox] | None,
    chance: float,
) -> ImageScore:
    lamps = [Invented(kind="lamp", xyxy=(x1, y1, x2, y2), score=peak) for x1, y1, x2, y2, peak in row.lamps]
    image = ImageScore(
        output=pair.output, source=pair.source, sha256=row.sha256, structure=row.whole, spots=row.spots,
        boxes=score_boxes(pair, row, known, score, clip, chance),
    )  # fmt: skip
    if row.day is not None and row.night is not None:
        night = row.night
        boxes = np.array([box.xyxy for box in pair.frame.boxes], np.float64).reshape(-1, 4)
        false = false_detections(night, boxes, score, targets)
        image.false_detections = len(false) if pair.labelled else None
        image.invented = [
            Invented(kind="object", category=night.labels[at], xyxy=night.boxes[at], score=night.scores[at])
            for at in new_detections(false, night, row.day, score).tolist()
        ]
        if row.dim is not None:
            false = false_detections(row.dim, boxes, score, targets)
            image.doubted = [row.dim.labels[at] for at in new_detections(false, row.dim, row.day, score).tolist()]
    image.invented += lamps
    return image


def _report(scores: TranslationScores, say: Callable[[str], None]) -> None:
    for line in ["", *summary_lines(scores.summary)]:
        say(line)
    for name, reason in list(scores.failed.items())[:10]:
        say(f"  could not be scored: {name}: {reason}")
    if len(scores.failed) > 10:
        say(f"  ... and {len(scores.failed) - 10:,} more, all listed in the file")
