"""The sample world: street scenes drawn by code, by day and by night, with exact boxes.

It is a ruler, not a data set: small, free, the same on every machine for the same seed. Night is hard in
the ways real night is: bodies nearly black, lamps that dominate, windows and shop signs that could pass
for signals. It shares no code and no constants with the night renderer it is used to measure.
"""

from __future__ import annotations

from nightaug.data.scenes.assemble import WORLD_VERSION, render
from nightaug.data.scenes.write import scene_seeds, write_pairs, write_world

__all__ = ["WORLD_VERSION", "render", "scene_seeds", "write_pairs", "write_world"]
