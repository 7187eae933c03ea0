from __future__ import annotations

import pytest
import torch

from nightaug.detect.adaptation.graph import GraphAttention, NodeProjection


def nodes(count: int, width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("inputs", [256, 64])
def test_nodes_are_of_one_size_for_any_detector(inputs: int) -> None:
    head = NodeProjection(inputs, 32)
    for scale in (1, 100):
        out = head(scale * nodes(7, inputs))
        assert out.shape == (7, 32)
        assert torch.allclose(out.square().mean(1), torch.ones(7), atol=1e-3)


def test_attention_equals_torchs_own() -> None:
    layer = GraphAttention(16)
    own, other = nodes(6), nodes(4, seed=1)
    theirs = torch.nn.MultiheadAttention(16, 1, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([m.weight for m in (layer.query, layer.key, layer.value)]))
        theirs.in_proj_bias.copy_(torch.cat([m.bias for m in (layer.query, layer.key, layer.value)]))
        theirs.out_proj.load_state_dict(layer.out.state_dict())
    told, weights = theirs(own[None], other[None], other[None])
    out, attention = layer(own, other)
    assert torch.allclose(attention, weights[0], atol=1e-6)
    assert torch.allclose(out, layer.norm(own + told[0]), atol=1e-5)


@pytest.mark.parametrize(("count", "other"), [(0, 0), (0, 3), (3, 0), (1, 1), (2, 5)])
def test_any_number_of_nodes_in_half_precision(count: int, other: int) -> None:
    layer, a, b = GraphAttention(16), nodes(count), nodes(other, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        out, attention = layer(a, b)
    assert attention.dtype == torch.float32
    assert attention.shape == (count, other)
    assert out.isfinite().all()
    if other:
        assert torch.allclose(attention.sum(1), torch.ones(count))
    out.square().sum().backward()
    assert a.grad.isfinite().all()
    if count > 1 and other > 1:
        assert b.grad.abs().sum() > 0
