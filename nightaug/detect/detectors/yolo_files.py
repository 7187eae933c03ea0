"""YOLO architectures and checkpoints of others, read without running anything that is in them.

An ultralytics checkpoint is a pickle of Python objects, and an architecture file names classes and has a line that
ultralytics evaluates. Here every object of a checkpoint becomes an inert stand-in, of which only tensors and plain
values are taken, and an architecture may name layers only. Nothing here imports ultralytics.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from nightaug.config import load_yaml
from nightaug.detect.detectors.pretrained import download_timeout
from nightaug.errors import CheckpointError, ConfigError, first_line
from nightaug.pickles import called_names
from nightaug.runs import load_weights

#: A name: family (yolo11, yolov8, ...) and size; yolov5's is also written yolov5nu, as its weights are published.
_NAME = re.compile(r"(yolo(?:v\d+|\d+))([a-z])(u?)")
#: The size in the name of an architecture file.
_SIZE = re.compile(r"yolov?\d+([nslmx])")
#: What ultralytics would evaluate as code: only a layer of torch.nn with plain arguments may stand there.
_ACTIVATION = re.compile(r"(?:torch\.)?nn\.(\w+)\([\w\s.,=-]*\)")


class _Inert:
    """Stands in for every class and function a checkpoint names: takes any arguments, does nothing."""

    def __init__(self, *args: object, **named: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        vars(self).update(state if isinstance(state, dict) else {})


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of an ultralytics checkpoint (or of a plain file of tensors), and its architecture if it has one.

    Raises:
        CheckpointError: missing, damaged, or not a checkpoint.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        with torch.serialization.safe_globals([(_Inert, name) for name in unknown]):
            content = torch.load(path, map_location="cpu", weights_only=True)
        network = (content.get("ema") or content.get("model")) if isinstance(content, dict) else None
        if network is None or isinstance(network, dict):
            return load_weights(path)[0], None
        tensors = dict(_tensors(network))
    except (pickle.UnpicklingError, ValueError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
        line = first_line(error)
        if "weights_only" in line:  # torch's own advice here would be to run the file's code
            names = ", ".join(called_names(path)[:3])
            line = f"it calls {names}; nothing of it is run" if names else "nothing of it is run"
        raise CheckpointError(f"{path}: not a YOLO checkpoint, or damaged ({line})") from error
    if not tensors:
        raise CheckpointError(f"{path} holds no weights")
    architecture = vars(network).get("yaml")
    return tensors, dict(architecture) if isinstance(architecture, dict) else None


def _tensors(module: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    own = vars(module)
    for group in ("_parameters", "_buffers"):
        for name, value in own.get(group, {}).items():
            if isinstance(value, Tensor):
                yield prefix + name, value.detach().float() if value.is_floating_point() else value
    for name, child in own.get("_modules", {}).items():
        if child is not None:
            yield from _tensors(child, f"{prefix}{name}.")


def find_architecture(detector: str, models: Path) -> dict[str, Any]:
    """The architecture of a name, a ``.yaml`` or a ``.pt`` file.

    Args:
        models: ultralytics' folder of architectures.

    Raises:
        ConfigError: there is no such name or file.
        CheckpointError: the file cannot be read, or does not say its architecture.
    """
    if detector.endswith(".pt"):
        architecture = read_checkpoint(Path(detector))[1]
        if architecture is None:
            raise CheckpointError(
                f"{detector} holds weights only; name its architecture as the detector and give it as pretrained"
            )
        return architecture
    if detector.endswith((".yaml", ".yml")):
        size = _SIZE.match(Path(detector).stem)
        return {"scale": size[1] if size else "", **load_yaml(detector), "yaml_file": Path(detector).name}
    name = _NAME.fullmatch(detector.lower())
    for stem in (f"{name[1]}{name[2]}", name[1]) if name else ():
        for path in sorted(models.glob(f"*/{stem}.yaml")):
            architecture = {**load_yaml(path), "yaml_file": f"{name[1]}{name[2]}.yaml"} if name else {}
            scales = architecture.get("scales")
            if name and (not scales or name[2] in scales):
                return architecture | {"scale": name[2] if scales else ""}
    raise ConfigError(
        f"unknown detector '{detector}' (there are: yolo11n, yolov8n, yolo26n, yolov5nu and their sizes s, m, l, x, "
        "or a YOLO .yaml or .pt file)"
    )


def check_architecture(architecture: Any, source: str, layers: Any) -> dict[str, Any]:
    """A copy of an architecture that names layers only.

    Args:
        layers: the module whose names an architecture may use.

    Raises:
        ConfigError: it is no detector, or holds something that is not a layer.
    """
    try:
        copied: dict[str, Any] = _plain(architecture)
        rows = [(str(row[2]), row) for part in ("backbone", "head") for row in copied[part]]
    except (TypeError, KeyError, IndexError) as error:
        raise ConfigError(f"{source} is no YOLO architecture: it needs lists 'backbone' and 'head'") from error
    for name, _ in rows:
        if name.startswith("nn."):
            found = getattr(nn, name[3:], None)
        elif name.startswith("torchvision.ops."):
            found = getattr(torchvision.ops, name[16:], None)
        else:
            found = getattr(layers, name, None)
        # TorchVision would fetch a backbone's weights from the network.
        if not (isinstance(found, type) and issubclass(found, nn.Module)) or name == "TorchVision":
            raise ConfigError(f"{source}: '{name}' is not a layer that a detector may be built of")
    activation = copied.get("activation")
    if activation is not None:
        match = _ACTIVATION.fullmatch(str(activation))
        kind = getattr(nn, match[1], None) if match else None
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise ConfigError(f"{source}: activation '{activation}' is not a layer of torch.nn, such as nn.SiLU()")
    if not rows or rows[-1][0] != "Detect":
        raise ConfigError(f"{source} is no detector: its last layer is not Detect (segmentation, poses and the like)")
    return copied


def _plain(value: Any) -> Any:
    """A copy of nested mappings and lists of plain values.

    Raises:
        TypeError: there is something else.
    """
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(type(value).__name__)


def fetch_release(detector: str, release: str) -> Path:
    """ultralytics' own weights of a detector's name, downloaded once into torch.hub's folder.

    Args:
        release: of ultralytics' assets.

    Raises:
        CheckpointError: they cannot be downloaded.
    """
    name = _NAME.fullmatch(detector.lower())
    if name is None:
        raise CheckpointError(f"pretrained 'auto' needs a detector given by name, not {detector}; give a weight file")
    file = f"{name[1]}{name[2]}{'u' if name[1] in {'yolov3', 'yolov5'} else ''}.pt"
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / file
    if path.is_file():
        return path
    url = f"https://github.com/ultralytics/assets/releases/download/{release}/{file}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with download_timeout():
            torch.hub.download_url_to_file(url, str(path), progress=False)
        if not zipfile.is_zipfile(path):
            path.unlink()
            raise OSError("what came is not a whole weight file")
    except (OSError, RuntimeError, HTTPException) as error:
        raise CheckpointError(
            f"{file} cannot be downloaded ({error}); fetch {url} elsewhere and put it into {folder}, or give the file "
            "itself with --set pretrained=FILE, or start from scratch with --set pretrained=null"
        ) from error
    return path
