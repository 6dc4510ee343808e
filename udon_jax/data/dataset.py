"""The data of a run: training sources and retrieval tasks of its domains."""

from collections.abc import Callable, Sequence
import dataclasses
import functools

from etils import epath

from udon_jax import domains as domain_table
from udon_jax import errors, structs
from udon_jax.data import (
  counts,
  fingerprints,
  info,
  layout,
  pipeline,
  records,
  splits,
  stream,
)

Domain = str | domain_table.DomainSpec
TaskBuilder = Callable[[], list[structs.RetrievalTask]]


def load(
  data_dir: epath.PathLike | None,
  *,
  domains: Sequence[Domain],
  batch_size: int,
  eval_batch_size: int,
  seed: int,
  options: stream.Options,
  info_files: epath.PathLike | None = None,
  data_check: str | None = None,
) -> tuple[list[pipeline.TrainSource], dict[str, TaskBuilder]]:
  """Returns the training sources and the evaluation tasks of some domains.

  Args:
    data_dir: folder that holds info_files/ and tfds/, or that tfds/.
    domains: names of known domains, or descriptions of own ones.
    batch_size: images of a training batch, over all processes.
    eval_batch_size: images of an evaluation batch, over all processes.
    seed: seed of order and augmentation, not negative.
    options: how to read.
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
  place = layout.find(
    data_dir, info_files=info_files, info_files_key="config.info_files_dir"
  )
  specs = _specs(domains)
  tasks = _tasks(
    place,
    specs,
    eval_batch_size=eval_batch_size,
    options=options,
    eval_splits=domain_table.EVAL_SPLITS,
  )
  sources = [
    _train_source(place, spec.name, batch_size, seed=seed, options=options)
    for spec in specs
  ]
  names = _names(specs, domain_table.EVAL_SPLITS)
  num_examples = counts.of_splits(place, names)
  for source in sources:
    num_examples[source.name, domain_table.TRAIN_SPLIT] = source.num_examples
  counts.check(
    place,
    num_examples=num_examples,
    num_classes={source.name: source.num_classes for source in sources},
    data_check=data_check,
    key="config.data_check",
  )
  return sources, tasks


def load_tasks(
  place: layout.Layout,
  *,
  domains: Sequence[Domain],
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
    place: where the data lies.
    domains: names of known domains, or descriptions of own ones.
    eval_batch_size: images of a batch, over all processes.
    options: how to read.
    eval_splits: "val", "test" or both.
    data_check: "uned" where other counts than UnED's are an error.
    data_check_key: what the user sets it with, for the message.

  Raises:
    UserError: a file is missing, `eval_batch_size` is impossible, or counts
      are not those of UnED though they must be.
  """
  specs = _specs(domains)
  tasks = _tasks(
    place,
    specs,
    eval_batch_size=eval_batch_size,
    options=options,
    eval_splits=eval_splits,
  )
  counts.check(
    place,
    num_examples=counts.of_splits(place, _names(specs, eval_splits)),
    num_classes={},
    data_check=data_check,
    key=data_check_key,
  )
  return tasks


def _tasks(
  place: layout.Layout,
  specs: Sequence[domain_table.DomainSpec],
  *,
  eval_batch_size: int,
  options: stream.Options,
  eval_splits: Sequence[str],
) -> dict[str, TaskBuilder]:
  """Does what `load_tasks` does, without a look at the counts."""
  pipeline.check_batch_size("config.eval.batch_size", eval_batch_size, options)
  for domain, split in _names(specs, eval_splits):
    _check_files(place, domain, split)
  image_split = functools.cache(
    lambda domain, split: open_split(
      place, domain, split, batch_size=eval_batch_size, options=options
    )
  )

  def build(eval_split):
    return [
      structs.RetrievalTask(
        spec.name,
        query=image_split(spec.name, spec.protocol(eval_split).query),
        index=image_split(spec.name, spec.protocol(eval_split).index),
      )
      for spec in specs
    ]

  return {name: functools.partial(build, name) for name in eval_splits}


def open_split(
  place: layout.Layout,
  domain: str,
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
  files, images = splits.open_eval(place, domain, split)
  return structs.ImageSplit(
    domain,
    split,
    keys=images.paths,
    labels=images.labels,
    open=functools.partial(
      pipeline.open_eval, files, batch_size=batch_size, options=options
    ),
  )


def _names(
  specs: Sequence[domain_table.DomainSpec], eval_splits: Sequence[str]
) -> list[tuple[str, str]]:
  """Returns (domain, split) of all that some evaluations read, each once."""
  return [
    (spec.name, split)
    for spec in specs
    for split in dict.fromkeys(
      split
      for name in eval_splits
      for split in dataclasses.astuple(spec.protocol(name))
    )
  ]


def fingerprint(
  data_dir: epath.PathLike | None, *, domains: Sequence[Domain]
) -> str:
  """Returns a hash of the training data, to compare a run's data on resume.

  It covers names and sizes of the training records, which hold the order of
  the images, and the training info files; neither the place of the data nor
  the evaluation splits.

  Raises:
    UserError: a file is missing.
  """
  place = layout.find(data_dir)
  train = domain_table.TRAIN_SPLIT
  return fingerprints.of_all(
    place,
    {
      spec.name: _check_files(place, spec.name, train)
      for spec in _specs(domains)
    },
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


def _specs(domains: Sequence[Domain]) -> list[domain_table.DomainSpec]:
  """Looks up the domains that are given by name."""
  if not domains:
    raise errors.UserError("config.domains is empty; name at least one domain")
  specs = [
    domain_table.get_domain(domain) if isinstance(domain, str) else domain
    for domain in domains
  ]
  names = [spec.name for spec in specs]
  for name in names:
    if names.count(name) > 1:
      raise errors.UserError(
        f"config.domains names {name!r} twice; name every domain once"
      )
  return specs


def _check_files(
  place: layout.Layout, domain: str, split: str
) -> list[epath.Path]:
  """Returns the record files of a split that also has its info file."""
  info.require(place.info_file(domain, split))
  return records.find_files(
    place.records(domain, split),
    base=records.file_name(domain, split),
    cure=f"run {place.prepare}",
  )


def _train_source(
  place: layout.Layout,
  domain: str,
  batch_size: int,
  *,
  seed: int,
  options: stream.Options,
) -> pipeline.TrainSource:
  """Returns the training source of one domain."""
  found = _check_files(place, domain, domain_table.TRAIN_SPLIT)
  files, num_classes = splits.open_train(place, domain)
  if not len(files):
    raise errors.UserError(
      f"{place.records(domain, domain_table.TRAIN_SPLIT)} holds no records;"
      f" delete it and run {place.prepare}"
    )
  return pipeline.TrainSource(
    domain,
    num_classes=num_classes,
    fingerprint=fingerprints.of_domain(place, domain, found),
    files=files,
    batch_size=batch_size,
    seed=seed,
    options=options,
  )
