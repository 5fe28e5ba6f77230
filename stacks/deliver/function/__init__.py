"""Delivers the rows of a saved query to an HTTP endpoint.

run.py puts the rows into a queue, and send.py posts what is in it. Neither knows the other but by the messages, which
messages.py writes and reads.
"""
