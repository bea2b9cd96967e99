"""Offline runs of Weights & Biases, read back by the format of its files (LevelDB's log) where wandb is installed."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines import cli
from pipelines.engine.store.store import Store
from tests.pipelines.tracking.recorded import recorded_run

_BLOCK = 32768


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return recorded_run(tmp_path_factory.mktemp("store"))


def _records(path: Path) -> Iterator[bytes]:
    """Of a .wandb file: 7 bytes of head, then LevelDB's blocks of whole, first, middle and last pieces."""
    data, at, whole = path.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at < len(data):
        if _BLOCK - at % _BLOCK < 7:
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def test_an_offline_run_has_curves_figures_and_clips(store: Store) -> None:
    pytest.importorskip("wandb", reason="the package wandb is not installed: it is no part of the dev extra")
    from wandb.proto.wandb_internal_pb2 import Record

    for _ in range(2):  # the second replaces the first
        done = CliRunner().invoke(cli.app, ["track", "--to", "wandb", "--store", str(store.root)])
        assert done.exit_code == 0, done.output
    [path] = (store.root / "wandb" / "r1" / "train@1").glob("*/*.wandb")
    folder = path.parent
    assert f"wandb sync {folder}" in done.output
    records = [Record.FromString(one) for one in _records(path)]
    [run] = [one.run for one in records if one.HasField("run")]
    assert (run.project, run.run_group, run.display_name) == ("lumina-video", "r1", "r1 train@1")
    history = [
        {tuple(item.nested_key) or (item.key,): json.loads(item.value_json) for item in one.history.item}
        for one in records
        if one.HasField("history")
    ]
    assert [row["_step",] for row in history] == [10, 20]
    assert [row["loss",] for row in history] == [0.1, 0.05]
    last = history[1]
    assert (last["sample/shapes/shape_acc/web",], last["train/clips",]) == (0.5, 7)
    assert last["web/A red circle.", "height"] == 112
    assert (folder / "files" / last["web/A red circle.", "path"]).read_bytes().startswith(b"\x89PNG")
    assert not [key for key in last if key[0].startswith("t_count")]
    assert run.run_id == folder.name.rsplit("-", 1)[1]


def test_an_absent_package_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    out = store.root / "absent"
    done = CliRunner().invoke(cli.app, ["track", "--to", "wandb", "--out", str(out), "--store", str(store.root)])
    assert done.exit_code == 1
    assert 'pip install "lumina-video[wandb]"' in " ".join(done.output.split())
    assert not out.exists()
