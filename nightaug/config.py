"""Strict settings: YAML files and ``key=value`` overrides into pydantic models, every error at once."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Collection, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from nightaug.errors import ConfigError


class Settings(BaseModel):
    """Base of every settings model: unknown keys are errors, values are checked, objects are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


S = TypeVar("S", bound=Settings)
#: A settings file with more values than this, aliases written out, is one that was made to fill the memory.
_MOST_VALUES = 100_000


def preset_names() -> list[str]:
    """The presets that ship with the package."""
    folder = resources.files("nightaug") / "configs"
    return sorted(entry.name[: -len(".yaml")] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_preset(name: str) -> dict[str, Any]:
    """The content of a shipped preset.

    Raises:
        ConfigError: there is no preset of that name; the message lists those there are.
    """
    names = preset_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, 1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise ConfigError(f"unknown preset '{name}'{hint} (there are: {', '.join(names)})")
    return parse_yaml((resources.files("nightaug") / "configs" / f"{name}.yaml").read_text("utf-8"), f"preset {name}")


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """Safe YAML that must be a mapping.

    Raises:
        ConfigError: not YAML, or not a mapping.
    """
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        line = str(error).replace("\n", " ")
        raise ConfigError(f"{where}: not valid YAML ({line})") from error
    if data is None:
        return {}
    if _expanded(data, {}) > _MOST_VALUES:
        raise ConfigError(f"{where}: its aliases make more than {_MOST_VALUES:,} values of it")
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected 'key: value' lines, got a {type(data).__name__}")
    return data


def _expanded(value: Any, known: dict[int, float]) -> float:
    """How many values a document has where every alias is written out; infinite where one holds itself."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf  # until it is known: met again inside of itself
        items = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_expanded(item, known) for item in items)
    return known[id(value)]


def load_yaml(path: str | Path) -> dict[str, Any]:
    """A settings file.

    Raises:
        ConfigError: missing, unreadable, or not a mapping.
    """
    try:
        if not Path(path).is_file() and Path(path).exists():
            raise ConfigError(f"{path}: no ordinary file of settings; save them as one first")
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    return parse_yaml(text, str(path))


def section(data: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """One section of a settings file, or the whole of it where it has no such section.

    Raises:
        ConfigError: the section is not a mapping.
    """
    found = data.get(name, data)
    if isinstance(found, str):
        found = dict(data)  # no section: a run's own config.yaml has a key "detector" that names the network
    if not isinstance(found, dict):
        raise ConfigError(f"{where}: expected settings under '{name}:', got {found!r}")
    return found


def parse_overrides(items: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """``["a.b=1", "c=x"]`` to ``{"a": {"b": 1}, "c": "x"}``; values are read as YAML.

    Raises:
        ConfigError: an item without ``=``, or a key that is both a value and a section.
    """
    result: dict[str, Any] = {}
    for item in items:
        key, equals, raw = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"expected {option} key=value, got '{item}'")
        try:
            value = yaml.safe_load(raw) if raw.strip() else None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"{option} {key}: '{raw}' is not a valid value") from error
        value = _numbers(value)
        at = result
        *sections, last = key.strip().split(".")
        for section in sections:
            at = at.setdefault(section, {})
            if not isinstance(at, dict):
                raise ConfigError(f"{option} {key}: '{section}' is already a plain value")
        at[last] = value
    return result


def _numbers(value: Any) -> Any:
    # YAML 1.1 reads 2e-4 as text, everyone else as a number.
    if isinstance(value, list):  # names may look like numbers there: of ['1'] nothing is made
        return [_numbers(item) if isinstance(item, list) or "e" in str(item).lower() else item for item in value]
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid on ``base``, section by section; neither is changed."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return result


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names; tuples become lists, as YAML gives them back."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found


def lasting(place: str) -> str:
    """A path by a name that holds in other working folders, too; as it is where nothing lies there."""
    return os.path.abspath(place) if os.path.exists(place) else place


def build(model: type[S], *layers: Mapping[str, Any]) -> S:
    """Lay the layers over each other (later wins) and check them against ``model``.

    Raises:
        ConfigError: one message that lists every unknown key and every wrong value.
    """
    data: dict[str, Any] = {}
    for layer in layers:
        data = merge(data, layer)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(model, error)) from error


def unknown_key(key: str, known: Collection[str]) -> str:
    """One line on a key that is none of the known ones (dotted), with the one that may have been meant."""
    close = difflib.get_close_matches(key, known, 1) or [
        name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]
    ]
    return f"Unknown key: '{key}'" + (f" (did you mean '{close[0]}'?)" if close else "")


def _explain(model: type[Settings], error: ValidationError) -> str:
    lines = []
    known = _keys(model)
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(unknown_key(key, known))
        elif isinstance(item.get("input"), Mapping) and item["type"] == "value_error":
            # Settings that contradict each other; the message names them, and all the others are no help.
            lines.append(": ".join(filter(None, (key, item["msg"].removeprefix("Value error, ")))))
        else:
            lines.append(f"{key or 'settings'}: {item['msg']}, got {item.get('input')!r}")
    return "; ".join(lines)


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _keys(field.annotation, f"{prefix}{name}.")
    return keys


def dump_yaml(settings: Settings) -> str:
    """The settings as YAML text that :func:`build` reads back to an equal object."""
    text: str = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text
