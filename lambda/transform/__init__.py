"""The transform function: Firehose's records become rows, one event at a time."""
