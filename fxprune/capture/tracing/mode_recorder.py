"""Record the modes that a model enters and reads while it is traced, as nodes."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from fxprune.pytorch.modes import MANAGERS, enter, leave, question_holders
from fxprune.pytorch.source import is_graph, is_machinery
from fxprune.pytorch.torch_private import autocast_arguments, newest_node, pytree, set_grad_enabled

# Functions that tell who holds a value, and how much memory it takes, or trace it: of a proxy, that is no tensor's.
_OF_OBJECTS = (sys, "getrefcount"), (sys, "getsizeof"), (gc, "get_referrers"), (torch.jit, "trace")


class ObjectAskedError(fx.proxy.TraceError):
    """The model asks for what is known of the object of a tensor only."""


class ModeRecorder:
    """A recorder of the modes that a model enters and reads, except while ``paused``."""

    def __init__(self, tracer: Any) -> None:
        """Record with ``tracer.create_proxy``."""
        self.tracer = tracer
        self._now = threading.local()
        self.lock = threading.RLock()  # of a thread that records a node
        # Those that are open: the context, the thread that entered it, and the node.
        self._open: list[tuple[Any, threading.Thread, fx.Node]] = []

    @property
    def paused(self) -> bool:
        """Whether this thread is in a block in which nothing is recorded."""
        return getattr(self._now, "paused", False)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Record nothing inside the block: its modes do not belong to the model."""
        before, self._now.paused = self.paused, True
        try:
            yield
        finally:
            self._now.paused = before

    def check_thread(self) -> None:
        """Check that no other thread is in a mode: a graph would compute in it what this one does.

        Raises:
            TraceError: it is.
        """
        if any(thread is not threading.current_thread() for _, thread, _ in self._open):
            error = fx.proxy.TraceError("a thread of the model computes while another one is in a mode")
            error.add_note(
                "PyTorch keeps modes for each thread: enter a mode in the thread that computes in it, alone."
            )
            raise self.tracer.refusal(error)

    @contextlib.contextmanager
    def recording(self, model: nn.Module) -> Iterator[None]:
        """Record the modes of the model's code inside the block.

        Args:
            model: the network whose code runs there.

        Raises:
            TraceError: the model enters a mode and does not leave it.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(set_grad_enabled, torch.is_grad_enabled())
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())  # a trace may break off in between
            for name in MANAGERS:
                self._watch_manager(stack, name)
            for holder, name, _ in list(question_holders(model)):
                _replace(stack, holder, name, self._question(getattr(holder, name)))
            for name in ("finfo", "iinfo"):
                _replace(stack, torch, name, self._on_proxies(getattr(torch, name)))
            for owner, name in _OF_OBJECTS:
                _replace(stack, owner, name, self._of_object(getattr(owner, name)))
            _replace(stack, torch, "cond", self._counted(torch.cond))
            yield
            if self._open:
                raise fx.proxy.TraceError("the model enters a mode and does not leave it: gradients or autocast")

    def _watch_manager(self, stack: contextlib.ExitStack, name: str) -> None:
        manager = getattr(torch, name)
        start, first, last = manager.__init__, manager.__enter__, manager.__exit__
        # `torch.set_grad_enabled(False)` acts when it is made, in a `with` block or outside of one.
        at_start = name == "set_grad_enabled"

        def init(context: Any, *args: Any, **kwargs: Any) -> None:
            context.fxprune_given = args, kwargs
            if not _has_proxies((args, kwargs)):
                start(context, *args, **kwargs)
            if at_start:
                self._enter(context, name)

        def entered(context: Any) -> Any:
            if not at_start:
                self._enter(context, name)
            return context if _has_proxies(_given(context)) else first(context)

        def left(context: Any, *error: Any) -> Any:
            self._leave(context)
            return None if _has_proxies(_given(context)) else last(context, *error)

        for method, replacement in (("__init__", init), ("__enter__", entered), ("__exit__", left)):
            _replace(stack, manager, method, replacement)

    def _enter(self, context: Any, name: str) -> None:
        if self.paused or _inside_torch(sys._getframe(2)) or self._skips():
            return
        args, kwargs = _given(context)
        with self.lock:
            node = self.tracer.create_proxy("call_function", enter, (name, *args), kwargs).node
            self._open.append((context, threading.current_thread(), node))

    def _leave(self, context: Any) -> None:
        if not self._open or self._open[-1][0] is not context:
            return
        with self.lock:
            self.check_thread()
            *_, node = self._open.pop()
            if newest_node(node.graph) is node:  # nothing was recorded inside
                node.graph.erase_node(node)
            else:
                self.tracer.create_proxy("call_function", leave, (fx.Proxy(node, self.tracer),), {})

    def _skips(self) -> bool:
        """Tell whether a thread runs that is not known to be of the model; note what it skips."""
        if not self.tracer.block.is_stranger():
            return False
        self.tracer.block.skips()
        return True

    def _question(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*args: Any, **kwargs: Any) -> Any:
            name = sys._getframe(1).f_code.co_filename
            if self.paused or (is_machinery(name) and not is_graph(name)) or self._skips():
                return ask(*args, **kwargs)
            return self.tracer.create_proxy("call_function", ask, args, kwargs)

        return asked

    def _on_proxies(self, kind: Any) -> Callable[..., Any]:
        def made(*args: Any, **kwargs: Any) -> Any:
            if not _has_proxies((args, kwargs)):
                return kind(*args, **kwargs)
            return self.tracer.create_proxy("call_function", kind, args, kwargs)

        return made

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Let an error end the trace, also if the model catches it: on tensors, there is none."""

        def called(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if not self._skips():
                    self.tracer.refusal(error)
                raise

        return called

    def _of_object(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*args: Any, **kwargs: Any) -> Any:
            if _has_proxies((args, kwargs)):
                raise self.tracer.refusal(ObjectAskedError(f"`{ask.__name__}` of a tensor, which no graph answers"))
            return ask(*args, **kwargs)

        return asked


def _given(context: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a context; one that decorates a method was made before recording."""
    if hasattr(context, "fxprune_given"):
        given: tuple[tuple[Any, ...], dict[str, Any]] = context.fxprune_given
        return given
    if isinstance(context, torch.autocast):
        return autocast_arguments(context), {}
    return (context.mode,) if hasattr(context, "mode") else (), {}


def _inside_torch(frame: Any) -> bool:
    """Tell whether PyTorch enters a mode for itself, not for a graph or the model's decorator."""
    name = frame.f_code.co_filename
    decorates = frame.f_code.co_name in ("decorate_context", "clone") or name.endswith("autocast_mode.py")
    return is_machinery(name) and not decorates and not is_graph(name)


def _has_proxies(given: Any) -> bool:
    return any(isinstance(leaf, fx.Proxy) for leaf in pytree.tree_leaves(given))


def _replace(stack: contextlib.ExitStack, owner: Any, name: str, new: Any) -> None:
    own = name in vars(owner)
    old = getattr(owner, name)
    setattr(owner, name, new)
    stack.callback(lambda: setattr(owner, name, old) if own else delattr(owner, name))
