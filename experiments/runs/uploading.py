# SPDX-License-Identifier: MIT
"""Sends a finished comparison to Weights & Biases."""

from pathlib import Path

from omegaconf import OmegaConf
from yaml import YAMLError

from experiments.reporting.reading import RESULTS
from experiments.reporting.runs import read_run
from experiments.runs.tracking import WandbTracking, as_wandb_table

MOST_ROWS = 10_000  # of a table in the browser; the file has them all
FILES = ("results.csv", "report.html", "report.md", "config.yaml", "manifest.json", "details/*.csv", "figures/*.png")


def upload_report(run_folder: Path, project: str | None = None) -> str:
    """Sends results, details, figures and report as one W&B run of type "report" in the group of the comparison.

    Without a project it goes to that of the run. Returns the address of the W&B run, or its offline folder.

    Raises:
        InputError: the folder has no comparison.
    """
    import wandb

    folder, run = run_folder.resolve(), read_run(run_folder)
    try:
        config = OmegaConf.to_container(OmegaConf.create(run.config))
    except (YAMLError, ValueError):
        config = None
    config = dict(config) if isinstance(config, dict) else {}  # merged runs have several
    node = config.get("logger") or {}
    wanted = {key: node[key] for key in ("project", "entity", "tags") if node.get(key)}
    tracking = WandbTracking(**wanted | ({"project": project} if project else {}))
    config["provenance"] = run.manifest.get("provenance", {})
    config["merged_from"] = list(run.manifest.get("merged_from", []))
    figures = sorted((folder / "figures").glob("*.png"))
    table = run.results.astype(dict.fromkeys(RESULTS.whole, "Int64"))
    name = f"{folder.name} report"
    with tracking.published(folder.name, folder, "report", config, table, figures, name=name) as opened:
        page = wandb.Html((folder / "report.html").read_text(encoding="utf-8"), inject=False)
        details = {f"tables/{name}": as_wandb_table(rows.head(MOST_ROWS)) for name, rows in run.details.items()}
        opened.log({"report": page, **details})
        artifact = wandb.Artifact(f"report-{opened.id}", type="report", description=f"Run folder {folder.name}")
        for file in sorted(file for pattern in FILES for file in folder.glob(pattern)):
            artifact.add_file(str(file), str(file.relative_to(folder)))
        opened.log_artifact(artifact)
        return str(Path(opened.dir).parent) if opened.offline else str(opened.url)
