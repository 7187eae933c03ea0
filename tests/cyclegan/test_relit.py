"""Training from relit days, and what translating with such weights does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cyclegan_runs import TINY, same, weights
from helpers import picture

from nightaug.config import load_yaml
from nightaug.cyclegan.distill import run_distill
from nightaug.cyclegan.recipe import run_recipe
from nightaug.cyclegan.relit import read_relit
from nightaug.cyclegan.translator import CycleGANTranslator
from nightaug.data.frames import Box
from nightaug.errors import ConfigError, DatasetError
from nightaug.images import list_images, write_image
from nightaug.relight import LOOK, relight
from nightaug.transforms import DayToNight
from nightaug.translate.translators import Translator

DISTILL = {
    "width": 4, "blocks": 1, "halvings": 2, "crop": 64, "load_size": 64, "batch": 1, "steps": 1, "score_images": 2,
    "sample_height": 64, "mixed_precision": "fp32", "tensorboard": False,
}  # fmt: skip


@pytest.fixture
def relit(domains: Path, tmp_path: Path) -> Path:
    """A folder as ``nightaug translate --translator relight`` leaves it, strength 0.5."""
    folder, rows = tmp_path / "relit", []
    for path in (path for split in ("train", "val") for path in list_images(domains / split / "A")):
        output = f"{path.parent.parent.name}/B/{path.name}"
        write_image(folder / output, np.full((64, 96, 3), 20, np.uint8))
        rows.append({"source": path.relative_to(domains).as_posix(), "output": output})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = {"translator": "relight", "finished": True, "settings": {"strength": 0.5, "look": LOOK}}
    (folder / "translation.json").write_text(json.dumps(facts))
    return folder


def test_the_relit_days_are_what_is_trained_on_and_relight_comes_before_the_network(
    domains: Path, relit: Path, tmp_path: Path
) -> None:
    settings = TINY | {"steps": 2}
    run_recipe(domains, tmp_path / "plain", [settings])
    run_recipe(domains, tmp_path / "refines", [settings, {"day": str(relit)}])
    assert not same(weights(tmp_path / "plain"), weights(tmp_path / "refines"))
    network = CycleGANTranslator.load(tmp_path / "refines", device="cpu")
    assert network.relit == 0.5
    assert CycleGANTranslator.load(tmp_path / "plain", device="cpu").relit is None
    image, boxes = picture(3), [Box(10, 10, 40, 40, "car")]
    both = Translator.load(tmp_path / "refines", device="cpu")
    wanted = network(relight(image, boxes, seed=5, strength=0.5))
    assert np.array_equal(both(image, boxes, 5), wanted)
    assert not np.array_equal(both(image, None, 5), wanted), "lamps are lit where the boxes are"
    assert both.settings["relit"] == 0.5
    assert both.settings["look"] == LOOK, "a folder begun under another look of relight is not gone on with"
    # In somebody else's pipeline the boxes come along, too.
    night = DayToNight(both, p=1.0, strength=1.0, classes=["car"])
    drawn = night.draw(image)
    made = night.apply(image, drawn, [[10, 10, 40, 40]], [0])
    assert np.array_equal(made, both(image, boxes, drawn.seed))
    with pytest.raises(ConfigError, match="no way to a real day"):
        Translator.load(tmp_path / "refines", "night2day", device="cpu")


def test_a_run_with_a_relative_folder_of_relit_days_is_resumed_from_elsewhere(
    domains: Path, relit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    relit.rename(tmp_path / "here" / "relit")
    monkeypatch.chdir(tmp_path / "here")
    out = tmp_path / "run"
    short = TINY | {"save_every": 1}
    assert run_recipe(domains, out, [short, {"day": "relit", "steps": 1}]) is not None
    assert load_yaml(out / "config.yaml")["day"] == str(tmp_path / "here" / "relit")
    monkeypatch.chdir(tmp_path / "there")
    for steps, day in enumerate((load_yaml(out / "config.yaml")["day"], "../here/relit"), 2):
        result = run_recipe(domains, out, [short, {"day": day, "steps": steps}], resume=True)
        assert result is not None
        assert result.step == steps
    # A student is taught by days that are relit likewise.
    words = DISTILL | {"day": "../here/relit"}
    run_distill(out, domains, tmp_path / "small", [words], cpu=True)
    assert load_yaml(tmp_path / "small" / "config.yaml")["day"] == str(tmp_path / "here" / "relit")


def test_what_is_no_folder_of_relit_days_is_refused(domains: Path, relit: Path, tmp_path: Path) -> None:
    days = list_images(domains / "train" / "A")
    assert set(read_relit(str(relit), domains, days).of) == set(days)
    assert read_relit(None, domains, days).of == {}
    with pytest.raises(DatasetError, match=r"no folder of translated images .*; make it with: nightaug translate"):
        read_relit(str(tmp_path / "nowhere"), domains, days)
    first = list_images(relit / "train" / "B")[0]
    first.unlink()
    with pytest.raises(ConfigError, match=f"1 of the {len(days)} day images have no relit version"):
        read_relit(str(relit), domains, days)
    facts = json.loads((relit / "translation.json").read_text())
    (relit / "translation.json").write_text(json.dumps(facts | {"translator": "runs/gan"}))
    with pytest.raises(ConfigError, match="only relit days can be refined"):
        read_relit(str(relit), domains, days)
    (relit / "translation.json").write_text(json.dumps(facts | {"finished": False}))
    with pytest.raises(ConfigError, match="not finished"):
        read_relit(str(relit), domains, days)
    own = facts | {"settings": facts["settings"] | {"relight": {"far_lights": 40}}}
    (relit / "translation.json").write_text(json.dumps(own))
    with pytest.raises(ConfigError, match="relit with --set far_lights"):  # who translates later could not repeat it
        read_relit(str(relit), domains, days)
    (relit / "translation.json").write_text(json.dumps(facts))
    row = {"source": days[0].relative_to(domains).as_posix(), "output": "../../outside.png"}
    (relit / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DatasetError, match="outside of it"):
        read_relit(str(relit), domains, days)
