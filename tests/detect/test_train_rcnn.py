"""Two-stage detectors in the training loop, the recipe and behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from street import TINY_RCNN, interrupted_in, two_against_one

from nightaug.config import build
from nightaug.data.formats import open_dataset
from nightaug.detect.checkpoint import load_detector, read_facts
from nightaug.detect.detectors import build_detector
from nightaug.detect.detectors.rcnn import RCNNDetector
from nightaug.detect.evaluate_job import run_evaluate
from nightaug.detect.recipe import Ready, TrainingData, gather, run_recipe
from nightaug.detect.settings import DetectorSettings
from nightaug.detect.sources import SourceSpec, load_source
from nightaug.detect.train import DetectorTrainer

CLASSES = ("car", "traffic light")
EMBEDDING = 6


class Crops:
    """Two proposals in every image; their embeddings say which one they are."""

    def regions(self, path: str | Path) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
        return np.array([[4, 4, 60, 40], [70, 8, 120, 60]], np.float32), np.eye(2, EMBEDDING, dtype=np.float16)


def trainer(data: Path, out: Path, **changes: Any) -> DetectorTrainer:
    sources = [load_source(SourceSpec("dataset", "train", domain), open_dataset(data)) for domain in "AB"]
    return DetectorTrainer(sources, [], CLASSES, out, build(DetectorSettings, TINY_RCNN, changes), cpu=True)


def losses(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows]


def weights(out: Path) -> bytes:
    return (out / "last.safetensors").read_bytes()


def test_a_run_learns_and_its_weights_are_a_detector_that_can_be_evaluated(streets: Path, tmp_path: Path) -> None:
    assert trainer(streets, tmp_path / "run", steps=24, log_every=4, learning_rate=2e-3).run().finished
    seen = losses(tmp_path / "run")
    assert seen[-1] < 0.7 * seen[0]
    detector = load_detector(tmp_path / "run")
    assert isinstance(detector, RCNNDetector)
    assert detector.classes == CLASSES
    found = run_evaluate(tmp_path / "run", streets, split="val", device="cpu", out=tmp_path / "metrics.json")
    assert found["images"] > 0


def test_a_stopped_run_ends_like_one_that_never_stopped(streets: Path, tmp_path: Path) -> None:
    """Few samples, so that other draws would give other weights."""
    few = {"rcnn": {"samples": 4, "rpn": {"samples": 4}}, "accumulate": 2}
    trainer(streets, tmp_path / "whole", **few).run()
    with interrupted_in(1):
        assert trainer(streets, tmp_path / "halves", **few).run().step == 2
    trainer(streets, tmp_path / "halves", **few).run(resume=True)
    assert weights(tmp_path / "whole") == weights(tmp_path / "halves")


def test_every_pass_draws_anew_and_processes_draw_by_their_place(
    streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(streets, tmp_path / "run", accumulate=2)
    seen: list[int] = []
    real = RCNNDetector.losses

    def look(self: RCNNDetector, *given: Any) -> Any:
        seen.append(self.number)
        return real(self, *given)

    monkeypatch.setattr(RCNNDetector, "losses", look)
    made.step(3, next(made.batches(3)))
    assert seen == [6, 7]


def test_two_processes_train_the_same_detector(streets: Path, tmp_path: Path) -> None:
    """With few samples, so that each must draw for its images what the one draws for them."""
    rpn = TINY_RCNN["rcnn"]["rpn"] | {"samples": 8}
    few = TINY_RCNN | {"rcnn": TINY_RCNN["rcnn"] | {"norm": "group", "samples": 8, "rpn": rpn}}
    apart, moved = two_against_one(streets, tmp_path, few)
    assert apart < 1e-3 * moved


def test_class_agnostic_training_sees_one_class(streets: Path, tmp_path: Path) -> None:
    said: list[str] = []
    layers = [TINY_RCNN, {"rcnn": {"class_agnostic": True}, "steps": 2}]
    run_recipe(str(streets), str(tmp_path / "run"), layers, cpu=True, say=said.append)
    detector = load_detector(tmp_path / "run")
    assert detector.classes == ("object",)
    assert "one class, object, of: car, traffic light" in said
    data = gather(open_dataset(streets), build(DetectorSettings, *layers, {"classes": ["car"]}))
    boxes = [box.category for source in data.sources for frame in source.frames for box in frame.boxes]
    assert set(boxes) == {"object", "traffic light"}  # what is not trained stays as if nobody had labelled it
    assert data.classes == ("object",)
    assert {box.category for frame in data.val for box in frame.boxes} == {"object", "traffic light"}


def vild(settings: DetectorSettings, data: TrainingData) -> Ready:
    detector = build_detector(settings, data.classes, facts={"embedding": EMBEDDING})
    assert isinstance(detector, RCNNDetector)
    detector.set_classes(data.classes, torch.eye(len(data.classes), EMBEDDING))
    return Ready(detector, Crops(), ["from crops"])


def test_a_ready_made_detector_learns_from_precomputed_proposals(streets: Path, tmp_path: Path) -> None:
    said: list[str] = []
    layers = [TINY_RCNN, {"rcnn": {"head": "vild"}, "steps": 4, "classes": ["car"]}]
    with interrupted_in(2):
        run_recipe(streets, tmp_path / "halves", layers, cpu=True, say=said.append, make=vild)
    run_recipe(streets, tmp_path / "halves", layers, cpu=True, resume=True, make=vild)
    run_recipe(streets, tmp_path / "whole", layers, cpu=True, make=vild)
    assert "from crops" in said
    assert weights(tmp_path / "whole") == weights(tmp_path / "halves")
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["image"] > 0 for row in rows)
    assert read_facts(tmp_path / "whole" / "last.safetensors")["facts"] == {"embedding": EMBEDDING}
    detector = load_detector(tmp_path / "whole")
    assert isinstance(detector, RCNNDetector)
    detector.set_classes(("bus", "tram", "car"), torch.eye(3, EMBEDDING))
    found = detector.found(detector(torch.zeros(1, 3, 64, 128, dtype=torch.uint8)))
    assert detector.classes == ("bus", "tram", "car")
    assert bool((found[0].labels < 3).all())
