"""Refines events into tables: the function of the state machine of stacks/refine/template.yaml."""
