from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openvocab_toys import ToyStore, embed, interrupt_when, street_frames, write_run

from nightaug.config import build
from nightaug.data.frames import Frame
from nightaug.detect.checkpoint import load_detector
from nightaug.detect.openvocab import synthesize as module
from nightaug.detect.openvocab.settings import VLDUSSettings
from nightaug.detect.openvocab.synthesize import SynthesisResult, run_synthesis
from nightaug.detect.openvocab.synthesizer import Synthesizer
from nightaug.errors import ConfigError, DatasetError, NightaugError
from nightaug.runs import RunFolder, load_weights

SMALL: dict[str, Any] = {
    "noise": 4, "generator": 16, "critic": 16, "critic_feature": 8, "batch": 8, "epochs": 2, "critic_steps": 2,
    "unseen_epochs": 2, "synthetic": 20, "classifier_epochs": 3, "classifier_learning_rate": 0.01, "log_every": 2,
    "save_every": 2, "learning_rate": 1e-3,
}  # fmt: skip


class Job:
    """An untrained detector of cars and lights, in whose images CLIP knows both; buses are to be added."""

    def __init__(self, streets: Path, root: Path) -> None:
        self.frames, self.root = street_frames(streets), root
        self.store = ToyStore(self.frames)
        write_run(root / "run", "softmax", ("car", "traffic light"))

    def __call__(self, out: str, settings: dict[str, Any] | None = None, **options: Any) -> SynthesisResult:
        options = {"store": self.store, "device": "cpu", "batch": 4, "frames": self.frames} | options
        own = build(VLDUSSettings, SMALL, settings or {})
        return run_synthesis(self.root / "run", self.root / out, unseen=["bus"], embed=embed, settings=own, **options)


@pytest.fixture
def job(streets: Path, tmp_path: Path) -> Job:
    return Job(streets, tmp_path)


def test_a_detector_gets_a_class_nobody_labelled(job: Job) -> None:
    lines: list[str] = []
    result = job("out", {"domains": True}, say=lines.append)
    assert result.finished
    assert result.objects == 2 * len(job.frames)  # the labels themselves are in the store
    assert result.backgrounds > result.objects
    assert result.step == 2 * np.ceil(result.objects / 8)
    assert lines[0].startswith("region features of 8 images: at most ")
    assert lines[1:] == [f"{result.objects:,} regions of seen classes, {result.backgrounds:,} of background"]
    rows = RunFolder(job.root / "out").read_metrics()
    assert [row["step"] for row in rows] == list(range(2, result.step + 1, 2))
    assert set(rows[0]) == {
        "step", "critic", "penalty", "critic_image", "critic_similarity", "generator", "seen", "unseen", "mode_seeking",
        "image", "similarity",
    }  # fmt: skip

    before, after = load_detector(job.root / "run"), load_detector(result.file)
    assert after.classes == ("car", "traffic light", "bus")
    assert after.facts["novel"] == ["bus"], "evaluate must know which classes had no boxes"
    assert after.head.classifier.weight.shape == (4, 32)
    old, new = before.state_dict(), after.state_dict()
    assert all(torch.equal(value, new[key]) for key, value in old.items() if not key.startswith("head."))
    with torch.inference_mode():
        found = after.found(after(torch.full((1, 3, 64, 128), 90, dtype=torch.uint8)))
    assert all(found[0].labels < 3)


def test_without_a_store_the_detectors_own_proposals_are_looked_at(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def regions(proposals: Any, boxes: Any, labels: Any, *rest: Any) -> Any:
        seen.append(len(proposals))
        # An untrained detector reaches no object: lend it the labels.
        return real(np.concatenate([boxes, proposals]), boxes, labels, *rest)

    real = module.seen_regions
    monkeypatch.setattr(module, "seen_regions", regions)
    result = job("out", store=None)
    assert result.finished
    assert min(seen) > 10
    assert not (job.root / "out" / "features" / "clip.bin").exists()
    assert "image" not in RunFolder(job.root / "out").read_metrics()[0]


def test_interrupted_and_resumed_it_is_the_same_detector(job: Job) -> None:
    whole = job("whole")
    for out, where, name, at in (("training", Synthesizer, "step", 2), ("features", module, "seen_regions", 5)):
        with pytest.MonkeyPatch.context() as patch:
            interrupt_when(patch, where, name, at)
            stopped = job(out)
            assert not stopped.finished
            assert stopped.file is None
        again = job(out, resume=True)
        assert again == whole._replace(file=again.file)
        one, other = load_weights(whole.file)[0], load_weights(again.file)[0]
        assert all(torch.equal(value, other[key]) for key, value in one.items())
        assert RunFolder(job.root / out).read_metrics() == RunFolder(job.root / "whole").read_metrics()


def test_no_more_features_than_asked_for(job: Job) -> None:
    result = job("out", {"features": 9, "background_share": 0.5, "epochs": 1})
    assert result.finished
    assert result.step == 2


def test_what_a_user_can_get_wrong(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="day or night"):
        job("out", {"domains": True}, frames=[Frame(f.name, f.boxes, path=f.path) for f in job.frames])
    with pytest.raises(DatasetError, match="no proposal reaches an object"):
        job("empty", frames=[Frame(f.name, path=f.path) for f in job.frames])
    job("done", {"epochs": 1})
    with pytest.raises(ConfigError, match=r"synthesis\.epochs was 1, is 2"):
        job("done", resume=True)
    with pytest.raises(ConfigError, match="frames was"):
        job("done", {"epochs": 1}, resume=True, frames=job.frames[:5])
    with pytest.raises(NightaugError, match=r" became non-finite in step \d+; .* --set learning_rate"):
        job("nan", {"learning_rate": 1e30, "save_every": 100})
    with pytest.raises(ConfigError, match="made-up classes already"):
        run_synthesis(job.root / "done", tmp_path / "x", job.frames, ["truck"], embed, device="cpu")
    job.store.facts["stage"] = "labels"
    with pytest.raises(ConfigError, match="labelled boxes, which show no background"):
        job("labels")
    write_run(tmp_path / "vild", "vild")
    with pytest.raises(ConfigError, match="--method vldus"):
        run_synthesis(tmp_path / "vild", tmp_path / "x", job.frames, ["bus"], embed, device="cpu")
