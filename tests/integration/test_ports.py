"""Blocks of ports: nobody shares one, on the whole machine."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading

import pytest
from helpers.wait import wait_until
from helpers.workers import ROOT

from agentflow.errors import InfraError
from agentflow.tasks import ports
from agentflow.tasks.ports import BLOCK_SIZE, PortBlock

#: Blocks below those of real attempts, which other tests may be making at the same time.
GUARDS = range(18_000, 19_990, 11)
HOLD = """
import sys
from agentflow.tasks import ports
from agentflow.tasks.ports import PortBlock
ports._GUARDS = range(18_000, 19_990, 11)
blocks = [PortBlock.take() for _ in range(20)]
print(*(port for block in blocks for port in block.ports), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def blocks(monkeypatch):
    monkeypatch.setattr(ports, "_GUARDS", GUARDS)
    taken: list[PortBlock] = []
    yield taken
    for block in taken:
        block.close()


def test_threads_and_processes_never_share_a_port(blocks):
    """Three processes and eight threads hold 140 blocks at once."""
    others = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]

    def take() -> None:
        for _ in range(10):
            blocks.append(PortBlock.take())

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = [int(word) for other in others for word in other.stdout.readline().split()]
    for other in others:
        other.communicate()
    ours = [port for block in blocks for port in block.ports]
    assert len(told) == 3 * 20 * BLOCK_SIZE
    assert len({*ours, *told}) == len(ours) + len(told)


def test_the_ports_of_a_block_can_be_used_and_come_back(blocks):
    block = PortBlock.take()
    with socket.create_server(("127.0.0.1", block.ports[0])), socket.create_server(("", block.ports[-1])):
        pass
    block.close()
    again = _take_all(blocks)
    assert block.ports in [one.ports for one in again]


def _take_all(blocks: list[PortBlock]) -> list[PortBlock]:
    """Take until there is none left."""

    def exhaust() -> None:
        while True:
            blocks.append(PortBlock.take())

    with pytest.raises(InfraError, match="no 10 ports in a row are free"):
        exhaust()
    return blocks


def test_a_block_in_which_somebody_listens_is_left_out(blocks, monkeypatch):
    first = PortBlock.take()
    first.close()
    guard = first.ports[0] - 1
    monkeypatch.setattr(ports, "_GUARDS", range(guard, guard + 1))
    with socket.create_server(("127.0.0.1", first.ports[4])):
        assert _take_all([]) == []
    blocks.append(PortBlock.take())
    assert blocks[0].ports == first.ports


def test_a_killed_process_holds_nothing(blocks, monkeypatch):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    first = int(other.stdout.readline().split()[0])
    monkeypatch.setattr(ports, "_GUARDS", range(first - 1, first))
    assert _take_all([]) == []
    other.kill()
    other.communicate()
    wait_until(lambda: _take_all(blocks))
    assert blocks[0].ports[0] == first
