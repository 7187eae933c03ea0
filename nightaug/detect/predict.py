"""``nightaug predict`` as one function: a detector on images, folders, datasets and video files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nightaug import __version__
from nightaug.data.classes import canonical_class
from nightaug.data.formats.base import shown
from nightaug.data.results import writing
from nightaug.data.text import encodable
from nightaug.detect.checkpoint import find_detector, load_detector, read_facts
from nightaug.detect.detectors import Detector
from nightaug.detect.inference import PRECISIONS
from nightaug.detect.predict_inputs import Inputs, Item, find_images
from nightaug.detect.predict_steps import Eyes, Output, detect_items, detect_video, file_state, frame_name
from nightaug.detect.predict_store import (
    PredictionRow,
    Rows,
    check_apart,
    check_folder,
    check_links,
    read_state,
    remove_files,
    remove_former,
    write_classes,
    write_coco,
    write_state,
)
from nightaug.detect.video import VideoReader, VideoWriter, is_video
from nightaug.devices import check_device, default_device
from nightaug.errors import ConfigError, DatasetError, NightaugError
from nightaug.images import remove_leftovers
from nightaug.runs import StopRequest, file_sha256, free_space, lock_folder, progress_bar

FORMATS = ("coco", "yolo")
#: Least score of what pictures and YOLO lines show, where the user does not say.
SCORE = 0.25
#: Bytes of results an image takes at most, about: 100 detections in the rows and again in COCO's list.
_RESULT_BYTES = 25_000
#: A drawn picture takes about this many times the bytes of its source, which is mostly compressed harder.
_PICTURE_GROWTH = 2
#: A drawn video takes about this many times the bytes of its source, whose codec is mostly a better one.
_VIDEO_GROWTH = 4
#: Threads where the user does not say: beyond this the detector is the slower part.
_MOST_WORKERS = 8


@dataclass
class PredictResult:
    """What a call of :func:`run_predict` did.

    Attributes:
        out: the folder.
        written: images (or frames) done by this call.
        present: images that were done before.
        gone: images done before that are no longer in the input; their files were removed.
        failed: images that could not be read or drawn, by name, with the reason; the rest was finished.
        stopped: ended early by Ctrl-C; calling again goes on.
        detections: in ``detections.json``, of all images done so far.
        shown: of these, the ones sure enough for pictures and YOLO lines.
        video: the drawn video, None for images.
    """

    out: Path
    written: int = 0
    present: int = 0
    gone: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    stopped: bool = False
    detections: int = 0
    shown: int = 0
    video: Path | None = None


class Named(NamedTuple):
    """A detector that is more than its weight file: its classes, how it is opened on a device, and the SHA-256 of the
    rest of it."""

    classes: tuple[str, ...]
    load: Callable[[str], Detector]
    sha: str


class _Job(NamedTuple):
    """Everything decided before any work."""

    source: Path
    output: Output
    coco: bool
    facts: dict[str, Any]
    batch: int
    workers: int
    overwrite: bool
    say: Callable[[str], None]


def run_predict(
    run: str | os.PathLike[str],
    input: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    score: float | None = None,
    draw: bool = True,
    formats: Sequence[str] = FORMATS,
    batch: int = 8,
    device: str | None = None,
    precision: str = "auto",
    workers: int | None = None,
    classes: Sequence[str] | None = None,
    named: Named | None = None,
    limit: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> PredictResult | None:
    """Detect objects and write pictures and results; None after a dry run. Arguments as the command's options.

    Writes ``images/`` (drawn pictures; for a video ``NAME.mp4``), ``labels/`` (YOLO lines ``class cx cy w h score``),
    ``detections.json`` with ``images.json`` (COCO), ``predictions.jsonl`` (to go on from) and ``predict.json``.

    Args:
        run: a train-detector run folder or its weight file.
        input: an image, a folder, a dataset, or a video file.
        score: least score of what pictures and YOLO lines show, 0.25 if None. ``detections.json`` always has every
            detection the detector gives, as average precision needs them.
        formats: any of ``coco`` and ``yolo``.
        classes: show and write only these.
        named: what is made of ``run``, where that is not the detector itself.
        limit: only the first so many images or frames.
        overwrite: make everything anew, also what another detector made there.

    Raises:
        DatasetError: no images, or a video that cannot be read.
        ConfigError: settings that contradict each other, or ``out`` cannot be used.
        CheckpointError: no usable detector.
        NightaugError: the disk is full, or the device's memory.
    """
    run, input, out = Path(run), Path(input), Path(out)
    if not set(formats) <= set(FORMATS):
        raise ConfigError(f"--format {','.join(formats)}: expected any of {', '.join(FORMATS)}")
    if not draw and not formats:
        raise ConfigError("neither pictures nor results were asked for, so there is nothing to do")
    if score is not None and not 0 <= score <= 1:
        raise ConfigError(f"--score {score}: expected a number from 0 to 1")
    if precision not in PRECISIONS:
        raise ConfigError(f"--precision {precision}: expected one of {', '.join(PRECISIONS)}")
    if batch < 1 or (workers is not None and workers < 1):
        raise ConfigError("--batch and --workers: expected 1 or more")
    if not encodable(str(input)):
        raise DatasetError(f"{shown(input)}: its name is not UTF-8; rename it")
    weights = find_detector(run)
    known = named.classes if named else tuple(str(name) for name in read_facts(weights)["classes"])
    wanted = _wanted(classes, known)
    output = Output(out, known, SCORE if score is None else score, wanted, draw, "yolo" in formats)
    facts = {
        "nightaug": __version__,
        "input": os.path.realpath(input),
        "run": str(run),
        "weights_sha256": file_sha256(weights) + (f"+{named.sha}" if named else ""),
        "classes": list(known),
        "score": output.score,
        "formats": sorted(formats),
        "draw": draw,
        "made": output.made,
        "limit": limit,
    }
    threads = workers or min(_MOST_WORKERS, os.cpu_count() or 1)
    job = _Job(input, output, "coco" in formats, facts, batch, threads, overwrite, say)
    device = device or default_device()
    video = input.is_file() and is_video(input)
    inputs = None if video else find_images(input, limit)
    check_apart(input, [] if inputs is None else inputs.folders, out)
    check_folder(out, facts, overwrite)
    what, need = _announce_video(input, limit, draw) if inputs is None else _announce_images(inputs, output)
    say(f"{what}; {len(known)} classes by {run} on {device}, about {max(1, need // 10**6):,} MB on disk")
    if dry_run:
        return None
    if need > (free := free_space(out)):
        raise NightaugError(f"{shown(out)}: about {need / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free")
    check_device(device)
    eyes = Eyes(named.load(device) if named else load_detector(weights, device), device, precision)
    with writing(shown(out), "what is done is kept, run again to go on"), closing(lock_folder(out)):
        check_folder(out, facts, overwrite)  # again, as another process may have finished meanwhile
        remove_leftovers(out)
        return _images(job, inputs, eyes) if inputs is not None else _video(job, eyes, limit)


def _wanted(asked: Sequence[str] | None, known: Sequence[str]) -> frozenset[int] | None:
    if asked is None:
        return None
    numbers = {canonical_class(name): number for number, name in enumerate(known)}
    unknown = [name for name in asked if canonical_class(name) not in numbers]
    if unknown or not asked:
        raise ConfigError(f"--classes: the detector knows no '{', '.join(unknown)}'; it knows {', '.join(known)}")
    return frozenset(numbers[canonical_class(name)] for name in asked)


def _announce_images(inputs: Inputs, output: Output) -> tuple[str, int]:
    """A line for the user, and about how many bytes the results will take."""
    need = len(inputs.items) * _RESULT_BYTES
    if output.draw:
        need += _PICTURE_GROWTH * sum(item.path.stat().st_size for item in inputs.items if item.path.exists())
    left_out = ", ".join(f"{count:,} {what}" for what, count in inputs.left_out.items())
    return f"{len(inputs.items):,} images" + (f" (left out: {left_out})" if left_out else ""), need


def _announce_video(video: Path, limit: int | None, draw: bool) -> tuple[str, int]:
    with VideoReader(video) as reader:
        count = min(reader.count, limit) if reader.count and limit else reader.count or limit or 0
        share = count / reader.count if reader.count else 1.0
        about = f"about {count:,} frames" if count else "an unknown number of frames"
        text = f"{about} of {reader.width}x{reader.height} at {reader.rate:g} frames a second"
    return text, count * _RESULT_BYTES + (round(video.stat().st_size * share) * _VIDEO_GROWTH if draw else 0)


def _begin(job: _Job, files: Iterable[str]) -> Rows:
    """The rows of earlier runs, once the folder is ours."""
    out = job.output.out
    check_links(out, [*files, "labels/", "images/"])
    if job.overwrite:
        remove_former(out)
    # First of all, what this folder is: a run killed at any later moment can be gone on with.
    write_state(out, job.facts | {"finished": False})
    if job.output.yolo:
        write_classes(out, job.output.classes)
    return Rows(out)


# -- images ----------------------------------------------------------------------------------------------------------


def _images(job: _Job, inputs: Inputs, eyes: Eyes) -> PredictResult:
    output, items, result = job.output, inputs.items, PredictResult(job.output.out)
    rows = _begin(job, (name for item in items for name in (item.picture, item.text)))
    began = time.monotonic()
    with closing(rows), StopRequest().listen() as stop:
        done = {item.name for item in items if _is_done(item, rows, output)}
        result.present = len(done)
        todo = [item for item in items if item.name not in done]
        with progress_bar("detecting", len(items), len(done)) as progress:
            stream = detect_items(todo, eyes, output, rows, job.batch, job.workers, lambda: stop.requested)
            for item, outcome in stream:
                if isinstance(outcome, PredictionRow):
                    rows.add(outcome)
                    done.add(item.name)
                    result.written += 1
                else:
                    result.failed[item.name] = _reason(outcome, item)
                skipped = f"{len(result.failed):,} skipped" if result.failed else ""
                progress(len(done) + len(result.failed), skipped)
        result.stopped = stop.requested and len(done) + len(result.failed) < len(items)
        if job.facts["limit"] is None:  # else the others may be in the input still
            result.gone = rows.keep({item.name for item in items})
        names = [item.name if item.name in done else None for item in items]
        _finish(job, rows, names, result, None, {"skipped": result.failed, "left_out": dict(inputs.left_out)})
    _sum_up(job, result, "images", time.monotonic() - began)
    return result


def _is_done(item: Item, rows: Rows, output: Output) -> bool:
    """Whether an earlier run has looked at this very file and made all that is asked for now."""
    known = rows.known.get(item.name)
    files = output.files(item)
    if known is None or known.made != output.made or list(known.files) != files:
        return False
    there = all((output.out / name).is_file() for name in files)
    return there and known.state == file_state(item.path)


def _reason(error: Exception, item: Item) -> str:
    text = str(error)
    prefix = f"{item.path}: "
    return text[len(prefix) :] if text.startswith(prefix) else text


# -- video -----------------------------------------------------------------------------------------------------------


def _video(job: _Job, eyes: Eyes, limit: int | None) -> PredictResult:
    output, out, state = job.output, job.output.out, file_state(job.source)
    target = out / f"{job.source.stem}.mp4" if output.draw else None
    result = PredictResult(out, video=target)
    before = read_state(out) or {}
    if not job.overwrite and _video_is_done(job, before, state):
        result.present, result.detections, result.shown = (before[key] for key in ("images", "detections", "shown"))
        job.say(f"all {result.present:,} frames were there; in {shown(out)}")
        return result
    former = before.get("video")
    if isinstance(former, str) and target is None:
        remove_files(out, [former])
    job.facts.update(state=state, video=target.name if target is not None else None)
    rows = _begin(job, [])
    began, done = time.monotonic(), 0
    with closing(rows), VideoReader(job.source) as reader, StopRequest().listen() as stop:
        total = min(reader.count, limit) if reader.count and limit else reader.count or limit or 1
        writer = VideoWriter(target, reader.width, reader.height, reader.rate) if target is not None else None
        try:
            with progress_bar("detecting", total, unit="frames") as progress:
                for done in detect_video(
                    reader, writer, job.source, state, eyes, output, rows, job.batch, limit, lambda: stop.requested
                ):
                    # The file's own count may be wrong, so the bar is not full before the end.
                    progress(min(done, total - 1), f"{done:,} frames" if done >= total else "")
            if writer is not None and done:
                writer.finish()
            elif writer is not None:  # stopped before the first frame
                writer.discard()
        except BaseException:
            if writer is not None:
                writer.discard()
            raise
        result.written = done
        # Frames may have been read ahead of the stop, and not been looked at.
        finished = done == reader.done and (done == limit or reader.read() is None)
        result.stopped = stop.requested and not finished
        names = [frame_name(job.source, number) for number in range(1, done + 1)]
        facts = {"size": [reader.width, reader.height], "frames_per_second": reader.rate}
        _finish(job, rows, names, result, job.source.name, facts)
        if reader.end and not result.stopped:
            job.say(f"the video ends early: {reader.end}")
    _sum_up(job, result, "frames", time.monotonic() - began)
    return result


def _video_is_done(job: _Job, before: dict[str, Any], state: str) -> bool:
    wanted = {"finished": True, "state": state, **{key: job.facts[key] for key in ("made", "limit", "formats")}}
    if any(before.get(key) != value for key, value in wanted.items()):
        return False
    name = before.get("video")
    return not job.output.draw or (isinstance(name, str) and (job.output.out / name).is_file())


# -- the end ---------------------------------------------------------------------------------------------------------


def _finish(
    job: _Job, rows: Rows, names: Sequence[str | None], result: PredictResult, video: str | None, facts: dict[str, Any]
) -> None:
    """COCO's two files of all images done so far, and what happened."""
    output = job.output
    if job.coco:
        result.detections, result.shown = write_coco(
            output.out, rows, names, output.classes, output.wanted, output.score, video
        )
    outcome = {
        "images": result.present + result.written,
        "detections": result.detections,
        "shown": result.shown,
        "finished": not result.stopped,
    }
    write_state(output.out, job.facts | facts | outcome)


def _sum_up(job: _Job, result: PredictResult, unit: str, seconds: float) -> None:
    rate = f" in {seconds:.1f} s ({result.written / max(seconds, 1e-9):.1f} {unit}/s)" if result.written else ""
    counts = [f"{result.written:,} {unit} done{rate}"]
    if result.present:
        counts.append(f"{result.present:,} were there")
    if result.failed:
        counts.append(f"{len(result.failed):,} skipped")
    if job.coco:
        counts.append(f"{result.detections:,} detections ({result.shown:,} of {job.output.score:g} or more)")
    where = result.video if result.video is not None else result.out
    job.say(f"{', '.join(counts)}; in {shown(where)}")
    for name, reason in list(result.failed.items())[:10]:
        job.say(f"  skipped {shown(name)}: {reason}")
    if result.gone:
        job.say(f"no longer in the input: {result.gone:,} images, whose files were removed")
    if len(result.failed) > 10:
        job.say(f"  ... and {len(result.failed) - 10:,} more, all listed in {shown(result.out / 'predict.json')}")
    if result.stopped:
        job.say("stopped early; run the same command again to go on")
