"""A follower: what it learns, what it says of texts, and that it is kept with its translator."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn

from soft2hard.compute import metering
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.lm.batching import EncodedExample
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator import follower as follower_module
from soft2hard.translator.candidates import Mixture
from soft2hard.translator.data import Views
from soft2hard.translator.follower import FOLLOWER_FILE, Follower, FollowerTraining, read_follower, taught, teach
from soft2hard.translator.model import Translator
from soft2hard.translator.search import Budget, Search
from soft2hard.translator.settings import Design, Evidence, TranslateConfig
from soft2hard.translator.translate import Helpers, translate
from soft2hard.translator.verification import Verifier
from tests import tiny_models

WORDS = tiny_models.WORDS[3:]
SAID = {"up": ("red", "blue"), "down": ("cat", "dog")}


def tasks() -> list[Task]:
    """What is answered stands in the text alone."""
    pairs = [(word, text, answer) for text, answers in SAID.items() for answer in answers[:1] for word in WORDS[:12]]
    return [
        Task(text, "plain", text, (), tuple(Example(w, a) for w, t, a in pairs if t == text), (), ()) for text in SAID
    ]


@pytest.fixture(scope="module")
def subject() -> Subject:
    return tiny_models.subject("llama")


@pytest.fixture(scope="module")
def adapters(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("follower")
    before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    losses: list[float] = []
    config = FollowerTraining(steps=60, rank=4, batch_size=16, lr=2e-2)
    teach(subject, tasks(), config, folder / FOLLOWER_FILE, lambda _, loss: losses.append(loss))
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(before[name], tensor) for name, tensor in subject.model.state_dict().items())
    assert [path.name for path in folder.iterdir()] == [FOLLOWER_FILE]
    return read_follower(folder)


def test_it_finds_outputs_likelier_under_the_text_that_asks_for_them(subject: Subject, adapters: dict) -> None:
    follower = Follower(subject, adapters)
    for text, (answer, _) in SAID.items():
        pairs = [Example(word, answer) for word in WORDS[12:18]]
        found = dict(zip(SAID, follower.log_likelihoods(list(SAID), pairs), strict=True))
        assert max(found, key=found.__getitem__) == text


def test_what_it_says_is_the_sum_over_pairs_of_what_the_taught_model_says(subject: Subject, adapters: dict) -> None:
    pairs, model = [Example("one", "red"), Example("two", "cat dog")], taught(subject, adapters)
    for text, found in zip(SAID, Follower(subject, adapters).log_likelihoods(list(SAID), pairs), strict=True):
        scores = model.target_scores([Query(text, pair.input, pair.output) for pair in pairs])
        assert found == pytest.approx(sum(score.log_likelihood for score in scores), abs=1e-3)


def test_each_pair_is_counted_once_for_each_text(subject: Subject, adapters: dict) -> None:
    with metering.listening() as heard:
        Follower(subject, adapters).log_likelihoods(list(SAID), [Example("one", "red"), Example("two", "cat")])
    assert heard.total.sequences == 2 * len(SAID)


def test_pairs_that_leave_no_room_for_a_text_count_for_none_and_all_texts_are_weighed_by_the_same(
    subject: Subject, adapters: dict
) -> None:
    """What a text comes to depends on no other."""
    context, follower = subject.context_length, Follower(subject, adapters)
    long, short = Example(" ".join(["cat"] * (context - 2)), "red"), [Example("one", "red"), Example("two", "cat")]
    assert follower.fitting([*short[:1], long, *short[1:]]) == tuple(short)
    assert follower.fitting(short * 8) == tuple(short * 4)
    wordy = " ".join(["up"] * (context - 10))
    alone, beside = (follower.log_likelihoods(texts, short) for texts in (["up", "down"], ["up", wordy, "down"]))
    assert beside[::2] == pytest.approx(alone, abs=1e-4)
    [far_too_long] = follower.log_likelihoods([" ".join(["up"] * context)], short)
    assert far_too_long < min(beside) - 1000


def test_whatever_the_length_of_pairs_no_query_is_too_long(subject: Subject, adapters: dict) -> None:
    follower, n_kept = Follower(subject, adapters), 0
    for n_words in range(1, subject.context_length):
        pairs = follower.fitting([Example(" ".join(["cat"] * n_words), "red")])
        lengths = (1, subject.context_length // 2, subject.context_length - n_words) if pairs else ()
        follower.log_likelihoods([" ".join(["up"] * n) for n in lengths], pairs)
        n_kept += len(pairs)
    assert 0 < n_kept < subject.context_length - 1


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "cohere", "granite"])
def test_the_loss_that_teaches_is_that_of_scoring_whatever_the_head_does_to_logits(family: str, tmp_path: Path) -> None:
    subject = tiny_models.subject(family)
    rows = follower_module._drawn(subject, tasks(), Random(0), 6)
    ids = [(read[len(subject.leading_ids) :], output) for read, output in rows]
    examples = [EncodedExample(read, output) for read, output in ids]
    targets = subject.scorer.run([subject.lead_embeddings("hard")] * len(examples), [[one] for one in examples])
    expected = subject.scorer.losses(targets.hidden, targets.ids).sum().item()
    assert follower_module._loss(subject, rows).item() == pytest.approx(expected, rel=1e-2)
    teach(subject, tasks(), FollowerTraining(steps=2, batch_size=4), tmp_path / "adapters")
    assert load_file(tmp_path / "adapters")


def test_where_no_example_fits_the_context_teaching_ends_in_one_line(subject: Subject, tmp_path: Path) -> None:
    endless = Example(" ".join(["cat"] * 2 * subject.context_length), "red")
    task = replace(tasks()[0], train=(endless,))
    with pytest.raises(UserError, match="Hardly any example fits"):
        teach(subject, [task], FollowerTraining(steps=1, batch_size=2), tmp_path / "adapters")


def test_taught_weights_are_those_of_low_rank_adapters_as_peft_has_them(subject: Subject, adapters: dict) -> None:
    peft = get_peft_model(deepcopy(subject.model), LoraConfig(r=4, lora_alpha=4, target_modules="all-linear"))
    for name, layer in peft.get_base_model().named_modules():
        if hasattr(layer, "lora_A"):
            layer.lora_A["default"].weight.data.copy_(adapters[f"{name}.down"])
            layer.lora_B["default"].weight.data.copy_(adapters[f"{name}.up"])
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = peft(input_ids=ids).logits
    torch.testing.assert_close(taught(subject, adapters).model(input_ids=ids).logits, expected, rtol=1e-3, atol=1e-4)


def test_a_teaching_that_was_stopped_goes_on_where_it_last_saved(subject: Subject, tmp_path: Path) -> None:
    config = FollowerTraining(steps=10, rank=2, batch_size=4)
    teach(subject, tasks(), config, tmp_path / "whole")

    def stop(step: int, _: float) -> None:
        if step == 6:
            raise KeyboardInterrupt

    steps: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        teach(subject, tasks(), config, tmp_path / "stopped", stop)
    assert not (tmp_path / "stopped").exists()
    teach(subject, tasks(), config, tmp_path / "stopped", lambda step, _: steps.append(step))
    assert steps == [6, 7, 8, 9, 10]
    assert (tmp_path / "stopped").read_bytes() == (tmp_path / "whole").read_bytes()


def test_adapters_of_another_model_and_a_damaged_file_are_refused(
    subject: Subject, adapters: dict, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="do not fit the layer"):
        taught(tiny_models.subject("gpt2"), adapters)
    (tmp_path / FOLLOWER_FILE).write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read"):
        read_follower(tmp_path)
    assert read_follower(tmp_path / "elsewhere") is None


def test_it_is_saved_with_its_translator_and_weighs_texts_as_the_card_says(
    subject: Subject, adapters: dict, tmp_path: Path
) -> None:
    translator = Translator.for_subject(
        subject, Design(architecture="causal-lora", reads="examples", lora_rank=2, instruction_tokens=8)
    )
    translator.follower_adapters = adapters
    translator.save_pretrained(tmp_path / "saved")
    read = Translator.from_pretrained(tmp_path / "saved", subject=subject)
    assert read.follower is not None
    pairs = [Example("one", "red"), Example("two", "red")]
    view = read.view(subject)
    shown = view.of_pairs(SoftPrompt(torch.zeros(2, subject.d_model)), pairs)
    views, texts = Views((shown,), pairs=tuple(pairs)), list(SAID)
    reading = Mixture(read, views)
    assert reading.followed(texts).tolist() == read.follower.log_likelihoods(texts, pairs)
    verifier = Verifier(subject)
    [probes] = verifier.probe([SoftPrompt(torch.randn(2, subject.d_model))], [["one", "two"]])
    prior = Mixture(read, Views((view.of_pairs(SoftPrompt(torch.zeros(2, subject.d_model)), [Example("two", "cat")]),)))
    search = Search([prior, reading], verifier, probes, Budget(), Evidence(0.0, follower=0.5), reading.followed)
    for found in search.run_all(texts):
        log_prob = np.logaddexp(*(density.log_probs([found.text])[0] for density in (prior, reading))) - np.log(2)
        [followed] = reading.followed([found.text]).tolist()
        # Whoever proposed a text: what the follower adds stands outside of the mixture.
        assert found.log_prob == pytest.approx(log_prob, abs=1e-3)
        assert -found.rank == pytest.approx(log_prob + 0.5 * followed, abs=1e-2)
    assert isinstance(read.follower.subject.model, nn.Module) and read.follower.subject.model is not subject.model


def test_texts_of_a_comparison_are_followed_by_what_the_soft_prompt_itself_does(
    subject: Subject, adapters: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    translator = Translator.for_subject(
        subject, Design(architecture="causal-lora", reads="examples", lora_rank=2, instruction_tokens=8)
    )
    translator.card = replace(translator.card, evidence=Evidence(follower=0.5))
    translator.follow_with(adapters, subject)
    seen: list[Example] = []
    monkeypatch.setattr(Follower, "log_likelihoods", lambda _, texts, pairs: seen.extend(pairs) or [0.0] * len(texts))
    prompt = SoftPrompt(torch.randn(2, subject.d_model), template=subject.template)
    inputs, how = list(WORDS[:8]), TranslateConfig(4, 4, 4, refine_rounds=0, max_new_tokens=2)
    other = translator.view(subject).of_pairs(prompt, [Example("one", "red")])
    found = translate(prompt, translator, subject, how, inputs=inputs, helpers=Helpers(read=[other]))
    assert set(seen) <= set(found.chosen_on) and {pair for pair in found.chosen_on if pair.output} == set(seen)
