"""Operations on tokens [n, length, c] and vectors [n, c]: linear, attention, recurrent."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from .maps import layered
from .network import MAP, TOKENS, VECTOR, WIDTHS, Draw, Form, RandomNetwork, Unsuited
from .operations import operation


@operation(TOKENS, VECTOR, often=3)
def linear(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    kind, out = draw.choice(("layer", "functional", "product", "einsum", "again", "shared")), draw.choice(WIDTHS)
    c = form.width
    if kind in ("again", "shared"):
        fit = [(n, m) for n, m in net.named_children() if type(m) is nn.Linear and m.in_features == c]
        if not fit:
            raise Unsuited
        name, layer = fit[-1]
        if kind == "again":
            return net.step("linear", lambda s, x: getattr(s, name)(x), [x], form.of(layer.out_features))
        other = nn.Linear(c, layer.out_features)
        other.weight = layer.weight
        return layered(net, "linear", other, x, form.of(layer.out_features))
    if kind == "layer":
        return layered(net, "linear", nn.Linear(c, out, bias=draw.whether()), x, form.of(out))
    rows, columns, bias = net.free(out, c), net.free(c, out), net.free(out)
    runs = {
        "functional": lambda s, x: F.linear(x, getattr(s, rows), getattr(s, bias)),
        "product": lambda s, x: x @ getattr(s, columns) + getattr(s, bias),
        "einsum": lambda s, x: torch.einsum("...c,ce->...e", x, getattr(s, columns)),
    }
    return net.step("linear", runs[kind], [x], form.of(out))


@operation(TOKENS, often=4)
def attention(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """Attend with queries of one member, keys and values of another, and any kind of mask."""
    kind = draw.choice(("plain", "heads", "fused", "linear", "channels", "one layer"))
    mask = draw.choice(("none", "causal", "learned", "given"))
    y, c, heads = net.any(lambda other: other.kind == TOKENS), form.width, draw.divisor(form.width)
    if kind == "one layer":
        y = x
    rows, columns = form.space[0], net.steps[y].form.space[0]
    names = [net.add(nn.Linear(net.steps[place].form.width, c)) for place in (x, y, y)]
    three, head = net.add(nn.Linear(c, 3 * c)), c // heads
    scores = net.free(rows, columns) if mask == "learned" else ""
    allowed = torch.ones(rows, columns).tril().bool()
    if mask == "given":
        net.register_buffer(f"mask{len(net.steps)}", allowed)
    table = f"mask{len(net.steps)}"

    def bias(s):
        if mask == "learned":
            return getattr(s, scores)
        return getattr(s, table) if mask == "given" else None

    def run(s, x, y):
        n, t = x.shape[0], x.shape[1]
        if kind == "one layer":
            q, k, v = getattr(s, three)(x).reshape(n, t, 3, heads, head).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (getattr(s, name)(z) for name, z in zip(names, (x, y, y)))
            if kind in ("heads", "fused"):
                q, k, v = (z.view(n, -1, heads, head).transpose(1, 2) for z in (q, k, v))
        if kind == "fused":
            causal = mask == "causal"
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias(s), is_causal=causal)
        elif kind == "linear":
            out = q.sigmoid() @ (k.sigmoid().mT @ v)
        elif kind == "channels":
            out = v @ (F.normalize(k, dim=1).mT @ F.normalize(v, dim=1)).softmax(-1)
        else:
            weights = q @ k.mT * head**-0.5
            if mask == "learned":
                weights = weights + bias(s)
            elif mask != "none":
                weights = weights.masked_fill(~allowed.to(x.device), -1e9)
            out = weights.softmax(-1) @ v
        return out.transpose(1, 2).flatten(2) if kind in ("heads", "fused", "one layer") else out

    if mask == "causal" and rows != columns:
        raise Unsuited
    length = columns if kind == "channels" else rows
    return net.step("attention", run, [x, y], Form(TOKENS, c, (length,)))


@operation(TOKENS)
def attention_layer(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    kind, heads = draw.choice(("weights", "fused", "cross", "encoder")), draw.divisor(form.width)
    c, y = form.width, net.any(lambda other: other.kind == TOKENS)
    other = net.steps[y].form
    if kind == "encoder":
        layer = nn.TransformerEncoderLayer(c, heads, 6, 0.0, draw.choice(("relu", "gelu")), batch_first=True)
        return layered(net, "attention layer", layer, x, form)
    if kind == "cross":
        name = net.add(nn.MultiheadAttention(c, heads, kdim=other.width, vdim=other.width, batch_first=True))
        return net.step("attention layer", lambda s, x, y: getattr(s, name)(x, y, y)[0], [x, y], form)
    name, need = net.add(nn.MultiheadAttention(c, heads, batch_first=True)), kind == "weights"
    run = lambda s, x: getattr(s, name)(x, x, x, need_weights=need)[0]  # noqa: E731
    return net.step("attention layer", run, [x], form)


@operation(TOKENS, often=2)
def recurrent(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    kind, out = draw.choice((nn.GRU, nn.LSTM, nn.RNN)), draw.choice(WIDTHS)
    both, layers, last = draw.whether(), draw.choice((1, 2)), draw.whether()
    projected = draw.choice((0, 2, 3)) if kind is nn.LSTM and out > 3 else 0
    options = {"proj_size": projected} if projected else {}
    name = net.add(kind(form.width, out, layers, batch_first=True, bidirectional=both, **options))
    state = projected or out
    if last:
        run = lambda s, x: (getattr(s, name)(x)[1][0] if kind is nn.LSTM else getattr(s, name)(x)[1]).mean(0)  # noqa: E731
        return net.step("recurrent", run, [x], Form(VECTOR, state))
    return net.step("recurrent", lambda s, x: getattr(s, name)(x)[0], [x], form.of(state * (1 + both)))


@operation(VECTOR)
def cells(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """A recurrent cell, twice on the same input."""
    kind, out = draw.choice((nn.GRUCell, nn.LSTMCell, nn.RNNCell)), draw.choice(WIDTHS)
    name = net.add(kind(form.width, out))

    def run(s, x):
        state = getattr(s, name)(x, getattr(s, name)(x))
        return state[0] if kind is nn.LSTMCell else state

    return net.step("cells", run, [x], Form(VECTOR, out))


@operation(TOKENS)
def positions(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """Add an embedding of positions or a token, drop the first token, or mix all tokens."""
    kind = draw.choice(("added", "class token", "dropped", "mixed", "looked up", "convolved", "flipped"))
    length, c = form.space[0], form.width
    if kind == "added":
        table = net.free(1, length, c)
        return net.step("positions", lambda s, x: x + getattr(s, table), [x], form)
    if kind == "class token":
        token = net.free(1, 1, c)
        run = lambda s, x: torch.cat([getattr(s, token).expand(x.shape[0], -1, -1), x], 1)  # noqa: E731
        return net.step("positions", run, [x], Form(TOKENS, c, (length + 1,)))
    if kind == "dropped":
        if length < 3:
            raise Unsuited
        return net.step("positions", lambda s, x: x[:, 1:], [x], Form(TOKENS, c, (length - 1,)))
    if kind == "mixed":
        name = net.add(nn.Linear(length, length))
        return net.step("positions", lambda s, x: x + getattr(s, name)(x.mT).mT, [x], form)
    if kind == "convolved":
        name = net.add(nn.Conv1d(c, c, 3, padding=1, groups=draw.divisor(c)))
        return net.step("positions", lambda s, x: getattr(s, name)(x.mT).transpose(1, 2), [x], form)
    if kind == "flipped":
        return net.step("positions", lambda s, x: x.flip(1) + x, [x], form)
    name = net.add(nn.Embedding(length, c))
    run = lambda s, x: x + getattr(s, name)(torch.arange(x.shape[1], device=x.device))  # noqa: E731
    return net.step("positions", run, [x], form)


@operation(TOKENS)
def from_tokens(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """Back to a map of the same number of positions, or to a vector."""
    kind = draw.choice(("mean", "first", "largest", "map"))
    if kind == "map":
        y = net.any(lambda other: other.kind == MAP and math.prod(other.space) == form.space[0])
        space = net.steps[y].form.space
        run = lambda s, x, y: x.mT.reshape(x.shape[0], -1, *y.shape[2:])  # noqa: E731
        return net.step("from tokens", run, [x, y], Form(MAP, form.width, space))
    runs = {"mean": lambda s, x: x.mean(1), "first": lambda s, x: x[:, 0], "largest": lambda s, x: x.max(1)[0]}
    return net.step("from tokens", runs[kind], [x], Form(VECTOR, form.width))


@operation(VECTOR, often=2)
def from_vector(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """A vector onto every position of a map or of tokens of its width."""
    y = net.any(lambda other: other.kind != VECTOR and other.width == form.width)
    target = net.steps[y].form
    kind = draw.choice(("times", "plus", "expanded", "viewed"))
    shape = (form.width, *(1 for _ in target.space)) if target.kind == MAP else (1, form.width)
    if kind == "viewed":
        return net.step("from vector", lambda s, x, y: y + x.view(-1, *shape), [x, y], target)

    def run(s, x, y):
        x = x[(..., *(None,) * len(target.space))] if target.kind == MAP else x.unsqueeze(1)
        if kind == "expanded":
            return x.expand(y.shape[0], -1, *y.shape[2:]) if target.kind == MAP else x.expand(-1, y.shape[1], -1)
        return x.sigmoid() * y if kind == "times" else x + y

    return net.step("from vector", run, [x, y], target)


@operation(VECTOR)
def bilinear(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """Products of two vectors: all pairs, by a layer or flattened."""
    y, kind = net.any(lambda other: other.kind == VECTOR), draw.choice(("outer", "layer"))
    width, out = net.steps[y].form.width, draw.choice(WIDTHS)
    if kind == "layer":
        name = net.add(nn.Bilinear(form.width, width, out))
        return net.step("bilinear", lambda s, x, y: getattr(s, name)(x, y), [x, y], Form(VECTOR, out))
    run = lambda s, x, y: (x[:, :, None] * y[:, None, :]).flatten(1)  # noqa: E731
    return net.step("bilinear", run, [x, y], Form(VECTOR, form.width * width))
