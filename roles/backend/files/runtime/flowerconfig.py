"""Flower's configuration file for an application of one's own: its ``flowerconfig.py``, if it has one, and a password
for ``/metrics``, which Flower itself shows to everybody.

Flower executes this file and takes each name that is one of its options.
"""

from pathlib import Path

from flower.views.monitor import Metrics
from tornado.web import authenticated

Metrics.get = authenticated(Metrics.get)

_own = Path("flowerconfig.py")
if _own.is_file():
    exec(compile(_own.read_text(encoding="utf-8"), str(_own.resolve()), "exec"))
