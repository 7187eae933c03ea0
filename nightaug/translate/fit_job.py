"""``nightaug fit-relight``: a dataset's day and night frames in, a file of relight's constants out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nightaug.cyclegan.settings import FaithfulSettings
from nightaug.cyclegan.training_boxes import pseudo_boxes
from nightaug.data.formats import open_dataset
from nightaug.data.frames import Frame
from nightaug.data.upright import upright
from nightaug.errors import ConfigError, DatasetError, ImageError, Interrupted
from nightaug.images import atomic_write_text, read_image
from nightaug.relight.fit import KNOBS, ROUNDS, Fit, Shot, fit_constants, shrunk
from nightaug.relight.statistics import SCENE, Values, measure, total
from nightaug.runs import StopRequest, progress_bar

#: Least frames of each domain that something can be fitted to.
_LEAST = 8


def run_fit(
    dataset: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    night_boxes: str = "real",
    split: str = "train",
    days: int = 48,
    nights: int = 200,
    side: int = 512,
    seed: int = 0,
    workers: int = 1,
    overwrite: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Fit | None:
    """Fit and write ``out``, which ``nightaug translate --translator`` takes; None after a dry run.

    Besides ``days`` and ``nights`` as many frames again are looked at before and after, which take no part.

    Args:
        dataset: with day and night frames.
        night_boxes: ``real``: the labels of the night frames; ``none``: only what whole images tell; or detections of
            ``nightaug predict``.
        days, nights: frames to fit with, drawn by seed.
        side: longer side in pixels at which images are compared.
        workers: threads.

    Raises:
        ConfigError: ``out`` exists or is no YAML file.
        DatasetError: too few frames or labels, or no such split.
        Interrupted: by Ctrl-C; the trials are kept, and the same command goes on from them.
    """
    dataset, out = Path(dataset), Path(out)
    if out.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--out {out}: expected a .yaml file, by which translate --translator knows it")
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} is there already; choose another --out, or --overwrite")
    opened = open_dataset(dataset)
    opened.require_split(split)
    notes: list[str] = []
    day = [frame for frame in opened.frames(split, "A") if frame.path is not None and frame.boxes]
    night = [frame for frame in opened.frames(split, "B") if frame.path is not None]
    rng = np.random.default_rng(seed)
    day, night = (_drawn(frames, 2 * count, rng) for frames, count in ((day, days), (night, nights)))
    for frames, what in ((day, "labelled day frames"), (night, "night frames")):
        if len(frames) < _LEAST:
            raise DatasetError(
                f"{dataset}: {len(frames)} {what} in split {split}, too few to fit to (at least {_LEAST})"
            )
    boxes = _night_boxes(night, night_boxes, opened.classes, notes)
    halves = [(day[0::2], night[0::2]), (day[1::2], night[1::2])]
    say(
        f"{len(halves[0][0])} day and {len(halves[0][1])} night frames, as many again held out; night boxes: "
        f"{night_boxes}"
    )
    for note in notes:
        say(note)
    if dry_run:
        say(f"would try {len(KNOBS)} constants in {len(ROUNDS)} rounds, a few renderings of the day frames each")
        return None
    out.parent.mkdir(parents=True, exist_ok=True)
    trials = out.with_name(out.name + ".trials.json")
    with StopRequest().listen() as stop:
        skipped: list[str] = []
        looked = []
        for some_days, some_nights in halves:
            shots = [_shot(frame, frame.boxes, side, skipped) for frame in some_days]
            others = (_shot(frame, boxes[frame.path], side, skipped) for frame in some_nights)
            looked.append(([shot for shot in shots if shot], measure(shot for shot in others if shot)))
        if skipped:
            say(f"{len(skipped)} images could not be read and were stepped over (the first: {skipped[0]})")
        if any(min(len(a), _images(b)) < _LEAST // 2 for a, b in looked):
            raise DatasetError(f"{dataset}: too few of its images can be read")
        with progress_bar("fitting relight", len(KNOBS) * len(ROUNDS), 0, "constants") as show:
            fit = fit_constants(
                looked[0][0], looked[0][1], held=looked[1], knobs=KNOBS, rounds=ROUNDS, seed=seed, workers=workers,
                trials=trials,
                progress=lambda done, of, word: show(done, word), stop=lambda: stop.requested,
            )  # fmt: skip
        if fit.stopped:
            raise Interrupted(f"stopped; {trials} remembers what was tried, the same command goes on")
        atomic_write_text(out, _text(fit, night_boxes, dataset))
        trials.unlink(missing_ok=True)
    _say(fit, out, dataset, say)
    return fit


def _drawn(frames: Sequence[Frame], count: int, rng: np.random.Generator) -> list[Frame]:
    chosen = rng.choice(len(frames), min(count, len(frames)), replace=False) if frames else ()
    return [frames[number] for number in chosen]


def _night_boxes(
    frames: Sequence[Frame], source: str, classes: Sequence[str], notes: list[str]
) -> dict[Path | None, Sequence[Any]]:
    """Boxes by image file."""
    if source == "none":
        return {frame.path: () for frame in frames}
    if source == "real":
        if not any(frame.boxes for frame in frames):
            raise DatasetError("the night frames have no labels: --night-boxes none, or what nightaug predict found")
        return {frame.path: frame.boxes for frame in frames}
    paths = [frame.path for frame in frames if frame.path]
    found = dict(pseudo_boxes(Path(source), paths, FaithfulSettings(), set(classes), notes))
    return {path: found.get(path, ()) for path in paths}


def _shot(frame: Frame, boxes: Sequence[Any], side: int, skipped: list[str]) -> Shot | None:
    assert frame.path is not None
    try:
        image = read_image(frame.path)
    except ImageError as error:
        skipped.append(str(error))
        return None
    return shrunk(image, boxes if boxes is not frame.boxes else upright(frame).boxes, side)


def _images(measured: Mapping[str, Values]) -> int:
    """How many images were measured: each has one value of every statistic of the scene."""
    return len(next(iter(measured.get(SCENE, {}).values()), []))


def _text(fit: Fit, night_boxes: str, dataset: Path) -> str:
    content = {
        "relight": {name: _plain(value) for name, value in fit.constants.items()},
        "night_boxes": night_boxes if night_boxes in ("real", "none") else "pseudo",
        "fitted_to": str(dataset),
        "distance": {
            name: None if found is None else {key: round(value, 4) for key, value in found.items()}
            for name, found in (
                ("before", fit.before), ("after", fit.after),
                ("held_out_before", fit.held_before), ("held_out_after", fit.held_after),
            )
        },
        "trials": fit.trials,
    }  # fmt: skip
    first = "# Constants of relight, fitted by nightaug fit-relight; for nightaug translate --translator THIS_FILE\n"
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None)
    return first + text


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _say(fit: Fit, out: Path, dataset: Path, say: Callable[[str], None]) -> None:
    _say_distance("fitted on", fit.before, fit.after, say)
    if fit.held_before is not None and fit.held_after is not None:
        _say_distance("held out", fit.held_before, fit.held_after, say)
        if total(fit.held_after) >= total(fit.held_before):
            say(
                "the held-out frames are no nearer than before: give more --days and --nights, or keep relight as it is"
            )
    say(f"{len(fit.constants)} constants in {out}; next: nightaug translate {dataset} --translator {out} --out DIR")


def _say_distance(
    name: str, before: Mapping[str, float], after: Mapping[str, float], say: Callable[[str], None]
) -> None:
    parts = ", ".join(f"{key} {before[key]:.2f} to {after[key]:.2f}" for key in before if key in after)
    say(f"{name}: distance {total(before):.3f} to {total(after):.3f} ({parts})")
