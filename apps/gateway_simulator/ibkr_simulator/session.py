"""The one session of a gateway: the login of a person, and the brokerage session within it."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any

log = logging.getLogger("ibkr_simulator")

USER_NAME = "SIMULATED"
SERVER = {"serverName": "SIMULATED", "serverVersion": "SIMULATED"}


class State(StrEnum):
    """What a session can be; only a person at the browser leaves `LOGGED_OUT`."""

    LOGGED_IN = "logged_in"
    DROPPED = "dropped"
    COMPETING = "competing"
    LOGGED_OUT = "logged_out"


MESSAGES = {
    State.LOGGED_IN: "SIMULATED",
    State.DROPPED: "SIMULATED: the brokerage session was dropped",
    State.COMPETING: "SIMULATED: another session of this user has taken over",
    State.LOGGED_OUT: "SIMULATED: nobody is logged in",
}


class Session:
    """State, and what IBKR forgets when a brokerage session ends: subscriptions and warm-up requests."""

    def __init__(self, *, logged_in: bool, idle_seconds: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin logged in or not; the brokerage session lasts `idle_seconds` without a request, 0 is for ever."""
        self._clock = clock
        self.listeners: set[Callable[[], None]] = set()
        self.idle_seconds = idle_seconds
        self.last_request = clock()
        self.id = ""
        self.state = State.LOGGED_OUT
        self._forget()
        if logged_in:
            self.enter(State.LOGGED_IN)

    def _forget(self) -> None:
        self.subscribed: set[int] = set()
        self.accounts_queried = False
        self.history_service_started = False

    def enter(self, state: State) -> None:
        """Change the state, and tell whoever listens."""
        if state is self.state:
            return
        if self.state is State.LOGGED_OUT:
            self.id = f"SIMULATED{secrets.token_hex(16)}"
        self.state = state
        self.last_request = self._clock()
        self._forget()
        log.info("SIMULATED session: %s", state.replace("_", " "))
        for listener in list(self.listeners):
            listener()

    @property
    def sso(self) -> bool:
        """Whether a person has logged in, which everything under the API needs."""
        return self.state is not State.LOGGED_OUT

    @property
    def brokerage(self) -> bool:
        """Whether the brokerage session is up, which everything under `/iserver` needs."""
        return self.state is State.LOGGED_IN

    def touch(self) -> None:
        """Note a request, which keeps the brokerage session; one that comes too late finds it dropped."""
        now = self._clock()
        if self.brokerage and self.idle_seconds and now - self.last_request > self.idle_seconds:
            self.enter(State.DROPPED)
        self.last_request = now

    def open_brokerage(self, *, compete: bool) -> None:
        """Open the brokerage session again; from a competing one only with `compete`."""
        if self.state is State.DROPPED or (self.state is State.COMPETING and compete):
            self.enter(State.LOGGED_IN)

    def auth_status(self) -> dict[str, Any]:
        """Answer `/iserver/auth/status`."""
        return {
            "authenticated": self.brokerage,
            "competing": self.state is State.COMPETING,
            "connected": self.state in {State.LOGGED_IN, State.COMPETING},
            "established": self.brokerage,
            "message": MESSAGES[self.state],
            "MAC": "00:00:00:00:00:00",
            "serverInfo": SERVER,
            "fail": "",
        }
