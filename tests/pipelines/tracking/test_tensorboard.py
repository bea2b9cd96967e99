"""Event files for TensorBoard, read back by the format of TFRecord files: its frames and checksums are of this file."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event
from typer.testing import CliRunner

from pipelines import cli
from pipelines.engine.store.store import Store
from tests.pipelines.tracking.recorded import recorded_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return recorded_run(tmp_path_factory.mktemp("store"))


def _checksum(data: bytes) -> int:
    """CRC-32C (Castagnoli), masked as TFRecord has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _read(path: Path) -> list[Event]:
    data, at, events = path.read_bytes(), 0, []
    while at < len(data):
        length, crc = struct.unpack_from("<QI", data, at)
        assert crc == _checksum(data[at : at + 8])
        body = data[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", data, at + 12 + length) == (_checksum(body),)
        events.append(Event.FromString(body))
        at += 16 + length
    return events


def test_event_files_have_curves_figures_and_clips(store: Store) -> None:
    for _ in range(2):  # the second replaces the first
        done = CliRunner().invoke(cli.app, ["track", "--to", "tensorboard", "--store", str(store.root)])
        assert done.exit_code == 0, done.output
    assert f"tensorboard --logdir {store.root / 'tensorboard'}" in done.output
    [path] = (store.root / "tensorboard" / "r1" / "train@1").glob("*tfevents*")
    first, *events = _read(path)
    assert first.file_version == "brain.Event:2"
    assert [event.step for event in events] == [10, 20]
    values = [{value.tag: value for value in event.summary.value} for event in events]
    assert set(values[0]) == {"loss"}
    assert set(values[1]) == {"loss", "sample/shapes/shape_acc/web", "train/clips", "web/A red circle."}
    assert [one["loss"].simple_value for one in values] == [pytest.approx(0.1), pytest.approx(0.05)]
    assert values[1]["sample/shapes/shape_acc/web"].simple_value == 0.5
    assert values[1]["train/clips"].simple_value == 7
    image = values[1]["web/A red circle."].image
    assert image.encoded_image_string.startswith(b"\x89PNG")
    assert image.height == 112


def test_a_server_is_not_for_event_files(store: Store) -> None:
    command = ["track", "--to", "tensorboard", "--uri", "http://x", "--store", str(store.root)]
    done = CliRunner().invoke(cli.app, command)
    assert done.exit_code == 1
    assert "--uri is for MLflow" in done.output
