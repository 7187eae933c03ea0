"""Drives, samples and splits: which frames belong together, and where they go.

Neighbouring frames of one drive show the same street; a split that cuts a drive tests on what it trained on.
Everything here is decided by hashes of the seed and the drive's name, never by the order of files on disk.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

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


def find_drives(frames: Sequence[Frame]) -> list[str]:
    """The drive of every frame, as a key.

    In this order: BDD100K's name prefix (of the video's name or the image's), the label file's video, the folder
    where images lie in several folders, and the name without its trailing number where that makes an evident
    pattern (at least three groups, most of more than one frame, none over half of all). Otherwise every image
    is its own drive: nothing is known then, and nothing is kept together.
    """
    keys: list[str | None] = []
    for frame in frames:
        base = frame.name.rsplit("/", 1)[-1]
        match = _BDD.fullmatch(frame.video or "") or _BDD.fullmatch(base.rsplit(".", 1)[0])
        keys.append(match[1].lower() if match else frame.video and f"video {frame.video}")
    rest = [i for i, key in enumerate(keys) if not key]
    for guess in (_folder, _prefix):
        if not rest:
            break
        found = [guess(frames[i].name) for i in rest]
        groups = Counter(found)
        evident = len(groups) >= _MIN_GROUPS and max(groups.values()) * 2 <= len(rest) and len(groups) * 2 <= len(rest)
        if evident:
            for i, key in zip(rest, found, strict=True):
                keys[i] = key
            rest = []
    return [key or f"image {frames[i].name.rsplit('/', 1)[-1]}" for i, key in enumerate(keys)]


def _folder(name: str) -> str:
    return "folder " + (name.rsplit("/", 1)[0] if "/" in name else "")


def _prefix(name: str) -> str:
    stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    match = _NUMBERED.fullmatch(stem)
    return "name " + (match[1] if match else stem)


def order(keys: Iterable[str], seed: int) -> list[str]:
    """The distinct keys in an order that depends on the seed and on nothing else."""
    return sorted(set(keys), key=lambda key: hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest())


def sample(drives: Sequence[str], names: Sequence[str], limit: int, seed: int) -> list[int]:
    """Indices (sorted) of ``limit`` frames, whole drives as long as they fit, the last one cut.

    A larger limit takes all that a smaller one takes, as long as drives fit.
    """
    if limit >= len(drives):
        return list(range(len(drives)))
    members: dict[str, list[int]] = defaultdict(list)
    for i, drive in enumerate(drives):
        members[drive].append(i)
    taken: list[int] = []
    for drive in order(members, seed):
        found = sorted(members[drive], key=lambda i: names[i])
        taken += found[: limit - len(taken)]
        if len(taken) >= limit:
            break
    return sorted(taken)


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
    wanted = {split: share for split, share in fractions.items() if share > 0}
    totals = Counter(domains)
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for drive, domain in zip(drives, domains, strict=True):
        sizes[drive][domain] += 1
    rank = {drive: i for i, drive in enumerate(order(sizes, seed))}
    filled = {split: dict.fromkeys(totals, 0.0) for split in wanted}
    placed: dict[str, str] = {}
    for drive in sorted(sizes, key=lambda d: (-sizes[d].total(), rank[d])):
        size = sizes[drive]

        def error(split: str, size: Counter[str] = size) -> float:
            # Change of the squared error, each domain relative to its own size, relative to the split's share.
            change = 0.0
            for domain, number in size.items():
                target = wanted[split] * totals[domain]
                now = filled[split][domain]
                change += ((now + number - target) ** 2 - (now - target) ** 2) / (target * totals[domain])
            return change

        best = min(wanted, key=lambda split: (error(split), -wanted[split], split))
        placed[drive] = best
        for domain, number in size.items():
            filled[best][domain] += number
    return [placed[drive] for drive in drives]


def assign(
    drives: Sequence[str],
    domains: Sequence[str],
    given: Sequence[str],
    fractions: tuple[float, float, float],
    seed: int,
) -> tuple[list[str], list[int]]:
    """The final split of every frame.

    Args:
        drives, domains: of every frame.
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
    fixed = [named.get(split) for split in given]
    # A drive that stands in a fixed split draws its other frames after it, the test split first.
    homes: dict[str, str] = {}
    for drive, split in zip(drives, fixed, strict=True):
        if split is not None and homes.get(drive) != "test":
            homes[drive] = split
    result: list[str] = []
    moved: list[int] = []
    for i, drive in enumerate(drives):
        home = homes.get(drive)
        result.append(home or "")
        if home is not None and fixed[i] != home:
            moved.append(i)
    open_ = [i for i, split in enumerate(result) if not split]
    if named and "val" in own and "test" in own:
        shares_ = {"train": 1.0}
    elif named:
        shares_ = {"train": train / (train + val), "val": val / (train + val)}
    else:
        shares_ = whole
    splits_of: dict[str, set[str]] = defaultdict(set)
    for domain, split in zip(domains, given, strict=True):
        splits_of[domain].add(split)
    unsplit = {domain for domain, splits in splits_of.items() if named and splits == {"all"}}
    # Drives that a domain with splits shares go first, and take the others' frames along.
    bound = {drives[i] for i in open_ if domains[i] not in unsplit}
    groups = ([i for i in open_ if drives[i] in bound], shares_), ([i for i in open_ if drives[i] not in bound], whole)
    for group, wanted in groups:
        for i, split in zip(
            group, cut([drives[i] for i in group], [domains[i] for i in group], wanted, seed), strict=True
        ):
            result[i] = split
    return result, moved
