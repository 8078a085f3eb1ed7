"""soft2hard: tuned soft prompts into faithful text prompts.

    >>> from soft2hard import SoftPrompt, Subject, Translator, translate

Names are imported when first used, so that `soft2hard --help` need not wait for PyTorch.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

_HOME = {
    "Example": "soft2hard.data_gen.tasks",
    "SoftPrompt": "soft2hard.prompts.soft_prompt",
    "Subject": "soft2hard.lm.subject",
    "Task": "soft2hard.data_gen.tasks",
    "Tuner": "soft2hard.data_gen.tuning.tuner",
    "Tuning": "soft2hard.data_gen.tuning",
    "Translator": "soft2hard.translator.model",
    "TranslateConfig": "soft2hard.translator.settings",
    "Translation": "soft2hard.translator.translate",
    "translate": "soft2hard.translator.translate",
    "UserError": "soft2hard.errors",
}

__all__ = [
    "Example",
    "SoftPrompt",
    "Subject",
    "Task",
    "TranslateConfig",
    "Translation",
    "Translator",
    "Tuner",
    "Tuning",
    "UserError",
    "translate",
]

try:
    __version__ = version("soft2hard")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'soft2hard' has no attribute '{name}'")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
