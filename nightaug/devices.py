"""Which device networks run on, where the user says, and where not."""

from __future__ import annotations

import torch

from nightaug.errors import ConfigError, first_line


def default_device() -> str:
    """``cuda`` where there is a GPU, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: str | torch.device) -> None:
    """Refuse a device that is not there.

    Raises:
        ConfigError: with the reason.
    """
    try:
        torch.zeros(1, device=torch.device(device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        line = first_line(error)
        raise ConfigError(f"--device {device} cannot be used here ({line}); try --device cpu") from error
