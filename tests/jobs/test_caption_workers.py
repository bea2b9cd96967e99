"""Workers of the stage `caption` that are killed: every clip is asked for once, and the rows are the same."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psutil import net_connections

from curation.caption_config import CaptionConfig, EndpointConfig
from curation.digest import RowsDigest
from curation.operator import Env, Input, Shard
from jobs.context import InputRef
from jobs.parts import read_parts
from jobs.row_index import write_row_index
from jobs.row_worker import Mapper, RowStage, map_task, plan_shard, reuse_earlier
from jobs.runtime import RuntimeConfig
from jobs.shards import read_table
from lumina.faults import MachineError
from lumina.video import write_h264
from tests.curation.captioning import Captioner, Reply, served
from tests.curation.scored import probed
from tests.jobs.chain import Chain

CLIPS = 8
WORKER = """
import pickle, sys
import pyarrow as pa
from jobs.row_worker import Mapper
with open(sys.argv[1], "rb") as file:
    stage = pickle.load(file)
Mapper(stage)(pa.table({"shard": [0], "batches": [sys.argv[2]]}))
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """A square in another place of each clip, and what `probe` finds."""
    media = tmp_path_factory.mktemp("media")
    for number in range(CLIPS):
        frames = np.full((8, 64, 64, 3), 40, np.uint8)
        frames[:, 8:40, 2 * number : 2 * number + 32] = (230, 20, 20)
        write_h264(media / f"{number}.mp4", frames, 8)
    names = [f"{number}.mp4" for number in range(CLIPS)]
    return media, probed(media, names, {name: f"clip {name}" for name in names})


def _planned(root: Path, media: Path, rows: pa.Table, captioner: Captioner, in_flight: int = 1) -> RowStage:
    endpoint = EndpointConfig(model="m", url=captioner.url, in_flight=in_flight)
    (root / "clips" / "data").mkdir(parents=True)
    pq.write_table(rows, root / "clips" / "data" / "part.parquet")
    env = Env(str(media), work=str(root / "work"), aside=endpoint)
    config = CaptionConfig(endpoint=endpoint, samples=2).identity()
    stage = RowStage("curation.captions:CAPTION_OPERATOR", config, env, root / "work")
    for name in ("plan", "parts"):
        (stage.work / name).mkdir(parents=True)
    assert plan_shard(stage, 0, {"clips": Input(root / "clips")}).batches == len(rows)
    return stage


def _tasks(*spans: tuple[int, int]) -> list[pa.Table]:
    return [pa.table({"shard": [0], "batches": [json.dumps([span])]}) for span in spans]


def _digest(stage: RowStage) -> str:
    parts = read_parts(stage.work / "parts")
    return str(sum((file.digest for part in parts for file in part.files), RowsDigest()))


def _kill(captioner: Captioner, number: int) -> int:
    """Kill the process that a request comes from."""
    # Others on this machine may have the same port, to another server.
    ends = int(captioner.requests[number][0]["port"]), urlsplit(captioner.url).port
    [pid] = {one.pid for one in net_connections("tcp") if one.raddr and (one.laddr.port, one.raddr.port) == ends}
    os.kill(pid, signal.SIGKILL)
    return int(pid)


def test_killed_twice_and_by_any_number_of_workers_each_clip_is_asked_for_once(
    clips: tuple[Path, pa.Table], tmp_path: Path
) -> None:
    media, rows = clips
    killed: list[int] = []
    with served(Captioner()) as captioner:

        def kill(_body: Any, number: int) -> Reply | None:
            if number not in (2, 5):
                return None
            killed.append(_kill(captioner, number))
            return 500, {}, b""

        captioner.reply = kill
        stage = _planned(tmp_path / "killed", media, rows, captioner)
        (tmp_path / "stage").write_bytes(pickle.dumps(stage))
        command = [sys.executable, "-c", WORKER, str(tmp_path / "stage"), json.dumps([(0, CLIPS)])]
        for _ in range(2):
            assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        [task] = _tasks((0, CLIPS))
        Mapper(stage)(task)
        assert len(killed) == 2
        assert captioner.succeeded.total() == len(captioner.succeeded) == CLIPS
        assert len(captioner.requests) == CLIPS + 2
        four = _planned(tmp_path / "four", media, rows, captioner)
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda task: Mapper(four)(task), _tasks((0, 2), (2, 4), (4, 6), (6, CLIPS))))
        assert captioner.succeeded.total() == 2 * CLIPS
        assert captioner.most_at_once == 1
    assert _digest(stage) == _digest(four)


@pytest.mark.ray
def test_a_killed_worker_of_ray_costs_the_request_that_it_has_under_way(
    clips: tuple[Path, pa.Table], tmp_path: Path, ray_cluster: None
) -> None:
    media, rows = clips
    (tmp_path / "probe" / "data").mkdir(parents=True)
    pq.write_table(rows, tmp_path / "probe" / "data" / "part.parquet")

    def captioned(name: str, captioner: Captioner, workers: int) -> str:
        endpoint = EndpointConfig(model="m", url=captioner.url, in_flight=workers)
        chain = Chain(tmp_path / name, media)
        chain.runtime, chain.aside = RuntimeConfig(curation_workers=workers), endpoint
        chain.refs["probe"] = InputRef("probe", tmp_path / "probe", "")
        config = CaptionConfig(endpoint=endpoint, samples=2).identity()
        return chain.run("caption", "curation.captions:CAPTION_OPERATOR", config, clips="probe").digest

    with served(Captioner()) as captioner:
        whole = captioned("one", captioner, 1)
        assert captioner.succeeded.total() == len(captioner.succeeded) == len(captioner.requests) == CLIPS
    killed: list[int] = []
    with served(Captioner()) as captioner:

        def kill(_body: Any, number: int) -> Reply | None:
            if number != CLIPS // 2:
                return None
            killed.append(_kill(captioner, number))
            return 500, {}, b""

        captioner.reply = kill
        assert captioned("four", captioner, 4) == whole
        assert len(killed) == 1
        assert captioner.succeeded.total() == len(captioner.succeeded) == CLIPS
        assert len(captioner.requests) == CLIPS + 1


def test_a_process_that_was_stopped_asks_again_when_the_command_is_given_again(
    clips: tuple[Path, pa.Table], tmp_path: Path
) -> None:
    media, rows = clips
    with served(Captioner(lambda _body, _number: (401, {}, b""))) as captioner:
        stage = _planned(tmp_path, media, rows, captioner)
        [task] = _tasks((0, CLIPS))
        with pytest.raises(MachineError, match="the key is not accepted"):
            map_task(task, stage)
        captioner.reply = lambda _body, _number: None
        map_task(task, stage)
        assert captioner.succeeded.total() == CLIPS


def test_a_cancelled_task_asks_nothing_more(clips: tuple[Path, pa.Table], tmp_path: Path) -> None:
    media, rows = clips
    cancelled = threading.Event()

    def reply(_body: Any, number: int) -> None:
        if number == 2:
            time.sleep(0.3)  # until the answers are waited for
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        cancelled.wait(60)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with served(Captioner(reply)) as captioner:
            stage = _planned(tmp_path, media, rows, captioner, in_flight=3)
            with pytest.raises(KeyboardInterrupt):
                map_task(_tasks((0, CLIPS))[0], stage)
            cancelled.set()
            for thread in [one for one in threading.enumerate() if one.name.startswith("ask_")]:
                thread.join(2)
            assert len(captioner.requests) == 3
    finally:
        signal.signal(signal.SIGINT, handler)


def test_a_changed_clip_alone_is_asked_for_anew(clips: tuple[Path, pa.Table], tmp_path: Path) -> None:
    media, rows = clips
    with served(Captioner()) as captioner:
        before = _planned(tmp_path / "before", media, rows, captioner)
        Mapper(before)(*_tasks((0, CLIPS)))
        (before.work / "parts").rename(tmp_path / "before" / "data")
        parts = read_parts(tmp_path / "before" / "data")
        write_row_index(
            tmp_path / "before", (read_table(one.index_path(tmp_path / "before" / "data")) for one in parts)
        )
        frames = np.full((8, 64, 64, 3), 40, np.uint8)
        frames[:, 20:52, 20:52] = (20, 20, 230)
        write_h264(media / "new.mp4", frames, 8)
        # One clip is another; another one has a new caption and lies elsewhere, and that is no question.
        edited = rows.to_pylist()
        edited[0] |= {"uri": "moved.mp4", "caption": "corrected"}
        edited[1] = probed(media, ["new.mp4"]).to_pylist()[0]
        after = _planned(tmp_path / "after", media, pa.Table.from_pylist(edited, rows.schema), captioner)
        assert reuse_earlier(after, 0, Shard(), tmp_path / "before", "f") == ([], "")
        Mapper(after)(*_tasks((0, CLIPS)))
        assert captioner.succeeded.total() == CLIPS + 1
        files = [
            str(after.work / "parts" / file.name) for part in read_parts(after.work / "parts") for file in part.files
        ]
        found = {row["clip_id"]: row for file in files for row in pq.read_table(file).to_pylist()}
    assert len(found) == CLIPS
    assert found["0.mp4"]["caption"] == "corrected"
    assert found["0.mp4"]["caption_new"].startswith("A red square stands still")
    assert found["new.mp4"]["caption_new"].startswith("A blue square stands still")
