"""Predictions over HTTP: the API of image editors with verification behind it, and the playground (`docs/serve.md`)."""
