"""Files of a folder of Hugging Face, beside the arrays themselves."""

import dataclasses
import json
import re
from typing import Any

from etils import epath

from udon_jax import errors
from udon_jax.models import architecture

_ONE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_LONGEST_JSON = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Folder:
  """A folder.

  Attributes:
    path: of the folder.
    key: what the user set it with, for messages.
  """

  path: epath.Path
  key: str

  def error(self, what: str) -> errors.UserError:
    """Returns the error that something is wrong with the folder."""
    return errors.UserError(f"{self.key}: {self.path} {what}")

  def read_json(self, name: str) -> dict[str, Any]:
    """Returns what a file of the folder says.

    Raises:
      UserError: there is no such file, or it holds no JSON object.
    """
    path = self.path / name
    try:
      if path.stat().length > _LONGEST_JSON:
        raise ValueError("it is too long")
      values = json.loads(path.read_text())
    except OSError as error:
      raise self.error(
        f"has no readable {name} ({type(error).__name__}); give the folder of "
        f"a model of Hugging Face, downloaded, with config.json and {_ONE}"
      ) from error
    except (ValueError, RecursionError) as error:
      raise self.error(
        f"has a {name} that is no JSON; download it again"
      ) from error
    if not isinstance(values, dict):
      raise self.error(f"has a {name} that is no config; download it again")
    return values

  def files(self) -> list[epath.Path]:
    """Returns the safetensors files of the model.

    Raises:
      UserError: there are none, or the index names files outside.
    """
    if (self.path / _ONE).exists():
      return [self.path / _ONE]
    if not (self.path / _INDEX).exists():
      pickles = sorted(p.name for p in self.path.glob("*.bin"))
      found = f"only {pickles[0]}, which can run code" if pickles else "none"
      raise self.error(
        f"must hold {_ONE}, and holds {found}; convert it with transformers: "
        "AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER)"
      )
    names = self.read_json(_INDEX).get("weight_map")
    if not isinstance(names, dict) or not names:
      raise self.error(f"has a {_INDEX} without weight_map; download it again")
    parts = sorted({str(name) for name in names.values()})
    for part in parts:
      if not re.fullmatch(r"[\w.-]+\.safetensors", part, re.ASCII):
        raise self.error(
          f"has a {_INDEX} that names {part!r}, no file of the folder; "
          "download it again"
        )
      if not (self.path / part).exists():
        raise self.error(f"lacks {part}, which {_INDEX} names; download it too")
    return [self.path / part for part in parts]

  def _image_settings(self) -> dict[str, Any]:
    """Returns what the folder says of the images; {} if nothing."""
    if (self.path / "preprocessor_config.json").exists():
      return self.read_json("preprocessor_config.json")
    if (self.path / "processor_config.json").exists():
      whole = self.read_json("processor_config.json")
      inner = whole.get("image_processor")
      return inner if isinstance(inner, dict) else {}
    return {}

  def image_size(self) -> int | None:
    """Returns the side of the images that the model is used with, if told."""
    settings = self._image_settings()
    found = settings.get("crop_size") or settings.get("size")
    if isinstance(found, dict):
      found = found.get("height", found.get("shortest_edge"))
    return found if type(found) is int and found > 0 else None

  def pixels(
    self, family: architecture.Family
  ) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of the images, of values in 0..1.

    Args:
      family: whose values count where the folder tells none.

    Raises:
      UserError: the folder's are no numbers.
    """
    settings = self._image_settings()
    if settings.get("do_normalize") is False:
      return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    result = []
    for key, default in (
      ("image_mean", family.pixel_mean),
      ("image_std", family.pixel_std),
    ):
      values = settings.get(key) or default
      if (
        not isinstance(values, list | tuple)
        or len(values) != 3
        or not all(isinstance(x, int | float) for x in values)
        or (key == "image_std" and min(values) <= 0)
      ):
        raise self.error(
          f"has a preprocessor_config.json with {key}={values!r}; it must be "
          "three numbers"
        )
      result.append(tuple(map(float, values)))
    return result[0], result[1]
