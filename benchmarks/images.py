"""Photographs of a kind, and data directories of them, for benchmarks."""

from collections.abc import Sequence
import io
import json
import pathlib

import numpy as np
from PIL import Image

from udon_jax.data import jobs, layout, preparation


def photo(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
  """A JPEG of about the size of a photograph's: shapes, slopes and grain."""
  coarse = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
  image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
  grain = rng.normal(0, 9, (size[1], size[0], 1))
  pixels = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
  return buffer.getvalue()


def write_data(
  root: pathlib.Path,
  names: Sequence[str],
  *,
  num_images: int,
  size: tuple[int, int],
  store: str,
) -> None:
  """Makes a data directory: 32 different images again and again."""
  rng = np.random.default_rng(0)
  photos = [photo(rng, size) for _ in range(32)]
  for name in names:
    for split in ("train", "val", "test"):
      count = num_images if split == "train" else 4
      entries = []
      for i in range(count):
        path = f"{name}/{split}{i}.jpg"
        file = root / "images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(photos[i % 32])
        entries.append({"path": path, "class_id": i % 4})
      info = root / "info_files" / name / f"{split}.json"
      info.parent.mkdir(parents=True, exist_ok=True)
      info.write_text(json.dumps(entries))
  preparation.prepare(
    layout.find(root),
    domain_names=names,
    options=jobs.Options(num_shards=4, num_workers=2, seed=0, store=store),
  )
