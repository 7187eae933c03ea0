"""The work of ``predict``: decode, detect, draw and write, three stages side by side; for images and for video."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nightaug import __version__
from nightaug.detect.dataset import to_tensor
from nightaug.detect.detectors import Detector
from nightaug.detect.drawing import draw_detections
from nightaug.detect.inference import Detections, find, to_original
from nightaug.detect.predict_inputs import Item
from nightaug.detect.predict_store import PredictionRow, Rows, yolo_text
from nightaug.detect.video import VideoReader, VideoWriter
from nightaug.errors import ImageError
from nightaug.images import (
    ImageArray,
    Letterbox,
    atomic_write_bytes,
    atomic_write_text,
    encode_image,
    image_format,
    letterbox,
    read_image,
)
from nightaug.runs import resolve_precision

#: Decoded images of at most this many pixels wait in memory to be drawn on; larger ones are decoded a second time.
_KEPT_PIXELS = 4_000_000
#: JPEG and WebP quality of drawn pictures.
_QUALITY = 92


class Input(NamedTuple):
    """An image as the network takes it: uint8 (3, H, W)."""

    tensor: Tensor
    letterbox: Letterbox


class Eyes:
    """A detector with the device and the precision it runs in.

    Args:
        detector: on its device.
        precision: ``auto``, ``bf16``, ``fp16`` or ``fp32``.
    """

    def __init__(self, detector: Detector, device: torch.device | str = "cpu", precision: str = "auto") -> None:
        self.detector = detector.eval()
        self.device = torch.device(device)
        self.precision = resolve_precision(precision, self.device.type == "cpu")

    def fit(self, image: ImageArray) -> Input:
        """An image as the network takes it."""
        fitted, box = letterbox(image, self.detector.width, self.detector.height)
        return Input(to_tensor(fitted), box)

    @torch.inference_mode()
    def __call__(self, inputs: Sequence[Input]) -> list[Detections]:
        """Detections of several images, each in pixels of its original.

        Raises:
            NightaugError: the device has not enough memory for so many at once.
        """
        if not inputs:
            return []
        images = torch.stack([given.tensor for given in inputs])
        found = find(self.detector, images, self.device, self.precision)
        return [to_original(one, given.letterbox) for one, given in zip(found, inputs, strict=True)]


@dataclass(frozen=True)
class Output:
    """What is made of detections.

    Attributes:
        out: the folder.
        classes: of the detector.
        score: least score of what pictures and YOLO lines show.
        wanted: class numbers to show; None: all.
        draw, yolo: whether pictures, and YOLO lines, are written.
    """

    out: Path
    classes: tuple[str, ...]
    score: float
    wanted: frozenset[int] | None
    draw: bool
    yolo: bool

    @property
    def made(self) -> str:
        """Everything that decides how the files of a row look."""
        wanted = "all" if self.wanted is None else ",".join(map(str, sorted(self.wanted)))
        return f"score {self.score:g}, classes {wanted}, draw {self.draw:d}, yolo {self.yolo:d}"

    def files(self, item: Item) -> list[str]:
        """The files an image gets."""
        return [*([item.picture] if self.draw else []), *([item.text] if self.yolo else [])]

    def picture(self, image: ImageArray, row: PredictionRow) -> ImageArray:
        """The image with the row's detections drawn."""
        chosen = row.shown(self.score, self.wanted)
        boxes = np.array([row.boxes[at] for at in chosen], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return draw_detections(
            image, boxes, [row.labels[at] for at in chosen], [row.scores[at] for at in chosen], self.classes
        )

    def write(self, item: Item, row: PredictionRow, image: Callable[[], ImageArray]) -> PredictionRow:
        """Write an image's files; gives the row back.

        Raises:
            ImageError: the image cannot be read again, or not be encoded.
        """
        if self.draw:
            what = f"detections drawn by nightaug {__version__}; not for training"
            data = encode_image(self.picture(image(), row), image_format(item.picture), _QUALITY, what)
            atomic_write_bytes(self.out / item.picture, data)
        if self.yolo:
            atomic_write_text(self.out / item.text, yolo_text(row, row.shown(self.score, self.wanted)))
        return row


def file_state(path: Path) -> str:
    """Tells one content of a file from another without reading it."""
    try:
        state = path.stat()
    except OSError:
        return "missing"
    return f"{state.st_size}-{state.st_mtime_ns}"


def make_row(
    name: str, state: str, output: Output, files: list[str], found: Detections, size: tuple[int, int]
) -> PredictionRow:
    """Detections as they are kept: xywh to a thousandth of a pixel, without anything that is not a number."""
    good = np.isfinite(found.boxes).all(axis=1) & np.isfinite(found.scores)
    x1, y1, x2, y2 = np.round(found.boxes[good].T, 3)
    boxes = np.round(np.stack([x1, y1, x2 - x1, y2 - y1], axis=1), 3).tolist()
    scores, labels = np.round(found.scores[good], 6).tolist(), found.labels[good].tolist()
    return PredictionRow(name, state, output.made, files, size[0], size[1], boxes, scores, labels)


# -- images ----------------------------------------------------------------------------------------------------------


class _Loaded(NamedTuple):
    """A decoded image: ``row`` where its detections are known already, else ``input`` for the detector."""

    image: ImageArray | None  # None: too large to keep
    size: tuple[int, int]
    state: str
    input: Input | None
    row: PredictionRow | None


def detect_items(
    items: Sequence[Item],
    eyes: Eyes,
    output: Output,
    rows: Rows,
    batch: int,
    workers: int,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Item, PredictionRow | ImageError]]:
    """Detect, draw and write; the rows of finished images, or why one could not be read, in the order of the items.

    A bounded number of images is in memory. What a row of an earlier run knows is drawn without the detector.

    Args:
        workers: threads that decode, and as many that draw and encode.
        stopped: asked between batches; images begun by then are finished.
    """

    def load(item: Item) -> _Loaded:
        state = file_state(item.path)  # before reading: a file changed in between is looked at again next time
        known = rows.known.get(item.name)
        if known is not None and known.state == state:
            row = rows.read(item.name)
            row.made, row.files = output.made, output.files(item)
            return _Loaded(None, (row.width, row.height), state, None, row)
        image = read_image(item.path)
        height, width = image.shape[:2]
        keep = output.draw and height * width <= _KEPT_PIXELS
        return _Loaded(image if keep else None, (width, height), state, eyes.fit(image), None)

    def finish(item: Item, loaded: _Loaded, row: PredictionRow) -> PredictionRow | ImageError:
        try:
            return output.write(item, row, lambda: read_image(item.path) if loaded.image is None else loaded.image)
        except ImageError as error:
            return error

    queue = iter(items)
    ahead: deque[tuple[Item, Future[_Loaded]]] = deque()
    waiting: deque[tuple[Item, Future[PredictionRow | ImageError]]] = deque()
    with ThreadPoolExecutor(workers, "decode") as decoders, ThreadPoolExecutor(workers, "draw") as drawers:

        def fill() -> None:
            while len(ahead) < batch + 2 * workers and (item := next(queue, None)) is not None:
                ahead.append((item, decoders.submit(load, item)))

        fill()
        while ahead and not stopped():
            group: list[tuple[Item, _Loaded | ImageError]] = []
            while ahead and len(group) < batch:
                item, future = ahead.popleft()
                group.append((item, _outcome(future)))
            fill()
            unseen = [one for _, one in group if isinstance(one, _Loaded) and one.input is not None]
            found = iter(eyes([one.input for one in unseen if one.input is not None]))
            for item, one in group:
                if isinstance(one, ImageError):
                    waiting.append((item, _ready(one)))
                    continue
                row = one.row or make_row(item.name, one.state, output, output.files(item), next(found), one.size)
                waiting.append((item, drawers.submit(finish, item, one, row)))
            while waiting and (waiting[0][1].done() or len(waiting) > 2 * workers):
                first, outcome = waiting.popleft()
                yield first, outcome.result()
        for _, unused in ahead:
            unused.cancel()
        for first, outcome in waiting:
            yield first, outcome.result()


def _outcome(future: Future[_Loaded]) -> _Loaded | ImageError:
    try:
        return future.result()
    except ImageError as error:
        return error


def _ready(error: ImageError) -> Future[PredictionRow | ImageError]:
    future: Future[PredictionRow | ImageError] = Future()
    future.set_result(error)
    return future


# -- video -----------------------------------------------------------------------------------------------------------


def frame_name(video: Path, number: int) -> str:
    """``clip_000001`` for the first frame of ``clip.mp4``."""
    return f"{video.stem}_{number:06d}"


class _Group(NamedTuple):
    """Some frames in a row; ``inputs`` are those the detector has not seen, None where a row is known."""

    names: list[str]
    images: list[ImageArray]
    inputs: list[Input | None]
    times: list[float]


def detect_video(
    reader: VideoReader,
    writer: VideoWriter | None,
    video: Path,
    state: str,
    eyes: Eyes,
    output: Output,
    rows: Rows,
    batch: int,
    limit: int | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[int]:
    """Detect on every frame, draw and write; gives the number of finished frames after every batch.

    Reading, detecting and writing overlap, with three batches in memory at most. Frames that rows of an earlier run
    know are drawn without the detector.
    """

    def known(name: str) -> bool:
        there = rows.known.get(name)
        return there is not None and there.state == state

    def read() -> _Group:
        group = _Group([], [], [], [])
        while len(group.names) < batch and (limit is None or reader.done < limit):
            image = reader.read()
            if image is None:
                break
            name = frame_name(video, reader.done)
            group.names.append(name)
            group.images.append(image)
            group.inputs.append(None if known(name) else eyes.fit(image))
            group.times.append(round((reader.done - 1) / reader.rate, 3))
        return group

    def write(group: _Group, new: list[PredictionRow]) -> list[PredictionRow]:
        fresh = iter(new)
        changed = []
        for name, image, given in zip(group.names, group.images, group.inputs, strict=True):
            row = next(fresh) if given is not None else rows.read(name)
            if writer is not None:
                writer.write(output.picture(image, row))
            file = f"labels/{name}.txt"
            if given is None and row.made == output.made and (not output.yolo or (output.out / file).exists()):
                continue
            row.made, row.files = output.made, [file] if output.yolo else []
            if output.yolo:
                atomic_write_text(output.out / file, yolo_text(row, row.shown(output.score, output.wanted)))
            changed.append(row)
        return changed

    done = 0
    with ThreadPoolExecutor(1, "read") as readers, ThreadPoolExecutor(1, "write") as writers:
        following = readers.submit(read)
        writing: tuple[int, Future[list[PredictionRow]]] | None = None
        while True:
            group = following.result()
            if group.names and not stopped():
                following = readers.submit(read)
                found = eyes([given for given in group.inputs if given is not None])
                unseen = [at for at, given in enumerate(group.inputs) if given is not None]
                new = []
                for at, one in zip(unseen, found, strict=True):
                    height, width = group.images[at].shape[:2]
                    row = make_row(group.names[at], state, output, [], one, (width, height))
                    row.time = group.times[at]
                    new.append(row)
            if writing is not None:
                for row in writing[1].result():
                    rows.add(row)
                done += writing[0]
                writing = None
                yield done
            if not group.names or stopped():
                return
            writing = len(group.names), writers.submit(write, group, new)
