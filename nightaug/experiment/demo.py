"""The whole job on the sample world: draw, prepare, train, translate, and a page that shows it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nightaug.config import load_preset, load_yaml
from nightaug.data.domains import prepare
from nightaug.data.formats import open_dataset
from nightaug.data.scenes import WORLD_VERSION, write_world
from nightaug.errors import ConfigError, Interrupted
from nightaug.experiment.page import Comparison, write_page
from nightaug.experiment.tables import prepare_table
from nightaug.images import atomic_write_text, read_image
from nightaug.runs import RunFolder, progress_bar
from nightaug.translate.job import run_job
from nightaug.translate.plan import read_manifest

#: Scenes of the demo world, pixels.
WIDTH, HEIGHT = 512, 288
#: Test scenes a domain for every training scene.
TEST_SHARE = 0.25
#: Sliders on the page.
SHOWN = 6
#: Steps timed before the number of steps is fixed, and the fewest and most steps a demo trains.
TIMED_STEPS, MIN_STEPS, MAX_STEPS = 4, 10, 5000


def run_demo(out: Path, seconds: float, images: int, say: Callable[[str], None]) -> Path:
    """Make the demo in ``out``; run again, it goes on where it was stopped.

    Args:
        seconds: time for training the CycleGAN on this machine.
        images: day scenes and night scenes for training.

    Returns:
        The HTML page.

    Raises:
        Interrupted: Ctrl-C; what is done is kept.
        ConfigError: ``out`` holds a demo with other settings.
        NightaugError: as the commands it runs.
    """
    world, dataset, run = out / "world", out / "dataset", out / "translator"
    settings = {"world_version": WORLD_VERSION, "seconds": seconds, "images": images}
    kept = out / "demo.json"
    if kept.exists() and json.loads(kept.read_text("utf-8")) != settings:
        raise ConfigError(f"{out} holds a demo with other settings; choose another --out")
    atomic_write_text(kept, json.dumps(settings) + "\n")
    say("1/4 drawing the sample world")
    draw_world(world, images)
    say("2/4 preparing day and night folders")
    report = prepare(world, out=dataset, overwrite=True)
    for line in prepare_table(report):
        say(f"  {line}")
    say("3/4 training a small CycleGAN")
    if not train(dataset, run, seconds, say):
        raise Interrupted("stopped while training; run the same command again to go on")
    say("4/4 translating the day images")
    rows = []
    for name, translator in (("relight", "relight"), ("cyclegan", str(run))):
        result = run_job(dataset, out / name, translator=translator, overwrite=True, say=lambda text: say(f"  {text}"))
        if result is None or result.stopped:
            raise Interrupted("stopped while translating; run the same command again to go on")
        rows.append({row.source: out / name / row.output for row in read_manifest(out / name)})
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
    page = out / "index.html"
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
    tests = max(SHOWN, round(images * TEST_SHARE))
    counts = {"train": {"daytime": images, "night": images}, "val": {"daytime": tests, "night": tests}}
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
    """Train as many steps as fit into the time; a run that was stopped is finished first. False: stopped again."""
    from nightaug.cyclegan.recipe import run_recipe
    from nightaug.cyclegan.settings import TranslatorSettings
    from nightaug.cyclegan.train import Trainer

    layers: dict[str, Any] = load_preset("demo")["translator"]
    try:
        steps = int(load_yaml(run / "config.yaml")["steps"])
    except (ConfigError, KeyError, ValueError):
        trainer = Trainer(dataset, run, TranslatorSettings(**layers))
        began = 0.0
        for at, group in enumerate(trainer.batches(0)):
            if at == 1:  # the first step pays for set-up
                began = time.monotonic()
            trainer.step(at, group)
            if at == TIMED_STEPS:
                break
        a_step = (time.monotonic() - began) / TIMED_STEPS
        steps = min(MAX_STEPS, max(MIN_STEPS, int(seconds / a_step)))
    result = run_recipe(
        dataset, run, [layers, {"steps": steps}], resume=run.exists(), say=lambda text: say(f"  {text}")
    )
    return result is not None and result.finished
