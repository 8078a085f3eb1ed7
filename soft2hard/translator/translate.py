"""Translating soft prompts: propose, verify, refine, choose."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from soft2hard.compute import metering
from soft2hard.errors import UserError
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt
from soft2hard.storage.names import embedded_path
from soft2hard.translator.candidates import Search, choose, propose
from soft2hard.translator.model import Translator
from soft2hard.translator.prior import InstructionPrior
from soft2hard.translator.probing import invented_inputs
from soft2hard.translator.settings import MIN_PROBES, TranslateConfig, read_card
from soft2hard.translator.verification import Candidate, Ending, Probes, Verdict, Verifier, verdict_of

_KEPT_CANDIDATES = 10
_GUESSES = 4  # candidates under which inputs are invented: the greedy one and the best beams
_PRIOR_TEXTS, _PRIOR_BEST, _PRIOR_BRANCHES = 150, 12, 12  # a prior knows less than a translator, so more is tried


@dataclass(frozen=True)
class Translation:
    """A soft prompt in words."""

    soft_prompt: str
    """Where the soft prompt came from."""
    text: str
    """The candidate with the highest posterior, see `candidates` (the greedy one where nothing was verified)."""
    greedy: str
    """The first text that was proposed, without verification."""
    proposer: Literal["translator", "search"] = "translator"
    """Where the candidates come from: a translator, or a search among texts that the subject finds likely."""
    verdict: Verdict = "unverified"
    agreement: float | None = None
    """Share of inputs on which text and soft prompt make the subject write the same: of the check inputs, or of the
    probe inputs where none were left to check on."""
    divergence: float | None = None
    """Mean KL(soft || hard) over output positions of the same inputs, nats."""
    n_probes: int = 0
    """Inputs that chose the text."""
    n_checks: int = 0
    """Other inputs that the agreement and the verdict were taken on; 0 where they come from the probe inputs."""
    probe_source: str = "none"
    """'examples', 'invented by the subject' or 'none'."""
    ending: Ending | None = None
    """Whether outputs end under the soft prompt; None where nothing was run."""
    candidates: tuple[Candidate, ...] = ()
    """The best candidates by their posterior, with their faithfulness on the probe inputs."""

    def to_json(self) -> dict:
        """As plain JSON values."""
        return asdict(self)


def translate(
    prompts: SoftPrompt | Sequence[SoftPrompt],
    translator: Translator | InstructionPrior | None = None,
    subject: Subject | None = None,
    config: TranslateConfig = TranslateConfig(),
    *,
    inputs: Sequence[str] | Sequence[Sequence[str]] | None = None,
    names: Sequence[str] | None = None,
    progress: Callable[[], None] | None = None,
) -> Translation | list[Translation]:
    """Put a soft prompt, or a list of them, into words; one translation for one, a list for a list.

    Args:
        prompts: Of one subject. A translation is the same whatever else is translated with it. What goes through
            the models is counted on behalf of each soft prompt, by its place, but for what they make of their inputs
            together.
        translator: If not given, the one that comes with the package, where it was trained for the prompts' subject;
            else texts are searched for under the subject's own prior (`prior.InstructionPrior`).
        subject: Runs candidates beside the soft prompts; if not given, the one that the translator was trained for
            is loaded, unless `config.verify` is off.
        config: How much is tried and verified.
        inputs: Inputs of the task to verify on, one list for all soft prompts or one list each. If not given, the
            subject makes them up under the first candidates.
        names: What each translation calls its soft prompt; by default where it came from.
        progress: Called after each translation.

    Raises:
        UserError: soft prompts, translator and subject do not belong together; no translator or subject was given
            and none fits.
    """
    if isinstance(prompts, SoftPrompt):
        return translate([prompts], translator, subject, config, inputs=inputs, names=names, progress=progress)[0]
    translator = translator or _fitting_translator(prompts, subject) or _prior(prompts, subject, config)
    for prompt in prompts:
        translator.check(prompt)
    if config.verify:
        subject = subject or _own_subject(translator, prompts)
    if subject is not None:
        translator.bind(subject)
        subject = subject.for_prompts(prompts)
    labels = names or [p.provenance.get("source", f"soft prompt {i + 1}") for i, p in enumerate(prompts)]
    searches = isinstance(translator, InstructionPrior)
    n = config.n_samples if searches else config.n_candidates
    proposals = propose(translator, prompts, n if config.verify else 1, seed=config.seed)
    if subject is None or not config.verify:
        return [_unverified(label, texts) for label, texts in zip(labels, proposals, strict=True)]
    verifier = Verifier(subject, config.max_new_tokens)
    search = Search(config.refine_rounds)
    if searches:
        search = Search(config.search_rounds, _PRIOR_BEST, _PRIOR_TEXTS, _PRIOR_BRANCHES, patient=True)
    # Texts under a prior are no guesses at the task.
    guesses = [
        [prompt] if searches else texts[:_GUESSES] or [prompt] for texts, prompt in zip(proposals, prompts, strict=True)
    ]
    probe_inputs, source = _probe_inputs(subject, guesses, inputs, config)
    enough = [i for i, of_prompt in enumerate(probe_inputs) if len(of_prompt) >= min(MIN_PROBES, config.n_probes)]
    parts = {i: _divide(probe_inputs[i], config) for i in enough}
    probes = _probes(verifier, prompts, {i: choosing for i, (choosing, _) in parts.items()})
    checks = _probes(verifier, prompts, {i: checking for i, (_, checking) in parts.items() if checking})
    results = []
    for i, texts in enumerate(proposals):
        found = _unverified(labels[i], texts)
        if i in probes:
            with metering.on_behalf_of(i):
                ranked = choose(translator, verifier, prompts[i], texts, probes[i], search)
                checked = verifier.verify([ranked[0].text], checks[i]) if ranked and i in checks else []
            if ranked:
                judged = (checked or ranked)[0]
                found = replace(
                    found,
                    proposer="search" if searches else "translator",
                    text=ranked[0].text,
                    verdict=verdict_of(judged.agreement),
                    agreement=judged.agreement,
                    divergence=judged.divergence,
                    ending=probes[i].ending,
                    n_probes=len(probes[i].inputs),
                    n_checks=len(checks[i].inputs) if checked else 0,
                    probe_source=source,
                    candidates=tuple(ranked[:_KEPT_CANDIDATES]),
                )
        results.append(found)
        if progress:
            progress()
    return results


def _fitting_translator(prompts: Sequence[SoftPrompt], subject: Subject | None) -> Translator | None:
    """The embedded translator, if it was trained for the subject, or for the one that the prompts name; else None."""
    wanted = subject.fingerprint if subject else next((p.fingerprint for p in prompts if p.fingerprint), None)
    folder = embedded_path("translator")
    if wanted == read_card(folder).fingerprint:
        return Translator.from_pretrained(folder, subject=subject)
    return None


def _prior(prompts: Sequence[SoftPrompt], subject: Subject | None, config: TranslateConfig) -> InstructionPrior:
    """The subject as proposer. Raises UserError where none is known, and without verification, which does the work."""
    if not config.verify:
        raise UserError(
            "No translator fits the soft prompt, and without verification there is nothing to choose a text by.",
            "Give a translator for its subject, or leave verification on.",
        )
    if subject is None:
        name = next((prompt.subject for prompt in prompts if prompt.subject), None)
        if name is None:
            raise UserError(
                "The soft prompt does not say which subject it was tuned on.", "Give its subject, or a translator."
            )
        subject = Subject.from_pretrained(name)
    return InstructionPrior(subject)


def _own_subject(translator: Translator | InstructionPrior, prompts: Sequence[SoftPrompt]) -> Subject:
    """The subject that the translator was trained for, by its recorded name or by that which a prompt has for it."""
    if isinstance(translator, InstructionPrior):
        return translator.subject
    problem = ""
    for name in dict.fromkeys([translator.card.subject, *(prompt.subject for prompt in prompts if prompt.subject)]):
        try:
            found = Subject.from_pretrained(name)
        except UserError as error:
            problem = f" {error.problem}"
            continue
        if found.fingerprint == translator.card.fingerprint:
            return found
    raise UserError(
        f"The subject '{translator.card.subject}' that the translator was trained for was not found.{problem}",
        "Give it as `subject`, or translate without verification: TranslateConfig(verify=False).",
    )


def _probe_inputs(
    subject: Subject,
    guesses: Sequence[Sequence[Prompt]],
    inputs: Sequence[str] | Sequence[Sequence[str]] | None,
    config: TranslateConfig,
) -> tuple[list[list[str]], str]:
    if inputs is None:
        invented = invented_inputs(subject, guesses, config.n_probes + config.n_checks, config.seed)
        return invented, "invented by the subject"
    if inputs and isinstance(inputs[0], str):
        inputs = [inputs] * len(guesses)
    if len(inputs) != len(guesses):
        raise UserError(f"{len(inputs)} lists of inputs for {len(guesses)} soft prompts.", "Give one list each.")
    n = config.n_probes + config.n_checks
    return [list(dict.fromkeys(of_prompt))[:n] for of_prompt in inputs], "examples"


def _divide(inputs: list[str], config: TranslateConfig) -> tuple[list[str], list[str]]:
    """Inputs to choose on, and inputs to judge on; none to judge on where they are too few for both."""
    total = config.n_probes + config.n_checks
    n_checks = min(config.n_checks, len(inputs) * config.n_checks // total)
    if n_checks < MIN_PROBES or len(inputs) - n_checks < MIN_PROBES:
        return inputs[: config.n_probes], []
    n_probes = min(config.n_probes, len(inputs) - n_checks)
    return inputs[:n_probes], inputs[n_probes : n_probes + n_checks]


def _probes(verifier: Verifier, soft_prompts: Sequence[SoftPrompt], inputs: dict[int, list[str]]) -> dict[int, Probes]:
    """The probes of the soft prompts with these numbers, all in shared batches."""
    found = verifier.probe([soft_prompts[i] for i in inputs], list(inputs.values())) if inputs else []
    return dict(zip(inputs, found, strict=True))


def _unverified(label: str, texts: list[str]) -> Translation:
    greedy = texts[0] if texts else ""
    return Translation(label, greedy, greedy)
