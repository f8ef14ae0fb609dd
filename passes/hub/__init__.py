"""Publish a narrow network of timm with a model card, and a loader that needs timm only."""

from .push import push, write_hub_folder
