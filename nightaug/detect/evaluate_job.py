"""``nightaug evaluate`` as one function: a detector, or the results of any program, on a labelled dataset."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nightaug import __version__
from nightaug.detect.eval_results import check_rows, find_numbering, read_results, read_rows, write_results
from nightaug.detect.eval_table import metrics_lines
from nightaug.detect.eval_testset import LabelledSet, choose_classes, open_test_set, renamed
from nightaug.detect.evaluate import evaluate
from nightaug.detect.truth import Truth
from nightaug.errors import ConfigError, DatasetError
from nightaug.images import atomic_write_text
from nightaug.runs import file_sha256, progress_bar

if TYPE_CHECKING:
    from nightaug.detect.detectors import Detector

_RESULTS, _TRUTH = ".detections.json", ".truth.json"
#: What ``predict`` writes: its results, and the images and classes that they count by.
_PREDICTED, _PREDICTED_IMAGES = "detections.json", "images.json"
#: What our metrics file says it is; nothing else is ever written over.
KIND = "nightaug metrics"


class _Files(NamedTuple):
    """What an evaluation writes."""

    metrics: Path
    results: Path
    truth: Path


def run_evaluate(
    run_or_results: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    split: str = "test",
    domain: str | None = None,
    images: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    format: str | None = None,
    classes: Sequence[str] | None = None,
    truth_file: str | os.PathLike[str] | None = None,
    device: str | None = None,
    batch: int = 8,
    workers: int | None = None,
    score: float | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure a detector on the labelled images of a dataset; arguments as the command's options.

    Writes ``out`` (the metrics), and beside it ``STEM.detections.json`` (COCO results) and ``STEM.truth.json``. What a
    detector found is kept and used again while weights, images and labels are the same, unless ``overwrite``.

    Args:
        run_or_results: a train-detector run folder or weight file; or a ``.json`` of COCO results by any program.
        out: a ``.json`` file.
        split, domain: which part of the dataset; ``all`` and None take everything.
        classes: names, or ``["all"]``; None measures the classes both know. A detector that was trained with
            ``--rename`` is measured on labels renamed so.
        truth_file: the truth file whose numbers a results file uses; ``X.truth.json`` beside ``X.detections.json``, and
            predict's ``images.json`` beside its ``detections.json``, are found by themselves; other files count after
            the dataset's own COCO file, names or positions.
        score: least score of the confusion matrix; None takes the one with the best mean F1 on these images.

    Returns:
        What ``out`` holds: :func:`nightaug.detect.evaluate.evaluate`'s dict, and ``made`` saying from what. Empty
        after a dry run.

    Raises:
        DatasetError: nothing to measure, or the results cannot be read.
        CheckpointError: no usable detector.
        ConfigError: options that contradict each other, or ``out`` cannot be used.
    """
    run_or_results, dataset, out = Path(run_or_results), Path(dataset), Path(out)
    truth_file = None if truth_file is None else Path(truth_file)
    files = _files(out)
    check_paths(files, KIND, run_or_results, dataset, truth_file)
    from_file = run_or_results.suffix.lower() == ".json"
    test = open_test_set(dataset, split, domain, images=images, labels=labels, format=format)
    known = None
    if not from_file:
        known, rename = _detector_classes(run_or_results)
        test = renamed(test, rename)
    chosen, notes = choose_classes(test, classes, known)
    truth = Truth.from_frames(test.frames, chosen)
    for note in [*test.notes, *notes, *(f"{number:,} x {reason}" for reason, number in truth.skipped.items())]:
        say(note)
    if not truth.images:
        raise DatasetError(f"{dataset}: no image can be measured ({_listed(truth.skipped)})")
    say(f"{len(truth.images):,} images, {sum(truth.boxes().values()):,} boxes of {len(chosen)} classes")
    if dry_run:
        say(f"would write {files.metrics}, {files.results.name} and {files.truth.name}")
        return {}
    truth.write(files.truth)
    made: dict[str, Any] = {
        "kind": KIND,
        "nightaug": __version__,
        "input": str(run_or_results),
        "dataset": str(dataset),
        "split": split,
        "domain": domain,
        "not_measured": dict(truth.left_out),
        "skipped": dict(truth.skipped),
    }
    if from_file:
        rows, left_out = _foreign_results(run_or_results, truth, test, truth_file, say)
        made["results_left_out"] = dict(left_out)
        write_results(files.results, rows)
    else:
        key = {"weights_sha256": weights_hash(run_or_results), "test_set": truth_hash(files.truth, truth)}
        before = None if overwrite else _known_results(files, key, truth)
        if before is not None:
            say(f"{files.results} was made with the same weights on the same images: used again")
            rows = before
        else:
            rows = _detect(run_or_results, truth, device, batch, workers)
            write_results(files.results, rows)
        made |= {**key, "results_sha256": file_sha256(files.results)}
    metrics = {**evaluate(truth, rows, score=score), "made": made}
    atomic_write_text(files.metrics, json.dumps(metrics, indent=1) + "\n")
    for line in ["", *metrics_lines(metrics), ""]:
        say(line)
    confusion = metrics["confusion"]
    chosen_how = "best mean F1 on these images" if score is None else "as asked"
    say(f"confusion matrix at score {confusion['score']:.2f} ({chosen_how}), curves and all else in {files.metrics}")
    return metrics


def _files(out: Path) -> _Files:
    if out.suffix.lower() != ".json" or out.is_dir():
        raise ConfigError(f"--out {out}: expected the name of a .json file for the metrics")
    stem = out.name[: -len(out.suffix)]
    return _Files(out, out.with_name(stem + _RESULTS), out.with_name(stem + _TRUTH))


def check_paths(files: Sequence[Path], kind: str, *inputs: Path | None) -> None:
    """Inputs are never written over, nor what the command has not made.

    Args:
        files: to write; the metrics are the first, and the truth is one of them.
        kind: what such metrics say they are.

    Raises:
        ConfigError: naming the file.
    """
    for given in inputs:
        for path in files:
            if given is not None and given.exists() and path.exists() and os.path.samefile(given, path):
                raise ConfigError(f"{path} is an input of this command and would be written over; choose another --out")
    ours = {path: _is_truth(path) for path in files[1:] if path.name.endswith(_TRUTH)}
    ours[files[0]] = read_made(files[0], kind) is not None
    # Nothing in the other files tells whose they are, but the truth is written first, also by a run that was stopped.
    begun = any(ours.values())
    for path in files:
        if path.exists() and not ours.get(path, begun):
            raise ConfigError(f"--out {files[0]}: {path} is a file that evaluate has not made; choose another name")


def _is_truth(path: Path) -> bool:
    """Whether a file is a truth that an evaluation has written; any other COCO file is somebody's labels."""
    try:
        with open(path, "rb") as stream:
            return b'"nightaug truth: ' in stream.read(100)
    except OSError:
        return False


def read_made(path: Path, kind: str = KIND) -> dict[str, Any] | None:
    """What a metrics file of ours was made from, None for anything else."""
    try:
        made = json.loads(path.read_bytes())["made"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return made if isinstance(made, dict) and made.get("kind") == kind else None


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{number:,} {reason}" for reason, number in counts.most_common())


# -- results of other programs ---------------------------------------------------------------------------------------


def _foreign_results(
    path: Path, truth: Truth, test: LabelledSet, truth_file: Path | None, say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], Counter[str]]:
    companion = Truth.read(file) if (file := truth_file or _beside(path)) is not None else None
    rows, left_out = read_rows(path)
    numbering = find_numbering(rows, truth, test.numbered, test.category_ids, companion)
    results = check_rows(rows, numbering, left_out)
    if rows and not results.rows:
        raise DatasetError(f"{path}: none of its {len(rows):,} detections can be used ({_listed(left_out)})")
    say(f"{len(results.rows):,} detections of {path}, read with {numbering.what}")
    if companion is not None and (others := len(truth.images) - len(set(numbering.images.values()))):
        say(f"{others:,} of the images were not among those of {file}: their boxes count as missed")
    if left_out:
        say(f"left out: {_listed(left_out)}")
    return results.rows, left_out


def _beside(results: Path) -> Path | None:
    """The file that says what a results file of ours counts by."""
    if results.name == _PREDICTED:
        other = results.with_name(_PREDICTED_IMAGES)
    elif results.name.endswith(_RESULTS):
        other = results.with_name(results.name[: -len(_RESULTS)] + _TRUTH)
    else:
        return None
    return other if other.is_file() else None


# -- detectors -------------------------------------------------------------------------------------------------------


def _detector_classes(run: Path) -> tuple[list[str], dict[str, str]]:
    """What a detector knows, and how its training labels were renamed."""
    from nightaug.detect.checkpoint import find_detector, read_facts

    facts = read_facts(find_detector(run))
    return [str(name) for name in facts["classes"]], dict(facts["settings"].get("rename") or {})


def weights_hash(run: Path) -> str:
    """SHA-256 of a run's weights."""
    from nightaug.detect.checkpoint import find_detector

    return file_sha256(find_detector(run))


def truth_hash(file: Path, truth: Truth) -> str:
    """Hash of the truth and of what tells that an image file is still the same."""
    digest = hashlib.sha256(file.read_bytes())
    for image in truth.images:
        path = truth.frames[image["id"]].path
        state = path.stat() if path is not None else None
        digest.update(
            repr((str(path), state and (state.st_size, state.st_mtime_ns))).encode("utf-8", "surrogateescape")
        )
    return digest.hexdigest()


def _known_results(files: _Files, key: dict[str, str], truth: Truth) -> list[dict[str, Any]] | None:
    """The results of an earlier evaluation of the same weights on the same images, if they are still there."""
    made = read_made(files.metrics)
    if made is None or any(made.get(name) != value for name, value in key.items()):
        return None
    if not files.results.is_file() or file_sha256(files.results) != made.get("results_sha256"):
        return None
    return read_results(files.results, truth).rows


def _detect(run: Path, truth: Truth, device: str | None, batch: int, workers: int | None) -> list[dict[str, Any]]:
    from nightaug.detect.checkpoint import load_detector

    return detect_truth(lambda device: load_detector(run, device), truth, device, batch, workers)


def detect_truth(
    load: Callable[[str], Detector], truth: Truth, device: str | None, batch: int, workers: int | None
) -> list[dict[str, Any]]:
    """COCO results of a detector on the images of a truth, with a progress bar.

    Args:
        load: the detector, on a device.
        device: None: a GPU where there is one.
        workers: processes that decode images; None: as many as are free.

    Raises:
        DatasetError: an image is missing.
        ConfigError: the device is not there.
    """
    from nightaug.detect.inference import decoders, detect_frames
    from nightaug.devices import check_device, default_device

    missing = sum(frame.path is None for frame in truth.frames.values())
    if missing:
        raise DatasetError(f"{missing:,} images are not there, so nothing can be detected on them; pass --images")
    device = device or default_device()
    check_device(device)
    detector = load(device)
    with progress_bar("detecting", len(truth.images)) as progress:
        return detect_frames(
            detector,
            truth,
            batch=batch,
            device=device,
            workers=decoders(workers),
            progress=lambda done, total: progress(done, ""),
        )
