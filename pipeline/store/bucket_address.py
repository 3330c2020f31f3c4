"""Addresses of object stores: `s3://bucket/prefix`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.core.errors import StoreRefused

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,221}")


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """A folder in a bucket. `prefix`: without slashes at its ends, empty for the bucket itself."""

    scheme: str
    bucket: str
    prefix: str

    @classmethod
    def read(cls, text: str) -> BucketAddress:
        """Raises `StoreRefused`. What might be a password is not shown."""
        scheme, _, rest = text.partition("://")
        bucket, _, prefix = rest.partition("/")
        if "@" in bucket or "?" in text or "#" in text:
            raise StoreRefused(
                f"an address {scheme}://BUCKET/PREFIX takes no user, password or query (not shown here): credentials come from the "
                "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ...) or ~/.aws/credentials"
            )
        if not _NAME.fullmatch(bucket):
            raise StoreRefused(f"{text}: this names no bucket; give {scheme}://BUCKET/PREFIX")
        parts = [part for part in prefix.split("/") if part]
        if any(part in (".", "..") or not part.isprintable() for part in parts):
            raise StoreRefused(
                f"{text!r}: its prefix has parts that are no names; give {scheme}://BUCKET/PREFIX"
            )
        return cls(scheme, bucket, "/".join(parts))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
