"""The errors nightaug raises for users: one line, what is wrong and what to do about it.

Programmer errors stay ``assert``; anything a user can cause by input, flags or files is a
:class:`NightaugError`, which the command line prints without a traceback (exit code 2).
"""

from __future__ import annotations


class NightaugError(Exception):
    """Base class of every error a user can cause and can mend."""


class ConfigError(NightaugError):
    """A setting is unknown, has the wrong type, or contradicts another one."""


class DatasetError(NightaugError):
    """Images or label files cannot be used as they are."""


class ImageError(DatasetError):
    """One image cannot be decoded, is empty, or is over the pixel limit."""


class NothingSure(DatasetError):
    """A detector finds nothing that could be a label.

    Attributes:
        trainable: a better detector might; else there are too few boxes to choose a threshold on.
    """

    def __init__(self, message: str, trainable: bool = True) -> None:
        super().__init__(message)
        self.trainable = trainable


class CheckpointError(NightaugError):
    """A weight file or training state is missing, damaged, or belongs to something else."""


class Interrupted(NightaugError):
    """Stopped by Ctrl-C with everything done so far kept (exit code 1)."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error, or its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
