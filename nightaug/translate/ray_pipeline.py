"""The worker of :mod:`nightaug.translate.pipeline` on many machines, by Ray.

This process plans, hands out chunks of images, collects their rows and writes manifest and labels; a worker is an actor
that loads the translator once and then runs :func:`nightaug.translate.pipeline.work` on one chunk after the other.
A worker that dies loses its chunks in flight, which others make again: every image takes its name whole or not at all.
On machines of one kind it also becomes the same bytes wherever it is made, so the files are those of a run on one
machine. Trained translators round differently on another kind of device or processor, and tile large images by the
memory that is free, unless they are told (``tile``).

Actors and not Ray Data: there all chunks are laid out before the first one is run, rows come when a block is complete,
a stop throws away what is in flight, and a block of a dead worker waits for that same worker to be started again. With
one of two nodes killed in the middle of 60 chunks of 0.3 s, a Ray Data pool took 58 s and this pattern 16 s, start
included (2 busy cores, Ray 2.60).
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from nightaug import __version__
from nightaug.data.frames import Box
from nightaug.errors import ConfigError, ImageError, NightaugError, first_line
from nightaug.images import ImageArray
from nightaug.translate.pipeline import Engine, Options, Outcome, work
from nightaug.translate.plan import Item
from nightaug.translate.shipping import Shipped, elsewhere, from_elsewhere
from nightaug.translate.translators import Translator

#: Images handed to a worker at once: enough to hide the way there, few enough to be made again.
CHUNK = 16
#: Chunks a worker has at once: while it ends one, the device is busy with the other.
_IN_FLIGHT = 2
#: Cores of a worker without a GPU, unless there are fewer.
_CORES = 4
#: Cores of a worker with a GPU at most: it decodes and encodes with them.
_GPU_CORES = 16
#: Times an image may take its worker with it before it counts as unusable.
_DEATHS = 3
#: Seconds until a first worker must have its translator.
START_SECONDS = 600.0
#: Seconds in which a cluster must answer.
_ANSWER_SECONDS = 10.0
#: Bytes of the object store of a cluster that is started here: only labels and rows pass through it.
_OBJECT_STORE = 128 << 20


class Worker:
    """What runs on the other machines, as an actor. Constructed without work, so that errors come back from calls."""

    def __init__(self, shipped: Shipped, threads: int) -> None:
        self._shipped, self._threads = shipped, threads
        self._translator: Translator | None = None
        self._stopped = False

    def start(self) -> tuple[str, str | None, dict[str, Any]]:
        """Load the translator; nightaug's version, the weights' checksum, and what else results depend on."""
        loaded = self._shipped.unpack()
        self._translator = loaded if loaded.concurrent else _one_at_a_time(loaded)
        return __version__, loaded.sha, dict(loaded.settings)

    def run(self, items: list[Item], options: Options) -> list[Outcome]:
        """Outcomes in the order of the items; fewer after :meth:`stop`."""
        assert self._translator is not None
        done = work(items, self._translator, options, self._threads, lambda: self._stopped)
        return [outcome for _, outcome in done]

    def stop(self) -> None:
        """End the chunks in work after the images that are begun."""
        self._stopped = True


def _one_at_a_time(translator: Translator) -> Translator:
    lock = threading.Lock()

    def run(image: ImageArray, boxes: Sequence[Box] | None, seed: int) -> ImageArray:
        with lock:
            return translator.function(image, boxes, seed)

    return replace(translator, function=run)


class Shares(NamedTuple):
    """How many workers, and what each may have of its machine."""

    workers: int
    cores: int
    gpus: float


def divide(nodes: list[tuple[int, int]], workers: int | None, cpu: bool) -> Shares:
    """One worker a GPU, or one for every few cores where there is none.

    Args:
        nodes: cores and GPUs of each machine.
        workers: so many, in all; None: as many as fit.
        cpu: leave GPUs alone.
    """
    cores, gpus = sum(node[0] for node in nodes), sum(node[1] for node in nodes)
    if gpus and not cpu:
        count = workers or gpus
        each = min(node[0] // node[1] for node in nodes if node[1])
        share = min(1.0, gpus / count)
        return Shares(count, max(1, min(_GPU_CORES, int(each * share))), share)
    largest = min(_CORES, max((node[0] for node in nodes), default=_CORES)) or 1
    if workers:
        return Shares(workers, max(1, min(largest, cores // workers)), 0.0)
    return Shares(max(1, sum(node[0] // largest for node in nodes)), largest, 0.0)


@contextmanager
def ray_engine(
    shipped: Shipped, address: str | None = None, workers: int | None = None, cpu: bool = False
) -> Iterator[Engine]:
    """An engine on a Ray cluster; one of this machine alone is started where there is none, and ended afterwards.

    Args:
        shipped: from :func:`nightaug.translate.shipping.ship`.
        address: of a cluster (``auto``, ``host:6379``, ``ray://host:10001``); None: this machine.
        workers: worker processes over all machines; None: one a GPU, or one for every four cores.
        cpu: do not use GPUs.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at ``address``.
    """
    try:
        # Before Ray is imported: nothing is reported to anybody, also not by the processes it starts.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray
    except ImportError as error:
        raise ConfigError('--engine ray needs Ray, which is not installed: pip install "nightaug[ray]"') from error
    own = not ray.is_initialized()
    folder = tempfile.mkdtemp(prefix="na-", dir=_short_folder()) if own and address is None else None
    try:
        if own:
            _connect(ray, address, folder)
        nodes = [
            (int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0)))
            for node in ray.nodes()
            if node["Alive"]
        ]
        yield partial(_run, ray, shipped, divide(nodes, workers, cpu))
    finally:
        if own:
            ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _short_folder() -> str:
    """Ray's sockets lie below it, and a socket's path may have no more than 107 bytes."""
    usual = tempfile.gettempdir()
    return usual if len(usual) < 16 or not os.path.isdir("/tmp") else "/tmp"


def _check_answers(address: str) -> None:
    """Try the door of a cluster: Ray itself would knock for minutes before it gives up.

    Raises:
        ConfigError: nobody answers.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # "auto"
    try:
        socket.create_connection((host, int(port)), _ANSWER_SECONDS).close()
    except OSError as error:
        raise ConfigError(f"nobody answers at {address} ({error}); start a cluster with: ray start --head") from error


def _connect(ray: Any, address: str | None, folder: str | None) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        _check_answers(address)
    else:
        options |= {"_temp_dir": folder, "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
        options |= {"num_cpus": len(os.sched_getaffinity(0)), "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"at {address}" if address else "on this machine"
        line = first_line(error)
        raise ConfigError(f"no Ray cluster {where} ({line}); start one with: ray start --head") from error


@dataclass
class _Chunk:
    """Items that go to a worker together; ``alone`` since a worker died with them and perhaps of them."""

    items: list[Item]
    alone: bool = False
    deaths: int = 0


class _Ended(NamedTuple):
    """A chunk that is no longer in work; ``lost``: its worker died of something, and this is the first word of it."""

    chunk: _Chunk
    outcomes: list[Outcome] | None
    reason: str = ""
    lost: bool = False


class _Crew:
    """The workers, and what each of them has in hand."""

    def __init__(self, ray: Any, shipped: Shipped, shares: Shares, options: Options, same: Translator) -> None:
        self._ray, self._shares, self._same = ray, shares, same
        self._shipped, self._options = ray.put(shipped), ray.put(options)
        self._calls: dict[Any, tuple[Any, _Chunk | None]] = {}  # result -> worker, chunk; no chunk: it is starting
        self._known: set[Any] = set()  # workers that are not known to be dead
        self._ready: set[Any] = set()
        self._waiting_since = time.monotonic()

    def hire(self) -> None:
        """Ask for one more worker; it begins when there is room for it."""
        actor = self._ray.remote(Worker).options(
            num_cpus=self._shares.cores,
            num_gpus=self._shares.gpus,
            max_concurrency=_IN_FLIGHT + 1,  # and a call to stop
            scheduling_strategy="SPREAD",
        )
        worker = actor.remote(self._shipped, self._shares.cores)
        self._known.add(worker)
        self._calls[worker.start.remote()] = (worker, None)

    def give(self, take: Callable[[bool], _Chunk | None]) -> None:
        """Fill idle hands: those with least in hand first, suspects only into empty ones.

        Args:
            take: the next chunk, with or without suspects.
        """
        for most in range(_IN_FLIGHT):
            for worker in list(self._ready):
                hand = [chunk for other, chunk in self._calls.values() if other is worker and chunk is not None]
                if len(hand) == most and not any(chunk.alone for chunk in hand):
                    chunk = take(not hand)
                    if chunk is not None:
                        items = [elsewhere(item) for item in chunk.items]
                        self._calls[worker.run.remote(items, self._options)] = (worker, chunk)

    @property
    def working(self) -> bool:
        return any(chunk is not None for _, chunk in self._calls.values())

    def next(self) -> _Ended | None:
        """Wait a second for the next chunk to end: with its outcomes, or None where its worker died of something.

        Raises:
            NightaugError: what a worker came upon, or no worker starts.
        """
        done, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=1.0)
        if not self._ready and time.monotonic() - self._waiting_since > START_SECONDS:
            raise NightaugError(
                f"no worker with {self._shares.cores} cores and {self._shares.gpus:g} GPUs has started in "
                f"{START_SECONDS:.0f} s; the cluster is too small or busy, see ray status, or give --workers"
            )
        if not done:
            return None
        worker, chunk = self._calls.pop(done[0])
        errors = self._ray.exceptions
        try:
            result = self._ray.get(done[0])
        except errors.RayTaskError as error:
            raise _plain(error) from error
        except errors.RayError as error:  # dead, killed for its memory, out of reach, ...
            lost = self._dismiss(worker)
            reason = first_line(error)
            return _Ended(chunk or _Chunk([]), None, reason, lost)
        if chunk is None:
            self._ready.add(worker)
            self._check(*result)
            return None
        return _Ended(chunk, result)

    def _check(self, version: str, sha: str | None, settings: dict[str, Any]) -> None:
        """What the manifest says must be so wherever an image is made."""
        if version != __version__:
            raise ConfigError(f"a worker has nightaug {version}, here it is {__version__}; install the same everywhere")
        for name, there, here in (("weights", sha, self._same.sha), ("settings", settings, dict(self._same.settings))):
            if there != here:
                raise ConfigError(f"a worker's translator has {name} {there}, here they are {here}")

    def _dismiss(self, worker: Any) -> bool:
        """Whether it was not known before: each of the chunks a worker has in hand tells of its death."""
        if worker not in self._known:
            return False
        self._known.discard(worker)
        if worker in self._ready:
            self._ready.discard(worker)
            self._waiting_since = time.monotonic()
        self._ray.kill(worker)  # it may only have been out of reach
        return True

    def stop(self) -> None:
        """Ask everybody to end what is in hand."""
        for worker in self._ready:
            worker.stop.remote()

    def send_home(self) -> None:
        """End all workers."""
        for worker in self._known:
            self._ray.kill(worker)


def _plain(error: Any) -> Exception:
    """What a worker raised, as if it had happened here."""
    cause = error.cause
    if isinstance(cause, NightaugError | OSError):
        return cause
    return NightaugError(f"a worker failed: {type(cause).__name__}: {cause}")


def _run(
    ray: Any,
    shipped: Shipped,
    shares: Shares,
    items: list[Item],
    translator: Translator,
    options: Options,
    threads: int,
    stopped: Callable[[], bool],
) -> Iterator[tuple[Item, Outcome]]:
    """An :data:`Engine`; ``translator`` and ``threads`` are this process's own, the workers have theirs."""
    fresh = (items[first : first + CHUNK] for first in range(0, len(items), CHUNK))
    again: deque[_Chunk] = deque()

    def take(suspects: bool) -> _Chunk | None:
        if again and suspects:
            return again.popleft()
        some = next(fresh, None)
        return None if some is None else _Chunk(some)

    crew = _Crew(ray, shipped, shares, options, translator)
    left, deaths, asked = len(items), 0, False
    try:
        for _ in range(min(shares.workers, -(-left // CHUNK))):
            crew.hire()
        while left and not (stopped() and not crew.working):
            if not stopped():
                crew.give(take)
            elif not asked:
                crew.stop()
                asked = True
            ended = crew.next()
            if ended is None:
                continue
            chunk, outcomes, reason, lost = ended
            if outcomes is not None:
                deaths = 0
                for item, outcome in zip(chunk.items, outcomes, strict=False):  # fewer after a stop
                    left -= 1
                    yield item, from_elsewhere(item, outcome)
                continue
            if lost:
                # Suspects may well kill their workers until each is found out; all others should not.
                deaths += not chunk.alone
                if deaths > _DEATHS * (shares.workers + 1):
                    raise NightaugError(f"workers die one after the other ({reason}); what is done is kept")
                crew.hire()
            again.extend(_suspects(chunk))
            if chunk.deaths >= _DEATHS:  # a single image
                left -= 1
                yield chunk.items[0], ImageError(f"a worker died with it {chunk.deaths} times ({reason})")
    finally:
        crew.send_home()


def _suspects(chunk: _Chunk) -> list[_Chunk]:
    """What to try again after a worker died with a chunk: all of it alone, then its images one by one."""
    chunk.deaths += 1
    chunk.alone = True
    if chunk.deaths > 1 and len(chunk.items) > 1:
        return [_Chunk([item], True) for item in chunk.items]
    return [chunk] if chunk.items and chunk.deaths < _DEATHS else []
