"""``nightaug translate`` as one function: plan, say what it will cost, carry out, sum up."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from nightaug.data.classes import Direction
from nightaug.detect.video import is_video
from nightaug.errors import ConfigError, DatasetError, NightaugError
from nightaug.images import ImageFormat
from nightaug.pickles import trusted
from nightaug.runs import free_space, progress_bar
from nightaug.translate.output import FolderOutput, StorageOutput, make_output
from nightaug.translate.pipeline import TranslateResult, preview, translate
from nightaug.translate.plan import Plan, make_plan, summary
from nightaug.translate.storage import Storage, is_url, list_into, plain_path
from nightaug.translate.translators import RELIGHT, BackendName, Precision, Translator

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


EngineName = Literal["local", "ray"]


@contextmanager
def _planned(
    source: str | os.PathLike[str],
    images: str | os.PathLike[str] | None,
    labels: str | os.PathLike[str] | None,
    **options: Any,
) -> Iterator[Plan]:
    """A plan for a path, or for a URL by a listing that is there while the block runs."""
    source = plain_path(source)
    if is_video(Path(source)):
        raise ConfigError(f"{source} is a video, and images are translated; cut it into images first")
    if not is_url(source):
        yield make_plan(source, images=images, labels=labels, **options)
        return
    if images is not None:
        raise ConfigError("--images is for folders here; give the URL of the images as INPUT")
    with tempfile.TemporaryDirectory(prefix="nightaug-") as folder:
        place, origin = list_into(Storage(str(source)), Path(folder))
        try:
            plan = make_plan(place, labels=labels, **options)
        except DatasetError as error:
            raise DatasetError(str(error).replace(str(place), str(source))) from error
        yield plan._replace(origin=origin)


def run_job(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    translator: str = RELIGHT,
    direction: Direction = "day2night",
    format: ImageFormat | None = None,
    overwrite: bool = False,
    seed: int = 0,
    strength: float = 1.0,
    constants: Mapping[str, Any] | None = None,
    quality: int = 95,
    precision: Precision = "auto",
    tile: int | None = None,
    device: str | None = None,
    backend: BackendName | None = None,
    images: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    label_format: str | None = None,
    all_times: bool = False,
    limit: int | None = None,
    split: str = "all",
    workers: int | None = None,
    engine: EngineName = "local",
    address: str | None = None,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> TranslateResult | None:
    """Translate ``source`` into ``out``; None after a dry run. Arguments as the command's options.

    Both may be URLs that fsspec knows, such as ``s3://bucket/day``.

    Raises:
        DatasetError: nothing to translate.
        ConfigError: settings that contradict each other, or ``out`` cannot be used.
        CheckpointError: no usable translator.
        NightaugError: not enough disk.
    """
    if address is not None and engine != "ray":
        raise ConfigError("--address is for --engine ray; give it too")
    output = make_output(out)
    with ExitStack() as stack:
        plan = stack.enter_context(
            _planned(
                source, images, labels, direction=direction, format=format, seed=seed, label_format=label_format,
                all_times=all_times, limit=limit, split=split,
            )
        )  # fmt: skip
        load = partial(
            Translator.load,
            direction=direction,
            device=device,
            precision=precision,
            tile=tile,
            strength=strength,
            constants=constants,
            backend=backend,
            trust=trusted(),
        )
        loaded = load(translator)
        _check_disk(plan, output, loaded, dry_run, say)
        if dry_run:
            if isinstance(output, FolderOutput):
                there, gone = preview(plan, loaded, output, overwrite, quality)
                say(f"{there:,} of these are there already")
                if gone:
                    say(f"--overwrite would remove the {gone:,} images that are there first")
            return None
        using = None
        if engine == "ray":
            from nightaug.translate.ray_pipeline import ray_engine
            from nightaug.translate.shipping import ship

            if precision == "auto" and loaded.settings.get("precision") in ("bf16", "fp32"):
                # What it came to here holds everywhere: results must not depend on who made them.
                load = partial(load, precision=loaded.settings["precision"])
            shipped = ship(load, translator, loaded.name)
            on_gpu = device != "cpu" and loaded.sha is not None and "backend" not in loaded.settings
            using = stack.enter_context(ray_engine(shipped, address, workers, cpu=not on_gpu))
        began = time.monotonic()
        with progress_bar("translating", len(plan.items)) as progress:
            result = translate(plan, loaded, output, overwrite, quality, workers, progress, using)
    _say_result(result, output, time.monotonic() - began, say)
    return result


def _check_disk(
    plan: Plan, output: FolderOutput | StorageOutput, translator: Translator, dry_run: bool, say: Callable[[str], None]
) -> None:
    """Say what will be done and what room it takes.

    Raises:
        NightaugError: not enough disk.
    """
    need = disk_needed(plan)
    say(f"{summary(plan)}; {translator.direction} by {translator.name}, about {need / 1e6:,.0f} MB on disk")
    for line in plan.dataset.problems.noticed():
        say(line)
    if dry_run:
        for item in plan.items[:10]:
            say(f"  {item.source} -> {item.output}")
        if len(plan.items) > 10:
            say(f"  ... and {len(plan.items) - 10:,} more")
    elif isinstance(output, FolderOutput):
        free = free_space(output.folder)
        if need > free:
            raise NightaugError(f"{output.name}: about {need / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free")


def _say_result(
    result: TranslateResult, output: FolderOutput | StorageOutput, seconds: float, say: Callable[[str], None]
) -> None:
    rate = f" in {seconds:.1f} s ({result.written / max(seconds, 1e-9):.1f} images/s)" if result.written else ""
    counts = f"{result.present:,} were there, {len(result.failed):,} skipped"
    say(f"{result.written:,} translated{rate}, {counts}; in {output.name}")
    for name, reason in list(result.failed.items())[:10]:
        say(f"  skipped {name}: {reason}")
    if len(result.failed) > 10:
        say(f"  ... and {len(result.failed) - 10:,} more, all listed in {output.name}/translation.json")
    if result.stopped:
        say("stopped early; run the same command again to go on")
