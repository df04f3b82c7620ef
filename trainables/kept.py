"""A folder whose files are kept as objects in a bucket: brought here to be worked on, and put back.

A folder of a bucket's copy (`analysis.addresses`) is brought before work on it and kept after each
change. No lock of one machine is seen by another, and few are needed: but for times, what is in a
trial's folder is determined by its spec, and whoever works on it removes only objects of files that
it removed itself. An index beside the copy's folders tells which objects the files of this machine
are.

Objects come into being whole. Of several that belong together, those of a checkpoint, one is the
marker: put last, removed first, and without it the others are not there for anyone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from analysis.addresses import address_of, copy_around
from analysis.whole_files import PARTIAL, temporary_path
from trainables.bucket import file_system, is_local, make_folder, patiently, without_patience
from trainables.files import DAMAGED, read_or_set_aside, write_json

LOOK_SECONDS = 5.0
"""Between two looks for a mark in a bucket: each takes about as long as a step."""
AT_ONCE = 8
"""Objects that are brought or put together."""
_BLOCK = 8 * 2**20
_INDEX = ".kept"

Wanted = Callable[[str], bool]


@dataclass(frozen=True)
class Object:
    """What is known of an object, and of the file that it was brought to, or put from.

    Attributes:
        size: in bytes.
        changed: when it was put, in nanoseconds.
        file: when the file was changed, in nanoseconds; 0 where it is not on this machine.
    """

    size: int
    changed: int
    file: int = 0

    def is_as(self, other: Object) -> bool:
        """Whether nobody put it again."""
        return (self.size, self.changed) == (other.size, other.changed)


@dataclass(frozen=True)
class Listing:
    """The objects of a folder at a time, in nanoseconds."""

    objects: dict[str, Object]
    time: int


def everything(name: str) -> bool:
    """All that is in a folder is wanted."""
    return True


def without_weights(name: str) -> bool:
    """What a command looks at, and all of it small."""
    return not name.endswith(".safetensors")


class KeptFolder:
    """A folder of a bucket's copy.

    Args:
        folder: on this machine.
        marker: path in it of what marks a part as whole; its folder may have a `*`.
    """

    def __init__(self, folder: Path, marker: str = "") -> None:
        copy, address = copy_around(folder), address_of(folder)
        assert copy is not None
        assert address is not None
        self.folder, self.address = folder, address
        inside = folder.relative_to(copy)
        self._place = PurePosixPath(*inside.parts)
        self._marker = PurePosixPath(marker) if marker else None
        self._here: set[str] = set()
        """Files that were here when this process last brought or put them: one that is not there
        any more was removed by it, and not, years later, by who tidies the disk."""
        self._index = copy / _INDEX / f"{'='.join(inside.parts) or '='}.json"

    def bring(self, wanted: Wanted = everything, listing: Listing | None = None) -> None:
        """Make the wanted files of this machine those of the bucket.

        A file that was changed here and never put stays, unless the object was changed, too.

        Args:
            wanted: of each name, whether to bring it.
            listing: the bucket's objects, if they are known; not used if this machine has brought
                or put any since.

        Raises:
            OSError: the bucket does not answer, or does not let us.
        """
        with self._alone():
            if listing is not None and not self._was_changed(listing.time):
                objects = listing.objects
            else:
                objects = self._listed()
            try:
                self._bring(wanted, self._whole(objects))
            except FileNotFoundError:  # removed meanwhile: what takes its place is there by now
                self._bring(wanted, self._whole(self._listed()))

    def bring_once(self) -> None:
        """Bring all, unless the marker is here: nothing changes in such a folder.

        Raises:
            OSError: the bucket does not answer, or does not let us.
        """
        assert self._marker is not None
        with self._alone():
            if not (self.folder / self._marker).exists():
                self._bring(everything, self._whole(self._listed()))

    def bring_anew(self, part: str) -> None:
        """Bring the files of a part in place of what is here, which is damaged.

        Raises:
            OSError: the bucket does not answer, or does not let us.
        """
        with self._alone():
            known = self._known()
            kept_as_is = {name for name in known if not name.startswith(f"{part}/")}
            self._remember(known, {name: known[name].file for name in kept_as_is})
        self.bring(lambda name: name.startswith(f"{part}/"))

    def remove_unmarked(self) -> None:
        """Remove the parts that were never put to their end. Call it where nobody else puts any."""
        listed = self._listed()
        if left := [*(listed.keys() - self._whole(listed).keys())]:
            _together(self._remove_one, left)

    def put(self) -> None:
        """Make the bucket's objects the files of this machine, where these were changed.

        Raises:
            OSError: the bucket does not answer, or does not let us.
        """
        with self._alone():
            known, files = self._known(), self._files()
            new = [name for name, file in files.items() if not _is_same(known.get(name), file)]
            gone = [name for name in self._here if name in known and name not in files]
            self._here = {*files}
            if not (new or gone):
                return
            for wave in self._waves(new):
                _together(self._put_one, wave)
            for wave in reversed([*self._waves(gone)]):
                _together(self._remove_one, wave)
            listed = self._listed()
            self._check_put(new, files, listed)
            here = {name: files[name] for name in new}
            for name, each in known.items():
                if name in listed and name not in here and each.is_as(listed[name]):
                    here[name] = each.file
            self._remember(listed, here)

    def release(self) -> None:
        """Remove weights from this machine that the bucket has."""
        with self._alone():
            known, files = self._known(), self._files()
            here = [name for name in files if not without_weights(name)]
            here = [name for name in here if _is_same(known.get(name), files[name])]
            self._here.difference_update(here)
            self._remember(
                known, {name: each.file for name, each in known.items() if name not in here}
            )
            for name in here:
                (self.folder / name).unlink()

    def remove(self, unwanted: Wanted) -> None:
        """Remove files from the bucket, and from this machine.

        Args:
            unwanted: of each name, whether to remove it.

        Raises:
            OSError: the bucket does not answer, or does not let us.
        """
        with self._alone():
            for wave in reversed([*self._waves(filter(unwanted, self._listed()))]):
                _together(self._remove_one, wave)
            for name in filter(unwanted, self._files()):  # first: what is not known would be put
                self._here.discard(name)
                path = self.folder / name
                path.unlink()
                _remove_empty(path.parent, self.folder)
            known = {name: each for name, each in self._known().items() if not unwanted(name)}
            self._remember(known, {name: each.file for name, each in known.items()})

    def has(self, path: Path) -> bool:
        """Whether the bucket has had this file of the folder when it was last looked at."""
        return path.relative_to(self.folder).as_posix() in self._known()

    def has_now(self, name: str) -> bool:
        """Whether an object is there.

        Raises:
            OSError: the bucket does not answer, or does not let us.
        """
        from pyarrow import fs

        system, place = self._system()
        found = patiently(self.address, lambda: system.get_file_info(f"{place}/{name}"))
        return bool(found.type == fs.FileType.File)

    def mark(self, name: str, text: str = "") -> None:
        """Put a small object, by itself.

        Raises:
            OSError: the bucket does not answer, or does not let us.
        """
        system, place = self._system()

        def write() -> None:
            make_folder(system, place)
            with system.open_output_stream(f"{place}/{name}") as stream:
                stream.write((text or "-").encode())

        patiently(self.address, write)

    def read_mark(self, name: str) -> str | None:
        """The text of such an object; None if there is none."""
        system, place = self._system()

        def read() -> str | None:
            try:
                with system.open_input_stream(f"{place}/{name}") as stream:
                    return str(stream.read().decode())
            except FileNotFoundError:
                return None

        return patiently(self.address, read)

    def remove_mark(self, name: str) -> None:
        """Remove such an object, if it is there."""
        self._remove_one(name)

    def size(self) -> int:
        """Bytes of all objects in the folder.

        Raises:
            OSError: the bucket does not answer, or does not let us.
        """
        return sum(each.size for each in self._listed().values())

    def listed_below(self) -> dict[str, Listing]:
        """The objects of each folder in this one, by the folders' names."""
        time_ns = time.time_ns()
        found: dict[str, Listing] = {}
        for name, each in self._listed().items():
            folder, _, inside = name.partition("/")
            if inside:
                found.setdefault(folder, Listing({}, time_ns)).objects[inside] = each
        return found

    def _bring(self, wanted: Wanted, listed: dict[str, Object]) -> None:
        for left in self.folder.rglob(f"{PARTIAL}*"):  # of a kill in the middle of `_bring_one`
            if left.is_file() and not left.parent.name.startswith(PARTIAL):
                left.unlink(missing_ok=True)
        known, files, listed = self._known(), self._files(), dict(listed)
        new = {}
        for name, each in listed.items():
            before = known.get(name)
            is_here = before is not None and before.file and name in files
            if before is not None and is_here and before.is_as(each):
                listed[name] = before  # or changed here, which is to be put
            elif wanted(name):
                new[name] = each
        for name, before in known.items():
            if name not in listed and before.file and files.get(name) == before.file:
                (self.folder / name).unlink()
                _remove_empty((self.folder / name).parent, self.folder)
        for wave in self._waves(new):
            _together(self._bring_one, wave)
        self._here = {*self._files()}
        here = {name: each.file for name, each in listed.items()}
        here |= {name: (self.folder / name).stat().st_mtime_ns for name in new}
        self._remember(listed, here)

    def _bring_one(self, name: str) -> None:
        system, place = self._system()
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = temporary_path(target)

        def read() -> None:
            with system.open_input_stream(f"{place}/{name}") as stream, partial.open("wb") as file:
                _copy(stream, file)

        try:
            patiently(self.address, read)
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)

    def _put_one(self, name: str) -> None:
        system, place = self._system()
        target = f"{place}/{name}"
        # A file system shows what is half written.
        is_atomic = not is_local(system)
        partial = target if is_atomic else str(temporary_path(Path(target)))

        def write() -> None:
            make_folder(system, target.rpartition("/")[0])
            with (
                (self.folder / name).open("rb") as file,
                system.open_output_stream(partial) as stream,
            ):
                _copy(file, stream)
            if not is_atomic:
                system.move(partial, target)

        patiently(self.address, write)

    def _remove_one(self, name: str) -> None:
        system, place = self._system()

        def remove() -> None:
            try:
                system.delete_file(f"{place}/{name}")
            except FileNotFoundError:
                return  # another machine was faster

        patiently(self.address, remove)

    def _listed(self) -> dict[str, Object]:
        from pyarrow import fs

        system, place = self._system()
        selector = fs.FileSelector(place, allow_not_found=True, recursive=True)
        found = patiently(self.address, lambda: system.get_file_info(selector))
        return {
            info.path.removeprefix(place).lstrip("/"): Object(info.size, info.mtime_ns or 0)
            for info in found
            if info.type == fs.FileType.File and not _is_hidden(info.base_name)
        }

    def _whole(self, names: dict[str, Object]) -> dict[str, Object]:
        """Without the parts whose marker is not there: they are being put, or never will be."""
        if self._marker is None:
            return names
        parts, marker = self._marker.parent, self._marker.name
        whole = {}
        for name, each in names.items():
            folder = PurePosixPath(name).parent
            is_part = folder == parts or (parts.name and folder.match(str(parts)))
            if not is_part or str(folder / marker) in names:
                whole[name] = each
        return whole

    def _waves(self, names: Iterable[str]) -> Iterator[list[str]]:
        """The names in the order in which they are put: what a marker, or a file of the folder
        itself, tells of is there before it."""
        marker = self._marker
        waves: tuple[list[str], list[str], list[str]] = ([], [], [])
        for name in sorted(names):
            path = PurePosixPath(name)
            is_marker = marker is not None and path.name == marker.name
            # What tells of the parts: their outcome, and not what is still to be told of them.
            is_about = marker is not None and marker.parent.name and "/" not in name
            waves[1 if is_marker else 2 if is_about and path.suffix == ".json" else 0].append(name)
        yield from filter(None, waves)

    def _check_put(self, new: list[str], files: dict[str, int], listed: dict[str, Object]) -> None:
        for name in new:
            path = self.folder / name
            size = path.stat().st_size if path.exists() else -1
            found = listed.get(name)
            is_changed = size < 0 or path.stat().st_mtime_ns != files[name]
            if not is_changed and (found is None or found.size != size):
                there = "is not there" if found is None else f"has {found.size} bytes, not {size}"
                raise OSError(f"{self.address}: {self._place / name} {there} after it was put")

    def _files(self) -> dict[str, int]:
        """When each file of the folder was changed, by its path in it."""
        paths = (Path(parent) / name for parent, _, names in os.walk(self.folder) for name in names)
        inside = {path.relative_to(self.folder): path for path in paths}
        return {
            name.as_posix(): path.stat().st_mtime_ns
            for name, path in inside.items()
            if not any(map(_is_hidden, name.parts))
        }

    def _was_changed(self, since: int) -> bool:
        """Whether a process of this machine brought or put files since that time."""
        return self._index.exists() and self._index.stat().st_mtime_ns >= since

    def _known(self) -> dict[str, Object]:
        """The objects when they were last looked at."""
        return read_or_set_aside(
            self._index, dict[str, Object], {}, then="files are compared with the bucket anew"
        )

    def _remember(self, objects: dict[str, Object], here: dict[str, int]) -> None:
        """Keep what is known of objects.

        Args:
            objects: by name.
            here: when the files of those that are on this machine were changed.
        """
        known = {name: replace(each, file=here.get(name, 0)) for name, each in objects.items()}
        write_json(self._index, {name: asdict(each) for name, each in known.items()})

    def _alone(self) -> FileLock:
        """A lock against the other processes of this machine."""
        self._index.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self._index.with_suffix(".lock"))

    def _system(self) -> tuple[Any, str]:
        system, root = file_system(self.address)
        return system, f"{root}/{self._place}" if self._place.parts else root


def kept(folder: Path, marker: str = "") -> KeptFolder | None:
    """The folder as one of a bucket's copy; None if it is in none."""
    return None if address_of(folder) is None else KeptFolder(folder, marker)


def size_of(folder: Path) -> int:
    """Bytes of a folder's files, in the bucket if that keeps it.

    Raises:
        OSError: the bucket does not answer.
    """
    if (of_bucket := kept(folder)) is not None:
        return of_bucket.size()
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a trial that runs replaces its files
                size += Path(parent, name).lstat().st_size
    return size


def bring_folder(folder: Path) -> None:
    """Bring a folder from the bucket that keeps it, if one does.

    Raises:
        OSError: the bucket does not answer, or does not let us.
    """
    if (of_bucket := kept(folder)) is not None:
        of_bucket.bring()


def put_folder(folder: Path, marker: str = "") -> None:
    """Put a folder into the bucket that keeps it, if one does; see `KeptFolder`.

    Raises:
        OSError: the bucket does not answer, or does not let us.
    """
    if (of_bucket := kept(folder, marker)) is not None:
        of_bucket.put()


_looks: dict[Path, float] = {}
"""By mark, when it was last looked for."""


def is_there(mark: Path) -> bool:
    """Whether a mark was set; in a bucket, which is asked now and then, one of long ago."""
    folder = kept(mark.parent)
    if folder is None:
        # Listed anew: that a file was not there a network file system remembers for a minute.
        return mark.name in os.listdir(mark.parent)
    if time.monotonic() - _looks.get(mark, -LOOK_SECONDS) < LOOK_SECONDS:
        return False
    _looks[mark] = time.monotonic()
    with without_patience():  # if it does not answer, nobody can have set it now
        return folder.has_now(mark.name)
    return False


def set_mark(mark: Path) -> None:
    """Leave a mark, an empty file, for processes of all machines."""
    if (folder := kept(mark.parent)) is not None:
        folder.mark(mark.name)
    else:
        mark.touch()


def remove_mark(mark: Path) -> None:
    """Remove a mark, if it is there."""
    if (folder := kept(mark.parent)) is not None:
        folder.remove_mark(mark.name)
    else:
        mark.unlink(missing_ok=True)


def _together(work: Callable[[str], None], names: list[str]) -> None:
    """Do something with several objects at once; the first error is raised."""
    with ThreadPoolExecutor(min(AT_ONCE, len(names))) as pool:
        list(pool.map(work, names))


def _copy(source: Any, target: Any) -> None:
    while block := source.read(_BLOCK):
        target.write(block)


def _is_same(known: Object | None, file: int) -> bool:
    return known is not None and known.file == file


def _is_hidden(name: str) -> bool:
    """Whether a file is of one machine only: locks, marks, what is half written or damaged."""
    return name.startswith((".", DAMAGED))


def _remove_empty(folder: Path, top: Path) -> None:
    while folder != top and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
