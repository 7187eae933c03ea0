from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from street import TINY, interrupted_in, two_against_one

from nightaug.config import build
from nightaug.data.formats import open_dataset
from nightaug.detect.checkpoint import load_detector
from nightaug.detect.optimization import learning_rate, make_optimizer, rate_factor
from nightaug.detect.settings import DetectorSettings
from nightaug.detect.sources import SourceSpec, load_frames, load_source
from nightaug.detect.train import DetectorTrainer
from nightaug.errors import CheckpointError, ConfigError, NightaugError

CLASSES = ("car", "traffic light")


def trainer(data: Path, out: Path, unlabelled: bool = False, **changes: Any) -> DetectorTrainer:
    dataset = open_dataset(data)
    sources = [load_source(SourceSpec("dataset", "train", domain), dataset) for domain in "AB"]
    return DetectorTrainer(
        sources,
        load_frames(dataset, "val", "all"),
        CLASSES,
        out,
        build(DetectorSettings, TINY, changes),
        cpu=True,
        target=load_frames(dataset, "train", "B") if unlabelled else (),
    )


def files(out: Path) -> tuple[bytes, str]:
    return (out / "last.safetensors").read_bytes(), (out / "metrics.jsonl").read_text()


def test_a_run_writes_what_it_promises_and_its_loss_falls(streets: Path, tmp_path: Path) -> None:
    made = trainer(streets, tmp_path / "run", steps=30, log_every=5, learning_rate=2e-3)
    result = made.run()
    assert result.finished
    assert result.step == 30
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    totals = [row["classification"] + row["box"] + row["centerness"] for row in rows]
    assert totals[-1] < 0.8 * totals[0]
    assert (tmp_path / "run" / "config.yaml").exists()
    assert load_detector(tmp_path / "run").classes == CLASSES


def test_a_stopped_run_ends_like_one_that_never_stopped(streets: Path, tmp_path: Path) -> None:
    trainer(streets, tmp_path / "whole", steps=6).run()
    assert threading.current_thread() is threading.main_thread()
    with interrupted_in(2):
        result = trainer(streets, tmp_path / "halves", steps=6).run()
    assert (result.step, result.finished) == (3, False)
    result = trainer(streets, tmp_path / "halves", steps=6).run(resume=True)
    assert result.finished
    assert files(tmp_path / "whole") == files(tmp_path / "halves")


def test_a_run_that_is_stopped_in_its_last_step_is_whole_and_says_so(streets: Path, tmp_path: Path) -> None:
    whole = trainer(streets, tmp_path / "whole", steps=3).run()
    assert (whole.finished, whole.interrupted) == (True, False)
    with interrupted_in(2):
        result = trainer(streets, tmp_path / "last", steps=3).run()
    assert (result.step, result.finished, result.interrupted) == (3, True, True)
    assert files(tmp_path / "whole") == files(tmp_path / "last")
    saving = trainer(streets, tmp_path / "saving", steps=3)
    save = saving.save

    def stopped(step: int, **more: Any) -> None:
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        save(step, **more)

    saving.save = stopped  # type: ignore[method-assign]
    result = saving.run()
    assert (result.finished, result.interrupted) == (True, True)
    assert not trainer(streets, tmp_path / "saving", steps=3).run(resume=True).interrupted


def test_a_killed_run_loses_only_what_came_after_the_last_state(streets: Path, tmp_path: Path) -> None:
    trainer(streets, tmp_path / "whole", steps=6).run()
    broken = trainer(streets, tmp_path / "killed", steps=6)
    real = broken.step

    def die(step: int, batches: Any) -> Any:
        if step == 4:
            raise KeyboardInterrupt
        return real(step, batches)

    broken.step = die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    broken.folder.close()
    assert broken.folder.latest_state() == 4
    trainer(streets, tmp_path / "killed", steps=6).run(resume=True)
    assert files(tmp_path / "whole") == files(tmp_path / "killed")


def test_other_data_cannot_be_resumed(streets: Path, tmp_path: Path) -> None:
    trainer(streets, tmp_path / "run").run()
    dataset = open_dataset(streets)
    only_day = [load_source(SourceSpec("dataset", "train", "A"), dataset)]
    settings = build(DetectorSettings, TINY, {"steps": 6})
    with pytest.raises(ConfigError, match="trained on other data"):
        DetectorTrainer(only_day, [], CLASSES, tmp_path / "run", settings, cpu=True).run(resume=True)
    with pytest.raises(ConfigError, match="add --resume"):
        trainer(streets, tmp_path / "run").run()
    with pytest.raises(ConfigError, match="optimizer was"):
        trainer(streets, tmp_path / "run", optimizer="sgd").run(resume=True)
    # Without its record nobody knows any more, and torch takes one optimiser's state for another's.
    (tmp_path / "run" / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"another optimiser \(it has no momentum\); put back the config\.yaml"):
        trainer(streets, tmp_path / "run", optimizer="sgd").run(resume=True)


def test_what_the_advice_after_a_nan_names_can_be_changed(streets: Path, tmp_path: Path) -> None:
    first = trainer(streets, tmp_path / "run")
    first.run()
    assert "learning_rate=" in first.advice()
    assert "mixed_precision=fp32" in first.advice()
    again = trainer(streets, tmp_path / "run", steps=8, learning_rate=first.rate / 2, mixed_precision="fp32")
    assert again.run(resume=True).step == 8


def test_validation_keeps_the_best_and_patience_stops(streets: Path, tmp_path: Path) -> None:
    made = trainer(streets, tmp_path / "run", steps=12, evaluate_every=2, patience=2, learning_rate=1e-9, ema=0.0)
    result = made.run()
    assert result.stopped_early
    assert result.step == 6  # the first evaluation is the best; two without a better one
    assert (tmp_path / "run" / "best.safetensors").exists()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "val_AP" in row] == [2, 4, 6]
    again = trainer(streets, tmp_path / "run", steps=12, evaluate_every=2, patience=2, learning_rate=1e-9, ema=0.0)
    assert again.run(resume=True).step == 6


def test_accumulated_passes_are_one_large_batch(streets: Path, tmp_path: Path) -> None:
    frozen = {"fcos": {"norm": "group"}, "ema": 0.0, "steps": 1, "clip_norm": None}
    at_once = trainer(streets, tmp_path / "a", batch=4, **frozen)
    in_two = trainer(streets, tmp_path / "b", batch=2, accumulate=2, **frozen)
    assert at_once.global_batch == in_two.global_batch == 4
    first = next(at_once.batches(0))[0][0]
    second = [batch for batch, _ in next(in_two.batches(0))]
    assert torch.equal(first.images, torch.cat([batch.images for batch in second]))


def test_the_target_is_a_second_stream_without_labels(streets: Path, tmp_path: Path) -> None:
    adapt = {"adapt": "vlmcshfg", "target": "dataset:train:B"}
    made = trainer(streets, tmp_path / "run", True, **adapt)
    seen = [pair for group in made.batches(0) for pair in group]
    assert all(target is not None and not any(len(t.boxes) for t in target.targets) for _, target in seen)
    assert all(Path(p).parts[-2] == "B" for _, target in seen for p in target.paths)
    again = [pair for group in trainer(streets, tmp_path / "x", True, **adapt).batches(2) for pair in group]
    assert again[0][1].paths == seen[2][1].paths


def test_a_loss_that_becomes_nan_stops_with_its_name(streets: Path, tmp_path: Path) -> None:
    made = trainer(streets, tmp_path / "run", steps=8)
    real = made.step

    def poison(step: int, batches: Any) -> Any:
        parts = real(step, batches)
        return parts | {"box": parts["box"] * float("nan")} if step == 5 else parts

    made.step = poison  # type: ignore[method-assign]
    with pytest.raises(NightaugError, match=r"box became non-finite in step 6; the last good state is step 4"):
        made.run()
    made.folder.close()
    assert all(bool(p.isfinite().all()) for p in load_detector(tmp_path / "run").parameters())


def test_weights_that_go_nan_are_never_the_best(streets: Path, tmp_path: Path) -> None:
    made = trainer(streets, tmp_path / "run", evaluate_every=1, log_every=50)
    real = made.step

    def poison(step: int, batches: Any) -> Any:
        parts = real(step, batches)
        with torch.no_grad():
            next(iter(made.live.parameters())).fill_(float("nan"))
        return parts

    made.step = poison  # type: ignore[method-assign]
    with pytest.raises(NightaugError, match=r"weights of the detector .* before step 1; no state was saved yet"):
        made.run()
    assert not list((tmp_path / "run").glob("*.safetensors")), "an AP of 0 would have been the best so far"


def test_two_processes_train_the_same_detector(streets: Path, tmp_path: Path) -> None:
    apart, moved = two_against_one(streets, tmp_path, TINY | {"fcos": TINY["fcos"] | {"norm": "group"}})
    assert apart < 1e-3 * moved


def test_a_step_that_overflows_in_fp16_is_stepped_over(
    streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scaler begins with a factor that overflows; the optimiser skips such steps, and the run goes on."""
    made = trainer(streets, tmp_path / "run")
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    group = next(made.batches(0))
    assert not made.step(0, group)["gradient_norm"].isfinite()
    monkeypatch.setattr(made.accelerator, "scaler", torch.amp.GradScaler("cpu"))
    assert made.step(0, group)["gradient_norm"] == 0


def test_rates_follow_the_schedule() -> None:
    s = build(DetectorSettings, {"steps": 100, "warmup": 10})
    assert rate_factor(0, s) == pytest.approx(0.1)
    assert rate_factor(9, s) == pytest.approx(1.0)
    assert rate_factor(55, s) == pytest.approx(0.505, abs=1e-3)
    assert rate_factor(100, s) == pytest.approx(0.01)
    steps = build(DetectorSettings, {"steps": 100, "warmup": 0, "schedule": "step", "drops": [0.5, 0.8]})
    assert [rate_factor(at, steps) for at in (0, 50, 90)] == pytest.approx([1, 0.1, 0.01])
    assert learning_rate(build(DetectorSettings, {}), 32) == pytest.approx(0.02)
    assert learning_rate(build(DetectorSettings, {"optimizer": "adamw"}), 64) == pytest.approx(0.002)


def test_norms_and_biases_are_not_decayed() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    optimizer = make_optimizer(network, build(DetectorSettings, {"weight_decay": 0.1}), 0.1)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert [sum(p.numel() for p in group["params"]) for group in optimizer.param_groups] == [18, 6]
