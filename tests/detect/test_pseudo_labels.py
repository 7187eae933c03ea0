from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import picture

from nightaug.cli import main
from nightaug.data.formats import coco, open_dataset
from nightaug.data.frames import Box, Frame
from nightaug.detect import pseudo_found, pseudo_labels
from nightaug.detect.average_precision import match
from nightaug.detect.checkpoint import write_detector
from nightaug.detect.dataset import frame_arrays
from nightaug.detect.detectors import build_detector
from nightaug.detect.inference import Detections
from nightaug.detect.pseudo_found import choose_threshold
from nightaug.detect.pseudo_labels import run_pseudo_label
from nightaug.detect.rcnn_settings import RCNNSettings
from nightaug.detect.settings import DetectorSettings, FCOSSettings
from nightaug.detect.truth import Truth
from nightaug.errors import ConfigError, DatasetError
from nightaug.images import write_image

CAR, BUS = (4.0, 5.0, 30.0, 40.0), (50.0, 10.0, 80.0, 50.0)
#: What the stand-in finds: image -> (box, score, class).
FOUND: dict[str, list[tuple[tuple[float, ...], float, int]]] = {
    "n0.png": [(CAR, 0.9, 0), (BUS, 0.25, 1)],
    "n1.png": [((-3.0, 5.0, 200.0, 40.0), 0.7, 0), ((5.0, 6.0, 31.0, 41.0), 0.3, 1)],
    "n2.png": [(CAR, 0.3, 0)],
}


def _part(root: Path, split: str, names: Sequence[str], boxes: Sequence[Box]) -> None:
    frames = []
    for number, name in enumerate(names):
        write_image(root / split / name, picture(number))
        frames.append(Frame(name, list(boxes), 96, 64, "night"))
    coco.write(frames, root / "annotations" / f"{split}.json", ("car", "bus"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Nights: three of train, whose labels are elsewhere than anything that is found, and two of val."""
    root = tmp_path / "data"
    _part(root, "train", list(FOUND), [Box(60, 40, 70, 50, "bus")])
    _part(root, "val", ["v0.png", "v1.png"], [Box(*CAR, "car"), Box(*BUS, "bus")])  # type: ignore[misc]
    return root


@pytest.fixture
def run(tmp_path: Path) -> Path:
    settings = DetectorSettings(
        detector="fcos-resnet18", width=64, height=64, pretrained="none", fcos=FCOSSettings(channels=32, convs=1)
    )
    detector = build_detector(settings, ("car", "bus"), pretrained=False)
    write_detector(tmp_path / "teacher" / "last.safetensors", detector, settings, 1, "0")
    return tmp_path / "teacher"


class Eyes:
    """Stands in for the detector; knows which images it was asked about, and may be killed at one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.killed_at: str | None = None
        monkeypatch.setattr(pseudo_found, "detect_images", self.detect)
        monkeypatch.setattr(pseudo_labels, "detect_truth", self.judge)

    def detect(self, detector: object, paths: Sequence[Path], **options: Any) -> Iterator[Detections]:
        for path in paths:
            if path.name == self.killed_at:
                raise KeyboardInterrupt
            self.asked.append(path.name)
            boxes, scores, labels = zip(*FOUND[path.name], strict=True)
            yield Detections(np.array(boxes, float), np.array(scores), np.array(labels))

    def judge(self, load: object, truth: Truth, *more: object) -> list[dict[str, Any]]:
        """On val: cars are right from 0.5 on and wrong below, buses always wrong."""
        rows = []
        for image in truth.images:
            x1, y1, x2, y2 = CAR
            for score, shift in ((0.8, 0), (0.5, 0), (0.2, 40)):
                box = [x1 + shift, y1, x2 - x1, y2 - y1]
                rows.append({"image_id": image["id"], "category_id": 1, "bbox": box, "score": score})
            rows.append({"image_id": image["id"], "category_id": 2, "bbox": [0, 0, 5, 5], "score": 0.9})
        return rows


@pytest.fixture
def eyes(monkeypatch: pytest.MonkeyPatch) -> Eyes:
    monkeypatch.setattr(pseudo_found, "LEAST_BOXES", 2)
    monkeypatch.setattr(pseudo_found, "LEAST_FOUND", 1)
    return Eyes(monkeypatch)


def _labels(out: Path) -> dict[str, list[tuple[str, bool]]]:
    return {f.name: [(box.category, box.crowd) for box in f.boxes] for f in open_dataset(out).frames()}


def test_sure_boxes_are_labels_and_unsure_ones_neither_object_nor_background(
    data: Path, run: Path, tmp_path: Path, eyes: Eyes
) -> None:
    lines: list[str] = []
    facts = run_pseudo_label(str(run), str(data), str(tmp_path / "out"), precision=0.5, say=lines.append)
    # Two in four of the cars from 0.5 on are right (one of the two is found twice); no bus ever is.
    assert facts["thresholds"]["car"] == {"score": 0.5, "precision": 0.5, "recall": 1.0}
    assert facts["thresholds"]["bus"] is None
    assert _labels(tmp_path / "out") == {
        "n0.png": [("car", False), ("bus", True)],
        "n1.png": [("car", False), ("bus", True)],
    }
    frames = {frame.name: frame for frame in open_dataset(tmp_path / "out").frames("train", "B")}
    boxes, _, weights = frame_arrays(frames["n1.png"], {"car": 0, "bus": 1})
    assert boxes[0].tolist() == [0, 5, 96, 40], "cut to the image"
    assert weights.tolist() == [1, 0]
    assert (facts["images"], facts["sure"], facts["unsure_boxes"]) == (2, {"car": 2}, 2)
    assert facts["left_out"] == {"nothing sure in it": 1}
    assert "2 of 3 images with 2 labels and 2 unsure boxes; 1 left out: nothing sure in it" in lines
    assert not (tmp_path / "out" / "train" / "n2.png").exists()


def test_one_threshold_uses_no_label_at_all(data: Path, run: Path, tmp_path: Path, eyes: Eyes) -> None:
    for file in (data / "annotations").iterdir():
        file.unlink()
    with pytest.raises(DatasetError, match="give one threshold for all classes with --score"):
        run_pseudo_label(run, data, tmp_path / "out", domain="all")
    facts = run_pseudo_label(run, data, tmp_path / "out", domain="all", score=0.28, unsure=0.5)
    assert facts["chosen_on"] is None
    assert _labels(tmp_path / "out") == {
        "n0.png": [("car", False), ("bus", True)],
        "n1.png": [("car", False), ("bus", False)],
        "n2.png": [("car", False)],
    }


def test_a_killed_run_goes_on_to_the_same_folder(data: Path, run: Path, tmp_path: Path, eyes: Eyes) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_pseudo_label(run, data, whole, precision=0.5)
    eyes.asked.clear()
    eyes.killed_at = "n1.png"
    with pytest.raises(KeyboardInterrupt):
        run_pseudo_label(run, data, out, precision=0.5)
    assert json.loads((out / "pseudo_labels.json").read_text())["finished"] is False
    with open(out / "detections.jsonl", "a") as stream:
        stream.write('{"path": "torn')
    eyes.killed_at = None
    run_pseudo_label(run, data, out, precision=0.5)
    assert eyes.asked == ["n0.png", "n1.png", "n2.png"], "each once"
    for name in ("annotations/train.json", "detections.jsonl", "pseudo_labels.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    write_image(data / "train" / "n2.png", picture(9))
    run_pseudo_label(run, data, out, precision=0.5)
    assert eyes.asked[3:] == ["n2.png"], "another image now"


def test_another_threshold_looks_at_no_image_again(data: Path, run: Path, tmp_path: Path, eyes: Eyes) -> None:
    out = tmp_path / "out"
    run_pseudo_label(run, data, out, score=0.28)
    (out / "train" / "mine.txt").write_text("mine")
    eyes.asked.clear()
    run_pseudo_label(run, data, out, score=0.8)
    assert eyes.asked == []
    assert list(_labels(out)) == ["n0.png"]
    assert sorted(path.name for path in (out / "train").iterdir()) == ["mine.txt", "n0.png"]


def test_where_nothing_is_sure_no_label_of_before_stays(data: Path, run: Path, tmp_path: Path, eyes: Eyes) -> None:
    out = tmp_path / "out"
    run_pseudo_label(run, data, out, score=0.28)
    eyes.asked.clear()
    with pytest.raises(DatasetError, match=r"sure of nothing on these .*the labels of an earlier call are removed"):
        run_pseudo_label(run, data, out, score=0.99)
    assert json.loads((out / "pseudo_labels.json").read_text())["finished"] is False
    assert list((out / "train").iterdir()) == list((out / "annotations").iterdir()) == []
    run_pseudo_label(run, data, out, score=0.28)
    assert eyes.asked == [], "what was found is kept"
    assert len(_labels(out)) == 3


def test_what_it_has_not_made_is_left_alone(data: Path, run: Path, tmp_path: Path, eyes: Eyes) -> None:
    out = tmp_path / "out"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds no pseudo labels"):
        run_pseudo_label(run, data, tmp_path / "full")
    with pytest.raises(ConfigError, match="lies in the input"):
        run_pseudo_label(run, data, data / "out")
    run_pseudo_label(run, data, out, score=0.28)
    with pytest.raises(ConfigError, match="of other images"):
        run_pseudo_label(run, data, out, score=0.28, split="val")
    with pytest.raises(DatasetError, match="sure of nothing on these images"):
        run_pseudo_label(run, data, tmp_path / "none", score=0.99)
    run_pseudo_label(run, data, tmp_path / "dry", score=0.28, dry_run=True)
    assert not (tmp_path / "dry").exists()


def test_why_there_are_no_labels_is_said(
    data: Path, run: Path, tmp_path: Path, eyes: Eyes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pseudo_found, "LEAST_BOXES", 3)
    few = "fewer than 3 labelled boxes in val/B, too few to choose a threshold on: car, bus"
    with pytest.raises(DatasetError, match=rf"thresholds: none; {few}\); lower --precision, or give a --score"):
        run_pseudo_label(run, data, tmp_path / "few")
    with pytest.raises(DatasetError, match=r"bus 0\.99\); lower --score$"):
        run_pseudo_label(run, data, tmp_path / "high", score=0.99)
    lost = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), unreadable=True)
    monkeypatch.setattr(pseudo_found, "detect_images", lambda detector, paths, **options: (lost for _ in paths))
    with pytest.raises(DatasetError, match="none of the 3 images can be read"):
        run_pseudo_label(run, data, tmp_path / "lost", score=0.2)


def test_boxes_without_a_class_are_no_labels(data: Path, tmp_path: Path) -> None:
    settings = DetectorSettings(
        detector="faster-rcnn-resnet18", width=64, height=64, pretrained="none", rcnn=RCNNSettings(class_agnostic=True)
    )
    detector = build_detector(settings, ("object",), pretrained=False)
    write_detector(tmp_path / "proposals" / "last.safetensors", detector, settings, 1, "0")
    with pytest.raises(ConfigError, match="does not name them"):
        run_pseudo_label(tmp_path / "proposals", data, tmp_path / "out", score=0.2)


def test_too_few_to_tell_have_no_threshold(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eyes = Eyes(monkeypatch)
    truth = Truth.from_frames(open_dataset(data).frames("val"), ("car", "bus"))
    cars = match(truth, eyes.judge(None, truth)).per_class[0]
    assert choose_threshold(cars, 0.5) is None, "two boxes"
    monkeypatch.setattr(pseudo_found, "LEAST_BOXES", 2)
    assert choose_threshold(cars, 0.5) is None, "two detections"
    monkeypatch.setattr(pseudo_found, "LEAST_FOUND", 1)
    found = choose_threshold(cars, 0.9)
    assert found is not None
    assert found.score == pytest.approx(0.8)


def test_the_next_detector_is_to_know_what_the_teacher_knows(data: Path, tmp_path: Path, eyes: Eyes) -> None:
    """Of all classes, it would learn those the teacher was not taught as background, and renamed ones twice."""
    settings = DetectorSettings(
        detector="fcos-resnet18", width=64, height=64, pretrained="none", fcos=FCOSSettings(channels=32, convs=1),
        classes=("car", "big one"), rename={"bus": "big one"},
    )  # fmt: skip
    detector = build_detector(settings, ("car", "big one"), pretrained=False)
    write_detector(tmp_path / "last.safetensors", detector, settings, 1, "0")
    lines: list[str] = []
    run_pseudo_label(tmp_path / "last.safetensors", data, tmp_path / "out", score=0.28, say=lines.append)
    assert lines[-1].endswith(':all --rename "bus=big one" --classes "car,big one" --out RUN')


def test_what_is_to_be_done_next_names_day_images_only_where_there_are_labelled_ones(
    data: Path, run: Path, tmp_path: Path, eyes: Eyes
) -> None:
    lines: list[str] = []
    run_pseudo_label(run, data, tmp_path / "first", score=0.28, say=lines.append)
    assert "dataset:train:A" not in lines[-1]
    write_image(data / "train" / "d0.png", picture(9))
    frames = [Frame(name, [], 96, 64, "night") for name in FOUND]
    frames.append(Frame("d0.png", [Box(*CAR, "car")], 96, 64, "daytime"))
    coco.write(frames, data / "annotations" / "train.json", ("car", "bus"))
    run_pseudo_label(run, data, tmp_path / "second", score=0.28, say=lines.append)
    assert "--data dataset:train:A --data" in lines[-1]


def test_the_command(data: Path, run: Path, tmp_path: Path, eyes: Eyes, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["pseudo-label", str(run), str(data), "--out", str(tmp_path / "out"), "--score", "0.28"])
    assert done.value.code == 0
    assert "next: nightaug train-detector" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["pseudo-label", str(run), str(data), "--out", str(tmp_path / "o"), "--split", "tarin"])
    assert "it has no split tarin" in capsys.readouterr().err


def _other(run: Path, classes: tuple[str, ...] = ("bus", "car")) -> Path:
    """A second detector beside the first; its classes stand in another order."""
    facts = DetectorSettings(
        detector="fcos-resnet18", width=64, height=64, pretrained="none", fcos=FCOSSettings(channels=32, convs=1)
    )
    detector = build_detector(facts, classes, pretrained=False)
    write_detector(run.parent / f"other{len(classes)}" / "last.safetensors", detector, facts, 2, "0")
    return run.parent / f"other{len(classes)}"


def test_two_detectors_label_together(data: Path, run: Path, tmp_path: Path, eyes: Eyes) -> None:
    other = _other(run)
    facts = run_pseudo_label(run, data, tmp_path / "out", also=[other], score=0.44)
    # Both see what Eyes sees, but the second calls cars buses: what only one of them is sure of counts half.
    assert eyes.asked == [*FOUND, *FOUND]
    assert _labels(tmp_path / "out")["n0.png"] == [("car", False), ("bus", False)], "of 0.9 each: 0.45"
    found = {
        row["path"].rpartition("/")[2]: row
        for row in map(json.loads, (tmp_path / "out" / "detections.jsonl").read_text().splitlines())
    }
    assert found["n0.png"]["scores"] == [0.9, 0.25]
    assert (tmp_path / "out" / "detections-2.jsonl").is_file()
    assert len(facts["weights_sha256"]) == 2
    assert facts["detector"] == "teacher/last.safetensors, other2/last.safetensors"


def test_labels_of_two_are_made_of_the_boxes_of_both(
    data: Path, run: Path, tmp_path: Path, eyes: Eyes, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = _other(run, ("car", "bus"))
    right = {**FOUND, "n0.png": [((6.0, 5.0, 32.0, 40.0), 0.9, 0)], "n2.png": [(CAR, 0.5, 0)]}

    def detect(detector: object, paths: Sequence[Path], **options: Any) -> Iterator[Detections]:
        eyes.asked += [path.name for path in paths]
        for path in paths:
            boxes, scores, labels = zip(*(FOUND if len(eyes.asked) <= 3 else right)[path.name], strict=True)
            yield Detections(np.array(boxes, float), np.array(scores), np.array(labels))

    monkeypatch.setattr(pseudo_found, "detect_images", detect)
    out = tmp_path / "out"
    run_pseudo_label(run, data, out, also=[other], score=0.35)
    boxes = {frame.name: [(box.xyxy, box.crowd) for box in frame.boxes] for frame in open_dataset(out).frames()}
    assert boxes["n0.png"] == [((5.0, 5.0, 31.0, 40.0), False), ((50.0, 10.0, 80.0, 50.0), True)]
    assert boxes["n2.png"] == [(CAR, False)], "0.3 and 0.5 are 0.4 together"
    # Overwritten by one detector, nothing of the second is left.
    with pytest.raises(ConfigError, match="holds pseudo labels by another detector"):
        run_pseudo_label(run, data, out, score=0.35)
    run_pseudo_label(run, data, out, score=0.35, overwrite=True)
    assert sorted(path.name for path in out.glob("*.jsonl")) == ["detections.jsonl"]


def test_detectors_that_cannot_label_together(data: Path, run: Path, tmp_path: Path, eyes: Eyes) -> None:
    more = _other(run, ("car", "bus", "truck"))
    with pytest.raises(ConfigError, match="cannot label together: only one of them knows truck"):
        run_pseudo_label(run, data, tmp_path / "out", also=[more], score=0.5)
    with pytest.raises(ConfigError, match="is the same detector as one before it"):
        run_pseudo_label(run, data, tmp_path / "out", also=[run], score=0.5)
    assert not (tmp_path / "out").exists()


def test_thresholds_are_not_chosen_on_the_images_that_are_labelled(
    data: Path, run: Path, tmp_path: Path, eyes: Eyes
) -> None:
    for options in ({"split": "val"}, {"choose": "train"}):
        with pytest.raises(ConfigError, match="the images to label are among its own; choose on another split"):
            run_pseudo_label(run, data, tmp_path / "out", dry_run=True, **options)
    run_pseudo_label(run, data, tmp_path / "out", split="val", score=0.5, dry_run=True)  # asks no label


def test_from_another_working_folder_no_image_is_looked_at_again(
    data: Path, run: Path, tmp_path: Path, eyes: Eyes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_pseudo_label("teacher", "data", "out", score=0.5)
    asked = list(eyes.asked)
    monkeypatch.chdir(data)
    run_pseudo_label(run, data, tmp_path / "out", score=0.6)
    run_pseudo_label("../teacher", "../data", "../out", score=0.5)
    assert eyes.asked == asked
