"""Text style transfer: rewards of prompts by their definition, scores of rewritings, and the recipe at a tiny size."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import yaml
from more_itertools import chunked

from soft2hard.data_gen.tasks import Example, StyleTask
from soft2hard.errors import UserError
from soft2hard.eval.config import parse_config
from soft2hard.eval.harness import Harness
from soft2hard.eval.methods.base import Bench, Case
from soft2hard.eval.methods.discrete import Meter
from soft2hard.eval.methods.policies import Pin, RLPrompt
from soft2hard.eval.methods.style_rewards import StyleRewards
from soft2hard.eval.metrics.scrutability import log_perplexities
from soft2hard.eval.report import load_run, write_report
from soft2hard.eval.rewriting import Styling, first_sentence, most_new_tokens
from soft2hard.lm.sequences import Query
from soft2hard.lm.subject import Subject
from tests import tiny_models
from tests.command_line import run
from tests.paths import ROOT
from tests.tiny_training import save_models

WORDS = tiny_models.WORDS[3:]
RECIPE = ROOT / "recipes" / "towards-style.yaml"
SMALL = RLPrompt(reward="style", n_tokens=3, steps=4, batch=8, hidden=16, lr=5e-3, eval_every=2, bootstraps=2)


def counts(texts: Sequence[str]) -> np.ndarray:
    return np.array([[text.split().count(word) for word in WORDS] for text in texts], float)


class Telling:
    """Finds 'up' and 'down' by which of these words stands in a text more often."""

    name, labels, fingerprint = "telling", ("down", "up"), "0"

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        up = np.array([0.5 + 0.1 * (text.split().count("up") - text.split().count("down")) for text in texts])
        return np.stack([1 - up, up], axis=1)


STYLING = Styling(Telling(), Telling(), counts, samples=3, top_k=6)


def task(number: int = 0) -> StyleTask:
    rng = Random(number)
    texts = list(dict.fromkeys(" ".join(rng.choices(WORDS[:-4], k=3)) for _ in range(30)))
    pairs = tuple(Example(f"{text} down", f"{text} up") for text in texts)
    labelled = tuple(e for text in texts[20:] for e in (Example(f"{text} down", "down"), Example(f"{text} up", "up")))
    parts = {"train": pairs[:8], "validation": pairs[8:11], "test": pairs[11:20]}
    return StyleTask(
        f"task {number}", "style", "", (), **parts, metric="rougeL", given="down", wanted="up", labelled=labelled
    )


def bench(seed: int = 0, reference: bool = True) -> Bench:
    subject = tiny_models.subject("llama")
    return Bench(subject, reference=subject if reference else None, style=STYLING, seed=seed)


# --- rewritings ---------------------------------------------------------------------------------


def test_a_rewriting_ends_with_its_first_sentence_and_may_be_half_as_long_again():
    assert first_sentence("good . bad !") == "good ." and first_sentence(" so good! yes") == "so good!"
    assert first_sentence("no mark") == "no mark" and first_sentence("") == ""
    subject = tiny_models.subject("llama")
    for n in (1, 4, 21, 40):
        most = most_new_tokens(subject, " ".join(["cat"] * n))
        assert max(1.5 * n, n + 10) <= most < max(1.5 * n, n + 10) + 8


def test_of_the_samples_of_a_sentence_the_one_with_the_highest_reward_is_measured():
    one, subject = task(), tiny_models.subject("llama")
    [chosen] = STYLING.best_rewritings(subject, one, ["cat dog"], seed=3)
    all_texts = STYLING.rewrite(subject, [("cat dog", e.input) for e in one.test], 3, seed=3)
    for example, texts, best in zip(one.test, all_texts, chosen, strict=True):
        rewards = []
        for text in texts:
            first, second = counts([text, example.input])
            cosine = first @ second / max(np.linalg.norm(first) * np.linalg.norm(second), 1e-9)
            style = Telling().probabilities([text])[0, 1] if text else 0.0
            rewards.append(100 * (max(cosine, 0) + style) / 2)
        assert rewards[texts.index(best)] == pytest.approx(max(rewards))


def test_references_and_unchanged_sentences_score_as_their_words_say():
    one, reference = task(), tiny_models.subject("llama")
    kept, changed = STYLING.scores(one, ([e.input for e in one.test], [e.output for e in one.test]), reference)
    assert (kept.content, kept.style, kept.joint) == pytest.approx((1.0, 0.0, 0.0))
    assert changed.style == 1.0 and 0.5 < changed.content < 1.0
    # By hand: the product over sentences, fluent where no less natural than all but 5 % of the task's own.
    natural = log_perplexities(reference, [e.input for e in one.labelled])
    fluent = np.array(log_perplexities(reference, [e.output for e in one.test])) <= np.quantile(natural, 0.95)
    cosines = [
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in (counts([e.input, e.output]) for e in one.test)
    ]
    assert changed.joint == pytest.approx(np.mean(np.array(cosines) * fluent)) and changed.fluency == fluent.mean()
    [without] = STYLING.scores(one, [[e.output for e in one.test]], None)
    assert without.joint is None and without.content == changed.content


# --- rewards ------------------------------------------------------------------------------------


def test_a_step_rewards_prompts_by_bootstrapped_maxima_standardised_for_each_sentence():
    one, meter = task(), Meter(None)
    rewards = StyleRewards(bench(), bench().reference, SMALL)
    train, _ = rewards.trials(one, "seed", meter)
    sentences = list(train.sentences)
    assert sorted(sentences) == sorted(one.sources) and sentences != list(one.sources)
    texts = [" ".join(Random(i).choices(WORDS, k=3)) for i in range(8)]
    [(found, standardised)] = rewards.sampled([(train, texts)])
    maxima = {}
    for i, text in enumerate(texts):
        sentence = sentences[i // 4]
        [written] = STYLING.rewrite(bench().subject, [(text, sentence)], 6, seed=0)
        [of_samples] = STYLING.rewards([written], [sentence], ["up"])
        maxima[i] = [max(part) for part in chunked(of_samples, 3)]
    assert found == pytest.approx([np.mean(maxima[i]) for i in range(8)])
    for group in (range(4), range(4, 8)):
        together = np.array([maxima[i] for i in group])
        expected = (together.mean(axis=1) - together.mean()) / (together.std() + 1e-4)
        assert [standardised[i] for i in group] == pytest.approx(expected.tolist())
    assert meter.calls == 8 * 6
    # The next step goes on with the next sentences.
    assert train.next_sentences(2) == sentences[2:4]


def test_validation_rewards_are_means_over_its_sentences_and_perplexity_is_taken_off():
    one, text = task(), "up up cat"
    found = {}
    for weight in (0.0, 0.5):
        rewards = StyleRewards(bench(), bench().reference, replace(SMALL, perplexity_weight=weight))
        _, validation = rewards.trials(one, "seed", Meter(None))
        rewards.score([(validation, text), (validation, text)])
        found[weight] = validation.rewards[text]
    inputs = [e.input for e in one.validation]
    written = STYLING.rewrite(bench().subject, [(text, sentence) for sentence in inputs], 6, seed=0)
    maxima = STYLING.rewards(written, inputs, ["up"] * 3).reshape(3, 2, 3).max(-1)
    assert found[0.0] == pytest.approx(maxima.mean())
    charge = min(np.exp(log_perplexities(bench().reference, [text])[0]), tiny_models.VOCAB_SIZE)
    assert found[0.5] == pytest.approx(found[0.0] - 0.5 * charge)


@pytest.mark.parametrize("method", [SMALL, Pin(**{k: v for k, v in vars(SMALL).items() if k != "top_k"}, k=30_000)])
def test_batch_mates_change_nothing_and_seeds_reproduce(method: RLPrompt | Pin):
    cases = [Case(task(i)) for i in range(3)]
    together = list(method.run(cases, bench()))
    alone = [next(iter(method.run([case], bench()))) for case in cases]
    for one, other in zip(together, alone, strict=True):
        assert one.prompt == other.prompt and one.prompt
        assert (one.cost.model_calls, one.cost.tokens) == (other.cost.model_calls, other.cost.tokens)
        assert one.trace["curve"][-1]["step"] == 4
    assert [o.trace for o in method.run(cases, bench(1))] != [o.trace for o in together]


def test_a_task_without_styles_fails_alone_and_budgets_hold():
    from tests.eval.test_policy_methods import case

    failed, kept = SMALL.run([case(0), Case(task())], bench())
    assert "no sentences to rewrite" in failed.failure and kept.prompt
    [limited] = replace(SMALL, steps=50).run([Case(task())], replace(bench(), max_model_calls=800))
    assert 400 < limited.cost.model_calls <= 800 and limited.prompt


def test_what_cannot_be_rewarded_is_refused_before_anything_runs():
    with pytest.raises(UserError, match="batch of 10"):
        RLPrompt(reward="style", batch=8, sentences=5)
    with pytest.raises(UserError, match="no classifier"):
        list(SMALL.run([Case(task())], Bench(tiny_models.subject("llama"))))


# --- runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection's files, of words that the tiny models know: one style says 'down', the other 'up'."""
    folder, rng = tmp_path_factory.mktemp("sentences"), Random(0)
    texts = list(dict.fromkeys(" ".join(rng.choices(WORDS[:-4], k=3)) for _ in range(120)))
    for number, (given, wanted) in enumerate((("down", "up"), ("up", "down"))):
        own = texts[number::2]
        files = {"test": [f"{t} {given}" for t in own[:20]], "ref": [f"{t} {wanted}" for t in own[:20]]}
        for part, lines in (files | {"dev": [f"{text} {given}" for text in own[15:]]}).items():
            (folder / f"sentiment.{part}.{number}.clean").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def asked(sentences: Path, models: Path) -> dict[str, Any]:
    """The recipe with a tiny subject, which embeds texts itself, and a few steps."""
    found = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    found["tasks"] |= {"folder": str(sentences)}
    found["tasks"]["dod_options"]["sizes"] = {"train": 4, "validation": 2, "test": 6}
    found |= {"subject": str(models / "subject"), "encoder": "reference"}
    found["style"] |= {"samples": 2}
    found["tuning"] = {"init": "vocabulary", "n_tokens": 2, "steps": 2, "batch_size": 4, "eval_every": 2}
    for method in found["methods"]:
        if isinstance(method, dict) and method["name"] == "few-shot":
            method |= {"k": 1}  # of 64 tokens
        if isinstance(method, dict) and method["name"] == "rlprompt":
            method |= {"policy": None, "steps": 2, "bootstraps": 2, "hidden": 8, "eval_every": 1, "n_tokens": 2}
    return found


def test_the_recipe_runs_at_a_tiny_size_and_its_report_has_the_columns(asked: dict[str, Any], tmp_path: Path):
    path = tmp_path / "towards-style.yaml"
    path.write_text(yaml.safe_dump(asked))
    done = run("evaluate", path, "-o", tmp_path / "run")
    assert done.exit_code == 0, done.output
    found = load_run(tmp_path / "run")
    assert len(found.methods) == len(asked["methods"]) == 8 and {row.task for row in found.rows} == {
        "negative-to-positive",
        "positive-to-negative",
    }
    for row in found.rows:
        assert row.failure is None, row.failure
        assert all(0 <= value <= 1 for value in (row.content, row.style, row.fluency, row.joint))
        assert row.joint <= min(row.content, row.style, row.fluency) + 1e-9
    human, unchanged = (found.record.style_points[name] for name in ("human references", "unchanged sentences"))
    assert unchanged["content"] == pytest.approx(1.0) and human["style"] > unchanged["style"]
    _, summary = write_report([found], tmp_path / "report.html")
    text = summary.read_text()
    assert (
        "## Style transfer" in text
        and "human references" in text
        and "| Joint |" in text.replace("Joint | P", "Joint |")
    )
    again = run("evaluate", path, "-o", tmp_path / "run")
    assert again.exit_code == 0 and load_run(tmp_path / "run").rows == found.rows


def test_without_style_the_columns_are_not_there(asked: dict[str, Any], tmp_path: Path):
    asked |= {"style": None, "methods": ["none"]}
    rows = Harness(parse_config(asked, "test"), tmp_path / "run").run()
    assert all(row.joint is None and row.score is not None for row in rows)
    write_report([load_run(tmp_path / "run")], tmp_path / "report.html")
    assert "Joint" not in (tmp_path / "report.md").read_text()


def refused(asked: dict[str, Any], folder: Path) -> str:
    """The one line with which a run ends before anything is made."""
    path = folder / "asked.yaml"
    path.write_text(yaml.safe_dump(asked))
    done = run("evaluate", path, "-o", folder / "run")
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1), done.output
    assert not (folder / "run").exists() or not list((folder / "run").rglob("*.jsonl"))
    return done.stderr


def test_a_classifier_with_other_labels_than_the_data_is_refused(asked: dict[str, Any], tmp_path: Path):
    lines = [{"input": f"{word} cat {i}", "output": word} for word in ("left", "right") for i in range(20)]
    (tmp_path / "sides.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    encoder = f"lm:{asked['subject']}"
    made = run("classifier", tmp_path / "sides.jsonl", "--encoder", encoder, "-o", tmp_path / "sides")
    assert made.exit_code == 0, made.output
    for role in ("classifier", "judge"):
        style = asked["style"] | {role: str(tmp_path / "sides")}
        said = refused(asked | {"style": style}, tmp_path)
        assert "tells left, right apart" in said and "negative, positive" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder": None}, "style needs an encoder"),
        ({"encoder": "no/such-encoder"}, "sentence-embedding model 'no/such-encoder' cannot be loaded"),
        ({"style": {"classifier": "no-such-folder/x/y"}}, "classifier 'no-such-folder/x/y' cannot be read"),
        ({"style": {"samples": 0}}, "style.samples"),
        ({"style": {"taste": 1}}, "there is no such setting; there are classifier, judge, samples, top_k"),
        ({"style": None}, "rlprompt, alpha 0 needs a style, but none is set"),
        ({"tasks": {"dod": "lexical", "n": 2}}, "needs a style to write in, which 2 tasks lack"),
    ],
)
def test_what_a_style_lacks_is_said_in_one_line(
    changes: dict[str, Any], said: str, asked: dict[str, Any], tmp_path: Path
):
    if "sentence-embedding" in said:
        pytest.importorskip("sentence_transformers")
    assert said in refused(asked | changes, tmp_path)


def test_sampling_reads_a_soft_prompt_as_well(models: Path):
    from soft2hard.prompts.soft_prompt import SoftPrompt

    subject = Subject.from_pretrained(models / "subject")
    soft = SoftPrompt(subject.embed_text("cat dog").clone())
    texts = subject.sample([Query(soft, "red"), Query("cat dog", "red")], [["a", "b"]] * 2, 5, 6)
    assert texts[0] == texts[1]
