"""Predictions measured: against true images and exact states, by judges, and against each other."""

from typing import Literal

L1Protocol = Literal["native-lanczos", "native-bicubic", "fixed512"]  # `metrics.l1` says what they are
Frames = Literal["best", "all"]  # what of a pool is judged: the chosen candidate, or every one

PUBLISHED = ("aurora", "bytemorph", "motionedit", "gedit", "imgedit")  # benchmarks that others made, by name
