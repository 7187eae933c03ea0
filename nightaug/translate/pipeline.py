"""Translate an image, a folder or a dataset: decode, translate and encode in parallel, atomic and resumable.

Every finished image gets a line in ``manifest.jsonl``; a run that was stopped, by Ctrl-C or by a power
cut, goes on with the images that have none. Labels are written when all images are there.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nightaug import __version__
from nightaug.data.classes import TARGET_TIME, Direction
from nightaug.data.formats import TRANSLATION, write_labels
from nightaug.errors import ConfigError, ImageError
from nightaug.images import (
    ImageArray,
    ImageFormat,
    atomic_open,
    atomic_write_bytes,
    atomic_write_text,
    encode_image,
    image_format,
    read_image,
)
from nightaug.runs import StopRequest
from nightaug.translate.folder import read_facts
from nightaug.translate.output import FolderOutput, FolderStore, StorageOutput, make_output
from nightaug.translate.plan import (
    Item,
    ManifestRow,
    Plan,
    as_json,
    manifest_line,
    read_manifest,
    translated_frames,
    translated_labels,
    translated_yaml,
)
from nightaug.translate.storage import Storage
from nightaug.translate.translators import Translator

#: Images decoded ahead of the model, and encoded behind it, per worker thread.
_AHEAD = 2

Progress = Callable[[int, str], None]


@dataclass
class TranslateResult:
    """What a call of :func:`translate` did.

    Attributes:
        written: images translated by this call.
        present: images that were done before.
        failed: images that could not be read or written, by name, with the reason; the rest was finished.
        stopped: ended early by Ctrl-C; calling again goes on.
        interrupted: Ctrl-C came, be it with the last image: whoever has more to do than this stops here.
        labels: label files written.
    """

    written: int = 0
    present: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    stopped: bool = False
    interrupted: bool = False
    labels: list[Path] = field(default_factory=list)


class Options(NamedTuple):
    """What a worker must know besides its items and its translator; can be sent to other processes.

    ``store`` gets the images; ``origin`` is where they come from, None for the items' own paths.
    """

    store: FolderStore | Storage
    quality: int
    origin: Storage | None = None


#: The row of a stored image, or why there is none.
Outcome = ManifestRow | ImageError
#: Who does the work: items, translator, options, threads, whether to stop -> what became of each item, in any order.
Engine = Callable[[list[Item], Translator, Options, int, Callable[[], bool]], Iterator[tuple[Item, Outcome]]]


def translate(
    plan: Plan,
    translator: Translator,
    out: str | os.PathLike[str] | FolderOutput | StorageOutput,
    overwrite: bool = False,
    quality: int = 95,
    workers: int | None = None,
    progress: Progress = lambda done, note: None,
    engine: Engine | None = None,
) -> TranslateResult:
    """Carry out a plan.

    Args:
        plan: from :func:`nightaug.translate.plan.make_plan`.
        out: translated folder, made if missing; or a URL, see :mod:`nightaug.translate.storage`.
        overwrite: make everything anew, also what another translator made there.
        quality: of JPEG and WebP, 1 to 100.
        workers: threads for decoding and encoding (and for translators that gain from several); None: all cores.
        progress: called with the number of finished images and a note.
        engine: who does the work; None: this process, :func:`work`.

    Raises:
        ConfigError: ``out`` is in use, holds something else, or lies in the input; or workers write to another disk.
        NightaugError: the disk is full or cannot be written; what is done stays and is skipped next time.
    """
    output = make_output(out)
    with output.held(plan):
        return _translate(plan, translator, output, overwrite, quality, workers, progress, engine)


def preview(plan: Plan, translator: Translator, output: FolderOutput, overwrite: bool, quality: int) -> tuple[int, int]:
    """What :func:`translate` would find in a folder here; nothing is written.

    Returns:
        Images of the plan that are there and would stay, and images of a former translation that would be removed.

    Raises:
        ConfigError: what ``translate`` would refuse.
    """
    output.check(plan, _facts(plan, translator, quality), overwrite)
    if overwrite:
        return 0, sum(1 for _ in read_manifest(output.folder))
    rows = _done(plan, output)
    return sum(item.output in rows for item in plan.items), 0


def _translate(
    plan: Plan,
    translator: Translator,
    output: FolderOutput | StorageOutput,
    overwrite: bool,
    quality: int,
    workers: int | None,
    progress: Progress,
    engine: Engine | None,
) -> TranslateResult:
    facts = _facts(plan, translator, quality)
    output.prepare(plan, facts, overwrite)
    out, options = output.folder, Options(output.store, quality, plan.origin)
    rows = _done(plan, output)
    todo = [item for item in plan.items if item.output not in rows]
    result = TranslateResult(present=len(plan.items) - len(todo))
    elsewhere = {} if overwrite else _of_other_splits(plan, read_facts(out) or {})
    others = len(rows) - result.present
    if others:
        facts["left_out"][f"not of {plan.split}"] -= others
    # First of all, what this folder is: a run killed at any later moment can be gone on with.
    atomic_write_text(out / TRANSLATION, as_json(facts | {"finished": False}))
    manifest = out / "manifest.jsonl"
    # Rewriting first also removes a line torn by a crash, before new ones are added behind it.
    atomic_write_bytes(manifest, b"".join(manifest_line(row) for row in rows.values()))
    output.began()
    with StopRequest().listen() as stop, open(manifest, "ab") as stream:
        done = result.present
        run, threads = engine or work, workers or os.cpu_count() or 1
        for item, outcome in run(todo, translator, options, threads, lambda: stop.requested):
            done += 1
            if isinstance(outcome, ManifestRow):
                if engine is not None:
                    output.arrived(outcome.output)
                rows[item.output] = outcome
                stream.write(manifest_line(outcome))
                stream.flush()
                output.grown()
                result.written += 1
            else:
                result.failed[item.source] = str(outcome)
            progress(done, f"{len(result.failed)} skipped" if result.failed else "")
        result.interrupted = stop.requested
        result.stopped = stop.requested and done < len(plan.items)
    # As the input has them, whoever was faster.
    result.failed = {item.source: result.failed[item.source] for item in todo if item.source in result.failed}
    _finish(plan, translator, out, rows, result)
    skipped = elsewhere | result.failed
    outcome_facts = {"translated": len(rows), "skipped": skipped, "finished": not result.stopped}
    atomic_write_text(out / TRANSLATION, as_json(facts | outcome_facts))
    output.ended()
    return result


def _facts(plan: Plan, translator: Translator, quality: int) -> dict[str, Any]:
    """What ``translation.json`` says of a folder; the settings among it decide whether it can be gone on with."""
    return {
        "nightaug": __version__,
        "input": os.path.abspath(plan.dataset.root) if plan.origin is None else plan.origin.url,
        "translator": translator.name,
        "checkpoint_sha": translator.sha,
        "direction": translator.direction,
        "split": plan.split,
        "settings": {**translator.settings, "quality": quality, "seed": plan.seed},
        "left_out": dict(plan.skipped),
        "label_problems": dict(plan.dataset.problems.counts),
    }


def _of_other_splits(plan: Plan, before: dict[str, Any]) -> dict[str, str]:
    """What an earlier call skipped of the splits that this one does not look at."""
    skipped, mine = before.get("skipped"), {item.source for item in plan.items}
    if plan.split == "all" or not isinstance(skipped, dict):
        return {}
    return {name: reason for name, reason in skipped.items() if name not in mine}


def _done(plan: Plan, output: FolderOutput | StorageOutput) -> dict[str, ManifestRow]:
    """Rows of images that are there and whose source and boxes are still the same, by output name.

    Those of splits that were not asked for now are kept as they are.
    """
    wanted = {item.output: item for item in plan.items}
    rows: dict[str, ManifestRow] = {}
    for row in read_manifest(output.folder):
        if plan.sources.get(row.output) != row.source:
            raise ConfigError(f"{output.name} holds {row.output}, {_why_foreign(row, plan)}")
        item = wanted.get(row.output)
        same = item is None or (item.seed == row.seed and item.inputs == row.inputs)
        if same and output.present(row.output):
            rows[row.output] = row
    return rows


def _why_foreign(row: ManifestRow, plan: Plan) -> str:
    """Why an image that is there is none of the plan's, and what to do."""
    if plan.beyond.get(row.output) == row.source:
        return "which is over the limit; give --limit as before, a larger one or none, or choose another --out"
    now = next((output for places in (plan.sources, plan.beyond) for output, place in places.items()
                if place == row.source), None)  # fmt: skip
    if now is not None:
        return f"which would be {now} now; give --format as before, or choose another --out, or --overwrite"
    return "which is not in this input; choose another --out, or --overwrite"


def work(
    items: list[Item], translator: Translator, options: Options, workers: int, stopped: Callable[[], bool]
) -> Iterator[tuple[Item, Outcome]]:
    """Decode, translate, encode and store on this machine: an :data:`Engine`, and what every other one runs inside.

    Results come in the order of the items; three stages overlap, a bounded number of images in memory."""
    waiting: deque[tuple[Item, Future[Outcome]]] = deque()
    with ThreadPoolExecutor(workers, "decode") as decoders, ThreadPoolExecutor(workers, "encode") as encoders:
        ahead: deque[tuple[Item, Future[ImageArray]]] = deque()
        queue = iter(items)

        def fill() -> None:
            while len(ahead) < workers * _AHEAD and not stopped():
                item = next(queue, None)
                if item is None:
                    return
                ahead.append((item, decoders.submit(_read, item, options)))

        fill()
        while ahead:
            item, image = ahead.popleft()
            waiting.append((item, _schedule(item, image, translator, options, encoders)))
            fill()
            while waiting and (waiting[0][1].done() or len(waiting) > workers * _AHEAD):
                first, outcome = waiting.popleft()
                yield first, outcome.result()
        for first, outcome in waiting:
            yield first, outcome.result()


def _read(item: Item, options: Options) -> ImageArray:
    if options.origin is not None:
        return options.origin.read_image(item.source)
    assert item.frame.path is not None
    return read_image(item.frame.path)


def _schedule(
    item: Item, image: Future[ImageArray], translator: Translator, options: Options, encoders: ThreadPoolExecutor
) -> Future[Outcome]:
    """Start the translation of a decoded image: in a worker if the translator allows it, else here."""

    def translated() -> ImageArray:
        return translator(image.result(), item.frame.boxes, item.seed)

    if translator.concurrent:
        return encoders.submit(_outcome, item, translated, translator, options)
    ready: Future[ImageArray] = Future()
    try:
        ready.set_result(translated())
    except ImageError as error:
        ready.set_exception(error)
    return encoders.submit(_outcome, item, ready.result, translator, options)


def _outcome(item: Item, image: Callable[[], ImageArray], translator: Translator, options: Options) -> Outcome:
    """The row of a stored image, or why it could not be read, or held by its format."""
    try:
        return _store(item, image(), translator, options)
    except ImageError as error:
        return error


def encode_translation(
    image: ImageArray, output: str, source: str, translator: str, direction: Direction, quality: int, note: str = ""
) -> bytes:
    """A translated image as it is stored: in the format of its name, with the mark that says it is synthetic.

    Args:
        image: uint8 (H, W, 3) RGB.
        output, source, translator, direction: as in the manifest's row.
        quality: of JPEG and WebP, 1 to 100.
        note: more words for the mark.

    Raises:
        ImageError: the format cannot hold the image.
    """
    mark = f"synthetic {TARGET_TIME[direction]} image, made by nightaug {__version__} with {translator} from {source}"
    format: ImageFormat = image_format(output)
    return encode_image(image, format, quality, mark + note)


def _store(item: Item, image: ImageArray, translator: Translator, options: Options) -> ManifestRow:
    data = encode_translation(image, item.output, item.source, translator.name, translator.direction, options.quality)
    options.store.write(item.output, data)
    return ManifestRow(
        source=item.source,
        output=item.output,
        sha256=hashlib.sha256(data).hexdigest(),
        translator=translator.name,
        checkpoint_sha=translator.sha,
        direction=translator.direction,
        seed=item.seed,
        source_timeofday=item.frame.timeofday,
        inputs=item.inputs,
    )


def _finish(
    plan: Plan, translator: Translator, out: Path, rows: dict[str, ManifestRow], result: TranslateResult
) -> None:
    """Labels of the images that are there, and the manifest in the input's order."""
    target = TARGET_TIME[translator.direction]
    written = []
    for planned in plan.parts:
        present = [item for item in planned.items if item.output in rows]
        if planned.labels is None or not present:
            continue
        labels = translated_labels(planned.part, translated_frames(present, planned.part, target))
        result.labels += write_labels(labels, out / planned.labels)
        written.append(planned)
    # Label files of other splits stay as they are; the one file about all of them names those, too.
    written += [planned for planned, outputs in plan.others if planned.labels and any(name in rows for name in outputs)]
    text = translated_yaml(plan, written)
    if text is not None:
        atomic_write_text(out / "dataset.yaml", text)
        result.labels.append(out / "dataset.yaml")
    with atomic_open(out / "manifest.jsonl", "wb") as stream:
        for name in plan.sources:
            if name in rows:
                stream.write(manifest_line(rows[name]))
