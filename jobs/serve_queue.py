"""Queue of video jobs: clips are made one after another by each worker, can be cancelled, and are kept for a while.

All of it lives in one event loop and in memory: who restarts the server starts with an empty queue.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Literal

from curation.control_characters import shown_in_line
from jobs.serve_request import ClipSettings, Limits, RequestError

Status = Literal["queued", "in_progress", "completed", "failed"]
Event = tuple[int, int] | bytes
"""Of a clip in the making: (steps done, steps in all), and at last the file."""
Maker = Callable[[ClipSettings], AsyncGenerator[Event, None]]
"""Makes one clip; closing the generator stops it."""
_ERROR_CHARACTERS = 500
_FIRST_GUESS_S = 30.0
"""How long a clip takes, before one is finished."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class VideoJob:
    """One clip that was asked for."""

    settings: ClipSettings
    id: str = field(default_factory=lambda: f"video_{secrets.token_hex(16)}")
    status: Status = "queued"
    created_s: float = field(default_factory=time.time)
    completed_s: float | None = None
    done: int = 0
    """Steps."""
    content: bytes = b""
    """The MP4 file, once completed."""
    error: str = ""

    @property
    def progress(self) -> int:
        """Percent; 100 only of what is completed, since decoding comes after the last step."""
        return 100 if self.status == "completed" else min(99, 100 * self.done // self.settings.sampler.steps)


class VideoQueue:
    """Jobs in the order in which they were asked for; `run` makes them."""

    def __init__(self, maker: Maker, workers: int, limits: Limits) -> None:
        """Take jobs for so many workers, each of which makes one clip at a time."""
        self._maker, self._workers, self._limits = maker, workers, limits
        self._jobs: dict[str, VideoJob] = {}
        self._waiting: deque[VideoJob] = deque()
        self._arrived = asyncio.Condition()
        self._making: dict[str, asyncio.Task[bytes]] = {}
        self._took_s: deque[float] = deque(maxlen=16)

    @property
    def waiting(self) -> int:
        """Jobs that nobody makes yet."""
        return len(self._waiting)

    @property
    def making(self) -> int:
        """Jobs that are made now."""
        return len(self._making)

    async def run(self) -> None:
        """Make jobs until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work())

    async def add(self, settings: ClipSettings) -> VideoJob:
        """Queue a clip. Raises RequestError (429) where the queue is full."""
        idle = self._workers - self.making
        if self.waiting >= self._limits.max_queue + idle:
            took_s = sum(self._took_s) / len(self._took_s) if self._took_s else _FIRST_GUESS_S
            clips = f"{self.waiting} clips wait already" if self.waiting != 1 else "a clip waits already"
            raise RequestError(f"the queue is full: {clips}; try again later", None, 429, max(1, math.ceil(took_s)))
        job = VideoJob(settings)
        self._jobs[job.id] = job
        self._waiting.append(job)
        async with self._arrived:
            self._arrived.notify()
        return job

    def get(self, name: str) -> VideoJob:
        """A job by its id. Raises RequestError (404) where there is none, or no more."""
        if name not in self._jobs:
            raise RequestError(
                f"there is no video {shown_in_line(name[:60])!r}; the last {self._limits.keep_clips} are kept",
                "video_id",
                404,
            )
        return self._jobs[name]

    def jobs(self) -> list[VideoJob]:
        """All that are known, the oldest first."""
        return list(self._jobs.values())

    def ahead(self, job: VideoJob) -> int:
        """Jobs that are begun before this one."""
        return self._waiting.index(job) if job in self._waiting else 0

    def delete(self, name: str) -> None:
        """Forget a job: one that waits is not made, one that is made is stopped. RequestError (404) as `get`."""
        job = self.get(name)
        del self._jobs[name]
        if job in self._waiting:
            self._waiting.remove(job)
        if name in self._making:
            self._making[name].cancel()

    async def _work(self) -> None:
        while True:
            async with self._arrived:
                await self._arrived.wait_for(lambda: bool(self._waiting))
                job = self._waiting.popleft()
                job.status = "in_progress"
                task = self._making[job.id] = asyncio.create_task(self._make(job))
            begun_s = time.monotonic()
            try:
                await asyncio.wait([task])
            finally:
                if not task.done():
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                del self._making[job.id]
            if not task.cancelled():
                self._finish(job, task)
                self._took_s.append(time.monotonic() - begun_s)
            self._forget()

    async def _make(self, job: VideoJob) -> bytes:
        content = b""
        async with aclosing(self._maker(job.settings)) as events:
            async for event in events:
                if isinstance(event, bytes):
                    content = event
                else:
                    job.done, _ = event
        return content

    def _finish(self, job: VideoJob, task: asyncio.Task[bytes]) -> None:
        job.completed_s = time.time()
        error = task.exception()
        if error is None:
            job.status, job.content = "completed", task.result()
            return
        log.error("%s failed", job.id, exc_info=error)
        [first, *_] = str(error).strip().splitlines() or [""]
        job.status = "failed"
        job.error = shown_in_line(f"{type(error).__name__}: {first}")[:_ERROR_CHARACTERS]

    def _forget(self) -> None:
        """Let the oldest finished jobs go that are too many, or too large together."""
        finished = [job for job in self._jobs.values() if job.status in ("completed", "failed")]
        size = sum(len(job.content) for job in finished)
        # The last one stays, however large: somebody waits for it.
        while len(finished) > 1 and (len(finished) > self._limits.keep_clips or size > self._limits.keep_bytes):
            oldest = finished.pop(0)
            size -= len(oldest.content)
            del self._jobs[oldest.id]
