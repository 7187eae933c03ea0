"""The replay buffer of generated images (Shrivastava et al., 2017), the 50 latest fakes in CycleGAN."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ReplayBuffer:
    """Hands the discriminator a mix of new and earlier fakes.

    While it fills, every fake is stored and handed on. Once full, a coin decides for each fake: hand it on,
    or store it and hand on a stored one, drawn uniformly, in its place.

    Args:
        size: images kept; 0 hands every fake straight on.
    """

    def __init__(self, size: int = 50) -> None:
        if size < 0:
            raise ValueError(f"expected a buffer size of at least 0, got {size}")
        self.size = size
        self._images: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._images)

    def query(self, fakes: Tensor, generator: torch.Generator) -> Tensor:
        """(N, 3, H, W) of new fakes to (N, 3, H, W) of new or stored ones, detached.

        Args:
            generator: CPU random generator; the only source of chance here.
        """
        if self.size == 0:
            return fakes.detach()
        out = []
        for fake in fakes.detach():
            if len(self._images) < self.size:
                self._images.append(fake.clone())
                out.append(fake)
            elif torch.rand((), generator=generator).item() < 0.5:
                at = int(torch.randint(self.size, (), generator=generator).item())
                out.append(self._images[at])
                self._images[at] = fake.clone()
            else:
                out.append(fake)
        return torch.stack(out)

    def state_dict(self) -> dict[str, Any]:
        return {"size": self.size, "images": [image.cpu() for image in self._images]}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        self.size = state["size"]
        self._images = [image.to(device) for image in state["images"]]
