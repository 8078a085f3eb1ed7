"""The Hugging Face Trainer over pairs of soft prompt and instruction, by one process or several."""

from pathlib import Path

from torch import Tensor
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import TrainOutput

from soft2hard.translator.deepspeed.checkpoints import convert, needs_conversion


def pairs_of_step(arguments: TrainingArguments) -> int:
    """Pairs between two steps of the optimizer, over all processes and passes."""
    return arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size


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
