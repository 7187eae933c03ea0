"""Weights of others: fetched without waiting for ever, and which of them fit a network of ours."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

#: Seconds without an answer after which a download is given up.
DOWNLOAD_TIMEOUT = 20.0


@contextmanager
def download_timeout() -> Iterator[None]:
    """Give up a download that gets no answer: torch.hub sets no limit, and behind a silent firewall waits for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


#: Convolutions that torchvision has wrapped since its published detection weights were made.
_WRAPPED = re.compile(r"(fpn\.(?:inner|layer)_blocks\.\d+|rpn\.head\.conv)\.(weight|bias)$")


def current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a torchvision detector's file by the names they have in torchvision now.

    Only its own ``load_state_dict`` knows the old ones, and that of a whole detector alone.
    """
    return {_WRAPPED.sub(_wrapped, key): value for key, value in state.items()}


def _wrapped(found: re.Match[str]) -> str:
    inside = ".0.0." if found[1].endswith("conv") else ".0."
    return f"{found[1]}{inside}{found[2]}"


def fitting(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Which tensors of a file a network can take.

    Args:
        state: the file's.
        own: the network's.

    Returns:
        Those with a name and shape of the network, in its order, and the network's names without one; counts of
        batches, which nothing is computed with, are missed nowhere.
    """
    fits = {key: state[key] for key, value in own.items() if key in state and state[key].shape == value.shape}
    return fits, [key for key in own if key not in fits and not key.endswith("num_batches_tracked")]
