"""Sizes of the embedded checkpoints: what one sitting on two cores can do, and what a GPU adds."""

from dataclasses import dataclass, replace

from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.world import FINAL_TUNING, World, WorldModel
from soft2hard.errors import UserError
from soft2hard.translator.settings import TranslatorTraining


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the embedded checkpoints."""

    world: World
    tuning: Tuning
    """How the corpus is tuned; from the start text."""
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


_API = {"few_shot_share": 0.2, "induction_share": 0.1, "seed": 1}
_WIDE = {"rows": 256, "adam_lr": 0.002}
CPU = Recipe(
    world=World(
        subject=WorldModel("llama", 192, 5, steps=2700),
        api_model=WorldModel("gpt_neox", 256, 4, steps=2500, pieces=900, rows=36, row_length=112, **_API),
    ),
    tuning=Tuning(n_tokens=8, steps=60, batch_size=6, lr=1.2, eval_every=20, patience=3, slots=64),
    n_tasks=12_288,
    n_random_tasks=512,
    n_long_tasks=512,
    long_steps=200,
    final_steps=FINAL_TUNING.steps,
    n_validation_tasks=384,
    snapshot_steps=(30, 45),
    translator=TranslatorTraining(epochs=12.0, paraphrase_share=0.25, pretrain_pairs=16_000),
)
GPU = Recipe(
    world=World(
        subject=WorldModel("llama", 384, 8, steps=12_000, row_length=96, **_WIDE),
        api_model=WorldModel("gpt_neox", 512, 8, steps=12_000, pieces=1200, row_length=128, **_WIDE, **_API),
    ),
    tuning=Tuning(n_tokens=8, steps=150, batch_size=16, lr=1.2, eval_every=25, patience=3, slots=512),
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
    world=World(
        subject=WorldModel("llama", 64, 2, steps=4, rows=8),
        api_model=WorldModel(
            "gpt_neox", 64, 2, steps=4, pieces=900, rows=8, row_length=80, induction_share=0.1, seed=1
        ),
    ),
    tuning=Tuning(n_tokens=8, steps=4, batch_size=4, eval_every=2, patience=2, slots=16),
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


RECIPES = {"cpu": CPU, "gpu": GPU, "tiny": TINY}


def recipe_named(name: str) -> Recipe:
    """Raises UserError for an unknown size."""
    if name not in RECIPES:
        raise UserError(f"There is no size '{name}'.", f"Choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]
