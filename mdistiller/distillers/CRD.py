"""Tian, Krishnan and Isola, Contrastive Representation Distillation, ICLR 2020."""

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.errors import UserError

from ._base import Distiller
from ._common import cross_entropy, full_precision, probe_features

EPS = 1e-7


@full_precision
def nce_loss(scores, num_data):
    """Noise-contrastive estimation: how well the positive is told from the negatives.

    scores: (batch, 1 + K), unnormalised probabilities of the samples, the positive's first; the negatives come from
    a uniform distribution over `num_data`. Returns a scalar: the sum over a row, averaged over the batch.
    """
    noise = (scores.shape[1] - 1) / num_data
    positive, negatives = scores[:, 0], scores[:, 1:]
    log_is_data = (positive / (positive + noise + EPS)).log()
    log_is_noise = (noise / (negatives + noise + EPS)).log()
    return -(log_is_data.sum() + log_is_noise.sum()) / len(scores)


@full_precision
def memory_scores(embedding, memory, indices, temperature):
    """exp(cosine / T) of each embedding with its samples' entries of the memory, which gets no gradient.

    embedding: (batch, dim); memory: (num_data, dim); both of unit rows; indices: (batch, 1 + K). Returns the shape of
    `indices`. Scoring every entry and taking some is far less work than gathering 1 + K vectors for each image. The
    memory is copied, because it moves on before the backward pass.
    """
    return (embedding @ memory.clone().T).gather(1, indices).div(temperature).exp()


unit_length = full_precision(F.normalize)


class Embed(nn.Module):
    """Linear map to unit vectors: (batch, in_channels) -> (batch, dim)."""

    def __init__(self, in_channels, dim):
        super().__init__()
        self.linear = nn.Linear(in_channels, dim)

    def forward(self, x):
        return unit_length(self.linear(x), dim=1)


class ContrastMemory(nn.Module):
    """The student's (v1) and the teacher's (v2) embeddings of all training images, as moving averages of unit length.

    `params` holds K, T, the normalisers of the student's and the teacher's scores (negative until the first batch
    estimates them) and the momentum, as in published state dicts; only the normalisers are read from it.
    """

    def __init__(self, num_data, dim, k, temperature, momentum):
        super().__init__()
        self.temperature = temperature
        self.momentum = momentum
        bound = (dim / 3) ** -0.5
        self.register_buffer("params", torch.tensor([k, temperature, -1, -1, momentum]))
        self.register_buffer("memory_v1", torch.empty(num_data, dim).uniform_(-bound, bound))
        self.register_buffer("memory_v2", torch.empty(num_data, dim).uniform_(-bound, bound))

    def normalise(self, scores, slot):
        """`scores` as probabilities: over a constant, which the first batch estimates and `params[slot]` keeps."""
        estimate = scores.detach().mean() * len(self.memory_v1)
        self.params[slot] = torch.where(self.params[slot] < 0, estimate, self.params[slot])
        return scores / self.params[slot].clone()

    def forward(self, v1, v2, indices):
        """Unnormalised probabilities (batch, 1 + K) of the samples, by the student's and the teacher's embeddings.

        v1, v2: (batch, dim); indices: (batch, 1 + K). Each is compared with the memory of the other network.
        """
        scores_v1 = memory_scores(v1, self.memory_v2, indices, self.temperature)
        scores_v2 = memory_scores(v2, self.memory_v1, indices, self.temperature)
        return self.normalise(scores_v1, 2), self.normalise(scores_v2, 3)

    @torch.no_grad()
    def update(self, v1, v2, index):
        """Move the entries of the images `index` (batch,) towards their embeddings v1 and v2 (batch, dim)."""
        for memory, embedding in (self.memory_v1, v1), (self.memory_v2, v2):
            moved = self.momentum * memory[index] + (1 - self.momentum) * embedding.to(memory.dtype)
            memory.index_copy_(0, index, F.normalize(moved, dim=1))


class Sampler(nn.Module):
    """Draws positives and negatives for a whole batch at once, on the device of the labels.

    The random numbers of a batch are those of its device, seeded anew by a generator on the CPU. That generator's
    state, once used, is part of the state dict, and so a run resumes on another device too; a state dict without it,
    such as a published one, loads as well.
    """

    def __init__(self, seed):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.is_used = False
        for name in ("class_of", "column_of", "members", "sizes"):
            self.register_buffer(name, None, persistent=False)

    def set_targets(self, targets):
        """Learn the class of each training image: targets, int64 (num_data,)."""
        sizes = targets.bincount()
        if (sizes > 0).sum() < 2:
            raise UserError("CRD contrasts images of different classes; the training set has one class only")
        images = torch.arange(len(targets), device=targets.device)
        by_class = targets.argsort(stable=True)
        self.class_of, self.sizes = targets, sizes
        self.column_of = torch.empty_like(targets)
        self.column_of[by_class] = images - (sizes.cumsum(0) - sizes)[targets[by_class]]
        # A row lists a class; behind the images of a smaller one stand numbers beyond the training set.
        self.members = len(targets) + images[: sizes.max()].repeat(len(sizes), 1)
        self.members[targets, self.column_of] = images

    def batch_generator(self):
        self.is_used = True
        seed = torch.randint(2**63 - 1, (), generator=self.generator).item()
        return torch.Generator(self.class_of.device).manual_seed(seed)

    def draw(self, index, k, is_exact):
        """Samples of the images `index` (batch,): (batch, 1 + k), the positive's first, then the negatives.

        The positive is the image itself, or where not `is_exact` another of its class. The negatives are uniform
        over the images of other classes, without replacement unless these are fewer than k. All rows take theirs
        from one permutation of the training set: the first k entries whose class is not the row's.
        """
        if self.class_of is None:
            raise RuntimeError("CRD draws negatives by class; call set_targets(targets) with the training labels first")
        generator = self.batch_generator()
        device, num_data, largest = index.device, len(self.class_of), self.members.shape[1]
        classes = self.class_of[index]
        permutation = torch.randperm(num_data, generator=generator, device=device)
        place = torch.arange(num_data + largest, device=device)
        columns = place[:largest].clone()
        place[permutation] = place[:num_data].clone()
        own = place[self.members[classes]].sort(dim=1).values
        others_before = own - columns

        def negative(rank):
            """Entries of the permutation by their rank (batch, any) among a row's entries of other classes."""
            own_before = torch.searchsorted(others_before, rank, right=True)
            return permutation[(rank + own_before).clamp_max(num_data - 1)]

        indices = torch.empty(len(index), 1 + k, dtype=torch.int64, device=device)
        if k + largest <= num_data:
            # Every row gets the first k entries; then those of its own class, m of them, give way to the next m of
            # other classes. What need not be written goes to column 0.
            indices[:, 1:] = permutation[:k]
            is_first = own < k
            rank = k - is_first.sum(dim=1, keepdim=True) + columns
            indices.scatter_(1, torch.where(is_first, own + 1, 0), negative(rank))
        else:
            others = num_data - self.sizes[classes][:, None]
            uniform = torch.rand(len(index), k, generator=generator, device=device, dtype=torch.float64)
            rank = torch.where(others < k, (uniform * others).long(), torch.arange(k, device=device))
            indices[:, 1:] = negative(rank)
        indices[:, 0] = index if is_exact else self.another_of_the_class(index, generator)
        return indices

    def another_of_the_class(self, index, generator):
        """A uniform draw among the other images of each image's class; itself where there is no other."""
        size = self.sizes[self.class_of[index]]
        uniform = torch.rand(len(index), generator=generator, device=index.device, dtype=torch.float64)
        steps = 1 + (uniform * (size - 1)).long()
        return self.members[self.class_of[index], (self.column_of[index] + steps) % size]

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_used:
            destination[f"{prefix}generator"] = self.generator.get_state()

    def _load_from_state_dict(self, state_dict, prefix, *args):
        state = state_dict.pop(f"{prefix}generator", None)
        if state is not None:
            self.generator.set_state(state.cpu())
            self.is_used = True
        super()._load_from_state_dict(state_dict, prefix, *args)


class CRD(Distiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · the nce_loss of both networks' pooled features.

    MODE: "exact", the positive is the image itself, or "relax", another of its class. FEAT.STUDENT_DIM and
    FEAT.TEACHER_DIM are MDistiller's; the widths are read off the networks here. The trainer gives the labels of the
    whole training set once, by `set_targets`; a batch that brings its own `contrastive_index` needs none.
    """

    def __init__(self, student, teacher, cfg, num_data):
        super().__init__(student, teacher)
        self.ce_weight = cfg.CRD.LOSS.CE_WEIGHT
        self.feat_weight = cfg.CRD.LOSS.FEAT_WEIGHT
        if num_data is None:
            raise TypeError("CRD remembers every training image; give build_distiller their number, num_data")
        self.num_data = num_data
        self.k = cfg.CRD.NCE.K
        if cfg.CRD.MODE not in ("exact", "relax"):
            raise UserError(f"CRD.MODE is {cfg.CRD.MODE!r}; valid: exact, relax")
        if not isinstance(self.k, int) or self.k < 1:
            raise UserError(f"CRD.NCE.K is {self.k}; expected a positive whole number")
        self.is_exact = cfg.CRD.MODE == "exact"
        dim, momentum, temperature = cfg.CRD.FEAT.DIM, cfg.CRD.NCE.MOMENTUM, cfg.CRD.NCE.TEMPERATURE
        self.embed_s, self.embed_t = (Embed(pooled_width(network), dim) for network in (student, teacher))
        self.contrast = ContrastMemory(num_data, dim, self.k, temperature, momentum)
        self.sampler = Sampler(cfg.EXPERIMENT.SEED)

    def set_targets(self, targets):
        """Tell the class of each training image: targets, int64 (num_data,), from which negatives are drawn."""
        targets = torch.as_tensor(targets, device=self.contrast.memory_v1.device)
        if targets.shape != (self.num_data,):
            raise ValueError(f"targets have shape {tuple(targets.shape)}; expected ({self.num_data},), one an image")
        self.sampler.set_targets(targets)

    def extra_parameters(self):
        return [*self.embed_s.parameters(), *self.embed_t.parameters()]

    def get_learnable_parameters(self):
        return super().get_learnable_parameters() + self.extra_parameters()

    def get_extra_parameters(self):
        return sum(parameter.numel() for parameter in self.extra_parameters())

    def forward_train(self, image, target, index, contrastive_index=None, **kwargs):
        """`contrastive_index` (batch, 1 + K): rows of the training set, the positive's first; drawn where it is None.

        The other arguments are those of every distiller.
        """
        logits_student, features_student = self.student(image)
        with torch.no_grad():
            _, features_teacher = self.teacher(image)
        if contrastive_index is None:
            contrastive_index = self.sampler.draw(index, self.k, self.is_exact)
        embeddings = self.embed_s(features_student["pooled_feat"]), self.embed_t(features_teacher["pooled_feat"])
        scores_student, scores_teacher = self.contrast(*embeddings, contrastive_index)
        loss_crd = nce_loss(scores_student, self.num_data) + nce_loss(scores_teacher, self.num_data)
        self.contrast.update(*embeddings, index)
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * loss_crd,
        }


def pooled_width(network):
    """Channels of `pooled_feat`, which depend on no image size."""
    return probe_features(network, (32, 32))["pooled_feat"].shape[1]
