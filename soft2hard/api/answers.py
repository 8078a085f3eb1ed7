"""The meaning of a server's reply: an answer, a refusal, or a fault, and what a user can do about it.

One place for online replies and for lines of batch files. A status of 200 promises nothing: bodies that are empty, not
JSON, HTML, an error in disguise or without choices are faults like any other.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from soft2hard.api.requests import ApiModel, Layout
from soft2hard.errors import UserError
from soft2hard.prompts.template import without_thinking

FaultKind = Literal[
    "rate_limited", "server_error", "timeout", "connection", "unreachable", "malformed", "html", "empty",
    "error_body", "no_choices", "rejected", "policy", "too_long", "quota", "auth", "unknown_model", "expired",
    "queue_full", "lost",
]  # fmt: skip
STOPS = frozenset({"quota", "auth", "unknown_model"})
"""Faults that every further request would meet too."""
FINAL = STOPS | {"rejected", "policy", "too_long"}
"""Faults that asking again would not fix."""
MAYBE_PAID = frozenset({"timeout", "connection", "malformed", "html", "empty", "no_choices", "lost"})
"""Faults after which the server may have done the work, and so charge for it."""

_NAMES: dict[FaultKind, set[str]] = {
    "policy": {"content_filter", "content_policy_violation", "moderation_blocked", "policy_violation"},
    "quota": {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "quota_exceeded"},
    "auth": {"invalid_api_key", "invalid_authentication", "authentication_error", "permission_denied",
             "account_deactivated"},
    "unknown_model": {"model_not_found", "model_not_available", "unknown_model"},
}  # fmt: skip
"""What errors call themselves, whatever their status; the first that holds counts."""
_STATUSES: dict[int, FaultKind] = {
    402: "quota", 401: "auth", 403: "auth", 404: "unknown_model", 429: "rate_limited", 408: "server_error",
    409: "server_error",
}  # fmt: skip
_TOO_LONG = {"context_length_exceeded", "string_above_max_length", "exceed_context_size_error"}
_BAD = {"invalid_request_error", "invalid_request", "BadRequestError"}
_LONGEST_DETAIL = 500


@dataclass(frozen=True)
class Answer:
    """The words of a model, or its refusal."""

    text: str
    """As it came: no stripping, no normalisation; half characters (lone surrogates) alone are replaced."""
    refused: bool
    """By the model (a refusal in words) or by policy (a content filter); `text` then holds the reason given."""
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    raw: str = ""
    """The whole body of the reply, where it has just come."""
    price: float | None = None
    """USD; None where it is unknown."""

    @property
    def lack(self) -> Literal["no text", "cut off"] | None:
        """Why there are no words to compare: none came, or the limit on tokens came first, as in mid-reasoning."""
        if self.refused or self.text.strip():
            return None
        return "cut off" if self.finish_reason == "length" else "no text"

    def without_thinking(self) -> "Answer":
        """The answer without the `<think>...</think>` that reasoning models put before it, and the space after."""
        return replace(self, text=without_thinking(self.text))


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
    try:
        value = read_object(status, body, headers)
    except Fault as fault:
        if fault.kind != "policy":
            raise
        used = 0 if status >= 400 else None  # what a server would not read it does not charge for
        return Answer(fault.detail, True, "content_filter", used, used, body)
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices:
        raise Fault("no_choices", "the reply has no choices", status)
    choice = choices[0] if isinstance(choices[0], dict) else {}
    finish, error = choice.get("finish_reason"), choice.get("error")
    if error or finish == "error":
        raise error_fault(status, error or "the first choice is an error", headers)
    message = choice.get("message") if layout == "chat" else choice
    message = message if isinstance(message, dict) else {}
    text, refusal = _text_of(message.get("content" if layout == "chat" else "text")), message.get("refusal")
    if not isinstance(text, str | None) or (text is None and not refusal and (finish is None or not message)):
        raise Fault("malformed", "the first choice holds no text", status)
    usage = value.get("usage") if isinstance(value.get("usage"), dict) else {}
    used, written = (
        n if isinstance(n := usage.get(name), int) and not isinstance(n, bool) and n >= 0 else None
        for name in ("prompt_tokens", "completion_tokens")
    )
    finish = finish if isinstance(finish, str) else None
    said = whole_characters(str(refusal or text or ""))
    return Answer(said, bool(refusal) or finish == "content_filter", finish, used, written, whole_characters(body))


def _text_of(content: Any) -> Any:
    """The content of a message; where it is a list of parts, the words of those that are text."""
    if not isinstance(content, list):
        return content
    parts = [part for part in content if isinstance(part, dict) and part.get("type") in ("text", "output_text")]
    return "".join(str(part.get("text") or "") for part in parts)


def whole_characters(text: str) -> str:
    """The text with U+FFFD for half characters (lone surrogates), which no file can hold."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def read_object(status: int, body: str, headers: Mapping[str, str]) -> dict:
    """The JSON object in a reply. Raises Fault for an error, by its status or in the object, and for anything else."""
    value: Any = None
    with suppress(ValueError, RecursionError):
        value = json.loads(body)
    if status >= 400 and isinstance(value, list) and value and isinstance(value[0], dict):
        value = value[0]  # as Google writes errors
    if isinstance(value, dict):
        if status >= 400 or value.get("error"):
            raise error_fault(status, value.get("error") or value, headers)
        return value
    if status >= 400:
        raise error_fault(status, body, headers)
    kind: FaultKind = "empty" if not body.strip() else "html" if body.lstrip().startswith("<") else "malformed"
    shown = f"'{_one_line(body)[:80]}'" if body.strip() else "empty"
    raise Fault(kind, f"status {status}, but the body is {shown}", status, retry_after(headers))


def error_fault(status: int, error: Any, headers: Mapping[str, str] | None = None) -> Fault:
    """The fault that an error body (its `error` field, or a text) stands for."""
    fields = error if isinstance(error, dict) else {"message": str(error)}
    code, message = fields.get("code"), fields.get("message") or fields.get("detail") or ""
    detail = _one_line(message if isinstance(message, str) else json.dumps(message)) or f"status {status}"
    if status < 400 and isinstance(code, int) and 400 <= code < 600:
        status = code  # an error under status 200 may say the true one
    names = {str(name) for name in (code, fields.get("type")) if name is not None}
    kind = next((kind for kind, some in _NAMES.items() if names & some), None) or _STATUSES.get(status)
    if kind is None and status >= 500:
        kind = "server_error"
    elif kind is None and status >= 400 and re.search(r"api[ _-]?key", detail, re.IGNORECASE):
        kind = "auth"
    elif kind is None and (names & _TOO_LONG or "maximum context length" in detail):
        kind = "too_long"
    kind = kind or ("rejected" if status >= 400 or names & _BAD else "error_body")
    return Fault(kind, detail, status, retry_after(headers or {}))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by the headers `retry-after-ms` or `retry-after` (a number or a date); None where not said."""
    text = headers.get("retry-after", "")
    for number, scale in ((headers.get("retry-after-ms", ""), 0.001), (text, 1.0)):
        with suppress(ValueError):
            if 0 <= (seconds := float(number) * scale) < float("inf"):
                return seconds
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())


def _one_line(text: str) -> str:
    return whole_characters(" ".join(text.split()))[:_LONGEST_DETAIL]


_AGAIN = "run the same command again: what is answered is kept and not paid for twice."
_MEANINGS: dict[FaultKind, tuple[str, str]] = {
    "unreachable": (
        "Cannot reach {url} for the model '{title}' ({detail}).", "Check the address, and that the server is running.",
    ),
    "auth": (
        "{url} refuses the key in {key_env} for the model '{title}' ({detail}).", "Set {key_env} to a valid key.",
    ),
    "unknown_model": (
        "{url} knows no model '{name}', or takes no requests of this kind ({detail}).",
        "Check the model's name, the layout (chat or completion) and the base URL.",
    ),
    "quota": (
        "The account behind {key_env} has no quota left for '{title}' ({detail}).", f"Raise its limit and {_AGAIN}",
    ),
    "too_long": (
        "{Prompt} is too long for the context of '{title}' ({detail}).",
        "Shorten it, show fewer examples (--shots), or leave the model out.",
    ),
    "rejected": (
        "The model '{title}' rejects the request of {prompt} ({detail}).",
        "Set the parameters it wants with --parameter; name=null leaves a default out.",
    ),
}  # fmt: skip
_OTHERWISE = ("The model '{title}' at {url} gives no answer: {kind} ({detail}).", f"Later, {_AGAIN}")


def as_user_error(fault: Fault, model: ApiModel, prompt: str = "") -> UserError:
    """The meaning of a fault for the run, and the remedy; `prompt` is the id of the one it met, where it matters."""
    which = f"the prompt '{prompt}'" if prompt else "a prompt"
    values = {"url": model.base_url, "title": model.title, "name": model.name, "key_env": model.key_env}
    values |= {"kind": fault.kind.replace("_", " "), "detail": fault.detail.rstrip("."), "prompt": which}
    problem, remedy = _MEANINGS.get(fault.kind, _OTHERWISE)
    return UserError(*(text.format(**values, Prompt=which[0].upper() + which[1:]) for text in (problem, remedy)))
