from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from nightaug.cli import app
from nightaug.cli_common import settings_layers, words
from nightaug.config import build, parse_overrides
from nightaug.curate.settings import CurateSettings
from nightaug.cyclegan.settings import DistillSettings, TranslatorSettings
from nightaug.detect.openvocab.settings import ProbeSettings, VLDUSSettings
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import ConfigError
from nightaug.relight.settings import relight_settings


def test_words() -> None:
    assert words(None) is None
    assert words(" a, b ,") == ["a", "b"]


@pytest.mark.parametrize("text", ["", " ", ",", " , "])
def test_words_without_a_name(text: str) -> None:
    assert words(text, may_be_empty=True) is None
    with pytest.raises(ConfigError, match="expected names separated by commas"):
        words(text)


@pytest.mark.parametrize("name", ["translator", "detector"])
def test_what_is_said_here_is_laid_over_the_resumed_runs_own(tmp_path: Path, name: str) -> None:
    config, saved = tmp_path / "mine.yaml", tmp_path / "config.yaml"
    config.write_text(f"{name}:\n  width: 8\nother:\n  width: 9\n")
    saved.write_text("width: 7\nheight: 7\n")
    layers = settings_layers(name, None, config, saved, ["crop=5"], {"steps": 3, "batch": None})
    assert layers == [{"width": 8, "height": 7}, {"crop": 5}, {"steps": 3}]
    assert settings_layers(name, None, None, tmp_path / "absent.yaml", None, {}) == [{}, {}, {}]


def test_the_example_of_set_is_a_setting_of_that_command() -> None:
    takes = {
        "train-translator": TranslatorSettings, "distill": DistillSettings, "curate": CurateSettings,
        "train-detector": DetectorSettings, "compare": DetectorSettings, "train": DetectorSettings,
        "probe": ProbeSettings, "synthesize": VLDUSSettings,
    }  # fmt: skip
    found = {}
    groups: list[Any] = [typer.main.get_command(app)]
    for group in groups:
        groups += [command for command in group.commands.values() if hasattr(command, "commands")]
        for name, command in group.commands.items():
            for option in command.params:
                if "--set" in option.opts:
                    found[name] = option.help
    assert found.keys() == takes.keys() | {"translate"}
    for name, text in found.items():
        example = parse_overrides(re.findall(r"e\.g\. (\S+=\S+)\.", text))
        assert example, name
        if name == "translate":
            relight_settings(example)
        else:
            build(takes[name], example)
