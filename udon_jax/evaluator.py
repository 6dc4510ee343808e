"""Embeds evaluation splits and scores them by retrieval.

Shape legend: n images of a split, d embedding dim.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import hashlib
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Float, Real
import numpy as np

from udon_jax import errors, partitioning, processes, structs
from udon_jax.retrieval import protocol

EMBEDDINGS = ("student", "teacher", "backbone")


def check_embeddings(
  names: Sequence[str], *, key: str = "config.eval.embeddings"
) -> None:
  """Raises a UserError, naming `key`, unless all are embeddings we know."""
  for name in names:
    if name not in EMBEDDINGS:
      raise errors.UserError(
        f"{key}: {name!r} is unknown; known: {', '.join(EMBEDDINGS)}"
      )


def check_tasks(tasks: Sequence[structs.RetrievalTask]) -> None:
  """Raises a UserError unless the tasks can be, and are those of all processes.

  It is cheap beside the hours that embedding takes.
  """
  protocol.check_positives(tasks)
  if not processes.is_alone():
    processes.check_agreement(
      {
        f"{split.domain}/{split.name}": _describe(split)
        for task in tasks
        for split in (task.query, task.index)
      }
    )


def _describe(split: structs.ImageSplit) -> str:
  """Returns how many images a split has, and a hash of names and classes."""
  digest = hashlib.sha256("\0".join(split.keys).encode())
  digest.update(np.ascontiguousarray(split.labels, np.int64).tobytes())
  return f"{len(split.labels)} images ({digest.hexdigest()[:12]})"


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """Scores a model on retrieval tasks.

  Attributes:
    model: a `udon.Udon`.
    mesh: over which batches and indexes are split.
    domain_ids: id of every domain of the model, by name.
    metrics: names of `retrieval.metrics`.
    query_chunk_size: queries scored at a time; None is the platform's best.
    index_chunk_size: index rows scored at a time; likewise.
  """

  model: Any
  mesh: Mesh
  domain_ids: Mapping[str, int]
  metrics: Sequence[str]
  query_chunk_size: int | None
  index_chunk_size: int | None

  def run(
    self,
    params: Any,
    tasks: Sequence[structs.RetrievalTask],
    *,
    names: Sequence[str],
    per_query: bool = False,
  ) -> dict[str, Any]:
    """Returns `protocol.evaluate` of every embedding named.

    Args:
      params: of the module.
      tasks: queries and index of every domain.
      names: of EMBEDDINGS. "teacher" embeds every image, query or index, by the
        teacher of its own domain.
      per_query: whether results carry each query's neighbours.
    """
    check_embeddings(names)
    check_tasks(tasks)
    splits = {
      (split.domain, split.name): split
      for task in tasks
      for split in (task.query, task.index)
    }
    embedded = {
      key: self.embed(params, split, names=names)
      for key, split in splits.items()
    }
    return {
      name: protocol.evaluate(
        tasks,
        {key: by_name[name] for key, by_name in embedded.items()},
        metrics=self.metrics,
        mesh=self.mesh,
        query_chunk_size=self.query_chunk_size,
        index_chunk_size=self.index_chunk_size,
        per_query=per_query,
      )
      for name in names
    }

  def embed(
    self, params: Any, split: structs.ImageSplit, *, names: Sequence[str]
  ) -> dict[str, Float[np.ndarray, "n d"]]:
    """Returns the embeddings of a split, in its order, on the host."""
    embedded = self.embed_batches(
      params,
      (batch.images for batch in split.open()),
      domain=split.domain,
      names=names,
    )
    num_images = len(split.labels)  # what follows is padding
    return {name: rows[:num_images] for name, rows in embedded.items()}

  def embed_batches(
    self,
    params: Any,
    batches: Iterable[Real[np.ndarray, "b h w 3"]],
    *,
    domain: str,
    names: Sequence[str],
  ) -> dict[str, Float[np.ndarray, "n d"]]:
    """Returns the embeddings of all rows of at least one batch, on the host.

    Args:
      params: of the module.
      batches: this process's rows of batches of one size.
      domain: whose teacher is asked.
      names: of EMBEDDINGS.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for outputs in self.stream(params, batches, domain=domain, names=names):
      for name, rows in outputs.items():
        parts[name].append(rows)
    return {name: np.concatenate(rows) for name, rows in parts.items()}

  def stream(
    self,
    params: Any,
    batches: Iterable[Real[np.ndarray, "b h w 3"]],
    *,
    domain: str,
    names: Sequence[str],
  ) -> Iterator[dict[str, Float[np.ndarray, "b d"]]]:
    """Yields the embeddings of every batch, on the host, in order.

    One batch is asked for ahead. Arguments as for `embed_batches`.
    """
    domain_id = partitioning.put_replicated(
      np.int32(self.domain_ids[domain]), self.mesh
    )
    pending = None
    for batch in batches:
      images = partitioning.put_batch(batch, self.mesh)
      outputs = self._forward(params, images, domain_id)
      if pending is not None:
        # Fetched while the device computes the next.
        yield partitioning.fetch(pending)
      pending = {name: getattr(outputs, name) for name in names}
    if pending is not None:
      yield partitioning.fetch(pending)

  @functools.cached_property
  def _forward(self):
    return jax.jit(
      lambda params, images, domain: self.model.apply(
        {"params": params}, images, domain, train=False
      ),
      out_shardings=partitioning.replicated(self.mesh),
    )


def nest(by_split: Mapping[str, Any]) -> dict[str, Any]:
  """Returns results in the form of results.json.

  From {split: {embedding: {"separate"|"merged": {domain: ...}}}} to
  {embedding: {"separate"|"merged": {split: {domain: ...}}}}.
  """
  nested: dict[str, Any] = {}
  for split, by_name in by_split.items():
    for name, by_kind in by_name.items():
      for kind, values in by_kind.items():
        nested.setdefault(name, {}).setdefault(kind, {})[split] = values
  return nested
