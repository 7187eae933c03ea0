from __future__ import annotations

import pytest
import torch

from nightaug.errors import ConfigError
from nightaug.losses import weighted_total


def test_total_is_the_weighted_sum_with_gradient() -> None:
    a, b = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    total = weighted_total({"a": a, "b": b}, {"a": 10.0, "b": 0.5})
    total.backward()
    assert total.item() == 21.5
    assert (a.grad, b.grad) == (torch.tensor(10.0), torch.tensor(0.5))


def test_weight_zero_switches_even_a_nan_off() -> None:
    assert weighted_total({"a": torch.tensor(1.0), "b": torch.tensor(float("nan"))}, {"a": 1.0, "b": 0}).item() == 1
    assert weighted_total({"a": torch.tensor(1.0)}, {"a": 0.0}).item() == 0


def test_names_must_fit() -> None:
    with pytest.raises(ConfigError, match="no weight for b; no loss named c"):
        weighted_total({"a": torch.tensor(1.0), "b": torch.tensor(1.0)}, {"a": 1.0, "c": 1.0})
    with pytest.raises(ConfigError, match="no losses"):
        weighted_total({}, {})
