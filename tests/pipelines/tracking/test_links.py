"""Links into MLflow lead to what can be played, and show evaluations in one order."""

from __future__ import annotations

from urllib.parse import unquote

from pipelines.tracking.links import Found, links

EVALUATIONS = {"given": ("evaluate@x", "x"), "nothing": ("evaluate@y", "y")}


def test_the_files_are_those_of_the_last_evaluation_that_has_any_to_play() -> None:
    found = Found(pipelines="1", evals="2", parent="p", evaluations=EVALUATIONS, shown="given")
    assert links("sqlite:///x", found, None).clips_url.endswith("/experiments/2/runs/given/artifacts")
    assert links("sqlite:///x", Found(evaluations={"nothing": EVALUATIONS["nothing"]}), None).clips_url == ""


def test_evaluations_are_compared_by_name_in_whatever_order_they_ended() -> None:
    found = Found(evals="2", evaluations=dict(reversed(EVALUATIONS.items())))
    assert 'runs=["given","nothing"]&experiments=["2"]' in unquote(links("sqlite:///x", found, None).compare_url)
