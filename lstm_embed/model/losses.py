"""The losses of a group of sentences, for several groups at once.

Negatives and candidates stay inside a group. Each function returns one value a group.

Shape suffixes: G groups, B sentences of a group, N reconstructed words of a group, C candidates, D code, d word vector,
K dimension in which words are compared.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK_ROWS, _CHUNK_ROWS_GPU = 128, 8192


def contrast(
    code_GBD: Tensor,
    partner_GB: Tensor,
    article_GB: Tensor,
    *,
    temperature: float,
    same_article_negatives: bool,
) -> tuple[Tensor, Tensor]:
    """Tell the neighbour of each sentence from the other sentences of its group (InfoNCE, van den Oord et al. 2018).

    Every sentence with a partner is an anchor, so a pair counts in both directions. Sentences whose code is zero, having no
    word that is known, take no part.

    Args:
        code_GBD: Codes; their cosine, over the temperature, is the logit.
        partner_GB: Row of the partner in the group, -1 for none.
        article_GB: Sentences of equal numbers are of the same article.
        temperature: Above 0.
        same_article_negatives: Count other sentences of the anchor's article as negatives.

    Returns:
        The mean loss of the anchors and the share of them that find their partner, shapes (G,); 0 without anchors.
    """
    with torch.autocast(code_GBD.device.type, enabled=False):
        unit_GBD = F.normalize(code_GBD.float(), dim=-1)
        logits_GBB = unit_GBD @ unit_GBD.transpose(1, 2) / temperature
    present_GB = code_GBD.detach().ne(0).any(-1)
    partner = partner_GB.clamp_min(0)
    anchor_GB = (partner_GB >= 0) & present_GB & present_GB.gather(1, partner)
    excluded_GBB = ~present_GB[:, None, :] | torch.eye(partner.shape[1], dtype=torch.bool, device=partner.device)
    if not same_article_negatives:
        excluded_GBB = excluded_GBB | (article_GB[:, :, None] == article_GB[:, None, :])
    excluded_GBB = excluded_GBB.scatter(2, partner[:, :, None], False)
    logits_GBB = logits_GBB.masked_fill(excluded_GBB, -torch.inf)
    logits_GB = logits_GBB.gather(2, partner[:, :, None]).squeeze(2)
    loss_GB = (torch.logsumexp(logits_GBB, dim=2) - logits_GB).where(anchor_GB, 0.0)
    found_GB = (logits_GBB.argmax(2) == partner) & anchor_GB
    num_anchors_G = anchor_GB.sum(1).clamp_min(1)
    return loss_GB.sum(1) / num_anchors_G, found_GB.sum(1) / num_anchors_G


def word_loss(logits_GQC: Tensor, row_GN: Tensor, target_GN: Tensor) -> tuple[Tensor, Tensor]:
    """Return the negative log-likelihood of each target word and whether it is the likeliest, shapes (G, N).

    Args:
        logits_GQC: Logits of the candidates for each predicting row.
        row_GN: The row that predicts each word.
        target_GN: The candidate that is right.
    """
    num_candidates = logits_GQC.shape[2]
    log_p_GQC = F.log_softmax(logits_GQC.float(), dim=2)
    loss_GN = -log_p_GQC.flatten(1).gather(1, row_GN * num_candidates + target_GN)
    return loss_GN, logits_GQC.argmax(2).gather(1, row_GN) == target_GN


class CandidateSoftmax(torch.autograd.Function):
    """The weighted negative log-likelihood of the right candidates, without holding all logits of a group.

    Probabilities and gradients of a few rows at a time stay in the processor's cache. The gradients are made in the forward
    pass, which is when the probabilities are there.
    """

    @staticmethod
    def forward(
        ctx: Any, query_NK: Any, key_CK: Any, bias_C: Any, mask_C: Any, target_N: Any, weight_N: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of the weighted losses, and which targets are the likeliest candidates, shape (N,).

        Args:
            ctx: Keeps the gradients.
            query_NK: What predicts each word.
            key_CK: Candidates; their product with a query, plus their bias, is the logit.
            bias_C: Bias of each candidate.
            mask_C: False where there is no candidate; None if all are.
            target_N: The right candidate.
            weight_N: Weight of each word.
        """
        wanted = any(ctx.needs_input_grad)
        d_query, d_key, d_bias = (torch.zeros_like(x, dtype=torch.float32) for x in (query_NK, key_CK, bias_C))
        total, right = weight_N.new_zeros(()), []
        size = _CHUNK_ROWS if query_NK.device.type == "cpu" else _CHUNK_ROWS_GPU
        for start in range(0, len(query_NK), size):
            query, target, weight = (x[start : start + size] for x in (query_NK, target_N[:, None], weight_N))
            logits = torch.addmm(bias_C, query, key_CK.t()).float()
            if mask_C is not None:
                logits.masked_fill_(~mask_C, -torch.inf)
            largest, chosen = logits.amax(1), logits.gather(1, target).squeeze(1)
            p = torch.softmax(logits, dim=1)
            # log of the sum of exp(logits), from the largest: its probability cannot be lost to rounding
            log_sum = largest - p.amax(1).log()
            total += weight @ (log_sum - chosen)
            right.append(chosen >= largest)
            if wanted:
                d_logits = p.scatter_add_(1, target, -torch.ones_like(chosen)[:, None]).mul_(weight[:, None])
                d_query[start : start + size] = d_logits @ key_CK
                d_key += d_logits.t() @ query
                d_bias += d_logits.sum(0)
        ctx.save_for_backward(*((d_query, d_key, d_bias) if wanted else ()))
        ctx.dtypes = query_NK.dtype, key_CK.dtype, bias_C.dtype
        right_N = torch.cat(right)
        ctx.mark_non_differentiable(right_N)
        return total, right_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        d_query, d_key, d_bias = ((d * grad).to(dtype) for d, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True))
        return d_query, d_key, d_bias, None, None, None


def vector_loss(output_GNd: Tensor, target_GNd: Tensor, kind: str) -> Tensor:
    """Return the squared error (mean over dimensions) or 1 - cosine of each output vector, shape (G, N)."""
    if kind == "mse":
        return (output_GNd.float() - target_GNd).square().mean(-1)
    return 1.0 - F.cosine_similarity(output_GNd.float(), target_GNd, dim=-1, eps=1e-6)


def weighted_mean(value_GN: Tensor, weight_GN: Tensor) -> Tensor:
    """Return the mean of each group by weight, shape (G,); 0 where all weights are 0."""
    return (value_GN * weight_GN).sum(1) / weight_GN.sum(1).clamp_min(1e-12)


def take_rows(value_GQd: Tensor, row_GN: Tensor) -> Tensor:
    """Return the chosen rows of each group, shape (G, N, d)."""
    return value_GQd.gather(1, row_GN[:, :, None].expand(-1, -1, value_GQd.shape[2]))
