"""Where a run lies: a local folder, or an address of an object store (``s3://bucket/run``).

``ObjectPath`` is the part of ``pathlib.Path`` that runs need, over pyarrow's filesystems. Of an
object store one can read, list, replace and delete whole objects; there are no folders and no
renaming, and what was replaced is seen at once, whole.
"""

import contextlib
import errno
import hashlib
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple, TypeVar

import pyarrow as pa
from pyarrow import fs

from study.errors import StudyError

SCHEMES: Final = ("s3", "gs")
AT_ONCE: Final = 16
"""Requests to an object store at a time."""
PATIENCE: Final = 60.0
"""Seconds for which a store that does not answer is asked again."""
LFS: Final = b"version https://git-lfs"
REASONS: Final = {
    "nosuchbucket": "there is no such bucket; create it or fix the address",
    "expiredtoken": "the credentials have expired; renew them",
    "invalidaccesskeyid": "the access key is unknown there; check the credentials",
    "invalidclienttokenid": "the access key is unknown there; check the credentials",
    "signaturedoesnotmatch": "the secret key is wrong; check the credentials",
    "accessdenied": "access is denied; check the credentials and what they allow",
    "permissiondenied": "access is denied; check the credentials and what they allow",
    "unauthenticated": "there are no credentials; give those of the cloud",
    "requesttimetooskewed": "this machine's clock is wrong; set it by NTP",
}
"""Part of an error of a store that asking again does not fix -> what it means.

Stores write them in capitals or not, with underscores or without: here they are without.
"""
Result = TypeVar("Result")


class StoreError(OSError):
    """An object store does not do what it is asked, which no trial is to blame for."""


class Stat(NamedTuple):
    """What is known of an object: bytes, and seconds since 1970 by the store's clock."""

    st_size: int
    st_mtime: float


Known = dict[str, Stat | None]
"""Key -> what a listing said of an object, or None of what would be a folder."""


@dataclass(order=True, unsafe_hash=True, repr=False)
class ObjectPath:
    """A place in an object store; ``/`` and the methods are those of ``pathlib.Path``.

    Args:
        scheme: Of the address.
        filesystem: Of pyarrow.
        key: Bucket and key.
        known: A listing from which to answer what is there, instead of asking the store.
        patience: Seconds for which the store is asked again if it does not answer.
    """

    scheme: str
    filesystem: fs.FileSystem = field(compare=False)
    key: str
    known: Known | None = field(default=None, compare=False)
    patience: float = field(default=PATIENCE, compare=False)

    def __post_init__(self) -> None:
        pure = PurePosixPath(self.key)
        self.name, self.stem, self.suffix = pure.name, pure.stem, pure.suffix

    def __str__(self) -> str:
        return f"{self.scheme}://{self.key}"

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __reduce__(self) -> Any:
        return any_path, (str(self),)

    def __truediv__(self, name: str) -> "ObjectPath":
        return replace(self, key=f"{self.key}/{name}")

    @property
    def parent(self) -> "ObjectPath":
        """The place above."""
        return replace(self, key=self.key.rpartition("/")[0])

    def within(self, seconds: float) -> "ObjectPath":
        """Return this place with another patience."""
        return replace(self, patience=seconds)

    def listed(self) -> "ObjectPath":
        """Return this place as it is now: what is there is asked of the store once, for all."""
        return replace(self, known=self._list(self.key, True))

    def renewed(self) -> "ObjectPath":
        """Return this place as it is whenever it is asked."""
        return replace(self, known=None)

    def resolve(self) -> "ObjectPath":
        """Return itself: an address is absolute."""
        return self

    def mkdir(self, **options: Any) -> None:
        """Do nothing: there are no folders."""

    def stat(self) -> Stat:
        """Return size and time of the last change."""
        if (stat := self._stat()) is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self))
        return stat

    def exists(self) -> bool:
        """Tell whether there is such an object."""
        return self._stat() is not None

    def _stat(self) -> Stat | None:
        if self.known is not None:
            return self.known.get(self.key)
        return _stat_of(self._asked(lambda: self.filesystem.get_file_info(self.key)))

    def is_dir(self) -> bool:
        """Tell whether there are objects below."""
        if self.known is not None:
            return self.key in self.known and self.known[self.key] is None
        return any(True for _ in self.glob("*"))

    def read_bytes(self) -> bytes:
        """Return the whole content."""

        def read() -> bytes:
            with self.filesystem.open_input_stream(self.key) as stream:
                return bytes(stream.read())

        return self._asked(read)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the whole content as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes | pa.Buffer) -> None:
        """Replace the object."""

        def write() -> None:
            with self.filesystem.open_output_stream(self.key) as stream:
                stream.write(content)

        self._asked(write)

    def write_text(self, content: str) -> None:
        """Replace the object."""
        self.write_bytes(content.encode())

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""
        try:
            self._asked(lambda: self.filesystem.delete_file(self.key))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmtree(self) -> None:
        """Remove every object below."""
        with contextlib.suppress(FileNotFoundError):
            self._asked(lambda: self.filesystem.delete_dir(self.key))

    def glob(self, pattern: str) -> Iterator["ObjectPath"]:
        """Yield the places that match, objects and what would be folders."""
        fixed, *rest = pattern.split("/")
        at = self
        while rest and "*" not in fixed:
            at, (fixed, *rest) = at / fixed, rest
        depth = len(self.key.split("/")) + len(pattern.split("/"))
        # Google's answer has no folders: they are found by what lies in them.
        deep = bool(rest) or self.scheme == "gs"
        for key in at._list(at.key, deep) if self.known is None else self.known:
            if (
                key.startswith(f"{at.key}/")
                and len(key.split("/")) == depth
                and PurePosixPath(key).match(pattern)
            ):
                yield replace(self, key=key)

    def _list(self, key: str, recursive: bool) -> Known:
        selector = fs.FileSelector(key, allow_not_found=True, recursive=recursive)
        found = self._asked(lambda: self.filesystem.get_file_info(selector))
        listed: Known = {}
        for info in found:
            above = info.path.rpartition("/")[0]
            while len(above) > len(key) and above not in listed:
                listed[above] = None
                above = above.rpartition("/")[0]
            listed[info.path] = _stat_of(info)
        return listed

    def _asked(self, request: Callable[[], Result]) -> Result:
        """Return the answer of the store, asked again for a while if it gives none.

        Raises:
            StoreError: With the address, and in ``strerror`` what it means and the remedy.
        """
        start, pause = time.monotonic(), 1.0
        while True:
            try:
                return request()
            except FileNotFoundError:
                raise FileNotFoundError(errno.ENOENT, "no such object", str(self)) from None
            except (OSError, pa.ArrowException) as error:
                text = " ".join(str(error).split())
                plain = text.replace("_", "").lower()
                why = next((means for part, means in REASONS.items() if part in plain), None)
                if why is None and time.monotonic() - start + pause < self.patience:
                    time.sleep(pause)
                    pause *= 2
                    continue
                said = why or f"the store does not answer as it should ({text[:200]})"
                raise StoreError(errno.EIO, said, str(self)) from None


def _stat_of(info: fs.FileInfo) -> Stat | None:
    return Stat(info.size, info.mtime_ns / 1e9) if info.type == fs.FileType.File else None


AnyPath = Path | ObjectPath


def local_path(given: str | Path) -> Path:
    """Return a path of this machine; ``~`` is the home, which no shell sees in ``--out=~/x``."""
    return Path(os.path.expanduser(given))


def _encodable(path: Path) -> Path:
    """Refuse a path that Ray and pyarrow cannot take: its bytes are no text in this locale."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        raise StudyError(
            f"{path.absolute()}: a path must be UTF-8, but has letters that are not, or that the "
            "locale lacks; rename it, or set PYTHONUTF8=1"
        ) from None
    return path


def any_path(address: str | Path) -> AnyPath:
    """Return the place of an address: ``s3://``, ``gs://``, or a path.

    Raises:
        StudyError: When the address cannot be understood.
    """
    scheme, separator, rest = str(address).partition("://")
    if not separator and str(address).startswith(tuple(f"{known}:" for known in SCHEMES)):
        raise StudyError(f"{address}: an address begins with two slashes, as s3://; fix it")
    if not separator:
        return _encodable(local_path(address))
    key = rest.strip("/")
    if {"?", "@"} & set(key):
        raise StudyError(
            f"{scheme}://…: an address must have neither options nor a user, as it is kept with "
            "the run; give them in the environment (AWS_ENDPOINT_URL, AWS_PROFILE)"
        )
    if scheme not in SCHEMES or not key or "//" in key:
        raise StudyError(
            f"{address}: an address must be a path, or "
            f"{' or '.join(f'{known}://BUCKET/NAME' for known in SCHEMES)}; fix it"
        )
    try:
        return ObjectPath(scheme, _filesystem(scheme, key.partition("/")[0]), key)
    except (OSError, pa.ArrowException) as error:
        raise StudyError(
            f"{address}: cannot be opened ({' '.join(str(error).split())}); check the network and "
            "the credentials"
        ) from None


@cache
def _filesystem(scheme: str, bucket: str) -> fs.FileSystem:
    # One request for a small object instead of three.
    options = "?allow_delayed_open=true" if scheme == "s3" else ""
    return fs.FileSystem.from_uri(f"{scheme}://{bucket}/{options}")[0]


def open_for_arrow(at: AnyPath) -> Any:
    """Return what pyarrow reads Parquet from."""
    return at if isinstance(at, Path) else pa.BufferReader(at.read_bytes())


def stand_in(at: ObjectPath) -> Path:
    """Return the file, among this machine's temporary ones, that is written in place of an object.

    A process that crashes can no more write to a store.
    """
    name = hashlib.sha256(str(at).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"escape-study-{os.getuid()}-{name}")


def is_lfs_pointer(at: AnyPath) -> bool:
    """Tell whether a file is what a clone without Git LFS has in its place."""
    if not isinstance(at, Path) or not at.is_file():
        return False
    with at.open("rb") as file:
        return file.read(len(LFS)) == LFS


def write_atomically(at: AnyPath, content: bytes | pa.Buffer, lasting: bool = False) -> None:
    """Write a file so that no reader finds half of it; a lasting one survives a loss of power."""
    if isinstance(at, ObjectPath):
        at.write_bytes(content)
        return
    temporary = at.with_name(f".{at.name[:30]}-{uuid.uuid4().hex}")  # No name is too long so.
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(at)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def map_paths(function: Callable[[AnyPath], Result], places: Iterable[AnyPath]) -> Iterator[Result]:
    """Yield the results in order; of an object store many are asked for at a time."""
    found = list(places)
    if not found or isinstance(found[0], Path):
        yield from map(function, found)
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(function, found)
