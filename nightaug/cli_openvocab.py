"""``nightaug openvocab ...``: classes without boxes. Same rules as :mod:`nightaug.cli`."""

from __future__ import annotations

from enum import StrEnum
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

app = typer.Typer(
    name="openvocab",
    help="Detect classes that nobody has labelled, with CLIP's help. Commands in working order:",
    no_args_is_help=True,
)

Run = Annotated[Path, typer.Argument(help="openvocab run, or its weight file.")]
DatasetPath = Annotated[Path, typer.Argument(help="Prepared or translated dataset, or labels in any format.")]
Data = Annotated[
    list[str] | None,
    # The tags keep ":train:" from becoming a picture of a train.
    typer.Option(metavar="NAME:SPLIT:DOMAIN", help="Which images, e.g. dataset:[b]train[/b]:A. Repeatable."),
]
Unseen = Annotated[str | None, typer.Option("--unseen", help="Classes without boxes, comma separated.")]
Split = Annotated[
    str | None,
    typer.Option("--class-split", metavar="NAME|FILE", help="coco_48_17, coco_65_15, voc_16_4, dior_16_4, or a file."),
]
Embeddings = Annotated[Path | None, typer.Option("--embeddings", help="Folder of nightaug openvocab embed.")]
Clip = Annotated[
    str | None, typer.Option("--clip", metavar="MODEL:TAG", help="CLIP, if it is no longer where it was then.")
]
NamingClip = Annotated[
    str | None,
    typer.Option(
        "--clip", metavar="MODEL:TAG", help="CLIP that names bare proposals; else, if it is no longer where it was."
    ),
]
Batch = Annotated[int, typer.Option(min=1, help="Images in one pass.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]


class MethodName(StrEnum):
    proposals = "proposals"
    vild = "vild"
    lp_ovod = "lp-ovod"
    vldus = "vldus"


@app.command()
def embed(
    dataset: DatasetPath,
    out: Out,
    proposals: Annotated[
        str, typer.Option(metavar="RUN|labels", help="Detector whose boxes are embedded, or the labelled ones.")
    ],
    clip: Annotated[
        str, typer.Option("--clip", metavar="MODEL:TAG|MODEL:FILE|local-dir:FOLDER", help="CLIP that looks at them.")
    ],
    data: Data = None,
    classes: Annotated[
        str | None, typer.Option(help="With labels: only boxes of these classes, comma separated.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Boxes an image, the best ones.")] = 300,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Least objectness of a box.")] = 0.0,
    overlap: Annotated[float, typer.Option(help="IoU over which the weaker of two boxes goes.")] = 0.7,
    min_side: Annotated[float, typer.Option(min=1, help="Least width and height, pixels.")] = 4.0,
    batch: Batch = 8,
    crops: Annotated[int, typer.Option(min=1, help="Crops CLIP sees at once.")] = 256,
    device: Device = None,
    precision: Precision = "auto",
    workers: Workers = None,
    dry_run: DryRun = False,
    trust: Trust = False,
) -> None:
    """Find proposals in all training images and keep CLIP's embedding of each. Run again, it goes on.

    Several of these at once, on several GPUs or machines, divide the work.
    """
    from nightaug.detect.openvocab.embed import run_embed

    run_embed(
        dataset, out, proposals=proposals, clip=clip, data=data or (), classes=words(classes), most=most,
        min_score=min_score, overlap=overlap, min_side=min_side, batch=batch, crops=crops, device=device,
        precision=precision, workers=workers, dry_run=dry_run, say=say,
    )  # fmt: skip


@app.command()
def train(
    dataset: DatasetPath,
    out: RunOut,
    method: Annotated[MethodName, typer.Option(help="proposals: class-agnostic boxes, for embed.")],
    embeddings: Embeddings = None,
    unseen: Unseen = None,
    class_split: Split = None,
    drop_unseen_images: Annotated[
        bool, typer.Option("--drop-unseen-images", help="Leave out whole images that show an unseen class.")
    ] = False,
    detector: Annotated[str | None, typer.Option(help="faster-rcnn-resnet18|50|101.")] = None,
    data: Data = None,
    validation: Annotated[
        list[str] | None, typer.Option(metavar="NAME:SPLIT:DOMAIN", help="What to evaluate on while training.")
    ] = None,
    clip: Clip = None,
    pretrained: Annotated[
        str | None, typer.Option(help="torchvision tag (IMAGENET1K_V1, COCO_V1) or weight file.")
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
    """Train a two-stage detector on the seen classes: ViLD, LP-OVOD, VLDUS, or class-agnostic proposals.

    On several GPUs or machines: torchrun --nproc_per_node N -m nightaug openvocab train ...
    """
    if steps is not None and epochs is not None:
        raise ConfigError("give --steps or --epochs, not both")
    flags: dict[str, Any] = {
        "detector": detector, "data": data or None, "validation": validation or None, "pretrained": pretrained,
        "steps": steps,
    }  # fmt: skip
    layers = settings_layers("openvocab", preset, config, out / "config.yaml" if resume else None, set_, flags)

    from nightaug.detect.openvocab.recipe import run_training

    result = run_training(
        dataset, out, layers, method.value, embeddings=embeddings, clip=clip, unseen=words(unseen),
        split_name=class_split, drop_unseen_images=drop_unseen_images, epochs=epochs, resume=resume, cpu=cpu,
        dry_run=dry_run, say=say,
    )  # fmt: skip
    if result is None:
        return
    check_finished(result)
    say(f"finished at step {result.step:,}; weights in {out}")
    following = {
        "proposals": f"embed {dataset} --proposals {out} --clip MODEL:TAG --out EMBEDDINGS",
        "vild": f"predict {out} INPUT --classes ... --out DIR",
        "lp-ovod": f"probe {out} --embeddings {embeddings} --unseen ... --out PROBED",
        "vldus": f"synthesize {out} {dataset} --unseen ... --clip MODEL:TAG --out RUN",
    }
    say(f"next: nightaug openvocab {following[method.value]}")


@app.command()
def probe(
    run: Run,
    out: RunOut,
    embeddings: Annotated[Path, typer.Option(help="Folder of nightaug openvocab embed.")],
    unseen: Unseen = None,
    class_split: Split = None,
    clip: Clip = None,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    batch: Batch = 8,
    device: Device = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode images.")] = 0,
    resume: Resume = False,
    trust: Trust = False,
) -> None:
    """LP-OVOD: teach classes to a trained detector with the regions that CLIP finds most like their names."""
    layers = settings_layers("probe", preset, config, out / "config.yaml" if resume else None, set_, {}, "probe")

    from nightaug.detect.openvocab.commands import probe as work

    result = work(
        run, out, layers, embeddings=embeddings, novel=words(unseen), split_name=class_split, clip=clip, batch=batch,
        device=device, workers=workers, resume=resume, say=say,
    )  # fmt: skip
    _finish(result.finished, out, "probed")


@app.command()
def synthesize(
    run: Run,
    dataset: DatasetPath,
    out: RunOut,
    unseen: Unseen = None,
    class_split: Split = None,
    embeddings: Embeddings = None,
    clip: Annotated[
        str | None, typer.Option("--clip", metavar="MODEL:TAG", help="CLIP that reads the names; the embeddings' own.")
    ] = None,
    data: Data = None,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    batch: Batch = 8,
    device: Device = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode images.")] = 0,
    resume: Resume = False,
    trust: Trust = False,
) -> None:
    """VLDUS: give a trained detector classes from region features that a generator makes of their names."""
    saved = out / "config.yaml" if resume else None
    layers = settings_layers("synthesize", preset, config, saved, set_, {}, "synthesis")

    from nightaug.detect.openvocab.commands import synthesize as work

    result = work(
        run, dataset, out, layers, data=data or (), unseen=words(unseen), split_name=class_split,
        embeddings=embeddings, clip=clip, batch=batch, device=device, workers=workers, resume=resume, say=say,
    )  # fmt: skip
    _finish(result.finished, out, "synthesized")


def _finish(finished: bool, out: Path, what: str) -> None:
    if not finished:
        say("stopped; run the same command with --resume to go on")
        raise typer.Exit(1)
    say(f"{what}; weights in {out}")
    say(f"next: nightaug openvocab evaluate {out} DATASET --unseen ... --out metrics.json")


@app.command()
def evaluate(
    run: Run,
    dataset: Annotated[Path, typer.Argument(help="Labelled images, in any format.")],
    out: Annotated[Path, typer.Option("--out", help="Metrics to write, a .json file; the table lies beside it.")],
    unseen: Unseen = None,
    class_split: Split = None,
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    domain: Annotated[str | None, typer.Option(help="A (day) or B (night); both otherwise.")] = None,
    clip: NamingClip = None,
    shuffles: Annotated[int, typer.Option(min=1, help="How often names are dealt anew for the chance row.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of these.")] = 0,
    images: Images = None,
    labels: Labels = None,
    format: Annotated[str | None, typer.Option(help="Format of the labels, if looking is wrong.")] = None,
    batch: Batch = 8,
    device: Device = None,
    workers: Workers = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Detect anew.")] = False,
    dry_run: DryRun = False,
    trust: Trust = False,
) -> None:
    """Measure seen and unseen classes: ZSD, GZSD with harmonic mean, recall@100, and what chance would reach."""
    from nightaug.detect.openvocab.evaluate import run_evaluation

    run_evaluation(
        run, dataset, out=out, unseen=words(unseen), split_name=class_split, split=split, domain=domain, clip=clip,
        shuffles=shuffles, seed=seed, images=images, labels=labels, format=format, batch=batch, device=device,
        workers=workers, overwrite=overwrite, dry_run=dry_run, say=say,
    )  # fmt: skip


@app.command()
def predict(
    run: Run,
    input: Annotated[Path, typer.Argument(help="Image, folder, dataset, or video file.")],
    out: Out,
    classes: Annotated[
        str | None,
        typer.Option(help='What to look for, comma separated: "ambulance,food cart"; all it knows otherwise.'),
    ] = None,
    clip: NamingClip = None,
    score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least score drawn and in YOLO lines; 0.25 otherwise.")
    ] = None,
    draw: Annotated[bool, typer.Option(help="Write pictures with the boxes.")] = True,
    format: Annotated[str, typer.Option(help="Result files: coco, yolo, or both, comma separated.")] = "coco,yolo",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images or video frames.")] = None,
    batch: Batch = 8,
    device: Device = None,
    precision: Precision = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="Threads that decode and draw.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make everything anew.")] = False,
    dry_run: DryRun = False,
    trust: Trust = False,
) -> None:
    """Detect any classes by their names and draw them. Run again, it goes on."""
    from nightaug.detect.openvocab.commands import predict as work

    result = work(
        run, input, out, classes=words(classes), clip=clip, score=score, draw=draw, formats=words(format) or (),
        limit=limit, batch=batch, device=device, precision=precision, workers=workers, overwrite=overwrite,
        dry_run=dry_run, say=say,
    )  # fmt: skip
    if result is not None and (result.stopped or result.failed):
        raise typer.Exit(1)
