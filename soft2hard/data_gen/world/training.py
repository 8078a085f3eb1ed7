"""Training the world's language models from nothing, on training tasks only.

Matrix products run in bfloat16 where the machine has instructions for it; weights and optimizers are in float32.
Hidden matrices are trained with Muon, the rest with AdamW. Families on which the model still errs are drawn more
often.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from soft2hard.compute.muon import Muon
from soft2hard.compute.precision import has_fast_bf16
from soft2hard.data_gen.dods.lexical import FAMILIES, LexicalTask, draw_task
from soft2hard.data_gen.tasks import Split
from soft2hard.data_gen.tuning import START_FILE
from soft2hard.data_gen.world import World, WorldModel
from soft2hard.data_gen.world.models import build_model
from soft2hard.data_gen.world.rows import IGNORE, RowBuilder, Rows, joined
from soft2hard.data_gen.world.vocabulary import tokenizer_of
from soft2hard.errors import UserError
from soft2hard.lm.precision import load_for_tuning
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.storage.files import atomic_folder, atomic_write

SINGLE_WORD = ("classify", "member", "relation", "label", "position")
CARD_TASKS = 64
"""Tasks a family that a model card's scores are means over."""
_CARD = Path(__file__).with_name("card.md.jinja")


def make_world(world: World, folder: Path, log: Callable[[str], None] = print) -> None:
    """Train both models, saved as `subject` and `api_model`, with the common start of soft prompts in the subject's.

    Run again after a kill, it continues. Raises UserError as `train_world_model` does.
    """
    train_world_model(world.subject, folder / "subject", log)
    subject = load_for_tuning(folder / "subject")
    start = subject.embed_text(world.start_text).float()
    SoftPrompt(start, "embedded", subject.fingerprint, {"text": world.start_text}).save(folder / "subject" / START_FILE)
    train_world_model(world.api_model, folder / "api_model", log)


def train_world_model(settings: WorldModel, folder: Path, log: Callable[[str], None] = print) -> None:
    """Train a model and save it in `folder`: weights in bfloat16, tokenizer and model card, whole or not at all.

    Checkpoints lie beside it, in `<folder>-training`; run again after a kill, it continues from the last one.
    Raises UserError where these are of a training with other settings.
    """
    work = folder.with_name(f"{folder.name}-training")
    tokenizer, encode = tokenizer_of(settings.pieces, work)
    model = build_model(settings, tokenizer)
    builder = RowBuilder(encode, tokenizer.eos_token_id, tokenizer.pad_token_id, settings.row_length)
    trainer = LMTrainer(settings, model, builder, work)
    for loss, accuracy in trainer.run():
        if accuracy is not None:
            mean = sum(accuracy.values()) / len(accuracy)
            log(f"{folder.name}: step {trainer.step}, {trainer.seconds:.0f} s, loss {loss:.3f}, accuracy {mean:.3f}")
    model.config._attn_implementation = "sdpa"
    card = _card(trainer)
    with atomic_folder(folder, overwrite=True) as temporary:
        model.to(torch.bfloat16).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        (temporary / "README.md").write_text(card)
        for file in temporary.iterdir():
            file.chmod(0o644)  # safetensors makes private files, which a wheel would keep so
    log(f"{folder.name}: saved to {folder}")


def _card(trainer: "LMTrainer") -> str:
    """The model card: how the model was made, and what it scores on test tasks by family."""
    from jinja2 import Template

    settings = trainer.settings
    scores = [
        evaluate(trainer.model, trainer.builder, "test", CARD_TASKS, few_shot=few_shot) for few_shot in (False, True)
    ]
    families = {family: [of[family] for of in scores] for family in FAMILIES}
    return Template(_CARD.read_text(), keep_trailing_newline=True).render(
        is_subject=settings.pieces is None,
        architecture=settings.architecture,
        millions=sum(p.numel() for p in trainer.model.parameters()) / 1e6,
        steps=trainer.step,
        tokens=trainer.step * settings.rows * settings.row_length / 1e6,
        minutes=trainer.seconds / 60,
        families=families,
        means=[sum(of.values()) / len(of) for of in scores],
        versions={name: version(name) for name in ("torch", "transformers")},
        settings=json.dumps(asdict(settings), indent=2),
    )


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
        with _mixed_precision():
            result[family] = exact_match(model, rows).mean().item()
    return result


def _mixed_precision() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16())


def learning_rate_scale(step: int, settings: WorldModel) -> float:
    """Linear warm-up, constant, then linear decay to zero."""
    decay_from = settings.steps * (1 - settings.decay_share)
    return min(1.0, (step + 1) / settings.warmup, (settings.steps - step) / max(1.0, settings.steps - decay_from))


class LMTrainer:
    """Trains one model; made again after a kill, it continues from the last checkpoint in its folder."""

    def __init__(self, settings: WorldModel, model: PreTrainedModel, builder: RowBuilder, folder: Path):
        self.settings, self.model, self.builder, self.folder = settings, model, builder, folder
        embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
        hidden = [p for p in model.parameters() if p.ndim == 2 and id(p) not in embeddings]
        others = [p for p in model.parameters() if p.ndim != 2 or id(p) in embeddings]
        self.optimizers = [
            Muon(hidden, lr=settings.muon_lr, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=settings.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.sampler = FamilySampler()
        self.step, self.seconds = 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self._resume()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "training.pt"

    def save(self) -> None:
        state = {
            "weights": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "family_loss": self.sampler.loss,
            "settings": json.dumps(asdict(self.settings)),
        }
        with atomic_write(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        if state.get("settings") != json.dumps(asdict(self.settings)):
            raise UserError(
                f"'{self.checkpoint}' is of a training with other settings.", "Choose another folder, or remove it."
            )
        self.model.load_state_dict(state["weights"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds, self.sampler.loss = state["step"], state["seconds"], state["family_loss"]

    def _train_step(self) -> float:
        settings, progress = self.settings, self.step / self.settings.steps
        rng = Random(f"{settings.seed}/{self.step}")  # data depend on the step alone: a resumed run sees the same
        facts_only = progress < settings.facts_share
        families = SINGLE_WORD if facts_only else tuple(FAMILIES)
        n_copies = round(settings.rows * (0.6 if facts_only else settings.copy_share))
        tasks = self.sampler.draw(settings.rows - n_copies, "train", rng, families)
        shares = (0.0, 0.0) if facts_only else (settings.few_shot_share, settings.induction_share)
        rows = self.builder.build(tasks, rng, *shares)
        if n_copies:
            rows = joined(rows, self.builder.build_copies(n_copies, self.model.config.vocab_size, rng))
        with _mixed_precision():
            loss, per_row = row_losses(self.model, rows)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        scale = learning_rate_scale(self.step, settings)
        for optimizer, lr in zip(self.optimizers, (settings.muon_lr, settings.adam_lr), strict=True):
            optimizer.param_groups[0]["lr"] = lr * scale
            optimizer.step()
            optimizer.zero_grad()
        self.sampler.update(tasks, per_row[: len(tasks)])
        return loss.item()

    def run(self, evaluate_every: int = 500) -> Iterator[tuple[float, dict[str, float] | None]]:
        """Train to the end; yields each step's loss, now and then with the accuracy on validation tasks by family."""
        last_save = time.monotonic()
        while self.step < self.settings.steps:
            started = time.monotonic()
            loss = self._train_step()
            self.step += 1
            self.seconds += time.monotonic() - started
            is_last = self.step == self.settings.steps
            is_look = is_last or self.step % evaluate_every == 0
            accuracy = evaluate(self.model, self.builder, "validation") if is_look else None
            if is_last or time.monotonic() - last_save > self.settings.save_every_s:
                self.save()
                last_save = time.monotonic()
            yield loss, accuracy
