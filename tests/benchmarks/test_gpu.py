"""The script of the first minutes on a GPU works the first time: its rows on a CPU, with tiny networks."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Each kind once; the others differ by size and by mode of recomputation.
KINDS = [
    "fixture A_dit_alt",
    "attention, unlike",
    "train 512 px, the released way",
    "train 512 px, per-op",
    "train 512 px, none, not compiled",
    "guided evaluation 512 px, 1x2x2",
    "VAE decode 512 px",
    "text encoder",
]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    spec = importlib.util.spec_from_file_location("benchmarks_gpu", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmarks_gpu", module)
    spec.loader.exec_module(module)
    return module


def test_its_rows_are_printed(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--device", "cpu", "--tiny", "--only", *KINDS]) == 0
    out = capsys.readouterr().out
    assert out.startswith("cpu, torch 2.")
    table = [line for line in out.splitlines() if line.startswith("| ") and "utilisation" not in line]
    assert len(table) == 10
    for kind in KINDS:
        assert any(line.startswith(f"| {kind}") for line in table), kind
    released = [line for line in table if "per-op" in line or "VAE decode" in line or "evaluation" in line]
    assert all("x |" in line for line in released)
    assert out.splitlines()[-1].startswith("0 rows failed")


def test_a_row_that_fails_says_why_and_the_next_goes_on(
    script: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_bench: object) -> None:
        raise RuntimeError("CUDA out of memory\nand more")

    monkeypatch.setattr(script, "rows", lambda _sizes: [("one", broken), ("two", lambda _: script.Row(0.5, note="ok"))])
    assert script.main(["--device", "cpu", "--tiny"]) == 1
    out = capsys.readouterr().out
    assert "| one |  |  |  |  |  |  | FAILED: RuntimeError: CUDA out of memory |" in out
    assert "| two | 500.0 ms |  |  |  |  |  | ok |" in out
    assert script.main(["--device", "cpu", "--tiny", "--minutes", "0"]) == 0
    assert capsys.readouterr().out.count("left out: no time") == 2


def test_all_that_is_promised_is_there(script: ModuleType) -> None:
    names = [name for name, _ in script.rows(script.LARGE)]
    for side in (256, 512, 960):
        for mode in ("none", "per-op", "attention", "full"):
            assert f"train {side} px, {mode}, compiled" in names
        assert {f"VAE encode {side} px", f"VAE decode {side} px", f"guided evaluation {side} px, 1x2x2"} <= set(names)
    assert len(names) == len(set(names))
