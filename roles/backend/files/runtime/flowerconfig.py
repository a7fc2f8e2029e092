"""Flower's configuration file for an application of one's own: its ``flowerconfig.py``, if it has one, a password for
``/metrics``, which Flower itself shows to everybody, and behind the stack's edge the login there instead of Flower's.

Flower executes this file and takes each name that is one of its options.
"""

import hmac
import os
from pathlib import Path

from flower.views import BaseHandler
from flower.views.monitor import Metrics
from tornado.web import authenticated

_identity = os.environ.get("EDGE_IDENTITY", "")


def _current_user(handler, by_password=BaseHandler.get_current_user):
    # Whom the edge names has logged in there; programs on the stack's network come with the password.
    wanted = f"x-edge-{_identity}".lower().encode()
    for name, value in handler.request.headers.get_all() if _identity else []:
        if value and hmac.compare_digest(name.lower().encode(), wanted):
            return value
    return by_password(handler)


BaseHandler.get_current_user = _current_user
Metrics.get = authenticated(Metrics.get)

_own = Path("flowerconfig.py")
if _own.is_file():
    exec(compile(_own.read_text(encoding="utf-8"), str(_own.resolve()), "exec"))
