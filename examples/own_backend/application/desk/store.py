"""What was observed, in PostgreSQL. The tables are made by the files in sql/."""

import os
from datetime import UTC, datetime

from sqlalchemy import DateTime, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

engine = create_engine(os.environ["DATABASE_URL_PSYCOPG"], pool_pre_ping=True)


class Base(DeclarativeBase):
    """Base of the tables."""


class Observation(Base):
    """One look at the gateway; moments are UTC."""

    __tablename__ = "observations"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    logged_in: Mapped[bool]
    detail: Mapped[str]


def keep(logged_in: bool, detail: str) -> int:
    """Store an observation of now.

    Args:
        logged_in: Whether somebody is logged in at the gateway.
        detail: What the gateway said.

    Returns:
        Its number.
    """
    with Session(engine) as session, session.begin():
        row = Observation(at=datetime.now(UTC), logged_in=logged_in, detail=detail)
        session.add(row)
        session.flush()
        return row.id


def newest(count: int) -> list[Observation]:
    """List the newest observations.

    Args:
        count: How many at most.

    Returns:
        Observations, newest first.
    """
    with Session(engine) as session:
        return list(session.scalars(select(Observation).order_by(Observation.id.desc()).limit(count)))
