"""Embedding a folder of any size: the job, what it has done, its output."""
