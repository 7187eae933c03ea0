"""The loop that translators are trained in, on crops of image folders: a laptop's CPU, one GPU, or several nodes.

Every random choice of step ``s`` is drawn from a generator seeded by (seed, s, process), and the data order is a pure
function of (seed, index); with the state a trainer saves that makes a killed and resumed run equal to one that was
never stopped.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nightaug import __version__
from nightaug.cyclegan.dataset import DomainFolders, UnpairedCrops, find_domains, make_loader, training_domains
from nightaug.cyclegan.settings import CropSettings
from nightaug.errors import ConfigError
from nightaug.runs import StopRequest, progress_bar
from nightaug.training import TrainingProcess, grouped, open_board, write_scalars

#: Settings a resumed run may have otherwise: those that do not change what the saved state means. Results then
#: are those of the new settings from that step on.
MAY_CHANGE = (
    "steps", "learning_rate", "batch", "accumulate", "mixed_precision", "workers", "tensorboard", "log_every",
    "sample_every", "save_every",
)  # fmt: skip


class TrainResult(NamedTuple):
    """How a run ended; ``unreadable`` counts the training images one process had to step over.

    ``interrupted``: Ctrl-C came, be it in the last step: whoever has more to do than this run stops here.
    """

    step: int
    finished: bool
    best_score: float | None
    unreadable: int = 0
    interrupted: bool = False


def rate_factor(step: int, steps: int, constant: float) -> float:
    """Learning rate of ``step`` relative to the full one: 1, then linear to 0 at ``steps``."""
    hold = steps * constant
    return 1.0 if step < hold else max(0.0, (steps - step) / max(steps - hold, 1e-9))


def fingerprint(files: DomainFolders) -> str:
    """Number of images of both domains and a hash of their names: a resumed run must see the same ones."""
    names = "\n".join(path.name for domain in files for path in domain)
    return f"{len(files.a)}+{len(files.b)} images, {hashlib.sha256(names.encode()).hexdigest()[:12]}"


def on_device(value: Tensor, device: torch.device) -> Tensor:
    """A tensor of a batch on the device, images in the memory order that convolutions prefer."""
    order = torch.channels_last if value.ndim == 4 else torch.preserve_format
    return value.to(device, non_blocking=True, memory_format=order)


def shown_means(means: dict[str, float]) -> str:
    """``adversarial 0.512 cycle 0.231 ...``: sums by a loss's first word, for the progress bar."""
    sums: dict[str, float] = {}
    for name, value in means.items():
        word = name.split("_", 1)[0]
        if word in ("adversarial", "cycle", "nce", "hallucination", "suppression"):
            sums[word] = sums.get(word, 0.0) + value
    return " ".join(f"{word} {value:.3f}" for word, value in sums.items())


#: From the folder for sample grids and the step to figures, among them ``score`` (lower is better) if it can be told.
Score = Callable[[Path, int], dict[str, float]]


class CropTrainer(TrainingProcess):
    """A training process on crops; :meth:`run` is the recipe, and the subclass says what a step is.

    Args:
        data: prepared dataset.
        run: run folder.
        settings: of the run; may be replaced until :meth:`claim`.
        cpu: do not use a GPU.

    Attributes:
        files: training images.
        validation: images that are scored.
        fingerprint: what a resumed run must see the same; a subclass adds to it.
        best_score: of ``best.safetensors``; None: no score yet.
    """

    settings: CropSettings
    may_change = MAY_CHANGE

    def __init__(self, data: Path, run: Path, settings: CropSettings, cpu: bool) -> None:
        super().__init__(run, settings, cpu)
        self.files = training_domains(data)
        # Scores never look at test images; without a val split the training images themselves are scored.
        held_out = find_domains(data, "val")
        self.validation = held_out if held_out and held_out.a and held_out.b else self.files
        self.fingerprint = fingerprint(self.files)
        self.best_score: float | None = None
        self._score: Score | None = None

    # -- what a subclass is asked for --------------------------------------------------------------------------

    def step(self, step: int, batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """One optimiser step; raw named losses, averaged over the batches."""
        raise NotImplementedError

    def crops(self) -> UnpairedCrops:
        """The training data."""
        raise NotImplementedError

    def scorer(self) -> Score:
        """What scores the weights; asked for once, in the main process."""
        raise NotImplementedError

    def set_rate(self, step: int, *optimizers: torch.optim.Optimizer) -> None:
        """Give the optimisers the learning rate of ``step``."""
        settings = self.settings
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * rate_factor(step, settings.steps, settings.constant)

    def read_state_of(self, step: int, others: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """See :meth:`TrainingProcess.read_state`.

        Args:
            others: what must not have changed since, in words.

        Raises:
            ConfigError: the run was trained on something else.
        """
        own, main = self.read_state(step)
        if main["data"] != self.fingerprint:
            raise ConfigError(
                f"the run in {self.folder.path} was trained on other {others} "
                f"({main['data']}, now {self.fingerprint}); resume it with those it was started with"
            )
        return own, main

    @torch.no_grad()
    def pass_seconds(self, network: nn.Module) -> float:
        """Seconds of one forward pass of a batch of crops."""
        settings, device = self.settings, self.accelerator.device
        crop = torch.zeros(settings.batch, 3, settings.crop, settings.crop, device=device)
        seconds = 0.0
        for _ in range(2):  # the first one pays for set-up
            began = time.monotonic()
            with self.accelerator.autocast():
                network(crop)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.monotonic() - began
        return seconds

    def write_weights(self, which: str, step: int) -> None:
        """Write ``best`` or ``last``."""
        raise NotImplementedError

    def write_last(self, step: int, ends: bool) -> None:
        """See :meth:`TrainingProcess.write_last`."""
        self.write_weights("last", step)

    # -- the recipe --------------------------------------------------------------------------------------------

    def batches(self, start: int) -> Iterator[list[dict[str, Tensor]]]:
        """The forward passes of each optimiser step from ``start`` on, tensors on the device."""
        loader = make_loader(self.crops(), self.sampler(start), self.workers, self.on_gpu)
        return grouped(map(self._on_device, loader), self.settings.accumulate)

    def _on_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        device = self.accelerator.device
        # The count stays on the CPU: reading it must not wait for the GPU.
        return {key: value if key == "unreadable" else on_device(value, device) for key, value in batch.items()}

    def run(self, resume: bool) -> TrainResult:
        """Train from the start, or from the newest state, to ``settings.steps`` or the first Ctrl-C.

        Raises:
            ConfigError: the folder cannot take this run.
            CheckpointError: its state is damaged, or from another number of processes.
            NightaugError: a loss or a weight became NaN or infinite.
        """
        settings, accelerator, folder = self.settings, self.accelerator, self.folder
        start = self.begin(resume)
        self.write_settings(start, start < settings.steps)
        board: Any = None
        if accelerator.is_main_process:
            folder.cut_metrics(start)
            folder.log(
                f"nightaug {__version__}: {'resumed at' if start else 'started, to'} step {start or settings.steps}"
            )
            board = open_board(folder.path, start) if settings.tensorboard else None
            self._score = self.scorer()
        done, stopped, unreadable = start, False, 0
        with StopRequest().listen() as stop, progress_bar("training", settings.steps, start, "steps") as progress:
            began, since = time.monotonic(), start
            for group in self.batches(start) if start < settings.steps else ():
                self.means.add(self.step(done, group))
                unreadable = max(unreadable, *(int(batch["unreadable"].max()) for batch in group))
                done += 1
                last = done == settings.steps
                if done % settings.log_every == 0 or last:
                    means = self.take_means(done)
                    rate = (done - since) / max(time.monotonic() - began, 1e-9)
                    if accelerator.is_main_process:
                        folder.append_metrics(done, means)
                        write_scalars(board, done, means | {"steps_per_second": rate})
                        progress(done, shown_means(means))
                    since, began = done, time.monotonic()
                stopped = self.asked_to_stop(stop, done, stopped)
                if done % settings.sample_every == 0 or last:
                    self.check_finite(done)
                    if accelerator.is_main_process:
                        self._sample(done, board)
                if done % settings.save_every == 0 or last or stopped:
                    self.save(done)
                if stopped:
                    break
        if board is not None:
            board.close()
        if unreadable and accelerator.is_main_process:
            folder.log(f"{unreadable} training images could not be read and were stepped over")
        folder.close()
        return TrainResult(done, done >= settings.steps, self.best_score, unreadable, stop.requested)

    def advice(self) -> str:
        """See :meth:`TrainingProcess.advice`."""
        return "--resume --set learning_rate=... (lower) or --set mixed_precision=fp32"

    def _sample(self, step: int, board: Any) -> None:
        assert self._score is not None
        scores = self._score(self.folder.path / "samples", step)
        if scores:
            self.folder.append_metrics(step, scores)
        write_scalars(board, step, scores)
        score = scores.get("score")
        if score is not None and (self.best_score is None or score < self.best_score):
            self.best_score = score
            self.write_weights("best", step)
