"""Engine checkpoints: whole, refused by name, or not there; and pieces for any number of workers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from lumina.training import resume
from lumina.training.engine import Layout

LAYOUT = Layout(("a", "b"), ((2, 3), (5,)))
LINE = torch.arange(1.0, LAYOUT.numel + 1)


def _write(root: Path, step: int, world: int = 1, ranks: int | None = None) -> None:
    """A checkpoint of `world` workers, of which the first `ranks` have finished."""
    length = -(-LAYOUT.numel // world)
    padded = torch.cat([LINE, torch.zeros(world * length - LAYOUT.numel)])
    for rank in range(world if ranks is None else ranks):
        share = padded[rank * length : (rank + 1) * length].clone()
        resume.write_share(root, step, rank, world, {"weights": share, "seen": torch.tensor([rank])}, LAYOUT)


def test_a_checkpoint_counts_once_all_workers_have_written_it(tmp_path: Path) -> None:
    assert resume.complete(tmp_path) == []
    _write(tmp_path, 100)
    _write(tmp_path, 200, world=3)
    _write(tmp_path, 300, world=3, ranks=2)
    assert [(found.step, found.world) for found in resume.complete(tmp_path)] == [(200, 3), (100, 1)]
    assert resume.complete(tmp_path)[0].layout() == LAYOUT
    with pytest.raises(resume.DamagedCheckpointError, match=r"worker-00000-of-00009\.json is no record"):
        resume.EngineCheckpoint(resume.step_directory(tmp_path, 100), 100, 9).record(0)


@given(world=st.integers(1, 4), start=st.integers(0, 14), length=st.integers(1, 9))
def test_any_piece_of_the_line_comes_out_of_any_shares(
    tmp_path_factory: pytest.TempPathFactory, world: int, start: int, length: int
) -> None:
    root = tmp_path_factory.mktemp("line")
    _write(root, 7, world)
    [found] = resume.complete(root)
    wanted = torch.cat([LINE, torch.zeros(30)])[start : start + length]
    assert torch.equal(resume.read_piece(found, "weights", start, length), wanted)
    tensors = resume.read_tensors(found, "weights")
    assert torch.equal(torch.cat([tensors["a"].flatten(), tensors["b"]]), LINE)
    assert resume.read_small(found, world - 1, ["seen"])["seen"].tolist() == [world - 1]


def test_every_share_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, 7, world=3)
    [found] = resume.complete(tmp_path)
    opened: list[Path] = []
    plain = resume.safe_open

    def opening(path: Path, *rest: object) -> object:
        opened.append(path)
        return plain(path, *rest)

    monkeypatch.setattr(resume, "safe_open", opening)
    assert len(resume.read_tensors(found, "weights")) == 2
    assert opened == [found.share(rank) for rank in range(3)]


def test_a_pickle_under_the_name_of_a_share_is_never_opened(tmp_path: Path) -> None:
    _write(tmp_path, 1)
    [found] = resume.complete(tmp_path)
    resume.verify_share(found, 0)
    torch.save({"weights": LINE}, found.share(0))
    for refuse in (lambda: resume.verify_share(found, 0), lambda: resume.read_piece(found, "weights", 0, 1)):
        with pytest.raises(resume.DamagedCheckpointError, match="it is a pickle or a zip file, not safetensors"):
            refuse()
    save_file({"weights": LINE + 1, "seen": torch.tensor([0])}, found.share(0))
    with pytest.raises(resume.DamagedCheckpointError, match=r"worker-00000-of-00001\.safetensors has another digest"):
        resume.verify_share(found, 0)


def test_pruning_keeps_the_newest_the_milestones_and_what_is_in_the_making(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        _write(tmp_path, step)
    _write(tmp_path, 6, world=2, ranks=1)
    resume.prune(tmp_path, keep=2, milestone_every=2)
    assert sorted(int(path.name[-1]) for path in tmp_path.iterdir()) == [2, 4, 5, 6]
    resume.prune(tmp_path, keep=1, milestone_every=None)
    assert sorted(int(path.name[-1]) for path in tmp_path.iterdir()) == [5, 6]
    resume.remove_after(tmp_path, 4)
    assert not list(tmp_path.iterdir())


def test_what_fails_beside_the_loop_is_raised_by_the_next_call() -> None:
    writer = resume.Writer()

    def fail() -> None:
        raise OSError("disk full")

    writer.submit(fail)
    with pytest.raises(OSError, match="disk full"):
        writer.finish()
    writer.finish()


class _OnGpu:
    """A tensor that says it is on a GPU."""

    is_cuda = True

    def __init__(self, value: torch.Tensor) -> None:
        self.value, self.shape, self.dtype = value, value.shape, value.dtype

    def detach(self) -> torch.Tensor:
        return self.value


def test_a_copy_from_a_gpu_is_page_locked_and_waited_for_by_who_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    empty, copy = torch.empty, torch.Tensor.copy_

    class Event:
        def record(self) -> None:
            calls.append("record")

        def synchronize(self) -> None:
            calls.append("wait")

    def room(*args: object, pin_memory: bool, **kwargs: object) -> torch.Tensor:
        calls.append(("pinned", pin_memory))
        return empty(*args, **kwargs)  # type: ignore[call-overload, no-any-return]

    def copying(self: torch.Tensor, value: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        calls.append(("copy", non_blocking))
        return copy(self, value)

    monkeypatch.setattr(torch, "empty", room)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.Tensor, "copy_", copying)
    live, place = _OnGpu(LINE.clone()), resume.HostCopy()
    copies, wait = place.take({"weights": live})  # type: ignore[dict-item]
    assert calls == [("pinned", True), ("copy", True), "record"]
    wait()
    assert calls.pop() == "wait"
    live.value += 1
    again, _ = place.take({"weights": live})  # type: ignore[dict-item]
    assert calls[3:] == [("copy", True), "record"]
    assert again["weights"] is copies["weights"]
    assert torch.equal(again["weights"], LINE + 1)
