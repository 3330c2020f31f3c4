"""Compiles the stages of a model for a device, checks each against eager, and keeps it under a key.

`engines.acceleration.accelerate` is the door for a running program; `engines.workshop.Workshop` builds, verifies and
loads single engines. Nothing heavy is imported here.
"""
