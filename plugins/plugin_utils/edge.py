# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the edge serves, to whom, and with which users."""

from __future__ import annotations

import base64
import datetime
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.contracts import ROLES, identity_secret
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.credentials import password_verifier
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.users import Users

USERS = Users(
    "edge",
    keys=("name", "role", "password"),
    roles=ROLES,
    example="viewer",
    twice="services do not tell",
    shortest=12,
    longest=1000,
)
#: Of PBKDF2 with SHA-256: what OWASP asks for of passwords that a person has chosen. A generated one of 190 bits is not
#: guessed anyway.
ROUNDS, ROUNDS_OF_RANDOM = 600_000, 10_000
#: Ports below it are not for everyone, in the container too.
FIRST_OPEN_PORT, MOVED_PORTS = 1024, 60_000
#: All paths of a page.
EVERYTHING = "/*"
#: The variables of a login at a provider that only work together.
OIDC = ("edge_oidc_issuer", "edge_oidc_client_id", "edge_oidc_client_secret", "edge_oidc_roles")
_HOST = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
_ISSUER = re.compile(rf"https://{_HOST}(:[0-9]+)?(/[^\s?#]*)?")
#: Where a provider says everything about itself.
_WELL_KNOWN = "/.well-known/openid-configuration"
#: What a role may be given to, with the form of each in small letters. That of an address is the gate's.
_GRANTEES = {
    "users": (re.compile(rf"[a-z0-9][a-z0-9._%+'-]{{0,63}}@{_HOST}"), "the e-mail address of a person"),
    "groups": (re.compile(r"[^\x00-\x1f]{1,255}"), "the name of a group"),
    "domains": (re.compile(_HOST), "the domain of e-mail addresses"),
}


def edge_user_secrets(users: Iterable[Any]) -> dict[str, str]:
    """List the secrets to generate for users.

    Args:
        users: ``edge_users``; those with problems are left out.

    Returns:
        Secret to its kind, for users without a password.
    """
    return USERS.generated(users)


def edge_user_problems(users: list[Any], issuer: str = "") -> list[str]:
    """Find what is wrong with the declared users. Says nothing of passwords.

    Args:
        users: ``edge_users``.
        issuer: ``edge_oidc_issuer``, at which others log in.

    Returns:
        A sentence for each.
    """
    if not users and not issuer:
        return ["edge_users is empty, so that nobody could log in. Name at least one: [{name: admin, role: admin}]."]
    return USERS.problems(users) + [
        f"edge_users: {user['name']} has the name of a person of {issuer}, who would be taken for this user. Choose a"
        " name without @, or give that person a role in edge_oidc_roles."
        for user in users
        if issuer and isinstance(user, Mapping) and "@" in str(user.get("name"))
    ]


def edge_accounts(users: Iterable[Mapping[str, Any]], secrets: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Write the users for the gate.

    Args:
        users: ``edge_users``, without problems.
        secrets: The stack's secrets.

    Returns:
        Name to ``role`` and ``password``, a verifier of it.
    """
    users = list(users)
    # The same for all, so that the time of an answer tells nothing.
    rounds = ROUNDS if any("password" in user for user in users) else ROUNDS_OF_RANDOM
    return {
        str(user["name"]): {
            "role": user["role"],
            "password": password_verifier(
                USERS.password(user, secrets),
                str(user["name"]),
                rounds,
            ),
        }
        for user in users
    }


def edge_grants(roles: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write for the gate who of a provider's people has which role.

    Args:
        roles: ``edge_oidc_roles``, without problems.

    Returns:
        Of each role ``role``, ``users``, ``groups`` and ``domains``; those with the most rights first.
    """
    return [
        {
            "role": role,
            "users": [name.lower() for name in roles[role].get("users", [])],
            "groups": list(roles[role].get("groups", [])),
            "domains": [name.lower() for name in roles[role].get("domains", [])],
        }
        for role in reversed(ROLES)
        if role in roles
    ]


def grant_problems(roles: Mapping[str, Any]) -> list[str]:
    """Find what is wrong with the roles of a provider's people.

    Args:
        roles: ``edge_oidc_roles``.

    Returns:
        A sentence for each.
    """
    found = []
    for role, grant in roles.items():
        where = f"edge_oidc_roles.{role}"
        if role not in ROLES:
            found.append(f"edge_oidc_roles has the unknown role {role!r}, expected {', '.join(ROLES)}.")
        elif not isinstance(grant, Mapping) or not grant:
            found.append(f"{where} is {grant!r}, expected at least one of {', '.join(_GRANTEES)}, each a list.")
        else:
            found += _grantee_problems(where, grant)
    return found


def _grantee_problems(where: str, grant: Mapping[str, Any]) -> list[str]:
    found = []
    for kind, names in grant.items():
        if kind not in _GRANTEES:
            found.append(f"{where} has the unknown key {kind!r}, expected {', '.join(_GRANTEES)}.")
        elif not isinstance(names, list) or not names:
            found.append(f"{where}.{kind} is {names!r}, expected a list with at least one name.")
        else:
            form, expected = _GRANTEES[kind]
            found += [
                f"{where}.{kind} has {name!r}, expected {expected}."
                for name in names
                if not isinstance(name, str) or not form.fullmatch(name if kind == "groups" else name.lower())
            ]
    return found


def provider_problems(settings: Mapping[str, Any]) -> list[str]:
    """Find what is wrong with the provider at which people log in. Says nothing of the client's secret.

    Args:
        settings: The variables of ``edge_checked``.

    Returns:
        A sentence for each.
    """
    given = [name for name in (*OIDC, "edge_oidc_ca") if settings[name]]
    if not given:
        return []
    missing = [name for name in OIDC if name not in given]
    if missing:
        return [f"{given[0]} is set, and {missing[0]} is not: they belong together."]
    found = grant_problems(settings["edge_oidc_roles"])
    if not _ISSUER.fullmatch(settings["edge_oidc_issuer"]):
        found.append(
            f"edge_oidc_issuer is {settings['edge_oidc_issuer']!r}, expected a URL with https:// and without a query,"
            " as the provider's documentation names it."
        )
    elif settings["edge_oidc_issuer"].rstrip("/").endswith(_WELL_KNOWN):
        found.append(
            f"edge_oidc_issuer is {settings['edge_oidc_issuer']!r}, expected what stands there as issuer: mostly the"
            f" same without {_WELL_KNOWN}."
        )
    if settings["edge_oidc_ca"]:
        found += _pem(settings["edge_oidc_ca"], "edge_oidc_ca", "CERTIFICATE")
    return found


def _behind(links: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Pages of the services, without the edge's own; of those that share an address, the first one."""
    found: dict[str, Mapping[str, Any]] = {}
    for page in links:
        if "upstream" in page:
            found.setdefault(page["origin"], page)
    return list(found.values())


def _login(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def edge_sites(links: Iterable[Mapping[str, Any]], domain: str, secrets: Mapping[str, str]) -> list[dict[str, Any]]:
    """Say what Caddy serves.

    Args:
        links: Pages of all services, as the module ``service_contracts`` returns them.
        domain: ``edge_domain``.
        secrets: The stack's secrets.

    Returns:
        Of each page its name as ``page``, ``address`` in Caddy's form, ``host`` (its name for a browser), ``upstream``,
        ``server_name`` (of a service with a certificate), ``anonymous`` (whether the service itself checks every
        request), ``identity`` (the secret in the name of the header with the user; empty for none), ``login`` (user and
        password with which the edge logs in itself, in the form of a header; empty for none) and ``published``, its
        port as containers declare one.
    """
    found = []
    for page in _behind(links):
        port = int(page["published"])
        inside = port if port >= FIRST_OPEN_PORT else port + MOVED_PORTS
        host = urlsplit(page["origin"]).hostname
        found.append(
            {
                "page": page["name"],
                "address": f"https://{host}" if domain else f"http://:{inside}",
                "host": host,
                "upstream": page["upstream"],
                "server_name": page["container"],
                "anonymous": EVERYTHING in (page.get("anonymous_api") or []),
                "identity": secrets[identity_secret(page["service"])] if page.get("identity") == "header" else "",
                "login": _login(page["user"], secrets[page["secret"]]) if page.get("identity") == "login" else "",
                "published": {"host": port, "container": inside},
            }
        )
    return found


def edge_pages(links: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Say what the gate knows of pages.

    Args:
        links: Pages of all services, as the module ``service_contracts`` returns them.

    Returns:
        Of each page ``name``, ``title``, ``url``, ``origin``, ``roles``, lists of paths, and ``cookies``.
    """
    return [
        {
            "name": page["name"],
            "title": page["title"],
            "url": page["public_url"],
            "origin": page["origin"],
            # What says nothing is for those who may do anything.
            "roles": page.get("roles") or {"admin": "write"},
            **{key: page.get(key) or [] for key in ("read_paths", "public", "anonymous_api", "closed", "cookies")},
        }
        for page in _behind(links)
        if EVERYTHING not in (page.get("anonymous_api") or [])
    ]


def _pem(path: str, variable: str, kind: str) -> list[str]:
    try:
        found = kind in Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeError) as error:
        return [f"{variable} is {path}, which cannot be read: {error}."]
    return [] if found else [f"{variable} is {path}, which holds no {kind.lower()} in PEM."]


def certificate_problems(path: str, key_path: str, domain: str, now: datetime.datetime) -> list[str]:
    """Find out why a certificate would not do.

    Args:
        path: File on the controller with the certificate and its chain.
        key_path: File with its key.
        domain: The domain whose names it is for.
        now: The time.

    Returns:
        A sentence for each reason.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    found = _pem(path, "edge_certificate", "CERTIFICATE") + _pem(key_path, "edge_certificate_key", "PRIVATE KEY")
    if found:
        return found
    try:
        certificate = x509.load_pem_x509_certificates(Path(path).read_bytes())[0]
        key = serialization.load_pem_private_key(Path(key_path).read_bytes(), None)
    except (ValueError, TypeError) as error:
        return [f"edge_certificate and edge_certificate_key cannot be read: {error}"]
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if certificate.public_key().public_bytes(*form) != key.public_key().public_bytes(*form):
        found.append(f"edge_certificate_key is {key_path}, which is the key of another certificate.")
    if certificate.not_valid_after_utc <= now:
        found.append(f"edge_certificate is {path}, which expired on {certificate.not_valid_after_utc:%d %B %Y}.")
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        have = {name.lower() for name in names.get_values_for_type(x509.DNSName)}
    except x509.ExtensionNotFound:
        have = set()
    missing = [name for name in (domain, f"*.{domain}") if name not in have]
    if missing:
        found.append(f"edge_certificate is {path}, which is not for {' and '.join(missing)}.")
    return found


def edge_problems(settings: Mapping[str, Any]) -> list[str]:
    """Find what is wrong with how the edge is reached.

    Args:
        settings: The variables of ``edge_checked``.

    Returns:
        A sentence for each.
    """
    found = provider_problems(settings)
    domain, address = settings["edge_domain"], str(settings["stack_publish_address"])
    given = [name for name in ("edge_certificate", "edge_certificate_key") if settings[name]]
    acme = [name for name in ("edge_acme_directory", "edge_acme_email", "edge_acme_ca") if settings[name]]
    if not domain:
        found += [f"{name} is set, and edge_domain is not: there is no TLS without a name." for name in given + acme]
        allowed = str(settings["edge_allow_plain_http"]).lower() in ("true", "yes", "1")
        if not address.startswith("127.") and not allowed:
            found.append(
                f"stack_publish_address is {address}, and without edge_domain passwords and cookies would cross the"
                " network unencrypted. Set edge_domain, or edge_allow_plain_http to true where that is no danger."
            )
    if given and acme:
        found.append(f"{given[0]} and {acme[0]} are both set. Keep the one from which certificates are to come.")
    if acme and "edge_acme_directory" not in acme:
        found.append(f"{acme[0]} is set, and edge_acme_directory is not.")
    if len(given) == 1:
        other = "edge_certificate_key" if given == ["edge_certificate"] else "edge_certificate"
        found.append(f"{given[0]} is set, and {other} is not: they belong together.")
    elif given and domain:
        paths = (settings["edge_certificate"], settings["edge_certificate_key"])
        found += certificate_problems(*paths, domain, datetime.datetime.now(datetime.UTC))
    if settings["edge_acme_ca"]:
        found += _pem(settings["edge_acme_ca"], "edge_acme_ca", "CERTIFICATE")
    return found
