"""One command in a process of its own, forked from one that has imported everything: it can be killed, starved, timed.

What a process does to files is seen by an audit hook, which Python calls before it opens, renames or removes one. The
n-th such moment is where a fault strikes, so that a seed finds the dangerous places again; a stopwatch would not.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

#: Audit events that change files; of ``open`` only those for writing.
_CHANGES = frozenset(
    {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.utime"}
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: Seconds between looks at a child.
_LOOK = 0.004


@dataclass(frozen=True)
class Fault:
    """What happens to a process, at its ``at``-th change of a file below ``root`` (from 1) or after ``seconds``.

    Attributes:
        kind: ``none``, ``kill``, ``stop`` (SIGSTOP), or an errno by name (``ENOSPC``) that this change and all later
            ones below ``root`` fail with.
    """

    kind: str = "none"
    at: int = 0
    seconds: float | None = None
    root: Path = Path("/")


@dataclass
class Outcome:
    """How a process ended.

    Attributes:
        code: its exit code; negative: the signal that ended it.
        seconds: it ran.
        text: everything it printed.
        changes: of files below the fault's root, where it ended by itself.
        late: it was over its limit and was killed.
        busy: seconds of processor time, which other work on the machine does not change.
    """

    code: int
    seconds: float
    text: str
    changes: int = 0
    late: bool = False
    busy: float = 0.0

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL and not self.late

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.text


@dataclass
class _Hook:
    """Counts changes of files; is never taken off, as Python has no way to."""

    fault: Fault
    count: int = 0
    root: str = field(init=False)

    def __post_init__(self) -> None:
        self.root = str(self.fault.root)

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            flags = arguments[2] if len(arguments) > 2 else 0
            if not isinstance(flags, int) or not flags & _WRITING:
                return
        elif event not in _CHANGES:
            return
        paths = [os.fspath(each) for each in arguments[:2] if isinstance(each, str | os.PathLike)]
        if not any(str(path).startswith(self.root) for path in paths):
            return
        self.count += 1
        kind, due = self.fault.kind, self.fault.at and self.count >= self.fault.at
        if not due or kind == "none":
            return
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # a signal to oneself may take a moment to arrive
        elif kind == "stop":
            if self.count == self.fault.at:
                os.kill(os.getpid(), signal.SIGSTOP)
        elif event not in ("os.remove", "os.rmdir"):  # these need no room, and a way back must be open
            raise OSError(getattr(errno, kind), os.strerror(getattr(errno, kind)), paths[0])


class Child:
    """A forked process that runs a function.

    Args:
        function: its exit code; ``SystemExit`` is taken as well.
        folder: where it writes what it prints.
        fault: what happens to it.
    """

    def __init__(self, function: Callable[[], int], folder: Path, fault: Fault = Fault()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.said = folder / f"said-{time.monotonic_ns()}"
        self.counted = self.said.with_suffix(".count")
        self.fault, self.began = fault, time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            code = 70
            try:
                code = self._run(function)
            finally:
                os._exit(code)

    def _run(self, function: Callable[[], int]) -> int:
        os.setsid()
        with open(self.said, "wb") as said:
            for number in (1, 2):
                os.dup2(said.fileno(), number)
        # Whoever forked us may have put others in their place.
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        counted = os.open(self.counted, os.O_WRONLY | os.O_CREAT)  # while there is room and leave to
        hook = _Hook(self.fault)
        try:
            sys.addaudithook(hook)
            code = function()
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 1
        except BaseException:  # noqa: BLE001 (it ends here, whatever it was)
            import traceback

            traceback.print_exc()
            code = 70
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(counted, str(hook.count).encode())
        return code

    def paused(self, limit: float = 60.0) -> bool:
        """Wait until it has stopped itself; False: it ended before."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WUNTRACED | os.WNOHANG)
            if pid:
                return os.WIFSTOPPED(status)
            time.sleep(_LOOK)
        return False

    def go_on(self) -> None:
        """Wake it."""
        os.kill(self.pid, signal.SIGCONT)

    def wait(self, limit: float) -> Outcome:
        """Until it ends, at most ``limit`` seconds."""
        late = False
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            spent = time.monotonic() - self.began
            if self.fault.seconds is not None and spent > self.fault.seconds:
                self._kill()
            elif spent > limit:
                late = True
                self._kill()
            time.sleep(_LOOK)
        seconds = time.monotonic() - self.began
        # One that is killed at once has not opened it yet.
        text = self.said.read_text("utf-8", "replace") if self.said.exists() else ""
        try:
            changes = int(self.counted.read_text() or 0)
        except OSError:
            changes = 0
        for path in (self.said, self.counted):
            path.unlink(missing_ok=True)
        busy = usage.ru_utime + usage.ru_stime
        return Outcome(os.waitstatus_to_exitcode(status), seconds, text, changes, late, busy)

    def _kill(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)  # with what it has started
        except ProcessLookupError:
            os.kill(self.pid, signal.SIGKILL)


def run(function: Callable[[], int], folder: Path, fault: Fault = Fault(), limit: float = 120.0) -> Outcome:
    """Run a function in a process of its own to its end; see :class:`Child`."""
    return Child(function, folder, fault).wait(limit)


def command(*words: str | Path) -> Callable[[], int]:
    """``nightaug words...`` as a function for :func:`run`."""

    def call() -> int:
        from nightaug.cli import main

        main([str(word) for word in words])
        return 0

    return call
