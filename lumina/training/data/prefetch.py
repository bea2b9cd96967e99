"""Prepare what a loop needs next while it works on what it has."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from typing import TypeVar

Request = TypeVar("Request")
Made = TypeVar("Made")


@contextmanager
def prefetched(
    make: Callable[[Request], Made], requests: Iterable[Request], depth: int, threads: int = 1
) -> Iterator[Iterator[Made]]:
    """Give `make(request)` for each request in order, made up to `depth` ahead of the one in hand.

    Requests are drawn in order on a thread of their own, so that planning them takes none of the loop's time either;
    `make` runs there, too, or on `threads` others, then for as many requests at the same time. Depth 0 draws and makes
    each when it is asked for, on the caller's thread.
    What `make` or `requests` raises, the loop gets at its place; nothing comes after it. Leaving the context waits for
    the calls that are running and drops the rest.

        with prefetched(make, requests, 4) as batches:
            batch = next(batches)

    Raises ValueError if `depth` is negative, or `threads` not positive.
    """
    if depth < 0:
        raise ValueError(f"depth must be at least 0, got {depth}")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    if depth == 0:
        yield (make(request) for request in requests)
        return
    with ExitStack() as stack:
        if threads > 1 and depth > 1:
            makers = stack.enter_context(_executor(min(threads, depth), "prefetch-make"))

            def start(request: Request) -> Callable[[], Made]:
                return makers.submit(make, request).result
        else:

            def start(request: Request) -> Callable[[], Made]:
                return partial(_same, make(request))

        yield _ahead(stack.enter_context(_executor(1, "prefetch")), map(start, requests), depth)


@contextmanager
def _executor(threads: int, name: str) -> Iterator[ThreadPoolExecutor]:
    executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _same(made: Made) -> Made:
    return made


def _ahead(executor: ThreadPoolExecutor, started: Iterator[Callable[[], Made]], depth: int) -> Iterator[Made]:
    def one() -> list[Callable[[], Made]]:
        return list(islice(started, 1))

    pending = deque(executor.submit(one) for _ in range(depth))
    while found := pending.popleft().result():
        pending.append(executor.submit(one))
        # Popped: what the loop is done with must not stay in memory while it waits for the next.
        yield found.pop()()
