"""Training the translator with the Hugging Face Trainer (Accelerate, and DeepSpeed by flag)."""

import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from soft2hard.compute.memory import free_memory, is_out_of_memory
from soft2hard.compute.muon import Muon
from soft2hard.compute.precision import has_fast_bf16
from soft2hard.data_gen.dods.real_tasks import is_apart
from soft2hard.data_gen.taskfiles import content_hash as hash_of_tasks
from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.lm.attention import ATTENTION
from soft2hard.lm.subject import Subject
from soft2hard.storage import run_folders
from soft2hard.storage.files import atomic_write
from soft2hard.translator.data import CorpusPairs, ExamplesAlone, Mixed, PairCollator, imitation_pairs
from soft2hard.translator.follower import FOLLOWER_FILE, FollowerTraining, check_teachable, read_follower, teach
from soft2hard.translator.material import Material, Untuned, made_tasks
from soft2hard.translator.model import Translator
from soft2hard.translator.processes import (
    Share,
    config_to_resume,
    convert,
    gathered,
    is_first,
    n_processes,
    needs_conversion,
    share_of_step,
    splits_weights,
)
from soft2hard.translator.settings import TranslatorCard, TranslatorTraining

if TYPE_CHECKING:
    import datasets

_DESIGN = ("architecture", "hidden_layers", "base_fingerprint", "instruction_tokens", "reads", "shown")
_STEPS_BETWEEN = 10  # of a follower, between two reports
_LATER = ("least_learned", "apart_from_real", "share", "pretrain_tasks", "pretrain_from", "follower_steps")
"""Settings that trainings begun before they were there do not record; by default they change nothing."""
_WITHOUT = 1 / 3
"""How often a translator of both is shown no examples in training, as it is where users have no inputs. With one
in nine it lost what it knew of the vectors alone while it learned from examples."""
_SAVED_EVERY = 0.1  # of pre-training
_FEWEST_READINGS = 16  # that validate: of few tasks each is read several times
# Adapters are factors of a matrix, which Muon would treat as matrices.
_BY_ADAMW = ("shared", "embed_tokens", "lm_head", "relative_attention_bias", "reader", "lora_")


def train_translator(
    translator: Translator,
    corpus: "datasets.Dataset | None",
    validation: "datasets.Dataset | None",
    config: TranslatorTraining,
    folder: Path | str,
    *,
    subject: Subject | None = None,
    untuned: Untuned = Untuned(),
) -> Translator:
    """Train on a corpus, keep the weights with the lowest loss on validation tasks, and save to `folder`.

    Of `untuned` tasks the labelled examples alone are read, beside the corpus or, where both corpora are None, instead.
    A killed training resumes at its last epoch when called again with the same folder, and one that has ended is read
    back. Raises UserError where a task stands in both corpora, where pre-training lacks the subject, or where the
    folder holds a training with other settings or data.
    """
    folder = Path(folder)
    if corpus is not None and validation is not None:
        corpus, validation = _part(selected(corpus, config), config), selected(validation, config, to_validate=True)
    material = Material(corpus, validation, untuned)
    _refuse(translator.card, material, config, subject)
    first_read = _tasks_read_first(config, material.held_out)
    followed = (*first_read, *material.tasks) if config.follower_steps else ()
    if followed:
        check_teachable(subject, followed)
    if is_first():  # of several processes, the first speaks for all
        identity = _identity(translator.card, material, config, first_read)
        run_folders.claim(folder, TRAINING, identity | run_folders.made_with())
    if (folder / "translator").is_dir():
        ended = Translator.from_pretrained(folder / "translator", subject=subject)
        translator.model.load_state_dict(ended.model.state_dict())
        translator.card, translator.trained_on = ended.card, ended.trained_on
        translator.follow_with(ended.follower_adapters, subject)
        return translator
    translator.model.to_train()
    if (cut := share_cut(translator, material.texts)) and is_first():
        longest = translator.card.instruction_tokens
        print(f"{cut:.1%} of the instructions are longer than {longest} tokens and are cut", file=sys.stderr)
    with quick_attention(translator, config):
        if config.pretrain_pairs or config.pretrain_tasks:
            _pretrain(translator, material, first_read, subject, config, folder / "pretraining")
        trainer = _run(translator, *_pairs(translator, material, config, subject), config, folder)
    instructions = (*translator.trained_on, *material.instructions, *(task.instruction for task in first_read))
    translator.trained_on = tuple(sorted({" ".join(text.split()) for text in instructions}))
    translator.card = replace(translator.card, training=_training_record(config, material, trainer, cut))
    if followed and trainer.is_world_process_zero():
        translator.follow_with(_follower(subject, followed, config, folder), subject)
    translator.model.eval()
    with gathered(translator.model):
        if trainer.is_world_process_zero():
            translator.save_pretrained(folder / "translator")
    return translator


def _follower(
    subject: Subject | None, tasks: Sequence[Task], config: TranslatorTraining, folder: Path
) -> dict[str, Tensor] | None:
    """The adapters of a follower that is taught on these tasks, or was before."""
    if not (folder / FOLLOWER_FILE).exists():
        print(f"Teaching a follower, {config.follower_steps} steps", file=sys.stderr)
        how = FollowerTraining(config.follower_steps, seed=config.seed)
        teach(subject, tasks, how, folder / FOLLOWER_FILE, partial(_say_step, config.follower_steps))
    return read_follower(folder)


def _say_step(n_steps: int, step: int, loss: float) -> None:
    if step % _STEPS_BETWEEN == 0 or step == n_steps:
        print(f"follower, step {step} of {n_steps}: loss {loss:.3f} nats a token", file=sys.stderr)


def _pairs(
    translator: Translator, material: Material, config: TranslatorTraining, subject: Subject | None
) -> tuple[Mixed, Mixed]:
    """What is trained on and what is validated on."""
    view, untuned = None, material.untuned
    if translator.card.reads != "vectors":
        view = translator.view(subject)
    varied = replace(view, without=_WITHOUT) if view and view.reads == "both" else view
    drawing = {"paraphrase_share": config.paraphrase_share, "seed": config.seed}
    train, held_out = [], []
    if material.corpus is not None:
        train.append(CorpusPairs(material.corpus, view=varied, noise=config.noise, **drawing))
    if material.validation is not None:
        held_out.append(CorpusPairs(material.validation, view=view))
    if untuned.tasks:
        train.append(ExamplesAlone(untuned.tasks, view, n=untuned.n_tasks or None, **drawing))
        n_held_out = max(len(untuned.held_out), _FEWEST_READINGS)
        held_out.append(ExamplesAlone(untuned.held_out, view, n=n_held_out, all_shown=True))
    if untuned.beside:
        train.append(ExamplesAlone(untuned.beside, view, n=untuned.n_beside, **drawing))
    return Mixed(train), Mixed(held_out)


def _part(corpus: "datasets.Dataset", config: TranslatorTraining) -> "datasets.Dataset":
    """The rows of a `share` of the tasks; a smaller share's tasks are among a larger one's."""
    if config.share == 1:
        return corpus
    tasks = sorted(set(corpus["task"]))
    Random(f"share/{config.seed}").shuffle(tasks)
    kept = set(tasks[: max(1, round(config.share * len(tasks)))])
    return corpus.select([i for i, task in enumerate(corpus["task"]) if task in kept])


def needs_subject(translator: Translator, config: TranslatorTraining) -> bool:
    """True if a training runs the subject; if not, its memory may be given back before."""
    card = translator.card
    pretrains = config.pretrain_pairs or config.pretrain_tasks
    reads_subject = bool(card.hidden_layers or pretrains or card.reads != "vectors" or config.follower_steps)
    return card.architecture == "causal-lora" or reads_subject


def selected(
    corpus: "datasets.Dataset", config: TranslatorTraining, *, to_validate: bool = False
) -> "datasets.Dataset":
    """The rows that `least_learned` and `apart_from_real` leave, and a word on standard error about the others.

    Those `to_validate` on may be real validation tasks, and like them.
    Raises UserError where none are left.
    """
    if not (config.least_learned or config.apart_from_real):
        return corpus
    least, tasks = 1 - config.least_learned, corpus["task"]
    losses = zip(corpus["validation_loss"], corpus["initial_loss"], strict=True)
    learned = [not config.least_learned or after <= least * before for after, before in losses]
    held_out = ("test",) if to_validate else ("validation", "test")
    apart = [not config.apart_from_real or is_apart(task, held_out) for task in tasks]
    kept = [i for i, both in enumerate(zip(learned, apart, strict=True)) if all(both)]
    if is_first():
        little, alike = (len({t for t, ok in zip(tasks, of, strict=True) if not ok}) for of in (learned, apart))
        said = f"{little} tuned too little, {alike} like a held-out task of real-tasks"
        print(f"left out of {len(set(tasks))} tasks: {said}", file=sys.stderr)
    if not kept:
        raise UserError("No task of the corpus is left to train on.", "Lower --least-learned, or tune for longer.")
    return corpus.select(kept)


def share_cut(translator: Translator, texts: Collection[str]) -> float:
    """The share of instructions that are longer than the translator learns."""
    longest = translator.card.instruction_tokens
    long = [text for text in texts if len(translator.tokenizer.encode(text, add_special_tokens=False)) > longest]
    return len(long) / max(1, len(texts))


def _identity(card: TranslatorCard, material: Material, config: TranslatorTraining, first_read: Sequence[Task]) -> dict:
    """All that decides the outcome of a training, as plain JSON."""
    decisive, usual, default = _plain(config), _plain(TranslatorTraining()), TranslatorCard("", "", 0)
    del decisive["recompute"]  # a training that ran out of memory resumes with it
    for name in _LATER:
        if decisive[name] == usual[name]:
            del decisive[name]
    # What is as by default is left out, so that older trainings can be resumed.
    design = {name: getattr(card, name) for name in _DESIGN if getattr(card, name) != getattr(default, name)}
    if card.reads == "both":
        design["without_examples"] = _WITHOUT
    if first_read:
        design["pretrain_tasks"] = hash_of_tasks(first_read)
    return {"config": decisive, "subject": card.fingerprint, **design, **material.hashes()}


def _plain(config: TranslatorTraining) -> dict:
    """As it is read back from JSON."""
    return json.loads(json.dumps(asdict(config)))


def _decisive(record: run_folders.Record) -> dict:
    """Of the record of a training what decides its result; in its file, hashes of what is read have no place apart."""
    read = ("subject", "corpus", "validation")
    settings = {key: value for key, value in record.items() if key not in (*read, "versions", "commit", "created")}
    return settings | {"inputs": {key: record[key] for key in read}}


TRAINING = run_folders.Kind("a training", "training.json", _decisive, alone=False)


def _refuse(card: TranslatorCard, material: Material, config: TranslatorTraining, subject: Subject | None) -> None:
    """Raise UserError for what would spoil a training."""
    corpus = material.corpus
    if config.follower_steps and (subject is None or not subject.continues_text or not card.reads_examples):
        raise UserError(
            "A follower is a causal subject that weighs what soft prompts do, and not all translators read that.",
            "Set follower_steps to 0, or train with --reads both or examples.",
        )
    if config.pretrain_tasks or material.read_in_training:
        refuse_examples_alone(card, subject, "Set pretrain_tasks to 0, and give no untuned tasks.")
    if not (material.train_tasks and material.held_out):
        raise UserError("There is nothing to train on, or nothing to validate on.", "Give tasks for both.")
    if card.reads_examples and corpus is not None and not all(map(len, corpus["inputs"])):
        raise UserError(
            "The corpus was made before corpora kept examples, which this translator is to read.", "Make it again."
        )
    if shared := sorted((material.train_tasks | {task.name for task in material.untuned.beside}) & material.held_out):
        raise UserError(
            f"{len(shared)} tasks stand in both the corpus and the validation corpus, such as '{shared[0]}'.",
            "Give a validation corpus of other tasks.",
        )
    if card.hidden_layers and card.architecture == "causal-lora" and splits_weights(config.deepspeed):
        raise UserError(
            "ZeRO-3 shares out the weights that a LoRA translator has from its subject, whose hidden states it reads.",
            "Train with --deepspeed zero2, or without hidden layers.",
        )


def refuse_examples_alone(card: TranslatorCard, subject: Subject | None, remedy: str) -> None:
    """Raise UserError where a translator cannot learn from examples without soft prompts."""
    if card.reads == "vectors":
        raise UserError(
            "This translator reads vectors, and of tasks that are not tuned there are only examples.", remedy
        )
    if subject is not None and subject.template.input_first and card.reads != "nothing":
        raise UserError(
            f"The template of '{subject.name}' has no place for solved examples, of which tasks would be read.", remedy
        )


def _tasks_read_first(config: TranslatorTraining, held_out: set[str]) -> list[Task]:
    """The tasks of which pre-training reads examples alone; a corpus's own may be among them, and none held out."""

    def usable(task: Task) -> bool:
        return task.name not in held_out and (not config.apart_from_real or is_apart(task.name))

    return made_tasks(config.pretrain_from, config.pretrain_tasks, usable, config.seed)


def _pretrain(
    translator: Translator,
    material: Material,
    first_read: Sequence[Task],
    subject: Subject | None,
    config: TranslatorTraining,
    folder: Path,
) -> None:
    """One pass over imitation soft prompts for the instructions of the corpus, mixed with the examples alone of
    other tasks; or its weights read back."""
    path, model = folder / "weights.pt", translator.model
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return
    if subject is None:
        raise UserError("Pre-training needs the subject.", "Give it, or set pretrain_pairs and pretrain_tasks to 0.")
    view = translator.view(subject)
    stream = imitation_pairs(subject, sorted(material.texts), Random(f"pretraining/{config.seed}"))
    imitated = ((view(vectors, (), Random(0)), text) for vectors, text in islice(stream, config.pretrain_pairs))
    shown = ExamplesAlone(first_read, view, paraphrase_share=config.paraphrase_share, seed=config.seed)
    pairs = Mixed([part for part in (list(imitated), shown) if len(part)])
    trainer = _run(translator, pairs, None, replace(config, epochs=1.0), folder)
    with gathered(model):
        if trainer.is_world_process_zero():
            with atomic_write(path) as temporary:
                torch.save(model.state_dict(), temporary)


def _run(translator: Translator, train, validation, config: TranslatorTraining, folder: Path) -> "PairTrainer":
    """The trainer that has trained. Where memory runs out, a process by itself starts again in passes of half as many.

    Raises UserError where one pair does not fit, or several processes are short of memory.
    """
    share, alone = share_of_step(folder, config.batch_size), n_processes() == 1 and config.deepspeed is None
    model = translator.model
    start = {name: t.detach().to("cpu", copy=True) for name, t in model.state_dict().items()} if alone else {}
    while True:
        trainer = _trainer(translator, train, validation, config, folder, share)
        if config.deepspeed is not None and not trainer.is_deepspeed_enabled:
            raise UserError(
                "DeepSpeed was asked for and is not active.",
                "Begin with torchrun --nproc_per_node N -m soft2hard train ..., or leave --deepspeed out.",
            )
        if _fits(trainer, last_checkpoint(folder)):
            return trainer
        share = share.smaller() if alone else None
        if share is None:
            raise UserError(
                "There is not enough memory to train the translator" + (" on one pair." if alone else "."),
                "Use --recompute, a smaller base or lora_rank, fewer --batch-size pairs a process, or a larger GPU.",
            )
        del trainer
        free_memory()
        how = f"{share.pairs} pairs a pass, {share.passes} passes a step"
        print(f"out of memory; continuing with {how}", file=sys.stderr)
        model.zero_grad()
        model.load_state_dict(start)


@contextmanager
def quick_attention(translator: Translator, config: TranslatorTraining) -> Iterator[None]:
    """Within, a causal LM on a CPU in bfloat16 attends by matrix products, which are quicker there (`lm.attention`)."""
    lm = translator.model.lm
    before = lm.config._attn_implementation
    apt = before == "sdpa" and translator.card.architecture == "causal-lora" and lm.device.type == "cpu"
    apt = apt and config.bf16 and has_fast_bf16(lm.device) and not torch.accelerator.is_available()
    if apt:
        lm.set_attn_implementation(ATTENTION)
    yield
    if apt:
        lm.set_attn_implementation(before)


def _fits(trainer: "PairTrainer", checkpoint: str | None) -> bool:
    """Train; True if the memory sufficed. The error is gone on return, and the tensors it held with it."""
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _trainer(
    translator: Translator, train, validation, config: TranslatorTraining, folder: Path, share: Share
) -> "PairTrainer":
    if config.recompute:
        translator.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    arguments = _arguments(config, folder, share, with_validation=validation is not None)
    pairs_of_step = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    steps = int(config.epochs * -(-len(train) // pairs_of_step))
    arguments.warmup_steps = min(config.warmup_steps, steps // 4)
    # What is taught without tuning is little, and may make nothing better.
    untuned = any(isinstance(part, ExamplesAlone) for part in getattr(validation, "datasets", ()))
    arguments.eval_on_start = untuned and last_checkpoint(folder) is None  # once: it would count as an epoch in vain
    optimizers = (None, None)
    if config.deepspeed is None:
        optimizer = MuonWithAdamW(translator.model, config.lr, _BY_ADAMW)
        optimizers = (optimizer, get_linear_schedule_with_warmup(optimizer, arguments.warmup_steps, steps))
    return PairTrainer(
        model=translator.model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=PairCollator(translator.encode_instruction),
        optimizers=optimizers,
        callbacks=[EarlyStoppingCallback(config.patience)] if validation is not None else [],
    )


def _arguments(config: TranslatorTraining, folder: Path, share: Share, with_validation: bool) -> TrainingArguments:
    last = last_checkpoint(folder)
    return TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=share.pairs,
        gradient_accumulation_steps=share.passes,
        per_device_eval_batch_size=share.pairs,
        learning_rate=config.lr,
        use_cpu=not torch.accelerator.is_available(),  # Accelerate joins CPU processes only when told
        bf16=config.bf16 and has_fast_bf16(torch.accelerator.current_accelerator(check_available=True) or "cpu"),
        deepspeed=config.deepspeed and config_to_resume(config.deepspeed, last and Path(last)),
        eval_strategy="epoch" if with_validation else "no",
        # Pre-training is one long epoch.
        save_strategy="epoch" if with_validation else "steps",
        save_steps=_SAVED_EVERY,
        save_total_limit=2,
        load_best_model_at_end=with_validation,
        restore_callback_states_from_checkpoint=True,  # else early stopping would forget how long it has waited
        prediction_loss_only=True,
        logging_steps=50,
        report_to=[],
        seed=config.seed,
        data_seed=config.seed,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=not os.isatty(2),
    )


def _training_record(config: TranslatorTraining, material: Material, trainer: "PairTrainer", cut: float) -> dict:
    before = [one["eval_loss"] for one in trainer.state.log_history if "eval_loss" in one and one["step"] == 0]
    found = {
        "config": _plain(config),
        "train_pairs": material.n_pairs,
        "train_tasks": len(material.train_tasks),
        "validation_tasks": len(material.held_out),
        "initial_validation_loss": before[0] if before else None,
        "best_validation_loss": trainer.state.best_metric,
        "share_cut": cut,
        "epochs_run": trainer.state.epoch,
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate")},
    }
    if material.read_in_training:
        found["untuned_tasks"] = len({task.name for task in material.read_in_training})
    return found


class MuonWithAdamW(torch.optim.Optimizer):
    """Hidden matrices by Muon (Jordan et al. 2024), embeddings, heads and vectors by AdamW.

    Muon's updates are scaled to the size of Adam's (`match_rms_adamw`, Liu et al. 2025, arXiv 2502.16982), so
    one learning rate and one schedule serve both.
    """

    def __init__(self, model: nn.Module, lr: float, embedding_names: tuple[str, ...], weight_decay: float = 0.01):
        matrices, others = [], []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                is_matrix = parameter.ndim == 2 and not any(part in name for part in embedding_names)
                (matrices if is_matrix else others).append(parameter)
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
        if others:
            self.parts.append(torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0))
        super().__init__([group for part in self.parts for group in part.param_groups], {"lr": lr})
        # The schedule writes into this optimizer's groups, and must reach the parts.
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups = [group]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = closure() if closure else None
        for part in self.parts:
            part.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [part.param_groups[0] for part in self.parts]


def in_words(logs: Mapping[str, float]) -> str | None:
    """What the Trainer logged as a line for people; None for what is of no use to them."""
    if "eval_loss" in logs:
        return f"epoch {logs['epoch']:.2f}: validation loss {logs['eval_loss']:.3f} nats a token"
    if "loss" in logs:
        return f"epoch {logs['epoch']:.2f}: loss {logs['loss']:.3f} nats a token"
    if "train_runtime" in logs:
        minutes, rate = logs["train_runtime"] / 60, logs["train_samples_per_second"]
        return f"epoch {logs['epoch']:.2f}: ended after {minutes:.1f} minutes, {rate:.1f} pairs a second"
    return None


class _Bars(ProgressCallback):
    """The Trainer's progress bars, and its log in words."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if self.training_bar is not None and (line := in_words(logs or {})):
            self.training_bar.write(line, file=sys.stderr)


class _Lines(PrinterCallback):
    """The Trainer's log in words, where there is no terminal for bars."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if state.is_world_process_zero and (line := in_words(logs or {})):
            print(line, file=sys.stderr)


class PairTrainer(Trainer):
    """A Trainer that keeps its log in a file, says it in words and reads DeepSpeed's checkpoints of any number of
    processes."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        for usual, in_words_too in ((ProgressCallback, _Bars), (PrinterCallback, _Lines)):
            if self.pop_callback(usual):
                self.add_callback(in_words_too)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if self.is_world_process_zero():
            path = Path(self.args.output_dir).with_name("log.jsonl")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(json.dumps(self.state.log_history[-1]) + "\n")

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: object) -> TrainOutput:
        self._make_readable(resume_from_checkpoint)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if state_dict is not None:  # as DeepSpeed gathers it: with every name of a shared parameter
            kept = self.model.state_dict().keys()
            state_dict = {name: tensor for name, tensor in state_dict.items() if name in kept}
        super()._save(output_dir, state_dict)

    def _load_best_model(self) -> None:
        if self.is_deepspeed_enabled:
            best = Path(self.state.best_model_checkpoint)
            self._make_readable(best)
            self.model_wrapped._config.load_universal_checkpoint = needs_conversion(best)
        super()._load_best_model()

    def _make_readable(self, checkpoint: str | Path | None) -> None:
        """Convert a checkpoint that another number of DeepSpeed processes has made."""
        if self.is_deepspeed_enabled and checkpoint is not None and needs_conversion(Path(checkpoint)):
            with self.args.main_process_first(desc="conversion of a checkpoint"):
                convert(Path(checkpoint))


def last_checkpoint(folder: Path) -> str | None:
    """The last whole checkpoint: the Trainer writes its state last, so one without was cut short."""
    found = (folder / "checkpoints").glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        with suppress(FileNotFoundError, ValueError):
            json.loads((path / TRAINER_STATE_NAME).read_text())
            return str(path)
    return None
