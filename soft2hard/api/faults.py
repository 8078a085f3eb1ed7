"""Faults of a run, in words for whoever started it."""

from soft2hard.api.answers import Fault
from soft2hard.api.requests import ApiModel
from soft2hard.errors import UserError

_KEPT = "run the same command again: what is answered is kept and not paid for twice."


def as_user_error(fault: Fault, model: ApiModel, prompt: str = "") -> UserError:
    """What a fault means for the run and what to do; `prompt` is the id of the one it met, where it matters."""
    said = f" ({fault.detail.rstrip('.')})"
    which = f"the prompt '{prompt}'" if prompt else "a prompt"
    problem, remedy = {
        "unreachable": (
            f"Cannot reach {model.base_url} for the model '{model.title}'{said}.",
            "Check the address, and that the server is running.",
        ),
        "auth": (
            f"{model.base_url} refuses the key in {model.key_env} for the model '{model.title}'{said}.",
            f"Set {model.key_env} to a valid key.",
        ),
        "unknown_model": (
            f"{model.base_url} knows no model '{model.name}', or takes no requests of this kind{said}.",
            "Check the model's name, the layout (chat or completion) and the base URL.",
        ),
        "quota": (
            f"The account behind {model.key_env} has no quota left for '{model.title}'{said}.",
            f"Raise its limit and {_KEPT}",
        ),
        "too_long": (
            f"{which[0].upper()}{which[1:]} is too long for the context of '{model.title}'{said}.",
            "Shorten it, show fewer examples (--shots), or leave the model out.",
        ),
        "rejected": (
            f"The model '{model.title}' rejects the request of {which}{said}.",
            "Set the parameters it wants with --parameter; name=null leaves a default out.",
        ),
    }.get(
        fault.kind,
        (
            f"The model '{model.title}' at {model.base_url} gives no answer: {fault.kind.replace('_', ' ')}{said}.",
            f"Later, {_KEPT}",
        ),
    )
    return UserError(problem, remedy)
