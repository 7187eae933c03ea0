"""What is installed, which device would be used, and what would fail, without starting anything."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata, util
from pathlib import Path

from nightaug.errors import first_line

#: Extra -> module it brings -> what it is for.
EXTRAS: dict[str, tuple[str, str]] = {
    "yolo": ("ultralytics", "YOLO detectors (AGPL-3.0)"),
    "clip": ("open_clip", "CLIP"),
    "ray": ("ray", "translation on a cluster"),
    "export": ("openvino", "ONNX and OpenVINO"),
    "logs": ("tensorboard", "TensorBoard"),
}
CORE = (
    "torch",
    "torchvision",
    "accelerate",
    "albumentations",
    "faster-coco-eval",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pydantic",
    "msgspec",
    "safetensors",
    "typer",
)


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def diagnose() -> tuple[list[str], bool]:
    """Lines to print, and whether everything the core needs is there and works."""
    lines = [
        f"nightaug {_installed('nightaug') or 'from source'}, Python {platform.python_version()}, {platform.platform()}"
    ]
    good = True
    for package in CORE:
        version = _installed(package)
        if version is None:
            good = False
            lines.append(f"  {package:<24} MISSING: pip install nightaug")
        else:
            lines.append(f"  {package:<24} {version}")
    good &= _device(lines)
    for extra, (module, purpose) in EXTRAS.items():
        there = util.find_spec(module) is not None
        lines.append(
            f"  [{extra}] {purpose:<32} {'installed' if there else f'not installed: pip install nightaug[{extra}]'}"
        )
    good &= _opencv(lines)
    free = shutil.disk_usage(Path.cwd()).free
    lines.append(f"  disk free here: {free / 1e9:.0f} GB" + ("  LOW" if free < 5e9 else ""))
    lines.append(
        "everything the core commands need is there"
        if good
        else "something the core commands need is missing or broken"
    )
    return lines, good


def _device(lines: list[str]) -> bool:
    try:
        import torch
        from torchvision.ops import nms
    except (ImportError, OSError, RuntimeError) as error:
        lines.append(f"  torch and torchvision do not work together: {' '.join(str(error).split())}")
        lines.append("  remedy: pip install --upgrade torch torchvision (both from the same place)")
        return False
    try:
        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (RuntimeError, NotImplementedError) as error:
        lines.append(f"  torchvision does not fit torch: {first_line(error)}; pip install --upgrade torch torchvision")
        return False
    from nightaug.runs import resolve_precision

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        lines.append(f"  device: cuda ({names}), precision {resolve_precision('auto', False)}")
    else:
        lines.append(f"  device: cpu ({os.cpu_count()} cores), precision {resolve_precision('auto', True)}")
    return True


def _opencv(lines: list[str]) -> bool:
    try:
        import cv2

        cv2.GaussianBlur  # noqa: B018 (a torn installation imports and has nothing in it)
    except (ImportError, AttributeError) as error:
        lines.append(
            f"  OpenCV does not work ({error}): pip install --force-reinstall --no-deps opencv-python-headless"
        )
        return False
    return True
