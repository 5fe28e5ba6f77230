"""Refines events into tables: what the state machine of stacks/refine/template.yaml asks of its function."""
