"""MIPROv2 (Opsahl-Ong et al. 2024, arXiv 2406.11695): instructions that a language model proposes from examples, and
sets of demonstrations that the model itself got right, combined by a Bayesian search.

The search is that of the package `dspy`, at the settings that it calls light. A program of DSPy lays its prompts out
itself; the one here leaves that to the template, so that what it finds is a text that any model can be sent.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from random import Random
from typing import Any, ClassVar

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.methods.options import MiproOptions
from soft2hard.eval.methods.reflective import (
    Answers,
    Found,
    Optimising,
    Reflect,
    Search,
    Terms,
    Watched,
    asked_by,
    learning_examples,
    score_of,
)
from soft2hard.prompts.template import Template

_CANDIDATES = 6
"""Instructions with sets of demonstrations, in the run that the package calls light; half as many instructions."""
_DEMONSTRATIONS = 4
"""Of either kind at most: answers that were right, and labelled examples."""
_BOOTSTRAPS = _CANDIDATES - 2
"""Sets that are made by answering training examples."""
_TRIALS = 10
"""2 variables, log2 of 6 candidates: what the package makes of them."""
_FIELD = re.compile(r"\[\[ ## (\w+) ## \]\]")
_PROPOSED = "proposed_instruction"


@dataclass
class _Model:
    """Answers of the model under the search: validation examples of a prompt at once, and never twice."""

    task: Task
    answers: Answers
    validation: Sequence[Example]
    max_calls: int
    known: dict[tuple[str, str], str | None] = field(default_factory=dict)
    n_calls: int = 0

    def __call__(self, prompt: str, text: str) -> str | None:
        """The answer for an input; None also where the budget is used up."""
        if (prompt, text) not in self.known:
            is_validation = any(example.input == text for example in self.validation)
            batch = self.validation if is_validation else [Example(text, "")]
            if self.n_calls + len(batch) > self.max_calls:
                return None
            self.n_calls += len(batch)
            written = self.answers(prompt, batch)
            self.known |= {(prompt, e.input): text for e, text in zip(batch, written, strict=True)}
        return self.known[prompt, text]

    def metric(self, example: Any, said: Any, trace: Any = None) -> float | bool:
        """The score of an answer; while demonstrations are made (there is a trace), whether it may be one."""
        score = score_of(self.task, said.output, Example(example.input, example.output))
        return score if trace is None else score == 1

    def mean(self, prompt: str) -> float | None:
        """Of the validation examples; None where they were not all asked."""
        if not all((prompt, e.input) in self.known for e in self.validation):
            return None
        scores = [score_of(self.task, self.known[prompt, e.input], e) for e in self.validation]
        return sum(scores) / len(scores)


def search(task: Task, start: str, answers: Answers, reflect: Reflect, terms: Terms) -> Found:
    """As `Search` says. Half of the budget may go to training examples, of which demonstrations are made.

    With a meta prompt, instructions are proposed by it alone, without the package's summaries of data and program.
    """
    dspy, n = _package(), terms.max_metric_calls
    train, validation = learning_examples(task)
    validation = validation[: max(1, n // (_TRIALS + 1))]
    train = [e for e in train if e not in validation] or train
    train = train[: max(2, n // 2 // _BOOTSTRAPS)]
    watched = Watched()
    model = _Model(task, watched.calling(answers), validation, n)
    found: dict[str, Found] = {}
    engine = _Engine(task, watched.calling(reflect), terms.meta_prompt, terms.seed)
    lm = dspy.LM("reflection", engine=engine, cache=False)
    optimizer = dspy.MIPROv2(
        metric=watched.calling(model.metric), prompt_model=lm, task_model=lm, auto=None,
        num_candidates=_CANDIDATES, seed=terms.seed, num_threads=1,
        max_bootstrapped_demos=_DEMONSTRATIONS, max_labeled_demos=_DEMONSTRATIONS,
    )  # fmt: skip
    optimizer.num_instruct_candidates = _CANDIDATES // 2
    try:
        optimizer.compile(
            _program(dspy, start, model, terms.template, found), trainset=_examples(dspy, train), num_trials=_TRIALS,
            valset=_examples(dspy, validation), minibatch=False, program_aware_proposer=False,
            data_aware_proposer=terms.meta_prompt is None, tip_aware_proposer=terms.meta_prompt is None,
        )  # fmt: skip
    except Exception as error:
        if watched.error is None:
            remedy = "Give a reflection model that keeps to the fields that it is asked for."
            raise UserError(f"MIPROv2 ended: {error}", remedy) from error
    stopped = watched.out_of_budget()
    # Of equals the first: the start where nothing is better.
    best = max(found.values(), key=lambda one: one.score, default=Found(start, None, 0, 0))
    return replace(best, calls=model.n_calls, tried=len(found), stopped=stopped)


def _program(dspy: Any, start: str, model: _Model, template: Template, found: dict[str, Found]) -> Any:
    """A program of one step whose instruction and demonstrations are DSPy's, its layout and model ours.

    `found` takes every prompt whose validation examples were all answered.
    """

    class Program(dspy.Predict):
        def forward(self, **given: Any) -> Any:
            shown = tuple(Example(demo["input"], demo["output"]) for demo in self.demos)
            one = Found(self.signature.instructions, 0.0, 0, 0, shown)
            prompt = one.prompt(template)
            text = model(prompt, given["input"])
            if (mean := model.mean(prompt)) is not None:
                found.setdefault(prompt, replace(one, score=mean))
            return self._forward_postprocess([{"output": text or ""}], self.signature, **given)

    return Program(dspy.Signature("input -> output", start))


def _examples(dspy: Any, examples: Sequence[Example]) -> list[Any]:
    return [dspy.Example(input=e.input, output=e.output).with_inputs("input") for e in examples]


@dataclass
class _Engine:
    """The reflection model as DSPy calls it."""

    task: Task
    reflect: Reflect
    meta_prompt: str | None
    seed: int

    def __post_init__(self) -> None:
        self.rng = Random(f"mipro/{self.seed}/{self.task.name}")

    def complete(self, request: Any) -> Any:
        """An answer in the field that was asked for, also of a model that names none."""
        from dspy.lm15 import Message, Response, TextPart, Usage

        asked = "\n\n".join(_texts(request.system) + [text for m in request.messages for text in _texts(m.parts)])
        wanted = _FIELD.findall(asked)
        name = next((name for name in reversed(wanted) if name != "completed"), _PROPOSED)
        text = self.reflect(asked_by(self.meta_prompt, self.task, (), self.rng) if self.meta_prompt else asked)
        if name not in _FIELD.findall(text):
            text = f"[[ ## {name} ## ]]\n{text}\n\n[[ ## completed ## ]]"
        return Response(None, "reflection", Message("assistant", (TextPart(text),)), "stop", Usage())


def _texts(parts: Any) -> list[str]:
    if parts is None or isinstance(parts, str):
        return [parts] if parts else []
    return [part if isinstance(part, str) else part.text for part in parts]


def _package() -> Any:
    try:
        import dspy
        import optuna  # noqa: F401, which dspy needs for this alone
    except ImportError as error:
        remedy = "pip install 'soft2hard[optimizers]'"
        raise UserError("The method mipro needs the packages dspy and optuna.", remedy) from error
    return dspy


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed by the package, which tells of every step and can be told to in no other way."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


class Mipro(Optimising, MiproOptions):
    """MIPROv2 on the subject."""

    search: ClassVar[Search] = staticmethod(search)
