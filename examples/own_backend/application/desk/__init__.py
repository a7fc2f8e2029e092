"""A small desk application: watches whether the IBKR gateway is logged in, and keeps what it saw."""
