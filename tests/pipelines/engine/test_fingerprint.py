from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.fingerprint import (
    DigestCache,
    canonical_json,
    dependency_version,
    file_identity,
    fingerprint,
    resolve_weights,
)
from pipelines.errors import PipelineError
from tests.pipelines.toy import ToyConfig

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), PLAIN, max_size=4))
def test_canonical_json_ignores_key_order(value: dict[str, object]) -> None:
    assert canonical_json(value) == canonical_json(dict(reversed(value.items())))


@pytest.mark.parametrize("value", [object(), {1: 2}, {"a": {3}}, float("nan"), Path("x"), [b"x"], len])
def test_canonical_json_refuses_what_it_does_not_know(value: object) -> None:
    with pytest.raises(PipelineError):
        canonical_json(value)


def test_fingerprint_is_pinned() -> None:
    recipe = {"b": [1, 1.5, None, True], "a": {"é": "x"}, "c": ToyConfig()}
    assert canonical_json(recipe) == '{"a":{"é":"x"},"b":[1,1.5,null,true],"c":{"sleep":0.0,"text":"a"}}'
    assert fingerprint(recipe) == "7a144007c9d93f4b9b63fc4f561596b64f38e5a3a76bd2c73217e6fc7e7b5598"


def test_locations_do_not_count_but_contents_do(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "w.bin").write_bytes(b"weights")
        (tmp_path / name / ".cache").write_bytes(name.encode())
    one, two = (resolve_weights(str(tmp_path / name), DigestCache(), "w") for name in ("one", "two"))
    assert one.identity == two.identity
    assert one.location != two.location
    (tmp_path / "two" / "deep" / "w.bin").write_bytes(b"weightz")
    assert resolve_weights(str(tmp_path / "two"), DigestCache(), "w").identity != one.identity


def test_a_file_in_the_cache_of_a_hub_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "2222").write_bytes(b"weights")
    link = tmp_path / "flow.pth"
    link.symlink_to("blobs/2222")
    found = resolve_weights(str(link), DigestCache(), "w")
    assert found.location == str(link)
    assert found.identity == resolve_weights(str(tmp_path / "blobs" / "2222"), DigestCache(), "w").identity


def test_hub_weights_need_a_local_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PipelineError, match=r"weights vae: hf:org/vae/x is not in .*`hf download org/vae --include"):
        resolve_weights("hf:org/vae/x", DigestCache(), "stage encode: weights vae")
    with pytest.raises(PipelineError, match=r"org/vae is no folder; a model of the hub is written hf:org/vae$"):
        resolve_weights("org/vae", DigestCache(), "w")
    repository = tmp_path / "models--org--vae"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123")
    (repository / "snapshots" / "abc123").mkdir(parents=True)
    found = resolve_weights("hf:org/vae", DigestCache(), "w")
    assert resolve_weights("org/vae", DigestCache(), "w") == found
    assert found.identity == "hub:org/vae@abc123"
    assert found.location == str(repository / "snapshots" / "abc123")
    with pytest.raises(PipelineError, match=r"\./nowhere is no folder; give a path that exists"):
        resolve_weights("./nowhere", DigestCache(), "w")


def test_digest_cache_notices_a_change_and_survives_damage(tmp_path: Path) -> None:
    path, memory = tmp_path / "file", tmp_path / "digests.json"
    path.write_text("one")
    os.utime(path, (1e9, 1e9))
    cache = DigestCache(memory)
    first = file_identity(path, cache, "f")
    cache.save()
    assert DigestCache(memory)._entries
    path.write_text("two")
    assert file_identity(path, DigestCache(memory), "f") != first
    memory.write_text("{")
    assert file_identity(path, DigestCache(memory), "f") != first


def test_versions_of_dependencies_count_up_to_the_minor_one() -> None:
    assert dependency_version("pydantic").count(".") == 1
    assert dependency_version("no-such-distribution") == "absent"
