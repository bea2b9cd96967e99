"""The base class of every configuration in the project."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen model that refuses unknown keys, and numbers that are infinite or none.

    The docstring under a field is its help text: it appears in the JSON schema and in error messages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
