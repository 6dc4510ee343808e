"""Files that describe domains: YAML or JSON, a mapping of their names."""

from collections.abc import Mapping, Sequence
import json
from typing import Any

from etils import epath
import yaml

from udon_jax import errors, own_domains

_MERGE = "tag:yaml.org,2002:merge"  # of keys that may be there twice


def read(file: epath.PathLike, *, key: str) -> dict[str, dict[str, Any]]:
  """Returns the descriptions of a YAML or JSON file, by name.

  Paths in it are relative to its folder.

  Args:
    file: the file.
    key: what the user named it with, for the message.

  Raises:
    UserError: it cannot be read or a description is wrong.
  """
  path = epath.Path(file).expanduser()
  try:
    found = _parse(path.read_text(), is_json=path.suffix == ".json")
  except OSError as error:
    raise errors.UserError(
      f"{key}={file} cannot be read ({error.strerror or error}); correct the"
      " path"
    ) from None
  except (ValueError, yaml.YAMLError, RecursionError) as error:
    message = " ".join(str(error).split())
    raise errors.UserError(
      f"{key}={file} is neither YAML nor JSON ({message}); correct it"
    ) from None
  if not isinstance(found, Mapping):
    raise errors.UserError(
      f"{key}={file} holds no descriptions; expected a mapping of names, as"
      ' {"shoes": {"folder": ...}}'
    )
  result = {}
  for name, described in found.items():
    where = f"{path}: {name}"
    own_domains.check_name(name, where)
    own_domains.parse(name, described, key=where)
    result[name] = _beside(path.parent, described)
  return result


def _parse(text: str, *, is_json: bool) -> Any:
  """Returns plain values; raises for a key that is there twice."""
  if is_json:
    return json.loads(text, object_pairs_hook=_once)
  return yaml.load(text, _Loader)


def _once(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
  names = [name for name, _ in pairs]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(f"{name!r} is there twice")
  return dict(pairs)


class _Loader(yaml.SafeLoader):
  """Reads plain values from mappings whose keys are there once each."""

  def construct_mapping(self, node: Any, deep: bool = False) -> Any:
    """Returns a mapping."""
    keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    names = [self.construct_object(k) for k in keys if k.tag != _MERGE]
    _once([(name, None) for name in names])
    return super().construct_mapping(node, deep=deep)


def _beside(folder: epath.Path, described: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a description whose paths are relative to a folder, as it is."""
  result = dict(described)
  for key in own_domains.PATHS:
    if result.get(key) is not None:
      result[key] = str(folder / epath.Path(result[key]).expanduser())
  tfds = result.get("tfds")
  if tfds is not None and (folder / epath.Path(tfds).expanduser()).is_dir():
    result["tfds"] = str(folder / epath.Path(tfds).expanduser())
  return result
