"""Class names to text embeddings."""

from __future__ import annotations

import pytest
import torch

from nightaug.clip.encoder import Clip
from nightaug.clip.prompts import Prompts, fill_template
from nightaug.data.classes import ALIASES, BDD100K_CLASSES
from nightaug.errors import ConfigError


def test_unit_length_distinct_and_the_same_for_every_alias(clip: Clip) -> None:
    prompts = Prompts(clip)
    classes = prompts.embed(BDD100K_CLASSES)
    assert classes.shape == (10, clip.width)
    torch.testing.assert_close(classes.norm(dim=1), torch.ones(10))
    assert len({tuple(row.tolist()) for row in classes}) == 10
    for alias, name in ALIASES.items():
        assert torch.equal(prompts.embed([alias])[0], prompts.embed([name])[0]), alias
        assert torch.equal(Prompts(clip).embed([alias.upper()])[0], prompts.embed([name])[0])


def test_the_ensemble_is_the_mean_of_its_sentences(clip: Clip) -> None:
    prompts = Prompts(clip, ("a {}.", "a {} at night"), {"bike": ("bicycle", "bike")})
    said = ["a bicycle.", "a bicycle at night", "a bike.", "a bike at night"]
    assert prompts.sentences("bike") == said
    expected = torch.nn.functional.normalize(torch.cat([clip.embed_text([text]) for text in said]).mean(0), dim=0)
    torch.testing.assert_close(prompts.embed(["bicycle"])[0], expected)


def test_each_class_is_asked_once(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = Prompts(clip)
    asked: list[int] = []
    embed = clip.embed_text
    monkeypatch.setattr(clip, "embed_text", lambda texts: (asked.append(len(texts)), embed(texts))[1])
    first = prompts.embed(["car", "ambulance", "car"])
    again = prompts.embed(["ambulance", "car"])
    assert torch.equal(first[[1, 0]], again)
    assert len([count for count in asked if count]) == 1
    assert prompts.embed([]).shape == (0, clip.width)


def test_articles_and_wrong_templates(clip: Clip) -> None:
    assert fill_template("a photo of a {}.", "ambulance") == "a photo of an ambulance."
    assert fill_template("a {}", "owl") == "an owl"
    assert fill_template("the visa {}", "owl") == "the visa owl"
    for templates in ((), ("a photo",), ("{} and {}",)):
        with pytest.raises(ConfigError):
            Prompts(clip, templates)
