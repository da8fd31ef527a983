"""One LSTM direction, two ways: cuDNN through `nn.LSTM`, and an own recurrence for float32 and bfloat16 on CPUs.

The own recurrence exists because on a CPU `nn.LSTM` projects every token (we project every distinct word), runs padding, and
trains with a slow reference kernel. It works on any batch whose unfinished rows lead; see `Sentences.running`. With weights in
bfloat16 the products and what they read are in that, and what is done number by number stays in float32.

The function is Keras': gates with one bias, which begins at 1 for the forget gate (Jozefowicz et al. 2015). Of torch's two
biases the second stays zero and is not trained.

Shape suffixes: T steps, R rows, U rows of the input table, I input, H units, G = 4 H gates in torch's order (input, forget,
cell, output), N = all rows running at all steps, one step after the other.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Lstm(nn.Module):
    """A unidirectional LSTM whose input is, at each step and row, a row of a table, a constant of the row, or both joined.

    Args:
        input_size: Dimension of the joined input.
        hidden_size: Units.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.cell = nn.LSTM(input_size, hidden_size)
        input_GI, state_GH, bias_G, unused_G = self.weights
        unused_G.requires_grad_(False)
        if input_GI.is_meta:
            return  # Its sizes are asked for and nothing else; torch would take a second to learn how to compute with these.
        nn.init.xavier_uniform_(input_GI)
        nn.init.orthogonal_(state_GH)
        nn.init.zeros_(bias_G)
        nn.init.ones_(bias_G.data[hidden_size : 2 * hidden_size])
        nn.init.zeros_(unused_G)

    @property
    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Input weights (G, I), state weights (G, H), the bias (G,) and the bias that stays zero (G,)."""
        cell: Any = self.cell
        return cell.weight_ih_l0, cell.weight_hh_l0, cell.bias_ih_l0, cell.bias_hh_l0

    @property
    def recurs(self) -> bool:
        """Whether the own recurrence computes the states; else `nn.LSTM` does."""
        weight = self.weights[1]
        return weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)

    def project(self, table_UI: Tensor) -> Tensor:
        """Return what each row of an input table adds to the gates, bias included, shape (U, G); the cell gate doubled."""
        weight_GI, _, bias_G, _ = self.weights
        weight_GI = _doubled(weight_GI[:, : table_UI.shape[1]])
        return F.linear(table_UI.to(weight_GI.dtype), weight_GI, _doubled(bias_G))

    def forward(
        self,
        running: tuple[int, ...],
        *,
        table_UI: Tensor | None = None,
        position_TR: Tensor | None = None,
        constant_RI: Tensor | None = None,
        projected_UG: Tensor | None = None,
    ) -> Tensor:
        """Return the states of all steps, shape (T, R, H); those of finished rows are finite and mean nothing.

        Args:
            running: For each step the number of leading rows to compute; all at the first.
            table_UI: Input vectors.
            position_TR: The row of the table each step and row reads.
            constant_RI: What each row reads at every step.
            projected_UG: `project(table_UI)` if it is known already.
        """
        if not self.recurs:
            return self._by_library(len(running), table_UI, position_TR, constant_RI)
        if projected_UG is None and table_UI is not None:
            projected_UG = self.project(table_UI)
        weight_GI, weight_GH, bias_G, _ = self.weights
        constant_RG = None
        if constant_RI is not None:
            # The bias counts once: with the table if there is one.
            bias = _doubled(bias_G) if projected_UG is None else None
            constant_RG = F.linear(constant_RI, _doubled(weight_GI[:, -constant_RI.shape[1] :]), bias)
        inputs = (projected_UG, position_TR, constant_RG, _doubled(weight_GH))
        if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
            return _Recurrence.apply(*inputs, running)
        return _recur(*inputs, running, keep=False)[0]

    def _by_library(
        self, num_steps: int, table_UI: Tensor | None, position_TR: Tensor | None, constant_RI: Tensor | None
    ) -> Tensor:
        parts = []
        if table_UI is not None and position_TR is not None:
            parts.append(F.embedding(position_TR, table_UI))
        if constant_RI is not None:
            parts.append(constant_RI.expand(num_steps, -1, -1))
        input_TRI = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        input_TRI = input_TRI.to(self.weights[0].dtype)
        # Under autocast cuDNN computes in float16, also where bfloat16 was asked for, and gradients vanish in it. Without, it
        # rounds float32 to TF32, which serves training; a vector is to be the same as on a CPU.
        precise = torch.backends.cudnn.flags(enabled=True, allow_tf32=torch.is_grad_enabled())
        with torch.autocast(input_TRI.device.type, enabled=False), precise:
            return self.cell(input_TRI)[0]


def _multiply_dtype(weights: Tensor) -> torch.dtype:
    """Return the precision of the matrix products: autocast's, if that is on, else that of the weights."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weights.dtype


def _doubled(weights: Tensor) -> Tensor:
    """Return weights whose first dimension is the gates with the cell gate's doubled.

    tanh x = 2 sigmoid(2 x) - 1, so that one sigmoid serves all gates. torch's takes a third of the time of its tanh (AVX2).
    """
    units = len(weights) // 4
    scale = weights.new_ones(len(weights), *(1,) * (weights.ndim - 1))
    scale[2 * units : 3 * units] = 2.0
    return weights * scale


@torch.no_grad()
def _recur(
    table_UG: Tensor | None,
    position_TR: Tensor | None,
    constant_RG: Tensor | None,
    weight_GH: Tensor,
    running: tuple[int, ...],
    *,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the recurrence; all gates come with the cell gate doubled.

    Returns:
        states_TRH, then with `keep` of every step, else of the last: gates_NG after their sigmoid, cells_NH, and the sigmoid
        of the doubled cells.
    """
    num_rows, units = running[0], weight_GH.shape[1]
    table_UG = None if table_UG is None else table_UG.to(weight_GH.dtype)
    weight_HG = weight_GH.t().to(_multiply_dtype(weight_GH)).contiguous()
    states_TRH = weight_GH.new_zeros(len(running), num_rows, units)
    total = sum(running) if keep else num_rows
    gates_NG = torch.empty(total, 4 * units)
    cells_NH, squashed_NH = torch.empty(2, total, units)
    new_RH = torch.empty(num_rows, units)
    is_full = weight_GH.dtype == gates_NG.dtype
    sums_RG = None if is_full else weight_GH.new_empty(num_rows, 4 * units)
    buffers = (gates_NG, cells_NH, squashed_NH)
    of_step = [x.split(running) if keep else [x[:count] for count in running] for x in buffers]
    cells_before, state_before = torch.zeros(num_rows, units), states_TRH[0]
    for step, (count, state, gates, cells, squashed) in enumerate(
        zip(running, states_TRH.unbind(), *of_step, strict=True)
    ):
        sums = gates if sums_RG is None else sums_RG[:count]
        if table_UG is not None and position_TR is not None:
            torch.index_select(table_UG, 0, position_TR[step, :count], out=sums)
            if constant_RG is not None:
                sums.add_(constant_RG[:count])
        elif constant_RG is not None:
            sums.copy_(constant_RG[:count])
        if step and weight_HG.dtype == sums.dtype:
            sums.addmm_(state_before[:count], weight_HG)
        elif step:
            sums.add_(state_before[:count].to(weight_HG.dtype) @ weight_HG)
        if sums is not gates:
            gates.copy_(sums)
        input_, forget, cell, output = gates.sigmoid_().split(units, dim=1)
        # cell = forget before + input tanh, state = output tanh(cell)
        torch.mul(forget, cells_before[:count], out=cells).addcmul_(input_, cell, value=2).sub_(input_)
        torch.add(cells, cells, out=squashed).sigmoid_()
        new = torch.mul(output, squashed, out=new_RH[:count])
        torch.sub(new.add_(new), output, out=state[:count])
        cells_before, state_before = cells, state
    return states_TRH, gates_NG, cells_NH, squashed_NH


class _Recurrence(torch.autograd.Function):
    """The recurrence with its gradient: the weights' as one product over all steps."""

    @staticmethod
    def forward(ctx: Any, table_UG: Any, position_TR: Any, constant_RG: Any, weight_GH: Any, running: Any) -> Tensor:
        states_TRH, *kept = _recur(table_UG, position_TR, constant_RG, weight_GH, running, keep=True)
        ctx.save_for_backward(table_UG, position_TR, constant_RG, weight_GH, states_TRH, *kept)
        ctx.running, ctx.dtype = running, _multiply_dtype(weight_GH)
        return states_TRH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TRH: Tensor) -> tuple[Tensor | None, ...]:
        table_UG, position_TR, constant_RG, weight_GH, states_TRH, gates_NG, cells_NH, squashed_NH = ctx.saved_tensors
        running = ctx.running
        d_gates_NG = _gate_gradients(grad_TRH, gates_NG, cells_NH, squashed_NH, weight_GH.to(ctx.dtype), running)
        d_table = d_constant = d_weight = None
        if ctx.needs_input_grad[0]:
            position_N = torch.cat([position[:count] for position, count in zip(position_TR, running, strict=True)])
            d_table = torch.zeros_like(table_UG, dtype=torch.float32).index_add_(0, position_N, d_gates_NG)
            d_table = d_table.to(table_UG.dtype)
        if ctx.needs_input_grad[2]:
            d_constant = torch.zeros_like(constant_RG, dtype=torch.float32)
            for count, d_gates in zip(running, d_gates_NG.split(running), strict=True):
                d_constant[:count] += d_gates
            d_constant = d_constant.to(constant_RG.dtype)
        if ctx.needs_input_grad[3]:
            before_NH = torch.cat(
                [states_TRH[0, :0], *(state[:count] for state, count in zip(states_TRH, running[1:], strict=False))]
            )
            after_GN = d_gates_NG[running[0] :].t()
            d_weight = (after_GN.to(ctx.dtype) @ before_NH.to(ctx.dtype)).to(weight_GH.dtype)
        return d_table, None, d_constant, d_weight, None


def _gate_gradients(
    grad_TRH: Tensor,
    gates_NG: Tensor,
    cells_NH: Tensor,
    squashed_NH: Tensor,
    weight_GH: Tensor,
    running: tuple[int, ...],
) -> Tensor:
    """Return the gradient of the gates before their sigmoid, shape (N, G), by backpropagation through time."""
    sigmoid_backward = torch.ops.aten.sigmoid_backward
    units = weight_GH.shape[1]
    d_gates_NG = torch.empty_like(gates_NG)
    d_state_RH, d_cell_RH = gates_NG.new_zeros(2, running[0], units)
    twice_RH, work_RH = gates_NG.new_empty(2, running[0], units)
    of_step = [x.split(running) for x in (gates_NG, d_gates_NG, squashed_NH)]
    cells_before = cells_NH.split(running)
    backwards = reversed(list(enumerate(zip(running, grad_TRH.unbind(), *of_step, strict=True))))
    for step, (count, grad, gates, d_gates, squashed) in backwards:
        input_, forget, cell, output = gates.split(units, dim=1)
        d_input, d_forget, d_new, d_output = d_gates.split(units, dim=1)
        d_state, d_cell, twice, work = d_state_RH[:count], d_cell_RH[:count], twice_RH[:count], work_RH[:count]
        # state = output (2 squashed - 1), squashed = sigmoid(2 cells)
        d_state.add_(grad[:count])
        torch.add(d_state, d_state, out=twice)
        torch.mul(twice, squashed, out=d_output).sub_(d_state)
        torch.mul(twice, output, out=work)
        d_cell.add_(sigmoid_backward(work, squashed, grad_input=work), alpha=2)
        # cells = forget before + input (2 cell - 1)
        torch.add(d_cell, d_cell, out=twice)
        torch.mul(twice, cell, out=d_input).sub_(d_cell)
        torch.mul(twice, input_, out=d_new)
        if step:
            torch.mul(d_cell, cells_before[step - 1][:count], out=d_forget)
            d_cell.mul_(forget)
        else:
            d_forget.zero_()
        sigmoid_backward(d_gates, gates, grad_input=d_gates)
        if step and weight_GH.dtype == d_gates.dtype:
            torch.mm(d_gates, weight_GH, out=d_state)
        elif step:
            d_state.copy_(d_gates.to(weight_GH.dtype) @ weight_GH)
    return d_gates_NG
