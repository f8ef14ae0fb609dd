"""Narrow an ImageNet network from a few photos, and time the fold."""
