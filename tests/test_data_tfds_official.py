"""What TensorFlow Datasets itself asks of a data set."""

import tempfile

import pytest
import tensorflow_datasets as tfds

from udon_jax.data import synthetic
from udon_jax.data.uned import uned_dataset_builder

pytestmark = pytest.mark.slow
pytest.importorskip("dill")  # its tests need it, and do not bring it


class BuilderTest(tfds.testing.DatasetBuilderTestCase):
  """Builds, reads and reloads a config; looks at name, tags and overlaps."""

  DATASET_CLASS = uned_dataset_builder.Builder
  BUILDER_CONFIG_NAMES_TO_TEST = ("cars",)
  SPLITS = {"train": 14, "val": 6, "test": 8}  # noqa: RUF012

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.EXAMPLE_DIR = cls.enterClassContext(tempfile.TemporaryDirectory())
    synthetic.generate(cls.EXAMPLE_DIR, size="smoke", seed=0, num_workers=1)
