"""Captions for several threads at once: their prefixes share the steps of one decoder, and late ones join under way."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from sca.decoding.reference import MAX_NEW_TOKENS, DecodedCaptions, TextDecoding
from sca.decoding.slots import FinishedCaption, SlotDecoder


@dataclass(eq=False, slots=True)
class _Request:
    prefix: Tensor
    tickets: list[int] = field(default_factory=list)
    found: dict[int, FinishedCaption] = field(default_factory=dict)
    submitted: bool = False
    error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.error is not None or (self.submitted and len(self.found) == len(self.tickets))


class SharedDecoding:
    """`TextDecoding` in slots, for any number of threads.

    `make` makes the decoder, again after a failure; what it was not made for (beams, other lengths) is handed to
    `otherwise`. One thread at a time makes a step, for all.
    """

    def __init__(self, make: Callable[[], SlotDecoder], otherwise: TextDecoding) -> None:
        self._make, self._otherwise = make, otherwise
        self._decoder = make()
        self._arriving: deque[_Request] = deque()
        self._owners: dict[int, _Request] = {}
        self._turn = threading.Lock()

    def __call__(
        self, prefix: Tensor, *, beams: int = 1, max_new_tokens: int = MAX_NEW_TOKENS
    ) -> DecodedCaptions:
        decoder = self._decoder
        fits = prefix.shape[1] == decoder.prefix_length and max_new_tokens == decoder.max_new_tokens
        if beams != 1 or not fits or len(prefix) == 0:
            return self._otherwise(prefix, beams=beams, max_new_tokens=max_new_tokens)
        request = _Request(prefix)
        self._arriving.append(request)
        # Whoever gets the turn makes one step for all and lets go; the others find their captions done, or step in turn.
        while not request.done:
            with self._turn:
                if not request.done:
                    self._advance()
        if request.error is not None:
            raise request.error
        return decoder.as_batch([request.found[ticket] for ticket in request.tickets])

    @property
    def waiting(self) -> bool:
        """Whether somebody waits to join at the next step."""
        return bool(self._arriving)

    def _advance(self) -> None:
        try:
            # Newcomers first, so that they ride along from this step on. Each leaves the queue only once it is submitted,
            # so that a failure in between finds it here.
            while self._arriving:
                request = self._arriving[0]
                request.tickets = self._decoder.submit(request.prefix)
                self._owners |= dict.fromkeys(request.tickets, request)
                request.submitted = True
                self._arriving.popleft()
            for caption in self._decoder.advance():
                self._owners.pop(caption.ticket).found[caption.ticket] = caption
        except BaseException as error:
            # The decoder's state is lost, and with it every caption under way.
            failed = {id(request): request for request in (*self._owners.values(), *self._arriving)}
            self._owners.clear()
            self._arriving.clear()
            for request in failed.values():
                request.error = error
            self._decoder = self._make()
