"""Odd files that real folders hold: none of them may cost the dataset, or be told apart by prepare and translate."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nightaug.data.checks import look
from nightaug.data.companion_names import is_companion
from nightaug.data.domains import prepare
from nightaug.data.formats import open_dataset, read_labels, write_labels
from nightaug.data.frames import Frame
from nightaug.data.upright import upright
from nightaug.errors import ConfigError, DatasetError


def grey(path: Path, level: int, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-5, 5, (48, 64, 3))
    Image.fromarray(np.clip(level + noise, 0, 255).astype(np.uint8)).save(path)
    return path


def item(name: str, *categories: str, **attributes: Any) -> dict[str, Any]:
    box = {"x1": 1, "y1": 1, "x2": 20, "y2": 20}
    labels = [{"category": c, "box2d": box} for c in categories]
    return {"name": name, "attributes": {"timeofday": "daytime", **attributes}, "labels": labels}


def day_and_night(root: Path, number: int = 1) -> dict[str, Any]:
    for i in range(number):
        grey(root / f"a/a{i}.png", 150, i)
        grey(root / f"b/b{i}.png", 20, i)
    return {"a": root / "a", "b": root / "b"}


# -- looking at images ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey_has_its_own_scale(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    Image.fromarray(np.full((48, 64), 20 * 257, np.uint16)).save(path)
    assert look(path).luma == 20
    assert look(path).luma_top == 20


def test_sideways_tiff_has_the_size_of_its_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "x.tif", exif=exif.tobytes())
    assert look(tmp_path / "x.tif")[:2] == (48, 64)


def test_damaged_exif_is_an_unreadable_image(tmp_path: Path) -> None:
    source = day_and_night(tmp_path)
    path = tmp_path / "a/x.jpg"
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(path, exif=b"Exif\0\0MM\0*\0", dpi=(72, 72))
    with pytest.raises(struct.error), Image.open(path) as image:
        image.getexif()
    assert "cannot be decoded" in look(path).error
    assert upright(Frame("x.jpg", [], 64, 48, path=path)).width == 64
    report = prepare(out=tmp_path / "out", split="1:0:0", **source)
    assert report.excluded == {"unreadable image": 1}
    assert report.unreadable == 1


# -- words and names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["scalabel", "coco"])
def test_lone_surrogates_in_words_are_replaced(tmp_path: Path, kind: str) -> None:
    source = day_and_night(tmp_path)
    grey(tmp_path / "a/b.png", 150)
    if kind == "scalabel":
        good = item("a0.png", "car\ud800", weather="wet\ud800", scene="x\udfff", more={"k\ud800": ["\ud800"]})
        document: Any = [{**good, "url": "u\ud800"}, item("b\ud800.png")]
    else:
        document = {
            "images": [
                {"id": "i\ud800", "file_name": "a0.png", "width": 64, "height": 48, "weather": "w\ud800"},
                {"id": 2, "file_name": "b\ud800.png"},
            ],
            "annotations": [{"image_id": "i\ud800", "category_id": 1, "bbox": [1, 1, 9, 9], "light_color": "\ud800"}],
            "categories": [{"id": 1, "name": "car\ud800"}],
        }
    (tmp_path / "a/labels.json").write_text(json.dumps(document))
    report = prepare(out=tmp_path / "out", split="1:0:0", **source)
    assert report.problem_counts["unsafe image name refused"] == 1
    assert [name for name in report.classes if name.startswith("car")][-1] in ("car", "car\ufffd")
    labels = read_labels(tmp_path / "a/labels.json", tmp_path / "a")
    for name in ("scalabel", "bdd100k", "coco"):
        write_labels(labels, tmp_path / f"{name}.json", format=name)
    for name in ("voc", "yolo"):
        write_labels(labels, tmp_path / name, [f for f in labels.frames if f.width], format=name)


def test_names_that_are_not_utf8_are_counted_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = day_and_night(tmp_path)
    os.makedirs(os.fsencode(tmp_path) + b"/a/dir\xff")
    for name in (b"/a/x\xff.png", b"/a/dir\xff/y.png", b"/a/a0_mask\xff.png", b"/a/l\xff.json", b"/a/l\xff.xml"):
        with open(os.fsencode(tmp_path) + name, "wb") as file:
            file.write((tmp_path / "a/a0.png").read_bytes())
    report = prepare(out=tmp_path / "out", split="1:0:0", **source)
    assert report.frames_read == 2
    assert report.problem_counts == {"file name that is not UTF-8 skipped": 5}
    with pytest.raises(DatasetError, match="not UTF-8"):
        open_dataset(os.fsdecode(os.fsencode(tmp_path) + b"/a/dir\xff"))
    with pytest.raises(DatasetError, match="not UTF-8"):
        prepare(out=os.fsdecode(os.fsencode(tmp_path) + b"/out\xff"), **source)
    monkeypatch.chdir(os.fsencode(tmp_path) + b"/a/dir\xff")
    for options in ({"source": ".", "out": tmp_path / "other"}, {"out": "other", **source}):
        with pytest.raises(DatasetError, match="not UTF-8"):
            prepare(**options)


def test_class_names_are_one_line(tmp_path: Path) -> None:
    source = day_and_night(tmp_path)
    (tmp_path / "a/labels.json").write_text(json.dumps([item("a0.png", "e\nvil\x1b[31m", "\n", weather="a\nb")]))
    report = prepare(out=tmp_path / "out", split="1:0:0", **source)
    assert report.classes[-2:] == ("e vil [31m", "unnamed")
    assert all(p.where.isprintable() and p.detail.isprintable() for p in report.problems)
    labels = read_labels(tmp_path / "a/labels.json", tmp_path / "a")
    labels.frames[0].width, labels.frames[0].height = 64, 48
    write_labels(labels, tmp_path / "y", format="yolo")
    assert (tmp_path / "y/classes.txt").read_text().splitlines()[-2:] == ["e vil [31m", "unnamed"]


# -- class files of YOLO -------------------------------------------------------------------------------------------


def yolo(root: Path, text: str) -> Path:
    grey(root / "images/x.png", 99)
    (root / "labels").mkdir()
    (root / "labels/x.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    (root / "data.yaml").write_text(text)
    return root


@pytest.mark.parametrize(
    "text",
    [
        "date: 2021-02-30\nnames: [person, boat]",
        "names:\n  0: person\n  1: boat\n",
        "names: [&a person, boat, *a]\nnc: 3",
    ],
)
def test_data_yaml_is_text(tmp_path: Path, text: str) -> None:
    dataset = open_dataset(yolo(tmp_path, text))
    assert [box.category for frame in dataset.frames() for box in frame.boxes] == ["boat"]


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    return "\n".join(lines) + "\nnames: [*a11, y]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (bomb(), "expected text"),
        ("names: [[a, b], c]", "expected text"),
        ("names: {0: {a: b}}", "expected text"),
        ("names: [" + "a, " * 10_001 + "]", "at most 10,000"),
        ("# " + "x" * 1_000_001, "bytes"),
        ("names: [a", "cannot be read"),
        ("names: " + "[" * 5000, "cannot be read"),
    ],
)
def test_hostile_data_yaml_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said) as info:
        open_dataset(yolo(tmp_path, text))
    assert len(str(info.value)) < 500


# -- links, masks, doubles, our own files --------------------------------------------------------------------------


def test_a_link_to_itself_is_a_broken_link(tmp_path: Path) -> None:
    source = day_and_night(tmp_path)
    for name in ("loop.jpg", "loop.json", "loop", "loop.txt"):
        os.symlink(name, tmp_path / "a" / name)
    report = prepare(out=tmp_path / "out", split="1:0:0", **source)
    assert report.images == 2
    assert report.problem_counts == {"broken link skipped": 4}


def test_masks_are_no_frames_for_anybody(tmp_path: Path) -> None:
    source = day_and_night(tmp_path)
    for name in ("a0_mask.png", "masks/a0.png", "sub/c.png", "sub/c.depth.png", "lonely_mask.png"):
        grey(tmp_path / "a" / name, 150)
    expected = ["a0.png", "lonely_mask.png", "sub/c.png"]
    assert [frame.name for frame in open_dataset(tmp_path / "a").frames()] == expected
    assert prepare(out=tmp_path / "out", dry_run=True, **source).frames_read == 4
    (tmp_path / "a/labels.json").write_text(json.dumps([item("a0.png", "car"), item("sub/c.depth.png", "car")]))
    labels = open_dataset(tmp_path / "a").parts[0].labels
    assert [frame.name for frame in labels.frames] == ["a0.png", "sub/c.depth.png"]  # labelled as one: it is one
    assert labels.unlabelled == ["lonely_mask.png", "sub/c.png"]
    assert is_companion("x_mask.png", {"x", "x_mask"})
    assert not is_companion("x.png", {"x", "x_mask"})
    grey(tmp_path / "p/train/A/x.png", 99)
    grey(tmp_path / "p/train/A/x_mask.png", 99)
    assert [frame.name for frame in open_dataset(tmp_path / "p").frames()] == ["x.png"]


def test_the_first_of_two_frames_of_an_image_counts(tmp_path: Path) -> None:
    source = day_and_night(tmp_path)
    (tmp_path / "a/labels.json").write_text(json.dumps([item("a0.png", "car"), item("a0.png", "bus")]))
    dataset = open_dataset(tmp_path / "a")
    assert [box.category for frame in dataset.frames() for box in frame.boxes] == ["car"]
    assert dataset.problems.counts == {"duplicate name": 1}
    report = prepare(out=tmp_path / "out", split="1:0:0", **source)
    assert report.problem_counts == {"duplicate name": 1}
    assert report.excluded == {"duplicate name": 1}
    assert report.frames_read == 3
    assert [b.category for f in open_dataset(tmp_path / "out").frames(domain="A") for b in f.boxes] == ["car"]


def test_our_own_files_are_no_problem(tmp_path: Path) -> None:
    grey(tmp_path / "x.png", 99)
    for name in ("world.json", "counts.json", "prepare.json", "translation.json"):
        (tmp_path / name).write_text('{"made": "by us"}')
    (tmp_path / "other.json").write_text('{"made": "by others"}')
    assert open_dataset(tmp_path).problems.counts == {"file that is no label file": 1}


# -- folders and names of prepare ----------------------------------------------------------------------------------


def test_sources_that_cannot_be_meant(tmp_path: Path) -> None:
    source = day_and_night(tmp_path / "s")
    os.symlink(source["a"], tmp_path / "again")
    with pytest.raises(ConfigError, match="same folder"):
        prepare(out=tmp_path / "out", a=source["a"], b=tmp_path / "again")
    (tmp_path / "labels.json").write_text(json.dumps([item("a0.png")]))
    for out in (tmp_path / "s/a/out", tmp_path / "s"):
        with pytest.raises(DatasetError, match="lie in each other"):
            prepare(tmp_path / "labels.json", images=source["a"], out=out)
    assert not (tmp_path / "s/a/out").exists()


@pytest.mark.parametrize("letter", ["n", "日"])
def test_long_names_are_shortened(tmp_path: Path, letter: str) -> None:
    long = letter * (240 // len(letter.encode()))
    for where in ("one", "two"):
        grey(tmp_path / f"a/{where}_{long[:80]}/{long}.png", 150)
        grey(tmp_path / f"b/{where}.png", 20)
    report = prepare(out=tmp_path / "out", split="1:0:0", link="copy", a=tmp_path / "a", b=tmp_path / "b")
    assert report.images == 4
    names = [path.name for path in (tmp_path / "out/train/A").glob("*.png")]
    assert len(names) == 2
    assert all(len(name.encode()) <= 240 for name in names)
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    prepare(out=tmp_path / "out", split="1:0:0", link="copy", a=tmp_path / "a", b=tmp_path / "b")
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before
