# SPDX-License-Identifier: MIT
"""Name the people behind embeddings, or in pictures."""

from dataclasses import replace
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from datamodules.errors import InputError
from datamodules.files import open_npy, write_text
from experiments.coordination.command_line import command
from experiments.coordination.schema import IdentifyConfig
from experiments.coordination.screen import LINE, results


@command("identify", IdentifyConfig)
def main(cfg: DictConfig) -> None:
    """Reads an Identifier and embeddings, writes a CSV."""
    import pandas as pd

    from datamodules.embedding_set import EmbeddingSet
    from experiments.picture_identification.identify import identify_pictures
    from lightning_modules.identifier import Identifier

    out = Path(cfg.out)
    if out.exists() and not cfg.overwrite:
        raise InputError(f"{out}, which exists", "a new file", "choose another out=, or say overwrite=true")
    if not out.parent.is_dir():
        raise InputError(f"no folder {out.parent}", "an existing folder for the CSV", "make it, or choose another out=")
    if (cfg.embeddings is None) == (cfg.images is None):
        given = "neither embeddings= nor images=" if cfg.images is None else "both embeddings= and images="
        raise InputError(given, "one of them", "name an .npy file or EmbeddingSet folder, or a folder of pictures")
    identifier = Identifier.load(cfg.identifier, cfg.device)
    if cfg.threshold is not None:
        identifier = replace(identifier, threshold=cfg.threshold)
    if cfg.index is not None:
        identifier = identifier.with_index(instantiate(cfg.index))
    if cfg.images is not None:
        identify_pictures(cfg, identifier)
        return
    source = Path(cfg.embeddings)
    if source.is_dir():
        probes = EmbeddingSet.open(source)
        embeddings, files = probes.embeddings, probes.files
    else:
        embeddings, files = open_npy(source, ("float16", "float32", "float64"), ndim=2), ()

    found = identifier.identify(embeddings)
    columns = {"identity": found.identity, "score": found.score, "cluster": found.cluster}
    frame = pd.DataFrame(({"file": files} if files else {}) | {"row": range(len(found.index)), **columns})
    write_text(out, frame.to_csv(index=False, float_format="%.6f"))
    unknown = int((found.index < 0).sum())
    results().print(f"{len(frame)} probes, {unknown} unknown: {out}", **LINE)


if __name__ == "__main__":
    main()
