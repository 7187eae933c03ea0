"""Weights of others: fetched without waiting for ever, and which of them fit a network of ours."""

from __future__ import annotations

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
