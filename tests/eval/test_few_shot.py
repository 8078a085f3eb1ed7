"""Few-shot prompts: which examples they show, how they are written, and what does not fit."""

import pytest

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case, Outcome
from soft2hard.eval.methods.reference_points import FewShot
from soft2hard.lm.sequences import Query
from tests import tiny_models
from tests.tiny_models import CONTEXT, WORDS


def task(n_train: int = 12, name: str = "t", n_words: int = 1) -> Task:
    """Inputs of `n_words` words, outputs of one; the test example has words of its own."""
    shown = WORDS[3:]
    train = [
        Example(" ".join(shown[(i + j) % len(shown)] for j in range(n_words)), shown[(i + 5) % len(shown)])
        for i in range(n_train)
    ]
    return Task(name, "f", "red cat", (), tuple(train), (), (Example("Input Output", "Input"),))


def run(*tasks: Task, seed: int = 0, architecture: str = "llama", **options: object) -> list[Outcome]:
    bench = Bench(tiny_models.subject(architecture), seed=seed)
    return list(FewShot(**options).run([Case(task) for task in tasks], bench))


def pairs(text: str) -> list[tuple[str, str]]:
    """Input and output of each block of a prompt."""
    blocks = text.split("Input: ")[1:]
    return [tuple(part.strip() for part in block.split("\nOutput: ")) for block in blocks]


def known(task: Task) -> set[tuple[str, str]]:
    return {(e.input, e.output) for e in task.train}


@pytest.mark.parametrize("k", [1, 3, 5])
def test_k_distinct_training_examples_are_shown_each_as_a_query_and_its_output(k: int):
    (outcome,) = run(task(), k=k)
    shown = pairs(outcome.prompt)
    assert len(shown) == len(set(shown)) == k == outcome.trace["k"] and set(shown) <= known(task())
    assert outcome.prompt == "\n".join(f"Input: {x}\nOutput: {y}" for x, y in shown)


def test_the_instruction_stands_before_the_examples_where_it_is_asked_for():
    (plain,), (told,) = run(task(), k=3), run(task(), k=3, with_instruction=True)
    assert told.prompt == f"red cat\n{plain.prompt}"


def test_a_task_without_an_instruction_shows_its_examples_alone():
    bare = Task("t", "f", "", (), task().train, (), ())
    assert run(bare, k=3, with_instruction=True)[0].prompt == run(bare, k=3)[0].prompt


def test_the_draw_depends_on_seed_and_task_and_on_no_other_case():
    first, second = task(), task(name="other")
    together = [outcome.prompt for outcome in run(first, second, k=4)]
    assert together == [run(first, k=4)[0].prompt, run(second, k=4)[0].prompt]
    assert together[0] != together[1]
    assert run(first, k=4, seed=1)[0].prompt != together[0]


def test_fewer_are_shown_where_there_are_fewer_and_none_twice():
    few = task(3)
    doubled = Task("t", "f", "", (), few.train * 2, (), ())
    (outcome,) = run(doubled, k=8)
    assert outcome.trace["k"] == 3 and set(pairs(outcome.prompt)) == known(few)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_examples_that_the_context_has_no_room_for_are_left_out_and_the_query_still_fits(architecture: str):
    subject, long = tiny_models.subject(architecture), task(n_words=3)
    (outcome,) = run(long, k=12, architecture=architecture)
    n = outcome.trace["k"]
    assert 1 <= n < 12 and len(pairs(outcome.prompt)) == n
    subject.target_scores([Query(outcome.prompt, e.input, e.output) for e in long.train])  # raises what does not fit
    # A block is "Input : a b c Output : d": one more would leave less than one and a half queries of room.
    n_prompt, block, query = len(subject.prompt_embeddings(outcome.prompt)), 8, 9
    assert n_prompt + block > CONTEXT - query * 3 // 2


def test_where_not_one_example_fits_the_case_fails_with_its_reason_and_the_others_do_not():
    huge = task(n_words=40, name="huge")
    failed, fine = run(huge, task(), k=2)
    assert failed.prompt is None and failed.failure == "not one example fits the subject's context"
    assert fine.prompt == run(task(), k=2)[0].prompt


def test_without_a_limit_to_the_context_all_are_shown():
    assert tiny_models.subject("t5").context_length is None
    assert run(task(), k=12, architecture="t5")[0].trace["k"] == 12


def test_no_examples_at_all_is_refused():
    with pytest.raises(UserError, match="k is 0"):
        FewShot(k=0)
