"""Flower's configuration file: the password stands neither on the command line nor in the environment.

Flower executes this file and takes each name that is one of its options.
"""

from typing import Any

from flower.views import BaseHandler
from flower.views.monitor import Metrics
from tornado.web import authenticated

from ibkr_backend.auth import Identities
from ibkr_backend.settings import FlowerSettings

_settings = FlowerSettings.load()

basic_auth = [f"{_settings.flower_user}:{_settings.flower_password.get_secret_value()}"]
# Task arguments and worker lists are read from events; a page asks the workers itself when somebody opens it.
inspect_timeout = 2000.0
max_tasks = 1000


def _prepare_headers(handler: BaseHandler, prepared: Any = BaseHandler.set_default_headers) -> None:
    prepared(handler)
    # A browser sends the password by itself, also for a page that another site shows in a frame.
    handler.set_header("X-Frame-Options", "DENY")
    handler.set_header("Content-Security-Policy", "frame-ancestors 'none'")


_identities = Identities(_settings)


def _current_user(handler: BaseHandler, by_password: Any = BaseHandler.get_current_user) -> Any:
    # Whom the edge names has logged in there; programs on the stack's network come with the password.
    headers = [(name.lower().encode(), value.encode()) for name, value in handler.request.headers.get_all()]
    person = _identities.person(headers)
    return person.name if person else by_password(handler)


# No option of Flower's does any of them. Without the last, the metrics name workers and tasks to everyone.
BaseHandler.set_default_headers = _prepare_headers
BaseHandler.get_current_user = _current_user
Metrics.get = authenticated(Metrics.get)
