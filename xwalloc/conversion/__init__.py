"""Whole archives: sources of many kinds into one store, on a Dask cluster."""
