from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import caption_endpoint
from curation.caption_choice import CaptionChoice
from curation.caption_config import CaptionConfig, EndpointConfig
from curation.captions import CAPTION_OPERATOR, prompted
from curation.operator import Env, Halves, Input, apply
from curation.rules import Range
from curation.selection import SELECT_OPERATOR, SelectConfig
from jobs.shapes import RenderShapesConfig, _Chunk, _render_chunk
from lumina.faults import MachineError
from tests.curation.captioning import Captioner, Reply, chat, is_right, served
from tests.curation.in_memory import computed
from tests.curation.scored import probed

CLIPS = 24


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table, dict[str, Any]]:
    """Clips of the source `web`, a quarter of them with another's caption; what `probe` found, and what they show."""
    root = tmp_path_factory.mktemp("web")
    shapes = RenderShapesConfig(side=64, fps=8, duration_s=2.0)
    rows = _render_chunk(shapes, _Chunk("web", "video", 0, CLIPS), str(root))
    clips = probed(root, [row["video"] for row in rows], {row["video"]: row["caption"] for row in rows})
    (root / "data").mkdir()
    pq.write_table(clips, root / "data" / "part.parquet")
    return root, clips, {row["video"]: json.loads(row["scene"]) for row in rows}


@pytest.fixture
def captioner() -> Iterator[Captioner]:
    with served(Captioner()) as one:
        yield one


def config(captioner: Captioner, **settings: Any) -> tuple[CaptionConfig, EndpointConfig]:
    endpoint = EndpointConfig(model="shapes", url=captioner.url, in_flight=3, patience_s=0)
    return CaptionConfig(endpoint=endpoint, **settings), endpoint


def captioned(root: Path, work: Path, captioner: Captioner, clips: pa.Table | None = None, **settings: Any) -> pa.Table:
    """The stage's rows, of `clips` or of those in `root`."""
    given, endpoint = config(captioner, **settings)
    env = Env(str(root), work=str(work), aside=endpoint)
    if clips is None:
        return computed(CAPTION_OPERATOR, {"clips": Input(root)}, given, env)
    rows = prompted(clips, given)
    assert CAPTION_OPERATOR.map is not None
    return apply(CAPTION_OPERATOR, CAPTION_OPERATOR.map(given, env), rows)


def test_wrong_captions_are_found_by_disagreement_and_repaired(
    web: tuple[Path, pa.Table, dict[str, Any]], captioner: Captioner, tmp_path: Path
) -> None:
    root, clips, scenes = web
    rows = captioned(root, tmp_path, captioner)
    assert captioner.succeeded.total() == len(captioner.succeeded) == CLIPS
    assert captioner.most_at_once <= 3
    right = {row["clip_id"]: is_right(row["caption"], scenes[row["clip_id"]]) for row in rows.to_pylist()}
    after = [is_right(row["caption_new"], scenes[row["clip_id"]]) for row in rows.to_pylist()]
    assert 0.5 < np.mean(list(right.values())) < 0.9
    assert np.mean(after) == 1
    for folder, table in (("caption", rows), ("clips", clips)):
        (tmp_path / folder / "data").mkdir(parents=True)
        pq.write_table(table, tmp_path / folder / "data" / "part.parquet")
    inputs = {name: Input(tmp_path / name) for name in ("clips", "caption")}

    def selected(use: Any, **rules: Any) -> dict[str, dict[str, Any]]:
        policy = SelectConfig(caption=CaptionChoice(use=use, mix_share=0.5, seed=0), **rules)
        return {row["clip_id"]: row for row in computed(SELECT_OPERATOR, inputs, policy, Env("")).to_pylist()}

    disagreement = selected("original", scores={"caption_agreement": Range(min=0.45)})
    found = {name for name, row in disagreement.items() if not row["keep"]}
    wrong = {name for name, is_good in right.items() if not is_good}
    assert len(found & wrong) >= 0.8 * len(wrong)
    assert len(found & wrong) >= 0.8 * len(found)
    assert {disagreement[name]["reason"] for name in found} == {"score"}
    repaired = selected("new")
    assert {row["keep"] for row in repaired.values()} == {True}
    assert all(is_right(row["caption"], scenes[name]) for name, row in repaired.items())
    kept = {name: row["caption"] for name, row in selected("original").items()}
    assert kept == dict(zip(clips["clip_id"].to_pylist(), clips["caption"].to_pylist(), strict=True))
    # What else `select` finds depends on no captions.
    plain = SelectConfig()
    assert (
        plain.policy_id
        == SelectConfig(caption=None).policy_id
        != SelectConfig(caption=CaptionChoice(use="new", mix_share=0.5, seed=0)).policy_id
    )


def test_answers_prompts_and_times_are_kept_row_by_row(
    web: tuple[Path, pa.Table, dict[str, Any]], captioner: Captioner, tmp_path: Path
) -> None:
    root, clips, _ = web
    first = clips.sort_by("clip_id").slice(0, 2)
    captioner.reply = lambda _body, _number: chat('"A red circle moves left."')
    rows = captioned(root, tmp_path, captioner, first, template="It is said: {caption}", times_s=(0.0, 1.0, 7.0))
    for row, clip in zip(rows.to_pylist(), first.to_pylist(), strict=True):
        assert (row["caption"], row["caption_new"]) == (clip["caption"], "A red circle moves left.")
        assert row["caption_answer"] == '"A red circle moves left."'
        assert row["caption_prompt"] == f"It is said: {clip['caption']}"
        assert row["caption_times_s"] == [0, 1]
        assert (row["caption_model"], row["caption_version"]) == ("shapes-vl-7b", "fp_1")
        assert row["caption_tokens"] == 10


def test_a_refusal_or_nonsense_is_that_row_s_reason_and_no_caption(
    web: tuple[Path, pa.Table, dict[str, Any]], captioner: Captioner, tmp_path: Path
) -> None:
    root, clips, _ = web
    some = clips.slice(0, 6).to_pylist()
    some[4] |= {"duration_s": 0.0}
    (root / "broken.mp4").write_bytes(b"no film at all")
    some[5] |= {"uri": "broken.mp4"}
    said: list[Reply | None] = [chat("I'm sorry, I can't."), (400, {}, b"unsafe"), chat(""), None]

    captioner.reply = lambda body, _number: said[int(body["messages"][0]["content"][-1]["text"])]
    table = pa.Table.from_pylist([row | {"caption": str(number)} for number, row in enumerate(some)], clips.schema)
    rows = captioned(root, tmp_path, captioner, table, template="{caption}").to_pylist()
    found = [(row["status"], row["reason"]) for row in rows]
    assert found == [
        ("quarantined", "caption_refused"), ("quarantined", "caption_refused"), ("quarantined", "caption_nonsense"),
        ("ok", None), ("filtered", "too_few_frames"), ("quarantined", "decode_error"),
    ]  # fmt: skip
    assert [row["caption_new"] is None for row in rows] == [True, True, True, False, True, True]
    assert rows[0]["caption_answer"] == "I'm sorry, I can't."
    assert {row["reason_stage"] for row in rows if row["status"] != "ok"} == {"caption"}
    for folder, rows_of in (("caption", pa.Table.from_pylist(rows, CAPTION_OPERATOR.schema)), ("clips", table)):
        (tmp_path / folder / "data").mkdir(parents=True)
        pq.write_table(rows_of, tmp_path / folder / "data" / "part.parquet")
    inputs = {name: Input(tmp_path / name) for name in ("clips", "caption")}
    for use, kept in (("new", 1), ("longest", 6), ("mix", 6), ("original", 6)):
        policy = SelectConfig(caption=CaptionChoice(use=use, mix_share=1, seed=0))  # type: ignore[arg-type]
        selected = computed(SELECT_OPERATOR, inputs, policy, Env(""))
        assert sum(selected["keep"].to_pylist()) == kept, use
        if use == "new":
            assert [row["reason"] for row in selected.sort_by("caption").to_pylist()].count("caption_refused") == 2


def test_an_answer_that_is_cut_is_kept_and_a_full_disk_is_no_row_s_fault(
    web: tuple[Path, pa.Table, dict[str, Any]], captioner: Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, clips, _ = web
    captioner.reply = lambda _body, _number: chat("A red circle moves", finish_reason="length")
    [row] = captioned(root, tmp_path, captioner, clips.slice(0, 1)).to_pylist()
    assert (row["reason"], row["caption_new"]) == ("caption_nonsense", None)
    assert (row["caption_answer"], row["caption_tokens"]) == ("A red circle moves", 10)
    captioner.reply = lambda _body, _number: None

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caption_endpoint, "replace_file", full)
    with pytest.raises(MachineError, match="an answer cannot be kept: No space left on device; free some space"):
        captioned(root, tmp_path, captioner, clips.slice(1, 1))


def test_a_stage_that_stops_has_its_answers_when_it_goes_on(
    web: tuple[Path, pa.Table, dict[str, Any]], captioner: Captioner, tmp_path: Path
) -> None:
    root, clips, _ = web
    some = clips.slice(0, 8)

    def fails(_body: Any, number: int) -> Reply | None:
        return (503, {"Retry-After": "900"}, b"") if number == 4 else None

    captioner.reply = fails
    with pytest.raises(MachineError, match=r"HTTP 503.*the same command continues: all answers are kept"):
        captioned(root, tmp_path, captioner, some)
    assert 4 <= len(captioner.succeeded) < len(some)
    rows = captioned(root, tmp_path, captioner, some)
    assert set(rows["status"].to_pylist()) == {"ok"}
    assert captioner.succeeded.total() == len(captioner.succeeded) == len(some)


def test_what_is_loaded_after_a_stop_is_not_asked(
    web: tuple[Path, pa.Table, dict[str, Any]], captioner: Captioner, tmp_path: Path
) -> None:
    root, clips, _ = web
    given, endpoint = config(captioner)
    rows = prompted(clips, given)
    captioner.reply = lambda _body, _number: (401, {}, b"who are you")
    assert CAPTION_OPERATOR.map is not None
    halves = CAPTION_OPERATOR.map(given, Env(str(root), work=str(tmp_path), aside=endpoint))
    assert isinstance(halves, Halves)
    with pytest.raises(MachineError, match="the key is not accepted"):
        halves(rows.slice(0, 1))
    # As the thread does that loads ahead.
    loaded = halves.load(rows.slice(1, 3))
    with pytest.raises(MachineError, match="the captioning stage stops"):
        halves.compute(loaded)
    assert len(captioner.requests) == 1


def test_a_corrected_caption_is_no_new_question_unless_the_prompt_tells_it(
    web: tuple[Path, pa.Table, dict[str, Any]], captioner: Captioner
) -> None:
    _, clips, _ = web
    given, _ = config(captioner, templates={"web": "{style} It is said: {caption}"})
    computed_from = {*prompted(clips, given).column_names} - {*CAPTION_OPERATOR.passthrough_columns, "status"}
    assert not {"caption", "source"} & computed_from
    first = clips.slice(0, 1).to_pylist()[0]
    for source, is_asked in (("web", True), ("other", False)):
        told = [first | {"source": source, "caption": caption} for caption in ("It was this.", "It is that.")]
        before, after = prompted(pa.Table.from_pylist(told, clips.schema), given)["caption_prompt"].to_pylist()
        assert (before != after) == is_asked
    aside = pa.Table.from_pylist([first | {"status": "quarantined", "duration_s": None}], clips.schema)
    assert prompted(aside, given)["caption_prompt"].to_pylist() == [None]
