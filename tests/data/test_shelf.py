"""Frames on disk instead of in memory: nothing is lost, nothing is left, and memory does not grow with the frames."""

from __future__ import annotations

import errno
import json
import os
import resource
import tempfile
import tracemalloc
from array import array
from functools import partial
from pathlib import Path

import pytest
from helpers import picture

from nightaug.data import shelf as shelf_module
from nightaug.data.domains import prepare
from nightaug.data.frames import Box, Frame
from nightaug.data.packed import PackedBoxes, packed
from nightaug.data.shelf import Hashed, Rows, Shelf, ShelvedBoxes, change, repeated
from nightaug.errors import DatasetError
from nightaug.images import write_image

BOXES = [Box(0.1, 2.0, 30.25, 4e3, "Lieferwagen ü", "red", True, None, True, 0.25, "7", 3), Box(1, 2, 3, 4, "car")]


def frames(number: int) -> list[Frame]:
    return [Frame(f"{i}.jpg", BOXES if i % 2 else [], i or None, 7, "night", video=f"v{i}") for i in range(number)]


def test_frames_come_back_in_order() -> None:
    with Shelf() as shelf:
        kept = shelf.keep(frames(5000))  # several blocks
        assert isinstance(kept, Rows)
        assert list(kept) == frames(5000)
        assert (kept[0], kept[-1], kept[10:14:2]) == (frames(1)[0], frames(5000)[-1], frames(13)[10::2])
        with pytest.raises(IndexError):
            kept[5000]
        assert isinstance(kept[1].boxes, ShelvedBoxes)
        assert (len(kept[1].boxes), kept[1].boxes[1], kept[1].boxes) == (2, BOXES[1], packed(BOXES))
        where = Frame("a.jpg", path=Path("x/a.jpg"), extra={"labelled": False, "id": 2**70})
        (only,) = shelf.keep([where])
        assert (only.path, only.extra) == (where.path, {"labelled": False})
        assert len(shelf.keep([])) == 0


def test_a_record_longer_than_a_block() -> None:
    with Shelf() as shelf:
        long = Frame("x" * 600_000)
        assert [frame.name for frame in shelf.keep([Frame("a"), long, Frame("b")])] == ["a", long.name, "b"]


def test_changes_make_new_rows() -> None:
    with Shelf() as shelf:
        kept = shelf.keep(frames(10))

        def odd(frame: Frame) -> Frame | None:
            frame.name = "new " + frame.name
            return frame if frame.boxes else None

        new = change(kept, odd)
        assert [frame.name for frame in new] == [f"new {i}.jpg" for i in range(1, 10, 2)]
        assert new[0].boxes == packed(BOXES)
        assert len(kept) == 0
    plain = change(frames(10), odd)
    assert [frame.name for frame in plain] == [f"new {i}.jpg" for i in range(1, 10, 2)]


def test_boxes_are_written_once() -> None:
    with Shelf() as shelf:
        kept = shelf.keep(frames(100))
        before = shelf._boxes.size
        kept = kept.changed(lambda frame: frame)
        assert shelf._boxes.size == before
        frame = next(frame for frame in kept if frame.boxes)
        frame.boxes = BOXES[:1]
        assert shelf.keep([frame])[0].boxes == BOXES[:1]
        with Shelf() as other:
            moved = other.keep(kept)
            assert isinstance(moved[1].boxes, PackedBoxes)
            assert moved[1].boxes == packed(BOXES)


def test_nothing_is_seen_of_it(tmp_path: Path) -> None:
    with Shelf(tmp_path / "not" / "there") as shelf:
        shelf.keep(frames(5000))
        assert os.listdir(tmp_path) == []
    assert os.listdir(tmp_path) == []
    with Shelf(Path("/proc/self")) as shelf:  # where nobody can write
        assert len(shelf.keep(frames(3))) == 3


def test_numbers_that_repeat() -> None:
    assert repeated(array("q")) == frozenset()
    assert repeated(array("q", [3, -1, 3, 5, -1, 3])) == {3, -1}
    texts = [f"train/A/{i}.jpg" for i in range(1000)]
    known = Hashed(texts)
    assert all(text in known for text in texts)
    assert not any(text + "x" in known for text in texts)
    assert "a" not in Hashed([])


def dataset(root: Path, number: int) -> Path:
    """``number`` frames of 18 boxes in BDD100K's layout, all of them one image."""
    image = root / "images" / "100k" / "train" / "first.jpg"
    write_image(image, picture(0))
    labels = [
        {"category": "car", "attributes": {}, "box2d": {"x1": 1.5 + j, "y1": 2.5, "x2": 20.25, "y2": 30.125}}
        for j in range(18)
    ]
    items = []
    for i in range(number):
        name = f"{i:08x}-{i:08x}.jpg"
        os.link(image, image.with_name(name))
        attributes = {"weather": "clear", "scene": "city street", "timeofday": ("daytime", "night")[i % 2]}
        items.append({"name": name, "attributes": attributes, "labels": labels})
    image.unlink()
    (root / "labels").mkdir()
    (root / "labels" / "det_train.json").write_text(json.dumps(items))
    return root


def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    sources = {number: dataset(tmp_path / f"source{number}", number) for number in (300, 1500)}
    prepare(sources[1500], out=tmp_path / "first", check_brightness=False)  # for what is loaded once

    def peak(number: int) -> int:
        # The least of some: whatever else the process loads or tidies up meanwhile is counted too.
        found = []
        for attempt in range(2):
            out = tmp_path / f"out{number}-{attempt}"
            tracemalloc.start()
            try:
                prepare(sources[number], out=out, check_brightness=False)
                found.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
            assert len(list(out.glob("*/*/*.txt"))) == number
        return min(found)

    peaks = {number: peak(number) for number in sources}
    # A frame and its boxes as objects are 3,000 bytes, as bytes 2,000.
    assert peaks[1500] - peaks[300] < 1200 * 800


def test_sizes_that_no_image_has_are_said_and_not_fatal(tmp_path: Path) -> None:
    source = dataset(tmp_path / "source", 4)
    file = source / "labels" / "det_train.json"
    items = json.loads(file.read_text())
    for item, size in zip(items, ({"width": 10**30, "height": 5}, {"width": True, "height": True}), strict=False):
        item["size"] = size
    file.write_text(json.dumps(items))
    report = prepare(source, out=tmp_path / "out", split="1:0:0")
    assert report.images == 4
    assert report.problem_counts["size in the labels is wrong"] == 2


def test_any_number_of_label_files(tmp_path: Path) -> None:
    for i in range(60):
        here = dataset(tmp_path / "source" / f"seq{i}", 1)
        for name in ("images", "labels"):
            (here / name).rename(here / f"{name}{i}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 30, hard))
    try:
        report = prepare(tmp_path / "source", out=tmp_path / "out", check_brightness=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert report.images == 60


def test_an_empty_out_on_a_network_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = dataset(tmp_path / "source", 4), tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(tempfile, "TemporaryFile", partial(tempfile.NamedTemporaryFile, prefix=".nfs"))
    assert prepare(source, out=out, check_brightness=False).images == 4


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = dataset(tmp_path / "source", 20)

    def full(self: object, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shelf_module._File, "append", full)
    with pytest.raises(DatasetError, match=r"out: cannot be prepared \(No space left on device\)"):
        prepare(source, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
