"""What a test tells the simulator to do wrong, through an endpoint that is off unless it is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from .market import BadRequestError
from .session import Session, State

LONGEST_DELAY = 600


@dataclass(frozen=True)
class Faults:
    """Delay in seconds and error status (0: none) of the API's answers; of those below `path` only."""

    delay_seconds: float = 0
    fail_status: int = 0
    path: str = ""

    def concern(self, endpoint: str) -> bool:
        """Whether an endpoint, its path below `/v1/api/`, is among those that fail."""
        return endpoint.startswith(self.path)


class Control:
    """Session and faults, as a test sees and sets them."""

    def __init__(self, session: Session) -> None:
        """Control `session`; nothing is wrong yet."""
        self.session = session
        self.faults = Faults()

    def shown(self) -> dict[str, Any]:
        """Everything that can be set."""
        return {"session": str(self.session.state), **asdict(self.faults)}

    def reset(self) -> None:
        """Make nothing wrong any more; the session stays as it is."""
        self.faults = Faults()

    def set(self, wanted: object) -> None:
        """Set some of what `shown` shows; the rest stays.

        Raises:
            BadRequestError: a key or a value is not understood; nothing was set.
        """
        if not isinstance(wanted, dict):
            raise BadRequestError("the body is not a JSON object")
        if unknown := wanted.keys() - self.shown().keys():
            raise BadRequestError(f"{min(unknown)}: unknown; known are {', '.join(self.shown())}")
        values = dict(wanted)
        state = values.pop("session", self.session.state)
        if not isinstance(state, str) or state not in set(State):
            raise BadRequestError(f"session: {state!r} is none of {', '.join(State)}")
        delay, status, path = (values.get(key, getattr(self.faults, key)) for key in asdict(self.faults))
        if isinstance(delay, bool) or not isinstance(delay, (int, float)) or not 0 <= delay <= LONGEST_DELAY:
            raise BadRequestError(f"delay_seconds: {delay!r} is not a number from 0 to {LONGEST_DELAY}")
        if isinstance(status, bool) or not isinstance(status, int) or not (status == 0 or 400 <= status <= 599):
            raise BadRequestError(f"fail_status: {status!r} is neither 0 nor a number from 400 to 599")
        if not isinstance(path, str):
            raise BadRequestError(f"path: {path!r} is not a string")
        self.faults = replace(self.faults, **values)
        self.session.enter(State(state))
