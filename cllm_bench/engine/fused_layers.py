"""Decoder layers of transformers, computed with fewer and larger operations.

A pass of few tokens spends more time between its operations than in them. A fused layer has one
product where a model may have three (queries, keys and values) or two (gate and up), one rotation
in place of two, and no calls between modules:

    x ── norm ── W_qkv ── norm q, k ── rotate q, k ── cache ── attention ── W_out ── norm ── + ──┐
    └────────────────────────────────────────────────────────────────────────────────────────┘   │
    ┌────────────────────────────────────────────────────────────────────────────────────────────┘
    ├── norm ── W_gate,up ── activation ── W_down ── norm ── + ──
    └────────────────────────────────────────────────────────┘

No family has all of it: any of the norms may be missing, and the rotation; heads may rotate in
part, the second half may have no gate, and it may start from x as the first does (a parallel
residual). `LayerParts` says which of it a layer has, and one pass is composed from that; which
families of transformers come out, docs/models.md lists.

What stands before the attention and what stands behind it are two functions, which torch.compile
can make fewer kernels of (`compiled_layers`). That pays where a kernel's launch costs nothing and
its trip through memory does: in a captured graph. There the attention consists of products, between
which scaling, mask and softmax are one kernel: with an explicit mask, torch's fused attention does
not split the keys over the device, and leaves most of it idle when there are few rows.

It computes what transformers' layer computes, up to the rounding of a product. Names of modules
only suggest what a layer is: it is replaced where the pass that was composed agrees with its own
on random inputs and weights.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from types import FunctionType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from cllm_bench.engine.attention import grouped_attention
from cllm_bench.engine.norms import BROADCAST, FORMULAS, Formula, details
from cllm_bench.engine.products.kernels import Product

# What families call the parts of a layer.
ATTENTION = ("self_attn", "attention", "attn")
_QKV = (("q_proj", "k_proj", "v_proj"), ("qkv_proj",), ("query_key_value",), ("c_attn",))
_OUT = ("o_proj", "dense", "c_proj")
_HEAD_NORMS = (("q_norm", "k_norm"), ("q_layernorm", "k_layernorm"))
_UP = (
    ("gate_proj", "up_proj"),
    ("gate_up_proj",),
    ("dense_h_to_4h",),
    ("c_fc",),
    ("fc1",),
    ("up_proj",),
)
_DOWN = ("down_proj", "dense_4h_to_h", "c_proj", "fc2")
_ACTIVATION = ("act_fn", "activation_fn", "act")
# Norms by their names, at these places. What stands behind the attention in one family bears the
# name of what stands before the MLP in another.
_PLACES = ("before_attention", "behind_attention", "before_mlp", "behind_mlp")
_INPUT, _MIDDLE = "input_layernorm", "post_attention_layernorm"
_BEFORE_MLP, _LAST = "pre_feedforward_layernorm", "post_feedforward_layernorm"
_NORMS: tuple[tuple[str | None, str | None, str | None, str | None], ...] = (
    (_INPUT, None, _MIDDLE, None),
    (None, _MIDDLE, None, _LAST),
    (_INPUT, _MIDDLE, _BEFORE_MLP, _LAST),
    (_INPUT, None, _INPUT, None),
    ("ln_1", None, "ln_2", None),
)
_CACHES = ("cache", "past_key_values", "layer_past")
# Arguments of layers that say nothing to a kernel.
_UNUSED = ("position_ids", "use_cache", "encoder_hidden_states", "encoder_attention_mask")

# Of the largest value that a layer adds, for a difference: norms compute in float32.
_TOLERANCE = 1e-4
_WIDTH = 6.0  # of what a product of normed states gives, in standard deviations: see `_Trial`
_NUMBERS = 1_000_003
# Variants of one function that torch.compile may make: a model has two, one of them for one row.
_VARIANTS = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerParts:
    """What a layer is made of.

    Attributes:
        attention: The module of the attention, for the kernel and the cache.
        head: Size of a head.
        queries: Heads of queries.
        keys: Heads of keys, and as many of values.
        qkv: The product of all three, or one for each.
        interleaved: Whether the one product gives query, key and value of each head in turn.
        rotates: Whether queries and keys are turned by the angles of their positions.
        head_norms: Norms of queries and of keys: over a head each, or over all of it.
        out: The product behind the attention.
        up: The products of gate and up, one product of both, or one where there is no gate.
        gated: Whether there is a gate.
        down: The last product.
        activation: Of the gate, or of the only product.
        before_attention: A norm, as all below.
        behind_attention: Before its sum with the residual.
        before_mlp: Behind that sum.
        behind_mlp: Before the last sum.
        parallel: Whether the MLP starts from what the attention started from.
        scale: Factor of what attention and MLP add.
    """

    attention: Any
    head: int
    queries: int
    keys: int
    qkv: tuple[nn.Module, ...]
    interleaved: bool
    rotates: bool
    head_norms: tuple[nn.Module, ...]
    out: nn.Module
    up: tuple[nn.Module, ...]
    gated: bool
    down: nn.Module
    activation: Callable[[Tensor], Tensor]
    before_attention: nn.Module | None
    behind_attention: nn.Module | None
    before_mlp: nn.Module | None
    behind_mlp: nn.Module | None
    parallel: bool
    scale: float


@torch.no_grad()
def fuse_layers(model: PreTrainedModel) -> int:
    """Give every layer whose parts are known a fused forward pass; return how many are.

    Weights keep their names and values; those of one product are laid out in one piece of memory.
    """
    count = 0
    for layer in layers_of(model):
        parts = _parts_of(layer)
        if parts is not None:
            layer.__dict__["forward"] = FusedLayer(layer, parts)
            count += 1
    return count


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """Return the decoder layers of a model, none where they are not where most models have them."""
    body = model.get_decoder()  # of a model that also sees, its text part
    found = next((getattr(body, name) for name in ("layers", "h") if hasattr(body, name)), None)
    return list(found) if isinstance(found, nn.ModuleList) else []


def fused_layers_of(model: PreTrainedModel) -> list[FusedLayer]:
    """Return the passes of the layers that `fuse_layers` has fused."""
    passes = [layer.__dict__.get("forward") for layer in layers_of(model)]
    return [found for found in passes if isinstance(found, FusedLayer)]


def _parts_of(layer: nn.Module) -> LayerParts | None:
    """Return the first reading of a layer's parts whose pass agrees with the layer's own."""
    readings = list(_readings(layer))
    if not readings:
        return None
    trial = _Trial(layer, readings[0])
    return next((parts for parts in readings if trial.agrees(parts)), None)


def _readings(layer: nn.Module) -> Iterator[LayerParts]:
    """Yield what a layer may be by the names of its modules, the likeliest first.

    Names leave open whether queries and keys are rotated, what lies how in one product of all
    three, and whether the residual is parallel.
    """
    parts = _named(layer)
    if parts is None or not _is_plain(layer):
        return
    if _kernel_of(parts.attention) not in ALL_ATTENTION_FUNCTIONS:
        return
    single = len(parts.qkv) == 1 and parts.queries == parts.keys and not parts.head_norms
    takes_angles = "position_embeddings" in inspect.signature(layer.forward).parameters
    one_norm = parts.before_mlp is parts.before_attention is not None
    likely = bool(getattr(layer, "use_parallel_residual", one_norm))
    yield from (
        replace(parts, rotates=rotates, interleaved=interleaved, parallel=parallel)
        for parallel, interleaved, rotates in itertools.product(
            (likely, not likely),
            (False, True) if single else (False,),
            (True, False) if takes_angles else (False,),
        )
    )


def _named(layer: nn.Module) -> LayerParts | None:
    """Return a layer's parts by their names, where it has all that a layer needs and no others."""
    inner = _children(layer)
    attention = _taken(inner, ATTENTION)
    mlp = _taken(inner, ("mlp",))
    norms = next((each for each in _NORMS if set(inner) == {*filter(None, each)}), None)
    if attention is None or mlp is None or norms is None:
        return None
    heads, halves = _children(attention), _children(mlp)
    qkv, up = _taken_together(heads, _QKV), _taken_together(halves, _UP)
    out, down = _taken(heads, _OUT), _taken(halves, _DOWN)
    head_norms = _taken_together(heads, _HEAD_NORMS)
    activation = _taken(halves, _ACTIVATION)
    head = getattr(attention, "head_dim", None) or getattr(attention, "head_size", None)
    if heads or halves or not isinstance(head, int) or not hasattr(attention, "scaling"):
        return None
    if not qkv or not up or out is None or down is None or activation is None:
        return None
    if not all(map(_is_product, (*qkv, *up, out, down))):
        return None
    if any(type(norm) not in FORMULAS for norm in (*inner.values(), *head_norms)):
        return None
    queries = _width(out)[0] // head
    return LayerParts(
        attention=attention,
        head=head,
        queries=queries,
        keys=(sum(_width(each)[1] for each in qkv) // head - queries) // 2,
        qkv=qkv,
        interleaved=False,
        rotates=True,
        head_norms=head_norms,
        out=out,
        up=up,
        gated=sum(_width(each)[1] for each in up) == 2 * _width(down)[0],
        down=down,
        activation=activation,
        **dict(zip(_PLACES, (inner[name] if name else None for name in norms), strict=True)),
        parallel=False,
        scale=float(getattr(layer, "residual_multiplier", 1.0)),
    )


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """Return the modules inside, but for what does nothing in inference."""
    return {
        name: child
        for name, child in module.named_children()
        if not isinstance(child, nn.Dropout | nn.Identity)
    }


def _taken(children: dict[str, Any], names: Sequence[str]) -> Any:
    """Take the child of the first name that there is, or none."""
    return next((children.pop(name) for name in names if name in children), None)


def _taken_together(
    children: dict[str, Any], names: Sequence[tuple[str, ...]]
) -> tuple[nn.Module, ...]:
    """Take the children of the first group of names that are all there, or none."""
    group = next((each for each in names if all(name in children for name in each)), ())
    return tuple(children.pop(name) for name in group)


def _is_product(module: Any) -> bool:
    """Tell whether a module is an ordinary product: quantised ones may be of the same type.

    Their weight is then a tensor of another kind, or has integers and a scale beside it.
    """
    return (
        type(module) in (nn.Linear, Conv1D)
        and {name for name, _ in module.named_parameters()} <= {"weight", "bias"}
        and type(module.weight.data) is Tensor
        and module.weight.is_floating_point()
    )


def _width(product: Any) -> tuple[int, int]:
    """Return the sizes of what goes into a product and of what comes out."""
    rows, columns = product.weight.shape
    return (rows, columns) if isinstance(product, Conv1D) else (columns, rows)


def _is_plain(layer: nn.Module) -> bool:
    """Tell whether a layer is as transformers made it, with weights in its products and norms only.

    Placing a model on several devices replaces forward passes, or hooks onto them.
    """
    inner = [module for module in layer.modules() if next(module.children(), None) is not None]
    return (
        not any(next(module.parameters(recurse=False), None) is not None for module in inner)
        and not any("forward" in module.__dict__ for module in layer.modules())
        and not any(m._forward_hooks or m._forward_pre_hooks for m in layer.modules())
        and len({(weight.device, weight.dtype) for weight in layer.parameters()}) == 1
        and not any(weight.is_meta for weight in layer.parameters())
    )


def _kernel_of(attention: Any) -> str:
    return str(attention.config._attn_implementation)


class Parts(NamedTuple):
    """The functions of a layer, as they are or compiled."""

    before: Callable[..., tuple[Tensor, Tensor, Tensor]]
    behind: Callable[..., Tensor]
    mix: Callable[..., Tensor] | None = None  # the attention, in place of the kernel `grouped`


class Turning(NamedTuple):
    """What turns queries and keys: two halves of a head swap places, one with its sign changed.

    Attributes:
        cosine: (B or 1, 1, T, rotated).
        sine: The same, and negative in the first half.
    """

    cosine: Tensor
    sine: Tensor


_Norm = tuple[Formula, tuple[Any, ...]]  # and its details: shape, weights, epsilon


class _Before(NamedTuple):
    """What `_before_attention` computes with."""

    norm: _Norm | None
    product: Product
    head: int
    queries: int
    keys: int
    interleaved: bool
    rotates: bool
    norms: tuple[_Norm, ...]  # of queries and keys, or none


class _Behind(NamedTuple):
    """What `_behind_attention` computes with."""

    out: Product
    up: Product
    down: Product
    behind_attention: _Norm | None
    before_mlp: _Norm | None
    behind_mlp: _Norm | None
    activation: Callable[[Tensor], Tensor]
    gated: bool
    parallel: bool
    scale: float


class FusedLayer:
    """The forward pass of one layer; called as transformers calls the layer's own.

    Attributes:
        is_made_of: The layer's parts.
        parts: What computes it now.
    """

    parts: Parts

    def __init__(self, layer: nn.Module, parts: LayerParts) -> None:
        self.parts = _PLAIN
        self.is_made_of = parts
        self._attention = parts.attention
        self._scaling = parts.attention.scaling
        self._kernel = ALL_ATTENTION_FUNCTIONS[_kernel_of(parts.attention)]
        self._order = tuple(inspect.signature(layer.forward).parameters)
        self._before = _Before(
            norm=_known(parts.before_attention),
            product=_joined(*parts.qkv),
            head=parts.head,
            queries=parts.queries,
            keys=parts.keys,
            interleaved=parts.interleaved,
            rotates=parts.rotates,
            norms=tuple(map(_formula, parts.head_norms)),
        )
        self._behind = _Behind(
            out=_joined(parts.out),
            up=_joined(*parts.up),
            down=_joined(parts.down),
            behind_attention=_known(parts.behind_attention),
            before_mlp=_known(parts.before_mlp),
            behind_mlp=_known(parts.behind_mlp),
            activation=parts.activation,
            gated=parts.gated,
            parallel=parts.parallel,
            scale=parts.scale,
        )
        self._few: dict[str, Sequence[Product]] = {}
        self._by_rows: list[tuple[_Before, _Behind]] = []

    @property
    def products(self) -> dict[str, Product]:
        """The layer's products, by name, in the order of a pass."""
        behind = self._behind
        return {
            "product": self._before.product,
            "out": behind.out,
            "up": behind.up,
            "down": behind.down,
        }

    def use(self, name: str, by_rows: Sequence[Product]) -> None:
        """Compute one of the products otherwise in passes of few rows.

        Args:
            name: Of the product.
            by_rows: For no row, for one, and so on, as many for each product; none: as at first.
        """
        self._few.pop(name, None)
        if by_rows:
            self._few[name] = by_rows
        self._by_rows = [
            (_replaced(self._before, self._few, rows), _replaced(self._behind, self._few, rows))
            for rows in range(min(map(len, self._few.values()), default=0))
        ]

    def __call__(self, *given: Any, **named: Any) -> Tensor:
        """Return the layer's output, (B, T, H)."""
        named.update(zip(self._order, given, strict=False))
        caches = [named.pop(name, None) for name in _CACHES]
        for name in _UNUSED:
            named.pop(name, None)
        angles = named.pop("position_embeddings", None)
        return self.run(
            named.pop("hidden_states"),
            named.pop("attention_mask", None),
            next((found for found in caches if found is not None), None),
            None if angles is None else turning(angles),
            **named,
        )

    def run(
        self,
        states: Tensor,  # (B, T, H)
        mask: Tensor | None,  # (B or 1, 1, T, L + T)
        cache: Any,
        turn: Turning | None,
        **options: Any,
    ) -> Tensor:
        """Return the layer's output, (B, T, H); further options are for the kernel."""
        batch, rows, _ = states.shape
        before, behind = self._before, self._behind
        if rows < len(self._by_rows) and batch == 1:
            before, behind = self._by_rows[rows]
        queries, keys, values = self.parts.before(states, before, turn)
        if cache is not None:
            keys, values = cache.update(keys, values, self._attention.layer_idx)
        mix = self.parts.mix
        if mix is not None and mask is not None and self._kernel is grouped_attention:
            seen = mix(queries, keys, values, mask, self._scaling)
        else:
            seen, _ = self._kernel(
                self._attention,
                queries,
                keys,
                values,
                mask,
                dropout=0.0,
                scaling=self._scaling,
                **options,
            )
        return self.parts.behind(states, seen.reshape(batch, rows, -1), behind)


def _replaced(using: Any, few: Mapping[str, Sequence[Product]], rows: int) -> Any:
    """Return what a part of a layer computes with, with other products for a number of rows."""
    return using._replace(**{name: few[name][rows] for name in few if name in using._fields})


def _known(norm: nn.Module | None) -> _Norm | None:
    return None if norm is None else _formula(norm)


def _formula(norm: nn.Module) -> _Norm:
    return FORMULAS[type(norm)], details(norm)


@contextmanager
def compiled_layers(model: PreTrainedModel) -> Iterator[None]:
    """Let fused layers run what torch.compile makes of them; all layers of a model share it.

    Raises:
        RuntimeError: It cannot be compiled here, or into no few variants.
    """
    import torch._dynamo.config as dynamo  # slow to import, and seldom needed

    fused = fused_layers_of(model)
    for found in fused:
        found.parts = _compiled_parts(model)
    try:
        with dynamo.patch(recompile_limit=_VARIANTS, fail_on_recompile_limit_hit=True):
            yield
    finally:
        for found in fused:
            found.parts = _PLAIN


def _compiled_parts(model: PreTrainedModel) -> Parts:
    if model not in _COMPILED:
        number = next(_COUNTER)
        functions = (_before_attention, _behind_attention, _mixed)
        _COMPILED[model] = Parts(*(_compiled(each, number) for each in functions))
    return _COMPILED[model]


_COMPILED: WeakKeyDictionary[PreTrainedModel, Parts] = WeakKeyDictionary()
_COUNTER = itertools.count()  # never given twice: a run in phases releases models
# So that products of one row, which read each weight once, are generated too: the library's are
# made for many rows.
_COMPILING: Mapping[str, Any] = {"options": {"coordinate_descent_tuning": True}}


def _compiled(function: Any, number: int) -> Callable[..., Any]:
    """Compile a function for one model, as a copy under a name of its own.

    torch notes by a function's name and place which sizes change from call to call: a second model
    of other sizes would make them all variable, and its kernels slow.
    """
    code = function.__code__
    own = FunctionType(code.replace(co_name=f"{code.co_name}_{number}"), function.__globals__)
    return torch.compile(own, fullgraph=True, **_COMPILING)


def _before_attention(
    states: Tensor,  # (B, T, H)
    using: _Before,
    turn: Turning | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries and keys, rotated, and values; each (B, heads, T, head size)."""
    batch, rows, _ = states.shape
    both = using.queries + using.keys
    mixed = _multiplied(_normed(states, using.norm), using.product)
    if using.interleaved:
        heads = mixed.view(batch, rows, using.queries, 3, using.head).permute(0, 3, 2, 1, 4)
        turned = _rotated(heads[:, :2], using, turn)  # (B, 2, heads, T, head size)
        return turned[:, 0], turned[:, 1], heads[:, 2]
    if using.norms:
        width = both * using.head
        normed = _norm_heads(mixed[..., :width], using)
        turned = normed.view(batch, rows, both, using.head).transpose(1, 2)
        values = mixed[..., width:].view(batch, rows, using.keys, using.head).transpose(1, 2)
    else:
        heads = mixed.view(batch, rows, -1, using.head).transpose(1, 2)
        turned, values = heads[:, :both], heads[:, both:]
    turned = _rotated(turned, using, turn)
    return turned[:, : using.queries], turned[:, using.queries :], values


def _behind_attention(
    states: Tensor,  # (B, T, H)
    mixed: Tensor,  # (B, T, heads · head size)
    using: _Behind,
) -> Tensor:
    """Return the layer's output, (B, T, H)."""
    seen = _normed(_multiplied(mixed, using.out), using.behind_attention)
    residual = _sum(states, seen, using.scale)
    start = states if using.parallel else residual
    products = _multiplied(_normed(start, using.before_mlp), using.up)
    if using.gated:
        gate, up = products.chunk(2, -1)
        inner = using.activation(gate) * up
    else:
        inner = using.activation(products)
    added = _normed(_multiplied(inner, using.down), using.behind_mlp)
    return _sum(residual, added, using.scale)


def _mixed(
    queries: Tensor,  # (B, heads, T, D)
    keys: Tensor,  # (B, key heads, L + T, D)
    values: Tensor,  # (B, key heads, L + T, D)
    mask: Tensor,  # (B or 1, 1, T, L + T)
    scaling: float,
) -> Tensor:
    """Return what attention gives, (B, T, heads, D); heads of a group are rows of one product."""
    batch, heads, rows, size = queries.shape
    groups = queries.reshape(batch, keys.shape[1], -1, size)  # (B, key heads, groups · T, D)
    products = (groups @ keys.transpose(-1, -2)).float() * scaling
    apart = products.view(batch, keys.shape[1], -1, rows, keys.shape[2])
    shares = (apart + mask.unsqueeze(2)).softmax(-1).to(values.dtype)
    return (shares.view(products.shape) @ values).view(batch, heads, rows, -1).transpose(1, 2)


_PLAIN = Parts(_before_attention, _behind_attention)


def _multiplied(states: Tensor, product: Product) -> Tensor:
    return product.kernel(states, product.weight, product.bias)


def _normed(states: Tensor, norm: _Norm | None) -> Tensor:
    if norm is None:
        return states
    formula, given = norm
    return formula(states, *given)


def _norm_heads(
    mixed: Tensor,  # (B, T, heads · head size), of queries and behind them of keys
    using: _Before,
) -> Tensor:
    """Return queries and keys, normed, in the same shape."""
    turning, (queries, keys) = using.queries * using.head, using.norms
    (formula, (shape, *first)), (other, (other_shape, *second)) = queries, keys
    alike = (formula, shape, first[1:]) == (other, other_shape, second[1:])
    if alike and formula in BROADCAST:
        # One norm of both, in groups of one size, each with the weight of its kind.
        groups = _grouped(mixed, *shape)
        counts = (turning // groups.shape[-1], (mixed.shape[-1] - turning) // groups.shape[-1])
        weights = [
            each[0].expand(count, -1) for each, count in zip((first, second), counts, strict=True)
        ]
        return formula(groups, shape, torch.cat(weights), *first[1:]).flatten(-2)
    parts = [
        _normed(_grouped(part, *norm[1][0]), norm).flatten(-2)
        for part, norm in ((mixed[..., :turning], queries), (mixed[..., turning:], keys))
    ]
    return torch.cat(parts, -1)


def _grouped(mixed: Tensor, size: int) -> Tensor:  # (…, groups, size)
    return mixed.view(*mixed.shape[:-1], -1, size)


def _sum(states: Tensor, added: Tensor, scale: float) -> Tensor:
    return states + added if scale == 1.0 else torch.add(states, added, alpha=scale)


def turning(angles: tuple[Tensor, Tensor]) -> Turning:
    """Return what turns heads by the cosines and sines of positions, each (B or 1, T, rotated)."""
    cosine, sine = (each.unsqueeze(1) for each in angles)
    first, second = sine.chunk(2, -1)
    return Turning(cosine, torch.cat((-first, second), -1))


def _rotated(
    heads: Tensor,  # (B, …, T, head size)
    using: _Before,
    turn: Turning | None,
) -> Tensor:
    """Return heads, each turned in its first columns by the angles of its position."""
    if not using.rotates or turn is None:
        return heads
    cosine, sine = turn
    width = cosine.shape[-1]
    for _ in range(heads.dim() - cosine.dim()):
        cosine, sine = cosine.unsqueeze(1), sine.unsqueeze(1)
    columns = heads if width == using.head else heads[..., :width]
    found = columns * cosine + columns.roll(width // 2, -1) * sine
    if found.dtype != heads.dtype:  # some families keep their angles in float32
        found = found.to(heads.dtype)
    return found if width == using.head else torch.cat((found, heads[..., width:]), -1)


def _joined(*products: Any) -> Product:
    """Return the weight and bias of all products at once, and make theirs views of them."""
    if len(products) == 1:
        (product,) = products
        weight = product.weight.t() if isinstance(product, Conv1D) else product.weight
        return Product(weight, product.bias)
    biases: list[Tensor] = [product.bias for product in products if product.bias is not None]
    weight = _in_one_piece([product.weight for product in products])
    return Product(weight, _in_one_piece(biases) if len(biases) == len(products) else None)


def _in_one_piece(parts: Sequence[Tensor]) -> Tensor:
    """Lay tensors out behind each other: what is loaded into one later is in the whole too."""
    whole = torch.cat(list(parts))
    for part, view in zip(parts, torch.split(whole, [len(part) for part in parts]), strict=True):
        part.data = view
    return whole


class _Trial:
    """Compares passes that were composed with a layer's own, without the residual.

    On a copy in float64: in bfloat16 the rounding of the states hides what a layer adds to them,
    such as whether it rotates queries and keys at all, and in float32 it may hide what a layer of
    small weights adds. And with random weights: others may be loaded later, and biases of zero or
    norms of one would not show where they stand. They are so wide that a layer which clips or caps
    something does it. Positions are random and far apart, for layers that scale by them; masks too.
    """

    def __init__(self, layer: nn.Module, parts: LayerParts) -> None:
        self._names = {id(module): name for name, module in layer.named_modules()}
        self._size = _width(parts.qkv[0])[0]
        drawn: dict[int, Any] = {
            id(weight): _random_like(weight, self._size, seed)
            for seed, weight in enumerate(layer.parameters())
        }
        self._copy = deepcopy(layer, drawn).double()  # without a copy of the layer's own weights
        self._like = next(self._copy.parameters())
        self._angles = _rotary_width(parts) // 2
        self._order = inspect.signature(layer.forward).parameters
        self._expected: list[tuple[dict[str, Any], Any]] = []

    def agrees(self, parts: LayerParts) -> bool:
        """Tell whether the pass of some parts does what the layer does."""
        if not self._expected:
            self._expected = [
                (inputs, self._own(inputs)) for inputs in itertools.starmap(self._inputs, _CASES)
            ]
        fused = FusedLayer(self._copy, self._of_copy(parts))
        return all(self._same(fused, *each) for each in self._expected)

    def _of_copy(self, parts: LayerParts) -> LayerParts:
        """Return the same parts of the copy."""
        found = {field.name: getattr(parts, field.name) for field in fields(parts)}
        return LayerParts(**{name: self._copied(value) for name, value in found.items()})

    def _copied(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(self._copied, value))
        if isinstance(value, nn.Module):
            return self._copy.get_submodule(self._names[id(value)])
        return value

    def _inputs(self, rows: int, masked: bool) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(rows)
        states = torch.randn(1, rows, self._size, generator=generator)
        angles = torch.randn(1, rows, self._angles, generator=generator).repeat(1, 1, 2)
        positions = torch.randint(1 << 17, (1, rows), generator=generator)
        hidden = torch.rand(1, 1, rows, rows, generator=generator).triu(1) > 0.5
        mask = torch.zeros(hidden.shape).masked_fill(hidden, torch.finfo(torch.float32).min)
        return {
            "hidden_states": states.to(self._like),
            "attention_mask": mask.to(self._like) if masked else None,
            "position_ids": positions.to(self._like.device),
            "position_embeddings": (angles.cos().to(self._like), angles.sin().to(self._like)),
        }

    def _own(self, inputs: Mapping[str, Any]) -> Any:
        """Return what the layer gives; nothing where it cannot be called so."""
        given = {name: value for name, value in inputs.items() if name in self._order}
        try:
            return self._copy(**given)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a layer of an unknown kind may raise anything
            return None

    def _same(self, fused: FusedLayer, inputs: Mapping[str, Any], expected: Any) -> bool:
        states = inputs["hidden_states"]
        if not isinstance(expected, Tensor) or expected.shape != states.shape:
            return False
        try:
            found = fused(**inputs)
        except RuntimeError:  # sizes that do not fit each other
            return False
        added = expected - states
        return bool((added - (found - states)).abs().max() <= _TOLERANCE * added.abs().max())


def _random_like(weight: Tensor, width: int, seed: int) -> nn.Parameter:
    """Return weights in the place of a product's, or of a norm's or a bias.

    Numbers beyond a million repeat the first ones: to draw all of them would take longer than to
    load a large model. Their number is prime, so that rows differ.
    """
    found = torch.empty_like(weight, dtype=torch.float64, memory_format=torch.contiguous_format)
    numbers = found.view(-1)
    first = numbers[:_NUMBERS]
    generator = torch.Generator(weight.device).manual_seed(seed)
    if weight.dim() == 1:
        first.uniform_(0.5, 2.0, generator=generator)
    else:
        first.normal_(std=_WIDTH * width**-0.5, generator=generator)
    done = len(first)
    while done < len(numbers):
        more = min(done, len(numbers) - done)
        numbers[done : done + more] = numbers[:more]
        done += more
    return nn.Parameter(found, requires_grad=False)


_CASES = [(1, False), (2, False), (16, False), (16, True)]


def _rotary_width(parts: LayerParts) -> int:
    """Return how many columns of a head turn, by the configuration."""
    rope = getattr(parts.attention.config, "rope_parameters", None) or {}
    return int(parts.head * rope.get("partial_rotary_factor", 1.0))
