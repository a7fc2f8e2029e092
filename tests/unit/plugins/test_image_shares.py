"""Each image is built on one host, and goes from there to those that lack it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from collection_under_test import plugin

images = plugin("plugin_utils.images")
streams = plugin("plugin_utils.host_streams")


def has(refs: dict[str, str], **ids: str) -> dict[str, Any]:
    return {"refs": refs, "ids": {name.replace("_", ":"): value for name, value in ids.items()}}


REDIS = {"redis": "redis:1"}
BOTH = {"redis": "redis:1", "base": "base:1"}


def shares(hosts: dict[str, Any], **options: Any) -> dict[str, dict[str, Any]]:
    return {host: images.image_shares(hosts, host, **options) for host in hosts}


def test_the_first_host_that_needs_an_image_builds_it_and_the_others_receive_it() -> None:
    found = shares({"a": has({}), "b": has(REDIS), "c": has(REDIS)})
    assert [found[host]["build"] for host in "abc"] == [{}, REDIS, {}]
    assert [found[host]["receive"] for host in "abc"] == [{}, {}, {"b": ["redis:1"]}]


def test_the_build_host_builds_what_only_others_need() -> None:
    found = shares({"a": has({}), "b": has(REDIS)}, build_host="a")
    assert found["a"]["build"] == REDIS and found["b"] == {"build": {}, "receive": {"a": ["redis:1"]}, "problems": []}


def test_all_that_is_missing_is_built_on_one_host_on_the_same_base() -> None:
    hosts = {"a": has(REDIS), "b": has({"mlflow": "mlflow:1"})}
    found = shares(hosts)
    assert found["a"]["build"] == REDIS | {"mlflow": "mlflow:1"}
    assert found["b"] == {"build": {}, "receive": {"a": ["mlflow:1"]}, "problems": []}
    hosts["b"] = has({"mlflow": "mlflow:1"}, base_1="x") | {"parents": ["base:1"]}
    assert shares(hosts)["b"]["build"] == REDIS | {"mlflow": "mlflow:1"} and shares(hosts)["a"]["build"] == {}


def test_a_host_that_has_the_image_is_the_source_wherever_it_stands() -> None:
    found = shares({"a": has(REDIS), "b": has(BOTH, redis_1="x")})
    assert found["a"] == {"build": {}, "receive": {"b": ["redis:1"]}, "problems": []}
    assert found["b"]["build"] == {"base": "base:1"}


def test_of_different_images_under_one_name_the_first_hosts_counts() -> None:
    hosts = {"a": has(REDIS, redis_1="x"), "b": has(REDIS, redis_1="y"), "c": has(REDIS, redis_1="x")}
    assert [each["receive"] for each in shares(hosts).values()] == [{}, {"a": ["redis:1"]}, {}]
    assert shares(hosts, build_host="b")["a"]["receive"] == {"b": ["redis:1"]}


def test_nothing_is_done_where_all_have_the_same() -> None:
    hosts = {"a": has(REDIS, redis_1="x"), "b": has(REDIS, redis_1="x", other_2="z")}
    assert all(each == {"build": {}, "receive": {}, "problems": []} for each in shares(hosts).values())


def test_hosts_that_mean_different_images_build_their_own() -> None:
    found = shares({"a": has({"redis": "redis:1"}), "b": has({"redis": "redis:2"})})
    assert found["a"]["build"] == {"redis": "redis:1"} and found["b"]["build"] == {"redis": "redis:2"}


def test_a_limited_run_takes_images_from_hosts_outside_of_it() -> None:
    found = images.image_shares(
        {"c": has(REDIS)}, "c", "", {"a": {}, "b": {"redis:1": "sha256:x", "<none>:<none>": "sha256:y"}}
    )
    assert found == {"build": {}, "receive": {"b": ["redis:1"]}, "problems": []}


def test_a_limited_run_without_the_build_host_is_refused_only_where_nobody_has_the_image() -> None:
    (problem,) = images.image_shares({"c": has(REDIS)}, "c", "a", {"a": {}})["problems"]
    assert "container_image_build_host is a" in problem and "redis:1" in problem and "--limit c,a" in problem
    assert images.image_shares({"c": has(REDIS)}, "c", "typo")["problems"]
    assert not images.image_shares({"c": has(REDIS)}, "c", "a", {"a": {"redis:1": "x"}})["problems"]


def test_the_same_layers_are_the_same_image_in_another_store() -> None:
    one, other = {"id": "x", "layers": ["l1", "l2"]}, {"id": "y", "layers": ["l1", "l2"]}
    rebuilt = {"id": "z", "layers": ["l1", "l3"]}
    offered = {"same:1": one, "store:1": one, "rebuilt:1": one, "absent:1": one}
    assert images.different_images(offered, {"same:1": one, "store:1": other, "rebuilt:1": rebuilt}) == [
        "rebuilt:1",
        "absent:1",
    ]


def test_room_for_images_is_twice_their_size() -> None:
    assert images.room_problem("w3", 2**30, 2**31, ["a:1"]) == ""
    problem = images.room_problem("w3", 2**30, 2**31 - 1, ["a:1"])
    assert "w3 has 2047 MiB" in problem and "a:1 takes 2048 MiB" in problem


def command(text: str, answer: Any = lambda said: b"") -> Any:
    return streams.HostStream([b"/bin/sh", b"-c", f"echo QUANTOPS-READY; {text}".encode()], "It", answer)


def test_a_stream_passes_bytes_on_unchanged(tmp_path: Path) -> None:
    content = bytes(range(256)) * 40_000
    (tmp_path / "in").write_bytes(content)
    source, target = command(f"cat {tmp_path}/in"), command(f"cat > {tmp_path}/out")
    assert streams.pass_on(source, target) == len(content)
    assert target.finish() == (0, "") and source.finish() == (0, "")
    assert (tmp_path / "out").read_bytes() == content


def test_a_target_that_ends_early_ends_the_transfer_with_its_words() -> None:
    source, target = command("exec yes"), command("head -c 10 > /dev/null; echo no room >&2; exit 7")
    streams.pass_on(source, target)
    assert target.finish() == (7, "no room")
    source.output.close()
    assert source.finish()[0] != 0


def test_a_password_is_written_where_it_is_asked_for() -> None:
    text = "printf 'password: ' >&2; read -r word; echo QUANTOPS-READY; echo \"$word\"; cat"
    stream = streams.HostStream(
        [b"/bin/sh", b"-c", text.encode()], "It", lambda said: b"secret\n" if said.endswith(b"password: ") else b""
    )
    stream.input.write(b"stream")
    stream.input.close()
    assert stream.output.read() == b"secret\nstream"
    assert stream.finish()[0] == 0


def test_what_does_not_begin_is_an_error_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AnsibleActionFail, match="It did not start: no such host"):
        streams.HostStream([b"/bin/sh", b"-c", b"echo no such host >&2; exit 255"], "It", lambda said: b"")
    monkeypatch.setattr(streams, "BEGIN", 0.3)
    began = time.monotonic()
    with pytest.raises(AnsibleActionFail, match="no answer within"):
        streams.HostStream([sys.executable.encode(), b"-c", b"input()"], "It", lambda said: b"")
    assert time.monotonic() - began < 5
