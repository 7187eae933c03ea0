"""Detector weights on disk: one safetensors file that says what it is, loaded without any other file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from nightaug.config import build
from nightaug.detect.detectors import Detector, build_detector
from nightaug.detect.rcnn_settings import RCNNSettings
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import CheckpointError, ConfigError
from nightaug.runs import load_weights, read_metadata, save_weights

#: What the metadata of nightaug's detector weights say they are.
KIND = "detector"
#: Weight files that nightaug does not write.
_FOREIGN = {".pt", ".pth", ".ckpt", ".bin", ".onnx"}


def write_detector(path: Path, detector: Detector, settings: DetectorSettings, step: int, version: str) -> None:
    """Write a detector's weights, with its classes and settings in the metadata."""
    facts = {
        "version": version,
        "kind": KIND,
        "step": step,
        "classes": list(detector.classes),
        "settings": settings.model_dump(mode="json"),
        "facts": dict(detector.facts),
    }
    # One entry: safetensors writes several in random order, and equal runs should give equal files.
    save_weights(path, detector.state_dict(), {"nightaug": json.dumps(facts)})


def find_detector(path: Path, which: str | None = None) -> Path:
    """The weight file of a run folder, or the file itself.

    Args:
        which: ``best`` or ``last``; None takes ``best`` where a run has it.

    Raises:
        CheckpointError: there is none.
    """
    if path.is_dir():
        for name in (which,) if which else ("best", "last"):
            if (path / f"{name}.safetensors").exists():
                return path / f"{name}.safetensors"
        raise CheckpointError(
            f"{path} holds no {which or 'best.safetensors or last'}.safetensors; is it a train-detector run?"
        )
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or run folder; use a train-detector run or its weight file")
    if path.suffix in _FOREIGN:
        raise CheckpointError(
            f"{path}: expected a train-detector run or its .safetensors file; weights of other programs are what "
            "train-detector starts from, with --pretrained FILE or (ultralytics) --detector FILE.pt"
        )
    return path


def read_facts(path: Path) -> dict[str, Any]:
    """``{"classes", "settings", "step", "version"}`` of a detector's weight file, without its tensors.

    Raises:
        CheckpointError: missing, damaged, or not a detector of nightaug.
    """
    metadata = read_metadata(path)
    try:
        facts = json.loads(metadata.get("nightaug", "{}"))
    except ValueError as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error})") from error
    kind = facts.get("kind") if isinstance(facts, dict) else None
    if kind != KIND:
        what = f"a {kind}" if kind else "weights of another program"
        raise CheckpointError(f"{path} holds {what}, not a detector of nightaug (see: nightaug train-detector)")
    if not isinstance(facts.get("classes"), list) or not isinstance(facts.get("settings"), dict):
        raise CheckpointError(f"{path}: its metadata do not name classes and settings; it is damaged")
    return dict(facts)


def load_detector(
    path: str | os.PathLike[str], device: str | torch.device = "cpu", which: str | None = None
) -> Detector:
    """A trained detector, in evaluation mode.

    Raises:
        CheckpointError: missing, damaged, or not a detector of nightaug.
        ConfigError: its extra is not installed.
    """
    file = find_detector(Path(path), which)
    facts = read_facts(file)
    try:
        settings = build(DetectorSettings, facts["settings"])
    except ConfigError as error:
        raise CheckpointError(f"{file} was written by nightaug {facts.get('version')}: {error}") from error
    detector = build_detector(settings, tuple(facts["classes"]), pretrained=False, facts=facts.get("facts"))
    put_weights(detector, file)
    return detector.to(device).eval()


def put_weights(detector: Detector, file: Path, without: tuple[str, ...] = ()) -> None:
    """Load a weight file into a detector of the same shape.

    Args:
        without: tensors whose names begin so are left as they are.

    Raises:
        CheckpointError: tensors are missing, of another shape, or not finite; the message names the first.
    """
    tensors, own = (
        {key: value for key, value in tensors.items() if not key.startswith(without)}
        for tensors in (load_weights(file)[0], detector.state_dict())
    )
    wrong = [
        f"{key} is {tuple(tensors[key].shape)}, expected {tuple(value.shape)}"
        if key in tensors
        else f"{key} is missing"
        for key, value in own.items()
        if key not in tensors or tensors[key].shape != value.shape
    ]
    wrong += [f"{key} is unknown" for key in tensors if key not in own]
    if wrong:
        raise CheckpointError(
            f"{file} does not fit {detector.name} with {len(detector.classes)} classes: {wrong[0]}"
            + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else "")
        )
    bad = next((key for key, value in tensors.items() if not bool(torch.isfinite(value.float()).all())), None)
    if bad is not None:
        raise CheckpointError(f"{file} holds NaN or infinite weights ({bad}); use an earlier state of that run")
    detector.load_state_dict(tensors, strict=False)


def start_from(detector: Detector, path: str | Path) -> str:
    """Put the weights of another run into a new detector, to train on from there; gives a line on them.

    A two-stage detector may start from one with another kind of region head (class-agnostic proposals, say): it takes
    over everything else, and its head is new.

    Raises:
        CheckpointError: not a detector, or other classes.
    """
    file = find_detector(Path(path), None)
    facts = read_facts(file)
    classes = tuple(facts["classes"])
    options, before = getattr(detector, "options", None), facts["settings"].get("rcnn", {})
    kind = ("head", "class_agnostic")
    if (
        isinstance(options, RCNNSettings)
        and facts["settings"].get("detector") == detector.name
        and any(before.get(key) != getattr(options, key) for key in kind)
    ):
        put_weights(detector, file, without=("head.",))
        return f"{file}, all but its region head"
    if classes != detector.classes:
        raise CheckpointError(
            f"{file} knows the classes {', '.join(classes)}; this run trains {', '.join(detector.classes)}: "
            "choose the same ones with --classes"
        )
    put_weights(detector, file)
    return str(file)
