"""Whether labels of night images went into a judge: then whoever trains on what it picked has used them, too."""

from __future__ import annotations

from pathlib import Path

from nightaug.data.formats import open_dataset
from nightaug.detect.checkpoint import find_detector, read_facts
from nightaug.detect.sources import SourceSpec, load_source, parse_source
from nightaug.errors import CheckpointError, ConfigError, DatasetError
from nightaug.experiment.compare_manifest import says_night_boxes
from nightaug.translate.plan import read_manifest


def judge_night_boxes(judge: Path, source: Path) -> bool | None:
    """Whether a detector was trained on labelled night images; None where its settings do not tell.

    A weight file does not name the dataset it was trained on. One trained on the whole of its dataset is taken to
    mean ``source``, as nearly always.

    Args:
        judge: a train-detector run or weight file.
        source: what was translated.
    """
    try:
        file = find_detector(judge)
        settings = read_facts(file)["settings"]
    except CheckpointError:
        return None
    texts = settings.get("data")
    if not isinstance(texts, list) or (not texts and (file.parent / "row.json").is_file()):
        return None  # nightaug compare hands its images over itself, and names none
    told = {_told(str(text), source) for text in texts or ["dataset"]}
    if True in told:
        return True
    # What it was started from may have seen more.
    return None if None in told or settings.get("weights") else False


def _told(text: str, source: Path) -> bool | None:
    try:
        spec = parse_source(text)
    except ConfigError:
        return None
    own = spec.data in ("dataset", ".")
    folder = source if own else Path(spec.data)
    if not own and (said := _translation_says(folder)) is not None:
        return said and spec.weight > 0
    if spec.domain == "A" or spec.weight == 0:
        return False if own or folder.exists() else None
    if own and spec.domain == "B":
        return True
    return True if _has_labelled_nights(spec, folder) else None


def _translation_says(folder: Path) -> bool | None:
    """Of a translated folder, in which night images have the labels of day ones; None where it is none."""
    try:
        rows = list(read_manifest(folder))
    except DatasetError:
        return None  # the manifest of a prepared dataset
    if not rows:
        return None
    return says_night_boxes(folder) or any(row.direction == "night2day" for row in rows)


def _has_labelled_nights(spec: SourceSpec, folder: Path) -> bool:
    try:
        night = load_source(spec._replace(data="dataset", domain="B"), open_dataset(folder))
    except DatasetError:
        return False
    return any(frame.boxes for frame in night.frames)
