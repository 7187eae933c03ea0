"""What the fuzz tests share: how many examples, and the fault campaign's ways to damage things (benchmarks/)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, settings

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

#: Few here, the same ones each time; ``make faults`` asks for more and other ones.
EXAMPLES = int(os.environ.get("NIGHTAUG_FUZZ", "0"))
SECONDS = 10.0


def fuzz(examples: int) -> settings:
    """Settings of one fuzz test with so many examples in an ordinary run."""
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def promptly() -> Iterator[None]:
    """Fails where the block takes longer than anyone would wait for a refusal."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < SECONDS
