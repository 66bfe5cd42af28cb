"""A model provider that keeps its limits and its books: what came when and from whom, what it answered.

OpenAI's chat completions over real HTTP. An agent gets two answers: the file that its task asks for, and
`finish`. What comes beyond `Allowed` in any window, or more at once, is refused with 429 and `Retry-After`.
"""

from __future__ import annotations

import json
import re
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHARS_PER_TOKEN = 4
ANSWER_TOKENS = 100
TASK = re.compile(r"# Your task \(([^,)]+)")
#: Seconds between two looks at whether a client still waits for its answer.
LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Allowed:
    """In any `window_s` seconds so many calls and tokens, and so many calls at once."""

    calls: int
    tokens: int
    at_once: int
    window_s: float


@dataclass(slots=True)
class Call:
    """One request. `who` is the key that it came with; times are of the monotonic clock."""

    who: str
    node: str
    came: float
    tokens_in: int
    tokens_out: int = 0
    #: When it was over: answered, refused, or when the client was last seen waiting.
    ended: float = 0.0
    status: int = 0

    @property
    def answered(self) -> bool:
        """Whether the whole answer was sent, so that it has to be paid for."""
        return self.status == 200


@dataclass
class Books:
    """What the provider has seen. `odd`: whether a call (by its number, from 1) is refused for no reason."""

    allowed: Allowed
    content: Callable[[str], str]
    answer_s: float = 0.2
    odd: Callable[[int], bool] = lambda _number: False
    #: Set: answers go out; while it is clear they are held back.
    going: threading.Event = field(default_factory=threading.Event)
    calls: list[Call] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.going.set()

    def enter(self, call: Call) -> float:
        """Note a call; 0 when it is let in, else the seconds of its `Retry-After`."""
        with self.lock:
            now, limits = call.came, self.allowed
            let_in = [c for c in self.calls if c.status in (0, 200)]
            recent = [c for c in let_in if c.came > now - limits.window_s]
            busy = sum(1 for c in let_in if not c.ended)
            self.calls.append(call)
            full = (
                len(recent) >= limits.calls
                or sum(c.tokens_in + ANSWER_TOKENS for c in recent) + call.tokens_in + ANSWER_TOKENS
                > limits.tokens
                or busy >= limits.at_once
                or self.odd(len(self.calls))
            )
            if full:
                call.status, call.ended = 429, now
            return 1.0 if full else 0.0

    def tokens(self) -> tuple[int, int]:
        """What was answered and has to be paid for: tokens in, tokens out."""
        with self.lock:
            paid = [call for call in self.calls if call.answered]
            return sum(c.tokens_in for c in paid), sum(c.tokens_out for c in paid)

    def refused(self) -> int:
        """How many calls got a 429."""
        with self.lock:
            return sum(1 for call in self.calls if call.status == 429)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the standard class' name)
        """Say nothing."""

    def do_POST(self) -> None:
        """One chat completion, streamed."""
        came = time.monotonic()
        body = self.rfile.read(int(self.headers["content-length"]))
        messages = json.loads(body)["messages"]
        found = TASK.search(json.dumps(messages))
        node = found[1] if found else ""
        who = self.headers.get("authorization", "").removeprefix("Bearer ")
        call = Call(who, node, came, len(body) // CHARS_PER_TOKEN)
        books = self.server.books
        if wait := books.enter(call):
            text = json.dumps({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}).encode()
            self._send(429, "application/json", text, {"retry-after": str(int(wait))})
        elif self._is_awaited(call):
            call.tokens_out = ANSWER_TOKENS
            # It is over for the provider before the client can know that.
            call.status, call.ended = 200, time.monotonic()
            is_first = not any(message["role"] == "tool" for message in messages)
            self._send(200, "text/event-stream", _stream(_calls(node, books, is_first=is_first), call))

    def _is_awaited(self, call: Call) -> bool:
        """Think; False when the client has hung up meanwhile, so that nothing is answered."""
        until, books = time.monotonic() + self.server.books.answer_s, self.server.books
        while time.monotonic() < until or not books.going.is_set():
            seen = time.monotonic()
            gone, _, _ = select.select([self.connection], [], [], LOOK_S)
            if gone:
                call.status, call.ended = 499, seen
                self.close_connection = True
                return False
        return True

    def _send(self, status: int, kind: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        with suppress(ConnectionError):
            self.send_response(status)
            for name, value in {
                "content-type": kind,
                "content-length": str(len(body)),
                **(headers or {}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)


def _calls(node: str, books: Books, *, is_first: bool) -> tuple[str, dict[str, Any]]:
    if is_first:
        return "write", {"path": f"p/{node}.txt", "content": books.content(node)}
    return "finish", {"summary": f"wrote {node}"}


def _stream(tool: tuple[str, dict[str, Any]], call: Call) -> bytes:
    name, arguments = tool
    function = {"name": name, "arguments": json.dumps(arguments)}
    delta = {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": function}]}
    chunk = {"id": "x", "object": "chat.completion.chunk", "model": "metered"}
    usage = {
        "prompt_tokens": call.tokens_in, "completion_tokens": call.tokens_out,
        "total_tokens": call.tokens_in + call.tokens_out,
    }  # fmt: skip
    parts = [
        {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
        {**chunk, "choices": [], "usage": usage},
    ]
    return b"".join(b"data: " + json.dumps(part).encode() + b"\n\n" for part in parts) + b"data: [DONE]\n\n"


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, books: Books) -> None:
        self.books = books
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is not worth a traceback."""


@contextmanager
def provider(books: Books) -> Iterator[str]:
    """Serve; yields the base URL."""
    http = _Http(books)
    thread = threading.Thread(target=http.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}/v1"
    finally:
        books.going.set()
        http.shutdown()
        http.server_close()
        thread.join()
