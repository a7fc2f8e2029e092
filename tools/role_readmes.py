#!/usr/bin/env python3
"""Write each role's README.md from its argument specs and defaults.

Usage: ``tools/role_readmes.py`` writes, ``tools/role_readmes.py --check`` only compares. Exit code 1: ``--check``
found a README that is not what would be written; it is named on standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parent.parent / "roles"


#: What stands above the variables of a role.
HEADING = ("## Variables", "", "| variable | type | default | description |", "|---|---|---|---|")


def load(path: Path) -> dict[str, Any]:
    """Read a YAML file.

    Args:
        path: File with a mapping; an absent or empty one counts as an empty mapping.

    Returns:
        Its content.
    """
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {} if path.exists() else {}


def cell(text: str) -> str:
    """Fit a text into a cell of a Markdown table.

    Args:
        text: One or more lines.

    Returns:
        One line, with its pipes escaped.
    """
    return " ".join(text.split()).replace("|", "\\|")


def row(name: str, option: dict[str, Any], defaults: dict[str, Any]) -> str:
    """Write the line of a variable.

    Args:
        name: Variable.
        option: Its option in the argument specs.
        defaults: The role's defaults, which also hold those that are templates.

    Returns:
        One line of a Markdown table.
    """
    kind = f"{option['type']} of {option['elements']}" if "elements" in option else option["type"]
    default = defaults.get(name)
    shown = default if isinstance(default, str) and default else json.dumps(default, ensure_ascii=False)
    description = option["description"]
    if "choices" in option:
        description += f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}."
    return f"| `{name}` | {kind} | {f'`{cell(shown)}`' if name in defaults else ''} | {cell(description)} |"


def readme(role: Path) -> str:
    """Write the README of a role.

    Args:
        role: Directory of the role.

    Returns:
        Markdown.
    """
    main = load(role / "meta" / "argument_specs.yml")["argument_specs"]["main"]
    defaults = load(role / "defaults" / "main.yml")
    rows = [row(name, option, defaults) for name, option in main.get("options", {}).items()]
    return "\n".join(
        [
            "<!-- Written by tools/role_readmes.py from meta/argument_specs.yml and defaults/main.yml. -->",
            f"# quantops.ibkr_stack.{role.name}",
            "",
            f"{main['short_description']}.",
            "",
            *(line for paragraph in main["description"] for line in (paragraph, "")),
            *([*HEADING, *rows, ""] if rows else []),
            "## Example",
            "",
            "```yaml",
            main["examples"].rstrip(),
            "```",
            "",
        ]
    )


def main() -> int:
    """Write or compare all READMEs.

    Returns:
        Exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a README is stale")
    check = parser.parse_args().check
    stale = False
    for role in sorted(path.parent.parent for path in ROLES.glob("*/meta/argument_specs.yml")):
        path, text = role / "README.md", readme(role)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if check:
            print(f"{path.relative_to(ROLES.parent)} is stale: run tools/role_readmes.py", file=sys.stderr)
            stale = True
        else:
            path.write_text(text, encoding="utf-8")
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
