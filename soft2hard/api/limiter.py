"""How many requests are out at once: bounded, and fewer while the server says that it has had enough.

Additive increase, multiplicative decrease (Chiu and Jain, 1989), besides what rate-limit headers and Retry-After say.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Mapping

_GROWTH = 0.25
"""Added to the limit by each answer: from one at a time to a hundred within 400 answers."""
_PREFIXES = ("x-ratelimit-remaining-{}", "anthropic-ratelimit-{}-remaining")
_RESETS = ("x-ratelimit-reset-{}", "anthropic-ratelimit-{}-reset")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Limiter:
    """`async with limiter:` holds one of the places there are."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        """Places there are now; grows back to `most`."""
        self.active = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._paused_until = 0.0
        self._cut_at = 0.0
        self._mean_tokens = 0.0

    async def __aenter__(self) -> float:
        """Wait for a place; returns the time at which it was had."""
        while True:
            now = time.monotonic()
            if now < self._paused_until:
                await asyncio.sleep(self._paused_until - now)
            elif self.active < max(1, int(self.limit)):
                self.active += 1
                return time.monotonic()
            else:
                place = asyncio.get_running_loop().create_future()
                self._waiting.append(place)
                try:
                    await place
                except asyncio.CancelledError:
                    self._wake()  # the place may have been given to this one, who will not take it
                    raise

    async def __aexit__(self, *_: object) -> None:
        self.active -= 1
        self._wake()

    def answered(self, headers: Mapping[str, str], tokens: int = 0) -> None:
        """Take note of an answer's headers; `tokens`: what it used, input and output."""
        self._mean_tokens += 0.1 * (tokens - self._mean_tokens) if self._mean_tokens else tokens
        self.limit = min(float(self.most), self.limit + _GROWTH)
        for kind, cost in (("requests", 1.0), ("tokens", self._mean_tokens)):
            remaining = _number(headers, _PREFIXES, kind)
            if remaining is None or not cost:
                continue
            affordable = remaining / cost
            self.limit = min(self.limit, max(1.0, affordable))
            reset = _reset(headers, kind)
            if affordable < 1 and reset is not None:
                self.pause(reset)
        self._wake()

    def throttled(self, sent_at: float, wait: float | None) -> None:
        """A request sent at `sent_at` met a rate limit; halves the limit, once for all that were out together."""
        if sent_at >= self._cut_at:
            self.limit = max(1.0, self.limit / 2)
            self._cut_at = time.monotonic()
        if wait is not None:
            self.pause(wait)

    def pause(self, seconds: float) -> None:
        """Let nobody in for a while."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def _wake(self) -> None:
        free = max(1, int(self.limit)) - self.active
        while free > 0 and self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                free -= 1


def _number(headers: Mapping[str, str], names: tuple[str, ...], kind: str) -> float | None:
    for name in names:
        try:
            return float(headers[name.format(kind)])
        except (KeyError, ValueError):
            continue
    return None


def _reset(headers: Mapping[str, str], kind: str) -> float | None:
    """Seconds until a limit is reset, from '6m0s', '20ms' or a bare number of seconds; None where not said."""
    text = next((headers[n.format(kind)] for n in _RESETS if n.format(kind) in headers), "")
    try:
        return max(0.0, float(text))
    except ValueError:
        parts = re.findall(r"([\d.]+)(ms|s|m|h|d)", text)
    if not parts or "".join(n + u for n, u in parts) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
