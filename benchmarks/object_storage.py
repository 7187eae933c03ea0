"""A translation from object storage to object storage, killed half-way, gone on with: the same objects as on a disk.

Needs ``pip install s3fs "moto[server]"``: a server of this machine that speaks S3. Each engine translates the sample
world's images from one bucket to another in a process of its own, which is killed (SIGKILL, with all its children)
when a seeded share of them is there, and started again; then what the bucket holds is compared with what the same
command writes into a folder.

    python benchmarks/object_storage.py [--images 100 --engines local,ray --seed 0] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import header, write_scenes
from ray_faults import visible

from nightaug.data.formats.base import is_image_name
from nightaug.images import atomic_write_text

#: Says when and where it was written, so that no two are alike.
FACTS = "translation.json"


def command(source: str, out: str, *own: str) -> list[str]:
    return [sys.executable, "-m", "nightaug", "translate", source, "--out", out, "--device", "cpu", *own]


def serve(port: int, log: Path) -> subprocess.Popen[bytes]:
    """moto's server, once it answers."""
    run = [sys.executable, "-c", f"from moto.server import main; main(['-p', '{port}'])"]
    server = subprocess.Popen(run, stdout=log.open("wb"), stderr=subprocess.STDOUT)
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server
        if server.poll() is not None:
            break
        time.sleep(0.1)
    server.kill()
    raise SystemExit(f'no S3 server: pip install s3fs "moto[server]"\n{log.read_text()[-500:]}')


def objects(storage: Any, bucket: str) -> list[str]:
    """Names of a bucket's objects now, relative to it."""
    storage.invalidate_cache()
    return [name.split("/", 1)[1] for name in storage.find(bucket)] if storage.exists(bucket) else []


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and all it has started, at once: Ray's daemons leave the group, but not the session."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "-s", str(process.pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    for pid in map(int, found):
        os.kill(pid, signal.SIGKILL)
    process.wait()


def measure(storage: Any, engine: str, count: int, seed: int, expected: dict[str, bytes]) -> dict[str, Any]:
    """One engine: killed, gone on with, and run a third time, which has nothing to do."""
    bucket = f"night-{engine}"
    storage.mkdir(bucket)
    run = command("s3://day/set", f"s3://{bucket}/set", "--engine", engine, "--workers", "1")
    at = random.Random(f"{seed}-{engine}").randint(count // 4, 3 * count // 4)
    first = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while sum(map(is_image_name, objects(storage, bucket))) < at and first.poll() is None:
        time.sleep(0.2)
    killed = first.poll() is None
    stop(first)
    there = sum(map(is_image_name, objects(storage, bucket)))
    seconds, said = [], []
    for _ in range(2):
        began = time.perf_counter()
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        seconds.append(round(time.perf_counter() - began, 1))
        said += [line for line in (done.stdout + done.stderr).splitlines() if " were there" in line]
        if done.returncode:
            said.append(f"exit {done.returncode}: {done.stderr[-300:]}")
    found = {name.removeprefix("set/"): storage.cat(f"{bucket}/{name}") for name in objects(storage, bucket)}
    different = [name for name in expected if found.get(name) != expected[name] and name != FACTS]
    more = [name for name in found if name not in expected]
    return {
        "engine": engine, "images": count, "killed": killed, "there_when_killed": there, "seconds": seconds,
        "said": said, "different": different, "more": more,
        "good": killed and not different and not more and len(said) == 2 and said[-1].startswith("0 translated"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--engines", default="local,ray")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", default="512x288")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1", "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    try:
        import s3fs
    except ImportError:
        raise SystemExit('pip install s3fs "moto[server]"') from None
    header()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        width, height = map(int, arguments.size.split("x"))
        paths = write_scenes(root / "day" / "set", arguments.images, width, height)
        subprocess.run(command(str(root / "day" / "set"), str(root / "night")), check=True, stdout=subprocess.DEVNULL)
        server = serve(port, root / "server.log")
        try:
            storage = s3fs.S3FileSystem()
            storage.mkdir("day")
            for path in paths:
                storage.put(str(path), f"day/set/{path.name}")
            results, expected = [], visible(root / "night")
            for engine in arguments.engines.split(","):
                results.append(measure(storage, engine, len(paths), arguments.seed, expected))
                print(", ".join(f"{key} {value}" for key, value in results[-1].items()), flush=True)
        finally:
            server.kill()
    good = all(row["good"] for row in results)
    print("every object there, equal to the folder's" if good else "FAULTS")
    if arguments.json:
        atomic_write_text(arguments.json, json.dumps({"good": good, "engines": results}, indent=2) + "\n")
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
