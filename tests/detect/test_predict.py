"""nightaug predict: what a user finds in the folder, also after stops, damage and strange names."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from street import TINY
from torch import Tensor

from nightaug.config import build
from nightaug.data.frames import Frame
from nightaug.detect import predict, predict_steps
from nightaug.detect.checkpoint import load_detector, write_detector
from nightaug.detect.detectors import Detector, Forward, Found, Target, build_detector
from nightaug.detect.inference import detect_frames, detect_images
from nightaug.detect.predict import PredictResult, run_predict
from nightaug.detect.settings import DetectorSettings
from nightaug.detect.truth import Truth
from nightaug.detect.video import VideoReader, VideoWriter
from nightaug.errors import CheckpointError, ConfigError, DatasetError, NightaugError
from nightaug.images import image_size, read_image, write_image

CLASSES = ("car", "traffic light", "pedestrian")
BLOCK = (30.0, 20.0, 60.0, 40.0)  # the bright car in every picture, xyxy


class BlockDetector(Detector):
    """Finds the red block of a picture: a car, and less sure a traffic light in its upper left corner."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.classes, self.width, self.height = "blocks", CLASSES, 192, 128
        self.seen = 0
        self.on_batch: Callable[[int], None] = lambda seen: None

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Forward:
        self.seen += len(images)
        self.on_batch(self.seen)
        return Forward({}, [], {"images": images})

    def found(self, forward: Forward) -> list[Found]:
        result = []
        for image in forward.outputs["images"]:
            red = (image[0] > 160) & (image[1] < 90)
            rows, columns = red.any(1).nonzero().flatten(), red.any(0).nonzero().flatten()
            if len(rows) == 0:
                result.append(Found(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long)))
                continue
            box = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
            small = torch.cat([box[:2], box[:2] + 4])
            result.append(Found(torch.stack([box, small]), torch.tensor([0.9, 0.1]), torch.tensor([0, 1])))
        return result


def scene(seed: int = 0) -> np.ndarray:
    """A grey picture of 96 x 64 with the block."""
    image = np.full((64, 96, 3), 90 + seed % 50, np.uint8)
    image[20:40, 30:60] = (220, 30, 30)
    return image


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a tiny random FCOS."""
    settings = build(DetectorSettings, TINY)
    folder = tmp_path_factory.mktemp("run")
    write_detector(folder / "last.safetensors", build_detector(settings, CLASSES, False), settings, 1, "0.1.0")
    return folder


@pytest.fixture
def eyes(monkeypatch: pytest.MonkeyPatch) -> BlockDetector:
    """The detector that every call gets, in place of the run's own."""
    detector = BlockDetector()
    monkeypatch.setattr(predict, "load_detector", lambda path, device: detector)
    return detector


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(("b.png", "a/one.jpg", "a/two.webp")):
        write_image(tmp_path / "photos" / name, scene(number))
    return tmp_path / "photos"


def call(run: Path, source: Path, out: Path, **options: Any) -> PredictResult:
    result = run_predict(run, source, out, device="cpu", precision="fp32", **options)
    assert result is not None
    return result


def results(out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return json.loads((out / "images.json").read_text())["images"], json.loads((out / "detections.json").read_text())


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# -- what is written -------------------------------------------------------------------------------------------------


def test_a_folder_of_images(run: Path, photos: Path, tmp_path: Path, eyes: BlockDetector) -> None:
    out, lines = tmp_path / "out", []
    result = call(run, photos, out, say=lines.append, batch=2)
    assert (result.written, result.present, result.failed, result.stopped) == (3, 0, {}, False)
    assert (result.detections, result.shown) == (6, 3)
    images, rows = results(out)
    assert [(row["id"], row["file_name"]) for row in images] == [(1, "a/one.jpg"), (2, "a/two.webp"), (3, "b.png")]
    assert all((row["width"], row["height"]) == (96, 64) for row in images)
    for number in (1, 2, 3):
        car, light = (row for row in rows if row["image_id"] == number)
        assert (car["category_id"], light["category_id"]) == (1, 2)
        x, y, width, height = car["bbox"]
        assert np.allclose([x, y, x + width, y + height], BLOCK, atol=1.5)  # found at twice the size, told at its own
        assert car["score"] == pytest.approx(0.9)
    for name in ("a/one.jpg", "a/two.webp", "b.png"):
        assert image_size(out / "images" / name) == (96, 64)
        drawn = read_image(out / "images" / name).astype(int)
        assert abs(drawn - read_image(photos / name)).max() > 60
    # Only what is sure enough is shown: the light is not.
    (line,) = (out / "labels" / "a" / "one.txt").read_text().splitlines()
    number, *values = line.split()
    assert number == "0"
    assert np.allclose([float(v) for v in values], [45 / 96, 30 / 64, 30 / 96, 20 / 64, 0.9], atol=0.02)
    assert (out / "labels" / "classes.txt").read_text().splitlines() == list(CLASSES)
    assert Truth.read(out / "images.json").classes == CLASSES
    assert "3 images done" in lines[-1]
    assert "6 detections (3 of 0.25 or more)" in lines[-1]


def test_the_same_detections_as_in_evaluation(run: Path, photos: Path, tmp_path: Path) -> None:
    call(run, photos, tmp_path / "out", batch=3)
    _, rows = results(tmp_path / "out")
    names = ["a/one.jpg", "a/two.webp", "b.png"]
    truth = Truth.from_frames([Frame(name, path=photos / name) for name in names], CLASSES)
    expected = detect_frames(load_detector(run), truth, batch=3, precision="fp32")
    assert len(rows) == len(expected) > 20
    for row, other in zip(rows, expected, strict=True):
        assert (row["image_id"], row["category_id"]) == (other["image_id"], other["category_id"])
        assert np.allclose([*row["bbox"], row["score"]], [*other["bbox"], other["score"]], atol=2e-3)


def test_paths_may_be_text(run: Path, photos: Path, tmp_path: Path) -> None:
    result = run_predict(str(run), str(photos), str(tmp_path / "out"), device="cpu", precision="fp32")
    assert result is not None
    assert result.written == 3
    (found,) = detect_images(load_detector(str(run)), [str(photos / "b.png")], precision="fp32")
    assert found.boxes.shape[1] == 4


def test_score_classes_and_formats(run: Path, photos: Path, tmp_path: Path, eyes: BlockDetector) -> None:
    low = tmp_path / "low"
    call(run, photos, low, score=0.05)
    assert len((low / "labels" / "b.txt").read_text().splitlines()) == 2
    lights = tmp_path / "lights"
    assert call(run, photos, lights, score=0.05, classes=["Traffic_Light"], formats=["coco"]).detections == 3
    assert {row["category_id"] for row in results(lights)[1]} == {2}
    assert not (lights / "labels").exists()
    plain = tmp_path / "plain"
    call(run, photos, plain, draw=False, formats=["yolo"])
    assert not (plain / "images").exists()
    assert not (plain / "detections.json").exists()
    assert (plain / "labels" / "b.txt").read_text()


def test_nothing_found_is_an_empty_file(run: Path, tmp_path: Path, eyes: BlockDetector) -> None:
    write_image(tmp_path / "grey.png", np.full((40, 50, 3), 90, np.uint8))
    call(run, tmp_path / "grey.png", tmp_path / "out")
    assert (tmp_path / "out" / "labels" / "grey.txt").read_bytes() == b""
    assert len(results(tmp_path / "out")[0]) == 1
    assert (read_image(tmp_path / "out" / "images" / "grey.png") == 90).all()


def test_a_prepared_dataset(run: Path, streets: Path, tmp_path: Path, eyes: BlockDetector) -> None:
    result = call(run, streets, tmp_path / "out")
    there = sorted(str(p.relative_to(streets)) for p in streets.rglob("*.png"))
    assert result.written == len(there) > 10
    assert [row["file_name"] for row in results(tmp_path / "out")[0]] == there
    assert all((tmp_path / "out" / "images" / name).exists() for name in there)


def test_large_images_are_read_again_for_drawing(
    run: Path, photos: Path, tmp_path: Path, eyes: BlockDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(run, photos, tmp_path / "kept")
    monkeypatch.setattr(predict_steps, "_KEPT_PIXELS", 10)
    call(run, photos, tmp_path / "again")
    assert tree(tmp_path / "kept" / "images") == tree(tmp_path / "again" / "images")


def test_odd_files(run: Path, tmp_path: Path, eyes: BlockDetector) -> None:
    """Turned, CMYK, 16-bit, grey and formats that are drawn as another one."""
    source = tmp_path / "odd"
    source.mkdir()
    image = Image.fromarray(scene())
    exif = Image.Exif()
    exif[274] = 6  # shown turned clockwise by a quarter
    image.rotate(90, expand=True).save(source / "turned.jpg", exif=exif.tobytes(), quality=98)
    image.convert("CMYK").save(source / "cmyk.jpg", quality=98)
    image.save(source / "plain.bmp")
    image.save(source / "plain.tif")
    Image.fromarray(np.full((30, 40), 30000, np.uint16)).save(source / "deep.png")
    assert call(run, source, tmp_path / "out").failed == {}
    images, rows = results(tmp_path / "out")
    assert [row["file_name"] for row in images] == ["cmyk.jpg", "deep.png", "plain.bmp", "plain.tif", "turned.jpg"]
    for number in (1, 3, 4, 5):
        assert (images[number - 1]["width"], images[number - 1]["height"]) == (96, 64)
        x, y, width, height = next(row["bbox"] for row in rows if row["image_id"] == number)
        assert np.allclose([x, y, x + width, y + height], BLOCK, atol=2)
    names = sorted(p.name for p in (tmp_path / "out" / "images").iterdir())
    assert names == ["cmyk.jpg", "deep.png", "plain.jpg", "plain_tif.jpg", "turned.jpg"]
    assert sorted(p.name for p in (tmp_path / "out" / "labels").iterdir() if "plain" in p.name) == [
        "plain.txt", "plain_tif.txt",
    ]  # fmt: skip


# -- going on --------------------------------------------------------------------------------------------------------


def test_again_does_only_what_is_new(run: Path, photos: Path, tmp_path: Path, eyes: BlockDetector) -> None:
    out = tmp_path / "out"
    call(run, photos, out)
    before = tree(out)
    assert call(run, photos, out).present == 3
    assert eyes.seen == 3
    assert tree(out) == before
    write_image(photos / "a" / "new.png", scene(7))  # sorts between the others: numbers move
    write_image(photos / "b.png", np.full((30, 30, 3), 90, np.uint8))
    (out / "images" / "a" / "one.jpg").unlink()
    result = call(run, photos, out)
    assert (result.written, result.present) == (3, 1)
    assert eyes.seen == 5  # the missing picture is drawn from what is known
    images, rows = results(out)
    assert [row["file_name"] for row in images] == ["a/new.png", "a/one.jpg", "a/two.webp", "b.png"]
    assert sorted({row["image_id"] for row in rows}) == [1, 2, 3]
    assert tree(out)["images/a/one.jpg"] == before["images/a/one.jpg"]


def test_images_that_are_gone_leave_nothing_behind(
    run: Path, photos: Path, tmp_path: Path, eyes: BlockDetector
) -> None:
    out, lines = tmp_path / "out", list[str]()
    write_image(photos / "b.jpg", scene(5))  # takes labels/b.txt, and b.png another name
    call(run, photos, out)
    (photos / "b.jpg").unlink()
    (photos / "a" / "one.jpg").unlink()
    (out / "labels" / "a" / "notes.txt").write_text("somebody's own")
    former = tree(out)
    assert call(run, photos, out, limit=1, say=lines.append).gone == 0  # the others may be there still
    assert former.keys() == tree(out).keys()
    assert not any("no longer" in line for line in lines)
    assert call(run, photos, out, say=lines.append).gone == 2
    assert "no longer in the input: 2 images, whose files were removed" in lines
    call(run, photos, tmp_path / "fresh")
    for part in ("images", "labels"):
        assert tree(out / part).keys() - {"a/notes.txt"} == tree(tmp_path / "fresh" / part).keys()
    assert (out / "labels" / "a" / "notes.txt").exists()
    assert results(out) == results(tmp_path / "fresh")
    # What was forgotten is nobody's any more: a file of that name is not ours.
    (out / "labels" / "a" / "one.txt").write_text("corrected by hand")
    write_image(photos / "new.png", scene(9))
    again = call(run, photos, out)
    assert (again.gone, again.written, again.present) == (0, 1, 2)
    assert (out / "labels" / "a" / "one.txt").exists()
    assert len((out / "predictions.jsonl").read_bytes().splitlines()) == 3


def test_another_threshold_draws_anew_without_the_detector(
    run: Path, photos: Path, tmp_path: Path, eyes: BlockDetector
) -> None:
    call(run, photos, tmp_path / "out")
    call(run, photos, tmp_path / "out", score=0.05, draw=False)
    assert eyes.seen == 3
    assert len((tmp_path / "out" / "labels" / "b.txt").read_text().splitlines()) == 2
    assert not (tmp_path / "out" / "images").exists()  # pictures that nobody wants any more say something else
    call(run, photos, tmp_path / "out", score=0.05)
    call(run, photos, tmp_path / "fresh", score=0.05)
    for part in ("images", "labels"):
        assert tree(tmp_path / "out" / part) == tree(tmp_path / "fresh" / part)


def test_ctrl_c_keeps_what_is_done(run: Path, tmp_path: Path, eyes: BlockDetector) -> None:
    for number in range(12):
        write_image(tmp_path / "in" / f"{number:02d}.png", scene(number))
    eyes.on_batch = lambda seen: os.kill(os.getpid(), signal.SIGINT) if seen == 4 else None
    out, lines = tmp_path / "out", []
    first = call(run, tmp_path / "in", out, batch=2, workers=1, say=lines.append)
    assert first.stopped
    assert 4 <= first.written < 12
    assert "run the same command again" in lines[-1]
    assert len(results(out)[0]) == first.written  # what is there can be used
    assert not json.loads((out / "predict.json").read_text())["finished"]
    eyes.on_batch = lambda seen: None
    second = call(run, tmp_path / "in", out, batch=2, workers=1)
    assert (second.present, second.written, second.stopped) == (first.written, 12 - first.written, False)
    assert eyes.seen == 12
    call(run, tmp_path / "in", tmp_path / "whole", batch=2)
    parts = ("images.json", "detections.json", "labels/05.txt", "images/05.png")
    assert all((out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in parts)


def test_a_torn_row_is_made_again(run: Path, photos: Path, tmp_path: Path, eyes: BlockDetector) -> None:
    out = tmp_path / "out"
    call(run, photos, out)
    before = results(out)
    path = out / "predictions.jsonl"
    path.write_bytes(b'\x00garbage\n{"name": 3}\n' + path.read_bytes()[:-20])
    assert call(run, photos, out).written == 1
    assert results(out) == before


def test_a_full_disk_is_said_and_gone_on_from(
    run: Path, photos: Path, tmp_path: Path, eyes: BlockDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        if path.name == "two.webp":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    write = predict_steps.atomic_write_bytes
    monkeypatch.setattr(predict_steps, "atomic_write_bytes", full)
    with pytest.raises(NightaugError, match="the disk is full; what is done is kept"):
        call(run, photos, tmp_path / "out", batch=1, workers=1)
    monkeypatch.setattr(predict_steps, "atomic_write_bytes", write)
    assert call(run, photos, tmp_path / "out").present == 1


# -- whose folder ----------------------------------------------------------------------------------------------------


def test_other_weights_or_input_are_refused(run: Path, photos: Path, tmp_path: Path, eyes: BlockDetector) -> None:
    out = tmp_path / "out"
    call(run, photos, out)
    settings = build(DetectorSettings, TINY | {"seed": 4})
    other = tmp_path / "other.safetensors"
    write_detector(other, build_detector(settings, CLASSES, False), settings, 1, "0.1.0")
    before = tree(out)
    with pytest.raises(ConfigError, match=r"another detector .*--overwrite"):
        call(other, photos, out)
    with pytest.raises(ConfigError, match=r"another input .*--overwrite"):
        call(run, photos / "b.png", out)
    assert tree(out) == before
    (out / "mine.txt").write_text("stays")
    call(other, photos / "b.png", out, overwrite=True)
    assert sorted(p.name for p in (out / "images").rglob("*")) == ["b.png"]
    assert len(results(out)[0]) == 1
    assert (out / "mine.txt").read_text() == "stays"


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_of_others_is_written_over(
    run: Path, photos: Path, tmp_path: Path, eyes: BlockDetector, overwrite: bool
) -> None:
    used = tmp_path / "used"
    write_image(used / "images" / "x.png", scene())
    (tmp_path / "file").touch()
    before = tree(tmp_path)
    for source, out, message in (
        (photos, used, "holds no predictions"),
        (photos, photos, "lies in the input"),
        (photos, photos / "deep" / "out", "lies in the input"),
        (photos, tmp_path, "lies around"),
        (used / "images" / "x.png", used, "lies around"),
        (photos, tmp_path / "file", "is a file"),
    ):
        with pytest.raises(ConfigError, match=message):
            call(run, source, out, overwrite=overwrite)
    assert tree(tmp_path) == before
    assert eyes.seen == 0


def test_links_do_not_lead_out_of_the_folder(run: Path, photos: Path, tmp_path: Path, eyes: BlockDetector) -> None:
    out = tmp_path / "out"
    call(run, photos, out, draw=False)
    (tmp_path / "elsewhere").mkdir()
    (out / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="leads out"):
        call(run, photos, out)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_folder_in_use_is_refused(run: Path, photos: Path, tmp_path: Path, eyes: BlockDetector) -> None:
    with predict.lock_folder(tmp_path / "out"), pytest.raises(ConfigError, match="in use"):
        call(run, photos, tmp_path / "out")


# -- what can be wrong -----------------------------------------------------------------------------------------------


def test_unreadable_images_are_named_and_the_rest_finished(
    run: Path, photos: Path, tmp_path: Path, eyes: BlockDetector
) -> None:
    (photos / "a" / "ruined.jpg").write_bytes((photos / "a" / "one.jpg").read_bytes()[:300])
    (photos / "empty.png").touch()
    lines: list[str] = []
    result = call(run, photos, tmp_path / "out", say=lines.append, batch=2)
    assert sorted(result.failed) == ["a/ruined.jpg", "empty.png"]
    assert result.written == 3
    assert any("skipped a/ruined.jpg: " in line for line in lines)
    assert [row["id"] for row in results(tmp_path / "out")[0]] == [1, 3, 4]  # numbers are places in the sorted list
    assert sorted(json.loads((tmp_path / "out" / "predict.json").read_text())["skipped"]) == sorted(result.failed)
    write_image(photos / "empty.png", scene())
    assert call(run, photos, tmp_path / "out").written == 1


def test_strange_names(run: Path, tmp_path: Path, eyes: BlockDetector) -> None:
    source = tmp_path / "in"
    names = [
        "line\nbreak.png",
        "classes.png",
        "same.png",
        "same.jpg",
        "sp ace/x..png",
        "ü%s{}.png",
        "x" * 240 + ".jpg",
    ]
    for name in names:
        write_image(source / name, scene())
    (source / "loop").symlink_to(source)
    (source / "self.png").symlink_to(source / "self.png")
    bad = os.fsencode(source) + b"/not-utf8-\xff.png"
    with open(bad, "wb") as stream:
        stream.write((source / "same.png").read_bytes())
    lines: list[str] = []
    result = call(run, source, tmp_path / "out", say=lines.append)
    assert result.written == len(names)
    assert result.failed == {}
    assert "not UTF-8" in lines[0]
    assert not any("\n" in line for line in lines)
    images, _ = results(tmp_path / "out")
    assert sorted(row["file_name"] for row in images) == sorted(names)
    labels = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out" / "labels").rglob("*.txt")}
    assert len(labels) == len(names) + 1
    assert (tmp_path / "out" / "labels" / "classes.txt").read_text().splitlines() == list(CLASSES)
    assert call(run, source, tmp_path / "out").present == len(names)


def test_label_files_do_not_lead_out_of_the_input(run: Path, tmp_path: Path, eyes: BlockDetector) -> None:
    write_image(tmp_path / "secret.png", scene())
    write_image(tmp_path / "in" / "ok.png", scene())
    rows = [{"name": "../secret.png", "labels": []}, {"name": str(tmp_path / "secret.png"), "labels": []}]
    (tmp_path / "in" / "labels.json").write_text(json.dumps(rows))
    assert call(run, tmp_path / "in", tmp_path / "out").written == 1
    (tmp_path / "in" / "labels.json").write_text("{ no json")
    assert call(run, tmp_path / "in", tmp_path / "out").present == 1


def test_mistakes_are_one_line(run: Path, photos: Path, tmp_path: Path) -> None:
    empty, clips = tmp_path / "empty", tmp_path / "clips"
    empty.mkdir()
    clip(clips / "a.avi", 2)
    (tmp_path / "notes.txt").write_text("hello")
    cases: list[tuple[type[NightaugError], str, Path, Path, dict[str, Any]]] = [
        (DatasetError, "no images", run, empty, {}),
        (DatasetError, "1 videos; give one video a call", run, clips, {}),
        (DatasetError, "no such file", run, tmp_path / "none", {}),
        (DatasetError, "notes.txt", run, tmp_path / "notes.txt", {}),
        (DatasetError, "no such file", run, tmp_path / "none.mp4", {}),
        (CheckpointError, "is it a train-detector run", tmp_path / "empty", photos, {}),
        (CheckpointError, "no such file", tmp_path / "none", photos, {}),
        (ConfigError, "knows no 'tram'; it knows car", run, photos, {"classes": ["car", "tram"]}),
        (ConfigError, "nothing to do", run, photos, {"draw": False, "formats": []}),
        (ConfigError, "expected any of coco, yolo", run, photos, {"formats": ["voc"]}),
        (ConfigError, "--precision fp64: expected one of auto", run, photos, {"precision": "fp64"}),
        (ConfigError, "from 0 to 1", run, photos, {"score": 25.0}),
        (ConfigError, "1 or more", run, photos, {"batch": 0}),
        (ConfigError, "cannot be used here", run, photos, {"device": "warp"}),
    ]
    for kind, message, detector, source, options in cases:
        with pytest.raises(kind, match=message) as error:
            run_predict(detector, source, tmp_path / "out", **{"device": "cpu", **options})
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(run: Path, photos: Path, tmp_path: Path, eyes: BlockDetector) -> None:
    lines: list[str] = []
    assert run_predict(run, photos, tmp_path / "out", dry_run=True, limit=2, say=lines.append) is None
    assert "2 images (left out: 1 over the limit)" in lines[0]
    assert not (tmp_path / "out").exists()
    assert eyes.seen == 0


# -- video -----------------------------------------------------------------------------------------------------------


def clip(path: Path, frames: int = 11, rate: float = 12.5) -> Path:
    """A video in which the block walks two pixels to the right with every frame."""
    made = VideoWriter(path.with_name("clip.part.mp4"), 96, 64, rate)
    for at in range(frames):
        image = np.full((64, 96, 3), 90, np.uint8)
        image[20:40, 10 + 2 * at : 40 + 2 * at] = (220, 30, 30)
        made.write(image)
    made.finish()
    os.replace(made.path, path)
    return path


def test_a_video(run: Path, tmp_path: Path, eyes: BlockDetector) -> None:
    source, out, lines = clip(tmp_path / "drive.avi"), tmp_path / "out", []
    result = call(run, source, out, batch=4, say=lines.append)
    assert (result.written, result.detections, result.shown, result.stopped) == (11, 22, 11, False)
    assert result.video == out / "drive.mp4"
    assert "11 frames of 96x64 at 12.5 frames a second" in lines[0]
    images, rows = results(out)
    assert [row["file_name"] for row in images[:2]] == ["drive_000001", "drive_000002"]
    assert [(row["frame"], row["time"], row["video"]) for row in images[:2]] == [
        (0, 0.0, "drive.avi"),
        (1, 0.08, "drive.avi"),
    ]
    cars = [row["bbox"] for row in rows if row["category_id"] == 1]
    assert np.allclose([box[0] for box in cars], 10 + 2 * np.arange(11), atol=2.5)
    assert len(list((out / "labels").glob("drive_*.txt"))) == 11
    with VideoReader(out / "drive.mp4") as drawn, VideoReader(source) as original:
        assert (drawn.width, drawn.height, drawn.rate) == (96, 64, 12.5)
        pairs = list(zip(drawn, original, strict=True))
        assert len(pairs) == 11
        assert all(np.abs(a.astype(int) - b).max() > 60 for a, b in pairs)
    before = tree(out)
    assert call(run, source, out, batch=4).present == 11
    assert eyes.seen == 11
    assert tree(out) == before


def test_a_stopped_video_goes_on(run: Path, tmp_path: Path, eyes: BlockDetector) -> None:
    source, out = clip(tmp_path / "drive.mp4", 20), tmp_path / "out"
    eyes.on_batch = lambda seen: os.kill(os.getpid(), signal.SIGINT) if seen == 6 else None
    first = call(run, source, out, batch=3)
    assert first.stopped
    assert 3 <= first.written < 20
    with VideoReader(out / "drive.mp4") as drawn:  # what is done can be watched
        assert sum(1 for _ in drawn) == first.written
    assert len(results(out)[0]) == first.written
    eyes.on_batch = lambda seen: None
    before = eyes.seen
    second = call(run, source, out, batch=3)
    assert (second.written, second.stopped) == (20, False)
    assert eyes.seen - before <= 20 - first.written  # known frames are only drawn
    call(run, source, tmp_path / "whole", batch=3)
    for name in ("images.json", "detections.json", "labels/drive_000019.txt"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with VideoReader(out / "drive.mp4") as drawn, VideoReader(tmp_path / "whole" / "drive.mp4") as whole:
        assert all((a == b).all() for a, b in zip(drawn, whole, strict=True))


@pytest.mark.parametrize("at", [1, 20])
def test_a_stop_in_the_first_or_last_batch(run: Path, tmp_path: Path, eyes: BlockDetector, at: int) -> None:
    source, out = clip(tmp_path / "drive.mp4", 20), tmp_path / "out"
    eyes.on_batch = lambda seen: os.kill(os.getpid(), signal.SIGINT) if seen == at else None
    first = call(run, source, out, batch=1)
    eyes.on_batch = lambda seen: None
    second = call(run, source, out, batch=1)
    assert first.stopped
    assert not second.stopped
    assert len(results(out)[0]) == 20
    with VideoReader(out / "drive.mp4") as drawn:
        assert sum(1 for _ in drawn) == 20
    assert not list(out.glob(".video*"))


def test_a_video_without_pictures_and_with_a_limit(run: Path, tmp_path: Path, eyes: BlockDetector) -> None:
    source, out = clip(tmp_path / "drive.mp4"), tmp_path / "out"
    assert call(run, source, out, limit=5, batch=3).written == 5
    assert call(run, source, out, limit=5, batch=3).present == 5
    assert call(run, source, out, draw=False, batch=3).written == 11
    assert not (out / "drive.mp4").exists()
    assert eyes.seen == 11
    with pytest.raises(ConfigError, match="lies around"):
        call(run, source, tmp_path)


@pytest.mark.parametrize("count", [0, 3, 1000])
def test_a_video_that_lies_about_its_length(
    run: Path, tmp_path: Path, eyes: BlockDetector, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    class Liar(VideoReader):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.count = count

    monkeypatch.setattr(predict, "VideoReader", Liar)
    lines: list[str] = []
    assert call(run, clip(tmp_path / "drive.mp4"), tmp_path / "out", batch=2, say=lines.append).written == 11
    assert any("11 frames could be read, the file says 1,000" in line for line in lines) == (count == 1000)
    assert json.loads((tmp_path / "out" / "predict.json").read_text())["finished"]


def test_a_torn_video_is_one_line_and_leaves_nothing(run: Path, tmp_path: Path, eyes: BlockDetector) -> None:
    whole = clip(tmp_path / "drive.mp4").read_bytes()
    (tmp_path / "drive.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="no frame can be decoded"):
        call(run, tmp_path / "drive.mp4", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_more_than_a_few_frames_are_in_memory(run: Path, tmp_path: Path, eyes: BlockDetector) -> None:
    source = clip(tmp_path / "drive.mp4", 60)
    ahead: list[int] = []

    class Watched(VideoReader):
        def read(self) -> Any:
            ahead.append(self.done - eyes.seen)
            return super().read()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "VideoReader", Watched)
        call(run, source, tmp_path / "out", batch=4)
    assert max(ahead) <= 8
