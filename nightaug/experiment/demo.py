"""The whole job on the sample world: draw, prepare, train a translator, translate, compare detectors, and the page."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from nightaug.config import load_preset, load_yaml
from nightaug.data.domains import PrepareReport, prepare
from nightaug.data.formats import open_dataset
from nightaug.data.scenes import WORLD_VERSION, write_world
from nightaug.errors import ConfigError, Interrupted
from nightaug.experiment.page import Comparison, write_page
from nightaug.experiment.tables import prepare_table
from nightaug.images import atomic_write_text, read_image
from nightaug.runs import RunFolder, progress_bar
from nightaug.translate.job import run_job
from nightaug.translate.plan import read_manifest

if TYPE_CHECKING:
    from nightaug.cyclegan.train import Trainer
    from nightaug.detect.train import DetectorTrainer

#: Scenes of the demo world, pixels.
WIDTH, HEIGHT = 512, 288
#: Test scenes for every training scene: of the day to look at, of the night to measure on.
DAY_TESTS, NIGHT_TESTS = 0.1, 0.7
#: The training scenes are split into train and val by these parts; the others are the test.
SPLIT = "85:15:15"
#: Folder of translated images -> translator; None is the CycleGAN trained here.
TRANSLATIONS: dict[str, str | None] = {"relight": "relight", "cyclegan": None}
#: Sliders on the page.
SHOWN = 6
#: Steps timed before the number of steps is fixed, and the fewest and most steps a demo trains.
TIMED_STEPS, MIN_STEPS, MAX_STEPS = 4, 10, 5000
#: The arms of the demo's comparison, and the steps of the day checkpoint in steps of an arm.
ARMS, CHECKPOINT_ARMS = ("day", "day+night", "day+translated"), 2
#: Arms that are trained: day+translated once a translator.
ROWS = 4
#: Draws of the demo's bootstrap.
BOOTSTRAP = 400


def run_demo(out: Path, seconds: float, detector_seconds: float, images: int, say: Callable[[str], None]) -> Path:
    """Make the demo in ``out``; run again, it goes on where it was stopped.

    Args:
        seconds: time for training the CycleGAN on this machine.
        detector_seconds: time for training the detectors.
        images: day scenes and night scenes for training.

    Returns:
        The HTML page of the comparison; ``translation.html`` beside it shows more of the translations.

    Raises:
        Interrupted: Ctrl-C; what is done is kept.
        ConfigError: ``out`` holds a demo with other settings.
        NightaugError: as the commands it runs.
    """
    world, dataset, run, comparison = out / "world", out / "dataset", out / "translator", out / "comparison"
    settings = {
        "world_version": WORLD_VERSION,
        "seconds": seconds,
        "detector_seconds": detector_seconds,
        "images": images,
    }
    kept = out / "demo.json"
    if _kept(kept) not in (None, settings):
        raise ConfigError(f"{out} holds a demo with other settings; choose another --out")
    atomic_write_text(kept, json.dumps(settings) + "\n")
    say("1/5 drawing the sample world")
    draw_world(world, images)
    say("2/5 preparing day and night folders")
    report = prepare(world, out=dataset, split=SPLIT, overwrite=True)
    for line in prepare_table(report):
        say(f"  {line}")
    say("3/5 training a small CycleGAN")
    if not train(dataset, run, seconds, say):
        raise Interrupted("stopped while training; run the same command again to go on")
    say("4/5 translating the day images")
    for name, translator in TRANSLATIONS.items():
        result = run_job(
            dataset, out / name, translator=translator or str(run), overwrite=True, say=lambda text: say(f"  {text}")
        )
        if result is None or result.interrupted:
            raise Interrupted("stopped while translating; run the same command again to go on")
    show_translations(out, dataset, run, report)
    say("5/5 training a day detector, and from it one detector for each kind of training images")
    compare(dataset, comparison, [f"{name}={out / name}" for name in TRANSLATIONS], detector_seconds, say)
    page = out / "index.html"
    atomic_write_text(page, (comparison / "index.html").read_text("utf-8"))
    return page


def _kept(path: Path) -> Any:
    """The settings a demo was begun with; None where it says nothing of them, as after a power cut."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def show_translations(out: Path, dataset: Path, run: Path, report: PrepareReport) -> Path:
    """``translation.html``: before and after of both translators, real night scenes, the CycleGAN's curves."""
    rows = [{row.source: out / name / row.output for row in read_manifest(out / name)} for name in TRANSLATIONS]
    labels = {frame.path: frame.boxes for frame in open_dataset(dataset).frames("test", "A")}
    tests = sorted(path for path in labels if path is not None)
    sources = [path.relative_to(dataset).as_posix() for path in tests[:: max(1, len(tests) // SHOWN)][:SHOWN]]
    nights = sorted((dataset / "test" / "B").glob("*.jpg"))
    comparisons = [
        Comparison(
            Path(source).name,
            read_image(dataset / source),
            [("relight (no training)", read_image(rows[0][source])), ("CycleGAN", read_image(rows[1][source]))],
            labels[dataset / source],
        )
        for source in sources
    ]
    page = out / "translation.html"
    metrics = RunFolder(run).read_metrics()
    write_page(
        page,
        title="nightaug demo: day scenes made night",
        notes=[
            f"Demonstration on {report.images:,} scenes of the built-in sample world (version {WORLD_VERSION}), "
            "drawn by code; a CycleGAN a quarter as wide as the published one, trained for "
            f"{metrics[-1]['step']:,} steps. "
            "It shows that the job runs from end to end, not what a fully trained translator can do.",
            "Boxes of the day scenes hold for the night versions: every translation keeps size and place.",
        ],
        table=prepare_table(report),
        comparisons=comparisons,
        references=[("Night scenes of the same world, for comparison", [read_image(path) for path in nights[:SHOWN]])],
        metrics=metrics,
    )
    return page


def draw_world(world: Path, images: int) -> None:
    """The demo's world, unless the same one is there already."""
    days, nights = (max(SHOWN, round(images * share)) for share in (DAY_TESTS, NIGHT_TESTS))
    counts = {"train": {"daytime": images, "night": images}, "val": {"daytime": days, "night": nights}}
    wanted: dict[str, Any] = {"world_version": WORLD_VERSION, "width": WIDTH, "height": HEIGHT, "counts": counts}
    try:
        there = json.loads((world / "world.json").read_text("utf-8"))
    except (OSError, ValueError):
        there = {}
    if all(there.get(key) == value for key, value in wanted.items()):
        return
    total = sum(sum(times.values()) for times in counts.values())
    with progress_bar("drawing", total) as progress:
        write_world(
            world, counts, width=WIDTH, height=HEIGHT, workers=os.cpu_count() or 1,
            progress=lambda done, total: progress(done, ""),
        )  # fmt: skip


def train(dataset: Path, run: Path, seconds: float, say: Callable[[str], None]) -> bool:
    """Train as many steps as fit into the time; a run that was stopped is finished first. False: stopped."""
    from nightaug.cyclegan.recipe import run_recipe
    from nightaug.cyclegan.settings import TranslatorSettings
    from nightaug.cyclegan.train import Trainer

    layers: dict[str, Any] = load_preset("demo")["translator"]
    try:
        steps = int(load_yaml(run / "config.yaml")["steps"])
    except (ConfigError, KeyError, ValueError):
        trainer = Trainer(dataset, run, TranslatorSettings(**layers))
        a_step = seconds_a_step(trainer)
        steps = min(MAX_STEPS, max(MIN_STEPS, int(seconds / a_step)))
    result = run_recipe(
        dataset, run, [layers, {"steps": steps}], resume=run.exists(), say=lambda text: say(f"  {text}")
    )
    return result is not None and result.finished and not result.interrupted


def compare(
    dataset: Path, out: Path, translators: list[str], seconds: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train and measure as many steps as fit into the time; a comparison that was stopped is finished."""
    from nightaug.experiment.compare import run_compare

    layers = load_preset("demo")["detector"]
    try:
        steps = int(load_yaml(out / "compare.yaml")["steps"])
    except (ConfigError, KeyError, ValueError):
        budget = seconds / detector_step(dataset, layers)
        steps = min(MAX_STEPS, max(MIN_STEPS, round(budget / (CHECKPOINT_ARMS + ROWS))))
    return run_compare(
        dataset, out, translators=translators, arms=ARMS, layers=[layers], steps=steps,
        day_steps=CHECKPOINT_ARMS * steps, seeds=1, bootstrap=BOOTSTRAP, command="nightaug demo",
        say=lambda text: say(f"  {text}"),
    )  # fmt: skip


def detector_step(dataset: Path, layers: dict[str, Any]) -> float:
    """Seconds a training step of the demo's detector takes on this machine."""
    import tempfile

    from nightaug.config import build
    from nightaug.detect.settings import DetectorSettings
    from nightaug.detect.sources import SourceSpec, known_classes, load_source
    from nightaug.detect.train import DetectorTrainer

    source = load_source(SourceSpec("dataset", "train", "A"), open_dataset(dataset))
    with tempfile.TemporaryDirectory() as folder:
        trainer = DetectorTrainer(
            [source], [], known_classes(source.frames), Path(folder), build(DetectorSettings, layers)
        )
        return seconds_a_step(trainer)


def seconds_a_step(trainer: Trainer | DetectorTrainer) -> float:
    """The median of a few training steps; the first one pays for set-up and does not count."""
    ends = []
    for at, group in enumerate(trainer.batches(0)):
        trainer.step(at, group)  # type: ignore[arg-type]
        ends.append(time.monotonic())
        if at == TIMED_STEPS:
            break
    return median(after - before for before, after in pairwise(ends))
