from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.dag.code import CodeIndex, first_party, syntax_digest
from pipelines.errors import PipelineError

Write = Callable[[str, str], None]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    files = {
        "__init__.py": "",
        "job.py": "from pkg import sub\ndef run(ctx):\n    from .deep import late\n    return late.go(), sub.x\n",
        "sub/__init__.py": "from ..base import *\n",
        "deep/__init__.py": "",
        "deep/late.py": "import numpy\nfrom . import sibling\ndef go(): return sibling.y\n",
        "deep/sibling.py": "y = 1\n",
        "base.py": "x = 2\n",
        "unrelated.py": "z = 3\n",
        "typed.py": "w = 3\n",
    }
    for name, text in files.items():
        path = tmp_path / "pkg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "pkg"


def closure(package: Path) -> dict[str, str]:
    return CodeIndex({"pkg": package}).closure(["pkg.job"])


def test_closure_follows_relative_late_and_package_imports(package: Path) -> None:
    names = {"pkg", "pkg.job", "pkg.sub", "pkg.base", "pkg.deep", "pkg.deep.late", "pkg.deep.sibling"}
    assert set(closure(package)) == names
    job = package / "job.py"
    job.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pkg import typed\n" + job.read_text())
    assert set(closure(package)) == names


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ('"""Say."""\n\n# why\ndef go():\n    """Do."""\n    return (  sibling.y  )\n', True),
        ("def go(): return sibling.y + 1\n", False),
    ],
)
def test_comments_and_docstrings_do_not_count_but_helpers_do(package: Path, text: str, same: bool) -> None:
    before = closure(package)
    (package / "deep" / "late.py").write_text("import numpy\nfrom . import sibling\n" + text)
    after = closure(package)
    assert {name for name in before if before[name] != after[name]} == (set() if same else {"pkg.deep.late"})


def test_syntax_digest_is_the_same_on_every_python() -> None:
    source = "async def f(a: int = 1, /, *b, c=None, **d) -> None:\n    x = [*b, f'{a!r:>{c}}', ..., 1j, b'y', {**d}]\n"
    assert syntax_digest(ast.parse(source)) == "cdde41e26a057bd77f6a91781b6522ee"
    assert syntax_digest(ast.parse("x = None")) != syntax_digest(ast.parse("x = 'None'"))
    assert syntax_digest(ast.parse("x = 1")) != syntax_digest(ast.parse("x = True"))


def test_foreign_entry_and_broken_file_are_named(package: Path) -> None:
    with pytest.raises(PipelineError, match=r"module 'numpy\.linalg' is not among"):
        CodeIndex({"pkg": package}).closure(["numpy.linalg"])
    (package / "base.py").write_text("x = (")
    with pytest.raises(PipelineError, match=r"base\.py: does not parse"):
        closure(package)


def test_how_stages_are_wired_is_no_part_of_their_code() -> None:
    assert not any(name.startswith("pipelines") for name in CodeIndex(first_party()).closure(["jobs.context"]))
    assert "lumina.config" in CodeIndex().closure(["jobs.train"])
