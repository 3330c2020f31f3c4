"""The page of promises is what the tests' marks say, and no promise is without a test."""

from __future__ import annotations

from tests.mended_kinds import absent
from tests.promises import PAGE, PROMISES, page, promised


def test_every_promise_has_a_test_and_the_page_says_which() -> None:
    tests = promised()
    assert set(tests) == set(PROMISES)
    assert not absent()
    assert PAGE.read_text(encoding="utf-8") == page(tests), "write it again: python -m tests.promises"
