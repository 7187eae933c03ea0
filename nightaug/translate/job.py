"""``nightaug translate`` as one function: plan, say what it will cost, carry out, sum up."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from nightaug.data.classes import Direction
from nightaug.errors import NightaugError
from nightaug.images import ImageFormat
from nightaug.runs import progress_bar
from nightaug.translate.pipeline import TranslateResult, translate
from nightaug.translate.plan import Plan, make_plan, summary
from nightaug.translate.translators import RELIGHT, Precision, Translator

#: A PNG takes about this many times the bytes of the JPEG it was made from.
_PNG_GROWTH = 6


def disk_needed(plan: Plan) -> int:
    """Bytes the results will take, judged by the sources (night images compress better, so this is ample)."""
    total = 0
    for item in plan.items:
        if item.frame.path is not None and item.frame.path.exists():
            grows = item.output.lower().endswith(".png") and not item.source.lower().endswith(".png")
            total += item.frame.path.stat().st_size * (_PNG_GROWTH if grows else 1)
    return total


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def run_job(
    source: Path,
    out: Path,
    *,
    translator: str = RELIGHT,
    direction: Direction = "day2night",
    format: ImageFormat | None = None,
    overwrite: bool = False,
    seed: int = 0,
    strength: float = 1.0,
    quality: int = 95,
    precision: Precision = "auto",
    tile: int | None = None,
    device: str | None = None,
    images: Path | None = None,
    labels: Path | None = None,
    label_format: str | None = None,
    all_times: bool = False,
    limit: int | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> TranslateResult | None:
    """Translate ``source`` into ``out``; None after a dry run. Arguments as the command's options.

    Raises:
        DatasetError: nothing to translate.
        ConfigError: settings that contradict each other, or ``out`` cannot be used.
        CheckpointError: no usable translator.
        NightaugError: not enough disk.
    """
    plan = make_plan(source, direction, format, seed, images, labels, label_format, all_times, limit)
    loaded = Translator.load(translator, direction, device, precision, tile, strength)
    need, free = disk_needed(plan), shutil.disk_usage(_existing(out.absolute())).free
    say(f"{summary(plan)}; {direction} by {loaded.name}, about {need / 1e6:,.0f} MB on disk")
    if plan.dataset.problems:
        noticed = plan.dataset.problems.counts.most_common()
        say("noticed in the labels: " + ", ".join(f"{number:,} {kind}" for kind, number in noticed))
    if dry_run:
        for item in plan.items[:10]:
            say(f"  {item.source} -> {item.output}")
        if len(plan.items) > 10:
            say(f"  ... and {len(plan.items) - 10:,} more")
        return None
    if need > free:
        raise NightaugError(f"{out}: about {need / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free")
    began = time.monotonic()
    with progress_bar("translating", len(plan.items)) as progress:
        result = translate(plan, loaded, out, overwrite, quality, workers, progress)
    seconds = time.monotonic() - began
    rate = f" in {seconds:.1f} s ({result.written / max(seconds, 1e-9):.1f} images/s)" if result.written else ""
    counts = f"{result.present:,} were there, {len(result.failed):,} skipped"
    say(f"{result.written:,} translated{rate}, {counts}; in {out}")
    for name, reason in list(result.failed.items())[:10]:
        say(f"  skipped {name}: {reason}")
    if len(result.failed) > 10:
        say(f"  ... and {len(result.failed) - 10:,} more, all listed in {out / 'translation.json'}")
    if result.stopped:
        say("stopped early; run the same command again to go on")
    return result
