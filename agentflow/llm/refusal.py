"""What an endpoint's errors mean: whether to ask again, when, and what the user can do."""

from __future__ import annotations

import httpx2
import openai

from agentflow.errors import ProviderError
from agentflow.llm.endpoint import NO_KEY, Endpoint
from agentflow.llm.headers import pause_of, retry_after
from agentflow.llm.stream import GarbageError

_RETRIED_STATUS = frozenset({408, 409, 429})
_SERVER_ERROR = 500
_TOO_MANY, _UNAVAILABLE = 429, 503
_SHOWN_CHARS = 500


class AgainError(Exception):
    """The request may be sent again, after `retry_after` seconds if given; else `error` is raised.

    `is_limit`: the endpoint is well and asks for a pause; that is nobody's failure.
    """

    def __init__(
        self, error: ProviderError, retry_after: float | None = None, *, is_limit: bool = False
    ) -> None:
        super().__init__(error.what)
        self.error = error
        self.retry_after = retry_after
        self.is_limit = is_limit
        error.is_outage = not is_limit


def explain(error: Exception, endpoint: Endpoint) -> Exception:
    """What to raise for an exception of a call: `AgainError`, `ProviderError`, or itself when it is ours."""
    match error:
        case openai.APIStatusError():
            return _refused(error, endpoint)
        case openai.APIConnectionError() | httpx2.TransportError():
            return AgainError(_unreachable(error, endpoint))
        case openai.APIError():
            return AgainError(
                ProviderError(
                    "the model's endpoint broke off its answer",
                    why=error.message[:_SHOWN_CHARS],
                    fix="look into the endpoint's own log, then `agentflow resume RUN`",
                )
            )
        case ValueError() | RecursionError() | GarbageError():
            return AgainError(
                ProviderError(
                    "the model's endpoint sent a chunk that is not part of an answer",
                    why=f"{type(error).__name__}: {str(error)[:_SHOWN_CHARS]}",
                    fix="see that base_url points to an OpenAI-compatible /v1 and that nothing "
                    "on the way rewrites the stream",
                )
            )
        case _:
            return error


def no_choices(chunks: int) -> AgainError:
    """The call succeeded and holds no answer."""
    return AgainError(
        ProviderError(
            "the model's endpoint answered without choices",
            why=f"the call succeeded with {chunks} chunk(s), none of which holds an answer",
            fix="see that the endpoint supports streamed chat completions (stream: true)",
        )
    )


def cut_stream(chars: int) -> AgainError:
    """The stream ended before the answer did."""
    return AgainError(
        ProviderError(
            "the model's answer was cut",
            why=f"the stream ended after {chars} characters without a finish_reason; nothing of it was used",
            fix="look for a proxy or server with a short timeout between here and the model",
        )
    )


def filtered() -> ProviderError:
    """The endpoint's content filter stopped the answer."""
    return _final(
        "the endpoint's content filter stopped the answer",
        why="finish_reason is content_filter",
        fix="reword the task's prompt, or use another endpoint",
    )


def _refused(error: openai.APIStatusError, endpoint: Endpoint) -> Exception:
    status, detail = error.status_code, error.message[:_SHOWN_CHARS]
    if error.code == "insufficient_quota":
        return _outage(
            "the model's account has no quota left",
            why=detail,
            fix="raise the quota or add credit at the provider, then `agentflow resume RUN`",
        )
    if status in _RETRIED_STATUS or status >= _SERVER_ERROR:
        headers = error.response.headers
        is_limit = status == _TOO_MANY or (status == _UNAVAILABLE and retry_after(headers) is not None)
        what = "the model's endpoint limits our requests" if is_limit else "the model's endpoint failed"
        fix = "lower max_concurrent of the role or -j, or wait, then `agentflow resume RUN`"
        problem = ProviderError(f"{what} (HTTP {status})", why=detail, fix=fix)
        return AgainError(problem, pause_of(headers), is_limit=is_limit)
    if status in {401, 403}:
        sent = endpoint.api_key != NO_KEY
        key = f"the key in ${endpoint.key_name}" if sent else f"no key (${endpoint.key_name} is not set)"
        return _outage(
            f"the model's endpoint refused the key (HTTP {status})",
            why=f"it was sent {key}: {detail}",
            fix=f"set a valid key for {endpoint.base_url} where the worker runs, then `agentflow resume RUN`",
        )
    refused = _final(
        f"the model's endpoint refused the request (HTTP {status})",
        why=detail,
        fix=f"see that base_url {endpoint.base_url} and model {endpoint.model} are what it serves",
    )
    refused.status = status
    return refused


def _unreachable(error: Exception, endpoint: Endpoint) -> ProviderError:
    cause = error.__cause__ or error
    return ProviderError(
        f"the connection to the model at {endpoint.base_url} failed",
        why=f"{type(cause).__name__}: {str(cause)[:_SHOWN_CHARS]}",
        fix="see that the endpoint is up and reachable from the worker, then `agentflow resume RUN`",
    )


def _outage(what: str, *, why: str, fix: str) -> ProviderError:
    """An error that every call meets, whatever it asks."""
    error = _final(what, why=why, fix=fix)
    error.is_outage = True
    return error


def _final(what: str, *, why: str, fix: str) -> ProviderError:
    """An error that another attempt would meet again."""
    error = ProviderError(what, why=why, fix=fix)
    error.retryable = False
    return error
