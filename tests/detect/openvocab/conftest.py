"""Fixtures of the open-vocabulary tests: a CLIP of milliseconds, and a two-stage detector with random weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tiny_openvocab.py

from tiny_openvocab import write_detector_file, write_tiny_clip


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with random weights."""
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def proposer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weight file of an untrained class-agnostic detector."""
    return write_detector_file(tmp_path_factory.mktemp("proposer") / "last.safetensors", class_agnostic=True)
