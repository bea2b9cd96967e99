from __future__ import annotations

import codecs
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.manifest_formats import IngestConfig
from curation.manifests import INGEST_OPERATOR, external_digest, read_manifest
from curation.operator import Env, Input
from curation.texts import TextError, caption_of, decode
from tests.conftest import SHARED
from tests.curation.in_memory import computed

MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
CAPTIONS = {
    "cp1252": ("Café – „Straße“", "line 1, byte 3 (0xe9) is not UTF-8: save it as UTF-8"),
    "gbk": ("plain\n一只狗在跑步。", "line 2, byte 10 (0xb9) is not UTF-8: save it as UTF-8"),
    "shift_jis": ("犬が走る。", "line 1, byte 0 (0x8c) is not UTF-8: save it as UTF-8"),
    "koi8_r": ("Собака бежит.", "line 1, byte 0 (0xf3) is not UTF-8: save it as UTF-8"),
    "utf-16-le": ("A dog runs.", "character 2 of the caption is NUL, as in UTF-16 without a byte order mark"),
    "iso2022_jp": ("犬が走る。", "character 1 of the caption is the control character U+001B: take it out"),
}


@given(text=st.text(st.characters(exclude_categories=["Cs"])), encoding=st.sampled_from(sorted(MARKS)))
def test_text_with_a_mark_is_read_back(text: str, encoding: str) -> None:
    if encoding == "utf-16-le" and text.startswith("\0"):
        text = f".{text}"  # its mark and a NUL are the mark of UTF-32
    assert decode(MARKS[encoding] + text.encode(encoding)) == text


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_text_without_a_mark_is_utf_8(text: str) -> None:
    assert decode(text.encode()) == text.removeprefix("\ufeff")


@given(data=st.binary(max_size=40))
def test_other_bytes_are_text_or_refused(data: bytes) -> None:
    with suppress(TextError):
        decode(data).encode()


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        (b"a\r\nb\rc\n\xe9", 4, "byte 7 (0xe9) is not UTF-8: save it as UTF-8"),
        (codecs.BOM_UTF8 + b"a\xff", 1, "byte 4 (0xff) is not UTF-8"),
        (codecs.BOM_UTF16_BE + "a\n".encode("utf-16-be") + b"\xd8\x00", 2, "byte 6 (0xd8) is not UTF-16-BE"),
        (codecs.BOM_UTF32_LE + b"a\0\0\0b", 1, "byte 8 (0x62) is not UTF-32-LE"),
    ],
)
def test_the_place_is_named(data: bytes, line: int, message: str) -> None:
    with pytest.raises(TextError) as caught:
        decode(data)
    assert caught.value.line == line
    assert message in str(caught.value)


def test_a_caption_is_kept_in_one_form() -> None:
    assert caption_of("\ufeff one\r\ntwo\rthree\tfour \u2003\n") == "one\ntwo\nthree\tfour"
    assert caption_of(" \r\n\t\u3000") == ""
    for sign in "\0\x07\x1b\x7f\x93":
        with pytest.raises(TextError, match="character 2 of the caption is"):
            caption_of(f"a{sign}b")


@pytest.mark.parametrize("mark", sorted(MARKS))
def test_a_sidecar_is_read_by_its_mark(tmp_path: Path, mark: str) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "a.txt").write_bytes(MARKS[mark] + "Ein Hund läuft. 🐕\r\n".encode(mark))
    [row] = read_manifest(tmp_path).rows
    assert (row.caption, row.fault) == ("Ein Hund läuft. 🐕", "")


def test_sidecars_that_are_no_text_set_their_rows_aside_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for encoding, (caption, _) in CAPTIONS.items():
        (tmp_path / "deep" / f"{encoding}.mp4").write_bytes(encoding.encode())
        (tmp_path / "deep" / f"{encoding}.txt").write_bytes(caption.encode(encoding))
    for name, sidecar in (("empty", b" \r\n"), ("good", b"A dog runs.")):
        (tmp_path / f"{name}.mp4").write_bytes(name.encode())
        (tmp_path / f"{name}.txt").write_bytes(sidecar)
    env, config = Env(str(tmp_path)), IngestConfig()
    table = computed(INGEST_OPERATOR, {"manifest": Input(tmp_path)}, config, env)
    rows = {row["uri"]: row for row in table.to_pylist()}
    assert [(rows[name]["caption"], rows[name]["status"]) for name in ("empty.mp4", "good.mp4")] == [
        ("", "ok"), ("A dog runs.", "ok")
    ]  # fmt: skip
    for encoding, (_, message) in CAPTIONS.items():
        row = rows[f"deep/{encoding}.mp4"]
        assert (row["status"], row["reason"], row["reason_stage"]) == ("quarantined", "unreadable_caption", "ingest")
        assert row["detail"].startswith(f"deep/{encoding}.txt: {message}"), row["detail"]
        assert row["caption"] == ""
    assert len({row["clip_id"] for row in rows.values()}) == len(rows)
    before = external_digest(read_manifest(tmp_path))
    (tmp_path / "deep" / "gbk.txt").write_text("一只狗在跑步。", encoding="utf-8")
    assert external_digest(read_manifest(tmp_path)) != before


def test_a_sidecar_that_cannot_be_read_sets_its_row_aside(tmp_path: Path) -> None:
    (tmp_path / "a_b.mp4").touch()
    (tmp_path / "a_b.txt").symlink_to("../blobs/2222")
    [row] = read_manifest(tmp_path).rows
    assert (row.caption, row.fault) == ("", "a_b.txt: No such file or directory")


def test_the_captions_that_showed_the_fault() -> None:
    if not (SHARED / "inputs").is_dir():
        pytest.skip(f"no inputs at {SHARED / 'inputs'}")
    rows = read_manifest(SHARED / "inputs" / "captions").rows
    assert [(row.uri, row.caption) for row in rows] == [
        (name, "A dog runs.") for name in ("bom.mp4", "plain.mp4", "utf16.mp4")
    ]
