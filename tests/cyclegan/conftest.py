from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def labelled(domains: Path) -> Path:
    """The domains with labels: a box of its own in each training image, and one night image nobody has labelled."""
    categories = [{"id": 1, "name": "car"}, {"id": 2, "name": "traffic light"}]
    folder = domains / "annotations"
    folder.mkdir()
    for domain in "AB":
        files = sorted((domains / "train" / domain).iterdir())
        images: list[dict[str, Any]] = [
            {"id": i, "file_name": path.name, "width": 96, "height": 64} for i, path in enumerate(files)
        ]
        boxes = [
            {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [8 + 4 * i, 10, 30, 20]}
            for i in range(len(files) - (domain == "B"))
        ]
        if domain == "B":
            images[-1]["labelled"] = False
        document = {"images": images, "annotations": boxes, "categories": categories}
        (folder / f"train_{domain}.json").write_text(json.dumps(document))
    return domains
