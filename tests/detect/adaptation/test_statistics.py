from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from street import TINY, interrupted_in
from torch import Tensor

from nightaug.config import build
from nightaug.data.formats import open_dataset
from nightaug.detect.adaptation.statistics import batch_norms, drawn, with_statistics
from nightaug.detect.checkpoint import load_detector
from nightaug.detect.dataset import StillImages
from nightaug.detect.detectors import build_detector
from nightaug.detect.recipe import run_recipe
from nightaug.detect.sampling import Mixture, Source
from nightaug.detect.settings import DetectorSettings
from nightaug.detect.sources import load_frames
from nightaug.errors import ConfigError, Interrupted

ALONE: dict[str, Any] = {
    "adapt": "vlmcshfg", "target": "dataset:train:B", "data": ["dataset:train:A"],
    "adaptation": {"parts": ["statistics"]},
}  # fmt: skip


def train(data: Path, out: Path, resume: bool = False, **changes: Any) -> dict[str, Tensor]:
    run_recipe(data, out, [TINY, {**ALONE, **changes}], cpu=True, resume=resume)
    return load_file(out / "last.safetensors")


def paths(data: Path, domain: str) -> list[Path]:
    return [frame.path for frame in load_frames(open_dataset(data), "train", domain) if frame.path is not None]


def is_statistic(key: str) -> bool:
    return key.endswith(("running_mean", "running_var", "num_batches_tracked"))


def test_statistics_are_those_of_both_domains(streets: Path) -> None:
    network = build_detector(build(DetectorSettings, TINY), ("car",))
    day, night = paths(streets, "A"), paths(streets, "B")
    measured = with_statistics(network, day, night, 6, "fp32")
    images = StillImages([*day, *night], network.width, network.height)
    batch = torch.stack([images[at].image for at in range(len(images))])
    seen: list[Tensor] = []
    batch_norms(network)[0].register_forward_hook(lambda module, given, out: seen.append(given[0]))
    network.eval()(batch)
    first = batch_norms(measured)[0]
    torch.testing.assert_close(first.running_mean, seen[0].mean(dim=(0, 2, 3)))
    torch.testing.assert_close(first.running_var, seen[0].var(dim=(0, 2, 3)))
    assert first.momentum == batch_norms(network)[0].momentum
    assert not any(module.training for module in measured.modules())
    for key, value in network.state_dict().items():
        if not is_statistic(key):
            assert torch.equal(measured.state_dict()[key], value)


def test_files_that_cannot_be_read_are_stepped_over(streets: Path, tmp_path: Path) -> None:
    network = build_detector(build(DetectorSettings, TINY), ("car",))
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    day, night = paths(streets, "A")[:2], paths(streets, "B")[:2]
    whole = with_statistics(network, day, night, 2, "fp32").state_dict()
    holed = with_statistics(network, [*day, bad], [*night, bad], 2, "fp32").state_dict()
    assert all(torch.equal(holed[key], value) for key, value in whole.items())


def test_images_are_drawn_in_the_shares_of_their_sources(streets: Path) -> None:
    dataset = open_dataset(streets)
    sources = [Source(domain, load_frames(dataset, "train", domain)) for domain in "AB"]
    some = drawn(Mixture(sources, seed=0), 8)
    assert len(some) == 8
    assert len(set(some) & set(paths(streets, "A"))) == 4
    assert len(drawn(Mixture(sources, seed=0), 1000)) == len(paths(streets, "A")) + len(paths(streets, "B"))


def test_training_itself_is_untouched(streets: Path, tmp_path: Path) -> None:
    plain = train(streets, tmp_path / "plain", adapt="none")
    measured = train(streets, tmp_path / "measured")
    assert plain.keys() == measured.keys()
    assert all(torch.equal(measured[key], plain[key]) for key in plain if not is_statistic(key))
    assert any(not torch.equal(measured[key], plain[key]) for key in plain if key.endswith("running_mean"))
    assert (tmp_path / "plain/metrics.jsonl").read_text() == (tmp_path / "measured/metrics.jsonl").read_text()
    assert load_detector(tmp_path / "measured").classes == ("car", "traffic light")


def test_a_stopped_run_ends_like_one_that_never_stopped(streets: Path, tmp_path: Path) -> None:
    train(streets, tmp_path / "whole", save_every=1)
    with interrupted_in(1), suppress(Interrupted):
        train(streets, tmp_path / "halves", save_every=4)
    train(streets, tmp_path / "halves", resume=True, save_every=4)
    whole, halves = (tmp_path / name / "last.safetensors" for name in ("whole", "halves"))
    first, second = load_file(whole), load_file(halves)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_they_are_measured_once_at_the_end(streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    def counted(network: Any, *rest: Any) -> Any:
        steps.append(1)
        return with_statistics(network, *rest)

    monkeypatch.setattr("nightaug.detect.adaptation.statistics.with_statistics", counted)
    train(streets, tmp_path / "run", save_every=1, evaluate_every=4, steps=4)
    assert len(steps) == 1  # four times saved, once evaluated


def test_a_network_without_batch_normalisation_is_refused(streets: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no batch normalisation.*fcos\.norm=batch"):
        train(streets, tmp_path / "run", fcos={"norm": "group"})
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
