"""Flower's configuration file: the password stands neither on the command line nor in the environment.

Flower executes this file and takes each name that is one of its options.
"""

from ibkr_backend.settings import FlowerSettings

_settings = FlowerSettings.load()

basic_auth = [f"{_settings.flower_user}:{_settings.flower_password.get_secret_value()}"]
# Task arguments and worker lists are read from events; a page asks the workers itself when somebody opens it.
inspect_timeout = 2000.0
max_tasks = 1000
