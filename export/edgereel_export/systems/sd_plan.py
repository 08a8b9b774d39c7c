"""Pieces that the modes of systems over Stable Diffusion share, as plan structs."""

from __future__ import annotations

from typing import Any, NamedTuple

from edgereel.plan import (
    Denoise,
    Each,
    Final,
    FloatParam,
    Guidance,
    IntParam,
    Param,
    Ref,
    Row,
    Run,
    Shape,
    Size,
    Spacing,
    Stage,
    TensorSpec,
    TextParam,
    Tokenize,
    VideoParam,
    Weight,
    Window,
)

__all__ = [
    "SEED",
    "SIZES",
    "Facts",
    "chunk_params",
    "decode_op",
    "denoise_op",
    "f32",
    "frames_each",
    "given_video",
    "guidance_of",
    "latent_sizes",
    "latents",
    "prompts",
    "resolution_param",
    "sampling_params",
    "size_params",
    "text_stage",
    "text_values",
    "trim_params",
    "u8",
]


class Facts(NamedTuple):
    """What the checkpoint decides.

    length: tokens of a prompt. width: of text states. size: default height and width in pixels.
    factor: pixels per latent. multiple: of height and width. spacing, final: of DDIM.
    """

    length: int
    width: int
    size: tuple[int, int]
    factor: int
    multiple: int
    spacing: Spacing
    final: Final


SEED = IntParam(description="same seed, same video", default=0, min=0, max=2**64 - 1)


def prompts(append: str = "", negative: str = "") -> dict[str, Any]:
    """Params and rows of a prompt and a negative prompt; row 0 is the unconditional one."""
    params: dict[str, Param] = {
        "prompt": TextParam(description="what the video shows"),
        "negative_prompt": TextParam(description="what it should not show", default=negative),
        "seed": SEED,
    }
    rows = {"text": (Row(param="negative_prompt"), Row(param="prompt", append=append))}
    return {"params": params, "rows": rows}


def sampling_params(steps: int, guidance: float, stage: str = "") -> dict[str, Param]:
    """Steps and guidance, with their defaults; those of another `stage` end in its name."""
    end, of = (f".{stage}", f" of {stage}") if stage else ("", "")
    return {
        f"steps{end}": IntParam(
            description=f"steps of the sampler{of}",
            default=steps,
            min=1,
            max=1000,
            aliases=() if stage else ("num_inference_steps",),
        ),
        f"guidance{end}": FloatParam(
            description=f"how strongly the video{of} follows the prompt; 1 turns guidance off",
            default=guidance,
            min=0.0,
            max=50.0,
            aliases=() if stage else ("guidance_scale",),
        ),
    }


def size_params(facts: Facts) -> dict[str, Param]:
    """Height and width in pixels."""

    def side(name: str, default: int) -> IntParam:
        low, most = facts.multiple, 2048 // facts.multiple * facts.multiple
        return IntParam(
            description=f"{name} in pixels",
            default=default,
            min=low,
            max=most,
            multiple=facts.multiple,
        )

    return {n: side(n, d) for n, d in zip(("height", "width"), facts.size, strict=True)}


def chunk_params() -> dict[str, Param]:
    """How many frames are worked on at a time, and the frame rate of the file."""
    return {
        "chunk_size": IntParam(
            description="frames at a time; fewer need less memory", default=8, min=2, max=64
        ),
        "fps": FloatParam(description="frames per second", default=4.0, min=0.1, max=120.0),
    }


def given_video(description: str, facts: Facts, count: int = 0, **more: Any) -> dict[str, Param]:
    """A video the user gives, with how to trim, resample and scale it.

    Args:
        description: of the video.
        facts: of the checkpoint.
        count: frames to take by default; 0 takes all.
        more: further fields of the param.
    """
    name = "control_video" if "filter" in more else "video"
    params: dict[str, Param] = {
        name: VideoParam(
            description=description,
            start=Ref(param="start"),
            end=Ref(param="end"),
            fps=Ref(param="sample_fps"),
            frames=Ref(param="frames"),
            longest=Ref(param="resolution"),
            multiple=facts.multiple,
            **more,
        ),
        **trim_params(),
        "frames": IntParam(
            description="frames to take; 0 takes all",
            default=count,
            min=0,
            max=4096,
            aliases=("num_frames", "video_length"),
        ),
    }
    return params | resolution_param(facts)


def trim_params(fps: float = 0.0) -> dict[str, Param]:
    """Which part of a given video is taken, and at how many frames per second by default."""
    return {
        "start": FloatParam(description="where to begin, in seconds", default=0.0, min=0.0),
        "end": FloatParam(description="where to end; 0 is the end", default=0.0, min=0.0),
        "sample_fps": FloatParam(
            description="frames per second to take; 0 takes all", default=fps, min=0.0, max=240.0
        ),
    }


def resolution_param(facts: Facts) -> dict[str, Param]:
    """The larger side that given pictures are scaled to."""
    return {
        "resolution": IntParam(
            description="larger side in pixels",
            default=max(facts.size),
            min=facts.multiple,
            max=2048 // facts.multiple * facts.multiple,
            multiple=facts.multiple,
        ),
    }


def f32(*shape: int | str) -> TensorSpec:
    """A float32 value."""
    return TensorSpec(dtype="float32", shape=shape)


def u8(*shape: int | str) -> TensorSpec:
    """A value of picture levels."""
    return TensorSpec(dtype="uint8", shape=shape)


def text_values(facts: Facts, stage: str = "") -> dict[str, TensorSpec]:
    """The values of `text_stage`."""
    end, group = (f".{stage}", f"G_{stage}") if stage else ("", "G")
    return {
        f"ids{end}": TensorSpec(dtype="int64", shape=(group, facts.length)),
        f"states{end}": f32(group, facts.length, facts.width),
    }


def latents(*names: str, count: int | str) -> dict[str, TensorSpec]:
    """Latents of `count` frames each."""
    shape: Shape = (count, 4, "h", "w")
    return {name: TensorSpec(dtype="float32", shape=shape) for name in names}


def text_stage(
    stage: str = "",
    *,
    encoder: str = "text_encoder",
    tokenizer: str = "bpe",
    row: str | None = None,
) -> Stage:
    """The texts as states; those of another `stage` end in its name.

    Args:
        stage: whose texts.
        encoder: the graph that makes states of ids.
        tokenizer: for that graph.
        row: also names the value of the kept rows' indices.
    """
    end = f".{stage}" if stage else ""
    run = Run(graph=encoder, inputs={"ids": f"ids{end}"}, outputs={"states": f"states{end}"})
    tokenize = Tokenize(tokenizer=tokenizer, rows=f"text{end}", ids=f"ids{end}", row=row)
    return Stage(name=f"text{end}", ops=(tokenize, run))


def guidance_of(stage: str = "") -> Guidance:
    """Two rows of texts, the unconditional one first, weighed by the guidance of a stage."""
    end = f".{stage}" if stage else ""
    scale = f"guidance{end}"
    weights = (Weight(const=1.0, params={scale: -1.0}), Weight(params={scale: 1.0}))
    return Guidance(rows=f"text{end}", weights=weights)


def denoise_op(facts: Facts, x: str, out: str, **more: Any) -> Denoise:
    """A loop of the UNet by DDIM with guidance, unless `more` says otherwise."""
    given: dict[str, Any] = {
        "graph": "unet",
        "conditions": {"states": "states"},
        "schedule": "trained",
        "sampler": "ddim",
        "spacing": facts.spacing,
        "steps": Ref(param="steps"),
        "eta": 0.0,
        "final": facts.final,
        "variance": "fixed_small",
        "guidance": guidance_of(),
        "noise": "z",
    }
    return Denoise(x=x, out=out, **(given | more))


def frames_each(value: str, part: str, size: str, *, lead: int = 0) -> Each:
    """A stage's chunks of so many frames of `value` as the param `size` says, each seen as `part`.

    Axis 0 of a chunk is K; `lead` first frames stand in front of every one but the first.
    """
    window = Window(symbol="K", size=Ref(param=size), lead=lead)
    return Each(slices={part: value}, windows=(window,))


def decode_op(x: str, out: str, graph: str = "decode") -> Run:
    """Latents `x` to pictures `out`."""
    return Run(graph=graph, inputs={"x": x}, outputs={"frames": out})


SIZES = {
    "H": Size(param="height"),
    "W": Size(param="width"),
}


def latent_sizes(facts: Facts) -> dict[str, Size]:
    """Sizes of the latents' h and w, from the pictures' H and W."""
    return {
        "h": Size(symbol="H", divide=facts.factor),
        "w": Size(symbol="W", divide=facts.factor),
    }
