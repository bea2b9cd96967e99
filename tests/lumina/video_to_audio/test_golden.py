"""The published parts' own numbers: `shared/golden_v2a`, by its checker."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest

from tests.conftest import SHARED
from tests.lumina.video_to_audio import golden_functions

FIXTURES = SHARED / "golden_v2a"


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    if not FIXTURES.is_dir():
        pytest.skip(f"no golden fixtures at {FIXTURES}")
    # It imports the fixtures' own `fill`, of which there are several.
    path, known = list(sys.path), sys.modules.pop("fill", None)
    try:
        sys.path.insert(0, str(FIXTURES))
        return importlib.import_module("check_v2a")
    finally:
        sys.path[:] = path
        sys.modules.pop("fill", None)
        if known is not None:
            sys.modules["fill"] = known


@pytest.mark.parametrize(
    ("part", "least"), [("sync", 80), ("mel", 19), ("vae", 13), ("hifigan", 8), ("av", 270), ("clip", 16)]
)
def test_parts_give_the_published_numbers(checker: ModuleType, part: str, least: int) -> None:
    checker.VERBOSE, checker.FAILS[:] = False, []
    before = checker.STAT["pass"]
    checker.PARTS[part](golden_functions.functions(), str(FIXTURES))
    assert checker.FAILS == []
    assert checker.STAT["pass"] - before >= least


def test_the_published_tower_has_these_names(checker: ModuleType) -> None:
    _, definitions = checker.read(str(FIXTURES), "V_synchformer")
    full = definitions["cases"]["full"]
    model = golden_functions._sync_model({**full["cfg"]})
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == {
        name: shape for name, shape, _ in full["manifest"]
    }
    assert sum(value.numel() for value in model.state_dict().values()) == full["n_params"]


def test_lengths_are_those_of_the_schedule(checker: ModuleType) -> None:
    from lumina.video_to_audio.lengths import lengths, sync_token_times

    _, definitions = checker.read(str(FIXTURES), "V_schedule")
    for duration, samples, _, mel, (_, steps, _), _, visual, sync, _, tokens, _ in definitions["lumina_v2a"]["rows"]:
        found = lengths(duration)
        assert (found.samples, found.mel_frames, found.latents) == (samples, mel, steps), duration
        assert (found.visual_frames, found.sync_frames, found.sync_tokens) == (visual, sync, tokens), duration
    times = definitions["sync_token_time_s"]["times_8s"]
    assert sync_token_times(192) == pytest.approx(times)
