"""Stores of these tests lie in memory."""

from tests.memory_folders import (  # noqa: F401 - fixtures
    temporary_files_in_memory,
    tmp_path,
    tmp_path_factory,
)
