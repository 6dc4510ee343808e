"""Writes the set: renders in processes, resumes, ends with a marker."""

from collections.abc import Iterator
import concurrent.futures
import functools
import json
import logging
import multiprocessing
import os
import pathlib
import time

import numpy as np
from PIL import Image

from udon_jax import cpus, domains, errors
from udon_jax.data.synthetic import layout, photo

VERSION = 1  # of the drawings: raise it when any file of a set changes
MARKER = "synthetic.json"
_REQUEST = ".synthetic_request.json"  # written first, the marker last
_PART = ".part"  # of a file that is being written
_CHUNK = 32
_LOG = logging.getLogger(__name__)
_CLASS, _IMAGE = 0, 1  # streams of random numbers

Job = tuple[str, layout.Image]


def render_image(
  domain: str, class_seed: int, image_seed: int, *, seed: int = 0
) -> Image.Image:
  """Renders one image of one class.

  Args:
    domain: a UnED name.
    class_seed: the class: equal seeds show the same thing.
    image_seed: the picture of it: viewpoint, light, background, colours.
    seed: of the set.
  """
  return photo.render(
    domain,
    [_sample_class(domain, class_seed, seed)],
    _rng(seed, domain, _IMAGE, class_seed, image_seed),
  )


def generate(
  output: str | os.PathLike[str],
  *,
  size: str,
  seed: int,
  num_workers: int | None = None,
) -> dict:
  """Writes a set, or finishes one that was interrupted.

  The files depend on size and seed alone.

  Args:
    output: the directory; new, empty, or from the same arguments.
    size: a name of `layout.SIZES`.
    seed: any number from 0 up.
    num_workers: processes; None for one per core.

  Returns:
    What the marker file says: size, seed, version and counts.

  Raises:
    UserError: the size is unknown, or the output holds something else or
      cannot be written.
  """
  splits = layout.plan(size)
  if seed < 0:
    raise errors.UserError(f"--seed={seed}: must not be negative")
  if num_workers is not None and num_workers < 1:
    raise errors.UserError(f"--num_workers={num_workers}: must be at least 1")
  request = {"size": size, "seed": seed, "version": VERSION}
  summary = {**request, "domains": _count(splits)}
  output = pathlib.Path(output)
  try:
    if _is_complete(output, request):
      _LOG.info("%s is complete already; nothing to do", output)
      return summary
    _write_json(output / _REQUEST, request)
    _render_all(output, splits, seed=seed, num_workers=num_workers)
    _write_info_files(output, splits)
    _write_json(output / MARKER, summary)
  except OSError as e:
    raise errors.UserError(
      f"--output={output}: cannot be written ({e.strerror}); choose a "
      "directory on a disk with space where you may write"
    ) from e
  return summary


def _is_complete(output, request):
  """Whether the set is there; makes the directory where there is none."""
  output.mkdir(parents=True, exist_ok=True)
  if all(path.name.endswith(_PART) for path in output.iterdir()):
    return False
  for name in (MARKER, _REQUEST):
    if (output / name).is_file():
      found = _read_request(output / name)
      if found == request:
        return name == MARKER
      raise errors.UserError(
        f"--output={output}: holds a set made with {_words(found)}, not "
        f"{_words(request)}; delete it or choose another directory"
      )
  raise errors.UserError(
    f"--output={output}: is not empty and holds no set of this program; "
    "choose another directory"
  )


def _read_request(path):
  """The arguments that made a set."""
  try:
    content = json.loads(path.read_text())
    return {key: content[key] for key in ("size", "seed", "version")}
  except (ValueError, KeyError, TypeError):
    return {}


def _words(request):
  """Arguments in words."""
  return ", ".join(f"{k} {v}" for k, v in request.items()) or "unknown settings"


def _render_all(output, splits, *, seed, num_workers):
  """Renders every image that is not there yet."""
  jobs = list(_missing(output, splits))
  chunks = [jobs[i : i + _CHUNK] for i in range(0, len(jobs), _CHUNK)]
  workers = min(num_workers or cpus.count(), max(len(chunks), 1))
  work = functools.partial(_render_chunk, str(output), seed)
  _LOG.info("drawing %d images with %d processes", len(jobs), workers)
  if workers == 1:
    _follow(map(work, chunks), len(jobs))
    return
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
    _follow(pool.map(work, chunks), len(jobs))


def _follow(done: Iterator[int], total: int) -> None:
  """Waits for the chunks and says every few seconds how far they are."""
  start = last = time.monotonic()
  count = 0
  for number in done:
    count += number
    now = time.monotonic()
    if now - last > 5 or count == total:
      speed = count / max(now - start, 1e-6)
      _LOG.info("%d of %d images, %.0f a second", count, total, speed)
      last = now


def _missing(output, splits) -> Iterator[Job]:
  """Images to render, each once."""
  seen = set()
  for domain, images_of in splits.items():
    for images in images_of.values():
      for image in images:
        if image.path not in seen:
          seen.add(image.path)
          if not (output / "images" / image.path).is_file():
            yield domain, image


def _render_chunk(output: str, seed: int, jobs: list[Job]) -> int:
  """Renders some images; returns how many."""
  for domain, image in jobs:
    rng = _rng(seed, domain, _IMAGE, image.class_ids[0], image.number)
    kinds = [_sample_class(domain, c, seed) for c in image.class_ids]
    content = photo.encode(photo.render(domain, kinds, rng), rng)
    path = pathlib.Path(output, "images", image.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, content)
  return len(jobs)


def _sample_class(domain, class_id, seed):
  """What a class looks like."""
  rng = _rng(seed, domain, _CLASS, class_id, 0)
  return photo.GENERATORS[domain].sample(rng)


def _rng(seed, domain, stream, class_id, number):
  """The random numbers of one class or image; no others depend on them."""
  place = domains.UNED_NAMES.index(domain)
  return np.random.default_rng([seed, place, stream, class_id, number])


def _write_info_files(output, splits):
  """Writes info_files/<domain>/<split>.json."""
  for domain, images_of in splits.items():
    for split, images in images_of.items():
      entries = [
        {
          "path": image.path,
          "class_id": image.class_ids[0]
          if len(image.class_ids) == 1
          else list(image.class_ids),
        }
        for image in images
      ]
      _write_json(output / "info_files" / domain / f"{split}.json", entries)


def _count(splits):
  """Images of every split and training classes of every domain."""
  return {
    domain: {
      "train_classes": len({i.class_ids[0] for i in images_of["train"]}),
      **{split: len(images) for split, images in images_of.items()},
    }
    for domain, images_of in splits.items()
  }


def _write_json(path, content):
  """Writes a JSON file atomically."""
  path.parent.mkdir(parents=True, exist_ok=True)
  _replace(path, (json.dumps(content, indent=1) + "\n").encode())


def _replace(path: pathlib.Path, content: bytes) -> None:
  """Writes a file that is there whole or not at all."""
  part = path.with_name(path.name + _PART)
  part.write_bytes(content)
  os.replace(part, path)
