"""Write the results, all of them or none; the only module that writes files.

Each file goes to a hidden temporary in its own folder, ``.NAME.PID.skipc-tmp``, and is renamed over its target once all
of them are on the disk. Until the last rename the old content is kept beside it, ``.NAME.PID.old.skipc-tmp``, so that a
failure between two renames can be undone. Only a kill or a power cut between two renames can leave a mixture: then the
files that come first are new, and the model, which comes last, is still the old one.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from skipc.runtime.errors import InputError

Content = bytes | Path


def check_writable(path: Path) -> None:
    """Refuse a target that could not be written, before any work is spent on its content.

    Raises:
        InputError: ``output-unwritable``: the target is something other than a file, such as a folder or a device, or
            its folder does not exist or cannot be written to.
    """
    try:
        obstacle = _obstacle(path.resolve())
    except (OSError, RuntimeError) as error:
        obstacle = (f"the output cannot be reached: {error}", "name another file with -o")
    if obstacle:
        what, hint = obstacle
        raise InputError("output-unwritable", what, where=str(path), hint=hint)


def write_all(files: Mapping[Path, Content]) -> None:
    """Write each content to its path, or change nothing.

    A path that is a symbolic link stays one: the file behind it is replaced. An existing file keeps its permissions.
    What earlier runs that were killed have left behind for the same names is removed.

    Args:
        files: content by path, or a file whose content it is, which is linked rather than copied where the file system
            can; in the order in which they are to appear. Put the model last, so that whoever waits for
            it finds everything else in place.

    Raises:
        InputError: ``output-unwritable`` as for `check_writable`; ``output-write-failed`` in the words of the operating
            system, such as "No space left on device".
        ValueError: two of the paths are the same file.
    """
    for path in files:
        check_writable(path)
    writes = [_Write(path, path.resolve(), content) for path, content in files.items()]
    if len({write.target for write in writes}) < len(writes):
        raise ValueError(f"two outputs are the same file: {', '.join(str(path) for path in files)}")
    try:
        for write in writes:
            _remove_stale(write.target)
        for write in writes:
            _write_temporary(write)
        _replace_all(writes)
    finally:
        for write in writes:
            _discard(write.temporary)


@dataclass(frozen=True)
class _Write:
    """One file to write: the path as given, the file behind it, and its content."""

    path: Path
    target: Path
    content: Content

    @property
    def temporary(self) -> Path:
        return self.target.with_name(f".{self.target.name}.{os.getpid()}.skipc-tmp")

    @property
    def kept(self) -> Path:
        return self.target.with_name(f".{self.target.name}.{os.getpid()}.old.skipc-tmp")


def _obstacle(target: Path) -> tuple[str, str] | None:
    """What is in the way of writing to a target free of links, and a hint; None if nothing is."""
    folder = target.parent
    if target.is_dir():
        return "the output is a folder", "name a file"
    if target.exists() and not target.is_file():
        return "the output is not an ordinary file", "name a file"
    if not folder.is_dir():
        return f"the folder {folder} does not exist", f"create it first: mkdir -p {folder}"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"the folder {folder} cannot be written to", "name a file in another folder with -o"
    return None


def _write_temporary(write: _Write) -> None:
    with _blaming(write.path):
        if isinstance(write.content, Path):
            _link(write.content, write.temporary)
            return
        with write.temporary.open("xb") as file:
            file.write(write.content)
            file.flush()
            os.fsync(file.fileno())
        if write.target.exists():
            write.temporary.chmod(stat.S_IMODE(write.target.stat().st_mode))


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        shutil.copy2(source, target)


def _replace_all(writes: Sequence[_Write]) -> None:
    """Rename every temporary over its target; on any failure, put back what was there."""
    try:
        for write in writes:
            _keep_old(write)
        for write in writes:
            with _blaming(write.path):
                write.temporary.replace(write.target)
    except BaseException as error:
        stuck = [write for write in writes if not _put_back(write)]
        if stuck:
            raise _stuck(stuck) from error
        raise
    # After a return to the old state this must not run: it would remove the only copy of what could not be put back.
    for write in writes:
        _discard(write.kept)


def _keep_old(write: _Write) -> None:
    """Give the old content, if there is any, a second name; a copy where the file system has no hard links."""
    if not write.target.exists():
        return
    with _blaming(write.path):
        try:
            write.kept.hardlink_to(write.target)
        except OSError:
            shutil.copy2(write.target, write.kept)


def _put_back(write: _Write) -> bool:
    """Undo one write, if it happened; False if the operating system refuses.

    A temporary that is gone was renamed. Every old content was kept before the first rename, so that a renamed file
    without one is new.
    """
    try:
        if write.temporary.exists():
            write.kept.unlink(missing_ok=True)
        elif write.kept.exists():
            write.kept.replace(write.target)
        else:
            write.target.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _remove_stale(target: Path) -> None:
    """Remove the temporaries of this target that no running process owns."""
    pattern = re.compile(re.escape(f".{target.name}.") + r"(\d{1,7})(\.old)?\.skipc-tmp")
    with _blaming(target):
        siblings = list(target.parent.iterdir())
    for path in siblings:
        found = pattern.fullmatch(path.name)
        if found and not _is_running(int(found[1])):
            _discard(path)


def _is_running(process: int) -> bool:
    """Whether another process of this number exists; taken for granted where asking would send it a signal."""
    if process == os.getpid():
        return False
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _discard(path: Path) -> None:
    """Remove a file of ours; one that cannot be removed is left for the next run."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"cannot write the output: {error.strerror or error}"
        hint = "no file was changed; make room, or name another place with -o"
        raise InputError("output-write-failed", what, where=str(path), hint=hint) from error


def _stuck(writes: Sequence[_Write]) -> InputError:
    places = ", ".join(f"that of {write.target} is in {write.kept}" for write in writes)
    what = f"writing failed, and old content could not be put back: {places}"
    hint = "move the old content to safety first: the next run removes what an earlier one left behind"
    return InputError("output-write-failed", what, where=str(writes[0].path), hint=hint)
