"""The method `translated`: which models it needs, what its options do, and what its rows and traces hold."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.config import Evaluation, parse_config
from soft2hard.eval.harness import Harness
from soft2hard.eval.methods.base import Bench, Case, Outcome
from soft2hard.eval.methods.translation import GreedyTranslation, VerifiedTranslation
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.candidates import propose
from soft2hard.translator.data import View
from soft2hard.translator.demonstrations import acting
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import Design
from tests import tiny_models, tiny_training

WORDS = tiny_models.WORDS[3:]
PAIRS = [f"{a} {b}" for a in WORDS[:6] for b in WORDS[6:12]]
TUNING = {"n_tokens": 2, "steps": 4, "batch_size": 4, "eval_every": 2, "init": "vocabulary"}
FEW = {"n_probes": 8, "n_checks": 16, "n_descriptions": 3, "n_samples": 8, "search_rounds": 1, "search_texts": 8}


class Saying:
    """A generator that says the same to all, and keeps what it was asked."""

    def __init__(self, text: str):
        self.text, self.asked = text, []

    def sample(self, texts: Sequence[str], n: int, seed: int) -> list[list[str]]:
        self.asked += texts
        return [[self.text] * n for _ in texts]


@pytest.fixture(scope="module")
def subject() -> Subject:
    return tiny_training.llama_subject(max_position_embeddings=512)


@pytest.fixture(scope="module")
def case(subject: Subject) -> Case:
    """A soft prompt of two words, and a task whose labels are wrong throughout, so that any use of them shows."""
    examples = tuple(Example(text, "wrong") for text in PAIRS)
    task = Task("planted", "tiny", "Say wrong.", (), examples[12:], examples[:12], examples[:2], ("wrong",), "exact")
    prompt = SoftPrompt(subject.embed_text("cat dog").clone(), template=subject.template)
    return Case(task, prompt)


def outcome(case: Case, bench: Bench, **options: object) -> Outcome:
    [found] = VerifiedTranslation(**FEW | options).run([case], bench)
    return found


@pytest.mark.parametrize(
    ("propose", "models"),
    [
        (("translator",), {"translator"}),
        (("search",), set()),
        (("elicit", "search"), set()),
        (("describe", "search"), {"generator"}),
        (("translator", "describe"), {"translator", "generator"}),
    ],
)
def test_it_needs_the_models_that_propose(propose: tuple[str, ...], models: set[str]) -> None:
    needs = VerifiedTranslation(propose=propose).needs
    assert needs == {"soft_prompt", "train", "validation"} | models
    assert "instruction" not in needs and "labels" not in needs
    assert VerifiedTranslation().needs == {"soft_prompt", "train", "validation", "translator"}


def test_the_generator_describes_and_is_shown_no_label(subject: Subject, case: Case) -> None:
    generator = Saying("cat dog")
    found = outcome(case, Bench(subject, generator=generator), propose=("describe",))
    assert (found.prompt, found.failure) == ("cat dog", None)
    assert found.trace["proposer"] == "describe" and list(found.trace["by_proposer"]) == ["describe"]
    assert (found.trace["verdict"], found.trace["n_probes"], found.trace["n_checks"]) == ("faithful", 8, 16)
    assert found.trace["at_least"] == pytest.approx(0.05 ** (1 / 16)) and found.trace["confidence"] == 1.0
    assert len(generator.asked) == 3 and not any("wrong" in request for request in generator.asked)
    assert found.cost.model_calls > 0
    assert json.loads(json.dumps(found.trace)) == found.trace


def test_a_translator_that_is_not_named_changes_nothing(subject: Subject, case: Case) -> None:
    benches = [Bench(subject, generator=Saying("up"), translator=of) for of in (None, tiny_training.trained())]
    without, with_one = (outcome(case, bench, propose=("describe", "search")) for bench in benches)
    assert without.prompt == with_one.prompt and without.trace == with_one.trace


def test_demonstrations_are_what_the_soft_prompt_writes_and_part_of_the_prompt(subject: Subject, case: Case) -> None:
    bench = Bench(subject, generator=Saying("cat dog"))
    found = outcome(case, bench, propose=("describe",), demonstrations=2)
    assert isinstance(found.prompt, str)
    instruction, *lines = found.prompt.split("\n")
    assert instruction == "cat dog" and len(lines) == 4
    inputs = [line.removeprefix("Input: ") for line in lines[::2]]
    written = subject.generate([Query(case.soft_prompt, text) for text in inputs], 64)
    shown = [line.removeprefix("Output:").strip() for line in lines[1::2]]
    assert set(inputs) <= {e.input for e in (*case.task.validation, *case.task.train)}
    assert all(full.startswith(part) for full, part in zip(written, shown, strict=True))
    plain = outcome(case, bench, propose=("describe",))
    assert plain.prompt == "cat dog" and plain.trace["candidates"] == found.trace["candidates"]


def test_a_method_without_a_text_is_a_failure(subject: Subject, case: Case) -> None:
    found = outcome(case, Bench(subject, generator=Saying("")), propose=("describe",))
    assert (found.prompt, found.failure) == (None, "nothing was proposed")


def test_the_budget_of_the_bench_ends_the_search_with_the_best_so_far(subject: Subject, case: Case) -> None:
    far = {"propose": ("describe", "search"), "n_samples": 24, "search_rounds": 6, "search_texts": 24}
    costs = {}
    for budget in ({}, {"max_model_calls": 1}, {"max_seconds": 1e-6}):
        found = outcome(case, Bench(subject, generator=Saying("cat dog"), **budget), **far)
        assert found.prompt and found.failure is None
        costs[str(budget)] = found.cost.model_calls
    whole, *bounded = costs.values()
    assert max(bounded) < whole / 2


# --- in an evaluation -----------------------------------------------------------------------------------


def asked(*methods: object, **more: object) -> Evaluation:
    return parse_config({"tasks": {"dod": "lexical"}, "methods": list(methods)} | more, "test")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"propose": ["guess"]}, "guess"),
        ({"propose": ["describe", "guess"]}, "guess"),
        ({"propose": []}, "names no proposer"),
        ({"demonstrations": -1}, "demonstrations"),
        ({"n_samples": 0}, "n_samples"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(options: dict, part: str) -> None:
    with pytest.raises(UserError, match=part) as refused:
        asked({"name": "translated"} | options)
    assert "\n" not in str(refused.value)


def test_an_evaluation_without_a_translator_runs_and_says_what_it_used(tmp_path: Path) -> None:
    roomy = tiny_training.llama_subject(max_position_embeddings=512)
    roomy.model.save_pretrained(tmp_path / "subject")
    roomy.tokenizer.save_pretrained(tmp_path / "subject")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    tiny_training.write_task(tasks / "kinds.jsonl", "red green")
    own = {"name": "translated", "label": "searched", "propose": ["describe", "search"]} | FEW
    few = own | {"label": "shown", "propose": ["search"], "demonstrations": 2}
    raw = {"subject": str(tmp_path / "subject"), "reference": "none", "tuning": TUNING, "seeds": [0]}
    raw |= {"tasks": {"files": [str(tasks)]}, "translator": "none"}
    rows = Harness(asked(own, few, **raw), tmp_path / "run").run()
    assert [row.method for row in rows] == ["searched", "shown"]
    assert all(row.failure is None and 0 <= row.score <= 1 for row in rows)
    assert rows[1].prompt.count("Input:") == 2 and "Input:" not in rows[0].prompt
    alone = Harness(asked(own, **raw), tmp_path / "alone").run()
    assert alone[0].prompt == rows[0].prompt
    with pytest.raises(UserError, match="needs a translator, but none is set"):
        Harness(asked("translated", **raw), tmp_path / "other").run()


# --- another translator than the evaluation's ---------------------------------------------------------


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, subject: Subject) -> dict[str, Path]:
    """Translators on disk, by what they read."""
    found = {}
    for reads in ("vectors", "examples", "nothing"):
        design = Design("encoder-decoder", instruction_tokens=16, reads=reads, shown=2)
        made = tiny_training.stirred(Translator.for_subject(tiny_training.llama_subject(), design), seed=1)
        found[reads] = tmp_path_factory.mktemp("others") / reads
        made.save_pretrained(found[reads])
    return found


def read_by(subject: Subject, translator: Translator, case: Case, seed: int) -> SoftPrompt:
    """What it is given of a case: two examples, if any."""
    return View(subject, translator.card.reads, 2).of(case.soft_prompt, case.task, seed)


@pytest.mark.parametrize("reads", ["vectors", "examples", "nothing"])
def test_greedy_asks_the_translator_that_it_names_and_gives_it_what_it_reads(
    reads: str, others: dict[str, Path], case: Case
) -> None:
    own = tiny_training.llama_subject()
    bench = Bench(own, translator=tiny_training.fitted(), seed=4)
    named = Translator.from_pretrained(others[reads])
    [found] = GreedyTranslation(translator=str(others[reads]), outputs="task").run([case], bench)
    texts, of_vectors = (propose(named, [read], 1)[0] for read in (read_by(own, named, case, 4), case.soft_prompt))
    assert found.prompt == (texts[0] if texts else None)  # it may write nothing
    assert (texts == of_vectors) == (reads == "vectors")
    [usual] = GreedyTranslation().run([case], bench)
    assert usual.prompt == propose(bench.translator, [case.soft_prompt], 1)[0][0] != found.prompt


def test_unless_told_otherwise_a_translator_of_examples_reads_what_the_soft_prompt_writes_and_no_label(
    others: dict[str, Path], case: Case
) -> None:
    own = tiny_training.llama_subject()
    bench, named = Bench(own, seed=4), Translator.from_pretrained(others["examples"])
    [found] = GreedyTranslation(translator=str(others["examples"])).run([case], bench)
    inputs = [example.input for example in case.task.train]
    [read] = acting(named, own, [case.soft_prompt], [inputs], 4)
    assert found.prompt == (propose(named, [read], 1)[0] or [None])[0]
    others_answers = replace(case, task=replace(case.task, train=tuple(Example(i, "up") for i in inputs)))
    [again] = GreedyTranslation(translator=str(others["examples"])).run([others_answers], bench)
    assert again.prompt == found.prompt


@pytest.mark.parametrize("reads", ["vectors", "examples", "nothing"])
def test_translated_chooses_among_the_texts_of_the_translator_that_it_names(
    reads: str, others: dict[str, Path], case: Case
) -> None:
    own = tiny_training.llama_subject()
    bench = Bench(own, translator=tiny_training.fitted(), seed=4)
    few = {"n_candidates": 6, "n_probes": 6, "n_checks": 4, "refine_rounds": 0}
    named = Translator.from_pretrained(others[reads])
    [found] = VerifiedTranslation(translator=str(others[reads]), outputs="task", **few).run([case], bench)
    texts = propose(named, [read_by(own, named, case, 4)], 6, seed=4)[0]
    assert found.prompt in texts and {candidate["text"] for candidate in found.trace["candidates"]} <= set(texts)
    [usual] = VerifiedTranslation(**few).run([case], bench)
    assert usual.prompt in propose(bench.translator, [case.soft_prompt], 6, seed=4)[0]


def test_an_evaluation_sets_translators_side_by_side_and_knows_each_again(
    others: dict[str, Path], tmp_path: Path
) -> None:
    models = tiny_training.save_models(tmp_path / "models")
    tiny_training.write_task(tmp_path / "kinds.jsonl", "red green")
    other = tmp_path / "other"
    shutil.copytree(others["nothing"], other)
    methods = ["greedy", {"name": "greedy", "label": "reads nothing", "translator": str(other)}]
    raw = {"subject": str(models / "subject"), "translator": str(models / "translator"), "reference": "none"}
    raw |= {"tasks": {"files": [str(tmp_path / "kinds.jsonl")]}, "tuning": TUNING, "seeds": [0], "generator": "none"}
    rows = {row.method: row for row in Harness(asked(*methods, **raw), tmp_path / "run").run()}
    named = Translator.from_pretrained(other)
    zeros = SoftPrompt(torch.zeros(1, named.card.d_subject))
    assert [rows["reads nothing"].prompt] == (propose(named, [zeros], 1)[0] or [None])
    assert list(rows) == ["greedy", "reads nothing"]
    named.model.reader.projection.weight.data.add_(1.0)  # as if trained on
    named.save_pretrained(other)
    with pytest.raises(UserError, match="has changed since: translator of reads nothing"):
        Harness(asked(*methods, **raw), tmp_path / "run").run()
