# SPDX-License-Identifier: MIT
"""What experiments.identify is asked to do; imports nothing heavy."""

from omegaconf import DictConfig

from datamodules.errors import InputError, nearest


def check_request(cfg: DictConfig) -> None:
    """Refuses neither or both of embeddings= and images=, and unknown `faces`."""
    if (cfg.embeddings is None) == (cfg.images is None):
        given = "neither embeddings= nor images=" if cfg.images is None else "both embeddings= and images="
        raise InputError(given, "one of them", "name an .npy file or EmbeddingSet folder, or a folder of pictures")
    if cfg.faces not in (known := ("all", "main")):
        cure = nearest(cfg.faces, known, "choose one of them")
        raise InputError(f"faces = {cfg.faces}", "all, or main for one face per picture", cure)
