"""From start to end: quick to be ready, honest while it is not, and no turn lost at the end."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from chat_server_process import ServerProcess, sse_events
from programs import Result, run_program
from shared_files import chat_model, story_model

from chat_server.server import ListenError, chosen_template, listen
from chat_server.store import Store
from lm_core.errors import LanguageModelError

StartServer = Callable[..., ServerProcess]

LONG = {"content": "Once upon a time", "max_tokens": 450, "temperature": 2.0, "top_k": 0, "top_p": 1.0}


def stored_turns(server: ServerProcess) -> list[int]:
    """How many turns each session has in the store of a server that has ended, oldest session first."""
    with Store.open(str(server.database)) as store:
        return [session.turns for session in reversed(store.sessions(""))]


def wait_for_turns(server: ServerProcess, number: int) -> None:
    """Until so many have been asked for."""
    while sum("Turn requested" in line for line in server.log) < number:
        time.sleep(0.002)


def test_health_metrics_and_pages(server: ServerProcess, client: httpx.Client, session_id: str) -> None:
    client.put(f"/generate/{session_id}", json={"content": "x", "max_tokens": 5})
    health = client.get("/health").json()
    assert health["status"] == "ok" and health["model"] == "story" and health["dtype"] in ("f32", "bf16")
    assert (
        health["threads"] == 1 and health["sessions"] >= 1 and health["kv_bytes"] > 0 and health["queue"] == 0
    )
    assert server.metric("generated_tokens_total") >= 1
    assert server.metric("time_to_first_token_seconds_count") >= 1
    assert server.metric('requests_total{method="PUT",route="/generate/{id}",status="200"}') >= 1
    assert server.metric("kv_bytes") == health["kv_bytes"]
    for page in ("/docs", "/docs/static/swagger-ui-bundle.js", "/docs/static/swagger-ui.css"):
        answer = client.get(page)
        assert answer.status_code == 200 and answer.content
    # The page asks no other server for anything.
    page = client.get("/docs")
    links = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
    assert links and all(link.startswith("/") for link in links)
    assert '"validatorUrl": null' in page.text and "http" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'self';")
    assert client.get("/docs/static/redoc.standalone.js").status_code == 404


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.soak)])
def test_what_runs_may_finish(start_server: StartServer, number: signal.Signals) -> None:
    """New work gets 503, what runs and waits is done, the exit code is 0, and the turns are there."""
    server = start_server("--max-running", "2", "--log-level", "debug")
    answers: list[httpx.Response] = []
    with server.client() as client:
        for index in range(4):
            client.post("/createSession", json={"id": f"s{index}"})

        def run(index: int) -> None:
            with server.client() as own:
                answers.append(
                    own.put(f"/generate/s{index}", json={**LONG, "seed": index, "stream": index == 0})
                )

        threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        wait_for_turns(server, 4)
        server.process.send_signal(number)
        while not any("shutting down" in line for line in server.log):
            time.sleep(0.002)
        try:
            refused = client.put("/generate/s0", json={"content": "late"})
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
            assert client.get("/health").json()["status"] == "draining"
        except httpx.TransportError:
            assert server.process.wait(60) == 0
        for thread in threads:
            thread.join()
    assert server.wait() == 0
    assert [answer.status_code for answer in answers] == [200] * 4
    streamed = [answer for answer in answers if "event-stream" in answer.headers["content-type"]]
    assert [sse_events(answer)[-1][0] for answer in streamed] == ["done"]
    assert server.events()[-1] == "Graceful shutdown completed"
    assert stored_turns(server) == [1] * 4


@pytest.mark.parametrize("how", ["grace is over", "second signal"])
def test_what_does_not_finish_ends_in_an_explicit_error(start_server: StartServer, how: str) -> None:
    grace = "0" if how == "grace is over" else "600"
    server = start_server("--max-running", "1", "--grace", grace, "--log-level", "debug")
    told: dict[int, httpx.Response] = {}
    with server.client() as client:
        for index in range(12):
            client.post("/createSession", json={"id": f"s{index}"})

    def run(index: int) -> None:
        with server.client() as own:
            told[index] = own.put(
                f"/generate/s{index}", json={**LONG, "seed": index, "stream": index % 2 == 0}
            )

    threads = [threading.Thread(target=run, args=(index,)) for index in range(12)]
    for thread in threads:
        thread.start()
    wait_for_turns(server, 12)
    server.process.send_signal(signal.SIGTERM)
    if how == "second signal":
        while not any("shutting down" in line for line in server.log):
            time.sleep(0.002)
        server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    for thread in threads:
        thread.join()
    lost = 0
    for index, answer in told.items():
        if "event-stream" in answer.headers["content-type"]:
            name, data = sse_events(answer)[-1]
            lost += name == "error"
            assert name == "done" or json.loads(data)["error"]["type"] == "unavailable_error"
        else:
            lost += answer.status_code == 503
            assert answer.status_code in (200, 503), (index, answer.text)
    assert lost and any("given up" in line for line in server.log)
    assert sum(stored_turns(server)) == 12 - lost


def test_what_changes_the_store_is_waited_for(start_server: StartServer) -> None:
    """A revert that waits for a turn when the signal comes is done before the store is closed."""
    server = start_server("--log-level", "debug")
    answers: list[httpx.Response] = []

    def send(path: str, body: dict[str, object]) -> None:
        with server.client() as own:
            answers.append(own.put(path, json=body))

    with server.client() as client:
        client.post("/createSession", json={"id": "a"})
        client.put("/generate/a", json={"content": "Hello", "max_tokens": 2})
        turn = threading.Thread(target=send, args=("/generate/a", LONG))
        turn.start()
        wait_for_turns(server, 2)
        files = server.open_files()
        revert = threading.Thread(target=send, args=("/revert/a", {"turn": 0}))
        revert.start()
        while server.open_files() == files:
            time.sleep(0.001)
        # By the time of this answer the request before it has begun.
        client.get("/health").raise_for_status()
        server.process.send_signal(signal.SIGTERM)
        turn.join()
        revert.join()
    assert server.wait() == 0
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses in ([200, 200], [200, 503])
    assert server.events()[-1] == "Graceful shutdown completed"
    assert stored_turns(server) == [0 if statuses == [200, 200] else 2]


@pytest.mark.parametrize(
    "sent", [b"PUT /generate/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n{"]
)
@pytest.mark.parametrize(("length", "status"), [(100, 503), (9_000_000, 413)])
def test_half_a_request_does_not_hold_up_the_end(
    start_server: StartServer, sent: bytes, length: int, status: int
) -> None:
    server = start_server()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(sent % length)
        with server.client() as client:
            # By the time of this answer the request before it has begun.
            client.get("/health").raise_for_status()
        assert server.stop() == 0
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert not any("ERROR" in line or "WARNING" in line for line in server.log), server.log


def test_signals_at_any_moment_end_it_well(start_server: StartServer) -> None:
    """Before it listens, and again and again while it ends."""
    starting = start_server(wait=False)
    # Until Python has come to the program there is nobody to catch it: bit 14 is SIGTERM's.
    while not starting.caught_signals() >> 14 & 1:
        assert starting.process.poll() is None
    assert starting.stop() == 0
    assert not any("ERROR" in line or "Traceback" in line for line in starting.log), starting.log
    server = start_server()
    while server.process.poll() is None:
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.001)
    assert server.wait() == 0
    assert server.events()[-1] == "Graceful shutdown completed"


def test_start_errors_are_one_line(tmp_path: Path) -> None:
    def start(*options: str) -> Result:
        return run_program("chat_server", ["--port", "0", "--database", str(tmp_path / "x.sqlite"), *options])

    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text("{")
    start("-m", str(damaged)).assert_one_line_error(1, "config.json")
    start("-m", str(tmp_path / "none")).assert_one_line_error(1, "no model")
    (tmp_path / "x.sqlite").write_bytes(b"no database " * 100)
    start("-m", str(story_model())).assert_one_line_error(1, "database")


def test_an_address_that_cannot_be_listened_on() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ListenError, match="--port"),
    ):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ListenError, match="--host"):
        listen("no.such.host.invalid", 0)
    with listen("::1", 0) as listener:
        assert listener.getsockname()[0] == "::1"


def test_a_template_that_is_none() -> None:
    with pytest.raises(LanguageModelError, match="chatml, plain"):
        chosen_template("nonsense")


def test_a_model_without_a_template(tmp_path: Path) -> None:
    """It is told at the start and at each try, and never replaced by a guess; token ids work."""
    server = ServerProcess(story_model(), tmp_path / "x.sqlite")
    try:
        assert any("--chat-template" in line for line in server.log)
        with server.client() as client:
            client.post("/createSession", json={"id": "a"})
            refused = client.put("/generate/a", json={"content": "Hello"})
            assert refused.status_code == 400 and refused.json()["error"]["code"] == "template_error"
            assert client.post("/createSession", json={"id": "b", "system": "x"}).status_code == 400
            assert client.put("/generate/a", content="[5, 6, 7]").status_code == 200
    finally:
        assert server.stop() == 0


def test_a_template_from_a_file(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("{% for message in messages %}{{ message['content'] }}!{% endfor %}")
    server = start_server("--chat-template", str(file))
    with server.client() as client:
        client.post("/createSession", json={"id": "a"})
        turn = client.put("/generate/a", json={"content": "Hello", "max_tokens": 1}).json()
        tokens = client.post("/tokenize", json={"content": "Hello!"}).json()["tokens"]
        assert turn["usage"]["prompt_tokens"] == len(tokens)


def test_a_shorter_context(start_server: StartServer) -> None:
    server = start_server("--context-length", "40", "-n", "1000")
    with server.client() as client:
        assert client.post("/createSession", json={"id": "a"}).json()["context_length"] == 40
        refused = client.put("/generate/a", json={"content": "word " * 60}).json()["error"]
        assert refused["context_length"] == 40
        usage = client.put("/generate/a", json={"content": "Once", "temperature": 2.0}).json()["usage"]
        assert usage["prompt_tokens"] + usage["completion_tokens"] <= 40
    assert server.stop() == 0
    server = start_server("--context-length", "4000")
    assert any("WARNING" in line and "512 tokens" in line for line in server.log)


def test_a_session_of_another_model_is_not_continued(start_server: StartServer, tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "chat.sqlite")) as store:
        store.create("", "a", model="another")
    server = start_server()
    with server.client() as client:
        refused = client.put("/generate/a", json={"content": "Hello"})
        assert refused.status_code == 409 and refused.json()["error"]["code"] == "model_mismatch"


@pytest.mark.slow
def test_ready_in_time_and_within_its_memory(start_server: StartServer) -> None:
    """In processor time, best of three: other work on the machine makes a start slower by the clock."""
    model = chat_model()
    seconds = []
    for _ in range(3):
        server = start_server("--kv-budget", "64M", model=model)
        with server.client() as client:
            assert client.get("/health").status_code == 200
            seconds.append(server.processor_seconds())
            client.post("/createSession", json={"id": "memory"})
            body = {"content": "Tell me of the sea.", "max_tokens": 8}
            assert client.put("/generate/memory", json=body).status_code == 200
            peak = 1024 * server.status("VmHWM")
            client.delete("/removeSession/memory")
        server.stop()
    checkpoint = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    assert peak <= 1.15 * checkpoint + (64 << 20), (peak, checkpoint)
    assert min(seconds) <= 1.5, seconds
