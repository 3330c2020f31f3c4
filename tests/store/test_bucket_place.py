"""An object store keeps what every place of a store keeps, on a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.errors import StoreRefused
from pipeline.store import CaptionStore
from pipeline.store.place import StorePlace, place_of
from pipeline.testing.places import StorePlaceTests
from tests.s3_server import Network, new_bucket

pytest.importorskip("obstore")


class TestBucketPlace(StorePlaceTests):
    @pytest.fixture(autouse=True)
    def _server(self, direct: int) -> None:
        self._port = direct

    def place(self, path: Path) -> StorePlace:
        return place_of(self.address(path))

    def address(self, path: Path) -> str:
        return f"s3://{new_bucket(self._port)}/some/prefix"


def test_a_lost_answer_is_no_conflict_with_oneself(server: int, network: Network) -> None:
    place = place_of(f"s3://{new_bucket(server)}/x")
    cut: list[str] = []

    def fate(method: str, path: str) -> str:
        if method == "PUT" and path not in cut:
            cut.append(path)
            return "cut"
        return "pass"

    network.fate = fate
    place.claim("epoch/0001.json")
    place.put("hot/a", b"first")
    assert place.read("hot/a") == b"first"
    with pytest.raises(FileExistsError):
        place.claim("epoch/0001.json")
    assert len(cut) == 2


def test_a_server_that_asks_to_slow_down_is_asked_again(server: int, network: Network) -> None:
    place = place_of(f"s3://{new_bucket(server)}/x")
    asked: dict[str, int] = {}

    def fate(method: str, path: str) -> str:
        asked[method] = asked.get(method, 0) + 1
        return "503 SlowDown" if asked[method] <= 2 else "pass"

    network.fate = fate
    place.claim("epoch/0001.json")
    place.put("hot/a", b"first")
    assert place.read("hot/a") == b"first"
    assert asked["PUT"] == 4
    assert asked["GET"] == 3


@pytest.mark.parametrize(
    ("address", "fate", "told"),
    [
        ("s3://no-such-bucket-anywhere/x", "pass", "no such bucket"),
        ("s3://BUCKET/x", "403 InvalidAccessKeyId", "credentials are refused"),
        ("s3://BUCKET/x", "403 SignatureDoesNotMatch", "credentials are refused"),
        ("s3://BUCKET/x", "403 AccessDenied", "may not do that"),
        ("s3://user:topsecret@BUCKET/x", "pass", "no user, password"),
        ("s3://BUCKET/x?X-Amz-Signature=topsecret", "pass", "no user, password or query"),
        ("s3:///x", "pass", "names no bucket"),
        ("s3://BUCKET/../x", "pass", "no names"),
        ("s3://BUCKET/x", "pass", "does not exist"),
    ],
)
def test_what_cannot_be_opened_is_told_in_one_line_without_secrets(
    server: int, network: Network, address: str, fate: str, told: str
) -> None:
    address = address.replace("BUCKET", new_bucket(server))
    network.fate = lambda method, path: fate
    with pytest.raises(StoreRefused, match=told) as refused:
        CaptionStore.open(address)
    text = str(refused.value)
    assert "\n" not in text
    assert not [
        secret for secret in ("verysecretkey", "AKIATEST", "topsecret", "Signature=") if secret in text
    ]


def test_keys_of_a_profile_are_found_where_other_programs_find_them(tmp_path: Path) -> None:
    from pipeline.store.bucket_opening import s3_settings

    (tmp_path / "credentials").write_text("[other]\naws_access_key_id = A\naws_secret_access_key = B\n")
    (tmp_path / "config").write_text(
        "[profile other]\nregion = eu-west-1\nendpoint_url = http://localhost:9\n"
    )
    environment = {
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_PROFILE": "other",
    }
    settings = s3_settings(environment)
    assert settings == {
        "access_key_id": "A", "secret_access_key": "B", "region": "eu-west-1", "endpoint": "http://localhost:9", "http": "yes",
    }  # fmt: skip
    assert "access_key_id" not in s3_settings({**environment, "AWS_ACCESS_KEY_ID": "C"})
