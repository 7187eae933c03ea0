"""Which translation belongs to which source, in folders of other programs; and real nights that are no test set."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import picture, scalabel

from nightaug.curate.pairs import Pairs, find_pairs, find_real
from nightaug.data.domains import prepare
from nightaug.errors import DatasetError
from nightaug.images import read_image, write_image


def test_boxes_follow_the_size_of_a_foreign_translation(tmp_path: Path) -> None:
    root, made = scalabel(tmp_path / "in", ["daytime"] * 2), tmp_path / "made"
    for path in sorted((root / "images").rglob("*.jpg")):
        half = np.asarray(cv2.resize(read_image(path), (48, 32)), np.uint8)
        write_image(made / path.relative_to(root).with_suffix(".png"), half)
    pairs = find_pairs(root, made)
    assert [Path(pair.output).name for pair in pairs.items] == ["0000-a.png", "0001-a.png"]
    assert [pair.origin.name for pair in pairs.items] == ["0000-a.jpg", "0001-a.jpg"]
    assert pairs.items[0].frame.boxes[0].xyxy == (2, 2.5, 15.25, 20)


def test_places_pair_before_names_and_ambiguous_names_do_not(tmp_path: Path) -> None:
    source, made = tmp_path / "source", tmp_path / "made"
    for name in ("a/x", "b/x", "b/y", "a/z", "b/z", "b/only"):
        write_image(source / f"{name}.png", picture())
    for name in ("b/y.png", "a/z.png", "b/z.jpg", "c/x.png", "c/only.png"):
        write_image(made / name, picture())
    pairs = find_pairs(source, made)
    assert {pair.source: pair.output for pair in pairs.items} == {
        "b/y.png": "b/y.png", "a/z.png": "a/z.png", "b/z.png": "b/z.jpg", "b/only.png": "c/only.png",
    }  # fmt: skip
    assert any(note.startswith("2 images of the source left out") for note in pairs.notes)
    assert not any("no partner" in note for note in pairs.notes)


def test_images_without_a_partner_are_named(tmp_path: Path) -> None:
    source, made = tmp_path / "day", tmp_path / "night"
    for path in (source / "both.png", source / "d.png", made / "both.png", made / "x/a b.png", made / "c.png"):
        write_image(path, picture())

    def said() -> list[str]:
        return [note for note in find_pairs(source, made).notes if "partner" in note]

    assert said() == ["2 images of night and 1 of day have no partner (c.png, x/a b.png, d.png)"]
    write_image(source / "e.png", picture())
    assert said() == ["2 images of night and 2 of day have no partner (c.png, x/a b.png, d.png, ...)"]
    shutil.rmtree(made / "x")
    (made / "c.png").unlink()
    (source / "e.png").unlink()
    assert said() == ["1 image of day has no partner (d.png)"]
    (source / "d.png").unlink()
    assert said() == []


def test_real_nights_are_never_of_the_test_split_unasked(tmp_path: Path) -> None:
    root = tmp_path / "data"
    prepare(scalabel(tmp_path / "in", ["daytime"] * 20 + ["night"] * 20), out=root, check_brightness=False)
    pairs = Pairs([])  # of another dataset: no split of it was translated
    nights = [frame.path for frame, _ in find_real(root, pairs, 100)]
    assert {path.relative_to(root).parts[0] for path in nights if path} == {"train", "val"}
    assert "all but test (train, val)" in pairs.notes[0]
    for split in ("train", "val"):
        shutil.rmtree(root / split)
        (root / f"annotations/{split}_B.json").unlink()
    with pytest.raises(DatasetError, match="no night images there but those of the test split"):
        find_real(root, pairs, 100)
