"""Tests with the real packages of other frameworks, each in a virtual environment of its own: make test-interop."""
