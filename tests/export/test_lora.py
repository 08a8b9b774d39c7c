"""Merged LoRA files against networks that compute the LoRA beside their layers, and against PEFT.

Alone: pytest tests/export/test_lora.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from edgereel.errors import InputError  # noqa: E402
from edgereel.lora_names import layers, underscored  # noqa: E402
from edgereel_export.lora import merge  # noqa: E402

pytestmark = pytest.mark.torch

Pair = tuple[Any, Any, float | None]  # down, up, alpha
Lora = dict[tuple[str, str], Pair]  # by network and name of the module
_WIDTH = 32


def seeded(seed: int, make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def small_unet(width: int = _WIDTH) -> Any:
    model = seeded(
        0,
        lambda: diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=4,
            cross_attention_dim=width,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ),
    )
    return model.eval().requires_grad_(False)


def small_text() -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=64,
        hidden_size=_WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=62,
        eos_token_id=63,
        pad_token_id=0,
    )
    return seeded(1, lambda: transformers.CLIPTextModel(config)).eval().requires_grad_(False)


@pytest.fixture
def networks() -> dict[str, Any]:
    return {"unet": small_unet(), "text_encoder": small_text()}


def projections(model: Any) -> list[str]:
    """Every linear and convolutional layer: conv_in, residual blocks, samplers, attention, …"""
    kinds = (nn.Linear, nn.Conv2d)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


def random_lora(networks: dict[str, Any], chosen: Callable[[str], bool], alphas: bool) -> Lora:
    """A pair per chosen layer, ranks 1 to 4; every third layer has no alpha of its own."""
    made: Lora = {}
    generator = torch.Generator().manual_seed(2)
    for network, model in networks.items():
        for index, name in enumerate(filter(chosen, projections(model))):
            weight, rank = model.get_submodule(name).weight, 1 + index % 4
            down = torch.randn(rank, *weight.shape[1:], generator=generator)
            up = torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=generator)
            size = weight.std() / weight[0].numel() ** 0.5  # as large as what is there
            alpha = 0.5 + index % 3 if alphas and index % 3 else None
            made[network, name] = (down * size, up, alpha)
    return made


# How the files are named. Each function is the rule that the program in its name follows.


def kohya(network: str, name: str) -> tuple[str, str]:
    """kohya-ss/sd-scripts networks/lora.py at 48d368f: prefix, name, dots to underscores."""
    start = {"unet": "lora_unet", "text_encoder": "lora_te.text_model"}[network]
    return f"{start}.{name}".replace(".", "_"), "lora_down lora_up"


def peft(network: str, name: str) -> tuple[str, str]:
    start = {"unet": "unet", "text_encoder": "text_encoder.text_model"}[network]
    return f"{start}.{name}", "lora_A lora_B"


def peft_adapter(network: str, name: str) -> tuple[str, str]:
    return peft(network, name)[0], "lora_A.default_0 lora_B.default_0"


def diffusers_2024(network: str, name: str) -> tuple[str, str]:
    part = "lora" if network == "unet" else "lora_linear_layer"
    return peft(network, name)[0], f"{part}.down {part}.up"


def processors(network: str, name: str) -> tuple[str, str]:
    """diffusers before 0.20: projections belong to an attention processor; the UNet's alone."""
    owner, projection = name.removesuffix(".0").rsplit(".", 1)
    return f"{owner}.processor.{projection}_lora", "down up"


def old_text(network: str, name: str) -> tuple[str, str]:
    """The same with both networks: the text encoder's projections under the UNet's names."""
    owner, projection = name.removesuffix(".0").rsplit(".", 1)
    if network == "text_encoder":
        projection = "to_" + projection.removesuffix("_proj")
        return f"text_encoder.text_model.{owner}.{projection}_lora", "down up"
    return f"unet.{owner}.processor.{projection}_lora", "down up"


Naming = Callable[[str, str], tuple[str, str]]


def write(lora: Lora, naming: Naming, path: Path, dtype: Any = torch.float32) -> Path:
    tensors = {}
    for (network, name), (down, up, alpha) in lora.items():
        layer, parts = naming(network, name)
        for part, value in zip(parts.split(), (down, up), strict=True):
            tensors[f"{layer}.{part}.weight"] = value.to(dtype).contiguous()
        if alpha is not None:
            tensors[f"{layer}.alpha"] = torch.tensor(alpha)
    save = torch.save if path.suffix != ".safetensors" else safetensors.save_file
    save(tensors, path)
    return path


def beside(model: Any, lora: Lora, network: str, scale: float) -> None:
    """Make a network compute W x + scale alpha/rank up(down(x)) without touching W."""
    for (of, name), (down, up, alpha) in lora.items():
        if of != network:
            continue
        factor = scale * (1.0 if alpha is None else alpha / len(down))

        def hook(
            module: Any, args: Any, out: Any, down: Any = down, up: Any = up, f: float = factor
        ) -> Any:
            if isinstance(module, nn.Linear):
                return out + f * F.linear(F.linear(args[0], down), up)
            low = F.conv2d(args[0], down, stride=module.stride, padding=module.padding)
            return out + f * F.conv2d(low, up)

        model.get_submodule(name).register_forward_hook(hook)


def outputs(networks: dict[str, Any]) -> list[Any]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 60, (2, 9), generator=generator)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    states = networks["text_encoder"](ids).last_hidden_state
    return [states, networks["unet"](x, 500, states).sample]


def states(networks: dict[str, Any]) -> list[dict[str, Any]]:
    return [networks[network].state_dict() for network in ("unet", "text_encoder")]


def load(networks: dict[str, Any], merged: tuple[dict[str, Any], dict[str, Any]]) -> None:
    networks["unet"].load_state_dict(merged[0])
    networks["text_encoder"].load_state_dict(merged[1])


def everything(name: str) -> bool:
    return True


def attention(name: str) -> bool:
    return "attn" in name


@pytest.mark.parametrize("scale", [1.0, 0.6, -1.0])
@pytest.mark.parametrize(
    ("naming", "suffix", "chosen"),
    [
        (kohya, "safetensors", everything),
        (kohya, "pt", everything),
        (peft, "safetensors", everything),
        (peft_adapter, "bin", everything),
        (diffusers_2024, "safetensors", everything),
        (old_text, "bin", attention),
    ],
)
def test_a_merged_network_equals_one_with_the_lora_beside_its_layers(
    networks: dict[str, Any],
    naming: Naming,
    suffix: str,
    chosen: Callable[[str], bool],
    scale: float,
    tmp_path: Path,
) -> None:
    """W x + B(A x) in float32 against (W + BA) x: 2e-5 of the output's deviation, rounding."""
    lora = random_lora(networks, chosen, alphas=True)
    path = write(lora, naming, tmp_path / f"lora.{suffix}")
    plain = outputs(networks)
    merged = merge(path, *states(networks), scale)
    for network, model in networks.items():
        beside(model, lora, network, scale)
    expected = outputs(networks)
    fresh = {"unet": small_unet(), "text_encoder": small_text()}
    load(fresh, merged)
    for got, wanted, before in zip(outputs(fresh), expected, plain, strict=True):
        assert (got - wanted).abs().max() < 2e-5 * wanted.std()
        assert (before - wanted).abs().max() > 0.1 * wanted.std()  # it did something


def test_attention_processors_without_a_network_are_of_the_unet(
    networks: dict[str, Any], tmp_path: Path
) -> None:
    lora = random_lora({"unet": networks["unet"]}, attention, alphas=False)
    named = merge(write(lora, peft, tmp_path / "a.safetensors"), *states(networks))
    found = merge(write(lora, processors, tmp_path / "b.bin"), *states(networks))
    assert all(torch.equal(found[0][key], value) for key, value in named[0].items())
    assert all(torch.equal(found[1][key], value) for key, value in states(networks)[1].items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_before_the_product(
    networks: dict[str, Any], dtype: Any, tmp_path: Path
) -> None:
    """Equal to merging the rounded matrices in float32, exactly."""
    lora = random_lora(networks, everything, alphas=True)
    rounded = {k: (d.to(dtype).float(), u.to(dtype).float(), a) for k, (d, u, a) in lora.items()}
    half = merge(write(lora, kohya, tmp_path / "half.safetensors", dtype), *states(networks))
    full = merge(write(rounded, kohya, tmp_path / "full.safetensors"), *states(networks))
    for found, expected in zip(half, full, strict=True):
        assert all(torch.equal(found[key], value) for key, value in expected.items())
        assert {value.dtype for value in found.values()} == {torch.float32}


def test_states_keep_their_precision(networks: dict[str, Any], tmp_path: Path) -> None:
    path = write(random_lora(networks, everything, True), kohya, tmp_path / "lora.safetensors")
    half = [{key: value.half() for key, value in state.items()} for state in states(networks)]
    full = [{key: value.float() for key, value in state.items()} for state in half]
    for found, expected in zip(merge(path, *half), merge(path, *full), strict=True):
        assert all(torch.equal(found[key], value.half()) for key, value in expected.items())


def test_given_states_stay_and_the_rest_is_shared(networks: dict[str, Any], tmp_path: Path) -> None:
    one = ("unet", "mid_block.attentions.0.proj_in")
    lora = {key: pair for key, pair in random_lora(networks, everything, True).items()}
    path = write({one: lora[one]}, kohya, tmp_path / "lora.safetensors")
    given = states(networks)
    before = [{key: value.clone() for key, value in state.items()} for state in given]
    merged = merge(path, *given)
    for found, state, old in zip(merged, given, before, strict=True):
        assert all(torch.equal(state[key], value) for key, value in old.items())
        changed = {key for key, value in found.items() if value is not state[key]}
        assert changed == ({f"{one[1]}.weight"} if state is given[0] else set())
    weight = before[0][f"{one[1]}.weight"]
    down, up, alpha = lora[one]
    assert alpha is None or alpha
    factor = 1.0 if alpha is None else alpha / len(down)
    delta = factor * torch.einsum("orab,rixy->oixy", up, down)
    found = merged[0][f"{one[1]}.weight"]
    assert (found - weight - delta).abs().max() < 1e-6


def test_prefixed_text_encoders_are_known(networks: dict[str, Any], tmp_path: Path) -> None:
    """The keys of transformers 4, `text_model.` first, with every naming."""
    unet, text = states(networks)
    old = {f"text_model.{key}": value for key, value in text.items()}
    lora = random_lora({"text_encoder": networks["text_encoder"]}, everything, True)
    for naming in (kohya, peft):
        path = write(lora, naming, tmp_path / "lora.safetensors")
        expected = merge(path, unet, text)[1]
        found = merge(path, unet, old)[1]
        assert all(torch.equal(found[f"text_model.{key}"], expected[key]) for key in expected)


def test_linear_pairs_fit_convolutions_of_one_pixel(
    networks: dict[str, Any], tmp_path: Path
) -> None:
    """Some tools write proj_in of SD 1.x as a linear layer, others as a convolution."""
    name = "mid_block.attentions.0.proj_in"
    pair = random_lora(networks, everything, True)["unet", name]
    flat = {("unet", name): (pair[0].flatten(1), pair[1].flatten(1), pair[2])}
    path = tmp_path / "lora.safetensors"
    expected = merge(write({("unet", name): pair}, kohya, path), *states(networks))[0]
    found = merge(write(flat, kohya, path), *states(networks))[0]
    assert torch.equal(found[f"{name}.weight"], expected[f"{name}.weight"])


# Names, at full size


@pytest.fixture(scope="session")
def published() -> dict[str, Any]:
    """The networks of Stable Diffusion 1.5, without memory."""
    with torch.device("meta"):
        blocks = ("CrossAttnDownBlock2D",) * 3, ("CrossAttnUpBlock2D",) * 3
        unet = diffusers.UNet2DConditionModel(
            cross_attention_dim=768,
            down_block_types=(*blocks[0], "DownBlock2D"),
            up_block_types=("UpBlock2D", *blocks[1]),
        )
        text = transformers.CLIPTextConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_attention_heads=12,
            num_hidden_layers=12,
        )
        return {"unet": unet, "text_encoder": transformers.CLIPTextModel(text)}


def test_kohyas_names_mean_what_diffusers_makes_of_them(published: dict[str, Any]) -> None:
    """diffusers' own conversion of every layer of SD 1.5, back to the names of modules."""
    from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft

    names = {
        (network, name): kohya(network, name)[0]
        for network, model in published.items()
        for name in projections(model)
    }
    assert len(names) == 282 + 12 * 6
    one = torch.ones(1, 1)
    keys = [f"{name}.lora_{part}.weight" for name in names.values() for part in ("down", "up")]
    tensors = dict.fromkeys(keys, one) | {f"{n}.alpha": torch.tensor(2.0) for n in names.values()}
    loader = diffusers.loaders.StableDiffusionLoraLoaderMixin
    converted, alphas = loader.lora_state_dict(dict(tensors))
    assert set(alphas.values()) == {2.0} and len(alphas) == len(names)
    unet = {k.removeprefix("unet."): v for k, v in converted.items() if k.startswith("unet.")}
    text = {k: v for k, v in converted.items() if k.startswith("text_encoder.")}
    theirs = {("unet", key.split(".lora_")[0]) for key in convert_unet_state_dict_to_peft(unet)}
    for key in convert_state_dict_to_peft(text):
        name = key.split(".lora_")[0].removeprefix("text_encoder.text_model.")
        theirs.add(("text_encoder", name))
    assert theirs == names.keys()
    ours = {(layer.network, layer.name) for layer in layers(Path("lora"), tensors)}
    assert ours == {(network, underscored(name)) for network, name in theirs}
    assert len(ours) == len(names)  # underscores make no two layers alike


# What is written about all layers


def adapter(networks: dict[str, Any], folder: Path, **config: Any) -> Lora:
    """A folder as PEFT saves an adapter of the UNet; returns its matrices."""
    lora = random_lora({"unet": networks["unet"]}, attention, alphas=False)

    def naming(network: str, name: str) -> tuple[str, str]:
        return f"base_model.model.{name}", "lora_A lora_B"

    folder.mkdir(exist_ok=True)
    write(lora, naming, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    return lora


@pytest.mark.parametrize(
    ("config", "factor"),
    [
        ({"lora_alpha": 3, "r": 4}, lambda name, rank: 3 / rank),
        ({"lora_alpha": 3, "use_rslora": True}, lambda name, rank: 3 / rank**0.5),
        (
            {"lora_alpha": 3, "alpha_pattern": {"to_k": 5, "^mid_block.*to_v": 7.5, "o_q": 9}},
            lambda name, rank: (
                (5 if "to_k" in name else 7.5 if "to_v" in name and "mid" in name else 3) / rank
            ),
        ),
    ],
)
def test_strength_of_an_adapter_is_beside_it(
    networks: dict[str, Any],
    config: dict[str, Any],
    factor: Callable[[str, int], float],
    tmp_path: Path,
) -> None:
    """A folder of PEFT; the formula is its documentation's. 1e-6: sums of float32."""
    lora = adapter(networks, tmp_path / "adapter", **config)
    found, _ = merge(tmp_path / "adapter", *states(networks))
    for (_, name), (down, up, _) in lora.items():
        weight = states(networks)[0][f"{name}.weight"]
        expected = weight + factor(name, len(down)) * up @ down
        assert (found[f"{name}.weight"] - expected).abs().max() < 1e-6


def test_strength_in_a_header_of_diffusers(networks: dict[str, Any], tmp_path: Path) -> None:
    """`lora_adapter_metadata`, which save_lora_weights writes, has one set per network."""
    lora = random_lora(networks, attention, alphas=False)
    path = write(lora, peft, tmp_path / "lora.safetensors")
    header = {"unet.lora_alpha": 6, "unet.r": 4, "unet.alpha_pattern": {"to_q": 2}}
    header |= {"text_encoder.lora_alpha": 10, "text_encoder.use_rslora": True}
    header["text_encoder.alpha_pattern"] = {r"^text_model\.encoder\.layers\.0\..*": 4}
    tensors = safetensors.load_file(path)
    safetensors.save_file(tensors, path, {"lora_adapter_metadata": json.dumps(header)})
    found = dict(zip(("unet", "text_encoder"), merge(path, *states(networks)), strict=True))
    for (network, name), (down, up, _) in lora.items():
        if network == "text_encoder":
            factor = (4 if ".0." in name else 10) / len(down) ** 0.5
        else:
            factor = (2 if name.endswith("to_q") else 6) / len(down)
        expected = networks[network].state_dict()[f"{name}.weight"] + factor * up @ down
        assert (found[network][f"{name}.weight"] - expected).abs().max() < 1e-6


# What does not fit


def refusal(path: Path, networks: dict[str, Any]) -> str:
    given = states(networks)
    before = [dict(state) for state in given]
    with pytest.raises(InputError) as error:
        merge(path, *given)
    for state, old in zip(given, before, strict=True):
        assert all(state[key] is value for key, value in old.items())
    text = str(error.value)
    assert text.endswith(".") and "expected" in text
    return text


def test_another_width_is_named(networks: dict[str, Any], tmp_path: Path) -> None:
    for width, told in ((1024, "Stable Diffusion 2.x"), (2048, "Stable Diffusion XL")):
        lora = random_lora({"unet": small_unet(width)}, attention, alphas=True)
        text = refusal(write(lora, kohya, tmp_path / "lora.safetensors"), networks)
        wrong = sum("attn2.to_k" in name or "attn2.to_v" in name for _, name in lora)
        assert f"in {wrong} of its {len(lora)} layers" in text
        assert f"[4, {width}], expected [16, 32]" in text or f"{width}], expected" in text
        assert f"expected one for Stable Diffusion 1.x, not for {told}." in text
        assert f"and {wrong - 5} more" in text


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", ", not for Stable Diffusion XL."),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", ", not for Stable Diffusion XL."),
        ("lora_unet_input_blocks_4_1_proj_in", " Stable Diffusion 1.x. Choose"),
        ("lora_unet_double_blocks_0_img_attn_qkv", ", not for a transformer"),
        ("lora_te_text_model_encoder_layers_7_self_attn_q_proj", " Stable Diffusion 1.x. Choose"),
    ],
)
def test_layers_of_other_models_are_named(
    networks: dict[str, Any], layer: str, told: str, tmp_path: Path
) -> None:
    """One foreign layer among good ones: nothing is merged."""
    path = write(random_lora(networks, everything, True), kohya, tmp_path / "lora.safetensors")
    pair = {"lora_down": torch.ones(2, 32), "lora_up": torch.ones(32, 2)}
    tensors = {f"{layer}.{part}.weight": value for part, value in pair.items()}
    safetensors.save_file(safetensors.load_file(path) | tensors, path)
    text = refusal(path, networks)
    assert f"{layer} is not there" in text and told in text


def test_names_with_dots_of_other_models_are_named(
    networks: dict[str, Any], tmp_path: Path
) -> None:
    for layer, told in (
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1", "Stable Diffusion XL"),
        ("transformer.single_transformer_blocks.0.attn.to_q", "a transformer"),
        ("unet.down_blocks.7.attentions.0.proj_in", ""),
    ):
        tensors = {f"{layer}.lora_{part}.weight": torch.ones(2, 2) for part in "AB"}
        safetensors.save_file(tensors, tmp_path / "lora.safetensors")
        text = refusal(tmp_path / "lora.safetensors", networks)
        assert f"{layer} is not there" in text and told in text


_KEY = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
_GOOD = {"lora_down.weight": (2, 32), "lora_up.weight": (32, 2), "alpha": ()}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lora_down.weight": None}, f"{_KEY} without down"),
        ({"lora_up.weight": None}, f"{_KEY} without up"),
        ({"lora_down.weight": None, "lora_up.weight": None}, f"{_KEY} without down"),
        ({"lora_up.weight": (32, 3)}, "is [32, 3] @ [2, 32], expected [32, 32]"),
        ({"lora_up.weight": (2, 32)}, "is [2, 32] @ [2, 32], expected [32, 32]"),
        ({"lora_down.weight": (32,)}, "is [32, 2] @ [32], expected [32, 32]"),
        ({"lora_down.weight": (0, 32), "lora_up.weight": (32, 0)}, "@ [0, 32], expected"),
        ({"lora_up.weight": ()}, "is [] @ [2, 32], expected [32, 32]"),
        ({"alpha": (2,)}, "has an alpha of shape [2], expected one number"),
        ({"dora_scale": (32,)}, f"is a DoRA: it holds {_KEY}.dora_scale"),
        ({"lora_mid.weight": (2, 2)}, "is a LoCon of Tucker form"),
        ({"hada_w1_a": (2, 2), "hada_w1_b": (2, 2)}, "is a LoHa"),
        ({"lokr_w1": (2, 2)}, "is a LoKr"),
        ({"diff": (32, 32)}, f"is no plain LoRA: it holds {_KEY}.diff"),
        ({"lora.down.weight": (2, 32)}, f"is no plain LoRA: it holds {_KEY}.lora_down.weight (tw"),
    ],
)
def test_what_is_no_plain_pair_is_refused(
    networks: dict[str, Any],
    changes: dict[str, tuple[int, ...] | None],
    told: str,
    tmp_path: Path,
) -> None:
    shapes = {part: shape for part, shape in {**_GOOD, **changes}.items() if shape is not None}
    tensors = {f"{_KEY}.{part}": torch.ones(shape) for part, shape in shapes.items()}
    path = tmp_path / "lora.safetensors"
    safetensors.save_file(tensors, path)
    assert told in refusal(path, networks)


@pytest.mark.parametrize("part", list(_GOOD))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(
    networks: dict[str, Any], part: str, value: float, tmp_path: Path
) -> None:
    tensors = {f"{_KEY}.{name}": torch.ones(shape) for name, shape in _GOOD.items()}
    tensors[f"{_KEY}.{part}"].fill_(value)
    safetensors.save_file(tensors, tmp_path / "lora.safetensors")
    assert f"{_KEY} is not finite" in refusal(tmp_path / "lora.safetensors", networks)


def test_files_that_are_none_are_refused(networks: dict[str, Any], tmp_path: Path) -> None:
    assert "is no file, nor a folder with one" in refusal(tmp_path / "nowhere", networks)
    assert "is no file, nor a folder with one" in refusal(tmp_path, networks)
    path = tmp_path / "lora.safetensors"
    path.write_bytes(b"half downloaded")
    assert "cannot be read" in refusal(path, networks)
    safetensors.save_file({}, path)
    assert "is no plain LoRA: it holds nothing" in refusal(path, networks)
    safetensors.save_file(networks["unet"].state_dict(), path)  # a checkpoint, by mistake
    text = refusal(path, networks)
    assert "is no plain LoRA: it holds conv_in.bias, conv_in.weight" in text and "more;" in text


def test_an_adapter_without_its_config_is_refused(networks: dict[str, Any], tmp_path: Path) -> None:
    adapter(networks, tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    assert "adapter_config.json is missing; expected it" in refusal(tmp_path, networks)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"use_dora": True}, "a DoRA is no plain LoRA"),
        ({"lora_alpha": "many"}, "Expected `float | null`, got `str`"),
        ({"lora_alpha": 1, "alpha_pattern": {"(": 2}}, "alpha_pattern '(' is no pattern"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(
    networks: dict[str, Any], config: dict[str, Any], told: str, tmp_path: Path
) -> None:
    adapter(networks, tmp_path, **config)
    assert told in refusal(tmp_path, networks)


@pytest.mark.parametrize("header", ["{", "[]", '{"unet.use_dora": true}'])
def test_a_header_that_cannot_be_used_is_refused(
    networks: dict[str, Any], header: str, tmp_path: Path
) -> None:
    path = write(random_lora(networks, attention, False), peft, tmp_path / "lora.safetensors")
    tensors = safetensors.load_file(path)
    safetensors.save_file(tensors, path, {"lora_adapter_metadata": header})
    assert "what is written about the layers of" in refusal(path, networks)


# PEFT, where it is installed


pefts_own_warnings = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("peft", reason="PEFT is not installed")


@pefts_own_warnings
@pytest.mark.parametrize("naming", [kohya, peft, diffusers_2024])
def test_merging_equals_diffusers_fusing(
    library: Any, networks: dict[str, Any], naming: Naming, tmp_path: Path
) -> None:
    """load_lora_weights and fuse_lora, which need PEFT; 2e-6: the order of float32 products."""
    lora = random_lora(networks, everything, alphas=False)
    if naming is kohya:  # one alpha: given several, diffusers 0.42 loses those of attention
        lora = {key: (*pair[:2], 2.5) for key, pair in lora.items()}
    path = write(lora, naming, tmp_path / "lora.safetensors")
    merged = merge(path, *states(networks), 0.7)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=None,
        tokenizer=None,
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **networks,
    )
    pipeline.load_lora_weights(safetensors.load_file(path))
    pipeline.fuse_lora(lora_scale=0.7)
    pipeline.unload_lora_weights()
    assert not torch.equal(networks["unet"].conv_in.weight, small_unet().conv_in.weight)  # kept
    for found, expected in zip(merged, states(networks), strict=True):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert (found[key] - value).abs().max() < 2e-6, key


@pytest.mark.filterwarnings("ignore:The following .*_pattern")  # a pattern names both networks
@pefts_own_warnings
@pytest.mark.parametrize(
    "config",
    [
        {"r": 4, "lora_alpha": 6},
        {"r": 4, "lora_alpha": 6, "use_rslora": True},
        {
            "r": 4,
            "lora_alpha": 6,
            "rank_pattern": {"attn2.to_k": 2},
            "alpha_pattern": {"to_q": 1, "^mid_block.*": 3},
        },
    ],
)
@pytest.mark.parametrize("network", ["unet", "text_encoder"])
def test_merging_equals_pefts_own(
    library: Any, networks: dict[str, Any], config: dict[str, Any], network: str, tmp_path: Path
) -> None:
    """A folder that PEFT saved, read by PEFT and merged by it; 2e-6 as above."""
    names = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "conv1", "q_proj", "out_proj", "fc2"]
    setting = library.LoraConfig(target_modules=names, init_lora_weights=False, **config)
    trained = {"unet": small_unet, "text_encoder": small_text}[network]()
    model = seeded(4, lambda: library.get_peft_model(trained, setting))
    model.save_pretrained(tmp_path / "adapter")
    given = dict(zip(networks, states(networks), strict=True))
    merged = dict(zip(networks, merge(tmp_path / "adapter", *given.values()), strict=True))
    changed = [key for key in given[network] if merged[network][key] is not given[network][key]]
    chosen = [name for name in projections(networks[network]) if name.endswith(tuple(names))]
    assert changed == [f"{name}.weight" for name in chosen]
    read = library.PeftModel.from_pretrained(networks[network], tmp_path / "adapter")
    expected = read.merge_and_unload().state_dict()
    assert merged[network].keys() == expected.keys()
    for key, value in expected.items():
        assert (merged[network][key] - value).abs().max() < 2e-6, key
