"""One conversation with a model: streamed, metered, retried by our own rules, ended by stop or deadline.

The SDK's own retries are off: they cap Retry-After and know neither our deadline nor our cancel. What the
SDK lets pass in silence is an error here: a stream that ends without `finish_reason`, an answer
without choices, a chunk that is not JSON.
"""

from __future__ import annotations

import functools
import json
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self, cast
from urllib.parse import urlsplit

import httpx2
import openai

from agentflow.environment import Gate, OpenGate, Stop, Usage
from agentflow.errors import AttemptTimeout
from agentflow.llm.endpoint import Endpoint
from agentflow.llm.headers import used_up
from agentflow.llm.refusal import AgainError, cut_stream, explain, filtered, no_choices
from agentflow.llm.stream import Collector, Reply
from agentflow.llm.turnstile import Turnstile

MAX_BACKOFF_S = 30.0
CONNECT_TIMEOUT_S = 10.0
#: A stream that is silent for longer is given up and asked for again.
SILENCE_S = 300.0
#: Rough rule for text and code; used only when the endpoint reports no usage.
CHARS_PER_TOKEN = 4
#: The same where too little must not be reserved.
CHARS_PER_TOKEN_RESERVED = 3
#: Tokens of an answer where neither role nor runner bounds it.
ANSWER_TOKENS_RESERVED = 8192
#: A report is taken for true down to this part (1 / n) of our own estimate: texts differ, but not by so much.
BELIEVED = 4
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

Message = dict[str, Any]


class ChatModel:
    """The model, for one attempt; use it as a context manager.

    `complete` returns a whole reply or raises: `ProviderError` (its `retryable` says whether another attempt
    could help), `AttemptCancelled` when `stop` is set, `AttemptTimeout` at `deadline` (monotonic seconds).
    Both also end a call that waits for the network. `charge` gets the usage of every call, failed ones too;
    `reserve` is asked before each with what it may cost at most, and may raise (`BudgetReached`).
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        stop: Stop,
        deadline: float,
        charge: Callable[[Usage], None],
        reserve: Callable[[Usage], None] = lambda _usage: None,
        note: Callable[[str], None] = lambda _text: None,
        gate: Gate | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._stop = stop
        self._deadline = deadline
        self._charge = charge
        self._reserve = reserve
        self._note = note
        self._turnstile = Turnstile(gate or OpenGate(), endpoint, stop=stop, deadline=deadline, note=note)
        self._cut = _Cut(self._is_over)
        #: What the call under way may cost at most.
        self._reserved = Usage()
        self._timer = threading.Timer(max(0.0, deadline - time.monotonic()), self._cut)
        self._timer.daemon = True
        self._client = openai.OpenAI(
            base_url=endpoint.base_url,
            api_key=endpoint.api_key,
            max_retries=0,
            http_client=_http_client(endpoint.base_url, self._cut),
            default_headers={**endpoint.headers, "Accept-Encoding": "identity"},
        )

    def __enter__(self) -> Self:
        self._timer.start()
        self._stop.on_set(self._cut)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._timer.cancel()
        self._client.close()

    def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] = (),
        *,
        schema: Mapping[str, Any] | None = None,
    ) -> Reply:
        """Ask once, repeating what may be repeated; a broken answer is never used in part.

        With `schema` (JSON Schema, strict) the endpoint is asked for structured output. Not every one can:
        an endpoint may refuse such a request (`ProviderError.status` 4xx) or answer in other words.
        """
        failures = 0
        while True:
            self._check()
            try:
                return self._ask(messages, tools, schema)
            except AgainError as again:
                if again.is_limit and self._turnstile.told(again.retry_after, "asks for a pause"):
                    # For everybody: the next call waits at the gate, and nothing has failed.
                    continue
                failures += 1
                self._wait_for_retry(again, failures)

    def _is_over(self) -> bool:
        return self._stop.is_set() or time.monotonic() >= self._deadline

    def _check(self) -> None:
        self._stop.check()
        if time.monotonic() >= self._deadline:
            raise AttemptTimeout(
                "the attempt's deadline passed while the model was answering",
                fix="raise the task's `timeout:` or make the task smaller",
            )

    def _ask(
        self, messages: Sequence[Message], tools: Sequence[Message], schema: Mapping[str, Any] | None
    ) -> Reply:
        self._turnstile.enter(_tokens_of(messages, tools))
        self._afford(messages, tools)
        collector = Collector()
        headers: Mapping[str, str] = {}
        try:
            with self._open(messages, tools, schema) as stream:
                headers = stream.response.headers
                for chunk in stream:
                    self._check()
                    collector.feed(chunk)
        except Exception as error:
            self._turnstile.leave(self._pay(collector, messages, tools, cut=self._is_over()), answered=False)
            # A connection that we cut ourselves fails in many ways; the reason is stop or deadline.
            self._check()
            raise explain(error, self.endpoint) from error
        spent = self._pay(collector, messages, tools)
        self._turnstile.leave(spent, answered=bool(collector.choices and collector.finish))
        if (wait := used_up(headers)) is not None:
            self._turnstile.told(wait, "has nothing left for now")
        self._check()
        if not collector.choices:
            raise no_choices(collector.chunks)
        if not collector.finish:
            raise cut_stream(collector.chars)
        if collector.finish == "content_filter":
            raise filtered()
        return collector.reply()

    def _open(
        self, messages: Sequence[Message], tools: Sequence[Message], schema: Mapping[str, Any] | None
    ) -> openai.Stream[Any]:
        options: dict[str, Any] = {"tools": list(tools)} if tools else {}
        if schema is not None:
            wanted = {"name": "answer", "strict": True, "schema": dict(schema)}
            options["response_format"] = {"type": "json_schema", "json_schema": wanted}
        if self.endpoint.temperature is not None:
            options["temperature"] = self.endpoint.temperature
        if self.endpoint.max_output_tokens is not None:
            # The older name, because it is the one that compatible servers know.
            options["max_tokens"] = self.endpoint.max_output_tokens
        stream = self._client.chat.completions.create(
            model=self.endpoint.model,
            messages=cast("Any", list(messages)),
            stream=True,
            stream_options={"include_usage": True},
            **options,
        )
        return cast("openai.Stream[Any]", stream)

    def _afford(self, messages: Sequence[Message], tools: Sequence[Message]) -> None:
        """Reserve what the call may cost at most, as far as that can be known before."""
        sent = _tokens_of(messages, tools) * CHARS_PER_TOKEN // CHARS_PER_TOKEN_RESERVED + 1
        received = self.endpoint.max_output_tokens or ANSWER_TOKENS_RESERVED
        self._reserved = self.endpoint.bill(sent, received, estimated=True)
        try:
            self._reserve(self._reserved)
        except BaseException:
            self._turnstile.leave(0, answered=False)
            raise

    def _pay(
        self,
        collector: Collector,
        messages: Sequence[Message],
        tools: Sequence[Message],
        *,
        cut: bool = False,
    ) -> int:
        """Charge the call: what was reported, else an estimate; a refused call costs no tokens. Its tokens.

        A report far below what was seen to pass (0, less than nothing, a fraction) is no report. A call that
        we have `cut` off before its answer began may have been answered in full: it costs what was reserved.
        """
        sent, received = _tokens_of(messages, tools), collector.chars // CHARS_PER_TOKEN
        told = collector.reported
        if told and told[0] * BELIEVED >= _words_of(messages) and told[1] * BELIEVED >= received:
            usage = self.endpoint.bill(*told, estimated=False)
        elif collector.chunks:
            told = told or (0, 0)
            usage = self.endpoint.bill(max(told[0], sent), max(told[1], received), estimated=True)
        elif cut:
            usage = self._reserved
        else:
            usage = Usage(calls=1, models={self.endpoint.model: {"calls": 1}})
        self._charge(usage)
        return usage.input_tokens + usage.output_tokens

    def _wait_for_retry(self, again: AgainError, failures: int) -> None:
        """Sleep until the request may be sent again, or raise when it may not."""
        if failures > self.endpoint.max_retries:
            raise again.error
        wait = again.retry_after
        if wait is None:
            backoff = min(MAX_BACKOFF_S, self.endpoint.backoff_s * 2 ** (failures - 1))
            wait = random.uniform(backoff / 2, backoff)  # noqa: S311 - jitter, not a secret
        left = self._deadline - time.monotonic()
        if wait >= left:
            again.error.why += f" (it asks to wait {wait:.0f} s; the attempt's deadline is in {left:.0f} s)"
            raise again.error
        self._note(
            f"{again.error.what}; asking again in {wait:.1f} s ({failures} of {self.endpoint.max_retries})"
        )
        self._stop.wait(wait)


def _tokens_of(messages: Sequence[Message], tools: Sequence[Message]) -> int:
    """About how many tokens a request has."""
    return len(json.dumps([*messages, *tools])) // CHARS_PER_TOKEN


def _words_of(messages: Sequence[Message]) -> int:
    """About how many tokens the texts alone have: whatever an endpoint counts, it counts these."""
    return sum(len(m["content"]) for m in messages if isinstance(m.get("content"), str)) // CHARS_PER_TOKEN


class _Cut:
    """Ends a read that blocks in another thread: closing a socket does not wake its reader, shutdown does."""

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self._wanted = wanted
        self._stream: Any = None

    def watch(self, request: httpx2.Request) -> None:
        """Have httpcore2 tell (its `trace` extension) which connection it opens for a request."""
        request.extensions["trace"] = self._trace

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._stream = info.get("return_value")
            # The stop may have come while there was nothing to shut down yet.
            if self._wanted():
                self()

    def __call__(self) -> None:
        if self._stream is not None:
            with suppress(OSError):
                self._stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


@functools.cache
def _tls() -> ssl.SSLContext:
    """One context for all clients of the process: reading the trust store takes tens of milliseconds."""
    return httpx2.create_ssl_context()


def _http_client(base_url: str, cut: _Cut) -> httpx2.Client:
    return httpx2.Client(
        verify=_tls(),
        # The key and the prompt go where the configuration says and nowhere else.
        follow_redirects=False,
        # A proxy of the environment is not meant for a server on this machine.
        trust_env=urlsplit(base_url).hostname not in _LOOPBACK,
        timeout=httpx2.Timeout(SILENCE_S, connect=CONNECT_TIMEOUT_S),
        event_hooks={"request": [cut.watch]},
    )
