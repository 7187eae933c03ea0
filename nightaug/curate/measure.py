"""Looking at one image after the other: everything that is measured of a pair, or of a real night image, as a row."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nightaug.curate.features import Extractor, packed, pair_distance
from nightaug.curate.judge import FLOOR, Detected, Judge, Look
from nightaug.curate.lamps import find_spots
from nightaug.curate.night_classifier import dim_copy, statistics
from nightaug.curate.pairs import Pair
from nightaug.curate.rows import PairRow, RealRow, Row, Rows, row_key
from nightaug.curate.structure import agreement
from nightaug.data.frames import Frame
from nightaug.errors import ImageError, NightaugError
from nightaug.images import ImageArray, read_image
from nightaug.runs import file_sha256

#: Longer side in pixels at which edges and lamps are looked at.
WORK_SIDE = 1280
#: Share of its grey levels that the copy has in which the judge can find nothing new but what it doubts itself.
DIMMED = 0.25
_DIGITS = 4

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Eyes:
    """Who looks: the judge and the extractors, each of them may be missing.

    Attributes:
        judge_features: whether the judge's own features are kept, too.
    """

    judge: Judge | None
    extractors: Sequence[Extractor]
    judge_features: bool

    @property
    def facts(self) -> list[Any]:
        """Everything of them that rows depend on."""
        judge = [self.judge.sha, FLOOR, self.judge.eyes.precision, self.judge_features] if self.judge else None
        return [judge, [[each.name, each.sha] for each in self.extractors]]

    def look(self, images: Sequence[ImageArray]) -> tuple[list[Detected | None], list[dict[str, Look]]]:
        """Detections (None without a judge) and features by extractor, of each image."""
        detected: list[Detected | None] = [None] * len(images)
        features: list[dict[str, Look]] = [{} for _ in images]
        if self.judge is not None:
            for at, (found, seen) in enumerate(self.judge(images)):
                detected[at] = found
                if self.judge_features:
                    features[at]["judge"] = seen
        for extractor in self.extractors:
            for at, seen in enumerate(extractor(images)):
                features[at][extractor.name] = seen
        return detected, features


class _Prepared(NamedTuple):
    """A decoded image or pair with what needs no network; ``images`` wait for the networks, ``dim`` for the judge."""

    images: list[ImageArray]
    row: Row
    dim: ImageArray | None = None


def _boxes(frame: Frame) -> Floats:
    return np.array([box.xyxy for box in frame.boxes], np.float64).reshape(-1, 4)


def _work_size(image: ImageArray) -> tuple[int, int]:
    height, width = image.shape[:2]
    factor = min(1.0, WORK_SIDE / max(height, width))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _sized(image: ImageArray, size: tuple[int, int]) -> ImageArray:
    """The image itself, or resized to (width, height)."""
    if image.shape[1::-1] == size:
        return image
    shrink = cv2.INTER_AREA if size[0] < image.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=shrink), np.uint8)


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 5) for value in values]


def prepare_pair(pair: Pair, key: str, sha: str, dimmed: bool = False) -> _Prepared:
    """Edges, lamps and statistics of a pair; the source is brought to the translation's size where that differs.

    Args:
        dimmed: with a dim copy of the source for the judge.

    Raises:
        ImageError: one of them cannot be read.
    """
    assert pair.frame.path is not None
    after = read_image(pair.frame.path)
    height, width = after.shape[:2]
    before = _sized(read_image(pair.origin), (width, height))
    size = _work_size(after)
    small_before, small_after = _sized(before, size), _sized(after, size)
    factors = np.array([size[0] / width, size[1] / height] * 2)
    boxes = _boxes(pair.frame) * factors
    lines = agreement(small_before, small_after, np.concatenate([boxes, [[0, 0, *size]]]))
    told = [None if np.isnan(value) else round(float(value), _DIGITS) for value in lines]
    spots = find_spots(small_after, boxes, small_before)
    lamps = [
        (*np.round(box / factors, 1).tolist(), round(float(peak), 3))
        for box, peak in zip(spots.boxes[spots.new], spots.peak[spots.new], strict=True)
    ]
    # The draw hangs on the name, so that neither order nor a resumed run changes it.
    dim = dim_copy(small_before, np.random.default_rng(zlib.crc32(pair.source.encode("utf-8", "surrogateescape"))))
    row = PairRow(
        key=key, sha256=sha, width=width, height=height, structure=told[:-1], whole=told[-1], lamps=lamps,
        spots=len(spots.new),
        statistics=(_rounded(statistics(small_before)), _rounded(statistics(dim)), _rounded(statistics(small_after))),
    )  # fmt: skip
    return _Prepared(
        [before, after], row, np.asarray(cv2.convertScaleAbs(before, alpha=DIMMED), np.uint8) if dimmed else None
    )


def prepare_real(frame: Frame, key: str) -> _Prepared:
    """Lamps and statistics of a real night image.

    Raises:
        ImageError: it cannot be read.
    """
    assert frame.path is not None
    image = read_image(frame.path)
    size = _work_size(image)
    small = _sized(image, size)
    boxes = _boxes(frame) * ([size[0] / image.shape[1], size[1] / image.shape[0]] * 2)
    row = RealRow(key=key, spots=len(find_spots(small, boxes).new), statistics=_rounded(statistics(small)))
    return _Prepared([image], row)


def _complete(eyes: Eyes, group: Sequence[_Prepared]) -> Iterator[Row]:
    """Rows with what the networks say."""
    detected, features = eyes.look([image for each in group for image in each.images])
    dims = [each.dim for each in group if each.dim is not None]
    by_dim = iter(eyes.judge(dims) if eyes.judge and dims else ())
    at = 0
    for each in group:
        row = each.row
        if isinstance(row, PairRow):
            row.day, row.night = detected[at], detected[at + 1]
            row.dim = next(by_dim)[0] if each.dim is not None else None
            for name, before in features[at].items():
                after = features[at + 1][name]
                row.features[name] = packed(before.vector), packed(after.vector)
                row.distances[name] = pair_distance(before, after)
        else:
            row.detected = detected[at]
            row.features = {name: packed(seen.vector) for name, seen in features[at].items()}
        at += len(each.images)
        yield row


Outcome = Row | ImageError


def measure(
    items: Sequence[Pair | Frame],
    eyes: Eyes,
    rows: Rows,
    *,
    batch: int,
    workers: int,
    stopped: Callable[[], bool],
) -> Iterator[tuple[int, Outcome]]:
    """The row of each item, or why it could not be read, with its number, in their order.

    What ``rows`` holds already is taken from there, and what is new is written there. Ends early where ``stopped``.
    """
    facts = eyes.facts

    def load(item: Pair | Frame) -> Row | _Prepared:
        try:
            if isinstance(item, Frame):
                assert item.path is not None
                key = row_key("real", file_sha256(item.path), _boxes(item).tolist(), facts)
                return rows.known.get(key) or prepare_real(item, key)
            assert item.frame.path is not None
            sha = file_sha256(item.frame.path)
            # The place of the source counts, too: the dim copy is drawn from its name.
            key = row_key("pair", sha, file_sha256(item.origin), item.source, _boxes(item.frame).tolist(), facts)
            return rows.known.get(key) or prepare_pair(item, key, sha, eyes.judge is not None)
        except OSError as error:
            raise ImageError(f"cannot be read ({error.strerror or error})") from error
        except cv2.error as error:
            raise ImageError(f"cannot be measured ({' '.join(str(error).split())})") from error

    numbers = iter(range(len(items)))
    ahead: deque[tuple[int, Future[Row | _Prepared]]] = deque()
    with ThreadPoolExecutor(workers, "measure") as pool:
        done = False
        while not done and not stopped():
            group: list[tuple[int, _Prepared]] = []
            out: dict[int, Outcome] = {}
            while len(group) < batch:
                while len(ahead) < batch + workers and (number := next(numbers, None)) is not None:
                    ahead.append((number, pool.submit(load, items[number])))
                if not ahead:
                    done = True
                    break
                number, future = ahead.popleft()
                try:
                    found = future.result()
                except ImageError as error:
                    out[number] = error
                    continue
                if isinstance(found, _Prepared):
                    group.append((number, found))
                else:
                    out[number] = found
                if len(out) >= 4 * batch:
                    break
            for (number, _), row in zip(group, _complete(eyes, [each for _, each in group]), strict=True):
                try:
                    rows.add(row)
                except OSError as error:
                    raise NightaugError(f"cannot write the rows ({error.strerror}); what is done is kept") from error
                out[number] = row
            yield from sorted(out.items())
        for _, future in ahead:
            future.cancel()
