"""Prepares Airflow's database before any component starts.

Waits for it, migrates it, encrypts connections and variables with the new Fernet key where the setting holds old ones
too, and makes the accounts and the pools as declared.

One process for all of it, because importing Airflow is most of what each of them costs. Ends with CHANGED or UNCHANGED
(of the accounts) and exit code 0, or with a line that begins with "airflow init failed" and exit code 1.
"""

from __future__ import annotations

import sys

DB_CHECK_RETRIES = 30
DB_CHECK_DELAY_S = 2


def airflow_command(*arguments: str) -> None:
    """Run one command of Airflow's CLI in this process."""
    from airflow.cli.cli_parser import get_parser

    parsed = get_parser().parse_args(arguments)
    parsed.func(parsed)


def main() -> int:
    """Run the steps in order and stop at the first that fails."""
    step = "import"
    try:
        step = "database check"
        airflow_command("db", "check", "--retry", str(DB_CHECK_RETRIES), "--retry-delay", str(DB_CHECK_DELAY_S))
        step = "database migration"
        airflow_command("db", "migrate")
        from airflow.configuration import conf

        if "," in (conf.get("core", "fernet_key") or ""):
            step = "rotation of the Fernet key"
            airflow_command("rotate-fernet-key")
        step = "accounts"
        import sync_accounts

        sync_accounts.main()
        step = "pools"
        import sync_pools

        sync_pools.main()
    except (Exception, SystemExit) as error:
        # The first line says what is wrong; SQLAlchemy adds links and statements below it.
        reason = str(error).partition("\n")[0]
        print(f"airflow init failed at the {step}: {type(error).__name__}: {reason}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
