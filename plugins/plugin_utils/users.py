# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""People that the inventory declares, each with a name, a role, and a password that is given or generated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: The name is part of a file's name, and of headers.
USER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")


@dataclass(frozen=True)
class Users:
    """A variable that declares users.

    Attributes:
        service: Name of the service, with which the variable begins.
        keys: What a user may have.
        roles: Known roles.
        example: Role of the example in errors.
        twice: Why two names that differ in capital letters only are the same.
        shortest: Characters that a password has at least.
        longest: Characters that it has at most; none if that does not matter.
    """

    service: str
    keys: tuple[str, ...]
    roles: tuple[str, ...]
    example: str
    twice: str
    shortest: int
    longest: int | None = None

    def secret(self, user: Mapping[str, Any]) -> str:
        """Name the secret with a user's password."""
        return f"{self.service}_user_{user['name']}_password"

    def generated(self, users: Iterable[Any]) -> dict[str, str]:
        """List the secrets to generate.

        Args:
            users: As declared; those with problems are left out.

        Returns:
            Secret to its kind, for users without a password.
        """
        return {self.secret(user): "password" for user in users if _valid(user) and "password" not in user}

    def password(self, user: Mapping[str, Any], secrets: Mapping[str, str]) -> str:
        """Look up a user's password.

        Args:
            user: Without problems.
            secrets: The stack's secrets.

        Returns:
            The one that is declared, or the generated one.
        """
        return str(user["password"]) if "password" in user else secrets[self.secret(user)]

    def problems(
        self,
        users: Iterable[Any],
        taken: Iterable[str] = (),
        more: Callable[[str, Mapping[str, Any]], list[str]] | None = None,
    ) -> list[str]:
        """Find what is wrong with the declared users. Says nothing of passwords.

        Args:
            users: As declared.
            taken: Names of the collection's own accounts.
            more: Finds what else is wrong with one; gets the words with which its sentences begin.

        Returns:
            A sentence for each.
        """
        variable = f"{self.service}_users"
        found = []
        seen = {name.lower(): "is an account of the collection's own. Choose another name." for name in taken}
        password = re.compile(rf"[^\r\n]{{{self.shortest},{self.longest or ''}}}")
        for number, user in enumerate(users):
            if not _valid(user):
                found.append(
                    f"{variable}[{number}] has no valid name, expected up to 64 letters, digits and _.@-, such as"
                    f" {{name: anna, role: {self.example}}}."
                )
                continue
            where, lower = f"{variable}: {user['name']}", str(user["name"]).lower()
            found += [
                f"{where} has the unknown key {key!r}, expected {', '.join(self.keys)}."
                for key in sorted(set(user) - set(self.keys))
            ]
            if lower in seen:
                found.append(f"{where} {seen[lower]}")
            seen[lower] = f"is there twice; {self.twice} capital letters from small ones."
            if user.get("role") not in self.roles:
                found.append(f"{where} has the role {user.get('role')!r}, expected one of {', '.join(self.roles)}.")
            found += more(where, user) if more else []
            given = user.get("password", "")
            if isinstance(given, int | float):
                # YAML may have made another number of it.
                found.append(f"{where} has a number as password. Put it into quotes.")
            elif "password" in user and not password.fullmatch(str(given or "")):
                found.append(
                    f"{where} has a password of fewer than {self.shortest} characters or of several lines. Without one,"
                    " it is generated."
                )
        return found


def _valid(user: Any) -> bool:
    name = user.get("name") if isinstance(user, Mapping) else None
    # No, null and 007 are other things in YAML than they seem.
    return isinstance(name, str) and bool(USER_NAME.fullmatch(name))
