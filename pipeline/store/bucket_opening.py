"""From an address such as s3://bucket/prefix to the place that it names. Credentials come from the environment and its usual files."""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import StoreRefused
from pipeline.store.bucket_address import BucketAddress
from pipeline.store.place import StorePlace

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_ENVIRONMENT_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
# So long one request may take, and so often it is tried again where the answer is a 5xx, "slow down" or none.
_REQUEST_S = "30s"
_RETRIES = 4


def bucket_place(address: str) -> StorePlace:
    """The folder that s3://bucket/prefix, gs://bucket/prefix or az://container/prefix names.

    Raises `StoreRefused` unless the bucket is there and lets us in.
    """
    found = BucketAddress.read(address)
    if find_spec("obstore") is None:
        raise StoreRefused(
            f"{found}: object stores need obstore, which is not installed: pip install 'segment-caption-stream[cloud]'"
        )
    from pipeline.store.bucket_place import BucketPlace

    place = BucketPlace(found, found.prefix, connect(found))
    place.check()
    return place


def connect(address: BucketAddress) -> ObjectStore:
    """Who answers for the bucket. Nothing is asked of it yet. Raises `StoreRefused` for settings that are none."""
    from obstore.store import AzureStore, GCSStore, S3Store

    options: dict[str, Any] = {"timeout": _REQUEST_S}
    settings: dict[str, Any] = {}
    made: Any = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[address.scheme.lower()]
    try:
        if made is S3Store:
            settings = dict(s3_settings(os.environ))
            if settings.pop("http", ""):
                options["allow_http"] = True
        store: ObjectStore = made(address.bucket, retry_config=_retries(), client_options=options, **settings)
        return store
    except StoreRefused:
        raise
    except Exception as error:  # whatever it says may hold a secret
        raise StoreRefused(
            f"{address}: the settings for it in the environment are wrong ({type(error).__name__}): check the variables of your "
            "object store (AWS_..., GOOGLE_..., AZURE_...)"
        ) from None


def s3_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """What the library does not look up itself: keys, region and endpoint of `AWS_PROFILE` in ~/.aws, after the environment.

    `http`: there where the endpoint is one without TLS, which whoever names it wants.
    """
    found: dict[str, str] = {}
    profile = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE") or "default"
    home = Path(environment.get("HOME") or "~").expanduser() / ".aws"
    keys = _section(Path(environment.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials"), profile)
    named = profile if profile == "default" else f"profile {profile}"
    settings = _section(Path(environment.get("AWS_CONFIG_FILE") or home / "config"), named)
    in_environment = "AWS_ACCESS_KEY_ID" in environment or "AWS_WEB_IDENTITY_TOKEN_FILE" in environment
    if not in_environment:
        keys = {**settings, **keys}
        for name, key in (
            ("access_key_id", "aws_access_key_id"),
            ("secret_access_key", "aws_secret_access_key"),
            ("session_token", "aws_session_token"),
        ):
            if key in keys:
                found[name] = keys[key]
    if not ({"AWS_REGION", "AWS_DEFAULT_REGION"} & set(environment)) and "region" in settings:
        found["region"] = settings["region"]
    endpoint = next((environment[name] for name in _ENVIRONMENT_ENDPOINTS if environment.get(name)), None)
    if endpoint is None and "endpoint_url" in settings:
        endpoint = found["endpoint"] = settings["endpoint_url"]
    if endpoint is not None and endpoint.lower().startswith("http://"):
        found["http"] = "yes"
    return found


def _section(path: Path, name: str) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
        return dict(parser.items(name)) if parser.has_section(name) else {}
    except (configparser.Error, UnicodeDecodeError, OSError):
        raise StoreRefused(f"{path} cannot be read as a file of settings: mend it") from None


def _retries() -> dict[str, Any]:
    from datetime import timedelta

    backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=4), "base": 2}
    return {"max_retries": _RETRIES, "backoff": backoff, "retry_timeout": timedelta(seconds=60)}
