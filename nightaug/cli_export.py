"""The commands that make a trained translator fast: export and distill. Same rules as :mod:`nightaug.cli`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nightaug.cli_common import (
    Config,
    Cpu,
    DirectionName,
    DryRun,
    Resume,
    RunOut,
    Set,
    Steps,
    TrainingDryRun,
    Trust,
    say,
    say_trained,
    settings_layers,
)

app = typer.Typer()


class FormatName(StrEnum):
    onnx = "onnx"
    openvino = "openvino"


class ExportPrecisionName(StrEnum):
    fp32 = "fp32"
    bf16 = "bf16"
    int8 = "int8"


@app.command()
def export(
    run: Annotated[
        Path, typer.Argument(help="Run of train-translator or distill, its weight file, or a published .pth.")
    ],
    out: Annotated[Path, typer.Option("--out", help="File (.onnx, .xml) or folder to write.")],
    format: Annotated[FormatName, typer.Option("--format", help="onnx: any runtime. openvino: fastest on a CPU.")],
    direction: Annotated[DirectionName, typer.Option()] = DirectionName.day2night,
    precision: Annotated[
        ExportPrecisionName,
        typer.Option(help="bf16 is for openvino; int8 needs --calibrate, and gains with openvino only."),
    ] = ExportPrecisionName.fp32,
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Images as the translator will be given; drawn scenes otherwise."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
    trust: Trust = False,
    dry_run: DryRun = False,
) -> None:
    """Write a trained translator as an ONNX or OpenVINO file, held against torch on real images.

    A file that does not do what the run does is not written: fp32 within 1e-3 of torch, bf16 at 40 dB and more, int8 at
    20 dB, images in [-1, 1]. Use it with: nightaug translate INPUT --out DIR --translator FILE
    """
    from nightaug.translate.backends.export import export_translator
    from nightaug.translate.backends.files import target_file

    made = export_translator(
        run, out, format.value, direction.value, precision.value, calibrate, overwrite, dry_run, say
    )
    if made is not None:
        way = "" if direction is DirectionName.day2night else f" --direction {direction.value}"
        say(f"next: nightaug translate INPUT --out DIR --translator {target_file(out, format.value)}{way}")


@app.command()
def distill(
    run: Annotated[Path, typer.Argument(help="Run of train-translator, or its weight file: the teacher.")],
    dataset: Annotated[Path, typer.Argument(help="Prepared dataset: a folder with train/A and train/B.")],
    out: RunOut,
    config: Config = None,
    steps: Steps = None,
    set_: Set = None,
    resume: Resume = False,
    cpu: Cpu = False,
    trust: Trust = False,
    dry_run: TrainingDryRun = False,
) -> None:
    """Train a small generator to do what a trained one does, several times as fast.

    Worth it where many images are to be translated, on a CPU above all: no adversary, no second direction, only a
    teacher to copy, so that it trains fast and steadily. Judge it by nightaug score-translation or compare before you
    trust it with a dataset. The run is one as any other: translate, export and compare take it. The student is made
    smaller or larger by --set width=.. blocks=.. halvings=.. separable=true.
    """
    saved = out / "config.yaml" if resume else None
    layers = settings_layers("distill", None, config, saved, set_, {"steps": steps})

    from nightaug.cyclegan.distill import run_distill

    result = run_distill(run, dataset, out, layers, resume, cpu, dry_run, say)
    if result is None:
        return
    say_trained(result, out, f"nightaug distill {run} {dataset} --out {out} --resume")
