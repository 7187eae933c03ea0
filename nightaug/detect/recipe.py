"""From settings layers to a training run, with an estimate before it starts."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from nightaug.config import build, dump_yaml, lasting
from nightaug.data.classes import canonical_class, canonical_classes
from nightaug.data.formats import Dataset, open_dataset
from nightaug.data.frames import Frame
from nightaug.detect.dataset import Batch, EmbeddedProposals
from nightaug.detect.detectors import Detector, Target, detector_kind
from nightaug.detect.detectors.base import EmbeddedRegions
from nightaug.detect.sampling import Source
from nightaug.detect.settings import DetectorSettings
from nightaug.detect.sources import (
    SourceSpec,
    by_time,
    in_words,
    known_classes,
    labelled_frames,
    load_source,
    load_target,
    map_classes,
    parse_source,
    without_images_of,
)
from nightaug.detect.train import DetectorTrainer, TrainResult
from nightaug.detect.vision_language import without_effect
from nightaug.errors import ConfigError, DatasetError, Interrupted
from nightaug.losses import weighted_total
from nightaug.training import duration, room, training_errors

#: The one class of class-agnostic training.
OBJECT = "object"


class TrainingData(NamedTuple):
    """What a run sees."""

    sources: list[Source]
    val: list[Frame]
    classes: tuple[str, ...]
    target: list[Frame]
    notes: list[str]


def lasting_places(settings: DetectorSettings) -> dict[str, Any]:
    """Settings whose folders are named by places that hold in other working folders, too."""
    target = settings.target
    return {
        "data": [_lasting(text) for text in settings.data],
        "validation": [_lasting(text) for text in settings.validation],
        "target": None if target is None else _lasting(target),
    }


def _lasting(text: str) -> str:
    try:
        place = parse_source(text).data
    except ConfigError:
        return text  # said where it is read, with the option's name
    return text if place in {"dataset", "."} else lasting(place) + text[len(place) :]


def gather(dataset: Dataset, settings: DetectorSettings) -> TrainingData:
    """The frames that the settings name.

    Raises:
        ConfigError: a spec is wrong, or a class does not occur in the training labels.
        DatasetError: nothing usable is there.
    """
    specs = [parse_source(text) for text in settings.data] or [SourceSpec("dataset")]
    found = [load_source(spec, dataset) for spec in specs]
    seen = {box.category for source in found for frame in source.frames for box in frame.boxes}
    idle = [old for old in settings.rename if canonical_class(old) not in seen]
    notes = [f"--rename {', '.join(idle)}: not in the training labels"] if idle else []
    if settings.warmup >= settings.steps:
        notes.append(
            f"the learning rate rises over {settings.warmup:,} steps, longer than the run; see --set warmup=..."
        )
    sources = [source._replace(frames=map_classes(source.frames, settings.rename)) for source in found]
    sources = _without_images_of(sources, settings.exclude, notes)
    # A source of weight 0 is never drawn: its classes are not there to be learnt.
    drawn = [source for source in sources if source.weight > 0] or sources  # without any, the mixture says so
    labelled = [frame for source in drawn for frame in source.frames]
    there = known_classes(labelled, dataset.classes)
    classes = canonical_classes(settings.classes) if settings.classes else there
    unknown = [name for name in classes if name not in there]
    if unknown:
        raise ConfigError(f"--classes {', '.join(unknown)}: not in the training labels (there are: {', '.join(there)})")
    if not classes:
        raise ConfigError("the training images have no boxes at all: there is nothing to learn")
    val: list[Frame] = []
    if settings.validation:
        for text in settings.validation:
            val += load_source(parse_source(text, "--validation"), dataset, "--validation").frames
    else:
        val = labelled_frames(dataset, "val", "all")
    if settings.patience is not None and not (val and settings.evaluate_every):
        raise ConfigError(
            "patience needs validation: name images with --validation NAME:SPLIT:DOMAIN (the dataset has no labelled "
            "val), and an evaluate_every over 0"
        )
    target: list[Frame] = []
    if settings.target is not None:
        # Never a label: the trainer takes the images alone.
        target = load_target(parse_source(settings.target, "--target"), dataset)
        if settings.adapt == "none":
            notes.append("--target is not looked at without --adapt vlmcshfg")
        elif inside := {frame.path for frame in labelled} & {frame.path for frame in target}:
            notes.append(f"{len(inside):,} of the {len(target):,} images of --target are also trained on with labels")
    notes += without_effect(settings, drawn)
    val = map_classes(val, settings.rename)
    if settings.rcnn.class_agnostic:
        notes.append(f"one class, {OBJECT}, of: {', '.join(classes)}")
        one = dict.fromkeys(classes, OBJECT)
        sources = [source._replace(frames=map_classes(source.frames, one)) for source in sources]
        val, classes = map_classes(val, one), (OBJECT,)
    return TrainingData(sources, val, classes, target, notes)


def _without_images_of(sources: list[Source], classes: Sequence[str], notes: list[str]) -> list[Source]:
    """The sources without their images of some classes, and a note that tells how many went."""
    if not classes:
        return sources
    kept = [source._replace(frames=without_images_of(source.frames, classes)) for source in sources]
    before, after = (sum(len(source.frames) for source in each) for each in (sources, kept))
    notes.append(f"{before - after:,} of {before:,} images show {' or '.join(classes)} and are left out")
    if not after:
        raise DatasetError(f"every training image shows {' or '.join(classes)}: see --set exclude")
    return kept


class Ready(NamedTuple):
    """What a trainer is given beside its data; see :class:`DetectorTrainer`. ``notes`` are lines for people."""

    detector: Detector | None = None
    proposals: EmbeddedProposals | None = None
    notes: Sequence[str] = ()


def run_recipe(
    dataset: str | os.PathLike[str],
    out: str | os.PathLike[str],
    layers: Sequence[Mapping[str, Any]],
    epochs: int | None = None,
    resume: bool = False,
    cpu: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
    make: Callable[[DetectorSettings, TrainingData], Ready] | None = None,
) -> TrainResult | None:
    """Train as the layered settings say; None after a dry run, and in all processes but the main one.

    Args:
        make: gives a ready-made detector, and precomputed proposals; None: the settings' own detector alone.

    Raises:
        ConfigError: unknown or wrong settings (all of them in one message), or ``out`` cannot be used.
        DatasetError: no training images.
        CheckpointError: weights to start from cannot be had.
        Interrupted: Ctrl-C while CLIP embedded regions.
        NightaugError: out of memory, disk full, or a loss became non-finite.
    """
    out = Path(out)
    settings = build(DetectorSettings, *layers)
    layers = [*layers, lasting_places(settings)]
    settings = build(DetectorSettings, *layers)
    detector_kind(settings.detector)
    data = gather(open_dataset(dataset), settings)
    ready = make(settings, data) if make is not None else Ready()
    trainer = DetectorTrainer(
        data.sources, data.val, data.classes, out, settings, cpu, data.target, ready.detector, ready.proposals
    )
    data.notes.extend(ready.notes)
    main = trainer.accelerator.is_main_process
    trainer.say = say
    if epochs is not None:
        steps = epochs * math.ceil(len(trainer.mixture) / trainer.global_batch)
        trainer.settings = settings = build(DetectorSettings, *layers, {"steps": steps})
    smaller = f"a smaller --set batch=... and a larger accumulate (batch is {settings.batch})"
    try:
        with training_errors(out, smaller):
            if not dry_run:
                trainer.claim(resume)
            if main:
                for line in describe(trainer, data):
                    say(line)
            about = estimate(trainer)  # in every process: the losses wait for each other's sums
            if main:
                say(about)
            if dry_run:
                if main:
                    say(dump_yaml(settings).rstrip())
                return None
            result = trainer.run(resume)
            return result if main else None
    except Interrupted as error:  # while CLIP embedded; training itself ends with a state
        raise Interrupted(f"{error} (with --resume)") from error
    finally:
        trainer.folder.close()


def describe(trainer: DetectorTrainer, data: TrainingData) -> list[str]:
    """Data, classes and device, a line each."""
    accelerator, settings = trainer.accelerator, trainer.settings
    lines = [in_words(source) for source in trainer.mixture.sources]
    if data.target:
        lines.append(f"target (no labels): {len(data.target):,} images ({by_time(data.target)})")
    if settings.adapt != "none":
        lines.append(f"night head: {', '.join(settings.adaptation.parts)}; {_clip_line(trainer)}")
    lines.append(
        f"{len(trainer.classes)} classes: {', '.join(trainer.classes)}; {len(trainer.val):,} validation images"
    )
    lines += data.notes
    lines += [line for line in (trainer.live.loaded, trainer.loaded and f"from {trainer.loaded}") if line]
    lines.append(
        f"{settings.detector} at {settings.width}x{settings.height} on {accelerator.num_processes} x "
        f"{accelerator.device.type}, precision {trainer.precision}, {settings.steps:,} steps of "
        f"{trainer.global_batch} images, rate {trainer.rate:.2g}"
    )
    return lines


def _clip_line(trainer: DetectorTrainer) -> str:
    if trainer.language is not None:
        return f"CLIP {trainer.language.name}"
    if "alignment" not in trainer.settings.adaptation.parts:
        return "no CLIP"
    return "no CLIP, so no alignment (add --clip MODEL:TAG)"


def estimate(trainer: DetectorTrainer) -> str:
    """Time and disk a run will take, from one timed forward and backward pass over grey images with a few boxes.

    Not in it: evaluation, CLIP's embedding beforehand, and what the night head does with more pseudo labels.
    """
    settings, accelerator, detector = trainer.settings, trainer.accelerator, trainer.live
    images = torch.full((settings.batch, 3, settings.height, settings.width), 114, dtype=torch.uint8)
    corner = torch.cartesian_prod(torch.arange(4) / 4, torch.arange(4) / 4)
    boxes = torch.cat([corner, corner + 0.15], dim=1) * torch.tensor([settings.width, settings.height] * 2)
    target = Target(boxes, torch.zeros(len(boxes), dtype=torch.long), torch.ones(len(boxes)))
    if trainer.proposals is not None:
        clip = torch.ones(settings.rcnn.embedded, int(detector.facts["embedding"]))
        target.regions = EmbeddedRegions(boxes[torch.arange(len(clip)) % len(boxes)], clip)
    targets = [target.to(accelerator.device)] * settings.batch
    batch = Batch(images.to(accelerator.device), targets, [], [])
    # Normalisation layers and memories learn from the grey images: what they had is put back afterwards.
    module: nn.Module = trainer.adapted if trainer.adapted is not None else detector
    before = {key: value.clone() for key, value in module.state_dict().items()}
    module.train()
    seconds = []
    for _ in range(2):  # the first one pays for set-up
        began = time.monotonic()
        with accelerator.autocast():
            found = trainer.losses(batch, batch if trainer.target is not None else None, 0)
        accelerator.backward(weighted_total(found.losses, trainer.loss_weights(0)))
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - began)
    module.load_state_dict(before)
    module.zero_grad(set_to_none=True)
    total = seconds[-1] * 1.1 * settings.accumulate * settings.steps
    moments = 2 if settings.optimizer == "adamw" else 1
    own = sum(p.numel() for p in detector.parameters())
    trained = sum(p.numel() for p in module.parameters())
    averaged = own if trainer.ema is not None else 0
    # The old state stays until the new one is complete; the weight files hold the detector alone.
    disk = 4 * (2 * (trained * (1 + moments) + averaged) + 2 * own)
    return f"estimate: {duration(total)} (about {total / settings.steps:.2g} s a step){room(trainer.folder.path, disk)}"
