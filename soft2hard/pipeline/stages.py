"""The stages of a recipe: what each reads and writes, what of the recipe decides it, and what it does.

Every stage is resumed where it was stopped: by shards, epochs, cells or answers. A further kind of stage is one more
subclass of `Stage`, named in `KINDS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar

from soft2hard.data_gen.dods.registry import MADE_DODS
from soft2hard.data_gen.settings import Tuning
from soft2hard.errors import UserError
from soft2hard.lm.smollm2 import smollm2_folder
from soft2hard.settings import nearest
from soft2hard.storage.names import SMOLLM2, located
from soft2hard.workers.cluster import Cluster

if TYPE_CHECKING:
    from soft2hard.pipeline.recipe import Recipe


class Layout:
    """Where a run of a recipe keeps what."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.recipe = folder / "recipe.json"
        """The recipe with all defaults filled in, and what it was run with."""
        self.world = folder / "world"
        """Language models that are trained from nothing, by their roles."""
        self.corpora = folder / "corpora"
        self.training = folder / "translator"
        """Log and checkpoints of the translator's training."""
        self.translator = self.training / "translator"
        self.comparisons = folder / "comparisons"
        """Trainings of further translators, by name."""
        self.evaluation = folder / "evaluation"
        self.certificate = self.evaluation / "certificate.json"
        self.ledger = folder / "transfer" / "ledger.sqlite"
        self.served = folder / "transfer" / "served"
        """The copy of a model that is served on this machine."""
        self.transfer = folder / "transfer" / "transfer.json"
        self.report = folder / "report.html"

    def comparison(self, name: str) -> Path:
        """A further translator."""
        return self.comparisons / name / "translator"

    def stage(self, name: str) -> Path:
        """The record of a stage."""
        return self.folder / "stages" / f"{name}.json"


@dataclass(frozen=True)
class Job:
    """A recipe in a folder, and who hears of it."""

    recipe: "Recipe"
    layout: Layout
    log: Callable[[str], None] = lambda line: None
    """Hears lines for people."""
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None
    """Hears what is being done, how much of it is done, and how much there is in all."""
    workers: int = 1
    """Processes that share the seeds of the evaluation; `log` is then sent to them."""
    cluster: Cluster | None = None
    """Ray cluster whose workers make the corpora and the evaluation."""


class Stage(ABC):
    """One stage of a recipe in a folder."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    """Stages that must have ended before."""

    def __init__(self, recipe: "Recipe", layout: Layout):
        self.recipe, self.layout = recipe, layout

    @classmethod
    def is_in(cls, recipe: "Recipe") -> bool:
        """True if the recipe has this stage."""
        return True

    @property
    def follows(self) -> tuple[str, ...]:
        """Stages after whose end it is made again; `needs` among them."""
        return self.needs

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What of the recipe decides the results, as plain JSON; a folder in which it has begun is held to them."""

    @abstractmethod
    def results(self) -> tuple[Path, ...]:
        """The files or folders that are there when it has ended; it is made again where one of these is gone."""

    def writes(self) -> tuple[Path, ...]:
        """All that it writes."""
        return self.results()

    def inputs(self) -> Iterator[str]:
        """Folders of this run and models behind an API that it reads, for people."""
        yield from ()

    def folders(self) -> Iterator[tuple[str, Path]]:
        """Folders and files of tasks that it reads, each with what it is of."""
        yield from ()

    def models(self) -> Iterator[tuple[str, str]]:
        """Language models that it loads, by their roles; see `path_of`."""
        yield from ()

    def path_of(self, role: str, name: str) -> str:
        """The path or name that the model of a role is loaded by; 'embedded' is one of the recipe's world, if any."""
        if name == SMOLLM2 and (smollm2_folder() / "config.json").exists():
            return str(smollm2_folder())
        kind = "subject" if role == "subject" else "api_model"
        return str(self.layout.world / kind) if self.recipe.makes(name) else located(name, kind)

    def check(self) -> None:  # noqa: B027 - most stages need nothing more
        """Raise UserError where something else that it needs is missing, before anything is made."""

    @abstractmethod
    def size(self) -> str:
        """How much there is to do, for people."""

    def prompts(self) -> list[tuple[Tuning, int, int]]:
        """Soft prompts that it tunes: how, how many, and how many vectors of each are saved."""
        return []

    @abstractmethod
    def work(self, job: Job) -> str | None:
        """Do it, and return what remains to be done, if anything does."""


KINDS = {
    "world": "soft2hard.pipeline.making:WorldStage",
    "corpora": "soft2hard.pipeline.making:CorporaStage",
    "translator": "soft2hard.pipeline.making:TranslatorStage",
    "comparisons": "soft2hard.pipeline.making:ComparisonsStage",
    "evaluation": "soft2hard.pipeline.judging:EvaluationStage",
    "certificate": "soft2hard.pipeline.judging:CertificateStage",
    "transfer": "soft2hard.pipeline.judging:TransferStage",
    "report": "soft2hard.pipeline.judging:ReportStage",
}
"""Module and class of every kind of stage by its name, in the order in which they run."""


def stages_of(recipe: "Recipe", layout: Layout, names: Sequence[str] = ()) -> list[Stage]:
    """The stages of a recipe of these names, in order; all where none is named.

    Raises UserError for a stage that does not exist, or that this recipe does not have.
    """
    kinds = [resolve_name(place) for place in KINDS.values()]
    stages = [kind(recipe, layout) for kind in kinds if kind.is_in(recipe)]
    known = [stage.name for stage in stages]
    for name in names:
        if name in KINDS and name not in known:
            raise UserError(f"This recipe has no stage '{name}'.", f"Its stages are {', '.join(known)}.")
        if name not in known:
            raise UserError(f"There is no stage '{name}'{nearest(name, known)}.", f"Name {', '.join(known)}.")
    return [stage for stage in stages if not names or stage.name in names]


def models_of(stages: Sequence[Stage]) -> Iterator[tuple[str, str, str]]:
    """Role, name and path of every model that these stages load and the recipe does not make, each once."""
    found = {(role, name): stage for stage in stages for role, name in stage.models() if not stage.recipe.makes(name)}
    for (role, name), stage in found.items():
        yield role, name, stage.path_of(role, name)


def at_hand(dod: str, folder: Path | None) -> bool:
    """True if the tasks of a collection can be read without the network."""
    return dod in ("lexical", *MADE_DODS) if folder is None else folder.exists()


def collection_name(dod: str, folder: Path | None) -> str:
    return f"DoD {dod}" + (f" ({folder})" if folder else "")
