"""What an object store refuses, as errors of the operating system: the rest of the store knows no others.

Texts of the library are looked through for the few words that tell what went wrong and never shown: they hold addresses, which may
hold signatures, and answers of servers, which are anybody's.
"""

from __future__ import annotations

import errno
import re

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from pipeline.store.durable_files import FarPlaceRefused

# Names of errors in the answers of S3, GCS and Azure, and what can be done. Those without a remedy of their own say their name.
_CREDENTIALS = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "AuthenticationFailed",
    "InvalidAuthenticationInfo",
)
_CODE = re.compile(r"<Code>([A-Za-z0-9_.-]{1,64})</Code>")
_STATUS = re.compile(r"status code: (\d{3})|\bstatus: (\d{3})\b")
# What a machine asks for credentials when it was given none.
_METADATA = ("169.254.169.254", "metadata.google.internal", "/latest/api/token", "169.254.170.2")


def as_os_error(error: Exception, where: str) -> OSError:
    """The same as OSError: FileNotFoundError, FileExistsError, or `FarPlaceRefused`."""
    text = str(error)
    code = _CODE.search(text)
    name = code[1] if code else ""
    if name in ("NoSuchBucket", "ContainerNotFound"):
        return _refused(errno.ENXIO, "there is no such bucket: make it first, or check the address", where)
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "no such object", where)
    if isinstance(error, AlreadyExistsError | PreconditionError):
        return FileExistsError(errno.EEXIST, "the object is there already", where)
    if (
        any(word in text for word in _METADATA)
        or "MissingCredentials" in text
        or "missing credential" in text.lower()
    ):
        return _refused(
            errno.EACCES,
            "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what your object store takes in their place",
            where,
        )
    if name in _CREDENTIALS or isinstance(error, UnauthenticatedError):
        return _refused(errno.EACCES, f"the credentials are refused ({name or 'not authenticated'})", where)
    if isinstance(error, PermissionDeniedError) or name == "AccessDenied":
        return _refused(errno.EACCES, "these credentials may not do that: check what they allow", where)
    if "dns error" in text or "lookup address" in text:
        return _refused(errno.EHOSTUNREACH, "its name is not known: check the address and the network", where)
    if "ConnectionRefused" in text or "kind: Connect" in text:
        return _refused(errno.EHOSTUNREACH, "nobody answers there: check the address and the network", where)
    if "Timeout" in text or "timed out" in text.lower() or "TimedOut" in text:
        return _refused(errno.ETIMEDOUT, "it does not answer in time", where)
    status = _STATUS.search(text)
    number = next((group for group in status.groups() if group), "") if status else ""
    if name or number:
        return _refused(
            errno.EREMOTEIO, f"it answers {' '.join(part for part in (number, name) if part)}", where
        )
    return _refused(errno.EREMOTEIO, "the connection broke off, or the answer is none", where)


def _refused(number: int, reason: str, where: str) -> FarPlaceRefused:
    return FarPlaceRefused(number, reason, where)


ERRORS = (BaseError, FileNotFoundError, PermissionError, TimeoutError, OSError, ValueError)
"""What the library raises; some of its errors are those of Python."""
