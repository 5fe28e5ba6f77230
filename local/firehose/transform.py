"""The call of a stream's transform function, and its verdict on each record."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from dataclasses import dataclass

from local.firehose import objects
from local.firehose.configuration import Configuration
from local.firehose.engine import PRINCIPAL, Engine, is_about_trust
from local.firehose.objects import Record, TransformFailure, Verdict
from local.ministack import AccessDenied, ServiceError

INVOKE_ERRORS = {
    403: "Lambda.InvokeAccessDenied",
    404: "Lambda.ResourceNotFound",
    429: "Lambda.InvokeLimitExceeded",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Transform:
    """Calls the function."""

    engine: Engine

    async def invoke(self, configuration: Configuration, batch: list[Record]) -> list[Verdict]:
        """Invoke the function once; TransformFailure carries Firehose's error code.

        The function's exception is in its own log and not in Firehose's, as on AWS.
        https://docs.aws.amazon.com/firehose/latest/dev/monitoring-with-cloudwatch-logs.html
        """
        processor = configuration.processor
        assert processor
        try:
            for action in ("lambda:InvokeFunction", "lambda:GetFunctionConfiguration"):
                self.engine.emulator.authorize(processor.role, PRINCIPAL, action, processor.function)
            event = await self.engine.at_work(objects.transform_event, str(uuid.uuid4()), configuration.arn, batch)
            began = time.monotonic()
            async with asyncio.timeout(self.engine.limits.function_timeout * self.engine.limits.second):
                reply = await self.engine.emulator.invoke(processor.function, event)
            self.engine.metrics.add(ExecuteProcessing_Duration=(time.monotonic() - began) * 1000)
        except TimeoutError:
            raise TransformFailure("Lambda.FunctionTimedOut", "The Lambda function timed out.", retry=True) from None
        except AccessDenied as error:
            code = "Lambda.AssumeRoleAccessDenied" if is_about_trust(error) else "Lambda.InvokeAccessDenied"
            raise TransformFailure(code, str(error), retry=True) from None
        except ServiceError as error:
            code = INVOKE_ERRORS.get(error.status, "Lambda.InvokeFailed")
            raise TransformFailure(code, error.message, retry=True) from None
        except Exception as error:  # Nothing may lose the batch.
            logger.exception("%s: cannot invoke %s", configuration.name, processor.function)
            raise TransformFailure("InternalError", repr(error), retry=True) from None
        if reply.status >= 300:
            text = reply.payload[:1000].decode(errors="replace")
            raise TransformFailure(INVOKE_ERRORS.get(reply.status, "Lambda.InvokeFailed"), text, retry=True)
        if reply.function_error or len(reply.payload) > objects.REPLY_LIMIT:
            message = "The Lambda function was successfully invoked but it returned an error result."
            raise TransformFailure("Lambda.FunctionError", message, retry=True)
        return await self.engine.at_work(objects.read_transform_reply, reply.payload, batch)
