"""The libraries of every network are imported without a search for garbage."""

from __future__ import annotations

import gc
import sys

import pytest

from fxprune.cli.loading import load_libraries


@pytest.mark.parametrize("fails", [False, True])
def test_no_garbage_is_looked_for_meanwhile(tmp_path, monkeypatch, fails):
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text("import gc\nlooked = gc.isenabled()\n")
    (tmp_path / "timm" / "models.py").write_text("1 / 0\n" if fails else "")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("timm", "timm.models"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    try:
        if fails:
            with pytest.raises(ZeroDivisionError):
                load_libraries()
        else:
            load_libraries()
            assert sys.modules["timm"].looked is False and gc.get_freeze_count()
        assert gc.isenabled()
    finally:
        gc.unfreeze()
        for name in ("timm", "timm.models"):
            sys.modules.pop(name, None)
