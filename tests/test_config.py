from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import Field

from nightaug.config import (
    Settings,
    build,
    dump_yaml,
    load_preset,
    load_yaml,
    merge,
    parse_overrides,
    parse_yaml,
    preset_names,
    section,
)
from nightaug.cyclegan.settings import TranslatorSettings
from nightaug.detect.openvocab.settings import ProbeSettings, VLDUSSettings
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import ConfigError


class Inner(Settings):
    rate: float = Field(1.0, gt=0)


class Outer(Settings):
    steps: int = 5
    inner: Inner = Inner()


def test_layers_lie_over_each_other() -> None:
    made = build(Outer, {"steps": 1, "inner": {"rate": 2}}, {"inner": {"rate": 3}})
    assert (made.steps, made.inner.rate) == (1, 3)
    base = {"a": {"b": 1}}
    assert merge(base, {"a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}
    assert base == {"a": {"b": 1}}


def test_all_errors_come_at_once_with_the_name_meant() -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, {"step": 1, "inner": {"rates": 2, "rate": -1}})
    message = str(caught.value)
    assert "Unknown key: 'step' (did you mean 'steps'?)" in message
    assert "Unknown key: 'inner.rates' (did you mean 'inner.rate'?)" in message
    assert "inner.rate:" in message
    assert "-1" in message


def test_a_key_given_without_its_section_is_pointed_to_it() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'inner\.rate'"):
        build(Outer, {"rate": 2})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a.b=1", "c=x"], {"a": {"b": 1}, "c": "x"}),
        (["r=2e-4"], {"r": 2e-4}),
        (["r="], {"r": None}),
        (["l=[1, 2]"], {"l": [1, 2]}),
        (["l=[5e-5, red, '1', [1E-3]]"], {"l": [5e-5, "red", "1", [1e-3]]}),
    ],
)
def test_overrides(given: list[str], expected: dict[str, object]) -> None:
    assert parse_overrides(given) == expected


def test_a_section_must_be_settings() -> None:
    assert section({"translator": {"a": 1}, "x": 2}, "translator", "f") == {"a": 1}
    assert section({"a": 1}, "translator", "f") == {"a": 1}
    for wrong in (5, None, [1]):
        with pytest.raises(ConfigError, match="under 'translator:'"):
            section({"translator": wrong}, "translator", "f")


@pytest.mark.parametrize("bad", [["a"], ["=1"], ["a=1", "a.b=2"], ["a={"], ["seed=2021-02-30"]])
def test_bad_overrides_say_so(bad: list[str]) -> None:
    with pytest.raises(ConfigError):
        parse_overrides(bad)


@pytest.mark.parametrize("text", ["- 1", "a: [", "just text", "!!python/object/apply:os.system [ls]"])
def test_yaml_must_be_plain_settings(text: str) -> None:
    with pytest.raises(ConfigError, match="here"):
        parse_yaml(text, "here")


def test_missing_file_and_unknown_preset(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="did you mean 'bdd100k'"):
        load_preset("bdd100")


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_loads_and_comes_back_from_yaml(name: str) -> None:
    models: dict[str, type[Settings]] = {"translator": TranslatorSettings, "detector": DetectorSettings}
    if name.startswith("openvocab"):
        models = {"openvocab": DetectorSettings, "probe": ProbeSettings, "synthesize": VLDUSSettings}
    preset = load_preset(name)
    assert set(preset) == set(models)
    for part, model in models.items():
        settings = build(model, preset[part])
        assert build(model, parse_yaml(dump_yaml(settings), name)) == settings


def test_aliases_that_would_fill_the_memory_are_refused() -> None:
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    for text in (bomb + "steps: *a11\n", "a: &a {b: *a}\n"):
        with pytest.raises(ConfigError, match=r"x: its aliases make more than 100,000 values"):
            parse_yaml(text, "x")
    assert parse_yaml("a: &a [1, 2]\nb: *a\n", "x") == {"a": [1, 2], "b": [1, 2]}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match="no ordinary file"):
        load_yaml(tmp_path / "x.yaml")


def test_settings_that_contradict_each_other_are_named_without_all_the_others() -> None:
    with pytest.raises(ConfigError) as caught:
        build(TranslatorSettings, {"crop": 512, "load_size": 128, "width": 8})
    assert str(caught.value) == "load_size (128) must be at least crop (512)"
