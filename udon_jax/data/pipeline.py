"""Training and evaluation images of a domain, as functions of a position.

Order and augmentation come from `order`: a training stream opened at batch k
equals one opened at 0 and advanced k times, bit for bit.

Shape legend: b images.
"""

from collections.abc import Iterator, Sequence, Set
import dataclasses
import functools
import logging
from typing import Any

from jaxtyping import Int
import numpy as np
import tensorflow as tf

from udon_jax import errors, structs
from udon_jax.data import (
  decoders,
  examples,
  order,
  preprocess,
  records,
  storing,
  threaded,
)
from udon_jax.data import stream as streams

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainSource:
  """The training images of one domain; see `structs.TrainSource`.

  Attributes:
    name: name of the domain.
    num_classes: labels outside 0 .. num_classes - 1 raise a `UserError`.
    fingerprint: of the training data.
    files: the records.
    batch_size: images of a global batch.
    seed: seed of order and augmentation.
    options: how to read.
    class_names: of every class, by its label; None where nothing tells.
  """

  name: str
  num_classes: int
  fingerprint: str
  files: records.RecordFiles
  batch_size: int
  seed: int
  options: streams.Options
  class_names: Sequence[str] | None = None

  def __post_init__(self):
    check_batch_size("config.batch_size", self.batch_size, self.options)

  @property
  def num_examples(self) -> int:
    """Number of training images."""
    return len(self.files)

  def open(self, position: int) -> Iterator[structs.HostBatch]:
    """Yields this process's rows of batches `position`, `position + 1`, ...

    A bad example is passed over if the options allow it: the record after it
    takes its place, so that what is read depends on the data alone.

    Raises (from the iterator):
      BadExampleError: an image or label cannot be used.
      UserError: there are too many of these, or a file vanished.
    """
    bad = set[int]()
    bad_example = errors.BadExampleError  # known when the interpreter ends too
    while True:
      try:
        for batch in self._batches(position, bad):
          yield batch
          position += 1
        return
      except bad_example as error:
        if self.options.max_bad_share is None:
          raise
        self._pass_over(error, bad)

  def _batches(self, position: int, bad: Set[int]) -> Iterator:
    """Yields batches from a position on; some records are known to be bad."""
    plan = functools.partial(self._plan, bad=frozenset(bad))
    stream: streams.Stream | threaded.Stream
    if self._loader is None:
      stream = streams.Stream(
        self.files,
        plan=plan,
        process=self._process,
        batch_size=self.batch_size,
        num_images=None,
        with_labels=True,
        options=self.options,
        num_bytes=self.files.num_bytes,
      )
    else:
      stream = threaded.Stream(
        self.files,
        plan=plan,
        load=self._load,
        batch_size=self.batch_size,
        options=self.options,
      )
    for images, labels in stream.open(position):
      wrong = (labels < 0) | (labels >= self.num_classes)
      if wrong.any():
        row = int(wrong.argmax())
        record = int(stream.records_of(position)[row])
        self._blame_label(record, int(labels[row]))
      yield structs.HostBatch(images, labels.astype(np.int32))
      position += 1

  def _process(self, data, offset, flip):
    """Returns the pixels of a training image, in TensorFlow."""
    options = self.options
    image = storing.decode_in_graph(data, self.files, exif=options.exif)
    if not self.files.side:
      image = preprocess.squash(
        image, size=options.resize_size, round_pixels=options.round_pixels
      )
    return preprocess.augment(image, offset, flip, crop_size=options.crop_size)

  @functools.cached_property
  def _graph(self) -> Any:
    """What `_process` does, outside of tf.data."""
    return tf.function(self._process)

  @functools.cached_property
  def _loader(self) -> decoders.Loader | None:
    """What makes pixels without TensorFlow; None where it does."""
    options = self.options
    if not options.round_pixels:
      return None
    return decoders.loader(
      self.files,
      size=options.resize_size,
      exif=options.exif,
      decoder=options.decoder,
    )

  def _load(self, data, offset, flip):
    """Returns the pixels of a training image, without TensorFlow."""
    assert self._loader is not None
    return decoders.augment(
      self._loader(data), offset, flip, crop_size=self.options.crop_size
    )

  def augmented(self, record: int, *, epoch: int) -> np.ndarray:
    """Returns what training sees of a record in an epoch, [crop, crop, 3].

    Args:
      record: its number among the files.
      epoch: from 0.
    """
    offsets, flips = order.augmentations(
      np.array([epoch]),
      np.array([record]),
      seed=self.seed,
      domain=self.name,
      room=self.options.resize_size - self.options.crop_size,
    )
    data = examples.image_bytes(self.files.read(record))
    if self._loader is not None:
      return self._load(data, offsets[0], flips[0])
    return self._graph(tf.constant(data), offsets[0], flips[0]).numpy()

  def _pass_over(self, error: errors.BadExampleError, bad: set[int]) -> None:
    """Notes a bad example, unless there are too many."""
    assert error.record is not None and error.record not in bad
    bad.add(error.record)
    share = self.options.max_bad_share or 0.0
    allowed = max(1, int(share * len(self.files)))
    if len(bad) > allowed or len(bad) == len(self.files):
      raise errors.UserError(
        f"{len(bad)} of the {len(self.files)} training examples of"
        f" {self.name!r} are bad, more than config.data.max_bad_share={share}"
        f" allows; the last: {error}"
      )
    _LOGGER.warning("bad example %d, passed over: %s", len(bad), error)

  def _plan(
    self, positions: Int[np.ndarray, "b"], *, bad: Set[int]
  ) -> tuple[np.ndarray, ...]:
    """Returns record numbers and augmentations at positions of the stream."""
    epochs, numbers = order.records_at(
      positions, len(self.files), seed=self.seed, domain=self.name
    )
    if bad:
      for i in np.flatnonzero(np.isin(numbers, list(bad))):
        while int(numbers[i]) in bad:
          numbers[i] = (numbers[i] + 1) % len(self.files)
    offsets, flips = order.augmentations(
      epochs,
      numbers,
      seed=self.seed,
      domain=self.name,
      room=self.options.resize_size - self.options.crop_size,
    )
    return numbers, offsets, flips

  def _blame_label(self, record: int, label: int) -> None:
    """Raises for a label that is out of range."""
    file, number = self.files.locate(record)
    error = errors.BadExampleError(
      f"{file}: record {number} of domain {self.name!r} has class_id {label},"
      f" outside 0 .. {self.num_classes - 1}, which its info file allows;"
      " delete the file's folder and prepare the data again"
    )
    error.record = record
    raise error


def open_eval(
  files: records.RecordFiles, *, batch_size: int, options: streams.Options
) -> Iterator[structs.EvalBatch]:
  """Yields this process's rows of an evaluation split, in its order.

  Every process yields exactly ceil(n / batch_size) batches; rows beyond the
  end are zeros with mask False.

  Args:
    files: the records, in the order of the info file.
    batch_size: images of a global batch.
    options: how to read.

  Raises (from the iterator):
    UserError: an image cannot be used, or a file vanished.
  """
  size = options.crop_size

  def process(data):
    image = storing.decode_in_graph(data, files, exif=options.exif)
    if files.side:
      return image
    return preprocess.center(
      image, crop_size=size, round_pixels=options.round_pixels
    )

  stream = streams.Stream(
    files,
    plan=lambda positions: (positions,),
    process=process,
    batch_size=batch_size,
    num_images=len(files),
    with_labels=False,
    options=options,
    num_bytes=files.num_bytes,
  )
  kind = preprocess.pixel_type(round_pixels=options.round_pixels)
  nothing = (np.zeros([0, size, size, 3], kind),)
  batches = stream.open(0)
  for _ in range(-(-len(files) // batch_size)):
    (images,) = next(batches, nothing)
    mask = np.arange(stream.rows) < len(images)
    padding = stream.rows - len(images)
    if padding:
      images = np.pad(images, [(0, padding), (0, 0), (0, 0), (0, 0)])
    yield structs.EvalBatch(images, mask)


def check_batch_size(
  key: str, batch_size: int, options: streams.Options
) -> None:
  """Raises a `UserError` unless a batch divides evenly over the processes."""
  count = options.process_count
  if batch_size < 1 or batch_size % count:
    raise errors.UserError(
      f"{key}={batch_size} cannot be split evenly over {count} processes;"
      f" choose a positive multiple of {count}"
    )
