from __future__ import annotations

import torch

from nightaug.cyclegan.prototypes import Prototypes, class_sums


def test_sums_weigh_places_by_the_share_a_class_covers() -> None:
    chance = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 4, 4, generator=chance)
    labels = torch.randint(0, 4, (2, 16, 16), generator=chance).to(torch.uint8)
    labels[labels == 2] = 255
    sums = class_sums(features, labels, 3)
    for k in (1, 2, 3):
        expected = torch.zeros(4)
        for n in range(2):
            for y in range(4):
                for x in range(4):
                    share = (labels[n, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] == k).float().mean()
                    expected += torch.cat([features[n, :, y, x], torch.ones(1)]) * share
        assert torch.allclose(sums[k - 1], expected, atol=1e-5)
    assert not sums[1].any()


def test_the_first_sight_sets_a_prototype_and_later_ones_move_it() -> None:
    held = Prototypes(3, 2, 0.75)
    assert held.known().shape == (0, 2)
    held.update(torch.tensor([[2.0, 4.0, 2.0], [0, 0, 0], [0, 0, 0]]))
    assert held.known().tolist() == [[1.0, 2.0]]
    held.update(torch.tensor([[5.0, 6.0, 1.0], [0, 0, 0], [0.5, 0.0, 0.5]]))
    assert held.known().tolist() == [[2.0, 3.0], [1.0, 0.0]]
    held.update(torch.zeros(3, 3))
    again = Prototypes(3, 2, 0.75)
    again.load_state_dict(held.state_dict())
    assert again.known().tolist() == [[2.0, 3.0], [1.0, 0.0]]
    assert again.seen.tolist() == [True, False, True]
