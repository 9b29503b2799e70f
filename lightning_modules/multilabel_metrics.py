# SPDX-License-Identifier: MIT
"""Metrics of multi-label classification: example-based, micro and macro F1, precision at k; and thresholds.

Axes: N rows, L labels. Y are the true labels of a row, Z the predicted ones.

Empty sets: if Y and Z are both empty, the row counts as right (accuracy, precision and recall 1). If only Z is empty
its precision is 0; if only Y is empty its recall is 0.
"""

import numpy as np

THRESHOLDS = np.arange(1, 100) / 100  # candidates of `best_threshold`
RANKS = (1, 3, 5)  # of precision at k


def example_based(true_NL: np.ndarray, predicted_NL: np.ndarray) -> dict[str, float]:
    """Means over the rows of (N, L) bool arrays, in percent (Nasiri & Daneshpour, 2025).

    accuracy |Y and Z| / |Y or Z|, precision |Y and Z| / |Z|, recall |Y and Z| / |Y|, hamming_loss |Y xor Z| / L;
    f1 = 2 P R / (P + R) of the two means P and R (not the mean of the rows' F1).

    >>> example_based(np.array([[1, 1, 0, 0]], bool), np.array([[1, 0, 0, 0]], bool))["accuracy"]
    50.0
    """
    both_N = (true_NL & predicted_NL).sum(axis=1)
    true_N, predicted_N = true_NL.sum(axis=1), predicted_NL.sum(axis=1)
    either_N = true_N + predicted_N - both_N
    accuracy = _ratio(both_N, either_N, either_N == 0)
    precision = _ratio(both_N, predicted_N, either_N == 0)
    recall = _ratio(both_N, true_N, either_N == 0)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    hamming_loss = float((either_N - both_N).mean() / true_NL.shape[1])
    values = {"accuracy": accuracy, "precision": precision, "recall": recall, "f1": f1, "hamming_loss": hamming_loss}
    return {name: 100 * value for name, value in values.items()}


def _ratio(part_N: np.ndarray, whole_N: np.ndarray, right_N: np.ndarray) -> float:
    return float(np.where(right_N, 1.0, part_N / np.maximum(whole_N, 1)).mean())


def label_based(true_NL: np.ndarray, predicted_NL: np.ndarray) -> dict[str, float]:
    """micro_f1 over all cells and macro_f1, the mean over labels (0 if neither true nor predicted), in percent."""
    both_L = (true_NL & predicted_NL).sum(axis=0)
    sizes_L = true_NL.sum(axis=0) + predicted_NL.sum(axis=0)
    micro = 2 * both_L.sum() / max(sizes_L.sum(), 1)
    return {"micro_f1": 100 * float(micro), "macro_f1": 100 * float((2 * both_L / np.maximum(sizes_L, 1)).mean())}


def precision_at(true_NL: np.ndarray, scores_NL: np.ndarray, ranks: tuple[int, ...] = RANKS) -> dict[str, float]:
    """precision_at_<k>: share of true labels among the k with the highest scores, in percent.

    Of equal scores the first label wins. With fewer than k labels the share is still of k.
    """
    order_NM = np.argsort(-scores_NL, axis=1, kind="stable")[:, : max(ranks)]
    hits_NM = np.take_along_axis(true_NL, order_NM, axis=1)
    return {f"precision_at_{k}": 100 * float(hits_NM[:, :k].sum(axis=1).mean() / k) for k in ranks}


def all_metrics(true_NL: np.ndarray, scores_NL: np.ndarray, threshold: float) -> dict[str, float]:
    """Everything above at one threshold."""
    sets = true_NL, scores_NL >= threshold
    return example_based(*sets) | label_based(*sets) | precision_at(true_NL, scores_NL)


def best_threshold(true_NL: np.ndarray, scores_NL: np.ndarray) -> float:
    """The threshold with the highest example-based F1, of 0.01, 0.02, ... 0.99; of several the highest.

    Scores are in [0, 1].
    """
    candidates = THRESHOLDS.astype(scores_NL.dtype)
    f1 = [example_based(true_NL, scores_NL >= threshold)["f1"] for threshold in candidates]
    return float(THRESHOLDS[len(f1) - 1 - int(np.argmax(f1[::-1]))])


def own_clusters(true_NL: np.ndarray, cluster_of_L: np.ndarray) -> np.ndarray:
    """(N, L) bool: whether the row truly has a label in the cluster of the label. A test may not know this."""
    member_LM = cluster_of_L[:, None] == np.arange(cluster_of_L.max() + 1)
    return (true_NL.astype(np.float32) @ member_LM.astype(np.float32) > 0)[:, cluster_of_L]


def leaky_per_cluster(true_NL: np.ndarray, scores_NL: np.ndarray, cluster_of_L: np.ndarray, threshold: float) -> dict:
    """LEAKY: metrics per cluster over those rows only that truly have a label in it, averaged over clusters."""
    found = []
    for cluster in range(cluster_of_L.max() + 1):
        columns = np.flatnonzero(cluster_of_L == cluster)
        rows = np.flatnonzero(true_NL[:, columns].any(axis=1))
        if len(rows):
            found.append(all_metrics(true_NL[np.ix_(rows, columns)], scores_NL[np.ix_(rows, columns)], threshold))
    return {key: float(np.mean([each[key] for each in found])) for key in found[0]}
