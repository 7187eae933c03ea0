from __future__ import annotations

import pytest
import torch
from torch import nn

from nightaug.cyclegan.blocked import BlockConv, pays, use_blocks
from nightaug.cyclegan.networks import ResnetGenerator, initialize
from nightaug.cyclegan.student import Generator, StudentGenerator

#: A little more than rounding: the sums are the same, their order is the library's.
ROUNDING = 1e-5


def drawn(module: nn.Module) -> nn.Module:
    initialize(module, torch.Generator().manual_seed(0), std=0.1)
    for name, value in module.named_parameters():
        if name.endswith("bias"):  # initialised as 0, which would hide a mistake
            nn.init.uniform_(value, -1, 1)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize(("height", "width"), [(16, 24), (2, 2), (18, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_blocks_are_what_the_conv_gives(height: int, width: int, bias: bool) -> None:
    conv = nn.Conv2d(5, 3, 7, bias=bias)
    x = torch.randn(2, 5, height + 6, width + 6, generator=torch.Generator().manual_seed(1))
    expected = conv(x)
    assert expected.shape == (2, 3, height, width)
    torch.testing.assert_close(BlockConv(conv)(x), expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("network", [ResnetGenerator(8, 2), StudentGenerator(8, 2, halvings=1)])
def test_a_generator_with_blocks_gives_the_same_image(network: Generator) -> None:
    drawn(network)
    x = torch.rand(1, 3, 36, 52, generator=torch.Generator().manual_seed(2)) * 2 - 1
    expected = network(x)
    assert expected.std() > 0.1
    out = use_blocks(network)(x)
    assert [type(each) for each in network.modules()].count(BlockConv) == 1
    torch.testing.assert_close(out, expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 64, 7),  # fills the lanes
        nn.Conv2d(8, 3, 3),
        nn.Conv2d(8, 3, 7, stride=2),
        nn.Conv2d(8, 3, 7, padding=3),
        nn.Conv2d(6, 3, 7, groups=3),
        nn.Conv2d(8, 3, 7, dilation=2),
        nn.ConvTranspose2d(8, 3, 7),
    ],
)
def test_other_convs_stay(conv: nn.Module) -> None:
    assert not pays(conv)
