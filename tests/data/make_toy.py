"""Writes tests/data/toy, a whole cascade in a few kilobytes: `python tests/data/make_toy.py`.

Six frames of 4x4 are denoised with guidance, then brought to 8x8 in chunks of four frames with
noise that all frames share. Every number is made by operations that IEEE rounds exactly (no
tanh, no cos), so the files are the same bytes on every machine; a test compares them.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray

from edgereel import plan as p
from edgereel.schedule import alphas_cumprod_linear

Array = NDArray[Any]
TOY = Path(__file__).parent / "toy"
WORDS = [
    "<pad>",
    "<start>",
    "<end>",
    "<unknown>",
    "a",
    "red",
    "blue",
    "green",
    "circle",
    "square",
    "moving",
    "right",
    "left",
    "up",
]

HEAD = '<ir_version: 8, opset_import: ["": 17], producer_name: "make_toy">'
SPLIT_ROW = """
    parts = Constant<value_ints = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 6]>()
    t, alpha, sigma, c_x0, c_eps, c_prev, c_noise, logvar_min, logvar_max, x_scale, rest
        = Split(row, parts)
    x_in = Mul(x, x_scale)
"""
UPDATE = """
    low = Constant<value_float = -3.0>()
    high = Constant<value_float = 3.0>()
    sigma_m = Mul(sigma, m)
    signal = Sub(x_in, sigma_m)
    x0_free = Div(signal, alpha)
    x0 = Clip(x0_free, low, high)
    alpha_x0 = Mul(alpha, x0)
    rest_x = Sub(x_in, alpha_x0)
    eps = Div(rest_x, sigma)
    from_x0 = Mul(c_x0, x0)
    from_eps = Mul(c_eps, eps)
    from_noise = Mul(c_noise, noise)
    x_clean = Add(from_x0, from_eps)
    x_noisy = Add(x_clean, from_noise)
"""
GRAPHS = {
    # tokens: table rows of the real ids; emb: their sum plus an eighth of the row's index
    "text_encoder": """
text_encoder (int64[G, 8] ids, float[G, 8] mask, int64[G] row)
    => (float[G, 8, 4] tokens, float[G, 4] emb)
{
    one = Constant<value_ints = [1]>()
    two = Constant<value_ints = [2]>()
    eighth = Constant<value_float = 0.125>()
    found = Gather(table, ids)
    mask_3 = Unsqueeze(mask, two)
    tokens = Mul(found, mask_3)
    total = ReduceSum<keepdims = 0>(tokens, one)
    row_f = Cast<to = 1>(row)
    row_2 = Unsqueeze(row_f, one)
    shift = Mul(row_2, eighth)
    emb = Add(total, shift)
}""",
    # net_g = softsign(x + sum(emb_g) / 4 + t / 128 - fps / 64), epsilon prediction, x0 clipped
    "decoder": """
decoder (float[B, 3, 6, 4, 4] x, float[16] row, float[G] weights, float[G, 4] emb, float[1] fps,
         float[B, 3, 6, 4, 4] prev, float[B, 3, 6, 4, 4] noise)
    => (float[B, 3, 6, 4, 4] x_next, float[B, 3, 6, 4, 4] x0)
{"""
    + SPLIT_ROW
    + """
    zero = Constant<value_ints = [0]>()
    one = Constant<value_ints = [1]>()
    per_row = Constant<value_ints = [-1, 1, 1, 1, 1]>()
    quarter = Constant<value_float = 0.25>()
    time_unit = Constant<value_float = 0.0078125>()
    fps_unit = Constant<value_float = 0.015625>()
    emb_sum = ReduceSum<keepdims = 0>(emb, one)
    emb_part = Mul(emb_sum, quarter)
    time_part = Mul(t, time_unit)
    fps_part = Mul(fps, fps_unit)
    with_time = Add(emb_part, time_part)
    bias = Sub(with_time, fps_part)
    bias_5 = Reshape(bias, per_row)
    entry = Add(x_in, bias_5)
    net = Softsign(entry)
    weights_5 = Reshape(weights, per_row)
    weighted = Mul(net, weights_5)
    m = ReduceSum<keepdims = 1>(weighted, zero)
"""
    + UPDATE
    + """
    from_prev = Mul(c_prev, prev)
    x_next = Add(x_noisy, from_prev)
}""",
    "to_clip": """
to_clip (float[1, 3, F, H, W] x) => (float[F, 3, H, W] clip)
{
    zero = Constant<value_ints = [0]>()
    frames_first = Transpose<perm = [0, 2, 1, 3, 4]>(x)
    clip = Squeeze(frames_first, zero)
}""",
    # net = softsign(x - the low-resolution frame, each pixel four times); no guidance
    "sr": """
sr (float[K, 3, 8, 8] x, float[16] row, float[N] weights, float[K, 3, 4, 4] low_res,
    float[K, 3, 8, 8] noise) => (float[K, 3, 8, 8] x_next, float[K, 3, 8, 8] x0)
{"""
    + SPLIT_ROW
    + """
    scales = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>()
    large = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric",
                   nearest_mode = "floor">(low_res, , scales)
    entry = Sub(x_in, large)
    net = Softsign(entry)
    m = Mul(net, weights)
"""
    + UPDATE
    + """
    x_next = Identity(x_noisy)
}""",
    "pixels": """
pixels (float[K, 3, H, W] clip) => (uint8[K, H, W, 3] frames)
{
    one = Constant<value_float = 1.0>()
    half = Constant<value_float = 0.5>()
    black = Constant<value_float = 0.0>()
    white = Constant<value_float = 255.0>()
    scale = Constant<value_float = 127.5>()
    positive = Add(clip, one)
    levels = Mul(positive, scale)
    rounded = Add(levels, half)
    limited = Clip(rounded, black, white)
    last = Transpose<perm = [0, 2, 3, 1]>(limited)
    frames = Cast<to = 2>(last)
}""",
}
DTYPES = {1: "float32", 2: "uint8", 7: "int64"}


def build(folder: Path) -> None:
    """Writes the cascade into `folder`."""
    for name in ("graphs", "golden", "schedules"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    specs = {name: write_graph(folder, name, text) for name, text in GRAPHS.items()}
    np.save(folder / "schedules/linear.npy", alphas_cumprod_linear(0.001, 0.04, 100))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(), indent=1) + "\n")
    np.savez(folder / "golden/text_encoder.npz", **_golden_text())  # type: ignore[arg-type]
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name != "plan.json"
    )
    plan = p.Document(
        format=p.FORMAT,
        name="toy",
        system="toy",
        description="Six small frames, made of sums and quotients: for tests.",
        files={
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        },
        graphs=specs,
        schedules={"linear": p.ScheduleSpec(file="schedules/linear.npy")},
        tokenizers={"words": p.TokenizerSpec(file="tokenizer.json", length=8, pad_id=0)},
        modes={"video": _video(), "preview": _preview()},
    )
    (folder / "plan.json").write_bytes(p.encode(plan))


def write_graph(folder: Path, name: str, text: str) -> p.GraphSpec:
    model = onnx.parser.parse_model(HEAD + text)
    rel = f"graphs/{name}.onnx"
    weights: tuple[str, ...] = ()
    if name == "text_encoder":
        table = onnx.numpy_helper.from_array(embedding_table(), "table")
        model.graph.initializer.append(table)
        weights = (f"graphs/{name}.data",)
        (folder / weights[0]).unlink(missing_ok=True)  # onnx appends to a data file that exists
        onnx.save(
            model,
            folder / rel,
            save_as_external_data=True,
            location=f"{name}.data",
            size_threshold=0,
            convert_attribute=False,
        )
        model = onnx.load(folder / rel)
    else:
        onnx.save(model, folder / rel)
    onnx.checker.check_model(str(folder / rel), full_check=True)
    return p.GraphSpec(
        file=rel,
        weights=weights,
        golden=f"golden/{name}.npz" if name == "text_encoder" else None,
        inputs={tensor.name: _spec(tensor) for tensor in model.graph.input},
        outputs={tensor.name: _spec(tensor) for tensor in model.graph.output},
    )


def _spec(tensor: Any) -> p.TensorSpec:
    kind = tensor.type.tensor_type
    shape = tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim)
    return p.TensorSpec(dtype=DTYPES[kind.elem_type], shape=shape)  # type: ignore[arg-type]


def embedding_table() -> Array:
    """f32 [14, 4], multiples of 1/16 within +-1/2: sums of them are exact."""
    index = np.arange(len(WORDS) * 4).reshape(-1, 4)
    return ((index * 7 % 17 - 8) / 16).astype(np.float32)


def _golden_text() -> dict[str, Array]:
    ids = np.array([[1, 2, 0, 0, 0, 0, 0, 0], [1, 4, 5, 8, 10, 11, 2, 0]])
    mask = (ids != 0).astype(np.float32)
    tokens = embedding_table()[ids] * mask[..., None]
    emb = tokens.sum(1) + np.array([[0.0], [0.125]], np.float32)
    inputs = {"in.ids": ids, "in.mask": mask, "in.row": np.arange(2)}
    return {**inputs, "out.tokens": tokens, "out.emb": emb}


def _tokenizer() -> dict[str, Any]:
    """A word-level tokenizer with start and end tokens, as `tokenizers` JSON."""
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = [{"id": i, "content": WORDS[i], "special": True, **plain} for i in range(4)]
    frame: list[dict[str, Any]] = [
        {"SpecialToken": {"id": "<start>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "<end>", "type_id": 0}},
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": frame,
            "pair": frame,
            "special_tokens": {
                word: {"id": word, "ids": [i], "tokens": [word]}
                for i, word in enumerate(WORDS[:3])
                if i
            },
        },
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: i for i, word in enumerate(WORDS)},
            "unk_token": "<unknown>",
        },
    }


PARAMS: dict[str, p.Param] = {
    "prompt": p.TextParam(description="what should be seen"),
    "negative_prompt": p.TextParam(description="what should not be seen", default=""),
    "seed": p.IntParam(description="same seed, same video", default=0, min=0, max=2**64 - 1),
    "steps.decoder": p.IntParam(
        default=4,
        min=1,
        max=100,
        aliases=("steps", "num_inference_steps"),
        description="more is finer",
    ),
    "guidance.decoder": p.FloatParam(
        default=3.0, min=0, max=30, aliases=("guidance_scale",), description="1 is off"
    ),
    "sampler.decoder": p.ChoiceParam(
        default="ddim",
        choices=("ddim", "ddpm", "euler", "euler_ancestral", "dpmpp_2m"),
        aliases=("sampler",),
    ),
    "fps": p.FloatParam(default=8, min=1, max=30, description="frames per second"),
}
VALUES = {
    "ids": p.TensorSpec(dtype="int64", shape=("G", 8)),
    "mask": p.TensorSpec(dtype="float32", shape=("G", 8)),
    "row": p.TensorSpec(dtype="int64", shape=("G",)),
    "tokens": p.TensorSpec(dtype="float32", shape=("G", 8, 4)),
    "emb": p.TensorSpec(dtype="float32", shape=("G", 4)),
    "fps": p.TensorSpec(dtype="float32", shape=(1,)),
    "decoder_noise": p.TensorSpec(dtype="float32", shape=(1, 3, 6, 4, 4)),
    "latent": p.TensorSpec(dtype="float32", shape=(1, 3, 6, 4, 4)),
    "clip4": p.TensorSpec(dtype="float32", shape=(6, 3, 4, 4)),
}
SR_VALUES = {
    "lr": p.TensorSpec(dtype="float32", shape=("K", 3, 4, 4)),
    "lr_noisy": p.TensorSpec(dtype="float32", shape=("K", 3, 4, 4)),
    "sr_noise": p.TensorSpec(dtype="float32", shape=("K", 3, 8, 8)),
    "clip8": p.TensorSpec(dtype="float32", shape=("K", 3, 8, 8)),
    "chunk": p.TensorSpec(dtype="uint8", shape=("K", 8, 8, 3)),
    "frames": p.TensorSpec(dtype="uint8", shape=(6, 8, 8, 3)),
}


def _first_stages() -> tuple[p.Stage, ...]:
    """Text, and the decoder that both modes begin with."""
    denoise = p.Denoise(
        graph="decoder",
        x="decoder_noise",
        out="latent",
        conditions={"emb": "emb", "fps": "fps"},
        schedule="linear",
        sampler=p.Ref(param="sampler.decoder"),
        spacing="trailing",
        steps=p.Ref(param="steps.decoder"),
        eta=0.0,
        final="one",
        variance="fixed_small",
        guidance=p.Guidance(
            rows="text",
            weights=(
                p.Weight(const=1, params={"guidance.decoder": -1}),
                p.Weight(params={"guidance.decoder": 1}),
            ),
        ),
        noise="decoder.z",
    )
    encode = p.Run(
        graph="text_encoder",
        inputs={"ids": "ids", "mask": "mask", "row": "row"},
        outputs={"tokens": "tokens", "emb": "emb"},
    )
    tokenize = p.Tokenize(tokenizer="words", rows="text", ids="ids", mask="mask", row="row")
    to_clip = p.Run(graph="to_clip", inputs={"x": "latent"}, outputs={"clip": "clip4"})
    return (
        p.Stage(name="text", ops=(tokenize, encode)),
        p.Stage(name="decoder", ops=(p.Noise(value="decoder_noise"), denoise, to_clip)),
    )


def _mode(description: str, stages: tuple[p.Stage, ...], values: dict[str, p.TensorSpec]) -> p.Mode:
    return p.Mode(
        description=description,
        params=PARAMS,
        rows={"text": (p.Row(param="negative_prompt"), p.Row(param="prompt", append=" right"))},
        values=VALUES | values,
        stages=_first_stages() + stages,
        output=p.Output(value="frames", fps=p.Ref(param="fps")),
    )


def _video() -> p.Mode:
    denoise = p.Denoise(
        graph="sr",
        x="sr_noise",
        out="clip8",
        conditions={"low_res": "lr_noisy"},
        schedule="linear",
        sampler="ddpm",
        spacing="leading",
        steps=3,
        eta=0.0,
        final="one",
        variance="fixed_small",
        noise="sr.z",
        shared_noise=True,
    )
    sr = p.Stage(
        name="sr",
        each=p.Each(slices={"lr": "clip4"}, windows=(p.Window(symbol="K", size=4),)),
        collect={"chunk": "frames"},
        ops=(
            p.Renoise(x="lr", out="lr_noisy", schedule="linear", from_=None, to=20, noise="lr.z"),
            p.Noise(value="sr_noise", shared=True),
            denoise,
            p.Run(graph="pixels", inputs={"clip": "clip8"}, outputs={"frames": "chunk"}),
        ),
    )
    return _mode("Six frames of 8x8.", (sr,), SR_VALUES)


def _preview() -> p.Mode:
    show = p.Run(graph="pixels", inputs={"clip": "clip4"}, outputs={"frames": "frames"})
    frames = p.TensorSpec(dtype="uint8", shape=(6, 4, 4, 3))
    return _mode("Six frames of 4x4.", (p.Stage(name="show", ops=(show,)),), {"frames": frames})


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else TOY)
