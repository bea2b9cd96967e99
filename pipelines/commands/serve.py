"""`lumina serve`: a video server with a page, on Ray Serve."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Annotated, NoReturn

import typer

from pipelines.commands.options import (
    AdapterOption,
    AdapterScaleOption,
    AttentionOption,
    DtypeOption,
    OffloadOption,
    TilingOption,
    check_adapter,
    check_checkpoint,
    check_seen_by_all,
)
from pipelines.errors import PipelineError
from pipelines.terminal import Text, make_console

_OPEN = "whoever reaches {} can make clips: it asks for no password; put it behind a proxy that does"


def serve(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="Exported checkpoint directory, or hf:owner/name.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 opens it to the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8000,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Copies of the model.", show_default="one for each GPU, one on a CPU")
    ] = None,
    adapter: AdapterOption = None,
    adapter_scale: AdapterScaleOption = None,
    dtype: DtypeOption = "auto",
    attention: AttentionOption = "auto",
    tiling: TilingOption = None,
    offload: OffloadOption = "auto",
    max_queue: Annotated[int, typer.Option(min=0, help="Clips that may wait; more are refused.")] = 16,
    max_pixels: Annotated[int, typer.Option(min=256, help="Width times height of a clip at most.")] = 921_600,
    max_frames: Annotated[int, typer.Option(min=1, help="Frames of a clip at most.")] = 128,
    max_steps: Annotated[int, typer.Option(min=1, help="Sampling steps of a clip at most.")] = 100,
    keep_clips: Annotated[int, typer.Option(min=1, help="Finished clips that can be fetched.")] = 64,
    keep_mb: Annotated[int, typer.Option(min=1, help="MB of their files, in memory.")] = 512,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Running Ray cluster; one is started here otherwise.")
    ] = None,
) -> None:
    """Serve a checkpoint: a page to try it, and an API like OpenAI's /v1/videos. Ctrl-C ends it."""
    check_checkpoint("CHECKPOINT", checkpoint)
    check_adapter(adapter, adapter_scale)
    from jobs import cluster, serve
    from jobs.runtime import RuntimeConfig
    from jobs.serve_request import ClipRequest, Limits, RequestError, read_served, resolve

    serve.check_packages()
    if address is None:
        serve.check_port(host, port)
    else:
        check_seen_by_all({"CHECKPOINT": checkpoint, "--adapter": adapter})
    limits = Limits(
        max_queue=max_queue,
        max_pixels=max_pixels,
        max_frames=max_frames,
        max_steps=max_steps,
        keep_clips=keep_clips,
        keep_bytes=keep_mb * 10**6,
    )
    served = read_served(
        checkpoint,
        adapter=adapter,
        adapter_scale=1.0 if adapter_scale is None else adapter_scale,
        dtype=dtype,
        attention=attention,
        tiling=tiling,
        offload=offload,
    )
    try:
        resolve(ClipRequest(prompt="-", source=served.sources[0]), served, limits)
    except RequestError as error:
        raise PipelineError(f"{checkpoint}: its own defaults are over the limits: {error}") from error
    import torch

    console = make_console()
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        console.print("Starting Ray ..." if address is None else f"Joining {address} ...")
        cluster.ensure(RuntimeConfig(ray_address=address))
        # Ray has put its own handler there, which aborts.
        signal.signal(signal.SIGTERM, _interrupt)
        import ray

        gpus = int(ray.cluster_resources().get("GPU", 0)) if address or torch.cuda.is_available() else 0
        device = "cuda" if gpus else "cpu"
        threads = None if gpus else torch.get_num_threads()
        server = serve.Server(host, port, replicas or max(1, gpus), device, threads)
        console.print(f"Loading {checkpoint} ...", soft_wrap=True)
        with serve.serving(server, served, limits):
            if not serve.is_loopback(host):
                console.print(Text(_OPEN.format(server.address), "yellow"), soft_wrap=True)
            console.print(
                f"{served.name} on {server.address}, {server.replicas} x {device}; the API is at "
                f"{server.address}/v1/videos; Ctrl-C ends it",
                soft_wrap=True,
            )
            try:
                serve.watch()
            finally:
                console.print("Ending ...")
    except KeyboardInterrupt:
        pass  # as it is meant to end; a second one ends what does not end in good order
    finally:
        cluster.shutdown()
        signal.signal(signal.SIGTERM, before)


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
