"""Keeps the gateway's session alive, notices when it is dropped, and says so once."""

import logging
from datetime import datetime

import httpx
from sqlalchemy import delete
from sqlalchemy.orm import Session

from ibkr_backend.database import GatewaySession, Portfolio
from ibkr_backend.gateway import Gateway, GatewayError, GatewayState, error_text

# A gateway or an IBKR that does not answer may be back in a moment; a session that is gone is not.
MISSES_BEFORE_ALERT = 3
# Asking to open the session again helps at once or, mostly, not at all.
REOPEN_TRIES = 3
REOPEN_EVERY = 10

log = logging.getLogger(__name__)


def look(gateway: Gateway) -> GatewayState:
    """Return the three states, of a gateway that does not answer too."""
    try:
        return gateway.state()
    except httpx.HTTPError as error:
        return GatewayState(False, None, None, None, f"the gateway does not answer: {error_text(error)}")


def keep_session(session: Session, gateway: Gateway, now: datetime) -> GatewaySession:
    """Tickle an authenticated session; try to open a dropped one again; raise an alert once for each drop.

    Nothing is done about a gateway at which nobody has been logged in yet: that is a state, no drop.
    """
    known = session.get(GatewaySession, 1)
    in_session, missed = (known.logged_in or known.missed > 0, known.missed) if known else (False, 0)
    # No transaction waits for the gateway.
    session.rollback()
    state = look(gateway)
    alive, reason = state.logged_in is True, state.reason
    if alive:
        try:
            if not gateway.tickle():
                alive, reason = False, "IBKR no longer takes the session as authenticated"
        except GatewayError as error:
            alive, reason = False, str(error)
    reopened = False
    answered = bool(state.up and state.ibkr_reachable)
    if in_session and not alive and answered and (missed < REOPEN_TRIES or missed % REOPEN_EVERY == 0):
        reopened = alive = reopen(gateway)
    record = session.get(GatewaySession, 1, with_for_update=True)
    if record is None:
        record = GatewaySession(id=1, logged_in=False, missed=0, drops=0, reopened=0)
        session.add(record)
    if alive:
        if record.alert or reopened:
            log.warning("the gateway's session is restored%s", ": it was opened again" if reopened else "")
        if (not record.logged_in and record.missed == 0) or record.alert:
            record.logged_in_at = now
        record.alert = record.alerted_at = None
        record.missed, record.reopened = 0, record.reopened + reopened
    elif in_session:
        record.missed += 1
        if record.alert is None and (answered or record.missed >= MISSES_BEFORE_ALERT):
            record.alert, record.alerted_at, record.drops = reason, now, record.drops + 1
            log.error("ALERT: the gateway's session is gone: %s; log in again at the gateway's page", reason)
    record.checked_at, record.logged_in, record.reason = now, alive, "logged in" if alive else reason
    session.commit()
    return record


def reopen(gateway: Gateway) -> bool:
    """Ask IBKR to open the session again; returns whether somebody is logged in then."""
    try:
        gateway.reopen_session()
    except GatewayError as error:
        log.info("the session cannot be opened again: %s", error)
        return False
    return look(gateway).logged_in is True


def keep_portfolios(session: Session, gateway: Gateway, now: datetime) -> list[str]:
    """Keep what every account holds now, in place of what was kept; returns the accounts' ids.

    Raises:
        GatewayError: nothing is changed.
    """
    accounts = gateway.accounts()
    session.execute(delete(Portfolio))
    session.add_all(
        Portfolio(
            account_id=account.account_id,
            title=account.title,
            currency=account.currency,
            paper=account.paper,
            simulated=account.simulated,
            summary=account.summary,
            positions=account.positions,
            fetched_at=now,
        )
        for account in accounts
    )
    session.commit()
    return [account.account_id for account in accounts]
