"""Images and labels of record numbers, in batches that threads fill.

What `stream` does by tf.data, without it: where images are decoded by other
libraries, or not at all, calls from TensorFlow would cost as much as the work.
Positions -> (plan) record numbers -> threads that read, decode and augment,
each into its rows of a batch. What a stream holds depends on its plan alone.

Shape legend: b images, s side of an image.
"""

import collections
from collections.abc import Callable, Iterator
from concurrent import futures
import dataclasses
import functools

from jaxtyping import Int, UInt8
import numpy as np

from udon_jax import errors
from udon_jax.data import examples, formats, records
from udon_jax.data import stream as streams

# Images that a thread takes at a time.
_CHUNK = 8


@dataclasses.dataclass(frozen=True)
class Stream:
  """A recipe for endless batches; `open` follows it from any batch on.

  Attributes:
    files: the records.
    plan: positions -> (record numbers, arguments of `load`, ...).
    load: (encoded image, *arguments) -> uint8 pixels [s, s, 3]; raises an
      UnreadableError.
    batch_size: images of a global batch, a multiple of the processes.
    options: how to read.
  """

  files: records.RecordFiles
  plan: Callable[[np.ndarray], tuple[np.ndarray, ...]]
  load: Callable[..., UInt8[np.ndarray, "s s 3"]]
  batch_size: int
  options: streams.Options

  def records_of(self, batch: int) -> Int[np.ndarray, "b"]:
    """Returns the record numbers of this process's rows of a batch."""
    return self._plan(batch)[0]

  def open(self, start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (images, labels) of this process's rows of batches from `start`.

    Raises (from the iterator):
      BadExampleError: an image cannot be used.
      UserError: a file vanished.
    """
    pending = collections.deque[_Batch]()
    try:
      while True:
        while len(pending) <= self.options.prefetch:
          pending.append(self._begin(start))
          start += 1
        batch = pending.popleft()
        for future in batch.parts:
          future.result()
        yield batch.images, batch.labels
    finally:
      for batch in pending:
        for future in batch.parts:
          future.cancel()

  def _plan(self, batch: int) -> tuple[np.ndarray, ...]:
    """Returns what is planned for this process's rows of a batch."""
    rows = self.batch_size // self.options.process_count
    first = batch * self.batch_size + self.options.process_index * rows
    return self.plan(np.arange(first, first + rows))

  def _begin(self, number: int) -> "_Batch":
    """Lets threads make a batch."""
    numbers, *arguments = self._plan(number)
    rows, side = len(numbers), self.options.crop_size
    images = np.empty((rows, side, side, 3), np.uint8)
    labels = np.empty(rows, np.int64)

    def fill(begin):
      for i in range(begin, min(begin + _CHUNK, rows)):
        key, data, labels[i] = self._read(int(numbers[i]))
        try:
          images[i] = self.load(data, *(each[i] for each in arguments))
        except formats.UnreadableError as error:
          raise self._bad(
            int(numbers[i]),
            f"(key {key!r}) holds no image that can be decoded: {error}",
          ) from None

    pool = _pool(self.options.num_threads)
    parts = [pool.submit(fill, i) for i in range(0, rows, _CHUNK)]
    return _Batch(images, labels, parts)

  def _read(self, record: int) -> tuple[str, bytes, int]:
    """Returns key, image and label of a record."""
    try:
      data = self.files.read(record)
    except errors.BadExampleError as error:
      error.record = record
      raise
    parts = examples.parse(data)
    if parts is None:
      raise self._bad(record, "is no serialized tf.train.Example")
    if len(parts.images) != 1:
      raise self._bad(record, f"(key {parts.key!r}) has no image_bytes")
    if len(parts.class_ids) != 1:
      raise self._bad(
        record,
        f"(key {parts.key!r}) has {len(parts.class_ids)} class ids; training"
        " needs one",
      )
    return parts.key, parts.images[0], parts.class_ids[0]

  def _bad(self, record: int, problem: str) -> errors.BadExampleError:
    return streams.bad_example(self.files, record, problem)


@dataclasses.dataclass(frozen=True)
class _Batch:
  """A batch that is being made."""

  images: UInt8[np.ndarray, "b s s 3"]
  labels: Int[np.ndarray, "b"]
  parts: list[futures.Future]


@functools.cache
def _pool(num_threads: int) -> futures.Executor:
  """Returns the threads of all streams, whatever their number."""
  return futures.ThreadPoolExecutor(num_threads, "udon_jax.data")
