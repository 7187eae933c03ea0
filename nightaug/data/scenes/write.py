"""The sample world as files: BDD100K's folders, names and Scalabel labels, day and night apart."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2

from nightaug.data.classes import DAY, NIGHT
from nightaug.data.formats import scalabel
from nightaug.data.frames import Frame
from nightaug.data.scenes.assemble import WORLD_VERSION, check_size, render
from nightaug.data.scenes.layout import FRAMES_PER_DRIVE
from nightaug.images import atomic_write_bytes, atomic_write_text

#: Split and time of day -> a block of drive numbers that no other pair of them touches.
_BLOCKS: dict[tuple[str, str], int] = {
    ("train", DAY): 0,
    ("train", NIGHT): 1,
    ("val", DAY): 2,
    ("val", NIGHT): 3,
    ("test", DAY): 4,
    ("test", NIGHT): 5,
}
_PAIRS_BLOCK = 6
_BLOCK_DRIVES = 1 << 20
SPLITS = ("train", "val", "test")

#: Label files are read by BDD100K's own tools too: their folder and file names, not ours.
_LABELS = "labels/det_20"
_IMAGES = "images/100k"

Progress = Callable[[int, int], None]


def scene_seeds(seed: int, split: str, timeofday: str, count: int) -> list[int]:
    """Scene seeds of one part of a world: drives of 1 to 4 frames, never shared with another part.

    Args:
        seed: of the whole world, 0 .. 2**31 - 1.
        split: ``"train"``, ``"val"`` or ``"test"``.
        timeofday: ``"daytime"`` or ``"night"``.
        count: frames.

    Raises:
        ValueError: an argument out of range.
    """
    if (split, timeofday) not in _BLOCKS:
        raise ValueError(
            f"expected a split of {', '.join(SPLITS)} and a time of {DAY!r} or {NIGHT!r}, got {split!r}, {timeofday!r}"
        )
    return _seeds(seed, _BLOCKS[split, timeofday], count)


def _seeds(seed: int, block: int, count: int) -> list[int]:
    if not 0 <= seed < 1 << 31:
        raise ValueError(f"expected a world seed in 0..2**31-1, got {seed}")
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= _BLOCK_DRIVES:
        raise ValueError(f"expected a count in 0..{_BLOCK_DRIVES}, got {count!r}")
    out: list[int] = []
    drive = (seed * 8 + block) * _BLOCK_DRIVES
    while len(out) < count:
        # drives of real datasets differ in length; 3, 2, 4, 1, ... by number alone needs no random state
        frames = (3, 2, 4, 1, 3, 4, 2)[drive % 7]
        out.extend(drive * FRAMES_PER_DRIVE + k for k in range(min(frames, count - len(out))))
        drive += 1
    return out


def write_world(
    out: str | os.PathLike[str],
    counts: Mapping[str, Mapping[str, int]],
    *,
    width: int = 512,
    height: int = 288,
    seed: int = 0,
    rare: float = 2.0,
    quality: int = 88,
    workers: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw a world into ``out`` in BDD100K's layout.

    ``images/100k/{split}/NAME.jpg``, ``labels/det_20/det_{split}.json`` (a Scalabel list, day and night
    frames together, told apart by ``attributes.timeofday``) and ``world.json`` (version, seed, sizes,
    counts). The bytes depend on the arguments only, not on ``workers``. Images already there are drawn
    and replaced again; the label file of a split is written after its last image, ``world.json`` last,
    so a folder without it is unfinished. Image files no label names are left alone, and counted in the
    summary as ``strangers``.

    Args:
        out: folder, made where missing.
        counts: frames by split and time of day, ``{"train": {"daytime": 200, "night": 200}, "val": {...}}``.
        width, height: pixels, up to 1280x720.
        seed: of the whole world; day, night and every split get scenes of their own from it.
        rare: see :func:`~nightaug.data.scenes.render`.
        quality: JPEG quality, 1..100.
        workers: processes; 1 draws in this one.
        progress: called with (done, total) after each image.

    Returns:
        What ``world.json`` holds.

    Raises:
        ValueError: an argument out of range.
    """
    out = Path(out)
    parts: list[tuple[str, str, list[int]]] = []
    for split, by_time in counts.items():
        for timeofday, count in by_time.items():
            parts.append((split, timeofday, scene_seeds(seed, split, timeofday, count)))
    _check(width, height, rare, quality, workers)
    jobs: list[_Job] = [
        (out / _IMAGES / split, scene, width, height, timeofday, rare, quality)
        for split, timeofday, seeds in parts
        for scene in seeds
    ]
    for split in counts:
        (out / _IMAGES / split).mkdir(parents=True, exist_ok=True)
    frames = _draw_all(jobs, workers, progress)
    strangers = 0
    written: dict[str, dict[str, int]] = {}
    for split, by_time in counts.items():
        number = sum(by_time.values())
        mine, frames = frames[:number], frames[number:]
        _write_labels(out / _LABELS / f"det_{split}.json", mine)
        written[split] = dict(by_time)
        strangers += sum(1 for _ in (out / _IMAGES / split).glob("*.jpg")) - len(mine)
    summary = _summary(width, height, seed, rare, quality) | {"counts": written}
    atomic_write_text(out / "world.json", json.dumps(summary, indent=1) + "\n")
    return summary | {"strangers": strangers}


def write_pairs(
    out: str | os.PathLike[str],
    count: int,
    *,
    width: int = 512,
    height: int = 288,
    seed: int = 0,
    rare: float = 2.0,
    quality: int = 88,
    workers: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The same scenes by day and by night, for evaluation only, from drives no split ever uses.

    ``images/100k/{day,night}/NAME.jpg`` and ``labels/det_20/det_{day,night}.json``; equal names are
    pairs with equal boxes. Arguments, return value and errors as in :func:`write_world`.
    """
    out = Path(out)
    seeds = _seeds(seed, _PAIRS_BLOCK, count)
    _check(width, height, rare, quality, workers)
    jobs: list[_Job] = []
    for folder, timeofday in (("day", DAY), ("night", NIGHT)):
        (out / _IMAGES / folder).mkdir(parents=True, exist_ok=True)
        jobs += [(out / _IMAGES / folder, s, width, height, timeofday, rare, quality) for s in seeds]
    frames = _draw_all(jobs, workers, progress)
    for folder, mine in (("day", frames[:count]), ("night", frames[count:])):
        _write_labels(out / _LABELS / f"det_{folder}.json", mine)
    summary = _summary(width, height, seed, rare, quality) | {"pairs": count}
    atomic_write_text(out / "world.json", json.dumps(summary, indent=1) + "\n")
    return summary


def _write_labels(path: Path, frames: list[Frame]) -> None:
    """BDD100K's det_20 list; ``timestamp`` is 10000 ms there, the place in the list is ours."""
    for index, frame in enumerate(frames):
        frame.extra = {"timestamp": 10000, "frameIndex": index}
    scalabel.write(frames, path)


#: Folder, scene seed, width, height, time of day, rare, quality: what a worker process needs.
_Job = tuple[Path, int, int, int, str, float, int]


def _draw(job: _Job) -> Frame:
    folder, scene, width, height, timeofday, rare, quality = job
    image, frame = render(scene, width, height, timeofday, rare=rare)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "cv2 cannot encode JPEG"
    atomic_write_bytes(folder / frame.name, data.tobytes())
    return frame


def _draw_all(jobs: list[_Job], workers: int, progress: Progress | None) -> list[Frame]:
    if workers == 1:
        return _count(map(_draw, jobs), len(jobs), progress)
    with ProcessPoolExecutor(workers) as pool:
        return _count(pool.map(_draw, jobs, chunksize=8), len(jobs), progress)


def _count(frames: Iterable[Frame], total: int, progress: Progress | None) -> list[Frame]:
    out: list[Frame] = []
    for frame in frames:
        out.append(frame)
        if progress is not None:
            progress(len(out), total)
    return out


def _check(width: int, height: int, rare: float, quality: int, workers: int) -> None:
    check_size(width, height)
    if not 0.0 <= rare <= 5.0:
        raise ValueError(f"expected rare in 0..5, got {rare}")
    if not 1 <= quality <= 100:
        raise ValueError(f"expected a JPEG quality in 1..100, got {quality}")
    if workers < 1:
        raise ValueError(f"expected at least 1 worker, got {workers}")


def _summary(width: int, height: int, seed: int, rare: float, quality: int) -> dict[str, Any]:
    return {
        "world_version": WORLD_VERSION,
        "seed": seed,
        "width": width,
        "height": height,
        "rare": rare,
        "quality": quality,
    }
