"""Translation against the habit of public code.

Baseline: for every image both generators and both cycles (four fp32 passes, batch 1) and six PNG files
(real A, fake B, rec A, real B, fake A, rec B) written by Pillow's default, one after the other.
Ours: ``nightaug.translate``: one pass in the machine's fast precision, decoding and JPEG encoding beside it.
Same machine, same process, same generator, same images; rounds alternate; medians of seconds an image.

    python benchmarks/translate_speed.py [--width 64 --blocks 9 --sizes 256x256 --images 12 --rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import header, write_scenes
from PIL import Image

from nightaug.cyclegan.dataset import to_image, to_tensor
from nightaug.cyclegan.networks import ResnetGenerator, initialize
from nightaug.cyclegan.translator import CycleGANTranslator
from nightaug.translate.pipeline import translate
from nightaug.translate.plan import make_plan
from nightaug.translate.translators import Translator


def public_habit(paths: list[Path], there: torch.nn.Module, back: torch.nn.Module, out: Path) -> None:
    """Four passes and six PNG files an image, in a plain loop."""
    out.mkdir(parents=True, exist_ok=True)
    for path in paths:
        real = to_tensor(np.asarray(Image.open(path).convert("RGB")))[None]
        with torch.no_grad():
            fake_b = there(real)
            rec_a = back(fake_b)
            fake_a = back(real)
            rec_b = there(fake_a)
        made = {"real_A": real, "fake_B": fake_b, "rec_A": rec_a, "real_B": real, "fake_A": fake_a, "rec_B": rec_b}
        for name, image in made.items():
            Image.fromarray(to_image(image[0])).save(out / f"{path.stem}_{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--sizes", nargs="+", default=["256x256"])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    header()
    networks = []
    for seed in range(2):
        network = ResnetGenerator(arguments.width, arguments.blocks).eval().requires_grad_(False)
        initialize(network, torch.Generator().manual_seed(seed))
        networks.append(network)
    fast = ResnetGenerator(arguments.width, arguments.blocks)
    fast.load_state_dict(networks[0].state_dict())
    gan = CycleGANTranslator(fast)
    print(f"generator: width {arguments.width}, {arguments.blocks} blocks; ours in {gan.dtype}")
    for size in arguments.sizes:
        width, height = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            paths = write_scenes(root / "day", arguments.images, width, height)
            plan = make_plan(root / "day", "day2night")
            translator = Translator("benchmark", "day2night", None, False, gan)
            seconds: dict[str, list[float]] = {"public": [], "ours": []}
            translator(np.zeros((height, width, 3), np.uint8))
            for number in range(arguments.rounds):
                began = time.perf_counter()
                public_habit(paths, networks[0], networks[1], root / f"public{number}")
                seconds["public"].append((time.perf_counter() - began) / len(paths))
                began = time.perf_counter()
                translate(plan, translator, root / f"ours{number}")
                seconds["ours"].append((time.perf_counter() - began) / len(paths))
            public, ours = (statistics.median(seconds[name]) for name in ("public", "ours"))
            ratios = [p / o for p, o in zip(seconds["public"], seconds["ours"], strict=True)]
            print(
                f"{size}: public habit {public:.3f} s an image, ours {ours:.3f} s, ratio {public / ours:.1f} "
                f"(rounds: {', '.join(f'{ratio:.1f}' for ratio in ratios)}; n={arguments.images} images)"
            )


if __name__ == "__main__":
    main()
