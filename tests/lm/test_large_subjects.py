"""What large subjects need changes no result: scarce memory, checkpointing, other precisions, batches by a trial."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from soft2hard import Subject
from soft2hard.compute import memory
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.errors import UserError
from soft2hard.lm.checkpointing import checkpointing
from soft2hard.lm.loading import Loading
from soft2hard.lm.precision import load_for_tuning
from soft2hard.lm.subject import Query
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.verification import Verifier
from tests import tiny_models, tiny_training
from tests.command_line import run
from tests.data_gen.test_tuning import SHORT, assert_same_prompts, task, tuned

QUERIES = [
    Query(p, i, o)
    for p in ("red cat", None)
    for i, o in (("one", "two"), ("up down left", "big small"), ("cat", "dog"))
]
TASKS = [task(i) for i in range(5)]
WORDS = ["cat dog", "one two", "red green", "up down", "left right"]


@contextmanager
def scarce(subject: Subject, most: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Memory runs out where more than `most` rows go through the model at a time; yields the rows that went through."""
    passed: list[int] = []

    def refuse(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        if len(kwargs["inputs_embeds"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        passed.append(len(kwargs["inputs_embeds"]))

    parts = [subject.model.get_encoder()] if subject.is_encoder_decoder else [subject.model.base_model]
    hooks = [part.register_forward_pre_hook(refuse, with_kwargs=True) for part in parts]
    try:
        yield passed
    finally:
        for hook in hooks:
            hook.remove()


def save(folder: Path, architecture: str = "llama") -> Path:
    tiny_models.model(architecture).save_pretrained(folder)
    tiny_models.tokenizer(architecture).save_pretrained(folder)
    return folder


# --- memory that runs out ---------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "t5"])
@pytest.mark.parametrize("most", [1, 2])
def test_scores_and_texts_are_the_same_where_memory_runs_out(
    architecture: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = tiny_models.subject(architecture)
    scores, texts, rows = (
        subject.target_scores(QUERIES),
        subject.generate_ids(QUERIES),
        subject.target_distributions(QUERIES),
    )
    with scarce(subject, most, monkeypatch) as passed:
        for found, expected in zip(subject.target_scores(QUERIES), scores, strict=True):
            assert found.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-4)
            assert (found.n_tokens, found.greedy_match) == (expected.n_tokens, expected.greedy_match)
        assert subject.generate_ids(QUERIES) == texts
        for found, expected in zip(subject.target_distributions(QUERIES), rows, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert max(passed) == most


def test_tuning_is_the_same_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_models.subject("llama")
    expected = tuned(subject, TASKS)
    with scarce(subject, 2, monkeypatch) as passed:
        assert_same_prompts(tuned(subject, TASKS), expected)
    assert max(passed) == 2


def test_verification_is_the_same_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_models.subject("llama")
    soft = SoftPrompt(subject.embed_text("red cat").clone())

    def verified() -> list:
        verifier = Verifier(subject, max_new_tokens=4)
        [probes] = verifier.probe([soft], [["one", "two three", "fish"]])
        return verifier.verify(WORDS, probes)

    expected = verified()
    with scarce(subject, 2, monkeypatch):
        found = verified()
    for a, b in zip(found, expected, strict=True):
        assert (a.text, a.agreement) == (b.text, b.agreement)
        assert a.divergence == pytest.approx(b.divergence, abs=1e-4)


def test_a_prompt_that_does_not_fit_alone_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_models.subject("llama")
    assert subject.scorer.shares_prefixes is not None  # found out while there is memory
    with scarce(subject, 0, monkeypatch):
        with pytest.raises(UserError, match="batch of one.*--quantization 4bit"):
            subject.target_scores(QUERIES)
        with pytest.raises(UserError, match="batch of one.*--gradient-checkpointing"):
            tuned(subject, TASKS)


# --- batches found by a trial -----------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_slots_and_batches_found_by_a_trial_change_no_result(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tiny_models.subject(architecture)
    subject = Subject(plain.model, plain.tokenizer, name="tiny", loading=Loading(batch_tokens=0))
    expected, at_once = tuned(plain, TASKS), []
    monkeypatch.setattr(memory, "free_bytes", lambda device: 3 * 2**20)
    found = Tuner(subject, replace(SHORT, slots=0), on_step=at_once.append).tune(TASKS)
    assert_same_prompts({one.task.name: one for one in found}, expected)
    assert 1 <= max(at_once) <= len(TASKS)
    assert 0 < subject.batch_tokens < Loading.batch_tokens
    assert subject.generate_ids(QUERIES) == plain.generate_ids(QUERIES)


def test_more_memory_makes_more_slots_and_larger_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, found = tiny_models.subject("llama"), []
    for megabytes in (4, 16):
        monkeypatch.setattr(memory, "free_bytes", lambda device, n=megabytes: n * 2**20)
        subject = Subject(plain.model, plain.tokenizer, name="tiny", loading=Loading(batch_tokens=0))
        tuner = Tuner(subject, replace(SHORT, slots=0))
        found.append((subject.batch_tokens, tuner._affordable_slots([tuner._job(TASKS[2])])))
    (few, small), (many, large) = found
    assert 3 < many / few < 5 and 3 < large / small < 5


def test_no_tasks_need_no_trial() -> None:
    assert list(Tuner(tiny_models.subject("llama"), replace(SHORT, slots=0)).tune([])) == []


# --- gradient checkpointing -------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [*tiny_models.CONFIGS, "gemma2", "bart"])
def test_checkpointing_keeps_far_less_for_the_backward_pass_and_gives_the_same_gradient(architecture: str) -> None:
    subject = tiny_models.subject(architecture)
    inputs = torch.randn(3, 20, subject.d_model, generator=torch.Generator().manual_seed(0))
    decoder = {"decoder_input_ids": torch.ones(3, 4, dtype=torch.long)} if subject.is_encoder_decoder else {}
    kept, gradients = [], []
    for wanted in (False, True):
        sizes: list[int] = []
        leaf = inputs.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.nbytes), t)[1], lambda t: t
        ):
            with checkpointing(subject.model, wanted):
                hidden = subject.backbone(leaf, **decoder)
        gradients += torch.autograd.grad(hidden.square().sum(), leaf)
        kept.append(sum(sizes))
    assert kept[1] < 0.3 * kept[0]
    torch.testing.assert_close(gradients[1], gradients[0])
    assert gradients[0].abs().max() > 1e-3


def test_tuning_with_checkpointing_takes_less_memory_for_the_same_soft_prompts() -> None:
    plain, peaks, results = tiny_training.llama_subject(num_hidden_layers=6), [], []
    for wanted in (False, True):
        subject = Subject(plain.model, plain.tokenizer, name="deep", loading=Loading(gradient_checkpointing=wanted))
        with memory.PeakMemory() as held:
            results.append(tuned(subject, TASKS))
        peaks.append(held.peak)
    assert_same_prompts(results[1], results[0])
    assert peaks[1] < 0.7 * peaks[0]


def test_checkpointing_ends_with_its_block_and_leaves_dropout_off() -> None:
    model = tiny_models.subject("opt").model
    before = [dict(vars(layer)) for layer in model.modules()]
    with pytest.raises(ZeroDivisionError), checkpointing(model):
        assert not any(layer.training for layer in model.modules())
        raise ZeroDivisionError
    assert [dict(vars(layer)) for layer in model.modules()] == before


def test_a_model_without_layers_to_checkpoint_is_refused() -> None:
    with pytest.raises(UserError, match="Linear has no layers"), checkpointing(torch.nn.Linear(2, 2)):
        pass


# --- precision, quantization, attention -------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounded_weights_are_still_the_subject_that_was_saved(tmp_path: Path, dtype: str) -> None:
    folder = save(tmp_path)
    plain, rounded = Subject.from_pretrained(folder), load_for_tuning(folder, Loading(dtype=dtype))
    assert rounded.embedding.dtype == getattr(torch, dtype)
    assert rounded.fingerprint == plain.fingerprint
    for a, b in zip(rounded.target_scores(QUERIES), plain.target_scores(QUERIES), strict=True):
        assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=0.05)


def test_attention_of_another_kind_gives_the_same_scores(tmp_path: Path) -> None:
    folder = save(tmp_path)
    plain, eager = (Subject.from_pretrained(folder, loading=Loading(attention=kind)) for kind in ("auto", "eager"))
    assert (plain.model.config._attn_implementation, eager.model.config._attn_implementation) == ("sdpa", "eager")
    for a, b in zip(eager.target_scores(QUERIES), plain.target_scores(QUERIES), strict=True):
        assert a.log_likelihood == pytest.approx(b.log_likelihood, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"dtype": "int8"}, "There is no dtype 'int8'; there are 'auto', 'saved', 'float32'"),
        ({"quantization": "2bit"}, "There is no quantization '2bit'"),
        ({"attention": "flash"}, "There is no attention 'flash'"),
        ({"batch_tokens": -1}, "batch_tokens is -1"),
    ],
)
def test_settings_that_there_are_not_are_refused(settings: dict, part: str) -> None:
    with pytest.raises(UserError, match=part):
        Loading(**settings)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"quantization": "4bit", "device": "cpu"}, "need a GPU.*--quantization none"),
        ({"attention": "flash_attention_2", "device": "cpu"}, "FlashAttention 2 needs a GPU.*--attention sdpa"),
        ({"device": "cuda:99"}, "no GPU for --device cuda:99"),
        ({"device": "abacus"}, "no device 'abacus'"),
    ],
)
def test_what_this_machine_does_not_have_is_one_line(tmp_path: Path, settings: dict, part: str) -> None:
    folder = save(tmp_path)
    with pytest.raises(UserError, match=part):
        Subject.from_pretrained(folder, loading=Loading(**settings))


@pytest.mark.parametrize(("bits", "flag"), [("8bit", "load_in_8bit"), ("4bit", "load_in_4bit")])
def test_quantization_asks_transformers_for_it_on_a_gpu_and_needs_bitsandbytes(
    bits: str, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from soft2hard.lm import loading

    monkeypatch.setattr(Loading, "torch_device", property(lambda self: torch.device("cuda")))
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="bitsandbytes is not installed. Run pip install"):
        loading._settings(Loading(quantization=bits))
    monkeypatch.setattr(loading, "find_spec", lambda name: name)
    settings = loading._settings(Loading(quantization=bits))
    assert getattr(settings["quantization_config"], flag)
    assert settings["device_map"] == {"": torch.device("cuda")}


def test_a_gpu_too_small_for_the_subject_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 16.00 GiB.")

    folder = save(tmp_path)
    monkeypatch.setattr("soft2hard.lm.loading.AutoModelForCausalLM.from_pretrained", fail)
    with pytest.raises(UserError, match="no room for the subject.*--quantization 4bit"):
        Subject.from_pretrained(folder)


# --- the command line -------------------------------------------------------------------------


def test_tune_takes_all_that_a_large_subject_needs(tmp_path: Path) -> None:
    folder, kinds = save(tmp_path / "subject"), tiny_training.write_task(tmp_path / "kinds.jsonl", "cat dog")
    quick = ("--steps", 2, "--n-tokens", 2, "--subject", folder, "-o", tmp_path / "out")
    large = (
        "--slots",
        0,
        "--batch-tokens",
        0,
        "--dtype",
        "bfloat16",
        "--gradient-checkpointing",
        "--attention",
        "eager",
    )
    result = run("tune", kinds, *quick, *large)
    assert result.exit_code == 0, result.stderr
    found = SoftPrompt.from_pretrained(tmp_path / "out" / "kinds.safetensors")
    assert found.fingerprint == Subject.from_pretrained(folder).fingerprint
    again = run("tune", kinds, *quick, "--slots", 0)
    assert again.exit_code == 2 and "other settings (dtype)" in again.stderr


@pytest.mark.parametrize(
    "wrong", [("--quantization", "4bit"), ("--attention", "flash_attention_2"), ("--dtype", "int8")]
)
def test_tune_refuses_what_it_cannot_do_in_one_line_and_writes_nothing(tmp_path: Path, wrong: tuple) -> None:
    folder, kinds = save(tmp_path / "subject"), tiny_training.write_task(tmp_path / "kinds.jsonl", "cat dog")
    result = run("tune", kinds, "--subject", folder, "--device", "cpu", "-o", tmp_path / "out", *wrong)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_evaluation_holds_its_subject_as_it_is_told(tmp_path: Path) -> None:
    from soft2hard.eval.config import parse_config
    from soft2hard.eval.loaded_models import Models

    asked = {
        "tasks": {"files": ["x.csv"]},
        "methods": ["none"],
        "subject": str(save(tmp_path)),
        "loading": {"dtype": "bfloat16"},
    }
    models = Models(parse_config(asked, "here"), frozenset())
    assert models.subject.embedding.dtype == torch.bfloat16
    assert models.tuning_subject is models.subject
    with pytest.raises(UserError, match="here is no dtype 'int8'"):
        parse_config(asked | {"loading": {"dtype": "int8"}}, "here")


def test_frozen_models_are_unchanged_by_a_trial() -> None:
    model = tiny_models.model("llama")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    subject = Subject(model, tiny_models.tokenizer("llama"), name="tiny", loading=Loading(batch_tokens=0))
    assert subject.batch_tokens > 0
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
