"""What the training loops of translators and detectors share: sample order, loss means, agreement, halts, boards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import Sampler

from nightaug.errors import NightaugError
from nightaug.runs import RunFolder


class StepSampler(Sampler[int]):
    """Sample numbers of one process from forward pass ``start`` to ``stop``, passes counted over all processes.

    Together the processes walk the samples in order, so that several processes see what one with a batch as large
    as all of theirs would see.
    """

    def __init__(self, start: int, stop: int, batch: int, rank: int, world: int) -> None:
        self.start, self.stop, self.batch, self.rank, self.world = start, stop, batch, rank, world

    def __len__(self) -> int:
        return (self.stop - self.start) * self.batch

    def __iter__(self) -> Iterator[int]:
        for step in range(self.start, self.stop):
            first = (step * self.world + self.rank) * self.batch
            yield from range(first, first + self.batch)


class LossMeans:
    """Losses since the last line of metrics; part of the training state, so that a resumed run writes the same lines.

    Attributes:
        sums: name -> sum over steps, on the device (reading one would wait for a GPU).
        since: the step of the last line.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.since = 0

    def add(self, parts: Mapping[str, Tensor], share: float = 1.0) -> None:
        """Add ``share`` times each part."""
        accumulate(self.sums, parts, share)

    def take(self, accelerator: Accelerator, step: int) -> dict[str, float]:
        """Means per step over all processes since the last call; starts anew."""
        names = sorted(self.sums)
        stacked: Tensor = accelerator.reduce(torch.stack([self.sums[name] for name in names]), "mean")
        means = {name: value / (step - self.since) for name, value in zip(names, stacked.tolist(), strict=True)}
        self.sums, self.since = {}, step
        return means

    def not_finite(self) -> list[str]:
        """Names of the sums that became NaN or infinite."""
        return [name for name, value in self.sums.items() if not bool(value.isfinite())]

    def state(self) -> dict[str, Any]:
        return {"sums": self.sums, "logged": self.since}

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take up what :meth:`state` gave."""
        self.sums = {key: value.to(device) for key, value in state["sums"].items()}
        self.since = state["logged"]


def accumulate(sums: dict[str, Tensor], parts: Mapping[str, Tensor], share: float) -> None:
    """Add ``share`` times each part to its sum, without gradient."""
    for name, value in parts.items():
        sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value.detach().float() * share


def agree(accelerator: Accelerator, requested: bool) -> bool:
    """Whether any process asks to stop: in a group all must do the same, else the others wait for ever."""
    if accelerator.num_processes == 1:
        return requested
    flag = torch.tensor([float(requested)], device=accelerator.device)
    reduced: Tensor = accelerator.reduce(flag, "sum")
    return bool(reduced.item() > 0)


def refuse_not_finite(folder: RunFolder, bad: list[str], at: int, advice: str) -> None:
    """Stop where something became NaN or infinite, saying what, when, and where to go on from.

    Raises:
        NightaugError: ``bad`` is not empty.
    """
    if bad:
        good = folder.latest_state()
        where = f"the last good state is step {good}" if good else "no state was saved yet"
        raise NightaugError(f"{', '.join(bad)} became non-finite at or before step {at}; {where}: go on with {advice}")


def names_not_finite(values: Mapping[str, float]) -> list[str]:
    """Names of the values that are NaN or infinite."""
    return [name for name, value in values.items() if not math.isfinite(value)]


@contextmanager
def training_errors(out: Path, smaller: str) -> Iterator[None]:
    """Turn a full memory and a full disk into one line that says what to do.

    Args:
        smaller: which settings need less memory.

    Raises:
        NightaugError: in place of torch's and the system's errors.
    """
    try:
        yield
    except RuntimeError as error:
        # A CPU's allocator has no error of its own.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise NightaugError(f"out of memory: use {smaller}; the newest state is kept, --resume continues") from error
    except OSError as error:
        raise NightaugError(
            f"cannot write to {out}: {error.strerror or error}; the newest state is kept, --resume continues"
        ) from error


def duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def open_board(path: Path, start: int) -> Any:
    """A TensorBoard writer that forgets what was written after ``start``, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(path / "tensorboard"), purge_step=start + 1)  # type: ignore[no-untyped-call]


def write_scalars(board: Any, step: int, values: Mapping[str, float]) -> None:
    """Put values on a board; None takes nothing."""
    if board is not None:
        for name, value in values.items():
            board.add_scalar(name, value, step)
