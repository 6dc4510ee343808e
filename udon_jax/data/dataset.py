"""The data of a run: training sources and retrieval tasks of its domains."""

from collections.abc import Callable, Sequence
import functools
import hashlib
import json
import os
from typing import Any

from etils import epath

from udon_jax import domains as domain_table
from udon_jax import errors, structs
from udon_jax.data import info, layout, pipeline, records, splits, stream

Domain = str | domain_table.DomainSpec
TaskBuilder = Callable[[], list[structs.RetrievalTask]]


def load(
  data_dir: epath.PathLike | None,
  *,
  domains: Sequence[Domain],
  batch_size: int,
  eval_batch_size: int,
  seed: int,
  resize_size: int,
  crop_size: int,
  num_threads: int,
  prefetch: int = 2,
  process_index: int = 0,
  process_count: int = 1,
) -> tuple[list[pipeline.TrainSource], dict[str, TaskBuilder]]:
  """Returns the training sources and the evaluation tasks of some domains.

  Args:
    data_dir: folder that holds images/, info_files/ and tfds/.
    domains: names of known domains, or descriptions of own ones.
    batch_size: images of a training batch, over all processes.
    eval_batch_size: images of an evaluation batch, over all processes.
    seed: seed of order and augmentation, not negative.
    resize_size: height and width of a training image before its crop.
    crop_size: height and width of every image that comes out.
    num_threads: threads of each stream; 0 takes one for each CPU.
    prefetch: batches kept ready by each stream.
    process_index: number of this process.
    process_count: number of processes.

  Returns:
    One source for each domain, in the order of `domains`; and for "val" and
    "test" a function that builds one task for each domain, reading the labels
    when it is first called.

  Raises:
    UserError: a folder or file is missing or wrong, or a value is impossible.
  """
  _check_values(seed, resize_size, crop_size, num_threads, prefetch)
  place = layout.find(data_dir)
  options = stream.Options(
    resize_size=resize_size,
    crop_size=crop_size,
    num_threads=num_threads or os.cpu_count() or 1,
    prefetch=prefetch,
    process_index=process_index,
    process_count=process_count,
  )
  specs = _specs(domains)
  tasks = load_tasks(
    place, domains=specs, eval_batch_size=eval_batch_size, options=options
  )
  sources = [
    _train_source(place, spec.name, batch_size, seed=seed, options=options)
    for spec in specs
  ]
  return sources, tasks


def load_tasks(
  place: layout.Layout,
  *,
  domains: Sequence[Domain],
  eval_batch_size: int,
  options: stream.Options,
  eval_splits: Sequence[str] = domain_table.EVAL_SPLITS,
) -> dict[str, TaskBuilder]:
  """Returns a function for each evaluation split that builds its tasks.

  That all files are there is checked at once; their contents when the tasks
  are built, which happens once.

  Args:
    place: where the data lies.
    domains: names of known domains, or descriptions of own ones.
    eval_batch_size: images of a batch, over all processes.
    options: how to read.
    eval_splits: "val", "test" or both.

  Raises:
    UserError: a file is missing, or `eval_batch_size` is impossible.
  """
  pipeline.check_batch_size("config.eval.batch_size", eval_batch_size, options)
  specs = _specs(domains)
  for spec in specs:
    for eval_split in eval_splits:
      protocol = spec.protocol(eval_split)
      for split in {protocol.query: None, protocol.index: None}:
        _check_files(place, spec.name, split)
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
  images = info.read_info(place.info_file(domain, split), split=split)
  files = splits.open_records(place, domain, split)
  splits.check_agreement(
    files,
    images,
    in_order=True,
    cure=f"delete {place.records(domain, split)} and run {place.prepare}",
  )
  return structs.ImageSplit(
    domain,
    split,
    keys=images.paths,
    labels=images.labels,
    open=functools.partial(
      pipeline.open_eval, files, batch_size=batch_size, options=options
    ),
  )


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
  parts = {
    spec.name: _fingerprint(place, spec.name) for spec in _specs(domains)
  }
  return _hash(parts)


def _fingerprint(place: layout.Layout, domain: str) -> str:
  """Returns a hash of one domain's training data."""
  train = domain_table.TRAIN_SPLIT
  files = [
    (file.name, file.stat().length)
    for file in _check_files(place, domain, train)
  ]
  return _hash([info.fingerprint(place.info_file(domain, train)), files])


def _hash(value: Any) -> str:
  """Returns a short hash of plain values."""
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_values(
  seed: int, resize_size: int, crop_size: int, num_threads: int, prefetch: int
) -> None:
  """Raises a `UserError` for a value that is impossible by itself."""
  for key, value in (
    ("seed", seed),
    ("data.num_threads", num_threads),
    ("data.prefetch", prefetch),
  ):
    if value < 0:
      raise errors.UserError(
        f"config.{key}={value} is negative; choose 0 or more"
      )
  if not 0 < crop_size <= resize_size:
    raise errors.UserError(
      f"config.data.crop_size={crop_size} does not fit into"
      f" config.data.resize_size={resize_size}; choose a positive value up to"
      " that"
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
  _check_files(place, domain, domain_table.TRAIN_SPLIT)
  files = splits.open_records(place, domain, domain_table.TRAIN_SPLIT)
  if not len(files):
    raise errors.UserError(
      f"{place.records(domain, domain_table.TRAIN_SPLIT)} holds no records;"
      f" delete it and run {place.prepare}"
    )
  return pipeline.TrainSource(
    domain,
    num_classes=splits.num_classes(place, domain),
    fingerprint=_fingerprint(place, domain),
    files=files,
    batch_size=batch_size,
    seed=seed,
    options=options,
  )
