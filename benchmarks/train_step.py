"""A CycleGAN step in bf16 against fp32, same weights, same crops, and the first losses of both.

python benchmarks/train_step.py [--width 64 --blocks 9 --crop 256 --batch 1 --steps 5]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import header, write_scenes

from nightaug.cyclegan.settings import TranslatorSettings
from nightaug.cyclegan.train import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("width", 64), ("blocks", 9), ("crop", 256), ("batch", 1), ("steps", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    header()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for domain in "AB":
            write_scenes(root / "train" / domain, 4, 512, 288)
        median, first = {}, {}
        for precision in ("fp32", "bf16"):
            settings = TranslatorSettings(
                width=arguments.width, blocks=arguments.blocks, crop=arguments.crop, batch=arguments.batch,
                steps=arguments.steps + 1, mixed_precision=precision, tensorboard=False,
            )  # fmt: skip
            trainer = Trainer(root, root / "run", settings)
            seconds = []
            for number, group in enumerate(trainer.batches(0)):
                began = time.perf_counter()
                parts = trainer.step(number, group)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - began)
                if number == 0:
                    weights = settings.weights
                    first[precision] = sum(
                        getattr(weights, name.split("_")[0], 0.0) * float(value) for name, value in parts.items()
                    )
            median[precision] = statistics.median(seconds[1:])
            loss = f"first generator loss {first[precision]:.5f}"
            print(f"{precision:>5}: {median[precision]:.3f} s a step (n={len(seconds) - 1}), {loss}")
        off = abs(first["bf16"] - first["fp32"]) / first["fp32"]
        print(f"ratio {median['fp32'] / median['bf16']:.2f}; first loss differs by {off:.1e} (relative)")


if __name__ == "__main__":
    main()
