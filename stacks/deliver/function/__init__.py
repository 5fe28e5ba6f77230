"""Delivers the rows of a saved query to an HTTP endpoint.

run.py puts the rows into a queue, and send.py posts them. They share only the messages (messages.py).
"""
