"""Drives, samples and splits: which frames belong together, and where they go.

Neighbouring frames of one drive show the same street; a split that cuts a drive tests on what it trained on.
Everything here is decided by hashes of the seed and the drive's name, never by the order of files on disk.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nightaug.data.formats.discover import SPLITS
from nightaug.data.frames import Frame
from nightaug.errors import ConfigError

# BDD100K: ride-clip, eight hexadecimal digits each; tracking sets add a frame number.
_BDD = re.compile(r"([0-9a-f]{8})-[0-9a-f]{8}(?:[-_.].*)?", re.IGNORECASE)
_NUMBERED = re.compile(r"(.*?)[_\-]?\d+")
#: With fewer groups than this, or one that holds over half of the frames, a name pattern says nothing about drives.
_MIN_GROUPS = 3


def parse_split(text: str) -> tuple[float, float, float]:
    """``"6:2:2"`` to fractions of train, val and test that sum to 1.

    Raises:
        ConfigError: not three numbers, one negative, or no part for train.
    """
    parts = text.split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not all(0 <= n < 1e6 for n in numbers) or numbers[0] <= 0:
        raise ConfigError(f"--split {text}: expected train:val:test such as 6:2:2")
    total = sum(numbers)
    return numbers[0] / total, numbers[1] / total, numbers[2] / total


class Named(Protocol):
    """What of a frame says its drive."""

    name: str
    video: str | None


class Drives:
    """The drive of every frame, as a key.

    In this order: BDD100K's name prefix (of the video's name or the image's), the label file's video, the folder
    where images lie in several folders, and the name without its trailing number where that makes an evident
    pattern (at least three groups, most of more than one frame, none over half of all). Otherwise every image
    is its own drive: nothing is known then, and nothing is kept together.

    Args:
        frames: all of them, looked at once; kept are eight bytes for each of those that do not name their drive.
    """

    def __init__(self, frames: Iterable[Named]) -> None:
        hashes: dict[Callable[[str], str], array[int]] = {_folder: array("q"), _prefix: array("q")}
        for frame in frames:
            if not _known_drive(frame):
                for guess, found in hashes.items():
                    found.append(hash(guess(frame.name)))
        self._guess = next((guess for guess, found in hashes.items() if _evident(found)), None)

    def of(self, frame: Named) -> str:
        """The drive of one of the frames."""
        known = _known_drive(frame)
        if known:
            return known
        return self._guess(frame.name) if self._guess else f"image {frame.name.rsplit('/', 1)[-1]}"


def find_drives(frames: Sequence[Frame]) -> list[str]:
    """The drives of these frames, see :class:`Drives`."""
    drives = Drives(frames)
    return [drives.of(frame) for frame in frames]


def _known_drive(frame: Named) -> str | None:
    base = frame.name.rsplit("/", 1)[-1]
    match = _BDD.fullmatch(frame.video or "") or _BDD.fullmatch(base.rsplit(".", 1)[0])
    return match[1].lower() if match else frame.video and f"video {frame.video}"


def _evident(hashes: array[int]) -> bool:
    """Whether these groups look like drives."""
    if not hashes:
        return False
    counts = np.unique(np.frombuffer(hashes, np.int64), return_counts=True)[1]
    return len(counts) >= _MIN_GROUPS and int(counts.max()) * 2 <= len(hashes) and len(counts) * 2 <= len(hashes)


def _folder(name: str) -> str:
    return "folder " + (name.rsplit("/", 1)[0] if "/" in name else "")


def _prefix(name: str) -> str:
    stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    match = _NUMBERED.fullmatch(stem)
    return "name " + (match[1] if match else stem)


def rank(drive: str, seed: int) -> int:
    """A number of 64 bits that stands for a drive and for its place among all: by the seed and nothing else."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{drive}".encode(), digest_size=8).digest(), "big")


def ranks(drives: Iterable[str], seed: int) -> NDArray[np.uint64]:
    """:func:`rank` of the drive of every frame."""
    return np.fromiter((rank(drive, seed) for drive in drives), np.uint64)


def sample(places: NDArray[np.uint64], names: Sequence[str], limit: int) -> list[int]:
    """Indices (sorted) of ``limit`` frames, whole drives as long as they fit, the last one cut.

    A larger limit takes all that a smaller one takes, as long as drives fit.

    Args:
        places: of every frame's drive (:func:`ranks`).
        names: of every frame; asked for only in the drive that is cut.
    """
    if limit >= len(places):
        return list(range(len(places)))
    by_drive = np.argsort(places, kind="stable")
    _, starts, counts = np.unique(places[by_drive], return_index=True, return_counts=True)
    whole = int(np.searchsorted(np.cumsum(counts), limit, side="right"))
    first = int(starts[whole])  # there is one more drive, as not all frames fit
    cut_drive = sorted(by_drive[first : first + counts[whole]].tolist(), key=lambda i: names[i])
    return sorted(by_drive[:first].tolist() + cut_drive[: limit - first])


def shares(counts: Mapping[str, int], limit: int) -> dict[str, int]:
    """``limit`` spread over the counts in proportion, by largest remainder."""
    total = sum(counts.values())
    if total <= limit:
        return dict(counts)
    exact = {key: limit * number / total for key, number in counts.items()}
    given = {key: int(value) for key, value in exact.items()}
    by_remainder = sorted(exact, key=lambda key: (given[key] - exact[key], key))
    for key in by_remainder[: limit - sum(given.values())]:
        given[key] += 1
    return given


def cut(drives: Sequence[str], domains: Sequence[str], fractions: Mapping[str, float], seed: int) -> list[str]:
    """A split for every frame: whole drives, as near to the fractions as they allow, in each domain.

    Args:
        drives, domains: of every frame.
        fractions: split -> share of the frames; they sum to 1.

    Large drives are placed first, each where it leaves the least squared error over splits and domains.
    """
    names = [split for split, share in fractions.items() if share > 0]
    if not drives:
        return []
    chosen = _cut(ranks(drives, seed), np.asarray(domains, dtype=str), [(name, fractions[name]) for name in names])
    return [names[number] for number in chosen.tolist()]


def _cut(
    places: NDArray[np.uint64], domains: NDArray[np.str_], wanted: Sequence[tuple[str, float]]
) -> NDArray[np.uint8]:
    """For every frame the number of its split in ``wanted``: (name, share)."""
    kinds, kind_of = np.unique(domains, return_inverse=True)
    drives, drive_of = np.unique(places, return_inverse=True)
    sizes = np.stack([np.bincount(drive_of[kind_of == k], minlength=len(drives)) for k in range(len(kinds))], 1)
    totals = sizes.sum(0).tolist()
    filled = [[0.0] * len(kinds) for _ in wanted]
    chosen = np.zeros(len(drives), np.uint8)
    # The larger first; np.unique has sorted the drives by rank, which decides between equal ones.
    for drive in np.argsort(-sizes.sum(1), kind="stable").tolist():
        size = [(kind, number) for kind, number in enumerate(sizes[drive].tolist()) if number]

        def error(split: int, size: list[tuple[int, int]] = size) -> float:
            # Change of the squared error, each domain relative to its own size, relative to the split's share.
            change = 0.0
            for kind, number in size:
                target = wanted[split][1] * totals[kind]
                now = filled[split][kind]
                change += ((now + number - target) ** 2 - (now - target) ** 2) / (target * totals[kind])
            return change

        best = min(range(len(wanted)), key=lambda split: (error(split), -wanted[split][1], wanted[split][0]))
        chosen[drive] = best
        for kind, number in size:
            filled[best][kind] += number
    result: NDArray[np.uint8] = chosen[drive_of]
    return result


def assign(
    places: NDArray[np.uint64], domains: Sequence[str], given: Sequence[str], fractions: tuple[float, float, float]
) -> tuple[list[str], list[int]]:
    """The final split of every frame.

    Args:
        places: of every frame's drive (:func:`ranks`).
        domains: of every frame.
        given: the dataset's own split of every frame: ``train``, ``val``, ``test`` or ``all``.
        fractions: train, val, test.

    Returns:
        The splits, and the indices of frames that were moved because their drive is also in a test split.

    The rule: with an own test split, the own splits stay (a missing val is cut from train). An own val without a
    test becomes test, and val is cut from train in the proportion train:val. Without either, the fractions apply,
    also to a domain without splits beside one that has them: else it would be left without a test split.
    """
    own = set(given)
    train, val, test = fractions
    whole = {"train": train, "val": val, "test": test}
    named: dict[str, str] = {}
    if "test" in own and own != {"test"}:
        named = {"test": "test", "val": "val"}
    elif "val" in own and own - {"val"}:
        named = {"val": "test"}
    drives, drive_of = np.unique(places, return_inverse=True)
    numbers = {split: SPLITS.index(home) for split, home in named.items()}
    fixed = np.fromiter((numbers.get(split, -1) for split in given), np.int8)
    # A drive that stands in a fixed split draws its other frames after it, the test split first.
    homes = np.full(len(drives), -1, np.int8)
    for split in ("val", "test"):
        homes[drive_of[fixed == SPLITS.index(split)]] = SPLITS.index(split)
    result = homes[drive_of]
    moved = np.flatnonzero((result >= 0) & (fixed != result)).tolist()
    if named and "val" in own and "test" in own:
        shares_ = {"train": 1.0}
    elif named:
        shares_ = {"train": train / (train + val), "val": val / (train + val)}
    else:
        shares_ = whole
    splits_of: dict[str, set[str]] = {domain: set() for domain in set(domains)}
    for domain, split in zip(domains, given, strict=True):
        splits_of[domain].add(split)
    unsplit = [domain for domain, splits in splits_of.items() if named and splits == {"all"}]
    kinds = np.asarray(domains, dtype=str)
    free = result < 0
    # Drives that a domain with splits shares go first, and take the others' frames along.
    bound = np.zeros(len(drives), bool)
    bound[drive_of[free & ~np.isin(kinds, unsplit)]] = True
    shared = bound[drive_of]
    for group, shares_here in ((free & shared, shares_), (free & ~shared, whole)):
        wanted = [(name, share) for name, share in shares_here.items() if share > 0]
        if group.any():
            into = np.array([SPLITS.index(name) for name, _ in wanted], np.int8)
            result[group] = into[_cut(places[group], kinds[group], wanted)]
    return [SPLITS[number] for number in result.tolist()], moved
