"""A block of ports for one attempt, its own on this machine while it runs.

Agents start servers and so do tests; two attempts that both want 8000 fail each other. The block is held
by a socket that is bound to the port below it: the kernel gives that to one process, whoever's it is, and
takes it back when the process dies. There is no file to be left behind.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
from collections.abc import Iterable
from contextlib import ExitStack

from agentflow.errors import InfraError

#: Ports of one attempt.
BLOCK_SIZE = 10
#: The port that is held, then the block.
_STRIDE = BLOCK_SIZE + 1
#: Above what services are given by habit, below what the kernel hands out to clients (32768 on Linux).
_FIRST, _END = 20_000, 32_768
_GUARDS = range(_FIRST, _END - _STRIDE + 1, _STRIDE)
#: Where the next search in this process begins; other processes begin elsewhere.
_turn = itertools.count(os.getpid() * 7)


class PortBlock:
    """`BLOCK_SIZE` ports that nobody else was given; free them with `close`."""

    def __init__(self, guard: socket.socket) -> None:
        self._guard = guard
        first = guard.getsockname()[1] + 1
        self.ports = range(first, first + BLOCK_SIZE)

    @classmethod
    def take(cls) -> PortBlock:
        """The next block that is free. Raises `InfraError` when all are in use."""
        start = next(_turn) % len(_GUARDS)
        for port in (*_GUARDS[start:], *_GUARDS[:start]):
            guard = _bound([port])
            if guard is None:
                continue
            # Somebody's server may be there who knows nothing of blocks.
            if _are_free(range(port + 1, port + _STRIDE)):
                return cls(guard[0])
            guard[0].close()
        raise InfraError(
            f"no {BLOCK_SIZE} ports in a row are free between {_FIRST} and {_END}",
            why=f"each attempt on a machine gets a block; there are {len(_GUARDS)}",
            fix="see with `ss -lnt` what listens there, or give this machine fewer slots",
            code="AF-INFRA-015",
        )

    def close(self) -> None:
        """Let others have the block."""
        self._guard.close()


def _are_free(ports: Iterable[int]) -> bool:
    found = _bound(ports)
    for one in found or ():
        one.close()
    return found is not None


def _bound(ports: Iterable[int]) -> list[socket.socket] | None:
    """Sockets bound to all of these ports, or None. Not inherited by children, nothing listens."""
    with ExitStack() as stack:
        found = []
        for port in ports:
            one = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            try:
                one.bind(("", port))  # whatever address somebody has it at
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return None
                raise
            found.append(one)
        stack.pop_all()
    return found
