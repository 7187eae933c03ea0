"""``nightaug evaluate``: results of other programs, detectors, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import picture, scalabel

from nightaug.data.formats import coco
from nightaug.data.frames import Box, Frame
from nightaug.detect import evaluate_job
from nightaug.detect.eval_results import read_results
from nightaug.detect.evaluate_job import run_evaluate
from nightaug.detect.truth import Truth
from nightaug.errors import ConfigError, DatasetError
from nightaug.images import write_image

CAR, BUS = [4.0, 5.0, 26.0, 35.0], [50.0, 10.0, 30.0, 40.0]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """COCO: three images with a car and a bus each, ids that are no positions; a rider in the last."""
    root = tmp_path / "data"
    frames = []
    for number, name in ((31, "c.jpg"), (12, "a.jpg"), (25, "b.jpg")):
        write_image(root / "test" / name, picture(number))
        boxes = [Box(4, 5, 30, 40, "car"), Box(50, 10, 80, 50, "bus")]
        time = "night" if name == "a.jpg" else "daytime"
        frames.append(Frame(name, boxes, 96, 64, time, "clear", extra={"id": number}))
    frames[2].boxes.append(Box(30, 30, 50, 60, "rider"))
    meta = {"categories": [{"id": 3, "name": "bus"}, {"id": 7, "name": "car"}, {"id": 5, "name": "rider"}]}
    coco.write(frames, root / "annotations" / "test.json", ("bus", "car", "rider"), meta=meta)
    return root


def _row(image: int | str, category: int, box: list[float], score: float = 0.9, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score, **more}


def _results(path: Path, rows: list[Any]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def _all(images: tuple[Any, ...] = (12, 25, 31), car: int = 7, bus: int = 3) -> list[dict[str, Any]]:
    return [_row(image, *found) for image in images for found in ((car, CAR), (bus, BUS))]


def test_results_in_the_ids_of_the_datasets_own_file(dataset: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    results = _results(tmp_path / "other.json", [*_all()[:-1], _row(31, 3, [0, 0, 9, 9], 0.1)])
    out = tmp_path / "out" / "metrics.json"
    metrics = run_evaluate(results, dataset, out=out, say=lines.append)
    assert metrics == json.loads(out.read_text())
    assert metrics["images"] == 3
    assert metrics["boxes"] == 7
    assert metrics["per_class"]["car"]["AP"] == 1
    assert 0.6 < metrics["per_class"]["bus"]["AP"] < 0.7, "one of three missed"
    assert metrics["per_class"]["rider"]["AP"] == 0
    assert metrics["by"]["timeofday"]["night"] == pytest.approx({"AP": 1, "AP50": 1, "images": 1, "boxes": 2})
    truth = Truth.read(out.with_name("metrics.truth.json"))
    assert [image["file_name"] for image in truth.images] == ["a.jpg", "b.jpg", "c.jpg"]
    written = read_results(out.with_name("metrics.detections.json"), truth)
    assert len(written.rows) == 6
    assert {row["image_id"] for row in written.rows} == {1, 2, 3}
    text = "\n".join(lines)
    assert "COCO file" in text
    assert "time of day" in text
    assert any(line.split() == ["car", "100.0", "100.0", "3", "3"] for line in lines), text


@pytest.mark.parametrize(
    "rows",
    [
        _all(("a", "b", "c")),  # stems
        _all(("a.jpg", "test/b.jpg", "C:\\somewhere\\c.jpg")),
        [_row(99, *f, file_name=n) for n in ("a.jpg", "b.jpg", "c.jpg") for f in ((7, CAR), (3, BUS))],
        _all((1, 2, 3)),  # positions
        _all(car=2, bus=1),  # classes by position, as the file lists them
        _all((1, 2, 3), car=1, bus=0),
    ],
    ids=["stems", "names", "file_name", "positions", "classes from 1", "from 0"],
)
def test_other_ways_of_counting(dataset: Path, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    metrics = run_evaluate(_results(tmp_path / "r.json", rows), dataset, out=tmp_path / "m.json")
    assert metrics["per_class"]["car"]["AP"] == 1
    assert metrics["per_class"]["bus"]["AP"] == 1


@pytest.mark.parametrize("numbers", [(1, 2, 3), (0, 1, 2)], ids=["ids, and positions from 1", "from 0"])
def test_two_categories_of_one_class(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    """COCO's person and pedestrian are one class here: every number of the file is understood."""
    root, places = tmp_path / "data", [[4.0, 5.0, 20.0, 30.0], [30.0, 5.0, 20.0, 30.0], [60.0, 5.0, 20.0, 30.0]]
    write_image(root / "images" / "a.jpg", picture(1))
    image = {"id": 5, "file_name": "a.jpg", "width": 96, "height": 64}
    annotations = [{"id": n, "image_id": 5, "category_id": n, "bbox": box} for n, box in enumerate(places, 1)]
    categories = [{"id": n, "name": name} for n, name in enumerate(("pedestrian", "person", "car"), 1)]
    document = {"images": [image], "annotations": annotations, "categories": categories}
    (root / "labels.json").write_text(json.dumps(document))
    rows = [_row(5, number, box) for number, box in zip(numbers, places, strict=True)]
    metrics = run_evaluate(_results(tmp_path / "r.json", rows), root, out=tmp_path / "m.json")
    assert metrics["made"]["results_left_out"] == {}
    assert metrics["classes"] == ["pedestrian", "car"]
    assert [metrics["per_class"][name]["AP"] for name in ("pedestrian", "car")] == pytest.approx([1, 1])


def test_yolo_results_of_two_names_of_one_class(tmp_path: Path) -> None:
    root, places = tmp_path / "data", [[4.0, 5.0, 20.0, 30.0], [30.0, 5.0, 20.0, 30.0], [60.0, 5.0, 20.0, 30.0]]
    write_image(root / "images" / "7.jpg", picture(1))
    (root / "labels").mkdir()
    lines = [f"{n} {(x + w / 2) / 96} {(y + h / 2) / 64} {w / 96} {h / 64}\n" for n, (x, y, w, h) in enumerate(places)]
    (root / "labels" / "7.txt").write_text("".join(lines))
    (root / "data.yaml").write_text("names: [pedestrian, person, car]\n")
    rows = [_row(7, number, box) for number, box in enumerate(places, 1)]  # as ultralytics counts
    metrics = run_evaluate(_results(tmp_path / "r.json", rows), root, out=tmp_path / "m.json")
    assert [metrics["per_class"][name]["AP"] for name in ("pedestrian", "car")] == pytest.approx([1, 1])


def test_our_own_results_again_with_other_classes(dataset: Path, tmp_path: Path) -> None:
    """The truth file beside them says what their numbers mean."""
    run_evaluate(_results(tmp_path / "r.json", _all()), dataset, out=tmp_path / "m.json")
    again = run_evaluate(tmp_path / "m.detections.json", dataset, out=tmp_path / "n.json", classes=["CAR"])
    assert again["classes"] == ["car"]
    assert again["all"]["AP"] == 1
    assert again["made"]["results_left_out"] == {"of a class that is not measured": 3}
    moved = _results(tmp_path / "moved.json", json.loads((tmp_path / "m.detections.json").read_text()))
    named = run_evaluate(moved, dataset, out=tmp_path / "o.json", truth_file=tmp_path / "m.truth.json")
    assert named["all"]["AP"] == pytest.approx(2 / 3)


def test_what_predict_wrote_is_understood_by_itself(dataset: Path, tmp_path: Path) -> None:
    """It numbers classes after the detector, and images after its input, whose names have folders in them."""
    names = ["c.jpg", "test/a.jpg", "test/b.jpg", "test/c.jpg"]
    images = [{"id": n, "file_name": name, "width": 96, "height": 64} for n, name in enumerate(names, 1)]
    categories = [{"id": n, "name": name} for n, name in enumerate(("dog", "car", "bus"), 1)]
    document = {"images": images, "annotations": [], "categories": categories}
    (tmp_path / "images.json").write_text(json.dumps(document))
    rows = [_row(1, 2, [0, 0, 9, 9], 0.95), *_all((2, 3, 4), car=2, bus=3)]
    metrics = run_evaluate(_results(tmp_path / "detections.json", rows), dataset, out=tmp_path / "m.json")
    assert metrics["per_class"]["car"]["AP"] == metrics["per_class"]["bus"]["AP"] == 1
    assert metrics["made"]["results_left_out"] == {"of an image that is not in the test set": 1}

    # Where the places differ a base name decides, if it means one image on either side.
    lines: list[str] = []
    rows = _all((1, 2), car=2, bus=3)
    elsewhere = [dict(image, file_name=f"copy/{image['file_name']}") for image in images[:2]]
    (tmp_path / "images.json").write_text(json.dumps(document | {"images": elsewhere}))
    results = _results(tmp_path / "detections.json", rows)
    metrics = run_evaluate(results, dataset, out=tmp_path / "n.json", say=lines.append)
    assert metrics["all"]["AR_1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert any("1 of the images were not among those" in line for line in lines)


def test_what_is_wrong_in_a_results_file_is_counted(dataset: Path, tmp_path: Path) -> None:
    wrong = [
        _row(77, 7, CAR),
        _row(12, 70, CAR),
        _row(12, 7, [float("nan"), 0, 5, 5]),
        _row(12, 7, [10, 10, -5, 5]),
        _row(12, 7, CAR, 1.5),
        _row(12, 7, CAR, float("nan")),
        {"image_id": 12, "bbox": CAR},
        "nonsense",
        _row(12, 7, [1, 2, 3]),  # type: ignore[list-item]
    ]
    lines: list[str] = []
    metrics = run_evaluate(
        _results(tmp_path / "r.json", _all() + wrong), dataset, out=tmp_path / "m.json", say=lines.append
    )
    assert metrics["per_class"]["car"]["AP"] == 1
    assert metrics["made"]["results_left_out"] == {
        "entry without image_id, category_id, score and a bbox of four numbers": 3,
        "of an image that is not in the test set": 1,
        "of an unknown category": 1,
        "box with NaN, infinite or absurd coordinates": 1,
        "box without area or inverted": 1,
        "with a score outside 0 to 1": 2,
    }
    assert any(line.startswith("left out: 3 entry") for line in lines)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"images": [], "annotations": []}', "[1, 2]", '[{"a": 1}]', "[{", "\x00", '"text"', "[" * 9999]
)
def test_no_results_file_is_said_in_one_line(dataset: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=r"r\.json") as caught:
        run_evaluate(path, dataset, out=tmp_path / "m.json")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m.json").exists()


def test_scores_in_percent_are_no_result(dataset: Path, tmp_path: Path) -> None:
    rows = [{**row, "score": 90.0} for row in _all()]
    with pytest.raises(DatasetError, match=r"none of its 6 detections can be used .*score outside 0 to 1"):
        run_evaluate(_results(tmp_path / "r.json", rows), dataset, out=tmp_path / "m.json")


def test_an_empty_list_found_nothing(dataset: Path, tmp_path: Path) -> None:
    metrics = run_evaluate(_results(tmp_path / "r.json", []), dataset, out=tmp_path / "m.json")
    assert metrics["all"]["AP"] == 0


def test_nothing_of_others_is_written_over(dataset: Path, tmp_path: Path) -> None:
    results = _results(tmp_path / "r.json", _all())
    other = dataset / "annotations" / "test.json"
    before = other.read_bytes()
    with pytest.raises(ConfigError, match="has not made"):
        run_evaluate(results, dataset, out=other)
    with pytest.raises(ConfigError, match=r"\.json"):
        run_evaluate(results, dataset, out=tmp_path / "folder")
    run_evaluate(results, dataset, out=tmp_path / "m.json")
    with pytest.raises(ConfigError, match="written over"):
        run_evaluate(tmp_path / "m.detections.json", dataset, out=tmp_path / "m.json")
    run_evaluate(results, dataset, out=tmp_path / "m.json")
    assert other.read_bytes() == before


@pytest.mark.parametrize("name", ["m.truth.json", "m.detections.json"])
def test_a_file_beside_the_metrics_that_others_made_is_kept(dataset: Path, tmp_path: Path, name: str) -> None:
    results, other = _results(tmp_path / "r.json", _all()), tmp_path / name
    other.write_text((dataset / "annotations" / "test.json").read_text())
    before = other.read_bytes()
    with pytest.raises(ConfigError, match=rf"--out .*m\.json: .*{name} is a file that evaluate has not made"):
        run_evaluate(results, dataset, out=tmp_path / "m.json")
    assert other.read_bytes() == before
    assert not (tmp_path / "m.json").exists()


def test_an_evaluation_that_was_stopped_half_way_is_run_again(dataset: Path, tmp_path: Path) -> None:
    results = _results(tmp_path / "r.json", _all())
    whole = run_evaluate(results, dataset, out=tmp_path / "m.json")
    for gone in (("m.json",), ("m.json", "m.detections.json"), ("m.truth.json",)):
        for name in gone:
            (tmp_path / name).unlink()
        assert run_evaluate(results, dataset, out=tmp_path / "m.json") == whole
    # Labels in place of the truth are no truth of ours, whatever lies beside them.
    (tmp_path / "m.truth.json").write_bytes((dataset / "annotations" / "test.json").read_bytes())
    with pytest.raises(ConfigError, match=r"m\.truth\.json is a file that evaluate has not made"):
        run_evaluate(results, dataset, out=tmp_path / "m.json")


def test_a_dry_run_writes_nothing(dataset: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    results = _results(tmp_path / "r.json", _all())
    assert run_evaluate(results, dataset, out=tmp_path / "m.json", dry_run=True, say=lines.append) == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "r.json"]
    assert any("3 images, 7 boxes of 3 classes" in line for line in lines)


def test_splits_and_domains(tmp_path: Path) -> None:
    root = scalabel(tmp_path / "bdd", ["night", "daytime", "daytime"])
    results = _results(tmp_path / "r.json", [_row("0000-a", 3, [4, 5, 26.5, 35])])
    with pytest.raises(DatasetError, match=r"no split test.*train"):
        run_evaluate(results, root, out=tmp_path / "m.json")
    night = run_evaluate(results, root, out=tmp_path / "m.json", split="train", domain="B")
    assert night["images"] == 1
    assert night["all"]["AP"] == pytest.approx(1)
    with pytest.raises(ConfigError, match="--domain C"):
        run_evaluate(results, root, out=tmp_path / "m.json", split="train", domain="C")
    with pytest.raises(ConfigError, match="--classes tram"):
        run_evaluate(results, root, out=tmp_path / "m.json", split="train", classes=["tram"])


def test_ids_that_two_parts_of_a_prepared_dataset_share_are_not_guessed(tmp_path: Path) -> None:
    root = tmp_path / "prepared"
    for domain in ("A", "B"):
        write_image(root / "test" / domain / f"{domain}.png", picture(1))
        frame = Frame(f"{domain}.png", [Box(4, 5, 30, 40, "car")], 96, 64)
        coco.write([frame], root / "annotations" / f"test_{domain}.json", ("car",))
    results = _results(tmp_path / "r.json", [_row(1, 1, CAR)])
    with pytest.raises(DatasetError, match="--domain"):
        run_evaluate(results, root, out=tmp_path / "m.json")
    night = run_evaluate(results, root, out=tmp_path / "m.json", domain="B")
    assert (night["images"], night["all"]["AP50"]) == (1, pytest.approx(1))
    named = run_evaluate(_results(results, [_row("A.png", 1, CAR)]), root, out=tmp_path / "m.json")
    assert (named["images"], named["all"]["AR_100"]) == (2, pytest.approx(0.5))


class _Stub:
    """Stands in for a detector that knows cars and trams; counts how often it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
        self.calls = 0
        weights.write_bytes(b"weights")
        monkeypatch.setattr(evaluate_job, "_detector_classes", lambda run: (["car", "tram"], {}))
        monkeypatch.setattr(evaluate_job, "weights_hash", evaluate_job.file_sha256)
        monkeypatch.setattr(evaluate_job, "_detect", self.detect)

    def detect(self, run: Path, truth: Truth, *more: object) -> list[dict[str, Any]]:
        self.calls += 1
        return [_row(image["id"], truth.classes.index("car") + 1, CAR) for image in truth.images]


def test_only_the_classes_both_know_are_measured(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "last.safetensors"
    _Stub(monkeypatch, weights)
    lines: list[str] = []
    metrics = run_evaluate(weights, dataset, out=tmp_path / "m.json", say=lines.append)
    assert metrics["classes"] == ["car"]
    assert metrics["all"]["AP"] == 1
    assert metrics["made"]["not_measured"] == {"bus": 3, "rider": 1}
    text = "\n".join(lines)
    assert "classes not measured: bus (3 boxes), rider (1 boxes)" in text
    assert "tram" in text
    metrics = run_evaluate(weights, dataset, out=tmp_path / "all.json", classes=["all"], say=lines.append)
    assert metrics["per_class"]["bus"]["AP"] == 0
    assert metrics["all"]["AP"] == pytest.approx(1 / 3)
    assert "count as never found: bus (3 boxes), rider (1 boxes)" in "\n".join(lines)


def test_labels_are_renamed_as_the_detectors_were(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained with ``--rename bus=car``, it calls a bus a car: no false alarm, and a missed bus is a missed car."""
    weights = tmp_path / "last.safetensors"
    stub = _Stub(monkeypatch, weights)
    monkeypatch.setattr(evaluate_job, "_detector_classes", lambda run: (["car", "tram"], {"bus": "car"}))
    lines: list[str] = []
    metrics = run_evaluate(weights, dataset, out=tmp_path / "m.json", say=lines.append)
    assert metrics["classes"] == ["car"]
    assert metrics["per_class"]["car"]["boxes"] == 6
    assert metrics["all"]["AR_100"] == pytest.approx(0.5), "three cars found, three buses missed"
    assert metrics["made"]["not_measured"] == {"rider": 1}
    assert any("renamed as for the detector's training: bus to car" in line for line in lines)
    monkeypatch.setattr(stub, "detect", None)
    both = [_row(image, 7, box) for image in (12, 25, 31) for box in (CAR, BUS)]
    foreign = run_evaluate(_results(tmp_path / "r.json", both), dataset, out=tmp_path / "f.json")
    assert foreign["classes"] == ["bus", "car", "rider"], "a results file says nothing of a training"


def test_detections_are_used_again_while_nothing_has_changed(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, out = tmp_path / "last.safetensors", tmp_path / "m.json"
    stub = _Stub(monkeypatch, weights)

    def calls(**options: Any) -> int:
        before = stub.calls
        run_evaluate(weights, dataset, out=out, **options)
        return stub.calls - before

    assert calls() == 1
    first = out.read_bytes()
    assert calls() == 0
    assert out.read_bytes() == first
    assert calls(overwrite=True) == 1
    assert calls(classes=["all"]) == 1, "another truth"
    assert calls() == 1
    (tmp_path / "m.detections.json").write_text("[]")
    assert calls() == 1, "somebody changed the detections"
    weights.write_bytes(b"other weights")
    assert calls() == 1
    write_image(dataset / "test" / "a.jpg", picture(5, level=0.2))
    assert calls() == 1, "an image changed"
    assert calls() == 0


def test_a_detector_of_nightaug(dataset: Path, tmp_path: Path) -> None:
    """Untrained weights: the way from the file to the metrics, not the numbers."""
    from nightaug.detect.checkpoint import write_detector
    from nightaug.detect.detectors import build_detector
    from nightaug.detect.settings import DetectorSettings, FCOSSettings

    shape = FCOSSettings(channels=32, convs=1)
    settings = DetectorSettings(detector="fcos-resnet18", width=64, height=64, pretrained="none", fcos=shape)
    detector = build_detector(settings, ("car", "bus"), pretrained=False)
    write_detector(tmp_path / "run" / "last.safetensors", detector, settings, 1, "0")
    metrics = run_evaluate(tmp_path / "run", dataset, out=tmp_path / "m.json", device="cpu", workers=0)
    assert metrics["classes"] == ["bus", "car"], "in the dataset's order"
    assert metrics["images"] == 3
    assert 0 <= metrics["all"]["AP"] < 0.5
    assert len(metrics["made"]["weights_sha256"]) == 64
    with pytest.raises(ConfigError, match="--device nowhere cannot be used here"):
        run_evaluate(tmp_path / "run", dataset, out=tmp_path / "n.json", device="nowhere")
