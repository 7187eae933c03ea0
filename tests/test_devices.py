from __future__ import annotations

import pytest
import torch

from nightaug.devices import check_device, default_device
from nightaug.errors import ConfigError


def test_the_default_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert default_device() == device


@pytest.mark.parametrize("device", ["cuda:99", "nothing", "cpu:cpu"])
def test_a_device_that_is_not_there_is_refused_in_one_line(device: str) -> None:
    check_device("cpu")
    check_device(torch.device("cpu"))
    with pytest.raises(ConfigError, match=rf"^--device {device} cannot be used here .*; try --device cpu$") as caught:
        check_device(device)
    assert "\n" not in str(caught.value)
