"""Benchmarks that are chains of nightaug commands: finished steps are stepped over, stopped ones gone on with."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import header

from nightaug.config import load_yaml
from nightaug.errors import ConfigError
from nightaug.images import atomic_write_text
from nightaug.runs import RunFolder


@dataclass(frozen=True)
class Step:
    """One command; ``done`` says whether there is nothing left to do, ``again`` how to go on with it."""

    name: str
    command: list[str]
    done: Callable[[], bool]
    again: Callable[[], Sequence[str]] = lambda: ()


def training(name: str, run: Path, command: Sequence[str], counted: bool = True) -> Step:
    """A training command, with its run folder; not ``counted``: it is done when it has written its weights."""
    again = lambda: ["--resume"] if (run / "config.yaml").exists() else []  # noqa: E731
    done = lambda: trained(run) if counted else (run / "last.safetensors").exists()  # noqa: E731
    return Step(f"train {name}", [*command, "--out", str(run)], done, again)


def trained(run: Path) -> bool:
    """Whether a training has made all its steps."""
    if not (run / "config.yaml").exists():
        return False
    return RunFolder(run).latest_state() == load_yaml(run / "config.yaml").get("steps")


def fact(path: Path, key: str) -> Any:
    """A value of a JSON file, None where either is not there."""
    try:
        return json.loads(path.read_text("utf-8")).get(key)
    except (OSError, ValueError):
        return None


def settings(texts: Sequence[str]) -> list[str]:
    """``--set`` before each."""
    return [word for text in texts for word in ("--set", text)]


def same_as_before(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that decide about numbers, kept in OUT: finished steps were made with them.

    Raises:
        ConfigError: OUT was begun with others.
    """
    free = ("until", "plan", "cpu", "out")
    options = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
    options = {key: value for key, value in options.items() if key not in free}
    path = arguments.out / "options.json"
    before = json.loads(path.read_text("utf-8")) if path.exists() else options
    other = sorted(key for key in options if before.get(key) != options[key])
    if other:
        changed = ", ".join(f"--{key.replace('_', '-')} was {before.get(key)}" for key in other)
        raise ConfigError(f"{arguments.out} was begun with other options ({changed}): give those, or another --out")
    if not arguments.plan:
        arguments.out.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, json.dumps(options, indent=1) + "\n")
    return options


def carry_out(steps: Sequence[Step], until: str | None) -> bool:
    """Run what is not done; False where a command failed or was stopped."""
    for number, step in enumerate(steps, 1):
        title = f"[{number}/{len(steps)}] {step.name}"
        if step.done():
            print(f"{title}: done before")
        else:
            print(f"{title}: nightaug {shlex.join(step.command)}", flush=True)
            began = time.monotonic()
            code = subprocess.run(
                [sys.executable, "-m", "nightaug", *step.command, *step.again()], check=False
            ).returncode
            print(f"{title}: {time.monotonic() - began:.0f} s, exit code {code}", flush=True)
            # 1 also says that single images could not be read: then there is nothing left to do.
            if code and not (code == 1 and step.done()):
                return False
        if step.name == until:
            return True
    return True


def work(
    parser: argparse.ArgumentParser,
    plan: Callable[[argparse.Namespace], list[Step]],
    report: Callable[[Path, dict[str, Any]], str],
) -> int:
    """Parse, then print the plan, or carry it out and print the report; 0 where all went well.

    ``parser`` gets the options that all chains have; ``report`` takes the folder and the options that decide about
    numbers.
    """
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--until", metavar="STEP", help="stop after this step")
    parser.add_argument("--plan", action="store_true", help="print the steps, run nothing")
    arguments = parser.parse_args()
    steps = plan(arguments)
    if arguments.until is not None and arguments.until not in [step.name for step in steps]:
        parser.error(f"--until is one of: {', '.join(step.name for step in steps)}")
    try:
        options = same_as_before(arguments)
    except ConfigError as error:
        parser.error(str(error))
    if arguments.plan:
        for step in steps:
            print(f"{'done ' if step.done() else 'to do'} {step.name}: nightaug {shlex.join(step.command)}")
        return 0
    header()
    good = carry_out(steps, arguments.until)
    print(report(arguments.out, options))
    return 0 if good else 1


def shown_options(options: dict[str, Any]) -> str:
    """The options as they are typed, without the data's place."""
    given = [(key, one) for key, value in options.items() for one in (value if isinstance(value, list) else [value])]
    return " ".join(f"--{key.replace('_', '-')} {value}" for key, value in given if key != "data" and value is not None)
