"""`lumina verify` on small stores that the real runner made."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from pipelines import cli
from pipelines.compare import verify_content as content
from pipelines.compare.verification import Problem, repair
from pipelines.compare.verify import verify
from pipelines.engine.fingerprint import fingerprint
from pipelines.engine.runner import run
from pipelines.engine.stage import Pipeline
from pipelines.engine.store.attempt import Attempt
from pipelines.engine.store.checksum import seal
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.open_store import open_store
from pipelines.engine.store.store import Store
from pipelines.errors import StoreError
from pipelines.run_lock import patch_key
from pipelines.tracking.mlflow_runs import PIPELINES, MlflowRuns
from pipelines.tracking.tracker import MlflowTracking
from pipelines.tracking.uri import default_uri
from tests.pipelines.engine.store.operations import bucket_of, fetched, on_disk
from tests.pipelines.toy import EXECUTE, diamond, identifier
from tests.pipelines.toy_outputs import line

BOOKKEEPING = {"LEASE.lock", "attempts.jsonl", "curve.jsonl", "calls.txt", "digests.json", "STORE.lock"}
"""What no output is computed from; `verify` says that it does not look at it."""


def make(store: Store, pipeline: Pipeline) -> Store:
    patch = b"what the working tree had besides its commit\n"
    digest = hashlib.sha256(patch).hexdigest()
    store.objects.put(patch_key(digest), patch)
    environment = {"python": "3", "platform": "x", "cpus": 1}
    config = {"runtime": {"train_workers": 1}}
    code = {"commit": "c0ffee" * 8, "patch": f"sha256:{digest}"}
    lock = {"command": "x", "config": config, "code": code, "environment": environment}
    assert run(pipeline, store, EXECUTE, run_id="r1", identifier=identifier(), lock=lock).ok
    return store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    make(Store(root), line(weights=True))
    return root


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    shutil.copytree(made, tmp_path / "store")
    return Store(tmp_path / "store")


def blamed(store: Store) -> str:
    """What `verify --deep` names, or the error where it cannot begin."""
    try:
        found = verify(store, "r1", deep=True)
    except StoreError as error:
        return str(error)
    assert found.exit_code == 4
    return "\n".join(problem.path for problem in found.found)


def out(store: Store, stage: str) -> Path:
    return Path(store.root / store.get_run("r1").stages[stage].path)


def record(store: Store, stage: str) -> Path:
    return out(store, stage).parent / "MANIFEST.json"


def state(root: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


def test_an_untouched_run_is_intact_and_stays_untouched(store: Store) -> None:
    before = state(store.root)
    for options in ({}, {"deep": True}, {"rows": True}, {"deep": True, "rows": True}):
        found = verify(store, "line", **options)
        assert found.found == ()
        assert found.exit_code == 0
        assert {stage.name: stage.kind for stage in found.stages}["rows"] == "rows"
    assert not [note for note in found.not_checked if "digest" in note.what]
    assert state(store.root) == before


def test_a_flipped_byte_in_any_file_is_found_by_name(store: Store) -> None:
    files = [path for path in sorted(store.root.rglob("*")) if path.is_file() and path.name not in BOOKKEEPING]
    assert len(files) >= 15
    for path in files:
        whole = path.read_bytes()
        for at in {0, len(whole) // 2, len(whole) - 1}:
            broken = bytearray(whole)
            broken[at] ^= 1
            path.write_bytes(broken)
            assert path.relative_to(store.root).as_posix() in blamed(store)
        path.write_bytes(whole)
    assert verify(store, "r1", deep=True).found == ()


def test_missing_short_and_added_files_are_found_without_reading_any(store: Store) -> None:
    place = out(store, "a")
    (place / "text.txt").unlink()
    (place / "sub" / "more.txt").write_text("")
    (out(store, "rows") / "data" / "part-9.parquet").write_text("new")
    found = [(problem.what, Path(problem.path).name) for problem in verify(store, None).found]
    assert found == [("damaged", "more.txt"), ("missing", "text.txt"), ("unexpected", "part-9.parquet")]
    shutil.rmtree(place)
    assert {problem.what for problem in verify(store, None, deep=True).stages[0].problems} == {"missing"}


def test_every_byte_of_a_record_counts(store: Store) -> None:
    path = record(store, "rows")
    whole = path.read_bytes()
    for at in range(0, len(whole), 17):
        broken = bytearray(whole)
        broken[at] ^= 1 << at % 8
        path.write_bytes(broken)
        assert path.relative_to(store.root).as_posix() in {problem.path for problem in verify(store, "r1").found}


@pytest.mark.parametrize(
    ("key", "value"),
    [("recipe", []), ("counts", {"in": "12"}), ("attempt", "../x"), ("digest", 1), ("files", [{}]), ("mlflow", "x")],
)
def test_a_record_of_other_types_is_damaged(store: Store, key: str, value: Any) -> None:
    path = record(store, "checkpoint")
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    [problem] = verify(store, "r1", deep=True).found
    assert (problem.what, problem.path) == ("damaged", path.relative_to(store.root).as_posix())


def edit(store: Store, stage: str, change: Callable[[Manifest], Manifest]) -> list[Problem]:
    """Change a record as somebody would who also makes its checksum anew."""
    path = record(store, stage)
    path.write_text(change(Manifest.from_json(path.read_text())).to_json())
    return list(verify(store, "r1").found)


def test_an_edited_recipe_is_found(store: Store) -> None:
    def config(manifest: Manifest) -> Manifest:
        recipe = {**manifest.recipe, "config": {"text": "other", "sleep": 0.0}}
        return replace(manifest, recipe=recipe)

    def refitted(manifest: Manifest) -> Manifest:
        return replace(manifest, fingerprint=fingerprint(manifest.recipe))

    [problem] = edit(store, "a", config)
    assert "its recipe has the fingerprint" in problem.detail
    [problem] = edit(store, "a", refitted)
    assert "the run recorded" in problem.detail


def test_an_edited_digest_input_kind_or_count_is_found(store: Store) -> None:
    whole = record(store, "rows").read_text()

    def check(change: Callable[[Manifest], Manifest], *expected: str) -> None:
        details = " | ".join(f"{problem.what}: {problem.detail}" for problem in edit(store, "rows", change))
        for text in expected:
            assert text in details
        record(store, "rows").write_text(whole)

    other = "rows256-add/1:12:" + "0" * 64
    check(lambda manifest: replace(manifest, digest=other), "edited: has the digest", "lineage: input rows is")
    recipe = Manifest.from_json(whole).recipe
    check(
        lambda manifest: replace(manifest, recipe={**recipe, "inputs": {"a": "sha256:" + "0" * 64}}),
        "lineage: input a is sha256:000",
        "its recipe has the fingerprint",
    )
    check(lambda manifest: replace(manifest, recipe={**recipe, "inputs": {"b": "x"}}), "has the inputs ['b']")
    check(lambda manifest: replace(manifest, counts={"in": 12, "ok": 11}), "do not add up")
    check(lambda manifest: replace(manifest, counts={"in": 11, "ok": 11}), "counts 11 rows")
    check(lambda manifest: replace(manifest, kind="else"), "unknown kind")
    check(lambda manifest: replace(manifest, artifacts=("gone.png",)), "gone.png")
    assert verify(store, "r1").found == ()


def test_a_digest_that_both_records_tell_wrongly_is_found_in_the_data(store: Store) -> None:
    content = json.loads((store.root / "runs" / "r1.json").read_text())
    del content["checksum"]
    for stage, digest in (("rows", "rows256-add/1:12:" + "0" * 64), ("checkpoint", "sha256:" + "0" * 64)):
        edit(store, stage, lambda manifest, digest=digest: replace(manifest, digest=digest))  # type: ignore[misc]
        content["stages"][stage]["digest"] = digest
    (store.root / "runs" / "r1.json").write_text(seal(json.dumps(content, indent=1)))
    found = {stage.name: stage.problems for stage in verify(store, "r1", deep=True).stages}
    assert "its rows rows256-add/1:12:" in found["rows"][-1].detail
    assert "weights sha256:" in found["checkpoint"][-1].detail


def test_a_missing_record_breaks_the_lineage_of_what_follows(store: Store) -> None:
    record(store, "a").unlink()
    found = verify(store, "r1", deep=True)
    assert [(problem.what, Path(problem.path).parent.parent.name) for problem in found.found] == [
        ("missing", "a"),
        ("lineage", "rows"),
    ]
    assert found.found[1].detail == "input a: a has no readable record"


def named(store: Store) -> dict[str, list[int]]:
    found = verify(store, "r1", rows=True)
    assert found.exit_code == 4
    problems = [problem for problem in found.stages[1].problems if problem.rows]
    return {Path(problem.path).name: [row.row for row in problem.rows] for problem in problems}


def test_a_changed_row_is_named(store: Store) -> None:
    [first, second] = sorted((out(store, "rows") / "data").iterdir())
    table = pq.read_table(second)
    uris = table["uri"].to_pylist()
    uris[4] = "another"
    pq.write_table(table.set_column(table.schema.get_field_index("uri"), "uri", pa.array(uris)), second)
    assert named(store) == {second.name: [4]}
    [problem] = [one for one in verify(store, "r1", deep=True, rows=True).stages[1].problems if one.rows]
    assert (problem.rows[0].id, Path(problem.path).name) == ("c10", second.name)
    first.unlink()
    assert named(store) == {first.name: [0, 1, 2, 3, 4, 5], second.name: [4]}


def test_the_rows_that_a_flipped_byte_hits_are_named(store: Store) -> None:
    path = sorted((out(store, "rows") / "data").iterdir())[0]
    whole, table = path.read_bytes(), pq.read_table(path)
    for row, uri in enumerate(table["uri"].to_pylist()):
        broken = bytearray(whole)
        # The column's statistics repeat some texts, but without this length before them.
        broken[whole.index(len(uri).to_bytes(4, "little") + uri.encode()) + 7] ^= 1
        path.write_bytes(broken)
        assert named(store) == {path.name: [row]}
    path.write_bytes(whole[:-8] + bytes(8))
    assert named(store) == {path.name: [0, 1, 2, 3, 4, 5]}


def said(store: Store) -> str:
    """All that `verify` finds, with the names of rows; the same for a copy of the store."""
    try:
        found = json.dumps({**verify(store, "r1", deep=True, rows=True).as_dict(), "seconds": 0})
    except StoreError as error:
        found = str(error)
    return found.replace(str(store.root), "ROOT").replace(store.name(store.root).removesuffix("/."), "ROOT")


def test_a_bucket_is_checked_as_a_copy_of_it_on_a_disk(
    s3_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    cluster = open_store(s3_store, tmp_path / "cluster")
    make(cluster, line(weights=True))
    disk = on_disk(cluster, tmp_path / "disk")
    assert verify(disk, "r1", deep=True, rows=True).found == ()
    keys = [entry.key for entry in cluster.objects.entries("")]
    assert len(keys) >= 15
    for number, key in enumerate([None, *keys]):
        laptop = open_store(s3_store, tmp_path / f"laptop-{number}")
        monkeypatch.setattr(content, "_BATCH_BYTES", (1, 1 << 30)[number % 2])
        if key is None:
            assert verify(laptop, None).found == ()
            assert said(laptop) == said(disk)
            continue
        whole = (disk.root / key).read_bytes()
        broken = bytearray(whole)
        broken[len(whole) // 2] ^= 1
        (disk.root / key).write_bytes(broken)
        bucket_of(cluster).upload(disk.root / key, key)
        assert said(laptop) == said(disk), key
        assert key in blamed(laptop)
        (disk.root / key).write_bytes(whole)
        bucket_of(cluster).upload(disk.root / key, key)
        assert not fetched(laptop)
    assert not list((tmp_path / "temporary").glob("lumina-*"))


def test_what_a_bucket_lost_is_found_without_reading_any_and_mended(s3_store: str, tmp_path: Path) -> None:
    cluster = open_store(s3_store, tmp_path / "cluster")
    make(cluster, line())
    place = out(cluster, "rows").relative_to(cluster.root).as_posix()
    lost = next(entry.key for entry in cluster.objects.entries(f"{place}/data"))
    cluster.objects.remove(lost)
    cluster.objects.put(f"{place}/new.txt", "new")
    laptop = open_store(s3_store, tmp_path / "laptop")
    found = verify(laptop, "r1")
    assert [(problem.what, problem.path) for problem in found.found] == [
        ("missing", lost), ("unexpected", f"{place}/new.txt")
    ]  # fmt: skip
    deep = verify(laptop, "r1", deep=True, rows=True)
    assert [problem.what for problem in deep.found] == ["missing", "unexpected"]
    assert len(deep.found[0].rows) == 6
    assert repair(laptop, found).repaired == ("rows",)
    assert laptop.lookup("rows", laptop.get_run("r1").stages["rows"].fingerprint[7:]) is None


def test_rows_cannot_be_named_without_their_index_and_that_is_said(store: Store) -> None:
    (out(store, "rows") / "rows.parquet").write_text("")
    found = verify(store, "r1", rows=True)
    assert [problem.what for problem in found.found] == ["damaged"]
    assert any("index of rows cannot be used" in note.what for note in found.not_checked)


def test_a_record_of_the_run_that_is_none_and_a_run_that_is_not_there(store: Store) -> None:
    with pytest.raises(StoreError, match="holds no run 'nobody'"):
        verify(store, "nobody")
    path = store.root / "runs" / "r1.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in content.items() if key != "stages"}))
    with pytest.raises(StoreError, match=r"r1\.json is damaged"):
        verify(store, "r1")
    (store.root / "latest" / "line").write_text("r0")
    with pytest.raises(StoreError, match=r"latest/line names the run 'r0'"):
        verify(store, "line")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tracked") / "store"
    store = Store(root)
    store.prepare()
    # Making the database takes long: the ids of runs must be known when stages end.
    MlflowRuns(default_uri(store), root / "artifacts")
    for run_id in ("r1", "r2"):
        tracking = MlflowTracking(store, run_id, "line")
        assert run(
            line(),
            store,
            EXECUTE,
            run_id=run_id,
            tracking=tracking,
            identifier=identifier(),
            max_parallel=1,
        ).ok
        tracking.close("FINISHED")
    return root


def test_mlflow_is_held_against_the_records(tracked: Path, tmp_path: Path) -> None:
    for run_id in ("r1", "r2"):
        found = verify(Store(tracked), run_id)
        assert found.found == ()
        assert not any("MLflow" in note.what for note in found.not_checked)
    root = tmp_path / "elsewhere"
    shutil.copytree(tracked, root)
    shutil.move(tracked, tmp_path / "away")  # the records name the database where it was
    try:
        store = Store(root)
        client = MlflowClient(default_uri(store))
        experiment = client.get_experiment_by_name(PIPELINES)
        assert experiment is not None
        wanted = "tags.`lumina.stage` = 'rows' and tags.`lumina.cache` = 'hit'"
        [cached] = client.search_runs([experiment.experiment_id], wanted)
        client.set_tag(cached.info.run_id, "lumina.digest", "sha256:other")
        assert verify(store, "r1").found == ()
        [problem] = verify(store, "r2").found
        assert problem.what == "mlflow"
        assert "sha256:other" in problem.detail
        (root / "mlflow.db").write_bytes(b"no database" * 1000)
        found = verify(store, "r2")
        assert found.found == ()
        assert any("not a database" in note.what for note in found.not_checked)
        (root / "mlflow.db").unlink()
        found = verify(store, "r2")
        assert found.found == ()
        assert any("mlflow.db is not there" in note.what for note in found.not_checked)
        assert not (root / "mlflow.db").exists()
    finally:
        shutil.move(tmp_path / "away", tracked)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_dead_server_is_not_waited_for(store: Store, silent_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for uri in ("http://127.0.0.1:9", silent_server):
        edit(store, "a", lambda manifest, uri=uri: replace(manifest, mlflow={"run_id": "x", "uri": uri}))  # type: ignore[misc]
        found = verify(store, "r1")
        assert found.found == ()
        assert any(uri in note.what for note in found.not_checked)


def call(store: Store, *arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["verify", *arguments, "--store", str(store.root)])


def test_the_command_shows_what_is_wrong_and_what_was_not_checked(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    done = call(store)
    assert done.exit_code == 0, done.output
    assert "All that was checked is intact: 4 stages" in done.output
    assert "--deep hashes them" in done.output
    assert call(store, "nobody").exit_code == 1
    path = sorted((out(store, "rows") / "data").iterdir())[0]
    path.write_bytes(path.read_bytes()[:-1])
    wrong = call(store, "line", "--deep", "--rows")
    assert wrong.exit_code == 4
    assert path.name in wrong.output
    assert "rows 0 (c0), 1 (c1), 2 (c2), 3 (c3) and 2 more" in wrong.output
    assert max(len(shown) for shown in wrong.output.splitlines()) <= 100
    content = json.loads(call(store, "--rows", "--json").output)
    assert content["exit"] == 4
    [problem] = content["stages"][1]["problems"]
    assert [row["id"] for row in problem["rows"]] == [f"c{number}" for number in range(6)]


def test_looking_imports_nothing_heavy(made: Path) -> None:
    code = (
        "import sys; from pipelines.engine.store.store import Store; from pipelines.compare.verify import verify;"
        "found = verify(Store(sys.argv[1]), None, rows=True); "
        "print(found.exit_code, sorted({'ray', 'torch', 'mlflow', 'deepspeed'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(made)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 []"


def computed(store: Store) -> dict[str, str]:
    summary = run(diamond(), store, EXECUTE, identifier=identifier())
    assert summary.ok
    return {name: outcome.state for name, outcome in summary.outcomes.items()}


def flip(store: Store, stage: str) -> None:
    path = store.output(store.manifests(stage)[0]) / "text.txt"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def test_a_flipped_byte_is_named_and_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    store = Store(tmp_path)
    computed(store)
    flip(store, "b")
    assert set(computed(store).values()) == {"cached"}  # sizes are all that a run looks at

    done = call(store, "--deep")
    assert done.exit_code == 4
    assert "--deep --repair` has the next `lumina run` compute what is damaged again" in done.output
    done = call(store, "--deep", "--repair")
    assert done.exit_code == 4
    assert "The next `lumina run` computes again: b." in done.output
    assert computed(store) == {"a": "cached", "b": "done", "c": "cached", "d": "cached"}
    assert call(store, "--deep", "--repair").exit_code == 0


def test_what_is_whole_or_no_fault_of_an_output_is_left(tmp_path: Path) -> None:
    store = Store(tmp_path)
    computed(store)
    (store.output(store.manifests("c")[0]) / "note.txt").touch()
    found = verify(store, None, deep=True)
    assert [problem.what for problem in found.found] == ["unexpected"]
    assert repair(store, found).repaired == ()
    assert set(computed(store).values()) == {"cached"}


def test_a_record_that_is_gone_or_torn_needs_no_mending_twice(tmp_path: Path) -> None:
    store = Store(tmp_path)
    computed(store)
    for name in ("a", "b"):
        record = store.output(store.manifests(name)[0]).parent / "MANIFEST.json"
        if name == "a":
            record.unlink()
        else:
            record.write_text("{")
    assert repair(store, verify(store, None)).repaired == ("a", "b")
    assert computed(store) == {"a": "done", "b": "done", "c": "cached", "d": "cached"}


def test_a_stage_that_somebody_works_on_is_not_touched(tmp_path: Path) -> None:
    store = Store(tmp_path)
    computed(store)
    flip(store, "b")
    manifest = store.manifests("b")[0]
    attempt = store.acquire("b", manifest.fingerprint)
    assert isinstance(attempt, Attempt)
    with pytest.raises(StoreError, match=r"stage b: process .* works on it"):
        repair(store, verify(store, None, deep=True))
    assert store.lookup("b", manifest.fingerprint) == manifest
