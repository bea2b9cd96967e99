"""The model's hyper-parameters: derived sizes and refusals."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from lumina.models.config import RELEASED_MODELS, NextDiTConfig, patch_key


def test_released_sizes() -> None:
    config = RELEASED_MODELS["2B_GQA"]
    assert (config.head_dim, config.kv_heads, config.ffn_dim, config.condition_dim) == (144, 8, 6144, 1024)
    assert [patch_key(patch) for patch in config.patch_sizes] == ["2-1", "2-2", "4-2"]


def test_released_argument_names() -> None:
    arguments = {"all_patch_size": [2, 4], "all_f_patch_size": [1, 2], "dim": 64, "n_layers": 1, "n_heads": 4}
    config = NextDiTConfig.from_released({**arguments, "cap_feat_dim": 8})
    assert config.patch_sizes == ((1, 2, 2), (2, 4, 4))
    assert NextDiTConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValueError, match="equal length"):
        NextDiTConfig.from_released({**arguments, "all_f_patch_size": [1], "cap_feat_dim": 8})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 72}, "multiple of 16"),
        ({"n_kv_heads": 3}, "multiple of n_kv_heads"),
        ({"patch_sizes": [(1, 2, 4)]}, "rows equal to columns"),
        ({"patch_sizes": [(1, 2, 2), (1, 2, 2)]}, "must differ"),
        ({"width": 3}, "Extra inputs"),
    ],
)
def test_bad_values_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        NextDiTConfig(**{"dim": 64, "n_layers": 1, "n_heads": 4, "cap_feat_dim": 8, **change})


def test_unknown_scale_is_named() -> None:
    config = NextDiTConfig(dim=64, n_layers=1, n_heads=4, cap_feat_dim=8)
    with pytest.raises(ValueError, match=r"no patch size \(1, 4, 4\)"):
        config.check_patch((1, 4, 4))
