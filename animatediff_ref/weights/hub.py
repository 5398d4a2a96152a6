"""Files from the Hugging Face hub, fetched where a loader is given the hub's name of one."""

from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from animatediff_ref.weights.tensors import ADAPTER_WEIGHTS

SUFFIXES = (".safetensors", ".ckpt", ".bin", ".pt", ".pth")  # of files of weights


def fetched(name: str | Path, path: Path) -> Path:
    """``path``, to which ``name`` led, or if nothing is there, what the hub has under that name, downloaded once.

    Names of the hub are ``owner/name``, the folder of a diffusers ``MotionAdapter``, and ``owner/name/file.ckpt``; what
    begins with a dot or with a folder that is here is a path. ``ValueError`` if the hub has no such file, or is out of
    reach.
    """
    is_path = path.is_absolute() or len(path.parts) < 2 or str(name).startswith(".")
    if is_path or path.exists() or Path(path.parts[0]).exists():
        return path
    repository, file = "/".join(path.parts[:2]), "/".join(path.parts[2:])
    if (path.suffix in SUFFIXES) != bool(file):
        return path
    try:
        if file:
            return Path(hf_hub_download(repository, file))
        _fetch_weights(repository)
        return Path(hf_hub_download(repository, "config.json")).parent
    except (OSError, EntryNotFoundError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"there is no file {path} here, and none to be had from the hub: {reason}") from error


def _fetch_weights(repository: str) -> None:
    """Fetch the weights of a ``MotionAdapter`` from a repository, under the first name that it has."""
    for ending in (".safetensors", ".fp16.safetensors", ".bin"):
        try:
            hf_hub_download(repository, ADAPTER_WEIGHTS + ending)
            return
        except EntryNotFoundError as error:
            missing = error
    raise missing
