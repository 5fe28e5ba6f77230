"""A local AWS in a process of its own, for a test to kill; its stacks, and the content of its bucket on disk."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from tests.conftest import ROOT, free_port

ACCOUNT = "000000000000"


def eventually(look: Callable[[], Any], seconds: float = 180.0, pause: float = 0.1) -> Any:
    """The first true result of `look`; AssertionError if it finds nothing in time."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "nothing was found in time"
        time.sleep(pause)
    return found


def module_of(script: str) -> str:
    """The module run by scripts/<script>.sh."""
    found = re.search(r"^run (\S+) ", (ROOT / f"scripts/{script}.sh").read_text(), re.MULTILINE)
    assert found, f"scripts/{script}.sh runs no module"
    return found[1]


def client(endpoint: str, service: str) -> Any:
    """A client of boto3 for a local AWS, as root of its account."""
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"max_attempts": 1}),
    )


class LocalProcess:
    """A local AWS with all of its state in `directory`. It runs while it is entered, on the same port after every
    start."""

    module = "local.server"

    def __init__(self, directory: Path, port: int = 0, preparation: Callable[[], None] | None = None) -> None:
        self.directory, self.port, self.preparation = directory, port or free_port(), preparation
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> LocalProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self.process
        return self.process.pid

    def start(self) -> float:
        """Start it and return the seconds until it answered. `preparation` runs in the new process before Python."""
        began = time.monotonic()
        command = [sys.executable, "-m", self.module, "--directory", str(self.directory), "--port", str(self.port)]
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=self.preparation
            )
        eventually(self._answers, pause=0.02)
        return time.monotonic() - began

    def _answers(self) -> bool:
        assert self.process and self.process.poll() is None, (self.directory / "server.log").read_text()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/_aws/execute-api/none/none/none")
            return connection.getresponse().status == 403
        except OSError:
            return False
        finally:
            connection.close()

    def kill(self, with_signal: signal.Signals = signal.SIGKILL) -> None:
        """End the process; by default as a power cut would."""
        if self.process:
            self.process.send_signal(with_signal)
            self.process.wait(120)
            self.process = None

    def stop(self) -> None:
        """End the process as scripts/local.sh does."""
        self.kill(signal.SIGTERM)

    def deploy(self, *parameters: str, name: str = "sluice") -> dict[str, str]:
        """Deploy template.yaml and return the stack's outputs."""
        options = [option for parameter in parameters for option in ("--parameter", parameter)]
        command = [sys.executable, "-P", "-m", "scripts.commands", module_of("deploy"), "--local", "--yes"]
        command += ["--stack-name", name]
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'lambda'}",
            "SLUICE_LOCAL_STATE": str(self.directory),
        }
        done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(line.split("\t") for line in done.stdout.splitlines())

    def key(self) -> str:
        """The ARN of a KMS key, made as docs/security.md says."""
        cloudformation, text = self.client("cloudformation"), (ROOT / "examples" / "key.yaml").read_text()
        cloudformation.create_stack(StackName="sluice-key", TemplateBody=text)
        cloudformation.get_waiter("stack_create_complete").wait(StackName="sluice-key", WaiterConfig={"Delay": 1})
        (stack,) = cloudformation.describe_stacks(StackName="sluice-key")["Stacks"]
        return str(stack["Outputs"][0]["OutputValue"])

    def client(self, service: str) -> Any:
        """A client of boto3, as root of the local account."""
        return client(self.endpoint, service)

    def resource(self, logical_id: str, name: str = "sluice") -> str:
        """The physical id of a resource of the stack."""
        found = self.client("cloudformation").describe_stack_resource(StackName=name, LogicalResourceId=logical_id)
        return str(found["StackResourceDetail"]["PhysicalResourceId"])

    def bucket(self, name: str) -> Bucket:
        """The bucket's directory."""
        return Bucket(self.directory / "s3" / ACCOUNT / name)


class Bucket:
    """Reads a bucket from its directory on disk, with nothing of the local AWS in between."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self, prefix: str) -> Iterator[Path]:
        """The objects under a prefix."""
        for path in sorted((self.path / prefix).rglob("*")):
            # MiniStack keeps metadata beside each object, and its writes are drafts until they are whole.
            if path.is_file() and not path.name.endswith((".meta.json", ".tmp")):
                yield path

    def event_ids(self, prefix: str = "events/") -> Counter[str]:
        """The event_id of each row."""
        return Counter(self.column("event_id", prefix))

    def column(self, name: str, prefix: str = "events/") -> list[Any]:
        """A column's value of each row."""
        import pyarrow.parquet  # here, as other tests need not wait for it

        tables = [pyarrow.parquet.read_table(path, columns=[name]) for path in self.files(prefix)]
        return [value for table in tables for value in table[name].to_pylist()]

    def documents(self, prefix: str) -> list[dict[str, Any]]:
        """The JSON lines under a prefix, of gzipped objects and of plain ones."""
        found = []
        for path in self.files(prefix):
            content = path.read_bytes()
            text = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
            found += [json.loads(line) for line in text.splitlines()]
        return found

    def rejected_texts(self) -> list[bytes]:
        """The text of each rejected event."""
        return [base64.b64decode(document["body"]) for document in self.documents("rejected/")]

    def failed_records(self, prefix: str = "errors/") -> list[bytes]:
        """The records not delivered by Firehose, as their producers sent them."""
        return [base64.b64decode(document["rawData"]) for document in self.documents(prefix)]


def post(url: str, body: bytes, media_type: str = "application/json") -> tuple[int, bytes]:
    """POST once, over a connection of its own."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=30)
    try:
        connection.request("POST", address.path, body, {"Content-Type": media_type})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
