"""What the edge lets in, and what it keeps out."""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import time
from typing import Any

import pytest
import requests
import yaml
from front_door import DOMAIN, ROLES, Door
from stack_under_test import REPOSITORY, Stack, command, eventually

SERVICES = ("backend", "mlflow", "minio", "ibkr_gateway")
READING, WRITING = ("GET", "HEAD", "OPTIONS"), ("POST", "PUT", "PATCH", "DELETE")


def contract_pages() -> dict[str, dict[str, Any]]:
    """Pages of the scenario's services, from their contracts; of the backend's, those of the reference application."""
    found = {}
    for service in SERVICES:
        contract = yaml.safe_load((REPOSITORY / "roles" / service / "meta" / "service.yml").read_text(encoding="utf-8"))
        for page in contract["web"]:
            if "not backend_own_application" in page.get("when", "not backend_own_application"):
                found[page.get("name") or service] = page
    return {name: page for name, page in found.items() if page.get("anonymous_api") != ["/*"]}


PAGES = contract_pages()
#: A path that no service knows, so that nothing changes where it is let in.
NOWHERE = "/edge-nowhere"


# ---- logins and roles


def test_every_page_is_behind_the_edge(door: Door) -> None:
    """As the contracts say, and no other."""
    assert {name: page["roles"] for name, page in door.pages.items()} == {
        name: page["roles"] for name, page in PAGES.items()
    }


@pytest.mark.parametrize("page", PAGES)
def test_one_login_opens_every_page(door: Door, page: str) -> None:
    """Of a browser that has logged in at the backend's page."""
    answer = door.ask(page, user="admin", Accept="text/html")
    assert answer.status in (200, 302, 303, 307) and not answer.error
    assert "/.edge/login" not in answer.headers.get("Location", "")


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("user", ROLES)
def test_what_a_role_may_do_on_a_page(door: Door, page: str, user: str) -> None:
    """Each method; what is let in is answered by the service."""
    right = PAGES[page]["roles"].get(ROLES[user])
    for method in (*READING, *WRITING):
        allowed = right == "write" or (right == "read" and method in READING)
        answer = door.ask(page, NOWHERE, method, user=user)
        refused = answer.status == 403 and (method == "HEAD" or "The role" in answer.error)
        assert refused != allowed, (page, user, method, answer)
    for method in ("TRACE", "PROPFIND", "BREW"):
        assert door.ask(page, NOWHERE, method, user=user).status == 405


@pytest.mark.parametrize("page", PAGES)
def test_nobody_gets_in_without_a_login(door: Door, page: str) -> None:
    """A program is told so, a browser is shown the form."""
    for method in (*READING, *WRITING):
        assert door.ask(page, NOWHERE, method).status == 401
    shown = door.ask(page, "/a?b=c", Accept="text/html")
    assert (shown.status, shown.headers["Location"]) == (303, "/.edge/login?next=%2Fa%3Fb%3Dc")


def test_the_start_page_lists_what_one_may_open(door: Door) -> None:
    """And no more."""
    for user, role in ROLES.items():
        body = door.ask("", "/.edge/", user=user).body.decode()
        listed = {name for name, page in door.pages.items() if f'href="{page["url"]}"' in body}
        assert listed == {name for name, page in PAGES.items() if page["roles"].get(role)}


def test_logging_out_ends_the_login_everywhere(door: Door) -> None:
    """Also for who has kept the cookie; others stay."""
    cookie = door.new_cookie("rob")
    assert not door.ask("mlflow", NOWHERE, Cookie=cookie).error
    out = door.ask("app", "/.edge/logout", "POST", Cookie=cookie, Origin=f"https://app.{DOMAIN}")
    assert out.status == 200
    for page in PAGES:
        assert door.ask(page, NOWHERE, Cookie=cookie).status == 401
    assert not door.ask("mlflow", NOWHERE, user="rob").error


def test_the_cookie_is_for_this_domain_and_no_script(door: Door) -> None:
    """And only over TLS."""
    [login, device] = door.log_in("vera", door.password("vera")).headers.get_all("Set-Cookie")
    for cookie in (login, device):
        assert f"Domain={DOMAIN}" in cookie and "; Secure" in cookie
        assert "; HttpOnly" in cookie and "; SameSite=Lax" in cookie


def test_a_restart_logs_nobody_out(door: Door, stack: Stack) -> None:
    """Of the gate, and of Caddy."""
    cookie = door.cookie("tom")
    command("docker", "restart", f"{stack.name}-edge-gate", f"{stack.name}-edge")

    def answers() -> bool:
        try:
            return not door.ask("mlflow", NOWHERE, Cookie=cookie).error
        except OSError:
            return False

    eventually(answers, seconds=60)


def test_without_the_gate_nobody_gets_in(door: Door, stack: Stack) -> None:
    """Not even who was logged in."""
    cookie = door.cookie("admin")
    command("docker", "stop", f"{stack.name}-edge-gate")
    try:
        answer = door.ask("mlflow", "/health", Cookie=cookie)
        assert answer.status == 502
    finally:
        command("docker", "start", f"{stack.name}-edge-gate")
    eventually(lambda: not door.ask("mlflow", NOWHERE, Cookie=cookie).error, seconds=60)


def test_wrong_passwords_become_slow(door: Door) -> None:
    """And a right one is let in all the same, from a browser that was logged in before."""
    [_login, device] = door.log_in("vera", door.password("vera")).headers.get_all("Set-Cookie")
    began = time.monotonic()
    for _attempt in range(4):
        assert door.log_in("vera", "wrong password").status == 401
    # 1, 2 and 4 s between them.
    assert time.monotonic() - began > 6
    began = time.monotonic()
    assert door.log_in("vera", door.password("vera"), Cookie=device.partition(";")[0]).status == 303
    assert time.monotonic() - began < 4


# ---- attacks


def test_headers_of_the_edges_own_are_not_taken_from_a_client(door: Door, stack: Stack) -> None:
    """From outside, and from another container, in each spelling that a service may take for the same."""
    for spelling in ("X-Edge-User", "x-edge-user", "X_Edge_User", "X-Edge_User", "X-Edge-Page", "X-Edge-Role"):
        answer = door.ask("mlflow", NOWHERE, exactly={spelling: "admin"})
        assert answer.status == 401, spelling
    asked = stack.execute(
        "backend", "curl", "--silent", "--insecure", "--output", "/dev/null", "--write-out", "%{http_code}",
        "--header", "X-Edge-User: admin", "--header", "X-Edge-Role: admin", "--header", "X-Edge-Page: mlflow",
        "--connect-to", f"flower.{DOMAIN}:443:edge:8443", f"https://flower.{DOMAIN}/",
    )  # fmt: skip
    assert asked.stdout == "401", asked


@pytest.mark.parametrize("named", ["X-Edge-Page", "X-Edge-Upgrade, x-edge-user", "X-Forwarded-Method, X-Forwarded-Uri"])
def test_a_connection_takes_nothing_from_what_the_gate_is_told(door: Door, named: str) -> None:
    """Caddy leaves out what a client's Connection names."""
    for path, status in ((NOWHERE, 401), ("/.edge/login", 200)):
        assert door.ask("mlflow", path, Connection=named).status == status
    assert door.ask("mlflow", NOWHERE, user="vera", Connection=named).status == 404
    refused = door.ask("mlflow", NOWHERE, "POST", user="vera", Connection=named)
    assert refused.status == 403 and "change nothing" in refused.error


def test_a_name_that_is_no_pages(door: Door, stack: Stack) -> None:
    """Such as the bare address, or one with a dot at its end."""
    for name in (stack.address, f"mlflow.{DOMAIN}.", f"elsewhere.{DOMAIN}"):
        answer = door.ask("", NOWHERE, exactly={"Host": name})
        assert answer.status == 404 and f"https://{DOMAIN}/" in answer.body.decode(), name


def test_the_gate_answers_the_proxy_alone(stack: Stack) -> None:
    """It has no port: a container that could ask it would be told the names of secret headers."""
    pid = command("docker", "inspect", "--format", "{{.State.Pid}}", f"{stack.name}-edge-gate").strip()
    tables = command("cat", f"/proc/{pid}/net/tcp", f"/proc/{pid}/net/tcp6")
    listening = [line for line in tables.splitlines() if re.search(r" 0A ", line)]
    # Docker's own resolver listens in each container.
    assert all("0B00007F:" in line for line in listening), listening


@pytest.mark.parametrize(
    "leads", ["//evil.example", "https://evil.example/", "/\\evil.example", "///evil.example", "javascript:alert(1)"]
)
def test_a_login_leads_to_no_other_site(door: Door, leads: str) -> None:
    """Whatever a link to the form says."""
    assert door.log_in("rob", door.password("rob"), next=leads).headers["Location"] == "/"
    shown = door.ask("app", f"/.edge/login?next={leads}").body.decode()
    assert 'name="next" value="/"' in shown


def test_another_stacks_cookie_is_none_of_ours(door: Door) -> None:
    """By its name, and by its content."""
    value = door.cookie("admin").partition("=")[2]
    for cookie in (f"edge-other={value}", f"edge-molecul={value}", "edge-molecule=" + "A" * 43, "edge-molecule="):
        assert door.ask("mlflow", NOWHERE, Cookie=cookie).status == 401


@pytest.mark.parametrize("page", PAGES)
def test_another_page_writes_nothing(door: Door, page: str) -> None:
    """In the name of who is logged in: from another site, from another page of this stack, from a sandbox."""
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": f"https://other.{DOMAIN}"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        answer = door.ask(page, NOWHERE, "POST", user="admin", **headers)
        assert (answer.status, answer.error) == (403, "The request comes from another page."), headers
        for path in ("/.edge/login", "/.edge/logout"):
            assert door.ask(page, path, "POST", user="admin", **headers).status == 403
    assert not door.ask(page, NOWHERE, "POST", user="admin", Origin=f"https://{page}.{DOMAIN}").error


CREATE = "mlflow/experiments/create"


@pytest.mark.parametrize(
    "path",
    [
        f"/api/2.0/{CREATE}",
        f"/ajax-api/2.0/{CREATE}",
        f"//api/2.0/{CREATE}",
        f"/api//2.0/{CREATE}",
        f"/api/2.0/mlflow/runs/search/../../../../2.0/{CREATE}",
        "/api/2.0/mlflow/runs/search/..%2f..%2fexperiments/create",
        "/api/2.0/mlflow/runs/search/%2e%2e/%2e%2e/experiments/create",
        "/api/2.0/mlflow/runs/%2e%2e/experiments/create",
        "/api/2.0/mlflow/runs/search/..;/..;/experiments/create",
        "/api/2.0/mlflow/experiments/create;/runs/search",
        "/api/2.0/mlflow%2fexperiments%2fcreate",
        "/api/2.0/mlflow/experiments/%63reate",
        "/API/2.0/mlflow/experiments/create",
        "/api/2.0/mlflow/experiments/create/",
        "/api/2.0/mlflow/experiments/create?/api/2.0/mlflow/runs/search",
        "/api/2.0/mlflow/experiments/create%3F/api/2.0/mlflow/runs/search",
        "/api/2.0/mlflow/runs/search%00/../create",
        "/api/2.0/mlflow/runs/search\\..\\..\\experiments\\create",
        "/api/2.0/mlflow/runs/%252e%252e/experiments/create",
        "/api/2.0/mlflow/runs/search/.%2e/.%2e/experiments/create",
        f"http://mlflow.{DOMAIN}/api/2.0/{CREATE}",
    ],
)
def test_no_spelling_of_a_path_lets_a_viewer_write(door: Door, path: str) -> None:
    """Into MLflow, whose searches are POST requests too."""
    name = f"forbidden {path}"
    body = json.dumps({"name": name})
    for extra in ({}, {"X_HTTP_Method_Override": "GET"}, {"Content_Type": "application/json"}):
        answer = door.ask("mlflow", path, "POST", body, user="vera", **extra)
        assert answer.status in (400, 403, 404), answer
    search = json.dumps({"max_results": 1000})
    found = door.ask(
        "mlflow", "/api/2.0/mlflow/experiments/search", "POST", search, user="vera", Content_Type="application/json"
    )
    assert found.status == 200
    assert not [each for each in json.loads(found.body)["experiments"] if each["name"].startswith("forbidden")]


def test_large_and_slow_requests(door: Door) -> None:
    """A head that is too large or takes too long, and a body that nobody waits for."""
    assert door.ask("mlflow", NOWHERE, X_Large="x" * 200_000).status == 431
    large = door.ask(
        "app", "/.edge/login", "POST", "password=" + "x" * 100_000, Content_Type="application/x-www-form-urlencoded"
    )
    assert large.status == 400
    with door.connect(f"mlflow.{DOMAIN}") as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: mlflow." + DOMAIN.encode() + b"\r\n")
        began = time.monotonic()
        while slow.recv(4096):
            pass
        assert 5 < time.monotonic() - began < 30
    # Of a body without a login, not a byte is waited for.
    with door.connect(f"mlflow.{DOMAIN}") as upload:
        upload.sendall(
            f"PUT /api/2.0/mlflow-artifacts/artifacts/x HTTP/1.1\r\nHost: mlflow.{DOMAIN}\r\n"
            "Content-Length: 9000000000\r\n\r\n".encode()
        )
        assert b" 401 " in upload.recv(4096)


# ---- TLS


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_current_tls(door: Door, version: ssl.TLSVersion) -> None:
    """With a certificate for the name, verified by the stack's own authority, and a cipher with forward secrecy."""
    context = door.context()
    context.minimum_version = context.maximum_version = version
    with door.connect(f"mlflow.{DOMAIN}", context) as connection:
        name, _protocol, bits = connection.cipher()
        assert bits >= 128 and ("GCM" in name or "CHACHA20" in name) and name.startswith(("TLS_", "ECDHE-"))
    with pytest.raises(ssl.SSLError):
        door.connect("elsewhere.example", context)


def refuses(door: Door, context: ssl.SSLContext) -> bool:
    """Whether the edge ends the handshake, which the client would go on with."""
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        door.connect(f"mlflow.{DOMAIN}", context).close()
    except (ssl.SSLError, ConnectionResetError):
        return True
    return False


def test_old_tls_is_refused(door: Door) -> None:
    """And ciphers without forward secrecy or authentication, of a client that has them."""
    assert not refuses(door, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    assert refuses(door, old)
    for ciphers in ("AES128-SHA", "AES256-GCM-SHA384", "NULL-SHA256:@SECLEVEL=0"):
        weak = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        weak.maximum_version = ssl.TLSVersion.TLSv1_2
        weak.set_ciphers(ciphers)
        assert refuses(door, weak), ciphers


def test_plain_http_leads_to_https(stack: Stack) -> None:
    """And to nothing else."""
    answer = requests.get(
        f"http://{stack.address}/a?b=c", headers={"Host": f"mlflow.{DOMAIN}"}, allow_redirects=False, timeout=30
    )
    assert (answer.status_code, answer.headers["Location"]) == (308, f"https://mlflow.{DOMAIN}/a?b=c")


def test_the_age_of_the_certificate_is_told(door: Door) -> None:
    """In the form that the status reads."""
    used, whole, *words = door.gate("certificate").split()
    assert 0 <= int(used) < int(whole) and words == ["hours", "of", "the", "life", "of", "the", "certificate"]


# ---- programs


def test_tokens_of_programs(door: Door) -> None:
    """MLflow's clients send both forms; a revoked one is none."""
    token = door.gate("token", "add", "rob", "laptop", "1").strip()
    try:
        basic = base64.b64encode(f"rob:{token}".encode()).decode()
        for authorization in (f"Bearer {token}", f"Basic {basic}"):
            search = door.ask(
                "mlflow", "/api/2.0/mlflow/experiments/search", "POST", '{"max_results": 1}',
                Authorization=authorization, Content_Type="application/json",
            )  # fmt: skip
            assert search.status == 200, search
            assert "The role" in door.ask("flower", NOWHERE, Authorization=authorization).error
        wrong = base64.b64encode(f"admin:{token}".encode()).decode()
        assert door.ask("mlflow", NOWHERE, Authorization=f"Basic {wrong}").status == 401
        assert "already" in door.gate("token", "add", "rob", "laptop", "1", status=1)
        [listed] = [each for each in json.loads(door.gate("token", "list")) if each["name"] == "laptop"]
        assert listed["user"] == "rob" and "sha256" not in listed
    finally:
        door.gate("token", "revoke", "rob", "laptop")
    assert door.ask("mlflow", NOWHERE, Authorization=f"Bearer {token}").status == 401


def test_the_log_says_who_and_no_secret(door: Door, stack: Stack) -> None:
    """User and token of each request; neither cookie, token nor password."""
    token = door.gate("token", "add", "tom", "robot", "1").strip()
    door.ask("mlflow", "/edge-logged", Authorization=f"Bearer {token}")
    door.ask("mlflow", "/edge-logged-too", user="rob")
    door.gate("token", "revoke", "tom", "robot")

    def logged() -> dict[str, Any] | None:
        lines = [json.loads(line) for line in stack.log("edge").splitlines() if "/edge-logged" in line]
        found = {line["request"]["uri"]: line for line in lines if "request" in line}
        return found if len(found) == 2 else None

    found = eventually(logged, seconds=10)
    assert found["/edge-logged"]["user_id"] == "tom (token robot)"
    assert found["/edge-logged-too"]["user_id"] == "rob"
    assert found["/edge-logged"]["status"] and found["/edge-logged"]["request"]["remote_ip"]
    everything = stack.log("edge") + stack.log("edge-gate")
    for secret in (token, door.cookie("rob").partition("=")[2], door.password("rob"), door.password("tom")):
        assert secret not in everything


# ---- what listens, and what it takes


def test_only_the_edge_publishes_ports(stack: Stack) -> None:
    """Of all containers."""
    published = {
        name: sorted(port for port, where in item["NetworkSettings"]["Ports"].items() if where)
        for name, item in stack.containers().items()
    }
    assert {name: ports for name, ports in published.items() if ports} == {"edge": ["8080/tcp", "8443/tcp"]}
    for port in (5055, 5500, 5555, 8000, 8080, 9000, 9001):
        with pytest.raises(OSError):
            socket.create_connection((stack.address, port), timeout=5)


def resident(stack: Stack, container: str) -> float:
    """Memory of a container's programs, in MB."""
    pids = command("docker", "top", f"{stack.name}-{container}", "-o", "pid").split()[1:]
    lines = command("cat", *(f"/proc/{pid}/status" for pid in pids))
    return sum(int(line.split()[1]) for line in lines.splitlines() if line.startswith("VmRSS:")) / 1024


def test_a_large_artifact_passes_through(door: Door, stack: Stack) -> None:
    """There and back, whole, without being kept in memory."""
    size, path = 200_000_000, "/api/2.0/mlflow-artifacts/artifacts/edge/large"
    token = door.gate("token", "add", "rob", "upload", "1").strip()
    header = {"Authorization": f"Bearer {token}"}
    try:
        sent = door.ask("mlflow", path, "PUT", b"x" * size, **header)
        assert sent.status == 200, sent
        back = door.ask("mlflow", path, **header)
        assert back.status == 200 and len(back.body) == size
        assert resident(stack, "edge") + resident(stack, "edge-gate") < 80
        assert door.ask("mlflow", path, "DELETE", **header).status in (200, 204)
    finally:
        door.gate("token", "revoke", "rob", "upload")
