"""Losses and parts of losses in forms that take less time or memory than their formulas, most with gradients by hand.

The plain forms that they equal are with the tests, in `tests/distillers/references.py`.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

# RKD: triples of images whose angles are in memory together; for the cache, and for few kernels.
TRIPLES_ON_CPU, TRIPLES_ON_GPU = 2**18, 2**22
# NST: a map shorter than 1e-12 is not scaled to unit length, as by F.normalize.
SQUARED_EPS = 1e-24


class DirectionLoss(torch.autograd.Function):
    """`direction_loss` of SKD, of normalised logits, with its gradient.

    With Σ = LLᵀ, a row's distance is the length of w = L⁻¹d, and its slope u = w/|w|. Distances change by
    uᵀL⁻¹ dd − ½ uᵀL⁻¹ dΣ L⁻ᵀw.
    """

    @staticmethod
    def forward(
        ctx: Any, z_student: torch.Tensor, z_teacher: torch.Tensor, tikhonov: float, scale: float
    ) -> torch.Tensor:
        batch, classes = z_student.shape
        # Half of G_s − G_t. Its transpose is the other half, and similar logits do not cancel as their Grams would.
        half = (z_student - z_teacher) @ (z_student + z_teacher).T / (2 * scale)
        rows = half + half.T
        basis = None
        if 4 * classes <= batch:  # D's rows lie in the span of 2 · classes columns, outside which Σ is tikhonov · I
            basis = torch.linalg.qr(torch.cat([z_student, z_teacher], dim=1)).Q
            rows = rows @ basis
        centred = rows - rows.mean(dim=0)
        covariance = centred.T @ centred / max(batch - 1, 1)
        covariance.diagonal().add_(tikhonov)
        factor = torch.linalg.cholesky_ex(covariance).L  # unchecked: the check would wait for the device
        whitened = torch.linalg.solve_triangular(factor.T, rows, upper=True, left=False)
        lengths = torch.linalg.vector_norm(whitened, dim=1, keepdim=True)
        if any(ctx.needs_input_grad):
            # The covariance's part of the gradient meets the rows' in the whitened space; one solve takes both out.
            directions = whitened / lengths.masked_fill(lengths == 0, torch.inf)
            centred = whitened - whitened.mean(dim=0)
            slope = directions - centred @ (whitened.T @ directions) / max(batch - 1, 1)
            slope = torch.linalg.solve_triangular(factor, slope, upper=False, left=False)
            slope = slope if basis is None else slope @ basis.T
            slope = (slope + slope.T) / (batch * scale)
            inputs = zip((z_student, -z_teacher), ctx.needs_input_grad, strict=False)
            ctx.save_for_backward(*(slope @ z if is_needed else None for z, is_needed in inputs))
        return lengths.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return *(None if gradient is None else grad_output * gradient for gradient in ctx.saved_tensors), None, None


class AngleLoss(torch.autograd.Function):
    """`angle_loss` of RKD together with its gradient, a few vertices at a time.

    Angles are taken from distances, which are exactly 0 where embeddings are equal, as those of a Gram matrix are not;
    in float64, since the sides of a thin triangle nearly cancel.
    """

    @staticmethod
    def forward(ctx: Any, *embeddings: torch.Tensor) -> torch.Tensor:
        batch, device = len(embeddings[0]), embeddings[0].device
        points = [embedding.double() - embedding.double().mean(dim=0) for embedding in embeddings]
        squared = [torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square() for x in points]
        inverse = [distances.masked_fill(distances == 0, torch.inf).rsqrt() for distances in squared]
        slopes = [torch.zeros_like(distances) for distances in squared]  # of the loss by the squared distances
        total = squared[0].new_zeros(())
        step = max(1, (TRIPLES_ON_CPU if device.type == "cpu" else TRIPLES_ON_GPU) // batch**2)
        buffers = squared[0].new_empty(4, min(step, batch), batch, batch)  # fresh memory would cost more than the sums
        for vertices in (slice(start, min(start + step, batch)) for start in range(0, batch, step)):
            *cosines, error, slope = buffers[:, : vertices.stop - vertices.start]
            for network in range(2):
                cosines_at(squared[network], inverse[network], vertices, out=cosines[network])
            torch.sub(*cosines, out=error)
            torch.clamp(error, -1, 1, out=slope)
            total += (slope.flatten() @ error.flatten()) - (slope.flatten() @ slope.flatten()) / 2  # smooth L1
            for network in range(2):
                if ctx.needs_input_grad[network]:
                    sides = inverse[network][vertices]
                    turn = cosines[network].mul_(slope).sum(dim=2)
                    pull = torch.mul(slope, sides[:, :, None], out=cosines[network]).mul_(sides[:, None])
                    slopes[network].sub_(pull.sum(dim=0), alpha=0.5)
                    slopes[network][vertices] += pull.sum(dim=2) - sides.square() * turn
        gradients = []
        for network, sign in enumerate((1, -1)):
            slope = (slopes[network] + slopes[network].T) * (2 * sign / batch**3)
            gradient = slope.sum(dim=1, keepdim=True) * points[network] - slope @ points[network]
            gradients.append(gradient.to(embeddings[network].dtype) if ctx.needs_input_grad[network] else None)
        ctx.save_for_backward(*gradients)
        return (total / batch**3).to(embeddings[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return tuple(None if gradient is None else grad_output * gradient for gradient in ctx.saved_tensors)


def cosines_at(squared: torch.Tensor, inverse: torch.Tensor, vertices: slice, out: torch.Tensor) -> torch.Tensor:
    """Cosines (vertices, batch, batch) of the angles at the images `vertices`, a slice, by the law of cosines.

    squared, inverse: (batch, batch), the squared distances and the reciprocal distances. `out` takes the result.
    """
    sides, inverse = squared[vertices], inverse[vertices]
    torch.sub(sides[:, :, None], squared, out=out).add_(sides[:, None])
    return out.mul_(inverse[:, :, None] / 2).mul_(inverse[:, None])


class GramMatrix(torch.autograd.Function):
    """xxᵀ of x (batch, rows, columns), whose gradient is one product where that of `x @ x.mT` is two and their sum."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x @ x.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return (grad + grad.mT) @ ctx.saved_tensors[0]


def mean_outer_product(maps: torch.Tensor) -> torch.Tensor:
    """Mean over the channels of aaᵀ for unit maps a, (batch, positions, positions).

    maps: (batch, channels, positions), of any length.
    """
    squared_lengths = maps.square().sum(dim=2, keepdim=True).clamp_min(SQUARED_EPS)
    return maps.mT @ (maps / squared_lengths) / maps.shape[1]


class RightSingularVectors(torch.autograd.Function):
    """The first k right singular vectors (batch, columns, k) of x (batch, rows, columns), and all singular values.

    They are the eigenvectors of xᵀx and the roots of its eigenvalues, in float64, where squaring costs nothing; a GPU
    decomposes these small matrices at once, the tall ones one after the other. The gradient runs through the vectors
    only. It does not exist between vectors of equal singular values, and is zero there.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        wide = x.double()
        squares, vectors = (part.flip(-1) for part in torch.linalg.eigh(wide.mT @ wide))  # the largest first
        values = squares.clamp_min(0).sqrt().to(x.dtype)
        ctx.k = k
        ctx.save_for_backward(x, squares, vectors)
        ctx.mark_non_differentiable(values)
        return vectors[..., :k].to(x.dtype), values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, _: None) -> tuple[torch.Tensor, None]:
        x, squares, vectors = ctx.saved_tensors
        gap = squares[:, None, : ctx.k] - squares[:, :, None]
        is_gap = gap.abs() > x.shape[2] * torch.finfo(squares.dtype).eps * squares[:, :1, None]
        reciprocal = torch.where(is_gap, 1 / torch.where(is_gap, gap, 1), 0)
        # dv_i is the sum over j ≠ i of v_j (v_jᵀ d(xᵀx) v_i) / (s_i² − s_j²).
        solved = vectors @ (vectors.mT @ grad.double() * reciprocal)
        slope = solved @ vectors[..., : ctx.k].mT
        return (x.double() @ (slope + slope.mT)).to(x.dtype), None
