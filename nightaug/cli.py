"""The command line: parse, call one function, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys
import time
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nightaug import __version__
from nightaug.cli_common import (
    Config,
    Cpu,
    Device,
    DirectionName,
    DryRun,
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
    say,
    say_trained,
    settings_layers,
    words,
)
from nightaug.cli_curate import CuratingClip, Judge, ModeName, Real
from nightaug.cli_curate import app as curate_app
from nightaug.cli_detect import app as detect_app
from nightaug.cli_export import app as export_app
from nightaug.cli_openvocab import app as openvocab_app
from nightaug.cli_relight import app as relight_app
from nightaug.errors import ConfigError, Interrupted, NightaugError

app = typer.Typer(
    name="nightaug",
    help="Labelled day driving images in, labelled night images out. Commands in working order:",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Typer keeps its own copy of click's exceptions; this is their common base, without a private import.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class Link(StrEnum):
    hard = "hard"
    symbolic = "symbolic"
    copy = "copy"


class ImageFormatName(StrEnum):
    jpg = "jpg"
    png = "png"
    webp = "webp"


class EngineName(StrEnum):
    local = "local"
    ray = "ray"


class BackendName(StrEnum):
    torch = "torch"
    onnxruntime = "onnxruntime"
    openvino = "openvino"


class PrecisionName(StrEnum):
    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


def _version(wanted: bool) -> None:
    if wanted:
        say(f"nightaug {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the demo's world, run, images and page.")] = Path(
        "demo"
    ),
    minutes: Annotated[float, typer.Option(min=0.1, help="Time for training the small CycleGAN.")] = 4.0,
    detector_minutes: Annotated[float, typer.Option(min=0.1, help="Time for training the detectors.")] = 8.0,
    images: Annotated[int, typer.Option(min=8, help="Day and night scenes for training, each.")] = 300,
) -> None:
    """Run the whole job on the built-in sample world, ending in a page that says what translated images were worth."""
    from nightaug.experiment.demo import run_demo

    page = run_demo(out, minutes * 60, detector_minutes * 60, images, say)
    say(f"done: open {page} (more translations: {page.with_name('translation.html')})")


@app.command()
def doctor() -> None:
    """Tell what is installed, which device would be used, and what would fail."""
    from nightaug.doctor import diagnose

    lines, good = diagnose()
    for line in lines:
        say(line)
    if not good:
        raise typer.Exit(1)


@app.command()
def prepare(
    source: Annotated[Path | None, typer.Argument(help="Dataset whose labels know the time of day.")] = None,
    *,
    out: Out,
    a: Annotated[Path | None, typer.Option("--a", help="Folder of day images (with or without labels).")] = None,
    b: Annotated[Path | None, typer.Option("--b", help="Folder of night images.")] = None,
    images: Images = None,
    labels: Labels = None,
    format: Annotated[
        str | None, typer.Option(help="bdd100k, scalabel, coco, voc or yolo; found by looking otherwise.")
    ] = None,
    split: Annotated[str, typer.Option(help="train:val:test; an existing validation split becomes test.")] = "6:2:2",
    weather: Annotated[str | None, typer.Option(help="Only these, comma separated.")] = None,
    scene: Annotated[str | None, typer.Option(help="Only these, comma separated.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many images a domain.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    link: Annotated[Link, typer.Option(help="How images get there; falls through to the next.")] = Link.hard,
    drop_mistagged: Annotated[
        bool, typer.Option("--drop-mistagged", help="Leave out images brighter or darker than their tag says.")
    ] = False,
    check_brightness: Annotated[
        bool, typer.Option(help="Compare brightness with the tag (decodes every image).")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what other settings made there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do everything but write.")] = False,
) -> None:
    """Make the day/night (A/B) folders of a dataset, with labels and counts."""
    from nightaug.data.domains import prepare as run
    from nightaug.experiment.tables import prepare_table
    from nightaug.runs import step_progress

    began = time.monotonic()
    with step_progress() as progress:
        report = run(
            source, out=out, a=a, b=b, images=images, labels=labels, format=format, split=split,
            weather=words(weather, may_be_empty=True), scene=words(scene, may_be_empty=True), limit=limit, seed=seed,
            link=link.value, drop_mistagged=drop_mistagged, check_brightness=check_brightness, overwrite=overwrite,
            dry_run=dry_run, progress=progress,
        )  # fmt: skip
    for line in prepare_table(report):
        say(line)
    verb = "would prepare" if dry_run else "prepared"
    say(f"{verb} {report.images:,} images in {out} in {time.monotonic() - began:.1f} s")
    if report.unreadable:
        raise typer.Exit(1)


@app.command("train-translator")
def train_translator(
    dataset: Annotated[Path, typer.Argument(help="Prepared dataset: a folder with train/A and train/B.")],
    out: RunOut,
    preset: Preset = None,
    config: Config = None,
    steps: Steps = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of steps: passes over the larger domain.")] = None,
    set_: Set = None,
    resume: Resume = False,
    cpu: Cpu = False,
    dry_run: TrainingDryRun = False,
) -> None:
    """Train a CycleGAN (or CUT, or label-aware) between the day and the night images of a prepared dataset.

    On several GPUs or machines: torchrun --nproc_per_node N -m nightaug train-translator ...
    """
    if steps is not None and epochs is not None:
        raise ConfigError("give --steps or --epochs, not both")
    saved = out / "config.yaml" if resume else None
    layers = settings_layers("translator", preset, config, saved, set_, {"steps": steps})

    from nightaug.cyclegan.recipe import run_recipe
    from nightaug.experiment.translator_judge import load_judge

    result = run_recipe(dataset, out, layers, epochs, resume, cpu, dry_run, say, load_judge)
    if result is None:
        return
    say_trained(result, out, f"nightaug train-translator {dataset} --out {out} --resume")


@app.command()
def translate(
    input: Annotated[
        str, typer.Argument(help="Image, folder of images, or dataset in any format; or its URL, s3://bucket/day.")
    ],
    out: Annotated[str, typer.Option("--out", help="Folder to write, or its URL.")],
    translator: Annotated[
        str,
        typer.Option(
            help="'relight', a file of fit-relight, a run of train-translator or distill, weights, an exported file."
        ),
    ] = "relight",
    direction: Annotated[DirectionName, typer.Option()] = DirectionName.day2night,
    format: Annotated[
        ImageFormatName | None, typer.Option(help="Image format of the results; as the source otherwise.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make everything anew.")] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    strength: Annotated[float, typer.Option(min=0, max=1, help="relight: 0 is nearly the day, 1 full night.")] = 1.0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="relight: one constant, e.g. street_lamps=[0,6]. Repeatable."),
    ] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of jpg and webp.")] = 95,
    precision: Annotated[PrecisionName, typer.Option(help="Arithmetic of a trained translator.")] = PrecisionName.auto,
    backend: Annotated[
        BackendName | None,
        typer.Option(help="What computes a trained translator; torch, or what an exported file is for."),
    ] = None,
    tile: Annotated[int | None, typer.Option(min=0, help="Tile side in pixels; 0 never tiles.")] = None,
    device: Device = None,
    images: Images = None,
    labels: Labels = None,
    label_format: Annotated[str | None, typer.Option(help="Format of the labels, if looking is wrong.")] = None,
    all_times: Annotated[
        bool, typer.Option("--all-times", help="Also frames tagged with another time of day.")
    ] = False,
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "all",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Threads; all cores otherwise. With ray processes: one a GPU or four cores otherwise."
        ),
    ] = None,
    engine: Annotated[EngineName, typer.Option(help="local: this process. ray: this machine or a cluster.")] = (
        EngineName.local
    ),
    address: Annotated[
        str | None, typer.Option(help="Ray cluster: auto, host:6379, ray://host:10001; this machine otherwise.")
    ] = None,
    curate: Annotated[
        bool, typer.Option("--curate", help="Then score and curate the result, see nightaug curate.")
    ] = False,
    curate_mode: Annotated[
        ModeName | None, typer.Option("--curate-mode", help="drop (default), weigh or mend; implies --curate.")
    ] = None,
    judge: Judge = None,
    clip: CuratingClip = None,
    real: Real = None,
    dry_run: DryRun = False,
    trust: Trust = False,
) -> None:
    """Make night (or day) versions of images, with their labels beside them. Run again, it goes on."""
    from nightaug.config import parse_overrides
    from nightaug.translate.job import run_job
    from nightaug.translate.storage import is_url

    for place in (input, out):
        if str(place).startswith("memory:"):
            raise ConfigError(f"{place}: what is in memory is gone when this command ends; give a place that lasts")
    curate = curate or curate_mode is not None
    if not curate and (judge or clip or real):
        raise ConfigError("--judge, --clip and --real are for --curate; give it too")
    if curate and (is_url(input) or is_url(out)):
        raise ConfigError("--curate works on folders of this machine; fetch both, then run nightaug curate")
    mode = curate_mode.value if curate_mode else None
    if curate:
        from nightaug.curate.job import check_curating, run_curate

        check_curating(
            Path(input),
            mode,
            translator,
            direction.value,
            judge=judge,
            clip=clip,
            real=real,
            device=device,
            images=images,
        )
    result = run_job(
        input, out, translator=translator, direction=direction.value, format=format.value if format else None,
        overwrite=overwrite, seed=seed, strength=strength, constants=parse_overrides(set_ or []), quality=quality,
        precision=precision.value, tile=tile, backend=backend.value if backend else None,
        device=device, images=images, labels=labels, label_format=label_format, all_times=all_times, limit=limit,
        split=split, workers=workers, engine=engine.value, address=address, dry_run=dry_run, say=say,
    )  # fmt: skip
    if curate and dry_run:
        say(f"it would then be scored{f' by the judge {judge}' if judge else ''} and curated, mode {mode or 'drop'}")
    if curate and result is not None and not result.stopped:
        if result.interrupted:
            raise Interrupted("stopped before curating; run the same command again to go on")
        layers = [{"mode": mode}] if mode else []
        run_curate(
            Path(out),
            layers,
            source=Path(input),
            judge=judge,
            clip=clip,
            real=real,
            device=device,
            workers=None if engine is EngineName.ray else workers,
            say=say,
        )
    if result is not None and (result.stopped or result.failed):
        raise typer.Exit(1)


app.add_typer(relight_app)
app.add_typer(export_app)
app.add_typer(curate_app)
app.add_typer(detect_app)
app.add_typer(openvocab_app)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def main(arguments: list[str] | None = None) -> None:
    """Entry point; exit code 0: done, 1: done in part, 2: nothing could be done, 130: interrupted."""
    # Pillow warns of every odd EXIF block; what matters is said where an image is skipped.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        code = app(args=arguments, prog_name="nightaug", standalone_mode=False)
    except _UsageError as error:
        message = _one_line(error.format_message() if hasattr(error, "format_message") else error)
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "nightaug"
        if message:  # empty when only help was asked for
            print(f"error: {message.rstrip('.')}; see {where} --help", file=sys.stderr)
        sys.exit(2)
    except Interrupted as error:
        print(_one_line(error), file=sys.stderr)
        sys.exit(1)
    except NightaugError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except (OSError, MemoryError) as error:
        print(f"error: {_one_line(error) or type(error).__name__}", file=sys.stderr)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
