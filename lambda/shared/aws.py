"""The structures of AWS with the keys used here, and the calls: boto3 itself has no types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NotRequired, Protocol, TypedDict


class LambdaContext(Protocol):
    """The used part of Lambda's context object."""

    @property
    def function_name(self) -> str: ...

    def get_remaining_time_in_millis(self) -> int: ...


class ReceivedAttributes(TypedDict):
    """Numbers, as texts. SentTimestamp is in milliseconds since 1970."""

    ApproximateReceiveCount: str
    SentTimestamp: str


class QueueRecord(TypedDict):
    """A message of a queue, as a function is given it."""

    messageId: str
    receiptHandle: str
    body: str
    attributes: ReceivedAttributes


class BatchItemFailure(TypedDict):
    """A message by its id."""

    itemIdentifier: str


class BatchItemFailures(TypedDict):
    """A function's answer about messages: these stay in the queue."""

    batchItemFailures: list[BatchItemFailure]


class MessageAttribute(TypedDict):
    """A value beside a message's body."""

    DataType: str
    StringValue: str


class ReceivedMessage(TypedDict):
    """A message, as ReceiveMessage gives it."""

    MessageId: str
    ReceiptHandle: str
    Body: str
    MessageAttributes: NotRequired[dict[str, MessageAttribute]]


class ReceivedMessages(TypedDict):
    """ReceiveMessage's answer."""

    Messages: NotRequired[list[ReceivedMessage]]


class BatchEntry(TypedDict):
    """A message of a batch; `Id` tells it from the others."""

    Id: str


class FailedEntry(BatchEntry):
    """Why SQS did not take it; with SenderFault, another try is in vain."""

    Code: str
    Message: NotRequired[str]
    SenderFault: bool


class BatchAnswer(TypedDict):
    """The messages of a batch taken by SQS, and the others."""

    Successful: list[BatchEntry]
    Failed: NotRequired[list[FailedEntry]]


class QueueAttributes(TypedDict):
    """GetQueueAttributes's answer: numbers, too, are texts."""

    Attributes: dict[str, str]


Entry = Mapping[str, str | int | Mapping[str, MessageAttribute]]


class Sqs(Protocol):
    """The used part of boto3's SQS client."""

    def get_queue_attributes(self, *, QueueUrl: str, AttributeNames: list[str]) -> QueueAttributes: ...

    def receive_message(
        self,
        *,
        QueueUrl: str,
        MaxNumberOfMessages: int,
        VisibilityTimeout: int,
        WaitTimeSeconds: int,
        MessageAttributeNames: Sequence[str] = (),
    ) -> ReceivedMessages: ...

    def send_message(
        self, *, QueueUrl: str, MessageBody: str, MessageAttributes: Mapping[str, MessageAttribute] = {}
    ) -> None: ...

    def send_message_batch(self, *, QueueUrl: str, Entries: Sequence[Entry]) -> BatchAnswer: ...

    def change_message_visibility(self, *, QueueUrl: str, ReceiptHandle: str, VisibilityTimeout: int) -> None: ...

    def change_message_visibility_batch(self, *, QueueUrl: str, Entries: Sequence[Entry]) -> BatchAnswer: ...

    def delete_message(self, *, QueueUrl: str, ReceiptHandle: str) -> None: ...

    def delete_message_batch(self, *, QueueUrl: str, Entries: Sequence[Entry]) -> BatchAnswer: ...


class AttributeValue(TypedDict, total=False):
    """A value of an item: a text, or a number as text."""

    S: str
    N: str


DynamoItem = dict[str, AttributeValue]


class FoundItem(TypedDict):
    """GetItem's answer; without an item if there is none."""

    Item: NotRequired[DynamoItem]


class DynamoDbExceptions(Protocol):
    """The expected errors."""

    @property
    def ConditionalCheckFailedException(self) -> type[Exception]: ...


class DynamoDb(Protocol):
    """The used part of boto3's DynamoDB client."""

    @property
    def exceptions(self) -> DynamoDbExceptions: ...

    def get_item(self, *, TableName: str, Key: DynamoItem, ConsistentRead: bool) -> FoundItem: ...

    def update_item(
        self,
        *,
        TableName: str,
        Key: DynamoItem,
        UpdateExpression: str,
        ExpressionAttributeValues: DynamoItem,
        ConditionExpression: str = "",
    ) -> None: ...
