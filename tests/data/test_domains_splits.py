"""Drives, splits, samples and brightness limits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import picture
from hypothesis import given, settings
from hypothesis import strategies as st

from nightaug.data.checks import brightness_limits
from nightaug.data.domains import prepare
from nightaug.data.frames import Frame
from nightaug.data.splits import assign, find_drives, parse_split, ranks, sample, shares
from nightaug.errors import ConfigError
from nightaug.experiment.tables import prepare_table
from nightaug.images import write_image

SIX_TWO_TWO = (0.6, 0.2, 0.2)


def drives_of(*names: str) -> list[str]:
    return find_drives([Frame(name) for name in names])


def test_drives_from_names() -> None:
    assert drives_of("b232c7c9-d251d9ee.jpg", "b232c7c9-00000000.jpg") == ["b232c7c9"] * 2
    video = find_drives([Frame("0001.jpg", video="007b-4e72"), Frame("0001.jpg", video="0a11-4e72")])
    assert len(set(video)) == 2
    tracking = Frame("b1c66a42-6f7d68ca-0000001.jpg", video="b1c66a42-6f7d68ca")
    assert find_drives([tracking, Frame("b1c66a42-00000000.jpg")]) == ["b1c66a42"] * 2
    assert len(set(drives_of("v1/1.jpg", "v1/2.jpg", "v2/1.jpg", "v2/2.jpg", "v3/1.jpg", "v3/2.jpg"))) == 3
    assert len(set(drives_of("a_01.jpg", "a_02.jpg", "b_01.jpg", "b_02.jpg", "c_1.jpg", "c_2.jpg"))) == 3
    # One running number over everything says nothing about drives.
    assert len(set(drives_of(*(f"FLIR_{i:05d}.jpg" for i in range(20))))) == 20
    assert len(set(drives_of(*(f"{i}.jpg" for i in range(20))))) == 20


def test_split_text() -> None:
    assert parse_split("6:2:2") == pytest.approx(SIX_TWO_TWO)
    assert parse_split("1:0:0") == (1, 0, 0)
    for wrong in ("6:2", "a:b:c", "0:1:1", "-1:1:1", "nan:1:1", "", "1:2:3:4"):
        with pytest.raises(ConfigError, match="6:2:2"):
            parse_split(wrong)


def cut(given: list[str], drives: list[str], domains: list[str] | None = None, seed: int = 0) -> list[str]:
    splits, moved = assign(ranks(drives, seed), domains or ["A"] * len(drives), given, SIX_TWO_TWO)
    assert not moved
    return splits


def test_rule_for_the_datasets_own_splits() -> None:
    names = [f"d{i}" for i in range(100)]
    assert Counter(cut(["all"] * 100, names)) == {"train": 60, "val": 20, "test": 20}
    own_val = cut(["train"] * 80 + ["val"] * 20, names)
    assert own_val[80:] == ["test"] * 20
    assert Counter(own_val[:80]) == {"train": 60, "val": 20}
    own_test = cut(["train"] * 80 + ["test"] * 20, names)
    assert Counter(own_test) == {"train": 60, "val": 20, "test": 20}
    own_both = cut(["train"] * 50 + ["val"] * 30 + ["test"] * 20, names)
    assert own_both == ["train"] * 50 + ["val"] * 30 + ["test"] * 20
    assert Counter(cut(["val"] * 100, names)) == {"train": 60, "val": 20, "test": 20}


def test_a_domain_without_splits_beside_one_with_splits_is_cut() -> None:
    day, night = [f"d{i}" for i in range(50)], [f"n{i}" for i in range(50)]
    given = ["train"] * 30 + ["val"] * 10 + ["test"] * 10 + ["all"] * 50
    splits = cut(given, day + night, ["A"] * 50 + ["B"] * 50)
    assert splits[:50] == given[:50]
    assert Counter(splits[50:]) == {"train": 30, "val": 10, "test": 10}
    # A night frame of a drive that the day's splits know goes where that drive is.
    shared, _ = assign(ranks(day + day, 0), ["A"] * 50 + ["B"] * 50, given, SIX_TWO_TWO)
    assert shared[50:] == shared[:50] == given[:50]


def test_a_drive_in_train_and_val_is_tested_as_a_whole() -> None:
    splits, moved = assign(ranks(["x", "y", "x"], 0), ["A"] * 3, ["train", "train", "val"], (1.0, 0.0, 0.0))
    assert splits == ["test", "train", "test"]
    assert moved == [0]


@settings(max_examples=60, deadline=None)
@given(
    frames=st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from("AB"), st.sampled_from(["train", "val", "all", "test"])),
        min_size=1,
        max_size=200,
    ),
    seed=st.integers(0, 5),
)
def test_no_drive_is_ever_cut(frames: list[tuple[int, str, str]], seed: int) -> None:
    drives, domains, own = [str(f[0]) for f in frames], [f[1] for f in frames], [f[2] for f in frames]
    splits, _ = assign(ranks(drives, seed), domains, own, SIX_TWO_TWO)
    assert set(splits) <= {"train", "val", "test"}
    assert len(set(zip(drives, splits, strict=True))) == len(set(drives))


def test_fractions_hold_in_each_domain() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 12, 300)
    drives = [f"{i}" for i, size in enumerate(sizes) for _ in range(size)]
    domains = ["AB"[int(drive) % 3 == 0] for drive in drives]
    splits = cut(["all"] * len(drives), drives, domains)
    for domain in "AB":
        here = [s for s, d in zip(splits, domains, strict=True) if d == domain]
        share = {split: here.count(split) / len(here) for split in ("train", "val", "test")}
        assert share == pytest.approx({"train": 0.6, "val": 0.2, "test": 0.2}, abs=0.02)
    assert cut(["all"] * len(drives), drives, domains, seed=1) != splits
    turned = cut(["all"] * len(drives), drives[::-1], domains[::-1])
    assert turned[::-1] == splits  # the order of files decides nothing


def test_samples_take_whole_drives_and_grow() -> None:
    drives = [f"{i // 5}" for i in range(100)]
    names = [f"{i:03d}" for i in range(100)]
    places = ranks(drives, 0)
    small, large = sample(places, names, 20), sample(places, names, 50)
    assert len(small) == 20
    assert set(small) < set(large)
    assert Counter(Counter(drives[i] for i in small).values()) == {5: 4}
    assert len(sample(places, names, 7)) == 7
    assert sample(places, names, 1000) == list(range(100))


def test_shares() -> None:
    assert shares({"train": 80, "val": 20}, 10) == {"train": 8, "val": 2}
    assert sum(shares({"a": 1, "b": 1, "c": 1}, 2).values()) == 2
    assert shares({"a": 3}, 10) == {"a": 3}


def test_brightness_limits() -> None:
    day, night = [140.0 + i for i in range(-20, 21)], [20.0 + i / 2 for i in range(-20, 21)]
    limits = brightness_limits(day, night)
    assert limits.basis == "groups"
    assert limits.night == pytest.approx(20 + 0.6 * 120)
    assert limits.day == pytest.approx(140 - 0.6 * 120)
    # A tenth of wrong tags hardly moves them.
    mixed = brightness_limits(day + [20.0] * 4, night + [140.0] * 4)
    assert mixed.night == pytest.approx(limits.night, abs=6)
    # Wide groups widen them: a spread of 40 asks for more distance than the gap does.
    wide = brightness_limits(day, [60.0 + 2 * i for i in range(-20, 21)])
    assert wide.night == pytest.approx(60 + 2.5 * 1.4826 * 20, abs=2)
    assert brightness_limits(day, [1.0]).basis == "fixed"
    assert brightness_limits(night, day).basis == "none"


def test_nights_without_splits_beside_days_with_splits_have_a_test_split(tmp_path: Path) -> None:
    for number, split in enumerate(["train"] * 6 + ["val"] * 2 + ["test"] * 2):
        write_image(tmp_path / "day" / "images" / split / f"{number}.jpg", picture(number))
        text = tmp_path / "day" / "labels" / split / f"{number}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("0 0.5 0.5 0.4 0.4\n")
        write_image(tmp_path / "night" / f"night_{number}.jpg", picture(number) // 6)
    (tmp_path / "day" / "data.yaml").write_text("names: [car]\n")
    report = prepare(a=tmp_path / "day", b=tmp_path / "night", out=tmp_path / "out")
    images = {split: {d: cell["images"] for d, cell in cells.items()} for split, cells in report.counts.items()}
    assert images == {"train": {"A": 6, "B": 6}, "val": {"A": 2, "B": 2}, "test": {"A": 2, "B": 2}}
    assert not any("warning" in line for line in prepare_table(report))


def test_an_empty_night_test_split_is_said(tmp_path: Path) -> None:
    for number in range(4):
        write_image(tmp_path / "day" / ("train", "test")[number % 2] / f"{number}.jpg", picture(number))
        write_image(tmp_path / "night" / "train" / f"night_{number}.jpg", picture(number) // 6)
    report = prepare(a=tmp_path / "day", b=tmp_path / "night", out=tmp_path / "out")
    assert report.counts["test"]["B"]["images"] == 0
    (line,) = [line for line in prepare_table(report) if line.startswith("warning")]
    assert line.startswith("warning: test/B is empty, so nothing can be tested by night; give a --split")
