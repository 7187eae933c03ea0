from __future__ import annotations

import socket
from contextlib import suppress

import torch

from nightaug.detect.detectors.pretrained import DOWNLOAD_TIMEOUT, current_names, download_timeout, fitting


def test_tensors_fit_by_name_and_shape() -> None:
    own = {"b": torch.zeros(2), "a": torch.zeros(3), "c": torch.zeros(1), "x.num_batches_tracked": torch.zeros(())}
    state = {"a": torch.ones(3), "b": torch.ones(2), "c": torch.ones(2), "d": torch.ones(1)}
    fits, missing = fitting(state, own)
    assert list(fits) == ["b", "a"]
    assert fits["a"] is state["a"]
    assert missing == ["c"]


def test_names_of_older_torchvisions_become_todays() -> None:
    old = ["backbone.fpn.inner_blocks.0.weight", "backbone.fpn.layer_blocks.2.bias", "rpn.head.conv.bias"]
    new = ["backbone.fpn.inner_blocks.0.0.weight", "backbone.fpn.layer_blocks.2.0.bias", "rpn.head.conv.0.0.bias"]
    same = ["layer1.0.conv1.weight", "rpn.head.cls_logits.weight", "backbone.fpn.extra_blocks.p6.weight"]
    assert list(current_names({key: torch.zeros(1) for key in old + same})) == new + same
    assert list(current_names({key: torch.zeros(1) for key in new + same})) == new + same


def test_a_download_has_a_time_limit_and_nothing_else_has() -> None:
    before = socket.getdefaulttimeout()
    with suppress(OSError), download_timeout():
        assert socket.getdefaulttimeout() == DOWNLOAD_TIMEOUT
        raise OSError
    assert socket.getdefaulttimeout() == before
