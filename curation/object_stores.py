"""Object stores: which server holds the objects that rows name, and how it is spoken to.

A row names a bucket and a key. Its own options would send signed requests, and tokens with them, wherever a manifest
from outside says; so they are refused unless the config allows them by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from lumina.config import Config

Option = Literal["region", "endpoint_override", "scheme"]


class ObjectStore(Config):
    """The server of one kind of store; what is None is as the environment and the client have it."""

    region: str | None = None
    """Region of the buckets."""
    endpoint_override: str | None = None
    """`host:port` of a server that is not the cloud's own."""
    scheme: Literal["http", "https"] | None = None
    """`http` for a server without encryption."""
    anonymous: bool = False
    """Send no credentials: the buckets are public."""

    def options(self) -> Mapping[str, str]:
        """Those that are given, as pyarrow calls them."""
        given = {
            "region": self.region,
            "endpoint_override": self.endpoint_override,
            "scheme": self.scheme,
        }
        return {name: value for name, value in given.items() if value is not None}


class ObjectStores(Config):
    """Where the media in `s3://` and `gs://` are."""

    s3: ObjectStore = Field(default_factory=ObjectStore)
    """Of `s3://bucket/key`."""
    gs: ObjectStore = Field(default_factory=ObjectStore)
    """Of `gs://bucket/key`."""
    row_options: tuple[Option, ...] = ()
    """Options that a row may give itself, as in `s3://bucket/key?region=eu-west-1`: for a manifest that you trust."""


AS_TYPED = ObjectStores(row_options=("region", "endpoint_override", "scheme"))
"""Of a URI that a person types."""
