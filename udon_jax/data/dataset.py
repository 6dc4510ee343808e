"""The data of a run: training sources and retrieval tasks of its domains."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import types

from etils import epath

from udon_jax import domains as domain_table
from udon_jax import errors, own_domains, structs
from udon_jax.data import (
  counts,
  fingerprints,
  info,
  notes,
  pipeline,
  places,
  records,
  splits,
  stores,
  stream,
)

TaskBuilder = Callable[[], list[structs.RetrievalTask]]


def load(
  data_dir: epath.PathLike | None,
  *,
  domains: Sequence[places.Domain],
  batch_size: int,
  eval_batch_size: int,
  seed: int,
  options: stream.Options,
  own: Mapping[str, own_domains.OwnDomain] = types.MappingProxyType({}),
  info_files: epath.PathLike | None = None,
  data_check: str | None = None,
) -> tuple[list[pipeline.TrainSource], dict[str, TaskBuilder]]:
  """Returns the training sources and the evaluation tasks of some domains.

  Args:
    data_dir: folder that holds info_files/ and tfds/, or that tfds/.
    domains: their names, or what is known of them.
    batch_size: images of a training batch, over all processes.
    eval_batch_size: images of an evaluation batch, over all processes.
    seed: seed of order and augmentation, not negative.
    options: how to read.
    own: domains that the user described, by name.
    info_files: folder of the info files, where it lies elsewhere.
    data_check: "uned" where other counts than UnED's are an error.

  Returns:
    One source for each domain, in the order of `domains`; and for "val" and
    "test" a function that builds one task for each domain, reading the labels
    when it is first called.

  Raises:
    UserError: a folder or file is missing or wrong, or a value is impossible.
  """
  _check_values(seed, options)
  found = places.find(
    data_dir,
    domains=domains,
    own=own,
    info_files=info_files,
    info_files_key="config.info_files_dir",
  )
  tasks = _tasks(
    found,
    eval_batch_size=eval_batch_size,
    options=options,
    eval_splits=domain_table.EVAL_SPLITS,
  )
  sources = [
    _train_source(place, batch_size, seed=seed, options=options)
    for place in found
  ]
  num_examples = _count(found, domain_table.EVAL_SPLITS)
  for source in sources:
    num_examples[source.name, domain_table.TRAIN_SPLIT] = source.num_examples
  counts.check(
    [place.layout for place in found],
    num_examples=num_examples,
    num_classes={source.name: source.num_classes for source in sources},
    data_check=data_check,
    key="config.data_check",
  )
  return sources, tasks


def load_tasks(
  found: Sequence[places.Place],
  *,
  eval_batch_size: int,
  options: stream.Options,
  eval_splits: Sequence[str] = domain_table.EVAL_SPLITS,
  data_check: str | None = None,
  data_check_key: str = "--data_check",
) -> dict[str, TaskBuilder]:
  """Returns a function for each evaluation split that builds its tasks.

  That all files are there is checked at once, and the number of records; their
  contents when the tasks are built, which happens once.

  Args:
    found: the domains and where their data lies.
    eval_batch_size: images of a batch, over all processes.
    options: how to read.
    eval_splits: "val", "test" or both.
    data_check: "uned" where other counts than UnED's are an error.
    data_check_key: what the user sets it with, for the message.

  Raises:
    UserError: a file is missing, `eval_batch_size` is impossible, or counts
      are not those of UnED though they must be.
  """
  tasks = _tasks(
    found,
    eval_batch_size=eval_batch_size,
    options=options,
    eval_splits=eval_splits,
  )
  counts.check(
    [place.layout for place in found],
    num_examples=_count(found, eval_splits),
    num_classes={},
    data_check=data_check,
    key=data_check_key,
  )
  return tasks


def _tasks(
  found: Sequence[places.Place],
  *,
  eval_batch_size: int,
  options: stream.Options,
  eval_splits: Sequence[str],
) -> dict[str, TaskBuilder]:
  """Does what `load_tasks` does, without a look at the counts."""
  pipeline.check_batch_size("config.eval.batch_size", eval_batch_size, options)
  for place in found:
    for split in _splits(place, eval_splits):
      _check_files(place, split)
  image_split = functools.cache(
    lambda place, split: open_split(
      place, split, batch_size=eval_batch_size, options=options
    )
  )

  def build(eval_split):
    return [
      structs.RetrievalTask(
        place.name,
        query=image_split(place, place.spec.protocol(eval_split).query),
        index=image_split(place, place.spec.protocol(eval_split).index),
      )
      for place in found
    ]

  return {name: functools.partial(build, name) for name in eval_splits}


def open_split(
  place: places.Place,
  split: str,
  *,
  batch_size: int,
  options: stream.Options,
) -> structs.ImageSplit:
  """Returns an evaluation split with its labels.

  Raises:
    UserError: a file is missing or wrong, or the records are not those of the
      info file.
  """
  files, images = splits.open_eval(place.layout, place.name, split)
  _check_store(files, options, resize_size=None)
  return structs.ImageSplit(
    place.name,
    split,
    keys=images.paths,
    labels=images.labels,
    open=functools.partial(
      pipeline.open_eval, files, batch_size=batch_size, options=options
    ),
  )


def _splits(place: places.Place, eval_splits: Sequence[str]) -> list[str]:
  """Returns the splits that some evaluations of a domain read, each once."""
  return list(
    dict.fromkeys(
      split
      for name in eval_splits
      for split in dataclasses.astuple(place.spec.protocol(name))
    )
  )


def _count(
  found: Sequence[places.Place], eval_splits: Sequence[str]
) -> dict[tuple[str, str], int]:
  """Returns the images of every (domain, split) that UnED's table has."""
  return {
    (place.name, split): splits.count(place.layout, place.name, split)
    for place in found
    if place.name in domain_table.UNED
    for split in _splits(place, eval_splits)
  }


def fingerprint(
  data_dir: epath.PathLike | None, *, domains: Sequence[places.Domain]
) -> str:
  """Returns a hash of the training data, to compare a run's data on resume.

  It covers names and sizes of the training records, which hold the order of
  the images, and the training info files; neither the place of the data nor
  the evaluation splits.

  Raises:
    UserError: a file is missing.
  """
  found = places.find(data_dir, domains=domains, own={}, info_files=None)
  train = domain_table.TRAIN_SPLIT
  return fingerprints.of_all(
    {place.name: (place.layout, _check_files(place, train)) for place in found}
  )


def _check_values(seed: int, options: stream.Options) -> None:
  """Raises a `UserError` for a value that is impossible by itself."""
  for key, value in (
    ("seed", seed),
    ("data.prefetch", options.prefetch),
  ):
    if value < 0:
      raise errors.UserError(
        f"config.{key}={value} is negative; choose 0 or more"
      )
  if options.num_threads < 1:
    raise errors.UserError(
      f"config.data.num_threads={options.num_threads} is none; choose 1 or more"
    )
  if not 0 < options.crop_size <= options.resize_size:
    raise errors.UserError(
      f"config.data.crop_size={options.crop_size} does not fit into"
      f" config.data.resize_size={options.resize_size}; choose a positive value"
      " up to that"
    )


def _check_files(place: places.Place, split: str) -> list[epath.Path]:
  """Returns the record files of a split that also has its info file."""
  where, domain = place.layout, place.name
  info.require(where.info_file(domain, split))
  return records.find_files(
    where.records(domain, split),
    base=records.file_name(domain, split),
    cure=f"run {where.prepare(domain)}",
  )


def _train_source(
  place: places.Place,
  batch_size: int,
  *,
  seed: int,
  options: stream.Options,
) -> pipeline.TrainSource:
  """Returns the training source of one domain."""
  where, domain = place.layout, place.name
  found = _check_files(place, domain_table.TRAIN_SPLIT)
  files, num_classes = splits.open_train(where, domain)
  if not len(files):
    raise errors.UserError(
      f"{where.records(domain, domain_table.TRAIN_SPLIT)} holds no records;"
      f" delete it and run {where.prepare(domain)}"
    )
  _check_store(files, options, resize_size=options.resize_size)
  return pipeline.TrainSource(
    domain,
    num_classes=num_classes,
    fingerprint=fingerprints.of_domain(where, domain, found),
    files=files,
    batch_size=batch_size,
    seed=seed,
    options=options,
    class_names=notes.names_of_labels(where, domain, num_classes=num_classes),
  )


def _check_store(
  files: records.RecordFiles,
  options: stream.Options,
  *,
  resize_size: int | None,
) -> None:
  """Raises unless images are held as the config asks; see `stores.check`."""
  stores.check(
    files.store,
    side=files.side,
    resize_size=resize_size,
    crop_size=options.crop_size,
    round_pixels=options.round_pixels,
    exif=options.exif,
    where=files.files[0].parent,
  )
