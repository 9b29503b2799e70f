# SPDX-License-Identifier: MIT
"""Names, order and looks of scenarios and of the other choices, the same in every table and figure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import cycle
from types import MappingProxyType
from typing import Any

import pandas as pd

from experiments.reporting.columns import TABLE, added

# For baselines, for the order, and for runs without details/scenarios.csv; what a run says itself comes first.
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
_DASHES: tuple[str | tuple, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))

# Columns that tell rows of one scenario apart, and what a reader calls them.
VARIANTS = {"n_subnets": "m"} | {name: name for name in ("partitioner", "loss", "init", "router", "decision")}


@dataclass(frozen=True)
class Look:
    """How one method is drawn: colour, marker and dashes differ, so that no reader depends on colour alone."""

    colour: str
    marker: str
    dashes: str | tuple

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of matplotlib's functions that draw lines."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dashes}


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


# With more methods than this, colours and markers no longer tell them apart: only the scenarios above keep theirs.
MOST_TOLD_APART = 14
OTHERS = Look("#929aa5", ".", "-")


def _readable(name: str, titles: dict[str, str]) -> str:
    text = " ".join(str(name).replace("_", " ").split())
    return titles.get(name) or (text[:1].upper() + text[1:] if titles is _TITLES else text) or "(blank)"


_titles_of_run: ContextVar[Mapping[str, str]] = ContextVar("titles_of_run", default=MappingProxyType({}))


@contextmanager
def titles_of(details: Mapping[str, pd.DataFrame]) -> Iterator[None]:
    """Context in which scenarios have the titles that a run gave them.

    Args:
        details: of a run; `scenarios` holds names and titles. A title that several scenarios share gets the name added.
    """
    frame = details.get("scenarios")
    titles = {} if frame is None else dict(zip(frame["scenario"], frame["title"], strict=True))
    times = Counter(titles.values())
    token = _titles_of_run.set({
        name: f"{title} ({name})" if times[title] > 1 else title for name, title in titles.items()
    })  # fmt: skip
    try:
        yield
    finally:
        _titles_of_run.reset(token)


def scenario_title(scenario: str) -> str:
    """The name of a scenario as a reader sees it.

    One without a title (see `titles_of`) is made readable from its name; `group=file` is the proposal with that choice
    exchanged.

    >>> scenario_title("clustered_nearest"), scenario_title("of_my_own")
    ('Clustered + nearest class', 'Of my own')
    """
    if title := _titles_of_run.get().get(scenario):
        return title
    group, exchanged, name = scenario.partition("=")
    if exchanged:
        return f"Proposal, {group} {_readable(name, {})}"
    return _readable(scenario, _TITLES)


def reference_title(scenario: str) -> str:
    """The name of a scenario that others are compared with, as it stands within a sentence.

    >>> reference_title("ism"), reference_title("no_distribution")
    ('ISM', 'no distribution')
    """
    return {"ism": "ISM", "no_distribution": "no distribution"}.get(scenario) or scenario_title(scenario)


def partitioner_title(partitioner: str) -> str:
    """The name of a partitioner as a reader sees it."""
    return _readable(partitioner, _PARTITIONERS)


def router_title(router: str) -> str:
    """The name of a router as a reader sees it ("representative" in the paper's Table 1)."""
    return _readable(router, _ROUTERS)


def partition_title(name: str) -> str:
    """The name of the partition that a sub-network belongs to.

    Args:
        name: a partitioner, or a scenario whose networks are its own.
    """
    if name in ("single", "none", ""):
        return scenario_title("no_distribution")
    return partitioner_title(name) if name in ("random", "kmeans") else scenario_title(name)


def known_first(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The distinct names: the known ones in their order, then all others by name."""
    rank = {name: i for i, name in enumerate(known)}
    return sorted(set(names), key=lambda name: (rank.get(name, len(rank)), name))


def partition_order(names: Iterable[str]) -> list[str]:
    """The distinct partitions: undistributed, random, k-means, then all others by name.

    Args:
        names: partitioners, or scenarios whose networks are their own.
    """
    return known_first(names, ("no_distribution", "single", "random", "kmeans"))


def is_synthetic(dataset: str) -> bool:
    """Whether a data set is generated: its name starts with "synthetic"."""
    return str(dataset).lower().startswith("synthetic")


def data_title(dataset: str, extractor: str = "") -> str:
    """The name of a data set as a reader sees it, with the extractor unless empty.

    >>> data_title("synthetic"), data_title("lfw", "edgeface")
    ('synthetic identities', 'lfw, edgeface')
    """
    name = str(dataset)
    if is_synthetic(name):
        name = "synthetic identities" if name.lower() == "synthetic" else f"{name} (synthetic)"
    return f"{name}, {extractor}" if extractor else name


def scenario_order(scenarios: Iterable[str]) -> list[str]:
    """The distinct scenarios: the paper's first, in its order, then all others by name."""
    return known_first(scenarios, _TITLES)


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
    for one in (*TABLE, *added(frame)):
        if one.holds == "text":
            frame[one.name] = frame[one.name].astype(object).where(frame[one.name].notna(), "").astype(str)
        else:
            frame[one.name] = pd.to_numeric(frame[one.name]).astype(float)
    # A row that could not be run names no extractor: that makes no second one.
    named = frame["extractor"].where(frame["extractor"] != "")
    several = named.groupby(frame["dataset"]).transform("nunique") > 1
    frame["data"] = [
        data_title(dataset, extractor if more else "")
        for dataset, extractor, more in zip(frame["dataset"], frame["extractor"], several, strict=True)
    ]
    labels = pd.Series([scenario_title(name) for name in frame["scenario"]], index=frame.index)
    for scenario, rows in frame.groupby("scenario"):
        shown = pd.DataFrame(index=rows.index)
        for column, name in VARIANTS.items():
            places = ["data", "n_identities"] if column == "n_subnets" else ["scenario"]
            if (rows.groupby(places)[column].nunique(dropna=False) > 1).any():
                values = rows[column].map(lambda v: f"{v:.0f}" if isinstance(v, float) else v or "none")
                shown[column] = f"{name}=" + values.astype(str)
        if len(shown.columns):
            labels[rows.index] = f"{scenario_title(str(scenario))} [" + shown.agg(", ".join, axis=1) + "]"
    frame["method"] = labels
    frame["_order"] = frame["scenario"].map(scenario_order(frame["scenario"]).index)
    frame["_synthetic"] = frame["dataset"].map(is_synthetic)
    by = ["_synthetic", "data", "n_identities", "_order", "method", "run", "seed"]
    return frame.sort_values(by, kind="stable", ignore_index=True).drop(columns=["_order", "_synthetic"])


def at_largest_n(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of each data set's largest N.

    Args:
        frame: with the columns `data` and `n_identities`.
    """
    return frame[frame["n_identities"] == frame.groupby("data")["n_identities"].transform("max")]


def method_order(frame: pd.DataFrame) -> list[str]:
    """The distinct methods of a labelled frame, scenarios in their order.

    Args:
        frame: as `label_methods` returns it.
    """
    methods = frame.groupby("scenario")["method"].unique()
    return [method for scenario in scenario_order(methods.index) for method in sorted(methods[scenario])]


def looks(frame: pd.DataFrame) -> dict[str, Look]:
    """A look for each method: known scenarios always get the same colour, variants of one share it.

    Args:
        frame: as `label_methods` returns it.

    Returns:
        From method to look; `OTHERS` for all but the known scenarios where there are more than `MOST_TOLD_APART`.
    """
    crowded = frame["method"].nunique() > MOST_TOLD_APART
    further = [scenario for scenario in scenario_order(frame["scenario"]) if scenario not in _LOOKS]
    made = map(Look, cycle(_FURTHER_COLOURS), cycle(_FURTHER_MARKERS), cycle(_DASHES))
    first = _LOOKS | dict(zip(further, made, strict=False))
    scenario_of = dict(zip(frame["method"], frame["scenario"], strict=True))
    result: dict[str, Look] = {}
    for method in method_order(frame):
        if crowded and scenario_of[method] not in _LOOKS:
            result[method] = OTHERS
            continue
        look = first[scenario_of[method]]
        earlier = sum(scenario_of[other] == scenario_of[method] for other in result)
        if earlier:
            marker = _FURTHER_MARKERS[(earlier - 1) % len(_FURTHER_MARKERS)]
            look = Look(look.colour, marker, _DASHES[(_DASHES.index(look.dashes) + earlier) % len(_DASHES)])
        result[method] = look
    return result
