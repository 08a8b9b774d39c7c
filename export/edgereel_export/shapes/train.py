"""Train the `shapes` cascade as the paper does: every component on its own.

CLIP and the prior see still pictures with text; decoder and super-resolution see stills first, then
clips; interpolation is fine-tuned from the decoder (Make-A-Video, arXiv:2209.14792, section 3.4).

    python -m edgereel_export.shapes.train --work runs/shapes            # everything, in order
    python -m edgereel_export.shapes.train --work runs/shapes clip prior # some components
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from edgereel.levels import alphas_cumprod_cosine, shift_alphas_cumprod

from .captions import all_captions, plain
from .networks import CHECKPOINT, CONFIGS, DECODER_SHIFT, LENGTH, build, null_rows
from .world import COLOURS, FRAMES, MOTIONS, SHAPES, Scenes, draw, sample_scenes

__all__ = ["STEPS", "main"]

STEPS = {  # optimiser steps of a component; the second entry of a pair is on clips
    "clip": (1100,),
    "prior": (1500,),
    "decoder": (700, 2900),
    "interpolation": (0, 500),
    "super_res_low": (1000, 800),
    "super_res_high": (2500,),
}
_ALPHAS = torch.from_numpy(alphas_cumprod_cosine()).float()
# D^t sees more noise: what moves where is settled while single pixels are still drowned in it.
_SHIFTED = torch.from_numpy(shift_alphas_cumprod(alphas_cumprod_cosine(), DECODER_SHIFT)).float()
KNOWN = torch.arange(0, FRAMES, 5)  # frames of the 76 that the decoder draws


def _bicubic(x: Tensor, scale: int) -> Tensor:
    """[..., H, W] -> [..., scale*H, scale*W], antialiased bicubic as in Karlo."""
    flat = x.reshape(-1, 1, *x.shape[-2:])
    size = [side * scale for side in x.shape[-2:]]
    up = F.interpolate(flat, size=size, mode="bicubic", antialias=True)
    return up.reshape(*x.shape[:-2], *size)


def _tokenizer(path: Path) -> Tokenizer:
    """The byte-level BPE tokenizer, trained on sampled captions if it is not there yet."""
    if path.exists():
        return Tokenizer.from_file(str(path))
    rng = np.random.default_rng(0)
    texts = all_captions(20000, sample_scenes(20000, rng), rng)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<end>", "<start>"]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=512,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<end>", 1), ("<start>", 2)]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return tokenizer


class Data:
    """Endless batches of scenes with captions, tokenised."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.tokenizer = _tokenizer(CHECKPOINT / "tokenizer" / "tokenizer.json")
        self.tokenizer.enable_padding(pad_id=0, pad_token="<pad>", length=LENGTH)
        self.tokenizer.enable_truncation(LENGTH)

    def scenes(self, count: int, fps: np.ndarray | None = None) -> tuple[Scenes, Tensor, Tensor]:
        """Scenes with token ids i64 [B, L] and mask f32 [B, L] of their captions."""
        scenes = sample_scenes(count, self.rng, fps)
        ids, mask = self.tokens(all_captions(count, scenes, self.rng))
        return scenes, ids, mask

    def tokens(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """ids i64 [B, L] and mask f32 [B, L] of texts in lower case."""
        encoded = self.tokenizer.encode_batch([text.lower() for text in texts])
        return (
            torch.tensor([item.ids for item in encoded]),
            torch.tensor([item.attention_mask for item in encoded], dtype=torch.float32),
        )

    def uniform(self, *shape: int) -> Tensor:
        """f32 uniform draws in 0..1."""
        return torch.from_numpy(self.rng.random(shape, dtype=np.float32))

    def integers(self, high: int, count: int) -> Tensor:
        """i64 [count] uniform in 0..high-1."""
        return torch.from_numpy(self.rng.integers(high, size=count))

    def fps(self, count: int, progress: float) -> np.ndarray:
        """Frame rates in 1..30 from a beta law that moves from high to low rates."""
        a = 6.0 - 4.6 * progress
        return np.asarray(1 + 29 * self.rng.beta(a, 1.2, count))


def _frozen(name: str, folder: Path = CHECKPOINT) -> nn.Module:
    module = build(name)
    module.load_state_dict(load_file(folder / name / "model.safetensors"))
    return module.eval().requires_grad_(False)


def _save(name: str, module: nn.Module, state: dict[str, Tensor]) -> None:
    """Write config.json and model.safetensors of one network into the checkpoint folder."""
    folder = CHECKPOINT / name
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = module.config
    plain = is_dataclass(config) and not isinstance(config, type)
    values = asdict(config) if plain else config.to_diff_dict()
    (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    kept = {key: value.contiguous() for key, value in state.items() if "position_ids" not in key}
    temporary = folder / "model.safetensors.part"
    save_file(kept, temporary)
    temporary.replace(folder / "model.safetensors")


@dataclass
class Component:
    """Networks trained together: their modules by folder name and the loss of one step.

    `loss(data, progress, clips)` takes the batches, the fraction done and whether on clips.
    """

    modules: nn.ModuleDict
    loss: Callable[[Data, float, bool], Tensor]
    rate: float = 1e-3


def _denoise_loss(
    data: Data,
    x0: Tensor,
    predict: Callable[[Tensor, Tensor], Tensor],
    power: float,
    table: Tensor = _ALPHAS,
) -> Tensor:
    """v-prediction loss at timesteps t = 1000 u^power (power < 1 leans to high noise)."""
    t = (data.uniform(len(x0)) ** power * 1000).long().clamp(max=999)
    alphas = table[t].view(-1, *[1] * (x0.ndim - 1))
    noise = torch.randn_like(x0)
    x = alphas.sqrt() * x0 + (1 - alphas).sqrt() * noise
    target = alphas.sqrt() * noise - (1 - alphas).sqrt() * x0
    return F.mse_loss(predict(x, t.float()).float(), target)


def _plain(scenes: Scenes) -> list[str]:
    """The plainest caption of every scene."""
    colours, motions = list(COLOURS), list(MOTIONS)
    rows = zip(scenes.colour.tolist(), scenes.shape.tolist(), scenes.motion.tolist(), strict=True)
    return [plain(colours[c], SHAPES[s], motions[m]) for c, s, m in rows]


class Reconstruction(nn.Module):
    """The plainest caption's tokens from the embedding of any caption of the same scene.

    Paraphrases come together, and words that a still cannot show (motion) survive in the embedding.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        config: Any = encoder.config
        self.embedding = nn.Linear(config.projection_dim, 256)
        self.position = nn.Parameter(torch.randn(LENGTH, 256) * 0.1)
        self.hidden = nn.Linear(256, 256)
        self.words = nn.Linear(256, config.vocab_size)

    def forward(self, embeds: Tensor) -> Tensor:
        """Logits [B, L, vocabulary] for embeds [B, D]."""
        h = F.gelu(self.embedding(embeds)[:, None] + self.position)
        out: Tensor = self.words(F.gelu(self.hidden(h)))
        return out


def clip_component() -> Component:
    """Text and image encoder: contrastive loss, language modelling, paraphrase.

    The last two keep motion words in the text states and in the projected embedding.
    """
    modules = nn.ModuleDict({name: build(name) for name in ("text_encoder", "image_encoder")})
    scale = nn.ParameterList([torch.tensor(math.log(10.0))])
    modules["scale"] = scale
    reconstruct = Reconstruction(modules["text_encoder"])
    modules["reconstruct"] = reconstruct

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        scenes, ids, mask = data.scenes(192)
        frame = data.uniform(len(ids), 1) * (FRAMES - 1)
        pictures = draw(scenes, frame, 32)[:, :, 0]
        encoder: Any = modules["text_encoder"]
        text = encoder(input_ids=ids, attention_mask=mask.long())
        image = modules["image_encoder"](pixel_values=pictures).image_embeds
        pair = F.normalize(text.text_embeds.float(), dim=-1), F.normalize(image.float(), dim=-1)
        logits = pair[0] @ pair[1].T * scale[0].exp().clamp(max=100)
        target = torch.arange(len(ids))
        contrast = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
        table = encoder.get_input_embeddings().weight
        words = text.last_hidden_state[:, :-1].float() @ table.T
        language = F.cross_entropy(words.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        real = mask[:, 1:].flatten()
        told = reconstruct(text.text_embeds.float())
        plain_ids, plain_mask = data.tokens(_plain(scenes))
        again = F.cross_entropy(told.flatten(0, 1), plain_ids.flatten(), reduction="none")
        recalled = (again * plain_mask.flatten()).sum() / plain_mask.sum()
        return contrast / 2 + 0.3 * (language * real).sum() / real.sum() + recalled

    return Component(modules, loss)


def _text(ids: Tensor, mask: Tensor, encoder: nn.Module) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        out = encoder(input_ids=ids, attention_mask=mask.long())
    return out.text_embeds.float(), out.last_hidden_state.float()


def prior_component() -> Component:
    """The prior predicts the clean CLIP image embedding (x0-prediction)."""
    encoder, pictures = _frozen("text_encoder"), _frozen("image_encoder")
    prior = build("prior")
    data = Data(1)
    with torch.no_grad():
        scenes, _, _ = data.scenes(1024)
        frame = data.uniform(1024, 1) * (FRAMES - 1)
        embeds = pictures(pixel_values=draw(scenes, frame, 32)[:, :, 0]).image_embeds
    prior.clip_mean.data, prior.clip_std.data = embeds.mean(0)[None], embeds.std(0)[None]

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        scenes, ids, mask = data.scenes(128)
        null_ids, null_mask = data.tokens([""])
        drop = data.uniform(len(ids)) < 0.1
        ids, mask = null_rows(ids, null_ids[0], drop), null_rows(mask, null_mask[0], drop)
        text, states = _text(ids, mask, encoder)
        frame = data.uniform(len(ids), 1) * (FRAMES - 1)
        with torch.no_grad():
            image = pictures(pixel_values=draw(scenes, frame, 32)[:, :, 0]).image_embeds.float()
        x0 = (image - prior.clip_mean) / prior.clip_std
        t = data.integers(1000, len(ids))
        alphas = _ALPHAS[t][:, None]
        x = alphas.sqrt() * x0 + (1 - alphas).sqrt() * torch.randn_like(x0)
        return F.mse_loss(prior(x, t.float(), text, states, mask).float(), x0)

    return Component(nn.ModuleDict({"prior": prior}), loss)


def _conditions(
    data: Data, modules: nn.ModuleDict, frozen: tuple[nn.Module, nn.Module], batch: Any, names: Any
) -> dict[str, Tensor]:
    """tokens, bias and emb of a batch; a tenth of the rows get the null condition."""
    scenes, ids, mask = batch
    encoder, pictures = frozen
    unet, proj = (cast(Any, modules[name]) for name in names)
    null_ids, null_mask = data.tokens([""])
    drop = data.uniform(len(ids)) < 0.1
    ids, mask = null_rows(ids, null_ids[0], drop), null_rows(mask, null_mask[0], drop)
    text, states = _text(ids, mask, encoder)
    frame = data.uniform(len(ids), 1) * (FRAMES - 1)
    with torch.no_grad():
        image = pictures(pixel_values=draw(scenes, frame, 32)[:, :, 0]).image_embeds.float()
    image = null_rows(image, proj.learned_classifier_free_guidance_embeddings, drop)
    tokens, bias, emb = proj(image, text, states, mask)
    return {"tokens": tokens, "bias": bias, "emb": emb + unet.fps_embedding(scenes.fps)}


def decoder_component() -> Component:
    """D^t: stills first, then 16-frame clips at a frame rate told to the network."""
    modules = nn.ModuleDict({name: build(name) for name in ("decoder", "text_proj")})
    frozen = _frozen("text_encoder"), _frozen("image_encoder")

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        count = 8 if clips else 64
        batch = data.scenes(count, data.fps(count, progress) if clips else None)
        frames = KNOWN.float() if clips else data.uniform(count, 1) * (FRAMES - 1)
        x0 = draw(batch[0], frames, 16, 4)
        given = _conditions(data, modules, frozen, batch, ("decoder", "text_proj"))
        unet = modules["decoder"]
        power = 0.6 if clips else 1.0
        return _denoise_loss(data, x0, lambda x, t: unet(x, t, **given), power, _SHIFTED)

    return Component(modules, loss)


def _known_frames(data: Data) -> Tensor:
    """bool [F]: which frames a training clip of ↑F is given (1 = given)."""
    kind, skip = data.rng.random(), int(data.rng.integers(2, 6))
    frames = FRAMES if kind < 0.6 else 15 * skip + 1
    known = torch.zeros(frames, dtype=torch.bool)
    if kind < 0.8:
        known[:: 5 if kind < 0.6 else skip] = True
    elif kind < 0.9:
        count = int(data.rng.integers(1, frames // 2))
        known[:count] = True
        known = known.flip(0) if data.rng.random() < 0.5 else known
    else:
        known[0] = known[-1] = True
    return known


def interpolation_component() -> Component:
    """↑F, fine-tuned from D^t: masked frames and mask as four more input channels."""
    names = ("interpolation", "interpolation_text_proj")
    modules = nn.ModuleDict({name: build(name) for name in names})
    frozen = _frozen("text_encoder"), _frozen("image_encoder")
    state = load_file(CHECKPOINT / "decoder" / "model.safetensors")
    state["conv_in.weight"] = F.pad(state["conv_in.weight"], (0, 0, 0, 0, 0, 4))
    modules["interpolation"].load_state_dict(state)
    modules["interpolation_text_proj"].load_state_dict(
        load_file(CHECKPOINT / "text_proj" / "model.safetensors")
    )

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        known = _known_frames(data)
        batch = data.scenes(2, data.fps(2, progress))
        x0 = draw(batch[0], torch.arange(len(known)).float(), 16, 4)
        given = known.float().view(1, 1, -1, 1, 1).expand(2, 1, -1, *x0.shape[3:])
        blur = data.uniform(2, 1, 1, 1, 1) * 0.05
        masked = (x0 + blur * torch.randn_like(x0)).clamp(-1, 1) * given
        extra = torch.cat([masked, 1 - given], 1)
        conditions = _conditions(data, modules, frozen, batch, names)
        unet = modules["interpolation"]
        return _denoise_loss(
            data, x0, lambda x, t: unet(torch.cat([x, extra], 1), t, **conditions), 0.7
        )

    return Component(modules, loss, rate=5e-4)


def _degrade(data: Data, low: Tensor) -> Tensor:
    """A low-resolution condition with the small errors of a generated one."""
    level = data.uniform(len(low), 1, 1, 1, 1) * 0.08
    low = low * (1 + (data.uniform(len(low), 3, 1, 1, 1) - 0.5) * 0.04)
    return (low + level * torch.randn_like(low)).clamp(-1, 1)


def super_res_low_component() -> Component:
    """SR_l^t, 16 -> 64 pixels: stills first, then 8-frame clips."""
    unet = build("super_res_low")

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        count, length = (3, 8) if clips else (16, 1)
        scenes = sample_scenes(count, data.rng, data.fps(count, 0.7))
        first = data.uniform(count, 1) * (FRAMES - length)
        x0 = draw(scenes, first.floor() + torch.arange(length), 64)
        low = F.avg_pool3d(x0, (1, 4, 4))
        condition = _bicubic(_degrade(data, low), 4)
        return _denoise_loss(data, x0, lambda x, t: unet(torch.cat([x, condition], 1), t), 0.7)

    return Component(nn.ModuleDict({"super_res_low": unet}), loss)


def super_res_high_component() -> Component:
    """SR_h, 64 -> 192 pixels per frame, on crops of 96."""
    unet = build("super_res_high")

    def loss(data: Data, progress: float, clips: bool) -> Tensor:
        count, crop = 10, 96
        scenes = sample_scenes(count, data.rng)
        x0 = draw(scenes, data.uniform(count, 1) * (FRAMES - 1), 192)
        condition = _bicubic(_degrade(data, F.avg_pool3d(x0, (1, 3, 3))), 3)
        both = torch.cat([x0, condition], 1)
        y, x = (int(data.rng.integers(192 - crop + 1)) for _ in range(2))
        x0, condition = both[..., y : y + crop, x : x + crop].chunk(2, dim=1)
        return _denoise_loss(data, x0, lambda x, t: unet(torch.cat([x, condition], 1), t), 0.7)

    return Component(nn.ModuleDict({"super_res_high": unet}), loss)


COMPONENTS: dict[str, Callable[[], Component]] = {
    "clip": clip_component,
    "prior": prior_component,
    "decoder": decoder_component,
    "interpolation": interpolation_component,
    "super_res_low": super_res_low_component,
    "super_res_high": super_res_high_component,
}


class Trainer:
    """AdamW with warm-up and cosine decay, an average of the weights, resumable from one file."""

    def __init__(self, name: str, work: Path, scale: float) -> None:
        self.name, self.path = name, work / f"{name}.pt"
        self.component = COMPONENTS[name]()
        counts = [round(count * scale) for count in STEPS[name]]
        self.stills, self.total = (0 if name == "interpolation" else counts[0]), sum(counts)
        modules = self.component.modules
        self.average = {k: v.detach().clone() for k, v in modules.state_dict().items()}
        parameters = [p for p in modules.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            parameters, lr=self.component.rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.step = 0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            modules.load_state_dict(state["modules"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.average, self.step = state["average"], state["step"]

    def save(self) -> None:
        """Write the resume file and the averaged weights."""
        modules = self.component.modules
        state = {
            "modules": modules.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
            "step": self.step,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".part")
        torch.save(state, temporary)
        temporary.replace(self.path)
        for name, module in modules.items():
            if name in CONFIGS or name.endswith("encoder"):
                own = {k: self.average[f"{name}.{k}"] for k in module.state_dict()}
                _save(name, module, own)

    def _rate(self) -> float:
        """Learning rate of this step: each phase warms up and decays on its own."""
        first = self.step < self.stills
        start, end = (0, self.stills) if first else (self.stills, self.total)
        place = (self.step - start) / max(1, end - start)
        return (
            self.component.rate
            * min(1, (self.step - start + 1) / 50)
            * (0.03 + 0.97 * (0.5 + 0.5 * math.cos(math.pi * place)))
        )

    def run(self) -> None:
        """Train to the end, saving every 100 steps."""
        data = Data(1000 + self.step)
        torch.manual_seed(1000 + self.step)
        mean = 0.0
        with tqdm(total=self.total, initial=self.step, desc=self.name, mininterval=5) as bar:
            while self.step < self.total:
                loss = self._update(data)
                mean = loss if mean == 0 else 0.98 * mean + 0.02 * loss
                bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
                bar.update()
                if self.step % 100 == 0 or self.step == self.total:
                    self.save()

    def _update(self, data: Data) -> float:
        clips = self.step >= self.stills
        place = (self.step - self.stills) / max(1, self.total - self.stills) if clips else 0.0
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            loss = self.component.loss(data, place, clips)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.component.modules.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        keep = min(0.997, (1 + self.step) / (10 + self.step))
        for key, value in self.component.modules.state_dict().items():
            self.average[key].lerp_(value, 1 - keep)
        return float(loss)


def main(argv: list[str] | None = None) -> None:
    """Train the named components (all of them, in order, by default)."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("components", nargs="*", help=f"of {', '.join(COMPONENTS)}; default all")
    parser.add_argument("--work", type=Path, required=True, help="folder of the resume files")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every step count")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(argv)
    unknown = set(options.components) - set(COMPONENTS)
    if unknown:
        parser.error(f"unknown components {sorted(unknown)}; choose from {', '.join(COMPONENTS)}")
    torch.set_num_threads(options.threads)
    for name in options.components or COMPONENTS:
        Trainer(name, options.work, options.scale).run()


if __name__ == "__main__":
    main()
