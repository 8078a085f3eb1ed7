"""The models of an evaluation, each loaded when it is first needed; hashes by which models and tasks are known again;
and what the methods of an evaluation lack, found before anything runs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from soft2hard.api.asking import Asker
from soft2hard.api.prices import read_prices
from soft2hard.api.requests import ApiModel
from soft2hard.api.text_generation import ApiGenerator
from soft2hard.data_gen.taskfiles import content_hash
from soft2hard.data_gen.tasks import Split, StyleTask, Task
from soft2hard.errors import UserError
from soft2hard.eval.classifiers import LinearClassifier, TextClassifier, check_labels, text_classifier
from soft2hard.eval.config import TRAINED, Evaluation, MethodChoice
from soft2hard.eval.methods.base import Bench, Case, Method
from soft2hard.eval.methods.discrete import check_continues
from soft2hard.eval.metrics.scrutability import subject_encoder
from soft2hard.eval.metrics.task_score import check_metric
from soft2hard.eval.rewriting import Remembering, Styling
from soft2hard.lm.loading import Loading
from soft2hard.lm.precision import load_for_tuning
from soft2hard.lm.sentences import Encoder, sentence_encoder
from soft2hard.lm.subject import Subject
from soft2hard.lm.text_generation import LocalGenerator, TextGenerator
from soft2hard.storage.names import located
from soft2hard.translator.model import Translator, translator_fingerprint, weighing_fingerprint
from soft2hard.translator.settings import Evidence

TasksOf = Callable[[Split, int], list[Task]]
"""The tasks of a split and seed (`cases.Draw`)."""


@dataclass(eq=False)
class Models:
    """Subject, translator, reference LM and generator as the settings name them."""

    config: Evaluation
    needs: frozenset[str]
    folder: Path = Path("runs")
    """The run's: answers of a generator behind an API lie in it."""
    log: Callable[[str], None] = lambda line: None
    outputs: Callable[[], Iterable[str]] = tuple
    """Gives the outputs of all tasks, within which no output may end."""
    style_tasks: Callable[[], Sequence[StyleTask]] = tuple
    """Gives the tasks of style transfer, whose sentences train classifiers."""

    @cached_property
    def subject(self) -> Subject:
        return Subject.from_pretrained(self.config.subject, loading=self._loading).for_outputs(self.outputs())

    @cached_property
    def tuning_subject(self) -> Subject:
        """The subject in the precision that is fastest here, or the subject itself."""
        if self.subject.device.type != "cpu" or self._loading.dtype != "auto":
            return self.subject  # two of them would take twice the memory
        return load_for_tuning(self.config.subject, self._loading).with_template(self.subject.template)

    def bench(self, seed: int, validation: Sequence[Case] = ()) -> Bench:
        """The models and the budget under a seed."""
        roles = ("subject", "tuning_subject", "translator", "reference", "generator", "encoder", "style")
        budget = {"max_seconds": self.config.max_seconds, "max_model_calls": self.config.max_model_calls}
        models = {role: getattr(self, role) for role in roles}
        return Bench(**models, **budget, validation=validation, seed=seed, log=self.log)

    @property
    def _loading(self) -> Loading:
        return Loading(**self.config.loading)

    @cached_property
    def translator(self) -> Translator | None:
        """Of another subject, one that reads what soft prompts do. Raises UserError for others of another subject."""
        if "translator" not in self.needs or self.config.translator is None:
            return None
        return Translator.beside(self.config.translator, self.subject)

    @cached_property
    def reference(self) -> Subject | None:
        """Raises UserError for one that cannot be read, or does not continue texts."""
        lm = self._language_model(self.config.reference, "reference")
        if lm is not None:
            check_continues(lm, "reference")
        return lm

    @cached_property
    def generator(self) -> TextGenerator | None:
        """Raises UserError for one that cannot be read, or cannot be asked; one behind an API is asked for a trial."""
        if "generator" not in self.needs:
            return None
        if isinstance(self.config.generator, ApiModel):
            api = ApiGenerator(Asker(self.config.generator, self.folder / "generator.sqlite", read_prices()), self.log)
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

    @cached_property
    def style(self) -> Styling | None:
        """Raises UserError for a classifier that cannot be loaded or trained, or does not know the tasks' styles."""
        asked, tasks = self.config.style, self.style_tasks()
        if asked is None or not tasks:
            return None
        encoder = Remembering(self.encoder)
        labelled = list(dict.fromkeys(example for task in tasks for example in task.labelled))
        found: dict[str, TextClassifier] = {}
        for number, (role, name) in enumerate({"classifier": asked.classifier, "judge": asked.judge}.items()):
            if name == TRAINED:
                found[role] = LinearClassifier.train(labelled[number::2], encoder, f"{role}, trained")
            else:
                found[role] = text_classifier(name, self.config.encoder, encoder)
            check_labels(found[role], {style for task in tasks for style in (task.given, task.wanted)})
        if asked.classifier == asked.judge != TRAINED:
            raise UserError(
                f"'{asked.judge}' is to reward prompts and to judge them: what it gets wrong would count twice.",
                f"Name another judge, or '{TRAINED}'.",
            )
        return Styling(**found, encoder=encoder, samples=asked.samples, top_k=asked.top_k)

    def _language_model(self, name: str | None, role: str) -> Subject | None:
        """'embedded' is the API-side model, 'subject' the subject itself."""
        if name is None:
            return None
        try:
            return self.subject if name == "subject" else Subject.from_pretrained(located(name, "api_model"))
        except UserError as error:
            # The user may never have named this model: it is the default beside a real subject.
            raise UserError(f"{role}: {error.problem}", f"Name another as {role}, or none. {error.remedy}") from error


# --- identity ---------------------------------------------------------------------------------


def _identity(translator: Translator) -> str:
    """Of its weights, and of what it weighs texts by where that was chosen."""
    found = translator_fingerprint(translator)
    is_plain = translator.card.evidence == Evidence() and not translator.follower_adapters
    return found if is_plain else f"{found} weighing {weighing_fingerprint(translator)}"


def inputs_of(config: Evaluation, models: Models, tasks_of: TasksOf) -> dict[str, str]:
    """SHA-256 of each model's telling weights and of all examples of each seed's tasks, lest old cells pass for new."""
    found = {"subject": models.subject.fingerprint}
    if models.reference is not None:
        found["reference"] = models.reference.fingerprint
    if isinstance(models.generator, LocalGenerator):
        found["generator"] = models.generator.lm.fingerprint
    if models.translator is not None:
        found["translator"] = _identity(models.translator)
    for choice in config.methods:
        if name := choice.options.get("translator"):
            found[f"translator of {choice.label}"] = _identity(Translator.from_pretrained(name))
        if (name := choice.options.get("policy")) not in (None, "reference"):
            found[f"policy of {choice.label}"] = Subject.from_pretrained(name).fingerprint
    if models.style is not None:
        named = {"classifier": config.style.classifier, "judge": config.style.judge}
        found |= {role: getattr(models.style, role).fingerprint for role, name in named.items() if name != TRAINED}
    for seed in config.seeds:
        for split in ("test", "validation"):
            if tasks := tasks_of(split, seed):
                found[f"{split} tasks of seed {seed}"] = content_hash(tasks)
    return found


# --- needs ------------------------------------------------------------------------------------

_OF_TASKS = {
    "train": "training examples",
    "validation": "validation examples",
    "labels": "label words",
    "instruction": "an instruction",
    "wanted": "a style to write in",
}
_OF_SETTINGS = ("translator", "reference", "generator", "encoder", "style")


def problems_of(config: Evaluation, methods: Sequence[tuple[MethodChoice, Method]], tasks_of: TasksOf) -> list[str]:
    """Everything that tasks or settings lack for the methods, and metrics that tasks cannot be scored by."""
    tasks, problems = tasks_of("test", config.seeds[0]), []
    for choice, method in methods:
        for need in sorted(method.needs & _OF_TASKS.keys()):
            if lacking := [task.name for task in tasks if not getattr(task, need, None)]:
                which = f"which {len(lacking)} tasks lack, such as '{lacking[0]}'"
                problems.append(f"{choice.label} needs {_OF_TASKS[need]}, {which}")
        for need in _OF_SETTINGS:
            if need in method.needs and getattr(config, need) is None:
                problems.append(f"{choice.label} needs {'an' if need[0] == 'e' else 'a'} {need}, but none is set")
        if "validation_cases" in method.needs and not tasks_of("validation", config.seeds[0]):
            problems.append(f"{choice.label} needs validation tasks, of which there are none")
    if config.style is not None and not any(isinstance(task, StyleTask) for task in tasks):
        problems.append("style is set, but no task is one of style transfer")
    unlabelled = [task.name for task in tasks if not task.labels]
    if config.tuning.get("init") == "labels" and unlabelled:
        problems.append(f"tuning cannot start from labels, which {len(unlabelled)} tasks lack, as '{unlabelled[0]}'")
    for task in tasks:
        try:
            check_metric(task)
        except UserError as error:
            problems.append(error.problem.rstrip("."))
    return problems
