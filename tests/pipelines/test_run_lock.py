"""What a record keeps to compute a run again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from pipelines import git as repositories
from pipelines.config import load_config
from pipelines.engine.store.open_store import open_store
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.errors import PipelineError, StoreError
from pipelines.git import CODE, checked_out, git, git_state, has_commit, origin, ship_origin, working_patch
from pipelines.load import shipped
from pipelines.run_lock import (
    lock_record,
    make_lock,
    patch_key,
    portable,
    read_lock,
    read_patch,
    without_password,
)
from tests.pipelines.engine.store.operations import on_disk


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository laid out as this one, with one commit."""
    home = tmp_path / "repository"
    for name in CODE:
        file = home / name if "." in name else home / name / "module.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# {name}\n")
    (home / ".gitignore").write_text("*.pyc\n")
    (home / "notes.txt").write_text("not code\n")
    subprocess.run(["git", "init", "--quiet", str(home)], check=True)
    git(home, "add", "--all")
    git(home, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--message", "first")
    return home


def test_a_patch_is_found_by_other_machines(
    repository: Path, s3_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "lumina" / "module.py").write_text("changed = True\n")
    monkeypatch.setattr(repositories, "code_home", lambda: repository)
    settings = load_config("demo", [f"store={s3_store}"])
    lock = make_lock(settings, "lumina run demo", open_store(s3_store, tmp_path / "cluster"))
    assert lock.config["store"] == s3_store
    assert lock.code.patch is not None
    assert b"+changed = True" in read_patch(open_store(s3_store, tmp_path / "laptop"), lock.code.patch)
    copy = on_disk(open_store(s3_store, tmp_path / "laptop"), tmp_path / "disk")
    assert b"+changed = True" in read_patch(copy, lock.code.patch)


def test_a_clean_tree_has_no_patch(repository: Path) -> None:
    (repository / "notes.txt").write_text("changed, but no code")
    (repository / "lumina" / "module.pyc").write_bytes(b"\0")
    assert working_patch(repository) == b""


def test_uncommitted_code_comes_back(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD").strip()
    (repository / "lumina" / "module.py").write_text("changed = True\r\n \n")
    (repository / "jobs" / "module.py").unlink()
    (repository / "curation" / "weights.bin").write_bytes(bytes(range(256)))
    git(repository, "add", "lumina")
    staged = git(repository, "diff", "--cached", "--name-only")
    patch = working_patch(repository)
    assert git(repository, "diff", "--cached", "--name-only") == staged
    with checked_out(repository, commit, patch) as code:
        assert (code / "lumina" / "module.py").read_bytes() == b"changed = True\r\n \n"
        assert not (code / "jobs" / "module.py").exists()
        assert (code / "curation" / "weights.bin").read_bytes() == bytes(range(256))
        assert (code / "notes.txt").read_text() == "not code\n"
    assert not code.exists()
    assert git(repository, "worktree", "list").count("\n") == 1
    with checked_out(repository, commit, None) as code:
        assert (code / "lumina" / "module.py").read_text() == "# lumina\n"


def test_a_patch_that_does_not_fit_leaves_nothing_behind(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD").strip()
    bad = b"--- a/lumina/module.py\n+++ b/lumina/module.py\n@@ -1 +1 @@\n-other\n+new\n"
    with pytest.raises(PipelineError, match="git apply"), checked_out(repository, commit, bad):
        pass
    assert git(repository, "worktree", "list").count("\n") == 1
    assert has_commit(repository, commit)
    assert not has_commit(repository, "0" * 40)


@pytest.mark.parametrize("name", shipped())
def test_a_locked_config_is_the_same_config(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clips = tmp_path / "clips.csv"
    clips.write_text("video,caption,source\na.mp4,A circle.,web\n")
    rendered = name in ("demo", "sound")
    overrides = [] if rendered else ["data.manifest=clips.csv"]
    settings = load_config(name, overrides)
    file = tmp_path / "elsewhere" / "config.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(portable(settings), sort_keys=False))
    monkeypatch.chdir(file.parent)
    again = load_config(str(file))
    assert again.data.manifest == (None if rendered else clips)
    assert again.store == str(tmp_path / "runs")
    same = {"data": settings.data, "store": settings.store}
    assert again.model_copy(update=same) == settings


def test_a_locked_config_reads_the_same_manifest_and_media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("blobs", "snapshots", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "blobs" / "2222").write_text('{"video": "a.mp4", "caption": "A circle."}\n')
    link = tmp_path / "snapshots" / "clips.jsonl"
    link.symlink_to("../blobs/2222")
    (tmp_path / "media").mkdir()
    monkeypatch.chdir(tmp_path)
    locked = portable(load_config("folder", ["data.manifest=snapshots/clips.jsonl", "ingest.media_dir=../media"]))
    assert locked["data"]["manifest"] == str(link)
    assert locked["ingest"]["media_dir"] == str(tmp_path / "media")


def test_passwords_are_not_locked() -> None:
    assert without_password("https://me:secret@mlflow.example:5000/a?b=c") == "https://mlflow.example:5000/a?b=c"
    assert without_password("sqlite:////tmp/mlflow.db") == "sqlite:////tmp/mlflow.db"


def test_a_lock_comes_back_from_its_record(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repositories, "HOME", repository)
    (repository / "lumina" / "new.py").write_text("x = 1\n")
    store = Store(tmp_path / "store")
    made = make_lock(load_config("demo"), "lumina run demo", store)
    assert read_lock(RunRecord(run="r", name="x", started="", stages={}, lock=lock_record(made))) == made
    assert made.environment.packages["torch"]
    assert made.code.patch is not None
    assert b"new.py" in read_patch(store, made.code.patch)
    store.objects.put(patch_key(made.code.patch), b"other")
    with pytest.raises(PipelineError, match="is damaged"):
        read_patch(store, made.code.patch)
    store.objects.remove(patch_key(made.code.patch))
    with pytest.raises(PipelineError, match=r"patches/\w+\.patch is gone"):
        read_patch(store, made.code.patch)


def test_a_run_records_the_code_that_it_began_with(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repositories, "HOME", repository)
    (repository / "lumina" / "new.py").write_text("x = 1\n")
    store = Store(tmp_path / "store")
    made = make_lock(load_config("demo"), "lumina run demo", store)
    git(repository, "add", "--all")
    git(repository, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--message", "second")
    assert git_state() == {"commit": made.code.commit, "dirty": True}
    assert make_lock(load_config("demo"), "lumina run demo", store).code == made.code


def test_git_is_asked_for_the_patch_once(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repositories, "HOME", repository)
    asked: list[Path] = []

    def count(home: Path) -> bytes:
        asked.append(home)
        return b""

    monkeypatch.setattr(repositories, "working_patch", count)
    make_lock(load_config("demo"), "lumina run demo", Store(tmp_path / "store"))
    git_state()
    git_state()
    assert asked == [repository]


def test_code_without_a_repository_knows_what_was_sent_along(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repositories, "HOME", repository)
    (repository / "lumina" / "new.bin").write_bytes(b"\xff\0")
    here = origin()
    assert here is not None
    for name in ("installed", "sent"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(repositories, "HOME", tmp_path / "installed")
    assert origin() is None
    assert make_lock(load_config("demo"), "lumina run demo", Store(tmp_path)).code.commit is None
    ship_origin(here, tmp_path / "sent")
    monkeypatch.setattr(repositories, "HOME", tmp_path / "sent")
    assert origin() == here


def test_a_record_without_a_lock_is_one_clear_error() -> None:
    record = RunRecord(run="r", name="x", started="", stages={})
    with pytest.raises(StoreError, match="run r has no lock"):
        read_lock(record)
