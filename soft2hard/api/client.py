"""Asking a model behind an OpenAI-compatible endpoint, patiently through every fault that may pass.

The library `openai` sends and `tenacity` retries; the meaning of a reply is decided in `answers`, because the bare
client takes HTML for text and a reply without choices for an answer. How many requests are out at once is bounded, and
falls while the server says that it has had enough: additive increase, multiplicative decrease (Chiu and Jain, 1989),
besides what rate-limit headers and Retry-After say.
"""

import asyncio
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, TypeVar

from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from soft2hard.api.answers import Answer, Fault, read_reply
from soft2hard.api.requests import PATHS, ApiModel, Request
from soft2hard.errors import UserError, first_line

try:
    from httpx2 import Response as HttpResponse
except ImportError:  # versions of openai before the change of its HTTP library
    from httpx import Response as HttpResponse

T = TypeVar("T")
_NEVER_REACHED = {"ConnectError", "ConnectTimeout", "UnsupportedProtocol", "ProxyError"}
"""Causes of a connection error after which the server has seen nothing."""
_TRIES_TO_REACH = 2
"""Attempts at a server that has never been reached: a wrong address does not correct itself."""
_GROWTH = 0.25
"""Added to the limiter's limit by each answer: from one at a time to a hundred within 400 answers."""
_HEADERS = ("x-ratelimit-{0}-{1}", "anthropic-ratelimit-{1}-{0}")
_PART = r"(\d+(?:\.\d+)?)(ms|s|m|h|d)"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Patience:
    """How often and how long to ask."""

    attempts: int = 8
    """Times that one request is sent, at most."""
    timeout: float = 120.0
    """Seconds that one attempt may take."""
    first_wait: float = 0.5
    """Seconds before the second attempt, at most; the bound doubles with each, and the wait is drawn below it."""
    longest_wait: float = 60.0
    longest_retry_after: float = 900.0
    """Seconds that a server may ask to wait; where it asks for more the request is given up."""


def read_key(model: ApiModel) -> str:
    """The key from the environment. Servers on this machine need none.

    Raises UserError where it is missing or could not be sent in a header. The key is in no message.
    """
    key = os.environ.get(model.key_env, "").strip()
    host = model.base_url.split("://", 1)[1].split("/")[0]
    if not key and host.rsplit(":", 1)[0] in ("localhost", "127.0.0.1", "[::1]"):
        return "none"
    if not key:
        raise UserError(
            f"There is no key for the model '{model.name}': the environment variable {model.key_env} is not set.",
            f"Set it (export {model.key_env}=...), or name another variable with --key-env.",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            f"The key in the environment variable {model.key_env} has characters that no key has.",
            "Set it again, without spaces and line breaks.",
        )
    return key


class ApiClient(AbstractAsyncContextManager):
    """One model's endpoint, asked by many at once: use it as an asynchronous context."""

    def __init__(
        self, model: ApiModel, concurrency: int, patience: Patience = Patience(), key: str | None = None
    ) -> None:
        """Raises UserError where there is no key, or the environment lets no connection be made."""
        self.model, self.patience, self.limiter = model, patience, Limiter(concurrency)
        self.stopped = self._reached = False
        """`stopped`: set to give up on retries."""
        self._key = key if key is not None else read_key(model)
        try:
            self.api = AsyncOpenAI(api_key=self._key, base_url=model.base_url, timeout=patience.timeout, max_retries=0)
        except (ImportError, OSError, ValueError) as error:
            raise UserError(
                f"No connection to {model.base_url} can be made with the proxy and certificates that the environment "
                f"names ({first_line(error)}).",
                "Check ALL_PROXY, HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE and SSL_CERT_DIR.",
            ) from error
        self._wait = wait_random_exponential(multiplier=patience.first_wait, max=patience.longest_wait)

    async def __aexit__(self, *_: object) -> None:
        await self.api.close()

    async def ask(self, request: Request, on_fault: Callable[[Fault], Awaitable[None]] | None = None) -> Answer:
        """The answer, after as many attempts as patience allows; `on_fault` hears of each that failed, before the next.

        Raises Fault where there is no answer.
        """
        return await self.patiently(lambda: self._attempt(request), on_fault)

    async def patiently(
        self, call: Callable[[], Awaitable[T]], on_fault: Callable[[Fault], Awaitable[None]] | None = None
    ) -> T:
        """The result of `call`, which raises Fault, tried again after transient ones."""
        tries = count(1)

        async def attempt() -> T:
            n = next(tries)
            try:
                return await call()
            except Fault as fault:
                fault.detail = self.redact(fault.detail)
                if on_fault is not None:
                    await on_fault(fault)
                self.stopped |= fault.kind == "unreachable" and n >= _TRIES_TO_REACH and not self._reached
                raise

        stop, retry = stop_after_attempt(self.patience.attempts), retry_if_exception(self._worth_another)
        return await AsyncRetrying(retry=retry, stop=stop, wait=self._pause, reraise=True)(attempt)

    def redact(self, text: str) -> str:
        """The text without the key, which servers like to quote."""
        return text.replace(self._key, "[key]") if len(self._key) > 4 else text

    async def call(self, send: Awaitable[Any], limit: float | None = None) -> Any:
        """The raw response of one call of the library, which may take `limit` seconds in all; its errors as faults.

        Replies with an error status come back as responses, to be read like any other.
        """
        try:
            response = await asyncio.wait_for(send, limit)
        except APIStatusError as error:
            response = error.response
        except (APIConnectionError, asyncio.TimeoutError) as error:
            cause, is_timeout = error.__cause__, isinstance(error, APITimeoutError | asyncio.TimeoutError)
            detail = f"{type(cause).__name__}: {cause}" if cause else "connection failed"
            if type(cause).__name__ in _NEVER_REACHED:
                raise Fault("unreachable", "no connection within the time limit" if is_timeout else detail) from None
            if is_timeout:
                raise Fault("timeout", f"no reply within {self.patience.timeout:g} s") from None
            self._reached = True
            raise Fault("connection", detail) from None
        self._reached = True
        return response if isinstance(response, HttpResponse) else response.http_response

    async def _attempt(self, request: Request) -> Answer:
        async with self.limiter as sent_at:
            # The body as it stands, by the library's way to endpoints that it does not model. The library's own limit
            # is for each read, and a trickle of bytes would never reach it.
            sending = self.api.post(PATHS[request.layout], cast_to=HttpResponse, body=request.body)
            response = await self.call(sending, self.patience.timeout)
            try:
                answer = read_reply(request.layout, response.status_code, response.text, response.headers)
            except Fault as fault:
                if fault.kind == "rate_limited" or fault.retry_after is not None:
                    await self.limiter.throttled(sent_at, fault.retry_after if self._bears(fault) else None)
                raise
            tokens = (answer.input_tokens or 0) + (answer.output_tokens or 0)
            await self.limiter.answered(response.headers, tokens)
            return replace(answer, text=self.redact(answer.text), raw=self.redact(answer.raw))

    def _bears(self, fault: Fault) -> bool:
        return (fault.retry_after or 0.0) <= self.patience.longest_retry_after

    def _worth_another(self, error: BaseException) -> bool:
        return isinstance(error, Fault) and error.is_transient and not self.stopped and self._bears(error)

    def _pause(self, state: RetryCallState) -> float:
        """Seconds before the next attempt: exponential with full jitter, and no less than the server asks for."""
        asked = state.outcome.exception().retry_after
        return float(self._wait(state)) if asked is None else asked + random.uniform(0, 0.1 * asked + 0.05)


class Limiter:
    """`async with limiter:` holds one of the places that are free now, and gives the time at which it was taken."""

    def __init__(self, most: int) -> None:
        self.most, self.limit, self.active = most, float(most), 0
        """`limit`: number of places at present; grows back to `most`."""
        self._changed = asyncio.Condition()
        self._paused_until = self._cut_at = self._mean_tokens = 0.0

    async def __aenter__(self) -> float:
        while True:
            await asyncio.sleep(self._paused_until - time.monotonic())
            async with self._changed:
                await self._changed.wait_for(lambda: self.active < max(1, int(self.limit)))
                if (now := time.monotonic()) >= self._paused_until:
                    self.active += 1
                    return now

    async def __aexit__(self, *_: object) -> None:
        self.active -= 1
        async with self._changed:
            self._changed.notify_all()

    async def answered(self, headers: Mapping[str, str], tokens: int = 0) -> None:
        """Take note of an answer's headers; `tokens`: the number that it used, input and output."""
        self._mean_tokens += 0.1 * (tokens - self._mean_tokens) if self._mean_tokens else tokens
        self.limit = min(float(self.most), self.limit + _GROWTH)
        for kind, cost in (("requests", 1.0), ("tokens", self._mean_tokens)):
            remaining, reset = (_seconds_or_number(headers, what, kind) for what in ("remaining", "reset"))
            if remaining is None or not cost:
                continue
            self.limit = min(self.limit, max(1.0, remaining / cost))
            if remaining < cost and reset is not None:
                self._pause(reset)
        async with self._changed:
            self._changed.notify_all()

    async def throttled(self, sent_at: float, wait: float | None) -> None:
        """A request sent at `sent_at` met a rate limit; halves the limit, once for all that were out together."""
        if sent_at >= self._cut_at:
            self.limit = max(1.0, self.limit / 2)
            self._cut_at = time.monotonic()
        self._pause(wait or 0.0)

    def _pause(self, seconds: float) -> None:
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)


def _seconds_or_number(headers: Mapping[str, str], what: str, kind: str) -> float | None:
    """The number in a rate-limit header, or the seconds in one such as '6m0s' or '20ms'; None where it has neither."""
    text = next((headers[name] for name in (form.format(what, kind) for form in _HEADERS) if name in headers), "")
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not re.fullmatch(rf"({_PART})+", text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PART, text))
