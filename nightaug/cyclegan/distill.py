"""Distillation: a small generator learns to make the images a trained one makes.

There is no adversary and no second direction: the teacher's image of a crop is the target, made as the crop comes. So a
step costs one pass of the teacher and three of the student, and the loss says how close the copy is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nightaug import __version__
from nightaug.config import build, dump_yaml, lasting
from nightaug.cyclegan.checkpoint import (
    find_weights,
    read_generator,
    read_night_boxes,
    read_relit_strength,
    write_translator,
)
from nightaug.cyclegan.dataset import UnpairedCrops, to_image
from nightaug.cyclegan.loop import CropTrainer, Score, TrainResult
from nightaug.cyclegan.losses import l1
from nightaug.cyclegan.networks import initialize
from nightaug.cyclegan.relit import read_relit
from nightaug.cyclegan.samples import GRID_ROWS, grid, read_scored
from nightaug.cyclegan.settings import DistillSettings
from nightaug.cyclegan.student import StudentGenerator
from nightaug.cyclegan.translator import check_direction
from nightaug.errors import ConfigError
from nightaug.images import ImageArray, write_image
from nightaug.losses import weighted_total
from nightaug.runs import file_sha256
from nightaug.training import MovingAverage, accumulate, duration, load_optimizer, training_errors


def gradient_l1(image: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of the steps between neighbouring pixels, across and down.

    Shape:
        (N, C, H, W) twice to ().
    """
    return sum((l1(image.diff(dim=dim), target.diff(dim=dim)) for dim in (2, 3)), torch.zeros((), device=image.device))


class OneWay(NamedTuple):
    """The generators of a run that has one: a ``Pair`` as :mod:`nightaug.cyclegan.checkpoint` takes it."""

    A2B: StudentGenerator | None
    B2A: StudentGenerator | None


class Distiller(CropTrainer):
    """State of one process that trains a student; :meth:`run` is the recipe.

    Args:
        teacher: run folder or weight file.
        data, run, settings, cpu: as :class:`nightaug.cyclegan.loop.CropTrainer`.

    Raises:
        ConfigError: the teacher refines relit days, and ``day`` names none of its strength; or it names some without.
    """

    settings: DistillSettings

    def __init__(self, teacher: Path, data: Path, run: Path, settings: DistillSettings, cpu: bool = False) -> None:
        super().__init__(data, run, settings, cpu)
        weights = find_weights(teacher)
        self.night_boxes, strength = read_night_boxes(weights), read_relit_strength(weights)
        check_direction(weights, settings.direction, strength)
        self._domain = 0 if settings.direction == "day2night" else 1
        source = [*self.files[self._domain], *self.validation[self._domain]]
        self.relit = read_relit(settings.day, data, source)
        if self.relit.strength != strength:
            has = "takes days as they are" if strength is None else f"refines days relit with strength {strength:g}"
            raise ConfigError(
                f"{weights} {has}, and so must its student be taught: set day to match (is {settings.day})"
            )
        self.teacher_sha = file_sha256(weights)
        self.fingerprint += f", teacher {self.teacher_sha[:12]}"
        accelerator = self.accelerator
        self.teacher = read_generator(weights, settings.direction).eval().requires_grad_(False)
        self.teacher.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        student = StudentGenerator(settings.width, settings.blocks, settings.halvings, settings.separable)
        initialize(student, torch.Generator().manual_seed(settings.seed))
        student.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = MovingAverage(student, settings.ema) if settings.ema else None
        self.student, self.optimizer = accelerator.prepare(
            student, torch.optim.Adam(student.parameters(), lr=settings.learning_rate)
        )

    # -- one optimiser step ------------------------------------------------------------------------------------

    def step(self, step: int, batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """One step of the student; raw named losses, averaged over the batches."""
        settings, accelerator = self.settings, self.accelerator
        self.set_rate(step, self.optimizer)
        self.optimizer.zero_grad()
        parts: dict[str, Tensor] = {}
        for at, batch in enumerate(batches):
            source = batch["ab"[self._domain]]
            last = at == len(batches) - 1
            with nullcontext() if last else accelerator.no_sync(self.student), accelerator.autocast():
                with torch.no_grad():
                    target = self.teacher(source).float()
                image = self.student(source).float()
                raw = {"l1": l1(image, target), "gradient": gradient_l1(image, target)}
                accelerator.backward(weighted_total(raw, settings.weights.model_dump()) / len(batches))
            accumulate(parts, raw, 1 / len(batches))
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(accelerator.unwrap_model(self.student), step)
        return parts

    # -- state -------------------------------------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module | None]:
        """See :meth:`TrainingProcess.networks`."""
        return {"student": self.student, "moving average": None if self.ema is None else self.ema.network}

    def saved(self) -> StudentGenerator:
        """The student that is saved and scored: the moving average where there is one."""
        student: StudentGenerator = self.accelerator.unwrap_model(self.student)
        return student if self.ema is None else self.ema.network

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"best_score": self.best_score, "data": self.fingerprint, **self.means.state()}
        if self.accelerator.is_main_process:
            state |= {
                "student": self.accelerator.unwrap_model(self.student).state_dict(),
                "optimizer": self.optimizer.optimizer.state_dict(),
                "ema": self.ema.network.state_dict() if self.ema is not None else None,
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            }
        return state

    def load(self, step: int) -> None:
        """Continue from the state of ``step``."""
        own, main = self.read_state_of(step, "images or by another teacher")
        self.accelerator.unwrap_model(self.student).load_state_dict(main["student"])
        load_optimizer(self.optimizer.optimizer, main["optimizer"], self.folder.path)
        if self.ema is not None:
            self.ema.network.load_state_dict(main["ema"])
        if self.accelerator.scaler and main["scaler"]:
            self.accelerator.scaler.load_state_dict(main["scaler"])
        self.best_score = main["best_score"]
        self.means.load(own, self.accelerator.device)

    def write_weights(self, which: str, step: int) -> None:
        student = self.saved()
        pair = OneWay(student, None) if self._domain == 0 else OneWay(None, student)
        path = self.folder.weights_path(which)
        write_translator(
            path, pair, self.settings, step, __version__, self.night_boxes, self.relit.strength, self.teacher_sha
        )

    # -- what the recipe asks for ------------------------------------------------------------------------------

    def crops(self) -> UnpairedCrops:
        """See :meth:`CropTrainer.crops`."""
        settings, domain = self.settings, "ab"[self._domain]
        return UnpairedCrops(
            self.files, settings.crop, settings.load_size, settings.augmentation, settings.seed, None, self.relit.of,
            domain,
        )  # fmt: skip

    def scorer(self) -> Score:
        """Mean absolute difference from the teacher on validation images; the grid shows source, teacher, student."""
        settings, device = self.settings, self.accelerator.device
        multiple = max(self.teacher.multiple, self.saved().multiple)
        files = self.validation[self._domain]
        images = read_scored(files, settings.score_images, settings.sample_height, multiple, self.relit.of)

        @torch.no_grad()
        def score(folder: Path, step: int) -> dict[str, float]:
            student, errors, squares = self.saved(), [], []
            rows: list[list[ImageArray]] = []
            for image in images:
                source = image[None].to(device)
                target, made = self.teacher(source).float(), student(source).float()
                errors.append(float(l1(made, target)))
                squares.append(float((made - target).square().mean()))
                if len(rows) < GRID_ROWS:
                    rows.append([to_image(each) for each in (image, target[0], made[0])])
            if not errors:
                return {}
            write_image(folder / f"step-{step:07d}.jpg", grid(rows), quality=90)
            mean = sum(squares) / len(squares)
            decibel = 10 * float(torch.log10(torch.tensor(4 / max(mean, 1e-12))))  # values span 2
            return {"score": sum(errors) / len(errors), "psnr": decibel}

        return score


def run_distill(
    teacher: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    out: str | os.PathLike[str],
    layers: Sequence[Mapping[str, Any]],
    resume: bool = False,
    cpu: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> TrainResult | None:
    """Distil as the layered settings say; None after a dry run, and in every process but the main one.

    Raises:
        ConfigError: unknown or wrong settings (all of them in one message), or ``out`` cannot be used.
        DatasetError: no training images.
        CheckpointError: no usable teacher.
        NightaugError: out of memory, disk full, or a loss became non-finite.
    """
    teacher, dataset, out = Path(teacher), Path(dataset), Path(out)
    settings = build(DistillSettings, *layers)
    settings = settings.model_copy(update={"day": settings.day and lasting(settings.day)})
    distiller = Distiller(teacher, dataset, out, settings, cpu)
    main = distiller.accelerator.is_main_process
    distiller.say = say
    if not dry_run:
        distiller.claim(resume)
    if main:
        for line in describe(distiller):
            say(line)
    if dry_run:
        if main:
            say(dump_yaml(settings).rstrip())
        return None
    smaller = (
        f"a smaller batch with larger accumulate, or a smaller crop (batch {settings.batch}, crop {settings.crop})"
    )
    try:
        with training_errors(out, smaller):
            result = distiller.run(resume)
            return result if main else None
    finally:
        distiller.folder.close()


def describe(distiller: Distiller) -> list[str]:
    """Data, both networks, and the time it will take, from one timed pass of each."""
    settings, accelerator = distiller.settings, distiller.accelerator
    student = distiller.saved()
    sizes = [sum(value.numel() for value in network.parameters()) for network in (distiller.teacher, student)]
    slow, fast = distiller.pass_seconds(distiller.teacher), distiller.pass_seconds(student)
    total = (slow + 3 * fast) * settings.accumulate * settings.steps
    count = len(distiller.files[distiller._domain])
    return [
        f"{count:,} images on {accelerator.num_processes} x {accelerator.device.type}, precision "
        f"{accelerator.mixed_precision}, {settings.steps:,} steps, {settings.direction}",
        f"teacher {sizes[0]:,} parameters, student {sizes[1]:,}; a pass takes {slow:.3g} s and {fast:.3g} s, "
        f"{slow / fast:.1f} times",
        f"estimate: {duration(total)} (about {total / settings.steps:.2g} s a step)",
    ]
