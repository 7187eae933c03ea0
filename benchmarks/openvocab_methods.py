"""What ViLD, LP-OVOD and VLDUS know of classes without boxes, against chance and against full supervision: one table.

python benchmarks/openvocab_methods.py --data DIR --out OUT --clip MODEL:TAG [--unseen "bus,truck,traffic sign"]
    [--preset openvocab-sample-world|openvocab-bdd100k] [--steps N] [--proposal-steps N] [--night FOLDER]
    [--until STEP] [--plan]

DIR is a folder of ``nightaug prepare``; its labels of the unseen classes are never trained on, but by the row
``supervised``. Every step is a nightaug command that goes on where it was stopped: stop it whenever you like.

1. Class-agnostic proposals from the seen classes' boxes, and CLIP's embedding of those of all training images.
2. ViLD; LP-OVOD and its probe; VLDUS: the seen classes' detector and its synthesizer. With ``--night`` (day images
   made night, by ``nightaug translate``) all of them train on those, too, and VLDUS also with the domain as condition.
   With ``--warm-start`` all of them go on from the proposals' weights, as others from pretrained ones. ``crops`` is
   nothing trained: CLIP looks at every proposal of a test image.
3. ``supervised``: the detector of VLDUS with the boxes of all classes.
4. What each finds on test images, by day and by night: unseen alone (ZSD), together (GZSD), harmonic mean, chance.

Writes OUT/openvocab.json and OUT/openvocab.md, also of what there is when a step fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from chain import Step, fact, settings, shown_options, training, work

from nightaug.images import atomic_write_text

METHODS = ("vild", "lp-ovod", "vldus")
#: Rows in the order of the table.
ROWS = ("crops", "vild", "probe", "synthesize", "synthesize-domains", "supervised")
#: Methods that are shown beside chance.
CHANCE = ("crops", "vild", "probe", "synthesize")
#: Test images: a prepared dataset's domains.
DOMAINS = {"A": "day", "B": "night"}


def plan(arguments: argparse.Namespace) -> list[Step]:
    """All steps, in their order."""
    data, runs, embeddings = arguments.data, arguments.out / "runs", arguments.out / "embeddings"
    cpu, device = (["--cpu"], ["--device", "cpu"]) if arguments.cpu else ([], [])
    preset, unseen = ["--preset", arguments.preset], ["--unseen", arguments.unseen]
    sources = [*words("--data", arguments), *cpu]

    def train(name: str, method: str, steps: int, own: list[str]) -> Step:
        command = ["openvocab", "train", str(data), "--method", method, *preset, *sources, "--steps", str(steps)]
        return training(name, runs / name, [*command, *settings(arguments.set), *own])

    held = [*unseen, *(["--drop-unseen-images"] if arguments.drop_unseen_images else [])]
    steps = [train("proposals", "proposals", arguments.proposal_steps, held)]
    command = ["openvocab", "embed", str(data), "--proposals", str(runs / "proposals"), "--clip", arguments.clip]
    command += [*words("--data", arguments), "--most", str(arguments.most), "--out", str(embeddings), *device]
    steps.append(Step("embed", command, lambda: fact(embeddings / "store.json", "finished") is True))
    warm = ["--set", f"weights={runs / 'proposals'}"] if arguments.warm_start else []
    for method in METHODS:
        own = [] if method == "vldus" else ["--embeddings", str(embeddings)]
        own += settings(arguments.vild_set) if method == "vild" else []
        steps.append(train(method, method, arguments.steps, [*own, *held, *warm]))
    common = ["--embeddings", str(embeddings), *unseen, *preset, *device]
    command = ["openvocab", "probe", str(runs / "lp-ovod"), *common]
    steps.append(training("probe", runs / "probe", command, counted=False))
    for name, own in synthesizers(arguments).items():
        command = ["openvocab", "synthesize", str(runs / "vldus"), str(data), *words("--data", arguments), *common]
        steps.append(training(name, runs / name, [*command, *own], counted=False))
    steps.append(train("supervised", "vldus", arguments.steps, warm))
    for name in judged(arguments):
        run, own = (runs / "proposals", ["--clip", arguments.clip]) if name == "crops" else (runs / name, [])
        for domain, light in DOMAINS.items():
            file = arguments.out / f"{name}-{light}.json"
            command = ["openvocab", "evaluate", str(run), str(data), *unseen, "--out", str(file), *own, *device]
            steps.append(Step(f"evaluate {name} {light}", [*command, "--domain", domain], file.exists))
    return steps


def words(option: str, arguments: argparse.Namespace) -> list[str]:
    """Which images are trained on: day, and where there is one, its translation to night."""
    parts = ["dataset:train:A", *([f"{arguments.night}:train"] if arguments.night else [])]
    return [word for part in parts for word in (option, part)]


def synthesizers(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Names of the synthesizers' runs, and the settings of each."""
    return {"synthesize": [], **({"synthesize-domains": ["--set", "domains=true"]} if arguments.night else {})}


def judged(arguments: argparse.Namespace) -> list[str]:
    """Runs of the table."""
    return [name for name in ROWS if name != "synthesize-domains" or name in synthesizers(arguments)]


def report(out: Path, options: dict[str, Any]) -> str:
    """The tables, in percent; written as JSON, too."""
    found: dict[str, dict[str, Any]] = {}
    for light in DOMAINS.values():
        for name in ROWS:
            file, keys = out / f"{name}-{light}.json", ("images", "ZSD", "GZSD", "chance", "per_class")
            if file.exists():
                found.setdefault(light, {})[name] = {key: fact(file, key) for key in keys}
    store = {key: fact(out / "embeddings" / "store.json", key) for key in ("boxes", "images", "bytes", "measured")}
    content = {"options": options | {"data": "$DATA"}, "embeddings": store, "rows": found}
    atomic_write_text(out / "openvocab.json", json.dumps(content, indent=1) + "\n")
    lines = [f"openvocab_methods.py --data $DATA {shown_options(options)}"]
    for light, rows in found.items():
        lines += ["", f"| {light}: AP50 / recall@100 | ZSD | seen | unseen | harmonic mean |", "|---|---|---|---|---|"]
        for name, row in rows.items():
            lines.append(table_row(name, row))
            if name in CHANCE:
                lines.append(table_row(f"{name}, its boxes' names dealt anew", row["chance"]))
    text = "\n".join(lines) + "\n"
    atomic_write_text(out / "openvocab.md", text)
    return text


def table_row(name: str, row: dict[str, Any]) -> str:
    """A line of the table: unseen classes alone, then all together."""
    sides = [row["ZSD"], *(row["GZSD"][side] for side in ("seen", "unseen", "HM"))]
    return f"| {name} | {' | '.join(cell(side) for side in sides)} |"


def cell(side: dict[str, Any] | None) -> str:
    """AP50 and recall, in percent."""
    if not side or side.get("AP50") is None:
        return "-"
    recall = side.get("recall_100")
    return f"{100 * side['AP50']:.1f}" + (f" / {100 * recall:.1f}" if recall is not None else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", required=True, help="CLIP that embeds the proposals and reads the names")
    parser.add_argument("--unseen", default="bus,truck,traffic sign", help="classes without boxes")
    parser.add_argument("--drop-unseen-images", action="store_true", help="as zero-shot detection is measured")
    parser.add_argument("--preset", default="openvocab-sample-world")
    parser.add_argument("--warm-start", action="store_true", help="detectors begin with the proposals' weights")
    parser.add_argument("--steps", type=int, default=800, help="of every detector")
    parser.add_argument("--proposal-steps", type=int, default=800)
    parser.add_argument("--most", type=int, default=100, help="proposals an image that are embedded")
    parser.add_argument("--night", help="translated folder to train on, beside the day")
    parser.add_argument("--set", action="append", default=[], help="a setting of all detectors, KEY=VALUE")
    parser.add_argument("--vild-set", action="append", default=[], help="a setting of ViLD alone, KEY=VALUE")
    return work(parser, plan, report)


if __name__ == "__main__":
    sys.exit(main())
