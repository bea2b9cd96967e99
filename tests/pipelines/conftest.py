"""A server that answers as S3 does."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.pipelines.engine.store.steps import CREDENTIALS


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """`host:port` of a moto server; credentials are in the environment."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patched:
        for name, value in CREDENTIALS.items():
            patched.setenv(name, value)
        server.start()
        host, port = server.get_host_and_port()
        yield f"{host}:{port}"
        server.stop()


@pytest.fixture
def s3_store(s3_endpoint: str) -> str:
    """URI of a store in a new bucket."""
    import boto3

    name = f"bucket-{uuid.uuid4().hex[:8]}"
    client = boto3.client("s3", endpoint_url=f"http://{s3_endpoint}", region_name="us-east-1")
    client.create_bucket(Bucket=name)
    return f"s3://{name}/some/prefix?region=us-east-1&endpoint_override={s3_endpoint}&scheme=http"
