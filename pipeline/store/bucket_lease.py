"""Who writes a stream of an object store now: an object that its holder writes anew all the time.

It keeps a second writer from beginning; what keeps a writer that slept from doing harm is the claim of the next one, which nobody
can make twice. The server's clock alone counts: its times are compared with those of an object that was put just before.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import socket
import threading

from pipeline.store.place import FarPlace, PlaceHeld

log = logging.getLogger(__name__)

LEASE_S = 120
"""A holder that was not heard of for so long is taken to be gone."""
RENEW_S = 30.0
_NUMBER = re.compile(r"(\d{8,})\.json")


class Lease:
    """Held until it is released, or for `LEASE_S` after its process ended. Renewed by a thread of its own."""

    def __init__(self, place: FarPlace, key: str, document: bytes) -> None:
        self._place, self._key, self._document = place, key, document
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease-{place.where}", daemon=True)
        self._thread.start()

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # then it runs out
            self._place.delete(self._key)

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_S):
            try:
                self._place.put(self._key, self._document)
            except OSError as error:
                log.debug("lease %s not renewed: %s", self._key, error)


def take_lease(place: FarPlace, key: str, owner: str | None = None) -> Lease:
    """Become the holder of `key`. Raises `PlaceHeld` where somebody else is, OSError.

    `owner`: who has the same name is the same, and goes on where it was killed; by default nobody else.
    """
    owner = owner or secrets.token_hex(12)
    document = json.dumps({"owner": owner, "host": socket.gethostname(), "pid": os.getpid()}).encode()
    probe = f"{key}/now.{owner}"
    place.put(probe, b"")
    try:
        stamps = place.stamps(key)
        now = stamps[probe.rpartition("/")[2]].modified_ns if probe.rpartition("/")[2] in stamps else None
        numbers = sorted(int(match[1]) for name in stamps if (match := _NUMBER.fullmatch(name)))
        if numbers and now is not None:
            newest = f"{numbers[-1]:08d}.json"
            fresh = now - stamps[newest].modified_ns < LEASE_S * 10**9
            if fresh and not _is_of(place, f"{key}/{newest}", owner):
                raise PlaceHeld(key)
        mine = f"{key}/{(numbers[-1] if numbers else 0) + 1:08d}.json"
        try:
            place.create(mine, document)
        except FileExistsError:
            raise PlaceHeld(key) from None
    finally:
        with contextlib.suppress(OSError):
            place.delete(probe)
    for number in numbers:  # of holders that are gone
        with contextlib.suppress(OSError):
            place.delete(f"{key}/{number:08d}.json")
    return Lease(place, mine, document)


def _is_of(place: FarPlace, key: str, owner: str) -> bool:
    try:
        return bool(json.loads(place.read(key))["owner"] == owner)
    except FileNotFoundError:
        return True  # released since it was listed
    except (ValueError, KeyError, TypeError):
        return False
