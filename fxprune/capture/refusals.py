"""Say why no way of capture follows a model, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from fxprune.errors import CaptureError, asks_values, first_line
from fxprune.pytorch.source import source_of_error, source_of_transform

from .tracing import SymbolicTracer


def untraceable(
    model: nn.Module, tracer: SymbolicTracer, error: Exception, *, exported: Exception | None
) -> CaptureError:
    """Say which line of a model no trace follows, and what to do about it."""
    if isinstance(error, CaptureError):  # it says what to do
        return error
    where = tracer.inside[-1] if tracer.inside else type(model).__name__
    # What PyTorch's exporter says of its own symbols and constants helps nobody who did not write it.
    other = f": {first_line(exported)}" if isinstance(exported, CaptureError) else ""
    also = f" Exporting its operations fails too{other.rstrip('.')}." if exported is not None else ""
    done = {path: module for path, module in model.named_modules() if path in tracer.finished}
    largest = max(done, key=lambda path: sum(p.numel() for p in done[path].parameters()), default="")
    part = f" (`{largest}` is traced)" if largest else ""
    if (transform := source_of_transform(error)) is not None:
        return _caused(
            f"cannot trace {type(model).__name__}: module `{where}` gives a function to PyTorch at {transform}, as to "
            "torch.vmap, torch.func or torch.cond, and no graph of operators holds that. Write it with operators on "
            f"whole tensors, or couple only the part of the network before it{part}.",
            error,
        )
    by_values = asks_values(error) or "values of a tensor" in str(error)  # a module kept whole asks for them, too
    before = f"couple only the part of the network before it{part}"
    remedy = " ".join(getattr(error, "__notes__", ())) or (
        f"Make the line independent of tensor values, or {before}."
        if by_values
        else f"Make the line independent of tensor values, {before}, or keep a module without weights whole "
        "(`timm.layers.register_notrace_module`)."
    )
    said = "the values of a tensor are asked for" if asks_values(error) else first_line(error).rstrip(".")
    return _caused(
        f"cannot trace {type(model).__name__}: {type(error).__name__} in module `{where}` at {source_of_error(error)}: "
        f"{said}. {remedy}{also}",
        error,
    )


def _caused(text: str, error: Exception) -> CaptureError:
    refusal = CaptureError(text)
    refusal.__cause__ = error
    return refusal


@dataclass
class Failures:
    """The reasons why no way has succeeded so far: errors of trace and export, and differences."""

    model: nn.Module
    traced: tuple[SymbolicTracer, Exception] | None = None
    exported: Exception | None = None
    unlike: list[str] = field(default_factory=list)
    unasked: bool = False

    def as_error(self) -> CaptureError:
        """Make one error of all the reasons."""
        name = type(self.model).__name__
        if self.unlike:
            error = CaptureError(
                f"cannot capture {name}: a graph of it computes something else: {self.unlike[0]}. Change that "
                "line, or give `check=False` if the network is to be taken as its graph computes it."
            )
            error.__cause__ = self.traced[1] if self.traced else self.exported
            return error
        if self.traced is None and self.exported is None:
            return CaptureError(f"cannot capture {name}: no other way is left to try.")
        if self.traced is None:
            assert self.exported is not None
            error = CaptureError(f"cannot export {name}: {first_line(self.exported)}")
            error.__cause__ = self.exported
            return error
        return untraceable(self.model, *self.traced, exported=self.exported)
