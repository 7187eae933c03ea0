"""Small translator runs for tests: settings, results, and ways to stop them."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nightaug.cyclegan.loop import CropTrainer
from nightaug.runs import load_weights

TINY: dict[str, Any] = {
    "width": 4, "blocks": 1, "discriminator_width": 4, "crop": 64, "load_size": 64, "steps": 6, "log_every": 2,
    "sample_every": 4, "save_every": 3, "score_images": 2, "sample_height": 64, "replay_buffer": 3,
    "mixed_precision": "fp32", "tensorboard": False,
}  # fmt: skip


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_weights(run / "last.safetensors")[0]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def ctrl_c_in_the_second_step(trainer: CropTrainer) -> None:
    """Make a training interrupt itself."""
    original = trainer.step

    def interrupt(step: int, batches: Any) -> Any:
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(step, batches)

    trainer.step = interrupt  # type: ignore[method-assign]


def interrupted_at(step: int, trainer: CropTrainer) -> None:
    """Run a training that is cut off after so many steps, without the chance to save."""
    steps = iter(trainer.batches(0))

    def only(start: int) -> Any:
        for _ in range(step):
            yield next(steps)
        raise KeyboardInterrupt

    trainer.batches = only  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run(False)
    trainer.folder.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def command(processes: int, data: Path, out: Path, settings: dict[str, Any]) -> list[str]:
    """``nightaug train-translator`` in one process, or under torchrun in several."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", str(free_port())]
    start += ["-m", "nightaug", "train-translator", str(data), "--out", str(out), "--cpu"]
    return start + [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
