"""COCO files are read in pieces, and give what reading them at once gives, wherever they are cut."""

from __future__ import annotations

import json
import random
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from nightaug.data.formats import coco_read, coco_stream
from nightaug.data.formats.base import LabelSet
from nightaug.data.packed import pack_frames
from nightaug.data.shelf import Shelf
from nightaug.errors import DatasetError


def document(chance: random.Random, images: int) -> dict[str, Any]:
    """A COCO file with everything that is skipped, mended or hard to cut."""
    order = list(range(images))
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": chance.choice([1, 2, 2, 99]),
            "bbox": [chance.uniform(0, 90), 1.5, chance.choice([10, 20.25, 0, -3]), 5],
            "iscrowd": chance.randrange(2),
            "segmentation": chance.choice([[], None, [[1, 2, 3, 4, 5, 6]], {"counts": [1, 2], "size": [3, 4]}]),
            "attributes": [{"name": 'a "quoted" }], "images": [{'}],
            "more": {"deep": [[{}], [{"x": []}]]},
        }
        for number, image in enumerate(sorted(chance.choice([*order, 777]) for _ in range(4 * images)))
    ]
    parts: dict[str, Any] = {
        "info": {"year": 2026, "notes": ["a", {"b": "c"}], "images": None},
        "images": [
            {"id": i, "file_name": f"ü {i}.jpg" if i % 5 else "../x.jpg", "width": 90, "height": 40} for i in order
        ],
        "annotations": annotations,
        "categories": [
            {"id": 1, "name": "person", "supercategory": "x"}, {"id": 2, "name": "car", "synonyms": ["a", "b"]}
        ],
        "type": "instances",
        "videos": [{"id": 3}],
        "licenses": [],
    }  # fmt: skip
    if chance.random() < 0.3:
        chance.shuffle(annotations)
    if images and chance.random() < 0.3:
        parts["images"].append(dict(parts["images"][0]))
    keys = list(parts)
    if chance.random() < 0.5:
        chance.shuffle(keys)
    if chance.random() < 0.3:
        keys.remove(chance.choice(["info", "type", "annotations", "categories"]))
    return {key: parts[key] for key in keys}


def facts(labels: LabelSet) -> tuple[Any, ...]:
    frames = [(f.name, list(f.boxes), f.width, f.timeofday, f.extra) for f in labels.frames]
    return frames, labels.classes, labels.meta, labels.problems.counts, labels.problems.listed


@pytest.mark.parametrize("block", [64, 700, 5000, 1 << 18])
def test_in_pieces_as_at_once(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_stream, "BLOCK", block)
    chance = random.Random(block)
    for _ in range(25):
        file = tmp_path / "x.json"
        text = json.dumps(document(chance, chance.randrange(12)), indent=chance.choice([None, None, 1]))
        file.write_text(chance.choice(["", "\ufeff", " \n"]) + text + chance.choice(["", "\n"]), "utf-8")
        assert facts(coco_read._in_pieces(file, pack_frames)) == facts(coco_read._at_once(file, pack_frames))


@pytest.mark.parametrize(
    "text",
    [
        '{"images": [], "images": [{"id": 1}], "annotations": [], "categories": []}',
        '{"images": [{"id": 1, "width": "90"}]}',
        '{"images": [{"id": 1}], "annotations": [{"image_id": 1, "category_id": 1, "bbox": [NaN, 1, 2, 3]}]}',
        '{"images": [{"id": 1}], "annotations": [1], "categories": [{"id": 1}]}',
        '{"images": [{"id": 1}], "categories": null}',
        '{"i\\u006dages": [{"id": 1}]}',
    ],
)
def test_what_is_unusual_is_read_at_once(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(coco_stream.Unusual):
        coco_read._in_pieces(file, pack_frames)
    assert facts(coco_read.read(file)) == facts(coco_read._at_once(file, pack_frames))
    assert len(coco_read.read(file).frames) == 1


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"images": [{"id": 1}', '{"images": [{"id": 1}]', '{"images": []} x', "{} {}", '{"a": 1}']
)
def test_what_is_no_coco_file_is_said(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(DatasetError, match=r"x\.json"):
        coco_read.read(file)


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_stream, "BLOCK", 1 << 16)

    def peak(number: int) -> int:
        file = tmp_path / f"{number}.json"
        bbox = {"bbox": [1.5, 2.5, 30.25, 40.125], "category_id": 1, "segmentation": [[1.25] * 20]}
        annotations = [{"id": i, "image_id": i // 20, **bbox} for i in range(20 * number)]
        images = [{"id": i, "file_name": f"{i:06}.jpg", "width": 1280, "height": 720} for i in range(number)]
        value = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "car"}]}
        file.write_text(json.dumps(value))
        found = []
        for _ in range(2):  # the least of them: whatever else the process loads or tidies up meanwhile is counted too
            with Shelf() as shelf:
                tracemalloc.start()
                try:
                    frames = coco_read.read(file, None, shelf.keep).frames
                    found.append(tracemalloc.get_traced_memory()[1])
                finally:
                    tracemalloc.stop()
                assert [len(frame.boxes) for frame in frames] == [20] * number
        return min(found)

    peaks = [peak(number) for number in (400, 1600)]
    # At once it is over 10,000 bytes a frame.
    assert peaks[1] - peaks[0] < 1200 * 500


@pytest.mark.parametrize(
    "text",
    [
        '{"info": {"a":' + " " * 200_000 + '1}, "images": [{"id": 1}]}',
        '{"a": "' + '\\"},\\"b\\":' * 100_000 + '", "images": [{"id": 1}]}',
        '{"a": [' + '{"b": [{"c": 1}], "d": 2}, ' * 50_000 + '{"c": 1}], "images": [{"id": 1}]}',
        '{"images": [{"id": 1, "a": [' + "{}, " * 300_000 + "{}]}]}",
        '{"images": [{"id": 1}' + " " * 300_000 + "]}",
    ],
)
def test_no_file_takes_long(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    began = time.process_time()
    assert len(coco_read.read(file).frames) == 1
    assert time.process_time() - began < 3  # a search from every place of the run took minutes
