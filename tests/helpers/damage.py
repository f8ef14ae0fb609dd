"""What can happen to a folder of results."""

from __future__ import annotations

from dataclasses import replace

from fxprune.passes.store.layout import RESULTS, SUMMARY
from fxprune.passes.store.manifest import Manifest, fingerprint, read_manifest


def list_again(folder):
    """Make the manifest agree with the files as they are now, as whoever can write both can."""
    manifest = read_manifest(folder)
    files = {name: fingerprint(folder / name) for name in manifest.files if (folder / name).is_file()}
    replace(manifest, files=files).write(folder)


def list_all(folder):
    """A manifest of all that lies in a folder, and of a summary."""
    (folder / SUMMARY).write_text("{}")
    Manifest({path.name: fingerprint(path) for path in folder.iterdir() if path.name in RESULTS}).write(folder)
