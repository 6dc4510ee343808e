"""Types shared by every room of the house.

Shape legend: b batch, h height, w width, n images of a split, l labels of an
image, d embedding dim.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import Protocol

from flax import struct
from jaxtyping import Array, Bool, Float, Int, Real
import numpy as np


class Batch(struct.PyTreeNode):
  """One training batch; all its images come from one domain."""

  images: Real[Array, "b h w 3"]  # pixels in 0..255, uint8 or float32
  labels: Int[Array, "b"]  # class ids of the domain, 0 .. classes - 1
  domain: Int[Array, ""]  # position of the domain in `config.domains`


class UdonOutputs(struct.PyTreeNode):
  """Embeddings of a batch, each row of unit length, float32.

  A model without teachers or without a student has None in their place.
  """

  backbone: Float[Array, "b hidden"]
  teacher: Float[Array, "b teacher"] | None
  student: Float[Array, "b student"] | None


@dataclasses.dataclass(frozen=True)
class HostBatch:
  """This process's rows of a training batch, in host memory."""

  images: Real[np.ndarray, "b h w 3"]  # as in Batch
  labels: Int[np.ndarray, "b"]


@dataclasses.dataclass(frozen=True)
class EvalBatch:
  """A batch in the order of its split; padding rows have mask False."""

  images: Real[np.ndarray, "b h w 3"]  # as in Batch
  mask: Bool[np.ndarray, "b"]


class Rows(Protocol):
  """Vectors that are read a slice at a time: an array, or files seen as one."""

  @property
  def shape(self) -> tuple[int, ...]:
    """Number of rows, and their dimension."""

  def __len__(self) -> int:
    """Number of rows."""

  def __getitem__(self, rows: slice, /) -> Float[np.ndarray, "n d"]:
    """Some of the rows, in memory."""


class TrainSource(Protocol):
  """The training images of one domain."""

  @property
  def name(self) -> str:
    """Name of the domain."""

  @property
  def num_examples(self) -> int:
    """Number of training images."""

  @property
  def num_classes(self) -> int:
    """Number of training classes; labels are 0 .. num_classes - 1."""

  @property
  def fingerprint(self) -> str:
    """Hash of the training data: equal data continues a run, other cannot."""

  @property
  def class_names(self) -> Sequence[str] | None:
    """Name of every class, by its label; None where nothing tells."""

  def open(self, position: int) -> Iterator[HostBatch]:
    """Yields batches number `position`, `position + 1`, ... without end.

    The batches are a function of (seed, position) alone.
    """


@dataclasses.dataclass(frozen=True)
class ToldSource:
  """A `TrainSource` of which no more is known than what is told of it."""

  name: str
  num_classes: int
  num_examples: int
  fingerprint: str = ""
  class_names: Sequence[str] | None = None

  def open(self, position: int) -> Iterator[HostBatch]:
    """Never called: there are no images."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class ImageSplit:
  """One evaluation split of one domain, in the order of its info file.

  Attributes:
    domain: name of the domain.
    name: name of the split ("val", "test", "index", "small_index").
    keys: path of every image, as in the info file.
    labels: class ids of every image, padded with -1 to the same length.
    open: starts reading; yields exactly ceil(n / batch) batches.
  """

  domain: str
  name: str
  keys: Sequence[str]
  labels: Int[np.ndarray, "n l"]
  open: Callable[[], Iterator[EvalBatch]]


@dataclasses.dataclass(frozen=True)
class RetrievalTask:
  """Queries of a domain and the index that they search.

  Where both hold an image, it is excluded from its own neighbours.
  """

  domain: str
  query: ImageSplit
  index: ImageSplit
