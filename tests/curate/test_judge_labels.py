"""Whether a judge has seen labels of night images, as its weight file tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import scalabel

from nightaug.curate.judge_labels import judge_night_boxes
from nightaug.runs import save_weights


def judge(folder: Path, data: list[str], weights: str | None = None) -> Path:
    facts = {"kind": "detector", "classes": ["car"], "settings": {"data": data, "weights": weights}}
    folder.mkdir(exist_ok=True)
    save_weights(folder / "last.safetensors", {"x": torch.zeros(1)}, {"nightaug": json.dumps(facts)})
    return folder


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (["dataset:train:A"], False),
        (["dataset:train:A", "dataset:train:B:0.5"], True),
        (["dataset:train:A", "dataset:train:B:0"], False),
        (["dataset:train:all"], True),  # the source, which has labelled nights
        ([], True),
        (["{night}:train"], True),
        (["{day}:train:A"], False),
        (["{day}:train"], None),
        (["{relit}:train"], False),  # night images, but with the labels of day ones
        (["{relit}:train:B"], False),
        (["{back}:train:A"], True),  # day images with the labels of night ones
        (["{gone}:train:A"], None),
    ],
)
def test_what_went_into_a_judge(tmp_path: Path, data: list[str], told: bool | None) -> None:
    night = scalabel(tmp_path / "night", ["daytime", "night"])
    places = {"night": night, "day": scalabel(tmp_path / "day", ["daytime"]), "gone": tmp_path / "gone"}
    row = {
        "source": "a", "sha256": "", "translator": "x", "checkpoint_sha": None, "seed": 0, "source_timeofday": None,
        "inputs": 0,
    }  # fmt: skip
    for name, direction in (("relit", "day2night"), ("back", "night2day")):
        places[name] = scalabel(tmp_path / name, ["night"])
        line = json.dumps({**row, "output": "images/100k/train/0000-a.jpg", "direction": direction})
        (places[name] / "manifest.jsonl").write_text(line + "\n")
    texts = [text.format(**places) for text in data]
    assert judge_night_boxes(judge(tmp_path / "run", texts), night) is told


def test_what_cannot_be_told(tmp_path: Path) -> None:
    root = scalabel(tmp_path / "night", ["night"])
    run = judge(tmp_path / "run", [])
    (run / "row.json").write_text("{}")  # of a comparison, which names no data
    assert judge_night_boxes(run, root) is None
    assert judge_night_boxes(judge(tmp_path / "next", ["dataset:train:A"], weights="other"), root) is None
    assert judge_night_boxes(tmp_path / "gone", root) is None
    assert judge_night_boxes(judge(tmp_path / "whole", []), scalabel(tmp_path / "day", ["daytime"])) is None
