"""How many sequences and tokens go through language models, told where they are handed over, for whoever listens.

A sequence is one text that a model scores or writes; an encoder's input belongs to the sequences that a decoder makes
of it. Tokens are those that a model reads for it: padding is left out, and so are the passes that a finished sequence
waits for its batch-mates; cached tokens are read once, tokens read again count again. Backward passes are not counted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Count:
    """Sequences and their tokens."""

    sequences: int = 0
    tokens: int = 0

    def add(self, sequences: int, tokens: int) -> None:
        self.sequences += sequences
        self.tokens += tokens


@dataclass
class Heard:
    """The counts of the time that somebody listened."""

    shared: Count = field(default_factory=Count)
    """Counts that belong to no single case."""
    own: dict[int, Count] = field(default_factory=dict)
    """Counts on behalf of each case (see `on_behalf_of`)."""

    @property
    def total(self) -> Count:
        found = Count()
        for part in (self.shared, *self.own.values()):
            found.add(part.sequences, part.tokens)
        return found


# Context variables: each thread has its own listeners.
_listeners: ContextVar[tuple[Heard, ...]] = ContextVar("listeners", default=())
_owner: ContextVar[int | None] = ContextVar("owner", default=None)


@contextmanager
def listening() -> Iterator[Heard]:
    """Counts what this thread hands to models until the block ends. Who listens outside of it hears the same."""
    heard = Heard()
    before = _listeners.set((*_listeners.get(), heard))
    try:
        yield heard
    finally:
        _listeners.reset(before)


@contextmanager
def on_behalf_of(number: int) -> Iterator[None]:
    """Counts within this block belong to one of several cases, by its number."""
    before = _owner.set(number)
    try:
        yield
    finally:
        _owner.reset(before)


@contextmanager
def if_it_succeeds() -> Iterator[None]:
    """Counts within this block are heard if it ends without an error: failed work is tried again, and heard then."""
    heard = Heard()
    before = _listeners.set((heard,))
    try:
        yield
    finally:
        _listeners.reset(before)
    for number, part in ((None, heard.shared), *heard.own.items()):
        owner = _owner.set(number)
        count(part.sequences, part.tokens)
        _owner.reset(owner)


def count(sequences: int, tokens: int) -> None:
    """So many sequences and tokens go through a model; nothing happens where nobody listens."""
    owner = _owner.get()
    for heard in _listeners.get():
        part = heard.shared if owner is None else heard.own.setdefault(owner, Count())
        part.add(sequences, tokens)
