"""Pack archives that are the same, bit for bit, whenever and by whomever they are built.

Every file in them has the time ``SOURCE_DATE_EPOCH``, by default the first one that a zip file can hold. setuptools
does so in wheels, but gives their files the modes of the checkout; its source archives hold the time, the user and the
order of the folder.

The package index shows README.md, where links to files lead nowhere; see :func:`described`. The rest of the package is
described in ``pyproject.toml``.
"""

from __future__ import annotations

import gzip
import os
import re
import tarfile
import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.sdist import sdist


class ReproducibleWheel(bdist_wheel):
    """The wheel, with plain modes."""

    def write_wheelfile(self, wheelfile_base, *args, **options):
        """Write the last file of the wheel, and give plain modes to all."""
        super().write_wheelfile(wheelfile_base, *args, **options)
        for path in Path(wheelfile_base).parent.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)


class ReproducibleArchive(sdist):
    """The source archive, without the time, the user and the order of the folder."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        """Pack ``base_dir`` in the order of names, with one time, no user and plain modes."""
        epoch = int(os.environ["SOURCE_DATE_EPOCH"])
        if format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)

        def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = epoch, 0, 0, "", ""
            entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
            return entry

        path = Path(f"{base_name}.tar.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(path, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for each in [Path(base_dir), *sorted(Path(base_dir).rglob("*"))]:
                archive.add(each, recursive=False, filter=plain)
        return str(path)


def described(text: str, source: str | None, version: str) -> str:
    """Make links to files lead to the tag of this version, or, where no address is known, name the file instead.

    Args:
        text: in Markdown.
        source: address of the repository, of which ``/blob/TAG/FILE`` and ``/raw/TAG/FILE`` show a file.
        version: the tag is ``v`` and this.
    """

    def linked(link: re.Match[str]) -> str:
        picture, words, path = link.groups()
        if source is not None:
            return f"{picture}[{words}]({source.rstrip('/')}/{'raw' if picture else 'blob'}/v{version}/{path})"
        return "" if picture else words if words == path else f"{words} (`{path}`)"

    return re.sub(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)", linked, text)


if __name__ == "__main__":
    os.environ.setdefault("SOURCE_DATE_EPOCH", "315532800")  # 1980, where the time of zip files begins
    here = Path(__file__).parent
    project = tomllib.loads((here / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = (here / "README.md").read_text(encoding="utf-8")
    setup(
        cmdclass={"sdist": ReproducibleArchive, "bdist_wheel": ReproducibleWheel},
        long_description=described(readme, project["urls"].get("Source"), project["version"]),
        long_description_content_type="text/markdown",
    )
