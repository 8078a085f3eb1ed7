"""Asking a model behind an OpenAI-compatible endpoint, with patience for everything that may pass.

The library `openai` sends and `tenacity` retries; what a reply means is decided in `answers`, because the bare client
takes HTML for text and a reply without choices for an answer.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, TypeVar

from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from soft2hard.api.answers import Answer, Fault, read_reply
from soft2hard.api.limiter import Limiter
from soft2hard.api.requests import PATHS, ApiModel, Request
from soft2hard.errors import UserError

try:
    from httpx2 import Response as HttpResponse
except ImportError:  # versions of openai before the change of its HTTP library
    from httpx import Response as HttpResponse

T = TypeVar("T")
_NEVER_REACHED = {"ConnectError", "ConnectTimeout", "UnsupportedProtocol", "ProxyError"}
"""Causes of a connection error after which the server has seen nothing."""
_TRIES_TO_REACH = 2
"""Attempts at a server that has never been reached: a wrong address does not mend itself."""


@dataclass(frozen=True)
class Patience:
    """How long to go on asking."""

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


class ApiClient:
    """One model's endpoint, asked by many at once: use it as an asynchronous context."""

    def __init__(
        self, model: ApiModel, concurrency: int, patience: Patience = Patience(), key: str | None = None
    ) -> None:
        self.model = model
        self.limiter = Limiter(concurrency)
        self.patience = patience
        self.stopped = False
        """Set to give up on retries."""
        self._reached = False
        self._key = key if key is not None else read_key(model)
        self.api = AsyncOpenAI(api_key=self._key, base_url=model.base_url, timeout=patience.timeout, max_retries=0)
        self._wait = wait_random_exponential(multiplier=patience.first_wait, max=patience.longest_wait)

    async def __aenter__(self) -> "ApiClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.api.close()

    async def ask(self, request: Request, on_fault: Callable[[Fault], None] = lambda fault: None) -> Answer:
        """The answer, after as many attempts as patience allows; `on_fault` hears of each that failed.

        Raises Fault where there is no answer to be had.
        """
        return await self.patiently(lambda: self._attempt(request), on_fault)

    async def patiently(
        self, call: Callable[[], Awaitable[T]], on_fault: Callable[[Fault], None] = lambda fault: None
    ) -> T:
        """The result of `call`, which raises Fault, tried again after transient ones."""
        retrying = AsyncRetrying(
            retry=retry_if_exception(self._worth_another),
            stop=stop_after_attempt(self.patience.attempts),
            wait=self._pause,
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                try:
                    return await call()
                except Fault as fault:
                    fault.detail = self.redact(fault.detail)
                    on_fault(fault)
                    if fault.kind == "unreachable" and attempt.retry_state.attempt_number >= _TRIES_TO_REACH:
                        self.stopped = self.stopped or not self._reached
                    raise
        raise AssertionError("tenacity raises the last fault")

    def redact(self, text: str) -> str:
        """The text without the key, which servers like to quote."""
        return text.replace(self._key, "[key]") if len(self._key) > 4 else text

    async def call(self, send: Awaitable[Any]) -> Any:
        """The raw response of one call of the library; its errors as faults.

        Replies with an error status come back as responses, to be read like any other.
        """
        try:
            response = await send
        except APIStatusError as error:
            self._reached = True
            return error.response
        except APITimeoutError as error:
            if _was_unreached(error):
                raise Fault("unreachable", "no connection within the time limit") from None
            raise Fault("timeout", f"no reply within {self.patience.timeout:g} s") from None
        except APIConnectionError as error:
            cause = error.__cause__
            detail = f"{type(cause).__name__}: {cause}" if cause else "connection failed"
            if _was_unreached(error):
                raise Fault("unreachable", detail) from None
            self._reached = True
            raise Fault("connection", detail) from None
        self._reached = True
        return response if isinstance(response, HttpResponse) else response.http_response

    async def _attempt(self, request: Request) -> Answer:
        async with self.limiter as sent_at:
            try:
                # The library's own limit is for each read, and a trickle of bytes would never reach it.
                response = await asyncio.wait_for(self.call(self._send(request)), self.patience.timeout)
            except asyncio.TimeoutError:
                raise Fault("timeout", f"no reply within {self.patience.timeout:g} s") from None
            try:
                answer = read_reply(request.layout, response.status_code, response.text, response.headers)
            except Fault as fault:
                if fault.kind == "rate_limited" or fault.retry_after is not None:
                    self.limiter.throttled(sent_at, self._allowed(fault))
                raise
            tokens = (answer.input_tokens or 0) + (answer.output_tokens or 0)
            self.limiter.answered(response.headers, tokens)
            return replace(answer, text=self.redact(answer.text), raw=self.redact(answer.raw))

    def _send(self, request: Request) -> Awaitable[Any]:
        """Post the body as it stands, by the library's way to endpoints that it does not model."""
        return self.api.post(PATHS[request.layout], cast_to=HttpResponse, body=request.body)

    def _allowed(self, fault: Fault) -> float | None:
        wait = fault.retry_after
        return wait if wait is not None and wait <= self.patience.longest_retry_after else None

    def _worth_another(self, error: BaseException) -> bool:
        if not isinstance(error, Fault) or not error.is_transient or self.stopped:
            return False
        return error.retry_after is None or self._allowed(error) is not None

    def _pause(self, state: RetryCallState) -> float:
        """Seconds before the next attempt: exponential with full jitter, and no less than the server asks for."""
        error = state.outcome.exception() if state.outcome else None
        asked = self._allowed(error) if isinstance(error, Fault) else None
        if asked is not None:
            return asked + random.uniform(0, 0.1 * asked + 0.05)
        return float(self._wait(state))


def _was_unreached(error: BaseException) -> bool:
    return type(error.__cause__).__name__ in _NEVER_REACHED
