"""How a stock is named: a ticker, and where several exchanges list it, which listing is meant."""

# A ticker as IBKR spells it: "AAPL", "BRK B" (class of shares), "BP." (London), "7203" (Tokyo). After "@", the exchange
# or the contract id: "SHOP@TSE", "SHOP@195014116". The role's preflight and the training DAG take the same.
SYMBOL_PATTERN = r"^[A-Z0-9][A-Z0-9.\-]{0,14}( [A-Z0-9.\-]{1,7})?(@[A-Z0-9.]{1,12})?$"
#: Most characters that the pattern lets through.
SYMBOL_LENGTH = 36


def ticker_and_listing(symbol: str) -> tuple[str, str | None]:
    """Split a symbol into its ticker and the exchange or contract id that it names, if any."""
    ticker, _separator, listing = symbol.partition("@")
    return ticker, listing or None


def plain_name(symbol: str) -> str:
    """Write a symbol for names of models and keys of objects: no character that MLflow, S3 or a URL gives a meaning.

    No two symbols have the same one. The training DAG names its models likewise.
    """
    return symbol.replace("@", "__").replace(" ", "_")
