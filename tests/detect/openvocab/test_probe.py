from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openvocab_toys import ToyStore, embed, interrupt_when, seeded, street_frames, write_run

from nightaug.boxes import iou
from nightaug.detect.checkpoint import load_detector
from nightaug.detect.openvocab import probe as module
from nightaug.detect.openvocab.extend import open_trained
from nightaug.detect.openvocab.probe import ProbeResult, assign_proposals, run_probe, train_probe
from nightaug.detect.openvocab.retrieval import PseudoLabel
from nightaug.detect.openvocab.settings import ProbeSettings
from nightaug.errors import CheckpointError, ConfigError, DatasetError, NightaugError
from nightaug.runs import RunFolder, StopRequest, load_weights

SETTINGS = ProbeSettings(proposals=8, epochs=4, batch=16, learning_rate=0.02)


def label(box: tuple[float, float, float, float], cosine: float = 0.5) -> PseudoLabel:
    return PseudoLabel(Path("a.png"), box, 0.9, cosine)


def test_proposals_get_the_class_of_the_pseudo_label_they_overlap() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 4], [50, 0, 60, 10], [90, 0, 99, 9]], float)
    labels = [(0, label((0, 0, 10, 10))), (2, label((50, 0, 60, 10)))]
    found, numbers = assign_proposals(boxes, labels, ProbeSettings(), seeded())
    assert numbers.tolist() == [0, 0, 2, -1, -1]
    assert found.tolist() == boxes[[0, 1, 3, 2, 4]].tolist()
    # Between the thresholds: neither.
    _, numbers = assign_proposals(boxes, labels, ProbeSettings(negative=0.3), seeded())
    assert numbers.tolist() == [0, 0, 2, -1]


def test_a_box_of_two_classes_is_of_the_one_clip_is_surer_of() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    for sure in (0, 1):
        labels = [(number, label(box, 0.9 if number == sure else 0.4)) for number in (0, 1)]
        _, numbers = assign_proposals(np.array([box]), labels, ProbeSettings(), seeded())
        assert numbers.tolist() == [sure]


def test_at_most_so_many_negatives_a_positive() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9]] + [[100 + n, 0, 110 + n, 10] for n in range(50)], float)
    for share, wanted in ((10, 20), (1.5, 3), (0, 0)):
        found, numbers = assign_proposals(boxes, [(0, label((0, 0, 10, 10)))], ProbeSettings(negatives=share), seeded())
        assert (numbers == -1).sum() == wanted
        assert len(np.unique(found, axis=0)) == len(found)
    assert assign_proposals(np.zeros((0, 4)), [(0, label((0, 0, 1, 1)))], ProbeSettings(), seeded())[1].shape == (0,)
    assert assign_proposals(boxes, [], ProbeSettings(), seeded())[1].shape == (0,)


def test_the_probe_learns_what_sets_its_classes_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "lp-ovod", rcnn={"box_features": 8})
    trained = open_trained(tmp_path / "run", None, "cpu")
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 2, 300)
    features = rng.normal(0, 1, (300, 8)) + 3 * np.eye(8)[labels]  # background has a direction, too
    settings, folder = ProbeSettings(batch=32, learning_rate=0.05), RunFolder(tmp_path / "out")
    folder.start(settings, resume=False)
    layer = train_probe(features[:200].astype(np.float16), labels[:200], 2, trained, settings, folder, StopRequest())
    scores = layer(torch.from_numpy(features[200:]).float()).sigmoid()
    right = labels[200:]
    assert (scores[right >= 0].argmax(1).numpy() == right[right >= 0]).mean() > 0.9
    assert scores[right < 0].max(1).values.mean() < 0.5 * scores[right >= 0].max(1).values.mean()
    losses = [row["loss"] for row in folder.read_metrics()]
    assert len(losses) == settings.epochs
    assert losses[-1] < 0.5 * losses[0]


def test_a_loss_that_becomes_nan_stops_before_anything_is_saved(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "lp-ovod", rcnn={"box_features": 8})
    trained = open_trained(tmp_path / "run", None, "cpu")
    settings, folder = ProbeSettings(batch=4, save_every=1), RunFolder(tmp_path / "out")
    folder.start(settings, resume=False)
    features = np.full((8, 8), np.inf, np.float16)
    with pytest.raises(NightaugError, match=r"^loss became non-finite in epoch 1; no state .* lower --set"):
        train_probe(features, np.zeros(8, int), 1, trained, settings, folder, StopRequest())
    assert folder.latest_state() is None
    folder.close()


class Job:
    """An untrained detector of cars, and a store in which CLIP knows the lights."""

    def __init__(self, streets: Path, root: Path) -> None:
        self.frames, self.root = street_frames(streets), root
        self.store = ToyStore(self.frames)
        write_run(root / "run", "lp-ovod")

    def __call__(self, out: str, settings: ProbeSettings = SETTINGS, **options: Any) -> ProbeResult:
        options = {"novel": ["traffic light"], "embed": embed, "device": "cpu", "batch": 4} | options
        return run_probe(self.root / "run", self.root / out, self.store, settings=settings, **options)


@pytest.fixture
def job(streets: Path, tmp_path: Path) -> Job:
    return Job(streets, tmp_path)


def test_a_probed_detector_knows_the_novel_class(job: Job) -> None:
    lines: list[str] = []
    result = job("out", say=lines.append)
    assert result.finished
    assert result.labels == {"traffic light": 8}
    assert lines[0] == "pseudo labels: traffic light 8"
    rows = json.loads((job.root / "out" / "pseudo_labels.json").read_text())["traffic light"]
    for row in rows:  # lights, all of them
        (frame,) = [frame for frame in job.frames if str(frame.path) == row["image"]]
        lights = [box.xyxy for box in frame.boxes if box.category == "traffic light"]
        assert iou([row["box"]], lights).max() > 0.99
        assert row["cosine"] > 0.9
    assert 8 <= result.positives < result.negatives <= 10 * result.positives

    before, after = load_detector(job.root / "run"), load_detector(result.file)
    assert after.classes == ("car", "traffic light")
    assert after.facts == {**before.facts, "novel": ["traffic light"]}
    assert torch.equal(after.head.space.text, embed(after.classes))
    # What was there has not moved.
    old, new = before.state_dict(), after.state_dict()
    assert {key for key in new if key not in old} == {"head.probe.weight", "head.probe.bias"}
    assert all(torch.equal(value, new[key]) for key, value in old.items() if key != "head.space.text")
    features = np.memmap(job.root / "out" / "features" / "features.bin", "<f2", "r").reshape(-1, 32)
    labels = np.memmap(job.root / "out" / "features" / "label.bin", "<i4", "r")
    with torch.inference_mode():
        scores = after.head.probe(torch.from_numpy(np.array(features)).float()).sigmoid()[:, 0].numpy()
    assert scores[labels == 0].mean() > 1.2 * scores[labels < 0].mean()


def test_interrupted_and_resumed_it_is_the_same_detector(job: Job) -> None:
    whole = job("whole")
    # In the second epoch, and before the last image.
    for out, name, at in (("training", "focal_loss", 8), ("features", "assign_proposals", 5)):
        with pytest.MonkeyPatch.context() as patch:
            interrupt_when(patch, module, name, at)
            assert not job(out).finished
        assert not (job.root / out / "last.safetensors").exists()
        with pytest.raises(ConfigError, match="--resume"):
            job(out)
        again = job(out, resume=True)
        assert again.finished
        one, other = load_weights(whole.file)[0], load_weights(again.file)[0]
        assert all(torch.equal(value, other[key]) for key, value in one.items())
        assert RunFolder(job.root / out).read_metrics() == RunFolder(job.root / "whole").read_metrics()


def test_what_a_user_can_get_wrong(job: Job, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trained on car already"):
        job("out", novel=["car", "bus"])
    with pytest.raises(ConfigError, match="more than once: traffic light"):
        job("out", novel=["light", "traffic light"])
    with pytest.raises(ConfigError, match="at least one"):
        job("out", novel=[])
    with pytest.raises(ConfigError, match="8 wide, this CLIP's text 5"):
        job("out", embed=lambda names: torch.eye(5)[: len(names)])
    with pytest.raises(DatasetError, match=r"objectness 0\.95 or more for traffic light"):
        job("out", SETTINGS.model_copy(update={"objectness": 0.95}))
    job("done")
    with pytest.raises(ConfigError, match=r"probe\.epochs was 4, is 5"):
        job("done", SETTINGS.model_copy(update={"epochs": 5}), resume=True)
    job.store.facts["images_sha"] = "other"
    with pytest.raises(ConfigError, match=r"store\.images_sha was 'streets'"):
        job("done", resume=True)
    job.store.facts = {"clip_sha": "other"}
    with pytest.raises(ConfigError, match="another CLIP"):
        job("out")
    job.store.facts = {"clip_sha": "toy", "images_sha": "streets"}
    (job.root / "done" / "pseudo_labels.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        job("done", resume=True)
    with pytest.raises(ConfigError, match="probed already"):
        run_probe(job.root / "done", job.root / "twice", job.store, ["bus"], embed, device="cpu")
    write_run(tmp_path / "plain", "softmax")
    with pytest.raises(ConfigError, match="head softmax"):
        run_probe(tmp_path / "plain", tmp_path / "x", job.store, ["bus"], embed, device="cpu")
