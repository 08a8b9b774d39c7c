"""How CLIP text and image embeddings enter the decoder (DALL-E 2 section 2.1, Karlo's keys)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["TextProj", "TextProjConfig"]


@dataclass(frozen=True)
class TextProjConfig:
    """Sizes of the projections; `time_embed_dim` is four times the decoder's first width."""

    clip_embeddings_dim: int = 768
    text_states_dim: int = 768
    time_embed_dim: int = 1280
    cross_attention_dim: int = 1536
    clip_extra_context_tokens: int = 4


class TextProj(nn.Module):
    """CLIP embeddings -> (condition tokens, vector added to the timestep embedding)."""

    def __init__(self, config: TextProjConfig) -> None:
        super().__init__()
        self.config = config
        dim, cross = config.clip_embeddings_dim, config.cross_attention_dim
        self.learned_classifier_free_guidance_embeddings = nn.Parameter(torch.zeros(dim))
        self.embedding_proj = nn.Linear(dim, config.time_embed_dim)
        self.clip_image_embeddings_project_to_time_embeddings = nn.Linear(
            dim, config.time_embed_dim
        )
        self.clip_extra_context_tokens_proj = nn.Linear(
            dim, config.clip_extra_context_tokens * cross
        )
        self.encoder_hidden_states_proj = nn.Linear(config.text_states_dim, cross)
        self.text_encoder_hidden_states_norm = nn.LayerNorm(cross)

    def forward(
        self, image: Tensor, embeds: Tensor, states: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [B, 4+L, cross], their score bias [B, 4+L] and the additive vector [B, time].

        Args:
            image: [B, D], CLIP image embedding, or the learned null embedding.
            embeds: [B, D], projected text embedding.
            states: [B, L, text_states_dim], text encoder states.
            mask: [B, L], 1 on real tokens.
        """
        count = self.config.clip_extra_context_tokens
        emb = self.embedding_proj(embeds)
        emb = emb + self.clip_image_embeddings_project_to_time_embeddings(image)
        extra = self.clip_extra_context_tokens_proj(image).unflatten(-1, (-1, count))
        text = self.text_encoder_hidden_states_norm(self.encoder_hidden_states_proj(states))
        tokens = torch.cat([extra.transpose(1, 2), text], dim=1)
        bias = torch.nn.functional.pad((1 - mask.float()) * -10000.0, (count, 0))
        return tokens, bias, emb
