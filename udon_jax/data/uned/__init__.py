"""UnED as a data set of TensorFlow Datasets.

The builder lies in `uned_dataset_builder`, and importing it registers it. Not
imported here: `tfds build udon_jax/data/uned` imports it under another name,
and it may be registered once only.
"""
