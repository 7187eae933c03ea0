from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from nightaug.cli import app
from nightaug.cli_common import settings_layers, words
from nightaug.config import Settings, build, dump_yaml, parse_overrides
from nightaug.curate.settings import CurateSettings
from nightaug.cyclegan.settings import DistillSettings, TranslatorSettings
from nightaug.detect.openvocab.probe import ProbeRecord
from nightaug.detect.openvocab.settings import ProbeSettings, VLDUSSettings
from nightaug.detect.openvocab.synthesize import SynthesisRecord
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


#: What a run's own settings of each section have, and no other's.
TELLS = {
    "translator": "discriminator_width", "distill": "halvings", "detector": "detector", "openvocab": "detector",
    "probe": "probe", "synthesize": "synthesis",
}  # fmt: skip


@pytest.mark.parametrize("name", ["translator", "detector"])
def test_what_is_said_here_is_laid_over_the_resumed_runs_own(tmp_path: Path, name: str) -> None:
    config, saved = tmp_path / "mine.yaml", tmp_path / "config.yaml"
    config.write_text(f"{name}:\n  width: 8\nother:\n  width: 9\n")
    saved.write_text(f"width: 7\nheight: 7\n{TELLS[name]}: 6\n")
    layers = settings_layers(name, None, config, saved, ["crop=5"], {"steps": 3, "batch": None})
    assert layers == [{"width": 8, "height": 7, TELLS[name]: 6}, {"crop": 5}, {"steps": 3}]
    assert settings_layers(name, None, None, tmp_path / "absent.yaml", None, {}) == [{}, {}, {}]


@pytest.mark.parametrize("whose", ["translator", "distill", "detector", "probe", "synthesize", None])
@pytest.mark.parametrize("name", TELLS)
def test_the_run_of_another_command_is_told_in_one_line(tmp_path: Path, name: str, whose: str | None) -> None:
    own = "detector" if name == "openvocab" else name
    saved = tmp_path / "CG" / "config.yaml"
    saved.parent.mkdir()
    saved.write_text(_written(whose))
    part = {"probe": "probe", "synthesize": "synthesis"}.get(name)
    if own == whose:
        assert settings_layers(name, None, None, saved, None, {}, part)[0]
        return
    commands = {
        "translator": "a run of train-translator", "distill": "a run of distill", "probe": "a run of openvocab probe",
        "detector": "a run of train-detector or openvocab train", "synthesize": "a run of openvocab synthesize",
        None: "no run of .*, but another config.yaml",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=rf"CG holds {commands[whose]}; choose another --out$"):
        settings_layers(name, None, None, saved, None, {}, part)


def _written(whose: str | None) -> str:
    """``config.yaml`` of a run."""
    plain: dict[str | None, Settings] = {
        "translator": TranslatorSettings(), "distill": DistillSettings(), "detector": DetectorSettings(),
        "probe": ProbeRecord(
            detector="a", detector_sha256="", store={}, novel=["b"], text_sha256="", probe=ProbeSettings()
        ),
        "synthesize": SynthesisRecord(
            detector="a", detector_sha256="", frames="", store=None, unseen=["b"], text_sha256="",
            synthesis=VLDUSSettings(),
        ),
    }  # fmt: skip
    return dump_yaml(plain[whose]) if whose in plain else "title: a site\nwidth: 3\n"


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
