"""The detectors' commands: train-detector, predict, evaluate, compare, report. Same rules as :mod:`nightaug.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nightaug.cli_common import (
    Config,
    Cpu,
    Device,
    DryRun,
    Epochs,
    Images,
    Labels,
    Out,
    Preset,
    Resume,
    RunOut,
    Set,
    Steps,
    TrainingDryRun,
    Trust,
    Workers,
    check_finished,
    say,
    settings_layers,
    words,
)
from nightaug.errors import ConfigError

app = typer.Typer()

BatchOption = Annotated[int, typer.Option(min=1, help="Images in one pass.")]
Classes = Annotated[str | None, typer.Option(help="Only these classes, comma separated.")]


def renames(value: str | None) -> dict[str, str]:
    """``"rider=pedestrian,bus=truck"`` to a dict.

    Raises:
        ConfigError: a part without ``=``.
    """
    result = {}
    for part in words(value) or []:
        old, equals, new = part.partition("=")
        if not equals or not old.strip() or not new.strip():
            raise ConfigError(f"expected --rename old=new,old=new, got '{part}'")
        result[old.strip()] = new.strip()
    return result


@app.command("train-detector")
def train_detector(
    dataset: Annotated[Path, typer.Argument(help="Prepared or translated dataset, or labels in any format.")],
    out: RunOut,
    detector: Annotated[
        str | None,
        typer.Option(
            help="fcos-resnet18|50|101, fcos-mobilenet, faster-rcnn-resnet18|50|101, yolo11n, yolov8s, ... or a YOLO "
            ".yaml or .pt."
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        # The tags keep ":train:" from becoming a picture of a train.
        typer.Option(
            metavar="NAME:SPLIT:DOMAIN:WEIGHT", help="What to train on, e.g. dataset:[b]train[/b]:A. Repeatable."
        ),
    ] = None,
    validation: Annotated[
        list[str] | None, typer.Option(metavar="NAME:SPLIT:DOMAIN", help="What to evaluate on while training.")
    ] = None,
    classes: Classes = None,
    rename: Annotated[str | None, typer.Option(help="Rename classes first: rider=pedestrian,bus=truck.")] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:SPLIT:DOMAIN", help="Unlabelled night images to adapt to, e.g. dataset:[b]train[/b]:B."
        ),
    ] = None,
    adapt: Annotated[
        str | None, typer.Option(metavar="vlmcshfg|none", help="Learn from the target's images with the night head.")
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(metavar="MODEL[:WEIGHTS]|none", help="CLIP of the night head: ViT-B-32:openai, a file, a folder."),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Start from this run or weight file of nightaug.")] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="torchvision tag (IMAGENET1K_V1, COCO_V1), weight file; YOLO: auto or file.")
    ] = None,
    preset: Preset = None,
    config: Config = None,
    steps: Steps = None,
    epochs: Epochs = None,
    set_: Set = None,
    resume: Resume = False,
    cpu: Cpu = False,
    dry_run: TrainingDryRun = False,
    trust: Trust = False,
) -> None:
    """Train an FCOS or YOLO detector on labelled images, real, translated, or both.

    On several GPUs or machines: torchrun --nproc_per_node N -m nightaug train-detector ...
    """
    if steps is not None and epochs is not None:
        raise ConfigError("give --steps or --epochs, not both")
    flags: dict[str, Any] = {
        "detector": detector, "data": data or None, "validation": validation or None, "classes": words(classes),
        "rename": renames(rename) or None, "target": target, "adapt": adapt, "clip": clip,
        "weights": weights, "pretrained": pretrained,
        "steps": steps,
    }  # fmt: skip
    layers = settings_layers("detector", preset, config, out / "config.yaml" if resume else None, set_, flags)

    from nightaug.detect.recipe import run_recipe

    result = run_recipe(dataset, out, layers, epochs, resume, cpu, dry_run, say)
    if result is None:
        return
    check_finished(result, f"nightaug train-detector {dataset} --out {out} --resume")
    best = f", best AP on validation {100 * result.best:.1f}" if result.best is not None else ""
    early = " (no better AP for a while)" if result.stopped_early else ""
    say(f"finished at step {result.step:,}{early}{best}; weights in {out}")
    say(f"next: nightaug evaluate {out} {dataset} --out metrics.json")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="train-detector run, weight file, or a .json of COCO results.")],
    dataset: Annotated[Path, typer.Argument(help="Labelled images, in any format.")],
    out: Annotated[Path, typer.Option("--out", help="Metrics to write, a .json file.")],
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    domain: Annotated[str | None, typer.Option(help="A (day) or B (night); both otherwise.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Only these, comma separated; 'all' counts unknown ones as missed.")
    ] = None,
    score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least score in the confusion matrix; the best F1 otherwise.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Truth file whose image numbers a results file uses, if not found by itself.")
    ] = None,
    images: Images = None,
    labels: Labels = None,
    format: Annotated[str | None, typer.Option(help="Format of the labels, if looking is wrong.")] = None,
    batch: BatchOption = 8,
    device: Device = None,
    workers: Workers = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Detect anew.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Measure a detector: COCO AP by class, size, time of day, weather and scene, curves, confusion matrix."""
    from nightaug.detect.evaluate_job import run_evaluate

    run_evaluate(
        run, dataset, out=out, split=split, domain=domain, classes=words(classes), score=score, truth_file=truth,
        images=images, labels=labels, format=format, batch=batch, device=device, workers=workers,
        overwrite=overwrite, dry_run=dry_run, say=say,
    )  # fmt: skip


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="train-detector run or weight file.")],
    input: Annotated[Path, typer.Argument(help="Image, folder, dataset, or video file.")],
    out: Out,
    score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least score drawn and in YOLO lines; 0.25 otherwise.")
    ] = None,
    draw: Annotated[bool, typer.Option(help="Write pictures with the boxes.")] = True,
    format: Annotated[str, typer.Option(help="Result files: coco, yolo, or both, comma separated.")] = "coco,yolo",
    classes: Classes = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images or video frames.")] = None,
    batch: BatchOption = 8,
    device: Device = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="Threads that decode and draw.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make everything anew.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Draw detections on images or a video, and write them as COCO and YOLO files. Run again, it goes on."""
    from nightaug.detect.predict import run_predict

    result = run_predict(
        run, input, out, score=score, draw=draw, formats=words(format) or (), classes=words(classes), limit=limit,
        batch=batch, device=device, precision=precision, workers=workers, overwrite=overwrite, dry_run=dry_run,
        say=say,
    )  # fmt: skip
    if result is not None and (result.stopped or result.failed):
        raise typer.Exit(1)


@app.command("pseudo-label")
def pseudo_label(
    run: Annotated[Path, typer.Argument(help="train-detector run or weight file: the teacher.")],
    dataset: Annotated[Path, typer.Argument(help="Dataset whose night images are to be labelled.")],
    out: Out,
    also: Annotated[
        list[Path] | None,
        typer.Option(metavar="DETECTOR", help="Another one of the same classes; boxes of all are fused. Repeatable."),
    ] = None,
    split: Annotated[str, typer.Option(help="Images to label; labels they have are not looked at.")] = "train",
    domain: Annotated[str, typer.Option(help="A (day), B (night) or all.")] = "B",
    choose: Annotated[str, typer.Option(help="Split whose labelled images the thresholds are chosen on.")] = "val",
    precision: Annotated[
        float, typer.Option(min=0.01, max=0.999, help="Share of a class' labels that is right there.")
    ] = 0.6,
    score: Annotated[
        float | None, typer.Option(min=0.01, max=0.999, help="One threshold for all classes instead; needs no labels.")
    ] = None,
    unsure: Annotated[
        float, typer.Option(min=0.01, max=1, help="From this share of a threshold on: neither object nor background.")
    ] = 0.3,
    batch: BatchOption = 8,
    device: Device = None,
    workers: Workers = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Detect anew.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Label images by a trained detector, to train the next one on (self-training). Run again, it goes on.

    The folder is a dataset for --data of train-detector and for an arms file of compare.
    """
    from nightaug.detect.pseudo_labels import run_pseudo_label

    run_pseudo_label(
        run, dataset, out, also=also or (), split=split, domain=domain, choose=choose, precision=precision, score=score,
        unsure=unsure, batch=batch, device=device, workers=workers, overwrite=overwrite, dry_run=dry_run, say=say,
    )  # fmt: skip


@app.command()
def compare(
    dataset: Annotated[Path, typer.Argument(help="Prepared dataset; its labelled night test images are the ruler.")],
    out: Out,
    detector: Annotated[str | None, typer.Option(help="As for train-detector.")] = None,
    translator: Annotated[
        list[str] | None,
        typer.Option(help="relight, a run, a weight file or a translated folder; NAME=... names it. Repeatable."),
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option(help="Comma separated: day, night, day+night, day+translated, day+adapt, day+self, ..."),
    ] = None,
    arms_file: Annotated[Path | None, typer.Option(help="YAML of your own arms (docs/compare.md).")] = None,
    ablate: Annotated[
        str | None, typer.Option(metavar="ARM", help="Adapted arm: also train it without each of its parts.")
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(metavar="MODEL:WEIGHTS", help="CLIP of open_clip, for arms that adapt or are gated."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps of every arm.")] = None,
    day_steps: Annotated[
        int | None, typer.Option(min=1, help="Of the day checkpoint all arms start from; as --steps otherwise.")
    ] = None,
    teacher_steps: Annotated[
        int | None, typer.Option(min=1, help="Of the arms that label images for +self; as --steps otherwise.")
    ] = None,
    teachers: Annotated[
        int | None, typer.Option(min=1, help="Train each of those so often, and fuse what they find; once otherwise.")
    ] = None,
    teacher_precision: Annotated[
        float | None,
        typer.Option(min=0.01, max=0.999, help="Share of their labels that is right on dev; 0.6 otherwise."),
    ] = None,
    teacher_set: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Detector setting of those arms, such as width=640. Repeatable."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many; 3 otherwise.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Train only these now: ARM, ARM@SEED, @SEED, checkpoint. Repeatable.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Detector every arm starts from, instead.")] = None,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    bootstrap: Annotated[int | None, typer.Option(min=40, help="Replicates; 1000 otherwise.")] = None,
    allow_shared_drives: Annotated[
        bool, typer.Option("--allow-shared-drives", help="Go on where test drives are in train; the table says so.")
    ] = False,
    cpu: Cpu = False,
    dry_run: DryRun = False,
    trust: Trust = False,
) -> None:
    """Measure what training images are worth on real night: arms of equal budget, seeds, intervals, the night gap.

    Run again with the same --out, it goes on where it was stopped; arms and seeds can be added.
    """
    from nightaug.config import parse_overrides
    from nightaug.experiment.compare import run_compare
    from nightaug.experiment.compare_adapt import shown_clip

    command = _command().replace(clip, shown_clip(clip)) if clip else _command()
    run_compare(
        dataset, out, detector=detector, translators=translator or (), arms=words(arms), arms_file=arms_file,
        ablate=ablate, layers=settings_layers("detector", preset, config, None, set_, {"clip": clip}), steps=steps,
        day_steps=day_steps, teacher_steps=teacher_steps, teachers=teachers, teacher_precision=teacher_precision,
        teacher=parse_overrides(teacher_set or [], "--teacher-set"), seeds=seeds, only=only or (), weights=weights,
        bootstrap=bootstrap, allow_shared_drives=allow_shared_drives, command=command, cpu=cpu, dry_run=dry_run,
        say=say,
    )  # fmt: skip


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a comparison.")],
) -> None:
    """Make the page and the Markdown table of a comparison anew from its files."""
    from nightaug.experiment.report import write_report

    write_report(folder, say=say)


def _command() -> str:
    """What was typed, for the table; folders by name only, so that a published row names no one's machine.

    Without ``--only``: one comparison trained arm by arm is still one command.
    """
    import sys

    words, given = [], iter(sys.argv[1:])
    for word in given:
        if word == "--only":
            next(given, None)
        elif not word.startswith("--only="):
            words.append(_masked(word))
    return " ".join(["nightaug", *words])


def _masked(text: str) -> str:
    name, equals, value = text.partition("=")
    if equals and value.startswith(("/", "~")):
        return f"{name}={_masked(value)}"
    return f"$DATA/{Path(text).name}" if text.startswith(("/", "~")) else text
