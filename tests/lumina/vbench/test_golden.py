"""The official code's own numbers: `shared/golden_vbench`, by its checker."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import SHARED
from tests.lumina.vbench import golden_functions

FIXTURES = SHARED / "golden_vbench"


def _checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_example", FIXTURES / "check_example.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("group", "least"),
    [
        ("frames", 30),
        ("flicker", 100),
        ("dynamic", 60),
        ("consistency", 10),
        ("imaging", 2),
        ("smooth", 2),
        ("style", 1),
        ("detect", 30),
        ("human", 17),
        ("aggregate", 27),
        ("layout", 1),
    ],
)
def test_rules_and_reductions_give_the_official_numbers(group: str, least: int) -> None:
    if not Path(FIXTURES).is_dir():
        pytest.skip(f"no golden fixtures at {FIXTURES}")
    found = _checker().Check(str(FIXTURES), golden_functions, [group]).run()
    assert [name for name, _, _, right in found if not right] == []
    assert len(found) >= least
