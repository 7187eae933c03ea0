"""ONNX Runtime and OpenVINO as functions from array to array, offline, silent, on as many cores as torch would use."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from nightaug.errors import CheckpointError, ConfigError, first_line
from nightaug.runs import resolve_precision

if TYPE_CHECKING:
    from nightaug.translate.backends.files import ExportPrecision

Backend = Literal["onnxruntime", "openvino"]
#: float32 (1, 3, H, W) in [-1, 1] to the same.
Compute = Callable[[NDArray[np.float32]], NDArray[np.float32]]

MISSING = 'is not installed: pip install "nightaug[export]"'


class Runtime(NamedTuple):
    """A graph that is ready to run.

    ``arithmetic``: ``fp32`` or ``bf16``, what it computes in where it does not compute in integers.
    """

    compute: Compute
    arithmetic: str


def onnxruntime_session(model: bytes | str) -> Any:
    """An ``onnxruntime.InferenceSession`` of a file or its bytes.

    Raises:
        ConfigError: onnxruntime is not installed.
        CheckpointError: not such a model.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"onnxruntime {MISSING}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Threads that wait by spinning would take the cores from decoding and encoding.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no base class that it names
        raise _damaged(model if isinstance(model, str) else "the graph", error) from error


def onnxruntime_runtime(path: Path) -> Runtime:
    """An ONNX file in ONNX Runtime, on the CPU; errors as :func:`onnxruntime_session`."""
    session = onnxruntime_session(str(path))
    ends = session.get_inputs()[0].name, session.get_outputs()[0].name

    def compute(x: NDArray[np.float32]) -> NDArray[np.float32]:
        out: NDArray[np.float32] = session.run([ends[1]], {ends[0]: x})[0]
        return out

    return Runtime(compute, "fp32")


def openvino_package() -> Any:
    """The module ``openvino``, silenced.

    Importing it reports the import to its makers through openvino_telemetry, where that can be imported; it has a stub
    for where it cannot, and that is what it finds here.

    Raises:
        ConfigError: openvino is not installed.
    """
    name = "openvino_telemetry"
    hidden = {key: sys.modules.pop(key) for key in list(sys.modules) if key.split(".")[0] == name}
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise ConfigError(f"openvino {MISSING}") from error
    finally:
        del sys.modules[name]
        sys.modules.update(hidden)
    return openvino


@functools.cache
def openvino_core() -> Any:
    """The process's ``openvino.Core``.

    One, and for good: its CPU plugin swaps the stack that signals are handled on and puts the former back when it goes.
    Two that do not go in reverse order leave a freed one, and the next Ctrl-C is a crash (seen with 2026.4).

    Raises:
        ConfigError: openvino is not installed.
    """
    core = openvino_package().Core()
    # Mapped weights would take the process down with them when somebody cuts the file short.
    core.set_property({"ENABLE_MMAP": False})
    return core


def read_openvino(path: Path) -> Any:
    """An ``openvino.Model`` of an ``.xml`` or ``.onnx`` file.

    Raises:
        ConfigError: openvino is not installed.
        CheckpointError: missing, or not such a model.
    """
    check_file(path)
    if path.suffix.lower() == ".xml":  # the numbers lie beside it
        check_file(path.with_suffix(".bin"))
    core = openvino_core()
    try:
        return core.read_model(str(path))
    except Exception as error:  # a RuntimeError of its own
        raise _damaged(str(path), error) from error


def openvino_runtime(model: Any, precision: ExportPrecision) -> Runtime:
    """An ``openvino.Model`` on the CPU.

    Args:
        precision: of the file. ``bf16`` is computed in fp32 where the machine cannot; what an ``int8`` file leaves in
            floating point is bf16 where that is fast.
    """
    asked = precision if precision != "int8" else resolve_precision("auto", cpu=True)
    options = {
        # One image at a time on all cores: images come one after the other.
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(torch.get_num_threads()),
        "INFERENCE_PRECISION_HINT": "bf16" if asked == "bf16" else "f32",
    }
    compiled = openvino_core().compile_model(model, "CPU", options)
    bf16 = "bfloat16" in str(compiled.get_property("INFERENCE_PRECISION_HINT"))

    def compute(x: NDArray[np.float32]) -> NDArray[np.float32]:
        # A copy: the compiled model writes its next result to the same place.
        out: NDArray[np.float32] = np.array(compiled(x)[0])
        return out

    return Runtime(compute, "bf16" if bf16 else "fp32")


def check_file(path: Path) -> None:
    """Refuse what is no ordinary file before a runtime opens it: it would wait for a pipe, and a device never ends.

    Raises:
        CheckpointError: it is none.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")


def _damaged(what: str, error: Exception) -> CheckpointError:
    line = first_line(error)
    return CheckpointError(f"{what}: not a model nightaug export has made, or damaged ({line[:160]})")
