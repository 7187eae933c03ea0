"""A CycleGAN step in bf16 against fp32, same weights, same crops, and the first losses of both.

On a GPU with ``--compile`` also bf16 with both groups of networks compiled by torch; the mark there is five times fp32.

    python benchmarks/train_step.py [--width 64 --blocks 9 --crop 256 --batch 1 --steps 5] [--compile] [--json FILE]
    python benchmarks/train_step.py --quick     # seconds: does it run?
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import header, machine, write_scenes

from nightaug.cyclegan.settings import TranslatorSettings
from nightaug.cyclegan.train import Trainer


def compile_networks(trainer: Trainer, backend: str) -> None:
    """Compile in place: names of weights, and with them saved states, stay what they are."""
    unwrap = trainer.accelerator.unwrap_model
    unwrap(trainer.generators).compile(backend=backend)
    judges = unwrap(trainer.discriminators)
    for network in (judges, judges.A, judges.B):  # the generators' step asks each alone, the own step both
        if network is not None:
            network.compile(backend=backend)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("width", 64), ("blocks", 9), ("crop", 256), ("batch", 1), ("steps", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--compile", action="store_true", help="also compiled by torch")
    parser.add_argument("--backend", default="inductor", help="of torch.compile; eager only checks that it is traced")
    parser.add_argument("--quick", action="store_true", help="tiny networks and crops: does it run?")
    parser.add_argument("--json", type=Path, help="write the rows")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.width, arguments.blocks, arguments.crop, arguments.steps = 4, 1, 64, 3
    header()
    rows = {"fp32": ("fp32", False), "bf16": ("bf16", False)}
    if arguments.compile:
        rows["bf16-compiled"] = ("bf16", True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for domain in "AB":
            write_scenes(root / "train" / domain, 4, 512, 288)
        median, first = {}, {}
        for row, (precision, compiled) in rows.items():
            settings = TranslatorSettings(
                width=arguments.width, blocks=arguments.blocks, crop=arguments.crop, batch=arguments.batch,
                steps=arguments.steps + 2, mixed_precision=precision, tensorboard=False,
            )  # fmt: skip
            trainer = Trainer(root, root / "run", settings)
            if compiled:
                compile_networks(trainer, arguments.backend)
            seconds = []
            for number, group in enumerate(trainer.batches(0)):
                began = time.perf_counter()
                parts = trainer.step(number, group)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - began)
                if number == 0:
                    weights = settings.weights
                    first[row] = sum(
                        getattr(weights, name.split("_")[0], 0.0) * float(value) for name, value in parts.items()
                    )
            # The first steps pay for set-up, and for compiling.
            median[row] = statistics.median(seconds[2:])
            off = abs(first[row] - first["fp32"]) / first["fp32"]
            print(
                f"{row:>14}: {median[row]:.3f} s a step (n={len(seconds) - 2}), ratio "
                f"{median['fp32'] / median[row]:.2f}; first generator loss {first[row]:.5f}, off by {off:.1e}"
            )
    if arguments.json is not None:
        shape = [arguments.width, arguments.blocks, arguments.crop, arguments.batch]
        facts = {"machine": machine(), "width_blocks_crop_batch": shape, "seconds": median, "first_loss": first}
        arguments.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
