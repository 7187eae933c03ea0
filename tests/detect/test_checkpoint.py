from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from street import TINY, TINY_RCNN

from nightaug.config import build
from nightaug.detect.checkpoint import find_detector, load_detector, read_facts, start_from, write_detector
from nightaug.detect.detectors import Detector, build_detector
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import CheckpointError

SETTINGS = build(DetectorSettings, TINY)


@pytest.fixture
def detector() -> Detector:
    return build_detector(SETTINGS, ("car", "bus"))


@pytest.fixture
def saved(tmp_path: Path, detector: Detector) -> Path:
    write_detector(tmp_path / "last.safetensors", detector, SETTINGS, 7, "0.1")
    return tmp_path / "last.safetensors"


def test_a_weight_file_needs_no_other_file(saved: Path, detector: Detector) -> None:
    moved = saved.rename(saved.with_name("mine.safetensors"))
    loaded = load_detector(moved)
    assert loaded.classes == ("car", "bus")
    assert (loaded.width, loaded.height) == (128, 64)
    assert not loaded.training
    detector.eval()
    image = torch.randint(0, 255, (1, 3, 64, 128), dtype=torch.uint8)
    assert torch.equal(loaded(image).outputs["logits"], detector(image).outputs["logits"])
    assert read_facts(moved)["step"] == 7


def test_equal_weights_are_equal_files(tmp_path: Path, saved: Path, detector: Detector) -> None:
    write_detector(tmp_path / "again.safetensors", detector, SETTINGS, 7, "0.1")
    assert saved.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_a_run_gives_its_best_or_what_was_asked_for(saved: Path) -> None:
    assert find_detector(saved.parent) == saved
    best = saved.with_name("best.safetensors")
    best.write_bytes(saved.read_bytes())
    assert find_detector(saved.parent) == best
    assert find_detector(saved.parent, "last") == saved
    with pytest.raises(CheckpointError, match="no such file"):
        find_detector(saved.parent / "nothing")
    with pytest.raises(CheckpointError, match="is it a train-detector run"):
        find_detector(saved.parent / "..")


def test_strange_files_are_refused_with_a_reason(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_detector(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="weights of another program"):
        load_detector(tmp_path / "other.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "gan.safetensors", {"nightaug": '{"kind": "cyclegan"}'})
    with pytest.raises(CheckpointError, match="holds a cyclegan, not a detector"):
        load_detector(tmp_path / "gan.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(saved.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_detector(cut)


def test_nan_weights_are_refused(tmp_path: Path, detector: Detector) -> None:
    with torch.no_grad():
        next(detector.parameters()).fill_(float("nan"))
    write_detector(tmp_path / "nan.safetensors", detector, SETTINGS, 1, "0.1")
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        load_detector(tmp_path / "nan.safetensors")


def test_starting_from_another_run(saved: Path, detector: Detector) -> None:
    fresh = build_detector(build(DetectorSettings, TINY, {"seed": 3}), ("car", "bus"))
    start_from(fresh, saved.parent)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), detector.parameters(), strict=True))
    with pytest.raises(CheckpointError, match="knows the classes car, bus"):
        start_from(build_detector(SETTINGS, ("car", "truck")), saved)
    wide = build(DetectorSettings, TINY, {"fcos": {"channels": 64, "convs": 1, "norm": "batch"}})
    with pytest.raises(CheckpointError, match="expected"):
        start_from(build_detector(wide, ("car", "bus")), saved)


@pytest.mark.parametrize("objectness", ["anchor", "oln"])
def test_a_two_stage_detector_starts_from_proposals_with_a_new_head(tmp_path: Path, objectness: str) -> None:
    options = {"rcnn": {"objectness": objectness}}
    proposals = build(DetectorSettings, TINY_RCNN, options, {"rcnn": {"class_agnostic": True}})
    trained = build_detector(proposals, ("object",))
    write_detector(tmp_path / "last.safetensors", trained, proposals, 1, "0.1")
    fresh = build_detector(build(DetectorSettings, TINY_RCNN, options, {"seed": 3}), ("car", "bus"))
    head = fresh.state_dict()["head.classifier.weight"].clone()
    assert start_from(fresh, tmp_path).endswith(", all but its region head")
    state = fresh.state_dict()
    assert torch.equal(state["head.classifier.weight"], head), "three rows, where the proposals have one or two"
    assert all(torch.equal(value, trained.state_dict()[k]) for k, value in state.items() if not k.startswith("head."))
    wide = build(DetectorSettings, TINY_RCNN, options, {"rcnn": {"box_features": 16}})
    with pytest.raises(CheckpointError, match="expected"):
        start_from(build_detector(wide, ("car", "bus")), tmp_path)


def test_a_two_stage_detector_of_other_classes_is_no_start(tmp_path: Path) -> None:
    settings = build(DetectorSettings, TINY_RCNN)
    write_detector(tmp_path / "last.safetensors", build_detector(settings, ("car", "bus")), settings, 1, "0.1")
    with pytest.raises(CheckpointError, match="knows the classes car, bus"):
        start_from(build_detector(settings, ("car", "truck")), tmp_path)


def test_weights_of_another_program_are_no_detector_yet_but_what_one_starts_from(tmp_path: Path) -> None:
    torch.save({"model": None}, tmp_path / "yolo11n.pt")
    with pytest.raises(CheckpointError, match=r"yolo11n\.pt: expected a train-detector run .* --detector FILE\.pt"):
        load_detector(tmp_path / "yolo11n.pt")
