from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from compare_helpers import SIDE, make_dataset, make_translated

from nightaug.config import dump_yaml, load_yaml
from nightaug.data.frames import Frame
from nightaug.detect.sampling import Source
from nightaug.errors import ConfigError
from nightaug.experiment.compare_data import Data, build_arm, read_data
from nightaug.experiment.compare_detectors import Detectors, _follow
from nightaug.experiment.compare_rows import weights_sha
from nightaug.experiment.compare_settings import SourceSpec
from nightaug.images import encode_image

TINY: dict[str, Any] = {
    "detector": "fcos-resnet18", "width": 128, "height": 64, "batch": 2, "mixed_precision": "fp32", "steps": 3,
    "fcos": {"width": 0.25, "channels": 32, "convs": 1, "norm": "batch"}, "warmup": 1, "workers": 0, "save_every": 1,
    "evaluate_every": 0, "tensorboard": False, "ema": 0.5,
}  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Data:
    """A small dataset with pictures that are not all of one colour."""
    root = make_dataset(tmp_path / "data")
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        noise = np.random.default_rng(number).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
        path.write_bytes(encode_image(noise, "png"))
    return read_data(root, 0.15)


def train(data: Data, out: Path, **changes: Any) -> bool:
    detectors = Detectors()
    day = build_arm("day", [SourceSpec(data="dataset", domain="A")], {}, data)
    settings = detectors.settings([TINY, changes])
    return detectors.train(day, data.dev, data.classes, out, settings, cpu=True).finished


def test_a_moved_comparison_goes_on_inside_an_arm(tmp_path: Path, data: Data) -> None:
    start, run = tmp_path / "checkpoint", tmp_path / "run"
    assert train(data, start)
    weights = str(start / "last.safetensors")
    assert train(data, run, steps=1, weights=weights)  # what a kill after the first step leaves
    weights = str(start.rename(tmp_path / "elsewhere") / "last.safetensors")
    config = run / "config.yaml"  # as a version without these settings wrote it
    begun = load_yaml(config)
    for key in ("balance", "adapt", "adaptation", "clip", "clip_gate"):
        del begun[key]
    del begun["fcos"]["reach_tiny"]
    config.write_text(yaml.safe_dump(begun))
    assert train(data, run, weights=weights)
    assert load_yaml(run / "config.yaml")["weights"] == weights
    assert load_yaml(run / "config.yaml")["steps"] == 3


def test_an_arm_whose_files_were_written_down_as_typed_goes_on(tmp_path: Path) -> None:
    typed, now = (
        Detectors().settings([TINY, {"detector": f"{place}yolo.pt", "pretrained": f"{place}own.pt"}])
        for place in ("files/", f"{tmp_path}/files/")
    )
    config = tmp_path / "config.yaml"
    config.write_text(dump_yaml(typed))
    _follow(tmp_path, now)
    assert config.read_text() == dump_yaml(now)
    _follow(tmp_path, Detectors().settings([TINY]))
    assert load_yaml(config)["detector"] == f"{tmp_path}/files/yolo.pt", "another one is no other place"


def test_embeddings_may_be_kept_elsewhere_inside_an_arm(tmp_path: Path, data: Data) -> None:
    assert train(data, tmp_path / "run", steps=1, adaptation={"cache": "here"})
    assert train(data, tmp_path / "run", adaptation={"cache": "there"})
    with pytest.raises(ConfigError, match=r"adaptation.nodes was 200, is 9"):
        train(data, tmp_path / "run", adaptation={"cache": "there", "nodes": 9})


def test_the_trainer_is_given_the_target_and_what_translations_were_made_from(
    tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_translated(tmp_path / "made", data.root)
    parts = [SourceSpec(data="dataset", domain="A"), SourceSpec(data="translated:made", domain="B")]
    arm = build_arm("day+translated+adapt:made", parts, {("made", "B"): made}, data, {"adapt": "vlmcshfg"})
    given: dict[str, Any] = {}

    class Trainer:
        def __init__(self, sources: list[Source], *_: Any, target: list[Frame]) -> None:
            given.update(sources=sources, target=target)
            raise KeyboardInterrupt

    monkeypatch.setattr("nightaug.detect.train.DetectorTrainer", Trainer)
    settings = Detectors().settings([TINY, {"adapt": "vlmcshfg", "target": "dataset:train:B"}])
    with pytest.raises(KeyboardInterrupt):
        Detectors().train(arm, data.dev, data.classes, tmp_path / "run", settings, cpu=True)
    assert given["target"] == arm.target
    assert [len(source.frames) for source in given["sources"]] == [21, 21]
    assert not given["sources"][0].origins
    origins = given["sources"][1].origins
    assert {frame.path for frame in given["sources"][1].frames} == set(origins)
    assert all(origin.parent == data.root / "train" / "A" for origin in origins.values())


def test_a_kill_between_the_last_state_and_its_weights_leaves_no_older_weights(tmp_path: Path, data: Data) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    assert train(data, run)
    assert train(data, other, steps=2)
    last, sha = run / "last.safetensors", weights_sha(run)
    for left in ((other / "last.safetensors").read_bytes(), b"torn"):
        last.write_bytes(left)
        assert train(data, run)
        assert weights_sha(run) == sha
