"""Filling a region cache: decode, cut and embed what is missing, by any number of processes at once.

The work is divided into shares by image content; a process claims a share by a file lock, does what is still missing
in it and writes it as a segment. Processes that fill the same frames at the same time (those of one training run, or
of several) thereby divide the work among themselves, and one that is killed loses its claim with its life.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nightaug.clip.crops import cut, grown, large_enough
from nightaug.clip.encoder import Clip
from nightaug.clip.region_cache import GRAIN, RegionCache, Regions, box_keys, regions_of
from nightaug.clip.segments import Key, SegmentWriter, content_key, remove_abandoned
from nightaug.data.frames import Frame
from nightaug.errors import CheckpointError, Interrupted, NightaugError
from nightaug.images import ImageArray, read_image
from nightaug.runs import StopRequest, progress_bar

#: A segment is written when it holds this many bytes or is this many seconds old: what a kill -9 can cost.
SEGMENT_BYTES = 256 << 20
SEGMENT_SECONDS = 60.0
#: Images a share holds at least, and how many shares there are at most.
_SHARE_IMAGES = 32
_SHARES = 64


@dataclass
class Plan:
    """What a fill would do.

    Attributes:
        images, boxes: asked for.
        missing: boxes nobody has considered yet; some of them may turn out too small to embed.
        bytes: what those would add to the disk, at most.
        todo: numbers of the frames with missing boxes.
        contents: (N, 2) content keys of all frames; zero where there is nothing to read.
        unreadable: files that cannot be read.
    """

    images: int
    boxes: int
    missing: int
    bytes: int
    todo: list[int]
    contents: NDArray[np.uint64]
    unreadable: list[str] = field(default_factory=list)

    def line(self, cache: RegionCache) -> str:
        """One line for people."""
        free = shutil.disk_usage(cache.path).free
        return (
            f"region embeddings: {self.missing:,} of {self.boxes:,} boxes in {len(self.todo):,} of {self.images:,} "
            f"images to embed with {cache.facts['clip']}, {self.bytes / 1e6:,.1f} MB more in {cache.path} "
            f"({free / 1e9:,.0f} GB free)"
        )


@dataclass
class FillReport:
    """What a fill did.

    Attributes:
        images, boxes: asked for.
        embedded: boxes this process embedded.
        small: boxes this process found too small, or outside their image.
        unreadable: files that could not be read; their boxes have no embedding.
    """

    images: int
    boxes: int
    embedded: int = 0
    small: int = 0
    unreadable: list[str] = field(default_factory=list)


def make_plan(cache: RegionCache, regions: Sequence[Regions], workers: int = 4) -> Plan:
    """Find out what is missing; files the cache has seen at their place are not read."""
    contents = np.zeros((len(regions), 2), np.uint64)
    todo, missing, unreadable = [], 0, []

    def look(number: int) -> tuple[int, int | None]:
        keys = box_keys(regions[number].boxes)
        if not len(keys):
            return 0, 0
        try:
            content, fresh_place = cache.image_key(regions[number].path)
        except OSError:
            return 0, None
        contents[number] = content
        gone = int((cache.find(content, keys)[:, 0] < 0).sum())
        # A known image at a new place is entered once, so that its file is not read at every look.
        return gone, gone or (1 if fresh_place is not None else 0)

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for number, (gone, work) in enumerate(pool.map(look, range(len(regions)), chunksize=64)):
            missing += gone
            if work is None:
                unreadable.append(str(regions[number].path))
            elif work:
                todo.append(number)
    row = int(np.prod(cache.shape)) * 2 + 20
    boxes = sum(len(each.boxes) for each in regions)
    return Plan(len(regions), boxes, missing, missing * row + 64 * len(todo), todo, contents, unreadable)


def fill(
    cache: RegionCache,
    frames: Sequence[Frame | Regions],
    clip: Clip,
    *,
    batch: int = 256,
    workers: int = 2,
    stop: StopRequest | None = None,
    say: Callable[[str], None] | None = None,
) -> FillReport:
    """Embed every box of ``frames`` that the cache does not hold, and write it there.

    Can be stopped or killed at any time and called again; what is done stays done. Several processes may fill the same
    frames at once and divide the work. Returns when everything asked for is there.

    Args:
        frames: frames (their labelled boxes) or :class:`Regions` (any boxes, also hundreds an image).
        clip: the CLIP the cache was opened for.
        batch: crops a forward pass.
        workers: threads that decode images.
        stop: a request the caller listens to already; by default Ctrl-C is listened to here.
        say: takes the estimate printed before work begins; stderr by default.

    Raises:
        Interrupted: stopped by Ctrl-C; what was embedded is kept.
        CheckpointError: ``clip`` is not the one of the cache.
        NightaugError: the disk or the GPU's memory is too small.
    """
    if clip.sha != cache.facts["clip_sha"]:
        raise CheckpointError(f"{cache.path} holds embeddings of {cache.facts['clip']}, not of this {clip.name}")
    regions = [regions_of(frame) for frame in frames]
    cache.refresh()
    plan = make_plan(cache, regions, workers)
    report = FillReport(plan.images, plan.boxes, unreadable=plan.unreadable)
    if not plan.todo:
        return report
    if plan.missing:
        (say or _to_stderr)(plan.line(cache))
    free = shutil.disk_usage(cache.path).free
    if plan.bytes > free:
        raise NightaugError(
            f"{cache.path}: the embeddings need {plan.bytes / 1e9:,.1f} GB and {free / 1e9:,.1f} GB are free; "
            "choose another folder, or embed fewer frames"
        )
    remove_abandoned(cache.segments)
    # Known images at new places alone are no work worth a bar.
    bar = progress_bar("embedding", plan.missing, unit="boxes") if plan.missing else nullcontext(_no_progress)
    with bar as show, ThreadPoolExecutor(max(workers, 1)) as pool:
        work = _Work(cache, clip, regions, plan, report, pool, workers, batch, show)
        try:
            if stop is not None:
                work.run(stop)
            else:
                with StopRequest().listen() as request:
                    work.run(request)
                    if request.requested:  # with the last crops; the caller, who cannot see it, has more to do
                        raise work.interrupted()
        except torch.OutOfMemoryError as error:
            raise NightaugError(
                f"out of GPU memory with {batch} crops at once: free some, or use a smaller CLIP; what is done is kept"
            ) from error
        except OSError as error:
            raise NightaugError(
                f"cannot write to {cache.path}: {error.strerror or error}; what is done is kept"
            ) from error
    cache.refresh()
    return report


def _no_progress(done: int, note: str = "") -> None:
    pass


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


class _Stopped(Exception):
    """Leaves the loops; what is in memory is written on the way out."""


class _Work:
    """One process's part in a fill."""

    def __init__(
        self,
        cache: RegionCache,
        clip: Clip,
        regions: Sequence[Regions],
        plan: Plan,
        report: FillReport,
        pool: ThreadPoolExecutor,
        workers: int,
        batch: int,
        show: Callable[[int, str], None],
    ) -> None:
        self.cache, self.clip, self.regions, self.plan, self.report = cache, clip, regions, plan, report
        self.pool, self.workers, self.batch, self.show = pool, max(workers, 1), max(batch, 1), show
        self.writer = SegmentWriter(int(np.prod(cache.shape)))
        self.began = time.monotonic()
        self.waiting: list[tuple[Tensor, Tensor | None]] = []
        self.held = 0

    def run(self, stop: StopRequest) -> None:
        """Share after share until nothing is missing; shares others hold are looked at again when they are free."""
        count = max(1, min(_SHARES, len(self.regions) // _SHARE_IMAGES))
        shares: dict[int, list[int]] = {}
        for number in self.plan.todo:
            shares.setdefault(int(self.plan.contents[number, 0] % np.uint64(count)), []).append(number)
        # Every process begins elsewhere, so that they seldom want the same share.
        left = deque(sorted(shares, key=lambda share: (share + os.getpid()) % count))
        tried = 0
        while left:
            share = left.popleft()
            with claimed(self.cache.path / "locks" / f"{share:02d}-of-{count}") as mine:
                if mine:
                    tried = 0
                    self._share(shares[share], stop)
                    continue
            left.append(share)
            tried += 1
            if stop.requested:
                raise self.interrupted()
            if tried >= len(left):
                time.sleep(0.2)
        if self.report.embedded + self.report.small < self.plan.missing:  # others did the rest
            self.show(self.plan.missing, "")

    def interrupted(self) -> Interrupted:
        return Interrupted(f"stopped after {self.report.embedded:,} embeddings; they are kept, run again to go on")

    def _share(self, numbers: Sequence[int], stop: StopRequest) -> None:
        self.cache.refresh()
        try:
            for number, image, content, place in self._decoded(numbers):
                if stop.requested:
                    raise _Stopped
                self._add(number, image, content, place)
                if self.writer.bytes > SEGMENT_BYTES or time.monotonic() - self.began > SEGMENT_SECONDS:
                    self._write()
        except _Stopped:
            self._write()
            raise self.interrupted() from None
        self._write()

    def _decoded(self, numbers: Sequence[int]) -> Iterator[tuple[int, ImageArray | None, Key, Key | None]]:
        """Images in order, decoded ahead by the pool; None where all boxes are known and only the place is new."""
        ahead: deque[tuple[int, Future[Any]]] = deque()
        rest = iter(numbers)
        while True:
            while len(ahead) < 2 * self.workers and (number := next(rest, None)) is not None:
                ahead.append((number, self.pool.submit(self._decode, number)))
            if not ahead:
                return
            number, future = ahead.popleft()
            try:
                image, content, place = future.result()
            except (NightaugError, OSError) as error:
                self.report.unreadable.append(f"{self.regions[number].path} ({error})")
                continue
            if content is not None:
                yield number, image, content, place

    def _decode(self, number: int) -> tuple[ImageArray | None, Key | None, Key | None]:
        path, boxes = self.regions[number]
        content, place = self.cache.image_key(path)
        if (self.cache.find(content, box_keys(boxes))[:, 0] >= 0).all():  # another process was faster
            return None, content if place is not None else None, place
        image = read_image(path)
        if not np.array_equal(content_key(path), content):
            raise NightaugError("changed while it was read")
        return image, content, place

    def _add(self, number: int, image: ImageArray | None, content: Key, place: Key | None) -> None:
        if image is None:
            self.writer.add_image(content, place, np.zeros((0, 4), np.int32), np.zeros(0, bool))
            return
        keys = box_keys(self.regions[number].boxes)
        keys = np.unique(keys[self.cache.find(content, keys)[:, 0] < 0], axis=0)
        device, (height, width) = self.clip.device, image.shape[:2]
        boxes = torch.from_numpy(keys.astype(np.float32) / GRAIN)
        kept = large_enough(boxes, float(self.cache.facts["min_side"]), width, height)
        self.writer.add_image(content, place, keys, kept.numpy())
        self.report.small += int((~kept).sum())
        if not bool(kept.any()):
            return
        pixels = torch.from_numpy(image).to(device, non_blocking=True).permute(2, 0, 1).float() / 255
        context = float(self.cache.facts["context"])
        for part in torch.split(boxes[kept].to(device), self.batch):
            near = cut(pixels, grown(part, 1.0, width, height), self.clip.size)
            far = cut(pixels, grown(part, context, width, height), self.clip.size) if context != 1 else None
            self.waiting.append((near, far))
            self.held += len(near)
            if self.held >= self.batch:
                self._embed()

    def _embed(self) -> None:
        if not self.waiting:
            return
        near = self.clip.embed_images(torch.cat([crop for crop, _ in self.waiting]), normalize=False)
        far = near
        if self.waiting[0][1] is not None:
            far = self.clip.embed_images(torch.cat([c for _, c in self.waiting if c is not None]), normalize=False)
        if self.cache.parts == "sum":
            rows = functional.normalize(near + far, dim=1)
        else:
            rows = torch.cat([functional.normalize(near, dim=1), functional.normalize(far, dim=1)], dim=1)
        self.writer.add_rows(rows.to(torch.float16).cpu().numpy())
        self.report.embedded += len(rows)
        self.waiting, self.held = [], 0
        self.show(min(self.report.embedded + self.report.small, self.plan.missing), "")

    def _write(self) -> None:
        self._embed()
        if len(self.writer):
            self.writer.write(self.cache.segments)
        self.began = time.monotonic()


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process holds the lock; where the file system knows no locks everybody does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream: IO[str] = open(path, "a")  # noqa: SIM115 (closed below)
    try:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass  # work may then be done twice, never wrongly
        yield True
    finally:
        stream.close()
