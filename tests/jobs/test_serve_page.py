"""The page of a video server in a real browser: it makes a clip by keyboard, fits a phone, asks nobody else."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from jobs.serve_request import Limits
from tests.accessibility import serious_violations
from tests.jobs.serving import Gate, application, checkpoint, real

_LOOKS = [(1280, "light"), (320, "dark")]


def _serve(app: Any) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    served = checkpoint(tmp_path_factory.mktemp("page"))
    yield from _serve(application(served, real(served)))


@pytest.mark.parametrize(("width", "scheme"), _LOOKS)
def test_a_clip_is_made_and_its_settings_are_there(browser: Any, site: str, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda one: None if one.url.startswith(("data:", "blob:", site)) else said.append(one.url))
    page.goto(site)
    cost = page.locator(".cost").first
    page.wait_for_function("() => [...document.querySelectorAll('.cost')].every((one) => one.textContent)")
    assert "52 % of full cost, 5.69 MFLOP in 4 steps; evaluations: 6 at 2×4×4, 2 at 1×2×2" in cost.inner_text()
    # By keyboard alone, as a form is: Tab from field to field.
    page.keyboard.press("Tab")
    page.keyboard.type("A red circle moves to the right.")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "negative_prompt"
    page.get_by_label("Seed", exact=True).fill("11")
    page.get_by_label("Steps").fill("2")
    page.get_by_label("Steps").press("Enter")
    page.wait_for_function("() => document.querySelector('video').readyState === 4")
    assert page.locator("#status").inner_text() == "The clip is made."
    assert page.locator("#facts").inner_text().startswith("Seed 11, 64x32, 8 frames, 1 s, source clean: A red circle")
    assert "--seed 11 --steps 2 --size 64x32 --frames 8" in page.locator("#command").inner_text()
    assert json.loads(page.locator("#json").inner_text())["seed"] == 11
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    address = page.evaluate("location.href")
    # Who comes back, as after a phone's sleep, finds it again.
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_function("() => document.querySelector('video').readyState === 4")
    assert said == []
    context.close()


@pytest.mark.parametrize(("width", "scheme"), _LOOKS)
def test_axe_finds_nothing_serious(browser: Any, site: str, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(site)
    page.get_by_label("Prompt", exact=True).fill("A red circle.")
    page.get_by_role("button", name="Make the clip").click()
    page.wait_for_function("() => document.querySelector('video').readyState === 4")
    page.get_by_label("Width").fill("72")
    page.get_by_role("button", name="Make the clip").click()
    page.wait_for_selector("[aria-invalid]")
    page.wait_for_function("() => document.querySelector('.cost').textContent.includes('near it')")
    assert page.evaluate("document.activeElement.id") == "width"
    assert "near it: 64x32, 96x32" in page.get_by_role("alert").inner_text()
    assert serious_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_what_waits_is_told_cancelled_and_refused(browser: Any, tmp_path: Path) -> None:
    gate = Gate()
    for address in _serve(application(checkpoint(tmp_path), gate.make, Limits(max_queue=0))):
        page = browser.new_page()
        page.goto(address)
        page.get_by_label("Prompt", exact=True).fill("one")
        page.get_by_role("button", name="Make the clip").click()
        page.wait_for_function("() => document.querySelector('#status').textContent === 'Step 1 of 4.'")
        assert page.locator("#progress").evaluate("(bar) => bar.value") == 25
        other = browser.new_page()
        other.goto(address)
        other.get_by_label("Prompt", exact=True).fill("two")
        other.get_by_role("button", name="Make the clip").click()
        other.wait_for_function("() => document.querySelector('#error').textContent.includes('the queue is full')")
        page.get_by_role("button", name="Cancel").click()
        page.wait_for_function("() => document.querySelector('#status').textContent === 'Cancelled.'")
        other.wait_for_timeout(50)
        gate.open, gate.content = True, b"no video"
        other.get_by_role("button", name="Make the clip").click()
        other.wait_for_selector("#clip:not([hidden])")
        page.close()
        other.close()
    assert (gate.begun, gate.stopped) == (["one", "two"], ["one"])
