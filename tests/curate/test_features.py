"""Extractors give what the libraries they come from give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import picture
from safetensors.torch import save_file
from torchvision.models import inception_v3
from torchvision.transforms.functional import normalize

from nightaug.curate.features import InceptionFeatures, set_distances
from nightaug.errors import CheckpointError


def test_inception_is_given_what_its_weights_were_trained_with(tmp_path: Path) -> None:
    torch.manual_seed(0)
    # As torchvision builds it for its own weights: it takes images normalised for ImageNet back to [-1, 1].
    network = inception_v3(weights=None, init_weights=False, transform_input=True, aux_logits=True).eval()
    save_file(network.state_dict(), tmp_path / "inception.safetensors")
    image = picture(0, 299, 299)
    extractor = InceptionFeatures(str(tmp_path / "inception.safetensors"))
    network.fc = torch.nn.Identity()
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        wanted = network(normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))[0]
    found = extractor([image])[0]
    assert torch.allclose(found.vector, wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))
    assert found.places is not None
    assert extractor([]) == []


def test_features_that_are_all_the_same_have_no_distance() -> None:
    same = torch.full((8, 3), 7.0)
    noise = torch.linspace(-1, 1, 24).reshape(8, 3)
    assert set_distances(same, same + 1e-5 * noise, True) == (None, None, None, None)  # but for rounding
    assert set_distances(torch.zeros(8, 3), torch.zeros(8, 3), False).fid is None
    found = set_distances(same, same + 0.1 * noise, False)
    assert found.fid is not None
    assert found.kid is not None
    apart = set_distances(same, 2 * same, False)  # each set in one place, not the same one
    assert apart.fid == pytest.approx(3 * 49)


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="does not fit torchvision's inception_v3"):
        InceptionFeatures(str(tmp_path / "other.safetensors"))
