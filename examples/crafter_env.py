"""Crafter for Gymnasium, as an example of an engine that is none: what `retrodict collect` asks of an environment.

pip install crafter
retrodict collect crafter_env:Crafter-v0 --out crafter
"""

from typing import Any, ClassVar

import crafter
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Crafter(gymnasium.Env[np.ndarray, int]):
    """A reset by seed, a step, a frame, and names of the actions."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}
    observation_space = Box(0, 255, (64, 64, 3), np.uint8)

    def __init__(self, render_mode: str = "rgb_array") -> None:
        self.render_mode = render_mode
        self.action_space = Discrete(len(crafter.Env().action_names))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.env = crafter.Env(seed=seed)
        return self.env.reset(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, done, info = self.env.step(action)
        return observation, reward, done, False, info

    def render(self) -> np.ndarray:
        return self.env.render()

    def get_action_meanings(self) -> list[str]:
        return list(crafter.Env().action_names)


gymnasium.register("Crafter-v0", entry_point=Crafter)
