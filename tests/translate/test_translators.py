from __future__ import annotations

import numpy as np
import pytest
from helpers import picture

import nightaug
from nightaug.data.frames import Box
from nightaug.errors import CheckpointError, ConfigError


def test_relight_is_the_default_and_needs_nothing() -> None:
    translator = nightaug.Translator.load("relight")
    image = picture(0, 320, 180)
    night = translator(image, [Box(40, 60, 120, 120, "car")], seed=3)
    assert night.shape == image.shape
    assert night.mean() < 0.5 * image.mean()
    assert np.array_equal(night, translator(image, [Box(40, 60, 120, 120, "car")], seed=3))
    assert np.abs(nightaug.Translator.load("relight", strength=0.0)(image).astype(int) - image).mean() < 2


def test_relight_cannot_make_day() -> None:
    with pytest.raises(ConfigError, match="relight only goes from day to night"):
        nightaug.Translator.load("relight", "night2day")
    with pytest.raises(ConfigError, match="expected direction"):
        nightaug.Translator.load("relight", "up")  # type: ignore[arg-type]


def test_a_missing_run_says_what_would_do() -> None:
    with pytest.raises(CheckpointError, match="'relight'"):
        nightaug.Translator.load("no/such/run")


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError):
        nightaug.nothing  # noqa: B018
