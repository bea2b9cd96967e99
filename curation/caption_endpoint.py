"""Client of OpenAI's chat completions with images: retries with back-off, a journal of answers, no key in any text.

What the server or the way to it is at fault for (429, 5xx, time-outs, refused connections) is tried again, then ends
the stage; what it says of one clip is that clip's. An answer is on the disk before anything is made of it.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import io
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests
from numpy.typing import NDArray
from PIL import Image
from urllib3.exceptions import HTTPError, ReadTimeoutError

from curation.caption_config import CaptionConfig, EndpointConfig
from curation.caption_gate import Gate
from curation.operator import FAILED
from curation.schema import Reason, RowError
from lumina.faults import MachineError
from lumina.files import replace_file
from lumina.randomness import generator

_ANSWERS = "answers"
_BACKOFF_S, _LONGEST_S = 1.0, 60.0
_REPLY_BYTES = 4 << 20
_SAID_CHARS = 200
_JPEG_QUALITY = 92
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile(r"\\u00([2-7][0-9a-fA-F])")
_OF_THE_CLIP = frozenset({400, 413, 415, 422})
_BROKEN_OFF = ("abort", "error")
"""`finish_reason` of an answer that the server, or one behind it, did not bring to an end."""
_CURES = {
    401: "the key is not accepted: see caption.endpoint.key_env",
    403: "the key is not allowed to do this: see caption.endpoint.key_env",
    404: "there is no such path or model: caption.endpoint.url ends in /v1, and /models below it lists the models",
}


@dataclass(frozen=True)
class Answer:
    """What a model says of a clip."""

    text: str
    model: str
    """As the server calls it, which may tell more than it was asked for."""
    version: str | None
    """Its `system_fingerprint`, or the digest of a local network."""
    tokens: int | None
    """Of prompt and answer together."""


class NoCaption(RowError):
    """An answer that came, and is none by what the model or its server says of it: it is kept, and its tokens count."""

    def __init__(self, reason: Reason, detail: str, answer: Answer) -> None:
        super().__init__(reason, detail)
        self.answer = answer


@dataclass(frozen=True)
class Question:
    """What is asked of a clip."""

    key: str
    """Tells it apart: of the clip's content, the times and the prompt."""
    prompt: str
    times_s: Sequence[float]
    """Of the frames, from the clip's start."""
    frames: NDArray[np.uint8]
    """[T, H, W, 3]."""


@dataclass(frozen=True)
class _Again:
    """A reply after which the request is made again."""

    what: str
    after_s: float | None = None
    """When the server says so."""


class Endpoint:
    """Asks one server; for many threads.

    Args:
        config: of the stage.
        endpoint: where it is, and how it is asked.
        work: folder in which answers and limits are kept.

    MachineError if there is no key.
    """

    def __init__(self, config: CaptionConfig, endpoint: EndpointConfig, work: Path) -> None:
        self._config, self._limits, self._key = config, endpoint, _key(endpoint)
        self._work, self._stop, self._local = work, threading.Event(), threading.local()
        self._gate = Gate(work / "asking", endpoint, self._stop)

    def cancel(self) -> None:
        """Ask nothing more."""
        self._stop.set()

    def stop(self) -> None:
        """Ask nothing more, and wait for what is under way: here, and with other workers."""
        self.cancel()
        self._gate.drain(self._limits.timeout_s)

    def ask(self, question: Question, check: Callable[[str], object]) -> Answer:
        """The answer, kept as all that is said of a clip: the same question is never asked again.

        Raises:
            RowError: the server refuses this clip, or answers with something else than an answer; `NoCaption` with one
                that is cut or refused, or of which `check` raises a RowError.
            MachineError: it cannot be had from the server for now, or the budget is spent.
        """
        if (kept := self._kept(question.key)) is not None:
            return kept
        body, tries, first = json.dumps(self._body(question)).encode(), 0, 0.0
        while True:
            # A wait for the next try holds no slot.
            with self._gate.slot():
                self._gate.request()
                reply = self._keeping(question.key, body, check)
                if isinstance(reply, Answer):
                    return reply
            # Not from when it was first waited for: its turn may come late.
            first = time.monotonic() if tries == 0 else first
            tries += 1
            wait_s = self._wait_s(question.key, tries, reply)
            if time.monotonic() - first + wait_s > self._limits.patience_s:
                raise MachineError(
                    f"caption.endpoint {self._limits.url}: {reply.what} (tried {tries} times, "
                    f"caption.endpoint.patience_s {self._limits.patience_s:g}); see that it is well, and the same "
                    "command continues: all answers are kept"
                )
            if reply.after_s is not None:
                self._gate.pause(wait_s)
            self._gate.wait(wait_s)

    def _keeping(self, key: str, body: bytes, check: Callable[[str], object]) -> Answer | _Again:
        """Ask once; what is said of the clip is on the disk before it is returned or raised."""
        reply: Answer | _Again | None = None
        try:
            reply = self._posted(body)
            if isinstance(reply, Answer):
                check(reply.text)
                replace_file(self._path(_ANSWERS, key), json.dumps(asdict(reply)).encode(), sync=True)
            return reply
        except RowError as error:
            said = NoCaption(error.reason, error.detail, reply) if isinstance(reply, Answer) else error
            answer = asdict(said.answer) if isinstance(said, NoCaption) else None
            failed = {"reason": said.reason, "detail": said.detail, "answer": answer}
            replace_file(self._path(FAILED, key), json.dumps(failed).encode(), sync=True)
            raise said from error

    def _kept(self, key: str) -> Answer | None:
        """What was answered before; RowError if that is no caption."""
        answered, failed = self._path(_ANSWERS, key), self._path(FAILED, key)
        if answered.exists():
            return Answer(**json.loads(answered.read_text(encoding="utf-8")))
        if not failed.exists():
            return None
        found = json.loads(failed.read_text(encoding="utf-8"))
        reason, detail, answer = Reason(found["reason"]), found["detail"], found["answer"]
        raise RowError(reason, detail) if answer is None else NoCaption(reason, detail, Answer(**answer))

    def _path(self, folder: str, key: str) -> Path:
        return self._work / folder / key[:2] / f"{key}.json"

    def _wait_s(self, key: str, tries: int, reply: _Again) -> float:
        spread = 0.5 + 0.5 * generator(0, "caption back-off", key, tries).random()
        return max(reply.after_s or 0.0, spread * min(_LONGEST_S, _BACKOFF_S * 2 ** min(tries - 1, 16)))

    def _count(self, answer: Answer) -> None:
        if answer.tokens is not None:
            self._gate.spend(answer.tokens)
        elif self._limits.max_total_tokens is not None:
            raise MachineError(
                "caption.endpoint.max_total_tokens: the server does not tell how many tokens it took (usage); limit "
                "requests instead (max_requests)"
            )

    def _body(self, question: Question) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        for time_s, frame in zip(question.times_s, question.frames, strict=True):
            content.append({"type": "text", "text": f"{time_s:.2f} s:"})
            content.append({"type": "image_url", "image_url": {"url": _data_url(frame)}})
        content.append({"type": "text", "text": question.prompt})
        config = self._config
        body = {
            "model": self._limits.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": config.max_tokens,
            "temperature": config.temperature,
            "seed": config.seed,
            **config.request,
        }
        return {name: value for name, value in body.items() if value is not None}

    def _posted(self, body: bytes) -> Answer | _Again:
        deadline = time.monotonic() + self._limits.timeout_s
        try:
            with self._session.post(
                f"{self._limits.url}/chat/completions",
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=(min(30.0, self._limits.timeout_s), self._limits.timeout_s),
                allow_redirects=False,
                stream=True,
            ) as response:
                data = bytearray()
                # What is there, however little: a whole buffer may take its time for ever.
                while chunk := response.raw.read1(1 << 14, decode_content=True):
                    data += chunk
                    if time.monotonic() > deadline:
                        return _Again(
                            f"no whole answer within {self._limits.timeout_s:g} s (caption.endpoint.timeout_s)"
                        )
                    if len(data) > _REPLY_BYTES:
                        raise RowError(Reason.CAPTION_NONSENSE, f"the endpoint's reply is above {_REPLY_BYTES} bytes")
                return self._read(response.status_code, response.headers, bytes(data))
        except (requests.Timeout, ReadTimeoutError):
            return _Again(f"no answer within {self._limits.timeout_s:g} s (caption.endpoint.timeout_s)")
        except (requests.ConnectionError, HTTPError) as error:
            return _Again(f"the connection fails: {self._clean(_cause(error))}")
        except requests.RequestException as error:
            raise MachineError(
                f"caption.endpoint {self._limits.url}: the request cannot be made: {self._clean(type(error).__name__)}"
            ) from None  # its text may hold what was sent

    def _read(self, status: int, headers: Mapping[str, str], data: bytes) -> Answer | _Again:
        # A gateway may have begun its reply when the server behind it failed: the status is in the body.
        if 200 <= status < 300:
            told = _status_told(data)
            if told is None:
                return self._answer(data)
            status = told
        said = f"HTTP {status}: {self._said(data)}"
        if status in _OF_THE_CLIP:
            raise RowError(Reason.CAPTION_REFUSED, f"the endpoint refuses the request: {said}")
        if status in (408, 409, 425, 429) or status >= 500:
            after_s = _retry_after(headers.get("Retry-After"))
            return _Again(said if after_s is None else f"{said} (Retry-After {after_s:.0f} s)", after_s)
        moved = f"it leads to {headers.get('Location', 'nowhere'):.200}: name that address"
        cure = moved if 300 <= status < 400 else _CURES.get(status, "see that caption.endpoint.url is right")
        raise MachineError(
            f"caption.endpoint {self._limits.url}: {said}; {self._clean(cure)}, and the same command continues"
        )

    def _answer(self, data: bytes) -> Answer | _Again:
        """RowError if it is none."""
        try:
            found = json.loads(data)
            choice = found["choices"][0]
            message = choice["message"]
            text, refusal = message.get("content"), message.get("refusal")
            usage, version = found.get("usage") or {}, found.get("system_fingerprint")
            tokens, model = usage.get("total_tokens"), found.get("model") or self._limits.model
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            kind = "HTML" if data.lstrip()[:1] == b"<" else "no chat completion"
            raise RowError(Reason.CAPTION_NONSENSE, f"the endpoint answers with {kind}: {self._said(data)}") from None
        if text is not None and not isinstance(text, str):
            raise RowError(Reason.CAPTION_NONSENSE, f"the endpoint answers with no text: {self._said(data)}")
        said = self._clean(str(refusal or text or ""))
        told = version if isinstance(version, str) else None
        counted = tokens if type(tokens) is int and 0 <= tokens < 1 << 53 else None
        answer = Answer(said, self._clean(str(model)), told and self._clean(told), counted)
        self._count(answer)
        if choice.get("finish_reason") in _BROKEN_OFF:
            return _Again(f"the answer is broken off (finish_reason {choice['finish_reason']}): {said[:_SAID_CHARS]}")
        if refusal or choice.get("finish_reason") == "content_filter":
            raise NoCaption(Reason.CAPTION_REFUSED, f"the model refuses: {said[:_SAID_CHARS]}", answer)
        if choice.get("finish_reason") == "length":
            detail = f"the answer is cut at caption.max_tokens {self._config.max_tokens}: {said[:_SAID_CHARS]}"
            raise NoCaption(Reason.CAPTION_NONSENSE, detail, answer)
        return answer

    @property
    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            # Of its own, so that no ~/.netrc takes the key's place.
            session.auth = self._authorized
        return session

    def _authorized(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _said(self, data: bytes) -> str:
        # JSON may write a slash of the key with another before it, and any of its letters by their numbers.
        text = data[: 1 << 16].decode(errors="replace").replace("\\/", "/")
        text = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
        return self._clean(" ".join(text.split()))[:_SAID_CHARS]

    def _clean(self, text: str) -> str:
        """Without the key, which servers quote in their errors, and with the sign of damage for half of a character,
        which JSON can tell and no table hold."""
        text = _SURROGATE.sub("\ufffd", text)
        return text.replace(self._key, "***") if self._key else text


def question_key(*parts: object) -> str:
    """Hex digest of what a question is made of."""
    return hashlib.blake2b(
        json.dumps(parts, ensure_ascii=False).encode(errors="backslashreplace"), digest_size=20
    ).hexdigest()


def _key(endpoint: EndpointConfig) -> str:
    if endpoint.key_env is None:
        return ""
    key = os.environ.get(endpoint.key_env, "").strip()
    if not key:
        raise MachineError(
            f"caption.endpoint.key_env: the environment variable {endpoint.key_env} is not set on this node; set it on "
            "every node before Ray starts, and the same command continues"
        )
    if not (key.isascii() and key.isprintable()):
        raise MachineError(
            f"caption.endpoint.key_env: {endpoint.key_env} holds characters that no header can have; set it anew, and "
            "the same command continues"
        )
    return key


def _data_url(frame: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    # Small pictures lose their colours by subsampling.
    Image.fromarray(frame).save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _status_told(data: bytes) -> int | None:
    """The status in a body that has an error in the place of choices, `{"error": {"code": 502}}`; None in another."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    error = found.get("error") if isinstance(found, dict) and not found.get("choices") else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if type(code) is int and 400 <= code < 600 else None


def _retry_after(value: str | None) -> float | None:
    """Seconds of a `Retry-After`, a number or a date; None for anything else."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if seconds < float("inf") else None


def _cause(error: BaseException) -> str:
    """The innermost error, without addresses of objects."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:_SAID_CHARS]
