"""Checkpoints: exact round trip, digests, and errors that name the tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lumina.checkpoints import digest, load_model, load_weights, save_model, save_weights
from lumina.models.config import NextDiTConfig
from lumina.models.next_dit import MultiScaleNextDiT

TINY = NextDiTConfig(dim=32, n_layers=1, n_heads=2, multiple_of=32, cap_feat_dim=8, in_channels=4)


def test_round_trip(tmp_path: Path) -> None:
    model = MultiScaleNextDiT(TINY)
    save_model(model, tmp_path / "a")
    loaded = load_model(tmp_path / "a")
    assert loaded.config == TINY
    assert not loaded.training
    assert digest({"raw": loaded.state_dict()}) == digest({"raw": model.state_dict()})
    assert load_model(tmp_path / "a", dtype=torch.bfloat16).dtype == torch.bfloat16
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]
    with pytest.raises(FileExistsError, match="exists"):
        save_model(model, tmp_path / "a")


def test_digest_sees_values_names_and_types_not_order() -> None:
    a, b = torch.arange(4.0), torch.ones(2, 2)
    same = digest({"raw": {"a": a, "b": b}})
    assert same == digest({"raw": {"b": b, "a": a}})
    others = [
        {"raw": {"a": a, "c": b}},
        {"ema": {"a": a, "b": b}},
        {"raw": {"a": a, "b": b.view(4)}},
        {"raw": {"a": a, "b": b.bfloat16()}},
        {"raw": {"a": a + 1e-6, "b": b}},
    ]
    assert len({same, *map(digest, others)}) == 6
    assert digest({"raw": {"a": torch.zeros(())}}).startswith("sha256:")


def test_wrong_tensors_are_listed_and_nothing_is_written(tmp_path: Path) -> None:
    weights = dict(MultiScaleNextDiT(TINY).state_dict())
    weights["extra"] = weights.pop("pad_token")
    weights["cap_embedder.0.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match="3 tensors") as error:
        save_weights(TINY, weights, tmp_path / "a")
    for part in ("pad_token [32]: missing", "extra [32]: unexpected", "cap_embedder.0.bias [3]: should be [8]"):
        assert part in str(error.value)
    assert not list(tmp_path.iterdir())


def test_incomplete_and_damaged_directories(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load_model(tmp_path)
    save_model(MultiScaleNextDiT(TINY), tmp_path / "a")
    path = tmp_path / "a" / "model.safetensors"
    weights = load_file(path)
    weights.pop("pad_token")
    save_file(weights, path)
    with pytest.raises(ValueError, match="pad_token"):
        load_weights(tmp_path / "a")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        load_weights(tmp_path / "a")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="not a complete"):
        load_weights(tmp_path / "a")
