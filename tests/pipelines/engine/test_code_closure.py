from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.engine.code_closure import NO_DIGEST, CodeIndex, first_party, syntax_digest
from pipelines.errors import PipelineError

HOME = Path(__file__).resolve().parents[3]


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


SYNTAX = Path(__file__).with_name("syntax.txt")
DIGEST_OF_ALL_SYNTAX = "5dcb62c2641e352312fe3d559c002a38"


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_syntax_digest_is_the_same_on_every_python(version: str) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on PATH or under ~/.pyenv")
    code = (
        "import ast, sys; from pathlib import Path; from pipelines.engine.code_closure import syntax_digest\n"
        "print('%d.%d' % sys.version_info[:2], syntax_digest(ast.parse(Path(sys.argv[1]).read_bytes())))"
    )
    # `code.py` needs nothing that is installed, so a bare interpreter does.
    done = subprocess.run(
        [python, "-W", "ignore", "-B", "-c", code, str(SYNTAX)], cwd=HOME, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [version, DIGEST_OF_ALL_SYNTAX]


def interpreter(version: str) -> str | None:
    """A Python of this version: on PATH, or pyenv's, whose shims run nothing that is not activated."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    on_path = shutil.which(f"python{version}")
    if found or (on_path and "shims" not in on_path):
        return str(found[-1]) if found else on_path
    return None


def test_values_that_look_alike_are_told_apart() -> None:
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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("child", 'COMMAND = ("python", "-m", "pkg.child")\n'),
        ("child", 'import importlib\nimportlib.import_module("pkg.child")\n'),
        ("child", 'def call(f="pkg.child:function"): ...\n'),
    ],
)
def test_a_module_that_is_named_in_a_text_counts(package: Path, name: str, text: str) -> None:
    (package / "child.py").write_text("x = 1\n")
    (package / "deep" / "late.py").write_text(text)
    assert f"pkg.{name}" in closure(package)
    (package / "deep" / "late.py").write_text(
        f'"""See pkg.{name} and page.html."""\n\n\ndef f():\n    """pkg.{name}"""\n'
    )
    assert f"pkg.{name}" not in closure(package)


def test_a_data_file_that_a_module_names_counts_by_its_bytes(package: Path) -> None:
    (package / "deep" / "parts").mkdir()
    (package / "deep" / "parts" / "page.css").write_text("a {}")
    (package / "deep" / "page.html.j2").write_text("<p>")
    (package / "deep" / "late.py").write_text(
        'A = __file__, "page.html.j2"\nB = f"parts/page.css"\nC = "none.json", "."\n'
    )
    before = closure(package)
    assert {name for name in before if "/" in name} == {"pkg/deep/page.html.j2", "pkg/deep/parts/page.css"}
    (package / "deep" / "parts" / "page.css").write_text("a { }")
    after = closure(package)
    assert {name for name in before if before[name] != after[name]} == {"pkg/deep/parts/page.css"}


def test_a_module_that_is_in_no_digest_is_left_out_with_what_it_alone_imports(package: Path) -> None:
    (package / "plots.py").write_text("from pkg import colours, base\nIN_NO_DIGEST = True\n")
    (package / "colours.py").write_text("red = 1\n")
    before = closure(package)
    job = (package / "job.py").read_text()
    (package / "job.py").write_text(f"{job}from pkg.plots import x\n")
    assert set(closure(package)) == set(before)
    (package / "plots.py").write_text("from pkg import colours, base\nIN_NO_DIGEST = False\n")
    assert set(closure(package)) == {*before, "pkg.plots", "pkg.colours"}


def modules() -> dict[str, Path]:
    """Every first-party module by its dotted name."""
    found = {}
    for root in first_party().values():
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def test_modules_that_are_in_no_digest_can_change_none() -> None:
    """What they hand out may become metrics, artifacts and files, but no digest and no weights."""
    left_out = {name for name, path in modules().items() if re.search(rf"^{NO_DIGEST} = True$", path.read_text(), re.M)}
    assert left_out == {
        "jobs.train_plots",
        "jobs.train_samples",
        "lumina.evaluation.contact_sheet",
        "lumina.training.sample_config",
        "lumina.training.samples",
        "lumina.video_to_audio.sound_sheet",
    }
    for name, path in modules().items():
        # The DAG is in no stage's code: what it hands to a job is in the recipe, or beside it on purpose.
        if name in left_out or name.startswith("pipelines."):
            continue
        tree = ast.parse(path.read_text())
        for_types = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        tainted = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module in left_out and node not in for_types
            for alias in node.names
        }
        if not tainted:
            continue
        # A job alone may use them: of what a library computes with them, nobody could say where it goes.
        assert name.startswith("jobs."), name
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and names(node.value) & tainted:
                tainted |= {one for target in node.targets for one in names(target)}
        results = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and "JobResult" in names(node.func)]
        digests = [one.value for node in results for one in node.keywords if one.arg in ("kind", "digest", "weights")]
        assert digests
        assert not {one for value in digests for one in names(value)} & tainted, name


def names(node: ast.AST) -> set[str]:
    return {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}


def test_every_data_file_counts_for_the_modules_that_may_read_it() -> None:
    """A data file is named in a text by a module beside it, or is weights, which stages declare."""
    seen = set(CodeIndex().closure(modules()))
    for package, root in first_party().items():
        for path in sorted(root.rglob("*")):
            relative = path.relative_to(root.parent).as_posix()
            if path.is_file() and path.suffix not in (".py", ".pyc") and not relative.startswith("lumina/zoo/"):
                assert relative in seen, f"no module of {package} names {path.name}: write its whole name in a text"


def test_modules_are_imported_by_computed_names_only_where_a_stage_names_them() -> None:
    computed = {
        name
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("importlib.import_module", "import_module", "__import__", "exec", "eval")
        and not (node.args and isinstance(node.args[0], ast.Constant))
    }
    # The operator of the stage, and a function that the operator's own module names in a text.
    assert computed == {"curation.operator", "curation.decoding_child"}


def test_the_decoding_process_counts_where_clips_are_decoded_and_cutting_shots_does_not() -> None:
    probe, split = (CodeIndex().closure(["jobs.curate", f"curation.{name}"]) for name in ("decode", "shots"))
    assert {"curation.decoding_child", "curation.backends"} <= set(probe) & set(split)
    assert "curation.shots" not in probe
    assert "curation/page.html.j2" in CodeIndex().closure(["jobs.curation_page"])
