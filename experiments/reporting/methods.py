# SPDX-License-Identifier: MIT
"""Names, order and looks of scenarios and of the other choices, the same in every table and figure."""

from dataclasses import dataclass

import pandas as pd

from experiments.reporting.reading import RESULTS

_TITLES = {
    "no_distribution": "No distribution",
    "ism": "ISM (random + max-max)",
    "random_nearest": "Random + nearest class",
    "knn": "KNN (class means)",
    "clustered_maxmax": "Clustered + max-max",
    "clustered_nearest": "Clustered + nearest class",
    "clustered_fused": "Clustered + fused",
    "partial_fc": "Partial FC",
    "knn_metric": "KNN with metric",
    "no_distribution_fast": "No distribution, fast",
    "clustered_nearest_fast": "Clustered + nearest class, fast",
    "hf_softmax": "HF-Softmax (active classes)",
    "f2c": "F2C (dynamic class pool)",
    "multi_cognition": "Multi-cognition softmax",
    "mix_max_sim": "MixMaxSim",
    "dense_codes": "Output codes, dense",
    "sparse_codes": "Output codes, sparse",
    "label_mapping": "Label mapping, coprime",
    "label_mapping_mixed": "Label mapping, mixed radix",
    "faiss_ivf": "FAISS IVF, m lists, 1 probed",
    "faiss_ivf_wide": "FAISS IVF, 16 lists, 4 probed",
    "linear_svc": "LinearSVC",
    "logistic_regression": "Logistic regression",
}
_PARTITIONERS = {"random": "random partition (ISM)", "kmeans": "k-means partition"}
_ROUTERS = {"cluster_mean": "cluster mean", "max_output": "max-max", "nearest_class": "nearest class"}

# Tol's "muted" colours, for whatever comes later.
_FURTHER_COLOURS = ("#cc79a7", "#882255", "#332288", "#999933", "#44aa99", "#aa4499", "#117733")
_FURTHER_MARKERS = "ph*<>8dH"
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))

VARIANTS = {
    "n_subnets": "m",
    "partitioner": "partitioner",
    "loss": "loss",
    "init": "init",
    "router": "router",
    "decision": "decision",
}


@dataclass(frozen=True)
class Look:
    """How one method is drawn: colour, marker and dashes differ, so that no reader depends on colour alone.

    Args:
        colour: as "#rrggbb".
        marker: of matplotlib.
        dashes: line style of matplotlib.
    """

    colour: str
    marker: str
    dashes: str | tuple


# Okabe & Ito's colours without yellow, which is too pale on white.
_LOOKS = {
    "no_distribution": Look("#000000", "s", "-"),
    "ism": Look("#d55e00", "o", "--"),
    "random_nearest": Look("#e69f00", "v", "-."),
    "knn": Look("#7a7a7a", "P", ":"),
    "clustered_maxmax": Look("#56b4e9", "D", "--"),
    "clustered_nearest": Look("#0072b2", "^", "-"),
    "clustered_fused": Look("#009e73", "X", "-."),
}


def _readable(name: str, titles: dict[str, str]) -> str:
    text = " ".join(str(name).replace("_", " ").split())
    return titles.get(name) or (text[:1].upper() + text[1:] if titles is _TITLES else text) or "(blank)"


def scenario_title(scenario: str) -> str:
    """The name of a scenario as a reader sees it.

    Args:
        scenario: as in results.csv; one that is unknown here is made readable from its name, and `group=file` is the
            proposal with that choice exchanged.

    >>> scenario_title("clustered_nearest"), scenario_title("of_my_own")
    ('Clustered + nearest class', 'Of my own')
    """
    group, exchanged, name = scenario.partition("=")
    if exchanged:
        return f"Proposal, {group} {_readable(name, {})}"
    return _readable(scenario, _TITLES)


def reference_title(scenario: str) -> str:
    """The name of a scenario that others are compared with, as it stands within a sentence.

    Args:
        scenario: as in results.csv.

    >>> reference_title("ism"), reference_title("no_distribution")
    ('ISM', 'no distribution')
    """
    return {"ism": "ISM", "no_distribution": "no distribution"}.get(scenario) or scenario_title(scenario)


def partitioner_title(partitioner: str) -> str:
    """The name of a partitioner as a reader sees it.

    Args:
        partitioner: as in results.csv.
    """
    return _readable(partitioner, _PARTITIONERS)


def router_title(router: str) -> str:
    """The name of a router as a reader sees it ("representative" in the paper's Table 1).

    Args:
        router: as in results.csv.
    """
    return _readable(router, _ROUTERS)


def partition_title(name: str) -> str:
    """The name of the partition that a sub-network belongs to.

    Args:
        name: a partitioner, or a scenario whose networks are its own.
    """
    if name in ("single", "none", ""):
        return scenario_title("no_distribution")
    return partitioner_title(name) if name in ("random", "kmeans") else scenario_title(name)


def partition_order(names: pd.Series) -> list[str]:
    """The distinct partitions: undistributed, random, k-means, then all others by name.

    Args:
        names: partitioners, or scenarios whose networks are their own.
    """
    known = ["no_distribution", "single", "random", "kmeans"]
    return sorted(set(names), key=lambda name: (known.index(name) if name in known else len(known), name))


def is_synthetic(dataset: str) -> bool:
    """Whether a data set is generated: its name starts with "synthetic".

    Args:
        dataset: as in results.csv.
    """
    return str(dataset).lower().startswith("synthetic")


def data_title(dataset: str, extractor: str = "") -> str:
    """The name of a data set as a reader sees it, with the extractor where that tells two apart.

    Args:
        dataset: as in results.csv.
        extractor: shown unless empty.

    >>> data_title("synthetic"), data_title("lfw", "edgeface")
    ('synthetic identities', 'lfw, edgeface')
    """
    name = str(dataset)
    if is_synthetic(name):
        name = "synthetic identities" if name.lower() == "synthetic" else f"{name} (synthetic)"
    return f"{name}, {extractor}" if extractor else name


def scenario_order(scenarios: pd.Series | list[str]) -> list[str]:
    """The distinct scenarios: the paper's first, in its order, then all others by name.

    Args:
        scenarios: names as in results.csv.
    """
    known = list(_TITLES)
    return sorted(set(scenarios), key=lambda name: (known.index(name) if name in known else len(known), name))


def label_methods(results: pd.DataFrame) -> pd.DataFrame:
    """Adds what a reader calls the rows, and sorts them in the order in which they are shown.

    A method is a scenario, with the settings appended in which rows of that scenario differ where they would otherwise
    be averaged: m at the same N; partitioner, loss, initialisation, router and decision anywhere.

    Args:
        results: rows of results.csv, as read or as a comparison holds them (None and NaN are blank); `run` is optional.

    Returns:
        A copy, text columns as str and number columns as float, with the columns `data` and `method`, sorted by data
        set (real before synthetic), N, scenario and seed.
    """
    frame = results.reset_index(drop=True)
    frame["run"] = frame["run"] if "run" in frame else ""
    for column in RESULTS.columns:
        if RESULTS.kind(column) == "text":
            frame[column] = frame[column].astype(object).where(frame[column].notna(), "").astype(str)
        else:
            frame[column] = pd.to_numeric(frame[column]).astype(float)
    several = frame.groupby("dataset")["extractor"].transform("nunique") > 1
    frame["data"] = [
        data_title(dataset, extractor if more else "")
        for dataset, extractor, more in zip(frame["dataset"], frame["extractor"], several, strict=True)
    ]
    labels = pd.Series([scenario_title(name) for name in frame["scenario"]], index=frame.index)
    for scenario, rows in frame.groupby("scenario"):
        shown = []
        for column, name in VARIANTS.items():
            group = (
                rows.groupby(["data", "n_identities"])[column]
                if column == "n_subnets"
                else rows.groupby("scenario")[column]
            )
            if (group.nunique(dropna=False) > 1).any():
                values = rows[column].map(lambda v: f"{v:.0f}" if isinstance(v, float) else v or "none")
                shown.append(f"{name}=" + values.astype(str))
        if shown:
            suffix = shown[0]
            for part in shown[1:]:
                suffix = suffix + ", " + part
            labels[rows.index] = f"{scenario_title(str(scenario))} [" + suffix + "]"
    frame["method"] = labels
    order = {name: i for i, name in enumerate(scenario_order(frame["scenario"]))}
    frame["_order"] = frame["scenario"].map(order)
    frame["_synthetic"] = frame["dataset"].map(is_synthetic)
    by = ["_synthetic", "data", "n_identities", "_order", "method", "run", "seed"]
    return frame.sort_values(by, kind="stable", ignore_index=True).drop(columns=["_order", "_synthetic"])


def method_order(frame: pd.DataFrame) -> list[str]:
    """The distinct methods of a labelled frame, scenarios in their order.

    Args:
        frame: as `label_methods` returns it.
    """
    order = scenario_order(frame["scenario"])
    pairs = frame[["scenario", "method"]].drop_duplicates()
    return [m for s in order for m in sorted(pairs.loc[pairs["scenario"] == s, "method"])]


def looks(frame: pd.DataFrame) -> dict[str, Look]:
    """A look for each method: known scenarios always get the same colour, variants of one share it.

    Args:
        frame: as `label_methods` returns it.

    Returns:
        From method to look.
    """
    further = [scenario for scenario in scenario_order(frame["scenario"]) if scenario not in _LOOKS]
    first = _LOOKS | {
        scenario: Look(
            _FURTHER_COLOURS[i % len(_FURTHER_COLOURS)],
            _FURTHER_MARKERS[i % len(_FURTHER_MARKERS)],
            _DASHES[i % len(_DASHES)],
        )
        for i, scenario in enumerate(further)
    }
    scenario_of = dict(zip(frame["method"], frame["scenario"], strict=True))
    result: dict[str, Look] = {}
    for method in method_order(frame):
        look = first[scenario_of[method]]
        earlier = sum(scenario_of[other] == scenario_of[method] for other in result)
        if earlier:
            marker = _FURTHER_MARKERS[(earlier - 1) % len(_FURTHER_MARKERS)]
            look = Look(look.colour, marker, _DASHES[(_DASHES.index(look.dashes) + earlier) % len(_DASHES)])
        result[method] = look
    return result
