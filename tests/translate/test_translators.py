from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from helpers import picture

import nightaug
from nightaug.data.frames import Box
from nightaug.errors import CheckpointError, ConfigError
from nightaug.images import write_image

ROOT = Path(__file__).parents[2]


def test_relight_is_the_default_and_needs_nothing() -> None:
    translator = nightaug.Translator.load("relight")
    image = picture(0, 320, 180)
    night = translator(image, [Box(40, 60, 120, 120, "car")], seed=3)
    assert night.shape == image.shape
    assert night.mean() < 0.5 * image.mean()
    assert np.array_equal(night, translator(image, [Box(40, 60, 120, 120, "car")], seed=3))
    assert np.abs(nightaug.Translator.load("relight", strength=0.0)(image).astype(int) - image).mean() < 2


@pytest.mark.parametrize("page", ["README.md", "docs/translate.md"])
def test_the_example_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(0, 720, 480)
    write_image(tmp_path / "day.jpg", image)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.S)
    names = {"image": image}
    exec(code, names)
    unlit = nightaug.Translator.load("relight")(names["image"], seed=0)
    assert names["night"].shape == image.shape
    assert names["night"][250:431, 412:655].sum() > unlit[250:431, 412:655].sum(), "the box's lamps are lit"


def test_relight_cannot_make_day() -> None:
    with pytest.raises(ConfigError, match="relight only goes from day to night"):
        nightaug.Translator.load("relight", "night2day")
    with pytest.raises(ConfigError, match="expected direction"):
        nightaug.Translator.load("relight", "up")  # type: ignore[arg-type]


def test_relight_takes_its_constants_by_name() -> None:
    image = picture(0, 320, 180)
    load = nightaug.Translator.load
    lit = load("relight", constants={"street_lamps": 6, "far_lights": [30, 40]})
    assert lit(image, [], 1).astype(int).sum() > load("relight")(image, [], 1).astype(int).sum()
    assert lit.settings["relight"] == {"street_lamps": 6, "far_lights": [30, 40]}
    assert "relight" not in load("relight").settings, "folders of before are gone on with"
    with pytest.raises(
        ConfigError, match=r"Unknown key: 'street_lamp_' \(did you mean 'street_lamp.*; expected glow as"
    ):
        load("relight", constants={"street_lamp_": 1, "glow": [2, 1]})
    with pytest.raises(ConfigError, match="expected left_hand_traffic as true or false, got 1"):
        load("relight", constants={"left_hand_traffic": 1})
    wrong = {
        "glow_sigmas": [1, 2],
        "headlight_color": [1, 2],
        "ambient_colors": [1, 2, 3],
        "work_side": 320.5,
        "haze_removed": 5,
    }
    for name, value in wrong.items():
        with pytest.raises(ConfigError, match=f"expected {name} (as|of)"):
            load("relight", constants={name: value})
    with pytest.raises(ConfigError, match="--set is for relight"):
        load("no/such/run", constants={"glow": 1})


def test_a_missing_run_says_what_would_do() -> None:
    with pytest.raises(CheckpointError, match="'relight'"):
        nightaug.Translator.load("no/such/run")


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError):
        nightaug.nothing  # noqa: B018
