"""Every event with a 2xx is accounted for, whatever happens then: counted in the bucket's directory on disk.

Events are known by their construction: a good one becomes a row, one with `"debug": true` is dropped, one with a
non-numeric value is rejected, and a record of ours without its end line fails. Events without a 2xx may be there, or
not.
"""

from __future__ import annotations

import gzip
import http.client
import io
import json
import os
import random
import re
import resource
import secrets
import socket
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.deployed import PARAMETERS
from tests.local_process import Bucket, LocalProcess, eventually, post

pytestmark = pytest.mark.slow

# Each run tries other moments and other events. A failed one prints its seed; given again, it repeats the choices.
SEED = int(os.environ.get("DURABILITY_SEED") or secrets.randbelow(2**32))
LEAST_KILLS, MOST_KILLS = 8, 40
HURRIED_PARAMETERS = ("FirehoseBufferingInterval=0", "RawBackup=ENABLED", *PARAMETERS[1:])
EVENT_ID = re.compile(rb"durable-[a-z]+-\d+-\d+")
SLEEPING_FUNCTION = b"import time\n\n\ndef lambda_handler(event, context):\n    time.sleep(60)\n"


class Ledger:
    """Sent and acknowledged events, by event_id."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.acknowledged: set[str] = set()
        self.sent: set[str] = set()
        self.statuses: Counter[int] = Counter()

    def note(self, status: int, identifiers: list[str]) -> None:
        with self.lock:
            self.statuses[status] += 1
            if 200 <= status < 300:
                self.acknowledged.update(identifiers)

    def acknowledged_as(self, kind: str) -> set[str]:
        return {identifier for identifier in self.acknowledged if identifier.split("-")[1] == kind}


def identifiers_in(texts: list[bytes]) -> set[str]:
    return {found.decode() for text in texts for found in EVENT_ID.findall(text)}


def make_event(identifier: str, size: int) -> dict[str, Any]:
    event: dict[str, Any] = {"event_id": identifier, "name": "durable", "value": 1, "text": "x" * size}
    return event | {"dropped": {"debug": True}, "rejected": {"value": "abc"}}.get(identifier.split("-")[1], {})


class Sender(threading.Thread):
    """A client sending over the API and as an SDK until it is stopped, with `pause` seconds after each request."""

    def __init__(self, local: LocalProcess, outputs: dict[str, str], ledger: Ledger, number: int, pause: float) -> None:
        super().__init__(daemon=True)
        self.local, self.outputs, self.ledger, self.number, self.pause = local, outputs, ledger, number, pause
        self.random = random.Random(SEED + number)
        self.stopped = threading.Event()
        self.count = 0

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.local.port, timeout=30)
        firehose = self.local.client("firehose")
        while not self.stopped.is_set():
            try:
                self._send(connection, firehose)
                time.sleep(self.pause)
            except (OSError, http.client.HTTPException, BotoCoreError, ClientError):
                connection.close()
                time.sleep(0.05)  # The server is gone; nothing was acknowledged.

    def _send(self, connection: http.client.HTTPConnection, firehose: Any) -> None:
        route = self.random.choices(["track", "batch", "sdk"], [10, 4, 1])[0]
        kinds = self.random.choices(["good", "dropped", "rejected"], [8, 1, 1], k=20 if route == "batch" else 1)
        identifiers = [self._identifier("failed" if route == "sdk" else kind) for kind in kinds]
        with self.ledger.lock:
            self.ledger.sent.update(identifiers)
        bodies = [json.dumps(make_event(one, self.random.choice([0, 500, 20_000]))) for one in identifiers]
        if route == "sdk":
            line = f"sluice/1 request_id={identifiers[0]} extended_request_id=x time=1 ip= user_agent=\n"
            firehose.put_record(
                DeliveryStreamName=self.outputs["StreamName"], Record={"Data": f"{line}{bodies[0]}\n".encode()}
            )
            self.ledger.note(200, identifiers)
            return
        url = self.outputs["BatchURL" if route == "batch" else "TrackURL"]
        media_type = "application/x-ndjson" if route == "batch" else "application/json"
        connection.request("POST", urlsplit(url).path, "\n".join(bodies), {"Content-Type": media_type})
        answer = connection.getresponse()
        answer.read()
        self.ledger.note(answer.status, identifiers)

    def _identifier(self, kind: str) -> str:
        self.count += 1
        return f"durable-{kind}-{self.number}-{self.count}"


class Load:
    """Several senders at work while it is entered."""

    def __init__(self, local: LocalProcess, outputs: dict[str, str], ledger: Ledger, pause: float = 0.05) -> None:
        self.senders = [Sender(local, outputs, ledger, number, pause) for number in range(4)]

    def __enter__(self) -> Load:
        for sender in self.senders:
            sender.start()
        return self

    def __exit__(self, *_: object) -> None:
        for sender in self.senders:
            sender.stopped.set()
        for sender in self.senders:
            sender.join(30)
            assert not sender.is_alive()


def settle(local: LocalProcess, seconds: float = 60) -> None:
    """Wait until the log of every stream is empty: everything is delivered."""

    def is_settled() -> bool:
        # Twice, as the transform hands some records on to another stream.
        return not any(time.sleep(0.3) or list(local.directory.glob("firehose/*/*.log")) for _ in range(2))

    eventually(is_settled, seconds)


def objects_in(bucket: Bucket) -> Counter[str]:
    """The number of objects in each zone."""
    return Counter({zone: len(list(bucket.files(f"{zone}/"))) for zone in ("events", "rejected", "errors", "raw")})


def check_accounts(ledger: Ledger, bucket: Bucket) -> None:
    """Every acknowledged event is in the one place for its construction, and nothing else is anywhere."""
    rows = set(bucket.event_ids())
    rejected = identifiers_in(bucket.rejected_texts())
    failed = identifiers_in(bucket.failed_records())
    foreseen = {"good": rows, "rejected": rejected, "failed": failed}
    for kind, found in foreseen.items():
        missing = ledger.acknowledged_as(kind) - found
        assert not missing, f"{len(missing)} acknowledged events are lost that should be {kind}: {sorted(missing)[:3]}"
        assert ledger.acknowledged_as(kind), f"no event tried how one becomes {kind}"
    everything = rows | rejected | failed
    assert everything <= ledger.sent
    assert not rows & (rejected | failed)
    assert not {one for one in everything if one.split("-")[1] == "dropped"}
    places = {"good": len(rows), "rejected": len(rejected), "failed": len(failed)}
    for kind, count in places.items():
        assert count == sum(one.split("-")[1] == kind for one in everything)


def check_sum(ledger: Ledger, bucket: Bucket) -> None:
    """Acknowledged = accepted + dropped + rejected + failed, by the files on disk; raw/ has the dropped events, too."""
    taken = identifiers_in([gzip.decompress(path.read_bytes()) for path in bucket.files("raw/")])
    assert ledger.acknowledged <= taken <= ledger.sent
    places = {
        "accepted": set(bucket.event_ids()),
        "rejected": identifiers_in(bucket.rejected_texts()),
        "failed": identifiers_in(bucket.failed_records()),
    }
    places["dropped"] = taken.difference(*places.values())
    assert places["dropped"] & ledger.acknowledged == ledger.acknowledged_as("dropped") != set()
    counts = {place: len(found & ledger.acknowledged) for place, found in places.items()}
    assert sum(counts.values()) == len(ledger.acknowledged), counts


@pytest.fixture(autouse=True)
def seed() -> None:
    print(f"DURABILITY_SEED={SEED}")


class HurriedProcess(LocalProcess):
    """A local AWS whose streams buffer for a sixtieth of the time, so that a kill meets them at work."""

    module = "tests.hurried_server"


@pytest.fixture
def hurried(tmp_path: Path) -> Iterator[LocalProcess]:
    with HurriedProcess(tmp_path / "aws") as process:
        yield process


def met_all_work(kills: list[Counter[str]]) -> bool:
    """Whether kills met deliveries with more to come, deliveries of rejected events, and events before any delivery."""
    amid = sum(kill["events"] > 0 and kill["waiting"] > 0 for kill in kills)
    rejected = sum(kill["rejected"] > 0 for kill in kills)
    before = sum(not kill["events"] and kill["waiting"] > 0 for kill in kills)
    return min(amid, rejected) >= 2 and before >= 1


def test_no_acknowledged_event_is_lost_however_often_the_process_is_killed(hurried: LocalProcess) -> None:
    local, outputs = hurried, hurried.deploy(*HURRIED_PARAMETERS)
    bucket, ledger, moments = local.bucket(outputs["BucketName"]), Ledger(), random.Random(SEED)
    # This test is about events alone, so MiniStack's own state has to be on disk.
    local.stop()
    kills: list[Counter[str]] = []
    with Load(local, outputs, ledger, pause=0.1):
        for number in range(MOST_KILLS):
            known, before = objects_in(bucket), len(ledger.acknowledged)
            local.start()
            # Each life takes something, or else nothing would be tried. Every second one delivers, too: it ends while
            # rows from it and from the lives before it are being written and marked as done.
            eventually(lambda: len(ledger.acknowledged) > before, pause=0.01)  # noqa: B023 - called in this round
            if number % 2:
                eventually(lambda: (objects_in(bucket) - known)["events"], pause=0.01)  # noqa: B023 - as above
            if number % 4:  # The others end with their first answer, before anything can have been delivered.
                time.sleep(moments.uniform(0, 0.7))
            local.kill()
            waiting = len(list(local.directory.glob("firehose/*/*.log")))
            kills.append(objects_in(bucket) - known + Counter(waiting=waiting))
            if len(kills) >= LEAST_KILLS and met_all_work(kills):
                break
        local.start()
    settle(local, 300)
    rows = bucket.event_ids()
    again = f"{len(rows)} of them rows, {rows.total() - len(rows)} rows delivered again"
    sent, acknowledged = len(ledger.sent), len(ledger.acknowledged)
    print(f"{len(kills)} kills, {sent} events sent, {acknowledged} acknowledged, {again}, {kills}")
    check_accounts(ledger, bucket)
    check_sum(ledger, bucket)
    assert met_all_work(kills), kills
    # On a slow machine the senders outrun the deliveries, and are told so.
    assert ledger.statuses.keys() <= {200, 202, 503}, ledger.statuses
    assert not list(local.directory.glob("firehose/*/*/")), "a killed conversion left its rows behind"


def test_what_a_missing_bucket_cannot_take_is_delivered_when_there_is_one_again(
    local: LocalProcess, outputs: dict[str, str]
) -> None:
    s3, name, ledger = local.client("s3"), outputs["BucketName"], Ledger()
    with Load(local, outputs, ledger):
        time.sleep(0.5)
        s3.delete_bucket(Bucket=name)
        group = local.resource("StreamLogGroup")
        eventually(lambda: "S3.NoSuchBucket" in json.dumps(log_lines(local, group, "delivery")))
        local.kill()
        local.start()
        time.sleep(0.5)
        assert not (local.directory / "s3" / "000000000000" / name).exists()
        s3.create_bucket(Bucket=name)
    settle(local)
    check_accounts(ledger, local.bucket(name))


def test_a_user_and_the_queue_of_a_stack_survive_a_kill_at_once(local: LocalProcess) -> None:
    iam, cloudformation, sqs = (local.client(service) for service in ("iam", "cloudformation", "sqs"))
    template = {"Resources": {"Queue": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "queue"}}}}
    cloudformation.create_stack(StackName="queue", TemplateBody=json.dumps(template))
    cloudformation.get_waiter("stack_create_complete").wait(StackName="queue", WaiterConfig={"Delay": 1})
    iam.create_user(UserName="user")
    local.kill()
    local.start()
    assert iam.get_user(UserName="user")["User"]["UserName"] == "user"
    assert sqs.get_queue_url(QueueName="queue")["QueueUrl"].endswith("/queue")


def log_lines(local: LocalProcess, group: str, stream: str) -> list[dict[str, Any]]:
    events = local.client("logs").get_log_events(logGroupName=group, logStreamName=stream)["events"]
    return [json.loads(event["message"]) for event in events]


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit limits another process, on Linux only")
def test_a_full_disk_is_answered_with_an_error_and_loses_nothing_that_was_taken(
    local: LocalProcess, outputs: dict[str, str]
) -> None:
    ledger = Ledger()
    with Load(local, outputs, ledger):
        # From then on, all the time something is on its way into the bucket.
        eventually(lambda: local.bucket(outputs["BucketName"]).rejected_texts())
        _, hard = resource.prlimit(local.pid, resource.RLIMIT_FSIZE)
        # No file can grow: the log cannot, and neither can an object be written.
        resource.prlimit(local.pid, resource.RLIMIT_FSIZE, (0, hard))
        eventually(lambda: ledger.statuses[503] > 40)  # What was taken before is answered.
        ledger.statuses.clear()
        eventually(lambda: ledger.statuses[503] > 20)
        assert ledger.statuses.keys() == {503}, ledger.statuses
        status, text = post(outputs["TrackURL"], b'{"name": "x"}')
        assert (status, json.loads(text)) == (503, {"message": "The event was not taken: try again later"})
        with pytest.raises(ClientError) as refused:
            local.client("firehose").put_record(DeliveryStreamName=outputs["StreamName"], Record={"Data": b"{}"})
        assert refused.value.response["Error"]["Code"] == "ServiceUnavailableException"
        time.sleep(1.5)  # Deliveries fail now, too.
        resource.prlimit(local.pid, resource.RLIMIT_FSIZE, (hard, hard))
        eventually(lambda: ledger.statuses[202] > 20)
    settle(local)
    local.kill()
    check_accounts(ledger, local.bucket(outputs["BucketName"]))


def test_a_transform_that_sleeps_past_its_timeout_fails_its_records_with_the_reason(
    local: LocalProcess, outputs: dict[str, str]
) -> None:
    functions, name = local.client("lambda"), outputs["FunctionName"]
    functions.update_function_configuration(FunctionName=name, Timeout=1, Handler="sleeping.lambda_handler")
    functions.update_function_code(FunctionName=name, ZipFile=zipped("sleeping.py", SLEEPING_FUNCTION))
    identifiers = [f"durable-good-0-{number}" for number in range(20)]
    for identifier in identifiers:
        assert post(outputs["TrackURL"], json.dumps(make_event(identifier, 0)).encode())[0] == 202
    settle(local)
    bucket = local.bucket(outputs["BucketName"])
    documents = bucket.documents("errors/processing-failed/")
    assert {(document["errorCode"], document["attemptsMade"]) for document in documents} == {
        ("Lambda.FunctionError", 4)
    }
    assert identifiers_in(bucket.failed_records()) == set(identifiers)
    assert len(documents) == len(identifiers)
    assert not bucket.event_ids()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the most memory that a process has had")
def test_a_client_that_outruns_the_transform_is_refused_before_memory_reaches_400_mb(
    local: LocalProcess, outputs: dict[str, str]
) -> None:
    functions, name = local.client("lambda"), outputs["FunctionName"]
    functions.update_function_configuration(FunctionName=name, Timeout=60, Handler="sleeping.lambda_handler")
    functions.update_function_code(FunctionName=name, ZipFile=zipped("sleeping.py", SLEEPING_FUNCTION))
    firehose, stream = local.client("firehose"), outputs["StreamName"]
    records, taken = [{"Data": b"x" * 20_000}] * 200, 0
    for _ in range(100):  # 400 MB
        answer = firehose.put_record_batch(DeliveryStreamName=stream, Records=records)
        taken += len(records) - answer["FailedPutCount"]
    assert 0 < taken < 100 * len(records)
    most = most_memory(local.pid)
    local.kill()  # A stop would wait for the function.
    assert most < 400, f"{most:,.0f} MB with {taken:,} records taken"


def most_memory(pid: int) -> float:
    """A process's highest resident memory so far, in MB."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def zipped(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def test_slow_cut_and_oversized_requests_of_many_clients_harm_nobody(
    local: LocalProcess, outputs: dict[str, str]
) -> None:
    ledger = Ledger()
    path = urlsplit(outputs["TrackURL"]).path
    answers: dict[str, Counter[int]] = {kind: Counter() for kind in ("whole", "slow", "cut", "large", "huge")}

    def client(number: int) -> None:
        chance = random.Random(SEED + number)
        for count in range(8):
            manner = chance.choice(list(answers))
            kind = "good" if manner in ("whole", "slow") else "cut"
            identifier = f"durable-{kind}-{number}-{count}"
            size = {"large": 1_030_000, "huge": 10_600_000}.get(manner, chance.randrange(2_000))
            body = json.dumps(make_event(identifier, size)).encode()
            ledger.sent.add(identifier)
            status = send_by_hand(local.port, path, body, manner, chance)
            answers[manner][status] += 1
            ledger.note(status, [identifier])

    threads = [threading.Thread(target=client, args=[number]) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a client hangs"
    assert set(answers["whole"]) == set(answers["slow"]) == {202}, answers
    assert set(answers["cut"]) == {0}, answers
    # A client may see its connection reset instead, if it is still sending when the answer comes.
    assert set(answers["large"]) | set(answers["huge"]) <= {413, 0}, answers
    assert answers["large"][413] and answers["huge"][413]
    settle(local)
    bucket = local.bucket(outputs["BucketName"])
    assert set(bucket.event_ids()) == ledger.acknowledged
    assert not bucket.failed_records() and not bucket.rejected_texts()


def send_by_hand(port: int, path: str, body: bytes, manner: str, chance: random.Random) -> int:
    """Send one request whole, slowly or cut short; returns the status of the answer, or 0 if there is none."""
    headers = f"Host: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    head = f"POST {path} HTTP/1.1\r\n{headers}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connection.sendall(head.encode())
            if manner == "slow":
                for start in range(0, len(body), len(body) // 5 + 1):
                    time.sleep(chance.uniform(0, 0.1))
                    connection.sendall(body[start : start + len(body) // 5 + 1])
            elif manner == "cut":
                connection.sendall(body[: len(body) // 2])
                return 0
            else:
                connection.sendall(body)
            return int(connection.recv(4096)[9:12] or 0)
        except ConnectionError:
            return 0
