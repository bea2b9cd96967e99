"""Worker of a video server: one TextToVideo in one thread, told to stop between two steps."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.serve_queue import Event
from jobs.serve_request import ClipSettings, Served

if TYPE_CHECKING:
    from lumina.generate import TextToVideo


class StoppedError(Exception):
    """Nobody wants the clip any more."""


def load(served: Served, device: str, threads: int | None = None) -> TextToVideo:
    """All networks of a checkpoint, as `lumina generate` loads them.

    Args:
        served: the checkpoint and its options.
        device: as torch names it.
        threads: of torch on a CPU: those of `lumina generate`, since other sums round otherwise. None leaves them.
    """
    import torch

    from lumina.generate import TextToVideo
    from lumina.models.attention_kernels import use_kernel
    from lumina.precision import precision_on

    if threads is not None:
        torch.set_num_threads(threads)
    precision = getattr(torch, precision_on(device, served.dtype))
    model = TextToVideo.from_pretrained(
        served.checkpoint,
        device,
        precision,
        adapter=served.adapter,
        adapter_scale=served.adapter_scale,
        tiling=served.tiling,
        offload=served.offload,
    )
    use_kernel(served.attention, model.transformer.config, device, precision)
    return model


class ClipMaker:
    """Makes one clip after another."""

    def __init__(self, load: Callable[[], TextToVideo]) -> None:
        """Load the model, which takes its time, in the thread that uses it."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clip")
        self._model = self._thread.submit(load).result()

    async def make(self, settings: ClipSettings) -> AsyncGenerator[Event, None]:
        """Yield (steps done, steps in all), and at last the MP4 file.

        Closing the generator, or cancelling who waits for it, stops the clip after the step that runs.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        stopped = threading.Event()

        def tell(done: int, total: int) -> None:
            if stopped.is_set():
                raise StoppedError
            loop.call_soon_threadsafe(events.put_nowait, (done, total))

        work = loop.run_in_executor(self._thread, self._generate, settings, tell)
        work.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            yield work.result()
        finally:
            stopped.set()
            # The next clip would only wait in the thread; this one's place is free when it has ended.
            await asyncio.wait([work])
            if not work.cancelled():
                work.exception()  # else it would be logged as one that nobody saw

    def _generate(self, settings: ClipSettings, tell: Callable[[int, int], None]) -> bytes:
        from lumina.video import write_h264

        made = self._model(
            settings.prompt,
            source=settings.source,
            seed=settings.seed,
            num_frames=settings.frames,
            width=settings.width,
            height=settings.height,
            fps=settings.fps,
            sampler=settings.sampler,
            motion=settings.motion,
            negative_prompt=settings.negative_prompt,
            progress=tell,
        )
        with tempfile.TemporaryDirectory(prefix="lumina-clip-") as folder:
            file = Path(folder) / "clip.mp4"
            write_h264(file, made.frames[0], made.fps)
            return file.read_bytes()
