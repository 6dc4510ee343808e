"""Images and labels of record numbers, as a tf.data stream of batches.

Positions -> (plan) record numbers -> reads at offsets -> parallel decoding ->
batches in host memory. What a stream holds depends on its plan alone, not on
the number of threads. With several processes each yields its own contiguous
rows of every global batch; side by side they are the batch of one process.

Shape legend: b images.
"""

from collections.abc import Callable, Iterator
import dataclasses

from jaxtyping import Int
import numpy as np
import tensorflow as tf

from udon_jax import errors
from udon_jax.data import examples, records

# Records read by one call from tf.data, and such calls at a time: few enough
# that what is read ahead stays small.
_CHUNK = 64
_PARALLEL_READS = 16
_FOREVER = 2**62


@dataclasses.dataclass(frozen=True)
class Options:
  """How streams are read; only sizes and rounding change what they hold.

  Attributes:
    resize_size: height and width of a training image before its crop.
    crop_size: height and width of every image that leaves the pipeline.
    round_pixels: whether pixels are uint8, or float32 and not rounded.
    exif: whether images are turned as their EXIF orientation tells.
    num_threads: threads of each stream, for reading and decoding.
    prefetch: batches kept ready by each stream.
    process_index: number of this process.
    process_count: number of processes that share every batch.
    decoder: of `default_config.DECODERS`, for training images.
    max_bad_share: share of a domain's training examples that may be bad, and
      are then passed over; None lets the first one end the run.
  """

  resize_size: int
  crop_size: int
  round_pixels: bool
  num_threads: int
  prefetch: int = 2
  process_index: int = 0
  process_count: int = 1
  exif: bool = True
  decoder: str = "tensorflow"
  max_bad_share: float | None = None


@dataclasses.dataclass(frozen=True)
class Stream:
  """A recipe for batches; `open` follows it from any batch on.

  Attributes:
    files: the records.
    plan: positions -> (record numbers, arguments of `process`, ...).
    process: (encoded image, *arguments) -> pixels, in TensorFlow.
    batch_size: images of a global batch, a multiple of the processes.
    num_images: positions of the stream; None for an endless one.
    with_labels: whether to yield `class_id` as well.
    options: how to read.
    num_bytes: of every image where records hold pixels; None if encoded.
  """

  files: records.RecordFiles
  plan: Callable[[np.ndarray], tuple[np.ndarray, ...]]
  process: Callable[..., tf.Tensor]
  batch_size: int
  num_images: int | None
  with_labels: bool
  options: Options
  num_bytes: int | None = None

  @property
  def rows(self) -> int:
    """Returns the rows of a batch that this process holds."""
    return self.batch_size // self.options.process_count

  def records_of(self, batch: int) -> Int[np.ndarray, "b"]:
    """Returns the record numbers of this process's rows of a batch."""
    begin, end = batch * self.rows, (batch + 1) * self.rows
    return self.plan(self._positions(begin, min(end, self._num_local())))[0]

  def open(self, start: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields (images[, labels]) of this process's rows of batches from `start`.

    The last batch of a stream that ends may hold fewer rows; a batch without
    rows of this process is not yielded.

    Raises (from the iterator):
      UserError: a record cannot be used, or its file vanished.
    """
    failures: list[errors.UserError] = []
    iterator = iter(self._dataset(start, failures).as_numpy_iterator())
    while True:
      try:
        batch = next(iterator)
      except StopIteration:
        return
      except (tf.errors.OpError, UnicodeDecodeError) as error:
        # TensorFlow quotes damaged records in messages, which may then be no
        # text.
        if failures:
          raise failures[0] from None
        self._blame(start)
        raise RuntimeError("tf.data failed on readable images") from error
      yield batch
      start += 1

  def _num_local(self) -> int:
    """Returns how many images of the stream this process reads."""
    if self.num_images is None:
      return _FOREVER
    full, rest = divmod(self.num_images, self.batch_size)
    rest -= self.options.process_index * self.rows
    return full * self.rows + min(max(rest, 0), self.rows)

  def _positions(self, begin: int, end: int) -> Int[np.ndarray, "b"]:
    """Returns positions in the stream of this process's images begin..end-1."""
    batches, row = np.divmod(np.arange(begin, end), self.rows)
    row += self.options.process_index * self.rows
    return batches * self.batch_size + row

  def _dataset(
    self, start: int, failures: list[errors.UserError]
  ) -> tf.data.Dataset:
    """Returns the tf.data graph; it notes errors of reading in `failures`."""
    last = self._num_local()
    chunk = min(self.rows, _CHUNK)

    def read(begin):
      try:
        positions = self._positions(begin, min(begin + chunk, last))
        numbers, *arguments = self.plan(positions)
        data = [self._read(int(number)) for number in numbers]
      except errors.UserError as error:
        failures.append(error)
        raise
      return np.array(data, object), *arguments

    templates = self.plan(self._positions(0, 1))[1:]
    types = [tf.string, *(tf.as_dtype(array.dtype) for array in templates)]
    features = examples.IMAGE_FEATURE
    if self.with_labels:
      features = features | examples.LABEL_FEATURE

    def read_chunk(begin):
      data, *arguments = tf.numpy_function(read, [begin], types, stateful=False)
      data.set_shape([None])
      for argument, array in zip(arguments, templates, strict=True):
        argument.set_shape([None, *array.shape[1:]])
      return tf.io.parse_example(data, features), *arguments

    def process_one(parsed, *arguments):
      image = self.process(parsed["image_bytes"], *arguments)
      return (image, parsed["class_id"]) if self.with_labels else (image,)

    threads = self.options.num_threads
    dataset = tf.data.Dataset.range(start * self.rows, last, chunk)
    dataset = dataset.map(read_chunk, min(threads, _PARALLEL_READS))
    dataset = dataset.unbatch().map(process_one, threads).batch(self.rows)
    settings = tf.data.Options()
    settings.autotune.enabled = False
    settings.deterministic = True
    settings.threading.private_threadpool_size = threads
    settings.threading.max_intra_op_parallelism = 1
    return dataset.prefetch(self.options.prefetch).with_options(settings)

  def _read(self, record: int) -> bytes:
    """Returns a record; an error says which it is."""
    try:
      return self.files.read(record)
    except errors.BadExampleError as error:
      error.record = record
      raise

  def _blame(self, batch: int) -> None:
    """Raises for the first record of a batch that cannot be used."""
    for record in map(int, self.records_of(batch)):
      problem = examples.problem(
        self._read(record),
        with_label=self.with_labels,
        num_bytes=self.num_bytes,
      )
      if problem:
        file, number = self.files.locate(record)
        error = errors.BadExampleError(
          f"{file}: record {number} {problem}; delete the file's folder and"
          " prepare the data again"
        )
        error.record = record
        raise error
