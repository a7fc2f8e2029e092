"""What the inventory names on the controller and the host: files with SQL, certificates, mounts and mirrors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError
from collection_under_test import REPOSITORY, plugin

application = plugin("plugin_utils.application")
images = plugin("plugin_utils.images")


def test_names_are_volumes_and_paths_are_not() -> None:
    """A directory of the host is a bind, whatever it is called."""
    mounts = [
        {"source": "/opt/data", "path": "/data"},
        {"source": "cache", "path": "/cache"},
        {"source": "models", "path": "/models", "read_only": True},
    ]
    assert application.named_volumes(mounts) == [
        {"name": "cache", "path": "/cache", "read_only": False},
        {"name": "models", "path": "/models", "read_only": True},
    ]
    assert application.named_volumes([]) == []


def test_sql_in_its_order_and_to_the_byte(tmp_path: Path) -> None:
    """A hash of the content decides whether a file was changed; its last line feeds belong to it."""
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "b.sql").write_text("SELECT 'ü';\n\n")
    other = tmp_path / "a.sql"
    other.write_bytes(b"SELECT '\xff';")
    found = application.sql_files(["sql/b.sql", str(other)], str(tmp_path))
    assert list(found) == ["b.sql", "a.sql"]
    assert found["b.sql"] == "SELECT 'ü';\n\n" and found["a.sql"].startswith("base64:")


def test_a_file_with_sql_that_is_not_there(tmp_path: Path) -> None:
    """The path and the variable."""
    with pytest.raises(AnsibleFilterError, match=f"{tmp_path}/no.sql, which backend_sql_files names, cannot be read"):
        application.sql_files(["no.sql"], str(tmp_path))


def test_certificates_of_a_directory(tmp_path: Path) -> None:
    """Files that end in .crt alone; a directory that is not there holds none."""
    none = {"certificates/README": "Certificates of this network.\n"}
    assert images.certificate_files(str(tmp_path / "nowhere")) == none
    (tmp_path / "desk.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "desk.key").write_text("secret")
    (tmp_path / "directory.crt").mkdir()
    assert images.certificate_files(str(tmp_path)) == none | {"certificates/desk.crt": "-----BEGIN CERTIFICATE-----\n"}


def test_a_mirror_that_does_not_answer() -> None:
    """Is named with its variable; an answer of any status is one."""
    mirrors = {"container_image_apt_mirror": "http://apt.example", "container_image_pip_index": "http://pip.example"}
    answers = [
        {"item": "container_image_apt_mirror", "status": -1, "msg": "timed out"},
        {"item": "container_image_pip_index", "status": 404, "msg": "not found"},
    ]
    [sentence] = images.unreachable_mirrors(answers, mirrors)
    assert sentence == (
        "container_image_apt_mirror names http://apt.example, which cannot be reached: timed out. Correct it,"
        " or name a proxy in container_image_http_proxy."
    )


def test_no_variable_is_a_program() -> None:
    """A loop that collects something is a filter, with a name, types and tests."""
    for path in [*REPOSITORY.glob("roles/*/*/*.yml"), *REPOSITORY.glob("playbooks/**/*.yml")]:
        assert not re.search(r"{%-?\s*set\b", path.read_text(encoding="utf-8")), path


def test_containers_stop_before_systemd_kills_the_engine() -> None:
    """It gives the engine 90 s; the engine leaves a container that outlives it ended for good at its next start."""
    found = {
        str(path.relative_to(REPOSITORY)): int(seconds)
        for path in REPOSITORY.glob("roles/*/vars/main.yml")
        for seconds in re.findall(r"(?m)^ *stop_timeout: (\d+)", path.read_text())
    }
    assert len(found) >= 3
    assert {path: seconds for path, seconds in found.items() if seconds > 80} == {}
