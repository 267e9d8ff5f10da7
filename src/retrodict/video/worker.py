"""The process that mines clips for `pool.Worker`: reads pickled clips, writes pickled results, until its input ends.

It is its own program, not a fork: a crash in a codec takes it down alone, and no lock, thread or handle of the caller
comes along.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import sys
import time
from typing import IO, Any

HEADER = struct.Struct("<Q")  # length of the pickle that follows
TICK = b"tick"
_TICK_SECONDS = 0.5


def send(file: IO[bytes], message: object) -> None:
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    file.write(HEADER.pack(len(data)) + data)
    file.flush()


def receive(file: IO[bytes]) -> Any:
    """The next message, or None at the end of the input."""
    header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    return pickle.loads(file.read(HEADER.unpack(header)[0]))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to answer; it then closes our input
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not end up among the answers

    import av.logging

    from retrodict.video.clip_miner import process_clip

    av.logging.restore_default_callback()  # the Python callback takes locks inside codec threads
    av.logging.set_level(None)
    last = 0.0

    def tick() -> None:
        nonlocal last
        if (now := time.monotonic()) - last > _TICK_SECONDS:
            last = now
            send(answers, TICK)

    config = receive(requests)
    while (ref := receive(requests)) is not None:
        try:
            send(answers, process_clip(ref, config, tick))
        except BrokenPipeError:  # the caller is gone
            sys.exit(0)


if __name__ == "__main__":
    main()
