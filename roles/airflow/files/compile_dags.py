"""Compiles Python files with the interpreter that will run them; a controller's may be older.

Reads a JSON object of relative path to content, ``base64:…`` if it is not UTF-8, from standard input. Prints what is
wrong with each file that does not compile; exit code 3 then.
"""

import base64
import json
import sys
import warnings


def main() -> int:
    """Compile, and say what fails."""
    warnings.simplefilter("ignore")
    found = []
    for name, text in sorted(json.load(sys.stdin).items()):
        if not name.endswith(".py"):
            continue
        content = base64.b64decode(text[7:]) if text.startswith("base64:") else text.encode()
        try:
            compile(content, name, "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            found.append(f"{name}, line {getattr(error, 'lineno', '?')}: {getattr(error, 'msg', error)}")
    print("; ".join(found))
    return 3 if found else 0


sys.exit(main())
