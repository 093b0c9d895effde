"""Notebooks, and what runs them without Jupyter."""
