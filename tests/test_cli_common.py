from __future__ import annotations

from pathlib import Path

import pytest

from nightaug.cli_common import settings_layers, words
from nightaug.errors import ConfigError


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
