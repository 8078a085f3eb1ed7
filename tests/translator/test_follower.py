"""A follower: what it learns, what it says of texts, and that it is kept with its translator."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from soft2hard.compute import metering
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.candidates import Mixture
from soft2hard.translator.data import Views
from soft2hard.translator.follower import FOLLOWER_FILE, Follower, FollowerTraining, read_follower, taught, teach
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import Design, Evidence
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


def test_pairs_that_do_not_fit_count_for_no_text(subject: Subject, adapters: dict) -> None:
    long = Example(" ".join(["cat"] * subject.context_length), "red")
    follower, pairs = Follower(subject, adapters), [Example("one", "red")]
    assert follower.log_likelihoods(["up", "down"], [*pairs, long]) == follower.log_likelihoods(["up", "down"], pairs)
    assert follower.log_likelihoods(["up"], [long]) == [0.0] and follower.log_likelihoods([], pairs) == []


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
    plain = Mixture(read, views).log_probs(texts)
    object.__setattr__(read.card, "evidence", Evidence(follower=0.5))
    followed = read.follower.log_likelihoods(texts, pairs)
    expected = [p + 0.5 * f for p, f in zip(plain, followed, strict=True)]
    assert Mixture(read, views).log_probs(texts) == pytest.approx(expected)
    assert isinstance(read.follower.subject.model, nn.Module) and read.follower.subject.model is not subject.model
