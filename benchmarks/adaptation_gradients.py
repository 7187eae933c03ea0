"""How hard each loss pulls at the detector: the norm of its weighted gradient on the detector's weights.

python benchmarks/adaptation_gradients.py DATASET --preset sample-world --weights DAY_RUN --clip MODEL:TAG
    --data dataset:train:A [--data FOLDER:train] --target dataset:train:B [--set KEY=VALUE] [--passes 8]

A part whose gradient is a hundredth of the detector's own cannot help; one as large as that holds the detector back,
the more so with AdamW, which divides each step by the size of the whole gradient. Trains nothing that is kept.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from common import header

from nightaug.cli_common import settings_layers
from nightaug.config import build
from nightaug.data.formats import open_dataset
from nightaug.data.text import table
from nightaug.detect.recipe import gather
from nightaug.detect.settings import DetectorSettings
from nightaug.detect.train import DetectorTrainer

#: Steps before measuring, in which thresholds and memories fill.
FILLING = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--preset")
    parser.add_argument("--data", action="append")
    parser.add_argument("--passes", type=int, default=8)
    for name in ("weights", "clip", "target"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args()
    header()
    given = {key: getattr(arguments, key) for key in ("weights", "clip", "target", "data")}
    given = {key: value for key, value in given.items() if value is not None} | {"adapt": "vlmcshfg"}
    layers = settings_layers("detector", arguments.preset, None, None, arguments.set, given)
    settings = build(DetectorSettings, *layers, {"steps": FILLING + arguments.passes})
    data = gather(open_dataset(arguments.dataset), settings)
    norms: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = DetectorTrainer(
            data.sources, [], data.classes, Path(folder) / "run", settings, arguments.cpu, data.target
        )
        trainer.look_at_regions()
        weights = trainer.loss_weights(settings.adaptation.warmup)
        own = [parameter for parameter in trainer.live.parameters() if parameter.requires_grad]
        for number, group in enumerate(trainer.batches(0)):
            if number < FILLING:
                trainer.step(number, group)
                continue
            found = trainer.losses(*group[0], number)
            for name, loss in found.losses.items():
                grads = torch.autograd.grad(loss * weights[name], own, retain_graph=True, allow_unused=True)
                squares = [grad.float().square().sum() for grad in grads if grad is not None]
                norms.setdefault(name, []).append(float(torch.stack(squares).sum().sqrt()) if squares else 0.0)
    detector = [
        sum(norms[name][at] ** 2 for name in trainer.live.loss_weights) ** 0.5 for at in range(arguments.passes)
    ]
    rows = []
    for name, values in norms.items():
        share = statistics.median(value / whole for value, whole in zip(values, detector, strict=True))
        rows.append([name, f"{weights[name]:g}", f"{statistics.median(values):.4f}", f"{100 * share:.1f} %"])
    print(
        "\n".join(table(["loss", "weight", f"gradient (median of {arguments.passes})", "of the detector's own"], rows))
    )


if __name__ == "__main__":
    main()
