"""Sizes of the embedded checkpoints: what one sitting on two cores can do, and what a GPU adds."""

from dataclasses import dataclass, replace

from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.world.lm_training import LMTraining
from soft2hard.errors import UserError
from soft2hard.translator.settings import TranslatorTraining

START_TEXT = "fruit alpha first reverse capital yes number keep"
"""Words of many kinds: prompts tuned from them reach a lower loss than from a sentence of function words."""

_ROTARY = {"rope_type": "default", "rope_theta": 100.0}


def _subject_architecture(width: int, layers: int) -> dict[str, object]:
    return {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": width * 8 // 3,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64,
        "max_position_embeddings": 512,
        "attention_bias": True,
        "tie_word_embeddings": True,
        "rope_parameters": _ROTARY,
    }


def _api_architecture(width: int, layers: int) -> dict[str, object]:
    return {
        "model_type": "gpt_neox",
        "hidden_size": width,
        "intermediate_size": width * 4,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "max_position_embeddings": 1024,
        "attention_bias": True,
        "tie_word_embeddings": True,
        "use_parallel_residual": True,
        "rope_parameters": _ROTARY | {"partial_rotary_factor": 1.0},
    }


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the embedded checkpoints."""

    subject: LMTraining
    api_model: LMTraining
    api_vocab: int
    """Size of the API-side model's SentencePiece vocabulary."""
    tuning: Tuning
    """How the corpus is tuned; from the start text."""
    start_text: str
    """Words from whose embeddings soft prompts are tuned, so that all lie in one region; one a virtual token."""
    n_tasks: int
    """Training tasks tuned from the common start."""
    n_random_tasks: int
    """Training tasks tuned from random tokens, as soft prompts from elsewhere are."""
    n_long_tasks: int
    """Training tasks tuned to the end, as those of users are."""
    long_steps: int
    """The most steps of these."""
    final_steps: int
    """The most steps of soft prompts that are shown or evaluated."""
    n_validation_tasks: int
    snapshot_steps: tuple[int, ...]
    translator: TranslatorTraining


CPU = Recipe(
    subject=LMTraining(_subject_architecture(192, 5), steps=2700, rows=64, row_length=64),
    api_model=LMTraining(
        _api_architecture(256, 4), steps=2500, rows=36, row_length=112, few_shot_share=0.2, induction_share=0.1, seed=1
    ),
    api_vocab=900,
    tuning=Tuning(n_tokens=8, steps=60, batch_size=6, lr=1.2, eval_every=20, patience=3, slots=64),
    start_text=START_TEXT,
    n_tasks=12_288,
    n_random_tasks=512,
    n_long_tasks=512,
    long_steps=200,
    final_steps=300,
    n_validation_tasks=384,
    snapshot_steps=(30, 45),
    translator=TranslatorTraining(epochs=12.0, paraphrase_share=0.25, pretrain_pairs=16_000),
)

GPU = Recipe(
    subject=LMTraining(
        _subject_architecture(384, 8), steps=12_000, rows=256, row_length=96, muon_lr=0.004, adam_lr=0.002
    ),
    api_model=LMTraining(
        _api_architecture(512, 8),
        steps=12_000,
        rows=256,
        row_length=128,
        muon_lr=0.004,
        adam_lr=0.002,
        few_shot_share=0.2,
        induction_share=0.1,
        seed=1,
    ),
    api_vocab=1200,
    tuning=Tuning(n_tokens=8, steps=150, batch_size=16, lr=1.2, eval_every=25, patience=3, slots=512),
    start_text=START_TEXT,
    n_tasks=65_536,
    n_random_tasks=8192,
    n_long_tasks=8192,
    long_steps=300,
    final_steps=400,
    n_validation_tasks=1024,
    snapshot_steps=(30, 60, 90),
    translator=TranslatorTraining(epochs=20.0, batch_size=256, pretrain_pairs=400_000),
)

TINY = Recipe(
    subject=LMTraining(_subject_architecture(64, 2), steps=4, rows=8, row_length=64),
    api_model=LMTraining(_api_architecture(64, 2), steps=4, rows=8, row_length=80, induction_share=0.1, seed=1),
    api_vocab=900,
    tuning=Tuning(n_tokens=8, steps=4, batch_size=4, eval_every=2, patience=2, slots=16),
    start_text=START_TEXT,
    n_tasks=32,
    n_random_tasks=16,
    n_long_tasks=16,
    long_steps=6,
    final_steps=6,
    n_validation_tasks=8,
    snapshot_steps=(2,),
    translator=TranslatorTraining(epochs=1.0, batch_size=16, pretrain_pairs=32),
)
"""Shows in seconds that every stage runs; its models know nothing."""


def long_tuning(recipe: Recipe) -> Tuning:
    """How the part of the corpus that is tuned to the end is tuned."""
    return replace(recipe.tuning, init="learned", steps=recipe.long_steps, batch_size=8, eval_every=25, patience=4)


def final_tuning(recipe: Recipe) -> Tuning:
    """How soft prompts that are shown and evaluated are tuned: until nothing is gained any more."""
    return replace(long_tuning(recipe), steps=recipe.final_steps, patience=8)


FINAL_EXAMPLES = 256
"""Training examples of each of these; with 64, accuracy on lists is 0.1 lower (docs/experiments.md)."""

RECIPES = {"cpu": CPU, "gpu": GPU, "tiny": TINY}


def recipe_named(name: str) -> Recipe:
    """Raises UserError for an unknown size."""
    if name not in RECIPES:
        raise UserError(f"There is no size '{name}'.", f"Choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]
