"""The embedded world: training rows mean what separate sequences mean, training resumes, nothing leaks."""

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb as rotate_neox
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as rotate_llama

from soft2hard.data_gen.dods.lexical import FAMILIES, LexicalDoD, LexicalTask, draw_task, parse
from soft2hard.data_gen.dods.lexical.grammar import Variant
from soft2hard.data_gen.tasks import Example
from soft2hard.data_gen.world import WorldModel
from soft2hard.data_gen.world import rows as rows_module
from soft2hard.data_gen.world.models import build_model, look_back_biases
from soft2hard.data_gen.world.rows import CONTEXT_WEIGHT, IGNORE, INDUCTION_WEIGHT, RowBuilder, Rows
from soft2hard.data_gen.world.training import (
    FamilySampler,
    LMTrainer,
    answer_logits,
    exact_match,
    learning_rate_scale,
    row_losses,
)
from soft2hard.data_gen.world.vocabulary import (
    piece_encoder,
    sentencepiece_tokenizer,
    train_sentencepiece,
    word_encoder,
    word_tokenizer,
    world_text,
)
from soft2hard.errors import UserError
from soft2hard.lm.subject import Query
from tests import tiny_models

WORDS = word_tokenizer()
ENCODE = word_encoder(WORDS)
INPUT = WORDS.convert_tokens_to_ids("Input:")
LLAMA = WorldModel("llama", 128, 2, steps=6, rows=4, row_length=48, warmup=2, facts_share=0.3, save_every_s=0.0)
NEOX = replace(LLAMA, architecture="gpt_neox")
MODELS = {"llama": LLAMA, "gpt_neox": NEOX}


def built(settings: WorldModel):
    return build_model(settings, WORDS).eval()


def row_builder(length: int = 96) -> RowBuilder:
    return RowBuilder(ENCODE, WORDS.eos_token_id, WORDS.pad_token_id, length)


def rows_of(few_shot_share: float = 0.0, n: int = 15) -> Rows:
    tasks = list(LexicalDoD().draw("train", n, 0))
    return row_builder().build(tasks, Random(0), few_shot_share)


# --- rows -------------------------------------------------------------------------------------


def separate_sequences(ids: list[int], answer: list[int], labels: list[int]) -> tuple[list[int], list[list[int]]]:
    """The instruction of a row, and its examples (input, output and EOS), found by the words 'Input:'."""
    starts = [i for i, token in enumerate(ids) if token == INPUT]
    end = max(i for i, number in enumerate(answer) if number) + 1
    chunks = [ids[a:b] for a, b in zip(starts, [*starts[1:], end], strict=True)]
    last = [max(i for i, number in enumerate(answer) if number == k + 1) for k in range(len(chunks))]
    return ids[: starts[0]], [[*chunk, labels[i]] for chunk, i in zip(chunks, last, strict=True)]


def plain_losses(model, ids: list[int]) -> Tensor:
    """Loss of each token after the first, by the model alone, with its own mask and positions."""
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_shared_instruction_row_has_the_loss_of_its_examples_one_by_one(name):
    model, rows = built(MODELS[name]), rows_of()
    loss, per_row = row_losses(model, rows)
    total, weight = 0.0, 0.0
    for row in range(len(rows.ids)):
        prompt, examples = separate_sequences(*(x[row].tolist() for x in (rows.ids, rows.answer, rows.labels)))
        assert len(examples) >= 2
        assert parse(WORDS.decode(prompt)) is not None
        instruction = plain_losses(model, prompt)
        total, weight = total + CONTEXT_WEIGHT * instruction.sum(), weight + CONTEXT_WEIGHT * len(instruction)
        answers = []
        for example in examples:
            losses = plain_losses(model, prompt + example)[len(prompt) :]
            n_input = example.index(WORDS.convert_tokens_to_ids("Output:"))
            total = total + CONTEXT_WEIGHT * losses[:n_input].sum() + losses[n_input:].sum()
            weight += CONTEXT_WEIGHT * n_input + len(losses) - n_input
            answers.append(losses[n_input:])
        assert per_row[row] == pytest.approx(torch.cat(answers).mean().item(), abs=1e-4)
    assert loss.item() == pytest.approx(float(total / weight), abs=1e-4)


@torch.no_grad()
def test_a_few_shot_row_is_a_plain_sequence_whose_first_output_is_not_asked_for():
    model, rows = built(LLAMA), rows_of(few_shot_share=1.0)
    logits, labelled = answer_logits(model, rows)
    expected = model(input_ids=rows.ids).logits[labelled]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    for row in range(len(rows.ids)):
        assert rows.ids[row, 0] == INPUT
        inputs = (rows.ids[row] == INPUT).sum().item()
        assert set(rows.answer[row].tolist()) - {0} == set(range(2, inputs + 1))


def test_every_output_of_a_row_ends_the_sequence_and_is_right():
    tasks = list(LexicalDoD().draw("train", 15, 0))
    rows = row_builder().build(tasks, Random(0))
    for row, task in enumerate(tasks):
        ids, answer, labels = (x[row].tolist() for x in (rows.ids, rows.answer, rows.labels))
        prompt, examples = separate_sequences(ids, answer, labels)
        assert parse(WORDS.decode(prompt)) == task
        for number, example in enumerate(examples, 1):
            output = [label for label, n in zip(labels, answer, strict=True) if n == number]
            assert output[-1] == WORDS.eos_token_id and example[-len(output) :] == output


def test_induction_rows_show_examples_and_then_ask_for_their_instruction(monkeypatch):
    monkeypatch.setattr(rows_module, "INSTRUCTION_CUE", "\nyes")  # a word of this tokenizer
    cue = WORDS.convert_tokens_to_ids("yes")
    tasks = list(LexicalDoD().draw("train", 15, 0))
    rows = row_builder().build(tasks, Random(0), induction_share=1.0)
    for row, task in enumerate(tasks):
        ids, labels, weights = (x[row].tolist() for x in (rows.ids, rows.labels, rows.weights))
        asked = [i for i, weight in enumerate(weights) if weight == pytest.approx(INDUCTION_WEIGHT)]
        assert ids[asked[0]] == cue and asked == list(range(asked[0], asked[-1] + 1))
        *instruction, end = [labels[i] for i in asked]
        assert end == WORDS.eos_token_id
        assert parse(WORDS.decode(instruction)) == task
        assert ids[: asked[0]].count(INPUT) >= 2  # examples come first, and the instruction sees all of them
        assert rows.allowed[row, asked[-1], : asked[-1] + 1].all()
        assert rows.positions[row, : asked[-1] + 1].tolist() == list(range(asked[-1] + 1))


def test_copy_rows_repeat_a_run_and_ask_for_nothing_else():
    rows = row_builder(48).build_copies(40, 100, Random(0))
    assert int(rows.ids.min()) >= 3 and int(rows.ids.max()) < 100  # no special tokens
    for ids, labels in zip(rows.ids.tolist(), rows.labels.tolist(), strict=True):
        asked = [i for i, label in enumerate(labels) if label != IGNORE]
        period = asked[0] + 1
        assert asked == list(range(period - 1, 47))
        assert ids[period:] == ids[:-period]
        assert [labels[i] for i in asked] == ids[period:]
    causal = torch.ones(48, 48).tril().bool()
    assert all(torch.equal(allowed, causal) for allowed in rows.allowed)
    assert (rows.answer == 0).all()


# --- heads that look back ---------------------------------------------------------------------


@pytest.mark.parametrize("rotate", [rotate_llama, rotate_neox], ids=["llama", "gpt_neox"])
@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_look_back_biases_peak_at_their_offset_under_rotary_embedding(rotate, offset):
    width, theta, at = 64, 100.0, 60
    query, key = look_back_biases(width, theta, offset)
    frequencies = theta ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(at + 1)[:, None] * torch.cat([frequencies, frequencies])
    shape = (1, 1, at + 1, width)
    cosine, sine = (f(angles)[None] for f in (torch.cos, torch.sin))
    queries, keys = rotate(query.expand(shape), key.expand(shape), cosine, sine)
    attention = (queries[0, 0, at] @ keys[0, 0].T * width**-0.5).softmax(-1)
    assert attention.argmax().item() == at - offset
    assert attention[at - offset] > 0.5


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_new_model_looks_back_from_its_first_step_on(name):
    model = built(MODELS[name])
    model.set_attn_implementation("eager")
    attention = model(input_ids=rows_of().ids[:2], output_attentions=True).attentions
    for layer, head, offset in ((0, 0, 1), (0, 1, 2), (1, 0, 1), (1, 1, 3)):
        looked_at = attention[layer][:, head].argmax(-1)[:, 4:]
        assert (looked_at == torch.arange(4, looked_at.shape[1] + 4) - offset).float().mean() > 0.9


# --- training ---------------------------------------------------------------------------------


def trainer(folder: Path) -> LMTrainer:
    return LMTrainer(LLAMA, built(LLAMA), row_builder(48), folder)


def weights(made: LMTrainer) -> list[Tensor]:
    return [weight.detach().clone() for weight in made.model.parameters()]


def test_a_killed_training_resumes_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("soft2hard.data_gen.world.training.evaluate", lambda *arguments: {})
    whole = trainer(tmp_path / "whole")
    start = weights(whole)
    assert len(list(whole.run())) == 6
    killed = trainer(tmp_path / "killed")
    assert len(list(islice(killed.run(), 3))) == 3
    del killed
    resumed = trainer(tmp_path / "killed")
    # A checkpoint is written after its step, so the step that was under way is made again.
    assert resumed.step == 3
    assert len(list(resumed.run())) == 3
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(weights(whole), start, strict=True) if a.ndim == 2)
    with pytest.raises(UserError, match="is of a training with other settings"):
        LMTrainer(replace(LLAMA, seed=1), built(LLAMA), row_builder(48), tmp_path / "killed")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "gpt2"}, "no architecture 'gpt2'"),
        ({"width": 100}, "width is 100"),
        ({"rows": 0}, "rows is 0"),
    ],
)
def test_settings_that_no_model_can_have_are_refused(changes, said):
    with pytest.raises(UserError, match=said):
        replace(LLAMA, **changes)


def test_training_sees_tasks_of_the_train_split_alone(tmp_path, monkeypatch):
    seen: list[LexicalTask] = []
    build = RowBuilder.build
    monkeypatch.setattr(RowBuilder, "build", lambda self, tasks, *rest: seen.extend(tasks) or build(self, tasks, *rest))
    made = trainer(tmp_path)
    list(islice(made.run(), LLAMA.steps - 1))  # the last step evaluates on validation tasks
    assert len(seen) >= 10 and {task.split for task in seen} == {"train"}
    rng = Random(0)
    assert {task.split for task in FamilySampler().draw(500, "train", rng)} == {"train"}
    assert {task.split for task in FamilySampler().draw(50, "test", rng)} == {"test"}


def test_tokenizers_are_trained_on_train_tasks_alone():
    instructions = [parse(text.split("\n")[0]) for text in world_text(400)]
    assert {task.split for task in instructions} == {"train"}
    assert {task.family for task in instructions} == set(FAMILIES)


def test_families_with_more_loss_are_drawn_more_often():
    sampler = FamilySampler()
    sampler.loss = dict.fromkeys(FAMILIES, 0.0) | {"count": 1.0}
    drawn = [task.family for task in sampler.draw(3000, "train", Random(0), ("count", "pick"))]
    expected = (sampler.floor + 1) / (2 * sampler.floor + 1)
    assert drawn.count("count") / 3000 == pytest.approx(expected, abs=0.03)
    task = draw_task("count", Random(0))
    sampler.update([task], [0.0])
    assert sampler.loss["count"] == pytest.approx(0.98)


def test_the_learning_rate_rises_holds_and_falls_to_zero():
    config = replace(LLAMA, steps=100, warmup=10, decay_share=0.5)
    scale = [learning_rate_scale(step, config) for step in range(101)]
    assert scale[0] == pytest.approx(0.1) and scale[9] == scale[50] == 1 and scale[100] == 0
    assert scale[75] == pytest.approx(0.5)
    assert all(0 < b <= a for a, b in zip(scale[50:99], scale[51:100], strict=True))


# --- exact match ------------------------------------------------------------------------------


def made_up(pairs: list[tuple[str, str]], instruction: str) -> LexicalTask:
    """A task that gives these pairs in turn."""
    left = list(pairs)
    variant = Variant("made_up", (instruction,), lambda rng: {}, lambda values, rng: Example(*left.pop(0)))
    return LexicalTask("order", variant, {})


@pytest.mark.parametrize(("architecture", "seed"), [("gpt2", 1), ("qwen3", 0), ("qwen3", 2), ("qwen3", 5)])
def test_exact_match_is_the_share_of_outputs_that_generation_writes(architecture, seed):
    subject, tokenizer = tiny_models.subject(architecture, seed), tiny_models.tokenizer(architecture)
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    instruction = "Cat dog bird."
    inputs = [f"{a} {b}" for a in tiny_models.WORDS[3:10] for b in tiny_models.WORDS[10:14]]
    rng, share, n_right = Random(seed), [], 0
    for start in range(0, len(inputs), 3):
        some = inputs[start : start + 3]
        queries = [Query(instruction, input) for input in some]
        written = subject.generate_ids(queries, 8)
        # Where the model writes a whole output, that is asked for, or else a word of it less.
        outputs = [
            tokenizer.decode(ids if rng.random() < 0.6 or len(ids) < 2 else ids[:-1]) or "cat" for ids in written
        ]
        ended = [len(ids) < 8 for ids in written]
        right = [e and encode(o) == ids for e, o, ids in zip(ended, outputs, written, strict=True)]
        n_right += sum(right)
        length = len(encode(instruction)) + sum(
            len(encode(subject.template.body_text(i, "hard"))) + len(encode(o))
            for i, o in zip(some, outputs, strict=True)
        )
        builder = RowBuilder(encode, tokenizer.eos_token_id, 0, length)
        task = made_up([*zip(some, outputs, strict=True), ("cat", "dog")], instruction)  # the last does not fit
        found = exact_match(subject.model, builder.build([task], Random(0)))
        share.append((found.item(), sum(right) / len(some)))
    assert all(found == pytest.approx(expected) for found, expected in share)
    assert 0 < n_right < len(inputs)


# --- tokenizers -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pieces")
    train_sentencepiece(folder, 700, n_lines=1500)
    return sentencepiece_tokenizer(folder, 700)


def texts(n: int) -> list[str]:
    """Whole prompts of any split: instruction, inputs and outputs, on lines of their own."""
    rng = Random("texts")
    made = []
    for number in range(n):
        task = draw_task(tuple(FAMILIES)[number % len(FAMILIES)], rng)
        example = task.example(rng)
        instruction = task.instruction(rng.randrange(len(task.variant.phrasings)), rng)
        made.append(f"{instruction}\nInput: {example.input}\nOutput: {example.output}")
    return made


@pytest.mark.parametrize("which", ["words", "pieces"])
def test_no_word_of_the_world_is_unknown_and_decoding_gives_it_back(which, request):
    tokenizer = WORDS if which == "words" else request.getfixturevalue("pieces")
    encode = ENCODE if which == "words" else piece_encoder(tokenizer)
    for text in texts(600):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text.replace("\n", " ")
        assert encode(text) == ids  # the quick way gives the same


@pytest.mark.parametrize("which", ["words", "pieces"])
def test_a_text_in_parts_has_the_tokens_of_the_whole(which, request):
    tokenizer = WORDS if which == "words" else request.getfixturevalue("pieces")
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    for text in texts(60):
        cut = text.index("\nInput:"), text.index("\nOutput:") + len("\nOutput:")
        parts = text[: cut[0]], text[cut[0] : cut[1]], text[cut[1] :]
        assert [token for part in parts for token in encode(part)] == encode(text)


def test_the_word_tokenizer_reads_one_token_a_word():
    assert WORDS.convert_ids_to_tokens(WORDS.encode("Say whether the word is a bird, or an oak.")) == (
        "Say whether the word is a bird , or an oak .".split()
    )
    assert math.log2(len(WORDS)) < 10
