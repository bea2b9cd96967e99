"""A checkpoint is data: nothing in it is run or fetched, and what was made to do harm is one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lumina.checkpoints import load_config, load_weights
from lumina.files import read_json
from lumina.generate import TextToVideo
from lumina.models.autoencoder import VideoAutoencoder
from lumina.models.text_encoder import TextEncoder
from lumina.tensor_files import read_tensors
from tests.lumina.tiny import TINY

ZOO = Path(__file__).resolve().parents[2] / "lumina" / "zoo"


def asks(file: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}
        (folder / file).write_text(json.dumps(content))
        (folder / "evil.py").write_text("raise SystemExit('ran')")

    return change


def header(length: int) -> bytes:
    return length.to_bytes(8, "little") + b"{" * 64


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_checkpoint_that_asks_for_code_of_its_own_is_refused(tmp_path: Path, file: str) -> None:
    folder = shutil.copytree(ZOO / "text_encoder", tmp_path / "text")
    asks(file)(folder)
    with pytest.raises(ValueError, match=rf"{file} asks for code of its own \(auto_map\), which is never run: take"):
        TextEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("loader", "zoo", "file", "content"),
    [
        (TextEncoder, "text_encoder", "config.json", b"[" * 5000),
        (TextEncoder, "text_encoder", "tokenizer.json", b'{"a": ' * 5000),
        (TextEncoder, "text_encoder", "model.safetensors", header(1 << 40)),
        (VideoAutoencoder, "vae", "config.json", b'{"a": ' * 5000),
        (VideoAutoencoder, "vae", "diffusion_pytorch_model.safetensors", header(1 << 40)),
        (VideoAutoencoder, "vae", "diffusion_pytorch_model.safetensors", header(1 << 20)),
    ],
)
def test_damage_in_any_file_is_one_line(tmp_path: Path, loader: Any, zoo: str, file: str, content: bytes) -> None:
    folder = shutil.copytree(ZOO / zoo, tmp_path / zoo)
    assert (folder / file).is_file()
    (folder / file).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=str(folder)) as failed:
        loader.from_pretrained(folder)
    assert "\n" not in str(failed.value)


def test_a_path_that_is_not_there_never_asks_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[str] = []

    def fetch(name: str, **_: object) -> str:
        asked.append(name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for loader in (TextEncoder, VideoAutoencoder, TextToVideo):
        with pytest.raises(FileNotFoundError, match="no folder; a model of the hub is written hf:runs/export"):
            loader.from_pretrained("runs/export")  # type: ignore[attr-defined]
    assert asked == []
    with pytest.raises(FileNotFoundError, match="does not hold a text encoder"):
        TextEncoder.from_pretrained("hf:runs/export")
    assert asked == ["runs/export"]


def test_the_index_of_a_checkpoint_names_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"dim": 64}')
    with pytest.raises(ValueError, match=r"config\.json is no config of a transformer of ours: n_layers: Field"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text(TINY.model_dump_json())
    for name in ("../secret.safetensors", "/etc/passwd", "model.pkl"):
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(ValueError, match="is no safetensors file beside it"):
            load_weights(tmp_path)


def test_a_header_of_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(header(1 << 33))
    with pytest.raises(ValueError, match="is damaged"):
        read_tensors(path)


def test_json_of_a_checkpoint_has_limits(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": 1,\n "b": }')
    with pytest.raises(ValueError, match=r"config\.json, line 2: no JSON"):
        read_json(path)
    path.write_text("[" * 5000)
    with pytest.raises(ValueError, match=r"config\.json is nested too deeply"):
        read_json(path)
    with path.open("wb") as file:
        file.truncate(1 << 27)
    with pytest.raises(ValueError, match="134,217,728 bytes; a JSON file of at most"):
        read_json(path)
