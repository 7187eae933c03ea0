"""What a comparison says of how it was made: versions, commit, machine, date; and pairs of images to look at."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nightaug import __version__
from nightaug.config import load_yaml
from nightaug.errors import ConfigError
from nightaug.experiment.compare_adapt import adapts_with, shown_clip
from nightaug.experiment.compare_data import Arm
from nightaug.experiment.compare_settings import CompareSettings, shown_file


def facts(settings: CompareSettings, dataset: Path) -> dict[str, Any]:
    """What the table says of how it was made."""
    shape = {key: settings.detector.get(key) for key in ("batch", "width", "height")}
    if isinstance(shape["batch"], int):  # images a step
        shape["batch"] *= int(settings.detector.get("accumulate") or 1)
    return {
        "nightaug": __version__,
        "world_version": _world_version(dataset) if settings.world_version is None else settings.world_version,
        "commit": _commit(),
        "command": "\n".join(settings.commands) or None,
        "machine": _machine(),
        "date": datetime.date.today().isoformat(),
        "detector": shown_file(settings.detector.get("detector")),
        "dataset": dataset.absolute().name,
        "steps": settings.steps,
        "day_steps": settings.day_steps,
        "teacher_steps": settings.teacher_steps,
        "teachers": settings.teachers,
        "teacher_precision": settings.teacher_precision,
        "teacher": settings.teacher_shown,
        **_adaptation(settings),
        **shape,
    }


def _adaptation(settings: CompareSettings) -> dict[str, Any]:
    """The arms that draw as many unlabelled night images as labelled ones, and what judges regions for them."""
    adapted = [name for name in settings.names if adapts_with(settings.overrides(name))]
    clips = [settings.detector_of(name).get("clip") for name in settings.names]
    clip = next((shown_clip(spec) for spec in clips if spec not in (None, "none")), None)
    return {"adapted": adapted, "clip": clip}


def pairs(arms: Sequence[Arm], most: int) -> list[dict[str, str]]:
    """Day images and what they were rendered to, for the page: the same ones for every arm, as far as they go."""
    found = []
    for arm in arms:
        known = sorted(
            (os.path.abspath(day), os.path.abspath(made))
            for source in arm.sources
            if source.spec.domain != "A"
            for made, day in source.origins.items()
        )
        number = min(most, len(known))
        some = [known[i * len(known) // number] for i in range(number)]
        found += [{"source": day, "arm": arm.name, "translated": made} for day, made in some]
    return found


def _world_version(dataset: Path) -> int | str | None:
    """The version of the sample world a dataset was prepared from, None where it is of another making."""
    places = [dataset]
    try:
        places += [Path(str(source[0])) for source in load_yaml(dataset / "prepare.json")["settings"]["sources"]]
    except (ConfigError, KeyError, TypeError, IndexError):
        pass
    for place in places:
        try:
            version = load_yaml(place / "world.json").get("world_version")
        except ConfigError:
            continue
        if isinstance(version, (int, str)):
            return version
    return None


def _commit() -> str | None:
    """The commit of the checkout this package runs from, None where it is installed without one."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=2,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _machine() -> str:
    """Cores and GPUs, in words."""
    import torch

    words = [f"{os.cpu_count()} cores", platform.machine()]
    if torch.cuda.is_available():
        number = torch.cuda.device_count()
        words.insert(0, f"{number} x {torch.cuda.get_device_name(0)}" if number > 1 else torch.cuda.get_device_name(0))
    return ", ".join(words)
