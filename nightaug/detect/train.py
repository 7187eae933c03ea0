"""Detector training: one loop for every detector, for a laptop's CPU, one GPU, or several nodes under torchrun.

The data order and every random change are pure functions of (seed, index); with the saved weights, average and
optimiser that makes a killed and resumed run equal to one that was never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import DistributedDataParallelKwargs
from torch import Tensor, nn

from nightaug import __version__
from nightaug.clip.gating import gate_classes
from nightaug.data.frames import Frame
from nightaug.detect.adaptation.statistics import Statistics, batch_norms
from nightaug.detect.adaptation.trainee import AdaptedDetector, Step, check_adaptation
from nightaug.detect.augment import Augment
from nightaug.detect.checkpoint import start_from, write_detector
from nightaug.detect.dataset import Batch, DetectionSamples, EmbeddedProposals, bare, make_loader
from nightaug.detect.detectors import Detector, build_detector
from nightaug.detect.optimization import learning_rate, make_optimizer, rate_factor
from nightaug.detect.sampling import Mixture, Source
from nightaug.detect.settings import DetectorSettings
from nightaug.detect.sources import fingerprint, placeless, spread
from nightaug.detect.validation import Validator
from nightaug.detect.vision_language import VisionLanguage, needs_clip
from nightaug.errors import ConfigError
from nightaug.losses import weighted_total
from nightaug.runs import StopRequest, progress_bar
from nightaug.training import (
    MovingAverage,
    TrainingProcess,
    accumulate,
    agree,
    grouped,
    load_optimizer,
    open_board,
    write_scalars,
)

#: Settings that a resumed run may have different, and what :meth:`DetectorTrainer.advice` tells people to change.
MAY_CHANGE = (
    "steps", "learning_rate", "mixed_precision", "workers", "log_every", "save_every", "tensorboard", "patience",
    "adaptation.cache",
)  # fmt: skip


class TrainResult(NamedTuple):
    """How a run ended: ``best`` is the best validation AP, None without validation.

    ``interrupted``: Ctrl-C came, be it in the last step: whoever has more to do than this run stops here.
    """

    step: int
    finished: bool
    best: float | None
    unreadable: int
    stopped_early: bool = False
    interrupted: bool = False


class DetectorTrainer(TrainingProcess):
    """State of one training process; :meth:`run` is the recipe.

    Args:
        sources: what is trained on, in their shares.
        val: validation frames; empty: no evaluation.
        classes: canonical names, the detector's class numbers.
        out: run folder.
        settings: see :class:`DetectorSettings`.
        cpu: do not use a GPU.
        target: unlabelled frames of the target domain: a second stream of batches, for adaptation. Labels they may
            have are taken off.
        detector: ready made; None builds the settings' own.
        proposals: precomputed ones of the training images, for a detector that learns from them.

    Raises:
        ConfigError, CheckpointError: as :func:`build_detector` and :func:`~nightaug.clip.encoder.load_clip`, or the
            settings ask for adaptation and there is no target.
    """

    settings: DetectorSettings
    may_change = MAY_CHANGE

    def __init__(
        self,
        sources: Sequence[Source],
        val: Sequence[Frame],
        classes: tuple[str, ...],
        out: Path,
        settings: DetectorSettings,
        cpu: bool = False,
        target: Sequence[Frame] = (),
        detector: Detector | None = None,
        proposals: EmbeddedProposals | None = None,
    ) -> None:
        super().__init__(out, settings, cpu)
        self.classes, self.proposals = tuple(classes), proposals
        self.mixture = Mixture(sources, settings.seed, settings.balance, self.classes)
        self.target: Mixture | None = None
        if settings.adapt != "none":
            check_adaptation(settings, len(target))
            self.target = Mixture([Source("target", [bare(frame) for frame in target])], settings.seed + 1)
        # Without the folders: those of a run that has moved are others, and what lies in them is looked at.
        self.fingerprint = fingerprint(placeless(self.mixture.sources))
        self.target_fingerprint = fingerprint(self.target.sources) if self.target is not None else None
        self.val = spread(val, settings.evaluate_images)

        if detector is None:
            detector = build_detector(settings, self.classes, pretrained=settings.weights is None)
        self.loaded = start_from(detector, settings.weights) if settings.weights else ""
        detector.to(memory_format=torch.channels_last)
        self.statistics: Statistics | None = None
        if self.target is not None and settings.adapt != "none" and "statistics" in settings.adaptation.parts:
            batch_norms(detector)  # refuse what has none before hours of training
            self.statistics = Statistics(self.mixture, self.target, settings.batch, self.workers)
        self.rate = learning_rate(settings, self.global_batch)
        device = self.accelerator.device
        if settings.clip_gate != "none" and any(source.origins for source in self.mixture.sources):
            gate_classes(self.classes)  # before hours of embedding
        self.language = VisionLanguage(settings, device) if needs_clip(settings, self.mixture.sources) else None
        module: nn.Module = detector
        self.adapted: AdaptedDetector | None = None
        if settings.adapt != "none" and settings.adaptation.learns:
            module = self.adapted = AdaptedDetector(detector, settings, self.language.width if self.language else None)
            # Parts that are switched off leave weights without a gradient.
            self.accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
        beside = self.adapted.beside if self.adapted is not None else None
        optimizer = make_optimizer(detector, settings, self.rate, beside)
        module.to(device)
        self.ema = MovingAverage(detector, settings.ema) if settings.ema else None
        self.teacher: MovingAverage[Detector] | None = None
        if self.adapted is not None and self.adapted.teaches:
            # One that has been trained already is not to forget that in the first steps.
            self.teacher = MovingAverage(detector, settings.adaptation.teacher.ema, settled=bool(settings.weights))
        self.network, self.optimizer = self.accelerator.prepare(module, optimizer)
        self.best: float | None = None
        self.without_gain = 0

    @property
    def live(self) -> Detector:
        """The network being trained."""
        if self.adapted is not None:
            return self.adapted.detector
        detector: Detector = self.accelerator.unwrap_model(self.network)
        return detector

    def loss_weights(self, step: int) -> dict[str, float]:
        """The weight of every loss at a step (from 0)."""
        weights = dict(self.live.loss_weights)
        return weights | self.adapted.loss_weights(step) if self.adapted is not None else weights

    @property
    def saved(self) -> Detector:
        """The network that is saved and evaluated: the moving average where there is one."""
        if self.ema is None:
            return self.live
        detector: Detector = self.ema.network  # type: ignore[assignment]
        return detector

    @property
    def _clip_sha(self) -> str | None:
        """Which CLIP is looked at: its name says where it lies, and another one may lie there now."""
        return None if self.language is None else self.language.sha

    def ready(self, step: int) -> Detector:
        """:attr:`saved` as it is tested and given away after ``step``; what is trained on is not touched by that."""
        return self.saved if self.statistics is None else self.statistics(self.saved, step, self.precision)

    # -- one optimiser step ------------------------------------------------------------------------------------

    def losses(self, batch: Batch, target: Batch | None, number: int) -> Step:
        """One forward pass, ``number`` of the whole training: every pass has chance of its own."""
        number = number * self.accelerator.num_processes + self.accelerator.process_index
        self.live.number = number
        if self.adapted is None or target is None:
            return Step(self.network(batch.images, batch.targets).losses, {})
        pseudo = None
        if self.teacher is not None:
            pseudo = self.adapted.ask(self.teacher.network, target.images, number)
        found: Step = self.network(batch.images, batch.targets, target.images, number, pseudo)
        return found

    def step(self, step: int, batches: Sequence[tuple[Batch, Batch | None]]) -> dict[str, Tensor]:
        """One optimiser step over its forward passes; raw named losses and facts, averaged over them."""
        settings, accelerator = self.settings, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * rate_factor(step, settings) * group.get("scale", 1.0)
        self.network.train()
        self.live.progress = step / settings.steps
        self.optimizer.zero_grad()
        parts: dict[str, Tensor] = {}
        share, weights = 1.0 / len(batches), self.loss_weights(step)
        for at, (batch, target) in enumerate(batches):
            last = at == len(batches) - 1
            with nullcontext() if last else accelerator.no_sync(self.network):
                with accelerator.autocast():
                    found = self.losses(batch, target, step * len(batches) + at)
                accelerator.backward(weighted_total(found.losses, weights) * share)
            accumulate(parts, found.losses | found.facts, share)
        if settings.clip_norm is not None:
            accelerator.unscale_gradients()
            norm = nn.utils.clip_grad_norm_(self.live.parameters(), settings.clip_norm)
            if self.adapted is not None and (own := list(self.adapted.beside.parameters())):
                # By itself: what adapts must not shorten the detector's own steps.
                nn.utils.clip_grad_norm_(own, settings.clip_norm)
            # fp16's scaler begins too high, and steps over what overflows: that is no failure of the run.
            parts["gradient_norm"] = norm if accelerator.scaler is None else norm.nan_to_num(0.0, 0.0, 0.0)
        self.optimizer.step()
        for average in (self.ema, self.teacher):
            if average is not None:
                average.update(self.live, step)
        return parts

    # -- state -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        state = self.means.state()
        if self.accelerator.is_main_process:
            state |= {
                "data": self.fingerprint,
                "target": self.target_fingerprint,
                "CLIP": self._clip_sha,
                "best": self.best,
                "without_gain": self.without_gain,
                "network": self.live.state_dict(),
                "adaptation": self.adapted.beside.state_dict() if self.adapted is not None else None,
                "optimizer": self.optimizer.optimizer.state_dict(),
                "ema": self.ema.network.state_dict() if self.ema is not None else None,
                "teacher": self.teacher.network.state_dict() if self.teacher is not None else None,
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            }
        return state

    def write_last(self, step: int, ends: bool) -> None:
        """See :meth:`TrainingProcess.write_last`; between two stops nothing is measured for the weights."""
        self._write_weights("last", step, self.ready(step) if ends else self.saved)

    def networks(self) -> Mapping[str, nn.Module | None]:
        """See :meth:`TrainingProcess.networks`."""
        averages: dict[str, MovingAverage[Any] | None] = {"moving average": self.ema, "teacher": self.teacher}
        found = {name: None if each is None else each.network for name, each in averages.items()}
        return {"detector": self.live, "night head": self.adapted and self.adapted.beside, **found}

    def _write_weights(self, which: str, step: int, network: Detector) -> None:
        write_detector(self.folder.weights_path(which), network, self.settings, step, __version__)

    def load(self, step: int) -> None:
        """Continue from the state of ``step``."""
        own, main = self.read_state(step)
        seen = {"data": self.fingerprint, "target": self.target_fingerprint, "CLIP": self._clip_sha}
        for what, now in seen.items():
            # States of older versions do not say what the target and CLIP were.
            if main.get(what, now) != now:
                raise ConfigError(
                    f"the run in {self.folder.path} was trained on other {what} ({main[what]}, now {now}); "
                    f"resume it with the {what} it was started with"
                )
        self.live.load_state_dict(main["network"])
        if self.adapted is not None:
            self.adapted.beside.load_state_dict(main["adaptation"])
        load_optimizer(self.optimizer.optimizer, main["optimizer"], self.folder.path)
        if self.ema is not None:
            self.ema.network.load_state_dict(main["ema"])
        if self.teacher is not None:
            self.teacher.network.load_state_dict(main["teacher"])
        if self.accelerator.scaler and main["scaler"]:
            self.accelerator.scaler.load_state_dict(main["scaler"])
        self.best, self.without_gain = main["best"], main["without_gain"]
        self.means.load(own, self.accelerator.device)

    # -- the recipe --------------------------------------------------------------------------------------------

    def batches(self, start: int) -> Iterator[list[tuple[Batch, Batch | None]]]:
        """The forward passes of each optimiser step from ``start`` on, with target batches where there is a target."""
        settings, device = self.settings, self.accelerator.device
        source = self._stream(self.mixture, start, settings.seed)
        beside = self.target if self.adapted is not None else None
        target = self._stream(beside, start, settings.seed + 1) if beside is not None else None
        pairs = ((batch.to(device), next(target).to(device) if target is not None else None) for batch in source)
        return grouped(pairs, settings.accumulate)

    def _stream(self, mixture: Mixture, start: int, seed: int) -> Iterator[Batch]:
        settings = self.settings
        augment = Augment(settings.augmentation, settings.width, settings.height)
        # The target has no labels whose crops could be looked up.
        aligns = self.adapted is not None and self.adapted.aligns and mixture is self.mixture
        regions = self.language.cache if self.language is not None and aligns else None
        proposals = self.proposals if mixture is self.mixture else None
        samples = DetectionSamples(mixture, self.classes, augment, seed, regions, proposals, settings.rcnn.embedded)
        return iter(make_loader(samples, self.sampler(start), settings.batch, self.workers, self.on_gpu))

    def look_at_regions(self) -> list[str]:
        """Embed the labelled crops, and judge translated ones, where the settings want CLIP; lines for people."""
        if self.language is None:
            return []
        # Box weights change, and not which frames there are: the order of samples stays.
        sources, notes = self.language.embed(self.mixture.sources, self.classes)
        self.mixture.sources = sources
        return notes

    def run(self, resume: bool = False, title: str = "training") -> TrainResult:  # noqa: PLR0912
        """Train from the start, or from the newest state, to ``settings.steps``, to a halt, or to the first Ctrl-C.

        Raises:
            ConfigError: the folder cannot take this run.
            CheckpointError: its state is damaged, or from another number of processes.
            NightaugError: a loss or a weight became NaN or infinite.
        """
        settings, accelerator, folder = self.settings, self.accelerator, self.folder
        start = self.begin(resume)
        early = self._out_of_patience()
        # Before hours of embedding: stopped in them, the run must go on as what it was started as.
        self.write_settings(start, start < settings.steps and not early)
        notes = self.look_at_regions() if start < settings.steps else []
        board: Any = None
        validator: Validator | None = None
        if accelerator.is_main_process:
            folder.cut_metrics(start)
            folder.log(f"nightaug {__version__}: {'resumed at' if start else 'to'} step {start or settings.steps}")
            for line in (self.live.loaded, self.loaded):
                if line:
                    folder.log(f"weights: {line}")
            for line in notes:
                folder.log(line)
                self.say(line)
            board = open_board(folder.path, start) if settings.tensorboard else None
            validator = Validator(self.val, self.classes, settings) if self.val and settings.evaluate_every else None
        done, stopped, unreadable, waiting = start, False, 0, 0.0
        with StopRequest().listen() as stop, progress_bar(title, settings.steps, start, "steps") as progress:
            began, since = time.monotonic(), start
            stream = self.batches(start) if start < settings.steps and not early else iter(())
            while not early:
                fetch = time.monotonic()
                group = next(stream, None)
                waiting += time.monotonic() - fetch
                if group is None:
                    break
                self.means.add(self.step(done, group))
                unreadable = max(
                    unreadable, *(sum(each.unreadable for each in pair if each is not None) for pair in group)
                )
                done += 1
                last = done == settings.steps
                if done % settings.log_every == 0 or last:
                    spent = max(time.monotonic() - began, 1e-9)
                    speed = {"steps_per_second": (done - since) / spent, "data_share": waiting / spent}
                    means = self.take_means(done)
                    weights = self.loss_weights(done - 1)
                    raw = {name: torch.tensor(means[name]) for name in weights}
                    means["loss"] = weighted_total(raw, weights).item()
                    means["learning_rate"] = self.rate * rate_factor(done - 1, settings)
                    if accelerator.is_main_process:
                        folder.append_metrics(done, means)
                        write_scalars(board, done, means | speed)
                        best = f" best AP {100 * self.best:.1f}" if self.best else ""
                        progress(done, f"loss {means['loss']:.3f}{best}")
                    since, began, waiting = done, time.monotonic(), 0.0
                stopped = self.asked_to_stop(stop, done, stopped)
                if settings.evaluate_every and self.val and (done % settings.evaluate_every == 0 or last):
                    self.check_finite(done)
                    if validator is not None:
                        self._evaluate(validator, done, board)
                    early = agree(accelerator, self._out_of_patience())
                    began, since, waiting = time.monotonic(), done, 0.0  # the pause is not training speed
                if done % settings.save_every == 0 or last or stopped or early:
                    self.save(done, ends=last or stopped or early)
                if stopped:
                    break
        if board is not None:
            board.close()
        if unreadable and accelerator.is_main_process:
            folder.log(f"{unreadable} training images could not be read and were stepped over")
        folder.close()
        return TrainResult(done, done >= settings.steps or early, self.best, unreadable, early, stop.requested)

    def _out_of_patience(self) -> bool:
        return self.settings.patience is not None and self.without_gain >= self.settings.patience

    def advice(self) -> str:
        """See :meth:`TrainingProcess.advice`."""
        lower = f"--resume --set learning_rate={self.rate / 2:.2g} (it was {self.rate:.2g})"
        return f"{lower} or --set mixed_precision=fp32"

    def _evaluate(self, validator: Validator, step: int, board: Any) -> None:
        network = self.ready(step)
        scores = validator(network, self.precision)
        self.folder.append_metrics(step, scores)
        write_scalars(board, step, scores)
        score = scores.get("val_AP")
        if score is not None and (self.best is None or score > self.best):
            self.best, self.without_gain = score, 0
            self._write_weights("best", step, network)
        else:
            self.without_gain += 1
