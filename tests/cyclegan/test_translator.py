from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import picture
from safetensors.torch import save_file

from nightaug.cyclegan.checkpoint import find_weights, write_translator
from nightaug.cyclegan.dataset import to_image, to_tensor
from nightaug.cyclegan.networks import ResnetGenerator, initialize, receptive_radius
from nightaug.cyclegan.pairs import GeneratorPair
from nightaug.cyclegan.settings import TranslatorSettings
from nightaug.cyclegan.translator import CycleGANTranslator, _fixed_norms, run_tiled
from nightaug.errors import CheckpointError, ConfigError

GOLDEN = Path(__file__).parent.parent / "golden"


def network(blocks: int = 1) -> ResnetGenerator:
    made = ResnetGenerator(4, blocks)
    initialize(made, torch.Generator().manual_seed(0), std=0.2)
    return made


def levels_apart(first: np.ndarray, second: np.ndarray) -> int:
    """Largest difference in grey levels; another memory layout may round the last bit otherwise."""
    return int(np.abs(first.astype(int) - second).max())


@pytest.mark.parametrize(("w", "h"), [(96, 64), (97, 61), (5, 3), (1, 1), (300, 17)])
def test_size_is_kept_whatever_it_is(w: int, h: int) -> None:
    out = CycleGANTranslator(network(), precision="fp32", device="cpu")(picture(0, w, h))
    assert out.shape == (h, w, 3)
    assert out.dtype == np.uint8


def test_output_is_the_generators() -> None:
    image, net = picture(), network()
    expected = to_image(net(to_tensor(image)[None])[0])
    assert levels_apart(CycleGANTranslator(net, precision="fp32", device="cpu")(image), expected) <= 1


def test_bf16_is_close_to_fp32() -> None:
    image = picture(0, 128, 96)
    outs = [CycleGANTranslator(network(), precision=p, device="cpu")(image).astype(float) for p in ("fp32", "bf16")]  # type: ignore[arg-type]
    error = np.square(outs[0] - outs[1]).mean()
    assert 10 * np.log10(255**2 / error) > 35


def test_an_output_pixel_sees_no_further_than_the_halo() -> None:
    for blocks in (1, 3):
        net = network(blocks)
        x = torch.rand(1, 3, 8, 512) * 2 - 1
        with torch.no_grad(), _fixed_norms(net):
            before = net(x)
            x[:, :, :, 256:] = 0.5
            changed = (net(x) - before).abs().amax((0, 1, 2)).nonzero().min()
        assert 256 - receptive_radius(blocks) <= changed < 256


def test_tiles_have_no_seams() -> None:
    net = network()
    image = to_tensor(picture(3, 320, 240))[None]
    with torch.inference_mode():
        tiled = run_tiled(net, image, 64)
        # The same statistics on the whole image: any difference would be a seam.
        halo = -(-receptive_radius(1) // 4) * 4
        factor = (64 + 2 * halo) / (320 * 240) ** 0.5
        small = [round(side * factor / 4) * 4 for side in (240, 320)]
        with _fixed_norms(net):
            net(torch.nn.functional.interpolate(image, small, mode="bilinear", antialias=True))
            whole = net(image)
    assert float((tiled - whole).abs().max()) < 1e-4


def test_tiles_are_close_to_the_whole_image() -> None:
    import cv2

    # Smooth, as photographs mostly are: statistics of pure noise do not survive scaling down.
    image = cv2.GaussianBlur(picture(3, 640, 480), (0, 0), 4)
    net = ResnetGenerator(8, 1)
    initialize(net, torch.Generator().manual_seed(0))
    whole, tiled = (CycleGANTranslator(net, precision="fp32", device="cpu", tile=t)(image) for t in (0, 320))
    assert np.abs(whole.astype(int) - tiled).mean() < 3


def test_tiling_starts_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    import nightaug.cyclegan.translator as module

    calls = []
    original = module.run_tiled
    monkeypatch.setattr(module, "run_tiled", lambda *a: calls.append(a[2]) or original(*a))
    image = picture(0, 640, 480)
    translator = CycleGANTranslator(network(), precision="fp32", device="cpu")
    translator(image)
    assert not calls
    monkeypatch.setattr(module, "memory_free", lambda device: 10_000_000)
    assert translator(image).shape == image.shape
    assert calls


def pair_file(path: Path) -> GeneratorPair:
    settings = TranslatorSettings(width=4, blocks=2, mixed_precision="fp32")
    pair = GeneratorPair(settings)
    initialize(pair, torch.Generator().manual_seed(0), std=0.2)
    write_translator(path, pair, settings, 7, "0")
    return pair


def test_own_weights_give_each_direction_its_generator(tmp_path: Path) -> None:
    pair = pair_file(tmp_path / "last.safetensors")
    image = picture()
    for direction, net in (("day2night", pair.A2B), ("night2day", pair.B2A)):
        loaded = CycleGANTranslator.load(tmp_path, direction, "cpu", "fp32")  # type: ignore[arg-type]
        assert levels_apart(loaded(image), to_image(net(to_tensor(image)[None])[0])) <= 1
    assert loaded.sha is not None
    assert len(loaded.sha) == 64


def test_best_is_preferred_to_last(tmp_path: Path) -> None:
    pair_file(tmp_path / "last.safetensors")
    pair_file(tmp_path / "best.safetensors")
    assert find_weights(tmp_path).name == "best.safetensors"


def test_published_weights_translate() -> None:
    translator = CycleGANTranslator.load(GOLDEN / "resnet_9blocks_ngf8.pth", device="cpu", precision="fp32")
    io = np.load(GOLDEN / "resnet_9blocks_ngf8_io.npz")
    image = to_image(torch.tensor(io["x"][0]))
    assert np.abs(translator(image).astype(int) - to_image(torch.tensor(io["y"][0]))).mean() < 1.5


def test_wrong_checkpoints_are_explained(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file or run folder"):
        CycleGANTranslator.load(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="is it a train-translator run"):
        CycleGANTranslator.load(tmp_path)
    (tmp_path / "x.safetensors").write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        CycleGANTranslator.load(tmp_path / "x.safetensors")
    save_file({"w": torch.zeros(1)}, tmp_path / "y.safetensors")
    with pytest.raises(CheckpointError, match="not a CycleGAN ResNet generator"):
        CycleGANTranslator.load(tmp_path / "y.safetensors")
    save_file({"w": torch.zeros(1)}, tmp_path / "z.safetensors", {"nightaug": '{"kind": "detector"}'})
    with pytest.raises(CheckpointError, match="holds a detector"):
        CycleGANTranslator.load(tmp_path / "z.safetensors")
    with pytest.raises(CheckpointError, match="not a CycleGAN ResNet generator"):
        CycleGANTranslator.load(GOLDEN / "patchgan70_ndf8.pth")


@pytest.mark.parametrize(
    "content", [{1: torch.zeros(2)}, {"state_dict": [1]}, {"state_dict": 5}, {"model.1.weight": 3}]
)
def test_odd_pth_files_are_explained(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        CycleGANTranslator.load(tmp_path / "x.pth")


def test_nan_weights_are_refused(tmp_path: Path) -> None:
    pair = pair_file(tmp_path / "last.safetensors")
    with torch.no_grad():
        next(iter(pair.A2B.parameters()))[0, 0, 0, 0] = float("nan")
    write_translator(tmp_path / "last.safetensors", pair, TranslatorSettings(width=4, blocks=2), 1, "0")
    with pytest.raises(CheckpointError, match="NaN"):
        CycleGANTranslator.load(tmp_path)


@pytest.mark.parametrize("device", ["banana", "cuda:99"])
def test_devices_that_are_not_there_are_explained(device: str) -> None:
    with pytest.raises(ConfigError, match=f"--device {device} cannot be used here"):
        CycleGANTranslator(network(), device=device)
    with pytest.raises(ConfigError, match="precision"):
        CycleGANTranslator(network(), precision="fp8", device="cpu")  # type: ignore[arg-type]


def test_pickles_that_run_code_are_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    torch.save({"model.1.weight": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(CheckpointError, match=r"could run any code .*: refused"):
        CycleGANTranslator.load(tmp_path / "bomb.pth")
    assert not (tmp_path / "ran").exists()
