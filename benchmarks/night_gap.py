"""How much of the night gap faithful translation recovers: one command, one table (METHODS 6 and 7).

python benchmarks/night_gap.py --data DIR --out OUT [--preset sample-world|bdd100k-small] [--steps 800 --day-steps 1200]
    [--translator-steps 1800] [--seeds 3] [--night-boxes real|pseudo] [--clip MODEL:TAG] [--until STEP] [--plan]

DIR is a folder of ``nightaug prepare`` with labelled night test images. Every step is a nightaug command that goes on
where it was stopped, and finished ones are stepped over: stop it whenever you like and run it again.

1. A plain CycleGAN, a label-aware one, and one that refines relit days, equal in steps. ``--night-boxes pseudo`` gives
   the second one what a detector that has seen no night label finds at night; the third looks at no night box.
2. The curator, a detector trained on day and relit day (no night label), and the judge, of another architecture and
   seed, trained on day and real night, which takes no part in what it judges.
   Relight's constants are fitted to the night images, with the same night boxes as the label-aware one's.
3. Translated folders of all, and a copy of the label-aware one's that the curator has mended.
4. What the judge says of each: objects kept and moved, invented objects an image, whether it became night.
5. The comparison: day, night, day+night, relight, fitted relight, plain, label-aware, curated, refined, curated with
   the night head, five kinds of night mixed, relight mixed with label-aware and with fitted relight, and self-training
   on top of these two mixtures.

Writes OUT/night_gap.json and OUT/night_gap.md, also of what there is when a step fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chain import Step, fact, settings, shown_options, training, work

from nightaug.images import atomic_write_text

#: Seeds of the detectors that are no arms, far from theirs.
CURATOR_SEED, JUDGE_SEED = 1_001, 1_002
TRANSLATED = ("relight", "fitted", "cyclegan", "label-aware", "curated", "refined")
#: relight's and fitted images with contrast, and with light that varies over the frame: worse pictures, another lesson.
UNEVEN = tuple(
    f"{name}=[{low},{high}]" for name, low, high in (
        ("roof_fade", 0, 2), ("side_fade", 0, 1), ("detail", 0.3, 1), ("shading_removed", 0.3, 1), ("dapple", 0.1, 0.7),
    )
)  # fmt: skip
#: Kinds of night that differ teach more together than the best of them alone.
MIXED = ("uneven", "uneven-fitted", "label-aware", "refined", "fitted")
#: The arm with the night head beside the best images.
ADAPTED = "day+translated+adapt:curated"
#: Two translators whose faults differ, with the night images that an arm of both has labelled; brings that arm with it.
#: Fitted nights are so near to real ones that day images beside them cost more than they give.
SELF_TRAINED = ("day+translated+self:relight+label-aware", "translated+self:relight+fitted")
#: What makes a CycleGAN label-aware: published weights, and a cycle that counts twice inside boxes.
FAITHFUL = (
    "weights.segmentation=1", "weights.hallucination_outside=0.2", "weights.suppression=1", "inside=2",
)  # fmt: skip


def plan(arguments: argparse.Namespace) -> list[Step]:
    """All steps, in their order."""
    data, out = arguments.data, arguments.out
    runs, folders, pseudo = out / "runs", out / "translated", out / "pseudo"
    cpu, device = (["--cpu"], ["--device", "cpu"]) if arguments.cpu else ([], [])
    preset = ["--preset", arguments.preset]

    def translator(name: str, own: Sequence[str]) -> Step:
        words = ["--steps", str(arguments.translator_steps), *cpu]
        words += [*settings(arguments.translator_set), *own]
        return training(name, runs / name, ["train-translator", str(data), *preset, *words])

    def detector(name: str, seed: int, own: Sequence[str]) -> Step:
        words = ["--steps", str(arguments.day_steps + arguments.steps), *cpu, *settings(arguments.set)]
        if name == "judge":
            words += settings(arguments.judge_set)
        return training(
            name, runs / name, ["train-detector", str(data), *preset, *words, "--set", f"seed={seed}", *own]
        )

    def translation(name: str, source: Path | str, own: Sequence[str] = ()) -> Step:
        folder = folders / name
        command = ["translate", str(data), "--translator", str(source), "--out", str(folder), *device, *settings(own)]
        return Step(f"translate {name}", command, lambda: fact(folder / "translation.json", "finished") is True)

    real = arguments.night_boxes == "real"
    aware = settings([f"faithful.{text}" for text in (*FAITHFUL, f"night_boxes={'real' if real else pseudo}")])
    steps = [translator("cyclegan", ()), translation("relight", "relight")]
    steps.append(
        detector("curator", CURATOR_SEED, ["--data", "dataset:train:A", "--data", f"{folders / 'relight'}:train"])
    )
    if not real:
        command = ["predict", str(runs / "curator"), str(data / "train" / "B"), "--out", str(pseudo), *device]
        steps.append(Step("predict night", command, lambda: fact(pseudo / "predict.json", "finished") is True))
    fitted = out / "fitted.yaml"
    command = ["fit-relight", str(data), "--out", str(fitted), "--night-boxes", "real" if real else str(pseudo)]
    steps += [Step("fit relight", command, fitted.exists), translation("fitted", fitted)]
    steps += [translation("uneven", "relight", UNEVEN), translation("uneven-fitted", fitted, UNEVEN)]
    # The last weights: "best" is chosen by a score that the label-aware losses change, at another step for each.
    plain, own = (runs / name / "last.safetensors" for name in ("cyclegan", "label-aware"))
    steps += [translator("label-aware", aware), translation("cyclegan", plain)]
    steps.append(translator("refined", settings([f"day={folders / 'relight'}", "faithful.inside=2"])))
    steps += [translation("label-aware", own), translation("curated", own)]
    steps.append(translation("refined", runs / "refined" / "last.safetensors"))
    command = ["curate", str(folders / "curated"), "--judge", str(runs / "curator"), "--source", str(data)]
    mended = folders / "curated" / "curated" / "curation.json"
    steps.append(Step("curate", [*command, "--real", str(data), "--mode", "mend", *device], mended.exists))
    sources = ["--data", "dataset:train:A", "--data", "dataset:train:B", "--detector", arguments.judge]
    steps.append(detector("judge", JUDGE_SEED, sources))
    for name in TRANSLATED:
        file = out / "scores" / f"{name}.json"
        command = ["score-translation", str(data), str(folders / name), "--judge", str(runs / "judge")]
        command += ["--real", str(data), "--out", str(file), *device]
        steps.append(Step(f"score {name}", command, file.exists))
    steps.append(Step("compare", comparison(arguments, folders), lambda: compared(out)))
    return steps


def comparison(arguments: argparse.Namespace, folders: Path) -> list[str]:
    """The command of the last step."""
    arms = ["day", "night", "day+night", *(f"day+translated:{name}" for name in TRANSLATED)]
    arms += [f"translated:{'+'.join(MIXED)}", ADAPTED, *SELF_TRAINED]
    command = ["compare", str(arguments.data), "--out", str(arguments.out / "compare"), "--preset", arguments.preset]
    command += ["--arms", ",".join(arms), "--steps", str(arguments.steps), "--day-steps", str(arguments.day_steps)]
    command += ["--seeds", str(arguments.seeds), "--clip", arguments.clip]
    for name in dict.fromkeys((*TRANSLATED, *MIXED)):
        command += ["--translator", f"{name}={folders / name}"]
    command += ["--teacher-steps", str(arguments.teacher_steps)] if arguments.teacher_steps else []
    for item in arguments.teacher_set:
        command += ["--teacher-set", item]
    return [*command, *settings(arguments.set), *(["--cpu"] if arguments.cpu else [])]


def compared(out: Path) -> bool:
    """Whether the comparison's table holds every seed of every arm."""
    notes = fact(out / "compare" / "table.json", "notes")
    return notes is not None and not any("not finished yet" in note for note in notes)


def report(out: Path, options: dict[str, Any]) -> str:
    """The table of arms with what the judge says of their images; written as JSON, too."""
    rows = []
    for arm in fact(out / "compare" / "table.json", "arms") or []:
        recovered = (arm.get("recovered") or {}).get("day+night") or {}
        classes = {name: of["change"] for name, of in arm["per_class"].items() if of["measured"] and arm["over_day"]}
        worst = min(classes, key=lambda name: classes[name], default=None)
        rows.append(
            {
                "arm": arm["name"], "AP": arm["AP"], "AP50": arm["AP50"], "over_day": arm.get("over_day"),
                "recovered": recovered, "images_dropped": arm["images_dropped"], "night_boxes": arm["night_boxes"],
                "worst_class": worst, "worst_change": classes.get(worst) if worst else None,
                "traffic_light_change": classes.get("traffic light"),
            }
        )  # fmt: skip
    judged = {name: fact(out / "scores" / f"{name}.json", "summary") for name in TRANSLATED}
    measured = {name: told(summary) for name, summary in judged.items() if summary}
    facts = {key: fact(out / "compare" / "table.json", key) for key in ("commit", "machine", "date", "wall_s", "test")}
    content = {"options": options | {"data": "$DATA"}, **facts, "arms": rows, "translations": measured}
    atomic_write_text(out / "night_gap.json", json.dumps(content, indent=1) + "\n")
    lines = [f"night_gap.py --data $DATA {shown_options(options)}; commit {facts['commit']}, {facts['machine']}", ""]
    lines += ["| arm | AP | AP50 | night gap recovered | images dropped | worst class | traffic light |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in rows:
        gap = row["recovered"]
        known = gap.get("value") is not None
        share = (
            "{:.0f} % [{:.0f}, {:.0f}]".format(*(100 * gap[key] for key in ("value", "low", "high"))) if known else "-"
        )
        worst = "-" if row["worst_class"] is None else f"{row['worst_class']} {100 * row['worst_change']:+.1f}"
        light = row["traffic_light_change"]
        name = row["arm"] + (" [night boxes]" if row["night_boxes"] else "")
        cells = (name, points(row["AP"]), points(row["AP50"]), share, str(row["images_dropped"]), worst)
        lines.append(f"| {' | '.join(cells)} | {'-' if light is None else f'{100 * light:+.1f}'} |")
    lines += [
        "",
        "The judge took no part in translating, curating or training. Means with 95 % intervals over images.",
        "",
    ]
    lines += [
        "| translation | kept | moved | invented objects an image | in a dim day | invented lamps | became night "
        "| on real night |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for name, cell in measured.items():
        lines.append(f"| {name} | " + " | ".join(interval(one) for one in cell.values()) + " |")
    text = "\n".join(lines) + "\n"
    atomic_write_text(out / "night_gap.md", text)
    return text


def told(summary: dict[str, Any]) -> dict[str, Any]:
    """The numbers of the table, of a score file's summary."""
    objects, invented = summary["objects"], summary["invented"]
    return {
        "kept": objects["kept"]["all"], "moved": objects["moved"]["all"],
        "invented": (invented.get("objects") or {}).get("all"),
        "doubted": (invented.get("doubted") or {}).get("all"), "lamps": invented["lamps"],
        "night": (summary.get("night") or {}).get("probability"),
        "false_on_real_night": (summary.get("real") or {}).get("false_detections"),
    }  # fmt: skip


def interval(cell: dict[str, Any] | None) -> str:
    """A mean and its 95 % interval."""
    if not cell or cell.get("value") is None:
        return "-"
    return f"{cell['value']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]"


def points(cell: dict[str, Any] | None) -> str:
    """A mean AP and its spread over seeds, in points."""
    if not cell:
        return "-"
    return f"{100 * cell['mean']:.1f}" + (f" ± {100 * cell['spread']:.1f}" if cell.get("spread") is not None else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="sample-world")
    parser.add_argument("--steps", type=int, default=800, help="of every arm")
    parser.add_argument("--day-steps", type=int, default=1200, help="of the day checkpoint")
    parser.add_argument("--teacher-steps", type=int, help="of arms that label images for others; as --steps otherwise")
    parser.add_argument("--translator-steps", type=int, default=1800)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--night-boxes", choices=("real", "pseudo"), default="real")
    parser.add_argument("--judge", default="yolo11n", help="architecture of the judge, another than the arms'")
    parser.add_argument("--clip", default="none", help="of the night head")
    parser.add_argument("--set", action="append", default=[], help="a setting of all detectors, KEY=VALUE")
    parser.add_argument("--teacher-set", action="append", default=[], help="of arms that label images, KEY=VALUE")
    parser.add_argument("--judge-set", action="append", default=[], help="a setting of the judge, after those")
    parser.add_argument("--translator-set", action="append", default=[], help="of both CycleGANs, KEY=VALUE")
    return work(parser, plan, report)


if __name__ == "__main__":
    sys.exit(main())
