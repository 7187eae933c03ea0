"""The detectors' commands: train-detector, predict, evaluate, compare, report. Same rules as :mod:`nightaug.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nightaug.errors import ConfigError

app = typer.Typer()

Out = Annotated[Path, typer.Option("--out", help="Folder to write.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, e.g. learning_rate=1e-4. Repeatable."),
]
Preset = Annotated[str | None, typer.Option(help="Settings that ship with nightaug: bdd100k, demo, ...")]
Config = Annotated[Path | None, typer.Option(help="YAML file of settings, over the preset.")]
Cpu = Annotated[bool, typer.Option("--cpu", help="Do not use a GPU.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, write nothing.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")]
BatchOption = Annotated[int, typer.Option(min=1, help="Images in one pass.")]
Classes = Annotated[str | None, typer.Option(help="Only these classes, comma separated.")]


def say(text: str) -> None:
    """A line for the user on standard output."""
    typer.echo(text)


def words(value: str | None) -> list[str] | None:
    """``"a, b"`` to ``["a", "b"]``."""
    return [word.strip() for word in value.split(",") if word.strip()] if value else None


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


def settings_layers(
    preset: str | None, config: Path | None, saved: Path | None, set_: list[str] | None, flags: dict[str, Any]
) -> list[dict[str, Any]]:
    """Settings of the ``detector:`` section, in rising order: preset, file, a resumed run's own, --set, flags."""
    from nightaug.config import load_preset, load_yaml, merge, parse_overrides, section

    layers: dict[str, Any] = load_preset(preset).get("detector", {}) if preset else {}
    if config is not None:
        layers = merge(layers, section(load_yaml(config), "detector", str(config)))
    if saved is not None and saved.exists():
        # What the run was started with holds, unless it is said otherwise here.
        layers = merge(load_yaml(saved), layers)
    return [layers, parse_overrides(set_ or []), {key: value for key, value in flags.items() if value is not None}]


@app.command("train-detector")
def train_detector(
    dataset: Annotated[Path, typer.Argument(help="Prepared or translated dataset, or labels in any format.")],
    out: Annotated[Path, typer.Option("--out", help="Run folder.")],
    detector: Annotated[
        str | None,
        typer.Option(help="fcos-resnet18|50|101, fcos-mobilenet, yolo11n, yolov8s, ... or a YOLO .yaml or .pt."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:SPLIT:DOMAIN:WEIGHT", help="What to train on, e.g. dataset:train:A:1. Repeatable."),
    ] = None,
    validation: Annotated[
        list[str] | None, typer.Option(metavar="NAME:SPLIT:DOMAIN", help="What to evaluate on while training.")
    ] = None,
    classes: Classes = None,
    rename: Annotated[str | None, typer.Option(help="Rename classes first: rider=pedestrian,bus=truck.")] = None,
    target: Annotated[
        str | None, typer.Option(help="Unlabelled images of the target domain: a second stream, for adaptation.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Start from this run or weight file of nightaug.")] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="torchvision tag (IMAGENET1K_V1, COCO_V1), weight file; YOLO: auto or file.")
    ] = None,
    preset: Preset = None,
    config: Config = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of steps: passes over the data.")] = None,
    set_: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    cpu: Cpu = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the settings and an estimate, train nothing.")
    ] = False,
) -> None:
    """Train an FCOS or YOLO detector on labelled images, real, translated, or both.

    On several GPUs or machines: torchrun --nproc_per_node N -m nightaug train-detector ...
    """
    if steps is not None and epochs is not None:
        raise ConfigError("give --steps or --epochs, not both")
    flags: dict[str, Any] = {
        "detector": detector, "data": data or None, "validation": validation or None, "classes": words(classes),
        "rename": renames(rename) or None, "target": target, "weights": weights, "pretrained": pretrained,
        "steps": steps,
    }  # fmt: skip
    layers = settings_layers(preset, config, out / "config.yaml" if resume else None, set_, flags)

    from nightaug.detect.recipe import run_recipe

    result = run_recipe(dataset, out, layers, epochs, resume, cpu, dry_run, say)
    if result is None:
        return
    if result.unreadable:
        say(f"{result.unreadable} training images could not be read and were stepped over")
    if result.finished:
        best = f", best AP on validation {100 * result.best:.1f}" if result.best is not None else ""
        early = " (no better AP for a while)" if result.stopped_early else ""
        say(f"finished at step {result.step:,}{early}{best}; weights in {out}")
        say(f"next: nightaug evaluate {out} {dataset} --out metrics.json")
    else:
        say(f"stopped at step {result.step:,}; continue with: nightaug train-detector {dataset} --out {out} --resume")
        raise typer.Exit(1)
