"""What the machine refused, in one line: a full disk, a missing permission, a name that is too long are no faults of ours."""

from __future__ import annotations

import errno
import os

_REMEDIES = {
    errno.EACCES: "change its permissions, or name another place",
    errno.EDQUOT: "free some space, or name another disk",
    errno.EFBIG: "name another disk",
    errno.EIO: "check the disk",
    errno.ELOOP: "these links lead to each other; name the file itself",
    errno.EMFILE: "raise the limit (ulimit -n)",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENFILE: "close other programs, or raise the machine's limit",
    errno.ENOMEM: "close other programs",
    errno.ENOSPC: "free some space, or name another disk",
    errno.ENOTDIR: "a part of the path is a file; check it",
    errno.EPERM: "change its permissions, or name another place",
    errno.EROFS: "name another place",
}
_LONGEST_NAME = 200


def machine_error(error: OSError) -> str | None:
    """What to tell of `error`, with the remedy; None where it could as well be a fault of the program."""
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is None:
        return None
    # In this order Python keeps the two names of a call that takes two.
    named = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    shown = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..." for name in named]
    return ": ".join([*(" and ".join(shown),) * bool(shown), f"{error.strerror}; {remedy}"])
