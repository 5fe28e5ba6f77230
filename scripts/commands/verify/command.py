"""Prove that a running stack accounts for every event: send canaries through every door, and find each one again."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError, NoCredentialsError
from rich import box
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.table import Table
from rich.text import Text

from scripts.commands.common.api import ANSWER_SECONDS, open_later, read_api_key, seconds_of_retry_after
from scripts.commands.common.console import CommandError, Parser, UsageError, is_agreed, main, progress, say
from scripts.commands.common.stack import Aws, Stack, add_stack_arguments, reachable_url, session
from scripts.commands.lake.delivery import RAW_SECONDS, TRANSFORM_PASSES, TRANSFORM_SECONDS, slack_seconds
from scripts.commands.lake.zones import events_of
from scripts.commands.verify import checks as verify_checks
from scripts.commands.verify import report as verify_report
from scripts.commands.verify.canaries import Canary, Expected, Flock, Like, Request
from scripts.commands.verify.checks import OTHERS, Answer, Check
from scripts.commands.verify.evidence import Evidence, Reader

SHOWN = 80  # characters of a value
TRIES = 8  # of a throttled canary
THROTTLE_THREADS, THROTTLE_REQUESTS = 64, 6_000
NEEDED_FIELDS = {"event_id", "source", "timestamp", "name", "action", "value"}


def verify(arguments: list[str]) -> int:
    """scripts/verify.sh"""
    options = _parse(arguments)
    aws = session(options)
    stack = Stack(aws, options.stack_name)
    parameters, outputs = stack.parameters, stack.outputs
    if clash := sorted(stack.redacted_fields & NEEDED_FIELDS):
        raise UsageError(f"RedactFields empties {', '.join(clash)}, which canaries are known by: verify another stack")
    if options.remove:
        removed = remove(Reader(stack, options.remove, _started(options.remove)))
        show(removed)
        return int(not all(check.is_ok for check in removed))
    # The time is in it, for --remove to know since when to look.
    run = f"verify-{int(time.time()):08x}{uuid.uuid4().hex[:4]}"
    canaries = Flock(run, parameters, outputs["StreamName"]).all()
    if not (options.yes or aws.is_local):
        _confirm(options, aws, sum(canary.events for canary in canaries))
    say(f"This run is {run}: the source of its events.")
    way = f"scripts/verify.sh{aws.flag} --stack-name {options.stack_name} --remove {run}"
    later = f"Canaries that arrive later are removed by {way}"
    door = Door(stack)
    reader = Reader(stack, run, time.time())
    try:
        answers = door.send_all(canaries)
        throttled = door.throttle(parameters) if options.throttle else []
        evidence = wait(reader, answers, parameters, aws.is_local)
        report = verify_report.Report(reader, answers, evidence, parameters)
        checks = [*judge(report, answers, evidence, parameters, reader), *throttled]
    except BaseException:
        say(f"Removing the canaries that have arrived. {later}", style="yellow")
        remove(reader)
        raise
    checks += remove(reader)
    if options.throttle and not throttled:
        say(f"429: not checked, as {THROTTLE_REQUESTS:,} requests did not reach the stack's limits", style="yellow")
    line, is_balanced = verify_checks.accounting(answers, evidence)
    show(checks)
    if evidence.foreign:
        say(f"{OTHERS} ({evidence.foreign:,} rows of others)", style="yellow")
    if again := sum(rows - events for events, rows in evidence.stored.values()):
        say(f"{again:,} rows were delivered more than once, as Firehose may: count by event_id", style="yellow")
    if options.report:
        report.write(options.report, options.stack_name, aws, checks, line)
    if not is_balanced:
        say(later, style="yellow")
    bad = sum(not check.is_ok for check in checks)
    say(line, style="green" if is_balanced else "red")
    say(f"{len(checks) - bad} of {len(checks)} checks are as expected", style="red" if bad else "green")
    return 1 if bad or not is_balanced else 0


# --- Sending


class Door:
    """The API of a stack and its delivery stream, with the API key or signature for requests."""

    def __init__(self, stack: Stack) -> None:
        aws, outputs = stack.aws, stack.outputs
        self.aws, self.outputs, self.mode = aws, outputs, stack.parameters.get("ApiAuth", "NONE")
        self.base = reachable_url(aws, outputs["TrackURL"]).removesuffix("/track")
        self.key = read_api_key(aws, outputs["ApiKeyId"]) if self.mode == "API_KEY" else ""
        self.firehose = aws.client("firehose")

    def send_all(self, canaries: list[Canary]) -> list[Answer]:
        """Send the canaries one after the other, and show how it goes."""
        answers = []
        with progress() as display:
            for canary in display.track(canaries, description="Sending canaries"):
                send = self.request if isinstance(canary.sent, Request) else self.put
                answers.append(send(canary))
        return answers

    def request(self, canary: Canary) -> Answer:
        """Send one HTTP request; a throttled one is sent up to TRIES times."""
        request = canary.sent
        assert isinstance(request, Request)
        url = urlsplit(self.base + request.path)
        sent_at = time.time()
        for _ in range(TRIES):
            connection = open_later(url)
            try:
                connection.connect()
                connection.sock.settimeout(ANSWER_SECONDS)
                # A refusal may come before a large body is through.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    target = url.path + (f"?{url.query}" if url.query else "")
                    connection.request(request.method, target, request.payload or None, dict(self.headers(request)))
                response = connection.getresponse()
                text = response.read().decode("utf-8", "replace")
            except (OSError, http.client.HTTPException) as error:
                return Answer(canary, 0, {}, str(error) or type(error).__name__, sent_at)
            finally:
                connection.close()
            headers = {name.lower(): value for name, value in response.getheaders()}
            if response.status != 429:
                break
            time.sleep(max(0.2, seconds_of_retry_after(headers.get("retry-after"), time.time())))
        return Answer(canary, response.status, headers, text, sent_at)

    def headers(self, request: Request) -> Mapping[str, str]:
        """The headers of a request, with the key or signature for its `access`."""
        if request.access == "none" or self.mode == "NONE":
            return request.headers
        if self.mode == "API_KEY":
            return {**request.headers, "x-api-key": self.key if request.access == "right" else "no-key-of-this-stack"}
        credentials = self.aws.session.get_credentials()
        if credentials is None:
            raise NoCredentialsError()
        frozen = credentials.get_frozen_credentials()
        if request.access == "wrong":
            frozen = frozen._replace(secret_key=frozen.secret_key[::-1])
        headers = dict(request.headers)
        signed = AWSRequest(request.method, self.base + request.path, headers=headers, data=request.payload)
        SigV4Auth(frozen, "execute-api", self.aws.region).add_auth(signed)
        return dict(signed.headers.items())

    def put(self, canary: Canary) -> Answer:
        """Put records as an SDK does: one with PutRecord, more with PutRecordBatch."""
        assert isinstance(canary.sent, tuple)
        stream, sent_at = self.outputs["StreamName"], time.time()
        try:
            if len(canary.sent) == 1:
                ids = [self.firehose.put_record(DeliveryStreamName=stream, Record={"Data": canary.sent[0]})["RecordId"]]
            else:
                records = [{"Data": data} for data in canary.sent]
                reply = self.firehose.put_record_batch(DeliveryStreamName=stream, Records=records)
                ids = [one.get("RecordId") or one["ErrorCode"] for one in reply["RequestResponses"]]
                if reply["FailedPutCount"]:
                    return Answer(canary, 503, {}, json.dumps(ids), sent_at)
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            return Answer(canary, status, {}, json.dumps(error.response["Error"]), sent_at)
        return Answer(canary, 200, {}, f"{len(ids)} record ids", sent_at)

    def throttle(self, parameters: Mapping[str, str]) -> list[Check]:
        """Send preflights (they are not events) until one is refused; return the checks of the refusal."""
        message = Like('{"message": ...}', lambda body: "message" in body)
        cors = {
            "access-control-allow-origin": parameters.get("CorsAllowOrigin", "*").split(",")[0],
            "retry-after": "1",
        }
        request, url = Request("OPTIONS", "/track"), urlsplit(f"{self.base}/track")
        refusals: list[Answer] = []
        answered: list[int] = []
        started = time.monotonic()

        def ask(_: int) -> None:
            connection = open_later(url)
            with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
                for _ in range(THROTTLE_REQUESTS // THROTTLE_THREADS):
                    if refusals:
                        return
                    connection.request("OPTIONS", url.path)
                    response = connection.getresponse()
                    text = response.read().decode("utf-8", "replace")
                    answered.append(response.status)
                    if response.status == 429:
                        headers = {name.lower(): value for name, value in response.getheaders()}
                        canary = Canary("OPTIONS /track too often", request, Expected(429, cors, message))
                        refusals.append(Answer(canary, 429, headers, text, time.time()))

        with ThreadPoolExecutor(THROTTLE_THREADS) as executor:
            list(executor.map(ask, range(THROTTLE_THREADS)))
        if refusals:
            return [*verify_checks.check_answers(refusals[:1])]
        return [*verify_checks.check_not_throttled(len(answered), time.monotonic() - started, parameters)]


# --- Waiting and looking


def wait(reader: Reader, answers: list[Answer], parameters: Mapping[str, str], is_local: bool) -> Evidence:
    """Poll until everything has arrived or is late; return the evidence at that time.

    The transform's counts come first. Tables are queried once the counts are complete, as each query costs.
    """
    in_tables, counted = verify_checks.outcome_counts(answers)
    interval = float(parameters.get("FirehoseBufferingInterval", "60"))
    slack = slack_seconds(is_local)
    deadline = time.monotonic() + TRANSFORM_PASSES * TRANSFORM_SECONDS + interval + slack
    is_transformed, pause = False, 0.5 if is_local else 5.0
    with progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}")) as display:
        task = display.add_task("Waiting for the transform", total=counted, text="")
        while True:
            left = deadline - time.monotonic()
            if not is_transformed and left > 0:
                done, total = sum(line["Received"] for line in reader.read_metrics()), counted
                if done >= counted:
                    is_transformed, deadline = True, min(deadline, time.monotonic() + interval + slack)
                    display.update(task, description="Waiting for delivery", total=in_tables)
            else:
                evidence = reader.look()
                done, total = evidence.events, in_tables
                if done >= in_tables or left <= 0:
                    break
                pause = min(pause * 1.5, 20)
            display.update(task, completed=done, text=f"{done:,} of {total:,} events, {max(left, 0):.0f} s left")
            time.sleep(min(pause, max(left, 0)))
    if parameters.get("RawBackup") == "ENABLED":
        _wait_for_raw(reader, answers, RAW_SECONDS + slack)
    return evidence


def _wait_for_raw(reader: Reader, answers: list[Answer], seconds: float) -> None:
    marks = [mark for answer in answers if answer.is_acknowledged for mark in _marks(answer)]
    deadline = time.monotonic() + seconds
    with progress(TextColumn("Waiting for raw/"), BarColumn(), TextColumn("{task.fields[text]}")) as display:
        task = display.add_task("", total=len(marks), text="")
        while (left := deadline - time.monotonic()) > 0:
            stored = b"".join(record for records in reader.raw().values() for record in records)
            found = sum(mark in stored for mark in marks)
            display.update(task, completed=found, text=f"{found} of {len(marks)} records, {left:.0f} s left")
            if found == len(marks):
                return
            time.sleep(min(5, seconds / 20))


def _marks(answer: Answer) -> tuple[bytes, ...]:
    """A mark unique to each record of a canary: the request's id, or the record itself. Bare records in raw/ have no
    separator, so marks are counted instead."""
    sent = answer.canary.sent
    return (answer.headers["x-amz-apigw-id"].encode(),) if isinstance(sent, Request) else sent


def judge(
    report: verify_report.Report,
    answers: list[Answer],
    evidence: Evidence,
    parameters: Mapping[str, str],
    reader: Reader,
) -> Iterator[Check]:
    """Every check, in the order of an event's way."""
    yield from verify_checks.check_answers(answers)
    yield from verify_checks.check_rows(answers, evidence, parameters, reader.run)
    yield from verify_checks.check_rejected(answers, evidence, parameters)
    yield from verify_checks.check_failed(answers, evidence, reader.outputs["FunctionName"])
    yield from verify_checks.check_once(evidence)
    canaries = [answer.canary for answer in answers if answer.is_acknowledged]
    yield from verify_checks.check_metrics(canaries, evidence)
    put = sum(len(_marks(answer)) for answer in answers if answer.is_acknowledged)
    if (incoming := reader.incoming_records()) is not None:
        yield verify_checks.same("metrics: IncomingRecords", Like(f"{put} or more", lambda n: n >= put), incoming)
    folders = [*reader.bucket.folders(), *reader.bucket.folders(events_of(parameters))]
    yield from verify_checks.check_objects(report.objects, folders, parameters)
    if parameters.get("RawBackup") == "ENABLED":
        yield from verify_checks.check_raw(answers, report.raw_records)


def remove(reader: Reader) -> list[Check]:
    """Delete the objects with only this run's data, and the results of its queries."""
    evidence = reader.look()
    raw = reader.raw()
    own = [reader.key(path) for path, (ours, rows) in evidence.objects.items() if ours >= rows]
    shared = [reader.key(path) for path, (ours, rows) in evidence.objects.items() if ours < rows]
    for key, records in raw.items():
        (own if all(map(reader.is_own, records)) else shared).append(key)
    reader.delete(own)
    reader.delete_results()
    for key in shared:
        say(f"left s3://{reader.bucket.name}/{key}: it also holds other events", style="yellow")
    left = [key for key in own if reader.bucket.holds(key)]
    return [verify_checks.same("objects that held nothing but canaries", "deleted", ", ".join(left) or "deleted")]


# --- The person


def show(checks: list[Check]) -> None:
    """Print a table of all checks on stdout, wide enough for its text if stdout is not a terminal."""
    table = Table("check", "expected", "seen", "verdict", box=box.SIMPLE_HEAD)
    for check in checks:
        verdict = Text("ok", style="green") if check.is_ok else Text("DIFFERS", style="bold red")
        table.add_row(*(Text(_short(text)) for text in (check.name, check.expected, check.seen)), verdict)
    console = Console()
    if not console.is_terminal:
        console.width = max(80, console.measure(table, options=console.options.update(width=1_000)).maximum)
    console.print(table)


def _short(text: str) -> str:
    shown = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text[:SHOWN])
    return shown + ("..." if len(text) > SHOWN else "")


def _confirm(options: argparse.Namespace, aws: Aws, events: int) -> None:
    canaries = f"{events:,} canaries to '{options.stack_name}' in {aws.place}"
    if not is_agreed(f"Send {canaries}, and delete the objects that hold nothing else?"):
        raise CommandError("nothing was sent")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("verify")
    add_stack_arguments(parser)
    parser.add_argument("--report", type=_writable)
    parser.add_argument("--throttle", action="store_true")
    parser.add_argument("--remove", type=_run, metavar="RUN")
    parser.add_argument("--yes", action="store_true")
    return parser.parse_args(arguments)


def _run(text: str) -> str:
    if not re.fullmatch("verify-[0-9a-f]{12}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a run of verify.sh: it is verify- and 12 hexadecimal digits")
    return text


def _started(run: str) -> float:
    return float(int(run[7:15], 16))


def _writable(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir() or path.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write '{text}': it needs a file's name in a directory that exists")
    return path


if __name__ == "__main__":
    main(verify)
