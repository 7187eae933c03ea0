from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import picture, scalabel

from nightaug.data.formats import open_dataset
from nightaug.errors import ConfigError, NightaugError
from nightaug.images import ImageArray, image_description, read_image, write_image
from nightaug.translate import output, pipeline
from nightaug.translate.pipeline import Options, Outcome, translate
from nightaug.translate.plan import Item, make_plan, read_manifest
from nightaug.translate.translators import Translator


def darker(sha: str | None = None, concurrent: bool = False, name: str = "darker") -> Translator:
    return Translator(name, "day2night", sha, concurrent, lambda image, boxes, seed: (image // 3).astype(np.uint8))


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


@pytest.mark.parametrize("concurrent", [False, True])
def test_images_labels_and_manifest(tmp_path: Path, concurrent: bool) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime", "night", "daytime"], "png"), tmp_path / "out"
    result = translate(make_plan(root, "day2night"), darker(concurrent=concurrent), out)
    assert (result.written, result.present, result.failed, result.stopped) == (2, 0, {}, False)
    name = "images/100k/train/0002-a.png"
    assert np.array_equal(read_image(out / name), read_image(root / name) // 3)
    assert "synthetic night image, made by nightaug" in (image_description(out / name) or "")
    rows = list(read_manifest(out))
    assert [row.source for row in rows] == ["images/100k/train/0000-a.png", name]
    assert rows[1].source_timeofday == "daytime"
    # The translated folder is itself a dataset, in the source's format, with the same boxes, at night.
    frames = open_dataset(out).frames()
    before = [f for f in open_dataset(root).frames() if f.timeofday == "daytime"]
    assert [f.timeofday for f in frames] == ["night", "night"]
    assert [[b.xyxy for b in f.boxes] for f in frames] == [[b.xyxy for b in f.boxes] for f in before]
    assert frames[0].boxes[0].occluded is True
    assert (frames[0].weather, frames[0].scene) == ("clear", "highway")
    assert all(f.path is not None for f in frames)


def test_another_image_format_renames_the_labels(tmp_path: Path) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime"], "png"), tmp_path / "out"
    translate(make_plan(root, "day2night", "webp"), darker(), out)
    (frame,) = open_dataset(out).frames()
    assert frame.name == "0000-a.webp"
    assert frame.path is not None
    assert frame.path.exists()


@pytest.mark.parametrize("format", ["yolo", "coco", "voc", "bdd100k"])
def test_every_label_format_stays_true(tmp_path: Path, format: str) -> None:
    from nightaug.data.formats import write_labels

    root, out = scalabel(tmp_path / "a", ["daytime", "daytime"]), tmp_path / "out"
    dataset = open_dataset(root)
    other = tmp_path / "other"
    (other / "images").mkdir(parents=True)
    for frame in dataset.frames():
        assert frame.path is not None
        os.link(frame.path, other / "images" / frame.name)
        frame.width, frame.height = 96, 64
    place = {"yolo": "labels", "voc": "Annotations"}.get(format, "annotations.json")
    write_labels(dataset.parts[0].labels, other / place, format=format)
    before = open_dataset(other).frames()
    translate(make_plan(other, "day2night"), darker(), out)
    after = open_dataset(out).frames()
    assert len(after) == 2
    for old, new in zip(before, after, strict=True):
        assert [(b.category, b.xyxy) for b in old.boxes] == [(b.category, b.xyxy) for b in new.boxes]
        assert len(new.boxes) == 1
        if format != "yolo":  # YOLO has no word for the time of day
            assert new.timeofday == "night"


def yolo_set(root: Path, *folders: tuple[str, str]) -> Path:
    """An image with two boxes in each folder of images, its labels in the folder beside it in the list."""
    for images, labels in folders:
        write_image(root / images / "a.jpg", picture(1))
        (root / labels).mkdir(parents=True, exist_ok=True)
        (root / labels / "a.txt").write_text("2 0.5 0.5 0.25 0.5\n1 0.25 0.5 0.125 0.25\n")
    (root / "data.yaml").write_text("names: [pedestrian, person, Car]\n")
    return root


@pytest.mark.parametrize(
    "folders",
    [
        {"train": ("images/train", "labels/train"), "val": ("images/val", "labels/val")},
        {"train": ("train/images", "train/labels"), "val": ("valid/images", "valid/labels")},
        {"train": ("train", "train"), "val": ("val", "val"), "test": ("test", "test")},
    ],
    ids=["images/train", "train/images", "beside"],
)
def test_a_yolo_set_can_be_given_to_ultralytics(tmp_path: Path, folders: dict[str, tuple[str, str]]) -> None:
    root, out = yolo_set(tmp_path / "in", *folders.values()), tmp_path / "out"
    translate(make_plan(root, "day2night"), darker(), out)
    said = yaml.safe_load((out / "dataset.yaml").read_text())
    assert said.pop("names") == {0: "pedestrian", 1: "person", 2: "Car"}
    assert said == {split: [images] for split, (images, _) in folders.items()}
    for images, labels in folders.values():
        assert (out / images / "a.jpg").is_file()
        assert (out / labels / "a.txt").read_text() == (root / labels / "a.txt").read_text()


def test_a_yolo_set_without_val_says_so(tmp_path: Path) -> None:
    root = yolo_set(tmp_path / "in", ("images/train", "labels/train"), ("images/val", "labels/val"))
    translate(make_plan(root, "day2night", split="train"), darker(), tmp_path / "out")
    text = (tmp_path / "out" / "dataset.yaml").read_text()
    assert yaml.safe_load(text)["train"] == ["images/train"]
    assert "No val was translated" in text
    flat = yolo_set(tmp_path / "flat", ("images", "labels"))
    translate(make_plan(flat, "day2night"), darker(), tmp_path / "out2")
    assert yaml.safe_load((tmp_path / "out2" / "dataset.yaml").read_text())["train"] == ["images"]


def test_no_yaml_that_would_not_be_true(tmp_path: Path) -> None:
    translate(make_plan(scalabel(tmp_path / "s", ["daytime"]), "day2night"), darker(), tmp_path / "o1")
    strange = yolo_set(tmp_path / "strange", ("pictures", "text"))
    translate(make_plan(strange, "day2night"), darker(), tmp_path / "o2")
    assert (tmp_path / "o2" / "text" / "classes.txt").is_file()
    other = yolo_set(tmp_path / "other", ("images/train", "labels/train"), ("images/val", "labels/val"))
    (other / "labels" / "val" / "classes.txt").write_text("Car\nperson\npedestrian\n")
    translate(make_plan(other, "day2night"), darker(), tmp_path / "o3")
    assert not list(tmp_path.glob("o*/dataset.yaml"))


def test_prepared_datasets_become_night_domains(tmp_path: Path) -> None:
    from nightaug.data.domains import prepare

    root = scalabel(tmp_path / "in", ["daytime", "night"] * 4)
    prepare(root, out=tmp_path / "ab", check_brightness=False)
    translate(make_plan(tmp_path / "ab", "day2night"), darker(), tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.prepared
    assert {part.domain for part in dataset.parts} == {"B"}
    assert sum(len(part.labels.frames) for part in dataset.parts) == 4
    assert all(frame.boxes and frame.path for frame in dataset.frames())


def test_running_again_does_nothing_and_changes_nothing(tmp_path: Path) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime"] * 3), tmp_path / "out"
    plan = make_plan(root, "day2night")
    translate(plan, darker(), out)
    before = files(out)
    result = translate(plan, darker(), out)
    assert (result.written, result.present) == (0, 3)
    assert files(out) == before


def test_what_is_missing_is_made_again(tmp_path: Path) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime"] * 4), tmp_path / "out"
    plan = make_plan(root, "day2night")
    translate(plan, darker(), out)
    before = files(out)
    (out / "images/100k/train/0001-a.jpg").unlink()
    (out / "images/100k/train/0002-a.jpg").write_bytes(b"")
    lines = (out / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (out / "manifest.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:10])  # torn by a crash
    assert translate(plan, darker(), out).written == 3
    assert files(out) == before


def test_ctrl_c_keeps_what_is_done_and_resumes_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime"] * 12), tmp_path / "out"
    plan = make_plan(root, "day2night")
    translate(plan, darker(), tmp_path / "whole")
    calls = []

    def interrupting(image: ImageArray, boxes: object, seed: int) -> ImageArray:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), 2)
        return image // 3

    result = translate(plan, Translator("darker", "day2night", None, False, interrupting), out, workers=1)
    assert result.stopped
    assert 3 <= result.written < 12
    assert len(open_dataset(out).frames()) == result.written
    again = translate(plan, darker(), out)
    assert again.present == result.written
    assert files(out) == files(tmp_path / "whole")


def test_ctrl_c_with_the_last_image_leaves_a_whole_folder_and_is_said(tmp_path: Path) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime"] * 3), tmp_path / "out"
    plan = make_plan(root, "day2night")
    assert not translate(plan, darker(), tmp_path / "whole").interrupted

    def pressed(done: int, note: str) -> None:
        if done == 3:
            os.kill(os.getpid(), 2)

    result = translate(plan, darker(), out, progress=pressed)
    assert (result.written, result.stopped, result.interrupted) == (3, False, True)
    assert files(out) == files(tmp_path / "whole")


def test_kill_minus_nine_tears_nothing(tmp_path: Path) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime"] * 40), tmp_path / "out"
    command = [sys.executable, "-m", "nightaug", "translate", str(root), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if (out / "manifest.jsonl").exists() and (out / "manifest.jsonl").stat().st_size > 600:
            break
        time.sleep(0.005)
    process.kill()
    process.wait()
    for path in out.rglob("*.jpg"):
        read_image(path)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    subprocess.run([*command[:-1], str(tmp_path / "whole")], check=True, capture_output=True)
    whole = files(tmp_path / "whole")
    assert {name: data for name, data in files(out).items() if not name.endswith(".tmp")} == whole


def test_unreadable_images_are_named_and_the_rest_is_done(tmp_path: Path) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime"] * 3), tmp_path / "out"
    (root / "images/100k/train/0001-a.jpg").write_bytes(b"broken")
    for concurrent in (False, True):
        result = translate(make_plan(root, "day2night"), darker(concurrent=concurrent), out, overwrite=True)
        assert result.written == 2
        assert list(result.failed) == ["images/100k/train/0001-a.jpg"]
    assert len(open_dataset(out).frames()) == 2
    assert "0001-a.jpg" in json.loads((out / "translation.json").read_text())["skipped"].popitem()[0]


def test_other_translations_are_not_mixed_in(tmp_path: Path) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime"]), tmp_path / "out"
    plan = make_plan(root, "day2night")
    translate(plan, darker(), out)
    before = files(out)
    for other in (darker(sha="abc"), darker(name="other")):
        with pytest.raises(ConfigError, match=r"holds images made with (checkpoint_sha|translator).*--overwrite"):
            translate(plan, other, out)
    write_image(tmp_path / "more" / "x.jpg", picture())
    with pytest.raises(ConfigError, match="not in this input"):
        translate(make_plan(tmp_path / "more", "day2night"), darker(), out)
    with pytest.raises(ConfigError, match="input's own folder"):
        translate(plan, darker(), root)
    assert files(out) == before
    assert translate(plan, darker(name="other"), out, overwrite=True).written == 1


def test_two_processes_do_not_share_an_output(tmp_path: Path) -> None:
    from nightaug.runs import lock_folder

    root, out = scalabel(tmp_path / "in", ["daytime"]), tmp_path / "out"
    held = lock_folder(out)
    with pytest.raises(ConfigError, match="in use by another process"):
        translate(make_plan(root, "day2night"), darker(), out)
    held.close()


def test_images_that_workers_write_elsewhere_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, shared, own = make_plan(scalabel(tmp_path / "in", ["daytime"] * 3), "day2night"), tmp_path / "out", []

    def remote(
        items: list[Item], translator: Translator, options: Options, workers: int, stopped: Callable[[], bool]
    ) -> Iterator[tuple[Item, Outcome]]:
        """The first image is on the disk at once, the second a moment later, the third on another machine's."""
        for number, (item, outcome) in enumerate(pipeline.work(items, translator, options, workers, stopped)):
            if number == 1:
                (shared / item.output).rename(tmp_path / "late.jpg")
                own.append(threading.Timer(0.3, (tmp_path / "late.jpg").rename, [shared / item.output]))
                own[0].start()
            if number == 2:
                (shared / item.output).unlink()
            yield item, outcome

    monkeypatch.setattr(output, "_SEEN", 1.0)
    with pytest.raises(ConfigError, match=r"0002-a.jpg was written by a worker .* must be on a disk that all machines"):
        translate(plan, darker(), shared, workers=1, engine=remote)
    assert len(list(read_manifest(shared))) == 2
    assert json.loads((shared / "translation.json").read_text())["finished"] is False
    assert translate(plan, darker(), shared).present == 2


def test_a_full_disk_says_so_and_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime"] * 6), tmp_path / "out"
    plan = make_plan(root, "day2night")
    original, count = output.atomic_write_bytes, []

    def full(path: Path, data: bytes) -> None:
        count.append(1)
        if len(count) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, data)

    monkeypatch.setattr(output, "atomic_write_bytes", full)
    with pytest.raises(NightaugError, match="the disk is full"):
        translate(plan, darker(), out, workers=1)
    monkeypatch.undo()
    result = translate(plan, darker(), out)
    assert result.present >= 1
    assert result.present + result.written == 6


def test_memory_stays_bounded_when_the_model_is_slow(tmp_path: Path) -> None:
    root = scalabel(tmp_path / "in", ["daytime"] * 30)
    decoded, lock = [0, 0], threading.Lock()
    original = pipeline.read_image

    def counting(path: Path) -> ImageArray:
        with lock:
            decoded[0] += 1
        return original(path)

    def slow(image: ImageArray, boxes: object, seed: int) -> ImageArray:
        time.sleep(0.01)
        decoded[1] = max(decoded[1], decoded[0] - calls[0])
        calls[0] += 1
        return image

    calls = [0]
    pipeline.read_image = counting  # type: ignore[assignment]
    try:
        translate(
            make_plan(root, "day2night"),
            Translator("slow", "day2night", None, False, slow),
            tmp_path / "out",
            workers=2,
        )
    finally:
        pipeline.read_image = original
    assert decoded[1] <= 2 * 2 + 2
