from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from nightaug.config import build
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import NightaugError
from nightaug.runs import RunFolder
from nightaug.training import (
    LossMeans,
    MovingAverage,
    StepSampler,
    TrainingProcess,
    accumulate,
    agree,
    duration,
    halt,
    open_board,
    room,
    spoilt_weights,
    training_errors,
    write_scalars,
)


def test_processes_together_see_what_one_would() -> None:
    one = list(StepSampler(2, 5, 4, 0, 1))
    two = [list(StepSampler(2, 5, 2, rank, 2)) for rank in range(2)]
    merged = [i for step in range(3) for rank in range(2) for i in two[rank][step * 2 : step * 2 + 2]]
    assert merged == one
    assert len(StepSampler(2, 5, 2, 0, 2)) == len(two[0])


def test_means_are_per_step_and_survive_a_stop() -> None:
    accelerator = Accelerator(cpu=True)
    whole, halves = LossMeans(), LossMeans()
    for step in range(4):
        parts = {"a": torch.tensor(float(step), requires_grad=True), "b": torch.tensor(2.0)}
        whole.add(parts)
        halves.add(parts)
        if step == 1:
            saved = halves.state()
            halves = LossMeans()
            halves.load(saved, torch.device("cpu"))
    assert whole.take(accelerator, 4) == halves.take(accelerator, 4) == {"a": 1.5, "b": 2.0}
    whole.add({"a": torch.tensor(8.0)})
    assert whole.take(accelerator, 6) == {"a": 4.0}


def test_shares_add_up() -> None:
    sums: dict[str, torch.Tensor] = {}
    for value in (1.0, 3.0):
        accumulate(sums, {"x": torch.tensor(value)}, 0.5)
    assert sums["x"].item() == 2.0


def test_what_is_not_finite_is_named_with_its_step() -> None:
    accelerator = Accelerator(cpu=True)
    means = LossMeans()
    assert means.not_finite(0) == {}
    values = [(1.0, 1.0), (2.0, 1.0), (float("inf"), 1.0), (1.0, float("nan")), (1.0, 1.0)]
    for first, second in values:
        means.add({"first": torch.tensor(first), "second": torch.tensor(second), "good": torch.tensor(1.0)})
    for asked in (None, accelerator):
        assert means.not_finite(105, asked) == {"first": 103, "second": 104}
    means.take(accelerator, 105)
    means.add({"good": torch.tensor(1.0)})
    assert means.not_finite(106) == {}


def test_weights_and_running_statistics_are_looked_at() -> None:
    network = torch.nn.BatchNorm1d(2)
    assert spoilt_weights({"it": network, "none": None}) == []
    network.running_var[1] = float("inf")
    assert spoilt_weights({"good": torch.nn.Linear(1, 1), "it": network}) == ["it"]


class Process(TrainingProcess):
    def advice(self) -> str:
        return "less"


def process(out: Path) -> Process:
    return Process(out, build(DetectorSettings, {"mixed_precision": "fp32"}), cpu=True)


def test_a_mean_that_is_not_finite_halts(tmp_path: Path) -> None:
    training = process(tmp_path)
    training.means.add({"x": torch.tensor(float("nan")), "y": torch.tensor(0.0)})
    training.means.add({"x": torch.tensor(0.0), "y": torch.tensor(float("nan"))})
    # What follows from the first is not named.
    with pytest.raises(
        NightaugError, match=r"^x became non-finite in step 3; no state was saved yet: go on with less$"
    ):
        training.take_means(4)


def test_a_halt_says_what_when_and_where_to_go_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    halt(folder, {}, [], 3, "less")
    with pytest.raises(NightaugError, match=r"^box, cls became non-finite in step 7; no state was saved yet: go on"):
        halt(folder, {"box": 7, "late": 9, "cls": 7}, ["detector"], 10, "less")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "last.json").write_text(json.dumps({"step": 5}))
    said = (
        rf"weights of the a, b became non-finite at or before epoch 7; the last good state is epoch 5, in {tmp_path}: "
    )
    with pytest.raises(NightaugError, match=said + "go on with less"):
        halt(folder, {}, ["a", "b"], 7, "less", "epoch")


def test_full_memory_and_full_disk_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(NightaugError, match="out of memory: use batch=1"), training_errors(tmp_path, "batch=1"):
        raise torch.OutOfMemoryError("x")
    with pytest.raises(NightaugError, match="out of memory: use batch=1"), training_errors(tmp_path, "batch=1"):
        torch.zeros(2**50)
    with pytest.raises(RuntimeError, match="something else"), training_errors(tmp_path, ""):
        raise RuntimeError("something else")
    with pytest.raises(NightaugError, match=r"No space left.*; nothing was saved yet"), training_errors(tmp_path, ""):
        raise OSError(28, "No space left on device")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "last.json").write_text('{"step": 40}')
    with pytest.raises(NightaugError, match="the state of step 40 is kept, --resume"), training_errors(tmp_path, ""):
        raise OSError(28, "No space left on device")


def test_an_estimate_warns_of_too_little_disk(tmp_path: Path) -> None:
    assert room(tmp_path / "not" / "there", 2e6) == ", 2 MB on disk"
    assert re.search(r" MB on disk \(warning: [\d,]+ MB are free in .*run\)$", room(tmp_path / "run", 1e21))


def test_one_process_agrees_with_itself() -> None:
    accelerator = Accelerator(cpu=True)
    assert agree(accelerator, True)
    assert not agree(accelerator, False)


def test_boards_take_scalars(tmp_path: Path) -> None:
    board = open_board(tmp_path, 0)
    write_scalars(board, 1, {"x": 1.0})
    write_scalars(None, 1, {"x": 1.0})
    board.close()
    assert list((tmp_path / "tensorboard").iterdir())


def test_durations() -> None:
    assert [duration(s) for s in (12, 600, 9000)] == ["12 s", "10 min", "2.5 h"]


def test_the_average_follows_early_and_slowly_later() -> None:
    live = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        live.weight.fill_(0.0)
    average = MovingAverage(live, 0.99)
    with torch.no_grad():
        live.weight.fill_(1.0)
    average.update(live, 0)
    assert average.network.weight.item() == pytest.approx(0.9)
    slow = MovingAverage(live, 0.99, settled=True)
    with torch.no_grad():
        live.weight.fill_(2.0)
    slow.update(live, 0)
    assert slow.network.weight.item() == pytest.approx(1.01)
    with torch.no_grad():
        live.weight.fill_(1.0)
    average.update(live, 100_000)
    assert average.network.weight.item() == pytest.approx(0.9 + 0.1 * 0.01)
