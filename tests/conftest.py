"""Settings of every test run."""

import os

# Models in tests are tiny: more threads only wait for each other, badly so on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
