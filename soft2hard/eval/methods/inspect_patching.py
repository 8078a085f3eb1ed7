"""InSPEcT: the subject itself is asked what a soft prompt says (Ramati et al., arXiv 2410.11660).

A target prompt is the text that a soft prompt is patched into. The few-shot one is three descriptions of tasks and, in
the place of a fourth, the placeholders (section 3); the chain-of-thought one (the InSPEcT baseline of arXiv 2605.27642)
begins with the placeholders and asks for the classes of an input. The forms are the published ones, the wording ours;
for a subject that knows other words, demonstrations are made from tasks it knows.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from random import Random
from typing import Any

from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case, Cost, Outcome, shares
from soft2hard.eval.methods.options import InspectOptions, InspectOracleOptions, Selection
from soft2hard.eval.metrics.descriptions import best_readings, content_rouge1
from soft2hard.eval.metrics.text import class_rate, rouge
from soft2hard.lm.patching import Pair, PatchedPrompt, Patcher
from soft2hard.lm.sentences import Encoder, embedding_cosines
from soft2hard.translator.proposers.elicit import (
    BUILT_IN,
    TargetText,
    description,
    encode_target,
    few_shot_target,
    placeholder_embedding,
    released_description,
    stop_ids,
)

_KEPT = 5  # descriptions of a case that the oracle's trace keeps


class _Patching:
    """Hidden states of the soft prompt, patched from one layer into a target prompt at another, and what follows."""

    def check(self, bench: Bench) -> None:
        """Raise UserError for a subject without blocks to patch, without these layers, or that does not know the
        placeholder."""
        self.check_layers(len(Patcher(bench.subject, [], self.max_new_tokens, entry=self.entry).blocks))
        placeholder_embedding(bench.subject, self.placeholder)

    def check_layers(self, n_layers: int) -> None:
        """Raise UserError where `sources` or `targets` name a layer that a subject with so many does not have."""
        wrong = [x for x in (*(self.sources or ()), *(self.targets or ())) if not 0 <= x < n_layers]
        if wrong:
            raise UserError(
                f"{self.name}: there is no layer {wrong[0]}; the subject has layers 0 to {n_layers - 1}.",
                "Leave sources and targets out for all layers.",
            )

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """One description a case; what is run for the choice of layers is shared by all cases.

        Raises UserError as `Describer` does.
        """
        started = time.monotonic()
        describer = Describer(self, bench)
        pairs, of_pairs = self._pairs(describer)
        found = describer.describe(cases, pairs)
        patcher = describer.patcher
        whole = Cost(time.monotonic() - started, patcher.n_sequences, patcher.n_tokens)
        for case, described, cost in zip(cases, found, shares(whole, len(cases)), strict=True):
            if isinstance(described, str):
                yield Outcome(None, cost, failure=described)
                continue
            target, texts = described
            best, of_best = self._best(texts, pairs, describer, case.task)
            trace = dict(zip(("source_layer", "target_layer"), pairs[best], strict=True))
            trace |= of_pairs | of_best | {"target_prompt": target}
            text = texts[best]
            yield Outcome(text or None, cost, trace, None if text else "the subject wrote no words")


class Inspect(_Patching, InspectOptions):
    """The pair of layers is the one whose descriptions score best, on average, on the bench's validation cases
    (`description_scores`; the first of equals). Where `sources` and `targets` leave one pair, nothing is chosen."""

    def _pairs(self, describer: "Describer") -> tuple[list[Pair], dict[str, Any]]:
        """The pairs of layers that all cases are described under, and what the trace says of their choice."""
        pairs, trace = describer.pairs, {"oracle": False}
        if len(pairs) == 1:
            return pairs, trace
        scores = describer.pair_scores()
        best = max(range(len(pairs)), key=lambda i: scores[i])
        grid = [[*pair, round(score, 4)] for pair, score in zip(pairs, scores, strict=True)]
        return [pairs[best]], trace | {"validation_score": scores[best], "validation_scores": grid}

    def _best(
        self, texts: Sequence[str], pairs: Sequence[Pair], describer: "Describer", task: Task
    ) -> tuple[int, dict[str, Any]]:
        """The number of the pair whose description is a case's prompt, and what the trace says of this choice."""
        return 0, {}


class InspectOracle(_Patching, InspectOracleOptions):
    """The description with the highest of `description_scores` against the case itself.

    The trace says `oracle`, and has the `BestReadings` of all pairs."""

    def _pairs(self, describer: "Describer") -> tuple[list[Pair], dict[str, Any]]:
        return describer.pairs, {"oracle": True}

    def _best(
        self, texts: Sequence[str], pairs: Sequence[Pair], describer: "Describer", task: Task
    ) -> tuple[int, dict[str, Any]]:
        scores = describer.scores(texts, task)
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        kept = [{"layers": list(pairs[i]), "text": texts[i], "score": round(scores[i], 4)} for i in order[:_KEPT]]
        return order[0], {"best": kept} | asdict(best_readings(texts, task))


class Describer:
    """Descriptions of cases under one setting and one bench.

    Raises UserError for a subject without blocks to patch, for layers it does not have, and where demonstrations are
    to be made of validation tasks and none has an instruction.
    """

    def __init__(self, method: Inspect | InspectOracle, bench: Bench) -> None:
        self.method, self.bench, self.subject = method, bench, bench.subject
        released = method.cut == "released"
        self._said = released_description if released else description
        stops = list(bench.subject.eos_ids) if released else stop_ids(bench.subject)
        self.patcher = Patcher(bench.subject, stops, method.max_new_tokens, entry=method.entry)
        method.check_layers(len(self.patcher.blocks))
        self.pairs: list[Pair] = self.patcher.pairs(method.sources, method.targets)
        self._demonstrations = [] if method.target == "chain_of_thought" else self._choose_demonstrations()

    def _choose_demonstrations(self) -> list[str]:
        method, texts = self.method, self.method.demonstrations
        if texts == "built-in":
            texts = BUILT_IN[method.target]
        elif texts == "validation":
            tasks = [case.task for case in self.bench.validation if case.task.instruction]
            texts = list(dict.fromkeys(demonstration(task, method.target) for task in tasks))
            if not texts:
                raise UserError(
                    f"{method.name}: no validation task has an instruction to make a demonstration of.",
                    "Give validation tasks, or demonstrations as a list of texts.",
                )
        return chosen(texts, method.n_demonstrations, self.bench.seed)

    def pair_scores(self) -> list[float]:
        """The mean score of each pair over validation cases; those shown as demonstrations are left out.

        Raises UserError where no validation case can be described.
        """
        usable = [case for case in self.bench.validation if self._scores(case)][: self.method.n_validation]
        found = self.describe(usable, self.pairs)
        rows = [
            self.scores(described[1], case.task)
            for case, described in zip(usable, found, strict=True)
            if not isinstance(described, str)
        ]
        if not rows:
            raise UserError(
                f"{self.method.name}: there is no validation case to choose a pair of layers on.",
                "Give validation cases with soft prompts and instructions, or one layer each as sources and targets.",
            )
        return [sum(scores) / len(rows) for scores in zip(*rows, strict=True)]

    def scores(self, texts: Sequence[str], task: Task) -> list[float]:
        """Those of `description_scores` under the method's `select`."""
        return description_scores(texts, task, self.method.select, self.bench.encoder)

    def _scores(self, case: Case) -> bool:
        task = case.task
        shown = self.method.demonstrations == "validation" and demonstration(task, self.method.target)
        needed = {"score": task.instruction or task.labels, "class_rate": task.labels}
        known = needed.get(self.method.select, task.instruction)
        return bool(case.soft_prompt and known and shown not in self._demonstrations)

    def describe(self, cases: Sequence[Case], pairs: Sequence[Pair]) -> list[tuple[str, list[str]] | str]:
        """All cases in shared batches: the target prompt, and a text for each pair of layers, empty where the subject
        wrote no words; for a case that cannot be described, the reason."""
        prepared = [self._prepared(case) for case in cases]
        written = iter(self.patcher.write([found[0] for found in prepared if not isinstance(found, str)], pairs))
        texts = lambda: [self._said(self.subject, ids) for ids in next(written)]  # noqa: E731
        return [found if isinstance(found, str) else (found[1], texts()) for found in prepared]

    def _prepared(self, case: Case) -> tuple[PatchedPrompt, str] | str:
        """The target prompt of a case, encoded and in words, or why there is none."""
        if problem := case.soft_prompt_problem(self.subject):
            return problem
        text = few_shot_target(self._demonstrations, self.method.separator)
        if self.method.target == "chain_of_thought":
            if not case.task.train:
                return "the task has no training input for the chain-of-thought prompt"
            (shown,) = chosen([example.input for example in case.task.train], 1, self.bench.seed)
            text = TargetText("", self.method.reasoning.replace("{input}", shown))
        prompt = encode_target(self.subject, case.soft_prompt, text, self.method.placeholder)
        needed = prompt.n_read + self.method.max_new_tokens
        limit = self.subject.context_length
        if limit is not None and needed > limit:
            return f"the target prompt needs {needed} tokens and the subject has room for {limit}"
        return prompt, f"{text.before} [soft prompt]{text.after}".strip()


def description_scores(
    texts: Sequence[str], task: Task, select: Selection = "score", encoder: Encoder | None = None
) -> list[float]:
    """How well each text describes a task by one measure (`InspectOptions.select`); 0 where the task lacks what the
    measure needs. A text without words has a cosine of 0. Raises UserError for 'cosine' without an encoder."""
    if select == "score":
        return [description_score(text, task) for text in texts]
    if select == "class_rate":
        return [class_rate(text, task.labels) if task.labels else 0.0 for text in texts]
    if not task.instruction:
        return [0.0] * len(texts)
    if select == "rouge1":
        return [content_rouge1(text, task.phrasings) for text in texts]
    if encoder is None:
        raise UserError("Layers are to be chosen by cosine, and there is no encoder.", "Name an encoder.")
    said = [text for text in dict.fromkeys(texts) if text]
    cosines = embedding_cosines(said, [task.instruction] * len(said), encoder) if said else []
    of_text = dict(zip(said, cosines, strict=True))
    return [of_text.get(text, 0.0) for text in texts]


def description_score(text: str, task: Task) -> float:
    """How well a text describes a task, 0 to 1: InSPEcT's two measures (section 4).

    ROUGE-1 against the instruction or its best paraphrase; where the task has label words, its mean with the class
    rate; the class rate alone where there is no instruction.
    """
    scores = [class_rate(text, task.labels)] if task.labels else []
    if task.instruction:
        scores.append(rouge(text, task.phrasings).rouge1)
    return sum(scores) / len(scores) if scores else 0.0


def chosen(texts: Sequence[str], n: int, seed: int) -> list[str]:
    """`n` of the texts in random order, the same for the same seed."""
    return Random(f"chosen/{seed}").sample(list(texts), min(n, len(texts)))


def demonstration(task: Task, style: str) -> str:
    """A task written as the style has it; the instruction alone where the task has no classes to list.

    `repeated` says the instruction twice, after the identity prompt of Patchscopes (arXiv 2401.06102, section 3): a
    model that was never trained on lists of descriptions still knows how to repeat.
    """
    if style == "repeated":
        return f"{task.instruction} {task.instruction}"
    if not task.labels:
        return task.instruction
    classes, description = ", ".join(task.labels), task.instruction.rstrip(".")
    return f"{classes}: {task.instruction}" if style == "classes_before" else f"{description}: {classes}"
