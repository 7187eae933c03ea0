"""The commands that measure and curate translations. Same rules as :mod:`nightaug.cli`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nightaug.cli_common import Device, DryRun, Trust, say

app = typer.Typer()

Real = Annotated[Path | None, typer.Option("--real", help="Real night images, for making scores.")]
Judge = Annotated[
    Path | None,
    typer.Option("--judge", help="train-detector run or weight file that took no part in the translation."),
]
CuratingClip = Annotated[
    str | None, typer.Option("--clip", metavar="MODEL:TAG|MODEL:FILE|none", help="CLIP that looks at each object.")
]


class ModeName(StrEnum):
    drop = "drop"
    weigh = "weigh"
    mend = "mend"


@app.command("score-translation")
def score_translation(
    source: Annotated[Path, typer.Argument(help="What was translated: the day images with their labels.")],
    translated: Annotated[Path, typer.Argument(help="Folder that nightaug translate made.")],
    out: Annotated[Path, typer.Option("--out", help="Scores to write, a .json file; the gallery lies beside it.")],
    real: Annotated[Path | None, typer.Option("--real", help="Real night images, labelled or not.")] = None,
    judge: Annotated[
        Path | None,
        typer.Option(help="train-detector run or weight file that took no part in the translation."),
    ] = None,
    clip: Annotated[
        str, typer.Option(metavar="MODEL:TAG|MODEL:FILE|local-dir:FOLDER|none", help="CLIP that looks at each object.")
    ] = "none",
    features: Annotated[
        list[str] | None,
        typer.Option(
            metavar="clip|inception[:FILE]|judge|none",
            help="Features FID and KID are taken of; those of --clip and --judge otherwise. Repeatable.",
        ),
    ] = None,
    score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least score of a detection; the best F1 on SOURCE otherwise.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first translations.")] = None,
    real_limit: Annotated[
        int | None, typer.Option(min=1, help="Real images; as many as translations otherwise, 200 to 1,000.")
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Also sum up the images and boxes that curating has left out of training.")
    ] = False,
    gallery: Annotated[bool, typer.Option(help="Write a page of the worst images.")] = True,
    worst: Annotated[int, typer.Option(min=1, help="Images in each list of the page.")] = 12,
    batch: Annotated[int, typer.Option(min=1, help="Images in one pass.")] = 8,
    device: Device = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16, of the judge.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="Threads that decode and measure.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the day/night classifier.")] = 0,
    trust: Trust = False,
) -> None:
    """Measure a translation: objects kept, moved and invented, and did it become night. Run again, it goes on."""
    from nightaug.curate.faithfulness import score_translation as run

    scores = run(
        source, translated, out=out, real=real, judge=judge, clip=clip, features=features or None, score=score,
        real_limit=real_limit, limit=limit, batch=batch, device=device, precision=precision, workers=workers,
        seed=seed, everything=all_, gallery=gallery, worst=worst, say=say,
    )  # fmt: skip
    say(f"scores in {out}" + (f", the worst images in {out.with_suffix('.html')}" if gallery else ""))
    if scores.failed:
        raise typer.Exit(1)


@app.command()
def curate(
    translated: Annotated[Path, typer.Argument(help="Folder that nightaug translate made.")],
    scores: Annotated[
        Path | None, typer.Option(help="File of nightaug score-translation; made first if it is not given.")
    ] = None,
    mode: Annotated[
        ModeName | None, typer.Option(help="drop what is spoilt (default), weigh it down, or mend it from the source.")
    ] = None,
    source: Annotated[Path | None, typer.Option(help="What was translated, if it is no longer where it was.")] = None,
    judge: Judge = None,
    clip: CuratingClip = None,
    real: Real = None,
    undo: Annotated[bool, typer.Option("--undo", help="Give everything back as it was translated.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, e.g. lost_below=0.5. Repeatable."),
    ] = None,
    device: Device = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; all cores otherwise.")] = None,
    dry_run: DryRun = False,
    trust: Trust = False,
) -> None:
    """Keep, mend, weigh down or drop translated images and boxes by their scores. Labels stay; all can be undone."""
    from nightaug.config import parse_overrides
    from nightaug.curate.job import run_curate

    layers = [parse_overrides(set_ or []), {"mode": mode.value} if mode else {}]
    run_curate(
        translated, layers, scores=scores, source=source, judge=judge, clip=clip, real=real, device=device,
        workers=workers, dry_run=dry_run, undone=undo, say=say,
    )  # fmt: skip
