"""Data by address (s3, gs, hf, http): copies on this machine that are kept equal to a store while a command runs.

Every stage reads and writes folders of whole files, which appear atomically and are left alone where they are there. So
an input is fetched before the command starts, and what appears in its output is sent as it appears, whole files in the
order in which they were written: a run that was killed, or whose store was, goes on with the same command, from any
machine. Copies lie in the user's cache folder under the same names as in the store; what has not changed there is not
fetched again.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from retrodict.files import write_atomic, write_json

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

T = TypeVar("T")

OUT = "out"  # the parameter of a command that names what it writes
SCHEMES = ("s3", "gs", "hf", "http", "https")
PATIENCE = 300.0  # seconds for which a store that does not answer is asked again
EVERY = 3.0  # seconds between looks at what has appeared
_WIDTH = 8  # files under way at a time
_ADDRESS = re.compile(r"([a-z][a-z0-9+]+):/{1,2}([^/].*)")  # paths lose one of the two slashes
# What Arrow says of a store that is down, in words: of anything else another try gets the same.
_DOWN = re.compile(
    r"NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|curlCode|HTTP response code: 5|"
    r"timed out|Timeout|[Cc]onnect|temporarily",
)


def address_of(value: object) -> str:
    """The address that a path or a name is; empty where it is none.

    Raises:
        ValueError: It is one of a kind that is not read.
    """
    if not isinstance(value, (str, Path)):
        return ""
    parts = _ADDRESS.fullmatch(str(value))
    if parts is None or (isinstance(value, str) and parts[1] not in ("s3", "gs", "hf")):  # else an endpoint, a page
        return ""
    if parts[1] not in SCHEMES:
        raise ValueError(f"{parts[1]}://{parts[2]} is an address of a kind that is not read: {', '.join(SCHEMES)} are.")
    return f"{parts[1]}://{parts[2].rstrip('/')}"


@contextmanager
def on_this_machine(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A command's arguments with folders on this machine in place of addresses, while it runs.

    Args:
        given: Arguments by name. Paths, lists of paths and names of models may be addresses; `out` is written.

    Raises:
        ValueError: There is nothing at an address, it cannot be written, or the store does not answer any more. What
            was made is kept, and the same command goes on.
    """
    local = dict(given)
    output = None
    for name, value in given.items():
        if isinstance(value, list):
            local[name] = [_fetched(one) for one in value]
        elif name != OUT:
            local[name] = _fetched(value)
        elif address := address_of(value):
            if address.startswith("http"):
                raise ValueError(f"{address}: nothing is written to http addresses; give one of s3, gs or hf.")
            output = Mirror(address)
            local[name] = output.folder
    with nullcontext() if output is None else output.kept():
        yield local


def _fetched(value: T) -> T | Path:
    address = address_of(value)
    if not address:
        return value
    mirror = Mirror(address)
    mirror.fetch()
    return mirror.folder


class _State(NamedTuple):
    """Of a file at both ends, when they were last equal: sizes in bytes, times in nanoseconds."""

    here: tuple[int, int]
    there: tuple[int, int]


class Mirror:
    """A folder or a file in a store, and its copy on this machine."""

    def __init__(self, address: str) -> None:
        self.address = address
        scheme, _, name = address.partition("://")
        if ".." in name.split("/"):
            raise ValueError(f"{address}: give an address without '..'.")
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retrodict" / "remote"
        self.folder = cache / scheme / name
        self._record = cache / ".state" / scheme / f"{name}.json"
        self._store, self._root = _open(scheme, name)
        self._known: dict[str, _State] = {}
        if self._record.is_file():
            self._known = {
                name: _State(*map(tuple, pair)) for name, pair in json.loads(self._record.read_text()).items()
            }

    def fetch(self) -> None:
        """Make the copy what the store has. Raises `ValueError` where that is nothing."""
        if self._pull() == 0:
            raise ValueError(f"{self.address} does not exist, or holds no files.")

    @contextmanager
    def kept(self) -> Iterator[None]:
        """While the block runs, the copy is a command's output: what appears there is sent; what others send comes."""
        self._pull()
        self.folder.mkdir(parents=True, exist_ok=True)
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(EVERY):
                with suppress(ValueError, OSError):  # a store that is down now is asked again
                    self._push()
                    self._pull(new_only=True)

        watcher = threading.Thread(target=watch, name="remote", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            self._patiently(self._settle)

    def _pull(self, new_only: bool = False) -> int:
        """Fetch what has changed in the store, and forget what is gone there; how many files it holds."""
        there = self._patiently(self._listed)
        changed = []
        for name, info in there.items():
            file, known = self._file(name), self._known.get(name)
            if new_only and (known is not None or file.exists()):
                continue
            unsent = known is not None and file.exists() and _here(file) != known.here
            if not unsent and (known is None or known.there != _there(info) or not file.exists()):
                changed.append((name, info))
        with ThreadPoolExecutor(_WIDTH) as pool:
            for name, info in pool.map(lambda one: (one[0], self._get(*one)), changed):
                self._known[name] = _State(_here(self._file(name)), info)
        if not new_only:
            for name in [name for name in self._known if name not in there]:
                self._file(name).unlink(missing_ok=True)
                del self._known[name]
        if changed:
            self._save()
            size = sum(info.size or 0 for _, info in changed)
            _log(f"{self.address}: {len(changed):,} files fetched ({size / 1e6:,.1f} MB)")
        return len(there)

    def _get(self, name: str, info: FileInfo) -> tuple[int, int]:
        file = self._file(name)

        def write(temporary: Path) -> None:
            with self._store.open_input_stream(info.path) as source, temporary.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)

        def get() -> None:
            write_atomic(file, write)
            if info.size is not None and file.stat().st_size != info.size:
                file.unlink()
                raise OSError(f"Connection broke: {file.name} has arrived in part")

        self._patiently(get)
        there = _there(info)
        os.utime(file, ns=(there[1], there[1]))  # files are known by their times
        return there

    def _push(self) -> None:
        """Send what is new or has changed here, oldest first, and take away what is gone."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and not self._is_hidden(path)]
        here = {path.relative_to(self.folder).as_posix(): _here(path) for path in files}
        changed = [n for n, state in here.items() if n not in self._known or self._known[n].here != state]
        for name in sorted(changed, key=lambda name: here[name][1]):
            path = f"{self._root}/{name}"
            with self._file(name).open("rb") as source, self._store.open_output_stream(path) as target:
                shutil.copyfileobj(source, target, 1 << 20)
            self._known[name] = _State(here[name], _there(self._store.get_file_info(path)))
            self._save()
        for name in [name for name in self._known if name not in here]:
            with suppress(FileNotFoundError):
                self._store.delete_file(f"{self._root}/{name}")
            del self._known[name]
            self._save()

    def _settle(self) -> None:
        """Send what is left, and again what the store has lost since it confirmed it."""
        self._push()
        there = self._listed()
        sizes = {name: info.size for name, info in there.items()}
        for name in [name for name, state in self._known.items() if sizes.get(name) != state.here[0]]:
            del self._known[name]
        self._push()

    def _listed(self) -> dict[str, FileInfo]:
        """The files of the store by name; of a file's own address, the one without a name."""
        from pyarrow.fs import FileSelector, FileType

        at = self._store.get_file_info(self._root)
        if at.type == FileType.File:
            return {"": at}
        if at.type == FileType.NotFound:
            return {}
        infos = self._store.get_file_info(FileSelector(self._root, recursive=True))
        files = [info for info in infos if info.type == FileType.File]
        root = self._root.rstrip("/") + "/"
        return {info.path.removeprefix(root): info for info in files}

    def _file(self, name: str) -> Path:
        return self.folder / name if name else self.folder

    def _is_hidden(self, path: Path) -> bool:
        return any(part.startswith(".") for part in path.relative_to(self.folder).parts)

    def _save(self) -> None:
        write_json(self._record, self._known)

    def _patiently(self, act: Callable[[], T]) -> T:
        """Do it again while the store is down, for `PATIENCE`."""
        until, wait = time.monotonic() + PATIENCE, 0.2
        while True:
            try:
                return act()
            except (OSError, ConnectionError) as error:
                said = " ".join(str(error).split())[:300]
                if not _DOWN.search(said):
                    raise ValueError(f"{self.address} cannot be read or written: {said}") from None
                if time.monotonic() > until:
                    raise ValueError(f"{self.address} does not answer ({said}): the same command goes on.") from None
                time.sleep(wait)
                wait = min(2 * wait, 10.0)


def _open(scheme: str, name: str) -> tuple[FileSystem, str]:
    """The store of an address, and the path in it."""
    from pyarrow import fs

    if scheme == "s3":
        given = {key: os.environ.get(key) for key in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")}
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        endpoint = next(filter(None, given.values()), None)
        if region is None and endpoint is None:
            region = fs.resolve_s3_region(name.split("/", maxsplit=1)[0])
        options = {"endpoint_override": endpoint, "region": region, "connect_timeout": 5, "request_timeout": 60}
        few = fs.AwsStandardS3RetryStrategy(max_attempts=2)  # `Mirror` is patient
        chosen = {key: value for key, value in options.items() if value is not None}
        # Small files are one request, not the three of an upload in parts.
        return fs.S3FileSystem(**chosen, retry_strategy=few, allow_delayed_open=True), name
    if scheme == "gs":
        return fs.GcsFileSystem(), name
    try:
        import fsspec

        opened = fsspec.filesystem(scheme)
    except ImportError:
        raise ImportError(f"{scheme}:// needs: pip install 'retrodict[remote]'") from None
    return fs.PyFileSystem(fs.FSSpecHandler(opened)), f"{scheme}://{name}" if scheme.startswith("http") else name


def _here(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


def _there(info: FileInfo) -> tuple[int, int]:
    return info.size or 0, info.mtime_ns or 0


def _log(text: str) -> None:
    logging.getLogger("retrodict").warning("retrodict: %s", text)
