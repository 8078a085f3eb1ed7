"""Models of several endpoints, from a YAML file."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from soft2hard.api.requests import ApiModel, Layout
from soft2hard.errors import UserError
from soft2hard.storage.yaml_files import read_yaml


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    base_url: str = ApiModel.base_url
    layout: Layout = ApiModel.layout
    key_env: str = ApiModel.key_env
    parameters: dict[str, Any] = {}
    label: str | None = None


def read_models(path: Path) -> list[ApiModel]:
    """The models of a file: a list of mappings with the fields of `ApiModel`.

    Raises UserError where it cannot be read, or a field is missing, unknown or of the wrong kind.
    """
    try:
        models = TypeAdapter(list[_Model]).validate_python(read_yaml(path, "a list of models"))
    except ValidationError as error:
        # Without the values: somebody may have put a key there.
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors())
        remedy = "Write a list of models, each with a name; keys go in the environment."
        raise UserError(f"{path}: {problems}.", remedy) from None
    if not models:
        raise UserError(f"{path} has no models.", "Write a list of models, each with a name.")
    return [ApiModel(**model.model_dump()) for model in models]
