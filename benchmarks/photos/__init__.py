"""Narrow an ImageNet network from a few photos: how much of it is left, and what the fold costs."""
