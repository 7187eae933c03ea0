"""What ``nightaug openvocab`` says of itself."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.main import get_command

from nightaug.cli import main
from nightaug.cli_openvocab import app

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]


def test_the_commands() -> None:
    assert COMMANDS == ["embed", "evaluate", "predict", "probe", "synthesize", "train"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["openvocab", command, "--help"])
    out = capsys.readouterr().out
    assert caught.value.code == 0
    assert f"nightaug openvocab {command}" in out
    assert max(out) < "\U0001f000", "dataset:train:A is no picture of a train"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from nightaug.cli import main\n"
        "try: main(['openvocab', 'train', '--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'torch', 'torchvision', 'cv2', 'numpy', 'accelerate', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
