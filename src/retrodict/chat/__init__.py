"""Chat models: what they are sent, how they are reached, what their answers say."""

from typing import Literal

Detail = Literal["auto", "low", "high"]  # how closely an OpenAI model looks at images
