"""Runs migrations on the database that DATABASE_URL names."""

from alembic import context
from ibkr_backend import logs
from ibkr_backend.database import Base
from ibkr_backend.settings import DatabaseSettings
from sqlalchemy import create_engine

settings = DatabaseSettings.load()
logs.configure(settings.log_level)

with create_engine(settings.sqlalchemy_url).connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
