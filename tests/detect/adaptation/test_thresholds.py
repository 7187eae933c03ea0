from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from nightaug.detect.adaptation.settings import AdaptationSettings
from nightaug.detect.adaptation.thresholds import BINS, CEILING, DECAY, PseudoThresholds, per_image
from nightaug.detect.detectors.base import Found

#: More objects of the first class than of the second, as many as of the third; the fourth is never labelled.
RATES = torch.tensor([8.0, 2.0, 8.0, 0.0])


def balanced(share: float = 0.5, **changes: Any) -> PseudoThresholds:
    settings = AdaptationSettings(thresholds="balanced", foreground_share=share, **changes)
    return PseudoThresholds(4, settings)


def regions(seed: int, images: int = 2, count: int = 600) -> Tensor:
    """Class scores of a target's regions: class 0 is found easily, 1 and 2 with low scores, most is background."""
    draw = torch.Generator().manual_seed(seed)
    scores = 0.04 * torch.rand(images, count, 4, generator=draw)
    for at, (number, high) in enumerate(((0, 0.95), (1, 0.5), (2, 0.4), (3, 0.8))):
        mine = slice(30 * at, 30 * (at + 1))
        scores[:, mine, number] = 0.06 + (high - 0.06) * torch.rand(images, 30, generator=draw)
    return scores


def naive(steps: list[tuple[Tensor, Tensor]], share: float, floor: float) -> list[float]:
    """The docstring, region by region."""
    out = []
    for k in range(4):
        weights = [DECAY ** (len(steps) - 1 - n) for n in range(len(steps))]
        rate = sum(w * float(counts[k]) for w, (counts, _) in zip(weights, steps, strict=True))
        own = []
        for w, (_, scores) in zip(weights, steps, strict=True):
            best, label = scores.flatten(0, 1).max(1)
            kept = best[(label == k) & (best > 0.05)].tolist()
            own += [(value, w / len(scores)) for value in kept]
        value = next(
            b / BINS for b in range(BINS + 1) if sum(w for s, w in own if s >= b / BINS) <= share * rate + 1e-6
        )
        out.append(CEILING if rate == 0 else 0.5 if not own else min(max(value, floor), CEILING))
    return out


def test_fixed_is_one_number_and_learns_nothing() -> None:
    thresholds = PseudoThresholds(4, AdaptationSettings(foreground=0.37))
    thresholds.update(RATES, regions(0))
    assert thresholds.values().tolist() == pytest.approx([0.37] * 4)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_balanced_thresholds_are_those_of_the_definition(share: float) -> None:
    thresholds = balanced(share, foreground_floor=0.1)
    draw = torch.Generator().manual_seed(1)
    steps = [(RATES * torch.rand(4, generator=draw), regions(seed, images=1 + seed % 3)) for seed in range(12)]
    for counts, scores in steps:
        thresholds.update(counts, scores)
    assert thresholds.values().dtype == torch.float32
    assert thresholds.values().tolist() == pytest.approx(naive(steps, share, 0.1))


def test_the_target_then_shows_the_wanted_share_of_each_class() -> None:
    thresholds = balanced(0.5, foreground_floor=0.06)
    for seed in range(300):
        thresholds.update(RATES, regions(seed))
    best, label = regions(999, images=200).max(2)
    shown = per_image(torch.where(best >= thresholds.values()[label], label, -1).flatten(), 200, 4)
    torch.testing.assert_close(shown[:3], 0.5 * RATES[:3], atol=0.5, rtol=0)  # a step of the score holds up to 0.4
    assert thresholds.values()[0] > thresholds.values()[1] > 0.4, "what night hides gets a lower threshold"


def test_before_anything_is_seen_and_for_classes_one_side_never_shows() -> None:
    thresholds = balanced(foreground_floor=0.2)
    assert thresholds.values().tolist() == [0.5] * 4
    thresholds.update(RATES, torch.zeros(0, 100, 4))
    assert thresholds.values().tolist() == [0.5] * 4, "no target image"
    thresholds.update(RATES, torch.zeros(2, 0, 4))
    assert thresholds.values().tolist() == pytest.approx([0.5, 0.5, 0.5, CEILING]), "no region"
    scores = torch.zeros(1, 3, 4)
    scores[0, 0, 1] = 0.3
    scores[0, 1, 3] = 0.3
    scores[0, 2, 2] = 0.05  # not over background
    thresholds.update(RATES, scores)
    assert thresholds.values().tolist() == pytest.approx([0.5, 0.2, 0.5, CEILING])


def test_thresholds_stay_between_floor_and_ceiling() -> None:
    scores = torch.zeros(1, 40, 4)
    scores[0, :20, 0] = torch.linspace(0.97, 1.0, 20)  # more than the source has, and all of them sure
    scores[0, 20:, 1] = torch.linspace(0.06, 0.1, 20)
    thresholds = balanced(1.0, foreground_floor=0.25)
    thresholds.update(torch.tensor([8.0, 30.0, 8.0, 0.0]), scores)
    assert thresholds.values().tolist()[:2] == pytest.approx([CEILING, 0.25])


def test_an_old_step_is_forgotten() -> None:
    thresholds = balanced(1.0)
    high, low = torch.zeros(1, 10, 4), torch.zeros(1, 10, 4)
    high[..., 0], low[..., 0] = 0.8, 0.4
    one = torch.tensor([5.0, 0, 0, 0])
    thresholds.update(one, high)
    assert 0.8 < thresholds.values()[0] <= 0.81
    for _ in range(500):
        thresholds.update(one, low)
    assert 0.4 < thresholds.values()[0] <= 0.41


def test_evaluation_mode_changes_nothing_and_state_resumes_exactly() -> None:
    thresholds = balanced()
    for seed in range(5):
        thresholds.update(RATES, regions(seed))
    before = thresholds.values()
    thresholds.eval()
    thresholds.update(100 * RATES, regions(77))
    assert thresholds.values().equal(before)
    file = io.BytesIO()
    torch.save(thresholds.state_dict(), file)
    file.seek(0)
    again = balanced()
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again.values().equal(before)
    thresholds.train()
    for one in (thresholds, again):
        one.update(RATES, regions(8))
    assert again.values().equal(thresholds.values())
    assert not again.values().equal(before)
    assert not list(thresholds.parameters())


def test_no_gradient_and_full_precision_under_autocast() -> None:
    wanted, found = balanced(), balanced()
    scores = regions(3).bfloat16()
    wanted.update(RATES, scores.float())
    with torch.autocast("cpu", torch.bfloat16):
        found.update(RATES.bfloat16(), scores.requires_grad_())
    assert found.values().equal(wanted.values())
    assert not found.values().requires_grad


def test_detections_count_as_regions_do() -> None:
    scores = regions(4, images=3)
    best, label = scores.max(2)
    found = [Found(torch.zeros(len(b), 4), b, n) for b, n in zip(best, label, strict=True)]
    ours, theirs = balanced(), balanced()
    ours.update(RATES, scores)
    theirs.update_found(RATES, found)
    assert theirs.values().equal(ours.values())
    theirs.update_found(RATES, [])
    assert theirs.values().equal(ours.values())


def test_counts_an_image() -> None:
    assert per_image(torch.tensor([0, 2, -1, 2, 2]), 2, 4).tolist() == [0.5, 0, 1.5, 0]
    assert per_image(torch.zeros(0, dtype=torch.long), 0, 4).tolist() == [0] * 4
