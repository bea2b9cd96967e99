"""The released layout: read, refused where it is unsafe or wrong, and written back unchanged."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lumina.checkpoints import digest, load_weights, save_weights
from lumina.models.config import RELEASED_MODELS
from lumina.released import find_config, read_released, released_arguments, write_released
from tests.lumina.tiny import TINY, dit_without_zeros

FILE = "consolidated.00-of-01"


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return dict(dit_without_zeros(0.1).state_dict())


def test_there_and_back(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    half = {name: value.bfloat16() for name, value in weights.items()}
    save_file({f"_orig_mod.{name}": value for name, value in half.items()}, tmp_path / f"{FILE}.safetensors")
    read = read_released(tmp_path, TINY)
    saved = save_weights(TINY, read, tmp_path / "ours")
    assert saved == digest({"weights": half})
    assert json.loads((tmp_path / "ours" / "digest.json").read_text()) == {"weights": saved}
    write_released(TINY, load_weights(tmp_path / "ours"), tmp_path / "back")
    again = load_file(tmp_path / "back" / f"{FILE}.safetensors")
    assert digest({"weights": again}) == saved
    assert find_config(tmp_path / "back", None, None) == TINY


def test_torch_files_and_averaged_weights(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    compiled = {name.replace("layers.0.", "layers.0._orig_mod."): value for name, value in weights.items()}
    torch.save(compiled, tmp_path / f"{FILE}.pth")
    averaged = {name: value + 1 for name, value in weights.items()}
    torch.save(averaged, tmp_path / "consolidated_ema.00-of-01.pth")
    assert digest({"w": read_released(tmp_path, TINY)}) == digest({"w": weights})
    assert digest({"w": read_released(tmp_path, TINY, ema=True)}) == digest({"w": averaged})
    assert digest({"w": read_released(tmp_path / f"{FILE}.pth", TINY)}) == digest({"w": weights})


def test_weights_beside_other_things_are_read_or_named(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save({"model": weights, "step": 3}, tmp_path / f"{FILE}.pth")
    assert digest({"w": read_released(tmp_path, TINY)}) == digest({"w": weights})
    torch.save({"state_dict": weights, "step": 3}, tmp_path / f"{FILE}.pth")
    with pytest.raises(ValueError, match=r"no mapping .* at its top, but under 'state_dict': save that alone$"):
        read_released(tmp_path, TINY)


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    torch.save(argparse.Namespace(model="2B"), tmp_path / f"{FILE}.pth")
    with pytest.raises(ValueError, match="holds more than tensors"):
        read_released(tmp_path, TINY)
    (tmp_path / f"{FILE}.pth").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"holds more than tensors|is damaged"):
        read_released(tmp_path, TINY)
    torch.save([torch.zeros(2)], tmp_path / f"{FILE}.pth")
    with pytest.raises(ValueError, match="no mapping of names to tensors"):
        read_released(tmp_path, TINY)


def test_every_wrong_tensor_is_listed(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    wrong = dict(weights) | {"layers.0.attention.wq.weight": torch.zeros(3, 4), "extra": torch.zeros(1)}
    del wrong["pad_token"]
    save_file(wrong, tmp_path / f"{FILE}.safetensors")
    with pytest.raises(ValueError, match="3 tensors") as error:
        read_released(tmp_path, TINY)
    for part in ("pad_token [64]: missing", "extra [1]: unexpected", "wq.weight [3, 4]: should be [64, 64]"):
        assert part in str(error.value)


def test_missing_and_split_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"consolidated_ema\.00-of-01\.safetensors or .*\.pth"):
        read_released(tmp_path, TINY, ema=True)
    (tmp_path / "consolidated.00-of-04.pth").touch()
    with pytest.raises(ValueError, match="merge them first"):
        read_released(tmp_path, TINY)


def test_where_the_shape_comes_from(tmp_path: Path) -> None:
    assert find_config(tmp_path, "2B_GQA", None) == RELEASED_MODELS["2B_GQA"]
    with pytest.raises(ValueError, match="never unpickled"):
        find_config(tmp_path, None, None)
    with pytest.raises(ValueError, match="there are 2B_GQA, 2B"):
        find_config(tmp_path, "3B", None)
    for values, expected in (
        (released_arguments(TINY), TINY),
        (TINY.model_dump(mode="json"), TINY),
        (
            {
                "model": "MultiScaleNextDiT_2B_GQA",
                "patch_sizes": [2, 2, 4],
                "f_patch_sizes": [1, 2, 2],
                "qk_norm": True,
                "rope_theta": 256.0,
                "t_scale": 1000.0,
                "motion_scale": 20.0,
                "results_dir": "elsewhere",
            },
            RELEASED_MODELS["2B_GQA"],
        ),
    ):
        path = tmp_path / "arguments.json"
        path.write_text(json.dumps(values))
        assert find_config(tmp_path, None, path) == expected
        with pytest.raises(ValueError, match="not both"):
            find_config(tmp_path, "2B", path)
    for content, told in (
        ({"dim": 64, "layers": 2}, "n_layers: Field required"),
        ({"model": "2B_GQA"}, "it has no f_patch_sizes"),
        ({"all_patch_size": [2]}, "it has no all_f_patch_size"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"{path} tells no shape of a transformer: {told}$"):
            find_config(tmp_path, None, path)
    path.write_text("{")
    with pytest.raises(ValueError, match="line 1: no JSON: "):
        find_config(tmp_path, None, path)


def test_large_weights_are_split_and_none_may_be_lost(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    saved = save_weights(TINY, weights, tmp_path / "a", max_shard_bytes=200_000)
    shards = sorted(path.name for path in (tmp_path / "a").glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert digest({"weights": load_weights(tmp_path / "a")}) == saved
    (tmp_path / "a" / shards[1]).unlink()
    with pytest.raises(FileNotFoundError, match=shards[1]):
        load_weights(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ValueError, match=r"index\.json is damaged"):
        load_weights(tmp_path / "a")
