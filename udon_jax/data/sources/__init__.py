"""What users have: image folders, tables, data sets of TensorFlow Datasets.

A reader makes a `listing.Listing` of its source; `making` splits what nothing
has split; `importing` writes the info files that all else goes by.
"""
