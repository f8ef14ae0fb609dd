"""Pack a source archive that is the same, bit for bit, whenever and by whomever it is built.

setuptools writes wheels like that if ``SOURCE_DATE_EPOCH`` is set. Its source archives hold the time, the user and the
order of the folder; everything else about the package is in ``pyproject.toml``.
"""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist


class ReproducibleArchive(sdist):
    """The source archive, reproducible if ``SOURCE_DATE_EPOCH`` is set."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        """Pack ``base_dir`` in the order of names, with one time, no user and plain modes."""
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        if epoch is None or format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)

        def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = int(epoch), 0, 0, "", ""
            entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
            return entry

        path = Path(f"{base_name}.tar.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(path, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=int(epoch)) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for each in [Path(base_dir), *sorted(Path(base_dir).rglob("*"))]:
                archive.add(each, recursive=False, filter=plain)
        return str(path)


setup(cmdclass={"sdist": ReproducibleArchive})
