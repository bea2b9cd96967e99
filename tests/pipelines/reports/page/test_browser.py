"""The pages in a real browser: they ask for nothing, say nothing on the console, fit a phone, play, are accessible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.reports.page.make import make_page
from tests.accessibility import serious_violations
from tests.curation.test_page import MIXED
from tests.curation.test_page import page as curation_page
from tests.pipelines.reports.page.sounding_run import pipeline as sounding
from tests.pipelines.reports.page.toy_run import go, pipeline

_LOOKS = [(1280, "light"), (390, "dark")]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run whose clips last two seconds; beside it `curation.html`, and `sounds.html` of a sound run."""
    folder = tmp_path_factory.mktemp("browser")
    store, record = go(pipeline(("good", 0.9), ("poor", 0.1), frames=16), folder / "store")
    page = folder / "report.html"
    page.write_text(make_page(store, record), encoding="utf-8")
    page.with_name("curation.html").write_text(curation_page(MIXED).html, encoding="utf-8")
    page.with_name("sounds.html").write_text(make_page(*go(sounding(), folder / "sounds")), encoding="utf-8")
    return page


@pytest.mark.parametrize(("width", "scheme"), _LOOKS)
def test_it_is_alone_quiet_and_fits(browser: Any, file: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda one: None if one.url.startswith(("data:", "file:")) else said.append(one.url))
    page.goto(file.as_uri())
    # Functions, not expressions: the page lets nobody evaluate text.
    page.wait_for_function("() => [...document.querySelectorAll('video')].every((video) => video.readyState === 4)")
    page.get_by_role("button", name="Play all").click()
    page.wait_for_function("() => [...document.querySelectorAll('video')].every((video) => video.currentTime > 0)")
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.goto(file.with_name("curation.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []
    context.close()


def test_clips_of_a_row_play_in_step_and_begin_again_together(browser: Any, file: Path) -> None:
    page = browser.new_page()
    page.goto(file.as_uri())
    row = page.locator("[data-row]").first
    times = "(row) => [...row.querySelectorAll('video')].map((video) => video.currentTime)"
    button = row.get_by_role("button")
    button.click()
    handle = row.element_handle()
    page.wait_for_function(f"(row) => ({times})(row).every((time) => time > 0.5)", arg=handle)
    first = row.evaluate(times)
    assert len(first) == 2
    assert max(first) - min(first) <= 0.15
    assert button.inner_text() == "Pause"
    page.wait_for_function(f"(row) => ({times})(row).every((time) => time < 0.4)", arg=handle)
    button.click()
    assert row.evaluate("(row) => [...row.querySelectorAll('video')].every((video) => video.paused)")
    others = page.locator("[data-row] video").evaluate_all("(all) => all.slice(2).map((video) => video.currentTime)")
    assert set(others) == {0}
    page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_one_sound_is_heard_at_a_time_and_a_line_follows_it(browser: Any, file: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda one: None if one.url.startswith(("data:", "file:")) else said.append(one.url))
    page.goto(file.with_name("sounds.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    first, second = (page.locator("[data-sound]").nth(number) for number in (0, 1))
    first.get_by_role("button").click()
    heard = "(card) => card.querySelector('video').currentTime > 0.3"
    page.wait_for_function(heard, arg=first.element_handle())
    assert first.evaluate("(card) => card.querySelector('video').webkitAudioDecodedByteCount") > 0
    assert first.evaluate("(card) => !card.querySelector('video').muted")
    assert float(first.locator(".now").get_attribute("x1").rstrip("%")) > 0
    assert first.get_by_role("button").inner_text() == "Pause"
    mel = second.locator(".mel")
    mel.click(position={"x": mel.bounding_box()["width"] / 2, "y": 60})
    page.wait_for_function("(card) => card.querySelector('video').currentTime >= 1", arg=second.element_handle())
    assert first.evaluate("(card) => card.querySelector('video').paused")
    assert first.get_by_role("button").inner_text() == "Play"
    assert said == []
    context.close()


@pytest.mark.parametrize(("width", "scheme"), _LOOKS)
def test_axe_finds_nothing_serious(browser: Any, file: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    for name in ("report.html", "curation.html", "sounds.html"):
        page.goto(file.with_name(name).as_uri())
        assert serious_violations(page) == []
    context.close()
