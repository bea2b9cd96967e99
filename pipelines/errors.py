"""The errors a user sees as one line."""

from __future__ import annotations


class PipelineError(Exception):
    """Something the user can put right; the message names the thing, what was expected and what to do next."""


class StoreError(PipelineError):
    """The store cannot be used: not writable, too little space, or a damaged record."""


class StageError(PipelineError):
    """A stage broke its contract with the DAG, or failed."""


class LeaseLostError(PipelineError):
    """Another runner took over the stage while this one was busy with it."""
