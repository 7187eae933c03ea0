"""Imports only go down: the folder tells the layer."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import nightaug

ROOT = Path(nightaug.__file__).parent
LAYERS: list[set[str]] = [
    {"errors", "config", "devices", "images", "boxes", "pickles", "runs", "losses", "training"},
    {"data"},
    {"clip"},
    {"relight", "cyclegan", "detect"},
    {"transforms", "translate"},
    {"curate", "experiment", "doctor"},
    {"cli", "cli_common", "cli_curate", "cli_detect", "cli_export", "cli_openvocab", "cli_relight", "__main__"},
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
#: Inside a layer, who may see whom; all others of layers 3 and up stand side by side.
SIDE_BY_SIDE = {"relight", "cyclegan", "detect"}


def _modules(path: Path) -> set[str]:
    """Every module a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def _imports(path: Path) -> set[str]:
    """First part below nightaug of everything a file imports."""
    return {name.split(".")[1] for name in _modules(path) if name.startswith("nightaug.")}


def test_imports_only_go_down() -> None:
    wrong = []
    for path in ROOT.rglob("*.py"):
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        assert own in LAYER, f"{own} has no layer yet: give it one here and in CONTRIBUTING.md"
        for other in _imports(path) - {own}:
            if LAYER[other] > LAYER[own] or {own, other} <= SIDE_BY_SIDE:
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_the_ruler_and_the_renderer_share_no_code() -> None:
    for path in (ROOT / "relight").rglob("*.py"):
        assert not {name for name in _modules(path) if name.startswith("nightaug.data.scenes")}
    for path in (ROOT / "data" / "scenes").rglob("*.py"):
        assert not {name for name in _modules(path) if name.startswith("nightaug.relight")}


def test_files_stay_readable() -> None:
    long = [
        f"{p.relative_to(ROOT)}: {n}" for p in ROOT.rglob("*.py") if (n := len(p.read_text("utf-8").splitlines())) > 450
    ]
    assert not long, long


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from nightaug.cli import main\n"
        "try: main(['translate', '--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'torch', 'torchvision', 'cv2', 'numpy', 'accelerate', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_nothing_reads_beyond_the_project() -> None:
    for path in [*ROOT.rglob("*.py"), *ROOT.rglob("*.yaml"), *Path(__file__).parent.rglob("*.py")]:
        if path.name != Path(__file__).name:
            assert "../shared" not in path.read_text("utf-8"), path
