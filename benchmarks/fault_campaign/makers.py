"""The cases of the damaged inputs: each maker damages something in a place and says which command is given it."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fault_campaign import damage
from fault_campaign.damage import FORMATS, GOOD_BOXES, NAMES, Row, documents, encoded
from fault_campaign.inputs import GOOD, IMAGE_FORMATS, Case, Maker, Place, picture, write
from fault_campaign.jobs import DETECTOR, TRANSLATOR
from fault_campaign.whole import files

# -- images ----------------------------------------------------------------------------------------------------


def _damaged_image(place: Place, chance: random.Random, number: int) -> tuple[str, bytes, bool]:
    """Name, bytes, and whether nobody could read them."""
    format = IMAGE_FORMATS[number % 3]
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
    return Case("image", ("translate", place.input, "--out", place.out), name, GOOD, hopeless)


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
    return [Row(name, GOOD_BOXES) for name in GOOD]


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
    finished = tuple(f"images/{name}" for name in GOOD) if words[0] == "translate" else ()
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
    rows = [Row(GOOD[0], [*GOOD_BOXES, *odd]), *_rows()[1:]]
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
    rows = [Row(GOOD[0], [("car", 4, 5, 30, 25)]), *_rows()[1:]]
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
    rows = [Row(GOOD[0], [("car", 4, 5, 30, 25)] * 2), *_rows()[1:]]
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
    return Case("folders", ("translate", place.input, "--out", place.out), "", GOOD)


def labels_that_hang(place: Place, chance: random.Random, number: int) -> Case:
    """A pipe or an endless device where a label file, a weight file or a settings file should be."""
    place.good(place.input / "images")
    endings = (".json", ".safetensors", ".pth", ".yaml", ".xml", ".onnx")
    pipe = place.root / f"x{endings[number % len(endings)]}"
    os.mkfifo(pipe) if number // len(endings) % 2 == 0 else os.symlink("/dev/zero", pipe)
    translate: tuple[str | Path, ...] = ("translate", place.input / "images", "--out", place.out)
    words: dict[str, tuple[str | Path, ...]] = {
        ".json": (*translate, "--labels", pipe),
        ".yaml": ("train-translator", place.world.data, "--out", place.out, "--config", pipe, "--cpu", "--dry-run"),
    }
    return Case("pipes and devices", words.get(pipe.suffix, (*translate, "--translator", pipe)), pipe.name, (), True)


#: How many of a hundred cases each maker gets.
MAKERS: tuple[tuple[Maker, int], ...] = (
    (image_translated, 14), (image_prepared, 10), (image_detected, 4), (image_trained_on, 2), (label_bytes, 11),
    (label_boxes, 9), (label_names, 9), (label_twice, 4), (label_encoding, 6), (label_values, 9),
    (weights, 5), (run_files, 3), (yaml_settings, 4), (manifest, 3), (trees, 4), (labels_that_hang, 3),
)  # fmt: skip


#: Those that need no networks.
QUICK = (image_translated, image_prepared, label_bytes, label_boxes, label_names, label_twice, label_encoding, trees)


def jobs(points: int, quick: bool = False) -> list[tuple[Maker, int]]:
    """So many makers, each with the number of its case, spread over the kinds; ``quick``: no networks."""
    makers = [(maker, share) for maker, share in MAKERS if not quick or maker in QUICK]
    parts = sum(share for _, share in makers)
    spread = [(maker, number) for maker, share in makers for number in range(max(1, round(points * share / parts)))]
    return spread + [(million_objects, number) for number in range(len(FORMATS) if points >= 100 else 0)]
