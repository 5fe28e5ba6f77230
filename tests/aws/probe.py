"""Find out how Firehose treats a faulty transform, with a small stack that is deleted afterwards.

    .sluice/venv/bin/python -m tests.aws.probe [--local]

AWS's documentation leaves open if a fault of a reply fails one record or the whole batch, and if Firehose tries again.
No stack with data should have such a transform, so this one has nothing else.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from pathlib import Path

from scripts.commands.common.console import CommandError, Parser, main, say
from scripts.commands.common.stack import Aws, Stack, add_stack_arguments, delete_stack, describe_stack, follow, session
from scripts.commands.lake.bucket import Bucket
from scripts.commands.lake.errors import envelopes
from scripts.commands.lake.zones import ERRORS
from shared.documents import Json

TEMPLATE = Path(__file__).with_name("probe.yaml")
SECONDS = 600  # for one question: an exception may be tried again, with pauses
QUESTIONS = ("missing recordId", "unknown result", "not base64", "exception")  # as probe.yaml knows them


def run(arguments: list[str]) -> int:
    """Print the answers as JSON."""
    parser = Parser("probe")
    add_stack_arguments(parser)
    print(json.dumps(probe(session(parser.parse_args(arguments))), indent=2))
    return 0


def probe(aws: Aws) -> dict[str, str]:
    """Return the fates of a good and a bad record put together, by the question.

    Raises:
        CommandError: the stack could not be created or deleted; the message says how to go on.
    """
    name = f"sluice-probe-{uuid.uuid4().hex[:8]}"
    say(f"Creating stack '{name}', whose transform breaks the contract, for some minutes")
    cloudformation = aws.client("cloudformation")
    created = cloudformation.create_stack(
        StackName=name, TemplateBody=TEMPLATE.read_text(), Capabilities=["CAPABILITY_IAM"]
    )
    ids: dict[str, str] = {}
    try:
        failures = [
            event.get("ResourceStatusReason", "")
            for event in follow(aws, created["StackId"], "")
            if event["ResourceStatus"] == "CREATE_FAILED"
        ]
        if (describe_stack(aws, created["StackId"]) or {}).get("StackStatus") != "CREATE_COMPLETE":
            raise CommandError(f"the stack of the probe could not be created: {'; '.join(failures)}")
        ids = Stack(aws, name).ids
        return {question: _ask(aws, ids, question) for question in QUESTIONS}
    finally:
        for key in _objects(aws, ids["Bucket"]) if ids else ():
            aws.client("s3").delete_object(Bucket=ids["Bucket"], Key=key)
        delete_stack(aws, name, created["StackId"], 5)


def _ask(aws: Aws, ids: dict[str, str], question: str) -> str:
    texts = [f"{question} {what}" for what in ("good", "bad")]
    records = [{"Data": text} for text in texts]
    if aws.client("firehose").put_record_batch(DeliveryStreamName=ids["Stream"], Records=records)["FailedPutCount"]:
        return "the stream did not take the records"
    found, deadline = dict.fromkeys(texts, "nothing arrived"), time.monotonic() + SECONDS
    while "nothing arrived" in found.values() and time.monotonic() < deadline:
        time.sleep(0.5 if aws.is_local else 5)
        for key, content in _objects(aws, ids["Bucket"]).items():
            if key.startswith(ERRORS):
                fates = {base64.b64decode(one["rawData"]).decode(): _fate(one) for one in envelopes(content)[0]}
            else:
                fates = {
                    line.partition(",")[0]: f"delivered{line[line.index(',') :]}"
                    for line in content.decode().splitlines()
                }
            found.update({text: fate for text, fate in fates.items() if text in found})
    return "; ".join(f"{text.removeprefix(question).strip()}: {fate}" for text, fate in found.items())


def _fate(envelope: Json) -> str:
    code = envelope.get("errorCode") or envelope.get("lastErrorCode")
    return f"{code} after {envelope.get('attemptsMade')} attempts"


def _objects(aws: Aws, bucket: str) -> dict[str, bytes]:
    found = Bucket(aws.client("s3"), bucket)
    return {item["Key"]: found.read(item["Key"]) for item in found.objects()}


if __name__ == "__main__":
    main(run)
