from __future__ import annotations

import pytest
import torch

from nightaug.cyclegan.replay_buffer import ReplayBuffer


def images(*values: float) -> torch.Tensor:
    return torch.stack([torch.full((3, 2, 2), float(value)) for value in values])


def test_fakes_pass_through_while_it_fills() -> None:
    buffer = ReplayBuffer(3)
    chance = torch.Generator().manual_seed(0)
    assert torch.equal(buffer.query(images(1, 2), chance), images(1, 2))
    assert len(buffer) == 2


def test_a_full_buffer_returns_old_fakes_about_half_the_time_and_none_is_lost() -> None:
    buffer, chance = ReplayBuffer(10), torch.Generator().manual_seed(0)
    shown = [float(buffer.query(images(i), chance)[0, 0, 0, 0]) for i in range(400)]
    old = [value != i for i, value in enumerate(shown)]
    assert not any(old[:10])
    assert 150 < sum(old) < 240
    # The first ten were shown while it filled and may come again; no later fake is shown twice.
    later = [value for value in shown if value >= 10]
    assert len(set(later)) == len(later)


def test_size_zero_and_gradients() -> None:
    fake = images(1).requires_grad_()
    out = ReplayBuffer(0).query(fake, torch.Generator())
    assert torch.equal(out, fake)
    assert not out.requires_grad
    with pytest.raises(ValueError, match="at least 0"):
        ReplayBuffer(-1)


def test_state_continues_exactly() -> None:
    first, chance = ReplayBuffer(4), torch.Generator().manual_seed(0)
    for i in range(10):
        first.query(images(i), chance)
    second = ReplayBuffer(4)
    second.load_state_dict(first.state_dict())
    outs = []
    for buffer in (first, second):
        chance = torch.Generator().manual_seed(5)
        outs.append(torch.cat([buffer.query(images(100 + i), chance) for i in range(20)]))
    assert torch.equal(*outs)
