"""Training on two hosts by torchrun, against one process with the same global batch; then one rank is killed.

Hosts are two network namespaces with an Ethernet pair between them where this may be done (root), else the addresses
127.0.0.1 and 127.0.0.2. For each trainer:

1. one step on two hosts with batch 1 each and in one process with batch 2: how far the first gradients (translator,
   from Adam's state) or the weights after a step of SGD (detector) are apart, relative to their length;
2. a longer run on two hosts; the process of the second host is killed (SIGKILL) after the first saved state: seconds
   until both torchruns are gone, and what the survivor said;
3. the same commands with --resume: the weights must be those, byte for byte, of a run that nobody killed.

What is not so is said at the end, and the exit code is 1.

    python benchmarks/two_hosts.py [--steps 12] [--trainers translator detector] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import header

from nightaug.data.domains import prepare
from nightaug.data.scenes import write_world
from nightaug.images import atomic_write_text
from nightaug.runs import RunFolder, load_weights

TRANSLATOR: dict[str, Any] = {
    "crop": 64, "load_size": 64, "width": 4, "blocks": 1, "discriminator_width": 4, "ema": 0, "replay_buffer": 0,
    "log_every": 2, "sample_every": 1000, "score_images": 2, "sample_height": 64, "save_every": 4,
    "mixed_precision": "fp32", "tensorboard": False,
}  # fmt: skip
#: Group normalisation: that by batches would see half of each on a host.
DETECTOR: dict[str, Any] = {
    "detector": "fcos-resnet18", "width": 128, "height": 64,
    "fcos": {"channels": 32, "convs": 1, "norm": "group", "width": 0.25}, "optimizer": "sgd", "learning_rate": 0.01,
    "warmup": 0, "ema": 0, "log_every": 2, "evaluate_every": 0, "save_every": 4, "mixed_precision": "fp32",
    "tensorboard": False,
}  # fmt: skip
#: Seconds after which something hangs.
LIMIT = 300.0
#: What is still the noise of floating point, and seconds in which all must have noticed that a process has died.
NOISE, NOTICED = 1e-4, 60.0


class Host(NamedTuple):
    """What comes before a command to run it there, its address, and the interface of that."""

    prefix: list[str]
    address: str
    interface: str


@contextmanager
def two_hosts() -> Iterator[list[Host]]:
    """Two network namespaces, removed afterwards, or two addresses of this machine."""
    names = [f"nightaug-{os.getpid()}-{number}" for number in range(2)]
    links = [f"na{os.getpid() % 100000}{letter}" for letter in "ab"]
    addresses = ["10.213.7.1", "10.213.7.2"]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    made = []
    try:
        try:
            for name in names:
                ip("netns", "add", name)
                made.append(name)
            ip("link", "add", links[0], "netns", names[0], "type", "veth", "peer", "name", links[1], "netns", names[1])
            for name, link, address in zip(names, links, addresses, strict=True):
                ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
                ip("-n", name, "link", "set", link, "up")
                ip("-n", name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError):
            yield [Host([], address, "lo") for address in ("127.0.0.1", "127.0.0.2")]
        else:
            yield [
                Host(["ip", "netns", "exec", name], address, link)
                for name, address, link in zip(names, addresses, links, strict=True)
            ]
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


class Job:
    """The same training command on both hosts, as a scheduler would start it.

    Args:
        hosts: the first one is the meeting point.
        command: after ``-m nightaug``.
        logs: folder for what the hosts say.
    """

    def __init__(self, hosts: list[Host], command: list[str], logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.logs = [logs / f"host-{number}.txt" for number in range(len(hosts))]
        self.processes = []
        for number, (host, log) in enumerate(zip(hosts, self.logs, strict=True)):
            start = [
                *host.prefix, sys.executable, "-m", "torch.distributed.run", "--nnodes", str(len(hosts)),
                "--nproc_per_node", "1", "--rdzv-backend", "c10d", "--rdzv-id", logs.name,
                "--rdzv-endpoint", f"{hosts[0].address}:{port}", "--local-addr", host.address,
                # Otherwise it is told by the machine's name, which the namespaces share.
                "--rdzv-conf", f"is_host={int(number == 0)}", "-m", "nightaug",
            ]  # fmt: skip
            # Gloo would otherwise take the address of the machine's name.
            env = {**os.environ, "GLOO_SOCKET_IFNAME": host.interface, "OMP_NUM_THREADS": "1"}
            with open(log, "w") as stream:
                process = subprocess.Popen(
                    [*start, *command], stdout=stream, stderr=subprocess.STDOUT, env=env, start_new_session=True
                )
            self.processes.append(process)

    @property
    def codes(self) -> list[int]:
        """Exit codes of the torchruns, after :meth:`wait`."""
        return [process.returncode for process in self.processes]

    def wait(self) -> float:
        """Seconds until all have ended; what hangs is killed after ``LIMIT``."""
        began = time.monotonic()
        try:
            for process in self.processes:
                process.wait(max(0.1, LIMIT - (time.monotonic() - began)))
        except subprocess.TimeoutExpired:
            self.end()
        return time.monotonic() - began

    def end(self) -> None:
        """Kill everything."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def worker(self, host: int) -> int:
        """Process id of the training process of a host, a child of its torchrun."""
        pid = self.processes[host].pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return next(int(child) for child in children if b"nightaug" in Path(f"/proc/{child}/cmdline").read_bytes())


def command(trainer: str, data: Path, out: Path, settings: dict[str, Any]) -> list[str]:
    """What follows ``nightaug``."""
    words = [f"train-{trainer}", str(data), "--out", str(out), "--cpu"]
    if trainer == "detector":
        words += ["--data", "dataset:train:A"]
    return words + [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def moments(run: Path) -> torch.Tensor:
    """The first gradients, from Adam's state after one step."""
    state = RunFolder(run).load_state(1, 0)
    optimizers = [state[name]["state"].values() for name in ("opt_g", "opt_d")]
    return torch.cat([entry["exp_avg"].flatten() for entries in optimizers for entry in entries])


def weights(run: Path) -> torch.Tensor:
    """All numbers of the newest weights."""
    return torch.cat([value.double().flatten() for value in load_weights(run / "last.safetensors")[0].values()])


def show(trainer: str, data: Path, root: Path, hosts: list[Host], steps: int) -> dict[str, Any]:
    """The three parts of one trainer."""
    settings = TRANSLATOR if trainer == "translator" else DETECTOR
    one = [sys.executable, "-m", "nightaug", *command(trainer, data, root / "one", settings | {"steps": 1, "batch": 2})]
    subprocess.run(one, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def whole(name: str, settings: dict[str, Any], *words: str) -> None:
        job = Job(hosts, [*command(trainer, data, root / name, settings), *words], root / f"log-{name}{''.join(words)}")
        job.wait()
        if any(job.codes):
            said = [log.read_text().strip().splitlines()[-1:] for log in job.logs]
            raise SystemExit(f"{trainer}, {name}: exit codes {job.codes}; {said}")

    whole("two", settings | {"steps": 1, "batch": 1})
    measure = moments if trainer == "translator" else weights
    first, second = measure(root / "one"), measure(root / "two")
    apart = float((first - second).norm() / first.norm())
    print(f"{trainer}: one step on two hosts and in one process, relative distance {apart:.2g}", flush=True)

    longer = settings | {"steps": steps, "batch": 1}
    whole("whole", longer)
    job = Job(hosts, command(trainer, data, root / "killed", longer), root / "log-killed")
    state = root / "killed" / "state" / "last.json"
    began = time.monotonic()
    while not state.exists() and time.monotonic() - began < LIMIT and job.processes[0].poll() is None:
        time.sleep(0.02)
    os.kill(job.worker(1), signal.SIGKILL)
    seconds = job.wait()
    lines = job.logs[0].read_text().splitlines()
    said = next((line for line in lines if line.startswith("error: ")), "nothing")
    killed_at = RunFolder(root / "killed").latest_state()
    print(
        f"{trainer}: process of host 1 killed after the state of step {killed_at}: "
        f"all ended in {seconds:.1f} s; host 0: {said}"
    )
    whole("killed", longer, "--resume")
    names = ("last.safetensors", "metrics.jsonl")
    equal = all((root / "killed" / name).read_bytes() == (root / "whole" / name).read_bytes() for name in names)
    print(
        f"{trainer}: resumed to step {RunFolder(root / 'killed').latest_state()}, {'equal' if equal else 'NOT EQUAL'}"
    )
    return {
        "first_step_apart": apart, "ended_after_seconds": round(seconds, 1), "survivor_said": said,
        "killed_after_state": killed_at, "killed_codes": job.codes, "steps": steps, "resumed_equal": equal,
    }  # fmt: skip


def complaints(result: dict[str, Any]) -> list[str]:
    """What of a trainer's results is not as promised, in words."""
    killed_at = result["killed_after_state"]
    promised = {
        f"the first step is {result['first_step_apart']:.2g} apart": result["first_step_apart"] < NOISE,
        f"it ended after {result['ended_after_seconds']} s": result["ended_after_seconds"] < NOTICED,
        f"the survivor said: {result['survivor_said']}": result["survivor_said"].startswith("error: another process"),
        f"killed after the state of step {killed_at}": killed_at is not None and 0 < killed_at < result["steps"],
        f"exit codes after the kill were {result['killed_codes']}": all(result["killed_codes"]),
        "the resumed run differs": result["resumed_equal"],
    }
    return [words for words, kept in promised.items() if not kept]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--trainers", nargs="+", default=["translator", "detector"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="leave runs and logs in this folder")
    arguments = parser.parse_args()
    header()
    results: dict[str, Any] = {}
    folder = Path(arguments.keep or tempfile.mkdtemp(prefix="nightaug-"))
    try:
        counts = {split: {"daytime": number, "night": number} for split, number in (("train", 12), ("val", 2))}
        write_world(folder / "world", counts, width=128, height=72)
        prepare(folder / "world", out=folder / "data")
        with two_hosts() as hosts:
            kind = "network namespaces" if hosts[0].prefix else "addresses of one machine"
            print(f"hosts: {kind}, {hosts[0].address} and {hosts[1].address}")
            results["hosts"] = kind
            for trainer in arguments.trainers:
                results[trainer] = show(trainer, folder / "data", folder / trainer, hosts, arguments.steps)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        atomic_write_text(arguments.json, json.dumps(results, indent=2) + "\n")
    wrong = [f"{name}: {words}" for name in arguments.trainers for words in complaints(results[name])]
    for line in wrong:
        print(f"NOT AS PROMISED: {line}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
