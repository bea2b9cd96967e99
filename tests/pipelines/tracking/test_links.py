"""Links into MLflow lead to what can be played."""

from __future__ import annotations

from pipelines.tracking.links import Found, links


def test_the_files_are_those_of_the_last_evaluation_that_has_any_to_play() -> None:
    found = Found(pipelines="1", evals="2", parent="p", evaluations=["given", "nothing"], shown="given")
    assert links("sqlite:///x", found, None).clips_url.endswith("/experiments/2/runs/given/artifacts")
    assert links("sqlite:///x", Found(evaluations=["nothing"]), None).clips_url == ""
