"""Every architecture goes all the way: tuned, trained on, translated, evaluated, from models and files on disk.

Models are random and tiny, with tokenizers of the kind that each architecture comes with; what a step has to give is
asserted of each, and that numbers and texts are the model's own whatever else is in the batch.
"""

import json
import math
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from soft2hard.data_gen.corpus.folder import CorpusPlan
from soft2hard.data_gen.corpus.rows import load_corpus, soft_prompt_of
from soft2hard.data_gen.corpus.shards import CorpusBuilder
from soft2hard.data_gen.taskfiles import TaskFilesDoD, read_tasks
from soft2hard.data_gen.tuning import Tuning
from soft2hard.eval.config import parse_config
from soft2hard.eval.harness import Harness
from soft2hard.lm.attention import ATTENTION
from soft2hard.lm.frozen_model import FrozenModel
from soft2hard.lm.scoring import RepeatedRows, SharedRows
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.prompts.template import Template
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import Design, TranslateConfig
from soft2hard.translator.training import train_translator
from soft2hard.translator.translate import Translation, translate
from tests import tiny_models, tiny_training
from tests.command_line import run
from tests.tiny_tokenizers import tokenizer

ARCHITECTURES = (
    "llama", "qwen3", "gemma", "gemma2", "gemma3", "mistral", "gpt2", "opt", "bloom", "phi", "t5",
)  # fmt: skip
SLIDING = ("gemma2", "gemma3", "mistral")
WINDOW = 16
"""Shorter than the sequences here, and long enough for what is written to be within two layers' reach of the prompt."""
OWN_TRANSLATOR = ("llama", "gpt2")
"""These get a translator without a base: from their own weights, or a random T5. The others' is a T5 on disk."""
NOUNS = "cat dog bird fish lion frog".split()
COLOURS = "red green blue black white".split()
INPUTS = [f"{a} {b}" for a in NOUNS for b in NOUNS]
TUNING = Tuning(n_tokens=4, init="vocabulary", steps=12, batch_size=6, warmup=2, eval_every=4, slots=16, lr=0.3)


def instruction(first: str, second: str) -> str:
    return f"say {first} for a {NOUNS[0]} and {second} otherwise"


def write_tasks(folder: Path, colours: list[tuple[str, str]]) -> Path:
    """Task files: one colour for what begins with a cat, another for the rest."""
    folder.mkdir()
    for first, second in colours:
        lines: list[dict[str, str]] = [{"instruction": instruction(first, second)}]
        lines += [{"input": text, "output": first if text.startswith(NOUNS[0]) else second} for text in INPUTS]
        (folder / f"{first}-{second}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def write_model(folder: Path, architecture: str) -> Path:
    """A random model of the architecture and a tokenizer of its kind for the words here."""
    template = Template()
    texts = [template.body_text(text, "hard") + template.output_text(COLOURS[i % 5]) for i, text in enumerate(INPUTS)]
    texts += [instruction(a, b) for a in COLOURS for b in COLOURS]
    made = tokenizer(architecture, texts)
    changes = {"vocab_size": len(made), "pad_token_id": made.pad_token_id, "bos_token_id": made.bos_token_id}
    if hasattr(tiny_models.config(architecture), "max_position_embeddings"):
        changes["max_position_embeddings"] = 2 * tiny_models.CONTEXT  # room for what a translator first babbles
    if architecture in SLIDING:
        changes["sliding_window"] = WINDOW
    model = tiny_models.model(architecture, **changes)
    with torch.no_grad():
        for parameter in model.parameters():  # less chaotic, so that a few steps of tuning take hold
            parameter.mul_(0.5 if parameter.dim() > 1 else 1)
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Run:
    """All that one pass through the pipeline leaves."""

    subject: Subject
    folder: Path
    prompts: list[SoftPrompt]
    loss_before: float
    loss_after: float
    translations: list[Translation]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory):
    """The pipeline of an architecture, run once."""

    @cache
    def run_pipeline(architecture: str) -> Run:
        folder = tmp_path_factory.mktemp(architecture)
        subject = Subject.from_pretrained(write_model(folder / "subject", architecture))
        pairs = [(a, b) for a in COLOURS for b in COLOURS if a < b]
        dod = TaskFilesDoD(tuple(read_tasks(write_tasks(folder / "tasks", pairs))))
        corpora = []
        for split in ("train", "validation"):
            plan = CorpusPlan(dod.name, split, len(list(dod.tasks(split))), subject.fingerprint, TUNING, (4,), 16)
            builder = CorpusBuilder(folder / split, plan, dod, subject)
            assert list(builder.build()) == [0]
            corpora.append(load_corpus(folder / split))
        torch.manual_seed(0)
        base = None if architecture in OWN_TRANSLATOR else str(write_model(folder / "base", "t5"))
        translator = Translator.for_subject(subject, Design("encoder-decoder", base, dropout=0.0))
        before = tiny_training.loss(translator, corpora[0])
        train_translator(translator, *corpora, tiny_training.config(epochs=6, lr=0.02), folder / "training")
        after = tiny_training.loss(translator, corpora[0])
        saved = Translator.from_pretrained(folder / "training" / "translator")
        made = [soft_prompt_of(row, subject.fingerprint) for row in corpora[1].with_format("numpy")]
        prompts = [replace(prompt, scale=subject.embedding_scale) for prompt in made]
        config = TranslateConfig(n_candidates=3, n_probes=4, n_checks=4, refine_rounds=0, max_new_tokens=4)
        texts = translate(prompts, saved, subject, config, inputs=INPUTS[::4])
        return Run(subject, folder, prompts, before, after, texts)

    return run_pipeline


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_corpus_holds_soft_prompts_of_the_subjects_width_that_lower_the_validation_loss(architecture, pipeline):
    made = pipeline(architecture)
    corpus = load_corpus(made.folder / "train")
    assert len(set(corpus["task"])) == 8 and len(corpus) >= 8
    for row in corpus.with_format("numpy"):
        assert row["embeddings"].shape == (4, made.subject.d_model)
        assert row["validation_loss"] < row["initial_loss"] - 0.01
        assert row["instruction"] == instruction(*str(row["task"]).split("-"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_translator_learns_from_the_corpus_and_writes_texts_with_a_verdict(architecture, pipeline):
    made = pipeline(architecture)
    assert made.loss_after < made.loss_before - 0.1
    assert len(made.translations) == len(made.prompts) >= 2
    for translation in made.translations:
        assert translation.text.strip() and translation.verdict in ("faithful", "doubtful", "failed")
        assert 0 <= translation.agreement <= 1 and translation.divergence >= 0
        assert translation.n_probes >= 4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_evaluation_scores_gold_soft_and_translated_prompts(architecture, pipeline, tmp_path: Path):
    made = pipeline(architecture)
    raw = {
        "tasks": {"files": [str(write_tasks(tmp_path / "tasks", [("white", "red")]))]},
        "methods": ["none", "gold", "soft", {"name": "translated", "n_candidates": 3, "refine_rounds": 0}],
        "subject": str(made.folder / "subject"),
        "translator": str(made.folder / "training" / "translator"),
        "reference": None if made.subject.is_encoder_decoder else "subject",
        "tuning": {"n_tokens": 4, "steps": 4, "batch_size": 4, "eval_every": 2, "init": "vocabulary"},
        "seeds": [0],
    }
    rows = Harness(parse_config(raw, "test"), tmp_path / "run").run()
    assert {row.method for row in rows} == {"none", "gold", "soft", "translated"}
    for row in rows:
        assert row.failure is None, row.failure
        figures = [row.score, row.loss, row.kl, row.agreement, row.logit_distance]
        assert all(figure is not None and math.isfinite(figure) for figure in figures), row
        assert 0 <= row.score <= 1
        assert row.method != "gold" or made.subject.is_encoder_decoder or math.isfinite(row.perplexity)
    assert next(row for row in rows if row.method == "soft").kl == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_prompt_saved_and_loaded_does_the_same_on_the_subject_loaded_again(architecture, pipeline, tmp_path: Path):
    made = pipeline(architecture)
    made.prompts[0].save(tmp_path / "prompt.safetensors")
    loaded = SoftPrompt.from_pretrained(tmp_path / "prompt.safetensors")
    assert torch.equal(loaded.embeddings, made.prompts[0].embeddings)
    again = Subject.from_pretrained(made.folder / "subject")
    assert again.fingerprint == made.subject.fingerprint == loaded.fingerprint
    ours, theirs = ([Query(prompt, text) for text in INPUTS[:6]] for prompt in (made.prompts[0], loaded))
    assert again.generate_ids(theirs, 6) == made.subject.generate_ids(ours, 6)


def mixed_queries(prompts: list[SoftPrompt]) -> list[Query]:
    """Soft, hard and no prompts, inputs and outputs of many lengths."""
    kinds = [prompts[0], "say red", None, prompts[-1], instruction("red", "blue")]
    inputs = ["cat", "lion frog cat dog", " ".join(NOUNS), "fish bird", "dog dog"]
    return [
        Query(kind, text, " ".join(COLOURS[: 1 + (i + j) % 3]))
        for i, kind in enumerate(kinds)
        for j, text in enumerate(inputs)
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batch_mates_and_padding_change_neither_text_nor_likelihood(architecture, pipeline):
    made = pipeline(architecture)
    queries = mixed_queries(made.prompts)
    alone = [made.subject.generate_ids([query], 8)[0] for query in queries]
    assert made.subject.generate_ids(queries, 8) == alone
    assert len({tuple(row) for row in alone}) > 3  # else equality would mean little
    together = made.subject.target_scores(queries)
    for query, score in zip(queries, together, strict=True):
        assert score.log_likelihood == pytest.approx(
            made.subject.target_scores([query])[0].log_likelihood, abs=2e-4, rel=1e-4
        )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_generation_is_that_of_transformers_on_plain_ids(architecture, pipeline):
    subject = pipeline(architecture).subject
    queries = [
        query
        for query in mixed_queries([SoftPrompt(torch.ones(1, subject.d_model), scale=subject.embedding_scale)])
        if query.prompt is None
    ]
    for query, found in zip(queries, subject.generate_ids(queries, 8), strict=True):
        ids = subject.tokenizer(subject.template.body_text(query.input, "none"), return_tensors="pt")
        out = subject.model.generate(
            ids["input_ids"], attention_mask=ids["attention_mask"], do_sample=False, max_new_tokens=8, eos_token_id=2,
            pad_token_id=0, bos_token_id=1,
        )[0]  # fmt: skip
        written = out[1 if subject.is_encoder_decoder else ids["input_ids"].shape[1] :].tolist()
        ends = [at for at, token in enumerate(written) if token in subject.endings.ids]
        assert found == written[: min(ends, default=len(written))]


# --- rows shared by several examples ----------------------------------------------------------------


def hidden(subject: Subject, rows: type[SharedRows] | type[RepeatedRows]) -> Tensor:
    """Of examples under a short and a long prompt, the long ones longer than a window."""
    prompts = [subject.prompt_embeddings("cat"), subject.prompt_embeddings("cat dog bird up down")]
    pairs = [("one", "red"), ("one two three four big small up down left", "red green")]
    examples = [[subject.encode_example(*pair, "hard") for pair in pairs]] * 2
    layout = rows(FrozenModel(subject.model))
    if isinstance(layout, SharedRows) and layout.outgrows(prompts, examples):
        return subject.scorer.run(prompts, examples).hidden
    return layout.run(prompts, examples).hidden


@pytest.mark.parametrize("architecture", [*SLIDING, "gemma", "phi"])
def test_sharing_a_prompt_changes_no_number_even_beyond_a_sliding_window(architecture):
    subject = tiny_models.subject(architecture)
    assert subject.attention_window == (tiny_models.WINDOW if architecture in SLIDING else None)
    assert subject.scorer.shares_prefixes
    shared, repeated = hidden(subject, SharedRows), hidden(subject, RepeatedRows)
    torch.testing.assert_close(shared, repeated, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", SLIDING)
def test_the_window_matters_here(architecture):
    narrow, wide = (
        Subject(tiny_models.model(architecture, sliding_window=n), tiny_models.tokenizer(architecture), name="tiny")
        for n in (tiny_models.WINDOW, 60)
    )
    difference = hidden(narrow, RepeatedRows) - hidden(wide, RepeatedRows)
    assert difference.abs().max() > 0.1


@pytest.mark.parametrize("architecture", ["llama", "qwen3", *SLIDING, "gemma", "gpt2", "opt", "phi"])
def test_attention_as_matrix_products_is_the_architectures_own(architecture):
    changes = {"attn_logit_softcapping": 0.5} if architecture == "gemma2" else {}
    own, plain = (
        Subject(tiny_models.model(architecture, **changes), tiny_models.tokenizer(architecture), name="tiny")
        for _ in range(2)
    )
    own.model.set_attn_implementation("eager")
    plain.model.set_attn_implementation(ATTENTION)
    torch.testing.assert_close(hidden(plain, RepeatedRows), hidden(own, RepeatedRows), atol=1e-4, rtol=1e-4)


# --- on the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["gemma3", "t5"])
def test_the_commands_go_all_the_way(architecture, tmp_path: Path):
    subject = write_model(tmp_path / "subject", architecture)
    tasks = write_tasks(tmp_path / "tasks", [("black", "red"), ("white", "blue"), ("red", "green")])
    tuning = ["--n-tokens", 2, "--steps", 4, "--eval-every", 2, "--init", "vocabulary"]
    peft = ["--format", "peft"] if architecture == "t5" else []
    tuned = run("tune", tasks, "--subject", subject, *tuning, *peft, "-o", tmp_path / "prompts")
    assert tuned.exit_code == 0, tuned.stderr
    lexical = ["--dod", "lexical", "--subject", subject, "--n-tasks", 3, *tuning]
    for split in ("train", "validation"):
        assert run("tune", *lexical, "--split", split, "-o", tmp_path / split).exit_code == 0
    base = ["--base", subject] if architecture == "t5" else []
    training = ["--epochs", 1, "--batch-size", 4, "--no-bf16", "--subject", subject, *base]
    trained = run(
        "train", tmp_path / "train", "--validation", tmp_path / "validation", *training, "-o", tmp_path / "made"
    )
    assert trained.exit_code == 0, trained.stderr
    models = ["--subject", subject, "--translator", tmp_path / "made" / "translator"]
    few = ["--candidates", 2, "--probes", 4, "--examples", tasks / "black-red.jsonl"]
    shown = run("translate", tmp_path / "prompts", *models, *few, "--json")
    assert shown.exit_code == 0, shown.stderr
    assert len(json.loads(shown.stdout)["translations"]) == 3
    flags = ["--tasks", tasks, "--method", "gold", "--method", "none", "--seed", 0, "--reference", "none"]
    done = run("evaluate", *flags, *models, "-o", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    assert "6 cells" in done.stdout and "0 of them failed" in done.stdout


def test_an_adapter_for_gemma_from_another_program_needs_a_word_about_the_scale_or_examples(tmp_path: Path):
    """Transformers 5.4 moved the scale of Gemma 1 and 2 from the backbone into the lookup of tokens."""
    folder = write_model(tmp_path / "subject", "gemma2")
    subject = Subject.from_pretrained(folder)
    adapter = tmp_path / "adapter"
    before = SoftPrompt(subject.embed_text("one two three").clone() / subject.embedding_scale, scale=1.0)
    before.save_pretrained(adapter, base_model=str(folder))
    weights = adapter / "adapter_model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt"})  # as PEFT saves it, with no word of ours
    read = subject.for_prompts([SoftPrompt.from_pretrained(adapter)])
    examples = tmp_path / "examples.csv"
    answers = read.generate([Query(before, word) for word in tiny_models.WORDS[3:19]], 4)
    rows = [f"{word},{answer}" for word, answer in zip(tiny_models.WORDS[3:19], answers, strict=True) if answer.strip()]
    assert len(rows) > 3
    examples.write_text("input,output\n" + "\n".join(rows) + "\n")
    inputs = tmp_path / "inputs.txt"
    inputs.write_text("\n".join(tiny_models.WORDS[3:19]) + "\n")
    few = ["--candidates", 2, "--probes", 4, "--propose", "search", "--max-calls", 50]
    refused = run("translate", adapter, "--examples", inputs, *few)
    assert refused.exit_code == 2 and "--embedding-scale included" in refused.stderr
    told = run("translate", adapter, "--examples", examples, *few, "--json")
    assert told.exit_code == 0, told.stderr
    scale = re.search(r"\(--embedding-scale (included|left-out)\)", told.stderr)[1]
    found = {
        name: json.loads(
            run("translate", adapter, "--examples", examples, *few, "--embedding-scale", name, "--json").stdout
        )["translations"]
        for name in ("included", "left-out")
    }
    other = {"included", "left-out"}.difference({scale}).pop()
    assert found[scale] == json.loads(told.stdout)["translations"] != found[other]
