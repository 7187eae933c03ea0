"""What is said of a whole set: objects, inventions, night, distances to real nights, the judge's own errors there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from nightaug.curate.features import all_same, set_distances, unpacked
from nightaug.curate.judge import false_detections, find_boxes
from nightaug.curate.kept import wanted
from nightaug.curate.night_classifier import NightClassifier
from nightaug.curate.pairs import Pair
from nightaug.curate.rows import PairRow, RealRow
from nightaug.curate.scores import ImageScore
from nightaug.curate.summary import invented_summary, objects_summary, per_image, ratio_interval
from nightaug.data.classes import canonical_class
from nightaug.data.frames import Frame


@dataclass
class Measured:
    """Everything looked at, before it is summed up.

    Attributes:
        pairs, rows: of the translations that could be read.
        real: real night frames, each with whether it is labelled; ``real_rows`` their rows.
        skipped: what is not measured, with the reason.
    """

    pairs: list[Pair]
    rows: list[PairRow]
    real: list[tuple[Frame, bool]] = field(default_factory=list)
    real_rows: list[RealRow] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def summarize(
    measured: Measured,
    images: list[ImageScore],
    score: float,
    chance: float,
    judged: bool,
    targets: Sequence[str],
    classifier: NightClassifier | None,
    asked: bool,
) -> dict[str, Any]:
    """The summary of a set; gives each image its probability of night.

    Args:
        images: of ``measured.pairs``, in their order.
        score, chance: as for :func:`~nightaug.curate.kept.kept_parts`.
        judged: there was a judge.
        targets: classes its detections are looked at in.
        asked: real night images were given.
    """
    rows = measured.rows
    trained, left_out = _as_trained(images, measured.pairs)
    out: dict[str, Any] = {
        "images": len(images),
        "left_out": left_out,
        "labelled_images": sum(pair.labelled for pair in measured.pairs),
        "boxes_ignored": sum(not wanted(box) for pair in measured.pairs for box in pair.frame.boxes),
        "objects": objects_summary(trained, score, chance),
        "invented": invented_summary(trained, judged),
        "structure": ratio_interval(*_known([image.structure for image in images])),
        "night": None,
        "sets": {},
    }
    if classifier is not None:
        probability = [classifier([np.array(row.statistics[at]) for row in rows]) for at in range(3)]
        for image, value in zip(images, probability[2], strict=True):
            image.night = round(float(value), 4)
        shares = [float((each > 0.5).mean()) for each in probability]
        out["night"] = {
            "probability": per_image(probability[2].tolist()), "share": shares[2], "source_share": shares[0],
            "dim_share": shares[1], "accuracy": classifier.accuracy, "accuracy_day": classifier.day,
            "accuracy_dim": classifier.dim, "accuracy_night": classifier.night,
            "trained_on": dict(zip(("day", "dim day", "night"), classifier.images, strict=True)),
        }  # fmt: skip
    for name in rows[0].features:
        out["sets"][name] = _set(name, measured)
    if asked:
        out["real"] = _real(measured, score, targets)
    return out


def _as_trained(images: Sequence[ImageScore], pairs: Sequence[Pair]) -> tuple[list[ImageScore], dict[str, int]]:
    """The scores of what a manifest leaves for training, and how many images and boxes it does not."""
    kept = []
    for image, pair in zip(images, pairs, strict=True):
        if pair.weight > 0:
            boxes = [box for box in image.boxes if box.index not in pair.dropped]
            kept.append(msgspec.structs.replace(image, boxes=boxes))
    boxes_left = sum(len(image.boxes) for image in images) - sum(len(image.boxes) for image in kept)
    return kept, {"images": len(images) - len(kept), "boxes": boxes_left}


def _known(values: Sequence[float | None]) -> tuple[list[float], list[float]]:
    return [value or 0.0 for value in values], [float(value is not None) for value in values]


def _set(name: str, measured: Measured) -> dict[str, Any]:
    """Distances of translations, and of their sources, to real nights by one extractor's features."""
    rows = measured.rows
    before, after = (unpacked([row.features[name][at] for row in rows]) for at in (0, 1))
    told = [row.distances[name] for row in rows if row.distances.get(name) is not None]
    out: dict[str, Any] = {
        "images": len(rows),
        "width": int(after.shape[1]),
        "structure_distance": float(np.mean([each for each in told if each is not None])) if told else None,
    }
    if measured.real_rows:
        nights = unpacked([row.features[name] for row in measured.real_rows])
        out["real_images"] = len(nights)
        out["fid_biased"] = min(len(after), len(nights)) < after.shape[1]
        out["translated"] = set_distances(after, nights, name == "clip")._asdict()
        out["source"] = set_distances(before, nights, name == "clip")._asdict()
        # What two samples of the same nights are apart: no translation can be nearer. Half as many images, so its FID
        # is the more biased one.
        out["real"] = set_distances(nights[::2], nights[1::2], name == "clip")._asdict()
        if all_same(before, after, nights):
            measured.skipped[f"FID and KID on features of {name}"] = "they are the same for every image"
    else:
        measured.skipped["FID, KID, CMMD"] = "no --real night images"
    return out


def _real(measured: Measured, score: float, targets: Sequence[str]) -> dict[str, Any]:
    """What the judge, and the search for lamps, say of real nights: what invented means on truth."""
    pairs = list(zip(measured.real, measured.real_rows, strict=True))
    labelled = [(frame, row) for (frame, known), row in pairs if known]
    out: dict[str, Any] = {"images": len(pairs), "labelled": len(labelled)}
    if not labelled:
        measured.skipped["what the judge invents on real nights"] = "the real night images have no labels"
        return out
    out["lamps_shown"] = per_image(row.spots for _, row in labelled)
    judged = [(frame, row.detected) for frame, row in labelled if row.detected is not None]
    if judged:
        false, hits, asked = [], [], []
        for frame, detected in judged:
            corners = np.array([box.xyxy for box in frame.boxes], np.float64).reshape(-1, 4)
            classes = [canonical_class(box.category) for box in frame.boxes]
            found = find_boxes(corners, classes, detected).score >= score
            judge_knows = [name in targets and wanted(box) for name, box in zip(classes, frame.boxes, strict=True)]
            false.append(len(false_detections(detected, corners, score, targets)))
            hits.append(float(found[judge_knows].sum()))
            asked.append(float(sum(judge_knows)))
        out["false_detections"], out["found"] = per_image(false), ratio_interval(hits, asked)
    return out
