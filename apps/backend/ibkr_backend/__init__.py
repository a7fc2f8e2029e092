"""Reference trading backend: daily bars from the IBKR gateway, kept in PostgreSQL, served over HTTP."""

__version__ = "0.1.0"
