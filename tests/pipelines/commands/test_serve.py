"""`lumina serve`: what is wrong is one line, before Ray starts."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs import cluster
from pipelines import cli
from tests.lumina import tiny


def test_what_is_wrong_is_one_line_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.text_to_video().save_pretrained(tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "vae")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "ensure", lambda _: pytest.fail("Ray was started"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port, free = str(taken.getsockname()[1]), _free()
        for words, told in (
            (["gone"], "error: CHECKPOINT gone is no folder; give a path that exists"),
            (["."], "does not hold a text-to-video checkpoint: no generation.json; `lumina assemble` makes one"),
            (["part"], "part is no text-to-video checkpoint: it holds no vae"),
            (
                ["model", "--port", port],
                f"error: port {port} of 127.0.0.1: Address already in use; take another --port",
            ),
            (["model", "--host", "203.0.113.1"], "Cannot assign requested address; take another --port"),
            (["model", "--adapter-scale", "2"], "--adapter-scale 2: it is of an adapter, and --adapter names none"),
            (["model", "--adapter", "part"], "part does not hold an adapter: no adapter_config.json"),
            (["model", "--max-frames", "4"], "model: its own defaults are over the limits: frames: at most 4 frames"),
        ):
            # Of an option that is given twice the last one counts.
            failed = CliRunner().invoke(cli.app, ["serve", "--port", free, *words])
            assert failed.exit_code == 1, failed.output
            assert told in failed.stderr, failed.stderr
            assert failed.stderr.count("\n") == 1


def test_help_imports_neither_ray_nor_torch() -> None:
    code = "from pipelines.cli import app; import sys; app(['serve', '--help'], standalone_mode=False); " \
        "print([name for name in ('ray', 'torch', 'starlette') if name in sys.modules])"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "127.0.0.1" in done.stdout
    assert done.stdout.strip().endswith("[]")


def _free() -> str:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return str(tried.getsockname()[1])
