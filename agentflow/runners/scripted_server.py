"""A model server without a model: OpenAI-compatible HTTP whose replies come from a file.

For the demo and for tests, where calls come from several processes. It says in its model list, in a
header and in every answer that it is scripted. Start it with
`python -m agentflow.runners.scripted_server --replies FILE`; the base URL is the only line on stdout.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from agentflow.errors import AgentflowError, Exit, InfraError
from agentflow.runners import scripted_wire as wire
from agentflow.runners.scripted import Fault, NoReplyError, Rule, Script, Turn, choose, load_script

MAX_BODY_BYTES = 32_000_000
#: How soon `stop` is noticed.
_POLL_S = 0.1
_DONE = b"data: [DONE]\n\n"
_LIMITS = {
    "x-ratelimit-limit-requests": "100000",
    "x-ratelimit-remaining-requests": "99999",
    "x-ratelimit-limit-tokens": "100000000",
    "x-ratelimit-remaining-tokens": "99999999",
}


class ScriptedServer:
    """The server in threads of this process; `url` is the base URL for clients. A context manager.

    With `record` every request that came is kept in `requests`. `hung_up` counts the clients that left
    while a reply was held back.
    """

    def __init__(
        self, script: Script, *, host: str = "127.0.0.1", port: int = 0, record: bool = False
    ) -> None:
        self.script = script
        self.record = record
        self.requests: list[dict[str, Any]] = []
        self.hung_up = 0
        self._met: dict[int, int] = {}
        self._lock = threading.Lock()
        try:
            self._http = _Http((host, port), self)
        except OSError as error:
            raise InfraError(f"cannot listen on {host}:{port}", why=str(error), fix="use --port 0") from error
        self._thread = threading.Thread(target=self._http.serve_forever, args=(_POLL_S,), daemon=True)

    @property
    def url(self) -> str:
        """The base URL, `/v1` included."""
        host, port = self._http.server_address[:2]
        return f"http://{host!s}:{port}/v1"

    def start(self) -> Self:
        """Answer from now on."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close the door and every open connection."""
        self._http.shutdown()
        self._http.server_close()
        self._http.drop_connections()
        self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def answer(self, request: dict[str, Any]) -> tuple[Rule, Turn]:
        """The reply to a request, without its fault when that has been met often enough."""
        if self.record:
            with self._lock:
                self.requests.append(request)
        rule, turn = choose(self.script, request.get("messages") or [])
        if turn.fault is not None and turn.fault.times is not None:
            with self._lock:
                met = self._met[id(turn.fault)] = self._met.get(id(turn.fault), 0) + 1
            if met > turn.fault.times:
                turn = turn.model_copy(update={"fault": None})
        return rule, turn


class _Http(ThreadingHTTPServer):
    """The listening socket, one thread a connection."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], owner: ScriptedServer) -> None:
        self.owner = owner
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without the reverse look-up of the standard class: it can take seconds."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "scripted", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection, so that `stop` ends it."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that has ended."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is not worth a traceback; anything else is."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def drop_connections(self) -> None:
        """Wake every handler that reads from a client."""
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: _Http
    protocol_version = "HTTP/1.1"
    server_version = "agentflow-scripted"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard class' name
        """Say nothing: stderr belongs to whoever started the server."""

    def do_GET(self) -> None:
        """The list of models, which says what this is."""
        if not self.path.rstrip("/").endswith("/models"):
            self._error(404, f"there is no {self.path} here")
            return
        model = {"id": wire.MODEL, "object": "model", "owned_by": "agentflow: scripted replies, no model"}
        self._json(200, {"object": "list", "data": [model]})

    def do_POST(self) -> None:
        """A chat completion."""
        body = self.rfile.read(min(int(self.headers.get("content-length") or 0), MAX_BODY_BYTES))
        if not self.path.rstrip("/").endswith("/chat/completions"):
            self._error(404, f"there is no {self.path} here")
            return
        try:
            request = json.loads(body)
            rule, turn = self.server.owner.answer(request)
        except NoReplyError as error:
            self._error(422, f"scripted server: {error}", code="no_scripted_reply")
        except (ValueError, AttributeError, TypeError) as error:
            self._error(400, f"scripted server: not a chat request: {error}")
        else:
            time.sleep(turn.delay)
            try:
                self._reply(rule, turn, request)
            except ConnectionError:
                # Who leaves in the middle of an answer breaks a write; who leaves in a silence ends a read.
                self.close_connection = True
                self.server.owner.hung_up += 1

    def _reply(self, rule: Rule, turn: Turn, request: Mapping[str, Any]) -> None:
        fault = turn.fault
        if fault is not None and fault.kind == "status":
            self._status_fault(fault)
        elif fault is not None and fault.kind == "no_choices":
            self._json(200, {"id": "x"})
        elif request.get("stream"):
            self._stream(wire.chunks(turn, request), fault, rule)
        else:
            self._json(200, wire.completion(turn, request), rule.name)

    def _status_fault(self, fault: Fault) -> None:
        headers = {} if fault.retry_after is None else {"retry-after": str(fault.retry_after)}
        self._error(fault.status, fault.message, code=fault.code, headers=headers)

    def _stream(self, chunks: Iterator[dict[str, Any]], fault: Fault | None, rule: Rule) -> None:
        self._head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}, rule.name)
        events = [wire.event(chunk) for chunk in chunks]
        if fault is None:
            self._chunk(b"".join(events) + _DONE)
            self.wfile.write(b"0\r\n\r\n")
            return
        # Every fault of a stream strikes in its middle: before the finish_reason, after the first words.
        self._chunk(b"".join(events[: max(1, len(events) // 2)]))
        _STREAM_FAULTS[fault.kind](self, fault)

    def cut(self, _fault: Fault) -> None:
        """The body ends in good order, the answer does not."""
        self.wfile.write(b"0\r\n\r\n")

    def drop(self, _fault: Fault) -> None:
        """The connection breaks."""
        self.close_connection = True

    def garbage(self, _fault: Fault) -> None:
        """An event that is not JSON."""
        self._chunk(b"data: {<html>bad gateway\n\n" + _DONE)
        self.wfile.write(b"0\r\n\r\n")

    def error(self, fault: Fault) -> None:
        """An event that holds an error."""
        self._chunk(wire.event({"error": {"message": fault.message, "code": fault.code or None}}) + _DONE)
        self.wfile.write(b"0\r\n\r\n")

    def stall(self, fault: Fault) -> None:
        """Silence; ends when the client hangs up."""
        self.close_connection = True
        self.connection.settimeout(fault.seconds)
        with suppress(TimeoutError):
            if not self.connection.recv(1):
                raise ConnectionResetError

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _error(
        self, status: int, message: str, *, code: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        kind = "insufficient_quota" if code == "insufficient_quota" else "scripted_error"
        body = {"error": {"message": message, "type": kind, "param": None, "code": code or None}}
        self._json(status, body, headers=headers)

    def _json(
        self, status: int, body: object, rule: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        data = json.dumps(body).encode()
        length = {"content-type": "application/json", "content-length": str(len(data))}
        self._head(status, {**length, **(headers or {})}, rule)
        self.wfile.write(data)

    def _head(self, status: int, headers: Mapping[str, str], rule: str = "") -> None:
        self.send_response(status)
        named = {
            "x-agentflow-scripted": "true",
            "x-agentflow-reply": rule.encode("ascii", "replace").decode(),
        }
        for name, value in {**_LIMITS, **named, **headers}.items():
            self.send_header(name, value)
        self.end_headers()


_STREAM_FAULTS: dict[str, Callable[[_Handler, Fault], None]] = {
    "cut": _Handler.cut,
    "drop": _Handler.drop,
    "garbage": _Handler.garbage,
    "error": _Handler.error,
    "stall": _Handler.stall,
}


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM, SIGINT or, with `--exit-with-stdin`, until whoever started it has gone."""
    parser = argparse.ArgumentParser(prog="agentflow.runners.scripted_server", description=__doc__)
    parser.add_argument("--replies", type=Path, required=True, help="YAML file with the replies")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--exit-with-stdin", action="store_true", help="leave when stdin is closed")
    options = parser.parse_args(argv)
    try:
        server = ScriptedServer(load_script(options.replies), host=options.host, port=options.port)
    except AgentflowError as error:
        print(error.explain(), file=sys.stderr)  # noqa: T201 - a command's own message
        return error.exit_code
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    with server:
        print(server.url, flush=True)  # noqa: T201 - the data that the caller waits for
        print(f"scripted: replies from {options.replies}, no model is called", file=sys.stderr)  # noqa: T201
        if options.exit_with_stdin:
            threading.Thread(target=_when_stdin_ends, args=(over,), daemon=True).start()
        over.wait()
    return Exit.OK


def _when_stdin_ends(over: threading.Event) -> None:
    with suppress(OSError, ValueError):
        sys.stdin.buffer.read()
    over.set()


if __name__ == "__main__":
    sys.exit(main())
