"""The transform function: what Firehose hands over in records becomes rows, one event at a time."""
