"""A trained model put to use: images in, embeddings out.

Shape legend: n images, b images of a batch, d embedding dim.
"""

import collections
from collections.abc import Iterable, Iterator
import dataclasses
import functools
import os

from etils import epath
from jaxtyping import Float
import numpy as np

from udon_jax import errors, evaluator, semantics, trained
from udon_jax.data import files, preprocess


@dataclasses.dataclass(frozen=True)
class Embedder:
  """Embeds images; made by `load`.

  Attributes:
    step: of the checkpoint.
    embedding: "student", "teacher" or "backbone".
    domain: whose teacher is asked; None unless it is a teacher.
    crop_size: side of the images that the model sees, in pixels.
    round_pixels: whether it sees uint8 pixels, or float32 and not rounded.
    exif: whether images are turned as their EXIF orientation tells.
    batch_size: images embedded at a time.
    num_threads: threads that read images.
  """

  step: int
  embedding: str
  domain: str | None
  crop_size: int
  round_pixels: bool
  exif: bool
  batch_size: int
  num_threads: int
  _trained: trained.Trained
  _scorer: evaluator.Evaluator

  @functools.cached_property
  def dim(self) -> int:
    """Returns the length of an embedding."""
    size = self.crop_size
    kind = preprocess.pixel_type(round_pixels=self.round_pixels)
    images = np.zeros((self.batch_size, size, size, 3), kind)
    (rows,) = self._embed([images])
    return rows.shape[1]

  @functools.cached_property
  def fingerprint(self) -> str:
    """Returns a hash of the model and its weights."""
    return self._trained.fingerprint()

  def embed(self, images: Iterable[files.Image]) -> Float[np.ndarray, "n d"]:
    """Returns an embedding for every image, float32, of unit length.

    Args:
      images: paths, bytes of files, uint8 pixels [height, width, 3], or PIL
        images; an iterator is read a little ahead. The centre of each is seen,
        at `crop_size`.

    Raises:
      UserError: an image cannot be read; `embed_readable` goes on without it.
    """
    parts = []
    for rows, batch in self.stream(self._read(images)):
      for failure in batch.failures.values():
        raise errors.UserError(
          f"{failure.name} cannot be read as an image ({failure.reason}); "
          "replace it or leave it out"
        )
      parts.append(rows)
    return np.concatenate(parts)

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
    parts, unreadable, position = [], [], 0
    for rows, batch in self.stream(self._read(images)):
      parts.append(np.delete(rows, list(batch.failures), axis=0))
      unreadable += [position + row for row in batch.failures]
      position += batch.num_images
    return np.concatenate(parts), unreadable

  def stream(
    self, batches: Iterable[files.Batch]
  ) -> Iterator[tuple[Float[np.ndarray, "b d"], files.Batch]]:
    """Yields the embeddings of batches, float32, and the batches.

    An embedding depends on the image's row in its batch by no more than
    rounding. Rows of unreadable images mean nothing; those beyond `num_images`
    are cut off.
    """
    waiting: collections.deque[files.Batch] = collections.deque()

    def images():
      for batch in batches:
        waiting.append(batch)
        yield batch.images

    for rows in self._embed(images()):
      batch = waiting.popleft()
      yield rows[: batch.num_images], batch

  def _read(self, images):
    if isinstance(images, str | bytes | os.PathLike):
      raise errors.UserError("images are given in a list; write [image]")
    return files.read(
      images,
      crop_size=self.crop_size,
      round_pixels=self.round_pixels,
      exif=self.exif,
      batch_size=self.batch_size,
      num_threads=self.num_threads,
    )

  def _embed(self, batches):
    for embedded in self._scorer.stream(
      self._trained.params,
      batches,
      domain=self.domain or self._trained.config.domains[0],
      names=[self.embedding],
    ):
      yield embedded[self.embedding].astype(np.float32, copy=False)


def load(
  workdir: epath.PathLike,
  *,
  step: int | None = None,
  embedding: str = "student",
  domain: str | None = None,
  batch_size: int | None = None,
  num_threads: int | None = None,
) -> Embedder:
  """Returns the model of a run.

  Example: `udon_jax.load("runs/quickstart").embed(["a.jpg", "b.png"])`.

  Args:
    workdir: the run's folder.
    step: of the checkpoint; the best one if None.
    embedding: "student", the universal one; "teacher" or "backbone".
    domain: whose teacher to ask, for "teacher".
    batch_size: images embedded at a time; as in the run's evaluation if None.
    num_threads: threads that read images; as in the run if None.

  Raises:
    UserError: no such checkpoint, embedding or domain, or the devices do not
      share the batch evenly.
  """
  evaluator.check_embeddings([embedding], key="--embedding")
  found = trained.load(
    workdir, step=step, batch_size=batch_size, batch_size_key="--batch_size"
  )
  config = found.config
  if embedding not in found.model.embeddings:
    raise errors.UserError(
      f"--embedding={embedding}: the model of {workdir} has none; it has "
      f"{', '.join(found.model.embeddings)}"
    )
  if embedding == "teacher" and domain not in config.domains:
    raise errors.UserError(
      f"--domain={domain}: the teacher of one of {', '.join(config.domains)} "
      "must be named"
    )
  return Embedder(
    step=found.step,
    embedding=embedding,
    domain=domain if embedding == "teacher" else None,
    crop_size=config.data.crop_size,
    round_pixels=config.data.round_pixels,
    exif=semantics.honours_exif(config),
    batch_size=config.eval.batch_size,
    num_threads=num_threads or trained.num_threads(config),
    _trained=found,
    _scorer=found.evaluator(),
  )
