"""Part `crd`: CRD's negatives for one batch, and the scoring of them, forward and backward."""

import functools

import numpy as np
import torch
from torch import nn

from mdistiller.distillers._sampler import Sampler
from mdistiller.distillers.CRD import memory_scores

from ..memory import extra_memory, memory_note
from ..report import Report, Row
from ..timing import alternate_calls
from ..workload import CLASSES

CRD_IMAGES, CRD_BATCH, CRD_NEGATIVES, CRD_WIDTH, CRD_TEMPERATURE = 50_000, 64, 16_384, 128, 0.07


def plain_negatives(index, targets, others, k):
    """CRD's samples as its published loader draws them, image by image; others: the rows of each class's negatives."""
    samples = []
    for row in index:
        negatives = others[targets[row]]
        samples.append(np.hstack([[row], np.random.choice(negatives, k, replace=k > len(negatives))]))
    return np.stack(samples)


def plain_scores(embedding, memory, indices, temperature):
    """CRD's scores as published: the samples' entries of the memory are gathered, then multiplied."""
    samples = memory.index_select(0, indices.flatten()).view(*indices.shape, -1)
    return torch.bmm(samples, embedding[:, :, None]).squeeze(2).div(temperature).exp()


def measure(flags):
    device, generator = flags.device, torch.Generator().manual_seed(0)
    targets = torch.arange(CRD_IMAGES) % CLASSES
    index = torch.randperm(CRD_IMAGES, generator=generator)[:CRD_BATCH]
    rows, labels = index.tolist(), targets.numpy()
    others = [np.flatnonzero(labels != label) for label in range(CLASSES)]
    sampler = Sampler(seed=0).to(device)
    sampler.set_targets(targets.to(device))
    index = index.to(device)

    def plain():
        return torch.from_numpy(plain_negatives(rows, labels, others, CRD_NEGATIVES)).to(device)

    draws = {"np.random.choice an image": plain, "ours": lambda: sampler.draw(index, CRD_NEGATIVES, is_exact=True)}
    what, seconds = f"CRD negatives, batch {CRD_BATCH}", alternate_calls(draws, flags)
    report = Report([Row(what, name, seconds[name], CRD_BATCH) for name in draws])
    memory, embedding = (
        nn.functional.normalize(torch.randn(count, CRD_WIDTH, generator=generator), dim=1).to(device)
        for count in (CRD_IMAGES, CRD_BATCH)
    )
    embedding.requires_grad_()
    samples = draws["ours"]()

    def forward_backward(score):
        return torch.autograd.grad(score(embedding, memory, samples, CRD_TEMPERATURE).sum(), embedding)

    scores = {"gathered": plain_scores, "ours": memory_scores}
    calls = {name: functools.partial(forward_backward, score) for name, score in scores.items()}
    what, seconds = f"CRD scoring, batch {CRD_BATCH}", alternate_calls(calls, flags)
    report.rows += [Row(what, name, seconds[name], CRD_BATCH, extra_memory(calls[name], device)) for name in calls]
    report.notes.append(memory_note(device))
    return report
