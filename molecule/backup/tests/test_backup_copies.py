"""Copies of the backup repository on an SFTP server and in an S3 store at once, and everything back from one alone.

Also faults of the repository itself.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from stack_under_test import REPOSITORY, Stack, ansible_environment, command, eventually
from test_backup import PREDICTION, REPOSITORY_DIR, agent, backups, model, now, predict, run, words  # noqa: F401
from test_data_services import psql, s3

NAS, STORE = "/srv/test-nas", "/srv/test-store"
COPY = f"{NAS}/volume1/quantops"
ACCESS, SECRET = "test-access-key", "test secret of the store"
VARIABLES: list[str] = []


def key_pair() -> tuple[str, str]:
    """A private key, and the line that others know of it."""
    key = Ed25519PrivateKey.generate()
    form = serialization.PrivateFormat.OpenSSH
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private, line.decode()


def put(path: str, content: str) -> None:
    """Write a file on the test host."""
    command("sh", "-c", f"umask 077; mkdir -p $(dirname {path}); cat > {path}", stdin=content)


def certificate(directory: Path, address: str) -> tuple[str, str, str]:
    """An authority of the test's own, and the key and certificate of a server at an address."""
    made = subprocess.run(
        ["sh", "-ec", f"""
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca.key -out ca.crt -subj /CN=test
        openssl req -newkey rsa:2048 -nodes -keyout private.key -out request -subj /CN=store
        printf 'subjectAltName=IP:{address}' > names
        openssl x509 -req -in request -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out public.crt
        """], cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    authority, private, public = ((directory / name).read_text() for name in ("ca.crt", "private.key", "public.crt"))
    return authority, private, public


def serve_nas(stack: Stack, host_key: str, client: str) -> None:
    """Start the SFTP server anew, with its own key and the one that may log in."""
    command("docker", "rm", "--force", "test-nas")
    put(f"{NAS}-keys/host", host_key)
    put(f"{NAS}-keys/clients", f"{client}\n")
    image = command("docker", "inspect", "--format", "{{.Config.Image}}", f"{stack.name}-backup").strip()
    command(
        "docker", "run", "--detach", "--name=test-nas", "--network=host", "--user=0:0", "--env=HOME=/tmp",
        f"--volume={NAS}:/srv", f"--volume={NAS}-keys:/keys:ro", image,
        "rclone", "serve", "sftp", "/srv", "--addr=:2222", "--key=/keys/host", "--authorized-keys=/keys/clients",
        "--user=backup",
    )  # fmt: skip
    eventually(lambda: "listening" in command("sh", "-c", "docker logs test-nas 2>&1"), seconds=30, pause=0.5)


def serve_store(stack: Stack, secret: str) -> None:
    """Start the S3 store anew, which knows that secret of the access key."""
    command("docker", "rm", "--force", "test-store")
    image = command("docker", "inspect", "--format", "{{.Config.Image}}", f"{stack.name}-minio").strip()
    command(
        "docker", "run", "--detach", "--name=test-store", "--network=host", "--user=0:0", "--env=HOME=/tmp",
        f"--env=MINIO_ROOT_USER={ACCESS}", f"--env=MINIO_ROOT_PASSWORD={secret}", "--entrypoint=minio",
        f"--volume={STORE}:/data", f"--volume={STORE}-certs:/certs:ro", image,
        "server", "/data", "--address=:9443", "--console-address=:9444", "--certs-dir=/certs",
    )  # fmt: skip
    listening = f"curl --silent --insecure --output /dev/null https://{stack.address}:9443/ && echo yes || true"
    eventually(lambda: stack.execute("minio", "sh", "-c", listening).stdout.strip(), seconds=60)


def state(name: str) -> dict[str, Any]:
    """What is known of a copy; nothing before the first one."""
    text = command("sh", "-c", f"cat {REPOSITORY_DIR}/copies/{name}.json 2> /dev/null || true")
    return json.loads(text) if text else {"backup": "", "error": "", "kept": ""}


def copied(stack: Stack, name: str) -> bool:
    """Whether a copy has the newest backup."""
    found = state(name)
    return found["backup"] == backups(stack)[0]["id"] and not found["error"]


def play(playbook: str, *options: str, status: int = 0) -> str:
    """Run a playbook with the copies in the inventory."""
    return run(playbook, *VARIABLES, *options, status=status)


@pytest.fixture(scope="module")
def keys() -> dict[str, tuple[str, str]]:
    """Key pairs of the host and the client, and those of others."""
    return {name: key_pair() for name in ("host", "client", "stranger")}


@pytest.fixture(scope="module", autouse=True)
def places(
    stack: Stack, keys: dict[str, tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """An SFTP server and a store over TLS, both on the test host beside the stack, which is copied to them."""
    directory = tmp_path_factory.mktemp("copies")
    remove_places()
    authority, private, public = certificate(directory, stack.address)
    for name, content in (("private.key", private), ("public.crt", public)):
        put(f"{STORE}-certs/{name}", content)
    serve_nas(stack, keys["host"][0], keys["client"][1])
    serve_store(stack, SECRET)
    store = boto3.client(
        "s3", endpoint_url=f"https://{stack.address}:9443", aws_access_key_id=ACCESS, aws_secret_access_key=SECRET,
        region_name="us-east-1", verify=str(directory / "ca.crt"),
    )  # fmt: skip
    store.create_bucket(Bucket="offsite")
    copies = {
        "nas": {
            "type": "sftp", "host": stack.address, "port": 2222, "user": "backup", "path": "/volume1/quantops",
            "key": keys["client"][0], "known_hosts": f"[{stack.address}]:2222 {keys['host'][1]}",
        },
        "offsite": {
            "type": "s3", "provider": "Minio", "endpoint": f"https://{stack.address}:9443", "path": "offsite/quantops",
            "access_key_id": ACCESS, "secret_access_key": SECRET, "ca": authority,
        },
    }  # fmt: skip
    file = directory / "copies.json"
    file.write_text(json.dumps({"backup_copies": copies, "backup_copy_minutes": 1}))
    VARIABLES[:] = [f"--extra-vars=@{file}"]
    play("site", "--tags=backup")
    yield copies
    remove_places()


def remove_places() -> None:
    """Remove both, also those of a run that was cut off."""
    command("docker", "rm", "--force", "test-nas", "test-store")
    command("rm", "-rf", NAS, f"{NAS}-keys", STORE, f"{STORE}-certs")


def test_a_place_that_cannot_work_changes_nothing(stack: Stack, places: dict[str, Any]) -> None:
    before = stack.identity()
    wrong = {
        "nas": {key: value for key, value in places["nas"].items() if key != "known_hosts"},
        "offsite": {**places["offsite"], "endpoint": "http://192.0.2.1:9443"},
    }
    said = " ".join(
        play("site", "--tags=backup", f"--extra-vars={json.dumps({'backup_copies': wrong})}", status=2).split()
    )
    assert "backup_copies.nas: known_hosts is missing" in said
    assert "backup_copies.offsite: endpoint is 'http://192.0.2.1:9443', expected https://" in said
    assert SECRET not in said and "BEGIN" not in said
    assert stack.identity() == before


def test_both_copies_follow_a_backup(stack: Stack, keys: dict[str, tuple[str, str]]) -> None:
    """By themselves, with all that belongs to them; the keys are in files only."""
    said = play("backup")
    newest = backups(stack)[0]["id"]
    assert f"Backup {newest}" in said
    for name in ("nas", "offsite"):
        eventually(lambda name=name: copied(stack, name), seconds=180)
    listed = command("find", f"{COPY}/repository", "-type", "f", "-printf", "%P\n").split()
    assert {"repository.json", f"manifests/{newest}.json", "secrets/secrets.vault", "files/config"} <= set(listed)
    assert not command("find", f"{COPY}/incoming", "-type", "f").strip()
    status = play("status")
    assert "since the last complete copy to nas" in status and "complete copy to offsite" in status
    said = play("backup", "--extra-vars=backup_verify=true")
    assert said.count("is whole:") == 2 and said.count("compared by md5") == 2
    for secret in (SECRET, keys["client"][0].splitlines()[1]):
        for words_of in (("docker", "inspect", f"{stack.name}-backup"), ("docker", "logs", f"{stack.name}-backup")):
            assert secret not in command(*words_of)
        assert secret not in said + status
    assert command("stat", "--format=%a", f"/etc/quantops/{stack.name}/backup/secrets/rclone.conf").strip() in (
        "440",
        "640",
    )


def test_wal_reaches_the_copies_without_a_backup(stack: Stack) -> None:
    known = backups(stack)[0]["id"]
    [segment] = write_and_switch(stack, 1)
    find = f"find {COPY}/repository/postgres/archive -name '{segment}-*'"
    eventually(lambda: command("sh", "-c", find).strip(), seconds=180)
    assert backups(stack)[0]["id"] == known


def write_and_switch(stack: Stack, number: int) -> list[str]:
    """Fill some segments of the WAL a little, and wait until they are archived; returns their names."""
    found = []
    for _each in range(number):
        words_of = ("psql", "--username=postgres", "--tuples-only", "--no-align", "--quiet", "--command")
        segment = stack.execute(
            "postgres", *words_of, "SELECT pg_current_xact_id(); SELECT pg_walfile_name(pg_switch_wal())"
        ).stdout.split()[-1]
        find = f"find {REPOSITORY_DIR}/postgres/archive -name '{segment}-*' ! -name '*.tmp'"
        eventually(lambda find=find: command("sh", "-c", find).strip(), seconds=60, pause=0.5)
        found.append(segment)
        time.sleep(3.2)
    return found


def test_a_place_that_goes_away_during_a_copy(stack: Stack, keys: dict[str, tuple[str, str]]) -> None:
    """The backup is made, the other place has it, the copy goes on when the place is back; until then it is told."""
    agent(stack, "copy")
    s3(stack, "mlflow").put_object(Bucket="mlflow", Key="probe/large", Body=os.urandom(60_000_000))
    play("backup")
    incoming = f"find {COPY}/incoming -type f -size +1M | head -n 1"
    eventually(lambda: command("sh", "-c", incoming).strip(), seconds=120, pause=0.2)
    command("docker", "kill", "test-nas")
    try:
        newest = backups(stack)[0]["id"]
        assert not command("sh", "-c", f"ls {COPY}/repository/manifests | grep {newest} || true").strip()
        # A connection that hangs is given up after 90 s.
        eventually(lambda: state("nas")["error"], seconds=200)
        eventually(lambda: copied(stack, "offsite"), seconds=60)
        assert agent(stack, "run")
        assert "failed copies to nas since" in play("status")
        eventually(lambda: not stack.well("backup"), seconds=60)
    finally:
        serve_nas(stack, keys["host"][0], keys["client"][1])
    eventually(lambda: copied(stack, "nas"), seconds=240)
    eventually(lambda: stack.well("backup"), seconds=60)
    assert "failed copies" not in play("status")


def test_a_copy_that_is_killed(stack: Stack) -> None:
    """At any time, and again and again: what is there can be used, and the next one completes it."""
    before = set(command("ls", f"{COPY}/repository/manifests").split())
    s3(stack, "mlflow").put_object(Bucket="mlflow", Key="probe/large", Body=os.urandom(30_000_000))
    agent(stack, "run")
    for delay in (0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.9, 2.2, 2.5):
        kill = f"timeout --signal=KILL {delay} python3 /run/config/backup.py copy; pkill -KILL rclone; true"
        stack.execute("backup", "sh", "-c", kill)
        there = set(command("ls", f"{COPY}/repository/manifests").split())
        assert before <= there
    agent(stack, "copy")
    assert copied(stack, "nas") and copied(stack, "offsite")
    assert agent(stack, "verify").count("is whole:") == 2


@pytest.mark.parametrize(
    ("host", "client", "said"),
    [("host", "stranger", "unable to authenticate"), ("stranger", "client", "knownhosts: key mismatch")],
)
def test_a_key_that_is_another(
    stack: Stack, keys: dict[str, tuple[str, str]], host: str, client: str, said: str
) -> None:
    """The client's is refused by the host, and another host than the known one is given nothing."""
    serve_nas(stack, keys[host][0], keys[client][1])
    try:
        assert "Not copied: nas" in agent(stack, "copy", status=1)
        assert said in state("nas")["error"] and not state("offsite")["error"]
    finally:
        serve_nas(stack, keys["host"][0], keys["client"][1])
    agent(stack, "copy")


def test_credentials_that_are_not_valid_any_more(stack: Stack) -> None:
    """Told with what the store says, without the secret; the other place is copied to, and valid ones heal it."""
    serve_store(stack, "another secret by now")
    try:
        agent(stack, "run")
        assert "Not copied: offsite" in agent(stack, "copy", status=1)
        assert "SignatureDoesNotMatch" in state("offsite")["error"] and not state("nas")["error"]
        assert SECRET not in state("offsite")["error"]
        said = play("status")
        assert f"ALERT: {stack.name}-backup: failed copies to offsite since" in said
    finally:
        serve_store(stack, SECRET)
    agent(stack, "copy")
    assert copied(stack, "offsite") and "failed copies" not in play("status")


def test_a_lost_mount_removes_nothing_from_the_copies(stack: Stack) -> None:
    listed = ("find", f"{COPY}/repository", "-type", "f")
    away = f"{REPOSITORY_DIR}/repository.json"
    before = set(command(*listed).split())
    command("mv", away, f"{REPOSITORY_DIR}/.away")
    try:
        assert "holds no repository" in agent(stack, "copy", status=1)
        assert before <= set(command(*listed).split())
    finally:
        command("mv", f"{REPOSITORY_DIR}/.away", away)
    agent(stack, "copy")
    # Another stack's, at the path of this one.
    mark = f"{COPY}/copy.json"
    kept = command("cat", mark)
    put(mark, kept.replace(stack.name, "another1"))
    try:
        agent(stack, "copy", status=1)
        assert "the copy of the stack 'another1'" in state("nas")["error"]
    finally:
        put(mark, kept)
    agent(stack, "copy")


def test_a_byte_that_flips_at_a_copy_is_found(stack: Stack) -> None:
    find = f"find {COPY}/repository/files/data -type f -size +2k | sort | head -n 1"
    [path] = command("sh", "-c", find).split()
    flip = (
        "import sys; f = open(sys.argv[1], 'r+b'); f.seek(1200); byte = f.read(1)[0] ^ 1;"
        " f.seek(1200); f.write(bytes([byte]))"
    )
    command("python3", "-c", flip, path)
    try:
        said = agent(stack, "verify", status=1)
        assert "Copy nas: " in said and path.removeprefix(f"{COPY}/repository/") in said
    finally:
        command("python3", "-c", flip, path)


def test_a_segment_that_is_missing(stack: Stack) -> None:
    """It is told with what can be restored instead; what lies before and after it can be; the copy keeps it."""
    agent(stack, "run")
    older = backups(stack)[0]["id"]
    time.sleep(3)
    *_before, gone, _after = write_and_switch(stack, 4)
    moment = now(stack)
    agent(stack, "run")
    newer = backups(stack)[0]["id"]
    agent(stack, "copy")
    [path] = command("sh", "-c", f"find {REPOSITORY_DIR}/postgres/archive -name '{gone}-*'").split()
    owner = command("stat", "--format=%u:%g", path).strip()
    command("mv", path, f"{NAS}-keys/segment")
    before = stack.identity()
    try:
        said = agent(stack, "verify", status=1)
        assert f"archive lacks {gone}: after the backup {older}, states until" in said
        assert f"later ones from the backup {newer} on" in said
        gap = next(each["gap"] for each in backups(stack) if "gap" in each)
        assert gap["segment"] == gone
        until = datetime.fromisoformat(gap["until"]).strftime("%Y-%m-%d %H:%M:%S")
        said = play("restore", f"--extra-vars={json.dumps({'restore_to': moment})}", status=2)
        assert gone in said.replace("\n", "") and until in said
        assert stack.identity() == before
        # As far as it is said to be possible, and the backups on both sides.
        for wanted in (until, older):
            said = play("drill", f"--extra-vars={json.dumps({'restore_to': wanted})}")
            assert "can be restored whole" in said and f"archive lacks {gone}" in said.replace("\n", "")
        assert "gaps: PostgreSQL's archive lacks" in play("status")
        agent(stack, "copy")
        assert "has not expired" in state("nas")["kept"] and gone in state("nas")["kept"]
    finally:
        command("mv", f"{NAS}-keys/segment", path)
        command("chown", owner, path)
    agent(stack, "copy")
    assert not state("nas")["kept"]
    assert "gap" not in json.dumps(backups(stack))


@pytest.fixture
def small_disk(stack: Stack) -> Iterator[str]:
    """The repository on a file system of its own, with little room."""
    used = int(command("du", "--summarize", "--block-size=1M", REPOSITORY_DIR).split()[0])
    containers = (f"{stack.name}-backup", f"{stack.name}-postgres")
    command("docker", "stop", *containers)
    command("mv", REPOSITORY_DIR, f"{REPOSITORY_DIR}.kept")
    command("mkdir", "-m", "0711", REPOSITORY_DIR)
    command("mount", "-t", "tmpfs", "-o", f"size={used + 120}m,mode=0711", "small", REPOSITORY_DIR)
    command("cp", "--archive", f"{REPOSITORY_DIR}.kept/.", REPOSITORY_DIR)
    command("mkdir", f"{REPOSITORY_DIR}/lost+found")
    command("docker", "start", *reversed(containers))
    eventually(lambda: stack.well("postgres"), seconds=120)
    yield REPOSITORY_DIR
    command("docker", "stop", *containers)
    command("find", f"{REPOSITORY_DIR}.kept", "-mindepth", "1", "-delete")
    command("cp", "--archive", f"{REPOSITORY_DIR}/.", f"{REPOSITORY_DIR}.kept")
    command("umount", REPOSITORY_DIR)
    command("rmdir", REPOSITORY_DIR)
    command("mv", f"{REPOSITORY_DIR}.kept", REPOSITORY_DIR)
    command("rmdir", f"{REPOSITORY_DIR}/lost+found")
    command("docker", "start", *reversed(containers))
    eventually(lambda: stack.well("postgres"), seconds=120)


def test_a_full_and_a_read_only_repository(stack: Stack, small_disk: str) -> None:
    """The backup fails and says why, PostgreSQL goes on, nothing is damaged; room, or writing, alone heals it."""
    complete = [each["id"] for each in backups(stack)]
    fill = f"dd if=/dev/zero of={small_disk}/.filler bs=64k 2> /dev/null; true"
    command("sh", "-c", fill)
    said = agent(stack, "run", status=1)
    assert "The disk of the backup directory is full: 0 of" in said, said
    status, said = psql(stack, "mlflow", "mlflow", "CREATE TABLE probe (x int); DROP TABLE probe; SELECT 1")
    assert status == 0, said
    play("status")
    assert [each["id"] for each in backups(stack)] == complete
    command("rm", f"{small_disk}/.filler")
    agent(stack, "run")
    assert "backups are whole" in agent(stack, "verify")
    complete = [each["id"] for each in backups(stack)]
    command("mount", "-o", "remount,ro", small_disk)
    try:
        assert "cannot be written: Read-only file system" in agent(stack, "run", status=1)
        assert "cannot be written: Read-only file system" in agent(stack, "verify", status=1)
        assert "complete backup" in play("status")
        assert [each["id"] for each in backups(stack)] == complete
        assert psql(stack, "mlflow", "mlflow", "SELECT 1")[0] == 0
    finally:
        command("mount", "-o", "remount,rw", small_disk)
    agent(stack, "run")
    assert "backups are whole" in agent(stack, "verify")


def test_buckets_go_back_though_the_clock_is_a_minute_behind(stack: Stack) -> None:
    """A host that has taken over may not have reached the time of the backup yet."""
    script = (REPOSITORY / "roles/backup/files/rewind.sh").read_text()
    moment = int(time.time())
    client = s3(stack, "mlflow")
    time.sleep(1.1)
    client.put_object(Bucket="mlflow", Key="probe/clock", Body=b"later")
    for behind in (0, 60, 90):
        clock = f"date() {{ command date --date='-{behind} seconds' \"$@\"; }}\n"
        said = stack.execute("minio", "sh", stdin=f"{script}\n{clock}remove_later {moment} mlflow\n")
        assert said.returncode == 0 and "probe/clock" in said.stdout, (behind, said)
    client.delete_object(Bucket="mlflow", Key="probe/clock")


def test_everything_is_back_from_a_copy_alone(stack: Stack) -> None:
    """After the loss of volumes, containers, the backups, the host's configuration and the controller's secrets."""
    agent(stack, "run")
    agent(stack, "copy")
    [newest, *_others] = backups(stack)
    secrets = {path.name: path.read_text() for path in stack.secrets_dir.iterdir()}
    assert "holds a repository already" in play("fetch_backups", "--extra-vars=fetch_from=nas", status=2)
    play("destroy", "--extra-vars=destroy_data=true", f"--extra-vars=destroy_confirm={stack.name}")
    shutil.rmtree(stack.secrets_dir)
    command("rm", "-rf", REPOSITORY_DIR)
    assert not command("docker", "volume", "ls", "--quiet", "--filter", f"label=quantops.stack={stack.name}").strip()
    said = play("fetch_backups", "--extra-vars=fetch_from=cloud", status=2)
    assert 'fetch_from is "cloud", expected a name of backup_copies: nas, offsite' in said
    assert "fetch_backups.yml" in play("restore", status=2)
    begun = datetime.now(UTC)
    process = subprocess.Popen(
        words("fetch_backups", *VARIABLES, "--extra-vars=fetch_from=nas"), cwd=REPOSITORY, env=ansible_environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        some = f"find {REPOSITORY_DIR}/files -type f -size +1M 2> /dev/null | head -n 1"
        eventually(lambda: command("sh", "-c", some).strip(), seconds=300, pause=0.1)
        command("docker", "kill", f"{stack.name}-backup-fetch")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert "holds no repository" in play("restore", "--extra-vars=stack_lock_wait=300", status=2)
    # Goes on from the other place, which has the same repository.
    said = play("fetch_backups", "--extra-vars=fetch_from=offsite", "--extra-vars=stack_lock_wait=300")
    assert f"up to the backup {newest['id']}" in said.replace("\n", " ").replace("  ", " ")
    assert not stack.secrets_dir.exists()
    # A stack of new secrets would be one that cannot read them.
    assert "lacks the backup_passphrase that opens them" in play("site", status=2)
    of_stack = ("docker", "ps", "--all", "--quiet", "--filter", f"label=quantops.stack={stack.name}")
    assert not stack.secrets_dir.exists() and not command(*of_stack).strip()
    print(f"Fetched in {datetime.now(UTC) - begun}")
    assert "backup_secrets_password" in play("restore", "--extra-vars=backup_secrets_password=", status=2)
    shutil.rmtree(stack.secrets_dir, ignore_errors=True)
    for name, text in secrets.items():
        stack.secrets_dir.mkdir(mode=0o700, exist_ok=True)
        (stack.secrets_dir / name).write_text("p" * 64 if name == "backup_passphrase" else text)
    said = play("restore", "--extra-vars=backup_secrets_password=", status=2)
    assert "cannot be opened with backup_passphrase" in said
    shutil.rmtree(stack.secrets_dir)
    begun = datetime.now(UTC)
    said = play("restore")
    print(f"Restored in {datetime.now(UTC) - begun}")
    assert f"Restored: the backup {newest['id']}" in said
    assert backups(stack)[0]["id"] > newest["id"]
    assert {path.name: path.read_text() for path in stack.secrets_dir.iterdir()} == secrets
    assert predict(stack) == PREDICTION
    counts = newest["postgres"]["rows"]
    for table in ("model_versions", "runs", "metrics"):
        status, found = psql(stack, "mlflow", "mlflow", f"SELECT count(*) FROM {table}")
        assert status == 0
        assert counts["least"]["mlflow"][f"public.{table}"] <= int(found) <= counts["most"]["mlflow"][f"public.{table}"]
    # The copies go on being those of this repository.
    agent(stack, "copy")
    agent(stack, "run")
    assert "backups are whole" in agent(stack, "verify")
