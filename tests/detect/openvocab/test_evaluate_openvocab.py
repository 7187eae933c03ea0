"""AP and recall of seen and unseen classes, chance, and the job around them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import picture
from made_detections import made
from tiny_openvocab import EMBEDDING, rcnn, write_detector_file

from nightaug.clip.encoder import load_clip
from nightaug.detect.eval_coco import coco_numbers
from nightaug.detect.openvocab import evaluate as job
from nightaug.detect.openvocab.evaluate import measure, run_evaluation
from nightaug.detect.openvocab.scores import best_of_each_image, chance, harmonic, shuffled
from nightaug.detect.openvocab.splits import ClassSplit
from nightaug.detect.openvocab.table import markdown, table
from nightaug.detect.truth import Truth
from nightaug.errors import ConfigError, DatasetError
from nightaug.images import write_image

CLASSES = ("class 0", "class 1", "class 2", "class 3")  # the last one has no boxes
SPLIT = ClassSplit("own", CLASSES[:2], CLASSES[2:])


def _perfect(truth: Truth, classes: tuple[int, ...] | None = None) -> list[dict[str, Any]]:
    return [
        {"image_id": row["image_id"], "category_id": row["category_id"], "bbox": row["bbox"], "score": 0.9}
        for row in truth.annotations
        if not row["iscrowd"] and (classes is None or row["category_id"] in classes)
    ]


def test_the_100_best_of_an_image_count() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"image_id": int(rng.integers(1, 4)), "score": float(score), "category_id": 1}
        for score in rng.permutation(700) / 700
    ]
    kept = best_of_each_image(rows)
    naive = []
    for image in (1, 2, 3):
        here = sorted((row for row in rows if row["image_id"] == image), key=lambda row: -row["score"])
        naive += here[:100]
    assert {row["score"] for row in kept} == {row["score"] for row in naive}
    assert [rows.index(row) for row in kept] == sorted(rows.index(row) for row in kept), "in the order given"
    assert best_of_each_image([]) == []
    assert len(best_of_each_image(rows, 1)) == 3


def test_groups_are_means_of_cocos_numbers() -> None:
    truth, rows = made(3)
    rows = best_of_each_image(rows)
    found = measure(truth, SPLIT, rows, [row for row in rows if row["category_id"] == 3])
    _, coco, _ = coco_numbers(truth, rows)
    for key in ("AP", "AP50"):
        values = [coco[name][key] for name in CLASSES[:3]]
        assert found["GZSD"]["seen"][key] == pytest.approx(np.mean(values[:2]), abs=1e-9)
        assert found["GZSD"]["unseen"][key] == pytest.approx(values[2], abs=1e-9), (
            "a class without boxes does not count"
        )
        assert found["GZSD"]["all"][key] == pytest.approx(np.mean(values), abs=1e-9)
        assert found["ZSD"][key] == pytest.approx(values[2], abs=1e-9)
    seen, unseen = (found["GZSD"][side]["AP50"] for side in ("seen", "unseen"))
    assert found["GZSD"]["HM"]["AP50"] == pytest.approx(2 / (1 / seen + 1 / unseen))
    assert found["per_class"]["class 2"]["side"] == "unseen"
    assert found["per_class"]["class 3"]["AP50"] is None
    night = found["by"]["timeofday"]["night"]
    ids = {image["id"] for image in truth.images if image["timeofday"] == "night"}
    part = Truth(
        truth.classes, [i for i in truth.images if i["id"] in ids],
        [a for a in truth.annotations if a["image_id"] in ids],
    )  # fmt: skip
    alone = measure(part, SPLIT, [row for row in rows if row["image_id"] in ids], [])
    assert night["images"] == len(ids)
    assert night["GZSD"] == alone["GZSD"]


def test_recall_counts_boxes_found_whatever_else_is_there() -> None:
    truth, _ = made(5)
    boxes = {name: number for number, name in enumerate(CLASSES, 1)}
    half = [row for at, row in enumerate(_perfect(truth)) if at % 2]
    wrong = [{**row, "bbox": [1.0, 1.0, 2.0, 2.0], "score": 0.95} for row in _perfect(truth)]
    found = measure(truth, SPLIT, half + wrong, [])
    for name in CLASSES[:3]:
        total = truth.boxes()[name]
        hit = sum(row["category_id"] == boxes[name] for row in half)
        assert found["per_class"][name]["recall_100"] == pytest.approx(hit / total)
    assert found["ZSD"] == {"AP": 0, "AP50": 0, "recall_100": 0}


def test_seen_classes_take_no_place_from_unseen_ones_in_zsd() -> None:
    truth, _ = made(5)
    loud = [
        {"image_id": image["id"], "category_id": 1, "bbox": [1.0, 1.0, 2.0, 2.0], "score": 0.99}
        for image in truth.images
        for _ in range(100)
    ]
    found = measure(truth, SPLIT, loud + _perfect(truth), loud + _perfect(truth))
    assert found["ZSD"]["recall_100"] == 1
    assert found["GZSD"]["unseen"]["recall_100"] == 0, "the 100 best of an image are all seen ones"


def test_who_finds_everything_is_perfect_and_chance_is_not() -> None:
    truth, _ = made(1)
    found = measure(truth, SPLIT, _perfect(truth), _perfect(truth, (3,)))
    for values in (found["ZSD"], *found["GZSD"].values()):
        assert values == pytest.approx({"AP": 1, "AP50": 1, "recall_100": 1}, abs=1e-9)
    luck = found["chance"]["GZSD"]
    assert 0.02 < luck["all"]["AP50"] < 0.6
    assert luck["all"]["deviation"] > 0
    text = "\n".join(markdown(found))
    assert "100.0" in text
    assert f"{100 * luck['seen']['AP50']:.1f} ± " in text


def test_chance_keeps_boxes_scores_and_how_often_each_name_is_given() -> None:
    truth, rows = made(2)
    dealt = shuffled(rows, 7, 0)
    assert dealt == shuffled(rows, 7, 0)
    assert dealt != shuffled(rows, 7, 1)
    assert dealt != shuffled(rows, 8, 0)
    assert [{**row, "category_id": 0} for row in dealt] == [{**row, "category_id": 0} for row in rows]
    assert sorted(row["category_id"] for row in dealt) == sorted(row["category_id"] for row in rows)
    groups = {"seen": np.array([1, 1, 0, 0], bool), "unseen": np.array([0, 0, 1, 1], bool), "all": np.ones(4, bool)}
    assert chance(truth, [], groups, 2, 0)["all"] == {"AP50": 0, "deviation": 0}


def test_one_unseen_class_has_no_chance_row() -> None:
    truth, rows = made(2)
    alone = measure(truth, ClassSplit("own", CLASSES[:3], CLASSES[3:]), rows, rows)
    assert alone["chance"]["ZSD"] is None
    assert alone["ZSD"]["AP50"] is None
    assert "| AP50 by chance |" in "\n".join(markdown(alone)).replace("  ", " ")


def test_harmonic_mean() -> None:
    assert harmonic(0.5, 0.25) == pytest.approx(1 / 3)
    assert harmonic(0.5, 0.0) == 0
    assert harmonic(0.0, 0.0) == 0
    assert harmonic(None, 0.5) is None


def test_a_markdown_table() -> None:
    assert table(["a", "b"], [["x|y", "1.0"]]) == ["| a    |   b |", "| ---- | --: |", "| x\\|y | 1.0 |"]


# -- the job ---------------------------------------------------------------------------------------------------------


def _detector_with_text(file: Path, clip_folder: Path, head: str, classes: tuple[str, ...], **facts: Any) -> Path:
    clip = load_clip(str(clip_folder), precision="fp32")
    facts = {"embedding": EMBEDDING, "clip": str(clip_folder), "clip_sha": clip.sha, **facts}
    detector = rcnn(classes, facts, head=head)
    text = torch.nn.functional.normalize(torch.randn(len(classes), EMBEDDING, generator=torch.manual_seed(1)), dim=1)
    detector.set_classes(classes, text)  # type: ignore[operator]
    return write_detector_file(file, classes, facts, detector, head=head)


def test_a_detector_that_reads_text_is_told_the_unseen_names(
    streets: Path, tmp_path: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _detector_with_text(tmp_path / "vild.safetensors", clip_folder, "vild", ("car",))
    asked: list[tuple[str, ...]] = []
    real = job._competing

    def competing(*args: Any) -> Any:
        detector = real(*args)
        asked.append(detector.classes)
        return detector

    monkeypatch.setattr(job, "_competing", competing)
    out, lines = tmp_path / "m.json", []
    options: dict[str, Any] = {"unseen": ["traffic light"], "split": "val", "device": "cpu", "workers": 0}
    dry = run_evaluation(run, streets, out=out, **options, dry_run=True)
    assert dry == {}
    assert not out.exists()
    metrics = run_evaluation(run, streets, out=out, **options, say=lines.append)
    assert asked == [("car", "traffic light"), ("traffic light",)]
    assert metrics == json.loads(out.read_text())
    assert metrics["split"] == {"name": "own", "seen": ["car"], "unseen": ["traffic light"]}
    assert set(metrics["GZSD"]) == {"seen", "unseen", "all", "HM"}
    assert (tmp_path / "m.md").read_text().splitlines()[2].split()[1:3] == ["|", "ZSD"]
    zsd = json.loads((tmp_path / "m.zsd.json").read_text())
    assert zsd
    assert {row["category_id"] for row in zsd} == {2}
    assert {row["category_id"] for row in json.loads((tmp_path / "m.gzsd.json").read_text())} <= {1, 2}
    again = run_evaluation(run, streets, out=out, **options, seed=4, say=lines.append)
    assert len(asked) == 2, "detections are used again"
    assert again["GZSD"] == metrics["GZSD"]
    assert any("used again" in line for line in lines)
    run_evaluation(run, streets, out=out, **options, overwrite=True)
    assert len(asked) == 4


def test_other_unseen_classes_are_another_competition(tmp_path: Path) -> None:
    """The order of the classes is the same; what competes where the unseen ones are alone is not."""
    names = ("car", "bus", "truck")
    write_image(tmp_path / "data" / "images" / "a.png", picture(1))
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 96, "height": 64}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": n, "bbox": [20 * n, 4, 18, 20], "area": 360, "iscrowd": 0}
            for n in (1, 2, 3)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, 1)],
    }
    (tmp_path / "data" / "labels.json").write_text(json.dumps(document))
    run = write_detector_file(tmp_path / "run.safetensors", names)
    lines: list[str] = []
    options: dict[str, Any] = {"out": tmp_path / "m.json", "device": "cpu", "workers": 0, "say": lines.append}
    for unseen, again in ((["truck"], False), (["bus", "truck"], False), (["bus", "truck"], True)):
        lines.clear()
        found = run_evaluation(run, tmp_path / "data", unseen=unseen, **options)
        assert found["made"]["classes"] == list(names)
        assert any("used again" in line for line in lines) == again


def test_a_detector_that_had_the_boxes_is_called_a_ceiling(streets: Path, tmp_path: Path) -> None:
    both = ("car", "traffic light")
    options: dict[str, Any] = {"unseen": ["traffic light"], "split": "val", "device": "cpu", "workers": 0}
    for facts, supervised in (({}, ["traffic light"]), ({"novel": ["traffic light"]}, [])):
        run = write_detector_file(tmp_path / f"{len(facts)}.safetensors", both, facts)
        lines: list[str] = []
        found = run_evaluation(run, streets, out=tmp_path / f"{len(facts)}.json", **options, say=lines.append)
        assert found["supervised"] == supervised
        assert any("trained on boxes of traffic light" in line for line in lines) == bool(supervised)
        assert ("supervised" in (tmp_path / f"{len(facts)}.md").read_text()) == bool(supervised)


def test_what_cannot_be_measured_says_why(streets: Path, tmp_path: Path, clip_folder: Path) -> None:
    knows = write_detector_file(tmp_path / "softmax.safetensors", ("car",))
    options: dict[str, Any] = {"split": "val", "device": "cpu"}
    with pytest.raises(ConfigError, match=r"does not know traffic light: teach it .* probe .* synthesize"):
        run_evaluation(knows, streets, out=tmp_path / "m.json", unseen=["traffic light"], **options)
    with pytest.raises(ConfigError, match="knows none of the seen classes; it knows car"):
        run_evaluation(knows, streets, out=tmp_path / "m.json", unseen=["car"], **options)
    with pytest.raises(ConfigError, match="--unseen a,b or with --class-split"):
        run_evaluation(knows, streets, out=tmp_path / "m.json", **options)
    (tmp_path / "split.json").write_text('{"seen": ["car"], "unseen": ["zebra"]}')
    with pytest.raises(DatasetError, match=r"no boxes of the unseen classes \(zebra\)"):
        run_evaluation(knows, streets, out=tmp_path / "m.json", split_name=str(tmp_path / "split.json"), **options)
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(ConfigError, match="evaluate has not made"):
        run_evaluation(knows, streets, out=tmp_path / "mine.json", unseen=["traffic light"], **options)
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"README\.md is a file that evaluate has not made"):
        run_evaluation(knows, streets, out=tmp_path / "README.json", unseen=["traffic light"], **options)
    assert (tmp_path / "README.md").read_text() == "mine"
    with pytest.raises(ConfigError, match=r"expected the name of a \.json"):
        run_evaluation(knows, streets, out=tmp_path / "m.txt", unseen=["traffic light"], **options)
    run = _detector_with_text(tmp_path / "vild.safetensors", clip_folder, "vild", ("car",), clip_sha="another")
    with pytest.raises(ConfigError, match="another CLIP than the one it was trained with"):
        run_evaluation(run, streets, out=tmp_path / "m.json", unseen=["traffic light"], **options)
