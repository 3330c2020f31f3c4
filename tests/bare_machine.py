"""A command run where little is allowed: as somebody without rights, with little shared memory, no network, and a home that nobody writes to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534
TMPDIR_LENGTH = 150
MOST_FILES = 256
SHARED_MEMORY = "16m"

# Run by root in mount and network namespaces of its own. Arguments: folder, interpreter, then the command.
_SETTING = r"""
set -e
folder=$1; interpreter=$2; shift 2
"$interpreter" -c 'import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 0x41))'  # lo is up
# Of what only its owner may enter, the part in which Python lies is shown alone.
closed=$(dirname "$interpreter")
while [ "$closed" != / ] && ! setpriv --reuid=%(nobody)d --clear-groups test -x "$(dirname "$interpreter")/."; do
  if setpriv --reuid=%(nobody)d --clear-groups test -x "$(dirname "$closed")/."; then
    kept=$(realpath --relative-to="$closed" "$interpreter" | cut -d/ -f1)
    mkdir -p "$folder/kept"; mount --bind "$closed/$kept" "$folder/kept"
    mount -t tmpfs -o mode=755 tmpfs "$closed"; mkdir "$closed/$kept"; mount --bind "$folder/kept" "$closed/$kept"
    closed=$(dirname "$interpreter")
  else
    closed=$(dirname "$closed")
  fi
done
mount -t tmpfs -o size=%(shared)s,mode=1777 tmpfs /dev/shm
mount --bind "$folder/home" "$folder/home"
mount -o remount,ro,bind "$folder/home"
ulimit -n %(files)d
cd "$folder/work"
exec setpriv --reuid=%(nobody)d --regid=%(nobody)d --clear-groups "$@"
"""


def cannot() -> str:
    """Why this machine cannot be made so bare; empty where it can."""
    if sys.platform != "linux":
        return "namespaces are Linux's"
    if os.geteuid() != 0:
        return "only root can make a machine so bare; run the tests as root once"
    missing = [name for name in ("unshare", "mount", "setpriv") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} of util-linux is missing; install it"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        check=False,
    )
    return "" if tried.returncode == 0 else "namespaces and mounts are forbidden here, as in most containers"


class BareMachine:
    """`work`: the working directory, which may be written to. What is put in it before belongs to nobody."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.work = folder / "work"
        self._tmp = self.work / ("t" * (TMPDIR_LENGTH - len(str(self.work)) - 1))
        for made in (self.work, self._tmp, folder / "home"):
            made.mkdir()
        folder.chmod(0o755)
        (folder / "home").chmod(0o555)

    def run(self, command: Sequence[str], code: Path) -> subprocess.CompletedProcess[str]:
        """`command` behind Python, which imports from `code`."""
        for path in (self.work, *self.work.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self._folder / "home"),
            "TMPDIR": str(self._tmp),
            "LC_ALL": "C",
            "PYTHONPATH": str(code),
            "OMP_NUM_THREADS": "1",
        }
        setting = _SETTING % {"nobody": NOBODY, "files": MOST_FILES, "shared": SHARED_MEMORY}
        return subprocess.run(
            [
                "unshare", "--net", "--mount", "bash", "-c", setting, "bare", str(self._folder),
                os.path.realpath(sys.executable), sys.executable, *command,
            ],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip


@contextmanager
def bare_machine() -> Iterator[BareMachine]:
    """Its folder has a short name that everybody may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="sca-bare-", dir="/tmp") as folder:
        yield BareMachine(Path(folder))
