from __future__ import annotations

import pytest

from nightaug.errors import ConfigError
from nightaug.experiment.wanted import wanted_rows


def test_rows_to_train_now() -> None:
    arms, seeds = ["day", "night"], [0, 1]
    assert wanted_rows([], arms, seeds) == [("day", 0), ("night", 0), ("day", 1), ("night", 1)]
    assert wanted_rows(["night", "day@1"], arms, seeds) == [("night", 0), ("day", 1), ("night", 1)]
    assert wanted_rows(["@1", "checkpoint@0"], arms, seeds) == [
        ("checkpoint", 0), ("checkpoint", 1), ("day", 1), ("night", 1),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"nigt.*did you mean 'night'"):
        wanted_rows(["nigt"], arms, seeds)
    with pytest.raises(ConfigError, match="no such arm and seed"):
        wanted_rows(["day@7"], arms, seeds)


def test_rows_of_one_seed_only_unless_another_is_named() -> None:
    arms, seeds, once = ["day", "less"], [0, 1], ["less"]
    assert wanted_rows([], arms, seeds, once) == [("day", 0), ("less", 0), ("day", 1)]
    assert wanted_rows(["less"], arms, seeds, once) == [("less", 0)]
    assert wanted_rows(["@1"], arms, seeds, once) == [("checkpoint", 1), ("day", 1)]
    assert wanted_rows(["less@1"], arms, seeds, once) == [("less", 1)]
