"""Imported by the process that forks what forks.py starts: what all its children need, measured and imported once."""

import pico  # one thread, and garbage collection that leaves the imports alone

import finetune.run.loading
from finetune.hardware.machine import inspect
from finetune.runtime import RuntimeOptions

assert pico
assert finetune.run.loading
inspect(RuntimeOptions(device="cpu", dtype="float32"))
