"""*babyai*: rooms, missions and the scripted expert of BabyAI (package `minigrid`), a world that others wrote and keep.

The images are the engine's own, 7 x 7 tiles out of a finite set, so that a tile is an image token and any image can be
read back. What the agent carries is not in the image; an action that depends on it names it ("drop the red key").
"""
