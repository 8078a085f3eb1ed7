"""Which translator and which subject belong to soft prompts, where they are not given."""

import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from soft2hard.errors import UserError
from soft2hard.lm.settings import Loading
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.storage.hub import name_and_revision
from soft2hard.storage.names import SMOLLM2, shipped_translators
from soft2hard.translator.model import Translator, is_rounding, read_rows
from soft2hard.translator.settings import ProposerName, TranslateConfig, read_card


def models_for(
    prompts: Sequence[SoftPrompt], translator: Translator | None, subject: Subject | None, config: TranslateConfig
) -> tuple[Translator | None, Subject | None]:
    """The translator and the subject of the prompts, found where they are not given; see `translate`."""
    reads = not config.propose or "translator" in config.propose
    if reads and translator is None:
        translator = _fitting_translator(prompts, subject, by_width=not config.verify)
    translator = translator if reads else None
    if translator is not None and subject is not None:
        translator.bind(subject)  # before its soft prompts are looked at: they may be of another rounding
    for prompt in prompts:
        if subject is not None:  # whoever named the wrong one has the translator for that
            subject.check(prompt)
        if translator is not None and translator.home is None:
            translator.check(prompt)
    if config.verify:
        if subject is None:
            subject = _own_subject(None if translator is None or translator.home else translator, prompts)
            if reads and translator is None:
                translator = _fitting_translator(prompts, subject, by_width=False)
        if reads and translator is None and prompts:
            translator = of_any_subject(subject)
    if "translator" in config.propose and translator is None and prompts:
        raise UserError(
            "A translator is to propose, and none was given or fits the soft prompt's subject.",
            "Give one for its subject, or leave translator out of what proposes.",
        )
    if translator is not None and translator.home is not None and not config.verify:
        raise UserError(
            f"Of soft prompts of another subject, the translator '{translator.name}' reads what they do.",
            "Leave verification on, so that the subject shows it.",
        )
    return translator, subject


def _fitting_translator(prompts: Sequence[SoftPrompt], subject: Subject | None, *, by_width: bool) -> Translator | None:
    """The translator of the package that was trained for the subject, or another rounding of its weights, or for the
    one that the prompts name; where they have no fingerprint and no subject is given, `by_width` of their vectors and
    the name of their subject, if they have one. None where there is none."""
    wanted = subject.fingerprint if subject else next((p.fingerprint for p in prompts if p.fingerprint), None)
    for folder in shipped_translators():
        card = read_card(folder)
        fits = wanted == card.fingerprint
        if by_width and wanted is None:
            fits = all(p.d_model == card.d_subject and _is_of(p.subject or card.subject, card.subject) for p in prompts)
        if fits or (subject and is_rounding(read_rows(folder), subject)):
            return Translator.from_pretrained(folder, subject=subject)
    return None


def of_any_subject(subject: Subject) -> Translator | None:
    """SmolLM2's, which reads what soft prompts of any subject do; None, with a remark, where it cannot be fetched."""
    found = _smollm2s(subject.loading.dtype, subject.loading.device)
    if isinstance(found, UserError):
        others = " and ".join(without_translator(subject, has_describer=False, has_prior=False))
        instead = f" ({others} propose instead)" if others else ""
        print(f"{found.problem} So no translator reads what the soft prompt does{instead}.", file=sys.stderr)
        return None
    print(
        f"No translator was trained for '{subject.name}': that of SmolLM2 reads what its soft prompts do.",
        file=sys.stderr,
    )
    return found


@lru_cache(maxsize=1)
def _smollm2s(dtype: str, device: str) -> Translator | UserError:
    """It, or why not: nobody waits twice for it in one process, or for a network that is not there."""
    try:
        return Translator.abroad(SMOLLM2, Loading(dtype=dtype, device=device))
    except UserError as error:
        return error


def _is_of(name: str, family: str) -> bool:
    """Whether a model's name or path begins as another's, but for its owner, case and punctuation."""
    names = (Path(name_and_revision(one)[0]).name.casefold() for one in (name, family))
    plain = ["".join(filter(str.isalnum, one)) for one in names]
    return plain[0].startswith(plain[1])


def _own_subject(translator: Translator | None, prompts: Sequence[SoftPrompt]) -> Subject:
    """The subject that the translator was trained for, by its recorded name or by that which a prompt has for it."""
    named = [prompt.subject for prompt in prompts if prompt.subject]
    if translator is None:
        if not named:
            raise UserError(
                "The soft prompt does not say which subject it was tuned on, and no translator was given.",
                "Give its subject.",
            )
        return Subject.from_pretrained(named[0])
    problem = ""
    for name in dict.fromkeys([translator.card.subject, *named]):
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


def without_translator(subject: Subject, has_describer: bool, has_prior: bool) -> tuple[ProposerName, ...]:
    """What proposes where no translator does: a subject that continues no text neither describes nor is a prior."""
    describes, searches = subject.continues_text or has_describer, subject.continues_text or has_prior
    asked: dict[ProposerName, bool] = {"describe": describes, "search": searches}
    return tuple(name for name, is_able in asked.items() if is_able)
