from __future__ import annotations

import email.utils
import logging
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation import caption_endpoint, caption_gate
from curation.caption_config import CaptionConfig, EndpointConfig
from curation.caption_endpoint import Answer, Endpoint, NoCaption, Question
from curation.operator import FAILED
from curation.schema import Reason, RowError
from lumina.faults import MachineError
from tests.curation.captioning import Captioner, Reply, chat, seen, served

KEY = "sk-do-not-tell-9182"
FRAMES = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), np.uint8)


@pytest.fixture
def captioner() -> Iterator[Captioner]:
    with served(Captioner(lambda _body, _number: chat("A red circle moves left."))) as one:
        yield one


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between tries take no time; they are noted."""
    waited: list[float] = []
    wait = caption_gate.Gate.wait

    def noted(self: caption_gate.Gate, seconds: float) -> None:
        waited.append(seconds)
        wait(self, min(seconds, 0.01))

    monkeypatch.setattr(caption_gate.Gate, "wait", noted)
    monkeypatch.setenv("CAPTION_KEY", KEY)
    return waited


def endpoint(captioner: Captioner, work: Path, request: dict[str, Any] | None = None, **settings: Any) -> Endpoint:
    asked = EndpointConfig(model="shapes", url=captioner.url, key_env="CAPTION_KEY", **settings)
    return Endpoint(CaptionConfig(endpoint=asked, max_tokens=99, request=request or {}), asked, work)


def question(number: int = 0) -> Question:
    return Question(f"{number:040x}", "What is it?", [0.0, 0.5], FRAMES)


def fine(_text: str) -> None:
    return


def replies(*answers: Reply) -> Any:
    """The answers one after the other, the last for ever."""
    return lambda _body, number: answers[min(number, len(answers) - 1)]


def test_frames_times_prompt_and_key_arrive(captioner: Captioner, tmp_path: Path) -> None:
    request = {"top_p": 0.9, "max_tokens": None, "max_completion_tokens": 7}
    answer = endpoint(captioner, tmp_path, request).ask(question(), fine)
    assert answer == Answer("A red circle moves left.", "shapes-vl-7b", "fp_1", 10)
    [(headers, body)] = captioner.requests
    assert headers["Authorization"] == f"Bearer {KEY}"
    frames, times, prompt = seen(body)
    assert (frames.shape, times, prompt) == (FRAMES.shape, [0.0, 0.5], "What is it?")
    told = {name: value for name, value in body.items() if name != "messages"}
    assert told == {"model": "shapes", "temperature": 0, "seed": 0, "top_p": 0.9, "max_completion_tokens": 7}


def test_what_was_answered_is_asked_by_nobody_again(captioner: Captioner, tmp_path: Path) -> None:
    for _ in range(2):
        assert endpoint(captioner, tmp_path).ask(question(), fine).text == "A red circle moves left."
    assert len(captioner.requests) == 1
    endpoint(captioner, tmp_path).ask(question(1), fine)
    assert len(captioner.requests) == 2

    def none(_text: str) -> None:
        raise RowError(Reason.CAPTION_NONSENSE, "no caption")

    # Nor what was no caption, until the stage has those asked again.
    for _ in range(2):
        with pytest.raises(NoCaption, match="no caption") as caught:
            endpoint(captioner, tmp_path).ask(question(2), none)
        assert caught.value.answer == Answer("A red circle moves left.", "shapes-vl-7b", "fp_1", 10)
    assert len(captioner.requests) == 3
    shutil.rmtree(tmp_path / FAILED)
    assert endpoint(captioner, tmp_path).ask(question(2), fine).text == "A red circle moves left."
    assert len(captioner.requests) == 4


def test_once_stopped_nothing_is_asked_though_slots_are_free(captioner: Captioner, tmp_path: Path) -> None:
    asking = endpoint(captioner, tmp_path)
    asking.stop()
    with pytest.raises(MachineError, match="the captioning stage stops"):
        asking.ask(question(), fine)
    assert not captioner.requests


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_fault_of_the_server_is_tried_again_and_waits_longer(
    captioner: Captioner, tmp_path: Path, quick: list[float], status: int
) -> None:
    captioner.reply = replies(*[(status, {}, b"busy")] * 3, chat("A dog."))
    assert endpoint(captioner, tmp_path).ask(question(), fine).text == "A dog."
    assert len(captioner.requests) == 4
    for wait, least in zip(quick, (0.5, 1.0, 2.0), strict=True):
        assert least <= wait <= 2 * least


def test_the_jitter_is_keyed(captioner: Captioner, tmp_path: Path, quick: list[float]) -> None:
    waits = []
    for number in (0, 0, 1):
        captioner.requests.clear()
        captioner.reply = replies(*[(503, {}, b"")] * 2, chat("A dog."))
        endpoint(captioner, tmp_path / str(len(waits))).ask(question(number), fine)
        waits.append(quick[:])
        quick.clear()
    assert waits[0] == waits[1] != waits[2]


def test_the_server_says_how_long_to_wait(captioner: Captioner, tmp_path: Path, quick: list[float]) -> None:
    later = email.utils.formatdate(time.time() + 100, usegmt=True)
    captioner.reply = replies((429, {"Retry-After": "40"}, b""), (503, {"Retry-After": later}, b""), chat("A dog."))
    asking = endpoint(captioner, tmp_path)
    # What others wait is the ledger's; here nobody waits.
    paused: list[float] = []
    asking._gate.pause = paused.append  # type: ignore[method-assign]
    asking.ask(question(), fine)
    assert quick[0] == paused[0] == 40
    assert 95 < quick[1] <= 100
    captioner.requests.clear()
    captioner.reply = replies((429, {"Retry-After": "3600"}, b"slow down"))
    with pytest.raises(MachineError, match=r"HTTP 429: slow down \(Retry-After 3600 s\) \(tried 1 times.*same command"):
        asking.ask(question(1), fine)


@pytest.mark.parametrize("status", [429, 503])
def test_a_fault_that_stays_stops_the_stage_and_says_so(
    captioner: Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    captioner.reply = replies((status, {}, b"not today"))
    clock = iter(np.arange(0, 1e6, 20.0))
    monkeypatch.setattr(caption_endpoint.time, "monotonic", lambda: next(clock))
    asking = endpoint(captioner, tmp_path, timeout_s=1000)
    with pytest.raises(MachineError, match=rf"HTTP {status}: not today \(tried \d+ times.*the same command continues"):
        asking.ask(question(), fine)
    monkeypatch.undo()
    monkeypatch.setenv("CAPTION_KEY", KEY)
    captioner.reply = replies(chat("A dog."))
    assert endpoint(captioner, tmp_path).ask(question(), fine).text == "A dog."


def test_patience_begins_with_the_first_failure(
    captioner: Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(caption_endpoint.time, "monotonic", lambda: now[0])
    request = caption_gate.Gate.request

    def late(gate: caption_gate.Gate) -> None:
        now[0] += 1000 * (not captioner.requests)
        request(gate)

    # A question that waited long for its turn is tried again like any other.
    monkeypatch.setattr(caption_gate.Gate, "request", late)
    captioner.reply = replies((503, {}, b"busy"), chat("A dog."))
    assert endpoint(captioner, tmp_path, timeout_s=3000).ask(question(), fine).text == "A dog."


def test_no_server_and_no_answer_are_faults_of_the_machine(captioner: Captioner, tmp_path: Path) -> None:
    def hang(_body: Any, _number: int) -> None:
        time.sleep(0.5)

    captioner.reply = hang
    with pytest.raises(MachineError, match=r"no answer within 0\.1 s"):
        endpoint(captioner, tmp_path, timeout_s=0.1, patience_s=0).ask(question(), fine)
    nowhere = EndpointConfig(model="m", url="http://127.0.0.1:9/v1", patience_s=0)
    with pytest.raises(MachineError, match=r"http://127\.0\.0\.1:9/v1: the connection fails: .*refused"):
        Endpoint(CaptionConfig(endpoint=nowhere), nowhere, tmp_path).ask(question(), fine)


@pytest.mark.parametrize("head", ["Content-Length: 5000", "Transfer-Encoding: chunked"])
def test_an_answer_in_drops_is_given_up_in_time(tmp_path: Path, head: str) -> None:
    drop = b"1\r\n \r\n" if "chunked" in head else b" "
    gone = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode())
            while not gone.wait(0.05):
                connection.sendall(drop)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,), daemon=True)
        thread.start()
        slow = EndpointConfig(
            model="m", url=f"http://127.0.0.1:{server.getsockname()[1]}/v1", timeout_s=0.3, patience_s=0
        )
        ends = threading.Timer(10, gone.set)
        ends.start()
        with pytest.raises(MachineError, match=r"no whole answer within 0\.3 s"):
            Endpoint(CaptionConfig(endpoint=slow), slow, tmp_path).ask(question(), fine)
        ends.cancel()
        gone.set()
        thread.join()


@pytest.mark.parametrize(
    ("headers", "data"),
    [({"Content-Length": "99", "Connection": "close"}, b"{"), ({"Content-Encoding": "gzip"}, b"no gzip at all")],
)
def test_half_an_answer_or_a_damaged_one_is_asked_for_again(
    captioner: Captioner, tmp_path: Path, headers: dict[str, str], data: bytes
) -> None:
    captioner.reply = replies((200, headers, data), chat("A dog."))
    assert endpoint(captioner, tmp_path, timeout_s=1).ask(question(), fine).text == "A dog."


@pytest.mark.parametrize(
    "reply",
    [
        (200, {}, b'{"error": {"code": 502, "message": "the provider is gone"}}'),
        (200, {}, b'{"error": {"code": 429, "message": "slow down"}, "choices": []}'),
        chat("A red circle mo", finish_reason="abort"),
        chat("A red circle mo", finish_reason="error"),
    ],
)
def test_a_fault_that_comes_as_a_success_is_asked_for_again(captioner: Captioner, tmp_path: Path, reply: Reply) -> None:
    captioner.reply = replies(reply, chat("A dog."))
    assert endpoint(captioner, tmp_path).ask(question(), fine).text == "A dog."
    assert len(captioner.requests) == 2
    captioner.reply = lambda _body, _number: reply
    with pytest.raises(MachineError, match=r"HTTP (502|429): |the answer is broken off"):
        endpoint(captioner, tmp_path, patience_s=0).ask(question(1), fine)
    assert not (tmp_path / FAILED).exists()


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (401, {}, "HTTP 401: .*the key is not accepted: see caption.endpoint.key_env"),
        (403, {}, "the key is not allowed"),
        (404, {}, "caption.endpoint.url ends in /v1"),
        (302, {"Location": "https://elsewhere"}, "it leads to https://elsewhere: name that address"),
        (418, {}, "see that caption.endpoint.url is right"),
    ],
)
def test_what_trying_again_mends_not_stops_the_stage_at_once(
    captioner: Captioner, tmp_path: Path, status: int, headers: dict[str, str], message: str
) -> None:
    captioner.reply = replies((status, headers, b"Incorrect key: " + KEY.encode()))
    with pytest.raises(MachineError, match=message) as caught:
        endpoint(captioner, tmp_path).ask(question(), fine)
    assert len(captioner.requests) == 1
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "reason", "detail"),
    [
        ((200, {}, b"<html><body>Welcome</body></html>"), "caption_nonsense", "the endpoint answers with HTML: <html>"),
        ((200, {}, b'{"error": "no"}'), "caption_nonsense", "with no chat completion"),
        ((200, {}, b"[" * 100000), "caption_nonsense", "with no chat completion"),
        ((200, {}, b""), "caption_nonsense", "with no chat completion"),
        ((200, {}, b" " * (5 << 20)), "caption_nonsense", "reply is above"),
        (chat({"a": 1}), "caption_nonsense", "with no text"),
        (chat("A long", finish_reason="length"), "caption_nonsense", "cut at caption.max_tokens 99: A long"),
        (chat(None, finish_reason="content_filter"), "caption_refused", "the model refuses"),
        (chat(None, message={"content": None, "refusal": "Never."}), "caption_refused", "the model refuses: Never."),
        ((400, {}, b'{"error": "unsafe content"}'), "caption_refused", "HTTP 400: .*unsafe content"),
        ((422, {}, KEY.encode()), "caption_refused", r"HTTP 422: \*\*\*"),
    ],
)
def test_what_is_no_answer_is_the_row_s_reason(
    captioner: Captioner, tmp_path: Path, reply: Reply, reason: str, detail: str
) -> None:
    captioner.reply = replies(reply)
    found = []
    for _ in range(2):
        with pytest.raises(RowError, match=detail) as caught:
            endpoint(captioner, tmp_path).ask(question(), fine)
        assert caught.value.reason == reason
        found.append((type(caught.value), caught.value.detail, getattr(caught.value, "answer", None)))
    assert found[0] == found[1]
    assert len(captioner.requests) == 1


def test_tokens_of_what_is_no_caption_are_spent_too(captioner: Captioner, tmp_path: Path) -> None:
    captioner.reply = replies(chat("A long", finish_reason="length"), chat(None, message={"refusal": "Never."}))
    asking = endpoint(captioner, tmp_path, max_total_tokens=20)
    for number, text in enumerate(("A long", "Never.")):
        with pytest.raises(NoCaption) as caught:
            asking.ask(question(number), fine)
        assert caught.value.answer == Answer(text, "shapes-vl-7b", "fp_1", 10)
    with pytest.raises(MachineError, match="the budget of 20 tokens is spent"):
        asking.ask(question(2), fine)


@pytest.mark.parametrize(("setting", "asked"), [({"max_requests": 3}, 3), ({"max_total_tokens": 25}, 3)])
def test_the_budget_stops_in_order_and_a_larger_one_goes_on(
    captioner: Captioner, tmp_path: Path, setting: dict[str, int], asked: int
) -> None:
    asking = endpoint(captioner, tmp_path, **setting)
    for number in range(asked):
        asking.ask(question(number), fine)
    with pytest.raises(MachineError, match=r"caption.endpoint.max_\w+: the budget of \d+ .* raise it, and the same"):
        asking.ask(question(asked), fine)
    assert asking.ask(question(0), fine).text
    assert len(captioner.requests) == asked
    more = endpoint(captioner, tmp_path, **dict.fromkeys(setting, 100))
    assert more.ask(question(asked), fine).text


def test_a_budget_of_tokens_wants_them_told(captioner: Captioner, tmp_path: Path) -> None:
    captioner.reply = replies(chat("A dog.", top={"usage": None}))
    assert endpoint(captioner, tmp_path).ask(question(), fine).tokens is None
    captioner.reply = replies(chat("A dog.", top={"usage": {"total_tokens": True}}))
    assert endpoint(captioner, tmp_path).ask(question(2), fine).tokens is None
    with pytest.raises(MachineError, match="does not tell how many tokens"):
        endpoint(captioner, tmp_path, max_total_tokens=9).ask(question(1), fine)


def test_no_more_are_under_way_than_may_be_of_all_workers_together(captioner: Captioner, tmp_path: Path) -> None:
    both_there = threading.Barrier(2, timeout=20)

    def meet(_body: Any, number: int) -> Reply:
        both_there.wait()
        return chat("A dog.")

    captioner.reply = meet
    workers = [endpoint(captioner, tmp_path, in_flight=2) for _ in range(4)]
    threads = [
        threading.Thread(target=workers[number % 4].ask, args=(question(number), fine), daemon=True)
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (captioner.most_at_once, len(captioner.requests)) == (2, 8)


def test_requests_keep_their_distance(captioner: Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    sent: list[float] = []
    monkeypatch.setattr(caption_gate.time, "time", lambda: now[0])

    def wait(_gate: object, seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(caption_gate.Gate, "wait", wait)

    def note(_body: Any, _number: int) -> Reply:
        sent.append(now[0])
        return chat("A dog.")

    captioner.reply = note
    for number in range(4):
        endpoint(captioner, tmp_path, requests_per_minute=120).ask(question(number), fine)
    assert np.diff(sent) == pytest.approx([0.5] * 3, abs=1e-3)
    now[0] -= 1e6  # a clock that is set back stops nobody
    endpoint(captioner, tmp_path, requests_per_minute=120, patience_s=5).ask(question(9), fine)


def test_the_key_is_in_no_file_and_no_message(
    captioner: Captioner, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    captioner.reply = replies((503, {}, KEY.encode()), chat(f"The key is {KEY}.", top={"model": f"m {KEY}"}))
    asking = endpoint(captioner, tmp_path)
    assert asking.ask(question(), fine) == Answer("The key is ***.", "m ***", "fp_1", 10)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    monkeypatch.setenv("CAPTION_KEY", "a/key/of+slashes==")
    captioner.reply = replies((401, {}, rb'{"error": "not a\/key\/of+slashes=="}'))
    with pytest.raises(MachineError, match=r'HTTP 401: \{"error": "not \*\*\*"\}'):
        endpoint(captioner, tmp_path).ask(question(1), fine)
    captioner.reply = replies((401, {}, rb'{"error": "not a/key/of\u002Bslashes\u003d="}'))
    with pytest.raises(MachineError, match=r'HTTP 401: \{"error": "not \*\*\*"\}'):
        endpoint(captioner, tmp_path).ask(question(1), fine)
    monkeypatch.setenv("CAPTION_KEY", f"{KEY}\nX-Evil: 1")
    with pytest.raises(MachineError, match="CAPTION_KEY holds characters that no header can have") as caught:
        endpoint(captioner, tmp_path)
    monkeypatch.delenv("CAPTION_KEY")
    with pytest.raises(MachineError, match="environment variable CAPTION_KEY is not set on this node"):
        endpoint(captioner, tmp_path)
    assert KEY not in caplog.text + str(caught.value)


def test_a_netrc_does_not_take_the_key_s_place(
    captioner: Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    endpoint(captioner, tmp_path).ask(question(), fine)
    open_one = EndpointConfig(model="m", url=captioner.url)
    Endpoint(CaptionConfig(endpoint=open_one), open_one, tmp_path).ask(question(1), fine)
    assert [headers.get("Authorization") for headers, _ in captioner.requests] == [f"Bearer {KEY}", None]


def test_half_of_a_character_is_damage_that_a_table_can_hold(captioner: Captioner, tmp_path: Path) -> None:
    captioner.reply = replies(chat("A dog \ud83d runs.", top={"model": "m\udc00"}))
    for _ in range(2):
        answer = endpoint(captioner, tmp_path).ask(question(), fine)
        assert (answer.text, answer.model) == ("A dog \ufffd runs.", "m\ufffd")
