"""The page of the worst translations: its words can be read whatever size the images have."""

from __future__ import annotations

import re

import pytest

from nightaug.curate.gallery import _overlay
from nightaug.curate.scores import BoxScore, ImageScore, Invented


@pytest.mark.parametrize("width", [128, 640, 1280, 3840])
def test_words_are_as_large_on_every_picture_and_stay_inside(width: int) -> None:
    left, right = (0.0, 0.0, 0.1 * width, 0.1 * width), (0.95 * width, 0.3 * width, 1.0 * width, 0.4 * width)
    image = ImageScore(
        output="a.jpg", source="a.jpg", sha256="",
        boxes=[BoxScore(index=0, category="traffic light", xyxy=right, kept=0.1)],
        invented=[Invented(kind="object", category="motorcycle", xyxy=left, score=0.5)],
    )  # fmt: skip
    drawn = _overlay(image, (width, width // 2), after=True)
    found = re.search(r'viewBox="0 0 (\d+) \d+".*?font-size:([\d.]+)px', drawn)
    assert found
    # A picture is some 600 pixels wide on the page.
    size = float(found[2])
    assert 10 < size * 600 / float(found[1]) < 16
    words = re.findall(r'<text x="([\d.]+)"( text-anchor="end")? y="([\d.]+)">(.*?)</text>', drawn)
    assert [note for *_, note in words] == ["traffic light 0.10", "motorcycle 0.50"]
    for x, ends, y, note in words:
        long = 0.6 * size * len(note)
        first = float(x) - (long if ends else 0)
        assert first >= 0
        assert first + long <= width
        assert float(y) >= size
