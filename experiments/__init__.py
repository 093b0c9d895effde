"""Entry points: configs in, run folders out."""
