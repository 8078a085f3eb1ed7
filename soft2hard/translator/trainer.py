"""The Hugging Face Trainer over pairs of soft prompt and instruction: its optimizer, its checkpoints and its log."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from soft2hard.compute.muon import Muon
from soft2hard.translator.data import CorpusPairs, ListPairs
from soft2hard.translator.processes import convert, needs_conversion


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
            muon = Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            self.parts.append(muon)
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


class PairTrainer(Trainer):
    """A Trainer that reads DeepSpeed's checkpoints of any number of processes."""

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


def pairs_of_step(arguments: TrainingArguments) -> int:
    """Pairs between two steps of the optimizer, over all processes and passes."""
    return arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size


def last_checkpoint(folder: Path) -> str | None:
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
