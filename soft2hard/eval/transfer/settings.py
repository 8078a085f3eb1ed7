"""What API models are asked with, and how requests are sent."""

from dataclasses import replace

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from soft2hard.errors import UserError
from soft2hard.prompts.template import Template, read_template
from soft2hard.settings import settings


@settings
class TransferChoices:
    """Which prompts and reference points are asked, how often, and at what cost."""

    methods: tuple[str, ...] = ()
    """A method of the prompts to ask with; all of them if not given."""
    n_examples: PositiveInt | None = None
    """Test examples of each task at most; all if not given."""
    shots: NonNegativeInt = 8
    """Examples shown by few-shot."""
    max_tokens: PositiveInt | None = None
    """Tokens of an answer at most. If not given, 64, or what a task's longest output may take where that is more."""
    repeats: PositiveInt = 1
    """Askings of each question, each with a seed of its own."""
    max_cost: NonNegativeFloat | None = None
    """US dollars that the ledger's requests may cost in all; sending stops before they might be passed."""
    concurrency: PositiveInt = 32
    """Requests out at once, to each model, at most."""
    batch: bool = False
    """Send through the Batch API: cheaper, within a day; resumes where it was killed."""
    template: str | None = None
    """Text around input and output: 'plain', a file, or a string such as 'Tweet text : {input} Label : '
    (docs/templates.md); a chat turn is the API's own (`--layout chat`). If not given, that of the run that the prompts
    come from, else 'plain'."""
    poll_seconds: PositiveFloat = 30.0
    """Seconds between looks at a batch."""

    @property
    def laid_out(self) -> Template:
        """The template. Raises UserError for one that is none, and for 'chat'."""
        found = read_template(self.template or "plain").template
        if found is None:
            raise UserError("An API has a chat template of its own.", "Leave --template out; --layout chat uses it.")
        return found

    def under(self, made: str | None) -> "TransferChoices":
        """These choices for prompts of a run under the template `made`, which is theirs where they name none.

        A chat turn is the API's own, so a run under 'chat' is asked with the plain text around the input.
        Raises UserError where they name another.
        """
        if made is None or read_template(made).template is None:
            return self
        if self.template is not None and read_template(self.template) != read_template(made):
            raise UserError(
                f"The run's prompts were made under the template {made!r}, not {self.template!r}.",
                "Leave --template out.",
            )
        return replace(self, template=made)
