"""One log format for every process."""

import logging


def configure(level: str) -> None:
    """Log to standard error at ``level``; client libraries report only what is wrong."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    for chatty in ("httpx", "httpcore", "botocore", "urllib3", "ibind", "ibind_fh", "alembic.runtime.plugins"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLevelName(level)))
