# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Connections, variables, pools and users of Airflow that the inventory declares."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.users import Users

#: Keys of a connection. Source: parameters of Airflow's ``Connection``, without the URI and the id.
CONNECTION_KEYS = ("conn_type", "description", "host", "login", "password", "schema", "port", "extra")
POOL_KEYS = ("slots", "description", "include_deferred")
USERS = Users(
    "airflow",
    keys=("name", "role", "email", "password"),
    roles=("Admin", "Op", "User", "Viewer"),
    example="Viewer",
    twice="Airflow does not tell",
    shortest=8,
)
#: What Airflow's own forms accept as the id of a connection, the key of a variable and the name of a pool.
NAME = re.compile(r"[\w.\-#():/\\]{1,250}")
#: Connections of the collection's own, by the variable that names what they hold.
RESERVED = {"minio_logs": "the logs of tasks"}


def airflow_declared_problems(
    connections: Mapping[str, Any], variables: Mapping[str, Any], pools: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[str]:
    """Find what Airflow could not work with. Says nothing of values, which may be secrets.

    Args:
        connections: ``airflow_connections``.
        variables: ``airflow_variables``.
        pools: ``airflow_pools``.
        settings: ``airflow_settings``.

    Returns:
        A sentence for each, with the variable and the name.
    """
    found = []
    if (connections or variables) and "AIRFLOW__SECRETS__BACKEND" in settings:
        found.append(
            "airflow_settings has AIRFLOW__SECRETS__BACKEND, so Airflow would not look at airflow_connections and"
            " airflow_variables: it has one such backend. Keep them there, or remove the setting."
        )
    for variable, declared in (
        ("airflow_connections", connections),
        ("airflow_variables", variables),
        ("airflow_pools", pools),
    ):
        found += [
            f"{variable} has the name {name!r}, expected up to 250 letters, digits and _.-#():/\\."
            for name in declared
            if not NAME.fullmatch(str(name))
        ]
    for name, value in connections.items():
        found += [f"airflow_connections.{name} {problem}" for problem in connection_problems(str(name), value)]
    found += [
        f"airflow_variables.{name} is empty. Give it a value, or remove it."
        for name, value in variables.items()
        if value is None
    ]
    for name, value in pools.items():
        found += [f"airflow_pools.{name} {problem}" for problem in pool_problems(value)]
    return found


def connection_problems(name: str, value: Any) -> list[str]:
    """Find what is wrong with a connection.

    Args:
        name: Its id.
        value: A URI, or a dictionary with ``CONNECTION_KEYS``.

    Returns:
        The rest of a sentence for each.
    """
    if name in RESERVED:
        return [f"is the collection's own connection, of {RESERVED[name]}. Choose another name."]
    if isinstance(value, str):
        return [] if urlsplit(value).scheme else ["is a text without a scheme, expected a URI or a dictionary."]
    if not isinstance(value, Mapping):
        return ["is neither a URI nor a dictionary."]
    unknown = sorted(set(value) - set(CONNECTION_KEYS))
    found = [f"has the unknown key {key!r}, expected {', '.join(CONNECTION_KEYS)}." for key in unknown]
    if not value.get("conn_type"):
        found.append("has no conn_type, such as http or postgres.")
    port = value.get("port")
    if port is not None and not (str(port).isdigit() and 0 < int(port) < 65536):
        found.append("has a port that is not a number from 1 to 65535.")
    extra = value.get("extra")
    if isinstance(extra, str) and extra:
        try:
            extra = json.loads(extra)
        except ValueError:
            extra = None
            found.append("has an 'extra' that is no JSON. Write it as a dictionary.")
    if extra is not None and not isinstance(extra, Mapping | str):
        found.append("has an 'extra' that is not a dictionary.")
    return found


def whole_pool(value: Any) -> Mapping[str, Any]:
    """Write a pool in its long form.

    Args:
        value: Its slots, or a dictionary with ``POOL_KEYS``.

    Returns:
        The dictionary.
    """
    return value if isinstance(value, Mapping) else {"slots": value}


def pool_problems(value: Any) -> list[str]:
    """Find what is wrong with a pool.

    Args:
        value: Its slots, or a dictionary with ``POOL_KEYS``.

    Returns:
        The rest of a sentence for each.
    """
    pool = whole_pool(value)
    found = [
        f"has the unknown key {key!r}, expected {', '.join(POOL_KEYS)}." for key in sorted(set(pool) - set(POOL_KEYS))
    ]
    slots = pool.get("slots")
    # -1 is Airflow's word for as many as there are.
    if isinstance(slots, bool) or not re.fullmatch(r"-1|[0-9]{1,9}", str(slots)):
        found.append("has no valid number of slots: expected a whole number from 0, or -1 for any number.")
    return found


def connections_file(connections: Mapping[str, Any]) -> str:
    """Write the connections for Airflow's local file system backend.

    Args:
        connections: ``airflow_connections``, without problems.

    Returns:
        JSON: id to its URI, or to its keys, of which the port is a number.
    """
    return json.dumps(
        {
            name: value
            if isinstance(value, str)
            else {**value, **({"port": int(value["port"])} if value.get("port") is not None else {})}
            for name, value in connections.items()
        },
        sort_keys=True,
    )


def variables_file(variables: Mapping[str, Any]) -> str:
    """Write the variables for Airflow's local file system backend.

    Args:
        variables: ``airflow_variables``.

    Returns:
        JSON: key to its text. What is not a text is JSON in it, as ``Variable.get(…, deserialize_json=True)`` reads it.
    """
    return json.dumps(
        {name: value if isinstance(value, str) else json.dumps(value) for name, value in variables.items()},
        sort_keys=True,
    )


def pool_list(pools: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write the pools for the job that creates them.

    Args:
        pools: ``airflow_pools``, without problems.

    Returns:
        Of each its name, slots, description, and whether deferred tasks count.
    """
    found = []
    for name, value in sorted(pools.items()):
        pool = whole_pool(value)
        found.append(
            {
                "name": name,
                "slots": int(pool["slots"]),
                "description": str(pool.get("description", "")),
                "include_deferred": bool(pool.get("include_deferred", False)),
            }
        )
    return found


def user_problems(users: Iterable[Any], taken: Iterable[str]) -> list[str]:
    """Find what is wrong with the declared users. Says nothing of passwords.

    Args:
        users: ``airflow_users``.
        taken: Names of the collection's own accounts.

    Returns:
        A sentence for each.
    """
    addresses: set[str] = set()

    def email_problems(where: str, user: Mapping[str, Any]) -> list[str]:
        email, found = user_email(user), []
        if not re.fullmatch(r"[^@\s]+@[^@\s]+", email):
            found.append(f"{where} has the email {email!r}, expected a mail address.")
        if email.lower() in addresses:
            found.append(f"{where} has the email {email} of another user.")
        addresses.add(email.lower())
        return found

    return USERS.problems(users, taken, email_problems)


def user_email(user: Mapping[str, Any]) -> str:
    """The mail address of a user, which Airflow needs: the name if it is one, by default."""
    name = str(user["name"])
    return str(user.get("email") or (name if "@" in name else f"{name}@localhost"))


def user_accounts(users: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Write the users for the job that creates their accounts.

    Args:
        users: ``airflow_users``, without problems.

    Returns:
        Of each its name, mail address, role, and the name of the file with its password.
    """
    return [
        {"username": str(user["name"]), "email": user_email(user), "role": user["role"], "secret": USERS.secret(user)}
        for user in users
    ]


def generated_user_secrets(users: Iterable[Any]) -> dict[str, str]:
    """List the secrets to generate for users.

    Args:
        users: ``airflow_users``; those with problems are left out.

    Returns:
        Secret to its kind, for users without a password.
    """
    return USERS.generated(users)


def user_passwords(users: Iterable[Mapping[str, Any]], secrets: Mapping[str, str]) -> dict[str, str]:
    """Collect the passwords of the users.

    Args:
        users: ``airflow_users``, without problems.
        secrets: The stack's secrets.

    Returns:
        Name of the secret to the password.
    """
    return {USERS.secret(user): USERS.password(user, secrets) for user in users}
