"""Fixtures of the detector tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # street.py, from tests in every folder below

from street import street


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset: see :func:`street.street`. Read only."""
    return street(tmp_path_factory.mktemp("streets"))
