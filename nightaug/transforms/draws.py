"""What chance decides for an image (night or not, how strong, which night), the same in any number of workers.

Two rules, and never a global generator:

- After ``set_epoch(n)`` a draw is a function of (seed, n, key), the key being the image's content unless one is given:
  not of the order of calls, so not of the number of workers either.
- Without it nobody says when an epoch begins, and a function of the key would show each image by the same light for
  ever. So a draw is a function of (seed, worker, number of the call, key). A DataLoader's worker is told apart by the
  seed torch gave it, which is new in every epoch and follows from ``torch.manual_seed``.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import sys
import zlib
from multiprocessing import sharedctypes
from multiprocessing.context import get_spawning_popen
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: What names an image: its path, its number, or bytes; None takes its content.
Key = str | int | bytes | None

#: No epoch has been set.
UNKNOWN = -1
_BY_KEY, _BY_CALL = 1, 2  # so that the two rules never give the same draws


class Draw(NamedTuple):
    """What was drawn for one image.

    Attributes:
        night: whether it becomes night at all.
        strength: in [0, 1], 1 is full night.
        seed: of the renderer, 0 to 2**63 - 1.
    """

    night: bool
    strength: float
    seed: int


class SharedEpoch:
    """The epoch, in memory that worker processes share: those that stay alive from epoch to epoch see it change.

    Forked workers inherit it, spawned ones are handed it; any other copy (pickle, deepcopy) goes its own way.
    """

    def __init__(self, value: int = UNKNOWN) -> None:
        self._cell: Any = sharedctypes.RawValue(ctypes.c_int64, value)

    def get(self) -> int:
        """The epoch, or :data:`UNKNOWN`."""
        return int(self._cell.value)

    def set(self, value: int) -> None:
        """For every process that shares it."""
        self._cell.value = value

    def __getstate__(self) -> Any:
        # Shared memory can only be handed over while a process is being started.
        return (self._cell, True) if get_spawning_popen() is not None else (self.get(), False)

    def __setstate__(self, state: Any) -> None:
        value, shared = state
        self._cell = value if shared else sharedctypes.RawValue(ctypes.c_int64, value)


def in_loader_worker() -> Any:
    """What torch says of this DataLoader worker, or None in any other process; torch is not imported for it."""
    data = sys.modules.get("torch.utils.data")
    return data.get_worker_info() if data is not None else None


def worker_number() -> int:
    """A number that no other worker has: 0 in the main process."""
    info = in_loader_worker()
    if info is not None:
        return int(info.seed) % 2**64
    name = multiprocessing.current_process().name
    return 0 if name == "MainProcess" else zlib.crc32(name.encode()) + 1


def key_number(key: Key, image: NDArray[Any]) -> int:
    """A key as a number under 2**64; None takes the image's content (under a millisecond at 640x384)."""
    if key is None:
        shape = ",".join(str(side) for side in image.shape)
        return zlib.crc32(np.ascontiguousarray(image).data, zlib.crc32(shape.encode()))
    if isinstance(key, (bool, int, np.integer)):
        return int(key) % 2**64
    return zlib.crc32(key if isinstance(key, bytes) else key.encode("utf-8", "surrogateescape"))


def draw(seed: int, epoch: int, sequence: tuple[int, ...], key: int, p: float, strength: tuple[float, float]) -> Draw:
    """Draw for one image.

    Args:
        seed: any integer.
        epoch: 0 and up, or :data:`UNKNOWN`.
        sequence: where in the sequence of calls this one is; counts only while the epoch is unknown.
        key: from :func:`key_number`.
        p: chance in [0, 1] of night.
        strength: range in [0, 1] to draw from evenly.
    """
    place = (_BY_CALL, *sequence) if epoch == UNKNOWN else (_BY_KEY, epoch)
    rng = np.random.default_rng([seed % 2**64, *place, key])
    night = float(rng.random()) < p
    return Draw(night, float(rng.uniform(*strength)), int(rng.integers(2**63)))
