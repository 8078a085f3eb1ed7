"""Training lowers the loss, keeps the best, and resumes after a kill as if there had been none."""

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch
from torch import nn

from soft2hard.compute.muon import Muon
from soft2hard.errors import UserError
from soft2hard.translator import training
from soft2hard.translator.data import IGNORE, CorpusPairs, PairCollator
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import Design
from soft2hard.translator.training import MuonWithAdamW, selected, train_translator
from tests import tiny_training
from tests.tiny_training import config, corpora, llama_subject, logged, loss

SUBJECT = llama_subject()
STEPS_AN_EPOCH = 3  # 18 pairs, 8 a step


class Killed(BaseException):
    """What nothing catches, as a kill."""


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Ends the training in the middle of its n-th optimizer step from now on (None: never)."""
    step, done, limit = MuonWithAdamW.step, 0, None

    def counted(self: MuonWithAdamW, closure: Callable[[], float] | None = None) -> float | None:
        nonlocal done
        done += 1
        if done == limit:
            self.parts[0].step()
            raise Killed
        return step(self, closure)

    def set_limit(n: int | None) -> None:
        nonlocal done, limit
        done, limit = 0, n

    monkeypatch.setattr(MuonWithAdamW, "step", counted)
    return set_limit


def train(folder: Path, seed: int = 0, **changes: object) -> Translator:
    return train_translator(
        tiny_training.translator(SUBJECT, seed), *corpora(SUBJECT), config(**changes), folder, subject=SUBJECT
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Translator, Path]:
    """A training that nothing has disturbed, and its folder; not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    return train(folder), folder


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Translator, Path]:
    """The same after one epoch."""
    folder = tmp_path_factory.mktemp("one_epoch")
    return train(folder, epochs=1), folder


def weights(translator: Translator) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in translator.model.state_dict().items()}


def assert_same_weights(first: Translator, second: Translator) -> None:
    found = weights(second)
    for name, tensor in weights(first).items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_the_loss_falls_on_tasks_trained_on_and_on_others() -> None:
    before, after = tiny_training.translator(llama_subject()), tiny_training.trained()
    for corpus, factor in zip(corpora(llama_subject()), (0.4, 0.75), strict=True):
        assert loss(after, corpus) < factor * loss(before, corpus)


def test_the_validation_loss_in_the_log_is_the_mean_cross_entropy_of_the_reference_instructions(
    one_epoch: tuple[Translator, Path],
) -> None:
    made, folder = one_epoch
    assert loss(made, corpora(SUBJECT)[1]) == pytest.approx(logged(folder, "eval_loss")[STEPS_AN_EPOCH], rel=1e-4)


def test_a_training_without_a_terminal_says_losses_in_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "said", epochs=1.0)
    said = capfd.readouterr()
    [value] = logged(tmp_path / "said", "eval_loss").values()
    assert f"epoch 1.00: validation loss {value:.3f} nats a token" in said.err.splitlines()
    assert "{" not in said.err and not said.out


@pytest.mark.parametrize("step", [2, 5, 9], ids=["before any checkpoint", "within an epoch", "at the last step"])
def test_a_killed_training_ends_as_if_it_had_not_been(
    tmp_path: Path, kill_at: Callable[[int | None], None], step: int, whole: tuple[Translator, Path]
) -> None:
    expected, folder = whole
    kill_at(step)
    with pytest.raises(Killed):
        train(tmp_path / "killed")
    assert not (tmp_path / "killed" / "translator").exists()
    kill_at(None)
    resumed = train(tmp_path / "killed", seed=0 if step <= STEPS_AN_EPOCH else 7)  # other weights to start from
    assert logged(tmp_path / "killed", "eval_loss") == logged(folder, "eval_loss")
    assert_same_weights(expected, resumed)
    assert_same_weights(expected, Translator.from_pretrained(tmp_path / "killed" / "translator"))


def test_a_checkpoint_cut_short_is_passed_over(
    tmp_path: Path, kill_at: Callable[[int | None], None], whole: tuple[Translator, Path]
) -> None:
    kill_at(2 * STEPS_AN_EPOCH + 1)
    with pytest.raises(Killed):
        train(tmp_path / "killed")
    kill_at(None)
    last = tmp_path / "killed" / "checkpoints" / f"checkpoint-{2 * STEPS_AN_EPOCH}"
    for name in ("trainer_state.json", "optimizer.pt"):
        (last / name).unlink()
    assert_same_weights(whole[0], train(tmp_path / "killed"))


def test_each_epoch_draws_again_and_a_resumed_training_draws_what_remained(
    tmp_path: Path, kill_at: Callable[[int | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    draw = CorpusPairs.__getitem__

    def noted(self: CorpusPairs, index: int) -> tuple[torch.Tensor, str]:
        if self.noise:
            drawn.append(self.epoch)
        return draw(self, index)

    monkeypatch.setattr(CorpusPairs, "__getitem__", noted)
    kill_at(2 * STEPS_AN_EPOCH + 1)
    with pytest.raises(Killed):
        train(tmp_path)
    assert drawn[: 2 * 18] == [0] * 18 + [1] * 18
    kill_at(None)
    drawn.clear()
    train(tmp_path)
    assert drawn == [2] * 18


def test_a_training_that_has_ended_is_read_back_and_not_repeated(
    whole: tuple[Translator, Path], kill_at: Callable[[int | None], None]
) -> None:
    ended, folder = whole
    kill_at(1)
    again = train(folder, seed=7)
    assert_same_weights(ended, again)
    assert again.card == ended.card
    with pytest.raises(UserError, match=r"a training made with other settings \(config.epochs\)"):
        train(folder, epochs=5)


OVERFITS = {"epochs": 30, "lr": 0.05, "patience": 2, "noise": 0.0, "paraphrase_share": 0.0}


def test_early_stopping_ends_after_patience_and_keeps_the_best_weights_also_across_a_kill(
    tmp_path: Path, kill_at: Callable[[int | None], None]
) -> None:
    made = train(tmp_path / "whole", **OVERFITS)
    losses = logged(tmp_path / "whole", "eval_loss")
    best = min(losses, key=losses.get)
    assert max(losses) == best + OVERFITS["patience"] * STEPS_AN_EPOCH < OVERFITS["epochs"] * STEPS_AN_EPOCH
    assert losses[max(losses)] > losses[best]
    assert loss(made, corpora(SUBJECT)[1]) == pytest.approx(losses[best], rel=1e-4)
    assert made.card.training["best_validation_loss"] == losses[best]

    kill_at(best + STEPS_AN_EPOCH + 2)  # when it has already waited for one epoch
    with pytest.raises(Killed):
        train(tmp_path / "killed", **OVERFITS)
    kill_at(None)
    resumed = train(tmp_path / "killed", **OVERFITS)
    assert logged(tmp_path / "killed", "eval_loss") == losses
    assert_same_weights(made, resumed)


def test_a_task_in_both_corpora_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    train_corpus = tiny_training.corpus(SUBJECT, ["cat", "dog"])
    validation = tiny_training.corpus(SUBJECT, ["dog", "bird"], seed=1)
    with pytest.raises(UserError, match="3 tasks stand in both.*'dog/blue'"):
        train_translator(
            tiny_training.translator(SUBJECT), train_corpus, validation, config(), tmp_path / "out", subject=SUBJECT
        )
    assert not (tmp_path / "out").exists()


def test_pretraining_runs_once_and_a_resumed_training_starts_from_it(
    tmp_path: Path,
    kill_at: Callable[[int | None], None],
    monkeypatch: pytest.MonkeyPatch,
    one_epoch: tuple[Translator, Path],
) -> None:
    pretrained = []
    original = training.imitation_pairs
    monkeypatch.setattr(training, "imitation_pairs", lambda *args: pretrained.append(args) or original(*args))
    pairs = {"pretrain_pairs": 16, "epochs": 1}
    whole = train(tmp_path / "whole", **pairs)
    assert len(pretrained) == 1
    kill_at(2 + 2)  # two steps of pre-training, then two of training
    with pytest.raises(Killed):
        train(tmp_path / "killed", **pairs)
    assert len(pretrained) == 2
    kill_at(None)
    resumed = train(tmp_path / "killed", seed=7, **pairs)
    assert len(pretrained) == 2
    assert_same_weights(whole, resumed)
    assert not torch.equal(one_epoch[0].model.reader.projection.weight, whole.model.reader.projection.weight)


def test_a_pretraining_that_is_killed_goes_on_where_it_was_saved(
    tmp_path: Path, kill_at: Callable[[int | None], None]
) -> None:
    pairs = {"pretrain_pairs": 160, "epochs": 1}
    whole = train(tmp_path / "whole", **pairs)
    kill_at(11)  # of twenty steps
    with pytest.raises(Killed):
        train(tmp_path / "killed", **pairs)
    saved = [path.name for path in (tmp_path / "killed" / "pretraining" / "checkpoints").glob("checkpoint-*")]
    assert sorted(saved) == ["checkpoint-10", "checkpoint-8"]
    kill_at(10 + STEPS_AN_EPOCH + 1)  # what is left to do would have to begin again to come so far
    assert_same_weights(whole, train(tmp_path / "killed", seed=7, **pairs))


def test_pretraining_without_the_subject_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs the subject"):
        train_translator(
            tiny_training.translator(SUBJECT), *corpora(SUBJECT), config(pretrain_pairs=8), tmp_path, subject=None
        )


def test_the_card_records_settings_and_data(one_epoch: tuple[Translator, Path]) -> None:
    made, folder = one_epoch
    record = Translator.from_pretrained(folder / "translator").card.training
    assert record == made.card.training
    assert record["config"]["epochs"] == 1
    assert (record["train_pairs"], record["train_tasks"], record["validation_tasks"]) == (18, 9, 3)


def net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 5, bias=False))


def advance(model: nn.Module, *optimizers: torch.optim.Optimizer, n: int, schedule: object = None) -> None:
    for i in range(n):
        model(torch.arange(7).roll(i)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if schedule:
            schedule.step()


def assert_equal_nets(first: nn.Module, second: nn.Module) -> None:
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_it_is_muon_for_hidden_matrices_and_adamw_for_embeddings_and_vectors() -> None:
    ours, theirs = net(), net()
    advance(ours, MuonWithAdamW(ours, 0.02, ("0.",)), n=4)
    matrices = [theirs[1].weight, theirs[3].weight]
    rest = [theirs[0].weight, theirs[1].bias, theirs[2].weight, theirs[2].bias]
    muon = Muon(matrices, lr=0.02, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(rest, lr=0.02, betas=(0.9, 0.98), weight_decay=0.0)
    advance(theirs, muon, adam, n=4)
    assert_equal_nets(ours, theirs)


def test_the_optimizers_state_survives_a_file() -> None:
    whole = net()
    optimizer = MuonWithAdamW(whole, 0.02, ("0.",))
    advance(whole, optimizer, n=3)
    resumed = copy.deepcopy(whole)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    restored = MuonWithAdamW(resumed, 0.5, ("0.",))  # the rate is part of the state
    restored.load_state_dict(torch.load(file, weights_only=True))
    advance(whole, optimizer, n=3)
    advance(resumed, restored, n=3)
    assert_equal_nets(whole, resumed)
    fresh = copy.deepcopy(whole)
    advance(fresh, MuonWithAdamW(fresh, 0.02, ("0.",)), n=1)
    advance(resumed, restored, n=1)
    assert not torch.equal(fresh[1].weight, resumed[1].weight)


@pytest.mark.parametrize("reloaded", [False, True])
def test_the_schedule_reaches_both_parts(reloaded: bool) -> None:
    model = net()
    optimizer = MuonWithAdamW(model, 0.02, ("0.",))
    if reloaded:
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 2)
    advance(model, optimizer, n=1, schedule=schedule)
    assert [part.param_groups[0]["lr"] for part in optimizer.parts] == [0.01, 0.01]
    advance(model, optimizer, n=1, schedule=schedule)
    before = copy.deepcopy(model)
    advance(model, optimizer, n=1)
    assert_equal_nets(before, model)  # the rate is now zero for every parameter


def test_what_is_drawn_depends_on_seed_epoch_and_row_alone() -> None:
    corpus = corpora(SUBJECT)[0]
    one, other = (CorpusPairs(corpus, paraphrase_share=0.5, noise=0.1, seed=4) for _ in range(2))
    _ = [one[i] for i in range(len(one))]  # what has been read before does not matter
    one.epoch = other.epoch = 3
    for i in reversed(range(len(one))):
        assert torch.equal(one[i][0], other[i][0])
        assert one[i][1] == other[i][1]
    other.epoch = 4
    assert not torch.equal(one[0][0], other[0][0])
    assert [text for _, text in one] != [text for _, text in other]


def test_noise_is_bounded_and_paraphrases_come_as_often_as_asked() -> None:
    corpus = tiny_training.corpus(SUBJECT, tiny_training.NOUNS, copies=25)  # 300 rows
    pairs = CorpusPairs(corpus, paraphrase_share=0.3, noise=0.2)
    clean = CorpusPairs(corpus)
    assert [text for _, text in clean] == corpus["instruction"]
    relative = []
    for (noisy, _), (soft_prompt, _) in zip(pairs, clean, strict=True):
        relative.append(float((noisy - soft_prompt).std() / soft_prompt.std()))
    assert 0.15 < max(relative) < 0.3  # 0.2, but for the spread of 48 random numbers
    paraphrased = [text != reference for (_, text), reference in zip(pairs, corpus["instruction"], strict=True)]
    assert sum(paraphrased) / len(paraphrased) == pytest.approx(0.3, abs=0.1)  # nearly four standard errors


def test_a_batch_is_padded_and_masked_and_its_labels_end_with_eos() -> None:
    design = Design("encoder-decoder", instruction_tokens=3)
    collate = PairCollator(Translator.for_subject(SUBJECT, design).encode_instruction)
    short, long = torch.randn(2, 16), torch.randn(4, 16)
    batch = collate([(short, "cat"), (long, "cat dog bird fish red")])
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert torch.equal(batch["soft_prompts"][0, :2], short)
    assert torch.equal(batch["soft_prompts"][1], long)
    assert batch["labels"].tolist() == [[7, 2, IGNORE, IGNORE], [7, 8, 9, 2]]


def test_zero3_with_hidden_states_of_a_lora_translators_subject_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    made = Translator.for_subject(SUBJECT, Design("causal-lora", hidden_layers=(1,), instruction_tokens=20))
    with pytest.raises(UserError, match="ZeRO-3 shares out"):
        train_translator(made, *corpora(SUBJECT), config(deepspeed="zero3"), tmp_path / "out", subject=SUBJECT)
    assert not (tmp_path / "out").exists()


# --- which tasks are trained on -------------------------------------------------------------------

NAMES = {
    "cat/red": "relation.plain(r=opposite)",  # like a test task of real-tasks
    "cat/green": "relation.plain(r=successor)",  # like a validation task
    "dog/red": "function-vectors/next_item",  # such a task itself
    "bird/red": "relations/company_ceo",  # a training task
}
LITTLE = {"dog/green": 0.7, "dog/blue": 0.51, "cat/red": 0.9}
"""Validation losses of those that tuning took away less than half of."""


def told(corpus: datasets.Dataset) -> datasets.Dataset:
    """Under these names, with these losses after tuning; half of the loss, or less, is left of the others."""
    losses = {"bird/red": 0.0, "bird/green": 0.5}

    def changed(row: dict) -> dict:
        left = (losses | LITTLE).get(row["task"], 0.25)
        return {"task": NAMES.get(row["task"], row["task"]), "validation_loss": 2 * left, "initial_loss": 2.0}

    return corpus.map(changed)


def tasks_of(corpus: datasets.Dataset) -> list[str]:
    return list(dict.fromkeys(corpus["task"]))


def without(tasks: list[str], *names: str) -> list[str]:
    return [task for task in tasks if task not in {NAMES.get(name, name) for name in names}]


def test_tasks_that_tuning_taught_too_little_are_left_out_with_all_their_rows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus = told(corpora(SUBJECT)[0])
    capsys.readouterr()
    found = selected(corpus, config(least_learned=0.5))
    assert tasks_of(found) == without(tasks_of(corpus), *LITTLE)
    assert found.to_list() == [row for row in corpus if row["task"] in tasks_of(found)]
    said = capsys.readouterr().err
    assert said == "left out of 9 tasks: 3 tuned too little, 0 like a held-out task of real-tasks\n"


def test_tasks_that_are_like_real_validation_or_test_tasks_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    corpus = told(corpora(SUBJECT)[0])
    apart = selected(corpus, config(apart_from_real=True))
    assert tasks_of(apart) == without(tasks_of(corpus), "cat/red", "cat/green", "dog/red")
    # To validate on, real validation tasks are there for.
    to_validate = selected(corpus, config(apart_from_real=True), to_validate=True)
    assert tasks_of(to_validate) == without(tasks_of(corpus), "cat/red")
    capsys.readouterr()
    both = selected(corpus, config(apart_from_real=True, least_learned=0.5))
    assert tasks_of(both) == without(tasks_of(apart), *LITTLE)
    said = capsys.readouterr().err
    assert said == "left out of 9 tasks: 3 tuned too little, 3 like a held-out task of real-tasks\n"


def test_by_default_all_stay_and_a_corpus_of_which_nothing_is_left_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus = told(corpora(SUBJECT)[0])
    capsys.readouterr()
    assert selected(corpus, config()) is corpus and capsys.readouterr().err == ""
    with pytest.raises(UserError, match="No task of the corpus is left") as refused:
        selected(corpus.select([0, 1]), config(apart_from_real=True))
    assert "\n" not in str(refused.value)


def test_a_training_sees_what_is_left_alone_and_keeps_its_instructions(tmp_path: Path) -> None:
    """Its weights are those of a training on a corpus that never had the others."""
    corpus, validation = told(corpora(SUBJECT)[0]), corpora(SUBJECT)[1]
    how = {"epochs": 1, "least_learned": 0.5, "apart_from_real": True}
    made = train_translator(
        tiny_training.translator(SUBJECT), corpus, validation, config(**how), tmp_path / "all", subject=SUBJECT
    )
    rows = [i for i, task in enumerate(corpus["task"]) if task in without(tasks_of(corpus), *NAMES, *LITTLE)]
    rows += [i for i, task in enumerate(corpus["task"]) if task == NAMES["bird/red"]]
    alone = train_translator(
        tiny_training.translator(SUBJECT),
        corpus.select(sorted(rows)),
        validation,
        config(epochs=1),
        tmp_path / "alone",
        subject=SUBJECT,
    )
    assert_same_weights(made, alone)
    assert made.card.training["train_tasks"] == 4
    assert set(made.trained_on) == {"blue cat", "red bird", "green bird", "blue bird"}
    assert made.trained_on == alone.trained_on == Translator.from_pretrained(tmp_path / "all" / "translator").trained_on


def test_a_share_of_the_tasks_is_trained_on_and_more_of_them_are_these_and_others(tmp_path: Path) -> None:
    seen = {
        share: set(train(tmp_path / str(share), epochs=1, share=share).trained_on) for share in (0.01, 0.34, 0.67, 1.0)
    }
    assert [len(texts) for texts in seen.values()] == [1, 3, 6, 9]
    assert seen[0.01] < seen[0.34] < seen[0.67] < seen[1.0] == set(corpora(SUBJECT)[0]["instruction"])


def test_instructions_are_kept_on_one_line_each_and_a_translator_may_come_without(
    tmp_path: Path, one_epoch: tuple[Translator, Path]
) -> None:
    made = one_epoch[0]
    assert made.trained_on == tuple(sorted(set(corpora(SUBJECT)[0]["instruction"])))
    corpus = corpora(SUBJECT)[0].map(lambda row: {"instruction": f" {row['instruction']}\nred\u2028up "})
    odd = train_translator(
        tiny_training.translator(SUBJECT), corpus, corpora(SUBJECT)[1], config(epochs=1), tmp_path, subject=SUBJECT
    )
    assert odd.trained_on == tuple(f"{text} red up" for text in made.trained_on)
    assert Translator.from_pretrained(tmp_path / "translator").trained_on == odd.trained_on
    (tmp_path / "translator" / "trained_on.txt").unlink()
    assert Translator.from_pretrained(tmp_path / "translator").trained_on == ()
    assert (
        train_translator(
            tiny_training.translator(SUBJECT), corpus, corpora(SUBJECT)[1], config(epochs=1), tmp_path, subject=SUBJECT
        ).trained_on
        == ()
    )


LATER = ("least_learned", "apart_from_real", "share")
"""Settings that trainings of the first versions do not record."""


def test_a_training_begun_before_these_settings_were_there_is_resumed(
    tmp_path: Path, kill_at: Callable[[int | None], None], whole: tuple[Translator, Path]
) -> None:
    kill_at(STEPS_AN_EPOCH + 1)
    with pytest.raises(Killed):
        train(tmp_path)
    kill_at(None)
    path = tmp_path / "training.json"
    record = json.loads(path.read_text())
    for name in LATER:
        record["config"].pop(name, None)
    record.pop("reads", None)
    path.write_text(json.dumps(record))
    for changes in ({"least_learned": 0.1}, {"apart_from_real": True}, {"share": 0.5}):
        with pytest.raises(UserError, match=rf"other settings \(config.{next(iter(changes))}\)"):
            train(tmp_path, **changes)
    assert_same_weights(whole[0], train(tmp_path))
