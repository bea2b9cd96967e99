"""The adapter to av-benchmark, against a stand-in repository that writes what the real one does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lumina.video_to_audio.av_benchmark import AVBenchmarkError, read_results, run_av_benchmark, sound_folders
from tests.lumina.video_to_audio.fake_av_benchmark import write_clone, write_evaluation

PYTHON = Path(sys.executable)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A clone of the stand-in."""
    return write_clone(tmp_path / "clone")


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """See `write_evaluation`."""
    return write_evaluation(tmp_path / "stage", 8.0, 8.0)


def test_sounds_are_judged_by_its_own_names(repository: Path, evaluation: Path, tmp_path: Path) -> None:
    folders = sound_folders(evaluation, tmp_path / "folders")
    assert sorted(path.name for path in folders.true.iterdir()) == ["a.wav", "b.wav"]
    # What an earlier attempt left is not in the way.
    (tmp_path / "work" / "made_cache").mkdir(parents=True)
    (tmp_path / "work" / "made_cache" / "output_metrics.json").write_text("{}")
    found = run_av_benchmark(PYTHON, repository, folders, tmp_path / "work")
    assert (found["FD-PANN"], found["KL-PANNS-softmax"], found["ISC-PANNS-mean"]) == (10, 1.5, 3)
    assert "DeSync" not in found
    given = json.loads((repository / "given.json").read_text())
    assert given["audio_length"] == "8"
    assert {"skip_clap", "skip_video_related"} <= set(given)
    assert "pred_batch_size" not in given


def test_with_films_it_tells_how_far_they_are_apart(repository: Path, evaluation: Path, tmp_path: Path) -> None:
    films = {clip: tmp_path / f"{number}.mp4" for number, clip in enumerate("abc")}
    for film in films.values():
        film.touch()
    folders = sound_folders(evaluation, tmp_path / "folders")
    found = run_av_benchmark(PYTHON, repository, folders, tmp_path / "work", films)
    assert (found["IB-Score"], found["DeSync"]) == (0.3, 0.45)
    assert (tmp_path / "work" / "true_cache" / "synchformer_video.pth").read_text() == "a.mp4 b.mp4"
    with pytest.raises(ValueError, match="no film of clip b"):
        run_av_benchmark(PYTHON, repository, folders, tmp_path / "work", {"a": films["a"]})
    short = sound_folders(write_evaluation(tmp_path / "short", 8.0, 4.0), tmp_path / "folders")
    with pytest.raises(ValueError, match=r"DeSync needs sounds of 4\.8 s or longer, and the shortest has 4 s"):
        run_av_benchmark(PYTHON, repository, short, tmp_path / "work", films)
    run_av_benchmark(PYTHON, repository, short, tmp_path / "work")
    assert json.loads((repository / "given.json").read_text())["pred_batch_size"] == "1"


def test_conditions_whose_sounds_were_not_kept_are_named(evaluation: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"kept no sound of clip b under text_dropped: evaluate with `shown` of 2"):
        sound_folders(evaluation, tmp_path, "text_dropped")
    with pytest.raises(ValueError, match=r"no sounds of the condition 'nothing'; it has given, text_dropped, truth"):
        sound_folders(evaluation, tmp_path, "nothing")


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ("raise RuntimeError('no GPU')", "evaluate.py ended with exit code 1: RuntimeError: no GPU; see"),
        ("import av_bench", "evaluate.py cannot run: its interpreter has no av_bench; clone hkchengrex/av-benchmark"),
        ("os.kill(os.getpid(), 9)", "evaluate.py was ended by SIGKILL; see"),
        ("sys.exit(0)", "av-benchmark wrote nothing usable"),
        ("found['DeSync'] = float('nan')", "DeSync is NaN, which is no finite number"),
    ],
)
def test_a_failure_is_one_line(repository: Path, evaluation: Path, tmp_path: Path, then: str, message: str) -> None:
    (repository / "then.py").write_text(then)
    folders = sound_folders(evaluation, tmp_path / "folders")
    with pytest.raises(AVBenchmarkError) as caught:
        run_av_benchmark(PYTHON, repository, folders, tmp_path / "work")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_environment_it_says_what_to_do(repository: Path, evaluation: Path, tmp_path: Path) -> None:
    folders = sound_folders(evaluation, tmp_path / "folders")
    with pytest.raises(AVBenchmarkError, match=r"is no interpreter: .* as its README says"):
        run_av_benchmark(tmp_path / "none", repository, folders, tmp_path / "work")
    (repository / "evaluate.py").unlink()
    with pytest.raises(AVBenchmarkError, match=r"holds no evaluate\.py: it is no clone of av-benchmark"):
        run_av_benchmark(PYTHON, repository, folders, tmp_path / "work")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(AVBenchmarkError, match="holds no figures"):
        read_results(tmp_path / "list.json")
