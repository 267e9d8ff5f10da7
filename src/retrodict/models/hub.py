"""Published weights from the model hub."""

from __future__ import annotations

from pathlib import Path

from retrodict.models.registry import Part
from retrodict.run_folder import RECORD, claim

TIMEOUT = 10  # seconds until a hub that does not answer is given up


def download(parts: tuple[Part, ...], out: Path | None) -> list[str]:
    """Fetch parts into a folder, or into the hub's cache; what is there already is not fetched again.

    Raises `ValueError` for a folder that something else wrote; one that was filled by hand and lacks nothing is fine.

    Returns what could not be fetched, a line each that says why and where it is.
    """
    if out is not None and ((out / RECORD).is_file() or not all(_is_there(part, out) for part in parts)):
        claim(out, "download", {"repositories": [part.repository for part in parts]})
    missing = []
    for part in parts:
        reason = _fetch(part, out)
        if reason:
            where = f" and put {', '.join(part.patterns)} into {out}" if out is not None else ""
            missing.append(f"{part.repository}: {reason}; get it from {part.page}{where}")
    return missing


def _fetch(part: Part, out: Path | None) -> str:
    """Why a part could not be fetched, or nothing."""
    from huggingface_hub import constants, get_session, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    if out is not None and _is_there(part, out):
        return ""
    # Also the errors of the HTTP library that the hub's client uses, whichever that is.
    network = (t for t in HfHubHTTPError.__mro__ if "HTTPError" in t.__name__ and issubclass(t, Exception))
    expected: tuple[type[Exception], ...] = (OSError, OfflineModeIsEnabled, HFValidationError, *network)
    try:
        if not constants.HF_HUB_OFFLINE:  # the client would ask a hub that does not answer for many minutes
            get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
        found = snapshot_download(
            part.repository,
            repo_type=part.kind,
            allow_patterns=list(part.patterns),
            local_dir=out,
            etag_timeout=TIMEOUT,
        )
    except expected as error:
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        return f"could not be fetched ({reason})"
    if not any(any(Path(found).rglob(pattern)) for pattern in part.patterns):
        return "holds none of the files that were looked for"
    return ""


def _is_there(part: Part, out: Path) -> bool:
    """Whether a folder holds a file of each pattern and nothing that was not finished."""
    unfinished = any((out / ".cache" / "huggingface").rglob("*.incomplete"))
    return not unfinished and all(any(out.glob(pattern)) for pattern in part.patterns)
