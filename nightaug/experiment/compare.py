"""``nightaug compare`` as one function: the same detector, budget and test for every arm, and one table at the end.

Everything is kept as it is made. Run again, a comparison goes on: finished rows are neither trained nor tested again,
a row that was stopped continues at its newest state, and added arms or seeds are all that is new.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nightaug.config import Settings, build, merge
from nightaug.errors import Interrupted
from nightaug.experiment.arms import CHECKPOINT, asked, check_folders, slug
from nightaug.experiment.compare_data import read_data
from nightaug.experiment.compare_detectors import Backend, Detectors, Say
from nightaug.experiment.compare_facts import facts
from nightaug.experiment.compare_rows import is_begun
from nightaug.experiment.compare_settings import (
    CompareOptions,
    CompareSettings,
    check_layers,
    check_out,
    check_teacher_settings,
    joined,
    lasting_places,
    other_steps,
    read_settings,
    starts_trained,
)
from nightaug.experiment.compare_translate import (
    all_translators,
    check_directions,
    needed,
)
from nightaug.experiment.compare_work import Comparison
from nightaug.experiment.wanted import wanted_rows
from nightaug.images import remove_leftovers
from nightaug.runs import lock_folder

#: Seeds of a comparison where nothing is said.
SEEDS = 3
#: Detector settings a comparison sets itself.
_OWN = ("steps", "seed")


def run_compare(
    dataset: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    detector: str | None = None,
    translators: Sequence[str] = (),
    arms: Sequence[str] | None = None,
    arms_file: str | os.PathLike[str] | None = None,
    ablate: str | None = None,
    layers: Sequence[Mapping[str, Any]] = (),
    options: Mapping[str, Any] | None = None,
    steps: int | None = None,
    day_steps: int | None = None,
    teacher_steps: int | None = None,
    teachers: int | None = None,
    teacher_precision: float | None = None,
    teacher: Mapping[str, Any] | None = None,
    seeds: int | None = None,
    only: Sequence[str] = (),
    weights: str | None = None,
    bootstrap: int | None = None,
    allow_shared_drives: bool = False,
    world_version: int | str | None = None,
    command: str | None = None,
    cpu: bool = False,
    dry_run: bool = False,
    say: Say = lambda text: None,
    backend: Backend | None = None,
    report: Callable[[Path, Say], Path] | None = None,
) -> dict[str, Any]:
    """Compare what training images are worth on real night images.

    What a folder was begun with holds where nothing else is said, so that ``run_compare(dataset, out)`` goes on.

    Args:
        dataset: folder of ``nightaug prepare``; its labelled night test images are what everything is tested on.
        out: folder of the comparison.
        detector: overrides the layers' detector.
        translators: ``relight``, runs, weight files or translated folders, each also as ``NAME=...``.
        arms: names, see :mod:`nightaug.experiment.arms`; None: the usual ones and those of ``arms_file``.
        ablate: an adapted arm: one arm is added for each part of its night head, without that part.
        layers: settings of the detector, later ones win; whether an arm adapts is its own affair (``+adapt``).
        options: of :class:`CompareOptions`.
        steps: optimiser steps of every arm. day_steps: of the day checkpoint they start from; None: as ``steps``.
        teacher_steps: of arms when they label images for others; None: their own row, of ``steps``, labels.
        teachers: how often an arm is trained, with other seeds, to label images for others: their boxes are fused.
            None: once.
        teacher_precision: share of those labels that is right on dev, class by class, in (0, 1). None: 0.6.
        teacher: detector settings of arms when they label images. With another ``detector`` or ``pretrained`` they
            start from that in place of the day checkpoint.
        seeds: how many, from 0.
        only: train only these rows now: ``ARM``, ``ARM@SEED``, ``@SEED`` or ``checkpoint``; the table holds what is
            done.
        weights: a detector every arm starts from, in place of a day checkpoint.
        bootstrap: replicates.
        allow_shared_drives: go on where drives of the test images are also in train; the table says so.
        world_version: of the sample world, where the dataset does not lead to its ``world.json``.
        command: for the table.
        dry_run: say what would be done, write nothing.
        backend: the detectors; a stand-in in tests.
        report: writes the page; None: :func:`nightaug.experiment.report.write_report`.

    Returns:
        The table as in ``table.json``; of a dry run the planned rows.

    Raises:
        ConfigError: settings that contradict each other or those the folder was begun with; all in one message.
        DatasetError: nothing to train or test on.
        Interrupted: stopped by Ctrl-C; run again, it goes on.
        NightaugError: as training and translating.
    """
    dataset, out, backend = Path(dataset), Path(out), backend or Detectors()
    arms_file = None if arms_file is None else Path(arms_file)
    before = read_settings(out / "compare.yaml")
    if before:  # settings an older version did not know have their defaults
        before = before.model_copy(update={"detector": lasting_places(_dump(backend.settings([before.detector])))})
    flags = {"detector": detector, "steps": steps, "weights": weights}
    given = {key: value for key, value in flags.items() if value is not None}
    recorded = [{**before.detector, "steps": before.steps}] if before else []
    check_layers(layers)
    if any(layer.get("adapt", "none") != "none" or layer.get("target") for layer in layers):
        say("adapt and target are left out: an arm adapts where it is named so, such as day+adapt")
    # An early stop would be another budget; what adapts, and to what, is said by the arms.
    base = backend.settings([*recorded, *layers, given, {"patience": None, "adapt": "none", "target": None}])
    base = backend.settings([lasting_places(base.model_dump(mode="json"))])
    counted = {key: getattr(before, key) for key in CompareOptions.model_fields} if before else {}
    # What is said now, then what was said before; else the defaults.
    taught = {"teachers": teachers, "teacher_precision": teacher_precision}
    counted |= {key: said or getattr(before, key) for key, said in taught.items() if said or before}
    counted |= {**(options or {}), **({} if bootstrap is None else {"bootstrap": bootstrap})}
    sources = all_translators(before.translators if before else {}, translators)
    detector_settings = _dump(base)
    found = asked(before, arms, arms_file, list(sources), ablate, detector_settings)
    for note in found.notes:
        say(note)
    budget = int(base.model_dump()["steps"])
    check_teacher_settings(teacher or {})
    settings = build(
        CompareSettings,
        counted,
        {
            "dataset": str(dataset.absolute()),
            "allow_shared_drives": allow_shared_drives or (before is not None and before.allow_shared_drives),
            "world_version": world_version if world_version is not None else before and before.world_version,
            "detector": detector_settings,
            "steps": budget,
            "day_steps": None if starts_trained(base) else day_steps or (before and before.day_steps) or budget,
            "teacher_steps": other_steps(teacher_steps or (before.teacher_steps if before else None), budget),
            "teacher": merge(before.teacher if before else {}, lasting_places(teacher or {})),
            "seeds": tuple(range(seeds or (len(before.seeds) if before else SEEDS))),
            "arms": {name: tuple(part.model_dump() for part in some) for name, some in found.arms.items()},
            "own": found.own,
            "ablated": found.ablated,
            # Those of before as well: a name that is given again must still mean the same.
            "translators": {
                name: sources[name].record().model_dump()
                for name in dict(needed(found.arms)) | (before.translators if before else {})
            },
            "commands": () if command is None else (command,),
        },
    )
    if before:
        places = {name: out / "runs" / slug(name) for name in before.names} | {CHECKPOINT: out / "checkpoints"}
        started = {name for name, place in places.items() if any(map(is_begun, place.glob("seed*")))}
        settings = joined(before, settings, out, started)
    check_folders(settings.names)
    check_directions(settings.arms, sources)
    wanted = wanted_rows(only, settings.names, settings.seeds, settings.ablated)
    data = read_data(dataset, settings.dev_share, settings.allow_shared_drives)
    work = Comparison(out, settings, data, base, sources, backend, cpu, say)
    check_out(out, dataset)
    work.describe(wanted)
    work.check(wanted)
    if dry_run:
        if (out / ".lock").exists():  # what claims a folder would make one
            lock_folder(out).close()
        return {"dry_run": True, "rows": [{"arm": arm, "seed": seed} for arm, seed in wanted]}
    lock = lock_folder(out)
    try:
        work.start()
        remove_leftovers(out)
        work.train(wanted)
        table = work.table(facts(settings, dataset))
    except KeyboardInterrupt as error:
        raise Interrupted(f"stopped; what is finished in {out} is kept, run the same command again to go on") from error
    finally:
        lock.close()
    for note in table["notes"]:
        say(f"note: {note}")
    if report is None:
        from nightaug.experiment.report import write_report

        report = write_report
    report(out, say)
    return table


def _dump(settings: Settings) -> dict[str, Any]:
    """The detector's settings but for those a comparison sets itself."""
    return {key: value for key, value in settings.model_dump(mode="json").items() if key not in _OWN}
