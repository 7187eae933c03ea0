"""The run folder of every long command: settings, metrics, weights, training state, log, lock, resume.

Layout: ``config.yaml``, ``metrics.jsonl``, ``best.safetensors``, ``last.safetensors``, ``state/``, ``log.txt``.
Everything is written atomically; a killed run continues from the newest complete state, and its
``metrics.jsonl`` is cut back to that step, so that a resumed run ends with the same files as one that was
never stopped.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from nightaug.config import Settings, dump_yaml, flatten, load_yaml, merge
from nightaug.errors import CheckpointError, ConfigError
from nightaug.images import atomic_open, atomic_write_text, remove_leftovers
from nightaug.pickles import check_archive, load_torch

if TYPE_CHECKING:
    from torch import Tensor


#: What a folder may hold before its run begins: a row of nightaug compare, and what a start cut for a small CLIP.
_BEFORE = ("row.json", "crops.safetensors")


def lock_folder(path: Path) -> IO[str]:
    """Claim a folder for this process until the returned stream is closed (or the process ends).

    Raises:
        ConfigError: another process holds it.
    """
    path.mkdir(parents=True, exist_ok=True)
    stream = open(path / ".lock", "a")  # noqa: SIM115 (held by the caller)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        stream.close()
        raise ConfigError(f"{path} is in use by another process; wait for it or choose another --out") from error
    except OSError:
        pass  # a file system without locks: go on, two processes there are the user's own care
    return stream


class RunFolder:
    """One training run on disk.

    Args:
        path: the folder; made by :meth:`start`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._log: IO[str] | None = None
        self._lock: IO[str] | None = None

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    def weights_path(self, which: str) -> Path:
        """Path of the weights ``best`` or ``last``."""
        return self.path / f"{which}.safetensors"

    def start(
        self,
        settings: Settings,
        resume: bool,
        may_change: tuple[str, ...] = (),
        say: Callable[[str], None] = lambda text: None,
    ) -> bool:
        """Claim the folder and check that it can take this run; :meth:`write_settings` follows once that is sure.

        Args:
            settings: the checked settings of this run.
            resume: continue what is there; starting anew in a used folder is refused.
            may_change: settings that a resumed run may have different (``steps``, or ``section.name``).
            say: told if there is no run to resume: the folder's name may be a mistake.

        Returns:
            True if there is a training state to continue from.

        Raises:
            ConfigError: the folder holds another run or something else, the settings differ, or another process uses
                it.
        """
        self._check_empty(resume)  # first: a lock would already be a mark in somebody's dataset
        self._lock = lock_folder(self.path)
        try:
            if self.config_path.exists():
                if not resume:
                    raise ConfigError(
                        f"{self.path} already holds a run; add --resume to go on, or choose another --out"
                    )
                self._compare(settings, may_change)
                remove_leftovers(self.path)
            elif resume:
                say(f"no run in {self.path} yet, so --resume begins one")
        except BaseException:
            self.close()  # a refused caller must not keep the folder
            raise
        return self.latest_state() is not None

    def _check_empty(self, resume: bool) -> None:
        names = os.listdir(self.path) if self.path.is_dir() else []
        if self.config_path.exists() or (resume and self.latest_state() is not None):
            return  # a run, be it one that has lost its settings
        if any(name not in _BEFORE and not name.startswith(".") for name in names):
            raise ConfigError(f"{self.path} is not empty and holds no run; choose another --out")

    def write_settings(self, settings: Settings) -> None:
        """Write ``config.yaml``."""
        atomic_write_text(self.config_path, dump_yaml(settings))

    def _compare(self, settings: Settings, may_change: tuple[str, ...]) -> None:
        now = yaml.safe_load(dump_yaml(settings))
        # A setting the run did not know, being of an older version, is as if it had its default.
        defaults = type(settings).model_construct().model_dump(mode="json")
        before, now = flatten(merge(defaults, load_yaml(self.config_path))), flatten(now)
        changed = [
            f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
            for key in sorted(set(before) | set(now))
            if key not in may_change and before.get(key) != now.get(key)
        ]
        if changed:
            raise ConfigError(f"--resume with other settings than {self.path} was started with: {'; '.join(changed)}")

    def close(self) -> None:
        """Give the folder back and close the log."""
        for stream in (self._log, self._lock):
            if stream is not None:
                stream.close()
        self._log = self._lock = None

    def log(self, text: str) -> None:
        """Add a line with the time to ``log.txt``."""
        if self._log is None:
            self._log = open(self.path / "log.txt", "a", encoding="utf-8")  # noqa: SIM115 (closed by close())
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        self._log.flush()

    # -- metrics ---------------------------------------------------------------------------------------------

    def append_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Add one line ``{"step": step, name: value, ...}`` to ``metrics.jsonl``."""
        with open(self.metrics_path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All lines of ``metrics.jsonl``; a torn last line, and what is damaged, is left out."""
        if not self.metrics_path.exists():
            return []
        rows = []
        for line in self.metrics_path.read_bytes().splitlines():
            try:
                row = json.loads(line)
                if isinstance(row, dict) and isinstance(row.get("step"), int):
                    rows.append(row)
            except (ValueError, RecursionError):
                continue
        return rows

    def cut_metrics(self, step: int) -> None:
        """Drop what was written after ``step``: those steps will be made again."""
        rows = [row for row in self.read_metrics() if row["step"] <= step]
        if self.metrics_path.exists():
            atomic_write_text(self.metrics_path, "".join(json.dumps(row) + "\n" for row in rows))

    # -- training state --------------------------------------------------------------------------------------

    def state_folder(self, step: int) -> Path:
        return self.path / "state" / f"step-{step:09d}"

    def latest_state(self) -> int | None:
        """The step of the newest complete state, or None."""
        try:
            return int(json.loads((self.path / "state" / "last.json").read_text("utf-8"))["step"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None

    def save_state(self, step: int, rank: int, state: Mapping[str, Any]) -> None:
        """Write one process's part of the state; it counts only after :meth:`commit_state`."""
        import torch

        with atomic_open(self.state_folder(step) / f"rank-{rank}.pt", "wb") as stream:
            try:
                torch.save(dict(state), stream)
            except RuntimeError as error:
                # A full disk: torch ends its archive all the same, and complains of that instead.
                full = error.__context__
                if isinstance(full, OSError):
                    raise OSError(full.errno, full.strerror, str(self.state_folder(step))) from None
                raise

    def commit_state(self, step: int) -> None:
        """Declare the state of ``step`` complete and remove older ones. Called by one process."""
        atomic_write_text(self.path / "state" / "last.json", json.dumps({"step": step}) + "\n")
        for old in (self.path / "state").glob("step-*"):
            if old != self.state_folder(step):
                shutil.rmtree(old, ignore_errors=True)

    def load_state(self, step: int, rank: int) -> dict[str, Any]:
        """What :meth:`save_state` wrote; only tensors and plain values are ever unpickled.

        Raises:
            CheckpointError: missing, damaged, or written by a different number of processes.
        """
        path = self.state_folder(step) / f"rank-{rank}.pt"
        if not path.exists():
            raise CheckpointError(f"{path} is missing: resume with the number of processes the run was started with")
        check_archive(path)
        return load_torch(path, trust=False)  # a state of ours never holds code


def user_cache(name: str) -> Path:
    """nightaug's folder of that name in the user's cache folder; not made here."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nightaug" / name


def save_weights(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically, with text metadata."""
    from safetensors.torch import save

    data = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, dict(metadata))
    with atomic_open(path, "wb") as stream:
        stream.write(data)


def free_space(path: Path) -> int:
    """Bytes that are free where a file or folder is, or will be."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _check_file(path: Path) -> None:
    # A pipe would be waited for, and a device never ends.
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path}: no ordinary file of weights")
    # safetensors says of a file that it may not read that there is none.
    if path.exists() and not os.access(path, os.R_OK):
        raise CheckpointError(f"{path}: no permission to read it")


def load_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a ``.safetensors`` file, or the tensors of a ``.pth`` file (safely).

    Raises:
        CheckpointError: missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    _check_file(path)
    if path.suffix in {".pth", ".pt", ".ckpt"}:
        content = load_torch(path)
        content = content.get("state_dict", content)
        if not isinstance(content, dict):
            raise CheckpointError(
                f"{path}: expected a dict of tensors under 'state_dict', got {type(content).__name__}"
            )
        return {key: value for key, value in content.items() if isinstance(key, str) and hasattr(value, "shape")}, {}
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error})") from error


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Metadata of a ``.safetensors`` file, without its tensors.

    Raises:
        CheckpointError: missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    _check_file(Path(path))
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error})") from error


def resolve_precision(choice: str, cpu: bool) -> str:
    """``bf16``, ``fp16`` or ``fp32``.

    ``auto`` is bf16 where the device computes it fast: any recent GPU, and CPUs with AVX512-BF16 or AMX.
    """
    import torch

    if choice != "auto":
        return choice
    if not cpu:
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    fast = any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return "bf16" if fast else "fp32"


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class StopRequest:
    """Turns the first Ctrl-C (or SIGTERM) into a flag that loops look at; the second one interrupts at once."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def listen(self) -> Iterator[StopRequest]:
        def handler(number: int, frame: object) -> None:
            if self.requested:
                raise KeyboardInterrupt
            self.requested = True
            print("stopping after this step; press Ctrl-C again to stop at once", file=sys.stderr)

        try:
            before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: the caller handles signals
            yield self
            return
        try:
            yield self
        finally:
            for number, old in before.items():
                signal.signal(number, old)


Progress = Callable[[int, str], None]


@contextmanager
def progress_bar(title: str, total: int, start: int = 0, unit: str = "images") -> Iterator[Progress]:
    """A rich progress bar with rate and time left on a terminal, a line every 30 s elsewhere.

    Yields:
        A function ``(done, note)``: how many of ``total`` are done, and a short text to show.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    console = Console(stderr=True)
    began = time.monotonic()

    def rate(done: int) -> str:
        speed = (done - start) / max(time.monotonic() - began, 1e-9)
        return f"{speed:.1f} {unit}/s" if speed >= 1 else f"{1 / speed if speed else 0:.1f} s/{unit.rstrip('s')}"

    if not console.is_terminal:
        last = began

        def plain(done: int, note: str = "") -> None:
            nonlocal last
            if done >= total or time.monotonic() - last > 30:
                last = time.monotonic()
                left = (last - began) / max(done - start, 1) * (total - done)
                console.print(
                    f"{title}: {done}/{total}, {rate(done)}, {left:.0f} s left {note}".rstrip(), highlight=False
                )

        yield plain
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with RichProgress(*columns, console=console) as bar:
        task = bar.add_task(title, total=total, completed=start, rate="", note="")

        def show(done: int, note: str = "") -> None:
            bar.update(task, completed=done, rate=rate(done), note=note)

        yield show


@contextmanager
def step_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Progress over named steps: a bar a step on a terminal, nothing elsewhere (such steps take seconds)."""
    from rich.console import Console
    from rich.progress import Progress as RichProgress

    console = Console(stderr=True)
    with RichProgress(console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step, total=total)
            bar.update(tasks[step], completed=done, total=total)

        yield show
