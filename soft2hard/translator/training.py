"""Training the translator with the Hugging Face Trainer (Accelerate, and DeepSpeed by flag)."""

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from random import Random

import datasets
import torch
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from soft2hard.compute.memory import free_memory, is_out_of_memory
from soft2hard.compute.precision import has_fast_bf16
from soft2hard.data_gen.corpus import content_hash
from soft2hard.errors import UserError
from soft2hard.lm.subject import Subject
from soft2hard.storage import run_folders
from soft2hard.storage.files import atomic_write
from soft2hard.translator.card import TranslatorCard
from soft2hard.translator.data import CorpusPairs, ListPairs, PairCollator
from soft2hard.translator.deepspeed.checkpoints import config_to_resume, gathered, splits_weights
from soft2hard.translator.model import Translator
from soft2hard.translator.optimizer import MuonWithAdamW
from soft2hard.translator.pair_trainer import PairTrainer, pairs_of_step
from soft2hard.translator.pretraining import imitation_pairs
from soft2hard.translator.processes import Share, is_first, n_processes, share_of_step

# Adapters are factors of a matrix, which Muon would treat as matrices.
_BY_ADAMW = ("shared", "embed_tokens", "lm_head", "relative_attention_bias", "reader", "lora_")


@dataclass(frozen=True)
class TranslatorTraining:
    """How a translator is trained."""

    epochs: float = 30.0
    """Passes over the corpus; the learning rate falls to zero over them."""
    batch_size: int = 128
    """Pairs a step, on each process."""
    lr: float = 2e-3
    """Learning rate of Muon and AdamW."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises."""
    paraphrase_share: float = 0.5
    """How often a paraphrase stands in for the reference instruction."""
    noise: float = 0.1
    """Most noise on the soft prompts, in standard deviations of their entries."""
    patience: int = 4
    """Epochs without a lower validation loss after which training stops."""
    pretrain_pairs: int = 0
    """Imitation soft prompts (noised word embeddings) to train on first; 0 for none."""
    recompute: bool = False
    """Compute the inside of each layer of the translator anew in the backward pass (gradient checkpointing): much less
    memory, a third more time."""
    bf16: bool = True
    """Compute in bfloat16 where the machine has it."""
    deepspeed: str | None = None
    """A DeepSpeed configuration: 'zero1', 'zero2', 'zero3', 'zero2-offload', 'zero3-offload' or the path of a JSON
    file; AdamW then takes the place of Muon."""
    seed: int = 0
    """Of the order of pairs, the choice of paraphrases and the noise."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr", "patience"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}.", "It must be above 0.")
        if not 0 <= self.paraphrase_share <= 1:
            raise UserError(f"paraphrase_share is {self.paraphrase_share}.", "It must lie between 0 and 1.")


def train_translator(
    translator: Translator,
    corpus: datasets.Dataset,
    validation: datasets.Dataset,
    config: TranslatorTraining,
    folder: Path | str,
    *,
    subject: Subject | None = None,
    resume: bool = True,
) -> Translator:
    """Train on a corpus, keep the weights with the lowest loss on validation tasks, and save to `folder`.

    A killed training goes on from its last epoch when called again with the same folder, and one that has
    ended is read back; `resume=False` begins anew. Raises UserError where a task stands in both corpora, where
    pre-training lacks the subject, or where the folder holds a training with other settings or data.
    """
    folder = Path(folder)
    _refuse_leak(corpus, validation)
    if (
        translator.card.hidden_layers
        and translator.card.architecture == "causal-lora"
        and splits_weights(config.deepspeed)
    ):
        raise UserError(
            "ZeRO-3 shares out the weights that a LoRA translator has from its subject, whose hidden states it reads.",
            "Train with --deepspeed zero2, or without hidden layers.",
        )
    _claim(folder, _identity(translator, corpus, validation, config), resume)
    if (folder / "translator").is_dir():
        ended = Translator.from_pretrained(folder / "translator", subject=subject)
        translator.model.load_state_dict(ended.model.state_dict())
        translator.card = ended.card
        return translator
    if (cut := share_cut(translator, corpus)) and is_first():
        longest = translator.card.instruction_tokens
        print(f"{cut:.1%} of the instructions are longer than {longest} tokens and are cut", file=sys.stderr)
    if config.pretrain_pairs and not _finished(folder / "pretraining"):
        if subject is None:
            raise UserError("Pre-training needs the subject.", "Give it, or set pretrain_pairs to 0.")
        _pretrain(translator, corpus, subject, config, folder / "pretraining")
    elif config.pretrain_pairs:
        _load_weights(translator.model, folder / "pretraining")
    train = CorpusPairs(corpus, paraphrase_share=config.paraphrase_share, noise=config.noise, seed=config.seed)
    trainer = _run(translator, train, CorpusPairs(validation), config, folder)
    translator.card = replace(translator.card, training=_training_record(config, corpus, validation, trainer, cut))
    translator.model.eval()
    with gathered(translator.model):
        if trainer.is_world_process_zero():
            translator.save_pretrained(folder / "translator")
    return translator


def _identity(translator: Translator, corpus, validation, config: TranslatorTraining) -> dict:
    """All that decides what a training ends in, as plain JSON."""
    decisive = asdict(config)
    del decisive["recompute"]  # a training that ran out of memory goes on with it
    return {
        "config": decisive,
        "subject": translator.card.fingerprint,
        **_design(translator.card),
        "corpus": content_hash(corpus),
        "validation": content_hash(validation),
    }


def _design(card: TranslatorCard) -> dict:
    """What sets the architecture apart from the default, so that trainings begun before there were two go on."""
    default = TranslatorCard("", "", 0)
    names = ("architecture", "hidden_layers", "base_fingerprint", "instruction_tokens")
    return {name: getattr(card, name) for name in names if getattr(card, name) != getattr(default, name)}


def _claim(folder: Path, identity: dict, resume: bool) -> None:
    """Mark the folder as that of one training, or raise UserError where it is another's."""
    if not is_first():
        return  # of several processes, the first speaks for all
    if not resume:
        for name in ("translator", "checkpoints", "pretraining"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / TRAINING.file).unlink(missing_ok=True)
    run_folders.claim(folder, TRAINING, identity | run_folders.made_with())


def _decisive(record: run_folders.Record) -> dict:
    """Of the record of a training what decides its result; in its file, hashes of what is read have no place apart."""
    read = ("subject", "corpus", "validation")
    settings = {key: value for key, value in record.items() if key not in (*read, "versions", "commit", "created")}
    return settings | {"inputs": {key: record[key] for key in read}}


TRAINING = run_folders.Kind("a training", "training.json", _decisive, alone=False)


def _refuse_leak(corpus: datasets.Dataset, validation: datasets.Dataset) -> None:
    shared = sorted(set(corpus["task"]) & set(validation["task"]))
    if shared:
        raise UserError(
            f"{len(shared)} tasks stand in both the corpus and the validation corpus, such as '{shared[0]}'.",
            "Give a validation corpus of other tasks.",
        )


def _pretrain(translator: Translator, corpus: datasets.Dataset, subject: Subject, config, folder: Path) -> None:
    """One pass over imitation soft prompts for the instructions of the corpus."""
    texts = sorted({*corpus["instruction"], *(text for texts in corpus["paraphrases"] for text in texts)})
    stream = imitation_pairs(subject, texts, Random(f"pretraining/{config.seed}"))
    pairs = ListPairs([next(stream) for _ in range(config.pretrain_pairs)])
    trainer = _run(translator, pairs, None, replace(config, epochs=1.0), folder)
    with gathered(translator.model):
        if trainer.is_world_process_zero():
            _save_weights(translator.model, folder)


def _save_weights(model: nn.Module, folder: Path) -> None:
    with atomic_write(folder / "weights.pt") as temporary:
        torch.save(model.state_dict(), temporary)


def _load_weights(model: nn.Module, folder: Path) -> None:
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))


def _finished(folder: Path) -> bool:
    return (folder / "weights.pt").exists()


def _last_checkpoint(folder: Path) -> str | None:
    """The last whole checkpoint: the Trainer writes its state last, so one without was cut short."""
    found = (folder / "checkpoints").glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    whole = [path for path in found if _is_json(path / TRAINER_STATE_NAME)]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return False
    return True


def _run(translator: Translator, train, validation, config: TranslatorTraining, folder: Path) -> Trainer:
    """The trainer that has trained. Where memory runs out, a process by itself begins again in passes of half as many.

    Raises UserError where one pair does not fit, or several processes are short of memory.
    """
    share, alone = share_of_step(folder, config.batch_size), n_processes() == 1 and config.deepspeed is None
    start = (
        {name: t.detach().to("cpu", copy=True) for name, t in translator.model.state_dict().items()} if alone else {}
    )
    while True:
        trainer = _trainer(translator, train, validation, config, folder, share)
        if _fits(trainer, _last_checkpoint(folder)):
            return trainer
        share = share.smaller() if alone else None
        if share is None:
            raise UserError(
                "There is not enough memory to train the translator" + (" on one pair." if alone else "."),
                "Use --recompute, a smaller base or lora_rank, fewer --batch-size pairs a process, or a larger GPU.",
            )
        del trainer
        free_memory()
        print(f"out of memory; going on with {share.pairs} pairs a pass, {share.passes} passes a step", file=sys.stderr)
        translator.model.zero_grad()
        translator.model.load_state_dict(start)


def _fits(trainer: Trainer, checkpoint: str | None) -> bool:
    """Train; whether the memory sufficed. The error is gone on return, and the tensors it held with it."""
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def needs_subject(translator: Translator, config: TranslatorTraining) -> bool:
    """Whether a training runs the subject; if not, its memory may be given back before."""
    card = translator.card
    return card.architecture == "causal-lora" or bool(card.hidden_layers or config.pretrain_pairs)


def collator_of(translator: Translator) -> PairCollator:
    """Pads and cuts pairs as the translator is made for."""
    return PairCollator(translator.tokenizer, translator.model.eos_id, translator.card.instruction_tokens)


def share_cut(translator: Translator, corpus: datasets.Dataset) -> float:
    """How many of the corpus's distinct texts, paraphrases among them, are longer than the translator learns."""
    texts = {*corpus["instruction"], *(text for texts in corpus["paraphrases"] for text in texts)}
    longest = translator.card.instruction_tokens
    long = [text for text in texts if len(translator.tokenizer.encode(text, add_special_tokens=False)) > longest]
    return len(long) / max(1, len(texts))


def _trainer(
    translator: Translator, train, validation, config: TranslatorTraining, folder: Path, share: Share
) -> Trainer:
    if config.recompute:
        translator.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    collator = collator_of(translator)
    arguments = _arguments(config, folder, share, with_validation=validation is not None)
    steps = int(config.epochs * -(-len(train) // pairs_of_step(arguments)))
    arguments.warmup_steps = min(config.warmup_steps, steps // 4)
    optimizers = (None, None)
    if config.deepspeed is None:
        optimizer = MuonWithAdamW(translator.model, config.lr, _BY_ADAMW)
        optimizers = (optimizer, get_linear_schedule_with_warmup(optimizer, arguments.warmup_steps, steps))
    callbacks: list[TrainerCallback] = [LogFile(folder / "log.jsonl"), EpochOfPairs(train)]
    if validation is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=config.patience))
    return PairTrainer(
        model=translator.model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collator,
        optimizers=optimizers,
        callbacks=callbacks,
    )


def _arguments(config: TranslatorTraining, folder: Path, share: Share, with_validation: bool) -> TrainingArguments:
    last = _last_checkpoint(folder)
    return TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=share.pairs,
        gradient_accumulation_steps=share.passes,
        per_device_eval_batch_size=share.pairs,
        learning_rate=config.lr,
        lr_scheduler_type="linear",
        use_cpu=not torch.accelerator.is_available(),  # Accelerate joins CPU processes only when told
        bf16=config.bf16 and has_fast_bf16(),
        deepspeed=config.deepspeed and config_to_resume(config.deepspeed, last and Path(last)),
        eval_strategy="epoch" if with_validation else "no",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=with_validation,
        restore_callback_states_from_checkpoint=True,  # else early stopping would forget how long it has waited
        metric_for_best_model="loss" if with_validation else None,
        greater_is_better=False,
        prediction_loss_only=True,
        logging_steps=50,
        report_to=[],
        seed=config.seed,
        data_seed=config.seed,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=not os.isatty(2),
        dataloader_num_workers=0,
    )


class LogFile(TrainerCallback):
    """Appends what the Trainer logs to a JSON-lines file."""

    def __init__(self, path: Path):
        self.path = path

    def on_log(self, args, state, control, logs=None, **kwargs):  # noqa: ANN201 - the Trainer's signature
        if state.is_world_process_zero and logs:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps({"step": state.global_step} | logs) + "\n")


class EpochOfPairs(TrainerCallback):
    """Tells the training pairs which epoch it is."""

    def __init__(self, pairs: CorpusPairs | ListPairs):
        self.pairs = pairs

    def on_epoch_begin(self, args, state, control, **kwargs):  # noqa: ANN201 - the Trainer's signature
        self.pairs.epoch = round(state.epoch or 0)


def _training_record(config, corpus, validation, trainer: Trainer, cut: float) -> dict:
    return {
        "config": asdict(config),
        "train_pairs": len(corpus),
        "train_tasks": len(set(corpus["task"])),
        "validation_tasks": len(set(validation["task"])),
        "best_validation_loss": trainer.state.best_metric,
        "share_cut": cut,
        "epochs_run": trainer.state.epoch,
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate")},
    }
