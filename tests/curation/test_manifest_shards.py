"""Manifests in shards: tar archives and Parquet with the media in them, each broken row with its own reason."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.clip_ids import clip_id
from curation.decode import PROBE_OPERATOR, ProbeConfig
from curation.manifest_formats import IngestConfig
from curation.manifest_mistakes import ManifestError
from curation.manifests import INGEST_OPERATOR, external_digest, is_scanned, media_root, read_manifest
from curation.media import chunks, localized, stamp
from curation.operator import Env, Input
from curation.schema import RowError
from lumina.hub import dataset_path
from tests.curation.in_memory import computed
from tests.curation.numbered import Film, number_of, picture, write
from tests.curation.selected import write_rows

Row = dict[str, Any]
Member = tuple[str, bytes]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write(path, Film(stamps=Film().stamps[:6]))
    return path.read_bytes()


def _png(number: int = 9) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(picture(number)).save(file, "png")
    return file.getvalue()


def _tar(path: Path, members: Sequence[Member], format: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format, encoding="utf-8", errors="surrogateescape") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def _json(**cells: Any) -> bytes:
    return json.dumps(cells).encode()


def _ingested(manifest: Path, **settings: Any) -> list[Row]:
    config = IngestConfig(**settings)
    env = Env(str(media_root(manifest, config)))
    return computed(INGEST_OPERATOR, {"manifest": Input(manifest)}, config, env).to_pylist()


def _by_uri(rows: Sequence[Row]) -> Mapping[str, tuple[Any, ...]]:
    return {row["uri"]: (row["status"], row["reason"], row["caption"]) for row in rows}


def test_samples_of_an_archive_are_clips_read_in_place(tmp_path: Path, film: bytes) -> None:
    other = film + b"\0" * 8
    long = f"folder/{'x' * 150}"
    path = _tar(tmp_path / "train-0.tar", [
        ("README", b"no sample"),
        ("0001.mp4", film), ("0001.txt", b"ein Kreis\n"), ("0001.json", _json(source="web", beauty=4.5)),
        ("0002.json", _json(Caption="from JSON", span_start_s=0.0, span_end_s=0.1)), ("0002.mp4", other),
        (f"{long}.png", _png()), (f"{long}.txt", b""),
    ])  # fmt: skip
    rows = _ingested(path)
    assert _by_uri(rows) == {
        "tar://0001.mp4::train-0.tar": ("ok", None, "ein Kreis"),
        "tar://0002.mp4::train-0.tar": ("ok", None, "from JSON"),
        f"tar://{long}.png::train-0.tar": ("ok", None, ""),
    }
    first, second, image = sorted(rows, key=lambda row: row["uri"])
    digests = [hashlib.sha256(content).hexdigest() for content in (film, other, _png())]
    assert [first["sha256"], second["sha256"], image["sha256"]] == digests
    assert first["clip_id"] == clip_id(digests[0], None, None)
    assert second["clip_id"] == clip_id(digests[1], 0.0, 0.1)
    assert [row["media"] for row in (first, second, image)] == ["video", "video", "image"]
    assert (first["source"], json.loads(first["extra"])) == ("web", {"beauty": 4.5})
    ingested = Input(write_rows(tmp_path / "ingest", pa.Table.from_pylist(rows, INGEST_OPERATOR.schema)))
    probed = computed(PROBE_OPERATOR, {"clips": ingested}, ProbeConfig(), Env(str(tmp_path))).to_pylist()
    assert [row["status"] for row in probed] == ["ok"] * 3
    with localized(first["uri"], str(tmp_path)) as copy:
        seen, frame = cv2.VideoCapture(str(copy)).read()
        assert seen
        assert number_of(frame[:, :, ::-1]) == 0
        assert copy.suffix == ".mp4"


def test_a_broken_sample_is_a_row_with_its_reason_and_its_neighbours_go_on(tmp_path: Path, film: bytes) -> None:
    path = _tar(tmp_path / "a.tar", [
        ("good.mp4", film), ("good.txt", b"good"),
        ("mute.mp4", film + b"1"),
        ("garbled.mp4", film + b"2"), ("garbled.txt", b"\xff\xfe\x00"),
        ("braces.mp4", film + b"3"), ("braces.json", b"{"),
        ("alone.txt", b"no video"),
        ("two.mp4", film), ("two.webm", film), ("two.txt", b"two"),
        ("span.mp4", film), ("span.json", _json(caption="c", span_start_s=3, span_end_s=1)),
        ("noise.mp4", b"no video at all"), ("noise.txt", b"noise"),
        ("empty.mp4", b""), ("empty.txt", b"empty"),
        ("half.mp4", film + b"4"), ("half.json", b'{"caption": "c", "by": "\\ud800"}'),
        ("same.mp4", film + b"5"), ("same.json", _json(Caption="one", CAPTION="other")),
        ("again.mp4", film + b"6"), ("again.json", b'{"caption": "one", "caption": "other"}'),
        ("caf\udce9.mp4", film + b"7"), ("caf\udce9.txt", b"latin-1"),
    ])  # fmt: skip
    rows = {row["uri"].partition("::")[0].removeprefix("tar://"): row for row in _ingested(path)}
    aside = {name: row["reason"] for name, row in rows.items() if row["status"] != "ok"}
    assert aside == {
        "mute.mp4": "unreadable_caption",
        "garbled.mp4": "unreadable_caption",
        "braces.mp4": "unreadable_file",
        "alone.txt": "unreadable_file",
        "two.mp4": "unreadable_file",
        "span.mp4": "unreadable_file",
        "empty.mp4": "unreadable_file",
        "half.mp4": "unreadable_file",
        "same.mp4": "unreadable_file",
        "again.mp4": "unreadable_file",
        "caf\\udce9.mp4": "unreadable_file",
    }
    assert "has no caption: neither a .txt nor" in rows["mute.mp4"]["detail"]
    assert "braces.json is no JSON" in rows["braces.mp4"]["detail"]
    assert "half.json: half of a surrogate pair" in rows["half.mp4"]["detail"]
    assert "same.json: has the column(s) Caption, CAPTION twice" in rows["same.mp4"]["detail"]
    assert "again.json: the key 'caption' stands twice" in rows["again.mp4"]["detail"]
    assert r"sample caf\udce9: its names in the archive are not UTF-8" in rows[r"caf\udce9.mp4"]["detail"]
    assert "neither a video nor an image" in rows["alone.txt"]["detail"]
    assert "several files to choose from: two.mp4, two.webm" in rows["two.mp4"]["detail"]
    assert "expected 0 <= span_start_s < span_end_s" in rows["span.mp4"]["detail"]
    assert rows["good.mp4"]["caption"] == "good"
    noise = [row for name, row in rows.items() if name == "noise.mp4"]
    ingested = write_rows(tmp_path / "ingest", pa.Table.from_pylist(noise, INGEST_OPERATOR.schema))
    [probed] = computed(PROBE_OPERATOR, {"clips": Input(ingested)}, ProbeConfig(), Env(str(tmp_path))).to_pylist()
    assert (probed["status"], probed["reason"]) == ("quarantined", "decode_error")


@pytest.mark.parametrize("where", ["in a video", "in a header", "before the end", "a damaged header"])
def test_of_an_archive_that_is_cut_off_the_whole_samples_are_used(tmp_path: Path, film: bytes, where: str) -> None:
    members = [("a.txt", b"a"), ("a.mp4", film), ("b.txt", b"b"), ("b.mp4", film + b"1")]
    path = _tar(tmp_path / "cut.tar", members, tarfile.USTAR_FORMAT)
    with tarfile.open(path) as archive:
        [last] = [member for member in archive if member.name == "b.mp4"]
    content = path.read_bytes()
    end = {"in a video": last.offset_data + 100, "in a header": last.offset + 200, "before the end": last.offset}
    if where == "a damaged header":
        content = content[: last.offset] + b"damage!!" * 64 + content[last.offset + 512 :]
    path.write_bytes(content[: end.get(where)])
    rows = _ingested(path)
    assert [row["uri"] for row in rows if row["status"] == "ok"] == ["tar://a.mp4::cut.tar"]
    told = {row["uri"]: row for row in rows if row["status"] != "ok"}
    assert {row["reason"] for row in told.values()} == {"unreadable_file"}
    assert "cut off" in told["cut.tar"]["detail"]
    if where == "in a video":
        assert "in the middle of this member" in told["tar://b.mp4::cut.tar"]["detail"]
    else:
        assert "neither a video nor an image" in told["tar://b.txt::cut.tar"]["detail"]


def test_a_member_of_a_size_below_zero_or_a_name_that_is_no_text_ends_an_archive(tmp_path: Path) -> None:
    backwards = tarfile.TarInfo("b.mp4")
    backwards.size = -512  # where the next header would be, this one is again
    headers = [info.tobuf(tarfile.GNU_FORMAT) for info in (tarfile.TarInfo("a.txt"), backwards)]
    (tmp_path / "loop.tar").write_bytes(b"".join(headers) + bytes(1024))
    other = (tmp_path / "loop.tar").rename(tmp_path / "caf\udce9.tar")
    with pytest.raises(ManifestError, match=r"file name 'caf.udce9.tar' is not UTF-8; rename it"):
        read_manifest(other)
    other.rename(tmp_path / "loop.tar")
    assert "a size below zero" in {row["uri"]: row for row in _ingested(tmp_path / "loop.tar")}["loop.tar"]["detail"]


def test_links_holes_and_packed_archives_are_no_members(tmp_path: Path, film: bytes) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(film)
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as archive:
        for kind, name in ((tarfile.SYMTYPE, "a.mp4"), (tarfile.LNKTYPE, "b.mp4"), (tarfile.CHRTYPE, "c.mp4")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(secret)
            archive.addfile(info)
    [row] = _ingested(path)
    assert (row["reason"], "holds no sample" in row["detail"]) == ("unreadable_file", True)
    with pytest.raises(RowError, match="no such file in the archive"):
        list(chunks("tar://a.mp4::links.tar", str(tmp_path)))
    packed = tmp_path / "packed.tar"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(secret, "a.mp4")
    [row] = _ingested(packed)
    assert "packed with gzip" in row["detail"]
    with pytest.raises(ManifestError, match=r"unpack it to a \.tar"):
        read_manifest(packed.rename(tmp_path / "packed.tar.gz"))


def test_shards_of_a_folder_and_of_a_pattern_are_one_manifest(tmp_path: Path, film: bytes) -> None:
    folder = tmp_path / "shards"
    for number in range(12):
        members = [(f"{number}.mp4", film + bytes([number])), (f"{number}.txt", f"number {number}".encode())]
        _tar(folder / f"part-{number:03d}.tar", members)
    (folder / "README.md").write_text("shards")
    assert not is_scanned(folder, IngestConfig())
    wanted = [f"number {number}" for number in range(12)]
    for manifest in (folder, folder / "part-*.tar", folder / "part-{000..011}.tar"):
        assert [row.caption for row in read_manifest(manifest).rows] == wanted
    assert [row.caption for row in read_manifest(folder / "part-{001..002}.tar").rows] == wanted[1:3]
    before = external_digest(read_manifest(folder))
    assert external_digest(read_manifest(folder)) == before
    _tar(folder / "part-003.tar", [("3.mp4", film + b"other"), ("3.txt", b"number 3")])
    assert external_digest(read_manifest(folder)) != before
    with pytest.raises(ManifestError, match=r"there is no .*part-012\.tar"):
        read_manifest(folder / "part-{000..012}.tar")
    with pytest.raises(ManifestError, match="there is no file of that pattern"):
        read_manifest(folder / "none-*.tar")
    with pytest.raises(ManifestError, match=r"holds the media itself: leave ingest\.media_dir out"):
        read_manifest(folder, IngestConfig(media_dir=Path("..")))
    # A folder of clips stays one, whatever lies beside them.
    (folder / "clip.mp4").write_bytes(film)
    assert is_scanned(folder, IngestConfig())


def test_a_dataset_of_the_hub_is_read_from_its_cache(
    tmp_path: Path, film: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Laid out as `hf download` does: content in `blobs`, links in the snapshot of a commit."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "datasets--owner--name", "0123456789abcdef0123456789abcdef01234567"
    snapshot = repository / "snapshots" / commit
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    made = _tar(tmp_path / "made.tar", [("a.mp4", film), ("a.txt", b"a")])
    table = tmp_path / "made.parquet"
    pq.write_table(pa.table({"video": [film], "text": ["b"]}), table)
    for number, (name, content) in enumerate({"shards/0.tar": made, "data/train-0.parquet": table}.items()):
        blob, link = repository / "blobs" / str(number), snapshot / name
        blob.parent.mkdir(exist_ok=True)
        link.parent.mkdir(parents=True)
        blob.write_bytes(content.read_bytes())
        link.symlink_to(Path("../../../blobs") / blob.name)
    for path, caption in (("shards", "a"), ("shards/0.tar", "a"), ("data/train-*.parquet", "b"), ("data", "b")):
        for revision in ("", "@main", f"@{commit}"):
            [row] = _ingested(dataset_path(f"hf://datasets/owner/name{revision}/{path}"))
            assert (row["status"], row["caption"]) == ("ok", caption)
            assert row["sha256"] == hashlib.sha256(film).hexdigest()


@pytest.mark.parametrize("kind", ["struct", "binary", "large_binary"])
def test_bytes_in_a_column_of_parquet_are_clips(tmp_path: Path, film: bytes, kind: str) -> None:
    contents = [film, film + b"1", None, b"no video", _png()]
    rows: list[Row] = [
        {"Caption": f"clip {number}", "source": "web", "video": content, "beauty": float(number)}
        for number, content in enumerate(contents)
    ]
    type_ = {"binary": pa.binary(), "large_binary": pa.large_binary()}.get(
        kind, pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    if kind == "struct":
        names = ["a.mp4", "../../b.mp4", None, "d.mp4", None]
        for row, name in zip(rows, names, strict=True):
            row["video"] = None if row["video"] is None else {"bytes": row["video"], "path": name}
    schema = pa.schema({"Caption": pa.string(), "source": pa.string(), "video": type_, "beauty": pa.float64()})
    path = tmp_path / "clips.pq.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=2)
    found = {row["caption"]: row for row in _ingested(path)}
    for number, content in enumerate(contents):
        row = found[f"clip {number}"]
        if content is None:
            assert (row["status"], row["reason"]) == ("quarantined", "unreadable_file")
            assert "the cell holds no bytes" in row["detail"]
        else:
            assert row["status"] == "ok"
            assert row["sha256"] == hashlib.sha256(content).hexdigest()
            assert b"".join(chunks(row["uri"], str(tmp_path))) == content
            assert json.loads(row["extra"]) == {"beauty": float(number)}
    assert [found[f"clip {number}"]["media"] for number in (0, 4)] == ["video", "image"]
    assert stamp(found["clip 0"]["uri"], str(tmp_path))
    with pytest.raises(RowError, match="no such file in the archive"):
        list(chunks("parquet://video/000000005/x::clips.pq.parquet", str(tmp_path)))


def test_a_name_in_a_cell_that_is_no_text_is_no_name(tmp_path: Path, film: bytes) -> None:
    names = pa.array([b"a.mp4", b"caf\xe9.mp4", None], pa.binary()).view(pa.string())
    cells = pa.StructArray.from_arrays([pa.array([film, film + b"1", film + b"2"]), names], ["bytes", "path"])
    pq.write_table(pa.table({"video": cells, "caption": ["a", "b", "c"]}), tmp_path / "t.parquet")
    rows = _by_uri(_ingested(tmp_path / "t.parquet"))
    assert rows == {
        "parquet://video/000000000/a.mp4::t.parquet": ("ok", None, "a"),
        "parquet://video/000000001/::t.parquet": ("ok", None, "b"),
        "parquet://video/000000002/::t.parquet": ("ok", None, "c"),
    }


def test_a_column_of_bytes_that_stand_for_any_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    # One value of a megabyte, in ten thousand rows: nobody copies it more often than it is asked for.
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000, np.int32)), pa.array([b"\0" * (1 << 20)]))
    pq.write_table(pa.table({"video": column, "caption": ["a"] * 10_000}), path, store_schema=False)
    assert path.stat().st_size < 1 << 20
    row = next(iter(read_manifest(path).rows))
    assert len(b"".join(chunks(row.uri, str(tmp_path)))) == 1 << 20
    plain = pa.table({"video": pa.array([b"a" * 999] * 9), "caption": ["a"] * 9})
    pq.write_table(plain, path, use_dictionary=False, column_encoding={"video": "DELTA_BYTE_ARRAY", "caption": "PLAIN"})
    with pytest.raises(RowError, match="DELTA_BYTE_ARRAY"):
        list(chunks("parquet://video/000000000/::bomb.parquet", str(tmp_path)))
