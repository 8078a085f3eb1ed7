"""GEPA (Agrawal et al. 2025, arXiv 2507.19457): a language model reflects on wrong answers and rewrites the prompt.

The search is that of the package `gepa`, at its own settings, through its adapter interface: what it asks goes through
the subject here, or through the client and ledger of an API model (`eval.transfer.reflecting`).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from soft2hard.compute.metering import listening, on_behalf_of
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case, Cost, Outcome
from soft2hard.eval.methods.options import GepaOptions
from soft2hard.eval.metrics.task_score import grade_one
from soft2hard.lm.sequences import Query
from soft2hard.lm.text_generation import TextGenerator, WholeTextGenerator
from soft2hard.translator.candidates import propose
from soft2hard.translator.proposers.describe import pair, request

NOTHING = "Write the output for the input."
"""Where a search starts that knows nothing of its task."""
_COMPONENT = "instruction"
_REFLECTION_TOKENS = 512
_MORE_SHOWN = 7
"""Examples in a meta prompt beside the three that the package tries a text on."""
_LONGEST_ANSWER = 16
_WANTED = "The answer should have been: {}"

Answers = Callable[[str, Sequence[Example]], Sequence[str | None]]
"""What a model writes for each example's input under a prompt; None where there is no answer."""


@dataclass(frozen=True)
class Found:
    """The best prompt of a search."""

    prompt: str
    score: float
    """Mean over the validation examples."""
    calls: int
    """Answers that it asked for."""
    tried: int
    """Prompts that it kept."""


def score_of(task: Task, answer: str | None, example: Example) -> float:
    """One answer by the task's metric; nothing is wrong."""
    return grade_one(task.metric, answer or "", example.output)


@dataclass
class _Adapter:
    """The task as the package `gepa` sees it (`gepa.GEPAAdapter`)."""

    task: Task
    answers: Answers
    propose_new_texts: Callable[..., dict[str, str]] | None = None
    """Instead of the package's own request for a better text."""
    n_calls: int = 0

    def evaluate(self, batch: Sequence[Example], candidate: Mapping[str, str], capture_traces: bool = False) -> Any:
        """Answers to a batch under a candidate, with their scores."""
        from gepa.core.adapter import EvaluationBatch

        self.n_calls += len(batch)
        written = list(self.answers(candidate[_COMPONENT], batch))
        scores = [score_of(self.task, answer, example) for answer, example in zip(written, batch, strict=True)]
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


def _proposing(task: Task, reflect: Callable[[str], str], meta_prompt: str, seed: int) -> Callable[..., dict[str, str]]:
    """Asks by `meta_prompt`, with the examples that the current text was tried on and as many others."""
    rng = Random(f"gepa/{seed}/{task.name}")
    others = list(dict.fromkeys(task.train))

    def propose_new_texts(
        candidate: Mapping[str, str], rows: Mapping[str, Sequence[Mapping[str, str]]], components: Sequence[str]
    ) -> dict[str, str]:
        tried = [row["Inputs"] for row in rows[_COMPONENT]]
        shown = [e for e in others if e.input in tried]
        shown += rng.sample([e for e in others if e not in shown], min(_MORE_SHOWN, len(others) - len(shown)))
        text = reflect(request(meta_prompt, [pair(e.input, e.output) for e in shown]))
        return {_COMPONENT: text or candidate[_COMPONENT]}

    return propose_new_texts


def search(
    task: Task,
    start: str,
    answers: Answers,
    reflect: Callable[[str], str],
    max_metric_calls: int,
    seed: int = 0,
    meta_prompt: str | None = None,
) -> Found:
    """The best prompt that GEPA finds for a task from `start`, by its training and validation examples.

    `meta_prompt` is as of `GepaOptions`. Raises UserError where the package is missing or there is nothing to learn
    from.
    """
    try:
        import gepa
        from gepa.logging.logger import LoggerProtocol
    except ImportError as error:
        raise UserError("The method gepa needs the package gepa.", "pip install 'soft2hard[optimizers]'") from error
    train, validation = list(dict.fromkeys(task.train)), list(dict.fromkeys(task.validation))
    if not train:
        raise UserError(f"The task '{task.name}' has no training examples.", "Give it some.")

    class Silent(LoggerProtocol):
        def log(self, message: str) -> None:
            pass

    adapter = _Adapter(task, answers, _proposing(task, reflect, meta_prompt, seed) if meta_prompt else None)
    found = gepa.optimize(
        {_COMPONENT: start},
        trainset=train,
        valset=validation or train,
        adapter=adapter,
        reflection_lm=lambda prompt: reflect(prompt if isinstance(prompt, str) else str(prompt)),
        max_metric_calls=max_metric_calls,
        seed=seed,
        logger=Silent(),
        display_progress_bar=False,
        raise_on_exception=True,
    )
    scores = found.val_aggregate_scores
    best = max(range(len(scores)), key=lambda i: scores[i])
    prompt = found.candidates[best][_COMPONENT]
    return Found(prompt, float(scores[best]), adapter.n_calls, len(scores))


class Gepa(GepaOptions):
    """One search a case, on the subject; the bench's generator reflects."""

    def check(self, bench: Bench) -> None:
        """Raise UserError where the generator writes single lines alone."""
        if not self.meta_prompt and not isinstance(bench.generator, WholeTextGenerator):
            raise UserError("The generator cannot write whole texts.", "Give a local model or one behind an API.")

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """The best prompt for each case; the trace holds its score on the validation examples and what it took."""
        writer = bench.generator if self.meta_prompt else bench.generator.whole(_REFLECTION_TOKENS)
        starts = self._starts(cases, bench)
        for number, (case, start) in enumerate(zip(cases, starts, strict=True)):
            started = time.monotonic()
            with listening() as heard, on_behalf_of(number):
                found = search(
                    case.task, start, self._answers(case, bench), _reflecting(writer, bench.seed),
                    min(self.max_metric_calls, bench.max_model_calls or self.max_metric_calls), bench.seed,
                    self.meta_prompt,
                )  # fmt: skip
            cost = Cost(time.monotonic() - started, heard.total.sequences, heard.total.tokens)
            trace = {"start": start, "validation_score": found.score, "metric_calls": found.calls, "kept": found.tried}
            yield Outcome(found.prompt, cost, trace)

    def _starts(self, cases: Sequence[Case], bench: Bench) -> list[str]:
        if self.start == "gold":
            return [case.task.instruction or NOTHING for case in cases]
        if self.start == "translation":
            texts = propose(bench.translator, [case.soft_prompt for case in cases], 1)
            return [(of_case[0] if of_case else "") or NOTHING for of_case in texts]
        return [NOTHING] * len(cases)

    @staticmethod
    def _answers(case: Case, bench: Bench) -> Answers:
        subject = bench.fast_subject
        outputs = [example.output for example in (*case.task.train, *case.task.validation)]
        limit = max(_LONGEST_ANSWER, *(len(subject.encode_output(output)) for output in outputs))

        def answers(prompt: str, examples: Sequence[Example]) -> list[str | None]:
            room = subject.context_length
            if room is not None and len(subject.prompt_embeddings(prompt)) > room // 2:
                return [None] * len(examples)  # a prompt that leaves no room is as bad as any
            return list(subject.generate([Query(prompt, e.input) for e in examples], max_new_tokens=limit))

        return answers


def _reflecting(writer: TextGenerator, seed: int) -> Callable[[str], str]:
    asked: dict[str, int] = {}

    def reflect(prompt: str) -> str:
        # The same question again is another sample.
        asked[prompt] = asked.get(prompt, -1) + 1
        return writer.sample([prompt], 1, seed + asked[prompt])[0][0]

    return reflect
