"""What is counted is what models really get to read, padding left out, and each case's own where it is known."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from threading import Thread

import pytest
import torch

from soft2hard.compute import metering
from soft2hard.compute.metering import Count, listening, on_behalf_of
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.eval.methods.base import Bench, Case, Cost, shares
from soft2hard.eval.methods.instruction_induction import InstructionInduction
from soft2hard.eval.methods.translation import GreedyTranslation, VerifiedTranslation
from soft2hard.lm.scoring import Scorer
from soft2hard.lm.sequences import Query
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.prompts.template import Template
from soft2hard.translator.candidates import Reading, propose
from soft2hard.translator.probing import invented_inputs
from tests import tiny_models, tiny_training

WORDS = tiny_models.WORDS[3:]
ARCHITECTURES = ["llama", "gpt2", "t5", "bart"]


@contextmanager
def read_by(*modules: torch.nn.Module) -> Iterator[Count]:
    """Rows and unmasked tokens of all calls of these modules, taken from their own arguments."""
    found = Count()

    def note(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        given = next(kwargs[k] for k in ("inputs_embeds", "input_ids") if kwargs.get(k) is not None)
        mask = kwargs.get("attention_mask")
        rows, width = given.shape[:2]
        # With a cache the mask covers what was read before, too; a mask by query and key does not tell what is padding.
        real = mask[:, -width:].sum() if mask is not None and mask.ndim == 2 else rows * width
        found.add(rows, int(real))

    hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def stacks(subject: Subject) -> list[torch.nn.Module]:
    """The modules whose inputs are what is read: an encoder and a decoder, or a decoder alone."""
    base = subject.model.base_model
    return [base.encoder, base.decoder] if subject.is_encoder_decoder else [base]


def queries(n: int, output: str | None = None) -> list[Query]:
    rng = Random(n)
    words = lambda: " ".join(rng.choices(WORDS, k=rng.randint(1, 5)))  # noqa: E731
    return [Query(words(), words(), words() if output is None else None) for _ in range(n)]


def counted(run: Callable[[], object]) -> Count:
    with listening() as heard:
        run()
    return heard.total


# --- listening --------------------------------------------------------------------------------


def test_each_listener_hears_what_happens_in_its_block_and_its_thread() -> None:
    metering.count(7, 7)
    with listening() as outer:
        metering.count(1, 10)
        with listening() as inner:
            metering.count(2, 20)
        with on_behalf_of(3):
            metering.count(4, 40)
        other = Thread(target=metering.count, args=(100, 100))
        other.start()
        other.join()
    metering.count(7, 7)
    assert inner.total == Count(2, 20)
    assert outer.total == Count(7, 70)
    assert (outer.shared, outer.own) == (Count(3, 30), {3: Count(4, 40)})


def test_a_listener_ends_with_its_block_whatever_happens_there() -> None:
    with pytest.raises(ValueError), listening() as heard, on_behalf_of(1):
        raise ValueError
    metering.count(1, 1)
    with listening() as later:
        metering.count(1, 1)
    assert heard.total == Count() and later.shared == Count(1, 1)


def test_shares_are_equal_whole_numbers_with_the_rest_at_the_first_and_each_ones_own_on_top() -> None:
    costs = shares(Cost(3.0, 8, 11), 3, {1: Count(5, 50)})
    assert costs == [Cost(1.0, 4, 5), Cost(1.0, 7, 53), Cost(1.0, 2, 3)]
    assert shares(Cost(3.0, 8, 11), 0) == []


# --- the subject ------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scored_sequences_count_once_with_all_they_are_read_from(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = tiny_models.subject(architecture)
    monkeypatch.setattr(subject.scorer, "shares_prefixes", False)  # the mask of shared rows does not tell padding
    asked = queries(9)
    for ask in (subject.target_scores, subject.target_distributions):
        with read_by(stacks(subject)[0]) as read:
            found = counted(lambda ask=ask: ask(asked, batch_tokens=60))
        # A decoder's own input has no mask to leave its padding out by.
        in_decoder = sum(len(subject.encode_output(q.output)) for q in asked) if subject.is_encoder_decoder else 0
        assert found == Count(len(asked), read.tokens + in_decoder)
        assert read.sequences == len(asked)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_written_sequence_counts_what_is_read_for_it_alone(architecture: str) -> None:
    """One query at a time there is neither padding nor waiting, and every token that goes in is real."""
    subject = tiny_models.subject(architecture)
    asked = queries(6, output="")
    for n_new in (1, 12):
        tokens = 0
        for query in asked:
            with read_by(*stacks(subject)) as read:
                subject.generate([query], max_new_tokens=n_new)
            tokens += read.tokens
        assert counted(lambda n_new=n_new: subject.generate(asked, max_new_tokens=n_new)) == Count(len(asked), tokens)


@pytest.mark.parametrize("shared", [True, False])
def test_a_prompt_counts_as_often_as_it_is_read(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_models.subject("llama")
    runner = subject.scorer
    monkeypatch.setattr(runner, "shares_prefixes", shared)
    examples = [[subject.encode_example(q.input, q.output, "soft") for q in queries(n)] for n in (3, 5)]
    prompts = [subject.prompt_embeddings(text) for text in ("red cat", "up")]
    tokens = 0
    for prompt, of_prompt in zip(prompts, examples, strict=True):  # one prompt alone is laid out without padding
        with read_by(subject.model.base_model) as read:
            runner.run([prompt], [of_prompt])
        tokens += read.tokens
    assert counted(lambda: runner.run(prompts, examples)) == Count(8, tokens)


def test_an_encoder_decoder_counts_both_of_its_inputs() -> None:
    subject = tiny_models.subject("t5")
    asked = queries(4)
    examples = [subject.encode_example(q.input, q.output, "soft") for q in asked]
    prompts = [subject.prompt_embeddings(q.prompt) for q in asked]
    tokens = 0
    for prompt, example in zip(prompts, examples, strict=True):
        with read_by(*stacks(subject)) as read:
            subject.scorer.run([prompt], [[example]])
        tokens += read.tokens
    together = counted(lambda: subject.scorer.run(prompts, [[example] for example in examples]))
    assert together == Count(4, tokens)


def test_invented_inputs_count_a_sequence_a_row_and_each_token_that_is_read() -> None:
    subject = tiny_training.llama_subject()
    with read_by(subject.model.base_model) as read:
        found = counted(lambda: invented_inputs(subject, [["red cat"]], 1))
    assert 1 <= found.sequences <= 3  # a try each, of one row, so nothing is padded and nobody waits
    assert found.tokens == read.tokens


# --- the translator ---------------------------------------------------------------------------


def translator_stacks() -> list[torch.nn.Module]:
    base = tiny_training.trained().model.seq2seq.base_model
    return [base.encoder, base.decoder]


def known_soft_prompts(n: int) -> list[SoftPrompt]:
    return tiny_training.soft_prompts(tiny_training.corpora(tiny_training.llama_subject())[0])[: 2 * n : 2]


def test_greedy_decoding_counts_a_sequence_for_each_soft_prompt_and_what_was_read_for_it() -> None:
    translator, soft_prompts = tiny_training.trained(), known_soft_prompts(4)
    soft_prompts.append(SoftPrompt(torch.cat([p.embeddings for p in soft_prompts])))
    with listening() as together:
        propose(translator, soft_prompts, 1)
    for i, soft_prompt in enumerate(soft_prompts):
        encoder, decoder = translator_stacks()
        with read_by(encoder) as encoded, read_by(decoder) as decoded:
            propose(translator, [soft_prompt], 1)
        assert encoded.tokens == soft_prompt.n_tokens
        # The decoder's mask is that of the encoder's output: without cache all steps' inputs, with it one token each.
        assert together.own[i] == Count(1, soft_prompt.n_tokens + decoded.sequences)
    assert together.shared == Count()


def test_candidates_count_as_many_sequences_as_are_asked_for() -> None:
    found = counted(lambda: propose(tiny_training.trained(), known_soft_prompts(3), 16))
    assert found.sequences == 3 * 16


def test_texts_that_the_translator_scores_count_once_each_and_its_encoder_once() -> None:
    translator, [soft_prompt] = tiny_training.trained(), known_soft_prompts(1)
    reading = Reading(translator, soft_prompt)
    assert counted(lambda: Reading(translator, soft_prompt)) == Count(0, soft_prompt.n_tokens)
    assert counted(lambda: reading.log_probs(["red cat", "up"])) == Count(2, 3 + 2)  # with their ends
    assert counted(lambda: reading.next_log_probs([[5, 6, 7]])) == Count(1, 4)
    with read_by(translator_stacks()[1]) as read:
        found = counted(lambda: reading.complete([[5]]))
    assert found == Count(1, read.sequences)  # each step reads one


# --- methods ----------------------------------------------------------------------------------


def case(number: int, subject: Subject, n_examples: int = 12) -> Case:
    rng = Random(f"case {number}")
    examples = [Example(" ".join(rng.sample(WORDS, 2)), rng.choice(WORDS)) for _ in range(n_examples)]
    soft_prompt = SoftPrompt(subject.embed_text(" ".join(rng.sample(WORDS, 3))).clone(), template=Template())
    half = n_examples // 2
    return Case(
        Task(f"task {number}", "made up", "", (), tuple(examples[:half]), tuple(examples[half:]), ()), soft_prompt
    )


@pytest.fixture(scope="module")
def bench() -> Bench:
    subject = tiny_training.llama_subject()
    return Bench(subject, translator=tiny_training.trained())


def test_greedy_translations_cost_what_each_would_cost_alone(bench: Bench) -> None:
    cases = [case(i, bench.subject) for i in range(3)]
    together = [o.cost for o in GreedyTranslation().run(cases, bench)]
    alone = [next(GreedyTranslation().run([c], bench)).cost for c in cases]
    assert [(c.model_calls, c.tokens) for c in together] == [(c.model_calls, c.tokens) for c in alone]
    assert all(cost.model_calls == 1 and cost.tokens > 3 for cost in together)


@pytest.mark.parametrize("inputs", ["examples", "invented"])
def test_verified_translations_cost_all_that_ran_on_the_subject_and_the_translator(
    bench: Bench, inputs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = VerifiedTranslation(n_candidates=8, n_probes=6, n_checks=4, refine_rounds=1, inputs=inputs)
    cases = [case(i, bench.subject) for i in range(2)]
    sequences = 0

    def noted(name: str, owner: type, number: Callable[..., int]) -> None:
        original = getattr(owner, name)

        def wrapped(self: object, *args: object, **kwargs: object) -> object:
            nonlocal sequences
            sequences += number(*args)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    noted("run", Scorer, lambda prompts, examples: sum(map(len, examples)))
    noted("generate_ids", Subject, lambda queries, *rest: len(queries))
    noted("sequence_log_probs", Reading, len)
    noted("next_log_probs", Reading, len)
    noted("complete", Reading, len)
    outcomes = list(method.run(cases, bench))
    if inputs == "invented":
        with listening() as heard:
            guesses = [texts[:4] for texts in propose(bench.translator, [c.soft_prompt for c in cases], 8)]
            before = heard.total.sequences
            invented_inputs(bench.subject, guesses, 10, 0)
        sequences += heard.total.sequences - before
    assert sum(o.cost.model_calls for o in outcomes) == sequences + 2 * 8
    assert min(o.cost.tokens / o.cost.model_calls for o in outcomes) > 2


def test_a_verified_translation_costs_its_own_search_whatever_its_company(bench: Bench) -> None:
    method = VerifiedTranslation(n_candidates=8, n_probes=6, n_checks=4, refine_rounds=1)
    cases = [case(i, bench.subject) for i in range(3)]
    together = [o.cost.model_calls for o in method.run(cases, bench)]
    alone = [next(method.run([c], bench)).cost.model_calls for c in cases]
    assert together == alone


class Echo:
    """Proposes a word of the request, behind no model that could count."""

    def sample(self, texts: list[str], n: int, seed: int) -> list[list[str]]:
        return [[WORDS[len(text) % 3]] for text in texts]


class Counting(Echo):
    """The same, and says what it took."""

    def sample(self, texts: list[str], n: int, seed: int) -> list[list[str]]:
        metering.count(2 * len(texts), 100 * len(texts))
        return super().sample(texts, n, seed)


def test_induction_costs_its_requests_and_the_scoring_of_its_distinct_proposals(bench: Bench) -> None:
    cases = [case(i, bench.subject, n) for i, n in enumerate((12, 8))]
    method = InstructionInduction(n=4, k=2, meta_prompt="{examples}")
    encode = lambda text: bench.subject.tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    outcomes = list(method.run(cases, Bench(bench.subject, generator=Echo())))
    counting = list(method.run(cases, Bench(bench.subject, generator=Counting())))
    for c, outcome, other in zip(cases, outcomes, counting, strict=True):
        proposals = [candidate["text"] for candidate in outcome.trace["candidates"]]
        scored = [Query(text, e.input, e.output) for text in proposals for e in c.task.validation]
        requests = [method._request(c, bench, i) for i in range(4)]
        of_scoring = counted(lambda scored=scored: bench.subject.target_scores(scored))
        assert outcome.cost.model_calls == 4 + len(scored)
        assert outcome.cost.tokens == sum(len(encode(r)) + 1 for r in requests) + of_scoring.tokens
        assert other.cost.model_calls == 4 * 2 + len(scored)
        assert other.cost.tokens == 4 * 100 + of_scoring.tokens
