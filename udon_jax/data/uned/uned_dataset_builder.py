"""UnED as a data set of TensorFlow Datasets, made from info files and images.

  tfds build udon_jax/data/uned --config=cars --manual_dir=DIR --data_dir=OUT

A config is a domain. Nothing is downloaded; image files are stored unchanged.
"""

from collections.abc import Mapping
import importlib.util
import re
from typing import Any

from etils import epath
import numpy as np
import tensorflow_datasets as tfds

from udon_jax import domains, errors
from udon_jax.data import counts, info, layout, notes
from udon_jax.data.uned import rows

_HOMEPAGE = "https://cmp.felk.cvut.cz/univ_emb/"
_LICENSE = (
  "The images belong to their owners; they come from eight data sets, each with"
  " a licence and terms of use of its own, which hold here too."
)
_INSTRUCTIONS = """
manual_dir is a folder with the lists and the images of UnED:

  info_files/<domain>/<split>.json    images of a split, and their classes
  images/<path>                       the images, <path> as in the lists

The lists come with UnED, "Towards Universal Image Embeddings" (ICCV 2023); its
project page is https://cmp.felk.cvut.cz/univ_emb/. The images are those of
eight data sets, to be had from their owners: CARS196 (cars), Stanford Online
Products (sop), DeepFashion In-shop Clothes Retrieval (inshop), iNaturalist 2018
(inat), The Met (met), Google Landmarks v2 (gldv2), Food2K (food2k) and RP2K
(rp2k). A config needs the lists and images of its own domain alone.
"""
_NUM_CLASSES = "num_classes"
_SPLIT_NAME = re.compile(r"\w+")


class Builder(tfds.core.GeneratorBasedBuilder):
  """Builds a domain of UnED, or one of the user's own.

  A domain of one's own has lists under `info_files/<name>/`, and all of them
  become splits: `Builder(config=tfds.core.BuilderConfig(name="mine"))`, or
  `--config='{"name": "mine"}'` for `tfds build`.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "The eight domains of UnED."}  # noqa: RUF012
  MANUAL_DOWNLOAD_INSTRUCTIONS = _INSTRUCTIONS
  # `tfds build` without --config builds all of them, `tfds.load` the first.
  BUILDER_CONFIGS = [  # noqa: RUF012
    tfds.core.BuilderConfig(
      name=name, description=f"The domain {name} of UnED."
    )
    for name in domains.UNED_NAMES
  ]
  # Found by itself only where importlib_resources happens to be installed.
  code_path = epath.Path(__file__)

  def __init__(
    self,
    *,
    data_check: str | None = None,
    beam: bool | None = None,
    **kwargs: Any,
  ):
    """Prepares a builder.

    Args:
      data_check: "uned" makes other counts than those of UnED's table an error;
        None tells of them in the log.
      beam: whether examples are generated through Apache Beam; None where the
        configuration of the download names a runner or options of a pipeline.
        Beam's own runner holds a whole split in memory, which a plain build
        never does.
      **kwargs: `data_dir`, `config`, `version` and `file_format`.
    """
    self._data_check, self._beam = data_check, beam
    self._with_beam = bool(beam)
    super().__init__(**kwargs)
    # A copy in another process is made from these.
    self._original_state |= {"data_check": data_check, "beam": beam}

  def _info(self) -> tfds.core.DatasetInfo:
    """Returns what is known before the data is read."""
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(
            shape=(None, None, 3), doc="The file as it is; decoded to RGB."
          ),
          "class_id": tfds.features.Sequence(
            np.int64,
            doc="One class of a training image, one or more of the others.",
          ),
          "key": tfds.features.Text(doc="Path of the image in the info file."),
        }
      ),
      supervised_keys=("image", "class_id"),
      homepage=_HOMEPAGE,
      license=_LICENSE,
      # Evaluation: record i is entry i of the info file, as a row of
      # descriptors is. Training: `rows` shuffles.
      disable_shuffling=True,
      metadata=tfds.core.MetadataDict(_protocols(self._domain)),
    )

  @property
  def _domain(self) -> str:
    return self.builder_config.name

  def download_and_prepare(self, **kwargs: Any) -> None:
    """Builds what is not built; see the base class.

    Raises:
      UserError: lists or images are missing or damaged, or counts are not
        UnED's, also of what was built before.
    """
    if self._data_check and self.is_prepared():
      there = self.data_path
      self._check_counts(
        layout.Layout(there, there, there),
        {name: split.num_examples for name, split in self.info.splits.items()},
        self.info.metadata.get(_NUM_CLASSES),
      )
    super().download_and_prepare(**kwargs)

  def _download_and_prepare(
    self,
    dl_manager: tfds.download.DownloadManager,
    download_config: tfds.download.DownloadConfig,
  ) -> None:
    """Builds all splits, once it is clear whether through Beam."""
    asked = download_config.beam_runner or download_config.beam_options
    with_beam = bool(asked) if self._beam is None else self._beam
    if with_beam and importlib.util.find_spec("apache_beam") is None:
      raise errors.UserError(
        "apache_beam is not installed; install the extra `beam`, or build"
        " without it (beam=False, no options of a pipeline)"
      )
    self._with_beam = with_beam
    super()._download_and_prepare(dl_manager, download_config)

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Any]:
    """Returns the examples of all splits.

    Raises:
      UserError: lists or images are missing, or counts are not UnED's.
    """
    place = notes.with_images(
      layout.find(dl_manager.manual_dir, key="manual_dir"), self._domain
    )
    names = _splits(place, self._domain)
    found = {
      split: info.read_info(place.info_file(self._domain, split), split=split)
      for split in names
    }
    trained = found.get(domains.TRAIN_SPLIT)
    if trained:
      self.info.metadata[_NUM_CLASSES] = trained.num_classes
    self._check_counts(
      place,
      {split: len(images.paths) for split, images in found.items()},
      trained.num_classes if trained else None,
    )
    if not self._with_beam:  # its workers look for themselves, in parallel
      rows.require_images(place, found)
    return {
      split: self._generate_examples(place, split, images)
      for split, images in found.items()
    }

  def _check_counts(
    self,
    place: layout.Layout,
    num_examples: Mapping[str, int],
    num_classes: int | None,
  ) -> None:
    """Compares the counts of splits and classes with UnED's table."""
    domain = self._domain
    counts.check(
      [place],
      num_examples={(domain, name): n for name, n in num_examples.items()},
      num_classes={domain: num_classes} if num_classes else {},
      data_check=self._data_check,
      key="data_check",
    )

  def _generate_examples(
    self, place: layout.Layout, split: str, images: info.SplitInfo
  ) -> Any:
    """Returns keys and examples of a split, or a Beam transform to them."""
    if self._with_beam:
      return rows.transform(place, self._domain, split)
    return rows.examples(place, self._domain, split, images)


def _protocols(domain: str) -> dict[str, Any]:
  """Returns which split is searched by which, where it is settled."""
  if domain not in domains.UNED:
    return {}
  spec = domains.UNED[domain]
  return {
    split: {"query": protocol.query, "index": protocol.index}
    for split in domains.EVAL_SPLITS
    for protocol in (spec.protocol(split),)
  }


def _splits(place: layout.Layout, domain: str) -> tuple[str, ...]:
  """Returns the splits of a domain; those of UnED's are settled.

  Raises:
    UserError: a list is missing, or its name can be none of a split.
  """
  folder = place.info_files / domain
  if domain in domains.UNED:
    names = domains.UNED[domain].splits
  elif folder.is_dir():
    names = tuple(sorted(file.stem for file in folder.glob("*.json")))
  else:
    names = ()
  if not names:
    raise errors.UserError(
      f"{folder} holds no <split>.json; write the lists of the domain there, or"
      f" name one of {', '.join(domains.UNED_NAMES)}"
    )
  for name in names:
    file = place.info_file(domain, name)
    if not file.is_file():
      raise errors.UserError(
        f"{file} is missing; {domain} needs {', '.join(names)}: copy UnED's"
        f" lists into {place.info_files}"
      )
    if not _SPLIT_NAME.fullmatch(name) or name == "all":
      raise errors.UserError(
        f"{file}: {name!r} can be no name of a split for TensorFlow Datasets;"
        " rename it, with letters, digits and _ alone"
      )
  return names
