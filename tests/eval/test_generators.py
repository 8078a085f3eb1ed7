"""Generators, here and behind an API: samples are true to the model, reproducible, and paid for once."""

import os
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from soft2hard.api.asking import Asker
from soft2hard.api.client import Patience
from soft2hard.api.ledger import Ledger
from soft2hard.api.prices import read_prices
from soft2hard.api.requests import ApiModel, Layout
from soft2hard.api.text_generation import ApiGenerator
from soft2hard.errors import UserError
from soft2hard.eval.config import Evaluation, parse_config
from soft2hard.eval.loaded_models import Models
from soft2hard.lm.subject import Subject
from soft2hard.lm.text_generation import LocalGenerator
from tests import tiny_models
from tests.fault_server import KEY, TRANSIENT, FaultServer
from tests.tiny_models import CONTEXT, SPECIAL, WORDS

TEXTS = ["cat dog", "red green blue one two three four", "bird", "up down left right Input : cat"]
ARCHITECTURES = ["llama", "gpt2", "opt", "bloom"]
QUICK = Patience(attempts=20, timeout=2.0, first_wait=0.01, longest_wait=0.05)


def local(architecture: str = "llama", max_new_tokens: int = 8, temperature: float = 0.9) -> LocalGenerator:
    return LocalGenerator(tiny_models.subject(architecture), max_new_tokens, temperature)


# --- a model of ours ------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_a_text_gets_does_not_depend_on_the_texts_beside_it(architecture: str):
    generator = local(architecture)
    alone = [generator.sample([text], 3, seed=5)[0] for text in TEXTS]
    assert generator.sample(TEXTS, 3, seed=5) == alone
    assert generator.sample(TEXTS[::-1], 3, seed=5) == alone[::-1]
    assert generator.sample(TEXTS * 7, 3, seed=5)[: len(TEXTS)] == alone, "in several batches"
    assert len({tuple(samples) for samples in alone}) == len(TEXTS)


def test_a_text_that_comes_twice_gets_other_samples_the_second_time():
    generator = local()
    (three,) = generator.sample(["cat dog"], 3, seed=1)
    assert generator.sample(["cat dog", "bird", "cat dog", "cat dog"], 1, seed=1)[::2][0] == [three[0]]
    assert [s for (s,) in generator.sample(["cat dog"] * 3, 1, seed=1)] == three
    assert len(set(three)) == 3


def test_another_seed_gives_other_samples_and_torchs_own_random_state_does_not_count():
    generator = local()
    first = generator.sample(TEXTS, 2, seed=0)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    assert generator.sample(TEXTS, 2, seed=0) == first != generator.sample(TEXTS, 2, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("temperature", [0.9, 3.0])
def test_samples_are_as_frequent_as_the_models_own_softmax_says(temperature: float):
    """Chi-squared over the first token; special tokens and end all decode to the empty text."""
    n, subject, text = 2000, tiny_models.subject("llama"), "red green"
    (samples,) = local("llama", 1, temperature).sample([text], n, seed=0)
    ids = torch.tensor([subject.tokenizer.encode(text)])
    probabilities = (subject.model(input_ids=ids).logits[0, -1].double() / temperature).softmax(-1)
    expected: Counter[str] = Counter()
    for word, share in zip([*SPECIAL, *WORDS], probabilities.tolist(), strict=True):
        expected["" if word in SPECIAL else word] += n * share
    found = Counter(samples)
    likely = [word for word, count in expected.items() if count >= 5]
    rest = (sum(found[w] for w in expected if w not in likely), sum(expected[w] for w in expected if w not in likely))
    pairs = [(found[word], expected[word]) for word in likely] + ([rest] if rest[1] > 1 else [])
    statistic, degrees = sum((o - e) ** 2 / e for o, e in pairs), len(pairs) - 1
    assert degrees >= 3 and statistic < degrees + 4 * (2 * degrees) ** 0.5
    assert set(found) <= set(expected)


def test_a_low_temperature_is_greedy_search():
    generator = local("llama", 6, 1e-4)
    subject = generator.lm
    for text in TEXTS:
        ids = torch.tensor([subject.tokenizer.encode(text)])
        written = subject.model.generate(ids, do_sample=False, max_new_tokens=6, eos_token_id=2, pad_token_id=2)
        wanted = subject.tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
        assert generator.sample([text], 1, seed=3) == [[wanted]]


def test_a_models_own_sampling_settings_change_nothing():
    subject = Subject(tiny_models.model("llama"), tiny_models.tokenizer("llama"), name="tiny")
    plain = LocalGenerator(subject, 8).sample(TEXTS, 2, seed=0)
    settings = {"do_sample": True, "temperature": 0.1, "top_k": 1, "top_p": 0.1, "repetition_penalty": 9.0}
    for name, value in settings.items():
        setattr(subject.model.generation_config, name, value)
    assert LocalGenerator(subject, 8).sample(TEXTS, 2, seed=0) == plain


THINKS = (
    "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)


def test_a_model_that_can_think_is_asked_not_to_and_thoughts_are_no_answer(monkeypatch: pytest.MonkeyPatch):
    subject = Subject(tiny_models.model("llama"), tiny_models.tokenizer("llama"), name="tiny")
    subject.tokenizer.chat_template = THINKS
    generator = LocalGenerator(subject, 8, chat=True)
    assert generator._turn.output_prefix.endswith("<think>\n\n</think>\n\n")
    written = ["<think>\nIt is a cat.\n</think>\n\nSay the animal.", "Say the bird."]
    monkeypatch.setattr(subject.tokenizer, "batch_decode", lambda *given, **settings: written)
    assert generator.sample(["cat", "bird"], 1, seed=0) == [["Say the animal."], ["Say the bird."]]
    assert LocalGenerator(subject, 8).sample(["cat", "bird"], 1, seed=0) == [["<think>"], ["Say the bird."]]


def test_an_answer_ends_at_its_first_line_break_and_one_before_it_does_not_count():
    words = {word: i for i, word in enumerate([*SPECIAL, *WORDS[:-2], "\n", " "])}
    plain = Tokenizer(WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = Split("|", "removed")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>", pad_token="<pad>")
    subject = Subject(tiny_models.model("llama"), tokenizer, name="tiny")
    generator = LocalGenerator(subject, 12, temperature=50.0)  # nearly every token alike, line breaks among them
    (samples,) = generator.sample(["cat|dog"], 60, seed=0)
    assert not any("\n" in text or text != text.strip() for text in samples)
    assert len({len(text) for text in samples}) > 5 and sum(text == "" for text in samples) < 10


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_text_beyond_the_context_is_cut_on_its_left_and_keeps_its_bos(architecture: str):
    generator = local(architecture)
    tail = " ".join(WORDS[i % len(WORDS)] for i in range(CONTEXT))
    room = CONTEXT - generator.max_new_tokens - int(architecture == "llama")
    kept = " ".join(tail.split()[-room:])
    row = generator._encode("cat dog " * 40 + tail)
    assert len(row) == CONTEXT - generator.max_new_tokens and row == generator.lm.tokenizer.encode(kept)
    assert len(generator.sample(["cat dog " * 40 + tail, "cat"], 2, seed=0)[0]) == 2


def test_models_that_cannot_serve_are_refused_in_one_line():
    for make in (lambda: local("t5"), lambda: local(max_new_tokens=CONTEXT), lambda: local(temperature=0.0)):
        with pytest.raises(UserError):
            make()


# --- a model behind an API ------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "generator.sqlite"


def behind(url: str, ledger: Path, layout: Layout = "chat", **parameters: object) -> ApiGenerator:
    return ApiGenerator(Asker(ApiModel("m", url, layout, parameters=parameters), ledger, read_prices(), 8, QUICK))


def echo(text: str) -> str:
    return f" say {text}\nand more"


@pytest.mark.parametrize("layout", ["chat", "completion"])
def test_each_sample_is_a_request_of_its_own_with_the_text_and_nothing_besides(layout: Layout, ledger: Path):
    with FaultServer(answer=echo) as server:
        samples = behind(server.url, ledger, layout, top_p=0.5).sample(["a", "b", "a"], 2, seed=10)
    assert samples == [["say a"] * 2, ["say b"] * 2, ["say a"] * 2]
    asked = {"messages": [{"role": "user", "content": "a"}]} if layout == "chat" else {"prompt": "a"}
    common = {"model": "m", "temperature": 1, "max_tokens": 64, "top_p": 0.5}
    common |= {"stop": ["\n"]} if layout == "completion" else {}
    of_a = [body for body in server.seen if asked.items() <= body.items()]
    assert sorted(of_a, key=lambda body: body["seed"]) == [common | asked | {"seed": seed} for seed in (10, 11, 12, 13)]
    assert len(server.seen) == 6


def test_parameters_replace_and_remove_the_defaults(ledger: Path):
    parameters = {"temperature": None, "seed": None, "max_completion_tokens": 500}
    with FaultServer() as server:
        behind(server.url, ledger, **parameters).sample(["Input: x"], 1, seed=0)
    content = [{"role": "user", "content": "Input: x"}]
    assert server.seen == [{"model": "m", "messages": content, "max_completion_tokens": 500}]


def test_every_transient_fault_is_retried_and_a_rerun_sends_nothing(ledger: Path):
    texts = [f"t{i}" for i in range(len(TRANSIENT))]
    with FaultServer(list(TRANSIENT), answer=echo) as server:
        first = behind(server.url, ledger).sample(texts, 2, seed=0)
        n = len(server.seen)
        again = behind(server.url, ledger)
        again.check()
        assert again.sample(texts, 2, seed=0) == first == [[f"say {text}"] * 2 for text in texts]
        assert n == len(server.seen) == 3 * len(TRANSIENT)
        assert again.sample(texts[:1], 3, seed=0)[0][:2] == first[0] and len(server.seen) == n + 1


def test_answers_that_are_refused_or_cannot_be_had_are_empty_and_leave_the_others_intact(ledger: Path):
    lines: list[str] = []
    with FaultServer(["refusal", "policy", "filtered", "too_long", "422"], answer=echo) as server:
        generator = ApiGenerator(Asker(ApiModel("m", server.url), ledger, read_prices(), 1, QUICK), lines.append)
        samples = generator.sample(["a", "b", "c", "d", "e", "f"], 1, seed=0)
        assert samples == [[""]] * 5 + [["say f"]]
        n = len(server.seen)
        assert generator.sample(["a", "b", "c", "f"], 1, seed=0) == [[""]] * 3 + [["say f"]]
        assert len(server.seen) == n == 6, "refusals are answers, and not asked for again"
    assert len(lines) == 1 and "2 samples are not available (1 too long, 1 rejected" in lines[0]


@pytest.mark.parametrize(
    ("fault", "said"),
    [("401", "refuses the key"), ("404", "knows no model 'm'"), ("quota", "no quota"), ("400", "under 'parameters'")],
)
def test_what_would_befall_every_request_is_found_by_the_check_before_anything_is_stored(
    fault: str, said: str, ledger: Path
):
    with FaultServer([fault]) as server:
        generator = behind(server.url, ledger)
        with pytest.raises(UserError, match=said) as caught:
            generator.check()
        assert len(server.seen) == 1 and not ledger.exists() and KEY not in str(caught.value)
        generator.check()
        generator.check()
        assert len(server.seen) == 3, "asked until there is an answer in the ledger"


def test_an_endpoint_that_is_not_there_and_a_key_that_is_missing_are_said_in_one_line(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    for ask in (behind(url, ledger).check, lambda: behind(url, ledger).sample(["a", "b"], 1, 0)):
        with pytest.raises(UserError, match="Cannot reach"):
            ask()
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set.*key_env"):
        behind("https://api.example.com/v1", ledger)


def test_a_quota_that_ends_midway_stops_the_sending_and_a_rerun_asks_for_the_rest_alone(ledger: Path):
    with FaultServer(["ok", "ok", "quota"], answer=echo) as server:
        generator = ApiGenerator(Asker(ApiModel("m", server.url), ledger, read_prices(), 1, QUICK))
        with pytest.raises(UserError, match="no quota"):
            generator.sample(["a", "b", "c", "d"], 1, seed=0)
        assert len(server.seen) == 3
        assert generator.sample(["a", "b", "c", "d"], 1, seed=0) == [["say a"], ["say b"], ["say c"], ["say d"]]
    assert len(server.seen) == 5 and set(server.paid.values()) == {1}


def test_an_interrupt_keeps_the_answers_that_are_out(ledger: Path):
    texts = [f"t{i}" for i in range(60)]
    with FaultServer(answer=echo, latency=0.3) as server:
        threading.Thread(target=_interrupt_when, args=(server, 5), daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            behind(server.url, ledger).sample(texts, 1, seed=0)
        n = len(server.seen)
        assert 5 <= n < 60
        with Ledger(ledger) as opened:
            assert opened.has_answer_of(server.url, "m") and opened.spent().unknown == n
        server.latency = 0.0
        assert behind(server.url, ledger).sample(texts, 1, seed=0) == [[f"say {text}"] for text in texts]
    assert set(server.paid.values()) == {1}


def _interrupt_when(server: FaultServer, n: int) -> None:
    while len(server.seen) < n:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


def test_the_key_is_in_no_file_sample_or_message(tmp_path: Path, ledger: Path):
    with FaultServer(["ok", "401"], answer=lambda text: f"the key is {KEY}") as server:
        generator = ApiGenerator(Asker(ApiModel("m", server.url), ledger, read_prices(), 1, QUICK))
        with pytest.raises(UserError) as caught:
            generator.sample(["a", "b"], 1, seed=0)
        assert generator.sample(["a"], 1, seed=0) == [["the key is [key]"]]
    assert KEY not in str(caught.value)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not any(KEY.encode() in path.read_bytes() for path in files)


# --- in an evaluation -----------------------------------------------------------------------------


def asked(generator: object) -> Evaluation:
    return parse_config({"tasks": {"dod": "lexical"}, "methods": ["induction"], "generator": generator}, "test")


def test_settings_name_a_model_behind_an_api_and_a_runs_record_reads_back(tmp_path: Path):
    with FaultServer(answer=echo, models={"mine"}) as server:
        fields = {"name": "mine", "base_url": server.url, "layout": "completion", "parameters": {"max_tokens": 9}}
        config = asked(fields)
        generator = Models(config, frozenset({"generator"}), tmp_path).generator
        assert generator is not None and generator.sample(["a"], 1, seed=4) == [["say a"]]
        assert [body["prompt"] for body in server.seen] == ["Say hello.", "a"], "one trial first"
        assert Models(config, frozenset({"generator"}), tmp_path).generator is not None
        assert Models(config, frozenset(), tmp_path).generator is None and len(server.seen) == 2
        with pytest.raises(UserError, match="knows no model 'other'"):
            _ = Models(asked(fields | {"name": "other"}), frozenset({"generator"}), tmp_path).generator
    assert server.seen[1] == {
        "model": "mine",
        "prompt": "a",
        "temperature": 1,
        "max_tokens": 9,
        "stop": ["\n"],
        "seed": 4,
    }
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".sqlite"] == ["generator.sqlite"]
    assert asked(config.model_dump(mode="json")["generator"]) == config


@pytest.mark.parametrize(
    ("generator", "said"),
    [({"name": "m", "api_key": KEY}, "generator.api.api_key"), ({"layout": "chat"}, "generator.api.name"),
     ({"name": "m", "base_url": "x"}, "no base URL"), ({"name": "m", "parameters": {"n": 2}}, "not free to set"),
     ({"name": "m", "base_url": f"https://me:{KEY}@x/v1"}, "user name, password or query")],
)  # fmt: skip
def test_a_generator_that_is_set_wrongly_is_refused_without_showing_what_may_be_a_key(generator: dict, said: str):
    with pytest.raises(UserError) as caught:
        asked(generator)
    assert said in str(caught.value) and KEY not in str(caught.value)
