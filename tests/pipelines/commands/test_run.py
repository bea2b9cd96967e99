"""`lumina run` on a real cluster: what is refused, and what is not computed again."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pipelines import cli
from pipelines.commands.run import _where
from pipelines.engine.runner import run as run_stages
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.store import Store
from pipelines.tracking.links import Links
from tests.pipelines.reports.page.sounding_run import pipeline as sounding
from tests.pipelines.toy import EXECUTE, identifier


@pytest.mark.ray
def test_a_cluster_that_is_too_small_is_refused_before_anything_runs(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.cluster.shutdown", lambda: None)  # other tests share it
    store = tmp_path / "store"
    done = CliRunner().invoke(cli.app, ["run", "demo", "-o", "runtime.train_workers=6", "--store", str(store)])
    assert done.exit_code == 1
    words = " ".join(done.output.split())
    assert "render_shapes failed: training takes 6 workers with 1 CPU each (runtime.train_workers), but 1 node" in words
    assert "with 4 CPU in all has room for 4; lower the setting, or raise runtime.num_cpus" in words
    assert not list(store.glob("stages/*/*/MANIFEST.json"))


@pytest.mark.ray
def test_a_store_that_a_node_does_not_see_is_refused(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs import cluster

    look = cluster.blind_nodes
    monkeypatch.setattr(cluster, "blind_nodes", lambda path: look(path.with_name("elsewhere")))
    monkeypatch.setattr(cluster, "shutdown", lambda: None)
    store = tmp_path / "store"
    here = ["-o", "runtime.ray_address=auto", "--store", str(store)]
    done = CliRunner().invoke(cli.app, ["run", "demo", "--until", "render_shapes", *here])
    assert done.exit_code == 1
    words = " ".join(done.output.split())
    assert f"does not see the store {store}: give one on a file system that all nodes mount" in words
    assert not list(store.glob(".seen-*"))


@pytest.mark.ray
def test_another_system_prompt_encodes_no_clip_again(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.cluster.shutdown", lambda: None)

    def go(store: str, *overrides: str) -> tuple[str, Manifest]:
        small = (
            "data.shapes.clips={synthetic: 2, web: 2}",
            "data.shapes.images={web: 2}",
        )
        options = [part for one in (*small, *overrides, "runtime.ray_address=auto") for part in ("-o", one)]
        words = ["run", "demo", "--until", "encode_latents@videos", "--store", str(tmp_path / store), *options]
        done = CliRunner().invoke(cli.app, words)
        assert done.exit_code == 0, done.output
        [manifest, *_] = Store(tmp_path / store).manifests("encode_latents@videos")
        return done.output, manifest

    _, first = go("store")
    output, again = go("store", "tag.system_prompts.web=You generate terrible videos.")
    total = first.counts["ok"]
    assert total > 0
    assert again.taken == {first.fingerprint: total}
    assert f"{total} of {first.counts['in']} rows were in the store" in " ".join(output.split())
    assert f"{total} taken from earlier outputs" in " ".join(output.split())
    _, fresh = go("fresh", "tag.system_prompts.web=You generate terrible videos.")
    assert (again.digest, again.fingerprint) == (fresh.digest, fresh.fingerprint)
    assert not fresh.taken
    assert again.digest != first.digest


@pytest.mark.ray
def test_a_manifest_behind_a_link_runs_like_a_plain_one(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.cluster.shutdown", lambda: None)
    lines = '{"video": "a.mp4", "caption": "one"}\n{"video": "b.mp4", "caption": "two"}\n'
    for folder in ("plain", "snapshots/x"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("a.mp4", "b.mp4"):
            (tmp_path / folder / name).write_bytes(name.encode())
            os.utime(tmp_path / folder / name, (1e9, 1e9))
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "2222").write_text(lines)
    (tmp_path / "plain" / "clips.jsonl").write_text(lines)
    (tmp_path / "snapshots" / "x" / "clips.jsonl").symlink_to("../../blobs/2222")

    def go(folder: str) -> Manifest:
        store = tmp_path / f"store of {folder.partition('/')[0]}"
        options = ["-o", f"data.manifest={tmp_path / folder / 'clips.jsonl'}", "-o", "runtime.ray_address=auto"]
        planned = CliRunner().invoke(cli.app, ["plan", "folder", "--store", str(store), *options])
        assert planned.exit_code == 2, planned.output
        done = CliRunner().invoke(cli.app, ["run", "folder", "--until", "ingest", "--store", str(store), *options])
        assert done.exit_code == 0, done.output
        [made] = Store(store).manifests("ingest")
        return made

    plain, linked = go("plain"), go("snapshots/x")
    assert plain.counts == linked.counts == {"in": 2, "ok": 2}
    assert (plain.digest, plain.fingerprint) == (linked.digest, linked.fingerprint)


def test_what_a_run_of_sound_leaves_is_named_by_what_it_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    summary = run_stages(sounding(), store, EXECUTE, identifier=identifier(), name="toy")
    assert summary.ok
    console = Console(width=300, record=True, file=io.StringIO())
    links = Links("sqlite:///x", "", "http://here/run", "http://here/compare", "", "http://here/files", None)
    _where(console, store, summary, links, "A red circle.")
    text = console.export_text()
    assert re.search(r"conditions: +http://here/compare", text)
    assert re.search(r"sounds: +http://here/files", text)
    assert "system prompts" not in text
    for command in ("report", "compare"):
        assert f"lumina {command} {summary.run_id} --store {store.uri}" in text
    assert "lumina sound clip.mp4 --checkpoint" in text
