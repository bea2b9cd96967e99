from __future__ import annotations

import pytest

from pipelines.engine.stage import Execution, Pipeline, Stage
from pipelines.errors import PipelineError
from tests.pipelines.toy import ToyConfig, diamond, stage


def test_order_follows_inputs_and_until_cuts() -> None:
    assert [s.name for s in diamond().order] == ["a", "b", "c", "d"]
    assert [s.name for s in diamond().until("c").order] == ["a", "c"]
    with pytest.raises(PipelineError, match="no stage 'x'; there are: a, b, c, d"):
        diamond().until("x")


def test_bad_graphs_say_what_is_wrong() -> None:
    with pytest.raises(PipelineError, match="cycle"):
        Pipeline("p", (stage("a", inputs=("b",)), stage("b", inputs=("a",))))
    with pytest.raises(PipelineError, match="'nowhere', which is none of its stages"):
        Pipeline("p", (stage("a", inputs=("nowhere",)),))
    with pytest.raises(PipelineError, match="two stages are named 'a'"):
        Pipeline("p", (stage("a"), stage("a")))
    with pytest.raises(PipelineError, match="stage name"):
        stage("../a")
    with pytest.raises(PipelineError, match="media_root_from"):
        Stage("a", "tests.pipelines.toy:write", ToyConfig(), execution=Execution(media_root_from="clips"))
