"""The video server's API: OpenAI's answers, one line for what is wrong, a bounded queue, and nobody else's pages."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from jobs.serve_request import BODY_BYTES, Limits, Served
from pipelines import cli
from tests.jobs.serving import Gate, application, checkpoint, real, until


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return checkpoint(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[TestClient]:
    with TestClient(application(served, real(served))) as opened:
        yield opened


@pytest.fixture
def gate() -> Gate:
    return Gate()


def post(client: TestClient, **fields: Any) -> Any:
    return client.post("/v1/videos", json={"prompt": "x"} | fields)


def test_a_clip_is_that_of_the_command_it_tells(client: TestClient, tmp_path: Path) -> None:
    fields = {"prompt": "a red circle", "seed": 7, "source": "web", "motion": 3, "negative_prompt": "two's blue"}
    made = post(client, **fields, preset="f16F64R512-MultiScale", steps=3, size="32x64", seconds="2")
    assert made.status_code == 200
    job = made.json()
    assert (job["object"], job["model"], job["size"], job["seconds"]) == ("video", "tiny", "32x64", "2")
    assert (job["status"], job["progress"], job["error"], job["completed_at"]) == ("queued", 0, None, None)
    done = until(client, job["id"], "completed")
    assert (done["progress"], done["steps_done"], done["steps"]) == (100, 3, 3)
    content = client.get(f"/v1/videos/{job['id']}/content")
    assert content.headers["content-type"] == "video/mp4"
    words = shlex.split(done["command"])
    ran = CliRunner().invoke(cli.app, [*words[1:], "--out", str(tmp_path / "clip.mp4")])
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "clip.mp4").read_bytes() == content.content
    again = client.post("/v1/videos", json=done["request"]).json()
    until(client, again["id"], "completed")
    assert client.get(f"/v1/videos/{again['id']}/content").content == content.content


def test_a_sampler_of_ones_own_has_no_command(client: TestClient) -> None:
    sampler = {"steps": 1, "patches": [[0.0, [2, 2, 2]]]}
    job = post(client, sampler=sampler).json()
    assert job["command"] is None
    assert job["request"]["sampler"]["patches"] == [[0.0, [2, 2, 2]]]
    until(client, job["id"], "completed")


def test_forms_are_taken(client: TestClient) -> None:
    fields = {"prompt": "ein rotes Quadrat – schön", "seconds": "1", "seed": "3", "size": "", "steps": "1"}
    for job in (
        client.post("/v1/videos", data=fields).json(),
        client.post("/v1/videos", files={name: (None, value) for name, value in fields.items()}).json(),
    ):
        asked = job["request"]
        assert (asked["prompt"], asked["seed"], asked["frames"]) == (fields["prompt"], 3, 8)
        assert client.delete(f"/v1/videos/{job['id']}").json() == {
            "id": job["id"],
            "object": "video.deleted",
            "deleted": True,
        }
    sent = client.post("/v1/videos", data={"prompt": "x"}, files={"input_reference": ("../a.png", b"png")})
    assert sent.status_code == 400
    assert "files are not taken" in sent.json()["error"]["message"]


def test_what_is_wrong_is_one_line_that_names_the_field(client: TestClient) -> None:
    for fields, status, param, told in (
        ({"prompt": ""}, 400, "prompt", "prompt: "),
        ({"prompt": "x" * 4001}, 400, "prompt", "at most 4000 characters"),
        ({"out": "/etc/passwd"}, 400, "out", "there is no field 'out'; there are prompt, "),
        ({"model": "sora-2"}, 404, "model", "there is no model 'sora-2'; this server has tiny"),
        ({"source": "film"}, 400, "source", "no system prompt for source 'film'; there are clean, web"),
        ({"size": "72x32"}, 400, "size", "near it: 64x32, 96x32"),
        ({"size": "8192x8192"}, 400, "size", "at most 921,600 pixels are made, got 8192x8192"),
        ({"size": "../../x"}, 400, "size", "size: "),
        ({"frames": 12}, 400, "frames", "take 8 or 16"),
        ({"frames": 1000}, 400, "frames", "at most 128 frames are made, got 1000"),
        ({"seconds": "1000"}, 400, "seconds", "at most 128 frames are made, got 8000"),
        ({"seconds": "0.3"}, 400, "seconds", "0.3 at 8 fps is no whole number of frames"),
        ({"seconds": "1", "frames": 8}, 400, "seconds", "give the one or the other"),
        ({"seconds": "1e400"}, 400, "seconds", "seconds: "),
        ({"steps": 101}, 400, "steps", "at most 100 are made, got 101"),
        ({"seed": -1}, 400, "seed", "seed: "),
        ({"preset": "fast"}, 400, "preset", "no sampler preset 'fast'; there are f16F64R512"),
        ({"preset": "f16F64R512", "sampler": {}}, 400, "sampler", "preset names one already"),
        ({"sampler": {"patches": [[0.0, [1, 8, 8]]]}}, 400, "preset", "the model has no patch size (1, 8, 8)"),
    ):
        refused = post(client, **fields)
        error = refused.json()["error"]
        assert (refused.status_code, error["param"], error["type"]) == (status, param, "invalid_request_error")
        assert told in error["message"]
        assert "\n" not in error["message"]


@pytest.mark.parametrize(
    ("kind", "body", "status", "told"),
    [
        ("application/json", b"{", 400, "the body is not what"),
        ("application/json", b"[]", 400, "no JSON object"),
        ("application/json", b"[" * 30_000, 400, "the body is not what"),
        ("application/json", b"{}", 400, "prompt is missing"),
        ("application/json", b" " * (BODY_BYTES + 1), 413, "more than 65,536 bytes"),
        ("text/plain", b"{}", 415, "send application/json"),
        ("multipart/form-data", b"x", 400, "the body is not what"),
        ("application/x-www-form-urlencoded", b"\xff", 400, "the body is not what"),
    ],
)
def test_bodies_that_are_none(client: TestClient, kind: str, body: bytes, status: int, told: str) -> None:
    refused = client.post("/v1/videos", content=body, headers={"content-type": kind})
    assert (refused.status_code, told in refused.json()["error"]["message"]) == (status, True)


def test_what_is_not_there(client: TestClient) -> None:
    for method, path, status in (
        ("GET", "/v1/videos/none", 404),
        ("GET", "/v1/videos/none/content", 404),
        ("DELETE", "/v1/videos/none", 404),
        ("GET", "/v1/videos/..%2f..%2fetc%2fpasswd/content", 404),
        ("GET", "/v1/models/none", 404),
        ("GET", "/nothing", 404),
        ("PUT", "/v1/videos", 405),
        ("GET", "/v1/videos?limit=x", 400),
        ("GET", "/v1/videos?order=up", 400),
    ):
        refused = client.request(method, path)
        assert refused.status_code == status, path
        assert set(refused.json()["error"]) == {"message", "type", "param", "code"}


def test_models_health_and_cost(client: TestClient) -> None:
    [model] = client.get("/v1/models").json()["data"]
    assert (model["id"], model["sources"]) == ("tiny", ["clean", "web"])
    assert client.get("/v1/models/tiny").json() == model
    own, finest, *presets = client.post("/cost", json={"size": "64x32"}).json()["schedules"]
    assert own["scales"] == [
        {"patch": [2, 4, 4], "tokens": 2, "evaluations": 6},
        {"patch": [1, 2, 2], "tokens": 16, "evaluations": 2},
    ]
    assert own["relative"] == round(own["flops"] / finest["flops"], 4) < 1 == finest["relative"]
    assert [one["label"] for one in presets][:2] == ["f16F64R512", "f16F64R512-MultiScale"]
    still = client.post("/cost", json={"frames": 1}).json()["schedules"][0]
    assert [one["patch"] for one in still["scales"]] == [[1, 2, 2]]
    assert still["relative"] == 1
    wrong = client.post("/cost", json={"size": "48x32"}).json()["schedules"]
    assert "near it" in wrong[0]["error"]
    assert "cost" in wrong[1]


def test_a_running_clip_is_stopped_between_two_steps(client: TestClient) -> None:
    long = post(client, steps=100).json()
    until(client, long["id"], "in_progress")
    assert client.get("/health").json() == {"status": "ok", "queued": 0, "in_progress": 1}
    assert client.delete(f"/v1/videos/{long['id']}").status_code == 200
    assert client.get(f"/v1/videos/{long['id']}").status_code == 404
    until(client, post(client, steps=1).json()["id"], "completed")


def test_the_queue_has_an_end_and_an_order(served: Served, gate: Gate) -> None:
    with TestClient(application(served, gate.make, Limits(max_queue=2))) as client:
        first, second, third = (post(client, prompt=name).json()["id"] for name in ("1", "2", "3"))
        until(client, first, "in_progress")
        full = post(client)
        assert full.status_code == 429
        assert int(full.headers["retry-after"]) > 0
        assert full.json()["error"]["type"] == "rate_limit_error"
        assert full.json()["error"]["message"] == "the queue is full: 2 clips wait already; try again later"
        assert [client.get(f"/v1/videos/{name}").json()["ahead"] for name in (second, third)] == [0, 1]
        assert client.get(f"/v1/videos/{second}/content").json()["error"]["message"].endswith("it is queued")
        assert client.delete(f"/v1/videos/{second}").status_code == 200
        bad = post(client, prompt="bad").json()["id"]
        listed = client.get("/v1/videos?limit=2").json()
        assert [job["id"] for job in listed["data"]] == [bad, third]
        assert listed["has_more"]
        rest = client.get(f"/v1/videos?after={listed['last_id']}").json()
        assert ([job["id"] for job in rest["data"]], rest["has_more"]) == ([first], False)
        assert client.delete(f"/v1/videos/{first}").status_code == 200
        gate.open = True
        until(client, third, "completed")
        while (job := client.get(f"/v1/videos/{bad}").json())["status"] != "failed":
            time.sleep(0.01)
        assert job["error"] == {"code": "generation_failed", "message": "RuntimeError: no luck"}
        assert client.get(f"/v1/videos/{bad}/content").status_code == 404
    assert gate.begun == ["1", "3", "bad"]
    assert gate.stopped == ["1"]


def test_what_is_kept_has_bounds(served: Served, gate: Gate) -> None:
    gate.open = True
    for limits, left in (
        (Limits(keep_clips=2), [2, 3]),
        (Limits(keep_bytes=9), [2, 3]),
        (Limits(keep_bytes=1), [3]),
    ):
        with TestClient(application(served, gate.make, limits)) as client:
            names = []
            for _ in range(4):
                names.append(post(client).json()["id"])
                until(client, names[-1], "completed")
            found = [client.get(f"/v1/videos/{name}/content").status_code for name in names]
            assert [number for number, status in enumerate(found) if status == 200] == left


def test_a_server_that_ends_stops_what_it_makes(served: Served, gate: Gate) -> None:
    with TestClient(application(served, gate.make)) as client:
        until(client, post(client).json()["id"], "in_progress")
    assert gate.stopped == ["x"]


def test_pages_of_other_sites_are_refused(client: TestClient) -> None:
    for headers in (
        {"origin": "https://elsewhere.example"},
        {"origin": "null"},
        {"origin": "http://testserver:81"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"host": "elsewhere.example"},
    ):
        refused = client.post("/v1/videos", json={"prompt": "x"}, headers=headers)
        assert refused.status_code == 403, headers
        assert json.dumps(refused.json())
    assert client.get("/", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}).status_code == 200
    answer = client.get("/", headers={"origin": "http://testserver"})
    assert "access-control-allow-origin" not in answer.headers
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.text
    assert client.get("/health").headers["x-content-type-options"] == "nosniff"
