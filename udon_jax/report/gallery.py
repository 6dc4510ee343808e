"""The pictures of a report: queries of the final test and what they found."""

import base64
from collections.abc import Mapping, Sequence
import dataclasses
import functools
import io
import pathlib
import types
from typing import Any

from etils import epath

from udon_jax import errors, own_domains
from udon_jax.retrieval import examples

THUMBNAIL_SIZE = 104  # of the longer side, in pixels
_QUALITY = 80
# {EXIF orientation: Pillow's name of what undoes it}.
_METHODS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
_TITLES = {
  examples.RANDOM: (
    "Drawn at random",
    "Queries of every domain, drawn with the run's seed.",
  ),
  examples.WORST: (
    "Worst",
    "Wrong answers, domain by domain in turn.",
  ),
  examples.CROSS_DOMAIN: (
    "Across domains",
    "The nearest neighbour comes from another domain; most similar first.",
  ),
}


@dataclasses.dataclass(frozen=True)
class Image:
  """One picture of a gallery.

  Attributes:
    domain: its domain.
    name: of its file.
    labels: its class ids, as text.
    source: a data URI; None where the picture cannot be read.
    score: similarity to the query; None for a query.
    hit: whether it is relevant; None for a query.
  """

  domain: str
  name: str
  labels: str
  source: str | None
  score: float | None = None
  hit: bool | None = None

  @property
  def alt(self) -> str:
    """Returns what is seen, in words."""
    if self.hit is None:
      return f"Query {self.name}: {self.domain}, class {self.labels}"
    verdict = "hit" if self.hit else "miss"
    return (
      f"{verdict.capitalize()} {self.name}: {self.domain}, class "
      f"{self.labels}, score {self.score:.2f}"
    )


@dataclasses.dataclass(frozen=True)
class Example:
  """A query and its neighbours."""

  query: Image
  neighbours: Sequence[Image]


@dataclasses.dataclass(frozen=True)
class Group:
  """Examples under one title.

  Attributes:
    name: in examples.json.
    title: for the page.
    text: what they are.
    parts: {why they were chosen: examples}.
  """

  name: str
  title: str
  text: str
  parts: Mapping[str, Sequence[Example]]


@dataclasses.dataclass(frozen=True)
class Gallery:
  """All examples of a run.

  Attributes:
    groups: of examples.
    step: of the checkpoint that was tested.
    problem: why pictures are missing; None if none is.
  """

  groups: Sequence[Group]
  step: int
  problem: str | None


class Pictures:
  """Thumbnails of the images of evaluation splits, from their records."""

  def __init__(
    self,
    data_dir: epath.PathLike | None,
    *,
    info_files: epath.PathLike | None = None,
    own: Mapping[str, Any] = types.MappingProxyType({}),
    exif: bool = False,
  ):
    """Remembers where the data lies.

    Args:
      data_dir: a data directory; a missing one is told by `problem`.
      info_files: folder of the info files, if it lies elsewhere.
      own: `config.own`, which may tell other places of domains.
      exif: whether images are turned as their EXIF orientation tells.
    """
    self._data_dir, self._info_files = data_dir, info_files
    self._own, self._exif = own, exif
    self.problem: str | None = None

  def read(self, image: Mapping[str, Any]) -> str | None:
    """Returns an image as a data URI, None where it cannot be read."""
    try:
      return self._read(
        image["domain"], image["split"], image["position"], image["key"]
      )
    except ModuleNotFoundError as error:
      problem = f"{error.name} is not installed; pip install 'udon_jax[data]'"
    except (errors.UserError, OSError) as error:
      problem = " ".join(str(error).split())
    self.problem = self.problem or problem
    return None

  @functools.cache  # noqa: B019 (lives as long as one report is made)
  def _read(self, domain: str, split: str, position: int, key: str) -> str:
    from udon_jax.data import examples as data_examples
    from udon_jax.data import exif, storing

    # Reading an info file takes seconds where it is large.
    for in_order in (False, True):
      lists = self._place(domain).info_file(domain, split)
      if in_order and not lists.exists():
        break
      files = self._open(domain, split, in_order=in_order)
      if position >= len(files):
        raise errors.UserError(
          f"{files.files[0].parent} holds {len(files)} records, and not image "
          f"{position} of the test"
        )
      data = files.read(position)
      if data_examples.key(data) == key:
        content = storing.to_file(data_examples.image_bytes(data), files)
        return thumbnail(
          content, orientation=exif.orientation(content) if self._exif else 1
        )
    raise errors.UserError(
      f"{files.files[0].parent}: record {position} is not the image {key!r} of "
      "the test"
    )

  def _place(self, domain: str):
    from udon_jax.data import layout, places

    key = "config.info_files_dir"
    if domain not in self._own:
      return layout.find(
        self._data_dir, info_files=self._info_files, info_files_key=key
      )
    (found,) = places.find(
      self._data_dir,
      domains=[domain],
      own=own_domains.parse_all({domain: self._own[domain]}),
      info_files=self._info_files,
      info_files_key=key,
    )
    return found.layout

  @functools.cache  # noqa: B019
  def _open(self, domain: str, split: str, *, in_order: bool):
    """Opens records as they lie, or in the order of their info file."""
    from udon_jax.data import metadata, records, splits

    place = self._place(domain)
    if in_order:
      return splits.open_eval(place, domain, split)[0]
    folder = place.records(domain, split)
    files = records.RecordFiles(
      records.find_files(
        folder,
        base=records.file_name(domain, split),
        cure=f"run {place.prepare(domain)}",
      )
    )
    files.hold(metadata.store_of(metadata.read(folder)), split=split)
    return files


def thumbnail(content: bytes, *, orientation: int = 1) -> str:
  """Returns a small JPEG of an image file, as a data URI.

  Args:
    content: the file.
    orientation: by which it is turned, see `data.exif`.

  Raises:
    OSError: it is no image that Pillow reads.
  """
  from PIL import Image as pillow

  with pillow.open(io.BytesIO(content)) as image:
    image.draft("RGB", (2 * THUMBNAIL_SIZE, 2 * THUMBNAIL_SIZE))
    small = image.convert("RGB")
    is_turned = image.format == "TIFF"  # by Pillow
  small.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
  if orientation != 1 and not is_turned:
    small = small.transpose(pillow.Transpose(_METHODS[orientation]))
  file = io.BytesIO()
  small.save(file, "JPEG", quality=_QUALITY, optimize=True)
  return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def read(
  chosen: Mapping[str, Any],
  data_dir: epath.PathLike | None,
  *,
  info_files: epath.PathLike | None = None,
  own: Mapping[str, Any] = types.MappingProxyType({}),
  exif: bool = False,
) -> Gallery:
  """Returns the galleries of a run.

  Args:
    chosen: the contents of examples.json.
    data_dir: where the data of the run lies.
    info_files: folder of its info files, if it lies elsewhere.
    own: `config.own`, which may tell other places of domains.
    exif: whether the run turned images as their EXIF orientation tells.

  Raises:
    UserError: `chosen` has another form.
  """
  pictures = Pictures(data_dir, info_files=info_files, own=own, exif=exif)
  try:
    groups = [
      Group(name, *_TITLES[name], parts=_parts(listed, pictures))
      for name, listed in chosen["groups"].items()
    ]
    return Gallery(groups, int(chosen["step"]), pictures.problem)
  except (KeyError, TypeError, AttributeError) as error:
    raise errors.UserError(
      f"examples.json is not what a run writes ({error!r}); delete it"
    ) from error


def _parts(
  listed: Sequence[Mapping[str, Any]], pictures: Pictures
) -> dict[str, list[Example]]:
  """Returns examples by the reason of their choice, "" where there is none."""
  parts: dict[str, list[Example]] = {}
  for example in listed:
    parts.setdefault(example.get("reason", ""), []).append(
      Example(
        query=_image(example["query"], pictures),
        neighbours=[_image(image, pictures) for image in example["neighbours"]],
      )
    )
  return parts


def _image(image: Mapping[str, Any], pictures: Pictures) -> Image:
  return Image(
    domain=image["domain"],
    name=pathlib.PurePosixPath(image["key"]).name,
    labels=", ".join(map(str, image["labels"])),
    source=pictures.read(image),
    score=image.get("score"),
    hit=image.get("hit"),
  )
