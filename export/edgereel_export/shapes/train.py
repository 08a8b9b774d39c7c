"""Train the `shapes` cascade as the paper does: every component on its own.

CLIP and the prior see still pictures with text; decoder and super-resolution see stills first, then
clips; interpolation is fine-tuned from the decoder (Make-A-Video, arXiv:2209.14792, section 3.4).
Then decoder and interpolation are trained once more on all that a user may give them, and the last
super-resolution on the noise that its few steps begin with. Of the committed weights, interpolation
had 790 steps with other shares of what is given before those that are listed here.
`vae` and `unet` are the latent text-to-image model; its text encoder is the cascade's. LaVie's
and Emu Video's networks start from it.

    python -m edgereel_export.shapes.train --work runs/shapes            # everything, in order
    python -m edgereel_export.shapes.train --work runs/shapes clip prior # some components
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from edgereel_export.modules.emu_unet import is_own
from edgereel_export.modules.sd_config import SDUNetConfig, SDVAEConfig, to_json

from .components import COMPONENTS
from .data import Data
from .folders import write_emu, write_latent, write_lavie
from .networks import CONFIGS, EMU, LAVIE, weights_file

__all__ = ["STEPS", "main"]

STEPS = {  # optimiser steps of a component; the second of a pair are on clips, or told how far
    "clip": (3600,),
    "prior": (2400,),
    "decoder": (700, 4600),
    "interpolation": (0, 1060),
    "decoder_told": (0, 3600),  # the decoder once more
    "interpolation_given": (0, 4500),  # and interpolation
    "super_res_low": (1000, 800),
    "super_res_high": (3900,),
    "super_res_high_few": (2400,),  # and the one before
    "vae": (1200,),
    "unet": (4000,),
    "lavie_base": (1000, 7800),  # small pictures, then larger ones
    "lavie_interpolation": (900,),
    "upscaler_vae": (500,),
    "lavie_vsr": (0, 2700),
    "emu_image": (0, 2400),
    "emu_video": (1200, 3600),  # small clips, then larger ones
    "emu_interpolation": (700,),
}
_OVER_FRAMES = ("emu_video", "emu_interpolation")  # of which spatial layers are not kept


def _save(name: str, module: nn.Module, state: dict[str, Tensor]) -> None:
    """Write config.json and weights of one network into its checkpoint folder."""
    path = weights_file(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.is_relative_to(LAVIE) or path.is_relative_to(EMU)
    kept = {
        key: (value.half() if half else value).contiguous()
        for key, value in state.items()
        if "position_ids" not in key and (name not in _OVER_FRAMES or is_own(key))
    }
    if (
        not name.startswith("lavie_") and name not in _OVER_FRAMES
    ):  # these are files without a config.json
        text = json.dumps(_values(module.config), indent=2, sort_keys=True) + "\n"
        (path.parent / "config.json").write_text(text)
    temporary = path.with_suffix(".part")
    save_file(kept, temporary)
    temporary.replace(path)


def _values(config: Any) -> dict[str, Any]:
    """What config.json says of a network."""
    if isinstance(config, SDUNetConfig | SDVAEConfig):
        return to_json(config)
    plain = is_dataclass(config) and not isinstance(config, type)
    values: dict[str, Any] = asdict(config) if plain else config.to_diff_dict()
    return values


_ATTENTION = [SDPBackend.MATH]  # of a few frames, faster than flash attention in bfloat16


class Trainer:
    """AdamW with warm-up and cosine decay, an average of the weights, resumable from one file."""

    def __init__(self, name: str, work: Path, scale: float) -> None:
        self.name, self.path = name, work / f"{name}.pt"
        self.component = COMPONENTS[name]()
        counts = [round(count * scale) for count in STEPS[name]]
        self.stills, self.total = counts[0], sum(counts)
        modules = self.component.modules
        modules.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(_ATTENTION):
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
    trained = options.components or COMPONENTS
    if "unet" in trained:
        write_latent()
    if "lavie_base" in trained:
        write_lavie()
    if "emu_video" in trained:
        write_emu()


if __name__ == "__main__":
    main()
