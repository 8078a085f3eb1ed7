"""What a server's reply means: an answer, a refusal, or a fault and what to do about it.

One place for online replies and for lines of batch files. A status of 200 promises nothing: bodies that are empty, not
JSON, HTML, an error in disguise or without choices are faults like any other.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from soft2hard.api.requests import Layout

FaultKind = Literal[
    "rate_limited", "server_error", "timeout", "connection", "unreachable", "malformed", "html", "empty",
    "error_body", "no_choices", "rejected", "too_long", "quota", "auth", "unknown_model", "expired",
    "queue_full", "lost",
]  # fmt: skip
STOPS = frozenset({"quota", "auth", "unknown_model"})
"""Faults that every further request would meet too."""
FINAL = STOPS | {"rejected", "too_long"}
"""Faults that asking again would not mend."""
MAYBE_PAID = frozenset({"timeout", "connection", "malformed", "html", "empty", "no_choices", "lost"})
"""Faults after which the server may have done the work, and so charge for it."""

_QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "quota_exceeded"}
_POLICY = {"content_filter", "content_policy_violation", "moderation_blocked", "policy_violation"}
_AUTH = {
    "invalid_api_key",
    "invalid_authentication",
    "authentication_error",
    "permission_denied",
    "account_deactivated",
}
_MODEL = {"model_not_found", "model_not_available", "unknown_model"}
_TOO_LONG = {"context_length_exceeded", "string_above_max_length", "exceed_context_size_error"}
_BAD = {"invalid_request_error", "invalid_request", "BadRequestError"}
_LONGEST_DETAIL = 500


@dataclass(frozen=True)
class Answer:
    """What a model said, or that it would not."""

    text: str
    """As it came: no stripping, no normalisation."""
    refused: bool
    """By the model (a refusal in words) or by policy (a content filter); `text` then holds the reason given."""
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    raw: str
    """The whole body of the reply."""


@dataclass(eq=False)  # not frozen: Python itself sets attributes of exceptions
class Fault(Exception):
    """Why there is no answer."""

    kind: FaultKind
    detail: str
    """One line, without the key."""
    status: int | None = None
    retry_after: float | None = None
    """Seconds that the server asks to wait."""

    @property
    def is_transient(self) -> bool:
        return self.kind not in FINAL

    @property
    def stops(self) -> bool:
        return self.kind in STOPS

    def __str__(self) -> str:
        return f"{self.kind.replace('_', ' ')}: {self.detail}"


def read_reply(layout: Layout, status: int, body: str, headers: Mapping[str, str]) -> Answer:
    """The answer in a reply. Raises Fault where there is none."""
    value = json_object(status, body, headers)
    error = value.get("error")
    if status >= 400 or error:
        return _read_error(status, error if error else value, body, headers)
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices:
        raise Fault("no_choices", "the reply has no choices", status)
    return _read_choice(layout, choices[0], value, body)


def _read_choice(layout: Layout, choice: Any, value: dict, body: str) -> Answer:
    message = choice.get("message") if isinstance(choice, dict) and layout == "chat" else choice
    name = "content" if layout == "chat" else "text"
    if not isinstance(message, dict) or not (message.get(name) is None or isinstance(message[name], str)):
        raise Fault("malformed", "the first choice holds no text", 200)
    finish, refusal = choice.get("finish_reason"), message.get("refusal")
    if message.get(name) is None and not refusal and finish is None:
        raise Fault("malformed", "the first choice holds no text", 200)
    usage = value.get("usage") if isinstance(value.get("usage"), dict) else {}
    return Answer(
        text=str(refusal or message.get(name) or ""),
        refused=bool(refusal) or finish == "content_filter",
        finish_reason=finish if isinstance(finish, str) else None,
        input_tokens=_count(usage.get("prompt_tokens")),
        output_tokens=_count(usage.get("completion_tokens")),
        raw=body,
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def json_object(status: int, body: str, headers: Mapping[str, str]) -> dict:
    """The body as an object; an error that is not JSON becomes an object that holds its text.

    Raises Fault where a reply that is no error is not a JSON object.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return value
    if status >= 400:
        return {"message": body}
    kind: FaultKind = "empty" if not body.strip() else "html" if body.lstrip().startswith("<") else "malformed"
    raise Fault(kind, f"status {status}, but the body is {_shown(body)}", status, retry_after(headers))


def _read_error(status: int, error: Any, body: str, headers: Mapping[str, str]) -> Answer:
    """Raises the fault that an error stands for; a refusal by policy is an answer."""
    names, detail, status = _error_parts(status, error)
    if names & _POLICY:
        used = 0 if status >= 400 else None  # what a server would not read it does not charge for
        return Answer(detail, True, "content_filter", used, used, body)
    raise Fault(_kind(status, names, detail), detail, status, retry_after(headers))


def error_fault(status: int, error: Any, headers: Mapping[str, str] | None = None) -> Fault:
    """The fault that an error body (its `error` field, or a text) stands for."""
    names, detail, status = _error_parts(status, error)
    return Fault(_kind(status, names, detail), detail, status, retry_after(headers or {}))


def _error_parts(status: int, error: Any) -> tuple[set[str], str, int]:
    """Names of the error, its message, and the status, which an error under status 200 may give in its code."""
    fields = error if isinstance(error, dict) else {"message": str(error)}
    names = {str(fields[name]) for name in ("code", "type") if fields.get(name) is not None}
    message = fields.get("message") or fields.get("detail") or ""
    detail = _one_line(message if isinstance(message, str) else json.dumps(message)) or f"status {status}"
    code = fields.get("code")
    return names, detail, code if status < 400 and isinstance(code, int) and 400 <= code < 600 else status


def _kind(status: int, names: set[str], detail: str) -> FaultKind:
    if names & _QUOTA or status == 402:
        return "quota"
    if names & _AUTH or status in (401, 403):
        return "auth"
    if names & _MODEL or status == 404:
        return "unknown_model"
    if status == 429:
        return "rate_limited"
    if status in (408, 409) or status >= 500:
        return "server_error"
    if names & _TOO_LONG or "maximum context length" in detail:
        return "too_long"
    return "rejected" if status >= 400 or names & _BAD else "error_body"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by the headers `retry-after-ms` or `retry-after` (a number or a date); None where not said."""
    milliseconds, value = headers.get("retry-after-ms"), headers.get("retry-after")
    for text, scale in ((milliseconds, 0.001), (value, 1.0)):
        try:
            seconds = float(text) * scale if text else None
        except ValueError:
            seconds = None
        if seconds is not None and 0 <= seconds < float("inf"):
            return seconds
    try:
        when = parsedate_to_datetime(value) if value else None
    except ValueError:
        return None
    if when is None:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())


def _shown(body: str) -> str:
    return f"'{_one_line(body)[:80]}'" if body.strip() else "empty"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_DETAIL]
