"""Weight files that are pickles: read without running anything in them, unless the user says ``--trust``."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from typing import Any

from nightaug.errors import CheckpointError, first_line

#: Whether the command that is running was given ``--trust``; not kept in any settings, as those come from files, too.
_TRUSTED: ContextVar[bool] = ContextVar("trusted", default=False)
#: What torch itself needs to put tensors together again.
_HARMLESS = ("torch._utils.", "torch.storage.", "collections.OrderedDict", "numpy.", "_codecs.encode")
#: Names said of one file, and bytes and pickled instructions of it that are looked through for them: a file may be
#: made to take for ever.
_SHOWN, _LOOKED_AT, _STEPS = 4, 64 << 20, 200_000


@contextmanager
def trusting(wanted: bool = True) -> Iterator[None]:
    """While the block runs, weight files may run the code that is in them: the user has said ``--trust``.

    Holds for this thread alone. A process that is started meanwhile must be told by its own means.
    """
    token = _TRUSTED.set(wanted)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def trusted() -> bool:
    """Whether the user has said ``--trust``."""
    return _TRUSTED.get()


def load_torch(path: str | os.PathLike[str], trust: bool | None = None) -> dict[str, Any]:
    """A ``.pth`` file as a dict of tensors and plain values; pickled code is never run unless it is trusted.

    Args:
        trust: run what is in the file; None: if the user has said ``--trust``.

    Raises:
        CheckpointError: missing, damaged, or holding anything but tensors and plain values. The message says what a
            refused file would have called.
    """
    import torch

    trust = trusted() if trust is None else trust
    if not Path(path).is_file():  # a pipe would be waited for, and a device never ends
        raise CheckpointError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle's protocol, and of TorchScript
            content = torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError, KeyError, ... on bad files
        if "weights_only" in str(error):  # torch's own advice here would be to run the file's code
            raise CheckpointError(_refusal(Path(path))) from error
        line = first_line(error)
        raise CheckpointError(f"{path}: not a plain checkpoint, or damaged ({line})") from error
    if trust and not isinstance(content, dict) and callable(getattr(content, "state_dict", None)):
        content = dict(content.state_dict())  # a whole network
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dict of tensors, got {type(content).__name__}")
    return content


def check_archive(path: Path) -> None:
    """Raise a CheckpointError where a zip archive is not as it was written; what is none is left to who reads it.

    torch does not look: a changed bit would be a changed weight, or a KeyError from an optimiser.
    """
    remedy = "train into another --out"
    with suppress(OSError), open(path, "rb") as stream:
        if stream.read(2) != b"PK":
            return
        try:
            with zipfile.ZipFile(stream) as archive:
                name = archive.testzip()
        except Exception as error:  # of damaged headers zipfile raises BadZipFile, UnicodeDecodeError, zlib.error, ...
            raise CheckpointError(f"{path} is damaged ({first_line(error)}); {remedy}") from error
        if name is not None:
            raise CheckpointError(f"{path} is damaged (the checksum of {name} is another); {remedy}")


def _refusal(path: Path) -> str:
    names = called_names(path)
    if any(name.startswith("ultralytics.") for name in names):
        return (
            f"{path} is a checkpoint of ultralytics, which pickles the model's class, and loading it would run code: "
            "refused; train-detector --detector FILE.pt or --pretrained FILE.pt reads its tensors without running it"
        )
    calls = f" (it names {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})" if names else ""
    return (
        f"{path} holds more than tensors and plain values, and loading it could run any code{calls}: refused; save "
        "its state_dict alone with the program that made it, or, if you trust who made it, add --trust: its code then "
        "runs with your rights"
    )


def called_names(path: Path) -> list[str]:
    """What a pickle imports, and may call, beside what tensors need: ``posix.system``; nothing of it is run.

    Of a file that cannot be read to its end, or is very long, what was found until there.
    """
    found: dict[str, None] = {}
    try:
        for name in _imports(islice(_steps(path), _STEPS)):
            if not name.startswith(_HARMLESS) and not (name.startswith("torch.") and name.endswith("Storage")):
                found[name] = None
    except (
        OSError,
        ValueError,
        EOFError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        RuntimeError,
        NotImplementedError,
    ):
        pass
    return list(found)


def _pickles(path: Path) -> Iterator[bytes]:
    """The pickles of a file: those in torch's archive, or what it begins with; in all, as much as is looked at."""
    left = _LOOKED_AT
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as stream:
            yield stream.read(left)
        return
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename.endswith(".pkl") and left > 0:
                with archive.open(member) as packed:
                    data = packed.read(left)
                left -= len(data)
                yield data


def _steps(path: Path) -> Iterator[tuple[str, object]]:
    """Name and argument of every instruction in the pickles of a file; there may be several behind each other."""
    for data in _pickles(path):
        stream = io.BytesIO(data)
        while stream.tell() < len(data):
            for code, value, _ in pickletools.genops(stream):
                yield code.name, value


def _imports(steps: Iterable[tuple[str, object]]) -> Iterator[str]:
    """``module.name`` of every import."""
    texts: list[str] = []  # a name of protocol 4 lies on the stack, its module below it
    memory: dict[int, str] = {}
    for name, value in steps:
        if name == "STOP":  # the next pickle starts with nothing
            texts, memory = [], {}
        elif name == "GLOBAL":
            yield str(value).replace(" ", ".")
        elif name == "STACK_GLOBAL" and len(texts) >= 2:
            yield f"{texts[-2]}.{texts[-1]}"
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
            if texts:
                memory[len(memory) if name == "MEMOIZE" else int(str(value))] = texts[-1]
            elif name == "MEMOIZE":
                memory[len(memory)] = ""
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            texts.append(memory.get(int(str(value)), ""))
        elif isinstance(value, str):
            texts.append(value)
