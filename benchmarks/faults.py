"""The fault campaign: what killed processes, full disks and damaged inputs do to nightaug (docs/reliability.md).

    python benchmarks/faults.py --seed 0 --out faults.json

Each finding names the case and the seed that makes it again. Exit code 1 if any promise was broken. Needs ``os.fork``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# Before torch: forked processes compute with one thread each, and nothing asks the network.
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
os.environ["CUDA_VISIBLE_DEVICES"] = ""

from fault_campaign import inputs, kills, limits, makers
from fault_campaign.jobs import World
from fault_campaign.trial import run

SECTIONS = ("kills", "limits", "inputs", "fuzz")
#: How the kills are shared among the commands, in a hundred: what is dear is killed less often.
SHARES = {
    "prepare": 20, "translate": 20, "train-translator": 16, "train-detector": 16, "region cache": 10,
    "pseudo-label": 8, "compare": 10,
}  # fmt: skip
#: Sizes of a small disk in bytes: nearly nothing, part of the work, nearly all of it.
SIZES = (20_000, 80_000, 400_000)

Row = dict[str, Any]


def import_everything(quick: bool) -> None:
    """What the commands import, once: a fork then starts in milliseconds."""
    import nightaug.data.domains
    import nightaug.translate.job

    if quick:
        return
    import albumentations
    import faster_coco_eval
    import torch

    import nightaug.clip.fill
    import nightaug.clip.tiny
    import nightaug.curate.job
    import nightaug.cyclegan.recipe
    import nightaug.detect.evaluate_job
    import nightaug.detect.predict
    import nightaug.detect.pseudo_labels
    import nightaug.detect.recipe
    import nightaug.experiment.compare  # noqa: F401

    torch.set_num_threads(1)  # threads do not survive a fork
    assert albumentations
    assert faster_coco_eval


def campaign(options: argparse.Namespace, root: Path, say: Callable[[str], None]) -> dict[str, list[Row]]:
    """Every section that is asked for; rows of the table by section."""
    world, scratch = World(root / "world", options.seed), root / "said"
    world.root.mkdir()
    world.make()
    wanted = [name for name in SECTIONS if not options.only or name in options.only]
    chosen = {name: job for name, job in world.jobs().items() if not options.command or name in options.command}
    for name, write in (("region cache", world.write_clip), ("pseudo-label", world.write_teacher)):
        if name in chosen:
            made = run(lambda write=write: write() or 0, scratch)  # type: ignore[misc]
            assert made.code == 0, made.text
    found: dict[str, list[Row]] = {name: [] for name in wanted}

    def add(section: str, row: Row) -> None:
        found[section].append(row)
        say(f"{section}: {shown(row)}")

    if "kills" in wanted:
        for name, job in chosen.items():
            share = SHARES[name] / sum(SHARES[each] for each in chosen)
            points = max(1, round(options.points * share))
            add("kills", kills.campaign(job, points, options.seed, scratch).row())
    if "limits" in wanted:
        for job in chosen.values():
            for make in (limits.full_disk, limits.read_only, limits.two_at_once):
                add("limits", make(job, options.limits, options.seed, scratch).row())
            small = limits.small_disk(job, SIZES, scratch)
            if small is not None:
                add("limits", small.row())
            else:
                say("limits: no tmpfs without root, disks are filled by a hook alone")
    if "inputs" in wanted:
        for report in damaged(options, world, root, scratch):
            add("inputs", report.row())
    if "fuzz" in wanted:
        add("fuzz", fuzzed(options.fuzz))
    return found


def damaged(options: argparse.Namespace, world: World, root: Path, scratch: Path) -> list[inputs.KindReport]:
    """The damaged inputs; in a quick run only those that need no networks."""
    if not options.quick:
        inputs.make_runs(world, root / "runs", scratch)
    jobs = makers.jobs(options.inputs, options.quick)
    return inputs.campaign(world, root / "runs", root / "cases", jobs, options.seed)


def fuzzed(examples: int) -> Row:
    """The fuzz tests with so many examples each, other ones at every call."""
    tests = Path(__file__).parent.parent / "tests"
    files = [str(tests / "data" / "test_fuzz_formats.py"), str(tests / "test_fuzz_files.py")]
    command = [sys.executable, "-m", "pytest", "-q", *files]
    environment = {**os.environ, "NIGHTAUG_FUZZ": str(examples)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    said = (lines or done.stderr.strip().splitlines() or ["no output"])[-1]
    wrong = []
    if done.returncode:  # an error while collecting, too, or no tests at all
        wrong = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        wrong = wrong or [f"exit code {done.returncode}: {said}"]
    return {"kind": "readers", "command": "pytest", "examples": examples, "said": said, "good": not wrong,
            "wrong": wrong}  # fmt: skip


def complaints(row: Row) -> list[str]:
    """What was wrong in one row, in words."""
    return [text for key in ("torn", "lost", "unequal", "failed", "wrong") for text in row.get(key, [])]


def shown(row: Row) -> str:
    """A row in one line for people."""
    numbers = ", ".join(f"{key} {value}" for key, value in row.items() if not isinstance(value, list | bool))
    return f"{'good' if row['good'] else 'BAD '} {numbers}" + "".join(f"\n    {text}" for text in complaints(row))


def markdown(found: dict[str, list[Row]], facts: Row) -> str:
    """The table of ``docs/reliability.md``."""
    lines = [f"Seed {facts['seed']}, {facts['seconds']:.0f} s on {facts['machine']}.", ""]
    for section, rows in found.items():
        if not rows:
            continue
        keys = [key for key, value in rows[0].items() if not isinstance(value, list | bool)]
        lines += [f"**{section}**", "", f"| {' | '.join(keys)} | broken promises |", "|---" * (len(keys) + 1) + "|"]
        for row in rows:
            lines.append(f"| {' | '.join(str(row.get(key, '')) for key in keys)} | {len(complaints(row))} |")
        lines += ["", total(rows), ""]
    return "\n".join(lines)


def total(rows: Iterable[Row]) -> str:
    """The sum of a section in one line."""
    rows = list(rows)
    count = sum(int(row.get("points", row.get("cases", row.get("examples", 0)))) for row in rows)
    return f"In all {count:,}, broken promises: {sum(len(complaints(row)) for row in rows)}."


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="the same one strikes at the same places")
    parser.add_argument("--out", type=Path, default=Path("faults.json"), help="results; a .md lies beside it")
    parser.add_argument("--points", type=int, default=200, help="kills over all commands")
    parser.add_argument("--limits", type=int, default=6, help="full disks, closed folders, rivals: each a command")
    parser.add_argument("--inputs", type=int, default=500, help="damaged inputs")
    parser.add_argument("--fuzz", type=int, default=500, help="examples of each fuzz test")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="repeatable; everything otherwise")
    parser.add_argument("--command", action="append", choices=list(SHARES), help="of kills and limits; repeatable")
    parser.add_argument("--scratch", type=Path, help="an empty folder to work in; kept")
    parser.add_argument("--quick", action="store_true", help="a short slice of it without networks")
    options = parser.parse_args(words)
    if options.quick:
        options.points, options.limits, options.inputs = 8, 1, 20
        options.only, options.command = ["kills", "limits", "inputs"], ["prepare", "translate"]
    import_everything(options.quick)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.scratch or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        found = campaign(options, root.resolve(), lambda text: print(text, flush=True))
    facts = {
        "seed": options.seed,
        "seconds": round(time.monotonic() - began, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(facts | {"sections": found}, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(markdown(found, facts))
    broken = sum(len(complaints(row)) for rows in found.values() for row in rows)
    for section, rows in found.items():
        print(f"{section}: {total(rows)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
