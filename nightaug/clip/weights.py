"""Where a CLIP's weights come from: an open_clip tag, a file, a local folder, or a tiny model of our own.

A weight that is not on this machine and cannot be fetched fails at once: the hub's client would try for most of a
minute before saying the same.
"""

from __future__ import annotations

import difflib
import importlib
import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightaug.errors import CheckpointError, ConfigError, first_line

#: Seconds a hub may take to say that it is there.
PATIENCE = 4.0
WEIGHT_SUFFIXES = frozenset({".safetensors", ".pt", ".pth", ".bin", ".ckpt"})
#: open_clip's name for the file that describes a model in a folder.
CONFIG_NAME = "open_clip_config.json"
#: The weight files of a ``local-dir:`` folder, best first.
_FOLDER_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")


@dataclass(frozen=True)
class Source:
    """A model and its weights, found on this machine.

    Attributes:
        name: as the user wrote it, without folders of this machine: what results and caches show.
        model: open_clip's model name, or None where ``config`` describes the model.
        weights: the weight file.
        config: ``{"model_cfg": ..., "preprocess_cfg": ...}`` where the weights came with their own.
        preprocess: what open_clip knows about the images a tag was trained on (mean, std, ...).
        folder: the folder ``config`` was read from; a tokenizer may lie there, too.
    """

    name: str
    model: str | None
    weights: Path
    config: dict[str, Any] | None = None
    preprocess: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None


def without_network(optional: bool, form: str = "MODEL:FILE") -> str:
    """What a user can do about weights that cannot be had.

    Args:
        optional: whoever asks does without CLIP, too.
        form: how the file is given.
    """
    fetch = f"fetch them where there is a network and give the file ({form} or local-dir:FOLDER)"
    return f"{fetch}, or go without CLIP (--clip none)" if optional else fetch


def open_clip_module(optional: bool = False) -> Any:
    """The open_clip package.

    Args:
        optional: as in :func:`without_network`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("open_clip")
    except ImportError as error:
        none = ", or --clip none" if optional else ""
        raise ConfigError(
            f"CLIP needs open_clip, which is missing here ({error}): pip install 'nightaug[clip]'{none}"
        ) from error


def find_weights(spec: str, optional: bool = False) -> Source:
    """Find, or fetch, what ``spec`` names.

    Args:
        spec: ``MODEL:TAG`` (say, ``ViT-B-32:laion2b_s34b_b79k``), ``MODEL:FILE``, ``local-dir:FOLDER``, or a folder
            or weight file made by the tiny model's trainer. A file that is called as a tag's, or lies in a folder
            called as its repository, has that tag's settings.
        optional: whoever asks does without CLIP, too; the messages then say how.

    Raises:
        ConfigError: not one of these, or an unknown model or tag; the message names the closest ones.
        CheckpointError: the weights are not here and cannot be fetched.
    """
    open_clip = open_clip_module(optional)
    head, colon, tail = spec.partition(":")
    if head == "local-dir" and colon:
        return _from_folder(Path(tail))
    path = Path(spec)
    if path.is_dir():
        return _from_folder(path)
    if path.suffix in WEIGHT_SUFFIXES and path.is_file():
        return _from_file(path)
    models = open_clip.list_models()
    if not colon or not tail or head.replace("/", "-") not in models:
        raise ConfigError(_unknown(spec, head, models, optional))
    model = head.replace("/", "-")
    if Path(tail).is_file():
        return Source(f"{model}:{Path(tail).name}", model, Path(tail), None, _settings(_tag_of(model, Path(tail))))
    facts = open_clip.get_pretrained_cfg(model, tail)
    if facts:
        return Source(f"{model}:{tail}", model, _fetched(model, tail, facts, optional), None, _settings(facts))
    if Path(tail).suffix in WEIGHT_SUFFIXES or "/" in tail:
        raise CheckpointError(f"{tail}: no such weight file")
    tags = open_clip.list_pretrained_tags_by_model(model)
    close = difflib.get_close_matches(tail, tags, 1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise ConfigError(f"open_clip has no weights '{tail}' for {model}{hint} (there are: {', '.join(tags) or 'none'})")


def _settings(facts: dict[str, Any]) -> dict[str, Any]:
    """What the model and its images were like when a tag's weights were trained."""
    known = ("mean", "std", "interpolation", "resize_mode")
    quick = {"quick_gelu": True} if facts.get("quick_gelu") else {}
    return {key: facts[key] for key in known if key in facts} | quick


def _tag_of(model: str, file: Path) -> dict[str, Any]:
    """open_clip's facts about the tag whose file this is, judged by its name and folders; empty where it is none's."""
    open_clip, file = open_clip_module(), file.absolute()
    for tag in open_clip.list_pretrained_tags_by_model(model):
        facts: dict[str, Any] = open_clip.get_pretrained_cfg(model, tag)
        repo, name = _repo(facts), Path(str(facts.get("url") or "")).name
        # The second is a folder of the hub's own cache.
        folders = {repo.rpartition("/")[2], f"models--{repo.replace('/', '--')}"} if repo else set()
        if file.name == name or folders & set(file.parts[:-1]):
            return facts
    return {}


def _repo(facts: dict[str, Any]) -> str:
    """A tag's repository on the hub; empty where it has none."""
    return str(facts.get("hf_hub") or "").rpartition("/")[0]


def _form(model: str, facts: dict[str, Any]) -> str:
    """How a tag's file is to be given by hand, so that it is run with the settings of the tag."""
    if facts.get("quick_gelu"):
        quick = f"{model.removesuffix('-quickgelu')}-quickgelu"
        if quick in open_clip_module().list_models():
            return f"{quick}:FILE"
    repo = _repo(facts)
    return f"{model}:{repo.rpartition('/')[2]}/FILE" if repo else f"{model}:{Path(str(facts.get('url'))).name}"


def _unknown(spec: str, head: str, models: list[str], optional: bool) -> str:
    if Path(spec).suffix in WEIGHT_SUFFIXES or ("/" in spec and ":" not in spec):
        return f"{spec}: no such CLIP folder or weight file"
    close = difflib.get_close_matches(head, models, 2)
    hint = f"; did you mean {' or '.join(close)}?" if close and head not in models else ""
    last = ", a tiny model's folder or none" if optional else " or a tiny model's folder"
    return f"expected a CLIP as MODEL:TAG, MODEL:FILE, local-dir:FOLDER{last}, got '{spec}'{hint}"


def _from_folder(folder: Path) -> Source:
    config = folder / CONFIG_NAME
    if not config.is_file():
        raise CheckpointError(f"{folder} holds no {CONFIG_NAME}; expected a folder that describes an open_clip model")
    found = [folder / name for name in _FOLDER_WEIGHTS if (folder / name).is_file()]
    found += sorted(path for path in folder.glob("open_clip*") if path.suffix in WEIGHT_SUFFIXES)
    if not found:
        raise CheckpointError(f"{folder} holds no weights; expected {_FOLDER_WEIGHTS[0]}")
    return Source(f"{folder.resolve().name}", None, found[0], _checked(config, config.read_bytes()), folder=folder)


def _from_file(path: Path) -> Source:
    """A weight file that says in its metadata, or in a file beside it, which model it is of."""
    from nightaug.runs import load_weights

    beside = path.with_name(CONFIG_NAME)
    if path.suffix == ".safetensors":
        facts = load_weights(path)[1].get("open_clip_config")
        if facts:
            return Source(path.stem, None, path, _checked(path, facts))
    if beside.is_file():
        return Source(path.stem, None, path, _checked(beside, beside.read_bytes()), folder=path.parent)
    raise ConfigError(f"{path} does not say which model it is of: write MODEL:{path.name}, say ViT-B-32:{path.name}")


def _checked(where: Path, text: str | bytes) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{where}: not JSON, and so not the description of a model ({error})") from error
    model = config.get("model_cfg") if isinstance(config, dict) else None
    parts = [model.get("vision_cfg"), model.get("text_cfg")] if isinstance(model, dict) else [None]
    if not all(isinstance(part, dict) for part in parts):
        raise CheckpointError(f"{where}: not the description of an open_clip model (model_cfg, vision_cfg, text_cfg)")
    assert isinstance(config, dict)
    return config


def _fetched(model: str, tag: str, facts: dict[str, Any], optional: bool) -> Path:
    """The file of a tag: from the machine's cache where it is there, else from the net.

    Raises:
        CheckpointError: neither.
    """
    open_clip = open_clip_module()
    cached = _cached(facts)
    if cached is not None:
        return cached
    spec, hint = f"{model}:{tag}", without_network(optional, _form(model, facts))
    why = unreachable(str(facts.get("hf_hub") or ""), str(facts.get("url") or ""))
    if why:
        raise CheckpointError(f"no weights for {spec} on this machine, and {why}: {hint}")
    try:
        return Path(open_clip.download_pretrained(facts))
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"the weights for {spec} cannot be fetched ({first_line(error)}): {hint}") from error


def _cached(facts: dict[str, Any]) -> Path | None:
    if facts.get("file"):
        return Path(facts["file"])
    repo, _, file = str(facts.get("hf_hub") or "").rpartition("/")
    if repo:
        hub = importlib.import_module("huggingface_hub")
        file = file or "open_clip_pytorch_model.bin"
        # open_clip prefers safetensors under these names, and so must we, to find what it fetched.
        stem = file.rsplit(".", 1)[0]
        names = [f"{stem}.safetensors", "open_clip_model.safetensors", file]
        for name in names:
            path = hub.try_to_load_from_cache(repo, name)
            if isinstance(path, str):
                return Path(path)
        return None
    target = Path("~/.cache/clip").expanduser() / Path(str(facts.get("url"))).name
    return target if target.is_file() else None


def unreachable(hub_repo: str, url: str = "") -> str:
    """Why weights cannot be fetched, in words; empty where the other side answers."""
    hub = importlib.import_module("huggingface_hub.constants")
    if hub_repo:
        if hub.HF_HUB_OFFLINE:
            return "HF_HUB_OFFLINE is set"
        url = f"{hub.ENDPOINT}/api/models/{'/'.join(hub_repo.split('/')[:2])}"
    host = urllib.parse.urlsplit(url).netloc
    answer: list[str] = []
    # A thread, as looking up a host's name has no time limit of its own.
    asking = threading.Thread(target=lambda: answer.append(_ask(url)), daemon=True)
    asking.start()
    asking.join(PATIENCE + 1)
    problem = answer[0] if answer else "no answer"
    return f"{host} cannot be reached ({problem})" if problem else ""


def _ask(url: str) -> str:
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE):
            return ""
    except urllib.error.HTTPError as error:
        # 401 and 404 are answers about the file, which the download itself explains better.
        return f"HTTP {error.code}" if error.code in (403, 407) or error.code >= 500 else ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return str(getattr(reason, "strerror", None) or reason)


@contextmanager
def without_hub_retries(needs_hub: bool) -> Iterator[None]:
    """While a model is built: some text towers ask the hub for a tokenizer, which must fail soon without a network."""
    hub: Any = importlib.import_module("huggingface_hub.constants")
    if not needs_hub or hub.HF_HUB_OFFLINE or not unreachable("timm"):
        yield
        return
    hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = False
