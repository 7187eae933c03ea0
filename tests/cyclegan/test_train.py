from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from cyclegan_runs import TINY, command, ctrl_c_in_the_second_step, interrupted_at, same, weights
from helpers import picture

from nightaug.config import build
from nightaug.cyclegan.checkpoint import read_generator
from nightaug.cyclegan.dataset import to_tensor
from nightaug.cyclegan.loop import rate_factor
from nightaug.cyclegan.recipe import epoch_steps, run_recipe
from nightaug.cyclegan.settings import TranslatorSettings
from nightaug.cyclegan.train import Trainer
from nightaug.errors import ConfigError, NightaugError
from nightaug.images import write_image
from nightaug.runs import RunFolder


def translated(run: Path) -> torch.Tensor:
    """What the run's generator makes of a picture. Compared instead of weights where sums may be ordered
    otherwise: a bias before an InstanceNorm has no gradient but float noise, which Adam blows up to full steps
    without any effect on the output."""
    net = read_generator(run / "last.safetensors", "day2night")
    with torch.no_grad():
        out: torch.Tensor = net(to_tensor(picture(9, 64, 64))[None])
    return out


@pytest.mark.parametrize(
    "extra", [{}, {"accumulate": 2, "augmentation": {"discriminator": ["color", "translation", "cutout"]}}]
)
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(
    domains: Path, tmp_path: Path, extra: dict[str, Any]
) -> None:
    run_recipe(domains, tmp_path / "whole", [TINY, extra])
    # The newest state is that of step 3, so steps 4 and 5 are made again.
    interrupted_at(5, Trainer(domains, tmp_path / "parts", build(TranslatorSettings, TINY, extra)))
    result = run_recipe(domains, tmp_path / "parts", [TINY, extra], resume=True)
    assert result is not None
    assert result.finished
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    for name in ("metrics.jsonl", "config.yaml", "best.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name


@pytest.mark.parametrize("processes", [1, 2])
def test_kill_minus_nine_loses_only_what_came_after_the_last_state(
    domains: Path, tmp_path: Path, processes: int
) -> None:
    settings = TINY | {"steps": 40, "save_every": 2, "sample_every": 100}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # A group of its own, so that torchrun's children are killed with it.
    process = subprocess.Popen(
        command(processes, domains, tmp_path / "killed", settings), start_new_session=True, **quiet
    )
    state = tmp_path / "killed" / "state" / "last.json"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert state.exists()
    for name, more in (("killed", ["--resume"]), ("whole", [])):
        # gloo's workers sometimes abort after they have finished: the written results are the judge.
        subprocess.run(
            [*command(processes, domains, tmp_path / name, settings), *more], check=False, timeout=300, **quiet
        )
    for name in ("last.safetensors", "best.safetensors", "metrics.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.parametrize("resume", [False, True])
def test_a_dataset_is_no_run_folder(domains: Path, resume: bool) -> None:
    before = sorted(domains.rglob("*"))
    with pytest.raises(ConfigError, match="is not empty and holds no run; choose another --out"):
        run_recipe(domains, domains, [TINY], resume=resume)
    assert sorted(domains.rglob("*")) == before


def test_ctrl_c_saves_and_stops_cleanly(domains: Path, tmp_path: Path) -> None:
    trainer = Trainer(domains, tmp_path / "run", build(TranslatorSettings, TINY, {"steps": 1000}))
    ctrl_c_in_the_second_step(trainer)
    result = trainer.run(False)
    assert (result.step, result.finished) == (2, False)
    assert trainer.folder.latest_state() == 2
    assert weights(tmp_path / "run")


def test_ctrl_c_in_the_last_step_leaves_a_whole_run_that_says_so(domains: Path, tmp_path: Path) -> None:
    trainer = Trainer(domains, tmp_path / "run", build(TranslatorSettings, TINY, {"steps": 2}))
    ctrl_c_in_the_second_step(trainer)
    result = trainer.run(False)
    assert (result.step, result.finished, result.interrupted) == (2, True, True)
    again = Trainer(domains, tmp_path / "run", build(TranslatorSettings, TINY, {"steps": 2})).run(True)
    assert (again.finished, again.interrupted) == (True, False)


def test_it_learns(domains: Path, tmp_path: Path) -> None:
    run_recipe(
        domains, tmp_path / "run", [TINY, {"steps": 60, "width": 8, "learning_rate": 1e-3, "log_every": 10, "ema": 0.8}]
    )
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row for row in rows if "cycle_a" in row]
    assert losses[-1]["cycle_a"] + losses[-1]["cycle_b"] < 0.6 * (losses[0]["cycle_a"] + losses[0]["cycle_b"])
    assert {
        "adversarial_a2b",
        "adversarial_b2a",
        "identity_a",
        "identity_b",
        "discriminator_a",
        "discriminator_b",
    } <= set(losses[0])
    scores = [row["score"] for row in rows if "score" in row]
    assert scores[-1] < scores[0]
    assert (tmp_path / "run" / "samples" / "step-0000060.jpg").exists()


def first_gradients(run: Path) -> torch.Tensor:
    """Gradients of the first step, from Adam's state after it. Weights would not do: Adam turns float noise on
    vanishing gradients (of every bias before an InstanceNorm, say) into full steps."""
    state = RunFolder(run).load_state(1, 0)
    moments = [
        torch.cat([entry["exp_avg"].flatten() for entry in state[name]["state"].values()])
        for name in ("opt_g", "opt_d")
    ]
    return torch.cat(moments)


def apart(first: torch.Tensor, second: torch.Tensor) -> float:
    """Relative distance. Equal runs are not at 1e-7: in a network this small, one value that float noise pushes
    over the kink of a ReLU changes the gradient of everything before it by some tenths of a percent."""
    return float((first - second).norm() / first.norm())


# Without the replay buffer, whose coin falls per image in another order.
ONE_STEP = TINY | {"steps": 1, "replay_buffer": 0, "sample_every": 9, "ema": 0}


def test_accumulating_equals_a_larger_batch(domains: Path, tmp_path: Path) -> None:
    run_recipe(domains, tmp_path / "batch", [ONE_STEP, {"batch": 2}])
    run_recipe(domains, tmp_path / "accumulate", [ONE_STEP, {"accumulate": 2}])
    run_recipe(domains, tmp_path / "single", [ONE_STEP])
    assert apart(first_gradients(tmp_path / "batch"), first_gradients(tmp_path / "accumulate")) < 0.02
    assert apart(first_gradients(tmp_path / "batch"), first_gradients(tmp_path / "single")) > 0.2


def test_two_processes_equal_one_with_the_same_global_batch(domains: Path, tmp_path: Path) -> None:
    run_recipe(domains, tmp_path / "one", [ONE_STEP, {"batch": 2}])
    # gloo's workers sometimes abort after they have finished: the written results are the judge.
    subprocess.run(command(2, domains, tmp_path / "two", ONE_STEP), check=False, capture_output=True, timeout=300)
    assert (tmp_path / "two" / "last.safetensors").exists()
    assert apart(first_gradients(tmp_path / "one"), first_gradients(tmp_path / "two")) < 0.02
    assert sorted(path.name for path in (tmp_path / "two" / "state" / "step-000000001").iterdir()) == [
        "rank-0.pt",
        "rank-1.pt",
    ]


def test_a_loss_that_goes_nan_stops_with_its_name_and_the_last_state(domains: Path, tmp_path: Path) -> None:
    trainer = Trainer(domains, tmp_path / "run", build(TranslatorSettings, TINY, {"log_every": 1}))
    original = trainer.step

    def poisoned(step: int, batches: Any) -> Any:
        parts = original(step, batches)
        return parts | ({"cycle_a": parts["cycle_a"] * float("nan")} if step == 4 else {})

    trainer.step = poisoned  # type: ignore[method-assign]
    with pytest.raises(NightaugError, match=r"cycle_a became non-finite in step 5; the last good state is step 3"):
        trainer.run(False)


def test_used_folders_and_changed_runs_are_refused(domains: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_recipe(domains, out, [TINY])
    before = (out / "last.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="--resume"):
        run_recipe(domains, out, [TINY])
    with pytest.raises(ConfigError, match="width was 4, is 8"):
        run_recipe(domains, out, [TINY, {"width": 8}], resume=True)
    (domains / "train" / "A" / "trainA0.png").unlink()
    with pytest.raises(ConfigError, match="other images"):
        run_recipe(domains, out, [TINY, {"steps": 8}], resume=True)
    held = Trainer(domains, out, build(TranslatorSettings, TINY))
    held.folder.start(held.settings, True)
    with pytest.raises(ConfigError, match="in use by another process"):
        run_recipe(domains, out, [TINY], resume=True)
    held.folder.close()
    assert (out / "last.safetensors").read_bytes() == before


def test_a_finished_run_can_be_made_longer(domains: Path, tmp_path: Path) -> None:
    run_recipe(domains, tmp_path / "run", [TINY])
    result = run_recipe(domains, tmp_path / "run", [TINY, {"steps": 8}], resume=True)
    assert result is not None
    assert (result.step, result.finished) == (8, True)


def test_a_finished_run_keeps_the_settings_it_was_trained_with(domains: Path, tmp_path: Path) -> None:
    out, lines = tmp_path / "run", list[str]()
    run_recipe(domains, out, [TINY], resume=True, say=lines.append)
    assert lines[0] == f"no run in {out} yet, so --resume begins one"
    before = (out / "config.yaml").read_bytes()
    for change in ({"learning_rate": 1e-3}, {"steps": 5}):
        result = run_recipe(domains, out, [TINY, change], resume=True, say=lines.append)
        assert result is not None
        assert (result.step, result.finished) == (6, True)
        assert (out / "config.yaml").read_bytes() == before
        assert "nothing was left to do at step 6" in lines[-1]
    run_recipe(domains, out, [TINY, {"steps": 7, "learning_rate": 1e-3}], resume=True, say=lines.append)
    assert "nothing was left" not in lines[-1]
    assert "learning_rate: 0.001" in (out / "config.yaml").read_text()


def test_dry_run_writes_nothing(domains: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    assert run_recipe(str(domains), str(tmp_path / "run"), [TINY], epochs=3, dry_run=True, say=lines.append) is None
    assert not (tmp_path / "run").exists()
    assert "6 day and 5 night images" in lines[0]
    assert "18 steps" in lines[0]
    assert "estimate:" in lines[1]


def test_learning_rate_is_constant_then_linear_to_zero() -> None:
    assert [rate_factor(step, 100, 0.5) for step in (0, 49, 50, 75, 100)] == [1, 1, 1, 0.5, 0]
    assert rate_factor(99, 100, 1.0) == 1
    assert epoch_steps(2, 10, 4) == 6


def test_bf16_starts_where_fp32_does(domains: Path, tmp_path: Path) -> None:
    totals = []
    for precision in ("fp32", "bf16"):
        trainer = Trainer(
            domains, tmp_path / precision, build(TranslatorSettings, TINY, {"mixed_precision": precision, "width": 16})
        )
        parts = trainer.step(0, next(iter(trainer.batches(0))))
        totals.append(sum(float(v) * (10 if "cycle" in k else 5 if "identity" in k else 1) for k, v in parts.items()))
    assert totals[0] == pytest.approx(totals[1], rel=1e-3)


def test_weights_that_go_nan_never_replace_a_good_state(domains: Path, tmp_path: Path) -> None:
    settings = TINY | {"log_every": 50, "ema": 0, "steps": 12}
    trainer = Trainer(domains, tmp_path / "run", build(TranslatorSettings, settings))
    original = trainer.step

    def poisoned(step: int, batches: Any) -> Any:
        parts = original(step, batches)
        if step == 4:
            with torch.no_grad():
                next(iter(trainer.generators.parameters())).fill_(float("nan"))
        return parts

    trainer.step = poisoned  # type: ignore[method-assign]
    with pytest.raises(
        NightaugError, match=r"non-finite in step 6; the last good state is step 3, in .*: go on with --resume"
    ):
        trainer.run(False)
    trainer.folder.close()
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())
    # The remedy in the message works.
    result = run_recipe(domains, tmp_path / "run", [settings, {"learning_rate": 1e-5}], resume=True)
    assert result is not None
    assert result.finished


def test_weights_that_go_nan_are_never_the_best(domains: Path, tmp_path: Path) -> None:
    trainer = Trainer(domains, tmp_path / "run", build(TranslatorSettings, TINY, {"log_every": 50, "sample_every": 1}))
    original = trainer.step

    def poisoned(step: int, batches: Any) -> Any:
        parts = original(step, batches)
        with torch.no_grad():
            next(iter(trainer.generators.parameters())).fill_(float("inf"))
        return parts

    trainer.step = poisoned  # type: ignore[method-assign]
    with pytest.raises(NightaugError, match=r"weights of the generators .* before step 1; no state was saved yet"):
        trainer.run(False)
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_a_learning_rate_that_is_far_too_high_ends_in_one_line(domains: Path, tmp_path: Path) -> None:
    with pytest.raises(NightaugError, match=r"^\w+.* became non-finite in step [2-6]; .*learning_rate"):
        run_recipe(domains, tmp_path / "run", [TINY, {"learning_rate": 1e30, "save_every": 100}])


def test_unreadable_and_tiny_images_do_not_stop_a_run(domains: Path, tmp_path: Path) -> None:
    for path in (domains / "val" / "A").iterdir():
        path.write_bytes(b"no image")
    (domains / "train" / "A" / "trainA0.png").write_bytes(b"no image")
    for path in (domains / "train" / "B").iterdir():
        write_image(path, picture(1, 40, 24, level=0.2))
    result = run_recipe(domains, tmp_path / "run", [TINY])
    assert result is not None
    assert (result.finished, result.unreadable) == (True, 1)
    assert "1 training images could not be read" in (tmp_path / "run" / "log.txt").read_text()
    assert (tmp_path / "run" / "samples" / "step-0000006.jpg").exists()
