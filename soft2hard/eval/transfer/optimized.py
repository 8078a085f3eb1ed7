"""What `optimize` finds: candidate prompts, what each stage cost, what won, and how it was judged."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter

from soft2hard.api.prices import money, table, total
from soft2hard.api.requests import ApiModel
from soft2hard.data_gen.tasks import Example
from soft2hard.errors import UserError
from soft2hard.eval.intervals import Interval, PairedDifference, mean_interval, paired_difference
from soft2hard.prompts.template import Template
from soft2hard.storage.files import atomic_write

SCHEMA_VERSION = 1
_SHOWN_TASKS = 10
"""Whose prompts stand in the text for the terminal."""


@dataclass(frozen=True)
class Arm:
    """A candidate prompt."""

    text: str
    shown: tuple[Example, ...] = ()
    origin: str = "translation"
    """'translation', 'paraphrase', or what else the text comes from."""

    def prompt(self, template: Template) -> str:
        """As it is sent."""
        return template.prompt_text(self.text, self.shown)


@dataclass(frozen=True)
class Stage:
    """One round."""

    name: str
    arms: int
    examples: int
    """New ones."""
    calls: int
    price: float | None
    """USD; None where unknown."""
    best: float | None = None
    """Mean score of the best arm over all examples that it was asked with by then."""
    missing: int = 0
    """Requests without an answer in words; they are in no mean."""
    tokens: int | None = None
    """Of the requests and their answers; None where a reply does not say, or a file is from before this was kept."""


@dataclass(frozen=True)
class Judged:
    """A prompt on the examples that chose nothing."""

    score: float | None
    """None where there is no answer."""
    by_example: tuple[float | None, ...]
    missing: int = 0


@dataclass(frozen=True)
class Optimized:
    """What came of one task."""

    task: str
    prompt: str
    """As it is sent before an input."""
    text: str
    """Its instruction."""
    shown: tuple[tuple[str, str], ...]
    """Its demonstrations."""
    origin: str
    start: str
    """The text that it began with: the first of the candidates, alone."""
    stages: tuple[Stage, ...]
    judged: Judged | None
    judged_start: Judged | None
    copied: tuple[str, ...] = ()
    """Runs of five words in the text that stand in inputs or outputs of the task: it may have learned these by
    heart."""
    stopped: bool = False
    """Whether the limit on cost ended the search."""
    sent: Mapping[str, Any] = field(default_factory=dict)
    """What a request holds beside model and prompt, such as temperature, max_tokens, stop and seed."""


@dataclass(frozen=True)
class Optimization:
    """All tasks on one model."""

    model: ApiModel
    template: str | None
    tasks: tuple[Optimized, ...]
    faults: Mapping[str, int] = field(default_factory=dict)
    """Requests given up, by kind of their last fault."""

    @property
    def gain(self) -> PairedDifference | None:
        """Of what won over what each began with, on examples that both have an answer to: over tasks; with a single
        one, over its examples."""
        pairs = [(t.task, t.judged, t.judged_start) for t in self.tasks if t.judged and t.judged_start]
        both = {
            task: [(x, y) for x, y in zip(a.by_example, b.by_example, strict=True) if None not in (x, y)]
            for task, a, b in pairs
        }
        if len(pairs) == 1:
            both = {str(i): [pair] for pairs in both.values() for i, pair in enumerate(pairs)}
        won, began = (
            {unit: fmean(pair[side] for pair in some) for unit, some in both.items() if some} for side in (0, 1)
        )
        return paired_difference(won, began) if won else None

    def mean(self, which: str) -> Interval | None:
        """Mean score of 'judged' or 'judged_start': over tasks; with a single one, over its examples."""
        judged = [one for task in self.tasks if (one := getattr(task, which)) and one.score is not None]
        scores = [one.score for one in judged]
        if len(judged) == 1:
            scores = [score for score in judged[0].by_example if score is not None]
        return mean_interval(scores) if scores else None

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        with atomic_write(path) as temporary:
            record = {"schema_version": SCHEMA_VERSION} | asdict(self)
            temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Optimization":
        """Read what `save` wrote. Raises UserError where the file is damaged or newer."""
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if value.pop("schema_version") > SCHEMA_VERSION:
                raise UserError(f"{path} was written by a later soft2hard.", "Update soft2hard.")
            return TypeAdapter(cls).validate_python(value)
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror}.", "Give the file that optimize wrote.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no result of optimize.", "Give the file that optimize wrote.") from error

    def text(self) -> str:
        """For the terminal: what each stage cost and what it found, and what won."""
        rows = []
        for name in dict.fromkeys(stage.name for task in self.tasks for stage in task.stages):
            of_name = [stage for task in self.tasks for stage in task.stages if stage.name == name]
            best = [stage.best for stage in of_name if stage.best is not None]
            rows.append(
                (
                    name,
                    sum(stage.arms for stage in of_name),
                    sum(stage.calls for stage in of_name),
                    sum(stage.missing for stage in of_name),
                    "unknown" if (n := total([stage.tokens for stage in of_name])) is None else n,
                    money(total([stage.price for stage in of_name])),
                    f"{fmean(best):.3f}" if best else "",
                )
            )
        lines = table(("stage", "prompts", "requests", "no words", "tokens", "cost", "best, on what chose it"), rows)
        lines += [
            "",
            f"Judged on examples that chose nothing: {self.mean('judged')} (began with {self.mean('judged_start')})",
        ]
        if (gain := self.gain) is not None:
            lines.append(f"Gain: {gain.difference}, p = {gain.p_value:.2g}")
        lines += [f"{t.task}: {len(t.copied)} runs of words stand in training examples" for t in self.tasks if t.copied]
        for one in self.tasks[:_SHOWN_TASKS]:
            shown = f" with {len(one.shown)} demonstrations" if one.shown else ""
            lines.append(f"{one.task}: {one.text}{shown}")
        if any(task.stopped for task in self.tasks):
            lines.append("The limit on cost ended the search; raise --max-cost to go on from here.")
        lines += [
            f"{n} requests were given up ({kind.replace('_', ' ')}); run the same command again to ask them once more."
            for kind, n in self.faults.items()
        ]
        return "\n".join(lines)
