"""A cache of the hub with what a clip of the released model needs: the layout of its repositories, small networks."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lumina.models.config import NextDiTConfig
from lumina.models.next_dit import MultiScaleNextDiT
from pipelines.base_config import ZOO

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHAPE = NextDiTConfig(dim=32, n_layers=1, n_heads=2, multiple_of=32, cap_feat_dim=128)
"""Of the transformer: the zoo's latents and text features."""
FILE = "consolidated.00-of-01"


def download(cache: Path, name: str, files: Mapping[str, Path]) -> Path:
    """Lay out files as `hf download` does: content in `blobs`, links in the snapshot of a commit."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (repository / "blobs", repository / "refs", snapshot):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for number, (path, content) in enumerate(files.items()):
        shutil.copyfile(content, repository / "blobs" / f"{number:040x}")
        link = snapshot / path
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(Path(*[".."] * (2 + path.count("/"))) / "blobs" / f"{number:040x}")
    return snapshot


def make_cache(root: Path, transformer: MultiScaleNextDiT) -> Path:
    """Two released repositories of a transformer in bfloat16, CogVideoX, Gemma; `made/config.json` has the shape."""
    cache, made = root / "hub", root / "made"
    made.mkdir()
    weights = {name: value.bfloat16() for name, value in transformer.state_dict().items()}
    save_file(weights, made / "plain.safetensors")
    torch.save({"model": {f"module.{name}": value for name, value in weights.items()}}, made / "wrapped.pth")
    torch.save(argparse.Namespace(model="MultiScaleNextDiT_2B_GQA"), made / "model_args.pth")
    (made / "config.json").write_text(SHAPE.model_dump_json())
    arguments = {"model_args.pth": made / "model_args.pth"}
    download(cache, "Alpha-VLLM/Lumina-Video-f24R960", arguments | {f"{FILE}.safetensors": made / "plain.safetensors"})
    download(cache, "Alpha-VLLM/Lumina-Video-old", arguments | {f"{FILE}.pth": made / "wrapped.pth"})
    download(cache, "THUDM/CogVideoX-2b", {f"vae/{path.name}": path for path in (ZOO / "vae").iterdir()})
    tensors = load_file(ZOO / "text_encoder" / "model.safetensors")
    names, shards = sorted(tensors), [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for number, shard in enumerate(shards):
        save_file({name: tensors[name] for name in names[number::2]}, made / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shards[at % 2] for at, name in enumerate(names)}}
    (made / "model.safetensors.index.json").write_text(json.dumps(index))
    (made / ".gitattributes").write_text("*.safetensors filter=lfs")
    gemma = [path for path in (ZOO / "text_encoder").iterdir() if path.suffix == ".json" and path.stem != "figures"]
    gemma += [made / ".gitattributes", made / "model.safetensors.index.json", *(made / shard for shard in shards)]
    download(cache, "google/gemma-2-2b", {path.name: path for path in gemma})
    return cache
