"""From settings layers to a training run, with an estimate before it starts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from nightaug.config import build, dump_yaml, lasting
from nightaug.cyclegan.loop import TrainResult
from nightaug.cyclegan.settings import TranslatorSettings
from nightaug.cyclegan.train import Trainer
from nightaug.errors import ConfigError
from nightaug.training import duration, room, training_errors

#: A training step costs about this many generator passes (1885 GFLOP against 99 at 256 px).
PASSES_A_STEP = 19


def epoch_steps(epochs: int, images: int, global_batch: int) -> int:
    """Optimiser steps of ``epochs`` passes over the larger domain of ``images`` images."""
    return epochs * max(1, math.ceil(images / global_batch))


def run_recipe(
    dataset: str | os.PathLike[str],
    out: str | os.PathLike[str],
    layers: Sequence[Mapping[str, Any]],
    epochs: int | None = None,
    resume: bool = False,
    cpu: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
    load_judge: Callable[[str, Path], nn.Module] | None = None,
) -> TrainResult | None:
    """Train as the layered settings say; None after a dry run, and in every process but the main one.

    Args:
        load_judge: from ``faithful.judge`` and ``dataset`` to the frozen network that compares objects, see
            :class:`nightaug.cyclegan.label_aware.LabelAware`; this package knows no detector.

    Raises:
        ConfigError: unknown or wrong settings (all of them in one message), or ``out`` cannot be used.
        DatasetError: no training images.
        NightaugError: out of memory, disk full, or a loss became non-finite.
    """
    dataset, out = Path(dataset), Path(out)
    settings = build(TranslatorSettings, *layers)
    layers = [*layers, {"day": settings.day and lasting(settings.day)}]
    settings = build(TranslatorSettings, *layers)
    judge: nn.Module | None = None
    if settings.faithful.weights.object and settings.faithful.judge is not None:
        if load_judge is None:
            raise ConfigError(
                "faithful.judge cannot be loaded here: give a load_judge, or use nightaug train-translator"
            )
        judge = load_judge(settings.faithful.judge, dataset)
    trainer = Trainer(dataset, out, settings, cpu, judge)
    main = trainer.accelerator.is_main_process
    trainer.say = say
    if epochs is not None:
        steps = epoch_steps(epochs, max(map(len, trainer.files)), trainer.global_batch)
        trainer.settings = settings = build(TranslatorSettings, *layers, {"steps": steps})
    if not dry_run:
        trainer.claim(resume)
    if main:
        say(describe(trainer))
        for line in describe_boxes(trainer):
            say(line)
        say(estimate(trainer))
    if dry_run:
        if main:
            say(dump_yaml(settings).rstrip())
        return None
    now = f"batch is {settings.batch}, crop {settings.crop}"
    smaller = f"--set batch=1 and a larger accumulate, or a smaller crop or width ({now})"
    try:
        with training_errors(out, smaller):
            result = trainer.run(resume)
            return result if main else None
    finally:
        trainer.folder.close()


def describe(trainer: Trainer) -> str:
    """Data and device in one line."""
    a, b = trainer.files
    accelerator = trainer.accelerator
    return (
        f"{len(a):,} day and {len(b):,} night images on {accelerator.num_processes} x {accelerator.device.type}, "
        f"precision {accelerator.mixed_precision}, {trainer.settings.steps:,} steps"
    )


def describe_boxes(trainer: Trainer) -> list[str]:
    """What label-aware training sees; nothing for plain training."""
    if trainer.aware is None:
        return []
    day, night = trainer.aware.boxes.counts()
    used = trainer.aware.used_night_boxes
    return [f"label-aware: {day:,} day boxes, {night:,} night boxes ({used})", *trainer.aware.notes]


def passes_a_step(settings: TranslatorSettings) -> float:
    """Generator passes that a training step costs; backward counts twice, an encoder with half the blocks 0.6."""
    passes = PASSES_A_STEP if settings.objective != "cut" else 7.0
    encoders = (1 + settings.contrast.identity) if settings.objective != "cycle" else 0
    if settings.faithful.weights.suppression:
        encoders = max(encoders, 1)
    # The head at 32 channels is a sixteenth of a generator of width 64; it runs on a night and on a translated image.
    head = 6 / 16 * (settings.faithful.head_width / 32) ** 2 * (64 / settings.width) ** 2
    return passes + 3 * 0.6 * encoders + (head if settings.faithful.weights.segmentation else 0.0)


def estimate(trainer: Trainer) -> str:
    """Time and disk a run will take, from one timed generator pass."""
    settings = trainer.settings
    seconds = trainer.pass_seconds(trainer.accelerator.unwrap_model(trainer.generators).A2B)
    total = seconds * passes_a_step(settings) * settings.accumulate * settings.steps
    values = sum(p.numel() for module in (trainer.generators, trainer.discriminators) for p in module.parameters())
    # Weights, two Adam moments, the average, and the old state until the new one is complete; two weight files.
    disk = values * 4 * 3.5 * 2 + values * 4 * 2
    return f"estimate: {duration(total)} (about {total / settings.steps:.2g} s a step){room(trainer.folder.path, disk)}"
