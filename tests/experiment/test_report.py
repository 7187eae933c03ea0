from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiment.compare_folder import HOSTILE, write_compare_folder

from nightaug.errors import DatasetError
from nightaug.experiment.report import write_report
from nightaug.experiment.report_charts import forest, line_chart, thin, ticks
from nightaug.experiment.report_pictures import picture_uri
from nightaug.experiment.report_read import Interval
from nightaug.experiment.report_words import points, recovered, signed


class Read(HTMLParser):
    """Every element with its attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_compare_folder(tmp_path_factory.mktemp("report") / "compare")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "compare")


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_page_says_what_was_found(folder: Path) -> None:
    said: list[str] = []
    page = write_report(str(folder), say=said.append)
    text = Read(page.read_text("utf-8")).text
    assert page == folder / "index.html"
    assert any("recovered 49.6 % of the night gap" in line for line in said)
    assert "recovered 49.6 % of the night gap" in text
    assert "demonstration, 10 images" in text
    for cell in ("24.1 ± 0.6", "+5.9", "[4.1, 7.8]", "49.6 %", "[34.6, 66.6]", "night boxes", "baseline", "(noisy)"):
        assert cell in text, cell
    assert "Fell against day: truck (day+translated:cyclegan \u22124.6)" in text
    assert "Not complete" not in text
    for word in ("0123abc", "2 cores", "nightaug compare $DATA --out out", "512 x 288 px", "12.6 minutes", "0.31"):
        assert word in text, word
    assert "12 boxes, too few" in text


def test_lost_classes_come_first_and_rare_ones_last(folder: Path) -> None:
    page = write_report(folder).read_text("utf-8")
    table = page[page.index('<table class="heat">') :]
    rows = re.findall(r'<tr class="(\w*)"><th scope="row">([\w ]+)', table)
    assert rows[0] == ("fell", "truck")
    assert rows[-1] == ("rare", "train")
    assert [name for _, name in rows] == ["truck", "car", "traffic light", "pedestrian", "train"]


def test_a_fall_that_may_be_chance_is_called_so(folder: Path) -> None:
    table = json.loads((folder / "table.json").read_text())
    table["arms"][2]["per_class"]["truck"].update(low=-0.09, high=0.02)
    change(folder / "table.json", arms=table["arms"])
    text = Read(write_report(folder).read_text("utf-8")).text
    assert "Fell against day" not in text
    assert "perhaps by chance: truck" in text


def test_the_markdown_table(folder: Path) -> None:
    write_report(folder)
    lines = (folder / "table.md").read_text("utf-8").splitlines()
    row = next(line for line in lines if line.startswith("| day+translated:relight"))
    assert "| 24.1 ± 0.6 | 41.0 ± 1.1 | +5.9 [4.1, 7.8] | 49.6 % [34.6, 66.6] |" in row
    assert any(line.startswith("| night (ceiling, night boxes)") for line in lines)
    assert any(line.startswith("| truck ▼ | 130 |") for line in lines)


def test_the_page_loads_nothing(folder: Path) -> None:
    page = write_report(folder).read_text("utf-8")
    assert not re.search(r"https?://|@import|url\(", page)
    read = Read(page)
    ids = {attributes.get("id") for _, attributes in read.elements}
    for tag, attributes in read.elements:
        assert (attributes.get("src") or "data:").startswith("data:"), tag
        link = attributes.get("href") or "data:"
        assert link.startswith("data:") or (link[0] == "#" and link[1:] in ids), link
        assert tag not in {"iframe", "object", "embed", "form", "base"}
        if tag == "img":
            assert attributes.get("alt"), "a picture without words"
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert len(scripts) == 1
    sha = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = next(a["content"] or "" for t, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{sha}'" in policy


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    folder = write_compare_folder(tmp_path / "compare", HOSTILE)
    change(folder / "table.json", verdict="<b>won</b> & \u2028 lost", notes=["<i>"], command="x\n</pre><script>")
    page = write_report(folder).read_text("utf-8")
    read = Read(page)
    tags = [tag for tag, _ in read.elements]
    assert tags.count("script") == 1
    assert "i" not in tags or not any(tag == "i" and attributes for tag, attributes in read.elements)
    assert not [name for _, attributes in read.elements for name in attributes if name.startswith("on")]
    assert not [attributes for tag, attributes in read.elements if tag == "img" and attributes.get("src") == "x"]
    assert "<b>won" not in page
    assert 'arm"><script>alert(1)</script>' in read.text.replace("\u200b", "")
    lines = (folder / "table.md").read_text("utf-8").splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables[:7]} == {10}
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables[7:]} == {8}
    assert not re.search(r"(?<!\\)<", "\n".join(tables))


def test_a_gap_that_is_not_measurable(folder: Path) -> None:
    table = json.loads((folder / "table.json").read_text())
    why = "the ceiling is not clearly above day only (1.0 AP, -0.5 to 2.5)"
    for arm in table["arms"]:
        arm["recovered"] = {"day+night": {"not_measurable": why}, "night": {"value": 0.5, "low": 0.1, "high": None}}
    change(folder / "table.json", arms=table["arms"])
    text = Read(write_report(folder).read_text("utf-8")).text
    assert f"not measurable (day+night): {why}" in text
    assert "49.6 % [" not in text
    assert "[10.0, unbounded]" in text
    assert f"Not measurable (day+night): {why}".replace("_", r"\_") in (folder / "table.md").read_text("utf-8")


def test_an_unfinished_comparison_is_reported_as_far_as_it_is(folder: Path) -> None:
    table = json.loads((folder / "table.json").read_text())
    del table["arms"][4]
    table["arms"][1]["seeds"].pop()
    table["arms"][2] |= {"over_day": None, "recovered": {}, "per_class": {}, "AP": {"mean": None, "spread": None}}
    change(folder / "table.json", arms=table["arms"], verdict=None)
    (folder / "compare.yaml").write_text("arms: {day: [], day+night: [], seed-translated: []}\n")
    (folder / "runs/night/seed0/detections.json").unlink()
    (folder / "runs/night/seed1/metrics.json").write_text("{torn")
    (folder / "data/day1.jpg").write_bytes(b"no picture")
    pair = {"source": str(folder / "data/day1.jpg"), "arm": "night", "translated": str(folder / "data/day2.jpg")}
    (folder / "pairs.json").write_text(json.dumps([pair]))
    said: list[str] = []
    text = Read(write_report(folder, say=said.append).read_text("utf-8")).text
    assert "No verdict yet" in text
    assert "Not complete" in text
    for what in (
        "day+translated:relight: seed 1 not finished",
        "seed-translated: no seed finished",
        "day+night: no seed finished",
        "runs/night/seed0/detections.json is not there",
        "runs/night/seed1/metrics.json cannot be used",
        "day1.jpg: not an image",
    ):
        assert what in text, what
    assert "1 of 2" in text
    assert any("more, listed in the page" in line for line in said)


def test_losses_written_in_parts_are_drawn_one_by_one(folder: Path) -> None:
    line = {"step": 10, "classification": 0.4, "box": 0.7, "learning_rate": 0.01, "val_AP": 0.2, "val_AP/car": 0.3}
    for path in folder.glob("runs/*/*/metrics.jsonl"):
        path.write_text(json.dumps(line) + "\n")
    text = Read(write_report(folder).read_text("utf-8")).text
    assert "training loss: classification" in text
    assert "training loss: box" in text
    assert "AP on dev while training" in text
    assert "learning_rate" not in text
    assert "val_AP" not in text


def test_the_table_alone_makes_a_page(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != "table.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = Read(write_report(folder).read_text("utf-8")).text
    assert "24.1 ± 0.6" in text
    assert "truth.json is not there" in text


def test_numbers_that_are_none_or_nan(folder: Path) -> None:
    table = json.loads((folder / "table.json").read_text())
    table["arms"][0]["AP_all"]["mean"] = float("nan")
    table["world_version"] = table["commit"] = table["machine"] = table["score"] = None
    (folder / "table.json").write_text(json.dumps(table))
    text = Read(write_report(folder).read_text("utf-8")).text
    assert "nan" not in text.lower().replace("nightaug", "")
    assert "None" not in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "holds no table.json"),
        ("{", "not a table"),
        ("[]", "not a table"),
        ('{"nightaug": "0.1.0", "arms": [{"name": "a", "slug": "a", "AP": {"mean": "x"}}]}', r"arms\[0\].AP.mean"),
        ('{"nightaug": "9.4.1", "arms": []}', "written by nightaug 9.4.1"),
        ('{"nightaug": "0.1.0", "arms": [{"name": "a", "slug": "../../x"}]}', "no folder name"),
    ],
)
def test_what_is_no_comparison_is_refused_in_one_line(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "table.json").write_text(content)
    with pytest.raises(DatasetError, match=words) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "index.html").exists()


def test_a_comparison_without_a_table_yet_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "compare.yaml").write_text("steps: 5")
    with pytest.raises(DatasetError, match=r"no table.json yet: nightaug compare writes it at its end.*--only"):
        write_report(tmp_path)


def test_further_arms_have_a_line_each_and_the_gap_is_explained(folder: Path) -> None:
    lines = ["day+translated:cyclegan: truck lost 6.0 AP; recovers 12 % of the night gap", "night's <b>: x"]
    change(
        folder / "table.json", others=lines, command="first command\nsecond <command>",
        verdict="Demonstration, 10 images: with X no class lost", notes=["demonstration, 10 images", "other"],
    )  # fmt: skip
    said: list[str] = []
    page = Read(write_report(folder, say=said.append).read_text("utf-8"))
    assert said[1:3] == [f"  {line}" for line in lines]
    assert "The other arms: day+ translated: cyclegan : truck lost 6.0 AP; recovers 12 % of the night gap" in page.text
    assert "night's <b>: x" in page.text
    gap = "night images with their labels (day+night) add to day images alone: +11.9 [9.0, 15.0] AP."
    assert gap in page.text
    # The verdict has said it.
    assert "demonstration, 10 images" not in page.text
    text = (folder / "table.md").read_text()
    assert all(line in text for line in (f"- {lines[0]}", "- other", "    first command\n    second <command>"))
    assert "- demonstration" not in text
    assert "\n\n\n" not in text


def test_the_same_files_make_the_same_page(folder: Path) -> None:
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first
    assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]


def test_pictures_keep_to_their_share() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (720, 1280, 3)).astype(np.uint8)
    large, small = picture_uri(noise, 10_000_000), picture_uri(noise, 60_000)
    assert len(large) > 200_000
    assert len(small) * 3 / 4 < 60_000
    assert picture_uri(noise[:100, :200], 10_000_000).startswith("data:image/jpeg;base64,")


def test_numbers_as_words() -> None:
    assert [points(v) for v in (None, 0.1234, -0.0001, -0.05)] == ["\u2013", "12.3", "0.0", "\u22125.0"]
    assert [signed(v) for v in (0.02, -0.02, 0.0)] == ["+2.0", "\u22122.0", "0.0"]
    assert recovered(Interval(0.5, None, 0.7)) == "50.0 % [unbounded, 70.0]"


def test_charts_of_nothing_and_of_little() -> None:
    assert line_chart("x", [(0, "a", [])], "step") == ""
    assert forest("x", {"a": None}, "AP") == ""
    assert "dot" in line_chart("x", [(0, "a", [(5, 0.5)])], "step")
    assert "dash" in line_chart("x", [(9, "a", [(5, 0.5), (6, 0.5)])], "step")
    assert "NaN" not in forest("x", {"a": Interval(0.0, 0.0, 0.0)}, "AP")
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert len(thin([(float(i), 1.0) for i in range(1000)])) == 160
