# SPDX-License-Identifier: MIT
"""The scenarios of the comparison as a scikit-learn classifier: three lines from arrays to names.

Axes: N samples, B probes, Q probes of strangers, K classes, M clusters, D embedding dimension, T candidates.
"""

import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from datamodules.class_means import class_sums, normalise_rows
from datamodules.cluster_datamodule import ClusterDataModule, batch_size
from datamodules.embedding_set import UNKNOWN
from datamodules.errors import InputError, nearest
from datamodules.partitioners.base import Partition, Partitioner
from datamodules.partitioners.kmeans import KMeansPartitioner
from datamodules.partitioners.random import RandomPartitioner
from datamodules.partitioners.samples import TrainingSamples
from datamodules.partitioners.single import SinglePartitioner
from datamodules.splits import NOTHING, Split, local_split
from lightning_modules import enrolment
from lightning_modules.decisions.argmax import Argmax
from lightning_modules.decisions.base import Decision
from lightning_modules.decisions.metric import Metric
from lightning_modules.decisions.nearest_mean import NearestMean
from lightning_modules.heads.base import Head
from lightning_modules.heads.linear import LinearHead
from lightning_modules.identifier import PROBES_AT_ONCE, Identifier
from lightning_modules.initialisers import Initialiser, RandomInit, starting_rows
from lightning_modules.losses.arcface import ArcFace
from lightning_modules.losses.base import ClassificationLoss
from lightning_modules.open_set import threshold_at_fpir
from lightning_modules.routers.base import Router
from lightning_modules.routers.max_output import MaxOutput
from lightning_modules.routers.nearest_class import NearestClass
from lightning_modules.scores import Heads
from lightning_modules.subnetwork import SubNetwork

Parts = tuple[Partitioner, Router | None, Decision]
# The scenarios of the same names in experiments/configs/scenario.
SCENARIOS: dict[str, Callable[[], Parts]] = {
    "clustered_fused": lambda: (KMeansPartitioner(), NearestClass(10, 2), Metric()),
    "knn": lambda: (SinglePartitioner(), None, NearestMean()),
    "knn_metric": lambda: (SinglePartitioner(), None, Metric()),
    "clustered_nearest": lambda: (KMeansPartitioner(), NearestClass(), Argmax()),
    "clustered_maxmax": lambda: (KMeansPartitioner(), MaxOutput(), Argmax()),
    "ism": lambda: (RandomPartitioner(), MaxOutput(), Argmax()),
    "random_nearest": lambda: (RandomPartitioner(), NearestClass(), Argmax()),
    "no_distribution": lambda: (SinglePartitioner(), None, Argmax()),
}
MOST_COLUMNS = 4096  # classes that `decision_function` scores
STRANGERS, FOLDS, SEEN = 8192, 20, 20  # samples that play strangers, parts of the people, candidates looked at
TRAINER = {
    "max_epochs": 50, "accelerator": "auto", "devices": 1, "logger": False, "enable_checkpointing": False,
    "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip


class ClusteredClassifier(ClassifierMixin, BaseEstimator):
    """Names the class of an embedding, among very many classes.

    Only the direction of an embedding counts; a row of zeros teaches nothing. Labels are what scikit-learn takes for
    classes: text or numbers. `clustered_fused`, `knn` (the nearest class mean) and `knn_metric` train nothing. The
    others train one head per cluster, one after the other by a plain Lightning Trainer, with the recipe of the paper
    where an argument is None. No sample is held back for validation.

    Args:
        n_clusters: M; "auto" is K / 2000, at least 2.
        scenario: a key of `SCENARIOS`, or a (partitioner, router or None, decision) of your own.
        partitioner: replaces that of the scenario.
        loss, init: of the heads; ArcFace and random rows if None.
        optimizer, scheduler: see `lightning_modules.subnetwork.SubNetwork`; Adam with learning rate 0.001 if None.
        batch_size: samples per step; "auto" is 256, or fewer below 4,096 samples of a cluster.
        trainer: arguments of `pl.Trainer`, such as {"max_epochs": 5}; 50 epochs if None.
        unknown: answer of `predict_open_set` for strangers; None is "unknown" among strings, -1 among numbers.
        random_state: of partition and training; a whole number is the seed of the commands.

    Attributes:
        classes_: (K,) labels, ascending.
        n_features_in_: D.
        identifier_: the `Identifier`, which can be saved without pickle; its names are the labels as text.

    >>> X, y = [[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]], ["east", "east", "north", "north"]
    >>> ClusteredClassifier().fit(X, y).predict([[5.0, 1.0]]).tolist()
    ['east']
    """

    def __init__(
        self, n_clusters: int | str = "auto", scenario: str | Parts = "clustered_fused", *,
        partitioner: Partitioner | None = None, loss: ClassificationLoss | None = None, init: Initialiser | None = None,
        optimizer: Callable | None = None, scheduler: Callable | None = None, batch_size: int | str = "auto",
        trainer: dict[str, Any] | None = None, unknown: Any = None, random_state: Any = 0,
    ):  # fmt: skip
        self.n_clusters, self.scenario, self.partitioner = n_clusters, scenario, partitioner
        self.loss, self.init = loss, init
        self.optimizer, self.scheduler, self.batch_size, self.trainer = optimizer, scheduler, batch_size, trainer
        self.unknown, self.random_state = unknown, random_state

    def fit(self, X: Any, y: Any) -> "ClusteredClassifier":
        """Learns from embeddings (N, D) and labels (N,); float16 is kept, other numbers become float32.

        Raises:
            InputError: an unknown scenario, or more clusters than classes.
        """
        X, y = self._checked(X, y, reset=True)
        partitioner, router, decision = self._parts()
        whole = isinstance(self.random_state, (int, np.integer))
        seed = int(self.random_state if whole else check_random_state(self.random_state).randint(1 << 31))
        self.classes_, label_N = np.unique(y, return_inverse=True)
        self._label_K, k = self.classes_, len(self.classes_)  # in the order of the identifier
        samples = _samples(X, label_N)
        sum_KD = class_sums(X, samples.split, k)
        self._length_K, means_KD = np.linalg.norm(sum_KD, axis=1), normalise_rows(sum_KD)
        m = None if self.n_clusters == "auto" else self.n_clusters
        if not isinstance(m, (int, np.integer, type(None))):
            raise InputError(f"n_clusters = {m!r}", "a whole number or 'auto'", "correct it")
        partition = partitioner.fit(means_KD, m, seed, samples)
        heads = None
        if decision.needs_heads or (router is not None and router.needs_heads):
            modules = [self._trained(samples, means_KD, partition, c, seed) for c in range(partition.n_clusters)]
            heads = Heads.pack(partition, modules)
        names, word = tuple(map(str, self.classes_.tolist())), str(self.unknown or UNKNOWN)
        while word in names:
            word += "?"
        made = Identifier(
            names, torch.from_numpy(means_KD), partition, decision, router if partition.n_clusters > 1 else None, heads,
            unknown=word,
        )  # fmt: skip
        nobody = torch.zeros(0, dtype=torch.long)
        self.identifier_ = made.fitted(samples, torch.zeros(0, X.shape[1]), nobody)
        self._drawn = samples.drawn(STRANGERS, seed)
        self._stranger_scores: np.ndarray | None = None
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> "ClusteredClassifier":
        """Enrols classes that are new, and moves the means of known ones, without training; the first call fits.

        A new class joins the cluster of the nearest class. What was fitted to all classes, such as the weights of the
        evidence, stays: call `fit` when many have come. Embeddings (N, D), labels (N,).

        Args:
            classes: for scikit-learn's sake; classes may come at any time.

        Raises:
            InputError: see `fit`; or labels of another kind.
        """
        if not hasattr(self, "identifier_"):
            return self.fit(X, y)
        X, y = self._checked(X, y, reset=False)
        old, known = self.identifier_, self.classes_
        found, label_N = np.unique(y, return_inverse=True)
        if (found.dtype.kind in "OUS") != (known.dtype.kind in "OUS"):
            got = f"labels of type {found.dtype} after {known.dtype}"
            raise InputError(got, "labels of one kind", "convert y")
        place_C = np.searchsorted(known, found)
        is_new_C = known[np.minimum(place_C, len(known) - 1)] != found
        label_K, k = np.concatenate([self._label_K, found[is_new_C]]), len(known)
        classes, order_K = np.unique(label_K, return_index=True)
        samples = _samples(X, order_K[np.searchsorted(classes, found)][label_N])
        sum_KD = class_sums(X, samples.split, len(label_K))
        changed = np.flatnonzero(sum_KD[:k].any(axis=1))
        sum_KD[:k] += old.class_means_KD.numpy() * self._length_K[:, None]
        means_KD = torch.from_numpy(normalise_rows(sum_KD))
        made, new = old, list(map(str, label_K[k:].tolist()))
        if len(changed):
            made = enrolment.with_class_means(made, [old.identities[i] for i in changed], means_KD[changed])
        made = enrolment.with_identities(made, new, means_KD[k:]) if new else made
        made = replace(made, router=old.router, decision=old.decision.extended(made.class_means_KD, samples))
        both = [np.concatenate(pair) for pair in zip(self._drawn, samples.drawn(STRANGERS, 0), strict=True)]
        kept = np.random.default_rng(0).permutation(len(both[0]))[:STRANGERS]
        self._drawn, self._stranger_scores = (both[0][kept], both[1][kept]), None
        self.identifier_, self.classes_, self._label_K = made, classes, label_K
        self._length_K = np.linalg.norm(sum_KD, axis=1)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The label of each embedding (B, D): (B,). A row of zeros, which has no direction, gets the first class."""
        X = self._probes(X)
        index_B = self.identifier_.identify(X).index
        return np.where(index_B < 0, self.classes_[:1], self._label_K[index_B])

    def predict_topk(self, X: Any, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """The k likeliest labels of embeddings (B, D), best first, and their scores: (B, k) each; at most K.

        Classes that the decision did not look into follow behind, by the cosine with their class means.
        """
        X, step = self._probes(X), max(1, min(PROBES_AT_ONCE, (1 << 24) // k))
        blocks = (torch.from_numpy(X[i : i + step].astype(np.float32)) for i in range(0, len(X), step))
        found = [self._candidates(rows_bD, k) for rows_bD in blocks]
        score_BT, identity_BT = (np.concatenate(part) for part in zip(*found, strict=True))
        return self._label_K[identity_BT], score_BT

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores of embeddings (B, D) for all classes, (B, K) in the order of `classes_`; (B,) for two classes.

        Classes that the decision did not look into have lower scores, by the cosine with their class means.

        Raises:
            InputError: more than 4,096 classes.
        """
        check_is_fitted(self)
        if (k := len(self.classes_)) > MOST_COLUMNS:
            raise InputError(f"scores of {k} classes", f"at most {MOST_COLUMNS}", "predict_topk(X, k)")
        labels_BK, found_BK = self.predict_topk(X, k)
        score_BK = np.empty_like(found_BK)
        np.put_along_axis(score_BK, np.searchsorted(self.classes_, labels_BK), found_BK, axis=1)
        return score_BK[:, 1] - score_BK[:, 0] if k == 2 else score_BK

    def predict_open_set(self, X: Any, fpir: float = 0.01, strangers: Any = None) -> np.ndarray:
        """The label of each embedding (B, D), or `unknown` below the threshold: (B,).

        Args:
            fpir: share of strangers, in (0, 1), that may get a name; see `lightning_modules.open_set`.
            strangers: (Q, D) embeddings of people who are not in `classes_`. None: the training samples, each scored
                while a twentieth of the classes, its own among them, is hidden, see `stranger_scores`. Heads have
                learned to push these away, so a trained scenario lets more strangers pass: give strangers there.

        Raises:
            InputError: fewer than 1 / fpir strangers, or a class that is called as strangers are.
        """
        X, unknown = self._probes(X), self.unknown
        if unknown is None:
            unknown = UNKNOWN if self.classes_.dtype.kind in "OUS" else -1
        if (self.classes_ == unknown).any():
            raise InputError(f"a class {unknown!r}", "another answer for strangers", "choose one with unknown=")
        known = strangers is None
        scores = self.stranger_scores() if known else self.identifier_.identify(self._probes(strangers)).score
        threshold = threshold_at_fpir(scores, fpir)
        index_B = replace(self.identifier_, threshold=threshold).identify(X).index
        return np.where(index_B < 0, np.asarray(unknown), self._label_K[index_B])

    @torch.inference_mode()
    def stranger_scores(self) -> np.ndarray:
        """(Q,) float32 best scores of up to 8,192 training samples, as if they showed people who are not enrolled.

        Each is scored while a twentieth of the classes, its own among them, is hidden: the router does not see these,
        and candidates among them are passed over. There is no score of a lone class. Computed when first asked for.
        """
        check_is_fitted(self)
        if self._stranger_scores is None:
            (drawn_ND, label_N), made = self._drawn, self.identifier_
            fold_K = np.random.default_rng(7).permutation(len(self._label_K)) % FOLDS
            found = [np.zeros(0, np.float32)]
            for fold in np.unique(fold_K[label_N]):
                hidden_K = torch.from_numpy(fold_K == fold)
                without = replace(made, class_means_KD=made.class_means_KD * ~hidden_K[:, None])
                ranked, _ = without.rank(torch.from_numpy(drawn_ND[fold_K[label_N] == fold]), SEEN)
                lost_BT = (ranked.identity_BT < 0) | hidden_K[ranked.identity_BT]
                best_b = ranked.score_BT.masked_fill(lost_BT, -torch.inf).amax(1)
                found.append(best_b[best_b.isfinite()].numpy())
            self._stranger_scores = np.concatenate(found)
        return self._stranger_scores

    def __getstate__(self) -> dict[str, Any]:
        # joblib and copies see arrays and JSON values instead of our objects.
        state = dict(super().__getstate__())
        if "identifier_" in state:
            tensors, content, packages = self.identifier_.state()
            state["identifier_"] = {name: value.numpy() for name, value in tensors.items()}, content, packages
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "identifier_" in state:
            arrays, content, packages = state["identifier_"]
            tensors = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
            state = state | {"identifier_": Identifier.from_state(tensors, content, packages)}
        super().__setstate__(state)

    def _checked(self, X: Any, y: Any, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        X, y = validate_data(self, X, y, reset=reset, dtype=(np.float32, np.float16))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The number of unique classes")  # many classes of few samples are usual
            check_classification_targets(y)
        return X, y

    def _probes(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=(np.float32, np.float16))

    def _parts(self) -> Parts:
        if isinstance(self.scenario, str) and self.scenario not in SCENARIOS:
            cure = nearest(self.scenario, SCENARIOS, "correct scenario")
            raise InputError(f"scenario = {self.scenario!r}", f"one of {', '.join(SCENARIOS)}", cure)
        partitioner, router, decision = SCENARIOS[self.scenario]() if isinstance(self.scenario, str) else self.scenario
        return self.partitioner or partitioner, router, decision

    def _trained(
        self, samples: TrainingSamples, means_KD: np.ndarray, partition: Partition, cluster: int, seed: int
    ) -> Head:
        members_C = partition.members(cluster)
        split = local_split(samples.split, members_C)
        size = batch_size(self.batch_size, len(split))
        data = ClusterDataModule(samples.embeddings_ND, split, NOTHING, size, seed, cluster)
        of_cluster = TrainingSamples(samples.embeddings_ND, split)
        loss, init = deepcopy(self.loss or ArcFace()).fit(of_cluster), (self.init or RandomInit()).fit(of_cluster)
        drawn = int(np.random.SeedSequence([seed, cluster, 4]).generate_state(1, np.uint64)[0] >> 1)  # as the commands
        generator = torch.Generator().manual_seed(drawn)
        rows_CD = starting_rows(init, torch.from_numpy(means_KD[members_C]), generator, loss.rows_per_class)
        head = LinearHead(rows_CD, unit_rows=loss.unit_rows, rows_per_class=loss.rows_per_class)
        optimizer = self.optimizer or partial(torch.optim.Adam, lr=1e-3, betas=(0.9, 0.99))
        # Without validation samples there is nothing to run after an epoch.
        trainer = Trainer(**{**TRAINER, "limit_val_batches": 0, **(self.trainer or {})})
        trainer.fit(SubNetwork(head, loss, optimizer, self.scheduler), data)
        return head.requires_grad_(False).cpu()

    @torch.inference_mode()
    def _candidates(self, rows_bD: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        # Scores, descending, and places of min(k, K) classes.
        k = min(k, len(self._label_K))
        ranked, _ = self.identifier_.rank(rows_bD, k)
        score_bT, identity_bT = ranked.score_BT, ranked.identity_BT
        if score_bT.shape[1] < k or (identity_bT < 0).any():
            cosine_bX, other_bX = self.identifier_.scores(rows_bD).nearest_classes(2 * k)
            seen_bK = torch.zeros(len(rows_bD), 1 + len(self._label_K), dtype=torch.bool)
            seen_bK.scatter_(1, identity_bT + 1, True)
            least_b1 = score_bT.masked_fill(identity_bT < 0, torch.inf).amin(1, keepdim=True)
            behind_bX = (least_b1 + cosine_bX - 2).masked_fill(seen_bK.gather(1, other_bX + 1), -torch.inf)
            score_bT, place_bT = torch.cat([score_bT, behind_bX], 1).topk(k, dim=1)
            identity_bT = torch.cat([identity_bT, other_bX], 1).gather(1, place_bT)
        return score_bT.numpy(), identity_bT.numpy()


def _samples(X: np.ndarray, label_N: np.ndarray) -> TrainingSamples:
    order = np.argsort(label_N, kind="stable")
    return TrainingSamples(X, Split(order, label_N[order].astype(np.int32)))
