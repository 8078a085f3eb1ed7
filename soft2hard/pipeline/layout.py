"""Where a run of a recipe keeps what."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The folder of a run."""

    folder: Path

    @property
    def recipe(self) -> Path:
        """The recipe with all defaults filled in, and what it was run with."""
        return self.folder / "recipe.json"

    def stage(self, name: str) -> Path:
        """The record of a stage."""
        return self.folder / "stages" / f"{name}.json"

    @property
    def corpora(self) -> Path:
        return self.folder / "corpora"

    @property
    def training(self) -> Path:
        """Log and checkpoints of the translator's training, and the translator."""
        return self.folder / "translator"

    @property
    def translator(self) -> Path:
        return self.training / "translator"

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation"

    @property
    def ledger(self) -> Path:
        return self.folder / "transfer" / "ledger.sqlite"

    @property
    def served(self) -> Path:
        """The copy of a model that is served on this machine."""
        return self.folder / "transfer" / "served"

    @property
    def transfer(self) -> Path:
        return self.folder / "transfer" / "transfer.json"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"
