#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Push images to a registry, and pull them from there."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_registry
short_description: Push images to a registry, and pull them
description:
  - Images keep their own names on the host; in the registry, its name stands before them.
  - Through the engine's API, so that the password is on no command line and in no file of the host.
options:
  registry:
    description: Host, port and first part of the path of the registry, such as C(registry.example.com:5000/desk).
    type: str
    required: true
  user:
    description: Name with which to log in; empty for none.
    type: str
    default: ""
  password:
    description: Its password.
    type: str
    default: ""
  images:
    description: References of the images on the host.
    type: list
    elements: str
    required: true
  state:
    description: V(pushed) sends images of the host, V(pulled) gets them.
    type: str
    choices: [pulled, pushed]
    required: true
  optional:
    description: With O(state=pulled), whether an image may be missing in the registry.
    type: bool
    default: false
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Push the image of Redis
  quantops.ibkr_stack.image_registry:
    registry: registry.example.com:5000
    user: desk
    password: "{{ vault_registry_password }}"
    images: ["quantops/redis:0f20799fc0f82d18"]
    state: pushed
"""

RETURN = r"""
images:
  description: References of the images that were pushed or pulled.
  returned: always
  type: list
  elements: str
missing:
  description: References of the images that the registry does not have.
  returned: always
  type: list
  elements: str
"""

import base64
import json
import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine import EngineError
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine_api import (
    PULL_TIMEOUT,
    ApiError,
    Engine,
    message_of,
    quoted,
)

#: What registries say of an image that they do not have.
ABSENT = re.compile(r"manifest unknown|not found|name unknown|repository does not exist", re.IGNORECASE)


class Registry:
    """A registry, as the engine of this host reaches it."""

    def __init__(self, engine: Engine, name: str, user: str, password: str) -> None:
        """Remember whom to ask.

        Args:
            engine: Of this host.
            name: Host, port and first part of the path.
            user: Name with which to log in.
            password: Its password.
        """
        self.engine, self.name = engine, name.rstrip("/")
        login = {"username": user, "password": password, "serveraddress": name.split("/")[0]} if user else {}
        self.headers = {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(login).encode()).decode()}

    def there(self, image: str) -> tuple[str, str]:
        """Name an image as the registry does: repository and tag."""
        repository, _separator, tag = image.rpartition(":")
        return f"{self.name}/{repository}", tag

    def ask(self, path: str) -> str:
        """Let the engine talk to the registry.

        Args:
            path: Of the engine's API, with a query.

        Returns:
            What went wrong; empty if nothing did. An engine answers 200 before it knows.
        """
        path = f"/v{self.engine.version()}{path}"
        status, content = self.engine.request("POST", path, timeout=PULL_TIMEOUT, headers=self.headers)
        if status >= 400:
            return message_of(content)
        lines = [json.loads(line) for line in content.splitlines() if line.strip()]
        return next((str(line["error"]) for line in lines if "error" in line), "")

    def push(self, image: str) -> None:
        """Send an image.

        Args:
            image: Its reference on the host.

        Raises:
            EngineError: If the registry does not take it.
        """
        repository, tag = self.there(image)
        self.engine.call("POST", f"/images/{quoted(image)}/tag", query={"repo": repository, "tag": tag})
        try:
            if said := self.ask(f"/images/{quoted(repository)}/push?tag={quoted(tag)}"):
                raise EngineError(said)
        finally:
            self.forget(image)

    def pull(self, image: str) -> bool:
        """Get an image.

        Args:
            image: Its reference on the host.

        Returns:
            Whether the registry has it.

        Raises:
            EngineError: If it cannot be asked.
        """
        repository, tag = self.there(image)
        said = self.ask(f"/images/create?fromImage={quoted(repository)}&tag={quoted(tag)}")
        if said and ABSENT.search(said):
            return False
        if said:
            raise EngineError(said)
        own, _separator, _tag = image.rpartition(":")
        self.engine.call("POST", f"/images/{quoted(f'{repository}:{tag}')}/tag", query={"repo": own, "tag": tag})
        self.forget(image)
        return True

    def forget(self, image: str) -> None:
        """Remove the registry's name of an image, which keeps its own."""
        try:
            self.engine.call("DELETE", f"/images/{quoted(':'.join(self.there(image)))}")
        except ApiError as error:
            if error.status != 404:
                raise


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "registry": {"type": "str", "required": True},
            "user": {"type": "str", "default": ""},
            "password": {"type": "str", "default": "", "no_log": True},
            "images": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["pulled", "pushed"], "required": True},
            "optional": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    images, pushes = module.params["images"], module.params["state"] == "pushed"
    if module.check_mode:
        module.exit_json(changed=bool(images), images=images, missing=[])
    done: list[str] = []
    missing: list[str] = []
    try:
        registry = Registry(*(Engine(), *(module.params[key] for key in ("registry", "user", "password"))))
        for image in images:
            if pushes:
                registry.push(image)
            (done if pushes or registry.pull(image) else missing).append(image)
    except EngineError as error:
        module.fail_json(
            msg=f"{image} cannot be {module.params['state']}: {error}. See container_image_registry"
            f" ({module.params['registry']}), and container_image_registry_user, _password and _ca."
        )
    if missing and not module.params["optional"]:
        module.fail_json(msg=f"The registry {module.params['registry']} does not have {', '.join(missing)}.")
    module.exit_json(changed=bool(done), images=done, missing=missing)


if __name__ == "__main__":
    main()
