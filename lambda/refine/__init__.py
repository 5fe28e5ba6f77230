"""Refines events into tables: what the state machine of stacks/refine.yaml asks of its function."""
