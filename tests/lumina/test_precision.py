"""Precision of networks that do not train: the device's own unless one is named."""

from __future__ import annotations

import pytest

from lumina.precision import Precision, precision_on


@pytest.mark.parametrize(
    ("device", "precision", "want"),
    [
        ("cpu", "auto", "float32"),
        ("cuda", "auto", "bfloat16"),
        ("cuda:3", "auto", "bfloat16"),
        ("mps", "auto", "float32"),
        ("cpu", "bfloat16", "bfloat16"),
        ("cuda", "float32", "float32"),
    ],
)
def test_a_named_type_wins_and_gpus_have_halves(device: str, precision: Precision, want: str) -> None:
    assert precision_on(device, precision) == want
