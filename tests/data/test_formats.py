"""Label formats: what real files of each kind look like, what comes out, and that writing gives it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nightaug.data.classes import BDD100K_CLASSES
from nightaug.data.formats import LabelSet, Problems, detect_format, iter_labels, read_labels, write_labels
from nightaug.data.frames import Box, Frame
from nightaug.errors import ConfigError, DatasetError

OLD_LABELS: list[dict[str, Any]] = [
    {
        "category": "motor",
        "attributes": {"occluded": True, "truncated": False, "trafficLightColor": "none"},
        "manualShape": True,
        "manualAttributes": True,
        "box2d": {"x1": 566.5, "y1": 386, "x2": 596.25, "y2": 413.5},
        "id": 227,
    },
    {
        "category": "traffic light",
        "attributes": {"occluded": False, "truncated": False, "trafficLightColor": "green"},
        "manualShape": True,
        "manualAttributes": True,
        "box2d": {"x1": 464.0, "y1": 243.5, "x2": 474.0, "y2": 270.0},
        "id": 228,
    },
    {
        "category": "lane",
        "attributes": {"laneDirection": "parallel", "laneStyle": "solid", "laneType": "road curb"},
        "manualShape": True,
        "manualAttributes": True,
        "poly2d": [{"vertices": [[305.2, 449.9], [0, 469.7]], "types": "LL", "closed": False}],
        "id": 236,
    },
]
OLD_FRAME = {
    "name": "4c2cd55b-31488766.jpg",
    "attributes": {"weather": "clear", "scene": "city street", "timeofday": "night"},
    "timestamp": 10000,
    "labels": OLD_LABELS,
}
DET20_FRAME = {
    "name": "0000f77c-6257be58.jpg",
    "attributes": {"weather": "undefined", "timeofday": "dawn/dusk", "scene": "highway"},
    "timestamp": 10000,
    "labels": [
        {
            "id": "0",
            "attributes": {"occluded": False, "truncated": True, "trafficLightColor": "G"},
            "category": "traffic light",
            "box2d": {"x1": 1125.9, "y1": 133.2, "x2": 1156.98, "y2": 210.9},
        },
        {
            "id": "7",
            "attributes": {"occluded": False, "truncated": False, "trafficLightColor": "NA"},
            "category": "other vehicle",
            "box2d": {"x1": 1.5, "y1": 2.5, "x2": 30.5, "y2": 40.5},
        },
    ],
}
AUTO_FRAME = {
    "name": "https://s3.amazonaws.com/bdd-label/val/c1ba5ee6-b2cb1e51.jpg",
    "url": "https://s3.amazonaws.com/bdd-label/val/c1ba5ee6-b2cb1e51.jpg",
    "videoName": "",
    "attributes": None,
    "timestamp": 10000,
    "frameIndex": 0,
    "labels": [
        {
            "id": 0,
            "category": "motor",
            "attributes": {"occluded": False, "trafficLightColor": [0, "NA"], "Truncated": True},
            "manualShape": False,
            "box2d": {"x1": 895.5, "x2": 981.0, "y1": 418.5, "y2": 474.0},
            "poly2d": None,
            "box3d": None,
        }
    ],
}
SHIFT = {
    "frames": [
        {
            "name": "00000100_img_front.jpg",
            "videoName": "007b-4e72",
            "intrinsics": {"focal": [640.0, 640.0], "center": [640.0, 400.0], "skew": 0},
            "attributes": {
                "weather_coarse": "rainy",
                "timeofday_coarse": "day",
                "timeofday_fine": "noon",
                "town": "04",
            },
            "frameIndex": 100,
            "labels": [
                {
                    "id": "9591",
                    "attributes": {"type": "walker.pedestrian.0021"},
                    "category": "pedestrian",
                    "box2d": {"x1": 609.0, "y1": 394.0, "x2": 623.0, "y2": 444.0},
                }
            ],
        }
    ],
    "config": {"imageSize": {"width": 1280, "height": 800}, "categories": [{"name": "pedestrian"}, {"name": "car"}]},
}
FLIR = {
    "annotations": [
        {"bbox": [149, 225, 16, 33], "category_id": 1, "id": 173, "ignore": 0, "image_id": "FLIR_7", "iscrowd": 0},
        {
            "bbox": [10.5, 20, 30, 40],
            "category_id": 3,
            "id": 174,
            "image_id": "FLIR_7",
            "iscrowd": 1,
            "segmentation": [],
        },
        {"bbox": [1, 1, 5, 5], "category_id": 99, "id": 175, "image_id": "FLIR_7", "iscrowd": 0},
        {"bbox": [1, 1, 5, 5], "category_id": 1, "id": 176, "image_id": "nowhere", "iscrowd": 0},
    ],
    "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}, {"id": 5, "name": "dog"}],
    "images": [
        {"file_name": "FLIR_7.jpg", "height": 512, "id": "FLIR_7", "width": 640},
        {"file_name": "FLIR_8.jpg", "height": 512, "id": "FLIR_8", "width": 640},
    ],
    "type": "instances",
}
VOC = """<?xml version="1.0"?>
<annotation><folder>VOC</folder><filename>000012.jpg</filename>
<size><width>500</width><height>333</height><depth>3</depth></size>
<object><name>motorbike</name><pose>Rear</pose><truncated>1</truncated><difficult>0</difficult>
<bndbox><xmin>156</xmin><ymin>97</ymin><xmax>351</xmax><ymax>270</ymax></bndbox></object>
<object><name>person</name><difficult>1</difficult>
<bndbox><xmin>0</xmin><ymin>1</ymin><xmax>5</xmax><ymax>6</ymax></bndbox></object></annotation>"""


def put(folder: Path, name: str, value: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, indent=1), encoding="utf-8")
    return path


def test_old_list_gives_canonical_boxes_and_ignores_lanes(tmp_path: Path) -> None:
    labels = read_labels(put(tmp_path, "labels.json", [OLD_FRAME]))
    assert (labels.format, labels.layout) == ("bdd100k", "list")
    (frame,) = labels.frames
    assert (frame.timeofday, frame.weather, frame.scene) == ("night", "clear", "city street")
    motor, light = frame.boxes
    assert motor == Box(566.5, 386.0, 596.25, 413.5, "motorcycle", None, True, False, id="227")
    assert (light.category, light.light_color) == ("traffic light", "green")
    assert labels.problems.counts == {"label without a box (lane, area, mask)": 1}
    assert labels.classes == BDD100K_CLASSES


def test_per_image_layout_single_file_and_folder(tmp_path: Path) -> None:
    item = {
        "name": "0000f77c-6257be58",
        "attributes": {"weather": "clear", "scene": "tunnel", "timeofday": "daytime"},
        "frames": [{"timestamp": 10000, "objects": OLD_LABELS}],
    }
    path = put(tmp_path, "train/0000f77c-6257be58.json", item)
    for source in (path, path.parent):
        labels = read_labels(source)
        assert (labels.format, labels.layout) == ("bdd100k", "per-image")
        (frame,) = labels.frames
        assert (frame.name, frame.timeofday, frame.scene) == ("0000f77c-6257be58.jpg", "daytime", "tunnel")
        assert [box.category for box in frame.boxes] == ["motorcycle", "traffic light"]


def test_bare_label_list_is_named_after_its_file(tmp_path: Path) -> None:
    labels = read_labels(put(tmp_path, "0000f77c-6257be58.json", OLD_LABELS))
    assert (labels.format, labels.layout, labels.frames[0].name) == ("bdd100k", "labels", "0000f77c-6257be58.jpg")
    assert labels.frames[0].timeofday is None
    assert len(labels.frames[0].boxes) == 2


def test_scalabel_list_keeps_unknown_categories_and_counts_them(tmp_path: Path) -> None:
    labels = read_labels(put(tmp_path, "det_train.json", [DET20_FRAME]))
    assert (labels.format, labels.layout) == ("scalabel", "list")
    (frame,) = labels.frames
    assert (frame.timeofday, frame.weather) == ("dawn/dusk", None)
    assert frame.boxes[0].light_color == "green"
    assert frame.boxes[0].truncated is True
    assert frame.boxes[1].category == "other vehicle"
    assert labels.problems.counts == {"category outside the ten classes, kept under its own name": 1}
    assert labels.classes == (*BDD100K_CLASSES, "other vehicle")


def test_attributes_null_url_name_and_light_pair(tmp_path: Path) -> None:
    labels = read_labels(put(tmp_path, "auto.json", [AUTO_FRAME]))
    (frame,) = labels.frames
    assert (labels.format, frame.name) == ("scalabel", "c1ba5ee6-b2cb1e51.jpg")
    assert (frame.timeofday, frame.weather, frame.scene, frame.video) == (None, None, None, None)
    (box,) = frame.boxes
    assert (box.category, box.light_color, box.occluded, box.truncated) == ("motorcycle", None, False, True)
    written = json.loads(write_labels(labels, tmp_path / "out.json")[0].read_text())
    assert written[0]["attributes"] is None
    assert written[0]["name"] == AUTO_FRAME["name"]


def test_shift_document(tmp_path: Path) -> None:
    labels = read_labels(put(tmp_path, "det_2d.json", SHIFT))
    (frame,) = labels.frames
    assert (labels.layout, labels.classes) == ("frames", ("pedestrian", "car"))
    assert (frame.timeofday, frame.weather, frame.video) == ("daytime", "rainy", "007b-4e72")
    assert (frame.width, frame.height) == (1280, 800)
    frame.timeofday = "night"
    written = json.loads(write_labels(labels, tmp_path / "out.json")[0].read_text())
    attributes = written["frames"][0]["attributes"]
    assert attributes == {
        "weather_coarse": "rainy",
        "timeofday_coarse": "night",
        "timeofday_fine": "night",
        "town": "04",
    }
    assert written["config"] == SHIFT["config"]
    assert written["frames"][0]["intrinsics"]["focal"] == [640.0, 640.0]


def test_frames_after_other_keys_of_a_document(tmp_path: Path) -> None:
    turned = {"config": SHIFT["config"], "frames": SHIFT["frames"]}
    labels = read_labels(put(tmp_path, "det_2d.json", turned))
    assert [len(frame.boxes) for frame in labels.frames] == [1]
    assert labels.classes == ("pedestrian", "car")


def test_flir_coco(tmp_path: Path) -> None:
    labels = read_labels(put(tmp_path, "flir.json", FLIR))
    seven, eight = labels.frames
    assert (labels.format, labels.classes) == ("coco", ("pedestrian", "car", "dog"))
    assert (seven.name, seven.width, seven.height) == ("FLIR_7.jpg", 640, 512)
    assert seven.boxes[0].xyxy == (149.0, 225.0, 165.0, 258.0)
    assert [(box.category, box.crowd) for box in seven.boxes] == [("pedestrian", False), ("car", True)]
    assert eight.boxes == []
    assert labels.problems.counts == {
        "annotation of an unknown category skipped": 1,
        "annotation of an unknown image skipped": 1,
    }
    written = json.loads(write_labels(labels, tmp_path / "out.json")[0].read_text())
    assert [c["name"] for c in written["categories"]] == ["person", "car", "dog"]
    assert [c["id"] for c in written["categories"]] == [1, 3, 5]
    assert [a["bbox"] for a in written["annotations"]] == [[149, 225, 16, 33], [10.5, 20, 30, 40]]
    assert [a["image_id"] for a in written["annotations"]] == ["FLIR_7", "FLIR_7"]


def test_voc_pixels_start_at_one_and_include_the_last(tmp_path: Path) -> None:
    labels = read_labels(put(tmp_path, "Annotations/000012.xml", VOC).parent)
    (frame,) = labels.frames
    assert (labels.format, frame.name, frame.width, frame.height) == ("voc", "000012.jpg", 500, 333)
    assert frame.boxes[0].xyxy == (155.0, 96.0, 351.0, 270.0)
    assert [(box.category, box.crowd) for box in frame.boxes] == [("motorcycle", False), ("pedestrian", True)]
    assert frame.boxes[1].xyxy == (0.0, 0.0, 5.0, 6.0)
    write_labels(labels, tmp_path / "out")
    text = (tmp_path / "out/000012.xml").read_text()
    assert "<name>motorbike</name>" in text
    assert "<xmin>156</xmin>" in text


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.png"):
        Image.new("RGB", (200, 100)).save(tmp_path / "images" / name)
    put(tmp_path, "classes.txt", "person\nbike\ncar\n")
    put(tmp_path, "labels/a.txt", "2 0.5 0.5 0.2 0.4\n\n0 0.1 0.1 0.1 0.1 0.93\n1 0.1 0.1 0.3 0.1 0.3 0.4\n")
    put(tmp_path, "labels/b.txt", "")
    put(tmp_path, "labels/c.txt", "0 0.5 0.5 0.1 0.1\n")
    return tmp_path


def test_yolo_boxes_in_pixels(yolo: Path) -> None:
    labels = read_labels(yolo / "labels", images=yolo / "images")
    a, b = labels.frames
    assert (labels.format, labels.classes) == ("yolo", ("pedestrian", "bicycle", "car"))
    assert (a.name, a.width, a.height, b.boxes) == ("a.jpg", 200, 100, [])
    assert a.boxes[0].category == "car"
    assert a.boxes[0].xyxy == pytest.approx((80, 30, 120, 70))
    assert a.boxes[1].xyxy == pytest.approx((10, 5, 30, 15))  # a prediction's sixth number is no coordinate
    assert a.boxes[2].xyxy == pytest.approx((20, 10, 60, 40))  # a polygon's hull
    assert b.path == yolo / "images/b.png"
    lost = "segmentation of which only the box is kept"
    assert labels.problems.counts == {"label file without an image": 1, lost: 1}


def test_yolo_needs_images(yolo: Path) -> None:
    with pytest.raises(DatasetError, match="--images"):
        read_labels(yolo / "labels")


def test_yolo_names_from_yaml(yolo: Path) -> None:
    (yolo / "classes.txt").unlink()
    put(yolo, "data.yaml", "path: .\nnames:\n  0: rider\n  1: train\n  2: traffic_light\n")
    assert read_labels(yolo / "labels", images=yolo / "images").classes == ("rider", "train", "traffic light")


def full(name: str, **kwargs: Any) -> Frame:
    boxes = [
        Box(1.5, 2.25, 30.0, 40.0, "car", None, True, False, id="1"),
        Box(5.0, 6.0, 7.5, 20.0, "traffic light", "red", False, False, id="2"),
    ]
    return Frame(name, boxes, 64, 48, timeofday="night", weather="rainy", scene="city street", **kwargs)


@pytest.mark.parametrize(
    ("format", "layout"),
    [
        ("bdd100k", "list"),
        ("bdd100k", "per-image"),
        ("scalabel", "list"),
        ("scalabel", "frames"),
        ("coco", ""),
        ("voc", ""),
        ("yolo", ""),
    ],
)
def test_written_labels_read_back_the_same(tmp_path: Path, format: str, layout: str) -> None:
    frames = [full("a.jpg"), full("b.jpg"), Frame("empty.jpg", [], 64, 48, timeofday="daytime")]
    labels = LabelSet(frames, ("car", "traffic light"), format, layout)
    is_file = format in ("scalabel", "coco") or layout == "list"
    out = tmp_path / ("out.json" if is_file else "labels")
    written = write_labels(labels, out)
    assert all(path.is_file() for path in written)
    assert detect_format(out) == format
    images = tmp_path / "images"
    images.mkdir()
    for frame in frames:
        Image.new("RGB", (64, 48)).save(images / frame.name)
    back = read_labels(out, images=images)
    assert back.layout == layout
    assert [frame.name for frame in back.frames] == ["a.jpg", "b.jpg", "empty.jpg"]
    assert back.frames[2].boxes == []
    for frame, was in zip(back.frames, frames, strict=True):
        assert frame.path == images / was.name
        for box, old in zip(frame.boxes, was.boxes, strict=True):
            assert box.xyxy == pytest.approx(old.xyxy, abs=1e-4)
            assert box.category == old.category
            if format != "yolo":
                assert (box.light_color, box.occluded, box.truncated) == (old.light_color, old.occluded, old.truncated)
        if format != "yolo":
            assert (frame.timeofday, frame.weather, frame.scene) == (was.timeofday, was.weather, was.scene)
    # Once through the format, nothing changes any more.
    again = tmp_path / "again" / out.name
    write_labels(back, again)
    assert read_labels(again, images=images).frames == back.frames


def test_light_colour_in_the_formats_own_words(tmp_path: Path) -> None:
    frame = full("a.jpg")
    for format, word in (("bdd100k", "red"), ("scalabel", "R")):
        write_labels(LabelSet([frame], (), format, "list"), tmp_path / f"{format}.json")
        label = json.loads((tmp_path / f"{format}.json").read_text())[0]["labels"][1]
        assert label["attributes"]["trafficLightColor"] == word
    old = json.loads((tmp_path / "bdd100k.json").read_text())[0]["labels"][0]
    assert (old["id"], old["attributes"]["trafficLightColor"]) == (1, "none")


@pytest.mark.parametrize("indent", [None, 1, 4, "\t"])
@pytest.mark.parametrize("block", [16, 200, 1000, 1 << 20])
def test_stream_gives_the_same_frames_whatever_the_blocks(tmp_path: Path, indent: Any, block: int) -> None:
    from nightaug.data.formats.frame_json import FrameStream

    frames = [{**OLD_FRAME, "name": f"{i:08x}-00000000.jpg", "labels": OLD_LABELS * (i % 3)} for i in range(30)]
    # Text that looks like the beginning of a frame must not be taken for one.
    frames[3] = {**frames[3], "url": '}, {"name": "fake.jpg"}, {"name"'}
    for document in (frames, {"frames": frames, "config": {"categories": [{"name": "car"}]}}):
        path = tmp_path / "labels.json"
        path.write_text(json.dumps(document, indent=indent))
        found = list(FrameStream(path, block=block))
        assert [frame.name for frame in found] == [frame["name"] for frame in frames]
        assert [len(frame.boxes) for frame in found] == [2 * (i % 3) for i in range(30)]


@pytest.mark.parametrize("indent", [None, 4])
def test_a_long_list_is_read_in_pieces(tmp_path: Path, indent: Any) -> None:
    from nightaug.data.formats.frame_json import FrameStream

    path = tmp_path / "labels.json"
    path.write_text(json.dumps([OLD_FRAME] * 400, indent=indent))
    lengths = [len(piece) for piece in FrameStream(path, block=1 << 14).pieces()]
    assert sum(lengths) == 400
    assert max(lengths) < 60  # the memory of one block, not of the file


def test_quick_and_slow_way_give_the_same_frames() -> None:
    import msgspec

    from nightaug.data.formats.raw_frames import FrameConverter, RawFrame

    frames = [OLD_FRAME, DET20_FRAME, AUTO_FRAME, *SHIFT["frames"]]
    quick, slow = FrameConverter(Problems(), "x"), FrameConverter(Problems(), "x")
    typed = quick.typed(msgspec.convert(frames, list[RawFrame]))
    assert typed == slow.loose(frames)
    assert len(typed) == 4
    assert quick.problems.counts == slow.problems.counts
    assert quick.unknown == slow.unknown == {"other vehicle": 1}


def test_iter_labels_equals_read_labels(tmp_path: Path) -> None:
    frames = [{**OLD_FRAME, "name": f"{i:08x}-00000000.jpg"} for i in range(500)]
    path = put(tmp_path, "labels.json", frames)
    problems = Problems()
    assert list(iter_labels(path, problems=problems)) == read_labels(path).frames
    assert problems.counts["label without a box (lane, area, mask)"] == 500


def test_odd_values_cost_only_their_label(tmp_path: Path) -> None:
    box = {"x1": 1, "y1": 2, "x2": 3, "y2": 4}
    labels = [
        {"category": "car", "box2d": box},
        {"category": None, "box2d": box},
        {"category": "car", "box2d": {"x1": "1", "y1": 2, "x2": 3.5, "y2": 4}},
        {"category": "car", "box2d": {"x1": 1, "y1": 2}},
        {"category": "car", "box2d": {**box, "x2": float("nan")}},
        {"category": "car", "box2d": {**box, "y1": float("-inf")}},
        {"category": "car", "box2d": {"x1": 9, "y1": 2, "x2": 3, "y2": 4}},
        {"category": "car", "box2d": box, "attributes": "none", "id": [1]},
        17,
    ]
    sound = {**DET20_FRAME, "name": "sound.jpg"}
    found = read_labels(put(tmp_path, "l.json", [{"name": "x.jpg", "labels": labels}, sound, {"name": 3}]))
    odd, fine = found.frames
    assert [b.xyxy for b in odd.boxes] == [(1, 2, 3, 4), (1, 2, 3.5, 4), (1, 2, 3, 4)]
    assert len(fine.boxes) == 2
    counts = found.problems.counts
    assert counts["label without a category skipped"] == 2
    assert counts["box without four numbers skipped"] == 1
    assert counts["box with NaN, infinite or absurd coordinates"] == 2
    assert counts["box without area or inverted"] == 1
    assert counts["frame without a name skipped"] == 1


def test_one_broken_file_of_a_folder_is_listed_not_fatal(tmp_path: Path) -> None:
    put(tmp_path, "a.json", {"name": "a", "frames": [{"objects": OLD_LABELS}]})
    put(tmp_path, "b.json", '{"name": "b", "frames": [{"obj')
    labels = read_labels(tmp_path)
    assert [frame.name for frame in labels.frames] == ["a.jpg"]
    assert labels.problems.counts["unreadable label file"] == 1
    put(tmp_path, "voc/a.xml", VOC)
    put(tmp_path, "voc/b.xml", VOC[:200])
    assert read_labels(tmp_path / "voc").problems.counts["unreadable label file"] == 1


def test_unknown_format_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bdd100k, scalabel, coco, voc, yolo"):
        read_labels(tmp_path, format="kitti")
