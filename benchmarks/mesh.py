"""Measures what the mesh costs: the same bytes from one host to another, through its network and through the mesh.

Usage: ``mesh.py --from 'ssh w1' --to 'ssh data' 192.0.2.11 172.28.64.1``. Addresses are those of the host that
receives. ``--from`` and ``--to`` are commands that run what follows on a host: ``ssh HOST``, or for test hosts
``docker exec --interactive NAME``. Each address is taken in turn, ``--rounds`` times.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess

PORT = 15201
RECEIVE = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
    print("ready", flush=True)
    connection, _peer = server.accept()
    with connection:
        taken = 0
        while chunk := connection.recv(1 << 20):
            taken += len(chunk)
        connection.sendall(b"%d\\n" % taken)
"""
SEND = """
import socket, sys, time
chunk = b"x" * (1 << 20)
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60) as connection:
    begun = time.monotonic()
    for _number in range(int(sys.argv[3])):
        connection.sendall(chunk)
    connection.shutdown(socket.SHUT_WR)
    assert int(connection.makefile().readline()) == int(sys.argv[3]) << 20
    print(time.monotonic() - begun)
"""


def transfer(sender: list[str], receiver: list[str], address: str, mib: int) -> float:
    """Send bytes once.

    Args:
        sender: Command that runs a program on the host that sends.
        receiver: On the one that receives.
        address: Where the second listens.
        mib: How much to send.

    Returns:
        Mbit/s.
    """
    words = [*receiver, shlex.join(["python3", "-c", RECEIVE, address, str(PORT)])]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        words = [*sender, shlex.join(["python3", "-c", SEND, address, str(PORT), str(mib)])]
        seconds = float(subprocess.run(words, check=True, capture_output=True, text=True, timeout=600).stdout)
    return mib * 8 * 1.048576 / seconds


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--from", dest="sender", required=True, metavar="COMMAND")
    parser.add_argument("--to", dest="receiver", required=True, metavar="COMMAND")
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("addresses", nargs="+", metavar="ADDRESS")
    asked = parser.parse_args()
    # A shell on the other side reads one word: that of ssh, or one that is named.
    sender, receiver = (
        [*words, "sh", "-c"] if words[0] != "ssh" else words
        for words in (shlex.split(asked.sender), shlex.split(asked.receiver))
    )
    found: dict[str, list[float]] = {address: [] for address in asked.addresses}
    for _round in range(asked.rounds):
        for address, rates in found.items():
            rates.append(transfer(sender, receiver, address, asked.mib))
            print(f"{address}: {rates[-1]:.0f} Mbit/s, load {os.getloadavg()[0]:.1f}", flush=True)
    for address, rates in found.items():
        print(f"{address}: median {statistics.median(rates):.0f} Mbit/s")


if __name__ == "__main__":
    main()
