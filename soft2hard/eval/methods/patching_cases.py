"""Which cases have a soft prompt that a subject can read."""

from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Case
from soft2hard.lm.subject import Subject


def soft_prompt_problem(case: Case, subject: Subject) -> str | None:
    """Why the case's soft prompt cannot be read; None where it can."""
    if case.soft_prompt is None:
        return "the case has no soft prompt"
    try:
        subject.check(case.soft_prompt)
    except UserError as error:
        return str(error)
    return None
