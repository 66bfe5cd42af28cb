"""A scripted reply on the wire: a chat completion as one JSON document or as server-sent events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from agentflow.runners.scripted import Turn

#: The name that the server answers to and that it signs with: nobody shall take it for a model.
MODEL = "scripted"
_CHARS_PER_TOKEN = 4
#: Texts and arguments are cut into about so many chunks.
_PIECES = 4


def completion(turn: Turn, request: Mapping[str, Any]) -> dict[str, Any]:
    """The whole answer, for a client that does not stream."""
    message: dict[str, Any] = {"role": "assistant", "content": turn.text or None}
    if turn.calls:
        message["tool_calls"] = _calls(turn)
    choice = {"index": 0, "message": message, "finish_reason": finish_reason(turn)}
    return _envelope("chat.completion", [choice], usage(turn, request))


def chunks(turn: Turn, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The answer piece by piece; the last chunk carries the usage and no choice."""
    yield _delta({"role": "assistant", "content": ""})
    for piece in _pieces(turn.text):
        yield _delta({"content": piece})
    for index, call in enumerate(_calls(turn)):
        function = call["function"]
        head = {"index": index, "id": call["id"], "type": "function"}
        yield _delta({"tool_calls": [{**head, "function": {"name": function["name"], "arguments": ""}}]})
        for piece in _pieces(function["arguments"]):
            yield _delta({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield _delta({}, finish_reason(turn))
    spent = usage(turn, request)
    if spent is not None:
        yield _envelope("chat.completion.chunk", [], spent)


def event(data: object) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(data)}\n\n".encode()


def finish_reason(turn: Turn) -> str:
    """Why the reply ends, as the API says it."""
    return turn.finish or ("tool_calls" if turn.calls else "stop")


def usage(turn: Turn, request: Mapping[str, Any]) -> dict[str, int] | None:
    """Token counts: made up from the lengths, or as the turn says; none when it says `missing`."""
    if turn.usage == "missing":
        return None
    if turn.usage is not None:
        return turn.usage
    sent = len(json.dumps(request.get("messages", []))) // _CHARS_PER_TOKEN
    received = (len(turn.text) + len(json.dumps(turn.calls))) // _CHARS_PER_TOKEN
    return {"prompt_tokens": sent, "completion_tokens": received, "total_tokens": sent + received}


def _calls(turn: Turn) -> list[dict[str, Any]]:
    """The tool calls; arguments that the script gives as a string go out as they are, valid or not."""
    found = []
    for index, call in enumerate(turn.calls):
        name, arguments = next(iter(call.items()))
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        found.append(
            {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": text}}
        )
    return found


def _pieces(text: str) -> Iterator[str]:
    size = max(1, -(-len(text) // _PIECES))
    for start in range(0, len(text), size):
        yield text[start : start + size]


def _delta(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _envelope("chat.completion.chunk", [choice], None)


def _envelope(kind: str, choices: list[dict[str, Any]], spent: dict[str, int] | None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-scripted",
        "object": kind,
        "created": int(time.time()),
        "model": MODEL,
        "system_fingerprint": MODEL,
        "choices": choices,
        "usage": spent,
    }
