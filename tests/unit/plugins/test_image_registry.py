"""Images are pushed and pulled by the engine, under their own names on the host."""

from __future__ import annotations

import pytest
from collection_under_test import Outcome, Run
from fake_engine import FakeEngine

IMAGE = "quantops/redis:3f"
THERE = "registry.example.com:5000/desk/quantops/redis"
PUSH = [f"POST /images/{IMAGE}/tag", f"POST /images/{THERE}/push", f"DELETE /images/{THERE}:3f"]
PULL = ["POST /images/create", f"POST /images/{THERE}:3f/tag", f"DELETE /images/{THERE}:3f"]


@pytest.fixture
def ask(run_module: Run, engine: FakeEngine) -> Run:
    """Runs the module on an engine that reaches the registry."""
    for call in ("/tag", "/push", "/images/create", "DELETE /images"):
        engine.refused[call] = (200, {"status": "done"})

    def run(state: str, **more: object) -> Outcome:
        return run_module(
            "image_registry", registry="registry.example.com:5000/desk", user="desk", password="Passw0rd",
            images=[IMAGE], state=state, **more,
        )  # fmt: skip

    return run


def paths(engine: FakeEngine) -> list[str]:
    return [call.partition("?")[0] for call in engine.calls]


def test_a_pushed_image_leaves_no_second_name(ask: Run, engine: FakeEngine) -> None:
    done = ask("pushed")
    assert done.result["changed"] and done.result["images"] == [IMAGE]
    assert paths(engine) == PUSH and "Passw0rd" not in done.output


def test_a_pulled_image_has_its_own_name(ask: Run, engine: FakeEngine) -> None:
    assert ask("pulled").result["images"] == [IMAGE]
    assert paths(engine) == PULL


def test_what_the_registry_lacks_is_an_error_unless_it_may_be_missing(ask: Run, engine: FakeEngine) -> None:
    engine.refused["/images/create"] = (200, {"error": "manifest for it not found: manifest unknown"})
    done = ask("pulled")
    assert done.failed and f"does not have {IMAGE}" in done.result["msg"]
    done = ask("pulled", optional=True)
    assert not done.failed and done.result["missing"] == [IMAGE] and not done.result["changed"]


@pytest.mark.parametrize("state", ["pulled", "pushed"])
@pytest.mark.parametrize("status", [200, 500])
def test_a_refusal_names_the_variables(ask: Run, engine: FakeEngine, state: str, status: int) -> None:
    """An engine that has begun to talk to the registry has answered 200 already."""
    call = "/push" if state == "pushed" else "/images/create"
    engine.refused[call] = (status, {"error" if status == 200 else "message": "unauthorized: authentication required"})
    done = ask(state, optional=state == "pulled")
    assert done.failed and f"{IMAGE} cannot be {state}: unauthorized" in done.result["msg"]
    assert "container_image_registry_user" in done.result["msg"] and "Passw0rd" not in done.output
    assert state == "pulled" or paths(engine) == PUSH


def test_check_mode_asks_nobody(ask: Run, engine: FakeEngine) -> None:
    assert ask("pushed", check=True).result["changed"] and engine.calls == []
