"""Measurements are the subject's own figures, whatever shares a batch with them."""

import math
from dataclasses import asdict, replace
from itertools import cycle

import numpy as np
import pytest
import torch
from torch.nn.functional import kl_div

from soft2hard.checkpoints import embedded_path
from soft2hard.data_gen.tasks import Example, Task, normalise_answer
from soft2hard.errors import UserError
from soft2hard.eval.metrics import measurement
from soft2hard.eval.metrics.measurement import Comparison, Measurement, measure
from soft2hard.eval.metrics.task_score import macro_f1, rouge_l
from soft2hard.lm import scoring
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt
from soft2hard.prompts.template import Template
from soft2hard.translator import verification
from tests import tiny_models
from tests.oracles import accuracies, held_out_tasks

ARCHITECTURES = ["llama", "gpt2", "bloom", "t5"]
LABELS = ("cat", "dog bird", "fish", "red")
INPUTS = ["cat dog", "red", "one two three", "up", "bird fish", "left right left", "red"]
PROMPTS: tuple[Prompt, ...] = ("up down", None, "dog", "one two three four big small")


def task(metric: str = "exact_match", name: str = "t", shift: int = 0) -> Task:
    outputs = [LABELS[(i + shift) % 4] for i in range(len(INPUTS))]
    examples = tuple(Example(x, y) for x, y in zip(INPUTS, outputs, strict=True))
    return Task(name, "tiny", "", (), (), (), examples, LABELS, metric)


def soft(subject: Subject, n: int = 2, seed: int = 0) -> SoftPrompt:
    generator = torch.Generator().manual_seed(seed)
    return SoftPrompt(torch.randn(n, subject.d_model, generator=generator) * 0.7)


def queries(prompt: Prompt, of: Task) -> list[Query]:
    return [Query(prompt, e.input, e.output) for e in of.test]


def against_soft(measured: Measurement) -> dict[str, float]:
    """The figures that there are of a prompt beside the soft prompt."""
    own = ("score", "loss", "accuracy", "answers")
    return {name: figure for name, figure in asdict(measured).items() if figure is not None and name not in own}


def one(subject: Subject, of: Task, prompt: Prompt, soft_prompt: SoftPrompt | None = None) -> Measurement:
    return measure(subject, [Comparison(of, (prompt,), soft_prompt)])[0][0]


@pytest.fixture(params=ARCHITECTURES)
def subject(request: pytest.FixtureRequest) -> Subject:
    return tiny_models.subject(request.param)


def test_a_copy_is_no_capital_letter(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = tuple(Example(word, word.upper()) for word in ("cat", "dog"))
    capitals = Task("capitals", "t", "", (), (), (), examples)
    monkeypatch.setattr(measurement._Scored, "answer", lambda self, i, e: examples[e].input)
    assert one(subject, capitals, "red").score == 0.0


def test_loss_and_accuracy_are_those_of_the_subjects_target_scores(subject: Subject) -> None:
    prompts = (*PROMPTS, soft(subject))
    [found] = measure(subject, [Comparison(task(), prompts)])
    for prompt, measured in zip(prompts, found, strict=True):
        scores = subject.target_scores(queries(prompt, task()))
        loss = -sum(s.log_likelihood for s in scores) / sum(s.n_tokens for s in scores)
        assert measured.loss == pytest.approx(loss, rel=1e-4)
        assert measured.accuracy == pytest.approx(np.mean([s.greedy_match for s in scores]))
        assert measured.kl is measured.agreement is measured.embedding_distance is None


def test_the_score_of_exact_match_is_the_share_of_generated_answers_that_are_the_wanted_text(subject: Subject) -> None:
    [found] = measure(subject, [Comparison(task(), PROMPTS)])
    for prompt, measured in zip(PROMPTS, found, strict=True):
        written = subject.generate(queries(prompt, task()))
        right = [normalise_answer(w) == normalise_answer(e.output) for w, e in zip(written, task().test, strict=True)]
        assert measured.score == pytest.approx(np.mean(right))
        for answer, text in zip(measured.answers, written, strict=True):
            begun = answer.removesuffix(" ...")
            assert text == answer or (answer != begun and text.startswith(begun))


def test_divergence_and_tops_are_those_of_the_subjects_target_distributions(subject: Subject) -> None:
    soft_prompt = soft(subject)
    [found] = measure(subject, [Comparison(task(), PROMPTS, soft_prompt)])
    p = torch.cat(subject.target_distributions(queries(soft_prompt, task())))
    for prompt, measured in zip(PROMPTS, found, strict=True):
        q = torch.cat(subject.target_distributions(queries(prompt, task())))
        kl = kl_div(q, p, reduction="sum", log_target=True) / len(p)
        assert measured.kl == pytest.approx(float(kl), rel=1e-3)
        assert measured.top1_agreement == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).float().mean()))


def divergence(subject: Subject, soft_prompt: SoftPrompt, prompt: Prompt, of: Task) -> float:
    """Mean KL(soft prompt || prompt) by the subject's own distributions, nats a position."""
    p, q = (torch.cat(subject.target_distributions(queries(each, of))) for each in (soft_prompt, prompt))
    return float(kl_div(q, p, reduction="sum", log_target=True) / len(p))


@pytest.mark.parametrize("metric", ["exact_match", "label_accuracy", "rougeL"])
def test_the_explained_share_is_what_is_left_of_the_way_from_no_prompt(subject: Subject, metric: str) -> None:
    soft_prompt, of = soft(subject), task(metric)
    prompts = ("up down", "dog", soft_prompt)
    [alone] = measure(subject, [Comparison(of, prompts, soft_prompt)])
    [beside] = measure(subject, [Comparison(of, (*prompts, None, ""), soft_prompt)])
    effect = divergence(subject, soft_prompt, None, of)
    expected = [1 - divergence(subject, soft_prompt, prompt, of) / effect for prompt in prompts]
    for found in (alone, beside[:3]):
        assert [measured.explained_share for measured in found] == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert alone[2].explained_share == 1
    assert [measured.explained_share for measured in beside[3:]] == [0, 0]


def test_a_prompt_that_leads_further_away_than_none_explains_less_than_nothing() -> None:
    subject = tiny_models.subject("llama")
    soft_prompt = SoftPrompt(subject.embed_text("up").clone())
    shares = [m.explained_share for m in measure(subject, [Comparison(task(), ("up", "big cat"), soft_prompt)])[0]]
    assert shares[0] == pytest.approx(1, abs=1e-3) and shares[1] < 0


def test_without_an_effect_to_explain_there_is_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_models.subject("llama")
    soft_prompt = soft(subject)
    assert one(subject, task(), "up").explained_share is None
    effect = one(subject, task(), None, soft_prompt).kl
    for least, there_is in ((0.99 * effect, True), (1.01 * effect, False)):
        monkeypatch.setattr(verification, "LEAST_EFFECT", least)
        for prompt in ("up", soft_prompt):
            assert (one(subject, task(), prompt, soft_prompt).explained_share is not None) == there_is


@pytest.mark.parametrize("architecture", ["llama", "bloom"])
def test_where_nothing_is_read_without_a_prompt_there_is_no_share(architecture: str) -> None:
    bare = Template(input_prefix="", output_prefix="", soft_separator="", bos=False)
    subject = Subject(tiny_models.model(architecture), tiny_models.tokenizer(architecture), name="bare", template=bare)
    of = replace(task(), test=(Example("cat", "dog"), Example("", "red")))
    with pytest.raises(UserError, match="no token"):
        subject.target_scores(queries(None, of))
    measured = one(subject, of, "up down", soft(subject))
    assert measured.kl > 0 and measured.explained_share is None


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom"])
def test_the_logit_distance_is_of_the_models_own_logits_at_target_positions(architecture: str) -> None:
    subject = tiny_models.subject(architecture)
    soft_prompt = soft(subject)
    measured = one(subject, task(), "up down", soft_prompt)
    distances = []
    for example in task().test:
        body, output = subject.encode_input(example.input, "hard").body, subject.encode_output(example.output)
        tail = subject.embed_ids(torch.tensor(body + output[:-1]))
        logits = []
        for prompt in (soft_prompt, "up down"):
            rows = torch.cat([subject.prompt_embeddings(prompt), tail])[None]
            logits.append(subject.model(inputs_embeds=rows).logits[0, -len(output) :])
        distances.append((logits[0] - logits[1]).square().mean(-1))
    assert measured.logit_distance == pytest.approx(float(torch.cat(distances).mean()), rel=1e-3)


def test_agreement_is_the_share_of_inputs_for_which_the_same_answer_is_generated(subject: Subject) -> None:
    soft_prompt = SoftPrompt(subject.embed_text("dog").clone())
    near = SoftPrompt(soft_prompt.embeddings + 0.05)
    prompts = (*PROMPTS, near)
    [found] = measure(subject, [Comparison(task(), prompts, soft_prompt)])
    wanted = list(map(normalise_answer, subject.generate(queries(soft_prompt, task()))))
    for prompt, measured in zip(prompts, found, strict=True):
        written = list(map(normalise_answer, subject.generate(queries(prompt, task()))))
        assert measured.agreement == pytest.approx(np.mean([a == b for a, b in zip(wanted, written, strict=True)]))
    assert found[PROMPTS.index("dog")].agreement == 1.0


def test_the_soft_prompt_is_itself_and_its_own_words_are_as_good(subject: Subject) -> None:
    soft_prompt = SoftPrompt(subject.embed_text("up down").clone())
    [[itself, words, other]] = measure(subject, [Comparison(task(), (soft_prompt, "up down", "fish red"), soft_prompt)])
    assert (itself.kl, itself.logit_distance, itself.embedding_distance) == pytest.approx((0, 0, 0), abs=1e-9)
    assert (itself.top1_agreement, itself.agreement, itself.embedding_cosine) == pytest.approx((1, 1, 1))
    assert against_soft(words) == pytest.approx(against_soft(itself), abs=1e-4)
    vectors = subject.embed_text("fish red") - soft_prompt.embeddings
    assert other.embedding_distance == pytest.approx(float(vectors.square().sum(-1).mean()), rel=1e-4)
    assert one(subject, task(), "fish", soft_prompt).embedding_distance is None  # one position beside two


@pytest.mark.parametrize("metric", ["label_accuracy", "f1"])
def test_labels_are_chosen_by_the_subjects_likelihood(subject: Subject, metric: str) -> None:
    soft_prompt = soft(subject)
    prompts = (*PROMPTS, soft_prompt)
    [found] = measure(subject, [Comparison(task(metric), prompts, soft_prompt)])
    references = [e.output for e in task().test]
    for prompt, measured in zip(prompts, found, strict=True):
        asked = [[replace(query, output=label) for query in queries(prompt, task())] for label in LABELS]
        found_likely = [[score.log_likelihood for score in subject.target_scores(of_label)] for of_label in asked]
        predicted = tuple(LABELS[i] for i in np.argmax(found_likely, axis=0))
        right = np.mean([p == r for p, r in zip(predicted, references, strict=True)])
        assert measured.answers == predicted
        assert measured.score == pytest.approx(right if metric == "label_accuracy" else macro_f1(predicted, references))
        plain = one(subject, task(), prompt, soft_prompt)  # labels beside the wanted outputs change no other figure
        assert against_soft(measured) == pytest.approx(against_soft(plain), rel=1e-3, abs=1e-5)


def test_under_rouge_answers_are_generated_and_kept(subject: Subject) -> None:
    soft_prompt = soft(subject)
    prompts = (*PROMPTS, soft_prompt)
    [found] = measure(subject, [Comparison(task("rougeL"), prompts, soft_prompt)])
    for prompt, measured in zip(prompts, found, strict=True):
        written = subject.generate(queries(prompt, task()))
        assert measured.answers == tuple(written)
        assert measured.score == pytest.approx(rouge_l(written, [e.output for e in task().test]))


def comparisons(subject: Subject) -> list[Comparison]:
    return [
        Comparison(
            task(metric, str(i), i), (*PROMPTS[i % 3 :], soft(subject, 3, i)), soft(subject, 3, i) if i % 2 else None
        )
        for i, metric in enumerate(("exact_match", "label_accuracy", "f1", "rougeL"))
    ]


def assert_alike(found: list[list[Measurement | None]], expected: list[list[Measurement | None]]) -> None:
    for a, b in zip(sum(found, []), sum(expected, []), strict=True):
        assert a.answers == b.answers
        assert (a.score, a.loss, a.accuracy) == pytest.approx((b.score, b.loss, b.accuracy), rel=1e-4)
        assert against_soft(a) == pytest.approx(against_soft(b), rel=1e-3, abs=1e-5)


def test_neither_batches_nor_chunks_change_a_figure(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    together = measure(subject, comparisons(subject))
    assert_alike([measure(subject, [c])[0] for c in comparisons(subject)], together)
    with monkeypatch.context() as patch:
        patch.setattr(subject.scorer, "shares_prefixes", False)
        assert_alike(measure(subject, comparisons(subject)), together)
    monkeypatch.setattr(measurement, "_HIDDEN_AT_ONCE", 1)
    monkeypatch.setattr(measurement, "_LOGITS_AT_ONCE", 1)
    monkeypatch.setattr(scoring, "ROW_TOKENS", 12)
    assert_alike(measure(subject, comparisons(subject)), together)


def test_equal_prompts_and_the_soft_prompt_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_models.subject("llama")
    soft_prompt, runs = soft(subject), []
    scorer, run = subject.scorer, subject.scorer.run
    monkeypatch.setattr(scorer, "run", lambda prompts, examples: runs.append(len(prompts)) or run(prompts, examples))
    prompts = ("up", "dog", "up", soft_prompt, None, "", "up")
    [found] = measure(subject, [Comparison(task(), prompts, soft_prompt)])
    assert runs == [4]  # one batch: up, dog, nothing, the soft prompt
    assert found[0] == found[2] == found[6] != found[1]
    assert found[4] == found[5]
    measure(subject, [Comparison(task(), ("up", "dog"), soft_prompt)])
    measure(subject, [Comparison(task(), ("up", "dog"))])
    assert runs == [4, 4, 2]  # no prompt, once and in the same batch, but where there is no soft prompt


def test_a_prompt_without_room_is_not_measured_and_leaves_the_others_alone() -> None:
    subject = tiny_models.subject("gpt2")
    long = " ".join(["cat"] * tiny_models.CONTEXT)
    [[first, none, last]] = measure(subject, [Comparison(task(), ("up", long, "dog"), soft(subject))])
    assert none is None
    assert first == one(subject, task(), "up", soft(subject))
    assert last.kl is not None
    assert one(subject, task(), "up", soft(subject, tiny_models.CONTEXT)).kl is None


def test_what_cannot_be_measured_is_refused_before_anything_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_models.subject("llama")
    monkeypatch.setattr(measurement, "_write", lambda *_: pytest.fail("run"))
    empty = Task("empty", "tiny", "", (), (), (), ())
    stranger = SoftPrompt(torch.zeros(2, subject.d_model + 1))
    for bad, problem in (
        (Comparison(empty, ("up",)), "'empty' has no test examples"),
        (Comparison(task("accuracy"), ("up",)), "metric 'accuracy'"),
        (Comparison(task(), (stranger,)), "wide"),
        (Comparison(task(), (), stranger), "wide"),
    ):
        with pytest.raises(UserError, match=problem):
            measure(subject, [Comparison(task(), ("up",)), bad])


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5"])
def test_exact_match_is_the_share_of_outputs_that_are_generated_exactly(architecture: str) -> None:
    subject = tiny_models.subject(architecture)
    prompts: list[Prompt] = ["dog", "up down", SoftPrompt(torch.randn(3, subject.d_model)), None, "fish red"]
    pairs = [(prompt, _half_right(subject, prompt)) for prompt in prompts]
    found = [of_task[0].score for of_task in measure(subject, [Comparison(t, (prompt,)) for prompt, t in pairs])]
    assert found == pytest.approx(accuracies(subject, pairs))
    assert 0 < np.mean(found) < 1


def _half_right(subject: Subject, prompt: Prompt) -> Task:
    """A task of whose outputs every other one is what the subject writes, where that is a plain one."""
    inputs = ["cat dog", "red", "one two three", "up", "bird fish", "left right left", "small", "big up"]
    rows = subject.generate_ids([Query(prompt, text) for text in inputs], max_new_tokens=12)
    right = cycle([True, False])
    examples = []
    for text, row in zip(inputs, rows, strict=True):
        plain = len(row) < 12 and min(row, default=9) > 3
        examples.append(Example(text, subject.tokenizer.decode(row) if plain and next(right) else "cat cat"))
    return Task("tiny", "tiny", "", (), (), (), tuple(examples))


def test_nothing_to_measure_is_no_error() -> None:
    subject = tiny_models.subject("llama")
    assert measure(subject, []) == []
    assert measure(subject, [Comparison(task(), ())]) == [[]]


def test_on_embedded_tasks_the_gold_text_scores_what_is_generated_right_and_beats_no_prompt() -> None:
    subject = Subject.from_pretrained(embedded_path("subject"))
    tasks = held_out_tasks(12)
    found = measure(subject, [Comparison(t, (t.instruction, None)) for t in tasks])
    assert [m[0].score for m in found] == pytest.approx(accuracies(subject, [(t.instruction, t) for t in tasks]))
    gold, none = (np.mean([m[i].loss for m in found]) for i in (0, 1))
    assert math.isfinite(none) and gold < none / 4
