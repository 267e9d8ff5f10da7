"""Commands that answer over HTTP: `retrodict serve` and `retrodict play`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retrodict.cli.app import verb
from retrodict.cli.options import Inverse, Many, Model, choice, runs_models
from retrodict.dynamics.verifiers import VERIFIERS
from retrodict.worlds import WORLDS

Chooses = Annotated[
    str,
    choice(
        ("", *VERIFIERS),
        help="What chooses the best candidates; by default `idm_fdm`, or `idm` for models without likelihoods.",
    ),
]
Shown = Annotated[
    str, choice(("", *WORLDS), help="World whose examples and actions the playground offers; by default the model's.")
]


@verb
@runs_models
def serve(
    model: Model = "small",
    inverse: Inverse = "",
    n: Many = 8,
    verifier: Chooses = "",
    world: Shown = "",
    host: Annotated[
        str, typer.Option(help="Address to listen on. The default is this machine only; 0.0.0.0 is the network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File of keys, one a line; each request must then bring one.")
    ] = None,
) -> None:
    """Answer `images.edit` of OpenAI's SDK with verified predictions, alone or in front of another image editor.

    Example: retrodict serve --model edits:some-editor@http://127.0.0.1:9000/v1 --inverse small
    """
    from retrodict.serve.server import serve as run

    run(
        model=model,
        inverse=inverse,
        n=n,
        verifier=verifier,
        world=world,
        host=host,
        port=port,
        key_file=api_key_file,
        say=typer.echo,
    )


@verb
@runs_models
def play(
    model: Model = "small",
    inverse: Inverse = "",
    n: Many = 8,
    verifier: Chooses = "",
    world: Shown = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 0,
) -> None:
    """Open the playground in the browser: pick or draw an image, say what happens, see what the model expects.

    Example: retrodict play
    """
    from retrodict.serve.server import serve as run

    run(model=model, inverse=inverse, n=n, verifier=verifier, world=world, port=port, browse=True, say=typer.echo)
