"""Clustering of regions, and the other parts of the night head: seconds and peak memory.

python benchmarks/adaptation_parts.py [--nodes 2000 10000 20000 50000 --device cuda --approximate]

Baseline of clustering: the whole distance matrix at once, and scipy's components. It is left out where the matrix would
not fit into --baseline-gb. Each size runs in a process of its own, so that peak memory is its own.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from common import header
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from nightaug.detect.adaptation.alignment import NodeClassifier, NodeDiscriminator
from nightaug.detect.adaptation.clusters import cluster
from nightaug.detect.adaptation.consistency import ConsistencySampler
from nightaug.detect.adaptation.graph import GraphAttention, NodeProjection
from nightaug.detect.adaptation.graph_matching import GraphMatching, one_to_one_loss
from nightaug.detect.adaptation.hallucination import Hallucination
from nightaug.detect.adaptation.nodes import step_generator
from nightaug.detect.adaptation.orthogonal_projection import VisionLanguageAlignment
from nightaug.detect.regions import RegionBatch

WIDTH = 256
CLASSES = 10


def made(count: int, device: str) -> Tensor:
    """Nodes around one centre in twenty of their number, as regions of the same objects are."""
    chance = torch.Generator().manual_seed(0)
    centres = torch.randn(max(1, count // 20), WIDTH, generator=chance)
    near = centres[torch.randint(len(centres), (count,), generator=chance)]
    return (near + 0.5 * torch.randn(count, WIDTH, generator=chance)).to(device)


def whole(features: Tensor) -> Tensor:
    """The baseline."""
    unit = F.normalize(features, dim=1)
    distance = (1 - unit @ unit.T).clamp(0, 2).fill_diagonal_(torch.inf)
    links, count = distance.argmin(1).cpu().numpy(), len(features)
    graph = coo_matrix((np.ones(count), (np.arange(count), links)), (count, count))
    return torch.from_numpy(connected_components(graph, directed=False)[1]).long().to(features.device)


def median(work: Callable[[], object], device: str, repeat: int) -> float:
    seconds = []
    for _ in range(repeat + 1):
        began = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def measure_peak(device: str, start: float) -> float:
    """MiB since ``start``, of the process on a CPU and of torch's memory on a GPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - start


def one_size(count: int, device: str, way: str) -> None:
    """Print seconds, peak MiB and clusters of one way, in this process."""
    features = made(count, device)
    cluster(features[:64])  # loads what is loaded once
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def work() -> Tensor:
        return whole(features) if way == "whole" else cluster(features, 0 if way == "approximate" else count)

    labels = work()
    peak = measure_peak(device, start)
    seconds = median(work, device, 3 if count <= 10_000 else 1)
    print(seconds, peak, int(labels.max()) + 1, zlib.crc32(labels.cpu().numpy().tobytes()))


def regions(count: int, device: str, seed: int) -> RegionBatch:
    chance = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, CLASSES, (count,), generator=chance).to(device)
    quality = torch.rand(count, generator=chance).to(device).requires_grad_()
    number = torch.zeros(count, dtype=torch.long, device=device)
    boxes = torch.zeros(count, 4, device=device)
    return RegionBatch(made(count, device).requires_grad_(), boxes, labels, quality.detach(), quality, number, number)


def parts(device: str, repeat: int) -> None:
    """Each part of the head forward and backward, with 200 objects and 20 of background a domain, the most."""
    torch.manual_seed(0)
    nodes = [made(220, device).requires_grad_() for _ in "st"]
    labels = [torch.arange(220, device=device) % (CLASSES + 1) for _ in "st"]
    crops, crop_labels = made(64, device)[:, :WIDTH].repeat(1, 2), torch.arange(64, device=device) % CLASSES
    projection, attention = NodeProjection(WIDTH).to(device), GraphAttention().to(device)
    matching, hallucination = GraphMatching().to(device), Hallucination(CLASSES + 1).to(device)
    alignment = VisionLanguageAlignment(WIDTH, 2 * WIDTH).to(device)
    classifier, discriminator = NodeClassifier(CLASSES + 1).to(device), NodeDiscriminator().to(device)
    batch, sampler = regions(2000, device, 0), ConsistencySampler()
    work: dict[str, Callable[[], Tensor]] = {
        "sampler, 2000 regions": lambda: sampler.target(batch, step_generator(0, 0)).loss,
        "projection + attention": lambda: attention(projection(nodes[0]), projection(nodes[1]))[0].square().mean(),
        "vision-language alignment": lambda: alignment(torch.cat(nodes), torch.cat(labels), crops, crop_labels),
        "hallucination loss": lambda: hallucination.loss(
            (nodes[0], nodes[1]), (labels[0], labels[1]), step_generator(0, 0)
        ),
        "graph matching": lambda: one_to_one_loss(matching(*nodes).assignment, *labels),
        "classifier": lambda: classifier(torch.cat(nodes)).logsumexp(1).sum(),
        "node discriminator": lambda: discriminator(*nodes),
    }
    for name, forward in work.items():
        both = median(lambda forward=forward: forward().backward(), device, repeat)
        print(f"{name:>26}: {1000 * both:8.2f} ms forward and backward (n={repeat})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[2000, 10_000, 20_000, 50_000])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--baseline-gb", type=float, default=4)
    parser.add_argument("--approximate", action="store_true", help="also by pynndescent (its first call compiles)")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--one", nargs=2, metavar=("NODES", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one_size(int(arguments.one[0]), arguments.device, arguments.one[1])
        return
    header()
    for count in arguments.nodes:
        ways = ["blocks"] + ["whole"] * (3 * 4 * count**2 / 2**30 <= arguments.baseline_gb)
        ways += ["approximate"] * arguments.approximate
        found = {}
        for way in ways:
            command = [sys.executable, __file__, "--device", arguments.device, "--one", str(count), way]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            found[way] = (float(out[0]), float(out[1]), int(out[2]), out[3])
            print(
                f"{count:>6} nodes, {way:>11}: {found[way][0]:8.3f} s, {found[way][1]:7.0f} MiB more, {out[2]} clusters"
            )
        if "whole" in found:
            same = "the same labels" if found["blocks"][3] == found["whole"][3] else "OTHER LABELS"
            print(f"{'':>20} {found['whole'][0] / found['blocks'][0]:.2f} times as fast as the whole matrix, {same}")
    parts(arguments.device, arguments.repeat)


if __name__ == "__main__":
    main()
