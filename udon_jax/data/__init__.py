"""tf.data pipelines, records and the data sets; TensorFlow lives only here."""

import os

# Read when TensorFlow is first imported: the same float kernels on every
# machine.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
