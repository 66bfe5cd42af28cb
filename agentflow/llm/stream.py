"""One streamed answer put together, chunk by chunk; what the API does not promise is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: A reply (text and arguments) longer than this is no answer to anything that we ask.
MAX_REPLY_CHARS = 4_000_000


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants called; `arguments` is JSON text as it came, unchecked."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Reply:
    """One whole answer. `finish` is the endpoint's word (stop, length, ...), `model` who it says it is."""

    text: str
    calls: tuple[ToolCall, ...]
    finish: str
    model: str = ""


class GarbageError(Exception):
    """The stream holds something that is not an answer."""


class Collector:
    """What has arrived of one answer. `reported` is (input, output) tokens, when the endpoint told."""

    def __init__(self) -> None:
        self.finish = ""
        self.model = ""
        self.chars = 0
        self.chunks = 0
        self.choices = 0
        self.reported: tuple[int, int] | None = None
        self._text: list[str] = []
        self._calls: list[_PartialCall] = []
        self._places: dict[int, _PartialCall] = {}

    def feed(self, chunk: Any) -> None:
        """Take one chunk of the SDK, which builds it without checking; raises `GarbageError`."""
        try:
            self._feed(chunk)
        except (AttributeError, TypeError, ValueError) as error:
            raise GarbageError(f"a chunk of an unknown shape: {str(chunk)[:200]!r}") from error
        if self.chars > MAX_REPLY_CHARS:
            raise GarbageError(f"an answer of more than {MAX_REPLY_CHARS:,} characters")

    def reply(self) -> Reply:
        """The answer, whole."""
        calls = tuple(
            ToolCall(call.id or f"call_{place}", call.name, "".join(call.arguments))
            for place, call in enumerate(self._calls)
        )
        return Reply("".join(self._text), calls, self.finish, self.model)

    def _feed(self, chunk: Any) -> None:
        self.chunks += 1
        self.model = str(chunk.model or self.model)
        if chunk.usage is not None:
            sent, received = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
            # Servers were seen to count below zero; that is no refund.
            self.reported = (max(0, int(sent or 0)), max(0, int(received or 0)))
        for choice in chunk.choices or []:
            self.choices += 1
            self.finish = str(choice.finish_reason or self.finish)
            if choice.delta is not None:
                self._add(self._text, choice.delta.content)
                for part in choice.delta.tool_calls or []:
                    self._call(part)

    def _call(self, part: Any) -> None:
        index = int(part.index or 0)
        call = self._places.get(index)
        # Some servers number every call 0 and tell them apart by id only.
        if call is None or (part.id and call.id and call.id != part.id):
            call = self._places[index] = _PartialCall()
            self._calls.append(call)
        call.id = call.id or str(part.id or "")
        if part.function is not None:
            call.name += str(part.function.name or "")
            self._add(call.arguments, part.function.arguments)

    def _add(self, pieces: list[str], piece: str | None) -> None:
        if piece:
            pieces.append(piece)
            self.chars += len(piece)


class _PartialCall:
    """A tool call that is still arriving."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []
