"""What pyproject.toml cannot say: the presets are kept in configs/, and are installed inside the package that reads them.

Everything else, the version too, stands in pyproject.toml.
"""

from setuptools import find_packages, setup

PRESETS = "pipeline.settings.presets"

setup(
    packages=[
        *find_packages(include=["sca", "sca.*", "engines", "engines.*", "pipeline", "pipeline.*"]),
        PRESETS,
    ],
    package_dir={PRESETS: "configs"},
)
