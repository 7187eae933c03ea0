"""open_dataset: the folder layouts people have on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nightaug.data.formats import Dataset, open_dataset
from nightaug.data.formats.discover import unlabelled_frames
from nightaug.errors import DatasetError


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10)).save(path)


def text(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def parts(dataset: Dataset) -> dict[str, tuple[list[str], str]]:
    """Split -> names of frames whose image was found, and the image folder."""
    return {
        part.split: (
            sorted(f.name for f in part.labels.frames if f.path is not None and f.path.exists()),
            part.images.relative_to(dataset.root).as_posix(),
        )
        for part in dataset.parts
    }


BOX = {"category": "car", "box2d": {"x1": 1, "y1": 1, "x2": 9, "y2": 9}}
COCO_TAIL = {"annotations": [], "categories": [{"id": 1, "name": "car"}]}
XML = "<annotation><filename>{}.jpg</filename><object><name>car</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
XML += "<xmax>5</xmax><ymax>5</ymax></bndbox></object></annotation>"


def bdd_images(root: Path) -> None:
    for split in ("train", "val", "test"):
        for kind in ("100k", "10k"):
            image(root / f"images/{kind}/{split}/{kind}{split}.jpg")
    image(root / "images/100k/train/more.jpg")


def test_bdd100k_root_prefers_det_20(tmp_path: Path) -> None:
    bdd_images(tmp_path)
    for split in ("train", "val"):
        item = {"name": f"100k{split}.jpg", "attributes": {"timeofday": "night"}, "labels": [BOX]}
        text(tmp_path / f"labels/det_20/det_{split}.json", [item])
        text(tmp_path / f"labels/bdd100k_labels_images_{split}.json", [item])
        text(tmp_path / f"labels/lane/polygons/lane_{split}.json", [{**item, "labels": []}])
    dataset = open_dataset(tmp_path)
    found = parts(dataset)
    assert found["train"][0] == ["100ktrain.jpg"]
    assert found["train"][1] == "images/100k/train"
    assert set(found) == {"train", "val"}
    assert dataset.problems.counts["label file not used"] == 2
    assert dataset.problems.counts["image of a split without labels, not used"] == 2
    assert [len(f.boxes) for f in dataset.frames("train", "B")] == [1]


def test_bdd100k_per_image_labels(tmp_path: Path) -> None:
    bdd_images(tmp_path)
    for split in ("train", "val"):
        item = {"name": f"100k{split}", "attributes": {"timeofday": "daytime"}, "frames": [{"objects": [BOX]}]}
        text(tmp_path / f"labels/100k/{split}/100k{split}.json", item)
    dataset = open_dataset(tmp_path)
    assert dataset.format == "bdd100k"
    assert parts(dataset)["val"][0] == ["100kval.jpg"]
    assert len(dataset.frames("train", "A")) == 1


def test_coco_2017(tmp_path: Path) -> None:
    for split in ("train", "val"):
        image(tmp_path / f"{split}2017/{split}.jpg")
        file = {"images": [{"id": 1, "file_name": f"{split}.jpg"}], **COCO_TAIL}
        text(tmp_path / f"annotations/instances_{split}2017.json", file)
        text(tmp_path / f"annotations/captions_{split}2017.json", file)
    dataset = open_dataset(tmp_path)
    assert parts(dataset) == {"train": (["train.jpg"], "train2017"), "val": (["val.jpg"], "val2017")}


def test_roboflow_coco_and_yolo(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        image(tmp_path / f"coco/{split}/x.jpg")
        text(
            tmp_path / f"coco/{split}/_annotations.coco.json",
            {"images": [{"id": 0, "file_name": "x.jpg"}], **COCO_TAIL},
        )
        image(tmp_path / f"yolo/{split}/images/x.jpg")
        text(tmp_path / f"yolo/{split}/labels/x.txt", "1 0.5 0.5 0.2 0.2\n")
    text(tmp_path / "yolo/data.yaml", "names: [bus, car]\n")
    text(tmp_path / "yolo/README.dataset.txt", "made by somebody\n")
    found = parts(open_dataset(tmp_path / "coco"))
    assert {split: names for split, (names, _) in found.items()} == {s: ["x.jpg"] for s in ("train", "val", "test")}
    dataset = open_dataset(tmp_path / "yolo")
    assert set(dataset.splits) == {"train", "val", "test"}
    for name in ("val", "all"):
        dataset.require_split(name)
    with pytest.raises(DatasetError, match=r"no split valid; choose one with --split \(.*val.*, or all\)"):
        dataset.require_split("valid")
    assert [box.category for f in dataset.frames() for box in f.boxes] == ["car"] * 3
    paths = {f.path for f in dataset.frames()}
    assert dataset.frames("all") == dataset.frames()
    assert len(paths) == 3  # three images of one name, each the one of its own split


def test_yolo_with_parallel_folders(tmp_path: Path) -> None:
    for split in ("train", "val"):
        image(tmp_path / f"images/{split}/{split}.jpg")
        text(tmp_path / f"labels/{split}/{split}.txt", "0 0.5 0.5 0.2 0.2\n")
    text(tmp_path / "dataset.yaml", "names: {0: car}\n")
    assert parts(open_dataset(tmp_path)) == {
        "train": (["train.jpg"], "images/train"),
        "val": (["val.jpg"], "images/val"),
    }


def test_voc_splits_come_from_image_sets(tmp_path: Path) -> None:
    for stem in ("a", "b", "c", "d"):
        image(tmp_path / f"JPEGImages/{stem}.jpg")
        text(tmp_path / f"Annotations/{stem}.xml", XML.format(stem))
    image(tmp_path / "SegmentationClass/a.png")
    text(tmp_path / "ImageSets/Main/train.txt", "a\nb\n")
    text(tmp_path / "ImageSets/Main/val.txt", "c\n")
    dataset = open_dataset(tmp_path)
    assert dataset.format == "voc"
    assert {split: names for split, (names, _) in parts(dataset).items()} == {
        "train": ["a.jpg", "b.jpg"],
        "val": ["c.jpg"],
    }
    assert dataset.problems.counts["frame in no split of ImageSets, not used"] == 1


def test_two_label_files_for_one_folder(tmp_path: Path) -> None:
    for name in ("d", "n", "free"):
        image(tmp_path / f"images/{name}.jpg")
    for name in ("d", "n"):
        text(tmp_path / f"flir_{name}.json", {"images": [{"id": name, "file_name": f"{name}.jpg"}], **COCO_TAIL})
    dataset = open_dataset(tmp_path)
    assert sorted(f.name for f in dataset.frames()) == ["d.jpg", "n.jpg"]
    assert [part.labels.unlabelled for part in dataset.parts] == [["free.jpg"], []]


def test_images_alone(tmp_path: Path) -> None:
    image(tmp_path / "flat/a.jpg")
    image(tmp_path / "flat/deep/b.png")
    assert parts(open_dataset(tmp_path / "flat")) == {"all": (["a.jpg", "deep/b.png"], ".")}
    image(tmp_path / "split/train/a.jpg")
    image(tmp_path / "split/test/b.jpg")
    assert parts(open_dataset(tmp_path / "split")) == {"train": (["a.jpg"], "train"), "test": (["b.jpg"], "test")}
    one = open_dataset(tmp_path / "flat/a.jpg")
    assert [f.path for f in one.frames()] == [tmp_path / "flat/a.jpg"]
    assert one.format is None


def test_images_that_are_not_split_have_all_alone(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg")
    dataset = open_dataset(tmp_path)
    dataset.require_split("all")
    with pytest.raises(DatasetError, match="not split, give --split all"):
        dataset.require_split("train")


def test_one_label_file_finds_its_images(tmp_path: Path) -> None:
    image(tmp_path / "images/100k/val/x.jpg")
    text(tmp_path / "labels/det_20/det_val.json", [{"name": "x.jpg", "labels": [BOX]}])
    (frame,) = open_dataset(tmp_path / "labels/det_20/det_val.json").frames("val")
    assert frame.path == tmp_path / "images/100k/val/x.jpg"


def test_domains_without_annotations(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for domain in ("A", "B"):
            image(tmp_path / f"{split}/{domain}/x.jpg")
    dataset = open_dataset(tmp_path)
    assert dataset.prepared
    assert len(dataset.frames("train", "A")) == 1
    assert len(dataset.frames(domain="B")) == 2


def test_other_files_do_not_disturb(tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg")
    text(tmp_path / "labels.json", [{"name": "a.jpg", "labels": [BOX]}])
    text(tmp_path / "config.json", {"learning_rate": 3})
    text(tmp_path / "broken.json", "")
    text(tmp_path / "requirements.txt", "torch\n")
    dataset = open_dataset(tmp_path)
    assert parts(dataset) == {"all": (["a.jpg"], "images")}
    assert dataset.problems.counts["file that is no label file"] == 2


def test_labels_that_are_not_there(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no label files"):
        open_dataset(tmp_path, labels=tmp_path / "empty")
    with pytest.raises(DatasetError, match="no such folder of images"):
        open_dataset(tmp_path, images=tmp_path / "gone")


def yolo_set(root: Path) -> Path:
    for number in range(3):
        image(root / f"images/train/{number}.jpg")
        text(root / f"labels/train/{number}.txt", "0 0.5 0.5 0.2 0.2\n")
    text(root / "data.yaml", "names: [car]\n")
    return root


@pytest.mark.parametrize("given", ["images", "images/train"])
def test_labels_beside_the_images_that_were_given_are_named(tmp_path: Path, given: str) -> None:
    root = yolo_set(tmp_path / "set")
    dataset = open_dataset(root / given)
    assert [len(frame.boxes) for frame in dataset.frames()] == [0, 0, 0]
    assert dataset.problems.noticed()[1:] == [f"  {root / 'labels'}: give {root} to use it"]
    assert not open_dataset(root).problems


def test_labels_beside_are_named_as_the_images_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(yolo_set(tmp_path / "set") / "images")
    assert open_dataset(".").problems.noticed()[1:] == ["  ../labels: give .. to use it"]


def test_no_labels_beside_no_hint(tmp_path: Path) -> None:
    root = yolo_set(tmp_path / "set")
    assert not open_dataset(root / "images", labels=root / "labels").problems, "they were given"
    assert not open_dataset(root / "images/train/0.jpg").problems
    for file in (root / "labels/train").iterdir():
        file.unlink()
    assert not open_dataset(root / "images").problems, "an empty folder"
    image(tmp_path / "pictures/a.jpg")
    text(tmp_path / "labels/a.txt", "0 0.5 0.5 0.2 0.2\n")
    assert not open_dataset(tmp_path / "pictures").problems, "no folder of a dataset by its name"


def test_prepare_names_labels_beside_both_folders(tmp_path: Path) -> None:
    from nightaug.data.domains import prepare
    from nightaug.experiment.tables import prepare_table

    day, night = yolo_set(tmp_path / "day"), yolo_set(tmp_path / "night")
    report = prepare(a=day / "images", b=night / "images", out=tmp_path / "out", check_brightness=False)
    assert report.images == 6
    assert prepare_table(report)[-2:] == [f"  {root / 'labels'}: give {root} to use it" for root in (day, night)]


def test_a_data_yaml_stands_for_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = yolo_set(tmp_path / "set")
    monkeypatch.chdir(root)
    for given in (root / "data.yaml", "data.yaml"):
        dataset = open_dataset(given)
        assert dataset.root == root
        assert [[box.category for box in frame.boxes] for frame in dataset.frames()] == [["car"]] * 3
    text(root / "coco128.yaml", "names: [car]\n")
    with pytest.raises(DatasetError, match=r"coco128\.yaml: give the dataset's folder"):
        open_dataset(root / "coco128.yaml")


def test_a_translated_folder_tells_the_time_that_its_labels_cannot(tmp_path: Path) -> None:
    for name in ("a", "b"):
        image(tmp_path / f"night/images/train/{name}.jpg")
    text(tmp_path / "night/labels/train/a.txt", "0 0.5 0.5 0.2 0.2\n")
    text(tmp_path / "night/data.yaml", "names: [car]\n")
    assert [frame.timeofday for frame in open_dataset(tmp_path / "night").frames("train")] == [None]
    assert open_dataset(tmp_path / "night").frames("train", "B") == []
    facts = tmp_path / "night/translation.json"
    for direction, time, domain in (("day2night", "night", "B"), ("night2day", "daytime", "A")):
        text(facts, {"direction": direction, "finished": True})
        dataset = open_dataset(tmp_path / "night")
        (frame,) = dataset.frames("train", domain)
        assert frame.timeofday == time
        assert [frame.timeofday for frame in unlabelled_frames(dataset.parts[0])] == [time]
    for strange in ({"direction": "noon"}, {"direction": 1}, {}):  # none of ours
        text(facts, strange)
        assert [frame.timeofday for frame in open_dataset(tmp_path / "night").frames()] == [None]
