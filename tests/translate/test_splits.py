"""One split after the other into the same folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import picture, scalabel

from nightaug.data.domains import prepare
from nightaug.data.formats import open_dataset
from nightaug.errors import ConfigError
from nightaug.images import write_image
from nightaug.translate.pipeline import translate
from nightaug.translate.plan import make_plan
from nightaug.translate.translators import Translator


def darker() -> Translator:
    return Translator("darker", "day2night", None, False, lambda image, boxes, seed: (image // 3).astype(np.uint8))


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


def test_one_split_first_and_the_rest_later(tmp_path: Path) -> None:
    data, out = tmp_path / "ab", tmp_path / "out"
    prepare(scalabel(tmp_path / "in", ["daytime"] * 9 + ["night"]), out=data, split="6:2:2", check_brightness=False)
    only = make_plan(data, "day2night", split="train")
    first = translate(only, darker(), out)
    assert {path.parts[0] for path in map(Path, files(out)) if len(path.parts) > 2} == {"train"}
    assert [path.name for path in (out / "annotations").iterdir()] == ["train_B.json"]
    second = translate(make_plan(data, "day2night"), darker(), out)
    assert (second.present, second.written) == (first.written, 9 - first.written) != (9, 0)
    assert len(list(open_dataset(out).frames())) == 9


def test_splits_one_after_the_other_make_what_all_at_once_makes(tmp_path: Path) -> None:
    data, out, whole = tmp_path / "ab", tmp_path / "out", tmp_path / "whole"
    prepare(scalabel(tmp_path / "in", ["daytime"] * 9 + ["night"]), out=data, split="6:2:2", check_brightness=False)
    broken = next((data / "val" / "A").glob("*.jpg"))
    broken.unlink()  # else its hard-linked source would change
    broken.write_bytes(b"no image")
    translate(make_plan(data, "day2night"), darker(), whole)

    planned: dict[str, int] = {}

    def call(split: str) -> dict[str, Any]:
        plan = make_plan(data, "day2night", split=split)
        result = translate(plan, darker(), out)
        assert (result.present, result.written) == (0, len(plan.items) - len(result.failed))
        planned.update(plan.skipped)
        return json.loads((out / "translation.json").read_text())

    assert call("val")["translated"] == 1
    facts = call("test")
    assert facts["left_out"]["not of test"] == planned["not of test"] - 1
    facts = call("train")
    assert (facts["translated"], facts["finished"]) == (8, True)
    assert list(facts["skipped"]) == [f"val/A/{broken.name}"], "that another split lacks an image is not forgotten"
    assert facts["left_out"]["not of train"] == planned["not of train"] - 3
    parts = files(out)
    translate(make_plan(data, "day2night"), darker(), out)
    assert files(out) == files(whole)
    # Whatever was asked for last, manifest, labels and images are those of all splits.
    assert {name: data for name, data in parts.items() if name != "translation.json"} == {
        name: data for name, data in files(whole).items() if name != "translation.json"
    }


def test_a_split_that_was_stopped_is_finished_first(tmp_path: Path) -> None:
    data, out = tmp_path / "ab", tmp_path / "out"
    prepare(scalabel(tmp_path / "in", ["daytime"] * 9 + ["night"]), out=data, split="6:2:2", check_brightness=False)
    train, test = (make_plan(data, "day2night", split=split) for split in ("train", "test"))
    translate(train, darker(), out)
    facts = json.loads((out / "translation.json").read_text())
    (out / "translation.json").write_text(json.dumps(facts | {"finished": False}))
    before = files(out)
    with pytest.raises(ConfigError, match="split train was stopped; finish it first, with --split train"):
        translate(test, darker(), out)
    assert files(out) == before
    translate(train, darker(), out)
    assert translate(test, darker(), out).written == len(test.items)


def test_images_of_another_input_are_no_other_split(tmp_path: Path) -> None:
    data, other, out = tmp_path / "ab", tmp_path / "other", tmp_path / "out"
    prepare(scalabel(tmp_path / "in", ["daytime"] * 9 + ["night"]), out=data, split="6:2:2", check_brightness=False)
    prepare(scalabel(tmp_path / "in2", ["daytime"] * 5 + ["night"]), out=other, split="6:2:2", check_brightness=False)
    translate(make_plan(data, "day2night"), darker(), out)
    before = files(out)
    with pytest.raises(ConfigError, match="which is not in this input"):
        translate(make_plan(other, "day2night", split="train"), darker(), out)
    assert files(out) == before


def test_the_yaml_of_a_yolo_set_names_every_split_that_is_there(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for split in ("train", "val"):
        write_image(root / "images" / split / "a.jpg", picture(1))
        (root / "labels" / split).mkdir(parents=True)
        (root / "labels" / split / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
        (root / "labels" / split / "classes.txt").write_text("car\n")
    translate(make_plan(root, "day2night"), darker(), tmp_path / "whole")
    for order in (("train", "val"), ("val", "train")):
        out = tmp_path / order[0]
        for split in order:
            translate(make_plan(root, "day2night", split=split), darker(), out)
        assert (out / "dataset.yaml").read_bytes() == (tmp_path / "whole" / "dataset.yaml").read_bytes()
