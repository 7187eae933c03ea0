"""What the training of translators and of detectors shares: process, sample order, means, averages, halts, boards."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn
from torch.utils.data import Sampler

from nightaug.config import Settings
from nightaug.errors import CheckpointError, NightaugError
from nightaug.runs import RunFolder, StopRequest, free_space, resolve_precision

#: A process that dies is noticed at once, a machine that vanishes after this long. More than the longest thing that one
#: process does while the others wait: scoring and evaluating.
GROUP_TIMEOUT = timedelta(minutes=30)


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


Network = TypeVar("Network", bound=nn.Module)


class MovingAverage(Generic[Network]):
    """Exponential moving average of a network's weights and running statistics: what is saved and evaluated.

    Args:
        network: copied; on its device.
        decay: of the average; early steps follow closely, so that it does not remember the initial noise.
        settled: the network is no noise: the average moves slowly from the first step on.
    """

    def __init__(self, network: Network, decay: float, settled: bool = False) -> None:
        self.network: Network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay, self.settled = decay, settled

    @torch.no_grad()
    def update(self, live: nn.Module, step: int) -> None:
        """Move towards the weights of ``live`` after step ``step`` (from 0)."""
        decay = self.decay if self.settled else min(self.decay, (1 + step) / (10 + step))
        own, new = self.network.state_dict(), live.state_dict()
        floats = [key for key, value in own.items() if value.is_floating_point()]
        torch._foreach_lerp_([own[key] for key in floats], [new[key] for key in floats], 1 - decay)
        for key, value in own.items():
            if not value.is_floating_point():
                value.copy_(new[key])


class LossMeans:
    """Losses since the last line of metrics; part of the training state, so that a resumed run writes the same lines.

    Attributes:
        sums: name -> sum over steps, on the device (reading one would wait for a GPU).
        spoilt: name -> in how many of the last steps the sum was NaN or infinite, on the device. A sum that is so once
            stays so, and a training state is never saved with one: this needs no place in it.
        since: the step of the last line.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.spoilt: dict[str, Tensor] = {}
        self.since = 0

    def add(self, parts: Mapping[str, Tensor], share: float = 1.0) -> None:
        """Add ``share`` times each part of one step."""
        accumulate(self.sums, parts, share)
        for name, value in self.sums.items():
            self.spoilt[name] = self.spoilt.get(name, 0) + (~value.isfinite()).long()

    def take(self, accelerator: Accelerator, step: int) -> dict[str, float]:
        """Means per step over all processes since the last call; starts anew."""
        names = sorted(self.sums)
        stacked: Tensor = accelerator.reduce(torch.stack([self.sums[name] for name in names]), "mean")
        means = {name: value / (step - self.since) for name, value in zip(names, stacked.tolist(), strict=True)}
        self.sums, self.spoilt, self.since = {}, {}, step
        return means

    def not_finite(self, at: int, accelerator: Accelerator | None = None) -> dict[str, int]:
        """The losses that became NaN or infinite, and in which step (from 1).

        Args:
            at: steps done.
            accelerator: ask all processes, which then must all ask; None: this one alone.
        """
        if not self.spoilt:
            return {}
        names = sorted(self.spoilt)
        counts = torch.stack([self.spoilt[name] for name in names])
        if accelerator is not None:
            counts = accelerator.gather(counts[None]).amax(0)
        return {name: at - count + 1 for name, count in zip(names, counts.tolist(), strict=True) if count}

    def state(self) -> dict[str, Any]:
        return {"sums": self.sums, "logged": self.since}

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take up what :meth:`state` gave."""
        self.sums = {key: value.to(device) for key, value in state["sums"].items()}
        self.spoilt, self.since = {}, state["logged"]


class TrainingProcess:
    """What a training process has, whatever it trains: settings, run folder, accelerator, loss means.

    Args:
        run: run folder.
        settings: of the run; may be replaced until :meth:`claim`.
        cpu: do not use a GPU.

    Attributes:
        may_change: settings that a resumed run may have different.
        say: takes what a user should read, in the main process.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """

    settings: Any
    may_change: tuple[str, ...] = ()

    def __init__(self, run: Path, settings: Settings, cpu: bool) -> None:
        self.settings, self.folder = settings, RunFolder(run)
        self._claimed = False
        cpu = cpu or not torch.cuda.is_available()
        # accelerate keeps the first precision for the whole process; a second run may want another one.
        AcceleratorState._reset_state()
        self.precision = resolve_precision(self.settings.mixed_precision, cpu)
        self.accelerator = Accelerator(
            cpu=cpu,
            mixed_precision={"fp32": "no"}.get(self.precision, self.precision),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=GROUP_TIMEOUT)],
        )
        self.means = LossMeans()
        self.say: Callable[[str], None] = lambda text: None

    @property
    def global_batch(self) -> int:
        """Images of one optimiser step, over all processes."""
        return int(self.settings.batch * self.settings.accumulate * self.accelerator.num_processes)

    @property
    def workers(self) -> int:
        """Processes that decode images: as set, else none on a CPU and 4 on a GPU."""
        set_by_user: int | None = self.settings.workers
        return set_by_user if set_by_user is not None else (4 if self.on_gpu else 0)

    @property
    def on_gpu(self) -> bool:
        return bool(self.accelerator.device.type == "cuda")

    def sampler(self, start: int) -> StepSampler:
        """This process's sample numbers from optimiser step ``start`` on."""
        settings, accelerator = self.settings, self.accelerator
        passes = (start * settings.accumulate, settings.steps * settings.accumulate)
        return StepSampler(*passes, settings.batch, accelerator.process_index, accelerator.num_processes)

    def claim(self, resume: bool) -> None:
        """Take the run folder, once; a folder that cannot take this run is refused before any work."""
        if self.accelerator.is_main_process and not self._claimed:
            self.folder.start(self.settings, resume, self.may_change, self.say)
            self._claimed = True

    def begin(self, resume: bool) -> int:
        """Take the run folder and the newest state, if the run is to go on; the step to begin with."""
        self.claim(resume)
        self.accelerator.wait_for_everyone()
        start = (self.folder.latest_state() if resume else None) or 0
        if start:
            self.load(start)
        return start

    def write_settings(self, start: int, trains: bool) -> None:
        """Record the settings in the run folder, in the main process.

        Args:
            start: steps done.
            trains: steps follow. If none does, the record stays: the weights know nothing of these settings.
        """
        if not self.accelerator.is_main_process:
            return
        if trains or not self.folder.config_path.exists():
            self.folder.write_settings(self.settings)
        else:
            self.say(f"nothing was left to do at step {start:,}: the run and its settings stay as they were")

    def load(self, step: int) -> None:
        """Continue from the state of ``step``."""
        raise NotImplementedError

    def read_state(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """This process's part of the state of ``step``, and the main process's, which holds the networks."""
        own = self.folder.load_state(step, self.accelerator.process_index)
        return own, own if self.accelerator.is_main_process else self.folder.load_state(step, 0)

    def save(self, step: int, ends: bool = True) -> None:
        """Write the training state and ``last.safetensors``; a state with NaN in it never replaces a good one.

        ``ends``: training stops here. In between nobody uses the weights.
        """
        self.check_finite(step)
        self.folder.save_state(step, self.accelerator.process_index, self.state())
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            # Weights first: killed in between, the run makes these steps again and ends with the same weights, while
            # the other way round a finished run could be left with older ones.
            self.write_last(step, ends)
            self.folder.commit_state(step)

    def state(self) -> dict[str, Any]:
        """This process's part of the training state."""
        raise NotImplementedError

    def write_last(self, step: int, ends: bool) -> None:
        """Write ``last.safetensors``; see :meth:`save`."""
        raise NotImplementedError

    def asked_to_stop(self, stop: StopRequest, done: int, before: bool) -> bool:
        """Whether to stop after ``done`` steps; several processes ask each other every tenth step only."""
        if done % 10 == 0 or self.accelerator.num_processes == 1:
            return agree(self.accelerator, stop.requested)
        return before

    def take_means(self, at: int) -> dict[str, float]:
        """Mean losses of all processes since the last call.

        Raises:
            NightaugError: one became NaN or infinite.
        """
        bad = self.means.not_finite(at, self.accelerator)
        means = self.means.take(self.accelerator, at)
        halt(self.folder, bad, [], at, self.advice())
        return means

    def advice(self) -> str:
        """What to go on with where a loss became NaN or infinite."""
        raise NotImplementedError

    def networks(self) -> Mapping[str, nn.Module | None]:
        """Name -> everything trained or saved; None is passed over."""
        raise NotImplementedError

    def check_finite(self, at: int) -> None:
        """Stop before anything is saved or called the best, ``at`` steps done; see :func:`halt`."""
        halt(self.folder, self.means.not_finite(at), spoilt_weights(self.networks()), at, self.advice())


def spoilt_weights(networks: Mapping[str, nn.Module | None]) -> list[str]:
    """Names of the networks that hold a NaN or an infinite number, in weights or running statistics."""
    return [
        name
        for name, network in networks.items()
        if network is not None
        and not all(bool(each.isfinite().all()) for each in network.state_dict().values() if each.is_floating_point())
    ]


def halt(
    folder: RunFolder, losses: Mapping[str, int], networks: Sequence[str], at: int, advice: str, unit: str = "step"
) -> None:
    """Stop where something became NaN or infinite, saying what, when, and where to go on from.

    Args:
        losses: name -> the step in which it did; those of the first such step are named, others follow from them.
        networks: names of those whose weights did.
        at: steps done.
        advice: what to go on with.
        unit: what is counted, ``step`` or ``epoch``.

    Raises:
        NightaugError: ``losses`` or ``networks`` are not empty.
    """
    if losses:
        first = min(losses.values())
        found = (
            f"{', '.join(name for name, step in losses.items() if step == first)} became non-finite in {unit} {first}"
        )
    elif networks:
        found = f"weights of the {', '.join(networks)} became non-finite at or before {unit} {at}"
    else:
        return
    good = folder.latest_state()
    where = f"the last good state is {unit} {good}, in {folder.path}" if good else "no state was saved yet"
    raise NightaugError(f"{found}; {where}: go on with {advice}")


Item = TypeVar("Item")


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], out: Path) -> None:
    """``load_state_dict`` that knows its own: torch takes Adam's state for SGD's and fails at the first step.

    Raises:
        CheckpointError: the state is of another optimiser, as ``config.yaml`` was changed.
    """
    # Of what tells optimisers apart: other keys come and go with torch's versions.
    own = {"momentum", "betas"}.intersection(optimizer.param_groups[0])
    missing = {key for group in state["param_groups"] for key in own.difference(group)}
    if missing:
        raise CheckpointError(
            f"the training state in {out} is of another optimiser (it has no {', '.join(sorted(missing))}); "
            "put back the config.yaml it was started with, or train into another --out"
        )
    optimizer.load_state_dict(state)


def grouped(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of ``size`` consecutive items, read no sooner than they are needed; what is left over is dropped."""
    group: list[Item] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []


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


@contextmanager
def training_errors(out: Path, smaller: str) -> Iterator[None]:
    """Turn a full memory, a full disk and a lost process into one line that says what to do.

    Args:
        smaller: which settings need less memory.

    Raises:
        NightaugError: in place of torch's and the system's errors.
    """
    try:
        yield
    except RuntimeError as error:
        if _lost_process(error):
            raise NightaugError(
                "another process of this training has ended or cannot be reached any more, see what it said; "
                "the newest state is kept: start all processes again with --resume"
            ) from error
        # A CPU's allocator has no error of its own.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise NightaugError(f"out of memory: use {smaller}; {_kept(out)}") from error
    except OSError as error:
        raise NightaugError(f"cannot write to {out}: {error.strerror or error}; {_kept(out)}") from error


def _kept(out: Path) -> str:
    """What a run that failed has left to go on from."""
    step = RunFolder(out).latest_state()
    return "nothing was saved yet" if step is None else f"the state of step {step:,} is kept, --resume continues"


def room(out: Path, need: float) -> str:
    """``", 361 MB on disk"`` for an estimate, with a warning where there is less."""
    free = free_space(out)
    short = f" (warning: {free / 1e6:,.0f} MB are free in {out})" if free < need else ""
    return f", {need / 1e6:,.0f} MB on disk{short}"


def _lost_process(error: RuntimeError) -> bool:
    """Whether processes that compute together have lost each other: gloo has no error of its own."""
    return isinstance(error, torch.distributed.DistError) or any(
        words in str(error) for words in ("gloo", "Connection closed by peer", "Connection reset by peer")
    )


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
