"""GEPA (Agrawal et al. 2025, arXiv 2507.19457): a language model reflects on wrong answers and rewrites the prompt.

The search is that of the package `gepa`, at its own settings, through its adapter interface.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from statistics import fmean
from typing import Any, ClassVar

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.methods.options import GepaOptions
from soft2hard.eval.methods.reflective import (
    Answers,
    Found,
    Optimising,
    OutOfBudget,
    Reflect,
    Search,
    Terms,
    Watched,
    asked_by,
    learning_examples,
    score_of,
)

_COMPONENT = "instruction"
_WANTED = "The answer should have been: {}"


@dataclass
class _Adapter:
    """The task as the package `gepa` sees it (`gepa.GEPAAdapter`)."""

    task: Task
    answers: Answers
    validation: Sequence[Example]
    propose_new_texts: Callable[..., dict[str, str]] | None = None
    """Instead of the package's own request for a better text."""
    n_calls: int = 0
    whole: dict[str, float] = field(default_factory=dict)
    """Mean over the validation examples of every text that was tried on all of them."""

    def evaluate(self, batch: Sequence[Example], candidate: Mapping[str, str], capture_traces: bool = False) -> Any:
        """Answers to a batch under a candidate, with their scores."""
        from gepa.core.adapter import EvaluationBatch

        self.n_calls += len(batch)
        written = list(self.answers(candidate[_COMPONENT], batch))
        scores = [score_of(self.task, answer, example) for answer, example in zip(written, batch, strict=True)]
        if list(batch) == list(self.validation):
            self.whole.setdefault(candidate[_COMPONENT], fmean(scores))
        traces = list(zip(batch, written, scores, strict=True)) if capture_traces else None
        return EvaluationBatch(outputs=written, scores=scores, trajectories=traces)

    def make_reflective_dataset(
        self, candidate: Mapping[str, str], eval_batch: Any, components_to_update: Sequence[str]
    ) -> dict[str, list[dict[str, str]]]:
        """What the model that reflects is shown of a batch."""
        rows = [
            {
                "Inputs": example.input,
                "Generated Outputs": answer or "(no answer)",
                "Feedback": "The answer is right." if score == 1 else _WANTED.format(example.output),
            }
            for example, answer, score in eval_batch.trajectories
        ]
        return {name: rows for name in components_to_update}


def _proposing(task: Task, reflect: Reflect, meta_prompt: str, seed: int) -> Callable[..., dict[str, str]]:
    """Asks by `meta_prompt`, with the examples that the current text was tried on and others."""
    rng = Random(f"gepa/{seed}/{task.name}")

    def propose_new_texts(
        candidate: Mapping[str, str], rows: Mapping[str, Sequence[Mapping[str, str]]], components: Sequence[str]
    ) -> dict[str, str]:
        text = reflect(asked_by(meta_prompt, task, [row["Inputs"] for row in rows[_COMPONENT]], rng))
        return {_COMPONENT: text or candidate[_COMPONENT]}

    return propose_new_texts


def search(task: Task, start: str, answers: Answers, reflect: Reflect, terms: Terms) -> Found:
    """As `Search` says; GEPA shows no demonstrations, so that the template is of no account."""
    try:
        import gepa
        from gepa.logging.logger import LoggerProtocol
    except ImportError as error:
        raise UserError("The method gepa needs the package gepa.", "pip install 'soft2hard[optimizers]'") from error
    train, validation = learning_examples(task)

    class Silent(LoggerProtocol):
        def log(self, message: str) -> None:
            pass

    watched = Watched()
    answers, reflect = watched.calling(answers), watched.calling(reflect)
    proposing = _proposing(task, reflect, terms.meta_prompt, terms.seed) if terms.meta_prompt else None
    adapter = _Adapter(task, answers, validation, proposing)
    with suppress(OutOfBudget):
        gepa.optimize(
            {_COMPONENT: start},
            trainset=train,
            valset=validation,
            adapter=adapter,
            reflection_lm=lambda prompt: reflect(prompt if isinstance(prompt, str) else str(prompt)),
            max_metric_calls=terms.max_metric_calls,
            seed=terms.seed,
            logger=Silent(),
            display_progress_bar=False,
            raise_on_exception=True,
        )
    stopped = watched.out_of_budget()
    # Of equals the first: the start where nothing is better.
    best = max(adapter.whole, key=lambda text: adapter.whole[text], default=start)
    return Found(best, adapter.whole.get(best), adapter.n_calls, len(adapter.whole), stopped=stopped)


class Gepa(Optimising, GepaOptions):
    """GEPA on the subject."""

    search: ClassVar[Search] = staticmethod(search)
