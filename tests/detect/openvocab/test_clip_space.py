from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from openvocab_toys import seeded, unit

from nightaug.detect.openvocab.clip_space import ClipSpace, embedding_l1, embedding_width
from nightaug.errors import ConfigError


def test_the_loss_is_the_mean_of_the_norms() -> None:
    found, clip = unit(7, 5), unit(7, 5, seed=1)
    naive = sum(
        sum(abs(float(a) - float(b)) for a, b in zip(x, y, strict=True)) for x, y in zip(found, clip, strict=True)
    )
    assert embedding_l1(found, clip).item() == pytest.approx(naive / 7, rel=1e-5)
    # Opposite corners: 2 in one number of each of two rows.
    assert embedding_l1(torch.eye(2), -torch.eye(2)).item() == pytest.approx(2)
    assert embedding_l1(clip, clip).item() == 0


def test_a_region_without_an_embedding_does_not_count() -> None:
    found, clip = unit(4, 5).requires_grad_(), unit(4, 5, seed=1)
    clip[1] = 0
    loss = embedding_l1(found, clip)
    loss.backward()
    assert loss.item() == pytest.approx((found - clip).abs().sum(1)[[0, 2, 3]].mean().item(), rel=1e-6)
    assert found.grad[1].eq(0).all()
    assert found.grad[0].abs().sum() > 0


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_regions(count: int) -> None:
    space = ClipSpace(6, 4, 2)
    features = torch.randn(count, 6, generator=seeded()).requires_grad_()
    for clip in (unit(count, 4, seed=1), torch.zeros(count, 4)):
        loss = embedding_l1(space(features), clip)
        loss.backward()
        assert loss.isfinite()
        assert space.project.weight.grad.isfinite().all()
        assert (loss.item() > 0) == (count > 0 and bool(clip.any()))


def test_embeddings_are_unit_vectors_in_fp32_also_under_autocast() -> None:
    space = ClipSpace(6, 4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = space(torch.randn(5, 6, generator=seeded()))
    assert found.dtype == torch.float32
    assert torch.allclose(found.norm(dim=1), torch.ones(5), atol=1e-6)


def test_text_is_normalised_kept_in_the_weights_and_must_be_as_wide() -> None:
    space = ClipSpace(6, 4, 2)
    assert not space.told
    space.set_text(torch.full((3, 4), 5.0))
    assert space.told
    assert torch.allclose(space.state_dict()["text"], torch.full((3, 4), 0.5))
    with pytest.raises(ConfigError, match=r"5 wide, this detector's 4"):
        space.set_text(torch.ones(3, 5))


def test_a_detector_that_does_not_say_how_wide_clip_is() -> None:
    assert embedding_width({"embedding": 12}) == 12
    with pytest.raises(ConfigError, match="openvocab train"):
        embedding_width({})


def test_training_the_projection_brings_regions_to_clips_embeddings() -> None:
    torch.manual_seed(0)
    space, features = ClipSpace(16, 8, 1), torch.randn(40, 16, generator=seeded())
    wanted = F.normalize(features @ torch.randn(16, 8, generator=seeded(1)), dim=1)
    optimizer = torch.optim.Adam(space.parameters(), 0.02)
    first = embedding_l1(space(features), wanted).item()
    for _ in range(100):
        optimizer.zero_grad()
        loss = embedding_l1(space(features), wanted)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2 * first
