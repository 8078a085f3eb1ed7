"""Instruction induction: what is shown, what is kept of the proposals, and which of them is chosen."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case, Outcome
from soft2hard.eval.methods.instruction_induction import InstructionInduction
from soft2hard.lm.sequences import Query
from tests import tiny_models
from tests.tiny_models import WORDS

PROPOSALS = ["red cat", "one two three", "small bird up", "left", "four"]


class Stub:
    """Says what `answer` makes of the number of a request; keeps what it was asked."""

    def __init__(self, answer: Callable[[int], str]):
        self.answer = answer
        self.asked: list[str] = []
        self.calls: list[tuple[int, int]] = []

    def sample(self, texts: Sequence[str], n: int, seed: int) -> list[list[str]]:
        self.calls.append((n, seed))
        start = len(self.asked)
        self.asked += texts
        return [[self.answer(start + i)] * n for i in range(len(texts))]


def task(name: str = "t", n_train: int = 12) -> Task:
    """Training, validation and test examples that share no input."""
    pairs = [Example(f"{a} {b}", c) for a, b, c in zip(WORDS[3:] * 3, WORDS[5:] * 3, WORDS[7:] * 3, strict=False)]
    return Task(name, "f", "", (), tuple(pairs[:n_train]), tuple(pairs[20:24]), (Example("test test", "test"),))


def run(stub: Stub, *tasks: Task, seed: int = 0, architecture: str = "llama", **options: object) -> list[Outcome]:
    bench = Bench(tiny_models.subject(architecture), generator=stub, seed=seed)
    return list(InstructionInduction(**options).run([Case(task) for task in tasks], bench))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5"])
def test_the_proposal_under_which_the_validation_outputs_are_likeliest_is_chosen(architecture: str):
    subject = tiny_models.subject(architecture)
    tasks = [task("a"), task("b", 7)]
    outcomes = run(Stub(lambda i: PROPOSALS[i % 5]), *tasks, n=5, architecture=architecture)

    def likelihood(text: str, of: Task) -> float:
        """Of one proposal by itself, an example at a time."""
        scores = [subject.target_scores([Query(text, e.input, e.output)])[0] for e in of.validation]
        return float(np.mean([score.log_likelihood / score.n_tokens for score in scores]))

    for outcome, of in zip(outcomes, tasks, strict=True):
        wanted = sorted(((likelihood(text, of), text) for text in PROPOSALS), reverse=True)
        assert outcome.prompt == wanted[0][1] and outcome.failure is None
        found = outcome.trace["candidates"]
        assert [candidate["text"] for candidate in found] == [text for _, text in wanted]
        assert [candidate["log_likelihood"] for candidate in found] == pytest.approx([v for v, _ in wanted], abs=1e-4)


def test_proposals_are_stripped_of_quotes_and_told_apart_once_and_empty_ones_are_dropped():
    said = ["red cat", ' "red  cat" ', ": red cat", "", "  ", "'left'", '""']
    (outcome,) = run(Stub(lambda i: said[i]), task(), n=len(said))
    assert {candidate["text"] for candidate in outcome.trace["candidates"]} == {"red cat", "left"}


def test_the_examples_shown_are_training_examples_k_of_them_and_drawn_by_the_seed():
    stubs = [Stub(lambda i: "left") for _ in range(4)]
    for stub, seed in zip(stubs, (0, 0, 1, 0), strict=True):
        run(stub, task("b" if stub is stubs[3] else "a"), seed=seed, n=6, k=3)
    first, same, other_seed, other_task = (stub.asked for stub in stubs)
    assert first == same and first != other_seed and first != other_task
    assert len(first) == 6 and len(set(first)) > 1, "drawn anew for each proposal"
    pairs = {f"Input: {e.input}\nOutput: {e.output}" for e in task().train}
    for text in first + other_seed:
        shown = text.split("pairs:\n\n")[1].removesuffix("\n\nThe instruction was").split("\n\n")
        assert len(shown) == len(set(shown)) == 3 and set(shown) <= pairs
    assert stubs[2].calls == [(1, 1)], "one call, one sample a request, under the bench's seed"


def test_where_there_are_fewer_examples_than_k_all_are_shown_once():
    few = task(n_train=2)
    doubled = Task(few.name, "f", "", (), few.train * 3, few.validation, few.test)
    stub = Stub(lambda i: "left")
    run(stub, doubled, n=1, k=5)
    assert stub.asked[0].count("Input: ") == 2


def test_a_meta_prompt_of_ones_own_holds_the_examples_where_it_says():
    stub = Stub(lambda i: "left")
    run(stub, task(), n=1, k=1, meta_prompt="<{examples}> {input}")
    assert stub.asked[0].startswith("<Input: ") and stub.asked[0].endswith("> {input}")


def test_with_one_proposal_it_is_taken_as_it_is():
    for text in PROPOSALS:
        (outcome,) = run(Stub(lambda i, text=text: text), task(), n=1)
        assert outcome.prompt == text and len(outcome.trace["candidates"]) == 1


def test_a_case_without_any_proposal_fails_with_its_reason_and_leaves_the_others_as_they_are():
    tasks = [task("a"), task("b"), task("c")]
    whole = run(Stub(lambda i: PROPOSALS[i % 3]), *tasks, n=3)
    outcomes = run(Stub(lambda i: "" if 3 <= i < 6 else PROPOSALS[i % 3]), *tasks, n=3)
    assert outcomes[1].prompt is None and outcomes[1].failure == "the model proposed no instruction"
    assert [outcomes[i].prompt for i in (0, 2)] == [whole[i].prompt for i in (0, 2)]
    for i in (0, 2):
        texts, scores = zip(*((c["text"], c["log_likelihood"]) for c in outcomes[i].trace["candidates"]), strict=True)
        assert list(texts) == [c["text"] for c in whole[i].trace["candidates"]]
        assert list(scores) == pytest.approx([c["log_likelihood"] for c in whole[i].trace["candidates"]], abs=1e-4)


def test_settings_that_cannot_work_are_refused():
    for options in ({"n": 0}, {"k": 0}, {"meta_prompt": "What is it?"}):
        with pytest.raises(UserError):
            InstructionInduction(**options)
