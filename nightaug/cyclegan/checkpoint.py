"""Translator weights on disk: both generators in one safetensors file, or one generator in the public layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from nightaug.config import Settings
from nightaug.cyclegan.student import Generator, any_generator
from nightaug.data.classes import Direction
from nightaug.errors import CheckpointError
from nightaug.runs import load_weights, read_metadata, save_weights

#: What the metadata of nightaug's translator weights say they are.
KIND = "cyclegan"
#: Prefix of each direction's keys in nightaug's own files.
PREFIX: dict[Direction, str] = {"day2night": "A2B.", "night2day": "B2A."}


class Pair(Protocol):
    """The generators of a run, seen from here; one that learns a single direction has no other."""

    @property
    def A2B(self) -> Generator | None: ...

    @property
    def B2A(self) -> Generator | None: ...


def write_translator(
    path: Path,
    pair: Pair,
    settings: Settings,
    step: int,
    version: str,
    night_boxes: str = "none",
    relit: float | None = None,
    teacher: str | None = None,
) -> None:
    """Write the generators, with the settings, the step and the night boxes they have seen in the metadata.

    Args:
        night_boxes: ``real``, ``pseudo`` or ``none``, see :func:`read_night_boxes`.
        relit: see :func:`read_relit_strength`.
        teacher: SHA-256 of the weights a student has learnt from; None for what was trained on images.
    """
    networks: dict[Direction, Generator | None] = {"day2night": pair.A2B, "night2day": pair.B2A}
    tensors = {
        PREFIX[direction] + key: value
        for direction, network in networks.items()
        if network is not None
        for key, value in network.state_dict().items()
    }
    facts = {
        "version": version,
        "kind": KIND,
        "step": step,
        "night_boxes": night_boxes,
        "relit": relit,
        "settings": settings.model_dump(mode="json"),
    }
    if teacher is not None:
        facts["teacher"] = teacher
    # One entry: safetensors writes several in random order, and equal runs should give equal files.
    save_weights(path, tensors, {"nightaug": json.dumps(facts)})


def find_weights(path: Path) -> Path:
    """The weight file of a run folder (``best``, else ``last``), or the file itself.

    Raises:
        CheckpointError: there is none.
    """
    if path.is_dir():
        for which in ("best", "last"):
            if (path / f"{which}.safetensors").exists():
                return path / f"{which}.safetensors"
        raise CheckpointError(f"{path} holds no best.safetensors or last.safetensors; is it a train-translator run?")
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or run folder; use a run, a weight file, or 'relight'")
    return path


def read_generator(path: Path, direction: Direction) -> Generator:
    """The generator of one direction.

    A file with a single generator (public weights) serves whatever direction the caller asks for.

    Raises:
        CheckpointError: missing, damaged, or other weights.
    """
    tensors, metadata = load_weights(path)
    kind = _facts(metadata).get("kind", KIND)
    if kind != KIND:
        raise CheckpointError(f"{path} holds a {kind}, not a translator")
    prefix = PREFIX[direction]
    there = [name for name, each in PREFIX.items() if any(key.startswith(each) for key in tensors)]
    if there and direction not in there:
        raise CheckpointError(
            f"{path} was trained for {there[0]} alone (objective cut, or distilled), it has no {direction}"
        )
    own = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
    try:
        network = any_generator(own or tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not all(bool(value.isfinite().all()) for value in network.parameters()):
        raise CheckpointError(f"{path} holds NaN or infinite weights; use an earlier state of that run")
    return network


def read_night_boxes(path: Path) -> str:
    """``real``, ``pseudo`` or ``none``: which boxes of night images the translator was trained with.

    Public weights and those of earlier versions know no boxes.
    """
    if path.suffix != ".safetensors":
        return "none"
    said = _facts(read_metadata(path)).get("night_boxes", "none")
    return said if said in ("real", "pseudo") else "none"


def read_relit_strength(path: Path) -> float | None:
    """Strength in [0, 1] of the relight that comes before the generators; None where they take the day as it is."""
    if path.suffix != ".safetensors":
        return None
    said = _facts(read_metadata(path)).get("relit")
    return float(said) if isinstance(said, int | float) and 0 <= said <= 1 else None


def _facts(metadata: dict[str, str]) -> dict[str, Any]:
    try:
        facts = json.loads(metadata.get("nightaug", "{}"))
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}
