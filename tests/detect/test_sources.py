from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import picture

from nightaug.data.formats import open_dataset
from nightaug.data.frames import Box, Frame
from nightaug.detect.sampling import Source
from nightaug.detect.sources import (
    SourceSpec,
    fingerprint,
    in_words,
    known_classes,
    labelled_frames,
    load_frames,
    load_source,
    load_target,
    map_classes,
    parse_source,
    spread,
    without_images_of,
)
from nightaug.errors import ConfigError, DatasetError
from nightaug.images import write_image


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("dataset", SourceSpec("dataset")),
        ("dataset:train:A:0.5", SourceSpec("dataset", "train", "A", 0.5)),
        ("dataset:val:B", SourceSpec("dataset", "val", "B")),
        ("some/folder:train", SourceSpec("some/folder", "train")),
        ("x:all:all:2", SourceSpec("x", "all", "all", 2.0)),
        ("x:0.25", SourceSpec("x", weight=0.25)),
    ],
)
def test_specs(text: str, spec: SourceSpec) -> None:
    assert parse_source(text) == spec


@pytest.mark.parametrize(
    "text", ["", ":train", "dataset:trian:A", "dataset:train:C", "dataset:train:A:-1", "dataset:inf", "dataset:nan"]
)
def test_a_wrong_spec_says_what_is_expected(text: str) -> None:
    with pytest.raises(ConfigError, match="--data"):
        parse_source(text)


def test_a_folder_may_have_colons_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a:val").mkdir()
    assert parse_source(f"{tmp_path}/a:val") == SourceSpec(f"{tmp_path}/a:val")
    assert parse_source(f"{tmp_path}/a:val:test:B") == SourceSpec(f"{tmp_path}/a:val", "test", "B")


def test_a_dataset_without_splits_is_all_training_data(tmp_path: Path) -> None:
    label = [{"name": "x.png", "labels": [{"category": "car", "box2d": {"x1": 1, "y1": 1, "x2": 9, "y2": 9}}]}]
    (tmp_path / "labels.json").write_text(json.dumps(label))
    write_image(tmp_path / "images" / "x.png", picture(0, 20, 20))
    dataset = open_dataset(tmp_path)
    assert [frame.name for frame in load_source(parse_source("dataset"), dataset).frames] == ["x.png"]
    with pytest.raises(DatasetError, match="--validation dataset:val:all: no images"):
        load_source(parse_source("dataset:val"), dataset, "--validation")


def test_images_alone_are_a_target_but_no_training_data(tmp_path: Path) -> None:
    """Nobody has looked for objects in them: taken as empty, they would teach that there are none."""
    write_image(tmp_path / "x.png", picture(0, 20, 20))
    dataset = open_dataset(tmp_path)
    assert labelled_frames(dataset, "all", "all") == []
    with pytest.raises(DatasetError, match="1 images, none of them labelled"):
        load_source(parse_source("dataset"), dataset)
    assert [frame.name for frame in load_target(parse_source("dataset"), dataset)] == ["x.png"]


def test_a_target_takes_the_images_without_labels_too(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "images" / name, picture(0, 20, 20))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "classes.txt").write_text("car\n")
    dataset = open_dataset(tmp_path)
    assert {Path(frame.name).name for frame in load_target(SourceSpec("dataset"), dataset)} == {"a.png", "b.png"}
    assert len(load_source(SourceSpec("dataset"), dataset).frames) == 1


def test_domains_and_splits(streets: Path) -> None:
    dataset = open_dataset(streets)
    day = load_source(SourceSpec("dataset", "train", "A"), dataset)
    both = load_source(SourceSpec(str(streets), "train", "all"), dataset)
    assert {frame.timeofday for frame in day.frames} == {"daytime"}
    assert len(both.frames) > len(day.frames)
    with pytest.raises(DatasetError, match=r"no images \(the dataset has: train/A"):
        load_source(SourceSpec("dataset", "all", "A")._replace(split="dev"), dataset)


def test_unlabelled_frames_do_not_train(tmp_path: Path, streets: Path) -> None:
    dataset = open_dataset(streets)
    for part in dataset.parts:
        for frame in part.labels.frames:
            frame.extra = {"labelled": False}
    with pytest.raises(DatasetError, match="none of them labelled"):
        load_source(SourceSpec("dataset", "train", "A"), dataset)


def test_a_manifests_weights_reach_images_and_boxes(tmp_path: Path, streets: Path) -> None:
    dataset = open_dataset(streets)
    names = [f"train/A/{frame.name}" for frame in dataset.frames("train", "A")]
    rows = [
        {"output": names[0], "weight": 0.5, "dropped_boxes": [1], "sha256": "x"},
        {"output": names[1], "weight": 0.0, "dropped_boxes": []},
        {"output": names[2], "weight": 1.0, "dropped_boxes": []},
    ]
    manifest = streets / "manifest.jsonl"
    before = manifest.read_bytes()
    try:
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
        frames = load_frames(open_dataset(streets), "train", "A")
        manifest.write_text('{"output": 3}\n')
        with pytest.raises(DatasetError, match="line 1"):
            load_frames(open_dataset(streets), "train", "A")
    finally:
        manifest.write_bytes(before)
    by_name = {f"train/A/{frame.name}": frame for frame in frames}
    assert names[1] not in by_name
    assert [box.weight for box in by_name[names[0]].boxes] == [1.0, 0.0]
    assert by_name[names[0]].extra["weight"] == 0.5
    assert by_name[names[2]].extra is None or "weight" not in by_name[names[2]].extra


def test_a_source_in_words_tells_what_curation_took(tmp_path: Path) -> None:
    box = {"category": "car", "box2d": {"x1": 1, "y1": 1, "x2": 9, "y2": 9}}
    labels = [{"name": f"{at}.png", "attributes": {"timeofday": "night"}, "labels": [box, box]} for at in range(4)]
    for at in range(4):
        write_image(tmp_path / "images" / f"{at}.png", picture(at, 20, 20))
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    rows = [
        {"output": "images/0.png", "weight": 0.5, "dropped_boxes": [1]},
        {"output": "images/1.png", "weight": 0.0},
        {"output": "images/2.png", "dropped_boxes": [0, 1]},
        {"output": "images/3.png"},
        {"output": "images/gone.png", "weight": 0.0},
    ]

    spec = SourceSpec(str(tmp_path))
    assert in_words(load_source(spec, open_dataset(tmp_path))).endswith("4 images (0 day, 4 night), 8 boxes, weight 1")
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert in_words(load_source(spec, open_dataset(tmp_path))).endswith(
        ": 3 images (0 day, 3 night), 3 boxes (3 more of weight 0), 1 images weighed down, 1 images of weight 0 left "
        "out, weight 1"
    )


def test_classes_come_in_their_usual_order() -> None:
    frames = [Frame("a", [Box(0, 0, 1, 1, name) for name in ("tram", "truck", "bicycle", "ambulance")])]
    assert known_classes(frames) == ("bicycle", "truck", "ambulance", "tram")
    assert known_classes(frames, ("tram",)) == ("bicycle", "truck", "tram", "ambulance")


def test_classes_are_renamed_by_any_of_their_names() -> None:
    frames = [Frame("a", [Box(0, 0, 1, 1, "rider"), Box(0, 0, 1, 1, "car")])]
    mapped = map_classes(frames, {"Rider": "person"})
    assert [box.category for box in mapped[0].boxes] == ["pedestrian", "car"]
    assert frames[0].boxes[0].category == "rider"


def test_images_of_a_class_are_left_out_by_any_of_its_names() -> None:
    frames = [Frame("a", [Box(0, 0, 1, 1, "pedestrian"), Box(0, 0, 1, 1, "car")]), Frame("b"), Frame("c", [])]
    frames += [Frame("d", [Box(0, 0, 1, 1, "car", crowd=True)])]
    assert [frame.name for frame in without_images_of(frames, ["Person"])] == ["b", "c", "d"]
    assert [frame.name for frame in without_images_of(frames, ["car"])] == ["b", "c"], "a crowd shows it, too"
    assert without_images_of(frames, []) == frames


def test_spread_takes_from_everywhere() -> None:
    frames = [Frame(f"{n:03d}") for n in reversed(range(100))]
    assert [frame.name for frame in spread(frames, 4)] == ["000", "025", "050", "075"]
    assert len(spread(frames, 1000)) == 100


def test_the_fingerprint_sees_labels_and_weights() -> None:
    def of(weight: float, x: float) -> str:
        return fingerprint([Source("a", [Frame("a", [Box(0, 0, x, 1, "car", weight=weight)])])])

    assert len({of(1, 1), of(0.5, 1), of(1, 2)}) == 3
