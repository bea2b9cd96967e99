"""Bundling: one file runs without the modules it is made of, the same bytes each time, and mistakes are named."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from lumina.diffusers_export import bundle as bundling
from lumina.diffusers_export.bundle import bundle

BASE = '''"""Base."""

from __future__ import annotations

import math
import os

# Why it is two.
TWO = 2
"""What it is."""


def unused() -> str:
    return os.sep


def root(x: float) -> float:
    return math.sqrt(x)
'''
TOP = '''"""Top."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina.base import TWO, root, unused

if TYPE_CHECKING:
    from lumina.elsewhere import Thing


@dataclass
class Top:
    value: float = TWO

    def root(self, other: Thing) -> float:
        return root(self.value)
'''


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the name that is bundled, with two modules."""
    package = tmp_path / "lumina"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "base.py").write_text(BASE)
    (package / "top.py").write_text(TOP)
    for name in [name for name in sys.modules if name.partition(".")[0] == "lumina"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    bundling._read.cache_clear()
    return package


def test_what_is_named_is_taken_and_nothing_else(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bundle("lumina.top", "Top")
    assert '# Why it is two.\nTWO = 2\n"""What it is."""' in made
    assert "unused" not in made
    assert "import os" not in made
    assert "lumina import" not in made
    assert made.index("def root") < made.index("class Top")
    assert made == bundle("lumina.top", "Top")
    module = ModuleType("made")
    monkeypatch.setitem(sys.modules, "made", module)
    exec(compile(made, "made.py", "exec"), module.__dict__)  # noqa: S102 - what was bundled
    assert module.Top(9.0).root(None) == 3


def test_what_one_file_cannot_hold_is_named(modules: Path) -> None:
    for line, told in (
        ("from lumina.base import root as other", "imports root of lumina.base as other: use its own name"),
        ("def root() -> None:\n    from lumina.base import TWO", "an import inside a function"),
        ("from lumina.base import root\n\nTWO = root(4)\n\n\ndef Top() -> int:\n    return TWO", ""),
    ):
        (modules / "top.py").write_text(f'"""Top."""\n\n{line}\n')
        bundling._read.cache_clear()
        if told:
            with pytest.raises(ValueError, match=told):
                bundle("lumina.top", "Top")
        else:
            assert "TWO = 2" not in bundle("lumina.top", "Top")
    (modules / "top.py").write_text(
        "from lumina.base import root\n\nmath = 1\n\n\ndef Top() -> float:\n    return root(math)\n"
    )
    (modules / "base.py").write_text("math = 2\n\n\ndef root(x: float) -> float:\n    return x * math\n")
    bundling._read.cache_clear()
    with pytest.raises(ValueError, match=r"math is defined by lumina\.\w+ and by lumina\.\w+: rename one of them"):
        bundle("lumina.top", "Top")
    with pytest.raises(ValueError, match=r"lumina\.top defines no Other"):
        bundle("lumina.top", "Other")
