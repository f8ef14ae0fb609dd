"""Write the model card of a narrow network: its base, widths, figures, and a loader."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fxprune.common.table import table
from fxprune.passes.report import read_result
from fxprune.passes.store import SUMMARY

_CARD = """---
tags:
- image-classification
- timm
- fxprune
- pruning
library_name: timm
pipeline_tag: image-classification
{base_model}---
# {name}

A narrow `{base}`: its channels were merged by [fxprune](https://arxiv.org/abs/2107.14444), and every layer is a plain
layer of the class `{cls}` of timm. It has {parameters:,} parameters.

## Use

With fxprune installed, timm builds it like any of its networks, also with `num_classes=` and `features_only=True`:

```python
import timm
import fxprune.timm

model = timm.create_model("hf-hub:{repo}", pretrained=True)
```

Without it, these lines do, after `huggingface_hub.snapshot_download("{repo}")`, which returns the folder:

```python
{loader}
```

## Widths

```
{widths}
```
{figures}"""


def model_card(folder: Path, repo: str, network: nn.Module, base: str, widths: Mapping[str, tuple[int, int]]) -> str:
    """Return the text of README.md.

    Args:
        folder: a folder of results. If it has a summary, its figures are in the card, and the base model, if the job
            began with published weights.
        repo: ``user/repo`` on the hub.
        network: the grafted network.
        base: timm's name of the network that it comes from.
        widths: group -> channels before and after.
    """
    result = read_result(folder) if (folder / SUMMARY).exists() else None
    origin = _origin(base) if result is not None and result.options.get("pretrained") else ""
    return _CARD.format(
        base_model=f"base_model: {origin}\n" if origin else "",
        name=repo.rpartition("/")[2],
        base=base,
        cls=type(network).__name__,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        repo=repo,
        loader=Path(__file__).with_name("loader.py").read_text(encoding="utf-8").partition("\n\n")[2].strip(),
        widths=table(("group", "wide", "narrow"), [(g, *w) for g, w in widths.items()], right="wide narrow"),
        figures="" if result is None else f"\n## Figures\n\n```\n{result.figures()}\n```\n",
    )


def _origin(base: str) -> str:
    """Name the published weights of a network on the hub; empty if timm has none."""
    import timm

    config: Any = timm.get_pretrained_cfg(base) if timm.is_model(base) else None
    origin = getattr(config, "hf_hub_id", None) or ""
    return f"{origin}{base.partition('.')[0]}.{config.tag}" if origin.endswith("/") else origin
