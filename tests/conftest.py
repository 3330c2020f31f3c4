"""Settings of every test run."""

import os
from pathlib import Path

from hypothesis import settings

# Models in tests are tiny: more threads only wait for each other, badly so on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Engines that one test builds serve the next, and the next run; nobody's own cache is touched.
os.environ["SCA_ENGINE_CACHE"] = str(Path(__file__).resolve().parent.parent / ".pytest_cache" / "engines")

# A property holds or does not; how long an example takes says how busy the machine is.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
