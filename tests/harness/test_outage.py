"""A real MLflow server that is killed in mid-run and started again, and a connection that loses answers."""

import http.client
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from harness_support import MEASURED, Argv, history
from mlflow import MlflowClient
from mlflow_server import MlflowServer

from resbench.harness import names, tracking
from resbench.harness.fit import fit


@pytest.fixture
def server(output_dir: Path) -> Iterator[MlflowServer]:
    found = MlflowServer(output_dir)
    yield found
    found.kill()


class Forgetful(BaseHTTPRequestHandler):
    """Hands requests on to the server, and loses every other answer to a batch of metrics after the server has stored it."""

    upstream = 0
    batches = 0
    lost = 0

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=30)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        if self.path.endswith("log-batch") and b'"metrics"' in body:
            type(self).batches += 1
            if type(self).batches % 2:
                type(self).lost += 1
                self.close_connection = True
                return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = _pass_on

    def log_message(self, format: str, *arguments: object) -> None:
        return


def metrics_of(client: MlflowClient, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Every point of every metric that a second run would share."""
    metrics = client.get_run(run_id).data.metrics
    return {
        name: sorted((point.step, point.value) for point in client.get_metric_history(run_id, name))
        for name in metrics
        if not name.startswith(MEASURED)
    }


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back(
    argv: Argv,
    output_dir: Path,
    server: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tracking, "SEND_EVERY_S", 0.2)
    monkeypatch.setattr(tracking, "LONGEST_WAIT_S", 0.5)
    arguments = argv("--trainer.log_every_n_steps=1", "--every.checkpoint=2560")
    undisturbed = fit(arguments)
    server.start()
    server.wait()
    down_since: list[float] = []
    seen: list[int] = []

    def watch(tokens: int, loss: float) -> None:
        seen.append(tokens)
        if tokens == 1024:
            server.kill()
            down_since.append(time.monotonic())
        if tokens > 1024:
            assert not server.answers()
        if tokens == 5120:
            server.start()  # training is over: all of it after 1,024 tokens had no server

    result = fit([*arguments, f"--tracking.uri={server.uri}"], on_validation=watch)
    assert seen == list(range(512, 5121, 512))
    assert result.outcome == "complete"
    client = MlflowClient(server.uri)
    run = client.get_run(result.run_id)
    assert (run.info.status, run.data.tags["outcome"]) == ("FINISHED", "complete")
    assert caplog.text.count("does not take metrics") == 1
    assert "takes metrics again" in caplog.text
    found, expected = metrics_of(client, result.run_id), metrics_of(client, undisturbed.run_id)
    assert len(expected[names.TRAIN_LOSS]) == 40
    assert found == expected  # every point, once
    for name in (names.TOKENS_PER_S, names.PEAK_GIB):
        points = [step for step, _ in history(output_dir, result.run_id, name)]
        assert points == [step for step, _ in history(output_dir, undisturbed.run_id, name)]
    profiles = [artifact.path for artifact in client.list_artifacts(result.run_id, "stability")]
    assert "stability/profile_5120.json" in profiles

    Forgetful.upstream = server.port
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Forgetful)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        again = fit([*arguments, f"--tracking.uri=http://127.0.0.1:{proxy.server_port}"])
    finally:
        proxy.shutdown()
        proxy.server_close()
    assert Forgetful.lost > 0
    assert metrics_of(client, again.run_id) == expected
