"""A translator reads what soft prompts of any subject do, though it was trained for one subject alone."""

import json
from pathlib import Path

import pytest
import torch

from soft2hard import SoftPrompt, Subject, TranslateConfig, Translator, Tuner, translate
from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.settings import Tuning
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.lm.sequences import Query
from soft2hard.prompts.template import Template
from soft2hard.storage.names import embedded_path
from soft2hard.translator import fitting
from soft2hard.translator.candidates import propose
from soft2hard.translator.demonstrations import views_of
from soft2hard.translator.search import Budget, Search, weight_by
from soft2hard.translator.settings import Design, Evidence
from soft2hard.translator.translate import TOO_FEW_INPUTS
from soft2hard.translator.verification import Candidate, Verifier
from tests import tiny_models
from tests.command_line import run

FOR_ANY_SUBJECT = fitting.of_any_subject
FEW = TranslateConfig(n_candidates=4, n_probes=4, n_checks=4, refine_rounds=0)
INPUTS = tiny_models.WORDS[3:13]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return saved(tmp_path / "home", "llama")


@pytest.fixture
def stranger(tmp_path: Path) -> Subject:
    """Of another architecture and width; its soft prompts are as wide as its vectors."""
    return Subject.from_pretrained(saved(tmp_path / "stranger", "gpt2", n_embd=24, n_head=4))


def saved(folder: Path, architecture: str, **changes: object) -> Path:
    tiny_models.model(architecture, **changes).save_pretrained(folder)
    tiny_models.tokenizer(architecture).save_pretrained(folder)
    return folder


def made(home: Path, reads: str) -> Path:
    translator = Translator.for_subject(Subject.from_pretrained(home), Design(reads=reads, shown=3, lora_rank=2))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in translator.model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    translator.save_pretrained(home.parent / reads)
    return home.parent / reads


def prompt_of(subject: Subject) -> SoftPrompt:
    vectors = torch.randn(2, subject.d_model, generator=torch.Generator().manual_seed(3))
    return SoftPrompt(vectors, subject=subject.name, fingerprint=subject.fingerprint, template=Template())


@pytest.mark.parametrize("reads", ["both", "examples"])
def test_it_reads_the_text_of_what_the_soft_prompt_writes_and_no_vector_of_it(
    home: Path, stranger: Subject, reads: str
) -> None:
    translator, prompt = Translator.beside(made(home, reads), stranger), prompt_of(stranger)
    assert stranger.d_model != translator.home.d_model
    [views] = views_of(translator, stranger, [prompt], [INPUTS], 0, max_new_tokens=4)
    seen, chosen = views.shown[0], translator.view(stranger).chosen(INPUTS, 0)
    assert views.alone is None
    written = stranger.generate([Query(prompt, one) for one in chosen], 4)
    text = translator.home.template.few_shot_text([Example(*p) for p in zip(chosen, written, strict=True)])
    assert len(chosen) == 3
    torch.testing.assert_close(seen.embeddings, translator.home.embed_text(text).to(seen.embeddings))


def test_its_texts_are_run_on_the_stranger_and_the_evidence_is_weighed_by_what_the_best_explains(
    home: Path, stranger: Subject
) -> None:
    translator, prompt = Translator.beside(made(home, "both"), stranger), prompt_of(stranger)
    found = translate(prompt, translator, stranger, FEW, inputs=INPUTS)
    assert found.judgement is not None and found.proposer == "translator"
    most = max(candidate.explained for candidate in found.candidates)
    assert [candidate.weight for candidate in found.candidates] == [max(most, 0) ** 4] * len(found.candidates)
    order = [candidate.rank for candidate in found.candidates]
    assert order == sorted(order)


def test_where_a_weight_was_chosen_it_stays(home: Path) -> None:
    subject = Subject.from_pretrained(home)
    prompt = prompt_of(subject)
    [probes] = Verifier(subject).probe([prompt], [INPUTS])
    for evidence, expected in ((Evidence(0.25), 0.25), (Evidence(), 1.0)):
        ranked = Search([], Verifier(subject), probes, Budget(), evidence).run_all(["up red", "down"])
        assert {candidate.weight for candidate in ranked} == {expected}


def test_the_weight_falls_with_what_even_the_best_text_leaves_unexplained() -> None:
    def explaining(share: float | None) -> Candidate:
        return Candidate("a", 1.0, divergence=1.0, n_positions=6, explained=share)

    assert weight_by([explaining(0.2), explaining(0.5)]) == pytest.approx(1 / 16)
    assert weight_by([explaining(1.0)]) == 1.0
    assert weight_by([explaining(-3.0)]) == 0.0
    assert weight_by([explaining(None)]) == 1.0


@pytest.mark.parametrize("reads", ["vectors", "nothing"])
def test_a_translator_that_does_not_read_what_soft_prompts_do_stays_with_its_subject(
    home: Path, stranger: Subject, reads: str
) -> None:
    folder = made(home, reads)
    with pytest.raises(UserError, match="trained for another subject"):
        Translator.beside(folder, stranger)
    with pytest.raises(UserError, match=f"reads {reads}.*--reads both or examples"):
        Translator.abroad(folder)


def test_beside_its_own_subject_it_reads_the_vectors(home: Path) -> None:
    subject = Subject.from_pretrained(home)
    translator = Translator.beside(made(home, "both"), subject)
    assert translator.home is None and translator.reads == "both"


def test_without_a_translator_for_the_subject_that_of_smollm2_is_taken_if_it_can_be_fetched(
    home: Path, stranger: Subject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fitting, "of_any_subject", FOR_ANY_SUBJECT)
    monkeypatch.setattr(fitting, "SMOLLM2", str(made(home, "both")))
    fitting._smollm2s.cache_clear()
    found = translate(prompt_of(stranger), subject=stranger, config=FEW, inputs=INPUTS)
    assert "translator" in found.by_proposer
    assert "that of SmolLM2 reads what its soft prompts do" in capsys.readouterr().err
    (home / "config.json").unlink()
    fitting._smollm2s.cache_clear()
    found = translate(prompt_of(stranger), subject=stranger, config=FEW, inputs=INPUTS)
    assert found.by_proposer and "translator" not in found.by_proposer
    assert "So no translator reads what the soft prompt does" in capsys.readouterr().err


def test_the_command_takes_a_translator_of_another_subject(home: Path, stranger: Subject, tmp_path: Path) -> None:
    prompt, inputs = tmp_path / "prompt.safetensors", tmp_path / "inputs.txt"
    prompt_of(stranger).save(prompt)
    inputs.write_text("\n".join(INPUTS) + "\n")
    few = ["--candidates", 4, "--probes", 4, "--examples", inputs, "--json"]
    shown = run("translate", prompt, "--translator", made(home, "both"), *few)
    assert shown.exit_code == 0, shown.stderr
    assert json.loads(shown.stdout)["translations"][0]["proposer"] == "translator"
    unverified = run("translate", prompt, "--translator", home.parent / "both", "--no-verify")
    assert unverified.exit_code == 2 and len(unverified.stderr.splitlines()) == 1
    assert "not with --no-verify" in unverified.stderr


def test_a_task_of_the_embedded_world_is_read_from_a_model_that_the_translator_never_met() -> None:
    """A soft prompt tuned on the API-side model (GPT-NeoX, another tokenizer), for the subject's translator."""
    stranger = Subject.from_pretrained(embedded_path("api_model"))
    task = next(task for task in LexicalDoD().tasks("test", 40) if task.family == "classify")
    tuned = Tuner(stranger, Tuning(n_tokens=8, steps=150, batch_size=8, lr=1.0, init="vocabulary")).tune([task])
    [prompt] = [one.soft_prompt for one in tuned]
    translator = Translator.beside("embedded", stranger)
    inputs = [example.input for example in (*task.train, *task.validation)]
    found = translate(prompt, translator, stranger, TranslateConfig(n_candidates=16), inputs=inputs)
    assert found.text in (task.instruction, *task.paraphrases)


def test_a_soft_prompt_without_inputs_stays_unread_beside_others(home: Path, stranger: Subject) -> None:
    translator = Translator.beside(made(home, "both"), stranger)
    prompts = [prompt_of(stranger)] * 2
    seen, unseen = translate(prompts, translator, stranger, FEW, inputs=[INPUTS, []])
    assert seen.judgement is not None
    assert (unseen.verdict, unseen.probe_source) == ("unverified", TOO_FEW_INPUTS)


def test_a_prompt_is_verified_on_the_subject_that_it_names_and_not_on_the_translators(
    home: Path, stranger: Subject
) -> None:
    translator = Translator.beside(made(home, "both"), stranger)
    found = translate(prompt_of(stranger), translator, config=FEW, inputs=INPUTS)
    same = translate(prompt_of(stranger), translator, stranger, FEW, inputs=INPUTS)
    assert found == same


def test_labelled_examples_of_another_subjects_tasks_are_read_too(home: Path, stranger: Subject) -> None:
    """As `outputs: task` of an evaluation shows them."""
    translator = Translator.beside(made(home, "both"), stranger)
    task = Task("one", "tiny", "", (), tuple(Example(one, "up") for one in INPUTS), (), ())
    read = translator.view(stranger).of(prompt_of(stranger), task, 0)
    assert read.d_model == translator.home.d_model
    [texts] = propose(translator, [read], 8)
    assert texts


def test_an_evaluation_shows_a_translator_what_the_soft_prompt_does_alone(home: Path, tmp_path: Path) -> None:
    folder, tasks = made(home, "both"), tmp_path / "tasks"
    tasks.mkdir()
    words = [*INPUTS, *(f"{one} {other}" for one, other in zip(INPUTS, INPUTS[1:], strict=False)), "cat cat", "dog dog"]
    rows = [f"{word},{'up' if i % 2 else 'down'}" for i, word in enumerate(words)]
    (tasks / "one.csv").write_text("# instruction: up or down\ninput,output\n" + "\n".join(rows) + "\n")
    config = tmp_path / "run.yaml"
    few = "n_candidates: 4, n_probes: 4, n_checks: 4, refine_rounds: 0"
    config.write_text(
        f"subject: {home}\ntranslator: {folder}\nreference: none\ngenerator: none\nseeds: [0]\n"
        f"tasks: {{files: [{tasks}]}}\ntuning: {{init: vocabulary, n_tokens: 2, steps: 2, eval_every: 2}}\nmethods:\n"
        "  - greedy\n  - {name: greedy, vectors: false, label: alone}\n"
        f"  - {{name: translated, vectors: false, {few}}}\n"
    )
    done = run("evaluate", config, "-o", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    rows = {row["method"]: row for row in json.loads((tmp_path / "run" / "results.json").read_text())}
    # Random weights write texts of any length.
    assert {row["failure"] for row in rows.values()} <= {None, "the prompt does not fit the subject's context"}
    assert len({row["prompt"] for row in rows.values()}) == 3
    config.write_text(config.read_text().replace(str(folder), str(made(home, "vectors"))))
    refused = run("evaluate", config, "-o", tmp_path / "other")
    assert (
        refused.exit_code == 2 and "vectors: false leaves nothing to a translator that reads vectors" in refused.stderr
    )
