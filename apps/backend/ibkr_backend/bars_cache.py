"""Bars as they leave the API: the bytes of an answer, kept until the bars behind it change.

Ten years of one symbol are 240 kB of JSON; making them takes tens of milliseconds, sending them one. A kept answer is
compared with the database once a second at most, so it is at most a second behind.
"""

import gzip
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import Engine, Row, func, select
from sqlalchemy.orm import Session

from ibkr_backend.database import KeptBar, answering_source
from ibkr_backend.gateway import Source

TRUSTED_SECONDS = 1.0
# 300 kB each, with its compressed twin.
MOST_ANSWERS = 48

Question = tuple[str, date | None, date | None, Source | None]
FIELDS = ("date", "open", "high", "low", "close", "volume")


@dataclass
class Answer:
    """The bytes of an answer; ``checked`` is the moment (monotonic) at which they were those of the database."""

    version: tuple[object, ...]
    body: bytes
    compressed: bytes
    etag: str
    checked: float


class BarsCache:
    """Kept answers, the least recently used one leaves first. Made for one event loop and its threads."""

    def __init__(self, engine: Engine) -> None:
        """Begin empty."""
        self._engine = engine
        self._answers: OrderedDict[Question, Answer] = OrderedDict()

    def fresh(self, question: Question) -> Answer | None:
        """Return a kept answer that was compared a moment ago."""
        answer = self._answers.get(question)
        if answer and time.monotonic() - answer.checked < TRUSTED_SECONDS:
            return answer
        return None

    def look_up(self, question: Question) -> Answer | None:
        """Return the answer, made anew if the bars have changed; None if no bar of the symbol and source is kept."""
        symbol, start, end, asked = question
        # Taken before the database is asked: what changes meanwhile is seen by the next comparison.
        now = time.monotonic()
        with Session(self._engine) as session:
            source = asked or answering_source(session, symbol)
            of_source = (KeptBar.symbol == symbol, KeptBar.source == source)
            count, written = session.execute(select(func.count(), func.max(KeptBar.fetched_at)).where(*of_source)).one()
            if not source or not count:
                self._answers.pop(question, None)
                return None
            version = (source, count, written)
            answer = self._answers.get(question)
            if answer is None or answer.version != version:
                query = select(*(getattr(KeptBar, name) for name in FIELDS)).where(*of_source).order_by(KeptBar.date)
                if start:
                    query = query.where(KeptBar.date >= start)
                if end:
                    query = query.where(KeptBar.date <= end)
                body = encode(symbol, source, session.execute(query).all())
                etag = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
                answer = Answer(version, body, gzip.compress(body, 5, mtime=0), etag, now)
        answer.checked = now
        self._answers[question] = answer
        self._answers.move_to_end(question)
        while len(self._answers) > MOST_ANSWERS:
            self._answers.popitem(last=False)
        return answer


def encode(symbol: str, source: str, rows: Sequence[Row[Any]]) -> bytes:
    """Write an answer as JSON; ``rows`` have the values of `FIELDS`."""
    bars = [dict(zip(FIELDS, (row[0].isoformat(), *row[1:]), strict=True)) for row in rows]
    answer = {"symbol": symbol, "source": source, "simulated": source == "simulated", "adjusted": True, "bars": bars}
    return json.dumps(answer, separators=(",", ":")).encode()
