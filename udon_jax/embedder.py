"""A trained model put to use: images in, embeddings out.

Shape legend: n images, d embedding dim.
"""

from collections.abc import Iterable
import dataclasses
import os
from typing import Any

from etils import epath
from jaxtyping import Float
import numpy as np

from udon_jax import errors, evaluator, trained
from udon_jax.data import files


@dataclasses.dataclass(frozen=True)
class Embedder:
  """Embeds images; made by `load`.

  Attributes:
    crop_size: side of the images that the model sees, in pixels.
    batch_size: images embedded at a time.
    num_threads: threads that read images.
  """

  crop_size: int
  batch_size: int
  num_threads: int
  _scorer: evaluator.Evaluator
  _params: Any
  _name: str
  _domain: str

  def embed(self, images: Iterable[files.Image]) -> Float[np.ndarray, "n d"]:
    """Returns an embedding for every image, float32, of unit length.

    Args:
      images: paths, bytes of files, uint8 pixels [height, width, 3], or PIL
        images. The centre of each is seen, at `crop_size`.

    Raises:
      UserError: an image cannot be read.
    """
    images = list(images)
    rows, unreadable = self.embed_readable(images)
    if unreadable:
      first = images[unreadable[0]]
      name = first if isinstance(first, str | os.PathLike) else "an image"
      raise errors.UserError(
        f"{name} cannot be read as an image ({len(unreadable)} of "
        f"{len(images)} cannot); replace or leave it out"
      )
    return rows

  def embed_readable(
    self, images: Iterable[files.Image]
  ) -> tuple[Float[np.ndarray, "n d"], list[int]]:
    """Returns embeddings of the images that can be read, and who cannot.

    Args:
      images: as for `embed`.

    Returns:
      The embeddings in order, without the unreadable images, and the positions
      of these.
    """
    unreadable: list[int] = []
    count = 0

    def batches():
      nonlocal count
      rows = []
      found = files.read(
        images, crop_size=self.crop_size, num_threads=self.num_threads
      )
      for position, pixels in enumerate(found):
        if pixels is None:
          unreadable.append(position)
          continue
        rows.append(pixels)
        count += 1
        if len(rows) == self.batch_size:
          yield np.stack(rows)
          rows = []
      if rows or not count:
        yield files.pad(rows, self.batch_size, self.crop_size)

    embedded = self._scorer.embed_batches(
      self._params, batches(), domain=self._domain, names=[self._name]
    )
    return embedded[self._name][:count], unreadable


def load(
  workdir: epath.PathLike,
  *,
  step: int | None = None,
  embedding: str = "student",
  domain: str | None = None,
) -> Embedder:
  """Returns the model of a run.

  Example: `udon_jax.load("runs/quickstart").embed(["a.jpg", "b.png"])`.

  Args:
    workdir: the run's folder.
    step: of the checkpoint; the best one if None.
    embedding: "student", the universal one; "teacher" or "backbone".
    domain: whose teacher to ask, for "teacher".

  Raises:
    UserError: no such checkpoint, embedding or domain.
  """
  evaluator.check_embeddings([embedding], key="--embedding")
  found = trained.load(workdir, step=step)
  config = found.config
  if embedding == "teacher" and domain not in config.domains:
    raise errors.UserError(
      f"--domain={domain}: the teacher of one of {', '.join(config.domains)} "
      "must be named"
    )
  return Embedder(
    crop_size=config.data.crop_size,
    batch_size=config.eval.batch_size,
    num_threads=trained.num_threads(config),
    _scorer=found.evaluator(),
    _params=found.params,
    _name=embedding,
    _domain=domain or config.domains[0],
  )
