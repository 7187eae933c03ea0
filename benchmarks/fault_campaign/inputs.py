"""Damaged inputs through the real commands: each is named with its reason, the rest finished, nothing else changed."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fault_campaign import damage
from fault_campaign.damage import FORMATS, GOOD_BOXES, HEIGHT, NAMES, WIDTH, Row, documents, encoded
from fault_campaign.jobs import DETECTOR, TRANSLATOR, World
from fault_campaign.trial import Outcome, command, run
from fault_campaign.whole import files, torn
from nightaug.images import ImageFormat, encode_image

#: No command may compute longer on so little; and where it waits, it is waited for longer on a busy machine.
LIMIT, PATIENCE = 10.0, 40.0
#: Kinds that damage files of the output itself, which need not be mended.
_OURS_DAMAGED = ("files of a run", "translated folder")
_IMAGE_FORMATS: tuple[ImageFormat, ...] = ("jpg", "png", "webp")
_GOOD = ("good0.jpg", "good1.png", "good2.webp")


class Case(NamedTuple):
    """One damaged input and the command it is given to.

    Attributes:
        kind: what is damaged, for the table.
        words: of the command.
        bad: name of the damaged thing: where it is refused, that must be said.
        finished: relative to ``out``: what must be there in spite of it, where the command does not refuse all of it.
        must_refuse: the damage is such that it cannot be overlooked.
    """

    kind: str
    words: tuple[str | Path, ...]
    bad: str
    finished: tuple[str, ...] = ()
    must_refuse: bool = False


@dataclass
class KindReport:
    """Counts of one kind of damage under one command; ``wrong`` says what broke a promise, ``slowest`` is in
    seconds of processor time."""

    kind: str
    command: str
    cases: int = 0
    refused: int = 0
    in_part: int = 0
    whole: int = 0
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        return asdict(self) | {"slowest": round(self.slowest, 2), "good": not self.wrong}


class Place:
    """The folders of one case: ``input`` is damaged, ``out`` is written, everything else must stay as it is."""

    def __init__(self, root: Path, world: World, runs: Path) -> None:
        self.root, self.world, self.runs = root, world, runs
        self.input, self.out, self.beside = root / "in", root / "out", root / "beside"
        for folder in (self.input, self.beside, root / "tmp"):
            folder.mkdir(parents=True)
        (self.beside / "outside.jpg").write_bytes(picture(9, "jpg"))
        (root / "outside.jpg").write_bytes(picture(9, "jpg"))

    def good(self, folder: Path | None = None) -> None:
        """Three images that nothing is wrong with."""
        for number, name in enumerate(_GOOD):
            write((folder or self.input) / name, picture(number, _IMAGE_FORMATS[number]))

    def labelled(self, documents: dict[str, bytes], format: str) -> None:
        """The good images with labels beside them, as datasets of that format lie."""
        self.good(self.input / "images")
        folder = self.input / ("labels" if format in ("yolo", "bdd100k", "voc") else "annotations")
        for name, data in documents.items():
            write((self.input if name == "data.yaml" else folder) / name, data)

    def run_of(self, name: str) -> Path:
        """A finished run of this case's own."""
        shutil.copytree(self.runs / name, self.input / name)
        return self.input / name

    def snapshot(self) -> dict[str, tuple[int, int, int]]:
        """Everything but ``out`` and the system's temporary folder."""
        found = {}
        for path in files(self.root):
            if path.parts[len(self.root.parts)] not in ("out", "tmp", "said"):
                status = path.lstat()
                found[str(path)] = (status.st_size, status.st_mtime_ns, status.st_mode)
        return found


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def picture(number: int, format: ImageFormat) -> bytes:
    """A small picture with some structure."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / WIDTH
    base = np.stack([np.sin(6 * x + i + number) + np.cos(5 * y - i) for i in range(3)], axis=2) * 50 + 120
    return encode_image(np.clip(base + rng.normal(0, 6, base.shape), 0, 255).astype(np.uint8), format)


Maker = Callable[[Place, random.Random, int], Case]


# -- images ----------------------------------------------------------------------------------------------------


def _damaged_image(place: Place, chance: random.Random, number: int) -> tuple[str, bytes, bool]:
    """Name, bytes, and whether nobody could read them."""
    format = _IMAGE_FORMATS[number % 3]
    kinds = ("flips", "cut", "overwritten", "empty", "text", "bomb", "tiny", "other", "head")
    kind = kinds[(number // 3) % len(kinds)]
    data = picture(5, format)
    name = f"bad-{kind}.{format}"
    if kind in damage.BYTES:
        return name, damage.BYTES[kind](data, chance), False
    special = {
        "empty": b"", "text": b"<html>404 not found</html>", "bomb": damage.bomb(), "tiny": picture(1, format)[:40],
        "other": picture(4, "png"), "head": data[: len(data) // 3],
    }  # fmt: skip
    return name, special[kind], kind in ("empty", "text", "bomb", "tiny")


def image_translated(place: Place, chance: random.Random, number: int) -> Case:
    place.good()
    name, data, hopeless = _damaged_image(place, chance, number)
    write(place.input / name, data)
    return Case("image", ("translate", place.input, "--out", place.out), name, _GOOD, hopeless)


def image_prepared(place: Place, chance: random.Random, number: int) -> Case:
    name, data, hopeless = _damaged_image(place, chance, number)
    for side in "ab":
        place.good(place.input / side)
    write(place.input / "a" / name, data)
    words = ("prepare", "--a", place.input / "a", "--b", place.input / "b", "--out", place.out, "--split", "1:0:0")
    return Case("image", words, name, ("train/A/good0.jpg", "train/A/good1.png", "train/B/good2.webp"), hopeless)


def image_detected(place: Place, chance: random.Random, number: int) -> Case:
    place.good()
    name, data, hopeless = _damaged_image(place, chance, number)
    write(place.input / name, data)
    words = ("predict", place.runs / "train-detector", place.input, "--out", place.out, "--device", "cpu")
    return Case("image", words, name, (), hopeless)


def image_trained_on(place: Place, chance: random.Random, number: int) -> Case:
    shutil.copytree(place.world.data, place.input / "data", symlinks=True)
    _, data, hopeless = _damaged_image(place, chance, number)
    folder = place.input / "data" / "train" / "A"
    victim = sorted(folder.iterdir())[0]
    victim.unlink()
    write(victim, data)
    trainer = ("train-translator", "train-detector")[number % 2]
    settings = place.root / "settings.yaml"
    own = TRANSLATOR | {"steps": 8} if trainer == "train-translator" else DETECTOR | {"steps": 4, "evaluate_every": 0}
    settings.write_text(json.dumps(own))
    words: tuple[str | Path, ...] = (trainer, place.input / "data", "--out", place.out, "--config", settings, "--cpu")
    if trainer == "train-detector":
        words += ("--data", "dataset:train:A")
    return Case("image", words, "could not be read" if hopeless else "", ("last.safetensors",), hopeless)


# -- labels ----------------------------------------------------------------------------------------------------


def _rows() -> list[Row]:
    return [Row(name, GOOD_BOXES) for name in _GOOD]


def _label_words(place: Place, format: str, number: int) -> tuple[str | Path, ...]:
    which = number // len(FORMATS) % 4
    if which == 2 and (place.runs / "train-detector").exists():
        run = place.runs / "train-detector"
        return "evaluate", run, place.input, "--out", place.out / "metrics.json", "--split", "all", "--device", "cpu"
    if which == 3 and format in ("scalabel", "bdd100k"):
        return "prepare", place.input, "--out", place.out, "--split", "1:0:0"
    return "translate", place.input, "--out", place.out, "--all-times", "--workers", "1"


def _labels(place: Place, format: str, number: int, kind: str, content: dict[str, bytes], bad: str) -> Case:
    place.labelled(content, format)
    words = _label_words(place, format, number)
    finished = tuple(f"images/{name}" for name in _GOOD) if words[0] == "translate" else ()
    return Case(f"{format} {kind}", words, bad, finished)


def label_bytes(place: Place, chance: random.Random, number: int) -> Case:
    format = FORMATS[number % len(FORMATS)]
    content = {name: encoded(value) for name, value in documents(format, _rows()).items()}
    victim = chance.choice(sorted(content))
    how = chance.choice(sorted(damage.BYTES))
    content[victim] = damage.BYTES[how](content[victim], chance)
    return _labels(place, format, number, "bytes", content, victim)


def label_boxes(place: Place, chance: random.Random, number: int) -> Case:
    format = FORMATS[number % len(FORMATS)]
    odd = [("car", *chance.choice(damage.BOXES)) for _ in range(3)]
    rows = [Row(_GOOD[0], [*GOOD_BOXES, *odd]), *_rows()[1:]]
    content = {name: encoded(value) for name, value in documents(format, rows).items()}
    return _labels(place, format, number, "boxes", content, "")


def label_names(place: Place, chance: random.Random, number: int) -> Case:
    format = FORMATS[number % len(FORMATS)]
    rows = [*_rows(), Row(NAMES[(number // len(FORMATS)) % len(NAMES)], GOOD_BOXES)]
    found = documents(format, rows)
    # The names are in the documents; the files that hold these are named by us.
    content = {f"{at}.xml" if format == "voc" else _safe(name, at): encoded(v) for at, (name, v) in _numbered(found)}
    return _labels(place, format, number, "names", content, "")


def _numbered(found: dict[str, Any]) -> Iterator[tuple[int, tuple[str, Any]]]:
    return enumerate(found.items())


def _safe(name: str, at: int) -> str:
    good = len(name) < 100 and "/" not in name and "\0" not in name and name not in ("..", ".")
    return name if good else f"odd{at}{Path(name).suffix[:5]}"


def label_twice(place: Place, chance: random.Random, number: int) -> Case:
    format = FORMATS[number % len(FORMATS)]
    rows = [*_rows(), _rows()[0]]
    content = {}
    for at, (name, value) in _numbered(documents(format, rows)):
        if format == "coco":
            for group in ("images", "annotations", "categories"):
                value[group].append(dict(value[group][0]))
                value[group][-1]["id"] = value[group][0]["id"]
        content[name if at < len(rows) or name == "data.yaml" else f"again-{name}"] = encoded(value)
    if format in ("voc", "yolo", "bdd100k"):  # a file an image: the same one in two folders
        first = next(name for name in sorted(content) if name.startswith("good0"))
        content[f"again/{first}"] = content[first]
    return _labels(place, format, number, "twice", content, "")


def label_encoding(place: Place, chance: random.Random, number: int) -> Case:
    format = FORMATS[number % len(FORMATS)]
    encoding = ("utf-16", "latin-1", "utf-8-sig", "utf-32", "cp1252")[(number // len(FORMATS)) % 5]
    rows = [Row(_GOOD[0], [("car", 4, 5, 30, 25)]), *_rows()[1:]]
    content = {}
    for name, value in documents(format, rows).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        content[name] = (
            text.replace("clear", "Zürich ß").replace("<size>", "<folder>Zürich</folder><size>").encode(encoding)
        )
    victim = sorted(content)[0]
    return _labels(place, format, number, "encoding", content, victim)


def label_values(place: Place, chance: random.Random, number: int) -> Case:
    format = ("scalabel", "bdd100k", "coco")[number % 3]
    found = documents(format, _rows())
    victim = chance.choice(sorted(found))
    content = {name: encoded(damage.mutated(v, chance) if name == victim else v) for name, v in found.items()}
    return _labels(place, format, number, "values", content, victim)


def million_objects(place: Place, chance: random.Random, number: int) -> Case:
    """One frame with more objects than any street holds, as far as the format's files can be read in time."""
    format = FORMATS[number % len(FORMATS)]
    place.good(place.input / "images")
    rows = [Row(_GOOD[0], [("car", 4, 5, 30, 25)] * 2), *_rows()[1:]]
    content = {}
    for name, value in documents(format, rows).items():
        text = value if isinstance(value, str) else json.dumps(value)
        one = format in ("scalabel", "coco") or name.startswith("good0")  # of all images, or of the first alone
        content[name] = (_repeated(text, format, 1_000_000) if one else text).encode()
    place.labelled(content, format)
    words = ("translate", place.input, "--out", place.out, "--all-times", "--workers", "1", "--dry-run")
    return Case(f"{format} million", words, "")


def _repeated(text: str, format: str, times: int) -> str:
    """The document with the second object of the first image there so many times."""
    if format == "yolo":
        lines = text.splitlines(True)
        return text if "names" in text or len(lines) != 2 or lines[0] != lines[1] else lines[0] * times
    start, end = {
        "voc": ("<object>", "</object>"), "coco": ('{"id": 1, "image_id"', "}"),
        "scalabel": ('{"id": "1"', "}}"), "bdd100k": ('{"id": "1"', "}}"),
    }[format]  # fmt: skip
    first = text.find(start)
    if first < 0:
        return text
    last = text.index(end, first) + len(end)
    piece = text[first:last]
    joint = "" if format == "voc" else ", "
    return text[:last] + (joint + piece) * times + text[last:]


# -- weights, states, settings ---------------------------------------------------------------------------------


def weights(place: Place, chance: random.Random, number: int) -> Case:
    trainer, use = (("train-translator", "translate"), ("train-detector", "predict"))[number % 2]
    place.good(place.input / "images")
    data = (place.runs / trainer / "last.safetensors").read_bytes()
    file = place.root / "bad.safetensors"
    kind = ("flips", "cut", "overwritten", "header", "empty", "metadata")[(number // 2) % 6]
    if kind in damage.BYTES:
        broken = damage.BYTES[kind](data, chance)
    elif kind == "header":
        broken = chance.choice((2**63, 10**9, 0, 7)).to_bytes(8, "little") + data[8:]
    elif kind == "metadata":
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        facts = damage.mutated(json.loads(header["__metadata__"]["nightaug"]), chance)
        header["__metadata__"] = chance.choice(({"nightaug": json.dumps(facts)}, {}, {"nightaug": "["}))
        text = json.dumps(header).encode()
        broken = len(text).to_bytes(8, "little") + text + data[8 + size :]
    else:
        broken = b""
    write(file, broken)
    images = place.input / "images"
    words: dict[str, tuple[str | Path, ...]] = {
        "translate": ("translate", images, "--out", place.out, "--translator", file, "--device", "cpu"),
        "predict": ("predict", file, images, "--out", place.out, "--device", "cpu"),
    }
    return Case("weights", words[use], file.name, (), kind in ("empty", "header"))


def run_files(place: Place, chance: random.Random, number: int) -> Case:
    """A run whose own files are damaged is gone on with."""
    trainer = ("train-translator", "train-detector")[number % 2]
    run = place.run_of(trainer)
    shutil.move(str(run), place.out)
    choices = sorted(path for path in files(place.out) if path.suffix in (".pt", ".json", ".yaml", ".jsonl"))
    victim = choices[(number // 2) % len(choices)]
    victim.write_bytes(damage.BYTES[chance.choice(sorted(damage.BYTES))](victim.read_bytes(), chance))
    words: tuple[str | Path, ...] = (trainer, place.world.data, "--out", place.out, "--cpu", "--resume", "--steps", "9")
    return Case("files of a run", words, "")


def yaml_settings(place: Place, chance: random.Random, number: int) -> Case:
    trainer, values = (("train-translator", TRANSLATOR), ("train-detector", DETECTOR))[number % 2]
    kind = ("flips", "cut", "overwritten", "values", "laughs", "tag", "deep", "list", "binary")[(number // 2) % 9]
    text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in values.items()).encode() + b"\n"
    laughs = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    special = {
        "laughs": f"{laughs}width: *a11\nweights: *a11\n".encode(),
        "tag": b"width: !!python/object/apply:os.mkdir [made-by-yaml]\n",
        "deep": b"width: " + b"[" * 20_000, "list": b"- 1\n- 2\n", "binary": bytes(range(256)),
    }  # fmt: skip
    if kind in damage.BYTES:
        data = damage.BYTES[kind](text, chance)
    elif kind == "values":
        data = encoded(damage.mutated(values, chance))
    else:
        data = special[kind]
    settings = place.root / "bad.yaml"
    write(settings, data)
    words: tuple[str | Path, ...] = (trainer, place.world.data, "--out", place.out, "--config", settings, "--cpu")
    if trainer == "train-detector":
        words += ("--data", "dataset:train:A")
    return Case("settings", (*words, "--dry-run"), "", (), kind in special)


def manifest(place: Place, chance: random.Random, number: int) -> Case:
    """A translated folder whose own files are damaged is gone on with, or curated."""
    place.good(place.input / "images")
    shutil.copytree(place.runs / "translated", place.out)
    choices = ("manifest.jsonl", "translation.json")
    victim = place.out / choices[number % 2]
    how = number // 2 % 4
    data = victim.read_bytes()
    if how < 3:
        data = damage.BYTES[sorted(damage.BYTES)[how]](data, chance)
    else:
        lines = data.decode().splitlines() if number % 2 == 0 else [data.decode()]
        at = chance.randrange(len(lines))
        lines[at] = json.dumps(damage.mutated(json.loads(lines[at]), chance))
        data = "\n".join(lines).encode() + b"\n"
    victim.write_bytes(data)
    words: tuple[str | Path, ...] = ("translate", place.runs / "pictures", "--out", place.out, "--workers", "1")
    if number // 8 % 2:
        words = ("curate", place.out, "--source", place.runs / "pictures", "--workers", "1")
    return Case("translated folder", words, "")


# -- trees -----------------------------------------------------------------------------------------------------


def trees(place: Place, chance: random.Random, number: int) -> Case:
    """Links in circles and outwards, pipes, folders with files' names, names that are no text."""
    place.good()
    kind = ("loop", "self", "outside", "pipe", "folder", "bytes", "device", "gone", "closed", "deep")[number % 10]
    bad = place.input / f"bad-{kind}.jpg"
    if kind == "loop":
        os.symlink(place.input, place.input / "round")
    elif kind == "self":
        os.symlink(bad, bad)
    elif kind == "outside":
        os.symlink(place.beside, place.input / "out")
    elif kind == "pipe":
        os.mkfifo(bad)
    elif kind == "folder":
        bad.mkdir()
    elif kind == "bytes":
        write(Path(os.fsdecode(os.fsencode(place.input) + b"/bad-\xff\xfe.jpg")), picture(1, "jpg"))
    elif kind == "device":
        os.symlink("/dev/zero", bad)
    elif kind == "gone":
        os.symlink(place.root / "nothing.jpg", bad)
    elif kind == "closed":
        write(bad, picture(1, "jpg"))
        bad.chmod(0)
    else:
        write(place.input.joinpath(*["d" * 60] * 12) / "deep.jpg", picture(1, "jpg"))
    if number // 10 % 2:
        for side in "ab":
            shutil.copytree(place.input, place.root / side, symlinks=True) if kind != "pipe" else place.good(
                place.root / side
            )
        words: tuple[str | Path, ...] = (
            "prepare", "--a", place.root / "a", "--b", place.root / "b", "--out", place.out, "--split", "1:0:0",
        )  # fmt: skip
        return Case("folders", words, "", ("train/A/good0.jpg",))
    return Case("folders", ("translate", place.input, "--out", place.out), "", _GOOD)


def labels_that_hang(place: Place, chance: random.Random, number: int) -> Case:
    """A pipe or an endless device where a label file, a weight file or a settings file should be."""
    place.good(place.input / "images")
    pipe = place.root / ("x.json", "x.safetensors", "x.pth", "x.yaml")[number % 4]
    os.mkfifo(pipe) if number // 4 % 2 == 0 else os.symlink("/dev/zero", pipe)
    words: dict[str, tuple[str | Path, ...]] = {
        ".json": ("translate", place.input / "images", "--labels", pipe, "--out", place.out),
        ".safetensors": ("translate", place.input / "images", "--translator", pipe, "--out", place.out),
        ".pth": ("translate", place.input / "images", "--translator", pipe, "--out", place.out),
        ".yaml": ("train-translator", place.world.data, "--out", place.out, "--config", pipe, "--cpu", "--dry-run"),
    }
    return Case("pipes and devices", words[pipe.suffix], pipe.name, (), True)


#: How many of a hundred cases each maker gets.
MAKERS: tuple[tuple[Maker, int], ...] = (
    (image_translated, 14), (image_prepared, 10), (image_detected, 4), (image_trained_on, 2), (label_bytes, 12),
    (label_boxes, 9), (label_names, 9), (label_twice, 4), (label_encoding, 6), (label_values, 10),
    (weights, 5), (run_files, 3), (yaml_settings, 4), (manifest, 3), (trees, 4), (labels_that_hang, 1),
)  # fmt: skip


#: Those that need no networks.
QUICK = (image_translated, image_prepared, label_bytes, label_boxes, label_names, label_twice, label_encoding, trees)


def make_runs(world: World, runs: Path, scratch: Path) -> None:
    """What the cases start from: a run of each trainer and a translated folder."""
    for name in ("train-translator", "train-detector"):
        job = world.jobs()[name]
        outcome = run(job.call, scratch, limit=300)
        assert outcome.code == 0, outcome.text
        shutil.copytree(job.out, runs / name)
        shutil.rmtree(job.out)
    for number, name in enumerate(_GOOD):
        write(runs / "pictures" / name, picture(number, _IMAGE_FORMATS[number]))
    outcome = run(command("translate", runs / "pictures", "--out", runs / "translated"), scratch)
    assert outcome.code == 0, outcome.text


def campaign(
    world: World, runs: Path, root: Path, points: int, seed: int, makers: Sequence[tuple[Maker, int]] = MAKERS
) -> list[KindReport]:
    """So many damaged inputs, spread over the kinds; each in folders of its own."""
    reports: dict[tuple[str, str], KindReport] = {}
    parts = sum(share for _, share in makers)
    jobs = [(maker, number) for maker, share in makers for number in range(max(1, round(points * share / parts)))]
    jobs += [(million_objects, number) for number in range(len(FORMATS) if points >= 100 else 0)]
    for maker, number in jobs:
        name = f"{maker.__name__}-{number}"
        place = Place(root / name, world, runs)
        case = maker(place, random.Random(f"{seed} {name}"), number)
        before = place.snapshot()
        outcome = run(_at(place, command(*case.words)), place.root / "said", limit=PATIENCE)
        key = (case.kind, str(case.words[0]))
        report = reports.setdefault(key, KindReport(*key))
        _count(report, case, outcome)
        report.wrong += [f"{name} (seed {seed}): {wrong}" for wrong in broken_promises(case, place, outcome, before)]
        if not report.wrong:
            shutil.rmtree(place.root, ignore_errors=True)
    return list(reports.values())


def _at(place: Place, call: Callable[[], int]) -> Callable[[], int]:
    def moved() -> int:
        os.environ["TMPDIR"] = str(place.root / "tmp")
        os.chdir(place.beside)
        return call()

    return moved


def _count(report: KindReport, case: Case, outcome: Outcome) -> None:
    report.cases += 1
    report.slowest = max(report.slowest, outcome.busy)
    report.refused += outcome.code == 2
    report.in_part += outcome.code == 1
    report.whole += outcome.code == 0


def broken_promises(
    case: Case, place: Place, outcome: Outcome, before: dict[str, tuple[int, int, int]]
) -> Iterator[str]:
    """What a user would complain of, in words."""
    text = outcome.text
    tail = " | ".join(text.strip().splitlines()[-3:])[-300:]
    if outcome.late:
        yield f"still at it after {PATIENCE:.0f} s"
        return
    if outcome.busy > LIMIT:
        yield f"took {outcome.busy:.0f} s of processor time"
    if outcome.traceback or outcome.code not in (0, 1, 2):
        yield f"exit code {outcome.code}: {tail}"
    after = place.snapshot()
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    if changed:
        yield f"changed outside --out: {', '.join(changed[:3])}"
    errors = [line for line in text.splitlines() if line.startswith("error:")]
    if outcome.code == 2 and len(errors) != 1:
        yield f"{len(errors)} lines of error: {tail}"
    if outcome.code == 0 and case.must_refuse and case.bad not in text:
        yield f"finished without a word of {case.bad}"
    if outcome.code in (1, 2) and case.bad and case.bad not in text and not _recorded(place.out, case.bad):
        yield f"does not name {case.bad}: {tail}"
    if outcome.code in (0, 1):
        missing = [name for name in case.finished if not (place.out / name).exists()]
        if missing:
            yield f"not finished: {', '.join(missing)}: {tail}"
        if place.out.is_dir():
            yield from (f"torn: {each}" for each in torn(place.out) if case.kind not in _OURS_DAMAGED)


def _recorded(out: Path, name: str) -> bool:
    """Whether a result says why something was left out."""
    return any(
        name in (out / file).read_text("utf-8", "replace")
        for file in ("problems.jsonl", "translation.json", "log.txt", "counts.json")
        if (out / file).is_file()
    )
