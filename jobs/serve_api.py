"""HTTP API of a video server, OpenAI's `/v1/videos` with a page to try it: routes, errors, and who may ask."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from curation.control_characters import shown
from jobs.serve_queue import VideoJob, VideoQueue
from jobs.serve_request import (
    BODY_BYTES,
    PROMPT_CHARACTERS,
    Limits,
    RequestError,
    Served,
    as_command,
    as_request,
    cost_of,
    parse_request,
    resolve,
    schedules,
)
from lumina.formats import quantity
from lumina.pages.page import render

TEMPLATE = Path(__file__).with_name("serve.html.j2")
STYLE = "serve.css"
SCRIPT = Path(__file__).with_name("serve.js")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LISTED = 100
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
    # The page's own policy says what it may load; this one holds for whatever is answered.
    "content-security-policy": "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; object-src 'none'",
}

log = logging.getLogger(__name__)


def make_app(served: Served, limits: Limits, queue: Callable[[], VideoQueue], hosts: Collection[str]) -> ASGIApp:
    """The application.

    Args:
        served: what it serves.
        limits: what it takes.
        queue: makes the queue, once there is an event loop.
        hosts: names under which it may be asked; empty is any.
    """
    api = _Api(served, limits)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        api.queue = queue()
        running = asyncio.create_task(api.queue.run())
        yield
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    app = Starlette(
        routes=[
            Route("/", api.page),
            Route("/health", api.health),
            Route("/cost", api.cost, methods=["POST"]),
            Route("/v1/models", api.models),
            Route("/v1/models/{name:path}", api.model),
            Route("/v1/videos", api.create, methods=["POST"]),
            Route("/v1/videos", api.list),
            Route("/v1/videos/{name}", api.retrieve),
            Route("/v1/videos/{name}", api.delete, methods=["DELETE"]),
            Route("/v1/videos/{name}/content", api.content),
        ],
        exception_handlers={
            RequestError: _refused,
            HTTPException: _no_route,
            Exception: _broken,
        },
        lifespan=lifespan,
    )
    return _Guard(app, hosts)


class _Api:
    """The routes."""

    queue: VideoQueue

    def __init__(self, served: Served, limits: Limits) -> None:
        self._served, self._limits = served, limits
        defaults = served.defaults
        self._page = render(
            TEMPLATE,
            shown,
            script=SCRIPT,
            style=STYLE,
            served=served,
            limits=limits,
            defaults=defaults,
            source=defaults.source or served.sources[0],
            prompt_characters=PROMPT_CHARACTERS,
            schedules=[(str(number), one.label) for number, one in enumerate(schedules(served))],
        )

    async def page(self, _: Request) -> Response:
        return HTMLResponse(self._page)

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "queued": self.queue.waiting, "in_progress": self.queue.making})

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        if request.path_params["name"] != self._served.name:
            raise RequestError(f"there is no such model; this server has {self._served.name}", "model", 404)
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        served = self._served
        return {
            "id": served.name,
            "object": "model",
            "created": 0,
            "owned_by": "lumina-video",
            "sources": list(served.sources),
            "defaults": served.defaults.model_dump(mode="json"),
            "limits": self._limits.model_dump(mode="json"),
        }

    async def create(self, request: Request) -> Response:
        settings = resolve(parse_request(await _fields(request)), self._served, self._limits)
        return JSONResponse(self._shown(await self.queue.add(settings)))

    async def cost(self, request: Request) -> Response:
        """What a request would cost, with each of the schedules in turn."""
        fields = await _fields(request)
        # An empty prompt costs what another costs.
        fields["prompt"] = str(fields.get("prompt") or "-")[:PROMPT_CHARACTERS]
        told = []
        for schedule in schedules(self._served):
            own = {name: value for name, value in fields.items() if name not in ("preset", "sampler")}
            row: dict[str, Any] = {"label": schedule.label, "fields": dict(schedule.fields)}
            try:
                settings = resolve(parse_request(own | dict(schedule.fields)), self._served, self._limits)
            except RequestError as error:
                told.append(row | {"error": str(error), "param": error.param})
                continue
            cost = cost_of(settings, self._served)
            scales = [
                {"patch": list(patch), "tokens": cost.tokens[patch], "evaluations": count}
                for patch, count in cost.evaluations.items()
            ]
            row |= {"scales": scales, "steps": settings.sampler.steps, "flops": cost.flops}
            told.append(row | {"cost": quantity(cost.flops, "FLOP"), "relative": round(cost.relative, 4)})
        return JSONResponse({"object": "cost", "schedules": told})

    async def list(self, request: Request) -> Response:
        query = request.query_params
        order, limit = query.get("order", "desc"), query.get("limit", "20")
        if order not in ("asc", "desc"):
            raise RequestError("order: expected asc or desc", "order")
        if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and int(limit) <= _LISTED):
            raise RequestError(f"limit: expected a number up to {_LISTED}", "limit")
        jobs = self.queue.jobs()
        if order == "desc":
            jobs.reverse()
        if "after" in query:
            jobs = jobs[jobs.index(self.queue.get(query["after"])) + 1 :]
        page = jobs[: int(limit)]
        return JSONResponse(
            {
                "object": "list",
                "data": [self._shown(job) for job in page],
                "first_id": page[0].id if page else None,
                "last_id": page[-1].id if page else None,
                "has_more": len(page) < len(jobs),
            }
        )

    async def retrieve(self, request: Request) -> Response:
        return JSONResponse(self._shown(self.queue.get(request.path_params["name"])))

    async def delete(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.queue.delete(name)
        return JSONResponse({"id": name, "object": "video.deleted", "deleted": True})

    async def content(self, request: Request) -> Response:
        job = self.queue.get(request.path_params["name"])
        if request.query_params.get("variant", "video") != "video":
            raise RequestError("variant: there is only video", "variant")
        if job.status != "completed":
            why = f"it failed: {job.error}" if job.status == "failed" else f"it is {job.status}"
            raise RequestError(f"{job.id} has no file: {why}", "video_id", 404)
        return Response(
            job.content,
            media_type="video/mp4",
            headers={"content-disposition": f'inline; filename="{job.id}.mp4"'},
        )

    def _shown(self, job: VideoJob) -> dict[str, Any]:
        settings = job.settings
        return {
            "id": job.id,
            "object": "video",
            "model": self._served.name,
            "status": job.status,
            "progress": job.progress,
            "created_at": int(job.created_s),
            "completed_at": None if job.completed_s is None else int(job.completed_s),
            "expires_at": None,
            "error": {"code": "generation_failed", "message": job.error} if job.error else None,
            "prompt": settings.prompt,
            "seconds": f"{settings.frames / settings.fps:g}",
            "size": f"{settings.width}x{settings.height}",
            "remixed_from_video_id": None,
            # What OpenAI's has not.
            "ahead": self.queue.ahead(job),
            "steps_done": job.done,
            "steps": settings.sampler.steps,
            "request": as_request(settings, self._served),
            "command": as_command(settings, self._served),
        }


async def _fields(request: Request) -> dict[str, Any]:
    """Fields of a JSON object or a form. Raises RequestError for what is neither, or too large."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # A browser sends these three, and text, to other sites without asking them; `_Guard` sees to those.
    if kind not in ("application/json", "application/x-www-form-urlencoded", "multipart/form-data"):
        raise RequestError("send application/json, or a form", None, 415)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES:
            raise RequestError(f"the body has more than {BODY_BYTES:,} bytes", None, 413)
    try:
        if kind == "application/json":
            fields = json.loads(body)
            if not isinstance(fields, dict):
                raise RequestError("the body is no JSON object")
            return fields
        if kind == "application/x-www-form-urlencoded":
            pairs = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=100)
        else:
            pairs = _parts(request.headers["content-type"], bytes(body))
        # A form has no other way to leave a field out, nor to send an object.
        form: dict[str, Any] = {name: value for name, value in pairs if value != ""}
        if "sampler" in form:
            form["sampler"] = json.loads(form["sampler"])
        return form
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not what its content type {kind} says") from error


def _parts(content_type: str, body: bytes) -> list[tuple[str, str]]:
    """Fields of a multipart form; starlette's own parser would write large ones to the disk."""
    message = BytesParser(policy=HTTP).parsebytes(
        b"content-type: " + content_type.encode("latin-1") + b"\r\n\r\n" + body
    )
    if not message.is_multipart():
        raise ValueError("no parts")
    pairs = []
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        if not isinstance(name, str) or part.get_filename() is not None:
            raise RequestError("files are not taken: this server makes clips of text alone", str(name)[:60])
        content = part.get_payload(decode=True)
        pairs.append((name, content.decode() if isinstance(content, bytes) else ""))
    return pairs


def _error(status: int, message: str, param: str | None = None, code: str | None = None) -> JSONResponse:
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    body = {"message": shown(message), "type": kind, "param": param, "code": code}
    return JSONResponse({"error": body}, status_code=status)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)  # noqa: S101  (as it is registered)
    codes = {404: "not_found", 413: "body_too_large", 429: "queue_full"}
    response = _error(error.status, str(error), error.param, codes.get(error.status))
    if error.retry_after_s:
        response.headers["retry-after"] = str(error.retry_after_s)
    return response


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  (as it is registered)
    return _error(error.status_code, f"{error.detail}: {request.method} {request.url.path[:100]}")


async def _broken(_: Request, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    return _error(500, "the server failed at this request; its log says why")


class _Guard:
    """Refuses what a page of another site sends through somebody's browser, and gives every answer its headers.

    Such a page can send forms to a server on the loopback, and under a name of its own that leads there, read too.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app, self._hosts = app, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        refused = self._refused({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]})
        app: ASGIApp = self._app if refused is None else _error(403, refused)
        await app(scope, receive, with_headers)

    def _refused(self, headers: dict[str, str]) -> str | None:
        host = headers.get("host", "")
        if self._hosts and urlsplit(f"//{host}").hostname not in self._hosts:
            return f"this server is asked as {' or '.join(sorted(self._hosts))}, not as {host[:100]}"
        origin = headers.get("origin")
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return "pages of other sites may not ask this server"
        if origin is not None and urlsplit(origin).netloc != host:
            return "pages of other sites may not ask this server"
        return None
