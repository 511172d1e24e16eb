"""Text from the hub, end to end, over HTTP: a stand-in on loopback answers the requests that `datasets` makes."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

COMMIT = "c0ffee" * 6 + "c0de"
ROWS = [{"text": f"sentence {i} of the dataset"} for i in range(60)]
FILES = {"README.md": b"A dataset.\n", "train.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode()}


class StandIn(BaseHTTPRequestHandler):
    """One dataset, `someone/set`, of one file; asking for `someone/broken` is an internal error."""

    def log_message(self, *arguments: Any) -> None:
        """Keep the test's output quiet."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/datasets/someone/broken"):
            self.answer(500, b"{}")
        elif path in ("/api/datasets/someone/set", f"/api/datasets/someone/set/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in FILES]
            self.answer(200, json.dumps({"id": "someone/set", "sha": COMMIT, "siblings": siblings}).encode())
        elif path == f"/api/datasets/someone/set/tree/{COMMIT}":
            self.answer(200, json.dumps([self.entry(name) for name in FILES]).encode())
        elif path.startswith("/datasets/someone/set/resolve/") and path.rsplit("/", 1)[1] in FILES:
            self.answer_file(path.rsplit("/", 1)[1])
        else:
            missing = "EntryNotFound" if "someone/set" in path else "RepoNotFound"
            self.answer(404, b"{}", {"X-Error-Code": missing})

    def entry(self, name: str) -> dict[str, str | int]:
        return {"type": "file", "path": name, "size": len(FILES[name]), "oid": hashlib.sha1(FILES[name]).hexdigest()}

    def answer_file(self, name: str) -> None:
        content = FILES[name]
        headers = {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        if (wanted := self.headers.get("Range")) is None:
            self.answer(200, content, headers)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = slice(int(first), min(int(last) + 1 if last else len(content), len(content)))
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(content)}"
        self.answer(206, content[part], headers)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[str]:
    """Address of a stand-in for the hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


PROGRAM = """
import json, sys
from resbench.tasks.hub_text import HubText

for arguments in json.loads(sys.argv[1]):
    try:
        task = HubText(context_length=8, val_fraction=0.2, **arguments)
        task.setup()
        said = task.describe()
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    print("said", json.dumps(said))
"""


def describe(tmp_path: Path, tasks: list[dict[str, Any]], **environment: str) -> list[Any]:
    """Each task's description, or its error, from one process whose Hugging Face cache is the test's own."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(tasks)],
        env={**clean, "HF_HOME": str(tmp_path / "hf"), "HF_UPDATE_DOWNLOAD_COUNTS": "0", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [json.loads(line.removeprefix("said ")) for line in run.stdout.splitlines() if line.startswith("said ")]


def test_streamed_downloaded_and_offline_give_the_same_corpus(tmp_path: Path, hub: str) -> None:
    def ask(cache: str, **arguments: Any) -> dict[str, Any]:
        return {"path": "someone/set", "cache_dir": str(tmp_path / cache), **arguments}

    streamed, downloaded, column, split, config, revision, missing, broken = describe(
        tmp_path,
        [
            ask("streamed", streaming=True),
            ask("downloaded", streaming=False),
            ask("a", column="body"),
            ask("b", split="test"),
            ask("c", config_name="french"),
            ask("d", revision="v9"),
            ask("e", path="someone/none"),
            ask("f", path="someone/broken"),
        ],
        HF_ENDPOINT=hub,
    )
    assert streamed["train_documents"] + streamed["validation_documents"] == len(ROWS)
    assert streamed["train_bytes"] + streamed["validation_bytes"] == sum(len(row["text"]) for row in ROWS)
    assert (streamed["source"], streamed["split"]) == ("someone/set", "train")
    assert downloaded["fingerprint"] == streamed["fingerprint"]

    assert column.startswith(
        "ValueError: data.init_args.column='body': no such column in someone/set (train); its columns: text"
    )
    assert split.startswith("ValueError: data.init_args.split='test': someone/set has no such split; it has: train")
    assert config.startswith("ValueError: data.init_args.path=someone/set (config_name=french")
    assert revision.startswith("ValueError: data.init_args.path=someone/set: the hub has no such dataset (revision v9)")
    assert missing.startswith("ValueError: data.init_args.path=someone/none: the hub has no such dataset")
    assert broken.startswith(
        "ConnectionError: data.init_args.path=someone/broken: the Hugging Face hub cannot be reached"
    )
    assert "500" in broken

    # The download is in the cache of `datasets`: offline, with no corpus cached and no hub, it is found there.
    (offline,) = describe(tmp_path, [ask("offline")], HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert offline["fingerprint"] == streamed["fingerprint"]


STREAM = """
import json, sys
from itertools import islice
from resbench.tasks.streamed_text import StreamedText

task = StreamedText("someone/set", context_length=32, batch_size=3, shuffle_block=5, val_fraction=0.2, max_train_bytes=500, cache_dir=sys.argv[1])
task.setup()
rows = lambda loader, count: [batch["tokens"].tolist() for batch in islice(loader, count)]
whole = rows(task.train_dataloader(), 60)
first = task.train_dataloader()
begun = rows(first, 7)
again = task.train_dataloader()
again.load_state_dict(json.loads(json.dumps(first.state_dict())))
print("said", json.dumps({"whole": whole, "resumed": begun + rows(again, 53), "validation": task.describe()["validation_documents"]}))
"""


def test_a_corpus_of_the_hub_is_streamed_while_training_and_resumed(tmp_path: Path, hub: str) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    run = subprocess.run(
        [sys.executable, "-c", STREAM, str(tmp_path / "cache")],
        env={**clean, "HF_HOME": str(tmp_path / "hf"), "HF_UPDATE_DOWNLOAD_COUNTS": "0", "HF_ENDPOINT": hub},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said = json.loads(run.stdout.splitlines()[-1].removeprefix("said "))
    assert said["resumed"] == said["whole"]
    # More of the source is read than the cached sample of 500 bytes (16 sequences) holds: an epoch is some fifty documents of 28 tokens.
    distinct = {tuple(row) for batch in said["whole"] for row in batch}
    assert len(distinct) > 35
    assert said["validation"] >= 2
