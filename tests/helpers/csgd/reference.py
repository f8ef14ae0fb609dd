"""C-SGD from its formula: dense averaging matrices, and optimizers written out, on the wide tensors.

Ding et al. 2019, equation 4, with the pull inside the gradient (coupled), or beside the step (decoupled).
"""

from __future__ import annotations

import torch


class Reference:
    """Each parameter p, with A = one averaging matrix per tied axis, and P = A + (1 - lr * eps) (I - A).

    Coupled: p <- step(p, A g + eps (p - A p)). Decoupled: p <- step(A p, A g) + P (p - A p), so that without momentum
    p <- p - lr (A g + decay A p + eps (p - A p)); without a gradient, the pull alone.
    """

    def __init__(self, model, plan, groups, step, strength, *, coupled):
        self.step_of, self.strength, self.coupled, self.groups = step, strength, coupled, groups
        self.state = {parameter: {} for group in groups for parameter in group["params"]}
        named, self.averages = dict(model.named_parameters(remove_duplicate=False)), {}
        for cut in plan.partitions():
            if cut.tied and cut.parameter in named:
                same = torch.as_tensor(cut.cluster[:, None] == cut.cluster)
                matrix = same.double() / same.sum(1, keepdim=True)
                self.averages.setdefault(named[cut.parameter], {})[cut.dim] = matrix

    @torch.no_grad()
    def step(self):
        for group in self.groups:
            for p in group["params"]:
                p.copy_((self._coupled if self.coupled else self._decoupled)(p, group))

    def _coupled(self, p, group):
        if p.grad is None:
            return p
        pull = sum(p - _times(matrix, p, dim) for dim, matrix in self.averages.get(p, {}).items())
        return self.step_of(p, self._mean(p, p.grad) + self.strength * pull, self.state[p], group)

    def _decoupled(self, p, group):
        mean, shrink = self._mean(p, p), 1 - group["lr"] * self.strength
        away = p - mean
        for dim, matrix in self.averages.get(p, {}).items():
            kept = _times(matrix, away, dim)
            away = kept + shrink * (away - kept)
        return away + (mean if p.grad is None else self.step_of(mean, self._mean(p, p.grad), self.state[p], group))

    def _mean(self, p, tensor):
        for dim, matrix in self.averages.get(p, {}).items():
            tensor = _times(matrix, tensor, dim)
        return tensor


def _times(matrix, tensor, dim):
    return torch.tensordot(matrix, tensor, ([1], [dim])).movedim(0, dim)


def sgd(p, gradient, state, group):
    """Return the parameter after a step of SGD with decay in the gradient, momentum, and Nesterov's."""
    momentum = group.get("momentum", 0.0)
    gradient = gradient + group.get("weight_decay", 0.0) * p
    buffer = momentum * state["buffer"] + gradient if "buffer" in state else gradient
    state["buffer"] = buffer
    return p - group["lr"] * (gradient + momentum * buffer if group.get("nesterov") else buffer)


def adamw(p, gradient, state, group):
    """Return the parameter after a step of AdamW: decay beside the step, moments without bias."""
    count = state["count"] = state.get("count", 0) + 1
    first = state["first"] = 0.9 * state.get("first", 0.0) + 0.1 * gradient
    second = state["second"] = 0.999 * state.get("second", 0.0) + 0.001 * gradient.square()
    size = (second / (1 - 0.999**count)).sqrt() + 1e-8
    return (1 - group["lr"] * group.get("weight_decay", 0.0)) * p - group["lr"] * first / (1 - 0.9**count) / size
