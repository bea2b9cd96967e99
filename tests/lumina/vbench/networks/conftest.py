"""Shared fixtures: files of drawn weights by the published names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lumina.vbench.networks import reference_numbers


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small file of weights of each network; RAFT's has its one size."""
    return reference_numbers.save_weights(tmp_path_factory.mktemp("weights"))
