"""Readers of weights made elsewhere: file -> our parameter tree."""
