# SPDX-License-Identifier: MIT
"""The files of the wishes: what a researcher would write, one Python file and one YAML for each at most."""

LOSSES, CONFIGS = "lightning_modules/losses", "experiments/configs"


def module(path: str, target: str, group: str, code: str, arguments: str = "") -> dict[str, str]:
    """A Python file with a class, and the YAML that names it."""
    name = path.rpartition("/")[2]
    dotted = f"{path.replace('/', '.')}.{target}"
    return {f"{path}.py": code, f"{CONFIGS}/{group}/{name}.yaml": f"# Mine\n_target_: {dotted}\n{arguments}"}


MARGIN = module(
    f"{LOSSES}/tight", "Tight", "loss", arguments="scale: 16.0\nmargin: 0.1\n", code='''
from lightning_modules.losses.base import MarginLoss

class Tight(MarginLoss):
    def __init__(self, scale=16.0, margin=0.1):
        super().__init__()
        self.scale, self.margin = scale, margin

    def target_logit(self, cosine_B):
        return self.scale * (cosine_B - self.margin * (1 - cosine_B))
''',
)  # fmt: skip

FOCAL = module(
    f"{LOSSES}/focal", "Focal", "loss", arguments="gamma: 2.0\nsmoothing: 0.1\n", code='''
import torch
from torch.nn import functional as F
from lightning_modules.losses.base import ClassificationLoss

class Focal(ClassificationLoss):
    def __init__(self, gamma=2.0, smoothing=0.1):
        super().__init__()
        self.gamma, self.smoothing = gamma, smoothing

    def forward(self, cosine_BC, target_B):
        smooth_B = F.cross_entropy(16 * cosine_BC, target_B, reduction="none", label_smoothing=self.smoothing)
        true_B = (16 * cosine_BC).softmax(1).gather(1, target_B[:, None]).squeeze(1)
        return (1 - true_B) ** self.gamma * smooth_B
''',
)  # fmt: skip

LEARNED_SCALE = module(
    f"{LOSSES}/learned_scale", "LearnedScale", "loss", arguments="scale: 16.0\n", code='''
import torch
from lightning_modules.losses.base import MarginLoss

class LearnedScale(MarginLoss):
    def __init__(self, scale=16.0):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def target_logit(self, cosine_B):
        return self.scale * cosine_B
''',
)  # fmt: skip

COUNTS = module(
    f"{LOSSES}/prior", "Prior", "loss", arguments="tau: 1.0\n", code='''
import copy
import torch
from torch.nn import functional as F
from lightning_modules.losses.base import ClassificationLoss

class Prior(ClassificationLoss):
    def __init__(self, tau=1.0):
        super().__init__()
        self.tau, self.shift_C = tau, None

    def fit(self, samples):
        fitted, counts_C = copy.copy(self), torch.from_numpy(samples.counts(0)).float()
        fitted.shift_C = self.tau * (counts_C / counts_C.sum()).log()
        return fitted

    def forward(self, cosine_BC, target_B):
        return F.cross_entropy(16 * cosine_BC + self.shift_C, target_B, reduction="none")
''',
)  # fmt: skip

GROWING = module(
    f"{LOSSES}/growing", "Growing", "loss", arguments="margin: 0.6\n", code='''
from lightning_modules.losses.base import MarginLoss

class Growing(MarginLoss):
    scale = 16.0

    def __init__(self, margin=0.6):
        super().__init__()
        self.margin, self.now = margin, 0.0

    def epoch_starts(self, epoch, max_epochs):
        self.now = self.margin * epoch / (max_epochs - 1)

    def target_logit(self, cosine_B):
        return self.scale * (cosine_B - self.now)
''',
)  # fmt: skip

PARTITIONER = module(
    "datamodules/partitioners/alternating", "Alternating", "partitioner", code='''
import numpy as np
from datamodules.partitioners.base import Partitioner

class Alternating(Partitioner):
    def assign(self, class_means_KD, m, seed):
        return np.arange(len(class_means_KD)) % m
''',
)  # fmt: skip

ROUTER = module(
    "lightning_modules/routers/last_cluster", "LastCluster", "router", code='''
import torch
from lightning_modules.routers.base import Router

class LastCluster(Router):
    def route(self, scores):
        return torch.full((len(scores), 1), scores.partition.n_clusters - 1)
''',
)  # fmt: skip

DECISION = module(
    "lightning_modules/decisions/first_member", "FirstMember", "decision", code='''
import torch
from lightning_modules.decisions.base import Decided, Decision

class FirstMember(Decision):
    def decide(self, scores, clusters_BP):
        first_M = torch.tensor([int(scores.partition.members(c)[0]) for c in range(scores.partition.n_clusters)])
        cluster_B = clusters_BP[:, 0]
        return Decided(first_M[cluster_B], torch.zeros(len(cluster_B)), cluster_B)
''',
)  # fmt: skip

METRIC = module(
    "lightning_modules/metrics/distinct_answers", "DistinctAnswers", "metric", code='''
from lightning_modules.metrics.base import Metric

class DistinctAnswers(Metric):
    name, unit, title, digits = "distinct_answers", "identities", "Distinct answers", 0

    def __init__(self):
        self.seen = set()

    def update(self, answer, truth_B):
        self.seen |= set(answer.identity_B.tolist())

    def compute(self):
        return float(len(self.seen))
''',
)  # fmt: skip

EXTRACTOR = module(
    "datamodules/extractors/resnet18", "ResNet18", "extractor", arguments="seed: 3\n", code='''
import torchvision
from torch import nn
from datamodules.extractors.base import Extractor, seeded, state_digest

class ResNet18(Extractor):
    def __init__(self, seed=0):
        super().__init__(
            name="resnet18", embedding_dim=512, image_size=64, channel_order="RGB", value_range=(-1.0, 1.0)
        )
        with seeded(seed):
            self.network = torchvision.models.resnet18(weights=None)
        self.network.fc = nn.Identity()

    def embed(self, x_BCHW):
        return self.network(x_BCHW)

    def weights_digest(self):
        return state_digest(self.network)
''',
)  # fmt: skip

EXPERIMENT = {
    f"{CONFIGS}/experiment/mine.yaml": """# @package _global_
# Mine
defaults:
  - override /loss: cosface
  - override /head: low_rank

loss: {margin: 0.2}
head: {rank: 3}
trainer: {max_epochs: 7, batch_size: 16}
"""
}
