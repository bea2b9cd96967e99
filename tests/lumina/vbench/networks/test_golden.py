"""The official networks' own numbers: `shared/golden_vbench`, by its checker."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import SHARED
from tests.lumina.vbench.networks import golden_functions

FIXTURES = SHARED / "golden_vbench"


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    if not FIXTURES.is_dir():
        pytest.skip(f"no golden fixtures at {FIXTURES}")
    spec = importlib.util.spec_from_file_location("check_example", FIXTURES / "check_example.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _check(checker: ModuleType, functions: object, group: str, least: int) -> None:
    found = checker.Check(str(FIXTURES), functions, [group]).run()
    assert [(name, error, tolerance) for name, error, tolerance, right in found if not right] == []
    assert len(found) >= least


def test_frames_are_prepared_as_the_official_code_does(checker: ModuleType) -> None:
    _check(checker, golden_functions.preparations(), "preprocess", 80)


@pytest.mark.parametrize(
    ("group", "least"), [("raft", 2), ("networks", 10), ("aesthetic", 3), ("style", 4), ("action", 3)]
)
def test_networks_give_the_official_numbers(checker: ModuleType, group: str, least: int, tmp_path: Path) -> None:
    _check(checker, golden_functions.networks(tmp_path), group, least)
