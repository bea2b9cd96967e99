"""`lumina diff`: the answer, and what it rests on, over real runs in real stores."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pipelines import cli
from pipelines.compare.difference import RunDiff, read_diff
from pipelines.engine.stage import Pipeline
from pipelines.engine.store import working_copy
from pipelines.engine.store.bucket import Bucket
from pipelines.engine.store.open_store import open_store
from pipelines.engine.store.store import Store
from pipelines.errors import StoreError
from pipelines.reports.diff_view import answer_text, difference_view
from pipelines.reports.page.diff import make_page
from tests.pipelines.compared import CLIPS, NoConfig, RowsConfig, chain, go, latents, stage
from tests.pipelines.engine.store.operations import fetched, on_disk

Held = tuple[Store, dict[str, Any]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Held:
    return go(chain(), tmp_path_factory.mktemp("base"))


def shown(found: RunDiff, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(answer_text(found), soft_wrap=True)
    console.print(difference_view(found))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def verdicts(found: RunDiff) -> dict[str, str]:
    return {one.name: one.verdict for one in found.stages}


def test_the_same_pipeline_in_two_stores_is_equal(base: Held, tmp_path: Path) -> None:
    found = read_diff(base, go(chain(), tmp_path))
    assert found.answer == "equal: all 4 stages have the same digests"
    assert found.exit_code == 0
    assert set(verdicts(found).values()) == {"equal"}
    assert not any(one.shared for one in found.stages)
    assert not found.rows
    # The throughput differs, as it always does.
    assert {(one.metric, one.steps, one.first_step) for one in found.curves} == {
        ("loss", 3, None), ("loss/image", 3, None)
    }  # fmt: skip
    assert not any(figure.moved for figure in found.figures)


def test_a_cached_run_says_that_nothing_was_computed_twice(base: Held) -> None:
    found = read_diff(base, go(chain(), base[0].root))
    assert found.answer == "equal: all 4 stages have the same digests (4 of them are one output that both runs use)"
    assert found.exit_code == 0
    assert "4 stages are one output that both runs use: ingest, select, train@1, evaluate_final" in shown(found)


def test_one_setting_names_stage_key_and_what_it_did(base: Held, tmp_path: Path) -> None:
    found = read_diff(base, go(chain(lr=0.2), tmp_path))
    old, new = (f"{0.5 * (1.5 - 2.718281828459045**-x):.4g}" for x in (3, 6))
    assert found.answer == (
        "first divergence: train@1: config.lr 0.1 -> 0.2; "
        f"evaluate_final (web | after | train@1): shapes/shape_acc {old} -> {new}"
    )
    assert found.exit_code == 4
    assert verdicts(found) == {
        "ingest": "equal", "select": "equal", "train@1": "differs", "evaluate_final": "follows"
    }  # fmt: skip
    [loss, _] = found.curves
    assert (loss.metric, loss.steps, loss.first_step, loss.largest_step, loss.last_step) == ("loss", 3, 20, 30, 30)
    assert loss.largest == pytest.approx(1 - 2.718281828459045**-3)
    [moved] = [figure for figure in found.figures if figure.moved]
    assert (moved.metric, moved.outside) == ("shapes/shape_acc", True)
    [rows] = found.rows
    assert (rows.stage, rows.changed_rows, rows.changed) == (
        "evaluate_final", 1, {"frames_sha256": 1, "shapes/shape_acc": 1}
    )  # fmt: skip
    assert rows.changes[0].key == "after a-circle 0"


def test_without_a_final_evaluation_every_system_prompt_counts_and_without_any_the_losses(tmp_path: Path) -> None:
    each = [stage(f"evaluate@{name}", "evaluate", NoConfig(), checkpoint="train@1") for name in ("web", "phone")]
    runs = []
    for lr in (0.1, 0.2):
        stages = [one for one in chain(lr=lr).stages if one.name != "evaluate_final"]
        runs.append(go(Pipeline("prompts", (*stages, *each)), tmp_path / str(lr)))
    answer = read_diff(*runs).answer
    assert "; evaluate: shapes/shape_acc (phone) 0.7251 -> 0.7488, shapes/shape_acc (web) 0.7251 -> 0.7488" in answer
    runs = [go(chain(lr=lr), tmp_path / f"until-{lr}", until="train@1") for lr in (0.1, 0.2)]
    assert read_diff(*runs).answer.endswith("-> 0.2; train@1: train/last_loss 0.04979 -> 0.002479")


def test_rows_are_matched_by_clip(base: Held, tmp_path: Path) -> None:
    found = read_diff(base, go(chain(clips=14, least=0.35), tmp_path))
    assert found.answer == (
        "first divergence: ingest: config.clips 12 -> 14 (1 more stage differs by itself); no figure moved"
    )
    ingest, select = found.rows
    assert (ingest.rows, ingest.only_a, list(ingest.only_b.values()), ingest.changed) == (
        (12, 14), {}, ["clip12.mp4", "clip13.mp4"], {}
    )  # fmt: skip
    assert select.transitions == {"ok -> filtered/low_motion": 4}
    assert [change.uri for change in select.changes] == [f"clip{index}.mp4" for index in range(4)]
    assert select.changes[1].columns["detail"] == (None, "0.1 below 0.35")
    assert select.changed["status"] == select.changed_rows == 4
    text = shown(found)
    assert "4 of 12 rows changed, 2 only in B" in text
    assert "clip3.mp4 (000000000000): ok -> filtered/low_motion by select (0.3 below 0.35)" in text
    assert "only in B: clip12.mp4 (000000000000), clip13.mp4 (000000000000)" in text


def test_what_an_earlier_stage_did_to_a_clip_is_told_once(base: Held, tmp_path: Path) -> None:
    after = stage("encode", "make_rows", RowsConfig(), clips="select")
    runs = [go(chain(after, least=least), tmp_path / str(least)) for least in (0.0, 0.35, 9.0)]
    text = shown(read_diff(*runs[:2]))
    assert text.count("clip1.mp4") == 1
    assert text.count("4 ok -> filtered/low_motion") == 2
    assert "4 as told at an earlier stage" in text
    found = read_diff(runs[0], runs[2])
    assert "and 2 more; --json has all" in shown(found)
    assert len(json.loads(json.dumps(found.as_dict()))["rows"][0]["changes"]) == 12


def test_another_digest_of_the_same_recipe_is_worse(base: Held, tmp_path: Path) -> None:
    odd = stage("odd", "uncertain", NoConfig())
    first, second = go(chain(odd), tmp_path / "a"), go(chain(odd), tmp_path / "b")
    found = read_diff(first, second)
    assert re.match(
        r"first divergence: odd: NOT REPRODUCED, the same recipe gave another digest, \w{12} -> \w{12};", found.answer
    )
    assert found.exit_code == 4
    changed = read_diff(first, go(chain(odd, lr=0.2), tmp_path / "c"))
    assert "NOT REPRODUCED" in changed.answer
    assert verdicts(changed)["odd"] == "not reproduced"


def test_an_edited_record_is_named(base: Held, tmp_path: Path) -> None:
    store, record = go(chain(), tmp_path)
    entry = record.stages["select"]
    manifest = (store.root / entry.path).parent / "MANIFEST.json"
    manifest.write_text(manifest.read_text().replace(entry.digest, f"rows256-add/1:12:{7:064x}"))
    found = read_diff(base, (store, record))
    assert [note for note in found.notes if "says digest rows256-add/1:12:0" in note]
    # What the run recorded still is what it had.
    assert found.exit_code == 0


def test_the_same_content_of_another_recipe_is_no_divergence(tmp_path: Path) -> None:
    runs = [
        go(chain(stage("same", "echo", NoConfig(note=note), clips="ingest")), tmp_path / note)
        for note in ("one", "two")
    ]
    found = read_diff(*runs)
    assert found.answer == (
        "equal: all 5 stages have the same digests; 1 recipe differs, first same: config.note one -> two"
    )
    assert found.exit_code == 3
    later = go(chain(stage("same", "echo", NoConfig(note="two"), clips="ingest"), lr=0.2), tmp_path / "later")
    assert read_diff(runs[0], later).answer.startswith("first divergence: train@1: config.lr 0.1 -> 0.2; ")


def test_a_stage_that_others_read_diverges_in_its_place_and_a_leaf_comes_last(base: Held, tmp_path: Path) -> None:
    leaf = stage("page", "echo", NoConfig(), clips="ingest")
    found = read_diff(base, go(chain(leaf, lr=0.2), tmp_path / "leaf"))
    assert found.first is not None
    assert found.first.name == "train@1"
    found = read_diff(base, go(chain(leaf), tmp_path / "alone"))
    assert found.answer.startswith("first divergence: page: only in B (")
    cut = stage("split", "make_rows", RowsConfig(least=0.2), clips="ingest")
    between = chain(cut)
    stages = [one if one.name != "select" else stage("select", "make_rows", RowsConfig(), clips="split")
              for one in between.stages]  # fmt: skip
    found = read_diff(base, go(Pipeline("chain", tuple(stages)), tmp_path / "split"))
    assert found.answer.startswith("first divergence: split: only in B (")
    assert [one.name for one in found.stages].index("split") < [one.name for one in found.stages].index("select")


def test_a_run_that_stopped_early_is_compared_as_far_as_it_goes(base: Held, tmp_path: Path) -> None:
    found = read_diff(base, go(chain(), tmp_path, until="select"))
    assert found.answer.startswith("first divergence: train@1: only in A (")
    assert verdicts(found)["evaluate_final"] == "only in A"


def test_an_output_that_is_gone_is_said(base: Held, tmp_path: Path) -> None:
    store, record = go(chain(lr=0.2), tmp_path)
    path = store.root / record.stages["train@1"].path
    (path.parent / "MANIFEST.json").unlink()
    found = read_diff(base, (store, record))
    assert found.answer.startswith(
        f"first divergence: train@1: another digest; B: {path.parent / 'MANIFEST.json'} is gone; "
    )
    assert [note for note in found.notes if note.startswith("train@1: B: ")]
    assert not found.curves


@pytest.mark.parametrize(("file", "named"), [("metrics.jsonl", "line 2"), ("data/part.parquet", "cannot be read")])
def test_a_damaged_file_is_named(base: Held, tmp_path: Path, file: str, named: str) -> None:
    store, record = go(chain(lr=0.2, least=0.3), tmp_path)
    [path] = (store.root / "stages" / ("train@1" if file == "metrics.jsonl" else "select")).glob(f"*/a-*/{file}")
    path.write_text('{"step": 10, "loss": 1}\nrubbish\n' if file == "metrics.jsonl" else "rubbish")
    with pytest.raises(StoreError, match=named):
        read_diff(base, (store, record))


def test_two_runs_in_a_bucket_differ_as_on_a_disk(s3_store: str, tmp_path: Path) -> None:
    cluster = open_store(s3_store, tmp_path / "cluster")
    first, second = (go(made, cluster)[1].run for made in (chain(), chain(lr=0.2, least=0.3)))
    laptop, again = (open_store(s3_store, tmp_path / name) for name in ("laptop", "again"))
    disk = on_disk(cluster, tmp_path / "disk")
    arguments = ["diff", first, first, "--store", str(disk.root), "--other-store", s3_store]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    found = read_diff((laptop, laptop.get_run(first)), (again, again.get_run(second)))
    told = read_diff((disk, disk.get_run(first)), (disk, disk.get_run(second)))
    assert found.as_dict() == told.as_dict() | {side: told.as_dict()[side] | {"store": s3_store} for side in ("a", "b")}
    assert [one.name for one in found.stages if one.shared] == ["ingest"]
    assert fetched(laptop) == fetched(again) == {
        "select/data/part.parquet", "train@1/metrics.jsonl", "evaluate_final/data/part.parquet"
    }  # fmt: skip
    assert make_page(found).replace(s3_store.replace("&", "&amp;"), str(disk.root)) == make_page(told)
    assert {path for path in fetched(again) if "videos" in path} == {
        f"evaluate_final/videos/a-{shape}.mp4" for shape in ("circle", "square")
    }


def test_of_large_tables_in_a_bucket_only_some_columns_are_read(
    s3_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = open_store(s3_store, tmp_path / "cluster")
    first, second = (go(chain(latents(seed)), cluster)[1] for seed in (1, 2))
    laptop = open_store(s3_store, tmp_path / "laptop")
    asked: list[int] = []
    read_range = Bucket.read_range

    def counting(self: Bucket, key: str, start: int, length: int) -> bytes:
        asked.append(length)
        return read_range(self, key, start, length)

    monkeypatch.setattr(Bucket, "read_range", counting)
    monkeypatch.setattr(working_copy, "_DOWNLOADED_BYTES", 1 << 20)
    [rows] = read_diff((laptop, first), (laptop, second)).rows
    assert rows.changed == {"latent_sha256": CLIPS}
    assert not [path for path in fetched(laptop) if path.startswith("latents/")]
    assert 0 < sum(asked) < 1_000_000
    laptop.objects.remove(f"{first.stages['latents'].path}/data/part.parquet")
    with pytest.raises(StoreError, match=r"data/part\.parquet is not there"):
        read_diff((laptop, first), (laptop, second))


def test_the_page_holds_everything_and_loads_nothing(base: Held, tmp_path: Path) -> None:
    page = make_page(read_diff(base, go(chain(lr=0.2, least=0.3), tmp_path)))
    assert page.count('<video src="data:video/mp4;base64,') == 4
    assert page.count("<polyline") == 2
    for text in ("first divergence: select: config.least 0.0 -&gt; 0.3", "the same frames", "&lt;b&gt;a-circle"):
        assert text in page
    assert "http" not in page.replace("http-equiv", "")
    # Clips that moved come first.
    assert page.index("after a-circle 0") < page.index("after a-square 0")
    assert make_page(read_diff(base, base)).count("<video") == 4


def test_the_command(base: Held, tmp_path: Path) -> None:
    store, record = go(chain(lr=0.2), tmp_path / "store")
    here = ["--store", str(base[0].root), "--other-store", str(store.root)]

    def diff(*arguments: str) -> Any:
        return CliRunner().invoke(cli.app, ["diff", *arguments])

    done = diff("chain", record.run, *here, "--html", str(tmp_path / "page.html"))
    assert done.exit_code == 4, done.output
    first = done.output.splitlines()[0]
    assert first.startswith("first divergence: train@1: config.lr 0.1 -> 0.2; evaluate_final")
    assert first in (tmp_path / "page.html").read_text().replace("&gt;", ">")
    data = json.loads(diff("chain", "chain", *here, "--json").output)
    assert (data["answer"], data["exit"], data["first"]) == (first, 4, "train@1")
    assert diff("chain", "chain", "--store", str(base[0].root)).exit_code == 0
    nobody = diff("chain", "nobody", *here)
    assert nobody.exit_code == 1
    assert f"store {store.root} holds no run 'nobody'" in nobody.output.replace("\n", "")
    nowhere = diff("chain", "chain", *here, "--html", str(tmp_path / "no" / "page.html"))
    assert nowhere.exit_code == 1
    assert "cannot be written: No such file or directory" in nowhere.output
