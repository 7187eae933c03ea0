"""CycleGAN training: one loop for a laptop's CPU, one GPU, or several nodes under torchrun.

Every random choice of step ``s`` is drawn from a generator seeded by (seed, s, process), and the data
order is a pure function of (seed, index); with the saved networks, optimisers, prototypes and replay buffers that
makes a killed and resumed run equal to one that was never stopped.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nightaug import __version__
from nightaug.cyclegan.checkpoint import write_translator
from nightaug.cyclegan.dataset import (
    DomainFolders,
    UnpairedCrops,
    find_domains,
    make_loader,
    training_domains,
)
from nightaug.cyclegan.discriminator_augmentation import augment
from nightaug.cyclegan.faithful_losses import weighted_l1
from nightaug.cyclegan.label_aware import LabelAware, contrast_losses
from nightaug.cyclegan.losses import discriminator_loss, l1, least_squares
from nightaug.cyclegan.pairs import DiscriminatorPair, GeneratorPair, initialize_pairs
from nightaug.cyclegan.relit import read_relit
from nightaug.cyclegan.replay_buffer import ReplayBuffer
from nightaug.cyclegan.samples import Scorer
from nightaug.cyclegan.segmentation import segmentation_loss
from nightaug.cyclegan.settings import TranslatorSettings
from nightaug.errors import ConfigError
from nightaug.losses import weighted_total
from nightaug.runs import StopRequest, progress_bar
from nightaug.training import MovingAverage, TrainingProcess, accumulate, open_board, write_scalars

#: Settings a resumed run may have otherwise: those that do not change what the saved state means. Results then
#: are those of the new settings from that step on.
MAY_CHANGE = (
    "steps", "learning_rate", "batch", "accumulate", "mixed_precision", "workers", "tensorboard", "log_every",
    "sample_every", "save_every",
)  # fmt: skip


class TrainResult(NamedTuple):
    """How a run ended; ``unreadable`` counts the training images one process had to step over."""

    step: int
    finished: bool
    best_score: float | None
    unreadable: int = 0


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


class Trainer(TrainingProcess):
    """State of one training process; :meth:`run` is the recipe."""

    settings: TranslatorSettings
    may_change = MAY_CHANGE

    def __init__(
        self,
        data: Path,
        run: Path,
        settings: TranslatorSettings,
        cpu: bool = False,
        judge: nn.Module | None = None,
    ) -> None:
        super().__init__(run, settings, cpu)
        self.files = training_domains(data)
        self.aware = LabelAware(data, self.files, settings, judge) if settings.faithful.labels else None
        # Scores never look at test images; without a val split the training images themselves are scored.
        held_out = find_domains(data, "val")
        self.validation = held_out if held_out and held_out.a and held_out.b else self.files
        self.relit = read_relit(settings.day, data, [*self.files.a, *self.validation.a])

        self.fingerprint = fingerprint(self.files)
        if self.aware is not None:
            self.fingerprint += f", {self.aware.fingerprint()}"

        classes = self.aware.classes if self.aware is not None and settings.faithful.weights.segmentation else 0
        generators, discriminators = GeneratorPair(settings), DiscriminatorPair(settings, classes)
        initialize_pairs(generators, discriminators, torch.Generator().manual_seed(settings.seed))
        for pair in (generators, discriminators):  # a fifth faster on a CPU in bf16
            pair.to(memory_format=torch.channels_last)
        accelerator = self.accelerator
        self.ema = MovingAverage(generators.to(accelerator.device), settings.ema) if settings.ema else None
        options: dict[str, Any] = {"lr": settings.learning_rate, "betas": (settings.beta1, 0.999)}
        self.generators, self.discriminators, self.opt_g, self.opt_d = accelerator.prepare(
            generators,
            discriminators,
            torch.optim.Adam(generators.parameters(), **options),
            torch.optim.Adam(discriminators.parameters(), **options),
        )
        if self.aware is not None:
            self.aware.to(accelerator.device, generators)
        fakes = ("fake_b",) if settings.objective == "cut" else ("fake_a", "fake_b")
        self.buffers = {key: ReplayBuffer(settings.replay_buffer) for key in fakes}
        self.scorer: Scorer | None = None
        self.best_score: float | None = None

    # -- one optimiser step ------------------------------------------------------------------------------------

    def step(self, step: int, batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """One step of the generators, then one of the discriminators; raw named losses, averaged over batches."""
        settings, accelerator = self.settings, self.accelerator
        chance = torch.Generator().manual_seed((settings.seed * 1_000_003 + step) * 1009 + accelerator.process_index)
        for optimizer in (self.opt_g, self.opt_d):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * rate_factor(step, settings.steps, settings.constant)
        parts: dict[str, Tensor] = {}
        share = 1.0 / len(batches)
        judges: DiscriminatorPair = accelerator.unwrap_model(self.discriminators)
        judges.requires_grad_(False)
        self.opt_g.zero_grad()
        fakes, night = [], []
        for at, batch in enumerate(batches):
            with self._sync(self.generators, at == len(batches) - 1), accelerator.autocast():
                out = self.generators(batch["a"], batch["b"], settings.weights.identity > 0)
                raw, watched = self._generator_losses(judges, batch, out, chance)
                accelerator.backward(weighted_total(raw, {name: settings.weight_of(name) for name in raw}) * share)
            fakes.append({key: out[key].detach() for key in self.buffers})
            night += [out[key].detach() for key in self._night_features]
            accumulate(parts, raw | watched, share)
        self.opt_g.step()

        judges.requires_grad_(True)
        self.opt_d.zero_grad()
        for at, (batch, fake) in enumerate(zip(batches, fakes, strict=True)):
            with self._sync(self.discriminators, at == len(batches) - 1), accelerator.autocast():
                raw = self._discriminator_losses(batch, fake, chance)
                accelerator.backward(weighted_total(raw, {name: settings.weight_of(name) for name in raw}) * share)
            accumulate(parts, raw, share)
        self.opt_d.step()
        if self.aware is not None:
            self.aware.observe(batches, night, accelerator)
        if self.ema is not None:
            self.ema.update(accelerator.unwrap_model(self.generators), step)
        return parts

    @property
    def _night_features(self) -> list[str]:
        layer = self.accelerator.unwrap_model(self.generators).suppressed
        return [] if layer is None else [f"night/{layer}"]

    def _generator_losses(
        self, judges: DiscriminatorPair, batch: dict[str, Tensor], out: dict[str, Tensor], chance: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Raw losses of the generators, and figures that are only watched."""
        settings, names = self.settings, self.settings.augmentation.discriminator
        raw = {"adversarial_a2b": least_squares(judges.B(augment(out["fake_b"], names, chance)), True)}
        if judges.A is not None:
            raw |= {
                "adversarial_b2a": least_squares(judges.A(augment(out["fake_a"], names, chance)), True),
                "cycle_a": self._apart(out["rec_a"], batch, "a"),
                "cycle_b": self._apart(out["rec_b"], batch, "b"),
            }
        if "same_a" in out:
            raw |= {
                "identity_a": self._apart(out["same_a"], batch, "a"),
                "identity_b": self._apart(out["same_b"], batch, "b"),
            }
        generators = self.accelerator.unwrap_model(self.generators)
        raw |= contrast_losses(generators, out, settings, chance)
        if self.aware is None:
            return raw, {}
        own, watched = self.aware.losses(generators, judges.B, batch, out, chance)
        return raw | own, watched

    def _apart(self, image: Tensor, batch: dict[str, Tensor], key: str) -> Tensor:
        """L1 between an image and its original, stronger inside boxes where that is asked for."""
        if self.settings.faithful.inside == 1:
            return l1(image, batch[key])
        return weighted_l1(image, batch[key], batch[f"labels_{key}"], self.settings.faithful.inside)

    def _discriminator_losses(
        self, batch: dict[str, Tensor], fake: dict[str, Tensor], chance: torch.Generator
    ) -> dict[str, Tensor]:
        stored = {key: self.buffers[key].query(fake[key], chance) for key in self.buffers}
        shown = {}
        for key in sorted(stored):  # a before b
            shown[key.replace("fake", "real")], shown[key] = (
                augment(image, self.settings.augmentation.discriminator, chance)
                for image in (batch[key.removeprefix("fake_")], stored[key])
            )
        options = self.settings.faithful
        if options.weights.segmentation:
            shown["segmented"] = batch["b"]  # as it is: its label map knows nothing of augmentation
        logits = self.discriminators(shown)
        raw = {
            f"discriminator_{key[-1]}": discriminator_loss(logits[f"real_{key[-1]}"], logits[key])
            for key in sorted(stored)
        }
        if options.weights.segmentation:
            raw["segmentation"] = segmentation_loss(
                logits["segmented"], batch["labels_b"], options.balance, options.focal
            )
        return raw

    def _sync(self, model: nn.Module, last: bool) -> Any:
        return nullcontext() if last else self.accelerator.no_sync(model)

    # -- state -------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        unwrap = self.accelerator.unwrap_model
        state: dict[str, Any] = {"buffers": {key: buffer.state_dict() for key, buffer in self.buffers.items()}}
        state |= {"best_score": self.best_score, "data": self.fingerprint, **self.means.state()}
        if self.accelerator.is_main_process:
            state |= {
                "generators": unwrap(self.generators).state_dict(),
                "discriminators": unwrap(self.discriminators).state_dict(),
                "opt_g": self.opt_g.optimizer.state_dict(),
                "opt_d": self.opt_d.optimizer.state_dict(),
                "ema": self.ema.network.state_dict() if self.ema is not None else None,
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            }
            if self.aware is not None and self.aware.prototypes is not None:
                state["prototypes"] = self.aware.prototypes.state_dict()
        return state

    def save(self, step: int) -> None:
        """Write the training state and ``last.safetensors``; a state with NaN in it never replaces a good one."""
        networks = {"generators": self.generators, "discriminators": self.discriminators}
        bad = self.means.not_finite()
        bad += [
            f"weights of the {name}"
            for name, network in networks.items()
            if not all(bool(parameter.isfinite().all()) for parameter in network.parameters())
        ]
        self.refuse(bad, step)
        self.folder.save_state(step, self.accelerator.process_index, self._state())
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            # Weights first: killed in between, the run makes these steps again and ends with the same weights, while
            # the other way round a finished run could be left with older ones.
            self._write_weights("last", step)
            self.folder.commit_state(step)

    def _write_weights(self, which: str, step: int) -> None:
        used = self.aware.used_night_boxes if self.aware is not None else "none"
        path = self.folder.weights_path(which)
        write_translator(path, self.saved_generators(), self.settings, step, __version__, used, self.relit.strength)

    def saved_generators(self) -> GeneratorPair:
        """The generators that are saved and scored: the moving average where there is one."""
        if self.ema is not None:
            return self.ema.network
        pair: GeneratorPair = self.accelerator.unwrap_model(self.generators)
        return pair

    def load(self, step: int) -> None:
        """Continue from the state of ``step``."""
        own = self.folder.load_state(step, self.accelerator.process_index)
        main = own if self.accelerator.is_main_process else self.folder.load_state(step, 0)
        if main["data"] != self.fingerprint:
            raise ConfigError(
                f"the run in {self.folder.path} was trained on other images, boxes or another judge "
                f"({main['data']}, now {self.fingerprint}); resume it with those it was started with"
            )
        unwrap = self.accelerator.unwrap_model
        unwrap(self.generators).load_state_dict(main["generators"])
        unwrap(self.discriminators).load_state_dict(main["discriminators"])
        self.opt_g.optimizer.load_state_dict(main["opt_g"])
        self.opt_d.optimizer.load_state_dict(main["opt_d"])
        if self.ema is not None:
            self.ema.network.load_state_dict(main["ema"])
        if self.accelerator.scaler and main["scaler"]:
            self.accelerator.scaler.load_state_dict(main["scaler"])
        if self.aware is not None and self.aware.prototypes is not None:
            self.aware.prototypes.load_state_dict(main["prototypes"])
        for key, buffer in self.buffers.items():
            buffer.load_state_dict(own["buffers"][key], self.accelerator.device)
        self.best_score = main["best_score"]
        self.means.load(own, self.accelerator.device)

    # -- the recipe --------------------------------------------------------------------------------------------

    def batches(self, start: int) -> Iterator[list[dict[str, Tensor]]]:
        """The forward passes of each optimiser step from ``start`` on, tensors on the device."""
        settings, accelerator = self.settings, self.accelerator
        boxes = self.aware.boxes if self.aware is not None else None
        crops = UnpairedCrops(
            self.files, settings.crop, settings.load_size, settings.augmentation, settings.seed, boxes, self.relit.of
        )
        group = []
        for batch in make_loader(crops, self.sampler(start), self.workers, self.on_gpu):
            group.append(
                {
                    # The count stays on the CPU: reading it must not wait for the GPU.
                    key: value if key == "unreadable" else on_device(value, accelerator.device)
                    for key, value in batch.items()
                }
            )
            if len(group) == settings.accumulate:
                yield group
                group = []

    def run(self, resume: bool) -> TrainResult:
        """Train from the start, or from the newest state, to ``settings.steps`` or the first Ctrl-C.

        Raises:
            ConfigError: the folder cannot take this run.
            CheckpointError: its state is damaged, or from another number of processes.
            NightaugError: a loss or a weight became NaN or infinite.
        """
        settings, accelerator, folder = self.settings, self.accelerator, self.folder
        self.claim(resume)
        accelerator.wait_for_everyone()
        start = (folder.latest_state() if resume else None) or 0
        if start:
            self.load(start)
        board: Any = None
        if accelerator.is_main_process:
            folder.write_settings(settings)
            folder.cut_metrics(start)
            folder.log(
                f"nightaug {__version__}: {'resumed at' if start else 'started, to'} step {start or settings.steps}"
            )
            board = open_board(folder.path, start) if settings.tensorboard else None
            self.scorer = Scorer(self.validation, settings, self.relit.of)
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
                if (done % settings.sample_every == 0 or last) and accelerator.is_main_process:
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
        return TrainResult(done, done >= settings.steps, self.best_score, unreadable)

    def advice(self) -> str:
        """See :meth:`TrainingProcess.advice`."""
        return "--resume --set learning_rate=... (lower) or --set mixed_precision=fp32"

    def _sample(self, step: int, board: Any) -> None:
        assert self.scorer is not None
        scores = self.scorer(self.saved_generators(), self.accelerator.device, self.folder.path / "samples", step)
        if scores:
            self.folder.append_metrics(step, scores)
        write_scalars(board, step, scores)
        score = scores.get("score")
        if score is not None and (self.best_score is None or score < self.best_score):
            self.best_score = score
            self._write_weights("best", step)
