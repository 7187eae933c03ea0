"""A translation on two Ray nodes, one of them killed half-way: every file there, none torn, none twice.

Baseline: the same images by the local engine; the folders must be equal byte for byte. Rounds kill the second node (all
its processes, at once) when a seeded share of the images is done.

    python benchmarks/ray_faults.py [--images 200 --rounds 5 --seed 0 --translator relight|RUN] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from common import header, write_scenes

from nightaug.data.frames import Box
from nightaug.errors import ImageError
from nightaug.images import ImageArray, atomic_write_text, list_images, read_image
from nightaug.translate.pipeline import translate
from nightaug.translate.plan import make_plan, read_manifest
from nightaug.translate.ray_pipeline import ray_engine
from nightaug.translate.shipping import ship
from nightaug.translate.translators import Translator

#: A dead node is noticed after two seconds instead of half a minute.
CHECKS = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


def visible(folder: Path) -> dict[str, bytes]:
    """Every file but the lock and what killed processes left under names of their own."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def torn(folder: Path) -> int:
    """Images that cannot be decoded."""
    count = 0
    for path in list_images(folder):
        try:
            read_image(path)
        except ImageError:
            count += 1
    return count


def noting(load: Callable[[str], Translator], folder: Path) -> Callable[[str], Translator]:
    """The same translator, which leaves its node's name in a folder: a node is killed only when it is at work."""

    def noted(source: str) -> Translator:
        loaded = load(source)

        def run(image: ImageArray, boxes: Sequence[Box] | None, number: int) -> ImageArray:
            import ray

            (folder / ray.get_runtime_context().get_node_id()).touch()
            return loaded.function(image, boxes, number)

        return replace(loaded, function=run)

    return noted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", default="256x144")
    parser.add_argument("--translator", default="relight")
    parser.add_argument("--quick", action="store_true", help="48 images, 2 rounds")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    images, rounds = (48, 2) if arguments.quick else (arguments.images, arguments.rounds)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    header()
    width, height = map(int, arguments.size.split("x"))
    load = partial(Translator.load, device="cpu", precision="fp32")
    here = load(arguments.translator)
    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 << 20}
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "nodes").mkdir()
        shipped = ship(noting(load, root / "nodes"), arguments.translator, here.name)
        write_scenes(root / "day", images, width, height)
        plan = make_plan(root / "day", "day2night")
        translate(plan, here, root / "local")
        expected = visible(root / "local")
        cluster = Cluster(
            initialize_head=True, head_node_args=node | {"include_dashboard": False, "_system_config": CHECKS}
        )
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        try:
            for number in range(rounds):
                at = random.Random(f"{arguments.seed}-{number}").randint(images // 4, 3 * images // 4)
                second, rows, killed = cluster.add_node(**node), [], []

                def kill(
                    done: int,
                    note: str,
                    at: int = at,
                    second: Any = second,
                    rows: list[int] = rows,
                    killed: list[int] = killed,
                ) -> None:
                    rows.append(done)
                    if done >= at and not killed and (root / "nodes" / second.node_id).exists():
                        killed.append(done)
                        cluster.remove_node(second, allow_graceful=False)

                began = time.perf_counter()
                with ray_engine(shipped, workers=2) as engine:
                    result = translate(plan, here, root / f"ray{number}", engine=engine, progress=kill)
                    seconds = time.perf_counter() - began
                if not killed:
                    cluster.remove_node(second)
                outputs = [row.output for row in read_manifest(root / f"ray{number}")]
                results.append(
                    {
                        "images": images, "killed_at": (killed or [None])[0], "seconds": round(seconds, 1),
                        "written": result.written, "failed": len(result.failed), "reported": len(rows),
                        "torn": torn(root / f"ray{number}"),
                        "rows_twice": len(outputs) - len(set(outputs)),
                        "equal_to_local": visible(root / f"ray{number}") == expected,
                    }
                )  # fmt: skip
                print(", ".join(f"{key} {value}" for key, value in results[-1].items()), flush=True)
        finally:
            ray.shutdown()
            cluster.shutdown()
    good = all(
        row["killed_at"] and row["equal_to_local"] and not row["torn"] and not row["rows_twice"]
        and row["written"] == row["reported"] == images
        for row in results
    )  # fmt: skip
    print(f"{rounds} rounds: {'every file there, none torn, none twice' if good else 'FAULTS'}")
    if arguments.json:
        atomic_write_text(arguments.json, json.dumps({"good": good, "rounds": results}, indent=2) + "\n")
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
