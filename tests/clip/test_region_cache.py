"""The cache answers with the embedding of exactly this image, box and model, or not at all."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import picture
from torch.nn import functional

from nightaug.clip import fill as filling
from nightaug.clip import segments
from nightaug.clip.crops import cut, grown
from nightaug.clip.encoder import Clip, load_clip
from nightaug.clip.region_cache import RegionCache, Regions, box_keys
from nightaug.clip.segments import open_segment
from nightaug.clip.tiny import build_tiny, write_tiny
from nightaug.data.frames import Box, Frame
from nightaug.errors import CheckpointError, Interrupted, NightaugError
from nightaug.images import read_image, write_image
from nightaug.runs import StopRequest

from .conftest import TINY

CONTEXT = multiprocessing.get_context("fork")


def directly(clip: Clip, frame: Frame, context: float = 1.5) -> torch.Tensor:
    """Embeddings of a frame's boxes, one crop at a time."""
    assert frame.path is not None
    image = torch.from_numpy(read_image(frame.path)).permute(2, 0, 1)
    out = []
    for key in box_keys([box.xyxy for box in frame.boxes]):
        box = torch.from_numpy(key.astype(np.float32) / 32)[None]
        near, far = (cut(image, grown(box, factor, 96, 64), clip.size) for factor in (1.0, context))
        both = clip.embed_images(near, normalize=False) + clip.embed_images(far, normalize=False)
        out.append(functional.normalize(both, dim=1)[0])
    return torch.stack(out) if out else torch.zeros(0, clip.width)


def test_rows_are_what_direct_computation_gives(clip: Clip, frames: list[Frame], tmp_path: Path) -> None:
    cache = RegionCache.open(tmp_path / "cache", clip)
    said: list[str] = []
    report = cache.fill(frames, clip, batch=4, say=said.append)
    assert (report.images, report.boxes, report.embedded, report.small, report.unreadable) == (6, 15, 15, 0, [])
    assert "15 of 15 boxes in 5 of 6 images" in said[0]
    assert "MB more" in said[0]
    for frame in frames:
        rows, mask = cache.lookup(frame)
        assert rows.dtype == np.float16
        assert rows.shape == (len(frame.boxes), clip.width)
        assert mask.all()
        torch.testing.assert_close(torch.from_numpy(rows).float(), directly(clip, frame), atol=1e-3, rtol=0)


def test_both_parts_and_one_crop_alone(clip: Clip, frames: list[Frame], tmp_path: Path) -> None:
    both = RegionCache.open(tmp_path, clip, parts="both")
    single = RegionCache.open(tmp_path, clip, context=1)
    for cache in (both, single):
        cache.fill(frames, clip, say=lambda text: None)
    rows, mask = both.lookup(frames[3])
    assert rows.shape == (3, 2, clip.width)
    np.testing.assert_allclose(rows[:, 0], single.lookup(frames[3])[0], atol=2e-3)
    assert mask.all()
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float32), axis=2), 1, atol=1e-3)


def test_filled_once(clip: Clip, frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RegionCache.open(tmp_path, clip).fill(frames, clip, say=lambda text: None)
    monkeypatch.setattr(clip, "embed_images", None)
    monkeypatch.setattr(filling, "read_image", None)
    monkeypatch.setattr("nightaug.clip.region_cache.content_key", None)  # the files are not even read
    said: list[str] = []
    cache = RegionCache.open(tmp_path, clip)
    assert cache.fill(frames, clip, say=said.append).embedded == 0
    assert not said
    assert cache.lookup(frames[5])[1].all()
    assert pickle.loads(pickle.dumps(cache)).lookup(frames[5])[1].all()
    assert RegionCache(cache.path).facts["clip_sha"] == clip.sha


def test_a_changed_image_box_or_model_is_not_answered(clip: Clip, frames: list[Frame], tmp_path: Path) -> None:
    cache = RegionCache.open(tmp_path / "c", clip)
    cache.fill(frames, clip, say=lambda text: None)
    frame = frames[4]
    assert frame.path is not None
    frame.boxes[1].x2 += 1
    assert cache.lookup(frame)[1].tolist() == [True, False, True, True]
    assert not cache.lookup(frame)[0][1].any()
    before = cache.lookup(frame)[0]
    status = frame.path.stat()
    write_image(frame.path, picture(99))
    os.utime(frame.path, (status.st_mtime + 1, status.st_mtime + 1))
    assert not cache.lookup(frame)[1].any()
    report = cache.fill(frames, clip, say=lambda text: None)
    assert report.embedded == 4
    after, mask = cache.lookup(frame)
    assert mask.all()
    assert np.abs(after[0].astype(float) - before[0]).max() > 1e-3
    write_tiny(tmp_path / "other", build_tiny(TINY.model_copy(update={"seed": 1})), TINY)
    other = load_clip(str(tmp_path / "other"), precision="fp32")
    assert not RegionCache.open(tmp_path / "c", other).lookup(frames[5])[1].any()
    with pytest.raises(CheckpointError, match="not of this"):
        cache.fill(frames, other)


def test_a_file_changed_within_the_clocks_grain_is_read_again(clip: Clip, frames: list[Frame], tmp_path: Path) -> None:
    cache = RegionCache.open(tmp_path / "c", clip)
    frame = frames[2]
    assert frame.path is not None
    now = time.time()
    data = frame.path.read_bytes()
    os.utime(frame.path, (now, now))
    cache.fill([frame], clip, say=lambda text: None)
    frame.path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # same size, and made to look as old
    os.utime(frame.path, (now, now))
    assert not cache.lookup(frame)[1].any()


def test_the_same_image_elsewhere_is_known(clip: Clip, frames: list[Frame], tmp_path: Path) -> None:
    cache = RegionCache.open(tmp_path / "c", clip)
    cache.fill(frames, clip, say=lambda text: None)
    frame = frames[3]
    assert frame.path is not None
    copy = Frame("copy.png", frame.boxes, path=tmp_path / "copy.png")
    (tmp_path / "copy.png").write_bytes(frame.path.read_bytes())
    os.utime(tmp_path / "copy.png", (5, 5))
    assert np.array_equal(cache.lookup(copy)[0], cache.lookup(frame)[0])
    assert cache.lookup(copy)[1].all()
    said: list[str] = []
    assert cache.fill([copy], clip, say=said.append).embedded == 0
    assert not said


def test_boxes_that_have_no_embedding(clip: Clip, frames: list[Frame], tmp_path: Path) -> None:
    path = frames[0].path
    assert path is not None
    strange = np.array([
        [-20, -20, 30, 30],  # half outside: its part inside counts
        [200, 10, 240, 40],  # outside
        [94, 10, 130, 40],  # two pixels wide inside
        [10, 10, 13, 40],  # too narrow
        [30, 30, 10, 10],  # inverted
        [np.nan, 0, 9, 9],
        [0, 0, np.inf, 9],
        [10, 10, 20, 20],
        [10, 10, 20, 20],  # twice
    ])  # fmt: skip
    cache = RegionCache.open(tmp_path / "c", clip, min_side=4)
    report = cache.fill([Regions(path, strange)], clip, say=lambda text: None)
    rows, mask = cache.lookup(Regions(path, strange))
    assert mask.tolist() == [True, False, False, False, False, False, False, True, True]
    assert report.embedded == 2
    assert np.array_equal(rows[7], rows[8])
    assert cache.fill([Regions(path, strange)], clip).small == 0  # looked at once, not at every fill
    wider = RegionCache.open(tmp_path / "c", clip, min_side=2)
    wider.fill([Regions(path, strange)], clip, say=lambda text: None)
    assert wider.lookup(Regions(path, strange))[1].tolist()[:4] == [True, False, True, True]


def test_no_boxes_no_frames_no_files(clip: Clip, frames: list[Frame], tmp_path: Path) -> None:
    cache = RegionCache.open(tmp_path / "c", clip)
    assert cache.fill([], clip).images == 0
    assert cache.fill([frames[0]], clip).boxes == 0
    rows, mask = cache.lookup(frames[0])
    assert rows.shape == (0, clip.width)
    assert mask.shape == (0,)
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"\x89PNG nothing")
    gone = [Frame("x.png", [Box(0, 0, 9, 9, "car")], path=path) for path in (tmp_path / "x.png", damaged)]
    report = cache.fill([*gone, frames[1]], clip, say=lambda text: None)
    assert len(report.unreadable) == 2
    assert report.embedded == 1
    assert not cache.lookup(gone[0])[1].any()


def test_many_boxes_added_to_known_ones(clip: Clip, frames: list[Frame], tmp_path: Path) -> None:
    path = frames[5].path
    assert path is not None
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 50, (300, 2))
    proposals = np.concatenate([corner, corner + rng.uniform(5, 40, (300, 2))], axis=1)
    cache = RegionCache.open(tmp_path / "c", clip)
    cache.fill(frames, clip, say=lambda text: None)
    first = cache.lookup(frames[5])[0]
    report = cache.fill([Regions(path, proposals)], clip, batch=64, say=lambda text: None)
    assert report.embedded == 300
    mixed = np.concatenate([proposals[::7], [box.xyxy for box in frames[5].boxes]])
    rows, mask = cache.lookup(Regions(path, mixed))
    assert mask.all()
    assert np.array_equal(rows[-5:], first)
    assert np.array_equal(rows[:-5], cache.lookup(Regions(path, proposals))[0][::7])
    scanned = list(cache.scan())
    assert sum(len(boxes) for _, boxes, _ in scanned) == len(cache) == 315
    content = cache.image_key(path)[0]
    assert sum(len(boxes) for key, boxes, _ in scanned if np.array_equal(key, content)) == 305


def test_stopped_in_the_middle_goes_on(
    clip: Clip, frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = StopRequest()
    read = filling.read_image

    def reading(path: Path) -> np.ndarray:
        stop.requested = path.name == "5.png"
        return read(path)

    monkeypatch.setattr(filling, "read_image", reading)
    cache = RegionCache.open(tmp_path / "c", clip)
    with pytest.raises(Interrupted, match="they are kept"):
        cache.fill(frames, clip, workers=1, stop=stop, say=lambda text: None)
    monkeypatch.undo()
    kept = len(RegionCache.open(tmp_path / "c", clip))
    assert 0 < kept < 15
    assert cache.fill(frames, clip, say=lambda text: None).embedded == 15 - kept
    assert all(cache.lookup(frame)[1].all() for frame in frames)


def test_ctrl_c_with_the_last_crops_reaches_whoever_has_more_to_do(
    clip: Clip, frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = clip.embed_images

    def pressed(*given: Any, **more: Any) -> torch.Tensor:
        signal.raise_signal(signal.SIGINT)
        return embed(*given, **more)

    monkeypatch.setattr(clip, "embed_images", pressed)
    cache = RegionCache.open(tmp_path / "c", clip, context=1)
    with pytest.raises(Interrupted, match="they are kept"):
        cache.fill(frames, clip, say=lambda text: None)  # all of them in one batch
    monkeypatch.undo()
    assert cache.fill(frames, clip, say=lambda text: None).embedded == 0


def test_a_failure_leaves_whole_segments_only(
    clip: Clip, frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "SEGMENT_BYTES", 1)  # a segment an image
    cache = RegionCache.open(tmp_path / "c", clip)
    embed, calls = clip.embed_images, []

    def failing(*arguments: object, **options: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 5:
            raise torch.OutOfMemoryError("full")
        return embed(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(clip, "embed_images", failing)
    with pytest.raises(NightaugError, match="out of GPU memory"):
        cache.fill(frames, clip, batch=1, say=lambda text: None)
    monkeypatch.undo()
    cache.refresh()
    assert 0 < len(cache) < 15
    for segment in cache.segments.glob("*.seg"):
        data = segment.read_bytes()
        segment.write_bytes(data[:-2])  # what a power failure might leave
        assert open_segment(segment) is None
        segment.write_bytes(data)
    (cache.segments / ".half.seg.abc.tmp").write_bytes(b"x")
    cache.fill(frames, clip, say=lambda text: None)
    for frame in frames:
        rows, mask = cache.lookup(frame)
        assert mask.all()
        torch.testing.assert_close(torch.from_numpy(rows).float(), directly(clip, frame), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["row", "rows"])
def test_damaged_embeddings_are_named_and_made_anew(clip: Clip, frames: list[Frame], tmp_path: Path, name: str) -> None:
    """They have no checksum: a wrong one would be learnt from, NaN would look like a rate that is too high."""
    cache = RegionCache.open(tmp_path, clip)
    cache.fill(frames, clip, say=lambda text: None)
    before = cache.lookup(frames[3])[0]
    (file,) = cache.segments.glob("*.seg")
    segment = open_segment(file)
    assert segment is not None
    start, _, shape = segment.at[name]
    content = bytearray(file.read_bytes())
    for damage in (b"\x7f", b"\xff", b"\x00") if name == "rows" else (b"\x7f",):
        length = 2 * int(np.prod(shape)) if name == "rows" else 4 * int(np.prod(shape))
        content[start : start + length] = damage * length
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{file.name} is damaged; remove it"):
            RegionCache(cache.path).lookup(frames[3])
    file.unlink()
    again = RegionCache.open(tmp_path, clip)
    again.fill(frames, clip, say=lambda text: None)
    np.testing.assert_array_equal(again.lookup(frames[3])[0], before)


def test_too_little_disk(clip: Clip, frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(NightaugError, match="are free"):
        RegionCache.open(tmp_path, clip).fill(frames, clip, say=lambda text: None)


def slowly(clip: Clip, root: Path, images: Path, results: Any) -> None:
    """What a process of a group does: fill, an image a segment and a share, at a speed others can interrupt."""
    torch.set_num_threads(1)
    filling.SEGMENT_BYTES, filling._SHARE_IMAGES = 1, 1
    read = filling.read_image

    def slow(path: Path) -> np.ndarray:
        time.sleep(0.1)
        return read(path)

    filling.read_image = slow  # type: ignore[assignment]
    boxes = np.array([[4.0, 4, 30, 30], [10, 10, 60, 50]])
    regions = [Regions(path, boxes) for path in sorted(images.glob("*.png"))]
    cache = RegionCache.open(root, clip)
    report = cache.fill(regions, clip, workers=1, say=lambda text: None)
    results.put((report.embedded, all(bool(cache.lookup(each)[1].all()) for each in regions)))


def start(clip: Clip, tmp_path: Path, results: Any) -> Any:
    # Forked, as loading torch in a new process would take longer than everything else here.
    process = CONTEXT.Process(target=slowly, args=(clip, tmp_path / "c", tmp_path / "images", results))
    process.start()
    return process


@pytest.mark.usefixtures("frames")
def test_killed_while_another_fills_and_the_other_finishes(clip: Clip, tmp_path: Path) -> None:
    first, second = start(clip, tmp_path, CONTEXT.Queue()), start(clip, tmp_path, results := CONTEXT.Queue())
    deadline = time.monotonic() + 20
    while not any((tmp_path / "c").rglob("*.seg")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.join(10)
    embedded, complete = results.get(timeout=30)
    second.join(10)
    assert complete
    assert first.exitcode == -signal.SIGKILL
    assert embedded <= 12
    assert len(RegionCache.open(tmp_path / "c", clip)) == 12  # nothing twice, nothing torn


@pytest.mark.usefixtures("frames")
def test_two_processes_divide_the_work(clip: Clip, tmp_path: Path) -> None:
    results = CONTEXT.Queue()
    both = [start(clip, tmp_path, results) for _ in range(2)]
    made = [results.get(timeout=30) for _ in both]
    for process in both:
        process.join(10)
    assert all(complete for _, complete in made)
    assert all(0 < embedded < 12 for embedded, _ in made)
    assert sum(embedded for embedded, _ in made) == len(RegionCache.open(tmp_path / "c", clip)) == 12


def test_threads_may_look_while_maps_are_closed(
    clip: Clip, frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "_OPEN_MAPS", 1)
    cache = RegionCache.open(tmp_path / "c", clip)
    for frame in frames:
        cache.fill([frame], clip, say=lambda text: None)
    wanted = [cache.lookup(frame)[0] for frame in frames]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(cache.lookup, frames * 40))
    finally:
        sys.setswitchinterval(before)
    assert all(np.array_equal(rows, wanted[i % len(frames)]) for i, (rows, _) in enumerate(found))
