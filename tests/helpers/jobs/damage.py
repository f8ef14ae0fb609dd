"""What can happen to a folder of results."""

from __future__ import annotations

from dataclasses import replace

from fxprune.passes.store.manifest import fingerprint, read_manifest


def list_again(folder):
    """Make the manifest agree with the files as they are now, as whoever can write both can."""
    manifest = read_manifest(folder)
    files = {name: fingerprint(folder / name) for name in manifest.files if (folder / name).is_file()}
    replace(manifest, files=files).write(folder)
