# SPDX-License-Identifier: MIT
"""From pictures to an EmbeddingSet: python -m experiments.prepare source.root=DIR extractor=NAME out=SET"""

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.coordination.command_line import command
from experiments.extraction.config import PrepareConfig, build_aligner, recipe


@command(config_name="prepare", schema=PrepareConfig)
def main(cfg: DictConfig) -> None:
    """A source of images, a network, what cuts the faces out, and the loop that embeds them."""
    from experiments.extraction.extract import ExtractionSettings, extract
    from experiments.extraction.summary import show

    source, extractor = instantiate(cfg.source), instantiate(cfg.extractor)
    aligner = build_aligner(cfg.alignment, source, extractor)
    settings, trainer = ExtractionSettings(**cfg.extraction), OmegaConf.to_container(cfg.trainer)
    show(extract(source, extractor, aligner, cfg.out, settings, trainer, recipe(cfg)))


if __name__ == "__main__":
    main()
