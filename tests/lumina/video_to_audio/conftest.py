"""Shared fixtures: drawn weights by the published names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lumina.video_to_audio import reference_numbers


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What is published of each small network."""
    return reference_numbers.save_weights(tmp_path_factory.mktemp("published"))
