"""The models of an evaluation, each loaded when it is first needed."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from soft2hard.errors import UserError
from soft2hard.eval.config import ApiChoice, Evaluation
from soft2hard.eval.generator_api import ApiGenerator
from soft2hard.eval.generators import LocalGenerator
from soft2hard.eval.methods.base import TextGenerator
from soft2hard.eval.methods.discrete_vocabulary import check_decoder_only
from soft2hard.eval.metrics.text import Encoder, sentence_encoder, subject_encoder
from soft2hard.lm.loading import Loading
from soft2hard.lm.precision import load_for_tuning
from soft2hard.lm.subject import Subject
from soft2hard.storage.names import located
from soft2hard.translator.model import Translator


class Models:
    """Subject, translator, reference LM and generator as the settings name them."""

    def __init__(
        self,
        config: Evaluation,
        needs: frozenset[str],
        folder: Path = Path("runs"),
        log: Callable[[str], None] = lambda line: None,
    ):
        """`folder` is the run's: answers of a generator behind an API lie in it. `log` hears of those not to be had."""
        self.config, self.needs, self.folder, self.log = config, needs, folder, log

    @cached_property
    def subject(self) -> Subject:
        return Subject.from_pretrained(self.config.subject, loading=self._loading)

    @cached_property
    def tuning_subject(self) -> Subject:
        """The subject in the precision that is fastest here; the same one where that is its own already."""
        if self.subject.device.type != "cpu" or self._loading.dtype != "auto":
            return self.subject  # two of them would take twice the memory
        return load_for_tuning(self.config.subject, self._loading)

    @property
    def _loading(self) -> Loading:
        return Loading(**self.config.loading)

    @cached_property
    def translator(self) -> Translator | None:
        """Raises UserError for one that was trained for another subject."""
        if "translator" not in self.needs or self.config.translator is None:
            return None
        return Translator.from_pretrained(self.config.translator, subject=self.subject)

    @cached_property
    def reference(self) -> Subject | None:
        """Raises UserError for one that cannot be read, or does not continue texts."""
        lm = self._language_model(self.config.reference, "reference")
        if lm is not None:
            check_decoder_only(lm, "reference")
        return lm

    @cached_property
    def generator(self) -> TextGenerator | None:
        """Raises UserError for one that cannot be read, or cannot be asked; one behind an API is asked for a trial."""
        if "generator" not in self.needs:
            return None
        if isinstance(self.config.generator, ApiChoice):
            api = ApiGenerator(self.config.generator.build(), self.folder / "generator.sqlite", log=self.log)
            api.check()
            return api
        lm = self._language_model(self.config.generator, "generator")
        return lm and LocalGenerator(lm)

    @cached_property
    def encoder(self) -> Encoder | None:
        """Raises UserError for one that cannot be loaded."""
        if self.config.encoder is None:
            return None
        if self.config.encoder != "reference":
            return sentence_encoder(self.config.encoder)
        if self.reference is None:
            raise UserError("The encoder is to be the reference LM, but there is none.", "Name one of them.")
        return subject_encoder(self.reference)

    def _language_model(self, name: str | None, role: str) -> Subject | None:
        """'embedded' is the API-side model, 'subject' the subject itself."""
        if name is None:
            return None
        try:
            return self.subject if name == "subject" else Subject.from_pretrained(located(name, "api_model"))
        except UserError as error:
            # The user may never have named this model: it is the default beside a real subject.
            raise UserError(f"{role}: {error.problem}", f"Name another as {role}, or none. {error.remedy}") from error
