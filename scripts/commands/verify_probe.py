"""How Firehose treats a transform that breaks its contract: asked of a small stack of its own, which is then deleted.

AWS's documentation leaves open whether one missing recordId fails its record or its batch, and whether an exception is
tried again. No stack with data should have such a transform, so this one has nothing else.
"""

from __future__ import annotations

import base64
import time
import uuid
from pathlib import Path

from scripts.commands.console import CommandError, say
from scripts.commands.destroy import delete_stack
from scripts.commands.stack import Aws, describe_stack, follow, physical_ids
from scripts.commands.verify_evidence import Json, envelopes

TEMPLATE = Path(__file__).parents[1] / "probe.yaml"
SECONDS = 600  # for one question: an exception may be tried again, with pauses


def probe(aws: Aws) -> dict[str, str]:
    """What became of a good and a bad record that were put together, by the question.

    Raises:
        CommandError: the stack could not be created or deleted; what is to be done stands in the message.
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
            for event in follow(aws, created["StackId"], set())
            if event["ResourceStatus"] == "CREATE_FAILED"
        ]
        if (describe_stack(aws, created["StackId"]) or {}).get("StackStatus") != "CREATE_COMPLETE":
            raise CommandError(f"the stack of the probe could not be created: {'; '.join(failures)}")
        ids = physical_ids(aws, name)
        return {question: _ask(aws, ids, question) for question in ("missing recordId", "exception")}
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
            if key.startswith("errors/"):
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
    s3 = aws.client("s3")
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
