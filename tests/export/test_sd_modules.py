"""The Stable Diffusion networks against diffusers, in PyTorch and as ONNX graphs.

Alone: pytest tests/export/test_sd_modules.py
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from diffusers.pipelines.deprecated.text_to_video_synthesis import (  # noqa: E402
    pipeline_text_to_video_zero as text2video_zero,
)

from edgereel_export.graph import Graph, export  # noqa: E402
from edgereel_export.modules.sd_config import (  # noqa: E402
    SDControlNetConfig,
    SDUNetConfig,
    SDVAEConfig,
)
from edgereel_export.modules.sd_controlnet import SDControlNet  # noqa: E402
from edgereel_export.modules.sd_unet import SDUNet  # noqa: E402
from edgereel_export.modules.sd_vae import (  # noqa: E402
    SDVAE,
    SDDecoder,
    SDEncoder,
    modern_vae_keys,
)

pytestmark = pytest.mark.torch

# Sums in another order, over the standard deviation of what is expected. Measured: in float32
# 1.1e-5 (the decoder) and below 4e-6 (everything else), in float64 2e-14.
LIMITS = {torch.float32: 2e-5, torch.float64: 1e-12}
ROUNDING = LIMITS[torch.float32]
CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"
SMALL: dict[str, Any] = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "down_block_types": (CROSS, PLAIN),
}
SMALL_UP = (PLAIN_UP, CROSS_UP)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=LIMITS, ids=str)
def limit(request: pytest.FixtureRequest) -> Iterator[float]:
    """The tolerance of a type in which networks and inputs are made meanwhile."""
    torch.set_default_dtype(request.param)
    yield LIMITS[request.param]
    torch.set_default_dtype(torch.float32)


def error(got: Any, expected: Any) -> float:
    """Largest absolute difference, in standard deviations of what is expected."""
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.std())


def twin(reference: Any, kind: Any, config: Any) -> Any:
    """Our network of `reference`'s own config.json, with its weights, all of them shaken."""
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    ours = kind(config.from_json(json.loads(reference.eval().to_json_string()))).eval()
    ours.load_state_dict(reference.state_dict())  # strict: the same keys and shapes
    return ours


def unets(**changes: Any) -> tuple[Any, Any]:
    """diffusers' small UNet and ours."""
    reference = diffusers.UNet2DConditionModel(**SMALL | {"up_block_types": SMALL_UP} | changes)
    return reference, twin(reference, SDUNet, SDUNetConfig)


def controlnets() -> tuple[Any, Any]:
    """diffusers' small ControlNet and ours; the picture encoder halves the resolution twice."""
    widths = {"conditioning_embedding_out_channels": (8, 12, 16)}
    reference = diffusers.ControlNetModel(**SMALL | widths)
    return reference, twin(reference, SDControlNet, SDControlNetConfig)


def inputs(groups: int, images: int, h: int = 8, w: int = 12) -> tuple[Any, Any, Any]:
    """x [G, N, 4, h, w], t [G] and states [G, 7, 24]."""
    x, t = torch.randn(groups, images, 4, h, w), torch.full((groups,), 321.0)
    return x, t, torch.randn(groups, 7, 24)


# Against diffusers


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="small"),
        pytest.param({"in_channels": 8, "attention_head_dim": 2}, id="pix2pix"),
        pytest.param(
            {"down_block_types": (CROSS, CROSS), "up_block_types": (CROSS_UP, PLAIN_UP)},
            id="attention_elsewhere",
        ),
        pytest.param(
            {
                "block_out_channels": (32,),
                "layers_per_block": 2,
                "down_block_types": (PLAIN,),
                "up_block_types": (CROSS_UP,),
            },
            id="one_level",
        ),
    ],
)
def test_unet_equals_diffusers(changes: dict[str, Any], limit: float) -> None:
    reference, ours = unets(**changes)
    x, _, states = inputs(2, 1)
    if "in_channels" in changes:
        x = torch.cat([x, x.flip(0)], 2)
    t = torch.tensor([981.0, 3.0])
    assert error(ours(x, t, states)[:, 0], reference(x[:, 0], t, states).sample) < limit


@torch.no_grad()
@pytest.mark.parametrize("processor", ["CrossFrameAttnProcessor", "CrossFrameAttnProcessor2_0"])
@pytest.mark.parametrize(("groups", "images"), [(2, 3), (3, 2), (1, 4), (2, 1)])
def test_cross_frame_unet_equals_diffusers(
    processor: str, groups: int, images: int, limit: float
) -> None:
    reference, ours = unets(down_block_types=(CROSS, CROSS))
    x, t, states = inputs(groups, images)
    each = x.flatten(0, 1), 321, states.repeat_interleave(images, 0)
    alone = reference(*each).sample
    reference.set_attn_processor(getattr(text2video_zero, processor)(batch_size=groups))
    expected = reference(*each).sample
    assert error(ours(x, t, states).flatten(0, 1), expected) < limit
    assert images == 1 or error(alone, expected) > 0.01  # the images do see the first one


@torch.no_grad()
def test_any_images_with_the_first_are_a_part_of_the_whole(limit: float) -> None:
    # text2video_zero section 1.5: an image depends on itself and on the first only.
    _, ours = unets()
    x, t, states = inputs(2, 5)
    some = [0, 3, 4]
    assert error(ours(x[:, some], t, states), ours(x, t, states)[:, some]) < limit


@torch.no_grad()
@pytest.mark.parametrize(("groups", "images"), [(2, 1), (2, 3)])
def test_controlled_unet_equals_diffusers(groups: int, images: int, limit: float) -> None:
    reference, ours = unets()
    control, our_control = controlnets()
    for network in (reference, control):
        network.set_attn_processor(text2video_zero.CrossFrameAttnProcessor2_0(batch_size=groups))
    x, t, states = inputs(groups, images)
    picture = torch.rand(groups * images, 3, 32, 48)
    each = x.flatten(0, 1), 321, states.repeat_interleave(images, 0)
    told = control(*each, picture, conditioning_scale=0.7)
    expected = reference(
        *each,
        down_block_additional_residuals=told.down_block_res_samples,
        mid_block_additional_residual=told.mid_block_res_sample,
    ).sample
    down, mid = our_control(x, t, states, picture)
    assert len(down) == len(told.down_block_res_samples) == 5 - 1
    for got, wanted in zip((*down, mid), (*told[0], told[1]), strict=True):
        assert error(0.7 * got, wanted) < limit
    got = ours(x, t, states, tuple(0.7 * part for part in down), 0.7 * mid)
    assert error(got.flatten(0, 1), expected) < limit
    assert error(ours(x, t, states).flatten(0, 1), expected) > 0.01


def vaes(**changes: Any) -> tuple[Any, Any]:
    """diffusers' small autoencoder and ours."""
    reference = diffusers.AutoencoderKL(
        **{
            "block_out_channels": (16, 32, 32),
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "norm_num_groups": 8,
        }
        | changes
    )
    return reference, twin(reference, SDVAE, SDVAEConfig)


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2])
def test_vae_equals_diffusers(layers: int, limit: float) -> None:
    reference, ours = vaes(layers_per_block=layers)
    picture, z = torch.rand(3, 3, 32, 48) * 2 - 1, torch.randn(3, 4, 8, 12)
    expected = reference.encode(picture).latent_dist.mode()
    assert error(SDEncoder(ours)(picture), expected) < limit
    assert error(SDDecoder(ours)(z), reference.decode(z).sample) < limit


@torch.no_grad()
@pytest.mark.parametrize("convolutions", [False, True])
def test_old_vae_names_are_read_as_diffusers_reads_them(convolutions: bool, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    written, ours = vaes()
    written.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    for key in [key for key in state if ".attentions.0.to_" in key]:
        present = next(name for name in old if f".{name}." in key)
        value = state.pop(key)
        if convolutions and value.ndim == 2:
            value = value[:, :, None, None]
        state[key.replace(present, old[present])] = value
    assert "decoder.mid_block.attentions.0.query.weight" in state
    if not convolutions:  # diffusers takes matrices only here
        save_file(state, file)
        written = diffusers.AutoencoderKL.from_pretrained(tmp_path)
    ours.load_state_dict({key: torch.zeros_like(value) for key, value in ours.state_dict().items()})
    ours.load_state_dict(modern_vae_keys(state))
    z = torch.randn(1, 4, 4, 4)
    assert error(SDDecoder(ours)(z), written.decode(z).sample) < ROUNDING
    now = ours.state_dict()
    assert modern_vae_keys(now).keys() == now.keys()


# As ONNX


FREE = {"x": {0: "G", 1: "N", 3: "h", 4: "w"}, "t": {0: "G"}, "states": {0: "G"}}
OTHERS = [(2, 3, 8, 12), (1, 1, 8, 8), (3, 2, 4, 6), (2, 1, 16, 10), (1, 5, 2, 2)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A small UNet and its graph, traced with G=2, N=3, h=8, w=12."""
    torch.manual_seed(0)
    _, network = unets(up_block_types=(PLAIN_UP, PLAIN_UP))
    example = dict(zip(FREE, inputs(2, 3), strict=True))
    folder = tmp_path_factory.mktemp("unet")
    export(Graph(network, example, ["out"], FREE | {"out": FREE["x"]}), "unet", folder)
    return network, folder / "graphs" / "unet.onnx"


def run(path: Path, given: tuple[Any, ...]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {name: tensor.numpy() for name, tensor in zip(FREE, given, strict=True)}
    outputs: list[np.ndarray] = session.run(None, feeds)
    return outputs


@pytest.mark.slow
@torch.no_grad()
def test_one_graph_serves_all_rows_images_and_sizes(exported: tuple[Any, Path]) -> None:
    network, path = exported
    for sizes in OTHERS:
        given = inputs(*sizes)
        (got,) = run(path, given)
        assert error(torch.from_numpy(got), network(*given)) < ROUNDING


@pytest.mark.slow
def test_keys_and_values_are_projected_once_per_row(
    exported: tuple[Any, Path], tmp_path: Path
) -> None:
    _, path = exported
    model = onnx.load(path)
    made = {name: node for node in model.graph.node for name in node.output}
    attentions = [node for node in model.graph.node if node.op_type == "Attention"]
    seen = []  # of each Attention q, k, v and what the projections of q, k, v gave
    for node in attentions:
        for name in node.input[:3]:
            seen.append(name)
            while made[name].op_type != "MatMul":
                assert made[name].op_type in ("Reshape", "Transpose")
                name = made[name].input[0]
            seen.append(name)
    del model.graph.output[:]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in dict.fromkeys(seen)
    )
    onnx.save(model, tmp_path / "seen.onnx")
    groups, images, h, w = 2, 5, 4, 6
    values = run(tmp_path / "seen.onnx", inputs(groups, images, h, w))
    shapes = {name: v.shape for name, v in zip(dict.fromkeys(seen), values, strict=True)}
    told = iter(shapes[name] for name in seen)
    found = []
    for _ in attentions:
        q, q_rows, k, k_rows, v, v_rows = itertools.islice(told, 6)
        found.append((q[2], k[2]))
        assert k == v
        for folded, rows in ((q, q_rows), (k, k_rows), (v, v_rows)):
            assert folded[0] == groups
            assert rows[-1] == folded[1] * folded[3]  # channels = heads * width of a head
            assert np.prod(rows[:-1]) == folded[0] * folded[2]
    full, half, text = h * w, h * w // 4, 7
    assert found == [
        (images * full, full),  # not images * full keys: one image's, whatever the number of images
        (images * full, text),
        (images * half, half),
        (images * half, text),
    ]
