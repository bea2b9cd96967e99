"""Weights of VBench's networks: what a file must hold, what is refused in one line, and the digest."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lumina.vbench.networks.aesthetic import load_aesthetic_head
from lumina.vbench.networks.clip import load_clip
from lumina.vbench.networks.dino import load_dino
from lumina.vbench.networks.flow import load_raft
from lumina.vbench.networks.human_action import load_human_action
from tests.lumina.vbench.networks.reference_numbers import ACTION, DINO, draw, frames

LOADERS: dict[str, Callable[..., Any]] = {
    "dino": partial(load_dino, config=DINO),
    "clip": load_clip,
    "action": partial(load_human_action, config=ACTION),
    "aesthetic": load_aesthetic_head,
    "raft": load_raft,
}
NEIGHBOUR = dict(zip(LOADERS, [*list(LOADERS)[1:], "dino"], strict=True))
each = pytest.mark.parametrize("network", LOADERS)


@each
def test_weights_of_another_network_are_named(network: str, files: dict[str, Path]) -> None:
    other = files[NEIGHBOUR[network]]
    with pytest.raises(
        ValueError, match=rf"^{other} does not fit \S.+(: missing; .+|179 tensors.+_linear\.pth)"
    ) as caught:
        LOADERS[network](other)
    assert "\n" not in str(caught.value)


@each
def test_a_missing_and_an_unexpected_tensor_are_named(network: str, files: dict[str, Path], tmp_path: Path) -> None:
    tensors = torch.load(files[network])
    gone = next(name for name in tensors if name.endswith(("bias", "norm.bias")))
    tensors["more"] = tensors.pop(gone)
    torch.save(tensors, tmp_path / "renamed.pth")
    with pytest.raises(ValueError, match=rf"2 tensors \(1 missing, 1 unexpected; .*{gone} \[\d+\]: missing; more \["):
        LOADERS[network](tmp_path / "renamed.pth")


@each
def test_a_tensor_of_another_shape_is_named(network: str, files: dict[str, Path], tmp_path: Path) -> None:
    tensors = torch.load(files[network])
    name = next(name for name in tensors if name.endswith("bias"))
    tensors[name] = torch.zeros(len(tensors[name]) + 1)
    torch.save(tensors, tmp_path / "longer.pth")
    with pytest.raises(ValueError, match=rf"1 of another shape.*{name} \[\d+\]: should be \[\d+\]"):
        LOADERS[network](tmp_path / "longer.pth")


@each
def test_prefixes_and_the_kind_of_file_change_nothing(network: str, files: dict[str, Path], tmp_path: Path) -> None:
    tensors = torch.load(files[network])
    wanted = LOADERS[network](files[network]).digest
    assert wanted.startswith("sha256:")
    torch.save({f"module.{name}": value for name, value in tensors.items()}, tmp_path / "wrapped.pth")
    # As torch wrote files when RAFT was published.
    torch.save(
        {f"module.{name}": value for name, value in tensors.items()},
        tmp_path / "old.pth",
        _use_new_zipfile_serialization=False,
    )
    torch.save({"module": tensors}, tmp_path / "inside.pth")
    save_file({name: value.clone() for name, value in tensors.items()}, tmp_path / "same.safetensors")
    for path in ("wrapped.pth", "old.pth", "inside.pth", "same.safetensors"):
        assert LOADERS[network](tmp_path / path).digest == wanted, path
    changed = next(name for name in ("pos_embed", *tensors) if name in tensors and tensors[name].any())
    tensors[changed] = tensors[changed] * 1.00001
    torch.save(tensors, tmp_path / "changed.pth")
    assert LOADERS[network](tmp_path / "changed.pth").digest != wanted


@each
def test_programs_and_damaged_files_are_refused(network: str, files: dict[str, Path], tmp_path: Path) -> None:
    # As TorchScript lays its archives out: a tensor file has no constants.
    with zipfile.ZipFile(tmp_path / "ViT-B-32.pt", "w") as archive:
        for name in ("data.pkl", "code/__torch__.py", "constants.pkl", "version"):
            archive.writestr(f"ViT-B-32/{name}", b"")
    with pytest.raises(
        ValueError, match=r"ViT-B-32.pt is a TorchScript archive, a program, which is never run: give \S+"
    ):
        LOADERS[network](tmp_path / "ViT-B-32.pt")
    (tmp_path / "cut.pth").write_bytes(files[network].read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut.pth is damaged|cut.pth holds more than tensors"):
        LOADERS[network](tmp_path / "cut.pth")
    torch.save({"weight": Path}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match=r"code.pth holds more than tensors, and is not read for safety's sake"):
        LOADERS[network](tmp_path / "code.pth")
    with pytest.raises(FileNotFoundError, match=r"no weights of .+ at .*none.pth: give \S+"):
        LOADERS[network](tmp_path / "none.pth")


def test_the_published_sizes_are_the_defaults(files: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"attn.proj.bias \[48\]: should be \[768\]"):
        load_dino(files["dino"])
    with pytest.raises(ValueError, match=r"attn.proj.bias \[32\]: should be \[1024\]"):
        load_human_action(files["action"])


def test_dino_as_the_hub_has_it_is_the_same_network(files: dict[str, Path], tmp_path: Path) -> None:
    published = load_dino(files["dino"], DINO)
    published.model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    # What the hub's config says; DINO's norms have 1e-6.
    (tmp_path / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-12}))
    found = load_dino(tmp_path)
    clip = frames(1, 90, 160)
    assert torch.equal(found.features(clip), published.features(clip))
    assert {module.eps for module in found.model.modules() if isinstance(module, nn.LayerNorm)} == {1e-6}
    (tmp_path / "config.json").write_text(json.dumps(config | {"patch_size": 8}))
    with pytest.raises(ValueError, match="holds a ViT for 224 pixels in patches of 8; DINO ViT-B/16 has 224 and 16"):
        load_dino(tmp_path)


def test_the_action_network_has_its_own_eps_and_number_of_frames(files: dict[str, Path]) -> None:
    network = load_human_action(files["action"], ACTION)
    assert {module.eps for module in network.model.modules() if isinstance(module, nn.LayerNorm)} == {1e-6}
    with pytest.raises(ValueError, match="human action looks at 16 frames of a clip, got 15: pick as many"):
        network.logits(frames(15, 32, 32))


def test_a_directory_that_lacks_something_says_so(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"does not hold CLIP: no config.json, no model\*.safetensors, no tokenizer"
    ):
        load_clip(tmp_path)
    load_dino(files["dino"], DINO).model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["layernorm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"does not fit DINO ViT-B/16, 1 tensors .*layernorm.weight: missing"):
        load_dino(tmp_path)


def test_the_aesthetic_head_scores_directions_of_its_own_width(files: dict[str, Path]) -> None:
    head = load_aesthetic_head(files["aesthetic"])
    features = draw("features", 5, 768)
    torch.testing.assert_close(head.scores(features), head.scores(3 * features))
    with pytest.raises(ValueError, match="scores embeddings of 768 numbers, got 512: take those of CLIP ViT-L/14"):
        head.scores(features[:, :512])
