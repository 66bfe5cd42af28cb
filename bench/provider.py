"""A provider that keeps its limits: what comes beyond them in any window is refused with 429."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: Seconds that an answer takes, and its tokens.
ANSWER_S = 0.25
ANSWER_TOKENS = 300
CHARS_PER_TOKEN = 4


@dataclass
class Allowance:
    """What is allowed in any `window_s`, counted as it arrives; `seen`: (when, tokens, whether admitted)."""

    requests: int
    tokens: int
    at_once: int
    window_s: float
    seen: list[tuple[float, int, bool]] = field(default_factory=list)
    _recent: deque[tuple[float, int]] = field(default_factory=deque)
    _under_way: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def admit(self, tokens: int) -> float:
        """0 when it may pass, else the seconds after which it could."""
        with self._lock:
            now = time.monotonic()
            while self._recent and self._recent[0][0] <= now - self.window_s:
                self._recent.popleft()
            used = sum(size for _, size in self._recent)
            is_full = (
                (self.requests and len(self._recent) >= self.requests)
                or (self.tokens and used + tokens > self.tokens)
                or (self.at_once and self._under_way >= self.at_once)
            )
            self.seen.append((now, tokens, not is_full))
            if is_full:
                oldest = self._recent[0][0] if self._recent else now
                return max(0.1, oldest + self.window_s - now)
            self._recent.append((now, tokens))
            self._under_way += 1
            return 0.0

    def ended(self) -> None:
        """An answer has been sent."""
        with self._lock:
            self._under_way -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard class' name
        """Say nothing."""

    def do_POST(self) -> None:
        """One chat completion, streamed."""
        body = self.rfile.read(int(self.headers["content-length"]))
        sent = len(body) // CHARS_PER_TOKEN
        allowance = self.server.allowance
        wait = allowance.admit(sent + ANSWER_TOKENS)
        if wait:
            text = json.dumps(
                {"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}
            ).encode()
            self._send(429, "application/json", text, {"retry-after-ms": str(int(wait * 1000))})
            return
        try:
            time.sleep(ANSWER_S)
            usage = {
                "prompt_tokens": sent, "completion_tokens": ANSWER_TOKENS,
                "total_tokens": sent + ANSWER_TOKENS,
            }  # fmt: skip
            choice = {"index": 0, "delta": {"content": "word " * ANSWER_TOKENS}, "finish_reason": "stop"}
            chunk = {"id": "x", "object": "chat.completion.chunk", "model": "metered", "choices": [choice]}
            last = {**chunk, "choices": [], "usage": usage}
            lines = b"".join(b"data: " + json.dumps(part).encode() + b"\n\n" for part in (chunk, last))
            self._send(200, "text/event-stream", lines + b"data: [DONE]\n\n", {})
        finally:
            allowance.ended()

    def _send(self, status: int, kind: str, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        # At the end of the bench its workers are killed in the middle of their calls.
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        super().__init__(("127.0.0.1", 0), _Handler)


@contextmanager
def provider(allowance: Allowance) -> Iterator[str]:
    """Serve it; yields the base URL."""
    http = _Http(allowance)
    thread = threading.Thread(target=http.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}/v1"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
