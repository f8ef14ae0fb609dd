"""Write a narrow network as plain Python source, and check it in a fresh process."""

from .export import SourceReport, export_python
