"""Training of universal image embeddings by online distillation (UDON)."""

__version__ = "0.1.0"
