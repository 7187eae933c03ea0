"""Translation against the habit of public code, every way nightaug has, side by side.

Baseline ``habit``: for every image both generators and both cycles (four fp32 passes, batch 1) and six PNG files
(real A, fake B, rec A, real B, fake A, rec B) written by Pillow's default, one after the other.
All other rows: ``nightaug.translate``: one pass, decoding and JPEG encoding beside it. ``torch-fp32`` is the eager
network; the ``small-`` rows are a student as ``nightaug distill`` trains it. Same machine, same process, same images;
rounds alternate between the rows; medians of seconds an image, end to end, and of the translator alone.

    python benchmarks/translate_speed.py [--sizes 256x256 1280x720] [--images 12] [--rounds 3] [--json FILE]
    python benchmarks/translate_speed.py --run RUN --small SMALL     # trained weights: PSNR then means something
    python benchmarks/translate_speed.py --gpu                       # also bf16, compiled and CUDA graphs on a GPU
    python benchmarks/translate_speed.py --quick                     # seconds: does it run?
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import header, machine, write_scenes
from PIL import Image

from nightaug.cyclegan.checkpoint import find_weights, read_generator, write_translator
from nightaug.cyclegan.dataset import to_image, to_tensor
from nightaug.cyclegan.distill import OneWay
from nightaug.cyclegan.networks import ResnetGenerator, initialize
from nightaug.cyclegan.settings import DistillSettings
from nightaug.cyclegan.student import Generator, StudentGenerator
from nightaug.cyclegan.translator import CycleGANTranslator
from nightaug.errors import NightaugError
from nightaug.images import ImageArray, read_image
from nightaug.translate.backends.export import export_translator
from nightaug.translate.pipeline import translate
from nightaug.translate.plan import Plan, make_plan
from nightaug.translate.translators import Translator

#: Row -> format and precision of the exported file it runs.
EXPORTS = {
    "onnxruntime-fp32": ("onnx", "fp32"),
    "openvino-fp32": ("openvino", "fp32"),
    "openvino-bf16": ("openvino", "bf16"),
    "openvino-int8": ("openvino", "int8"),
}
#: Row on a GPU -> precision and torch.compile's mode; "reduce-overhead" is CUDA graphs.
GPU = {"fp32": ("fp32", None), "bf16": ("bf16", None), "bf16-compiled": ("bf16", "max-autotune-no-cudagraphs"),
       "bf16-graphs": ("bf16", "reduce-overhead")}  # fmt: skip


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


def untrained(folder: Path, network: Generator) -> Path:
    """A run of random weights: as fast as any, and no picture."""
    initialize(network, torch.Generator().manual_seed(0))
    write_translator(folder / "best.safetensors", OneWay(network, None), DistillSettings(), 0, "0")
    return folder


def translators(
    run: Path, root: Path, prefix: str, calibrate: Path, wanted: Callable[[str], bool]
) -> dict[str, Translator]:
    """Every wanted way of running one run on the CPU, and why some are missing. Exporting takes minutes a file."""
    made = {f"{prefix}torch-{precision}": Translator.load(run, device="cpu", precision=precision)  # type: ignore[arg-type]
            for precision in ("fp32", "bf16") if wanted(f"{prefix}torch-{precision}")}  # fmt: skip
    for row, (format, precision) in EXPORTS.items():
        if not wanted(prefix + row):
            continue
        print(f"  exporting {prefix}{row}", flush=True)
        out = root / f"{prefix}{row}"
        try:
            export_translator(run, out, format, "day2night", precision, calibrate)  # type: ignore[arg-type]
            made[prefix + row] = Translator.load(out)
        except NightaugError as error:
            print(f"{prefix}{row}: {error}")
    return made


def on_gpu(run: Path, prefix: str) -> dict[str, Translator]:
    """The rows of a GPU: the same translator, its network compiled."""
    made = {}
    for row, (precision, mode) in GPU.items():
        gan = CycleGANTranslator(read_generator(find_weights(run), "day2night"), device="cuda", precision=precision)  # type: ignore[arg-type]
        if mode is not None:
            gan.network = torch.compile(gan.network, mode=mode)  # type: ignore[assignment]
        made[f"{prefix}gpu-{row}"] = Translator("benchmark", "day2night", None, False, gan)
    return made


def psnr(image: ImageArray, reference: ImageArray) -> float:
    """Of 8-bit images, dB."""
    return 10 * float(np.log10(255**2 / max(np.square(image.astype(float) - reference).mean(), 1e-9)))


def measure(
    size: str, rows: dict[str, Translator], habit: Callable[[list[Path], Path], None] | None, count: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Row -> median seconds an image end to end and alone, and PSNR against torch in fp32."""
    width, height = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = write_scenes(root / "day", count, width, height)
        plan: Plan = make_plan(root / "day", "day2night")
        image = read_image(paths[0])
        reference = rows["torch-fp32"](image) if "torch-fp32" in rows else None
        seconds: dict[str, list[float]] = {}
        alone: dict[str, list[float]] = {}
        near: dict[str, float] = {}
        for name, translator in rows.items():
            out = translator(image)  # warm, and compiled for this size
            if reference is not None and not name.startswith("small-"):
                near[name] = psnr(out, reference)
        for number in range(rounds):
            if habit is not None:
                seconds.setdefault("habit", []).append(timed(lambda at=number: habit(paths, root / f"h{at}"), count))
                print(f"  {size} round {number + 1}: habit {seconds['habit'][-1]:.3f} s an image", flush=True)
            for name, translator in rows.items():
                out_folder = root / f"{name}{number}"
                run = timed(lambda t=translator, o=out_folder: translate(plan, t, o), count)
                seconds.setdefault(name, []).append(run)
                alone.setdefault(name, []).append(timed(lambda t=translator: t(image), 1))
                print(f"  {size} round {number + 1}: {name} {run:.3f} s an image", flush=True)
    return {
        name: {"seconds": statistics.median(values)}
        | ({"alone": statistics.median(alone[name])} if name in alone else {})
        | ({"psnr": near[name]} if name in near else {})
        for name, values in seconds.items()
    }


def timed(job: Callable[[], object], count: int) -> float:
    """Seconds a job takes, over ``count``."""
    began = time.perf_counter()
    job()
    return (time.perf_counter() - began) / count


def table(size: str, found: dict[str, dict[str, float]]) -> None:
    """Print a size's rows with their ratios; adds the ratios to the rows."""
    print(f"\n{size:<24}{'s/image':>9}{'alone':>9}{'x habit':>9}{'x eager':>9}{'dB':>7}")
    for name, row in found.items():
        for key, base in (("habit", "habit"), ("eager", "torch-fp32")):
            if base in found:
                row[f"times_{key}"] = found[base]["seconds"] / row["seconds"]
        cells = [row.get("seconds"), row.get("alone"), row.get("times_habit"), row.get("times_eager"), row.get("psnr")]
        texts = [
            "" if value is None else format(value, spec)
            for value, spec in zip(cells, (".4f", ".4f", ".2f", ".2f", ".1f"), strict=True)
        ]
        print(f"{name:<24}" + "".join(f"{text:>{width}}" for text, width in zip(texts, (9, 9, 9, 9, 7), strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="train-translator run; random weights otherwise")
    parser.add_argument("--small", type=Path, help="distill run; random weights otherwise")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--sizes", nargs="+", default=["256x256", "1280x720"])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", help="only these, comma separated (parts of their names; habit is always there)")
    parser.add_argument("--gpu", action="store_true", help="also on the GPU")
    parser.add_argument("--quick", action="store_true", help="tiny networks and images: does it run?")
    parser.add_argument("--json", type=Path, help="write the table")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.width, arguments.blocks, arguments.sizes = 8, 2, ["96x64"]
        arguments.images, arguments.rounds = 2, 2
    header()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # Exports of runs on the fly would go to the user's cache; nothing here does, and nothing should.
        os.environ["XDG_CACHE_HOME"] = str(root / "cache")
        student = StudentGenerator(*((4, 1) if arguments.quick else ()))
        run = arguments.run or untrained(root / "run", ResnetGenerator(arguments.width, arguments.blocks))
        small = arguments.small or untrained(root / "small", student)
        write_scenes(root / "calibrate", 4 if arguments.quick else 24, 320, 192)
        words = arguments.rows.split(",") if arguments.rows else [""]
        wanted = lambda name: any(word in name for word in words)  # noqa: E731
        rows: dict[str, Translator] = {}
        for source, prefix in ((run, ""), (small, "small-")):
            rows |= translators(source, root, prefix, root / "calibrate", wanted)
            if arguments.gpu:
                rows |= {name: each for name, each in on_gpu(source, prefix).items() if wanted(name)}
        there = read_generator(find_weights(run), "day2night").eval().requires_grad_(False)
        # The way back costs what the way there does, whatever its weights are.
        found = {
            size: measure(
                size,
                rows,
                lambda paths, out: public_habit(paths, there, there, out),
                arguments.images,
                arguments.rounds,
            )
            for size in arguments.sizes
        }
    for size, values in found.items():
        table(size, values)
    if arguments.json is not None:
        facts = {"machine": machine(), "generator": [there.width, there.blocks], "images": arguments.images}
        arguments.json.write_text(json.dumps(facts | {"rounds": arguments.rounds, "sizes": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
