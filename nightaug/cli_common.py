"""What the commands of :mod:`nightaug.cli` and :mod:`nightaug.cli_detect` share: options, lists, settings layers."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightaug.errors import ConfigError

if TYPE_CHECKING:
    from nightaug.experiment.compare_detectors import Outcome

Out = Annotated[Path, typer.Option("--out", help="Folder to write.")]
RunOut = Annotated[Path, typer.Option("--out", help="Run folder.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, e.g. learning_rate=1e-4. Repeatable."),
]
Preset = Annotated[str | None, typer.Option(help="Settings that ship with nightaug: bdd100k, demo, ...")]
Config = Annotated[Path | None, typer.Option(help="YAML file of settings, over the preset.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Instead of steps: passes over the data.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out, or begin it if there is none yet.")]
Cpu = Annotated[bool, typer.Option("--cpu", help="Do not use a GPU.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, write nothing.")]
TrainingDryRun = Annotated[bool, typer.Option("--dry-run", help="Print the settings and an estimate, train nothing.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")]
Workers = Annotated[int | None, typer.Option(min=0, help="Processes that decode images.")]
Images = Annotated[Path | None, typer.Option("--images", help="Folder of images, if it is not found by itself.")]
Labels = Annotated[Path | None, typer.Option("--labels", help="Label file or folder, likewise.")]


#: By section of settings: the command, and a setting that its runs, and no others, have had from the first version on.
#: That of probe and synthesize goes first: their runs have one "detector", too.
_RUNS = {
    "probe": ("openvocab probe", "probe"),
    "synthesize": ("openvocab synthesize", "synthesis"),
    "detector": ("train-detector or openvocab train", "detector"),
    "distill": ("distill", "halvings"),
    "translator": ("train-translator", "discriminator_width"),
}


def _trust(context: typer.Context, wanted: bool) -> bool:
    if wanted:
        from nightaug.pickles import trusting

        context.with_resource(trusting())  # until the command ends
    return wanted


#: The command itself need not look at it.
Trust = Annotated[
    bool,
    typer.Option("--trust", callback=_trust, help="Load weight files that run code (pickles), of people you trust."),
]


class DirectionName(StrEnum):
    day2night = "day2night"
    night2day = "night2day"


def say(text: str) -> None:
    """A line for the user on standard output."""
    typer.echo(text)


def words(value: str | None, may_be_empty: bool = False) -> list[str] | None:
    """``"a, b"`` to ``["a", "b"]``, None to None.

    Args:
        may_be_empty: text without any name is as if it were not given, instead of an error.

    Raises:
        ConfigError: text without any name.
    """
    if value is None:
        return None
    found = [word.strip() for word in value.split(",") if word.strip()]
    if not found and not may_be_empty:
        raise ConfigError(f"expected names separated by commas, got '{value}'")
    return found or None


def settings_layers(
    name: str,
    preset: str | None,
    config: Path | None,
    saved: Path | None,
    set_: list[str] | None,
    flags: dict[str, Any],
    part: str | None = None,
) -> list[dict[str, Any]]:
    """Settings of one section, in rising order: preset, file, a resumed run's own, --set, flags.

    Args:
        name: of the section: ``translator``, ``detector``, ``openvocab``, ...
        saved: settings of the run that is resumed; None or absent: there is none.
        flags: settings with options of their own; None: not given.
        part: of ``saved`` that holds them, where it says more than settings.

    Raises:
        ConfigError: an unknown preset or one of other commands, a file that cannot be read, a --set without ``=``, or
            ``saved`` is of another command's run.
    """
    from nightaug.config import load_preset, load_yaml, merge, parse_overrides, section

    layers: dict[str, Any] = {}
    if preset:
        found = load_preset(preset)
        if name not in found:
            raise ConfigError(f"preset {preset} says nothing of this command ('{name}'), only of: {', '.join(found)}")
        layers = found[name]
    if config is not None:
        layers = merge(layers, section(load_yaml(config), name, str(config)))
    if saved is not None and saved.exists():
        # What the run was started with holds, unless it is said otherwise here.
        before = load_yaml(saved)
        _check_run(name, before, saved.parent)
        if part is not None:
            before = own if isinstance(own := before.get(part), dict) else {}
        layers = merge(before, layers)
    return [layers, parse_overrides(set_ or []), {key: value for key, value in flags.items() if value is not None}]


def _check_run(name: str, before: dict[str, Any], folder: Path) -> None:
    """Refuse another command's run, whose settings would all be unknown ones here."""
    own = "detector" if name == "openvocab" else name
    found = next((section for section, (_, key) in _RUNS.items() if key in before), None)
    if found == own:
        return
    holds = f"a run of {_RUNS[found][0]}" if found else f"no run of {_RUNS[own][0]}, but another config.yaml"
    raise ConfigError(f"{folder} holds {holds}; choose another --out")


def check_finished(result: Outcome, again: str | None = None) -> None:
    """Say what a training stepped over, and if it was stopped, how it goes on.

    Args:
        again: the command that goes on, where it is not simply the same one with --resume.

    Raises:
        typer.Exit: it was stopped.
    """
    if result.unreadable:
        say(f"{result.unreadable} training images could not be read and were stepped over")
    if not result.finished:
        onward = f"continue with: {again}" if again else "run the same command with --resume to go on"
        say(f"stopped at step {result.step:,}; {onward}")
        raise typer.Exit(1)


def say_trained(result: Outcome, out: Path, again: str) -> None:
    """How the training of a translator ended; see :func:`check_finished`."""
    check_finished(result, again)
    say(f"finished at step {result.step:,}; weights in {out}, samples in {out / 'samples'}")
    say(f"next: nightaug translate INPUT --translator {out} --out DIR")
