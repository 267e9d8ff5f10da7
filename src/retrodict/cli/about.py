"""The command that describes the installation."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from retrodict.cli.app import verb


@verb
def info() -> None:
    """Print versions, the models that come with retrodict, and the threads in use; put this into a bug report."""
    import torch

    from retrodict.placement import chosen_device
    from retrodict.precision import matmul_precision
    from retrodict.versions import versions

    for name, version in versions().items():
        typer.echo(f"{name:24}{version}")
    typer.echo(f"{'device':24}{chosen_device()}")
    typer.echo(f"{'threads':24}{torch.get_num_threads()} of {os.cpu_count()} cores")
    dtype, reason = matmul_precision()
    typer.echo(f"{'precision':24}{str(dtype).removeprefix('torch.')} ({reason})")
    weights = Path(__file__).parent.parent / "weights"
    shipped = sorted(folder.name for folder in weights.glob("*") if folder.is_dir())
    typer.echo(f"{'shipped models':24}{', '.join(shipped) or 'none'}")
