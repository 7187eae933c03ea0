"""The command that fits relight to somebody's own nights. Same rules as :mod:`nightaug.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nightaug.cli_common import DryRun, say

app = typer.Typer()


@app.command("fit-relight")
def fit_relight(
    dataset: Annotated[Path, typer.Argument(help="Prepared dataset: a folder with train/A and train/B.")],
    out: Annotated[Path, typer.Option("--out", help="YAML file to write, for translate --translator.")],
    night_boxes: Annotated[
        str,
        typer.Option(
            metavar="real|none|DETECTIONS", help="Labels of the night images, none, or what nightaug predict found."
        ),
    ] = "real",
    split: Annotated[str, typer.Option(help="Split to fit to, or all.")] = "train",
    days: Annotated[int, typer.Option(min=8, help="Day images that are drawn as night again and again.")] = 48,
    nights: Annotated[int, typer.Option(min=8, help="Night images they are held against.")] = 200,
    side: Annotated[int, typer.Option(min=64, help="Longer side of the images while they are compared, pixels.")] = 512,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; all cores otherwise.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Fit relight's constants to your own nights. Stopped and run again, it goes on.

    Day images are drawn as night and held against real night images, whole ones and the objects in them: how dark, how
    lit, how bright the lamps. One constant after the other is changed while that brings them nearer. No network is
    trained; ten to twenty minutes on two cores.
    """
    import os

    from nightaug.translate.fit_job import run_fit

    run_fit(
        dataset, out, night_boxes=night_boxes, split=split, days=days, nights=nights, side=side, seed=seed,
        workers=workers or os.cpu_count() or 1, overwrite=overwrite, dry_run=dry_run, say=say,
    )  # fmt: skip
