"""The page of VBench in a real browser: it asks for nothing, plays, fits a phone, and is accessible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumina.vbench.clip_score import ClipScore
from lumina.vbench.dimensions import DIMENSIONS
from lumina.vbench.judges import Verdict
from lumina.vbench.page import Subject, make_page
from lumina.vbench.score_store import Scored
from lumina.vbench.summary import DimensionScores, summarise
from lumina.video import write_h264
from tests.accessibility import serious_violations

_LOOKS = [(1280, "light"), (320, "dark")]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of six clips with fourteen figures and two gaps."""
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    prompts = [f"a red ball rolls over the grass of a wide meadow, seen from above, {number}" for number in range(3)]
    names = [f"{prompt}-{index}.mp4" for prompt in prompts for index in range(2)]
    for name in names:
        write_h264(folder / name, rng.integers(0, 255, (8, 32, 32, 3), dtype=np.uint8), 8)
    scores = {}
    for dimension in DIMENSIONS:
        found = [Scored(name, "", dimension, "", Verdict(ClipScore(float(rng.random()), 1), None)) for name in names]
        why = "needs the official vbench" if dimension == "color" else None
        broken = "the official scene ended with exit code 1; see /a/long/way/.vbench/scene/official.log"
        scores[dimension] = DimensionScores(
            "native", found, len(found), {"raft": f"sha256:{'ab' * 32}"}, why, broken if dimension == "scene" else None
        )
    summary = summarise(scores, dict.fromkeys(prompts, ""), samples=2, confidence=0.95, seed=0, resamples=100)
    note = "the clips are not alike, and figures depend on all of it: 5 of 32x32 at 8 fps, 1 of 64x64 at 16 fps"
    subject = Subject("a-checkpoint-with-a-name-of-some-length", 6, 2, "VBench_full_info.json", folder, note)
    page = folder / "vbench.html"
    page.write_text(make_page(subject, summary, scores, 0.95), encoding="utf-8")
    return page


@pytest.mark.parametrize(("width", "scheme"), _LOOKS)
def test_it_is_alone_quiet_fits_and_plays(browser: Any, file: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda one: None if one.url.startswith(("data:", "file:")) else said.append(one.url))
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert "The clips are not alike" in page.locator("header").inner_text()
    assert "scene: the official scene ended with exit code 1" in page.locator("main ul").first.inner_text()
    assert page.locator("video").count() > 10
    page.wait_for_function("() => [...document.querySelectorAll('video')].every((video) => video.readyState === 4)")
    assert said == []
    context.close()


@pytest.mark.parametrize(("width", "scheme"), _LOOKS)
def test_axe_finds_nothing_serious(browser: Any, file: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(file.as_uri())
    assert serious_violations(page) == []
    context.close()
