"""Training the embedded language models from nothing, on training tasks only.

Weights are kept twice: in bfloat16, which the matrix products read (in float32 where the machine has no instructions
for bfloat16), and in float32, which the optimizers update. Hidden matrices are trained with Muon, the rest with AdamW.
Families on which the model still errs are drawn more often.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from soft2hard.compute.muon import Muon
from soft2hard.compute.precision import has_fast_bf16
from soft2hard.data_gen.dods.lexical import FAMILIES, LexicalTask, draw_task
from soft2hard.data_gen.settings import LMTraining
from soft2hard.data_gen.tasks import Split
from soft2hard.data_gen.world.positional_heads import add_look_back_heads
from soft2hard.data_gen.world.rows import IGNORE, RowBuilder, Rows, joined
from soft2hard.errors import UserError
from soft2hard.lm.attention import ATTENTION
from soft2hard.storage.files import atomic_write

SINGLE_WORD = ("classify", "member", "relation", "label", "position")


def build_model(architecture: dict[str, object], vocab_size: int, eos: int, pad: int) -> PreTrainedModel:
    """A causal LM with random weights."""
    arguments = dict(architecture)
    config = AutoConfig.for_model(
        arguments.pop("model_type"),
        vocab_size=vocab_size,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
        **arguments,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION)
    if getattr(config, "attention_bias", False):
        add_look_back_heads(model)
    return model


class FamilySampler:
    """Draws tasks of a split, families in proportion to a floor plus the model's recent loss on them."""

    def __init__(self, floor: float = 0.15, momentum: float = 0.98):
        self.loss = dict.fromkeys(FAMILIES, 1.0)
        self.floor, self.momentum = floor, momentum

    def draw(self, n: int, split: Split, rng: Random, families: tuple[str, ...] = tuple(FAMILIES)) -> list[LexicalTask]:
        weights = [self.floor + min(self.loss[name], 1.0) for name in families]
        tasks: list[LexicalTask] = []
        while len(tasks) < n:
            task = draw_task(rng.choices(families, weights)[0], rng)
            if task.split == split:
                tasks.append(task)
        return tasks

    def update(self, tasks: list[LexicalTask], losses: list[float]) -> None:
        for task, loss in zip(tasks, losses, strict=True):
            self.loss[task.family] = self.momentum * self.loss[task.family] + (1 - self.momentum) * loss


def answer_logits(model: PreTrainedModel, rows: Rows) -> tuple[Tensor, Tensor]:
    """Logits `(n_labels, vocab)` at the labelled positions, and the flat mask `(rows, length)` of these."""
    dtype = model.dtype
    mask = torch.zeros(rows.allowed.shape, dtype=dtype).masked_fill_(~rows.allowed, -30000.0)[:, None]
    hidden = model.base_model(
        input_ids=rows.ids, attention_mask=mask, position_ids=rows.positions, use_cache=False
    ).last_hidden_state
    labelled = rows.labels != IGNORE
    return model.get_output_embeddings()(hidden[labelled]), labelled


def row_losses(model: PreTrainedModel, rows: Rows) -> tuple[Float[Tensor, ""], list[float]]:
    """The weighted mean loss (nats a token), and the mean output loss of each row."""
    logits, labelled = answer_logits(model, rows)
    losses = F.cross_entropy(logits.float(), rows.labels[labelled], reduction="none")
    weights, is_answer = rows.weights[labelled], rows.answer[labelled] > 0
    with torch.no_grad():
        row_of = labelled.nonzero()[:, 0]
        total = torch.zeros(2, rows.ids.shape[0])
        total[0].index_add_(0, row_of[is_answer], losses.detach()[is_answer])
        total[1].index_add_(0, row_of[is_answer], torch.ones_like(losses)[is_answer])
        per_row = (total[0] / total[1].clamp(min=1)).tolist()
    return (losses * weights).sum() / weights.sum(), per_row


@torch.no_grad()
def exact_match(model: PreTrainedModel, rows: Rows) -> Float[Tensor, "rows"]:
    """Share of each row's outputs that greedy decoding writes exactly.

    Greedy decoding writes an output exactly when the most likely token is right at each of its
    positions given the right tokens before it, so one pass tells.
    """
    logits, labelled = answer_logits(model, rows)
    wrong = logits.argmax(-1) != rows.labels[labelled]
    row_of, answer = labelled.nonzero()[:, 0], rows.answer[labelled]
    errors = torch.zeros(rows.ids.shape[0], int(rows.answer.max()) + 1)
    errors.index_put_((row_of, answer), wrong.float(), accumulate=True)
    present = torch.zeros_like(errors).index_put_((row_of, answer), torch.ones(len(answer)))
    present[:, 0] = 0
    return ((errors == 0) * present).sum(1) / present.sum(1).clamp(min=1)


def evaluate(
    model: PreTrainedModel,
    builder: RowBuilder,
    split: Split,
    n_per_family: int = 16,
    seed: int = 0,
    few_shot: bool = False,
) -> dict[str, float]:
    """Exact-match accuracy by family on tasks of a split, zero-shot or from examples alone."""
    rng = Random(f"evaluate/{split}/{seed}")
    result = {}
    for family in FAMILIES:
        tasks = FamilySampler().draw(n_per_family, split, rng, (family,))
        rows = builder.build(tasks, rng, few_shot_share=float(few_shot))
        result[family] = exact_match(model, rows).mean().item()
    return result


class MasterWeights:
    """Float32 copies of a model's parameters, with their optimizers."""

    def __init__(self, model: PreTrainedModel, config: LMTraining):
        self.pairs = [(p, nn.Parameter(p.detach().float().clone())) for p in model.parameters()]
        embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
        hidden = [m for p, m in self.pairs if p.ndim == 2 and id(p) not in embeddings]
        others = [m for p, m in self.pairs if p.ndim != 2 or id(p) in embeddings]
        self.optimizers = [
            Muon(hidden, lr=config.muon_lr, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=config.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.base_lrs = [config.muon_lr, config.adam_lr]

    def step(self, scale: float) -> None:
        """Update the float32 weights from the model's gradients, and write them back."""
        for parameter, master in self.pairs:
            master.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        nn.utils.clip_grad_norm_([m for _, m in self.pairs], 1.0)
        for optimizer, lr in zip(self.optimizers, self.base_lrs, strict=True):
            optimizer.param_groups[0]["lr"] = lr * scale
            optimizer.step()
        self.write()

    @torch.no_grad()
    def write(self) -> None:
        for parameter, master in self.pairs:
            parameter.copy_(master)

    def state_dict(self) -> dict[str, object]:
        return {
            "weights": [m.detach() for _, m in self.pairs],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        for (_, master), saved in zip(self.pairs, state["weights"], strict=True):
            master.copy_(saved)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.write()


def learning_rate_scale(step: int, config: LMTraining) -> float:
    """Linear warm-up, constant, then linear decay to zero."""
    decay_from = config.steps * (1 - config.decay_share)
    return min(1.0, (step + 1) / config.warmup, (config.steps - step) / max(1.0, config.steps - decay_from))


class LMTrainer:
    """Trains one model; call `run` again after a kill and it goes on from the last checkpoint."""

    def __init__(self, config: LMTraining, model: PreTrainedModel, builder: RowBuilder, folder: Path):
        self.config, self.builder, self.folder = config, builder, folder
        self.model = model.to(torch.bfloat16 if has_fast_bf16() else torch.float32)
        self.master = MasterWeights(model, config)
        self.sampler = FamilySampler()
        self.step, self.seconds = 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "training.pt"

    def save(self) -> None:
        state = self.master.state_dict() | {
            "step": self.step,
            "seconds": self.seconds,
            "family_loss": self.sampler.loss,
            "config": json.dumps(asdict(self.config), sort_keys=True),
        }
        with atomic_write(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def resume(self) -> bool:
        if not self.checkpoint.exists():
            return False
        state = torch.load(self.checkpoint, weights_only=True)
        if state["config"] != json.dumps(asdict(self.config), sort_keys=True):
            raise UserError(
                f"'{self.checkpoint}' is of a training with other settings.", "Choose another folder, or remove it."
            )
        self.master.load_state_dict(state)
        self.step, self.seconds, self.sampler.loss = state["step"], state["seconds"], state["family_loss"]
        return True

    def _train_step(self) -> float:
        config, progress = self.config, self.step / self.config.steps
        rng = Random(f"{config.seed}/{self.step}")  # data depend on the step alone: a resumed run sees the same
        facts_only = progress < config.facts_share
        families = SINGLE_WORD if facts_only else tuple(FAMILIES)
        n_copies = round(config.rows * (0.6 if facts_only else config.copy_share))
        tasks = self.sampler.draw(config.rows - n_copies, "train", rng, families)
        shares = (0.0, 0.0) if facts_only else (config.few_shot_share, config.induction_share)
        rows = self.builder.build(tasks, rng, *shares)
        if n_copies:
            rows = joined(rows, self.builder.build_copies(n_copies, self.model.config.vocab_size, rng))
        loss, per_row = row_losses(self.model, rows)
        loss.backward()
        self.master.step(learning_rate_scale(self.step, config))
        self.sampler.update(tasks, per_row[: len(tasks)])
        return loss.item()

    def run(self, log: Callable[[dict], None], evaluate_every: int = 500) -> Iterator[int]:
        """Train to the end, yielding the step after each one."""
        last_save = time.monotonic()
        while self.step < self.config.steps:
            started = time.monotonic()
            loss = self._train_step()
            self.step += 1
            self.seconds += time.monotonic() - started
            if self.step % evaluate_every == 0 or self.step == self.config.steps:
                accuracy = evaluate(self.model, self.builder, "validation")
                log({"step": self.step, "seconds": round(self.seconds), "loss": loss, "accuracy": accuracy})
            if time.monotonic() - last_save > self.config.save_every_s or self.step == self.config.steps:
                self.save()
                last_save = time.monotonic()
            yield self.step
