from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from experiment.compare_folder import HOSTILE, add_adaptation, write_compare_folder

from nightaug.experiment.report import write_report
from nightaug.experiment.report_charts import Level, line_chart
from nightaug.experiment.report_training import level_of, mean_of_seeds

ARM = "day+translated:relight"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_adaptation(write_compare_folder(tmp_path_factory.mktemp("report") / "compare"))


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "compare")


def section(page: Path, key: str) -> str:
    """The HTML of a part of the page."""
    found = re.search(rf'<section><h2 id="{key}">.*?</section>', page.read_text("utf-8"), re.S)
    return found[0] if found else ""


def words(text: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", text).replace("\xa0", " ").split())


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# -- features ------------------------------------------------------------------------------------------------------


def test_features_before_and_after_with_their_numbers(folder: Path) -> None:
    part = section(write_report(folder), "features")
    told = words(part)
    assert "tells day from night for 86 % of the regions (guessing: 50 %)" in told
    assert "names the class of 47 % of the night regions, classes counting alike (guessing: 14 %)" in told
    assert "After the training day and night are more alike (86 % to 58 %), and classes" in told
    assert "known better at night (31 % to 47 %)" in told
    assert "axes hold 21 and 12 % of the variance" in told
    pictures = re.findall(r'<svg viewBox="0 0 400 300" role="img" aria-label="([^"]*)">(.*?)</svg>', part, re.S)
    assert [label.split(" the training")[0] for label, _ in pictures] == ["Before", "After"]
    for label, drawn in pictures:
        assert "210 day and 210 night regions" in label
        assert drawn.count("<circle") == 420
        places = re.findall(r'cx="([\d.-]+)" cy="([\d.-]+)"', drawn)
        assert all(0 < float(x) < 400 and 0 < float(y) < 300 for x, y in places)
        assert len(set(places)) > 300
        # Five classes with the most test boxes in colour, the rest grey and beneath them; day, then night.
        groups = re.findall(r'<g class="(c\d)( night)?"><title>([\w ]+), (day|night)</title>', drawn)
        assert [name for kind, ring, name, _ in groups if kind == "c1"] == ["car", "car"]
        assert {name for kind, *_, name, _ in groups if kind == "c0"} == {"bus", "rider"}
        assert [kind for kind, *_ in groups[:4]] == ["c0"] * 4
        assert all((ring == " night") == (time == "night") for _, ring, _, time in groups)
    assert "other classes" in told


def test_night_that_lies_to_the_right_is_drawn_to_the_right(folder: Path) -> None:
    part = section(write_report(folder), "features")
    middles = {}
    for title, drawn in zip(("before", "after"), re.findall(r"<svg.*?</svg>", part, re.S), strict=True):
        for kind in ("", " night"):
            dots = re.findall(rf'<g class="c1{kind}">.*?</g>', drawn, re.S)
            spots = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', dots[0])
            middles[title, kind] = [sum(float(spot[at]) for spot in spots) / len(spots) for at in (0, 1)]
    assert middles["before", " night"][0] > middles["before", ""][0] + 20
    assert middles["before", " night"][1] < middles["before", ""][1] - 20  # up is a smaller y
    shifts = [middles[side, " night"][0] - middles[side, ""][0] for side in ("before", "after")]
    assert abs(shifts[1]) < shifts[0] / 3


def test_a_few_far_points_do_not_squeeze_the_others(folder: Path) -> None:
    path = folder / "runs/day+translated-relight/seed0/embedding.json"
    after = json.loads(path.read_text())["after"]
    for spot in after["points"][-7:]:
        spot[0] += 1000.0
    change(path, after=after)
    drawn = re.findall(r"<svg.*?</svg>", section(write_report(folder), "features"), re.S)[1]
    places = sorted(float(x) for x in re.findall(r'cx="([\d.]+)"', drawn))
    assert places[-1] == 392.0  # on the edge
    assert places[int(0.9 * len(places))] - places[int(0.1 * len(places))] > 100


def test_the_first_seed_that_has_features_is_shown_and_arms_take_turns(folder: Path) -> None:
    embedding = folder / "runs/day+translated-relight/seed0/embedding.json"
    shutil.move(embedding, folder / "runs/day+translated-relight/seed1/embedding.json")
    shutil.copy(folder / "runs/day+translated-relight/seed1/embedding.json", folder / "runs/day+night/seed0")
    part = section(write_report(folder), "features")
    assert re.findall(r"<option[^>]*>([^<]*)", part) == [ARM, "day+night"]
    assert part.count('data-of="features"') == 2
    assert "Seed 1." in part
    shutil.copy(folder / "runs/day+translated-relight/seed1/embedding.json", embedding)
    arms = json.loads((folder / "table.json").read_text())["arms"]
    arms[1]["seeds"].reverse()
    change(folder / "table.json", arms=arms)
    assert "Seed 1." not in section(write_report(folder), "features")


def test_without_features_there_is_no_section(folder: Path) -> None:
    (folder / "runs/day+translated-relight/seed0/embedding.json").unlink()
    page = write_report(folder)
    assert section(page, "features") == ""
    assert "embedding.json" not in page.read_text("utf-8")


@pytest.mark.parametrize(
    "change_to",
    [
        {"before": {"points": [[0, 0, 7, 0]]}},
        {"before": {"points": [[0, 0, 0, 2]]}},
        {"before": {"points": [[0, 0, -1, 0]]}},
        {"after": {"points": [["x", 0, 0, 0]]}},
        {"after": {"points": [[None, 0, 0, 0]]}},
    ],
)
def test_damaged_features_are_named_as_missing(folder: Path, change_to: dict[str, Any]) -> None:
    change(folder / "runs/day+translated-relight/seed0/embedding.json", **change_to)
    page = write_report(folder)
    assert section(page, "features") == ""
    assert "seed0/embedding.json cannot be used" in words(page.read_text("utf-8"))


def test_features_of_nothing_and_without_numbers(folder: Path) -> None:
    path = folder / "runs/day+translated-relight/seed0/embedding.json"
    path.write_text(json.dumps({"classes": ["car"], "before": {"points": []}, "after": {"points": [[1, 1, 0, 0]] * 3}}))
    told = words(section(write_report(folder), "features"))
    assert told.count("Too few regions for numbers.") == 2
    assert "After the training" not in told
    assert "nan" not in told


# -- curves --------------------------------------------------------------------------------------------------------


def test_every_named_loss_of_an_arm_has_its_chart(folder: Path) -> None:
    part = section(write_report(folder), "training")
    arms = re.findall(r"<details( open)?><summary><b>(.*?)</b> (\d+) curves</summary>(.*?)</details>", part, re.S)
    assert {(words(name).replace(" ", ""), bool(is_open), count) for is_open, name, count, _ in arms} == {
        (ARM, True, "7"),
        *((name, False, "1") for name in ("day", "night", "day+night", "day+translated:cyclegan")),
    }
    arms = [arm for arm in arms if arm[0]]
    charts = re.findall(r'<figure class="chart"><figcaption>([^<]*)', arms[0][3])
    assert charts == [
        "box",
        "cluster",
        "node_domain",
        "pyramid_domain",
        "quality_auc",
        "target_objects",
        "odd&amp;&lt;name&gt;",
    ]
    told = words(arms[0][3])
    assert "dashed: cannot tell (0.693)" in told
    assert "dashed: cannot tell (6.93)" in told
    assert told.index("Losses of the detector") < told.index("Losses of the night head") < told.index("Other numbers")
    levels = re.findall(r'class="level" d="M0.00 ([\d.-]+)L100.00 ([\d.-]+)"', arms[0][3])
    assert len(levels) == 3
    assert all(left == right and 0 < float(left) < 100 for left, right in levels)


def test_the_sum_of_an_adapted_arm_is_not_drawn_beside_the_others(folder: Path) -> None:
    part = section(write_report(folder), "training")
    chart = re.search(r"<figcaption>training loss: loss<.*?</figure>", part, re.S)
    assert chart is not None
    plain = [path for path in folder.glob("runs/*/*/metrics.jsonl") if "node_domain" not in path.read_text()]
    assert chart[0].count('class="line') == len(plain) < len(list(folder.glob("runs/*/*/metrics.jsonl")))
    assert "The sum of an adapted arm is not shown" in words(part)


def test_a_chart_is_the_mean_of_the_seeds(folder: Path) -> None:
    part = section(write_report(folder), "training")
    chart = re.search(r"<figcaption>cluster<.*?</figure>", part, re.S)
    assert chart is not None
    assert chart[0].count('class="line') == 1
    assert mean_of_seeds([[(1, 2.0), (2, 4.0)], [], [(2, 8.0), (3, 1.0)]]) == [(2, 6.0)]
    assert mean_of_seeds([[(1, 2.0)], [(3, 1.0)]]) == [(1, 2.0), (3, 1.0)]
    assert mean_of_seeds([[], []]) == []


def test_a_level_far_from_the_line_is_in_the_chart() -> None:
    for far in (9.0, -9.0):
        chart = line_chart("x", [(0, "a", [(0, 1), (1, 2)])], "step", level=Level(far, "there"))
        height = re.search(r'class="level" d="M0.00 ([\d.-]+)L', chart)
        assert height is not None
        assert 0 < float(height[1]) < 100


def test_where_an_adversary_cannot_tell() -> None:
    def at(key: str, detector: str | None) -> float | None:
        level = level_of(key, detector)
        return None if level is None else level.at

    assert at("node_domain", None) == pytest.approx(math.log(2))
    assert at("pyramid_domain", "fcos-resnet50") == pytest.approx(10 * math.log(2))
    assert at("pyramid_domain", "yolo11n") == pytest.approx(6 * math.log(2))
    assert at("pyramid_domain", "my.yaml") is None
    assert at("pyramid_domain", None) is None
    assert at("cluster", "fcos-resnet50") is None


# -- ablation ------------------------------------------------------------------------------------------------------


def test_parts_that_help_and_parts_that_do_not(folder: Path) -> None:
    page = write_report(folder)
    told = words(section(page, "ablation"))
    assert "Parts that help: sampler." in told
    assert "Parts that do harm: pyramid_domain." in told
    # The interval of matching excludes 0, but the difference is within the spread of the day arm.
    assert (
        "No effect shown: matching, structure (the interval contains 0, or the difference is within the spread" in told
    )
    assert "the day arm, 0.6 AP)" in told
    assert "one seed" not in told
    assert "sampler 24.1 22.9 +1.2 [0.8, 1.7] yes 0, 1" in told
    assert "pyramid_ domain 24.1 25.2 \u22121.1 [\u22121.5, \u22120.6] yes 0, 1" in told
    text = (folder / "table.md").read_text("utf-8")
    assert "| sampler | 24.1 | 22.9 | +1.2 \\[0.8, 1.7\\] | yes | 0, 1 |" in text
    assert "with each part left out. Parts that help: sampler." in text


def test_several_ablations_and_one_seed(folder: Path) -> None:
    row = {"part": "teacher", "AP_with": 0.2, "AP_without": 0.19, "difference": 0.01, "low": 0.004, "high": 0.02}
    other = {"arm": "day+adapt", "rows": [row | {"seeds": [0], "exceeds_spread": None}], "day_spread": None}
    change(folder / "table.json", other_ablations=[other, {"arm": "empty", "rows": [], "day_spread": None}])
    said: list[str] = []
    told = words(section(write_report(folder, said.append), "ablation"))
    assert [line.split(" with each part left out")[0] for line in said if "left out" in line][1:] == ["day+adapt"]
    assert "Parts that help: teacher. An interval of one seed does not hold the chance of training" in told
    assert "teacher 20.0 19.0 +1.0 [0.4, 2.0] \u2013 0" in told
    assert "empty" not in told
    change(folder / "table.json", other_ablations=[], ablation=None)
    assert section(write_report(folder), "ablation") == ""


def test_hostile_names_of_an_adapted_arm_stay_text(tmp_path: Path) -> None:
    folder = add_adaptation(write_compare_folder(tmp_path / "compare", HOSTILE), HOSTILE)
    page = write_report(folder).read_text("utf-8")
    assert "<img src=x" not in page
    assert page.count("<script>") == 1
    assert "odd&<name>" not in page
