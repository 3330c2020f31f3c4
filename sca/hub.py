"""Models of a Hugging Face hub, in its usual cache: fetched so that a cut download goes on, and checked byte by byte."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from sca.checkpoint_files import missing_files
from sca.errors import UserError
from sca.small_files import parsed_json

_WANTED = ("*.json", "*.safetensors", "*.bin", "*.model", "*.txt")
_BLOCK = 1 << 20
_TRIES = 4
_TIMEOUT_S = 30
_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")

Progress = Callable[[str, int, int], None]
"""Is told of a file's name, and of how many of its bytes there are."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository. `digest`: SHA-256 of a large file, git's SHA-1 of a small one; it names the cached file."""

    name: str
    size: int
    digest: str


class CachedRepository:
    """The cache folder of one repository, in the layout that transformers and huggingface_hub read.

    UserError for what is not the name of a repository.
    """

    def __init__(self, repository: str, revision: str | None = None) -> None:
        from huggingface_hub import constants
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(repository)
        except HFValidationError as error:
            raise UserError(
                f"{repository!r} is not the name of a hub repository: write owner/name"
            ) from error
        if revision is not None and (".." in revision or revision.startswith("/") or not revision):
            raise UserError(f"{revision!r} is no revision: give a branch, a tag or a commit")
        self.repository, self.revision = repository, revision or "main"
        self.folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"

    def snapshot(self) -> Path | None:
        """The folder of the revision, whole or not; None if there is none."""
        commit = self.revision
        reference = self.folder / "refs" / self.revision
        if reference.is_file():
            commit = reference.read_text().strip()
        folder = self.folder / "snapshots" / commit
        return folder if _SHA1.fullmatch(commit) and folder.is_dir() else None

    def missing(self) -> list[str]:
        """Files that a run would miss: by the list of the revision's files where a pull has left one, else by name."""
        folder = self.snapshot()
        if folder is None:
            return ["config.json", "model.safetensors or pytorch_model.bin"]
        listed = [file.name for file in self._listed(folder.name) if not (folder / file.name).exists()]
        return listed or missing_files(folder)

    def damaged(self) -> list[str]:
        """Files whose bytes are not those of their digest. Reads every file."""
        folder = self.snapshot()
        if folder is None:
            return []
        bad = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest = path.resolve().name
            if (_SHA1.fullmatch(digest) or _SHA256.fullmatch(digest)) and digest_of(path, digest) != digest:
                bad.append(str(path.relative_to(folder)))
        return bad

    def pull(self, progress: Progress = lambda name, done, total: None) -> Path:
        """Fetch what is missing and check it. A file that was cut goes on where it stopped.

        UserError, naming what is missing, if the hub cannot be reached, and for a file that is not what it should be.
        """
        with _told(self), self._lock():
            commit, files = self._list()
            folder = self.folder / "snapshots" / commit
            for part in ("blobs", "refs", "snapshots"):
                (self.folder / part).mkdir(parents=True, exist_ok=True)
            folder.mkdir(exist_ok=True)
            self._list_path(commit).write_text(json.dumps([asdict(file) for file in files]))
            reference = self.folder / "refs" / self.revision
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(commit)
            for file in files:
                blob = self._fetch(file, commit, progress)
                _link(folder / file.name, blob)
        return folder

    def _list(self) -> tuple[str, list[HubFile]]:
        from huggingface_hub import HfApi

        found = HfApi().model_info(self.repository, revision=self.revision, files_metadata=True)
        commit = str(found.sha)
        if not _SHA1.fullmatch(commit):
            raise UserError(f"the hub names no commit of {self.repository}: check HF_ENDPOINT")
        files = []
        for sibling in found.siblings or []:
            name = sibling.rfilename
            if not any(fnmatch(name, pattern) for pattern in _WANTED):
                continue
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
                raise UserError(f"{self.repository} lists a file {name!r} outside its folder: do not use it")
            digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
            if not digest or not (_SHA1.fullmatch(digest) or _SHA256.fullmatch(digest)):
                raise UserError(f"the hub gives no digest of {name} in {self.repository}: check HF_ENDPOINT")
            files.append(HubFile(name, int(sibling.size or 0), digest))
        names = {file.name for file in files}
        if {"model.safetensors", "model.safetensors.index.json"} & names:
            files = [file for file in files if not file.name.startswith("pytorch_model")]
        return commit, sorted(files, key=lambda file: file.size)

    def _fetch(self, file: HubFile, commit: str, progress: Progress) -> Path:
        blob = self.folder / "blobs" / file.digest
        if (
            blob.is_file()
            and blob.stat().st_size == file.size
            and digest_of(blob, file.digest) == file.digest
        ):
            progress(file.name, file.size, file.size)
            return blob
        partial = blob.with_name(f"{file.digest}.part")
        for attempt in range(_TRIES):
            try:
                self._stream(file, commit, partial, progress)
                break
            except Exception as error:
                if attempt + 1 == _TRIES or not _is_passing(error):
                    raise
        if digest_of(partial, file.digest) != file.digest:
            partial.unlink()
            raise UserError(
                f"{file.name} of {self.repository} is damaged: its bytes are not those of its digest. Pull it again; "
                "if that does not help, what stands between you and the hub changes files"
            )
        os.replace(partial, blob)
        return blob

    def _stream(self, file: HubFile, commit: str, partial: Path, progress: Progress) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session

        there = partial.stat().st_size if partial.exists() else 0
        if there > file.size:
            partial.unlink()
            there = 0
        if there == file.size and partial.exists():
            return
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        if there:
            headers["Range"] = f"bytes={there}-"
        url = hf_hub_url(self.repository, file.name, revision=commit)
        with get_session().stream(
            "GET", url, headers=headers, timeout=_TIMEOUT_S, follow_redirects=True
        ) as answer:
            answer.raise_for_status()
            goes_on = there and answer.status_code == 206
            with partial.open("ab" if goes_on else "wb") as target:
                done = there if goes_on else 0
                for block in answer.iter_bytes():
                    target.write(block)
                    done += len(block)
                    progress(file.name, done, file.size)
                    if done > file.size:
                        raise UserError(f"the hub sends more of {file.name} than it has: check HF_ENDPOINT")
        if done < file.size:
            raise ConnectionError(f"{file.name} ended after {done} of {file.size} bytes")

    def _list_path(self, commit: str) -> Path:
        return self.folder / "refs" / f".files-{commit}.json"

    def _listed(self, commit: str) -> list[HubFile]:
        try:
            return [HubFile(**entry) for entry in parsed_json(self._list_path(commit).read_text())]
        except (OSError, ValueError, TypeError):
            return []

    def _lock(self) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".pull.lock")


def digest_of(path: Path, like: str) -> str:
    """The digest of a file, of the same kind as `like`."""
    algorithm: Any = hashlib.sha256() if _SHA256.fullmatch(like) else hashlib.sha1(usedforsecurity=False)
    if not _SHA256.fullmatch(like):
        # Git's name of a file's contents.
        algorithm.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            algorithm.update(block)
    return str(algorithm.hexdigest())


def _link(place: Path, blob: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    target = os.path.relpath(blob, place.parent)
    if place.is_symlink() and os.readlink(place) == target:
        return
    place.unlink(missing_ok=True)
    place.symlink_to(target)


def _is_passing(error: Exception) -> bool:
    """Whether the same question may be answered the next time: cut connections, and servers that say so."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, UserError) or "Offline" in type(error).__name__:
        return False
    return status is None or status >= 500 or status == 429


@contextmanager
def _told(cached: CachedRepository) -> Iterator[None]:
    """What the network raises, as a `UserError` that names what is missing."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except UserError:
        raise
    except GatedRepoError as error:
        raise UserError(
            f"{cached.repository} is open only to those whom its owner lets in: ask on its page, then set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"{cached.repository} has no revision {cached.revision!r}: leave --revision out"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"there is no model {cached.repository} on the hub, or it is not open to you: check the name"
        ) from error
    except Exception as error:
        if not isinstance(error, OSError) and not _from_the_network(error):
            raise
        missing = ", ".join(cached.missing())
        raise UserError(
            f"cannot fetch {cached.repository} from the Hugging Face hub ({type(error).__name__}); missing here: {missing}. "
            "Connect to the network and run the same again, which goes on where it stopped, or download it elsewhere and "
            "name the directory instead"
        ) from error


def _from_the_network(error: Exception) -> bool:
    return any(
        base.__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "huggingface_hub")
        for base in type(error).__mro__
    )
