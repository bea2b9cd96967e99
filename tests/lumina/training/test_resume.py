"""Engine checkpoints: complete or not there."""

from __future__ import annotations

from pathlib import Path

from lumina.training import resume


def _write(root: Path, step: int, complete: bool = True) -> None:
    path = resume.step_directory(root, step)
    (path / "engine").mkdir(parents=True)
    (path / "engine" / "state.pt").write_bytes(b"state")
    if complete:
        resume.mark_complete(path, step, world=2)


def test_the_newest_whole_checkpoint_counts(tmp_path: Path) -> None:
    assert resume.newest(tmp_path) is None
    for step, complete in ((100, True), (200, True), (300, True), (1000, False)):
        _write(tmp_path, step, complete)
    found = resume.newest(tmp_path)
    assert found == resume.EngineCheckpoint(resume.step_directory(tmp_path, 300), 300, 2)
    (found.path / "engine" / "state.pt").write_bytes(b"sta")
    assert resume.newest(tmp_path) == resume.EngineCheckpoint(resume.step_directory(tmp_path, 200), 200, 2)


def test_pruning_keeps_two_and_removes_what_is_behind_the_resumed_one(tmp_path: Path) -> None:
    for step, complete in ((1, True), (2, True), (3, True), (4, True), (5, False)):
        _write(tmp_path, step, complete)
    resume.prune(tmp_path, resume.EngineCheckpoint(resume.step_directory(tmp_path, 3), 3, 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    resume.prune(tmp_path, None)
    assert not list(tmp_path.iterdir())
