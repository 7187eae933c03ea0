from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers import picture

from nightaug.data.frames import Box
from nightaug.experiment.page import Comparison, curve, write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture
def page(tmp_path: Path) -> Path:
    day = picture(0, 320, 180)
    comparisons = [Comparison("a<b>.jpg", day, [("relight", day // 4), ("gan", day // 2)], [Box(5, 6, 50, 60, "a&b")])]
    metrics = [{"step": i, "cycle_a": 1 / i, "score": 2 / i} for i in range(1, 9)]
    path = tmp_path / "index.html"
    write_page(path, "A <title>", ["note & more"], ["a  b", "1  2"], comparisons, [("real", [day])], metrics)
    return path


def test_page_needs_nothing_from_elsewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    assert "A &lt;title&gt;" in text
    assert "note &amp; more" in text
    assert text.count('type="range"') == 2
    assert text.count("<polyline") == 2
    assert text.count('<rect x="5.0" y="6.0" width="45.0" height="54.0"><title>a&amp;b') == 2

    class Strict(HTMLParser):
        def error(self, message: str) -> None:
            raise AssertionError(message)

    Strict().feed(text)


def test_curve_of_nothing_and_of_one_point() -> None:
    assert curve("x", {}) == ""
    assert "<circle" in curve("x", {"a": [(5, 0.5)]})


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("at", [10, 90])
def test_slider_uncovers_the_night(page: Path, tmp_path: Path, at: int) -> None:
    assert CHROMIUM is not None
    moved = page.with_name("moved.html")
    script = (
        f"<script>const i=document.querySelector('.slider input');i.value={at};i.dispatchEvent(new Event('input'));"
        "document.body.prepend(document.querySelector('.slider'))</script></body>"
    )
    moved.write_text(page.read_text("utf-8").replace("</body>", script), "utf-8")
    shot = tmp_path / "shot.png"
    command = [
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=400,700",
        f"--screenshot={shot}",
        moved.as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=90)
    from nightaug.images import read_image

    image = read_image(shot)
    # The slider was moved to the top of the page: left of the handle it is day, right of it night.
    row = image[40:160, 30:370].astype(float).mean((0, 2))
    day, night = picture(0, 320, 180).mean(), (picture(0, 320, 180) // 4).mean()
    share_day = float(np.mean(np.abs(row - day) < np.abs(row - night)))
    assert abs(share_day - at / 100) < 0.12
