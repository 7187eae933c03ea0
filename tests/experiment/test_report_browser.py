from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from experiment.browser import CHROMIUM, Browser
from experiment.compare_folder import HOSTILE, add_adaptation, write_compare_folder

from nightaug.experiment.report import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(add_adaptation(write_compare_folder(tmp_path_factory.mktemp("report") / "compare")))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Browser:
    chromium.complaints.clear()
    chromium.loaded.clear()
    return chromium


def visible(browser: Browser, group: str) -> list[str]:
    """Keys of a group's elements that can be seen."""
    keys = browser[
        f"[...document.querySelectorAll('[data-of={group}]')].filter(e=>getComputedStyle(e).display!=='none')"
        ".map(e=>e.dataset.key)"
    ]
    return sorted(set(keys))


def test_the_page_opens_in_silence_and_loads_nothing(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.complaints == []
    assert [address for address in browser.loaded if not address.startswith("data:")] == [page.as_uri()]
    assert browser["[...document.images].every(i=>i.complete&&i.naturalWidth>0)"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(browser: Browser, page: Path, width: int, scheme: str) -> None:
    browser.open(page, width, scheme=scheme)
    assert browser["document.documentElement.scrollWidth"] <= width
    # Whatever is wider than the screen must lie in a box that scrolls by itself.
    wide = browser[
        "[...document.body.querySelectorAll('*')].filter(e=>e.getBoundingClientRect().right>innerWidth+1"
        "&&!e.closest('.scroll')&&!e.closest('dialog')).map(e=>e.tagName+'.'+e.className)"
    ]
    assert wide == []
    light = browser["getComputedStyle(document.body).backgroundColor"] == "rgb(255, 255, 255)"
    assert light == (scheme == "light")


def test_the_slider_moves_by_mouse_and_by_key(browser: Browser, page: Path) -> None:
    browser.open(page)
    at = "getComputedStyle(document.querySelector('.slider .bar')).left"
    width = browser["document.querySelector('.slider').clientWidth"]
    assert float(browser[at][:-2]) == pytest.approx(width / 2, rel=0.02)
    browser.click(".slider input", aside=-0.3)
    moved = float(browser[at][:-2])
    assert moved == pytest.approx(width * 0.2, rel=0.15)
    browser.press("ArrowRight")
    assert float(browser[at][:-2]) == pytest.approx(moved + width / 100, abs=1)
    clip = browser["getComputedStyle(document.querySelector('.slider .after')).clipPath"]
    assert clip.startswith("inset(0px 0px 0px 2")


def test_translators_take_turns_in_the_sliders(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert visible(browser, "pairs") == ["0"]
    browser.click("input[data-picks=pairs][value='1']")
    assert visible(browser, "pairs") == ["1"]


def test_arms_are_chosen_by_mouse_key_and_chip(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert visible(browser, "found") == ["0"]
    browser.click("input[data-picks=found][value='1']")
    assert visible(browser, "found") == ["1"]
    browser.press("ArrowRight")
    assert visible(browser, "found") == ["2"]
    browser.click(".chips button[value='4']")
    assert visible(browser, "found") == ["4"]
    assert browser["document.querySelector('.chips [aria-pressed=true]').value"] == "4"


def test_an_enlarged_picture_goes_through_the_arms(browser: Browser, page: Path) -> None:
    browser.open(page, 390)
    browser.click(".enlarge")
    assert browser["document.getElementById('large').open"]
    assert browser["document.querySelector('dialog .shot img').clientWidth"] > 700
    browser.click("dialog [data-turn='1']")
    assert browser["document.querySelector('dialog output').textContent"].startswith("day+translated:relight")
    assert visible(browser, "found") == ["1"]
    browser.press("Escape")
    assert not browser["document.getElementById('large').open"]
    assert browser.complaints == []


@pytest.mark.parametrize("group", ["curves", "confusion"])
def test_selects_show_one_panel(browser: Browser, page: Path, group: str) -> None:
    browser.open(page)
    assert visible(browser, group) == ["0"]
    browser[
        f"(s=>{{s.value='2';s.dispatchEvent(new Event('change'))}})(document.querySelector('[data-picks={group}]'))"
    ]
    assert visible(browser, group) == ["2"]


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_day_and_night_can_be_told_in_the_scatters(browser: Browser, page: Path, width: int, scheme: str) -> None:
    browser.open(page, width, scheme=scheme)
    style = "getComputedStyle(document.querySelector('.scatter {}')).{}"
    assert browser[style.format("g.c1:not(.night) circle", "fill")] != "none"
    assert browser[style.format("g.c1.night circle", "fill")] == "none"
    ring = browser[style.format("g.c1.night circle", "stroke")]
    assert ring == browser[style.format("g.c1:not(.night) circle", "fill")]
    assert ring != browser[style.format("g.c2.night circle", "stroke")]
    # A mark is some pixels wide, and the two pictures stand side by side where there is room.
    assert browser["document.querySelector('.scatter circle').getBoundingClientRect().width"] > 4
    places = browser[
        "[...document.querySelectorAll('.scatter svg')].map(e=>[e.getBoundingClientRect().x,e.clientWidth])"
    ]
    assert (places[0][0] == places[1][0]) == (width < 600)
    assert all(size > 300 for _, size in places)


def test_curves_of_an_adapted_arm_are_unfolded_and_others_unfold(browser: Browser, page: Path) -> None:
    browser.open(page, 390)
    said = "[...document.querySelectorAll('details')].filter(e=>e.open).map(e=>e.querySelector('b').textContent)"
    assert [name.replace("\u200b", "") for name in browser[said]] == ["day+translated:relight"]
    browser.click("details:not([open]) summary")
    assert len(browser[said]) == 2
    level = browser["getComputedStyle(document.querySelector('.plot .level')).strokeDasharray"]
    assert level != "none"
    # Numbers of the axes keep to their charts.
    left = browser["Math.min(...[...document.querySelectorAll('.small .ys span')].map(e=>e.getBoundingClientRect().x))"]
    assert left >= 0


def test_hostile_names_run_nothing(browser: Browser, tmp_path: Path) -> None:
    page = write_report(add_adaptation(write_compare_folder(tmp_path / "compare", HOSTILE), HOSTILE))
    browser.open(page, 390)
    assert browser.complaints == []
    assert "Page.javascriptDialogOpening" not in browser.events
    assert browser["document.scripts.length"] == 1
    assert browser["document.documentElement.scrollWidth"] <= 390
