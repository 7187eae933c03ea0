"""The chains of benchmarks/: their commands are ones nightaug has, and they refuse to mix what was made differently."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from typer.main import get_command

from nightaug.cli import app
from nightaug.images import read_image, write_image

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def chains(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("night_gap", "openvocab_methods")
    yield {name: importlib.import_module(name) for name in names}
    for name in (*names, "chain", "common"):
        sys.modules.pop(name, None)


def run(chain: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["chain.py", *words])
    code: int = chain.main()
    return code


def parsed(lines: list[str]) -> list[str]:
    """Titles of the steps of a plan, whose commands have only options that are there."""
    for line in lines:
        group, given = get_command(app), shlex.split(line.partition("nightaug ")[2])
        while hasattr(group, "commands"):
            group = group.commands[given.pop(0)]
        group.make_context(str(group.name), given)
    return [line.partition(": ")[0].removeprefix("to do ") for line in lines]


@pytest.mark.parametrize("boxes", ["real", "pseudo"])
def test_every_step_to_the_night_gap_is_a_command_of_nightaug(
    chains: dict[str, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    boxes: str,
) -> None:
    words = ["--data", "data", "--out", str(tmp_path / "out"), "--night-boxes", boxes, "--plan", "--cpu"]
    words += ["--set", "batch=2", "--judge-set", "learning_rate=0.001"]
    assert run(chains["night_gap"], monkeypatch, *words) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = parsed(lines)
    assert titles[0] == "train cyclegan"
    assert titles[-1] == "compare"
    assert ("predict night" in titles) == (boxes == "pseudo")
    # What refines relit days needs them, and what curates needs a curator.
    needs = [("translate relight", "train refined"), ("train curator", "curate"), ("train judge", "score curated")]
    assert all(titles.index(first) < titles.index(then) for first, then in needs)
    judge = lines[titles.index("train judge")]
    assert judge.index("batch=2") < judge.index("learning_rate=0.001")
    assert not (tmp_path / "out").exists(), "a plan writes nothing"


def test_every_step_to_classes_without_boxes_is_a_command_of_nightaug(
    chains: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", "data", "--out", str(tmp_path / "out"), "--clip", "tiny", "--night", "relit", "--plan", "--cpu"]
    assert run(chains["openvocab_methods"], monkeypatch, *words) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = parsed(lines)
    assert titles[:2] == ["train proposals", "embed"]
    assert titles[-2:] == ["evaluate supervised day", "evaluate supervised night"]
    assert "train synthesize-domains" in titles
    # Only the last row sees boxes of all classes.
    blind = [title for title, line in zip(titles, lines, strict=True) if "--unseen" not in line]
    assert blind == ["embed", "train supervised"]
    assert "weights=" not in "".join(lines)
    assert run(chains["openvocab_methods"], monkeypatch, *words, "--warm-start") == 0
    lines = capsys.readouterr().out.splitlines()
    warm = [title for title, line in zip(parsed(lines), lines, strict=True) if "weights=" in line]
    assert warm == ["train vild", "train lp-ovod", "train vldus", "train supervised"]
    (crops,) = [line for line in lines if "crops-night" in line]
    assert "proposals " in crops
    assert "--clip tiny" in crops


def test_a_finished_chain_tells_its_table(
    chains: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    side = {"AP50": 0.125, "recall_100": 0.5}
    row = {"images": 3, "ZSD": side, "GZSD": {"seen": side, "unseen": side, "HM": None}, "per_class": {}}
    row["chance"] = {"ZSD": None, "GZSD": {"seen": {"AP50": 0.01}, "unseen": None, "HM": None}}
    (tmp_path / "vild-night.json").write_text(json.dumps(row))
    monkeypatch.setattr("chain.carry_out", lambda steps, until: True)
    assert (
        run(chains["openvocab_methods"], monkeypatch, "--data", "/a/b", "--out", str(tmp_path), "--clip", "tiny") == 0
    )
    text = (tmp_path / "openvocab.md").read_text()
    assert "| vild | 12.5 / 50.0 | 12.5 / 50.0 | 12.5 / 50.0 | - |" in text
    assert "| vild, its boxes' names dealt anew | - | 1.0 | - | - |" in text
    assert "| night: AP50" in text
    assert "| day: AP50" not in text, "nothing is said of what was not measured"
    assert "/a/b" not in text + (tmp_path / "openvocab.json").read_text(), "a published row names no one's machine"


def test_a_folder_begun_with_other_options_is_refused(
    chains: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, night_gap = ["--data", "data", "--out", str(tmp_path)], chains["night_gap"]
    monkeypatch.setattr("chain.carry_out", lambda steps, until: True)
    assert run(night_gap, monkeypatch, *words) == 0
    assert json.loads((tmp_path / "night_gap.json").read_text())["options"]["data"] == "$DATA"
    with pytest.raises(SystemExit):
        run(night_gap, monkeypatch, *words, "--steps", "5")
    assert "--steps was 800" in capsys.readouterr().err


def test_uneven_light_changes_the_images_of_a_translated_folder_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    made = importlib.import_module("uneven_light")
    before = np.full((48, 80, 3), 40, np.uint8)
    before[:8, :8] = 250  # a lamp
    write_image(tmp_path / "night" / "train" / "B" / "x.jpg", before)
    (tmp_path / "night" / "manifest.jsonl").write_text(
        json.dumps({"output": "train/B/x.jpg", "source": "train/A/x.jpg", "weight": 1.0}) + "\n"
    )
    data = tmp_path / "data"
    (data / "train" / "A").mkdir(parents=True)
    (data / "dataset.yaml").write_text("names: {0: person, 1: car}\n")
    (data / "train" / "A" / "x.txt").write_text("1 0.5 0.5 0.4 0.5\n0 0.1 0.5 0.1 0.5\n")
    for name, more in (("one", []), ("two", []), ("faded", ["--labels", str(data)])):
        words = ["uneven_light.py", str(tmp_path / "night"), "--out", str(tmp_path / name), *more]
        monkeypatch.setattr("sys.argv", words)
        made.main()
    image = tmp_path / "one" / "train" / "B" / "x.jpg"
    after = read_image(image).astype(int)
    assert image.read_bytes() == (tmp_path / "two" / "train" / "B" / "x.jpg").read_bytes()
    assert (read_image(tmp_path / "night" / "train" / "B" / "x.jpg") == read_image(image)).mean() < 0.5
    assert abs(after[:4, :4].mean() - 250) < 6
    assert after[16:].mean(2).std() > 4
    assert (tmp_path / "one" / "manifest.jsonl").read_bytes() == (tmp_path / "night" / "manifest.jsonl").read_bytes()
    fades = read_image(tmp_path / "faded" / "train" / "B" / "x.jpg").astype(int)
    assert fades[14:20, 30:50].mean() < fades[30:36, 30:50].mean() - 3  # the car's roof against its lower half
    assert abs(fades[:4, :4].mean() - 250) < 8


def test_box_errors_tell_ill_placed_boxes_from_missed_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    box_errors = importlib.import_module("box_errors")
    boxes = [[10.0, 10, 40, 20], [100.0, 50, 30, 30], [200.0, 60, 50, 40]]
    truth = {
        "images": [{"id": number, "file_name": f"{number}.jpg", "width": 320, "height": 180} for number in (7, 8)],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "truck"}],
        "annotations": [
            {"id": number, "image_id": 7, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for number, box in enumerate(boxes, 1)
        ],
    }
    # One as it should be, one of a third of the width, one missed, a false one with the lowest score.
    detections = [
        {"image_id": 7, "category_id": 1, "bbox": boxes[0], "score": 0.9},
        {"image_id": 7, "category_id": 1, "bbox": [100.0, 50, 10, 30], "score": 0.8},
        {"image_id": 8, "category_id": 1, "bbox": boxes[2], "score": 0.1},
        {"image_id": 7, "category_id": 2, "bbox": boxes[2], "score": 1.0},
    ]
    row = tmp_path / "runs" / "day" / "seed0"
    row.mkdir(parents=True)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (row / "detections.json").write_text(json.dumps(detections))
    monkeypatch.setattr(sys, "argv", ["box_errors.py", str(tmp_path), "--arm", "day"])
    box_errors.main()
    # 34 of 101 recalls are reached by one of three, 67 by two.
    assert capsys.readouterr().out.strip() == (
        "day, seed 0, car: AP 33.7, AP50 33.7, AP30 66.3, AP10 66.3, AP, boxes put right 66.3"
    )
