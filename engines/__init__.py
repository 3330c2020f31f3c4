"""Compiles the stages of a model for a device, checks each against eager, and keeps it under a key.

Nothing heavy is imported here: `engines.acceleration.accelerate` is the door for a running program, and
`engines.workshop.Workshop` builds, verifies and lists single engines.
"""
