"""Translating soft prompts: propose, verify, refine, choose."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from soft2hard.compute import metering
from soft2hard.errors import UserError
from soft2hard.lm.shared_prefix import Runner
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.decoding import propose
from soft2hard.translator.model import Translator
from soft2hard.translator.probing import invented_inputs
from soft2hard.translator.search import choose
from soft2hard.translator.verification import Candidate, Probes, Verdict, Verifier, verdict_of

MIN_PROBES = 4
_KEPT_CANDIDATES = 10
_GUESSES = 4  # candidates under which inputs are invented: the greedy one and the best beams


@dataclass(frozen=True)
class TranslateConfig:
    """How soft prompts are translated."""

    n_candidates: int = 64
    """Candidates asked of the translator for each soft prompt."""
    n_probes: int = 32
    """Inputs on which candidates are compared with the soft prompt, to choose among them."""
    n_checks: int = 16
    """Further inputs on which the chosen text alone is judged: the verdict of inputs that chose it would flatter it.
    Of fewer inputs than are asked for in all, as large a share is kept for it."""
    refine_rounds: int = 2
    """Rounds of local search around the best candidates; it ends early when nothing improves."""
    max_new_tokens: int = 16
    """Longest output the subject may write for a probe input."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_candidates", "n_probes", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}.", "It must be at least 1.")


@dataclass(frozen=True)
class Translation:
    """A soft prompt in words."""

    soft_prompt: str
    """Where the soft prompt came from."""
    text: str
    """The candidate with the highest posterior, see `search` (the greedy one where nothing was verified)."""
    greedy: str
    """What the translator writes without verification."""
    verdict: Verdict
    agreement: float | None
    """Share of inputs on which text and soft prompt make the subject write the same: of the check inputs, or of the
    probe inputs where none were left to check on."""
    divergence: float | None
    """Mean KL(soft || hard) over output positions of the same inputs, nats."""
    n_probes: int
    """Inputs that chose the text."""
    n_checks: int
    """Other inputs that the agreement and the verdict were taken on; 0 where they come from the probe inputs."""
    probe_source: str
    """'examples', 'invented by the subject' or 'none'."""
    candidates: tuple[Candidate, ...]
    """The best candidates by their posterior, with their faithfulness on the probe inputs."""

    def to_json(self) -> dict:
        """As plain JSON values."""
        return asdict(self)


def translate(
    soft_prompts: Sequence[SoftPrompt],
    translator: Translator,
    subject: Subject | None,
    config: TranslateConfig = TranslateConfig(),
    *,
    inputs: Sequence[str] | Sequence[Sequence[str]] | None = None,
    names: Sequence[str] | None = None,
    runner: Runner | None = None,
    progress: Callable[[], None] | None = None,
) -> list[Translation]:
    """Translate soft prompts, verified on `subject` (None: not verified, verdict 'unverified').

    `inputs` are probe inputs, one list for all soft prompts or one list each; without, the subject invents
    them under the first candidates. A soft prompt's translation is the same whatever the others are. What goes through
    the models is counted on behalf of each soft prompt, by its place, but for what they make of their inputs together.
    Raises UserError for soft prompts of another subject.
    """
    for soft_prompt in soft_prompts:
        translator.check(soft_prompt)
    if subject is not None:
        translator.bind(subject)
    labels = (
        list(names)
        if names
        else [p.provenance.get("source", f"soft prompt {i + 1}") for i, p in enumerate(soft_prompts)]
    )
    proposals = propose(translator, soft_prompts, config.n_candidates, seed=config.seed)
    if subject is None:
        return [_unverified(label, texts) for label, texts in zip(labels, proposals, strict=True)]
    verifier = Verifier(subject, config.max_new_tokens)
    guesses = [texts[:_GUESSES] or [prompt] for texts, prompt in zip(proposals, soft_prompts, strict=True)]
    probe_inputs, source = _probe_inputs(subject, guesses, inputs, config)
    enough = [i for i, of_prompt in enumerate(probe_inputs) if len(of_prompt) >= min(MIN_PROBES, config.n_probes)]
    parts = {i: _divide(probe_inputs[i], config) for i in enough}
    probes = _probes(verifier, soft_prompts, {i: choosing for i, (choosing, _) in parts.items()})
    checks = _probes(verifier, soft_prompts, {i: checking for i, (_, checking) in parts.items() if checking})
    results = []
    for i, texts in enumerate(proposals):
        if i in probes:
            with metering.on_behalf_of(i):
                ranked = choose(translator, verifier, soft_prompts[i], texts, probes[i], config.refine_rounds)
                check = _checked(verifier, ranked, checks.get(i))
            results.append(_verified(labels[i], texts, ranked, check, (probes[i], checks.get(i)), source))
        else:
            results.append(_unverified(labels[i], texts))
        if progress:
            progress()
    return results


def _probe_inputs(subject, guesses, inputs, config: TranslateConfig) -> tuple[list[list[str]], str]:
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
    """Inputs to choose on and inputs to judge on; all are to choose on where they are too few for both."""
    total = config.n_probes + config.n_checks
    n_checks = min(config.n_checks, len(inputs) * config.n_checks // total)
    if n_checks < MIN_PROBES or len(inputs) - n_checks < MIN_PROBES:
        return inputs[: config.n_probes], []
    n_probes = min(config.n_probes, len(inputs) - n_checks)
    return inputs[:n_probes], inputs[n_probes : n_probes + n_checks]


def _probes(verifier: Verifier, soft_prompts: Sequence[SoftPrompt], inputs: dict[int, list[str]]) -> dict[int, Probes]:
    """What the soft prompts of these numbers make of their inputs, all in shared batches."""
    found = verifier.probe([soft_prompts[i] for i in inputs], list(inputs.values())) if inputs else []
    return dict(zip(inputs, found, strict=True))


def _checked(verifier: Verifier, ranked: list[Candidate], checks: Probes | None) -> Candidate | None:
    """The chosen candidate on inputs that did not choose it, where there are any."""
    if not ranked or checks is None:
        return None
    (check,) = verifier.verify([ranked[0].text], checks) or (None,)
    return check


def _verified(
    label: str,
    texts: list[str],
    ranked: list[Candidate],
    check: Candidate | None,
    probes: tuple[Probes, Probes | None],
    source: str,
) -> Translation:
    if not ranked:
        return _unverified(label, texts)
    judged = check or ranked[0]
    return Translation(
        soft_prompt=label,
        text=ranked[0].text,
        greedy=texts[0],
        verdict=verdict_of(judged.agreement),
        agreement=judged.agreement,
        divergence=judged.divergence,
        n_probes=len(probes[0].inputs),
        n_checks=len(probes[1].inputs) if check and probes[1] else 0,
        probe_source=source,
        candidates=tuple(ranked[:_KEPT_CANDIDATES]),
    )


def _unverified(label: str, texts: list[str]) -> Translation:
    text = texts[0] if texts else ""
    return Translation(label, text, text, "unverified", None, None, 0, 0, "none", ())
