"""Exported translators on disk: what a file says of itself, and how it is written and read.

ONNX is one file. OpenVINO is two: ``NAME.xml`` beside ``NAME.bin``; the first holds the second's SHA-256 and is written
last, so that a half-written pair is never taken for a translator.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, ValidationError

from nightaug.config import Settings
from nightaug.data.classes import Direction
from nightaug.errors import CheckpointError, ConfigError, first_line
from nightaug.runs import file_sha256
from nightaug.translate.backends.runtimes import check_file, openvino_package

ExportFormat = Literal["onnx", "openvino"]
ExportPrecision = Literal["fp32", "bf16", "int8"]
#: Format -> ending of the file that names the translator.
SUFFIXES: dict[ExportFormat, str] = {"onnx": ".onnx", "openvino": ".xml"}
#: Where the facts lie in a file's metadata.
_KEY = "nightaug"


class ExportFacts(Settings):
    """What a file says of itself; all that translating with it takes."""

    version: str
    kind: Literal["translator"] = "translator"
    format: ExportFormat
    precision: ExportPrecision
    direction: Direction
    #: Names of the run and of its weight file.
    source: str
    #: SHA-256 of the weight file.
    sha: str
    night_boxes: Literal["real", "pseudo", "none"] = "none"
    #: Strength of the relight that comes before the generator.
    relit: float | None = Field(None, ge=0, le=1)
    #: Sides of the input must be a multiple of this, pixels.
    multiple: PositiveInt
    #: Channels at full size: what memory is judged by.
    width: PositiveInt
    #: How far the file was from torch in fp32 when it was made: ``max_error`` in units of [-1, 1], ``psnr`` in dB.
    parity: dict[str, float] = Field(default_factory=dict)
    #: SHA-256 of the weights: of OpenVINO's ``.bin`` file, or of ONNX's constants one after the other.
    weights_sha: str | None = None


def exported_file(path: Path) -> Path | None:
    """The exported file a path names: itself, or the only one in a folder without weights; None if there is none."""
    if path.suffix.lower() in SUFFIXES.values():
        return path
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return None
    found = [each for suffix in SUFFIXES.values() for each in sorted(path.glob(f"*{suffix}"))]
    return found[0] if len(found) == 1 else None


def target_file(out: Path, format: ExportFormat) -> Path:
    """The file an export goes to: ``out`` itself, or ``model.onnx`` or ``model.xml`` in the folder ``out``.

    Raises:
        ConfigError: its ending is that of another format.
    """
    suffix = SUFFIXES[format]
    if out.suffix.lower() == suffix:
        return out
    if out.suffix.lower() in (*SUFFIXES.values(), ".bin") and not out.is_dir():
        raise ConfigError(f"--out {out}: a file of --format {format} ends in {suffix}")
    return out / f"model{suffix}"


def written_files(target: Path) -> list[Path]:
    """What an export to a :func:`target_file` writes: OpenVINO keeps the numbers beside the graph."""
    return [target, target.with_suffix(".bin")] if target.suffix.lower() == SUFFIXES["openvino"] else [target]


def read_onnx_facts(path: Path) -> ExportFacts:
    """What an ``.onnx`` file says of itself.

    Raises:
        CheckpointError: missing, damaged, or not made by ``nightaug export``.
        ConfigError: onnx is not installed.
    """
    check_file(path)
    onnx = onnx_package()
    try:
        model = onnx.load(str(path), load_external_data=False)
        text = {entry.key: entry.value for entry in model.metadata_props}.get(_KEY)
        outside = any(tensor.external_data for tensor in model.graph.initializer)
        sha = _constants_sha(model)
    except Exception as error:  # protobuf's errors
        raise CheckpointError(f"{path}: not an ONNX file, or damaged ({_line(error)})") from error
    if outside:  # ours never do, and a file should not name others
        raise CheckpointError(f"{path} keeps its weights in other files; export it again")
    facts = _facts(path, text)
    if facts.weights_sha != sha:
        raise CheckpointError(f"{path} does not hold the weights it was exported with; export it again")
    return facts


def _constants_sha(model: Any) -> str:
    digest = hashlib.sha256()
    for tensor in model.graph.initializer:
        digest.update(tensor.name.encode() + tensor.raw_data)
    return digest.hexdigest()


def read_openvino_facts(path: Path, model: Any) -> ExportFacts:
    """What an ``openvino.Model`` read from ``path`` says of itself.

    Raises:
        CheckpointError: not made by ``nightaug export``, or its ``.bin`` is another's.
    """
    facts = _facts(path, str(model.get_rt_info([_KEY]).value) if model.has_rt_info([_KEY]) else None)
    binary = path.with_suffix(".bin")
    if facts.weights_sha is None or not binary.is_file() or file_sha256(binary) != facts.weights_sha:
        raise CheckpointError(f"{binary} is not what {path.name} was exported with; export it again")
    return facts


def write_onnx(target: Path, model: Any, measure: Callable[[Path], ExportFacts]) -> ExportFacts:
    """Write an ONNX file that says of itself what ``measure`` finds out about it; nothing stays where that fails.

    Args:
        model: ``onnx.ModelProto``.
        measure: from a finished file to its facts.
    """
    onnx = onnx_package()
    with _beside(target) as folder:
        draft = folder / target.name
        onnx.save(model, str(draft))
        facts = measure(draft).model_copy(update={"weights_sha": _constants_sha(model)})
        onnx.helper.set_model_props(model, {_KEY: _text(facts)})
        onnx.save(model, str(draft))
        os.replace(draft, target)
    return facts


def write_openvino(target: Path, model: Any, half: bool, measure: Callable[[Path], ExportFacts]) -> ExportFacts:
    """As :func:`write_onnx`, for an ``openvino.Model``.

    Args:
        half: keep the weights in 16 bits.
    """
    openvino = openvino_package()
    with _beside(target) as folder:
        draft, binary = folder / target.name, folder / target.with_suffix(".bin").name
        openvino.save_model(model, str(draft), compress_to_fp16=half)
        facts = measure(draft).model_copy(update={"weights_sha": file_sha256(binary)})
        model.set_rt_info(_text(facts), [_KEY])
        openvino.save_model(model, str(draft), compress_to_fp16=half)
        assert file_sha256(binary) == facts.weights_sha, "the same weights gave two files"
        os.replace(binary, target.with_suffix(".bin"))
        os.replace(draft, target)
    return facts


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A folder on the target's disk that goes with the block."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
        yield Path(folder)


def _text(facts: ExportFacts) -> str:
    return json.dumps(facts.model_dump(mode="json"), sort_keys=True)


def _facts(path: Path, text: str | None) -> ExportFacts:
    if text is None:
        raise CheckpointError(f"{path} was not made by nightaug export; give a train-translator run or export one")
    try:
        return ExportFacts.model_validate(json.loads(text))
    except (ValueError, ValidationError) as error:
        raise CheckpointError(f"{path} was made by another version of nightaug export ({_line(error)})") from error


def _line(error: Exception) -> str:
    return first_line(error)[:160]


def onnx_package() -> Any:
    """The module ``onnx``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ConfigError('onnx is not installed: pip install "nightaug[export]"') from error
    return onnx
