# SPDX-License-Identifier: MIT
"""The model card of an Identifier: README.md with a YAML header, as Hugging Face's hub shows it."""

import json

import yaml

from experiments.reporting.columns import column
from lightning_modules.identifier import Identifier

TAGS = ["face-identification", "open-set-recognition", "clusterface"]
TEXT = """\
# {name}

An Identifier of ClusterFace. It names embeddings of {dim} dimensions among {people:,} people, in {clusters:,} clusters.

```python
from lightning_modules.identifier import Identifier

print(Identifier.load("FOLDER"{allow}).identify(embeddings).identity)  # embeddings: (B, {dim}) floats
```

The embeddings must come from the extractor below.

## How it was made

{facts}

## Results

{results}

## Limits

- {threshold}
- The numbers hold for test images of the enrolled people from the data set above. Other cameras, ages and lighting were
  not tested, and neither were differences between groups of people.
- The files hold a name and a mean embedding of every person. A mean embedding is biometric data: ask these people
  before you publish it.
- No licence is stated. The rights to the images and to the extractor decide it: add `license:` to the header.
"""


def model_card(identifier: Identifier, name: str, allow: list[str]) -> str:
    """What is known of an identifier: use, provenance, the results of `experiments.train`, and the limits.

    Args:
        name: of the model.
        allow: packages that `Identifier.load` must be allowed.
    """
    facts, tested = dict(identifier.provenance), identifier.provenance.get("test") or {}
    found = {key: value for key, value in tested.items() if key != "probes"}
    header: dict = {"library_name": "clusterface", "tags": TAGS}
    if found:
        metrics = [{"type": key, "name": column(key).heading, "value": round(value, 4)} for key, value in found.items()]
        dataset = {"type": "embedding-set", "name": str(facts.get("dataset"))}
        task = {"type": "image-classification", "name": "Face identification"}
        header["model-index"] = [{"name": name, "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}]
    results = "No results are recorded."
    if found:
        rows = [(column(key).heading, f"{value:.2f}") for key, value in found.items()]
        results = f"{tested['probes']:,} test images.\n\n{_table(('metric', 'value'), rows)}"
        results += "\n\nPeople were added or taken out after this test." if facts.get("enrolment") else ""
    threshold = "Every probe gets a name: there is no threshold, so strangers are named too."
    if identifier.threshold is not None:
        asked = f", set for a false positive rate of {facts['fpir']:.2%} among strangers" if "fpir" in facts else ""
        threshold = f"Scores under {identifier.threshold:.4f} are `{identifier.unknown}`{asked}."
    shown = {key: value for key, value in facts.items() if key not in ("test", "data_path") and value}
    rows = [(key, f"`{value if isinstance(value, str) else json.dumps(value)}`") for key, value in shown.items()]
    text = TEXT.format(
        name=name, dim=identifier.dim, people=len(identifier.identities), clusters=identifier.partition.n_clusters,
        allow=f", allow={allow}" if allow else "", results=results, threshold=threshold,
        facts=_table(("what", "value"), rows) if rows else "Nothing is recorded.",
    )  # fmt: skip
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n\n{text}"


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    cells = [head, ("---", "---"), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)
