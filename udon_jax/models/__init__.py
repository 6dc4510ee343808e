"""Flax modules: the ViT, the projections and the UDON model."""
