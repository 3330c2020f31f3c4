"""Our own drop policies keep what every one keeps."""

from __future__ import annotations

import pytest

from pipeline.core.dropping import DROP_POLICIES, DropPolicy, drop_policy
from pipeline.testing.drop_policies import DropPolicyTests


class TestDropPolicies(DropPolicyTests):
    @pytest.fixture(autouse=True, params=list(DROP_POLICIES.own))
    def _choose(self, request: pytest.FixtureRequest) -> None:
        self.name = request.param

    def policy(self) -> DropPolicy:
        return drop_policy(self.name)


def test_a_name_is_the_one_that_settings_say() -> None:
    assert [drop_policy(name).name for name in DROP_POLICIES.own] == list(DROP_POLICIES.own)
