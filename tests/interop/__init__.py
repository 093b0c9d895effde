"""With the real packages of other frameworks, in environments of their own: make test-interop."""
