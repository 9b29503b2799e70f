# SPDX-License-Identifier: MIT
"""An extractor as a LightningModule."""

import pytorch_lightning as pl
import torch

from datamodules.extraction.loading import Crops
from datamodules.extractors.base import Extractor


class ExtractionModule(pl.LightningModule):
    """Embeds batches of face crops in the predict loop."""

    def __init__(self, extractor: Extractor):
        super().__init__()
        self.extractor = extractor

    def predict_step(self, batch: Crops, batch_idx: int) -> torch.Tensor:
        """(U, D) embeddings of the usable images of a batch."""
        if not len(batch.usable):
            return torch.zeros(0, self.extractor.embedding_dim, device=self.device)
        return self.extractor.embed_images(batch.images)
