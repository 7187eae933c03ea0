from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import picture

from nightaug.cli import main
from nightaug.cyclegan.checkpoint import write_translator
from nightaug.cyclegan.networks import ResnetGenerator, initialize
from nightaug.cyclegan.pairs import GeneratorPair
from nightaug.cyclegan.settings import TranslatorSettings
from nightaug.cyclegan.student import StudentGenerator
from nightaug.errors import CheckpointError, ConfigError, DatasetError, ImageError, NightaugError
from nightaug.images import write_image
from nightaug.runs import file_sha256
from nightaug.translate.translators import Translator

for package in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(package, reason="the extra 'export' is not installed")

import onnx  # noqa: E402

from nightaug.translate.backends import export as module  # noqa: E402
from nightaug.translate.backends.export import export_translator  # noqa: E402
from nightaug.translate.backends.graph import onnx_graph  # noqa: E402
from nightaug.translate.backends.runtimes import onnxruntime_session  # noqa: E402

FORMATS = [("onnx", "onnxruntime"), ("openvino", "openvino")]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured on small scenes: the tests' networks are no slower, the machine is."""
    monkeypatch.setattr(module, "_DRAWN", (96, 64))
    monkeypatch.setattr(module, "MEASURED", 2)


def made_run(run: Path, std: float = 0.05, **facts: Any) -> Path:
    pair = GeneratorPair(TranslatorSettings(width=8, blocks=2))
    initialize(pair, torch.Generator().manual_seed(1), std=std)
    write_translator(run / "best.safetensors", pair, TranslatorSettings(width=8, blocks=2), 7, "0", **facts)
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return made_run(tmp_path / "run")


@pytest.fixture
def days(tmp_path: Path) -> Path:
    for number in range(4):
        write_image(tmp_path / "days" / f"{number}.png", picture(number, 131, 97))
    return tmp_path / "days"


@pytest.mark.parametrize(
    "network",
    [
        ResnetGenerator(4, 2),
        ResnetGenerator(4, 1, "transposed"),
        ResnetGenerator(4, 1, residual=True),
        StudentGenerator(4, 2, 3),
        StudentGenerator(4, 1, 2, separable=True),
    ],
    ids=["bilinear", "transposed", "residual", "student", "separable"],
)
def test_the_graph_is_the_network_at_every_size(network: Any) -> None:
    initialize(network, torch.Generator().manual_seed(0), std=0.1)
    network.eval().requires_grad_(False)
    session = onnxruntime_session(onnx_graph(network).SerializeToString())
    for height, width in ((32, 48), (64, 24), (16, 16)):
        x = torch.rand(1, 3, height, width) * 2 - 1
        (out,) = session.run(None, {"image": x.numpy()})
        assert np.abs(out - network(x).numpy()).max() < 1e-4, (height, width)


@pytest.mark.parametrize(("format", "backend"), FORMATS)
@pytest.mark.parametrize("size", [(96, 64), (97, 61), (5, 3)])
def test_an_exported_file_translates_as_the_run_does(
    run: Path, tmp_path: Path, format: Any, backend: str, size: tuple[int, int]
) -> None:
    said: list[str] = []
    export_translator(str(run), str(tmp_path / "made"), format, say=said.append)
    made = Translator.load(tmp_path / "made")
    image = picture(3, *size)
    assert np.abs(made(image).astype(int) - Translator.load(run, precision="fp32", device="cpu")(image)).max() <= 1
    assert made.sha == file_sha256(run / "best.safetensors")
    assert (made.settings["backend"], made.settings["precision"]) == (backend, "fp32")
    assert "largest error" in said[-1]
    assert float(said[-1].split("largest error ")[1].split(",")[0]) <= 1e-3


@pytest.mark.parametrize(("format", "backend"), FORMATS)
def test_a_run_is_exported_on_the_fly_once(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Any, backend: Any
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = Translator.load(run, backend=backend, precision="fp32")
    held = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert len(held) == (1 if format == "onnx" else 2)
    again = Translator.load(run, backend=backend, precision="fp32")
    assert held == {path: path.stat().st_mtime_ns for path in held}, "made twice"
    image = picture()
    assert np.array_equal(first(image), again(image))
    assert first.settings == again.settings
    for path in held:  # a damaged cache is made anew, not trusted
        path.write_bytes(path.read_bytes()[:100])
    assert np.array_equal(Translator.load(run, backend=backend, precision="fp32")(image), first(image))
    # Other weights are another file.
    made_run(run, std=0.06)
    assert not np.array_equal(Translator.load(run, backend=backend, precision="fp32")(image), first(image))


def test_bf16_is_held_to_its_mark_whatever_this_machine_computes(run: Path, tmp_path: Path) -> None:
    facts = export_translator(run, tmp_path / "half.xml", "openvino", precision="bf16")
    whole = export_translator(run, tmp_path / "whole.xml", "openvino")
    assert facts is not None
    assert whole is not None
    assert 40 <= facts.parity["psnr"] < whole.parity["psnr"]
    sizes = [(tmp_path / f"{name}.bin").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    image = picture()
    apart = Translator.load(tmp_path / "half.xml")(image).astype(float) - Translator.load(run, device="cpu")(image)
    assert 10 * np.log10(255**2 / np.square(apart).mean()) > 40


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_int8_is_calibrated_and_close(run: Path, days: Path, tmp_path: Path, format: Any) -> None:
    with pytest.raises(ConfigError, match="needs --calibrate"):
        export_translator(run, tmp_path / "made", format, precision="int8")
    with pytest.raises(DatasetError, match="no images there"):
        export_translator(run, tmp_path / "made", format, precision="int8", calibrate=run)
    facts = export_translator(str(run), str(tmp_path / "made"), format, precision="int8", calibrate=str(days))
    assert facts is not None
    assert 28 < facts.parity["psnr"] < 90
    image = picture(9)
    made = Translator.load(tmp_path / "made")
    apart = made(image).astype(float) - Translator.load(run, precision="fp32", device="cpu")(image)
    assert 10 * np.log10(255**2 / np.square(apart).mean()) > 28
    assert made.settings["precision"] == "int8"
    suffix = "onnx" if format == "onnx" else "bin"
    export_translator(run, tmp_path / "whole", format)
    sizes = [(tmp_path / name / f"model.{suffix}").stat().st_size for name in ("made", "whole")]
    assert sizes[0] < 0.5 * sizes[1], "eight bits should not take the room of 32"


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_file_that_is_not_what_torch_makes_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Any
) -> None:
    monkeypatch.setattr(module, "MAX_ERROR", 1e-12)
    with pytest.raises(NightaugError, match="too far from torch"):
        export_translator(run, tmp_path / "out" / "x", format)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() or path.name.startswith(".")]


def test_what_the_run_knew_goes_with_the_file(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", night_boxes="real", relit=0.7)
    export_translator(run, tmp_path / "x.onnx", "onnx")
    made, there = Translator.load(tmp_path / "x.onnx"), Translator.load(run, precision="fp32", device="cpu")
    assert (made.settings["night_boxes"], made.settings["relit"], made.sees_boxes) == (True, 0.7, True)
    image = picture()
    assert np.abs(made(image, [], 3).astype(int) - there(image, [], 3)).max() <= 1
    with pytest.raises(ConfigError, match="no way to a real day"):
        export_translator(run, tmp_path / "y.onnx", "onnx", "night2day")


def test_every_option_that_cannot_be_followed_is_refused(run: Path, tmp_path: Path) -> None:
    export_translator(run, tmp_path / "x.onnx", "onnx")
    export_translator(run, tmp_path / "x.xml", "openvino")
    one, two = tmp_path / "x.onnx", tmp_path / "x.xml"
    for message, call in (
        ("not for night2day", lambda: Translator.load(one, "night2day")),
        ("--tile needs --backend torch", lambda: Translator.load(one, tile=64)),
        ("--device meta needs --backend torch", lambda: Translator.load(one, device="meta")),
        ("--device gpu cannot be used here", lambda: Translator.load(one, device="gpu")),
        ("which --backend torch cannot run", lambda: Translator.load(one, backend="torch")),
        (r"onnxruntime reads \.onnx files", lambda: Translator.load(two, backend="onnxruntime")),
        ("exported in fp32; export it with --precision bf16", lambda: Translator.load(one, precision="bf16")),
        ("no bf16 on a CPU", lambda: Translator.load(run, precision="bf16", backend="onnxruntime")),
        ("relight is none", lambda: Translator.load("relight", backend="openvino")),
        ("exists; choose another --out, or --overwrite", lambda: export_translator(run, one, "onnx")),
        (r"ends in \.xml", lambda: export_translator(run, one, "openvino")),
    ):
        with pytest.raises(ConfigError, match=message):
            call()  # type: ignore[no-untyped-call]
    assert Translator.load(one, backend="openvino").settings["backend"] == "openvino"


def test_foreign_and_damaged_files_are_explained(run: Path, tmp_path: Path) -> None:
    export_translator(run, tmp_path / "x.onnx", "onnx")
    export_translator(run, tmp_path / "x.xml", "openvino")
    with pytest.raises(CheckpointError, match="no such file"):
        Translator.load(tmp_path / "absent.onnx")
    whole = bytearray((tmp_path / "x.onnx").read_bytes())
    whole[len(whole) // 2] ^= 1  # in the middle of some weights
    (tmp_path / "flipped.onnx").write_bytes(whole)
    with pytest.raises(CheckpointError, match="does not hold the weights"):
        Translator.load(tmp_path / "flipped.onnx")
    for name in ("x.onnx", "x.xml"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / f"cut-{name}").write_bytes(data[: len(data) // 2])
        with pytest.raises(CheckpointError, match="cut-x"):
            Translator.load(tmp_path / f"cut-{name}")
    binary = tmp_path / "x.bin"
    spoilt = bytearray(binary.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    binary.write_bytes(spoilt)
    with pytest.raises(CheckpointError, match="export it again"):
        Translator.load(tmp_path / "x.xml")
    foreign = onnx.load(str(tmp_path / "x.onnx"))
    del foreign.metadata_props[:]
    onnx.save(foreign, str(tmp_path / "foreign.onnx"))
    with pytest.raises(CheckpointError, match="not made by nightaug export"):
        Translator.load(tmp_path / "foreign.onnx")


@pytest.mark.parametrize("name", ["x.xml", "x.bin", "x.onnx"])
def test_what_is_no_ordinary_file_is_not_opened(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    given = tmp_path / name if name == "x.onnx" else tmp_path / "x.xml"
    export_translator(run, given, "onnx" if name == "x.onnx" else "openvino")
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)

    def opened(*words: object) -> Any:
        raise AssertionError("this waits for ever")

    for runtime in ("onnx.load", "nightaug.translate.backends.runtimes.openvino_core"):
        monkeypatch.setattr(runtime, opened)
    for backend in ("openvino", None):
        with pytest.raises(CheckpointError, match=rf"{name}: no such file"):
            Translator.load(given, backend=backend)  # type: ignore[arg-type]


def test_no_file_is_replaced_unasked(run: Path, tmp_path: Path) -> None:
    for out, binary in ((tmp_path / "night.xml", "night.bin"), (tmp_path, "model.bin")):
        (tmp_path / binary).write_bytes(b"somebody's weights")
        with pytest.raises(ConfigError, match=f"{binary} exists; choose another --out, or --overwrite"):
            export_translator(run, out, "openvino", dry_run=True)
        export_translator(run, tmp_path, "onnx", overwrite=True, dry_run=True)
        assert (tmp_path / binary).read_bytes() == b"somebody's weights"
    assert export_translator(run, tmp_path / "night.xml", "openvino", overwrite=True) is not None
    assert (tmp_path / "night.bin").stat().st_size > 100
    torch.save(ResnetGenerator(4, 1).state_dict(), tmp_path / "model.bin")
    with pytest.raises(ConfigError, match="which it is made of"):
        export_translator(tmp_path / "model.bin", tmp_path, "openvino", overwrite=True)


def test_the_next_command_uses_the_file(run: Path, days: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Beside the run's weights, where naming the folder would mean those.
    words = ["export", str(run), "--format", "onnx", "--out", str(run), "--direction", "night2day"]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.endswith(f"--translator {run / 'model.onnx'} --direction night2day")
    following = shlex.split(line.removeprefix("next: nightaug "))
    out = run.parent / "day"
    with pytest.raises(SystemExit) as caught:
        main([{"INPUT": str(days), "DIR": str(out)}.get(word, word) for word in following])
    assert caught.value.code == 0
    assert json.loads((out / "translation.json").read_text())["settings"]["backend"] == "onnxruntime"


def test_an_image_that_does_not_fit_into_memory_is_one_failed_image(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_translator(run, tmp_path / "x.onnx", "onnx")
    made = Translator.load(tmp_path / "x.onnx")
    monkeypatch.setattr("nightaug.translate.backends.exported.memory_free", lambda device: 1000)
    with pytest.raises(ImageError, match="--backend torch works in tiles"):
        made(picture())


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "openvino"])
def test_a_missing_package_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf'{package} is not installed: pip install "nightaug\[export\]"'):
        export_translator(run, tmp_path / "x", "openvino" if package == "openvino" else "onnx")


def test_openvino_is_not_let_phone_home() -> None:
    code = (
        "import sys\n"
        "from nightaug.translate.backends.runtimes import openvino_core\n"
        "openvino_core()\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "assert telemetry_utils.tm.__name__.endswith('telemetry_stub'), telemetry_utils.tm\n"
        "assert 'openvino_telemetry' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_ctrl_c_finds_a_stack_however_translators_come_and_go() -> None:
    code = (
        "import os, signal\n"
        "from nightaug.runs import StopRequest\n"
        "from nightaug.cyclegan.networks import ResnetGenerator\n"
        "from nightaug.translate.backends.graph import onnx_graph\n"
        "from nightaug.translate.backends.runtimes import openvino_core, openvino_runtime\n"
        "graph = onnx_graph(ResnetGenerator(4, 1)).SerializeToString()\n"
        "held = [openvino_runtime(openvino_core().read_model(graph), 'fp32') for _ in range(3)]\n"
        "del held[0], held[0], held[0]\n"
        "with StopRequest().listen() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    assert stop.requested"
    )
    subprocess.run([sys.executable, "-X", "faulthandler", "-c", code], check=True, capture_output=True)


def test_the_commands(run: Path, days: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def nightaug(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        code = caught.value.code
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    file, out = tmp_path / "x.xml", tmp_path / "night"
    assert nightaug("export", run, "--format", "openvino", "--out", file, "--dry-run")[0] == 0
    assert not file.exists()
    code, said, _ = nightaug("export", run, "--format", "openvino", "--out", file, "--calibrate", days)
    assert code == 0
    assert "largest error" in said
    again = ["translate", days, "--out", out, "--translator", file]
    assert nightaug(*again)[0] == 0
    assert len(list(out.glob("*.png"))) == 4
    settings = json.loads((out / "translation.json").read_text())["settings"]
    assert (settings["backend"], settings["precision"]) == ("openvino", "fp32")
    assert "0 translated, 4 were there" in nightaug(*again)[1]
    code, _, error = nightaug("translate", days, "--out", out, "--translator", run, "--precision", "fp32")
    assert code == 2
    assert "holds images made with" in error
    code, _, error = nightaug("translate", days, "--out", tmp_path / "b", "--backend", "openvino")
    assert (code, error.count("\n")) == (2, 1)


def test_a_distilled_run_is_a_run(run: Path, domains: Path, tmp_path: Path) -> None:
    from nightaug.cyclegan.distill import run_distill

    small = {"width": 4, "blocks": 1, "crop": 64, "load_size": 64, "steps": 1, "batch": 1, "score_images": 2,
             "sample_height": 64, "tensorboard": False}  # fmt: skip
    run_distill(run, domains, tmp_path / "student", [small], cpu=True)
    export_translator(tmp_path / "student", tmp_path / "x.onnx", "onnx")
    image = picture(0, 97, 61)
    there = Translator.load(tmp_path / "student", precision="fp32", device="cpu")(image)
    assert np.abs(Translator.load(tmp_path / "x.onnx")(image).astype(int) - there).max() <= 1
