"""Start the simulated gateway: `python -m ibkr_simulator`."""

from __future__ import annotations

import logging
import sys

import uvicorn

from .api import create_app
from .market import Market
from .settings import Settings, SettingsError


def main() -> int:
    """Serve until a signal ends it.

    Returns:
        Exit code: 0 after a signal, 1 when the price data are missing, 2 when a setting is missing or bad.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stdout)
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        print(f"ibkr_simulator: {error}", file=sys.stderr)
        return 2
    try:
        market = Market()
    except FileNotFoundError as error:
        print(f"ibkr_simulator: {error}", file=sys.stderr)
        return 1
    logging.getLogger("ibkr_simulator").warning(
        "SIMULATED Client Portal gateway: not connected to Interactive Brokers, replays real daily prices up to %s; "
        "no order can be placed; https on port %d, %s, %s account",
        market.today,
        settings.port,
        "logged in" if settings.logged_in else "logged out",
        "live" if settings.live else "paper",
    )
    uvicorn.run(
        create_app(
            market,
            logged_in=settings.logged_in,
            live=settings.live,
            pacing=settings.pacing,
            controlled=settings.control,
            idle_seconds=settings.idle_seconds,
        ),
        host=settings.host,
        port=settings.port,
        ssl_certfile=settings.cert_file,
        ssl_keyfile=settings.key_file,
        headers=[("X-Simulated", "true")],
        server_header=False,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
