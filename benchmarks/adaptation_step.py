"""What the night head costs: a training step with it against the same step without, which also sees the target.

python benchmarks/adaptation_step.py [--detector fcos-resnet50 --size 512 --batch 4 --steps 5 --device cuda]

Both steps run source and target images through the network and go back through it; embeddings of CLIP are made up, as
a cache gives them. Labels and images are random: the work does not depend on what is in them, but on the number of
pseudo labels, which is set by their threshold (--regions places of the batch). Steps of the three ways alternate, so
that a busy machine slows all of them.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from common import header

from nightaug.config import build
from nightaug.detect.adaptation.consistency import ConsistencySampler
from nightaug.detect.adaptation.nodes import step_generator
from nightaug.detect.adaptation.settings import PARTS
from nightaug.detect.adaptation.trainee import AdaptedDetector
from nightaug.detect.detectors import Target, build_detector
from nightaug.detect.optimization import make_optimizer
from nightaug.detect.regions import RegionBatch
from nightaug.detect.settings import DetectorSettings
from nightaug.losses import weighted_total

CLASSES = tuple(f"class{number}" for number in range(10))
CLIP = 512


def labels(size: int, chance: torch.Generator, device: str) -> Target:
    """20 boxes of 12 to 120 pixels: as many as a frame of BDD100K has."""
    corner = torch.rand(20, 2, generator=chance) * (size - 121)
    side = 12 + 108 * torch.rand(20, 2, generator=chance) ** 3
    kinds = torch.randint(len(CLASSES), (20,), generator=chance)
    clip = torch.nn.functional.normalize(torch.randn(20, CLIP, generator=chance), dim=1).half()
    return Target(torch.cat([corner, corner + side], dim=1), kinds, torch.ones(20), clip=clip).to(device)


def made_settings(arguments: argparse.Namespace, **adaptation: object) -> DetectorSettings:
    size = {"width": arguments.size, "height": arguments.size, "batch": arguments.batch}
    own = {"detector": arguments.detector, "adapt": "vlmcshfg", "target": "x", "adaptation": adaptation}
    return build(DetectorSettings, size, own)


@torch.no_grad()
def threshold(images: torch.Tensor, arguments: argparse.Namespace) -> float:
    """Of pseudo labels: as many places of the target's batch are over it as are asked for."""
    detector = build_detector(made_settings(arguments), CLASSES).to(arguments.device).eval()
    scores = detector.class_scores(detector.run(images)).amax(dim=2).flatten()
    return float(scores.topk(arguments.regions + 1).values[-1])


class Way:
    """One way to make a step."""

    def __init__(self, parts: tuple[str, ...], arguments: argparse.Namespace, foreground: float = 0.5) -> None:
        settings = made_settings(arguments, parts=parts or ("sampler",), foreground=foreground, background=0.0101)
        self.device, self.parts, self.precision = arguments.device, parts, arguments.precision
        self.network = AdaptedDetector(build_detector(settings, CLASSES), settings, CLIP).to(self.device).train()
        self.network.to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(
            self.network.detector, settings, 1e-6, torch.nn.ModuleDict(self.network.own_modules())
        )
        self.seconds: list[float] = []
        self.facts: dict[str, float] = {}

    def step(self, number: int, images: torch.Tensor, targets: list[Target]) -> None:
        began = time.perf_counter()
        kind = torch.device(self.device).type
        types = {"fp32": torch.float32, "bf16": torch.bfloat16}
        with torch.autocast(kind, types[self.precision], enabled=self.precision != "fp32"):
            if self.parts:
                found = self.network(images[0], targets, images[1], number)
                weights = dict(self.network.detector.loss_weights) | self.network.loss_weights(number)
                loss = weighted_total(found.losses, weights)
                self.facts = {name: float(value) for name, value in found.facts.items()}
            else:
                forward = self.network.detector(torch.cat((images[0], images[1])), targets)
                # The target's outputs are in the graph, and gradients of zero go back through them.
                idle = sum(level.float().sum() for level in forward.split(len(targets))[1].pyramid)
                loss = weighted_total(forward.losses, dict(self.network.detector.loss_weights)) + 0.0 * idle
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if kind == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - began)


def sampler(device: str, repeat: int) -> float:
    """Seconds of sampling 2,000 regions, forward and backward."""
    chance = torch.Generator().manual_seed(0)
    seconds = []
    for number in range(repeat + 1):
        quality = torch.rand(2000, generator=chance).to(device).requires_grad_()
        zero = torch.zeros(2000, dtype=torch.long, device=device)
        features = torch.randn(2000, 256, generator=chance).to(device).requires_grad_()
        boxes = torch.zeros(2000, 4, device=device)
        batch = RegionBatch(features, boxes, zero, quality.detach(), quality, zero, zero)
        began = time.perf_counter()
        sample = ConsistencySampler().target(batch, step_generator(0, number))
        (sample.loss + sample.regions.features.sum()).backward()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default="fcos-resnet50")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    for name, value in (("size", 512), ("batch", 4), ("steps", 5), ("regions", 2000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    header()
    rest = tuple(part for part in PARTS if part != "pyramid_domain")
    chance = torch.Generator().manual_seed(0)
    shape = (2, arguments.batch, 3, arguments.size, arguments.size)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=chance).to(arguments.device)
    over = threshold(images[1], arguments)
    ways = {"plain": Way((), arguments), "without": Way(rest, arguments, over), "with": Way(PARTS, arguments, over)}
    targets = [labels(arguments.size, chance, arguments.device) for _ in range(arguments.batch)]
    for number in range(arguments.steps + 1):
        for way in ways.values():
            way.step(number, images, targets)
    plain = statistics.median(ways["plain"].seconds[1:])
    what = (
        f"{arguments.detector}, {arguments.size} px, {arguments.batch}+{arguments.batch} images, {arguments.precision}"
    )
    print(f"{what}: plain step {plain:.3f} s (n={arguments.steps})")
    for name, words in (("without", "night head without pyramid discriminators"), ("with", "the whole night head")):
        # Step by step, as both were made in the same minute.
        both = zip(ways[name].seconds[1:], ways["plain"].seconds[1:], strict=True)
        more = statistics.median(own / other - 1 for own, other in both)
        print(f"{words}: {statistics.median(ways[name].seconds[1:]):.3f} s, {100 * more:+.1f}%")
    print("regions:", ", ".join(f"{name} {value:.0f}" for name, value in ways["with"].facts.items() if "_" in name))
    alone = sampler(arguments.device, 7)
    print(f"cluster consistency sampler, 2,000 regions: {1000 * alone:.1f} ms, {100 * alone / plain:.2f}% of a step")


if __name__ == "__main__":
    main()
