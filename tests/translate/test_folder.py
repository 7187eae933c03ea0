"""Nothing is ever written over: not the input, not what others put into the output folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from helpers import picture, scalabel
from PIL import Image

import nightaug.relight
from nightaug.cyclegan.networks import ResnetGenerator
from nightaug.data.formats import open_dataset
from nightaug.errors import ConfigError
from nightaug.images import image_size, write_image
from nightaug.translate.folder import remove_former
from nightaug.translate.job import run_job
from nightaug.translate.pipeline import translate
from nightaug.translate.plan import make_plan
from nightaug.translate.translators import Translator


def job(source: Path | str, out: Path | str, **options: object) -> list[str]:
    lines: list[str] = []
    run_job(Path(source), Path(out), say=lines.append, **options)  # type: ignore[arg-type]
    return lines


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_relative_paths_never_reach_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = scalabel(tmp_path / "in", ["daytime", "daytime"])
    before = contents(root)
    monkeypatch.chdir(root / "labels" / "det_20")
    job(".", "../../../night", images=Path("../../images"), labels=Path("det_train.json"))
    monkeypatch.chdir(root / "images")
    job(".", "../../night2", labels=Path("../labels/det_20/det_train.json"))
    assert contents(root) == before
    assert len(open_dataset(tmp_path / "night").frames()) == 2
    for out in ("night", "night2"):
        assert len(list((tmp_path / out).rglob("*.jpg"))) == 2
        assert len(list((tmp_path / out).rglob("det_train.json"))) == 1


@pytest.mark.parametrize("out", ["in", "in/images/100k/train", "in/night", "."])
def test_output_in_or_around_the_input_is_refused(tmp_path: Path, out: str) -> None:
    root = scalabel(tmp_path / "in", ["daytime"])
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="choose"):
        job(root, tmp_path / out)
    with pytest.raises(ConfigError, match="choose"):
        job(root / "labels/det_20/det_train.json", root / "images/100k/train", images=root / "images")
    assert contents(tmp_path) == before


def test_beside_a_single_image_is_fine_but_not_over_it(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", picture())
    job(tmp_path / "a.jpg", tmp_path / "night")
    assert (tmp_path / "night" / "a.jpg").exists()
    with pytest.raises(ConfigError, match="own folder"):
        job(tmp_path / "a.jpg", tmp_path)


def test_a_link_out_of_the_output_is_not_followed(tmp_path: Path) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime"]), tmp_path / "out"
    out.mkdir()
    (out / "images").symlink_to(root / "images")
    before = contents(root)
    with pytest.raises(ConfigError, match="link that leads out"):
        job(root, out, overwrite=True)
    assert contents(root) == before


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime"]), tmp_path / "out"
    write_image(out / "images/100k/train/0000-a.jpg", picture(7))
    before = contents(out)
    with pytest.raises(ConfigError, match="not empty and holds no translation"):
        job(root, out)
    assert {name: data for name, data in contents(out).items() if name != ".lock"} == before
    (out / "prepare.json").write_text("{}")
    with pytest.raises(ConfigError, match="prepared dataset"):
        job(root, out, overwrite=True)


def test_other_settings_and_changed_sources_are_noticed(tmp_path: Path) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime", "daytime"]), tmp_path / "out"
    job(root, out)
    for options in ({"strength": 0.5}, {"quality": 50}, {"seed": 3}):
        with pytest.raises(ConfigError, match="settings"):
            job(root, out, **options)
    write_image(root / "images/100k/train/0001-a.jpg", picture(5, 200, 100))
    assert "1 translated" in job(root, out)[-1]
    labels = root / "labels/det_20/det_train.json"
    labels.write_text(labels.read_text().replace("30.5", "60.5"))
    assert "2 translated" in job(root, out)[-1]
    assert [frame.boxes[0].x2 for frame in open_dataset(out).frames()] == [60.5, 60.5]


def test_a_folder_that_an_earlier_relight_began_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime", "daytime"]), tmp_path / "out"
    job(root, out)
    monkeypatch.setattr("nightaug.relight.LOOK", nightaug.relight.LOOK + 1)
    with pytest.raises(ConfigError, match=r"look.*--overwrite"):
        job(root, out)
    assert "2 translated" in job(root, out, overwrite=True)[-1]


def test_trained_weights_may_be_spelled_in_any_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime", "daytime"]), tmp_path / "out"
    generator = tmp_path / "generator.pth"
    torch.save(ResnetGenerator(width=2, blocks=1).state_dict(), generator)
    job(root, out, translator=str(generator), limit=1)
    monkeypatch.chdir(generator.parent)
    assert "1 translated" in job(root, out, translator=f"./{generator.name}")[-1]
    other = tmp_path / "other.pth"
    state = torch.load(generator, weights_only=True)
    torch.save({key: value + 0.01 for key, value in state.items()}, other)
    with pytest.raises(ConfigError, match="images made with"):
        job(root, out, translator=str(other))


def test_images_over_the_limit_or_of_another_format_are_told_apart_from_strangers(tmp_path: Path) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime"] * 3), tmp_path / "out"
    job(root, out, limit=2)
    with pytest.raises(ConfigError, match=r"over the limit; give --limit as before"):
        job(root, out, limit=1)
    with pytest.raises(ConfigError, match=r"\.png now; give --format as before"):
        job(root, out, format="png")
    assert "1 translated" in job(root, out, limit=3)[-1]
    assert len(list(out.rglob("*.jpg"))) == 3


def test_a_dry_run_refuses_what_the_run_would_and_writes_nothing(tmp_path: Path) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime", "daytime"]), tmp_path / "out"
    assert job(root, out, dry_run=True)[-1] == "0 of these are there already"
    assert not out.exists()
    job(root, out, limit=1)
    before = contents(out)
    assert job(root, out, dry_run=True)[-1] == "1 of these are there already"
    for options, message in (({"strength": 0.8}, "strength"), ({"format": "png"}, "--format as before")):
        with pytest.raises(ConfigError, match=message):
            job(root, out, dry_run=True, **options)
    assert "remove the 1 images" in job(root, out, dry_run=True, overwrite=True, strength=0.8)[-1]
    with pytest.raises(ConfigError, match="own folder"):
        job(root, root / "night", dry_run=True)
    assert contents(out) == before


def test_a_video_is_no_label_file(tmp_path: Path) -> None:
    (tmp_path / "drive.mp4").write_bytes(b"....ftyp")
    with pytest.raises(ConfigError, match="is a video, and images are translated"):
        job(tmp_path / "drive.mp4", tmp_path / "out")


def test_overwrite_leaves_no_former_images(tmp_path: Path) -> None:
    root, out = scalabel(tmp_path / "in", ["daytime", "daytime"]), tmp_path / "out"
    job(root, out)
    (out / "mine.txt").write_text("keep")
    job(root, out, overwrite=True, format="png")
    assert sorted(p.name for p in out.rglob("*.*g")) == ["0000-a.png", "0001-a.png"]
    assert (out / "mine.txt").exists()


def test_overwrite_removes_nothing_in_a_folder_whose_name_only_begins_alike(tmp_path: Path) -> None:
    root, out, other = scalabel(tmp_path / "in", ["daytime"]), tmp_path / "out", tmp_path / "out2"
    job(root, out)
    image = next(out.rglob("*.jpg"))
    other.mkdir()
    image.replace(other / image.name)
    image.parent.rmdir()
    image.parent.symlink_to(other)
    remove_former(out)
    assert (other / image.name).exists()


def test_unsound_labels_are_said(tmp_path: Path) -> None:
    root = scalabel(tmp_path / "in", ["daytime"])
    labels = root / "labels/det_20/det_train.json"
    frames = json.loads(labels.read_text())
    frames[0]["labels"].append({"category": "car", "box2d": {"x1": 9, "y1": 9, "x2": 2, "y2": 2}})
    labels.write_text(json.dumps(frames))
    lines = job(root, tmp_path / "out")
    assert any(line.startswith("noticed in the labels: 1 ") and "inverted" in line for line in lines)


def test_labels_of_rotated_photographs_are_turned_with_them(tmp_path: Path) -> None:
    root = tmp_path / "in"
    (root / "images").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(0, 160, 90)).save(root / "images" / "a.jpg", exif=exif.tobytes())
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 160, "height": 90}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [100, 10, 40, 20], "iscrowd": 0}],
        "categories": [{"id": 1, "name": "car"}],
    }
    (root / "annotations.json").write_text(json.dumps(document))
    job(root, tmp_path / "out")
    (frame,) = open_dataset(tmp_path / "out").frames()
    assert frame.path is not None
    assert image_size(frame.path) == (90, 160) == (frame.width, frame.height)
    # A quarter turn clockwise: x becomes y, the distance from the bottom becomes x.
    assert frame.boxes[0].xyxy == (60, 100, 80, 140)


def test_an_image_the_format_cannot_hold_is_skipped(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "wide.png", picture(0, 16_500, 4))
    write_image(tmp_path / "in" / "b.png", picture())
    dark = Translator("dark", "day2night", None, False, lambda image, boxes, seed: image // 2)
    for concurrent in (False, True):
        translator = Translator(dark.name, "day2night", None, concurrent, dark.function)
        plan = make_plan(tmp_path / "in", "day2night", "webp")
        result = translate(plan, translator, tmp_path / f"out{concurrent}")
        assert result.written == 1
        assert "cannot be written as webp" in result.failed["wide.png"]


def test_a_prepared_dataset_gives_only_its_own_domain(tmp_path: Path, domains: Path) -> None:
    assert len(make_plan(domains, "day2night", all_times=True).items) == 9
    job(domains, tmp_path / "out", all_times=True)
    assert not os.path.exists(tmp_path / "out" / "train" / "A")
