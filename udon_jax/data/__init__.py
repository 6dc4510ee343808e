"""tf.data pipelines, records and the data sets; TensorFlow lives only here."""
